"""From a torch network to the bytes of an ONNX file, and the proof that both compute the same."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from services.kit.inference.bundle import Array
from services.kit.inference.datatypes import OF_ONNX
from services.kit.inference.manifest import TensorSpec

OPSET = 21
TOLERANCE = 1e-4  # of outputs, absolute and relative


class ParityError(Exception):
    """The exported graph computes something else than the network it came from."""


def to_onnx(network: nn.Module, example: Mapping[str, torch.Tensor], outputs: Sequence[str]) -> bytes:
    """The network as an ONNX file whose dimension 0 is free, in every input and output.

    Args:
        network: in evaluation mode; forward takes the example's values in order and gives the outputs in order.
        example: by input name, at least 2 rows each.
    """
    batch = torch.export.Dim.DYNAMIC
    with _quiet():
        program = torch.onnx.export(
            network.eval(),
            tuple(example.values()),
            input_names=list(example),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: batch} for _ in example),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return _without_traces(program.model_proto).SerializeToString()


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without stack traces: they hold paths of the machine that exported it."""
    parts: tuple[Any, ...] = (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
    )
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def session(model: bytes, threads: int = 1) -> ort.InferenceSession:
    """A session on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def interface(model: bytes) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of the graph, as a manifest says them."""
    loaded = session(model)
    inputs, outputs = (
        tuple(
            TensorSpec(
                node.name, OF_ONNX[node.type], tuple(size if isinstance(size, int) else -1 for size in node.shape)
            )
            for node in nodes
        )
        for nodes in (loaded.get_inputs(), loaded.get_outputs())
    )
    return inputs, outputs


def check_parity(
    network: nn.Module, model: bytes, inputs: Mapping[str, Array], outputs: Sequence[str], batches: Sequence[int]
) -> float:
    """Runs both on the first rows of `inputs`, for every number of rows in `batches`; the largest difference.

    Raises:
        ParityError: it is more than TOLERANCE somewhere.
    """
    loaded, largest = session(model), 0.0
    for rows in batches:
        part = {name: array[:rows] for name, array in inputs.items()}
        with torch.no_grad():
            expected = network.eval()(*map(torch.from_numpy, part.values()))
        for name, wanted, got in zip(outputs, expected, loaded.run(list(outputs), part), strict=True):
            largest = max(largest, float(np.abs(got - wanted.numpy()).max()))
            if got.shape != wanted.shape or not np.allclose(got, wanted.numpy(), rtol=TOLERANCE, atol=TOLERANCE):
                raise ParityError(f"output {name!r} with {rows} rows differs by up to {largest:.2g}")
    return largest


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own progress and its advice, which nobody here can follow."""
    level, logger = logging.getLogger("torch.onnx").level, logging.getLogger("torch.onnx")
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
