"""One graph of several: what comes behind another one, always or where somebody wants it."""

import onnx
from onnx import TensorProto, compose, helper

from services.kit.training.export import _without_traces


def with_branches(
    model: onnx.ModelProto, given: str, condition: str, then: onnx.ModelProto, otherwise: onnx.ModelProto
) -> onnx.ModelProto:
    """The model with an `If` behind its output `given`, which is no output any more.

    Args:
        given: what both branches take besides inputs of their own, which become inputs of the whole.
        condition: the name of a new input, bool [1]: whether `then` is run.
        then, otherwise: with the same outputs, which come before those of the model; the inputs of `then` are among
            those of `otherwise`.
    """
    branches = {name: _branch(part, name) for name, part in (("then", then), ("else", otherwise))}
    outputs = list(otherwise.graph.output)
    node = helper.make_node("If", [condition], [output.name for output in outputs])
    node.attribute.extend(helper.make_attribute(f"{name}_branch", branch) for name, branch in branches.items())
    graph, whole = model.graph, onnx.ModelProto()
    own = [value for value in otherwise.graph.input if value.name != given]
    whole.CopyFrom(model)
    del whole.graph.input[:], whole.graph.output[:]
    whole.graph.input.extend(
        [*graph.input, helper.make_tensor_value_info(condition, TensorProto.BOOL, [1]), *own],
    )
    whole.graph.output.extend([*outputs, *(value for value in graph.output if value.name != given)])
    whole.graph.node.append(node)
    return whole


def joined(model: onnx.ModelProto, given: str, behind: onnx.ModelProto) -> onnx.ModelProto:
    """The model with another one behind its output `given`, which is no output any more.

    Args:
        given: what `behind` takes besides inputs of its own, which become inputs of the whole; its outputs come first.
    """
    part = compose.add_prefix(_without_traces(behind), "behind.", rename_inputs=False, rename_outputs=False).graph
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    del whole.graph.output[:]
    whole.graph.input.extend(value for value in part.input if value.name != given)
    whole.graph.output.extend([*part.output, *(value for value in model.graph.output if value.name != given)])
    whole.graph.initializer.extend(part.initializer)
    whole.graph.node.extend(part.node)
    return whole


def _branch(model: onnx.ModelProto, name: str) -> onnx.GraphProto:
    """A graph that sees the names around it, so that it takes none; its own names are others."""
    graph = compose.add_prefix(_without_traces(model), f"{name}.", rename_inputs=False).graph
    del graph.input[:]
    graph.name = name
    return graph
