"""ModelService of the gateway: one answer for all instances. GetModel is not among it: an instance answers that."""

from typing import Any, ClassVar, cast

from google.protobuf.descriptor import ServiceDescriptor

from gateway.addressing import MODEL_SERVICE
from gateway.catalog import Catalog
from services.kit.call import Call
from services.kit.model_name import bundle_name
from trivium.common.v1 import model_pb2
from trivium.models.v1 import models_pb2


class ModelServicer:
    """trivium.models.v1.ModelService over a catalog."""

    service: ClassVar[ServiceDescriptor] = cast(Any, models_pb2.DESCRIPTOR).services_by_name["ModelService"]

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def list_models(self, request: models_pb2.ListModelsRequest, call: Call) -> models_pb2.ListModelsResponse:
        """All models of all instances."""
        return models_pb2.ListModelsResponse(models=self._catalog.models(request.model))

    async def load_model(self, request: models_pb2.LoadModelRequest, call: Call) -> models_pb2.LoadModelResponse:
        """Loads a bundle on every instance of its service."""
        name = bundle_name(request.model)
        await self._catalog.everywhere(f"{MODEL_SERVICE}LoadModel", request.SerializeToString(), name, call)
        ready = [model for model in self._catalog.models(name) if model.state == model_pb2.MODEL_STATE_READY]
        return models_pb2.LoadModelResponse(models=ready)

    async def unload_model(self, request: models_pb2.UnloadModelRequest, call: Call) -> models_pb2.UnloadModelResponse:
        """Takes a bundle out of service on every instance of its service."""
        name = bundle_name(request.model)
        await self._catalog.everywhere(
            f"{MODEL_SERVICE}UnloadModel", request.SerializeToString(), name, call, unload=True
        )
        return models_pb2.UnloadModelResponse()
