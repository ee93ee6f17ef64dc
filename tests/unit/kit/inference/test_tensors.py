import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import grpc_service_pb2 as pb
from services.kit.errors import InputTooLarge, InvalidField, UnknownParameter
from services.kit.inference import tensors
from services.kit.inference.bundle import Array
from services.kit.inference.datatypes import NUMPY
from services.kit.inference.manifest import TensorSpec
from services.kit.inference.tensors import FIELD_OF, Interface, decode, encode

ADD = Interface("add", (TensorSpec("A", "FP32", (-1, -1)), TensorSpec("B", "FP32", (-1, -1))), 8)
WORDS = Interface("words", (TensorSpec("TEXT", "BYTES", (-1, 1)),), 8)
FIXED = Interface("fixed", (TensorSpec("X", "FP32", (2, 3)),), 0)
TWO = struct.pack("<2f", 1, 2)

Tensor = tuple[str, str, list[int]]


def of(datatype: str) -> Interface:
    return Interface("kinds", (TensorSpec("X", datatype, (-1, -1)),), 1000)


def request(*inputs: Tensor, raw: list[bytes] | None = None, typed: dict[str, dict[str, Any]] | None = None) -> Any:
    message = pb.ModelInferRequest(raw_input_contents=raw or [])
    for name, datatype, shape in inputs:
        tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
        for field, values in (typed or {}).get(name, {}).items():
            getattr(tensor.contents, field).extend(values)
    return message


def a(shape: list[int] | None = None, datatype: str = "FP32", name: str = "A") -> Tensor:
    return (name, datatype, [1, 2] if shape is None else shape)


def b(shape: list[int] | None = None) -> Tensor:
    return a(shape, name="B")


def string(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


EXAMPLES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "BYTES": ["", "日本\n\0x"],
    "FP16": [1.5, -math.inf],
    "FP32": [1.5, -3e38],
    "FP64": [1e-300, -math.inf],
    **{name: [np.iinfo(dtype).min, np.iinfo(dtype).max] for name, dtype in NUMPY.items() if "INT" in name},
}


@pytest.mark.parametrize("datatype", NUMPY)
def test_raw_contents_of_every_datatype_come_back(datatype: str) -> None:
    array = np.array([EXAMPLES[datatype]] * 3, NUMPY[datatype])
    data = encode(array, datatype)

    decoded = decode(request(("X", datatype, [3, 2]), raw=[data]), of(datatype))["X"]

    assert decoded.dtype == NUMPY[datatype]
    assert decoded.tolist() == array.tolist()
    assert encode(decoded, datatype) == data


@pytest.mark.parametrize("datatype", FIELD_OF)
def test_typed_contents_of_every_datatype_but_fp16_come_in(datatype: str) -> None:
    values = EXAMPLES[datatype]
    sent = [value.encode() for value in values] if datatype == "BYTES" else values

    decoded = decode(request(("X", datatype, [2, 1]), typed={"X": {FIELD_OF[datatype]: sent}}), of(datatype))["X"]

    assert decoded.dtype == NUMPY[datatype]
    assert decoded.ravel().tolist() == np.array(values, NUMPY[datatype]).tolist()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20))
def test_any_text_comes_back(texts: list[str]) -> None:
    data = encode(np.array(texts, object), "BYTES")
    decoded = decode(request(("X", "BYTES", [len(texts), 1]), raw=[data]), of("BYTES"))["X"]
    assert decoded.ravel().tolist() == texts


@given(st.binary(max_size=200), st.integers(-2, 2**62), st.integers(-2, 2**62), st.sampled_from(list(NUMPY)))
def test_whatever_is_claimed_is_decoded_or_refused(data: bytes, rows: int, width: int, datatype: str) -> None:
    try:
        decoded = decode(request(("X", datatype, [rows, width]), raw=[data]), of(datatype))["X"]
    except InvalidField:
        return
    assert decoded.shape == (rows, width)


def test_raw_numbers_are_not_copied() -> None:
    message = request(a(), b(), raw=[TWO, TWO])
    decoded = decode(message, ADD)
    assert all(array.base is not None for array in decoded.values())
    assert not decoded["A"].flags.owndata


def test_any_byte_but_0_is_true() -> None:
    decoded = decode(request(("X", "BOOL", [1, 3]), raw=[b"\x00\x01\xff"]), of("BOOL"))["X"]
    assert decoded.view(np.uint8).tolist() == [[0, 1, 1]]


def test_inputs_may_come_in_any_order() -> None:
    decoded = decode(request(b(), a(), raw=[struct.pack("<2f", 3, 4), TWO]), ADD)
    assert {name: array.tolist() for name, array in decoded.items()} == {"A": [[1, 2]], "B": [[3, 4]]}


def test_the_largest_batch_and_empty_columns_are_taken() -> None:
    full = decode(request(a([8, 2]), b([8, 2]), raw=[TWO * 8, TWO * 8]), ADD)
    assert full["A"].shape == (8, 2)
    empty = decode(request(a([1, 0]), b([1, 0]), raw=[b"", b""]), ADD)
    assert empty["A"].shape == (1, 0)
    empty = decode(request(a([1, 0]), b([1, 0])), ADD)
    assert empty["A"].shape == (1, 0)


def test_a_model_without_batch_takes_its_shape_alone() -> None:
    assert decode(request(("X", "FP32", [2, 3]), raw=[bytes(24)]), FIXED)["X"].shape == (2, 3)


RAW = [TWO, TWO]
REFUSED: dict[str, tuple[Interface, Any, str]] = {
    "mixed raw+typed": (
        ADD,
        request(a(), b(), raw=[TWO], typed={"A": {"fp32_contents": [1, 2]}}),
        "contents field must not be specified when using raw_input_contents for 'A' for model 'add'",
    ),
    "both raw+typed": (
        ADD,
        request(a(), b(), raw=RAW, typed={"B": {"int_contents": [1]}}),
        "contents field must not be specified when using raw_input_contents for 'B' for model 'add'",
    ),
    "typed wrong field": (
        ADD,
        request(a(), b(), typed={"A": {"int_contents": [1, 2]}, "B": {"fp32_contents": [1, 2]}}),
        "unexpected explicit tensor data for input tensor 'A' for model 'add' of type 'INT32', expected datatype "
        "'FP32'",
    ),
    "half typed": (
        of("FP16"),
        request(("X", "FP16", [1, 1]), typed={"X": {"fp32_contents": [1]}}),
        "unexpected explicit tensor data for input tensor 'X' for model 'kinds' of type 'FP32', expected datatype "
        "'FP16'",
    ),
    "typed count": (
        ADD,
        request(a(), b(), typed={"A": {"fp32_contents": [1]}, "B": {"fp32_contents": [1, 2]}}),
        "input byte size mismatch for input 'A' for model 'add'. Expected 8, got 4",
    ),
    "typed huge": (
        ADD,
        request(a([8, 2**62]), b(), typed={"A": {"fp32_contents": [1]}}),
        f"input byte size mismatch for input 'A' for model 'add'. Expected {8 * 2**62 * 4}, got 4",
    ),
    "typed too wide": (
        of("INT8"),
        request(("X", "INT8", [1, 2]), typed={"X": {"int_contents": [1, 300]}}),
        "element 1 of input 'X' is 300, which is no INT8",
    ),
    "no content": (ADD, request(a(), b()), "unable to find data for input tensor 'A' for model 'add' in request."),
    "raw few": (ADD, request(a(), b(), raw=[TWO]), "unable to find data for input tensor 'B' for model 'add'"),
    "raw many": (ADD, request(a(), b(), raw=[TWO] * 3), "3 raw_input_contents for 2 inputs for model 'add'"),
    "dtype": (
        ADD,
        request(a(datatype="INT32"), b(), raw=RAW),
        "inference input 'A' data-type is 'INT32', but model 'add' expects 'FP32'",
    ),
    "dtype unknown": (ADD, request(a(datatype="FP33"), b(), raw=RAW), "data-type is 'FP33', but model 'add' expects"),
    "dtype empty": (ADD, request(a(datatype=""), b(), raw=RAW), "data-type is '', but model 'add' expects 'FP32'"),
    "shape rank": (ADD, request(a([2]), b(), raw=RAW), "unexpected shape for input 'A' for model 'add'"),
    "shape rank3": (
        ADD,
        request(a([1, 1, 2]), b(), raw=RAW),
        "unexpected shape for input 'A' for model 'add'. Expected [-1,-1], got [1,1,2].",
    ),
    "shape empty": (
        ADD,
        request(a([]), b(), raw=RAW),
        "input 'A' has no shape but model requires batch dimension for 'add'",
    ),
    "shape neg": (ADD, request(a([-1, 2]), b(), raw=RAW), "unexpected shape for input 'A' for model 'add'"),
    "shape neg2": (ADD, request(a([1, -2]), b(), raw=RAW), "Expected [-1,-1], got [1,-2]"),
    "shape huge": (
        ADD,
        request(a([1, 2**60]), b(), raw=RAW),
        "input byte size mismatch for input 'A' for model 'add'. Expected 4611686018427387904, got 8",
    ),
    "shape overflow": (
        ADD,
        request(a([2**62, 2]), b(), raw=RAW),
        "inference request batch-size must be <= 8 for 'add'",
    ),
    "shape product overflow": (ADD, request(a([4, 2**62]), b(), raw=RAW), f"Expected {2**66}, got 8"),
    "zero rows": (
        ADD,
        request(a([0, 2]), b([0, 2]), raw=[b"", b""]),
        "batch-size must be <= 8 for 'add' and at least 1",
    ),
    "batch mismatch": (
        ADD,
        request(a([2, 2]), b(), raw=[TWO * 2, TWO]),
        "input 'B' batch size does not match other inputs for 'add'",
    ),
    "batch over": (
        ADD,
        request(a([9, 2]), b([9, 2]), raw=[TWO * 9, TWO * 9]),
        "inference request batch-size must be <= 8 for 'add'",
    ),
    "size short": (ADD, request(a(), b(), raw=[TWO[:4], TWO]), "Expected 8, got 4"),
    "size long": (ADD, request(a(), b(), raw=[TWO + TWO[:4], TWO]), "Expected 8, got 12"),
    "missing": (
        ADD,
        request(a(), raw=[TWO]),
        "expected 2 inputs but got 1 inputs for model 'add'. Got input(s) ['A'], but missing required input(s) ['B']. "
        "Please provide all required input(s).",
    ),
    "none": (ADD, request(raw=RAW), "Got input(s) [], but missing required input(s) ['A','B']"),
    "dup": (ADD, request(a(), a(), raw=RAW), "input 'A' already exists in request"),
    "unknown in": (ADD, request(a(name="Z"), b(), raw=RAW), "unexpected inference input 'Z' for model 'add'"),
    "extra in": (ADD, request(a(), b(), a(name="Z"), raw=[TWO] * 3), "unexpected inference input 'Z' for model 'add'"),
    "empty in name": (ADD, request(a(name=""), b(), raw=RAW), "unexpected inference input '' for model 'add'"),
    "fixed batch": (
        FIXED,
        request(("X", "FP32", [1, 2, 3]), raw=[bytes(24)]),
        "unexpected shape for input 'X' for model 'fixed'. Expected [2,3], got [1,2,3].",
    ),
    "bytes len over": (
        WORDS,
        request(("TEXT", "BYTES", [1, 1]), raw=[struct.pack("<I", 100) + b"abc"]),
        "incomplete string data for inference input 'TEXT', expecting string of length 100 but only 3 bytes available",
    ),
    "bytes count less": (
        WORDS,
        request(("TEXT", "BYTES", [2, 1]), raw=[string(b"hello")]),
        "expected 2 string elements for inference input 'TEXT' for model 'words', got 1",
    ),
    "bytes count more": (
        WORDS,
        request(("TEXT", "BYTES", [1, 1]), raw=[string(b"a", b"b")]),
        "unexpected number of string elements 2 for inference input 'TEXT' for model 'words', expecting 1",
    ),
    "bytes short header": (
        WORDS,
        request(("TEXT", "BYTES", [1, 1]), raw=[b"ab"]),
        "incomplete string length indicator for inference input 'TEXT' for model 'words', expecting 4 bytes but only 2 "
        "bytes available.",
    ),
    "bytes typed count": (
        WORDS,
        request(("TEXT", "BYTES", [2, 1]), typed={"TEXT": {"bytes_contents": [b"a"]}}),
        "expected 2 string elements for inference input 'TEXT' for model 'words', got 1",
    ),
    "bytes non utf8": (
        WORDS,
        request(("TEXT", "BYTES", [1, 1]), raw=[string(b"\xff\xfe")]),
        "element 0 of input 'TEXT' is no UTF-8 text",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_request_is_refused_in_tritons_words(name: str) -> None:
    interface, message, says = REFUSED[name]
    with pytest.raises(InvalidField) as refused:
        decode(message, interface)
    assert says in str(refused.value)
    assert refused.value.metadata["field"]
    assert "value" in refused.value.metadata


def test_shared_memory_is_refused_as_an_unknown_parameter() -> None:
    message = request(a(), b())
    message.inputs[0].parameters["shared_memory_region"].string_param = "nope"
    with pytest.raises(UnknownParameter, match="never in shared memory"):
        decode(message, ADD)


def test_elements_that_cost_an_object_each_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "MAX_TYPED", 1)
    with pytest.raises(InputTooLarge, match="2 typed elements and the limit is 1"):
        decode(request(("X", "FP32", [1, 2]), typed={"X": {"fp32_contents": [1, 2]}}), of("FP32"))
    with pytest.raises(InputTooLarge, match="the limit for BYTES"):
        decode(request(("X", "BYTES", [1, 10**9]), raw=[bytes(4)]), of("BYTES"))


@pytest.mark.parametrize("array", [np.array([b"\xff", b"a"], object), np.array(["é", "a"], object)])
def test_strings_go_out_as_they_are_or_as_utf8(array: Array) -> None:
    expected = [element if isinstance(element, bytes) else element.encode() for element in array]
    assert encode(array, "BYTES") == string(*expected)
