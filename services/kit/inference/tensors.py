"""The Open Inference Protocol's tensors to arrays; every refusal in Triton's words, where tools may look for them.

Shapes and sizes that a caller claims are compared with the bytes that came before anything is allocated; they are
Python's integers, which do not overflow.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference import grpc_service_pb2 as pb
from services.kit.errors import InputTooLarge, InvalidField, UnknownParameter
from services.kit.inference import strings
from services.kit.inference.bundle import Array, TensorSpec
from services.kit.inference.datatypes import NUMPY

Request = pb.ModelInferRequest
Input = pb.ModelInferRequest.InferInputTensor

MAX_TYPED = 1_000_000  # elements of typed contents: each is a Python object for a while

# Field of InferTensorContents -> its dtype and the datatype that Triton calls it.
TYPED_FIELDS: dict[str, tuple[Any, str]] = {
    "bool_contents": (np.bool_, "BOOL"),
    "int_contents": (np.int32, "INT32"),
    "int64_contents": (np.int64, "INT64"),
    "uint_contents": (np.uint32, "UINT32"),
    "uint64_contents": (np.uint64, "UINT64"),
    "fp32_contents": (np.float32, "FP32"),
    "fp64_contents": (np.float64, "FP64"),
    "bytes_contents": (np.object_, "BYTES"),
}
FIELD_OF = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@dataclass(frozen=True, slots=True)
class Interface:
    """What a model takes."""

    model: str
    inputs: tuple[TensorSpec, ...]
    max_batch: int  # rows; 0: dimension 0 is no batch


def decode(request: Request, interface: Interface) -> dict[str, Array]:
    """The request's inputs by name; numbers are views of the request's bytes, strings are arrays of str.

    Raises:
        InvalidField: a name, datatype, shape, batch size or byte count that the model does not take.
        InputTooLarge: too many elements where each costs a Python object.
        UnknownParameter: an input has parameters; none is known.
    """
    specs = {spec.name: spec for spec in interface.inputs}
    _check_names(request.inputs, specs, interface)
    raw: Sequence[bytes] = request.raw_input_contents
    _check_contents(request.inputs, raw, interface)
    arrays = {}
    for index, tensor in enumerate(request.inputs):
        spec = specs[tensor.name]
        shape = _checked_shape(tensor, spec, interface)
        if raw:
            arrays[tensor.name] = _from_raw(raw[index], spec, shape, interface)
        else:
            arrays[tensor.name] = _from_typed(tensor, spec, shape, interface)
    _check_batch(arrays, interface)
    return arrays


def encode(array: Array, datatype: str) -> bytes:
    """An output's elements as raw_output_contents has them: little-endian, row by row."""
    return strings.to_raw(array) if datatype == "BYTES" else array.tobytes()


def _check_names(inputs: Sequence[Input], specs: Mapping[str, TensorSpec], interface: Interface) -> None:
    seen: list[str] = []
    for tensor in inputs:
        name = tensor.name
        if name not in specs:
            raise _invalid(f"unexpected inference input '{name[:128]}' for model '{interface.model}'", "inputs", name)
        if name in seen:
            raise _invalid(f"input '{name}' already exists in request", f"inputs[{name}]", name)
        for parameter in tensor.parameters:
            raise UnknownParameter(
                f"parameter '{parameter[:128]}' of input '{name}' is unknown; tensors come in the request, never in "
                "shared memory",
                field=f"inputs[{name}].parameters",
                value=parameter,
            )
        seen.append(name)
    missing = [name for name in specs if name not in seen]
    if missing:
        raise _invalid(
            f"expected {len(specs)} inputs but got {len(seen)} inputs for model '{interface.model}'. Got input(s) "
            f"[{_quoted(seen)}], but missing required input(s) [{_quoted(missing)}]. Please provide all required "
            "input(s).",
            "inputs",
            ",".join(seen),
        )


def _check_contents(inputs: Sequence[Input], raw: Sequence[bytes], interface: Interface) -> None:
    """Either all inputs are raw or none is."""
    if not raw:
        return
    for tensor in inputs:
        if tensor.HasField("contents") and any(len(getattr(tensor.contents, field)) for field in TYPED_FIELDS):
            raise _invalid(
                f"contents field must not be specified when using raw_input_contents for '{tensor.name}' for model "
                f"'{interface.model}'",
                f"inputs[{tensor.name}].contents",
                "",
            )
    if len(raw) < len(inputs):
        raise _no_data(inputs[len(raw)].name, interface)
    if len(raw) > len(inputs):
        raise _invalid(
            f"{len(raw)} raw_input_contents for {len(inputs)} inputs for model '{interface.model}'",
            "raw_input_contents",
            str(len(raw)),
            str(len(inputs)),
        )


def _checked_shape(tensor: Input, spec: TensorSpec, interface: Interface) -> tuple[int, ...]:
    """The shape that the caller claims, if the model takes it."""
    name, model = tensor.name, interface.model
    if tensor.datatype != spec.datatype:
        raise _invalid(
            f"inference input '{name}' data-type is '{tensor.datatype[:32]}', but model '{model}' expects "
            f"'{spec.datatype}'",
            f"inputs[{name}].datatype",
            tensor.datatype,
            spec.datatype,
        )
    shape = tuple(tensor.shape)
    if not shape and interface.max_batch:
        raise _invalid(
            f"input '{name}' has no shape but model requires batch dimension for '{model}'",
            f"inputs[{name}].shape",
            "[]",
            _listed(spec.shape),
        )
    fits = len(shape) == len(spec.shape) and all(
        size >= 0 and want in (-1, size) for size, want in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        note = " The first dimension is the batch." if interface.max_batch else ""
        raise _invalid(
            f"unexpected shape for input '{name}' for model '{model}'. Expected {_listed(spec.shape)}, got "
            f"{_listed(shape[:16])}.{note}",
            f"inputs[{name}].shape",
            _listed(shape[:16]),
            _listed(spec.shape),
        )
    if interface.max_batch and not 1 <= shape[0] <= interface.max_batch:
        raise _invalid(
            f"inference request batch-size must be <= {interface.max_batch} for '{model}' and at least 1, got "
            f"{shape[0]}",
            f"inputs[{name}].shape",
            str(shape[0]),
            str(interface.max_batch),
        )
    return shape


def _check_batch(arrays: Mapping[str, Array], interface: Interface) -> None:
    first = next(iter(arrays.values()))
    for name, array in arrays.items():
        if interface.max_batch and len(array) != len(first):
            raise _invalid(
                f"input '{name}' batch size does not match other inputs for '{interface.model}'",
                f"inputs[{name}].shape",
                str(len(array)),
                str(len(first)),
            )


def _from_raw(data: bytes, spec: TensorSpec, shape: tuple[int, ...], interface: Interface) -> Array:
    if spec.datatype == "BYTES":
        return strings.from_raw(data, math.prod(shape), spec.name, interface.model).reshape(shape)
    dtype = NUMPY[spec.datatype]
    _check_size(len(data), math.prod(shape) * dtype.itemsize, spec, interface)
    if spec.datatype == "BOOL":
        numbers: Array = np.frombuffer(data, np.uint8)
        return np.not_equal(numbers.reshape(shape), 0)  # to numpy any other byte than 0 and 1 is no bool
    return np.frombuffer(data, dtype).reshape(shape)


def _from_typed(tensor: Input, spec: TensorSpec, shape: tuple[int, ...], interface: Interface) -> Array:
    wanted, contents = FIELD_OF.get(spec.datatype), tensor.contents
    for field, (_, datatype) in TYPED_FIELDS.items():
        if field != wanted and len(getattr(contents, field)):
            raise _invalid(
                f"unexpected explicit tensor data for input tensor '{spec.name}' for model '{interface.model}' of "
                f"type '{datatype}', expected datatype '{spec.datatype}'",
                f"inputs[{spec.name}].contents",
                datatype,
                spec.datatype,
            )
    values = getattr(contents, wanted) if wanted else ()
    count = math.prod(shape)
    if not len(values) and count:
        raise _no_data(spec.name, interface)
    if len(values) > MAX_TYPED:
        raise InputTooLarge(
            f"input '{spec.name}' has {len(values)} typed elements and the limit is {MAX_TYPED}; raw_input_contents "
            "takes more",
            field=f"inputs[{spec.name}].contents",
            limit=str(MAX_TYPED),
            value=str(len(values)),
        )
    if spec.datatype == "BYTES":
        return strings.from_list(values, count, spec.name, interface.model).reshape(shape)
    itemsize = NUMPY[spec.datatype].itemsize
    _check_size(len(values) * itemsize, count * itemsize, spec, interface)
    dtype = TYPED_FIELDS[wanted][0] if wanted else NUMPY[spec.datatype]  # FP16 has no field: an empty tensor is left
    return _narrowed(np.fromiter(values, dtype, count), spec).reshape(shape)


def _narrowed(values: Array, spec: TensorSpec) -> Array:
    """Values of a wider protobuf field in the input's own dtype."""
    dtype = NUMPY[spec.datatype]
    if values.dtype == dtype:
        return values
    narrow = values.astype(dtype)
    wrong = np.flatnonzero(narrow != values)
    if wrong.size:
        limits = np.iinfo(dtype)
        raise _invalid(
            f"element {wrong[0]} of input '{spec.name}' is {values[wrong[0]]}, which is no {spec.datatype}",
            f"inputs[{spec.name}].contents",
            str(values[wrong[0]]),
            f"[{limits.min}, {limits.max}]",
        )
    return narrow


def _check_size(got: int, expected: int, spec: TensorSpec, interface: Interface) -> None:
    if got != expected:
        raise _invalid(
            f"input byte size mismatch for input '{spec.name}' for model '{interface.model}'. Expected {expected}, "
            f"got {got}",
            f"inputs[{spec.name}]",
            str(got),
            str(expected),
        )


def _no_data(name: str, interface: Interface) -> InvalidField:
    return _invalid(
        f"unable to find data for input tensor '{name}' for model '{interface.model}' in request.",
        f"inputs[{name}].contents",
        "0",
    )


def _invalid(message: str, field: str, value: str, limit: str = "") -> InvalidField:
    return InvalidField(message, field=field, value=value, limit=limit)


def _listed(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _quoted(names: Sequence[str]) -> str:
    return ",".join(f"'{name}'" for name in names)
