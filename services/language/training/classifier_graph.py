"""The graph of a classifier of texts, with free numbers of texts and of features."""

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from services.kit.training.export import OPSET
from services.language.training.classifier import TextClassifier

IR_VERSION = 10


def to_onnx(network: TextClassifier, features: str) -> bytes:
    """The network as an ONNX file: logits FP32 [B, classes] and embedding FP32 [B, width] of INT64 [B, L].

    The table is int8 in it; sums of its whole numbers are exact in whatever order they are made.

    Args:
        network: with a table of whole numbers.
        features: name of the input.
    """
    weight = network.classes.weight
    constants = {
        "table": network.table.weight.to(torch.int8),
        "scale": network.scale,
        "classes.weight": weight,
        "classes.bias": network.classes.bias,
    }
    nodes = [
        helper.make_node("Gather", ["table", features], ["bytes"]),
        helper.make_node("Cast", ["bytes"], ["vectors"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["vectors", "of_a_text"], ["whole"], keepdims=0),
        helper.make_node("Mul", ["whole", "scale"], ["total"]),
        helper.make_node("Cast", [features], ["present"], to=TensorProto.BOOL),
        helper.make_node("Cast", ["present"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["ones", "of_a_text"], ["found"], keepdims=1),
        helper.make_node("Max", ["found", "one"], ["count"]),  # a text without features has the embedding 0
        helper.make_node("Div", ["total", "count"], ["embedding"]),
        helper.make_node("Gemm", ["embedding", "classes.weight", "classes.bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "text_classifier",
        [helper.make_tensor_value_info(features, TensorProto.INT64, ["batch", "features"])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", weight.shape[0]]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", weight.shape[1]]),
        ],
        [
            *(_constant(name, value) for name, value in constants.items()),
            helper.make_tensor("of_a_text", TensorProto.INT64, [1], [1]),
            helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        ],
    )
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def _constant(name: str, value: Tensor) -> TensorProto:
    return numpy_helper.from_array(value.detach().numpy(), name)
