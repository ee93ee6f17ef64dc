"""What becomes of an exported graph before it is a file: its sizes get names, and its weights half the bytes."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from services.kit.inference.bundle import Array
from services.kit.training.export import _without_traces

SMALLEST = 256  # numbers of a weight that is worth a node of its own
# The names of dimensions, by the beginning of the input's or output's name; the first one that fits.
SIZES: dict[str, tuple[str, ...]] = {
    "token_ids": ("batch", "time"),
    "start": ("batch",),
    "steps": ("time",),
    "places": ("memory",),
    "source_length": ("batch",),
    "source": ("batch", "source"),
    "cross": ("batch", "heads", "source"),
    "past": ("batch", "heads", "memory"),
    "present": ("batch", "heads", "memory"),
    "adjust": ("adjusted",),
    "ranks": ("candidates",),
    "top_": ("rows", "candidates"),
    "": ("rows",),
}


def finished(model: onnx.ModelProto, *, half: bool) -> bytes:
    """The file.

    Args:
        half: whether float32 weights are stored as float16 where that loses nothing.
    """
    for value in (*model.graph.input, *model.graph.output):
        _name_sizes(value)
    if half:
        _store_half(model.graph)
    return _without_traces(model).SerializeToString()


def _name_sizes(value: onnx.ValueInfoProto) -> None:
    names = next(names for beginning, names in SIZES.items() if value.name.startswith(beginning))
    for size, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
        if not size.HasField("dim_value"):
            size.dim_param = name


def _store_half(graph: onnx.GraphProto) -> None:
    casts = []
    for weight in graph.initializer:
        half = _half(numpy_helper.to_array(weight))
        if half is not None:
            name, stored = weight.name, f"{weight.name}.half"
            weight.CopyFrom(numpy_helper.from_array(half, stored))
            casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _half(weight: Array) -> Array | None:
    """The same numbers as float16; None where they are few, of another type, or not the same."""
    if weight.dtype != np.float32 or weight.size < SMALLEST or np.abs(weight).max() > np.finfo(np.float16).max:
        return None
    half: Array = weight.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), weight) else None
