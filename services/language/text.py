"""TextWriter: what each new token adds to a text: whole characters, and nothing of a stop string.

All of it is a function of the tokens alone, so that whoever goes on with a text says exactly what comes next.
"""

from services.language.tokenizer import UNFINISHED, Tokenizer

LONGEST = 8  # tokens that one character may have; more of them are no character


class Detokenizer:
    """Tokens to text, piece by piece.

    Where a token does not say the same everywhere, a window of the last ones is decoded twice, with and without the
    newest: some tokenizers write a token differently at the beginning of a text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._said = 0  # tokens of the window whose text is known, and that text
        self._text = ""

    def push(self, token: int) -> str:
        """What the token adds: "" while a character is not complete."""
        if len(self._window) == self._said and not self._text.endswith(UNFINISHED):
            alone = self._tokenizer.alone(token)
            if alone is not None:
                self._window, self._said, self._text = [token], 1, alone
                return alone
        self._window.append(token)
        return self._taken(final=len(self._window) - self._said >= LONGEST)

    def rest(self) -> str:
        """What is left when no more tokens come."""
        return self._taken(final=True) if len(self._window) > self._said else ""

    def _taken(self, *, final: bool) -> str:
        text = self._tokenizer.decode(self._window)
        if text.endswith(UNFINISHED) and not final:
            return ""
        new = text[len(self._text) :]
        self._window = self._window[self._said :]
        self._said, self._text = len(self._window), self._tokenizer.decode(self._window)
        return new


class TextWriter:
    """The text of one answer as it grows.

    Args:
        stop: strings that end it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._detokenizer, self._stop = Detokenizer(tokenizer), stop
        self._held = ""  # may be the beginning of a stop string
        self.stopped_by: str | None = None

    def push(self, token: int, *, may_stop: bool) -> str:
        """What the token adds to the text; sets `stopped_by` where it completes a stop string.

        Args:
            may_stop: whether stop strings count yet.
        """
        new = self._detokenizer.push(token)
        return self._released(new, may_stop=may_stop) if self._stop else new

    def rest(self, *, may_stop: bool) -> str:
        """What is left when the text has ended."""
        if self.stopped_by is not None:
            return ""
        text = self._detokenizer.rest()
        if self._stop:
            text = self._released(text, may_stop=may_stop)
        if self.stopped_by is None:
            text, self._held = text + self._held, ""
        return text

    def _released(self, new: str, *, may_stop: bool) -> str:
        text = self._held + new
        found = min(((at, stop) for stop in self._stop if (at := text.find(stop)) >= 0), default=None)
        if found is not None and may_stop:
            at, self.stopped_by = found
            self._held = ""
            return text[:at]
        passed = 0 if found is None else max(text.rfind(stop) + len(stop) for stop in self._stop if stop in text)
        keep = max(_overlap(text[passed:], stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that may be the beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[len(text) - size :])), 0)
