"""Tokenizer: a bundle's tokenizer.json, texts to tokens and back."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders

from services.kit.errors import StartupError, TriviumError

UNFINISHED = "\ufffd"  # what the bytes of a character that is not complete look like


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a text, and where it comes from, in Unicode characters."""

    id: int
    piece: str
    begin: int
    end: int


class Tokenizer:
    """Reads and writes tokens; any thread may use it.

    Args:
        path: of tokenizer.json.
        vocab: tokens that the model knows; the tokenizer may have fewer.

    Raises:
        StartupError: the file cannot be read, or has tokens that the model does not know.
    """

    def __init__(self, path: Path, vocab: int) -> None:
        hint = "copy the bundle again, or export it again"
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises Exception itself
            raise StartupError(f"{path}: {error}", hint=hint) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        pieces = self._tokenizer.get_vocab(with_added_tokens=True)
        if pieces and max(pieces.values()) >= vocab:
            raise StartupError(
                f"{path}: has token {max(pieces.values())} and the model's vocabulary ends at {vocab - 1}", hint=hint
            )
        # No text of so many characters can have fewer tokens: normalization may shorten a text, but hardly ever does.
        self.longest = max(map(len, pieces), default=1)
        # With these a text is what its tokens are, one after the other; others look at what stands beside a token.
        self._joins = isinstance(self._tokenizer.decoder, decoders.ByteLevel | decoders.Fuse)
        self._alone: dict[int, str] = {}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without special ones added.

        Raises:
            TriviumError: the library has none for it.
        """
        ids: list[int] = self._encoded(text).ids
        return ids

    def tokens(self, text: str) -> list[Token]:
        """The same, with what each of them is."""
        found = self._encoded(text)
        parts = zip(found.ids, found.tokens, found.offsets, strict=True)
        return [Token(token, piece, begin, end) for token, piece, (begin, end) in parts]

    def piece(self, token: int) -> str:
        """What the vocabulary calls a token; "" for one that it does not have."""
        return self._tokenizer.id_to_token(token) or ""

    def decode(self, tokens: list[int], *, keep_special_tokens: bool = False) -> str:
        """The text of tokens; bytes that are no whole character appear as U+FFFD.

        Raises:
            TriviumError: the library has none for them.
        """
        with _panicking("the tokenizer of this model has no text for these tokens"):
            text: str = self._tokenizer.decode(tokens, skip_special_tokens=not keep_special_tokens)
        return text

    def alone(self, token: int) -> str | None:
        """What a token adds to any text of whole characters; None if that depends on what stands beside it.

        Raises:
            TriviumError: as of `decode`.
        """
        if not self._joins:
            return None
        text = self._alone.get(token)
        if text is None:
            text = self._alone[token] = self.decode([token])
        return None if UNFINISHED in text else text

    def _encoded(self, text: str) -> Any:
        """Of the library's ways the one that lets other threads run meanwhile."""
        with _panicking("the tokenizer of this model has no tokens for this text"):
            return self._tokenizer.encode_batch([text], add_special_tokens=False)[0]


@contextlib.contextmanager
def _panicking(message: str) -> Iterator[None]:
    """The library's parts may panic, which is no Exception and would end more than one call."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise TriviumError(message) from error
