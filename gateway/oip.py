"""The Open Inference Protocol of the gateway, as far as one answer speaks for all instances.

ModelMetadata, ModelConfig and ModelInfer are not among it: an instance that has the model answers those.
ModelStreamInfer is in stream_infer.py.
"""

from typing import Any, ClassVar, cast

from google.protobuf.descriptor import ServiceDescriptor

from gateway import versions
from gateway.addressing import OIP
from gateway.catalog import Catalog
from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.errors import ModelNotFound
from services.kit.model_name import bundle_name
from services.kit.open_inference import EXTENSIONS, check_repository
from services.kit.telemetry import version
from trivium.common.v1 import model_pb2


class OipServicer:
    """inference.GRPCInferenceService over a catalog."""

    service: ClassVar[ServiceDescriptor] = cast(Any, oip.DESCRIPTOR).services_by_name["GRPCInferenceService"]

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def server_live(self, request: oip.ServerLiveRequest, call: Call) -> oip.ServerLiveResponse:
        """It answers, so it lives."""
        return oip.ServerLiveResponse(live=True)

    async def server_ready(self, request: oip.ServerReadyRequest, call: Call) -> oip.ServerReadyResponse:
        """Ready while an instance is."""
        return oip.ServerReadyResponse(ready=self._catalog.ready())

    async def server_metadata(self, request: oip.ServerMetadataRequest, call: Call) -> oip.ServerMetadataResponse:
        """Who answers."""
        return oip.ServerMetadataResponse(name="trivium", version=version(), extensions=EXTENSIONS)

    async def model_ready(self, request: oip.ModelReadyRequest, call: Call) -> oip.ModelReadyResponse:
        """Whether any instance has it ready."""
        wanted = versions.parse(request.name, request.version)
        return oip.ModelReadyResponse(ready=self._catalog.model_ready(wanted.name, wanted.version))

    async def model_statistics(self, request: oip.ModelStatisticsRequest, call: Call) -> oip.ModelStatisticsResponse:
        """Counters summed over all instances that there ever were."""
        wanted = versions.parse(request.name, request.version)
        sums = await self._catalog.statistics()
        number = "" if wanted.version is None else str(wanted.version)
        found = [s for (name, has), s in sums.items() if wanted.name in ("", name) and number in ("", has)]
        if not found and wanted.name:
            known = any(name == wanted.name for name, _ in sums)
            what = f"requested model version is not available for model '{wanted.name}'"
            message = what if known else f"requested model '{wanted.name}' is not available"
            raise ModelNotFound(message, model=wanted.name, version=number)
        return oip.ModelStatisticsResponse(model_stats=found)

    async def repository_index(self, request: oip.RepositoryIndexRequest, call: Call) -> oip.RepositoryIndexResponse:
        """Every version of every model."""
        check_repository(request.repository_name)
        response = oip.RepositoryIndexResponse()
        for model in self._catalog.models():
            ready, failed = model.state == model_pb2.MODEL_STATE_READY, model.state == model_pb2.MODEL_STATE_FAILED
            if ready or not request.ready:
                state, reason = ("READY", "") if ready else ("UNAVAILABLE", "failed" if failed else "unloaded")
                response.models.add(name=model.name, version=str(model.version), state=state, reason=reason)
        return response

    async def repository_model_load(
        self, request: oip.RepositoryModelLoadRequest, call: Call
    ) -> oip.RepositoryModelLoadResponse:
        """Loads a bundle on every instance of its service."""
        check_repository(request.repository_name)
        name = bundle_name(request.model_name, "model_name")
        await self._catalog.everywhere(f"{OIP}RepositoryModelLoad", request.SerializeToString(), name, call)
        return oip.RepositoryModelLoadResponse()

    async def repository_model_unload(
        self, request: oip.RepositoryModelUnloadRequest, call: Call
    ) -> oip.RepositoryModelUnloadResponse:
        """Takes a bundle out of service on every instance of its service."""
        check_repository(request.repository_name)
        name = bundle_name(request.model_name, "model_name")
        await self._catalog.everywhere(
            f"{OIP}RepositoryModelUnload", request.SerializeToString(), name, call, unload=True
        )
        return oip.RepositoryModelUnloadResponse()
