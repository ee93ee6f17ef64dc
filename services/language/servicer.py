"""LanguageServicer: messages in, tokens, scheduler or batcher, texts and classes, messages out."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor

from services.kit.call import Call
from services.kit.errors import TriviumError
from services.kit.inference import ranking
from services.kit.inference.job import Output
from services.kit.inference.manifest import Manifest
from services.kit.inference.models import Models
from services.language.answers import Answers, logprob, scores
from services.language.classifier import Classifier
from services.language.leaving import Leaving
from services.language.loader import LanguageModel, Pipeline
from services.language.tokenizer import Token
from services.language.writer import Writer
from trivium.language.v1 import language_pb2 as pb

DEFAULT_TOP_K = 5
NOTHING_COMPUTED = Output({}, 0.0, 0.0, 0)
SEED_BITS = 64


def writes(manifest: Manifest) -> bool:
    """Whether the bundle makes texts."""
    return manifest.generation is not None


def classifies(manifest: Manifest) -> bool:
    """Whether the bundle takes a text and ranks classes."""
    return manifest.features is not None and manifest.postprocessing is not None


def embeds(manifest: Manifest) -> bool:
    """Whether the bundle turns a text into a vector."""
    steps = manifest.postprocessing
    return manifest.features is not None and steps is not None and steps.embedding is not None


class LanguageServicer:
    """Answers LanguageService.

    Args:
        models: what can be asked.
        leaving: told when the instance goes, so that its texts end and go on elsewhere.
    """

    service: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["LanguageService"]

    def __init__(self, models: Models[Pipeline], leaving: Leaving) -> None:
        self._models, self._leaving = models, leaving

    async def generate(self, request: pb.GenerateRequest, call: Call) -> AsyncIterator[pb.GenerateResponse]:
        """Writes texts and says each token as it comes."""
        model, writer = self._writer(request.model)
        call.fields["model"] = f"{model.name}:{model.version}"
        with call.timed("decode"):
            texts = await writer.texts(request, call.deadline, lambda: secrets.randbits(SEED_BITS))
        echo = (request.prompt or writer.tokenizer.decode(texts.prompt)) if request.echo else None
        answers = Answers(writer, texts, f"{model.name}:{model.version}", echo)
        call.stage = "stream"
        try:
            async with contextlib.aclosing(answers.messages(self._leaving)) as messages:
                async for message in messages:
                    yield message
        except TriviumError as error:
            error.metadata.setdefault("token", str(answers.sent))
            raise
        finally:
            call.fields["tokens"] = answers.sent
            model.report(answers.output, call)

    async def score(self, request: pb.ScoreRequest, call: Call) -> pb.ScoreResponse:
        """How probable each token of a text is."""
        model, writer = self._writer(request.model)
        with call.timed("decode"):
            sequence = await writer.scored(request, call.deadline)
        call.stage = "queue"
        found = await scores(writer, sequence)
        queue_s = sequence.started - sequence.submitted
        model.report(Output({}, queue_s, sequence.compute_s, sequence.largest_batch), call)
        with call.timed("encode"):
            return pb.ScoreResponse(tokens=map(logprob, found), logprob=sum(chosen.logprob for chosen in found))

    async def classify(self, request: pb.ClassifyRequest, call: Call) -> pb.ClassifyResponse:
        """Ranks the classes of a text."""
        model, classifier = self._classifier(request.model, classifies, "classes for a text")
        top_k = ranking.top_k(request, DEFAULT_TOP_K)
        output = await self._computed(model, classifier, request.text, call)
        with call.timed("encode"):
            return pb.ClassifyResponse(classes=ranking.encoded(classifier.rank(output.arrays, top_k)))

    async def embed(self, request: pb.EmbedRequest, call: Call) -> pb.EmbedResponse:
        """Turns a text into its vector."""
        model, classifier = self._classifier(request.model, embeds, "embedding output")
        output = await self._computed(model, classifier, request.text, call)
        with call.timed("encode"):
            return pb.EmbedResponse(embedding=classifier.embedding(output.arrays).tolist())

    async def tokenize(self, request: pb.TokenizeRequest, call: Call) -> pb.TokenizeResponse:
        """The tokens of a text."""
        model, writer = self._writer(request.model, "tokens")
        model.report(NOTHING_COMPUTED, call)
        with call.timed("encode"):
            tokens = await writer.tokens(request.text)
            if request.add_special_tokens:
                before, behind = (
                    [Token(token, writer.tokenizer.piece(token), at, at) for token in added]
                    for added, at in zip(writer.special, (0, len(request.text)), strict=True)
                )
                tokens = [*before, *tokens, *behind]
            response = pb.TokenizeResponse(token_ids=[token.id for token in tokens])
            for token in tokens:
                response.tokens.add(id=token.id, piece=token.piece, begin=token.begin, end=token.end)
            return response

    async def detokenize(self, request: pb.DetokenizeRequest, call: Call) -> pb.DetokenizeResponse:
        """The text of tokens."""
        model, writer = self._writer(request.model, "tokens")
        model.report(NOTHING_COMPUTED, call)
        with call.timed("encode"):
            text = writer.text(request.token_ids, keep_special_tokens=request.keep_special_tokens)
            each = request.token_ids if request.each else ()
            texts = await asyncio.to_thread(writer.texts_of, each, keep_special_tokens=request.keep_special_tokens)
            return pb.DetokenizeResponse(text=text, texts=texts)

    async def _computed(self, model: LanguageModel, classifier: Classifier, text: str, call: Call) -> Output:
        """The outputs for one text, beside other callers'."""
        with call.timed("decode"):
            inputs = classifier.inputs(text, "text")
        call.stage = "queue"
        output = await model.batcher.submit(inputs, call.deadline)
        model.report(output, call)
        return output

    def _writer(self, name: str, what: str = "texts to write") -> tuple[LanguageModel, Writer]:
        """The model that the caller names, which makes texts."""
        model = self._models.find(name, writes)
        model.must_support(writes, what)
        assert isinstance(model.pipeline, Writer)
        return model, model.pipeline

    def _classifier(
        self, name: str, supports: Callable[[Manifest], bool], what: str
    ) -> tuple[LanguageModel, Classifier]:
        """The model that the caller names; `what` it must have, in words."""
        model = self._models.find(name, supports)
        model.must_support(supports, what)
        assert isinstance(model.pipeline, Classifier)
        return model, model.pipeline
