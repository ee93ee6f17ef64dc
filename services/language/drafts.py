"""Drafts: what is taken to come next of some texts, and is computed in the run of their newest tokens."""

from collections.abc import Mapping

from services.language.draws import Draw
from services.language.sequence import Sequence

# The part of a text's last guesses that must have been right, as drafts make a step longer: of a text alone, and of one
# among others, which wait for it.
SURE_ALONE, SURE = 0.6, 0.75


class Drafts:
    """Args:
    texts: by slot.
    most: tokens that are drafted for each at most.
    sure: the part of a text's last guesses that must have been right.
    """

    def __init__(self, texts: Mapping[int, Sequence], most: int, sure: float) -> None:
        self._texts = texts
        self._tokens = {slot: text.draft(most, sure) for slot, text in texts.items()}
        self.steps = 1 + max(map(len, self._tokens.values()))  # of the run

    def token_ids(self) -> list[list[int]]:
        """Of each row, from slot 0 on: the newest one, and those behind it."""
        slots = range(max(self._texts) + 1)
        return [[self._texts[slot].newest, *self._tokens[slot]] if slot in self._tokens else [0] for slot in slots]

    def fed(self) -> list[int]:
        """Tokens of each row that are no padding."""
        return [1 + len(self._tokens[slot]) if slot in self._tokens else 0 for slot in range(max(self._texts) + 1)]

    def draws(self) -> list[Draw]:
        """The token behind the newest one of each text, and behind each that is drafted."""
        return [
            Draw(slot, step, self._texts[slot], ahead=step, draft=draft)
            for slot, drafted in self._tokens.items()
            for step, draft in enumerate((*drafted, None))
        ]

    def judge(self) -> None:
        """After the run, when each text has what was drawn: what was drafted wrongly is in the cache no more."""
        for slot, text in self._texts.items():
            drafted, wrong = len(self._tokens[slot]), text.cached - (text.tokens - 1)
            text.cached -= wrong
            if drafted:
                text.lookup.came(drafted, drafted - wrong)
