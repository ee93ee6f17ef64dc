"""Days and how people write them: what dates-transformer learns from, generated, and the days that are held out."""

import hashlib
from collections.abc import Iterable
from datetime import date, timedelta
from random import Random

from services.language.training.date_formats import FORMATS, Format

FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)
PARTS = 10  # one of so many days is held out
UNTIDY = 0.25  # part of the training texts in which spaces and commas are a bit off
HARD, OFTEN = "{words}", 4  # numbers in words are the hardest: patterns with this are so many times as frequent
DRAWN = tuple(each for each in FORMATS for _ in range(OFTEN if HARD in each.pattern else 1))
Pair = tuple[str, str]  # a text, and the day that it means in ISO 8601


def held_out(day: date) -> bool:
    """Whether no training sees this day in any format: chance by its ISO 8601."""
    return int(hashlib.sha256(day.isoformat().encode()).hexdigest(), 16) % PARTS == 0


def days(*, kept_back: bool) -> list[date]:
    """The days held out, or those to train with; ascending."""
    every = (FIRST + timedelta(count) for count in range((LAST - FIRST).days + 1))
    return [day for day in every if held_out(day) == kept_back]


def writable(some: Iterable[date]) -> dict[Format, list[date]]:
    """The days that each format can write without another day looking the same."""
    kept = list(some)
    return {each: [day for day in kept if each.writes(day)] for each in FORMATS}


def pairs(some: dict[Format, list[date]], count: int, random: Random) -> list[Pair]:
    """So many texts to train with: each format is as likely as any other, but for the hard ones."""
    found = []
    for _ in range(count):
        each = random.choice(DRAWN)
        day = random.choice(some[each])
        text = each.write(day, random)
        found.append((untidy(text, random) if random.random() < UNTIDY else text, day.isoformat()))
    return found


def examination(each_format: int, seed: int, *, spoil: bool = False) -> dict[Format, list[Pair]]:
    """Held-out days in every format, `each_format` texts of each; with spaces and commas a bit off if `spoil`."""
    random, found = Random(seed), {}
    for each, known in writable(days(kept_back=True)).items():
        chosen = random.sample(known, each_format)
        texts = [each.write(day, random) for day in chosen]
        written = [untidy(text, random) if spoil else text for text in texts]
        found[each] = [(text, day.isoformat()) for text, day in zip(written, chosen, strict=True)]
    return found


def untidy(text: str, random: Random) -> str:
    """The text with one of: no commas, no space behind them, doubled spaces, a space or a full stop at the end."""
    changes = (
        text.replace(",", ""),
        text.replace(", ", ","),
        text.replace(" ", "  "),
        f"{text} ",
        f"{text}.",
        f"{text}。",
    )
    return random.choice(changes)
