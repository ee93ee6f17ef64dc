"""What a checkpoint's tokenizer puts before a prompt, and which tokens end a text."""

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from services.kit.errors import StartupError
from services.language.training.checkpoint_folder import CONFIG, GENERATION, TOKENIZER, TOKENIZER_CONFIG, Folder

PROBE = "a"
SAMPLES = (  # what an export is checked with
    "In the beginning there was nothing, and then somebody wrote the first line of a long text about it.",
    "def main(arguments):\n    for argument in arguments:\n        print(argument)\n",
    "1, 2, 3, 4, 5, 6, 7; 今天的天气很好。",
)


class Tokens:
    """The tokenizer of a checkpoint.

    Raises:
        StartupError: it cannot be used with the checkpoint's model, or adds tokens behind a prompt.
    """

    def __init__(self, folder: Folder, vocab: int) -> None:
        self._folder, self._vocab, path = folder, vocab, folder.path / TOKENIZER
        self.content = folder.content(TOKENIZER)
        try:
            self._tokenizer: Any = Tokenizer.from_str(self.content.decode())
        except Exception as error:  # the library raises Exception itself
            raise StartupError(f"{path}: {error}", hint="copy the file again") from error
        largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        if largest >= vocab:
            raise StartupError(
                f"{path}: has token {largest}, by {CONFIG} tokens end at {vocab - 1}",
                hint="copy the tokenizer and the model of one checkpoint",
            )
        self.begin, self.end = self._begin(), self._end()

    def samples(self, longest: int) -> list[list[int]]:
        """Three texts of at most so many tokens, as the model gets them; none where a text has too few."""
        texts = [[*self.begin, *self._encode(text, special=False)][:longest] for text in SAMPLES]
        return texts if min(map(len, texts)) > 1 else []

    def _begin(self) -> tuple[int, ...]:
        """What transformers puts before a prompt: tokenizer_config.json says it, or else tokenizer.json."""
        settings = self._folder.document(TOKENIZER_CONFIG, optional=True)
        if "add_bos_token" in settings or "add_eos_token" in settings:
            self._refuse_behind(bool(settings.get("add_eos_token")), f"{TOKENIZER_CONFIG}: add_eos_token is true")
            return self._first(settings) if settings.get("add_bos_token") else ()
        plain, whole = self._encode(PROBE, special=False), self._encode(PROBE, special=True)
        at = next((at for at in range(len(whole) - len(plain) + 1) if whole[at : at + len(plain)] == plain), 0)
        self._refuse_behind(len(plain) > 0 and len(whole) > at + len(plain), f"{TOKENIZER}: its post_processor")
        return tuple(whole[:at] if plain else whole)

    def _first(self, settings: Mapping[str, Any]) -> tuple[int, ...]:
        named = settings.get("bos_token")
        token = self._tokenizer.token_to_id(named["content"] if isinstance(named, dict) else named or "")
        return () if token is None else (token,)

    def _refuse_behind(self, behind: bool, what: str) -> None:
        if behind:
            raise StartupError(
                f"{self._folder.path / what}: a token is added behind every prompt", hint="a text goes on where it ends"
            )

    def _end(self) -> tuple[int, ...]:
        """The tokens that end a text; none where the checkpoint names none."""
        named = self._folder.document(GENERATION, optional=True).get("eos_token_id")
        if named is None:
            named = self._folder.config.get("eos_token_id")
        tokens = named if isinstance(named, list) else [] if named is None else [named]
        for token in tokens:
            if not isinstance(token, int) or not 0 <= token < self._vocab:
                raise StartupError(
                    f"{self._folder.path}: eos_token_id {token!r} is outside the vocabulary of {self._vocab} tokens",
                    hint=f"correct {GENERATION} or {CONFIG}",
                )
        return tuple(dict.fromkeys(tokens))

    def _encode(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        return ids
