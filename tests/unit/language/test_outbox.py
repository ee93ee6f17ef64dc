"""When what runs made goes to the event loop, and that all of it does, once and in order."""

import random
from types import SimpleNamespace

import pytest

from services.language.isolation import Made, News
from services.language.outbox import Outbox
from services.language.sequence import Chosen, Finish, Sequence
from tests.unit.language.scheduling import text

INTERVAL_S = 0.02


class Sent:
    """What went, and when, by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("services.language.outbox.time", SimpleNamespace(monotonic=lambda: self.now))
        self.outbox = Outbox(lambda *sent: self.sent.append(sent), INTERVAL_S)
        self.sent: list[tuple[list[Made], list[News], int]] = []
        self._made: dict[Sequence, int] = {}

    def run(
        self, *texts: Sequence, at_once: tuple[Sequence, ...] = (), wasted: int = 0, told: str | None = None
    ) -> None:
        """One more token of each of these texts."""
        news = []
        for one in texts:
            number = self._made[one] = self._made.get(one, -1) + 1
            finish: Finish | None = "length" if one in at_once and number else None
            news.append(News(one, number, [Chosen(number, -1.0)], told, finish))
        self.outbox.put(Made("decode", len(texts), len(texts), [0.001], news, len(news)), at_once, wasted)

    @property
    def tokens(self) -> list[dict[Sequence, list[int]]]:
        """Of each message, the tokens of each text."""
        return [{one.sequence: [chosen.token for chosen in one.chosen] for one in news} for _, news, _ in self.sent]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    return Sent(monkeypatch)


async def test_a_text_that_begins_or_ends_goes_at_once_and_takes_no_other_one_along(sent: Sent) -> None:
    first, second = text([1]), text([2])
    sent.run(first, second)  # nothing went before for long
    assert sent.tokens == [{first: [0], second: [0]}]
    sent.run(first, second)
    sent.run(first, second)
    assert len(sent.sent) == 1
    sent.run(first, second, at_once=(first,))
    assert sent.tokens[1:] == [{first: [1, 2, 3]}]
    assert [one.finish for one in sent.sent[1][1]] == ["length"]
    sent.outbox.flush()
    assert sent.tokens[2:] == [{second: [1, 2, 3]}]
    assert [one.index for one in sent.sent[2][1]] == [1]


async def test_what_can_wait_does_so_until_an_interval_has_passed_since_all_went(sent: Sent) -> None:
    first, second = text([1]), text([2])
    sent.run(first, second)
    due = sent.now + INTERVAL_S
    sent.now += INTERVAL_S / 2
    assert sent.outbox.due == sent.now + INTERVAL_S  # nothing waits: from now on
    sent.run(first, second, at_once=(first,))  # which puts off nothing
    assert sent.outbox.due == due
    sent.now = due - INTERVAL_S / 10
    sent.run(second)
    assert sent.tokens == [{first: [0], second: [0]}, {first: [1]}]
    sent.now = due
    sent.run(second)
    assert sent.tokens[2:] == [{second: [1, 2, 3]}]


async def test_tokens_of_steps_that_take_long_wait_for_nothing(sent: Sent) -> None:
    one = text([1])
    for _ in range(5):
        sent.run(one)
        sent.now += 2 * INTERVAL_S
    assert sent.tokens == [{one: [number]} for number in range(5)]


async def test_what_is_due_before_something_that_takes_long_goes_first(sent: Sent) -> None:
    one = text([1])
    sent.run(one)
    sent.now += INTERVAL_S / 4
    sent.run(one)
    sent.outbox.flush_before(INTERVAL_S / 2)
    assert len(sent.sent) == 1
    sent.outbox.flush_before(INTERVAL_S)
    assert sent.tokens[1:] == [{one: [1]}]
    sent.outbox.flush_before(INTERVAL_S / 2)
    sent.outbox.flush()
    assert len(sent.sent) == 2  # nothing is left


async def test_every_run_and_token_goes_once_and_in_order(sent: Sent) -> None:
    source = random.Random(4)
    texts = [text([number]) for number in range(6)]
    wasted = 0
    for _ in range(300):
        running = source.sample(texts, source.randint(1, 6))
        some = tuple(source.sample(running, source.randint(0, min(2, len(running)))))
        sent.run(*running, at_once=some, wasted=(lost := source.randint(0, 1)), told=source.choice([None, "a"]))
        wasted += lost
        sent.now += source.random() * INTERVAL_S / 3
    sent.outbox.flush()
    assert sum(len(runs) for runs, _, _ in sent.sent) == 300
    assert sum(lost for _, _, lost in sent.sent) == wasted
    for one in texts:
        found = [tokens for message in sent.tokens for tokens in (message.get(one) or [])]
        assert found == list(range(sent._made[one] + 1))
        pieces = [news for _, message, _ in sent.sent for news in message if news.sequence is one]
        assert all(piece.index == piece.chosen[0].token for piece in pieces)
        assert all(piece.text in (None, "a" * len(piece.chosen)) for piece in pieces)
