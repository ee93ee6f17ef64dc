"""Responses: a model's arrays as the protocol's outputs, whole or as the best classes."""

from collections.abc import Sequence

import numpy as np

from inference import grpc_service_pb2 as pb
from services.kit.errors import InvalidField
from services.kit.inference import tensors
from services.kit.inference.bundle import Array, Manifest
from services.kit.inference.job import Output
from services.kit.inference.model import Model
from services.kit.inference.oip import parameters


def requested(request: pb.ModelInferRequest, manifest: Manifest) -> dict[str, int | None]:
    """The outputs to return, in the model's order, and how many classes of each; None: the whole tensor.

    Raises:
        InvalidField: an output that the model does not have, or one without classes asked for them.
    """
    by_name: dict[str, int | None] = {}
    known = {spec.name: spec for spec in manifest.outputs}
    for output in request.outputs:
        if output.name not in known:
            raise InvalidField(
                f"unexpected inference output '{output.name[:128]}' for model '{request.model_name}'",
                field="outputs",
                value=output.name,
                limit=",".join(known),
            )
        count = parameters.classes(output)
        if count is not None and (known[output.name].datatype in ("BYTES", "BOOL") or manifest.decoupled):
            raise InvalidField(
                f"output '{output.name}' of model '{request.model_name}' has no classes",
                field=f"outputs[{output.name}].parameters.classification",
                value=known[output.name].datatype,
            )
        by_name[output.name] = count
    return {name: by_name.get(name) for name in known if not by_name or name in by_name}


def response(
    request: pb.ModelInferRequest, model: Model[object], output: Output, wanted: dict[str, int | None]
) -> pb.ModelInferResponse:
    """The answer with the outputs that `requested` named."""
    answer = pb.ModelInferResponse(model_name=model.name, model_version=str(model.version), id=request.id)
    datatypes = {spec.name: spec.datatype for spec in model.manifest.outputs}
    for name, count in wanted.items():
        array, datatype = output.arrays[name], datatypes[name]
        if count is not None:
            array, datatype = ranked(array, count, labels(model.manifest, name), batched=model.max_batch > 0), "BYTES"
        answer.outputs.add(name=name, datatype=datatype, shape=array.shape)
        answer.raw_output_contents.append(tensors.encode(array, datatype))
    return answer


def labels(manifest: Manifest, output: str) -> Sequence[str]:
    """Names of the classes by index, if `output` holds their scores."""
    steps = manifest.postprocessing
    return manifest.classes if steps is not None and steps.scores == output else ()


def ranked(scores: Array, count: int, labels: Sequence[str], *, batched: bool) -> Array:
    """The best classes as texts "score:index:label", like Triton's classification extension.

    Args:
        scores: numbers [batch, ...], or [...] where `batched` is false; everything behind the batch is classes.
        labels: by index; an empty one leaves ":label" out.

    Returns:
        object [batch, min(count, classes)], or without the batch.
    """
    rows = scores.reshape(len(scores) if batched else 1, -1)
    as_text = "{:f}" if scores.dtype.kind == "f" else "{:d}"
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    texts = np.empty(best.shape, np.object_)
    for (row, rank), found in np.ndenumerate(best):
        index = int(found)
        label = f":{labels[index]}" if index < len(labels) else ""
        texts[row, rank] = f"{as_text.format(rows[row, index])}:{index}{label}"
    return texts if batched else texts[0]
