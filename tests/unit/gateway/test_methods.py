"""What is known of methods comes from the shipped descriptors and from those of instances."""

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions

from gateway.addressing import OIP, TABLE, TYPED, VERSIONED
from gateway.methods import ANY, Methods, undescribed
from gateway.resume.generate import SERVICE
from inference import grpc_service_pb2 as oip
from tests.unit.gateway.fakes import CLASSIFY, STREAM, VISION
from trivium.language.v1 import language_pb2


def echo(*, field: str = "model", package: str = "trivium.echo.v1", imports: str = "") -> FileDescriptorProto:
    """A file with one service of one method."""
    file = FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    file.message_type.add(name="EchoRequest").field.add(
        name=field, number=1, type="TYPE_STRING", label="LABEL_OPTIONAL"
    )
    method = file.service.add(name="EchoService").method.add(
        name="Echo", input_type=f".{package}.EchoRequest", output_type=f".{package}.EchoRequest", server_streaming=True
    )
    method.options.idempotency_level = MethodOptions.NO_SIDE_EFFECTS
    if imports:
        file.dependency.append(imports)
    return file


def test_typed_methods_are_routed_by_their_package_and_their_first_field() -> None:
    methods = Methods.shipped()
    classify, stream = methods.find(CLASSIFY), methods.find(STREAM)
    assert classify is not None
    assert stream is not None
    assert (classify.service, classify.address, classify.safe) == (VISION, TYPED, True)
    assert (classify.request_streaming, classify.response_streaming) == (False, False)
    assert (stream.request_streaming, stream.response_streaming) == (True, True)


def test_every_method_of_the_language_service_is_found_by_its_first_field_and_one_goes_on_elsewhere() -> None:
    methods = Methods.shipped()
    service = language_pb2.DESCRIPTOR.services_by_name["LanguageService"]
    found = {name: methods.find(f"/{service.full_name}/{name}") for name in service.methods_by_name}
    assert {(rpc.service, rpc.address, rpc.safe) for rpc in found.values() if rpc} == {(SERVICE, TYPED, True)}
    assert [name for name, rpc in found.items() if rpc and rpc.resumable] == ["Generate"]
    assert [name for name, rpc in found.items() if rpc and rpc.response_streaming] == ["Generate"]
    assert not any(rpc is None or rpc.request_streaming for rpc in found.values())


def test_every_method_of_the_open_inference_protocol_is_in_the_table_with_its_own_fields() -> None:
    service = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert {f"{OIP}{method.name}" for method in service.methods} == {path for path in TABLE if path.startswith(OIP)}
    for method in service.methods:
        address, fields = TABLE[f"{OIP}{method.name}"], method.input_type.fields_by_number
        names = ("model_name", "name")
        assert (address is None) == (not any(name in method.input_type.fields_by_name for name in names))
        if address is not None:
            assert fields[address.model].name in names
            assert not address.version or fields[address.version].name in ("model_version", "version")


@pytest.mark.parametrize(("name", "safe"), [("ModelInfer", True), ("ModelReady", True), ("RepositoryModelLoad", False)])
def test_the_open_inference_protocol_is_safe_but_for_the_repository(name: str, safe: bool) -> None:
    found = Methods.shipped().find(f"{OIP}{name}")
    assert found is not None
    assert (found.safe, found.service) == (safe, ANY)


def test_loading_a_model_is_not_free_of_effects() -> None:
    found = Methods.shipped().find("/trivium.models.v1.ModelService/LoadModel")
    assert found is not None
    assert not found.safe


def test_a_service_that_an_instance_describes_is_known_from_then_on() -> None:
    methods = Methods.shipped()
    assert not methods.knows("trivium.echo.v1.EchoService")
    methods.add([echo()])
    found = methods.find("/trivium.echo.v1.EchoService/Echo")
    assert found is not None
    assert (found.service, found.address, found.safe) == ("trivium-echo-v1", TYPED, True)
    assert (found.request_streaming, found.response_streaming) == (False, True)
    assert methods.services("trivium-echo-v1") == ["trivium.echo.v1.EchoService"]
    assert methods.pool.FindServiceByName("trivium.echo.v1.EchoService").methods_by_name["Echo"]


def test_a_first_field_that_is_not_called_model_names_none() -> None:
    methods = Methods.shipped()
    methods.add([echo(field="text")])
    found = methods.find("/trivium.echo.v1.EchoService/Echo")
    assert found is not None
    assert found.address is None


def test_files_are_learned_after_those_that_they_import() -> None:
    methods = Methods.shipped()
    other = echo(package="trivium.other.v1")
    methods.add([echo(imports=other.name), other])
    assert methods.knows("trivium.echo.v1.EchoService")
    assert methods.knows("trivium.other.v1.EchoService")


def test_a_broken_description_does_no_harm() -> None:
    methods = Methods.shipped()
    methods.add([echo(imports="nowhere.proto"), echo(package="trivium.other.v1")])
    assert not methods.knows("trivium.echo.v1.EchoService")
    assert methods.knows("trivium.other.v1.EchoService")


def test_a_shipped_description_is_not_replaced() -> None:
    methods = Methods.shipped()
    imposter = echo(package="trivium.vision.v1")
    imposter.name = "trivium/vision/v1/vision.proto"
    methods.add([imposter])
    assert methods.find("/trivium.vision.v1.EchoService/Echo") is None


def test_an_undescribed_method_is_a_stream_both_ways_that_is_not_safe() -> None:
    rpc = undescribed("/trivium.vision.v1.VisionService/FromTheFuture")
    assert (rpc.service, rpc.request_streaming, rpc.response_streaming, rpc.safe) == (VISION, True, True, False)
    assert undescribed("nonsense").service == ANY


def test_versions_are_read_where_the_protocol_has_them() -> None:
    assert TABLE[f"{OIP}ModelInfer"] == VERSIONED
