"""OipServicer: every rpc of inference.GRPCInferenceService for the models of one instance."""

import importlib.metadata
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, ClassVar

from google.protobuf.descriptor import ServiceDescriptor

from inference import grpc_service_pb2 as pb
from services.kit import open_inference
from services.kit.call import Call
from services.kit.errors import ModelNotFound, UnknownParameter
from services.kit.inference.models import Models
from services.kit.inference.oip import descriptions
from services.kit.inference.oip.counters import counters
from services.kit.inference.oip.inference import Decoupled, Infer, Inference, Refused, through_batcher
from services.kit.open_inference import check_repository


class OipServicer:
    """Answers for the loaded models.

    Args:
        models: the instance's.
        ready: whether the instance wants calls.
        infer: what computes the outputs; a service whose models need more than one run has its own.
        sequence_idle_s: silence after which `infer` forgets a sequence, for services with models that keep state.
        decoupled: computes for the models whose requests may have several answers.
        refused: told of requests that never get to `infer`.
    """

    service: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]

    def __init__(
        self,
        models: Models[Any],
        ready: Callable[[], bool],
        infer: Infer = through_batcher,
        sequence_idle_s: float = 0.0,
        decoupled: Decoupled | None = None,
        refused: Refused | None = None,
    ) -> None:
        self._models, self._ready, self._sequence_idle_s = models, ready, sequence_idle_s
        self._inference = Inference(models, infer, decoupled, refused)
        self._version = importlib.metadata.version("trivium-suite")

    async def server_live(self, request: pb.ServerLiveRequest, call: Call) -> pb.ServerLiveResponse:
        """True."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: pb.ServerReadyRequest, call: Call) -> pb.ServerReadyResponse:
        """Whether the instance wants calls."""
        return pb.ServerReadyResponse(ready=self._ready())

    async def server_metadata(self, request: pb.ServerMetadataRequest, call: Call) -> pb.ServerMetadataResponse:
        """Name, version and extensions."""
        return pb.ServerMetadataResponse(name="trivium", version=self._version, extensions=open_inference.EXTENSIONS)

    async def model_ready(self, request: pb.ModelReadyRequest, call: Call) -> pb.ModelReadyResponse:
        """Whether the model answers; an unknown one does not."""
        try:
            self._inference.find(request.name, request.version)
        except ModelNotFound:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def model_metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        """Public inputs and outputs."""
        model = self._inference.find(request.name, request.version)
        return descriptions.metadata(model, self._models.versions(model.name))

    async def model_config(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        """How the model is served."""
        model = self._inference.find(request.name, request.version)
        return pb.ModelConfigResponse(
            config=descriptions.config(model, self._models.batcher_settings, self._sequence_idle_s)
        )

    async def model_statistics(self, request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        """Counters of one version, of all versions of a model, or of all models."""
        if request.name and request.version:
            found = [self._inference.find(request.name, request.version)]
        else:
            found = [model for model in self._models.ready() if request.name in ("", model.name)]
        if not found:
            raise ModelNotFound(f"requested model '{request.name[:128]}' is not available", model=request.name)
        return pb.ModelStatisticsResponse(model_stats=map(counters, found))

    async def model_infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        """The model's outputs for the request's tensors."""
        return await self._inference.one(request, call)

    def model_stream_infer(
        self, requests: AsyncIterator[pb.ModelInferRequest], call: Call
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        """An answer to each request, in their order; a failure is an answer with an error_message."""
        return self._inference.stream(requests, call)

    async def repository_index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        """Every known version with its state."""
        check_repository(request.repository_name)
        index = [
            pb.RepositoryIndexResponse.ModelIndex(name=model.name, version=str(model.version), state="READY")
            for model in self._models.ready()
        ]
        if not request.ready:
            index += [
                pb.RepositoryIndexResponse.ModelIndex(
                    name=bundle.name,
                    version=str(bundle.version),
                    state="UNAVAILABLE",
                    reason="unloaded" if self._models.taken_out(bundle.name) else "failed",
                )
                for bundle in self._models.unloaded()
            ]
        return pb.RepositoryIndexResponse(models=sorted(index, key=lambda entry: (entry.name, int(entry.version))))

    async def repository_model_load(
        self, request: pb.RepositoryModelLoadRequest, call: Call
    ) -> pb.RepositoryModelLoadResponse:
        """Loads every version of a bundle that lies in the folders."""
        check_repository(request.repository_name)
        _check_repository_parameters(request.parameters, known=())
        await self._models.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def repository_model_unload(
        self, request: pb.RepositoryModelUnloadRequest, call: Call
    ) -> pb.RepositoryModelUnloadResponse:
        """Takes every version of a bundle out of service."""
        check_repository(request.repository_name)
        _check_repository_parameters(request.parameters, known=("unload_dependents",))
        await self._models.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()


def _check_repository_parameters(given: Mapping[str, object], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise UnknownParameter(
                f"parameter '{name[:128]}' is unknown: a bundle is loaded as it lies in the service's folders",
                field="parameters",
                value=name,
            )
