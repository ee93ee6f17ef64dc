"""Short Chinese texts of ten topics, made of the patterns and words in topics.toml, some of which are held out."""

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.language.training.labelled import Labelled, Split

FILE = Path(__file__).with_name("topics.toml")
CLASSES = ("天气", "体育", "财经", "美食", "旅游", "健康", "科技", "教育", "娱乐", "汽车")
SLOT = re.compile(r"\{(\w+)\}")
ANY_GROUP = "word"  # a slot for a word of any group of the topic
SPLIT = "2026"  # goes into the hashes that choose what is held out
HELD_OUT = 5  # one pattern and one word in so many, of each topic and group
OWN_PART = 0.7  # of the sentences follow a pattern of their topic; the others one that suits every topic
TWO_PART = 0.2  # of the texts with sentences have two
LIST_PART = 0.4  # of the training's texts are words without a sentence
LIST = 4  # words of such a text at most
GAPS = (" ", "、", "，")  # between them
ENDS = ("", "", "。", "！")
TRAIN, TRAIN_SEED = 30_000, 20260105
MEASURED, MEASURED_SEED = 1_500, 20260106

Words = Mapping[str, Sequence[str]]  # by the name of their group


@dataclass(frozen=True, slots=True)
class Topic:
    """What the file says of one topic, or a part of it."""

    patterns: Sequence[str]
    words: Words


@dataclass(frozen=True, slots=True)
class Book:
    """The file."""

    topics: Sequence[Topic]  # in the order of CLASSES
    shared: Sequence[str]  # patterns for every topic
    fillers: Words  # the same for every topic
    written: Labelled  # whole sentences

    @property
    def patterns(self) -> list[str]:
        """All of them."""
        return [*self.shared, *(pattern for topic in self.topics for pattern in topic.patterns)]

    @property
    def words(self) -> list[str]:
        """Those of all topics."""
        return [word for topic in self.topics for words in topic.words.values() for word in words]


def load() -> Split:
    """The training's texts, and three sets that are measured on."""
    book = read()
    kept = held_out_words(book)
    known = frozenset(word for word in book.words if not _touches(word, kept))
    train = Maker(book, known, held_out_patterns=False, list_part=LIST_PART, without=kept)
    new_words = Maker(book, kept, held_out_patterns=True)
    known_words = Maker(book, known, held_out_patterns=True, without=kept)
    return Split(
        train.labelled(TRAIN, TRAIN_SEED),
        {
            "accuracy": new_words.labelled(MEASURED, MEASURED_SEED),
            "accuracy_known_words": known_words.labelled(MEASURED, MEASURED_SEED),
            "accuracy_written": book.written,
        },
    )


def read() -> Book:
    """What topics.toml holds."""
    content = tomllib.loads(FILE.read_text("utf-8"))
    written = [(text, label) for label, name in enumerate(CLASSES) for text in content[name]["written"]]
    return Book(
        [Topic(content[name]["sentences"], _groups(content[name]["words"])) for name in CLASSES],
        content["any"]["sentences"],
        _groups(content["fillers"]),
        Labelled([text for text, _ in written], [label for _, label in written]),
    )


def _groups(section: Mapping[str, str]) -> Words:
    return {name: words.split() for name, words in section.items()}


def held_out(texts: Sequence[str]) -> frozenset[str]:
    """A fifth of these patterns or words, chosen by their hashes."""
    by_hash = sorted(texts, key=lambda text: hashlib.sha256((SPLIT + text).encode()).digest())
    return frozenset(by_hash[: len(texts) // HELD_OUT])


def held_out_words(book: Book) -> frozenset[str]:
    """A fifth of each group, as far as no pattern and no filler contains them: they could not be kept from those."""
    patterns = "\n".join(book.patterns)
    fillers = [word for words in book.fillers.values() for word in words]
    free = {word for word in book.words if word not in patterns and not _touches(word, fillers)}
    groups = (group for topic in book.topics for group in topic.words.values())
    return frozenset(word for group in groups for word in held_out([word for word in group if word in free]))


def _touches(word: str, others: Iterable[str]) -> bool:
    """Whether it contains one of the others or is part of one."""
    return any(other in word or word in other for other in others)


class Maker:
    """Makes texts of some of the patterns and some of the words.

    Args:
        words: those that a topic's slots are filled with.
        held_out_patterns: whether they are the patterns that are kept from the training.
        list_part: how many of the texts, in [0, 1], are words without a pattern.
        without: words that no text has, not even where two others meet.
    """

    def __init__(
        self,
        book: Book,
        words: frozenset[str],
        *,
        held_out_patterns: bool,
        list_part: float = 0.0,
        without: frozenset[str] = frozenset(),
    ) -> None:
        def chosen(patterns: Sequence[str]) -> list[str]:
            kept = held_out(patterns)
            return [pattern for pattern in patterns if (pattern in kept) == held_out_patterns]

        self._topics, self._list_part, self._without = [], list_part, without
        for topic in book.topics:
            groups = {name: [word for word in group if word in words] for name, group in topic.words.items()}
            known = {**book.fillers, **groups, ANY_GROUP: [word for group in groups.values() for word in group]}
            own, shared = map(chosen, (topic.patterns, book.shared))
            self._topics.append((own, shared, known))

    def labelled(self, count: int, seed: int) -> Labelled:
        """So many different texts, the same number for each topic."""
        random = np.random.default_rng(seed)
        texts: dict[str, int] = {}
        for label in range(len(CLASSES)):
            while len(texts) < count * (label + 1) // len(CLASSES):
                text = self._text(label, random)
                if not any(word in text for word in self._without):
                    texts.setdefault(text, label)
        return Labelled(list(texts), list(texts.values()))

    def _text(self, label: int, random: np.random.Generator) -> str:
        if random.random() < self._list_part:
            words = self._topics[label][2][ANY_GROUP]
            return _one(GAPS, random).join(_one(words, random) for _ in range(random.integers(1, LIST + 1)))
        first = self._sentence(label, random)
        if random.random() < TWO_PART:
            return f"{first}，{self._sentence(label, random)}"
        return first + _one(ENDS, random)

    def _sentence(self, label: int, random: np.random.Generator) -> str:
        own, shared, known = self._topics[label]
        pattern = _one(own if random.random() < OWN_PART else shared, random)
        return SLOT.sub(lambda slot: _one(known[slot[1]], random), pattern)


def _one(choices: Sequence[str], random: np.random.Generator) -> str:
    return choices[int(random.integers(len(choices)))]
