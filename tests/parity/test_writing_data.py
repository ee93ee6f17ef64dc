"""What the models that write texts are trained and measured on, and how a training that was stopped goes on."""

import re
from datetime import date
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from services.language.training import date_reader, dates, python_source, python_writer
from services.language.training.byte_models import Ngrams, gzip_bits_per_byte
from services.language.training.date_formats import EXAMPLE, FORMATS, chinese_number, chinese_year
from services.language.training.resumable import Saved, fit, rate


def some_pairs(count: int) -> list[dates.Pair]:
    return dates.pairs(dates.writable(dates.days(kept_back=False)), count, Random(5))


def test_no_held_out_day_is_trained_on() -> None:
    known, kept_back = dates.days(kept_back=False), dates.days(kept_back=True)
    assert len(known) + len(kept_back) == 73049
    assert 0.09 < len(kept_back) / 73049 < 0.11
    assert not set(known) & set(kept_back)
    held_out = {day.isoformat() for day in kept_back}
    assert not any(day in held_out for _, day in some_pairs(5000))
    assert all(day in held_out for pairs in dates.examination(3, seed=6).values() for _, day in pairs)


def test_every_format_has_an_example_of_its_own() -> None:
    examples = [each.example for each in FORMATS]
    assert len(set(examples)) == len(examples) >= 80
    usual = ("25 November 2026", "Nov 25, 2026", "November 25th, 2026", "Wed 25 Nov 2026", "25-Nov-26", "25/11/2026")
    chinese = ("2026年11月25日", "二〇二六年十一月二十五日", "2026年11月25日星期三", "26年11月25日", "2026年11月25号")
    assert {*usual, *chinese, "20261125", "2026/11/25", "2026-11-25T10:30:00Z"} <= set(examples)


def test_a_text_means_one_day() -> None:
    meant: dict[str, set[str]] = {}
    for text, day in some_pairs(60_000):
        meant.setdefault(re.sub(r"[\s.,。]+", " ", text).strip().lower(), set()).add(day)
    assert [text for text, days in meant.items() if len(days) > 1] == []


def test_numbers_have_the_day_first_unless_it_can_be_no_month() -> None:
    month_first = next(each for each in FORMATS if each.example == "11/25/2026")
    assert not month_first.writes(date(2026, 11, 12))
    assert month_first.writes(date(2026, 11, 13))
    two_digits = next(each for each in FORMATS if each.example == "25-Nov-26")
    years = (1968, 1969, 2068, 2069)
    assert [two_digits.writes(date(year, 1, 1)) for year in years] == [False, True, True, False]


def test_chinese_numerals() -> None:
    numbers = [chinese_number(number) for number in (1, 10, 11, 20, 21, 30, 31)]
    assert numbers == ["一", "十", "十一", "二十", "二十一", "三十", "三十一"]
    assert chinese_number(25, short=True) == "廿五"
    assert chinese_year(2008, "零") == "二零零八"


def test_the_characters_of_dates_are_all_known_and_all_used() -> None:
    characters, pairs = date_reader.tokenizer(), some_pairs(20_000)
    sources = [date_reader.encode(text, characters) for text, _ in pairs]
    seen = {token for source in sources for token in source}
    assert date_reader.END_TOKEN in seen
    assert 0 not in seen, "an unknown character"
    assert max(map(len, sources)) <= date_reader.MAX_SOURCE
    unused = set(range(3, characters.get_vocab_size())) - seen
    assert {characters.id_to_token(token) for token in unused} <= set("kqz")


def test_case_width_and_blanks_make_no_difference() -> None:
    characters = date_reader.tokenizer()
    for written, plain in (
        ("２０２６年１１月２５日", "2026年11月25日"),
        (" 25  NOVEMBER\t2026\n", "25 november 2026"),
        ("2026年11月25日（星期三）", "2026年11月25日(星期三)"),
    ):
        assert characters.encode(written).ids == characters.encode(plain).ids
    assert characters.decode(characters.encode("2026-11-25").ids) == "2026-11-25"
    assert characters.encode("é").ids == [0]


def test_a_batch_of_dates_is_padded_on_the_right() -> None:
    pairs = [("25 Nov 2026", EXAMPLE.isoformat()), ("20261125", EXAMPLE.isoformat())]
    source, length, target = date_reader.batch(pairs, date_reader.tokenizer())
    assert (source.shape, length.tolist(), target.shape) == ((2, 12), [12, 9], (2, 12))
    assert source[1, 8:].tolist() == [date_reader.END_TOKEN, 0, 0, 0]
    assert target[:, 0].tolist() == [date_reader.BEGIN_TOKEN] * 2
    assert target[:, -1].tolist() == [date_reader.END_TOKEN] * 2


def test_no_held_out_package_is_trained_on() -> None:
    train, held_out = python_source.load()
    assert not set(train.packages) & set(held_out.packages)
    assert len(train.packages) > 100
    assert held_out.size > 1_000_000
    assert "site-packages" not in train.packages
    assert all(python_source.held_out(name) for name in held_out.packages)
    trained = set(train.texts)
    assert not any(text in trained for text in held_out.texts if len(text) > 1000)


def test_tests_tables_and_what_others_wrote_are_left_out(tmp_path: Path) -> None:
    for name in ("site-packages/a.py", "json/tests/a.py", "encodings/a.py", "_sysconfigdata__x.py", "json/kept.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n", "utf-8")
    (tmp_path / "json" / "latin.py").write_bytes("# é\n".encode("latin-1"))
    parts = python_source.load(tmp_path)
    assert [text for part in parts for text in part.texts] == ["# json/kept.py\n"]


def test_the_digest_is_that_of_names_and_texts() -> None:
    one, other = python_source.Source({"a": ("x", "y")}), python_source.Source({"a": ("xy",)})
    assert one.digest != other.digest != python_source.Source({"b": ("xy",)}).digest
    assert one.digest == python_source.Source({"a": ("x", "y")}).digest


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return python_source.load()[1].texts[:40]


def test_any_text_has_tokens_that_give_it_back(texts: list[str]) -> None:
    pairs = python_writer.tokenizer(texts)
    assert pairs.get_vocab_size() == python_writer.VOCAB
    for text in (texts[0], "def f(x):\n\treturn '三百🙂'\r\n", "  \n\n  ", "\x00é"):
        assert pairs.decode(pairs.encode(text).ids) == text
    assert pairs.token_to_id(python_writer.END) == python_writer.END_TOKEN


def test_a_prompt_that_ends_with_a_line_has_the_tokens_of_training(texts: list[str]) -> None:
    pairs = python_writer.tokenizer(texts)
    whole, prompt = pairs.encode("def f(x):\n    return x\n").ids, pairs.encode("def f(x):\n").ids
    assert whole[: len(prompt)] == prompt


def test_windows_begin_with_a_line_and_are_one_token_behind_their_targets(texts: list[str]) -> None:
    pairs = python_writer.tokenizer(texts)
    tokens = torch.from_numpy(python_writer.encode(texts, pairs))
    starts = python_writer.line_starts(tokens, pairs)
    inputs, targets = python_writer.windows(tokens, starts, 256, 64, torch.Generator().manual_seed(1))
    assert inputs.shape == targets.shape == (4, 64)
    assert inputs[:, 0].tolist() == [python_writer.END_TOKEN] * 4
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    lines = {line for text in texts for line in text.splitlines()}
    assert all(pairs.decode(row.tolist()).lstrip("\n").splitlines()[0] in lines for row in targets)


def test_windows_grow_to_the_longest_text() -> None:
    assert [python_writer.length(part / 10) for part in range(10)][-1] == python_writer.MAX_TOKENS
    sizes = [python_writer.length(part / 1000) for part in range(1000)]
    assert sizes == sorted(sizes)


def test_the_5_gram_model_is_a_probability_and_learns_what_it_sees() -> None:
    model = Ngrams(b"abcde" * 20_000 + bytes(range(256)) * 10)
    for context in (b"abcd", b"zzzz", b"cdea"):
        total = sum(2 ** -model.bits_per_byte(context + bytes([byte])) for byte in range(256))
        assert total == pytest.approx(1, abs=1e-3)
    assert model.bits_per_byte(b"abcde" * 100) < 0.1
    random = np.random.default_rng(1).integers(0, 256, 5000, np.uint8).tobytes()
    assert model.bits_per_byte(random) > 7.5
    assert gzip_bits_per_byte(random) > 8 > 0.5 > gzip_bits_per_byte(b"abcde" * 1000)


STEPS = 30


def trained(file: Saved, stop_before: int = STEPS) -> nn.Linear:
    """A line, trained with two optimizers as python-gpt is; stopped before a step."""
    torch.manual_seed(3)
    network = nn.Linear(8, 8)

    def loss(step: int) -> Tensor:
        if step == stop_before:
            raise KeyboardInterrupt
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        return nn.functional.mse_loss(network(x), x.flip(1))

    optimizers = [torch.optim.Muon([network.weight], 0.02), torch.optim.AdamW([network.bias], 0.02)]
    fit(network, optimizers, loss, STEPS, "line", file)
    return network


def test_a_training_that_was_stopped_ends_with_the_very_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(Saved(tmp_path / "whole.pt", "d"))
    monkeypatch.setattr("services.language.training.resumable.EVERY_S", 0.0)
    for stop in (11, 23):
        with pytest.raises(KeyboardInterrupt):
            trained(Saved(tmp_path / "stopped.pt", "d"), stop)
    stopped = trained(Saved(tmp_path / "stopped.pt", "d"))
    assert torch.equal(stopped.weight, whole.weight)
    assert torch.equal(stopped.bias, whole.bias)
    again = trained(Saved(tmp_path / "stopped.pt", "d"), stop_before=0)  # nothing is left to do
    assert torch.equal(again.weight, whole.weight)


def test_what_another_training_left_is_passed_over(tmp_path: Path) -> None:
    file = Saved(tmp_path / "x.pt", "one")
    file.save({"step": 3})
    assert file.load() == {"step": 3}
    assert Saved(file.path, "other").load() is None
    file.path.write_bytes(file.path.read_bytes()[:100])
    assert file.load() is None
    assert Saved(tmp_path / "none.pt", "one").load() is None
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_the_rate_rises_stays_and_falls() -> None:
    rates = [rate(step, 400) for step in range(400)]
    assert rates[39] == rates[160] == 1
    assert rates[:40] == sorted(rates[:40])
    assert rates[160:] == sorted(rates[160:], reverse=True)
    assert 0 < rates[-1] < 0.01
