"""The rules of the protos, read off descriptors.binpb: buf's STANDARD and COMMENTS where there is no buf, and ours."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodOptions,
)

FILES = {
    file.name: file
    for file in FileDescriptorSet.FromString((resources.files("trivium") / "descriptors.binpb").read_bytes()).file
}
OURS = sorted(name for name in FILES if name.startswith(("trivium/", "inference/")))
TYPED = [name for name in OURS if name.startswith("trivium/")]
SNAKE, CAMEL = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*"), re.compile(r"[A-Z][A-Za-z0-9]*")


@dataclass(frozen=True)
class Element:
    """A message, field, enum, value, service, rpc, oneof or extension, and where its comment would be."""

    path: tuple[int, ...]
    name: str


def elements(file: FileDescriptorProto) -> Iterator[Element]:
    for index, message in enumerate(file.message_type):
        yield from _message((4, index), message)
    for index, enum in enumerate(file.enum_type):
        yield from _enum((5, index), enum)
    for index, service in enumerate(file.service):
        yield Element((6, index), service.name)
        for number, method in enumerate(service.method):
            yield Element((6, index, 2, number), f"{service.name}.{method.name}")
    for index, extension in enumerate(file.extension):
        yield Element((7, index), extension.name)


def _message(path: tuple[int, ...], message: DescriptorProto) -> Iterator[Element]:
    if message.options.map_entry:
        return
    yield Element(path, message.name)
    for index, field in enumerate(message.field):
        yield Element((*path, 2, index), f"{message.name}.{field.name}")
    for index, nested in enumerate(message.nested_type):
        yield from _message((*path, 3, index), nested)
    for index, enum in enumerate(message.enum_type):
        yield from _enum((*path, 4, index), enum)
    for index, oneof in enumerate(message.oneof_decl):
        if not any(field.proto3_optional and field.oneof_index == index for field in message.field):
            yield Element((*path, 8, index), f"{message.name}.{oneof.name}")


def _enum(path: tuple[int, ...], enum: EnumDescriptorProto) -> Iterator[Element]:
    yield Element(path, enum.name)
    for index, value in enumerate(enum.value):
        yield Element((*path, 2, index), f"{enum.name}.{value.name}")


def comments(file: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    return {tuple(location.path): location.leading_comments.strip() for location in file.source_code_info.location}


@pytest.mark.parametrize("name", OURS)
def test_every_element_has_a_comment(name: str) -> None:
    written = comments(FILES[name])
    assert [element.name for element in elements(FILES[name]) if len(written.get(element.path, "")) < 4] == []


@pytest.mark.parametrize("name", OURS)
def test_every_file_says_where_its_code_goes_in_other_languages(name: str) -> None:
    options = FILES[name].options
    assert options.go_package
    assert options.java_package
    assert options.java_multiple_files
    assert options.csharp_namespace


@pytest.mark.parametrize("name", TYPED)
def test_packages_are_versioned_and_lie_in_their_folder(name: str) -> None:
    file = FILES[name]
    assert re.fullmatch(r"trivium\.[a-z]+\.v[0-9]+", file.package)
    assert name.rsplit("/", 1)[0] == file.package.replace(".", "/")


@pytest.mark.parametrize("name", TYPED)
def test_names_follow_the_style_guide(name: str) -> None:
    file = FILES[name]
    for message in file.message_type:
        assert CAMEL.fullmatch(message.name)
        assert all(SNAKE.fullmatch(field.name) for field in message.field), message.name
    for enum in file.enum_type:
        prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
        assert all(value.name.startswith(prefix) for value in enum.value)
        assert (enum.value[0].name, enum.value[0].number) == (f"{prefix}UNSPECIFIED", 0)
    assert all(service.name.endswith("Service") for service in file.service)


@pytest.mark.parametrize("name", TYPED)
def test_every_rpc_has_a_request_and_a_response_of_its_own(name: str) -> None:
    file = FILES[name]
    for service in file.service:
        for method in service.method:
            assert method.input_type == f".{file.package}.{method.name}Request"
            assert method.output_type == f".{file.package}.{method.name}Response"
            assert method.options.idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN, method.name


@pytest.mark.parametrize("name", TYPED)
def test_field_one_of_every_request_names_the_model(name: str) -> None:
    file = FILES[name]
    requests = {message.name: message for message in file.message_type}
    for service in file.service:
        for method in service.method:
            first = next(f for f in requests[f"{method.name}Request"].field if f.number == 1)
            assert (first.name, first.type) == ("model", FieldDescriptorProto.TYPE_STRING)


DUMP_TRITONS_PROTOS = """
import sys
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from tritonclient.grpc import model_config_pb2, service_pb2
found = FileDescriptorSet()
for module in (service_pb2, model_config_pb2):
    module.DESCRIPTOR.CopyToProto(found.file.add())
sys.stdout.buffer.write(found.SerializeToString())
"""


@pytest.fixture(scope="module")
def tritons() -> FileDescriptorSet:
    """What tritonclient was generated from, asked in a process of its own: the symbols clash with ours."""
    done = subprocess.run([sys.executable, "-c", DUMP_TRITONS_PROTOS], capture_output=True, check=True)
    return FileDescriptorSet.FromString(done.stdout)


def _messages(prefix: str, found: list[DescriptorProto]) -> Iterator[tuple[str, DescriptorProto]]:
    for message in found:
        yield f"{prefix}{message.name}", message
        yield from _messages(f"{prefix}{message.name}.", list(message.nested_type))


def _fields(message: DescriptorProto) -> set[tuple[int, str, int, int, str]]:
    return {(f.number, f.name, f.type, f.label, f.type_name) for f in message.field}


def _enums(prefix: str, file_or_message: FileDescriptorProto | DescriptorProto) -> Iterator[tuple[str, int]]:
    for enum in file_or_message.enum_type:
        yield from ((f"{prefix}{enum.name}.{value.name}", value.number) for value in enum.value)


def test_the_inference_protocol_is_tritons_on_the_wire(tritons: FileDescriptorSet) -> None:
    ours = FILES["inference/grpc_service.proto"]
    theirs = {name: found for file in tritons.file for name, found in _messages("", list(file.message_type))}
    their_enums = {pair for file in tritons.file for pair in _enums("", file)}
    for name, message in _messages("", list(ours.message_type)):
        assert _fields(message) <= _fields(theirs[name]), name
        their_enums |= set(_enums(f"{name}.", theirs[name]))
        assert set(_enums(f"{name}.", message)) <= their_enums
    assert set(_enums("", ours)) <= their_enums


def test_the_inference_methods_are_tritons(tritons: FileDescriptorSet) -> None:
    def methods(file: FileDescriptorProto) -> set[tuple[str, str, str, bool, bool]]:
        found = file.service[0].method
        return {(m.name, m.input_type, m.output_type, m.client_streaming, m.server_streaming) for m in found}

    theirs = next(file for file in tritons.file if file.service)
    assert methods(FILES["inference/grpc_service.proto"]) <= methods(theirs)
