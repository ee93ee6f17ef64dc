"""Phrases in 26 languages: the messages of Django and its applications, split by message id."""

import hashlib
import re
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from services.language.training import data_files
from services.language.training.labelled import Labelled, Split

# Language by ISO 639-1, and the locales that Django has it in.
LOCALES = {
    "ar": ("ar",),
    "cs": ("cs",),
    "da": ("da",),
    "de": ("de",),
    "el": ("el",),
    "en": (),  # what the messages are translated from
    "es": ("es",),
    "fa": ("fa",),
    "fi": ("fi",),
    "fr": ("fr",),
    "he": ("he",),
    "hi": ("hi",),
    "hu": ("hu",),
    "id": ("id",),
    "it": ("it",),
    "ja": ("ja",),
    "ko": ("ko",),
    "nl": ("nl",),
    "pl": ("pl",),
    "pt": ("pt", "pt_BR"),
    "ru": ("ru",),
    "sv": ("sv",),
    "tr": ("tr",),
    "uk": ("uk",),
    "vi": ("vi",),
    "zh": ("zh_Hans", "zh_Hant"),
}
CLASSES = tuple(LOCALES)
SHORTEST = 16  # characters of a phrase that is measured with
SHORTEST_TRAINED = 4  # of one that is trained with
SPLIT = "2026"  # goes into the hashes that choose what is held out
HELD_OUT = 5  # one message id in so many
CONTEXT = "\x04"  # between the context and the message itself
PLACEHOLDER = re.compile(r"%\(\w+\)[\d.]*[a-z]|%[a-z%]|\{[^{}]*\}|<[^<>]*>|&#?\w+;|https?://\S+")


def load() -> Split:
    """Phrases without placeholders, each in one language and one part; those held out have at least 16 characters."""
    train, held_out = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for language, message, text in _phrases():
        if not is_held_out(message):
            train[text].add(language)
        elif len(text) >= SHORTEST:
            held_out[text].add(language)
    for part, other in ((train, {}), (held_out, train)):
        for text in [text for text, languages in part.items() if len(languages) > 1 or text in other]:
            del part[text]
    whole = _labelled(held_out)
    cut = Labelled([text[:SHORTEST] for text in whole.texts], whole.labels)
    return Split(_labelled(train), {"accuracy": whole, "accuracy_first_16_characters": cut})


def is_held_out(message: str) -> bool:
    """Whether the messages with this id, in whatever language, are kept from the training."""
    return hashlib.sha256((SPLIT + message).encode()).digest()[0] % HELD_OUT == 0


def files() -> tuple[Path, ...]:
    """The catalogues that are read."""
    return data_files.catalogues([locale for locales in LOCALES.values() for locale in locales])


def _phrases() -> Iterator[tuple[str, str, str]]:
    """Language, message id, phrase."""
    language_of = {locale: language for language, locales in LOCALES.items() for locale in locales}
    for path in files():
        for message, texts in read_catalogue(path):
            for language, text in (("en", message), *((language_of[path.parts[-3]], text) for text in texts)):
                phrase = " ".join(PLACEHOLDER.sub(" ", text).split())
                if len(phrase) >= SHORTEST_TRAINED:
                    yield language, message, phrase


def read_catalogue(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Message id and its translations, one for each plural form, from a file in the format of GNU gettext's .mo."""
    content = path.read_bytes()
    _, _, count, ids, translations = struct.unpack_from("<5I", content)
    for index in range(count):
        message, text = (_string(content, table + 8 * index) for table in (ids, translations))
        if message:  # the one without an id is the file's header
            yield message.partition(CONTEXT)[2] or message.partition("\0")[0], text.split("\0")


def _string(content: bytes, at: int) -> str:
    length, begin = struct.unpack_from("<2I", content, at)
    return content[begin : begin + length].decode()


def _labelled(languages: dict[str, set[str]]) -> Labelled:
    pairs = sorted((CLASSES.index(language), text) for text, (language,) in languages.items())
    return Labelled([text for _, text in pairs], [label for label, _ in pairs])
