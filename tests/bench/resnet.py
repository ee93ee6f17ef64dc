"""A network shaped like ResNet-18, with random weights: a run long enough that the transport should not matter.

Pixels go in as they are and are normalised in the graph; batch normalisation is folded into the convolutions, as an
exported network has it. Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, table 1.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Array, Bundle
from services.kit.inference.manifest import ImagePreprocessing, Manifest, Postprocessing, TensorSpec

NAME = "bench-resnet18"
SIZE, CLASSES, MAX_BATCH = 224, 1000, 32
IR_VERSION, OPSET = 10, 21
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels and the stride of a stage's first block
SHARPNESS = 3.0  # standard deviation of the logits: the best class of an image stands out and can be checked


def write(folder: Path, images: Array) -> Bundle:
    """Writes the bundle `folder`/bench-resnet18/1, 45 MB.

    Args:
        images: uint8 [count, 224, 224, 3]. Random weights find all pictures much alike; the last layer looks at what
            tells these apart.
    """
    graph = _Graph(np.random.default_rng(18))
    vector = graph.features("image")
    graph.classify(vector, _run(graph.model(vector, [512]), vector, images))
    model = graph.model("logits", [CLASSES])
    example, logits = images[:2], _run(model, "logits", images[:2])
    return bundles.write(
        folder, NAME, 1, model=model, manifest=_manifest(), inputs={"image": example}, outputs={"logits": logits}
    )


def _run(model: bytes, output: str, images: Array) -> Array:
    result: Array = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run([output], {"image": images})[0]
    return result


def _manifest() -> Manifest:
    return Manifest(
        format=1,
        service="vision",
        task="image-classification",
        description="ResNet-18 with random weights, for measuring.",
        inputs=(TensorSpec("image", "UINT8", (-1, SIZE, SIZE, 3)),),
        outputs=(TensorSpec("logits", "FP32", (-1, CLASSES)),),
        max_batch=MAX_BATCH,
        opset=OPSET,
        files={},
        classes=tuple(f"class-{index}" for index in range(CLASSES)),
        preprocessing=ImagePreprocessing("image", SIZE, SIZE, channels="rgb", layout="NHWC", datatype="UINT8"),
        postprocessing=Postprocessing("logits", softmax=True),
    )


class _Graph:
    """Collects nodes and weights."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def features(self, image: str) -> str:
        """Adds everything up to the pooled features, float32 [batch, 512]."""
        features = self._pool(self._relu(self._convolution(self._normalised(image), 3, 64, 7, 2)))
        channels_in = 64
        for channels, stride in STAGES:
            features = self._block(features, channels_in, channels, stride)
            features = self._block(features, channels, channels, 1)
            channels_in = channels
        return self._node("Flatten", self._node("GlobalAveragePool", features))

    def classify(self, vector: str, examples: Array) -> None:
        """Adds the last layer, with the output "logits"; it takes the mean of the examples [count, 512] off."""
        mean = examples.mean(axis=0)
        length = np.linalg.norm(examples - mean, axis=1).mean()
        weights = self._random.normal(0, SHARPNESS / length, (len(mean), CLASSES)).astype(np.float32)
        centred = self._node("Sub", vector, self._constant(mean))
        self._nodes.append(helper.make_node("MatMul", [centred, self._constant(weights)], ["logits"]))

    def model(self, output: str, shape: list[int]) -> bytes:
        """The ONNX file of what has been added so far."""
        graph = helper.make_graph(
            self._nodes,
            NAME,
            [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", SIZE, SIZE, 3])],
            [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["batch", *shape])],
            initializer=self._weights,
        )
        opset = [helper.make_opsetid("", OPSET)]
        return bytes(helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opset).SerializeToString())

    def _normalised(self, image: str) -> str:
        floats = self._node("Cast", self._node("Transpose", image, perm=[0, 3, 1, 2]), to=onnx.TensorProto.FLOAT)
        mean = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1)
        std = np.array([0.229, 0.224, 0.225], np.float32).reshape(1, 3, 1, 1)
        scaled = self._node("Mul", floats, self._constant(1 / (255 * std)))
        return self._node("Add", scaled, self._constant(-mean / std))

    def _block(self, features: str, channels_in: int, channels: int, stride: int) -> str:
        inner = self._relu(self._convolution(features, channels_in, channels, 3, stride))
        inner = self._convolution(inner, channels, channels, 3, 1, gain=0.5)
        if stride != 1 or channels_in != channels:
            features = self._convolution(features, channels_in, channels, 1, stride, gain=1.0)
        return self._relu(self._node("Add", inner, features))

    def _convolution(
        self, features: str, channels_in: int, channels: int, size: int, stride: int, gain: float = 2.0
    ) -> str:
        deviation = np.sqrt(gain / (channels_in * size * size))
        weights = self._random.normal(0, deviation, (channels, channels_in, size, size)).astype(np.float32)
        bias = self._constant(np.zeros(channels, np.float32))
        pads, strides = [size // 2] * 4, [stride] * 2
        return self._node("Conv", features, self._constant(weights), bias, pads=pads, strides=strides)

    def _relu(self, features: str) -> str:
        return self._node("Relu", features)

    def _pool(self, features: str) -> str:
        return self._node("MaxPool", features, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)

    def _node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def _constant(self, array: Array) -> str:
        name = f"weights_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name
