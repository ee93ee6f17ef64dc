"""SequenceServicer: messages in, windows, batcher, answers, messages out."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor

from services.kit.ahead import ahead
from services.kit.call import Call
from services.kit.errors import InvalidField, TriviumError, UnsupportedByModel
from services.kit.inference import ranking
from services.kit.inference.bundle import Array
from services.kit.inference.manifest import Manifest
from services.kit.inference.models import Models
from services.sequence import recurrent
from services.sequence.leaving import Leaving
from services.sequence.pipeline import Pipeline, classifies, forecasts, tracks
from services.sequence.recurrent import SequenceModel
from services.sequence.settings import SeriesSettings
from services.sequence.stream import Stream
from trivium.sequence.v1 import sequence_pb2 as pb

DEFAULT_TOP_K = 5
# Of one stream. The next step must be at hand when the last one has been computed, so that all streams share its run;
# and it need not wait until the last answer has been written.
READ_AHEAD, COMPUTED_AHEAD = 2, 2


class SequenceServicer:
    """Answers SequenceService.

    Args:
        models: what can be asked.
        settings: how series are cut.
        leaving: told when the instance goes, so that its streams end and go on elsewhere.
    """

    service: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["SequenceService"]

    def __init__(self, models: Models[Pipeline | None], settings: SeriesSettings, leaving: Leaving) -> None:
        self._models, self._settings, self._leaving = models, settings, leaving

    async def classify(self, request: pb.ClassifyRequest, call: Call) -> pb.ClassifyResponse:
        """Ranks the classes of a whole series."""
        model, pipeline = self._find(request.model, classifies, "classes for a series")
        top_k = ranking.top_k(request, DEFAULT_TOP_K)
        said = await self._last(model, pipeline, request, call)
        with call.timed("encode"):
            return pb.ClassifyResponse(classes=ranking.encoded(pipeline.rank(said, top_k)))

    async def forecast(self, request: pb.ForecastRequest, call: Call) -> pb.ForecastResponse:
        """Continues a whole series."""
        model, pipeline = self._find(request.model, forecasts, "forecast")
        horizon = _horizon(request, pipeline.recurrence.horizon)
        said = await self._last(model, pipeline, request, call)
        with call.timed("encode"):
            return pb.ForecastResponse(values=pipeline.forecast(said, horizon))

    async def track(
        self, requests: AsyncIterator[pb.TrackRequest], call: Call
    ) -> AsyncIterator[pb.TrackResponse | bytes]:
        """Answers every step as it comes; the steps of a message together, as far as they were computed together."""
        call.stage = "stream"
        first = await self._leaving.next(requests)
        if first is None:
            return
        model, pipeline = self._tracking(first.model)
        stream = Stream(model, pipeline, first, self._settings)
        call.fields["model"] = f"{model.name}:{model.version}"
        series = ahead(stream.series(self._leaving.messages(first, requests)), READ_AHEAD)
        windows = ahead(stream.windows(series, call.deadline), COMPUTED_AHEAD)
        try:
            async with contextlib.aclosing(windows):
                async for window in windows:
                    for step, answer in stream.answers(window):
                        yield answer
                        stream.answered = step
        except TriviumError as error:
            error.metadata.setdefault("step", str(stream.answered))
            raise
        finally:
            stream.report(call)

    async def _last(
        self,
        model: SequenceModel,
        pipeline: Pipeline,
        request: pb.ClassifyRequest | pb.ForecastRequest,
        call: Call,
    ) -> Array:
        """What the model says after the last step of a whole series, float32 [numbers]."""
        with call.timed("decode"):
            pipeline.check_width(request)
            pipeline.check_length(pipeline.steps(request.values), "values")
            x = pipeline.series(request.values)
        call.stage = "queue"
        output = await recurrent.series(model, x, call.deadline, self._settings.window_steps)
        model.report(output, call)
        last: Array = pipeline.said(output.arrays)[-1]
        return last

    def _tracking(self, name: str) -> tuple[SequenceModel, Pipeline]:
        """The model that the caller names, which answers step by step."""
        model = self._models.find(name, tracks)
        recurrence = model.manifest.recurrence
        if recurrence is not None and recurrence.bidirectional:
            raise UnsupportedByModel(
                f"model {model.name!r} is bidirectional: it needs the end of a series before it can answer, and keeps "
                "no state; Classify and Forecast take whole series",
                model=model.name,
                task=model.manifest.task,
            )
        return self._find(name, tracks, "state between steps")

    def _find(self, name: str, supports: Callable[[Manifest], bool], what: str) -> tuple[SequenceModel, Pipeline]:
        """The model that the caller names, and its pipeline; `what` it must have, in words."""
        model = self._models.find(name, supports)
        model.must_support(supports, what)
        assert model.pipeline is not None  # as it supports what takes series
        return model, model.pipeline


def _horizon(request: pb.ForecastRequest, longest: int) -> int:
    """How many steps the caller wants."""
    if not request.HasField("horizon"):
        return longest
    if not 1 <= request.horizon <= longest:
        raise InvalidField(
            f"horizon is {request.horizon} and this model forecasts 1 to {longest} steps",
            field="horizon",
            limit=f"[1, {longest}]",
            value=str(request.horizon),
        )
    return request.horizon
