"""LanguageCalls: calls that ask about texts."""

from collections.abc import Generator, Iterable
from typing import SupportsIndex, Unpack

from trivium.client import prompts, results, text_results
from trivium.client.calls import Calls
from trivium.client.generation import GenerateOptions, generate_request
from trivium.client.prompts import Prompt
from trivium.client.results import Classification, Embedding, Served
from trivium.client.text_results import Completion, Score, Text, TextPiece, Tokens
from trivium.client.values import limited
from trivium.language.v1 import language_pb2 as pb

LANGUAGE = "/trivium.language.v1.LanguageService"
MOST_CLASSES = 100


class LanguageCalls(Calls):
    """The language service's methods.

    A text is a str, or the tokens of one: whole numbers in a list, a generator or a numpy array, which go to the model
    as they are. `model` is "name", "name:version" or "name@label"; empty is the service's default or, where that cannot
    do it, its first model that can.
    """

    def generate(
        self, prompt: Prompt, model: str = "", *, timeout_s: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Generator[TextPiece, None, None]:
        """Continues a text, or turns a source text into a target text where the model has an encoder.

        Leaving the loop over the pieces, or closing the generator, ends the work on the text.

        Args:
            prompt: the text to continue, or the source text.
            model: which model writes.
            timeout_s: seconds for the whole text; no limit if not given.
            options: how it is written: `max_new_tokens`, `temperature`, `seed`, `stop` and the others of
                GenerateOptions.

        Yields:
            What was written since the piece before, as it is written. In the last piece of each text are
            `finish_reason` and `usage`; the model and the seed are in all of them.

        Raises:
            TriviumCallError: INVALID_ARGUMENT (INVALID_FIELD, INPUT_TOO_LARGE), NOT_FOUND (MODEL_NOT_FOUND),
                UNIMPLEMENTED (UNSUPPORTED_BY_MODEL), RESOURCE_EXHAUSTED (QUEUE_FULL, DEADLINE_UNREACHABLE),
                DEADLINE_EXCEEDED, or UNAVAILABLE (NO_INSTANCE, DRAINING) where the text cannot be gone on with: its
                `metadata` then has `token`, how many were sent, and `continue_from` goes on after them.
            TypeError, ValueError: an argument is of a wrong type or out of its range.
        """
        request = generate_request(prompt, model, options)
        messages = self._channel.unary_stream(f"{LANGUAGE}/Generate", request, pb.GenerateResponse, timeout_s)
        return text_results.pieces(messages)

    def complete(
        self, prompt: Prompt, model: str = "", *, timeout_s: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """The whole text, once it is written; otherwise as `generate`.

        Raises:
            ValueError: `n` asks for more than one text; also as `generate`.
        """
        if limited("n", options.get("n")) not in (None, 1):
            raise ValueError("complete writes one text; completions writes n of them")
        (completion,) = self.completions(prompt, model, timeout_s=timeout_s, **options)
        return completion

    def completions(
        self, prompt: Prompt, model: str = "", *, timeout_s: float | None = None, **options: Unpack[GenerateOptions]
    ) -> tuple[Completion, ...]:
        """The `n` whole texts, once all of them are written; otherwise as `generate`."""
        return text_results.completions(self.generate(prompt, model, timeout_s=timeout_s, **options))

    def score(self, text: Prompt, context: Prompt = "", model: str = "", *, timeout_s: float | None = None) -> Score:
        """How probable each token of a given text is.

        Args:
            text: the text.
            context: what stands before it: the beginning of a text, or the source text of a model with an encoder.
            model: which model is asked.
            timeout_s: seconds for this call; the client's if not given.

        Returns:
            The log-probability of each token that has something before it, their sum, and who answered.

        Raises:
            TriviumCallError, TypeError, ValueError: as `generate`.
        """
        words, ids = prompts.split("text", text)
        before, ids_before = prompts.split("context", context)
        request = pb.ScoreRequest(
            model=model, text=words, text_token_ids=ids, context=before, context_token_ids=ids_before
        )
        message, trailers = self._channel.unary(f"{LANGUAGE}/Score", request, pb.ScoreResponse, self._limit(timeout_s))
        return text_results.score(message, Served.of(trailers))

    def classify_text(
        self, text: str, model: str = "", top_k: int | None = None, *, timeout_s: float | None = None
    ) -> Classification:
        """The most probable classes of a text, best first.

        Args:
            text: the text, not empty.
            model: which model is asked.
            top_k: how many classes, in [1, 100]; the service's choice (5) if not given.
            timeout_s: seconds for this call; the client's if not given.

        Returns:
            At most `top_k` classes with their probabilities, and who answered.

        Raises:
            TriviumCallError, TypeError, ValueError: as `generate`.
        """
        request = pb.ClassifyRequest(
            model=model, text=prompts.text("text", text), top_k=limited("top_k", top_k, MOST_CLASSES)
        )
        message, trailers = self._channel.unary(
            f"{LANGUAGE}/Classify", request, pb.ClassifyResponse, self._limit(timeout_s)
        )
        return results.classification(message.classes, Served.of(trailers))

    def embed_text(self, text: str, model: str = "", *, timeout_s: float | None = None) -> Embedding:
        """The vector that the network computes of a text before its last layer.

        Args:
            text, model, timeout_s: as for `classify_text`.

        Returns:
            As many numbers as the bundle's embedding output has, and who answered.

        Raises:
            TriviumCallError, TypeError, ValueError: as `generate`.
        """
        request = pb.EmbedRequest(model=model, text=prompts.text("text", text))
        message, trailers = self._channel.unary(f"{LANGUAGE}/Embed", request, pb.EmbedResponse, self._limit(timeout_s))
        return results.embedding(message.embedding, Served.of(trailers))

    def tokenize(
        self, text: str, model: str = "", *, add_special_tokens: bool = False, timeout_s: float | None = None
    ) -> Tokens:
        """The tokens of a text, as the model gets them.

        Args:
            text: the text.
            model: which model's tokens.
            add_special_tokens: whether to add what the model begins a prompt with.
            timeout_s: seconds for this call; the client's if not given.

        Returns:
            The tokens in order, what each of them is and where it stands in the text, and who answered.

        Raises:
            TriviumCallError, TypeError, ValueError: as `generate`.
        """
        request = pb.TokenizeRequest(
            model=model, text=prompts.text("text", text), add_special_tokens=add_special_tokens
        )
        message, trailers = self._channel.unary(
            f"{LANGUAGE}/Tokenize", request, pb.TokenizeResponse, self._limit(timeout_s)
        )
        return text_results.tokens(message, Served.of(trailers))

    def detokenize(
        self,
        token_ids: Iterable[SupportsIndex],
        model: str = "",
        *,
        keep_special_tokens: bool = False,
        each: bool = False,
        timeout_s: float | None = None,
    ) -> Text:
        """The text of tokens.

        Args:
            token_ids: the tokens.
            model: whose tokens they are.
            keep_special_tokens: whether special tokens appear in the text.
            each: whether the answer says what each token is alone, too.
            timeout_s: seconds for this call; the client's if not given.

        Returns:
            The text, in which bytes that are no whole character appear as U+FFFD, and who answered.

        Raises:
            TriviumCallError, TypeError, ValueError: as `generate`.
        """
        request = pb.DetokenizeRequest(
            model=model,
            token_ids=prompts.tokens("token_ids", token_ids),
            keep_special_tokens=keep_special_tokens,
            each=each,
        )
        message, trailers = self._channel.unary(
            f"{LANGUAGE}/Detokenize", request, pb.DetokenizeResponse, self._limit(timeout_s)
        )
        return text_results.text(message, Served.of(trailers))
