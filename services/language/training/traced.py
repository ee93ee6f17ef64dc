"""Tracing: from a torch module to a graph whose sizes are free."""

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from services.kit.training.export import _quiet
from services.language.training.nodes import OPSET


def exported(
    graph: nn.Module, example: tuple[Any, ...], inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """A traced graph, its sizes free where `_free` says so."""
    with _quiet():
        program = torch.onnx.export(
            graph,
            example,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple(map(_free, example)),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def integers(*shape: int) -> Tensor:
    """An example of some."""
    return torch.ones(shape, dtype=torch.int64)


def _free(example: Tensor | list[Tensor]) -> Any:
    """Which sizes of an example may be any; those of heads and their numbers may not, nor those of pairs and shapes."""
    if isinstance(example, list):
        return [_free(tensor) for tensor in example]
    if example.shape == (4,) and example.dtype == torch.int64:
        return {}
    auto = torch.export.Dim.AUTO
    return {0: auto, 2: auto} if example.ndim == 4 else {0: auto, 1: auto} if example.shape[1:] == (3,) else {0: auto}
