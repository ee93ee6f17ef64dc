"""Tiny bundles for tests, built with the onnx package: each function writes FOLDER/NAME/VERSION and returns it.

| function | input | output |
|---|---|---|
| identity | x: any datatype [-1, width] | y: x |
| add | a, b: INT32 or another number [-1, width] | sum, difference |
| fixed | x: FP32 [2, 3], no batch dimension | y: x * 2 |
| slow | x: FP32 [-1, 1] | y: x, after `rounds` + max(x) matrix products |
| picky | x: INT64 [-1, 1] | y: FP32 x * 10; the run fails for an x outside [-10, 9] |
| colours | image: UINT8 [-1, 8, 8, 3] | logits [-1, 3], embedding [-1, 3]: red, green or blue, whichever is brightest |
| scripts | text_input: BYTES [-1, 1] | logits [-1, 3], embedding [-1, 3]: the script that most letters are of |
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Array, Bundle
from services.kit.inference.datatypes import NUMPY
from services.kit.inference.manifest import ImagePreprocessing, Manifest, NgramFeatures, Postprocessing, TensorSpec
from services.language.features import Ngrams

IR_VERSION, OPSET = 10, 21
COLOURS = ("red", "green", "blue")
SCRIPTS = {"latin": "abcdefghijklmnopqrstuvwxyz", "greek": "αβγδεζηθικλμνξοπρστυφχψω", "han": "三百二十一的是天地人"}


def identity(
    folder: Path,
    name: str = "identity",
    version: int = 1,
    *,
    datatype: str = "FP32",
    width: int = 4,
    max_batch: int = 16,
    service: str = "vision",
) -> Bundle:
    """y is x, of any datatype; width -1 leaves dimension 1 free."""
    specs = (TensorSpec("x", datatype, (-1, width)),), (TensorSpec("y", datatype, (-1, width)),)
    values = np.arange(2 * max(width, 3)).reshape(2, -1)
    example = values.astype(str).astype(object) if datatype == "BYTES" else values.astype(NUMPY[datatype])
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return _write(folder, name, version, service, nodes, specs, {"x": example}, max_batch=max_batch)


def add(
    folder: Path,
    name: str = "add",
    version: int = 1,
    *,
    datatype: str = "INT32",
    width: int = 16,
    max_batch: int = 8,
    service: str = "vision",
) -> Bundle:
    """sum is a + b and difference is a - b, of any datatype of numbers."""
    inputs = (TensorSpec("a", datatype, (-1, width)), TensorSpec("b", datatype, (-1, width)))
    outputs = (TensorSpec("sum", datatype, (-1, width)), TensorSpec("difference", datatype, (-1, width)))
    wide = onnx.TensorProto.DOUBLE if datatype.startswith("FP") else onnx.TensorProto.INT64
    nodes = [helper.make_node("Cast", [x], [f"wide_{x}"], to=wide) for x in ("a", "b")]
    for operator, output in (("Add", "sum"), ("Sub", "difference")):
        nodes.append(helper.make_node(operator, ["wide_a", "wide_b"], [f"wide_{output}"]))
        nodes.append(helper.make_node("Cast", [f"wide_{output}"], [output], to=_onnx_type(datatype)))
    a = np.arange(2 * width).reshape(2, width).astype(NUMPY[datatype])
    example = {"a": a, "b": np.ones_like(a)}
    return _write(folder, name, version, service, nodes, (inputs, outputs), example, max_batch=max_batch)


def fixed(folder: Path, name: str = "fixed", version: int = 1, *, service: str = "vision") -> Bundle:
    """y is x * 2 for one shape only: dimension 0 is no batch dimension."""
    specs = (TensorSpec("x", "FP32", (2, 3)),), (TensorSpec("y", "FP32", (2, 3)),)
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    example = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    return _write(folder, name, version, service, nodes, specs, example, max_batch=0)


def slow(
    folder: Path,
    name: str = "slow",
    version: int = 1,
    *,
    rounds: int = 0,
    max_batch: int = 4,
    service: str = "vision",
) -> Bundle:
    """y is x, late: a run costs `rounds` plus the largest x of the batch, each one product of 256x256 matrices.

    A round takes about 0.3 ms of one core. The warm-up feeds zeros, so that x tunes a run that nobody foresaw.
    """
    specs = (TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)),)
    size = 256
    square = np.full((size, size), 1 / size, np.float32)
    constants: dict[str, Array] = {
        "rounds": np.array(rounds, np.int64),
        "square": square,
        "true": np.array(True),
        "zero": np.array(0, np.float32),
    }
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["go_on"]),
            helper.make_node("MatMul", ["state", "state"], ["next"]),
        ],
        "round",
        [_value("round_index", "INT64", ()), _value("condition", "BOOL", ()), _value("state", "FP32", (size, size))],
        [_value("go_on", "BOOL", ()), _value("next", "FP32", (size, size))],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["extra"], to=onnx.TensorProto.INT64),
        helper.make_node("Add", ["rounds", "extra"], ["trips"]),
        helper.make_node("Loop", ["trips", "true", "square"], ["last"], body=body),
        helper.make_node("ReduceMax", ["last"], ["one_number"], keepdims=0),
        helper.make_node("Mul", ["one_number", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    example = {"x": np.array([[1.0], [0.0]], np.float32)}
    return _write(folder, name, version, service, nodes, specs, example, max_batch=max_batch, constants=constants)


def picky(
    folder: Path, name: str = "picky", version: int = 1, *, max_batch: int = 16, service: str = "vision"
) -> Bundle:
    """y is x * 10 from a table of ten; an x outside [-10, 9] makes the whole run fail."""
    specs = (TensorSpec("x", "INT64", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)),)
    constants = {"table": np.arange(0, 100, 10, dtype=np.float32)}
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    example = {"x": np.array([[3], [7]], np.int64)}
    return _write(folder, name, version, service, nodes, specs, example, max_batch=max_batch, constants=constants)


def colours(
    folder: Path, name: str = "colours", version: int = 1, *, max_batch: int = 16, service: str = "vision"
) -> Bundle:
    """An image classifier: the class is the channel with the highest mean, the embedding the three means in [0, 1]."""
    inputs = (TensorSpec("image", "UINT8", (-1, 8, 8, 3)),)
    outputs = (TensorSpec("logits", "FP32", (-1, 3)), TensorSpec("embedding", "FP32", (-1, 3)))
    constants: dict[str, Array] = {
        "unit": np.array(1 / 255, np.float32),
        "sharpness": np.array(20, np.float32),
        "height_and_width": np.array([1, 2], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "height_and_width"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "unit"], ["embedding"]),
        helper.make_node("Mul", ["embedding", "sharpness"], ["logits"]),
    ]
    example = np.zeros((3, 8, 8, 3), np.uint8)
    example[range(3), :, :, range(3)] = 200
    preprocessing = ImagePreprocessing("image", width=8, height=8, channels="rgb", layout="NHWC", datatype="UINT8")
    manifest = Manifest(
        format=1,
        service=service,
        task="image-classification",
        description="Tells which of red, green and blue is brightest.",
        inputs=inputs,
        outputs=outputs,
        max_batch=max_batch,
        opset=OPSET,
        files={},
        classes=COLOURS,
        preprocessing=preprocessing,
        postprocessing=Postprocessing("logits", softmax=True, embedding="embedding"),
    )
    return _write_as(folder, name, version, manifest, nodes, {"image": example}, constants)


def scripts(folder: Path, name: str = "scripts", version: int = 1) -> Bundle:
    """A classifier of texts: the embedding is which part of the letters belongs to each script."""
    features = NgramFeatures(buckets=1 << 16, smallest=1, largest=1, max_characters=300)
    ngrams = Ngrams(features)
    table = np.zeros((features.buckets + 1, len(SCRIPTS)), np.float32)
    for index, letters in enumerate(SCRIPTS.values()):
        table[[number for number in ngrams.ids(letters) if number], index] = 1
    constants: dict[str, Array] = {
        "table": table,
        "zero": np.array(0, np.int64),
        "along": np.array([1], np.int64),
        "sharpness": np.array(20, np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "features"], ["found"]),
        helper.make_node("ReduceSum", ["found", "along"], ["sums"], keepdims=0),
        helper.make_node("Greater", ["features", "zero"], ["there"]),
        helper.make_node("Cast", ["there"], ["ones"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["ones", "along"], ["letters"]),
        helper.make_node("Div", ["sums", "letters"], ["embedding"]),
        helper.make_node("Mul", ["embedding", "sharpness"], ["logits"]),
    ]
    manifest = Manifest(
        format=1,
        service="language",
        task="text-classification",
        description="Tells which script a text is written in.",
        inputs=(TensorSpec("text_input", "BYTES", (-1, 1)),),
        outputs=(TensorSpec("logits", "FP32", (-1, 3)), TensorSpec("embedding", "FP32", (-1, 3))),
        max_batch=64,
        opset=OPSET,
        files={},
        classes=tuple(SCRIPTS),
        postprocessing=Postprocessing("logits", softmax=True, embedding="embedding"),
        features=features,
    )
    example = np.stack([ngrams.ids(text) for text in ("some text", "三百二十一")])
    graph_inputs = (TensorSpec(features.input, "INT64", (-1, -1)),)
    return _write_as(folder, name, version, manifest, nodes, {features.input: example}, constants, graph_inputs)


def _write(
    folder: Path,
    name: str,
    version: int,
    service: str,
    nodes: Sequence[onnx.NodeProto],
    specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
    example: Mapping[str, Array],
    *,
    max_batch: int,
    constants: Mapping[str, Array] | None = None,
) -> Bundle:
    manifest = Manifest(
        format=1,
        service=service,
        task="tensors",
        description=f"The test model {name}.",
        inputs=specs[0],
        outputs=specs[1],
        max_batch=max_batch,
        opset=OPSET,
        files={},
    )
    return _write_as(folder, name, version, manifest, nodes, example, constants or {})


def _write_as(
    folder: Path,
    name: str,
    version: int,
    manifest: Manifest,
    nodes: Sequence[onnx.NodeProto],
    example: Mapping[str, Array],
    constants: Mapping[str, Array],
    graph_inputs: Sequence[TensorSpec] = (),
) -> Bundle:
    graph = helper.make_graph(
        nodes,
        name,
        [_value(spec.name, spec.datatype, spec.shape) for spec in graph_inputs or manifest.inputs],
        [_value(spec.name, spec.datatype, spec.shape) for spec in manifest.outputs],
        initializer=[numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opset).SerializeToString()
    names = [spec.name for spec in manifest.outputs]
    results = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(names, dict(example))
    outputs = dict(zip(names, results, strict=True))
    return bundles.write(folder, name, version, model=model, manifest=manifest, inputs=example, outputs=outputs)


def _value(name: str, datatype: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
    dims = [
        f"{name}_{axis}" if size == -1 and axis else "batch" if size == -1 else size for axis, size in enumerate(shape)
    ]
    return helper.make_tensor_value_info(name, _onnx_type(datatype), dims)


def _onnx_type(datatype: str) -> int:
    if datatype == "BYTES":
        return int(onnx.TensorProto.STRING)
    return int(helper.np_dtype_to_tensor_dtype(NUMPY[datatype]))
