"""ModelServicer: trivium.models.v1.ModelService for one instance."""

import dataclasses
import json
from typing import Any, ClassVar

from google.protobuf.descriptor import ServiceDescriptor

from services.kit.call import Call
from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Bundle, Manifest
from services.kit.inference.manifest import TensorSpec
from services.kit.inference.models import Model, Models
from trivium.common.v1 import model_pb2
from trivium.models.v1 import models_pb2

READY, UNLOADED = model_pb2.MODEL_STATE_READY, model_pb2.MODEL_STATE_UNLOADED
FAILED = model_pb2.MODEL_STATE_FAILED


class ModelServicer:
    """Lists, describes, loads and unloads the bundles of one instance."""

    service: ClassVar[ServiceDescriptor] = models_pb2.DESCRIPTOR.services_by_name["ModelService"]

    def __init__(self, models: Models[Any]) -> None:
        self._models = models

    async def list_models(self, request: models_pb2.ListModelsRequest, call: Call) -> models_pb2.ListModelsResponse:
        """Every known version, loaded or not, sorted by name and version."""
        found = [self._ready(model) for model in self._models.ready()]
        for bundle in self._models.unloaded():
            found.append(self._info(bundle, UNLOADED if self._models.taken_out(bundle.name) else FAILED))
        found = [info for info in found if request.model in ("", info.name)]
        return models_pb2.ListModelsResponse(models=sorted(found, key=lambda info: (info.name, info.version)))

    async def get_model(self, request: models_pb2.GetModelRequest, call: Call) -> models_pb2.GetModelResponse:
        """One ready version with its card."""
        model = self._models.find(request.model)
        info = self._ready(model)
        info.card_json = card_json(model.manifest)
        return models_pb2.GetModelResponse(model=info)

    async def load_model(self, request: models_pb2.LoadModelRequest, call: Call) -> models_pb2.LoadModelResponse:
        """Loads every version of a bundle that lies in the folders."""
        loaded = await self._models.load(request.model)
        return models_pb2.LoadModelResponse(models=map(self._ready, loaded))

    async def unload_model(self, request: models_pb2.UnloadModelRequest, call: Call) -> models_pb2.UnloadModelResponse:
        """Takes every version of a bundle out of service."""
        await self._models.unload(request.model)
        return models_pb2.UnloadModelResponse()

    def _ready(self, model: Model[Any]) -> model_pb2.ModelInfo:
        info = self._info(model.bundle, READY)
        info.answers_digest = model.answers
        return info

    def _info(self, bundle: Bundle, state: model_pb2.ModelState.ValueType) -> model_pb2.ModelInfo:
        manifest, labels = bundle.manifest, self._models.labels(bundle.name)
        recurrence = manifest.recurrence
        return model_pb2.ModelInfo(
            name=bundle.name,
            version=bundle.version,
            service=manifest.service,
            task=manifest.task,
            state=state,
            inputs=map(_tensor, manifest.inputs),
            outputs=map(_tensor, manifest.outputs),
            labels=sorted(label for label, version in labels.items() if version == bundle.version),
            classes=manifest.classes,
            max_batch_size=min(manifest.max_batch, self._models.batcher_settings.max_batch),
            is_default=self._models.is_default(bundle),
            digest=bundles.digest(bundle),
            description=manifest.description,
            stateful=manifest.stateful,
            max_horizon=recurrence.horizon if recurrence is not None else 0,
            max_steps=recurrence.max_steps if recurrence is not None else 0,
            max_tokens=manifest.generation.max_tokens if manifest.generation is not None else 0,
        )


def card_json(manifest: Manifest) -> str:
    """The model card: training data, held-out metrics and limits."""
    card = {
        "training": None if manifest.training is None else dataclasses.asdict(manifest.training),
        "metrics": None if manifest.metrics is None else dataclasses.asdict(manifest.metrics),
        "limits": manifest.limits,
    }
    return json.dumps(card, ensure_ascii=False)


def _tensor(spec: TensorSpec) -> model_pb2.TensorInfo:
    return model_pb2.TensorInfo(name=spec.name, datatype=spec.datatype, shape=spec.shape)
