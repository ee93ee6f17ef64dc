"""The SDK and the `trivium` command against a real gRPC server whose answers the tests decide."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from google.rpc import code_pb2, status_pb2
from google.rpc.error_details_pb2 import ErrorInfo

from tests.harness import free_port
from trivium.client import Classification, Client, TriviumCallError
from trivium.client.errors import DETAILS_KEY
from trivium.client.main import main
from trivium.common.v1 import classes_pb2, model_pb2
from trivium.models.v1 import models_pb2
from trivium.vision.v1 import vision_pb2

TRAILERS = (("trivium-model", "digits-cnn"), ("trivium-version", "2"), ("trivium-instance", "vision-1"))


def seven() -> vision_pb2.ClassifyResponse:
    return vision_pb2.ClassifyResponse(classes=[classes_pb2.RankedClass(label="7", index=7, probability=0.75)])


def unreadable() -> status_pb2.Status:
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="image: no image file")
    status.details.add().Pack(ErrorInfo(reason="IMAGE_UNREADABLE", domain="trivium"))
    return status


class Server:
    """Answers every image with a seven, except "bad" (unreadable), "hang" (never) and "away" (UNAVAILABLE)."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: dict[str, str | bytes] = {}
        self.remaining_s: list[float] = []  # of the deadlines of LoadModel and UnloadModel
        self.left, self.released = threading.Event(), threading.Event()
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._server = grpc.server(ThreadPoolExecutor(8), options=options)
        self._server.add_generic_rpc_handlers(
            (
                _service("trivium.vision.v1.VisionService", Classify=self.classify, Embed=self.embed),
                _streams("trivium.vision.v1.VisionService", ClassifyStream=self.classify_stream),
                _service(
                    "trivium.models.v1.ModelService",
                    ListModels=self.list_models,
                    GetModel=self.get_model,
                    LoadModel=self.load_model,
                    UnloadModel=self.unload_model,
                ),
            )
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self.released.set()
        self._server.stop(0).wait()

    def classify(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        request = vision_pb2.ClassifyRequest.FromString(data)
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        if request.image == b"hang":
            self.released.wait(30)
        if request.image == b"away":
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        if request.image == b"bad":
            context.set_trailing_metadata(((DETAILS_KEY, unreadable().SerializeToString()),))
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "image: no image file")
        context.set_trailing_metadata((*TRAILERS, ("trivium-attempts", "2")))
        return seven().SerializeToString()

    def embed(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        size = len(vision_pb2.EmbedRequest.FromString(data).image)
        return vision_pb2.EmbedResponse(values=[0.5] * size).SerializeToString()

    def classify_stream(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(self.left.set)
        for data in messages:
            request = vision_pb2.ClassifyStreamRequest.FromString(data)
            self.requests.append(request)
            response = vision_pb2.ClassifyStreamResponse(id=request.id)
            if request.image == b"bad":
                response.error.CopyFrom(unreadable())
            else:
                response.result.CopyFrom(seven())
            yield response.SerializeToString()

    def list_models(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        return models_pb2.ListModelsResponse(models=[digits()]).SerializeToString()

    def get_model(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        if models_pb2.GetModelRequest.FromString(data).model != "digits-cnn":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return models_pb2.GetModelResponse(model=digits()).SerializeToString()

    def load_model(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        self.remaining_s.append(context.time_remaining())
        return models_pb2.LoadModelResponse(models=[digits()]).SerializeToString()

    def unload_model(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        self.remaining_s.append(context.time_remaining())
        return models_pb2.UnloadModelResponse().SerializeToString()


def digits() -> model_pb2.ModelInfo:
    ready = model_pb2.MODEL_STATE_READY
    return model_pb2.ModelInfo(name="digits-cnn", version=2, service="vision", state=ready, is_default=True)


def _service(name: str, **methods: Any) -> Any:
    handlers: dict[str, Any] = {
        method: grpc.unary_unary_rpc_method_handler(handler) for method, handler in methods.items()
    }
    return grpc.method_handlers_generic_handler(name, handlers)


def _streams(name: str, **methods: Any) -> Any:
    handlers: dict[str, Any] = {
        method: grpc.stream_stream_rpc_method_handler(handler) for method, handler in methods.items()
    }
    return grpc.method_handlers_generic_handler(name, handlers)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def test_an_image_goes_out_as_given_and_comes_back_as_classes(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "seven.png"
    path.write_bytes(b"seven")
    with Client(server.address, metadata=(("x-caller", "me"),)) as client:
        answer = client.classify(path, "digits-cnn@stable", top_k=3)
        client.classify(b"seven")
    assert (answer.label, answer.model, answer.version, answer.attempts) == ("7", "digits-cnn", 2, 2)
    assert answer.instance == "vision-1"
    assert answer.queue_us is None
    first, second = server.requests
    assert (first.model, first.image, first.top_k) == ("digits-cnn@stable", b"seven", 3)
    assert (second.model, second.HasField("top_k")) == ("", False)
    assert server.metadata["x-caller"] == "me"


def test_the_environment_names_the_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_ADDRESS", server.address)
    with Client() as client:
        assert client.classify(b"seven").label == "7"


def test_a_failure_carries_the_servers_reason(client: Client) -> None:
    with pytest.raises(TriviumCallError) as caught:
        client.classify(b"bad")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "IMAGE_UNREADABLE")


def test_a_call_ends_at_its_deadline(client: Client) -> None:
    with pytest.raises(TriviumCallError) as caught:
        client.classify(b"hang", timeout_s=0.1)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_loading_has_the_time_that_the_gateway_takes_for_it(server: Server) -> None:
    with Client(server.address, timeout_s=1) as client:
        assert [model.name for model in client.load("digits-cnn")] == ["digits-cnn"]
        client.unload("digits-cnn")
        client.load("digits-cnn", timeout_s=5)
    # On the wire a deadline is rounded up.
    assert all(120 < remaining <= 151 for remaining in server.remaining_s[:2])
    assert server.remaining_s[2] <= 6


def test_a_failed_call_is_never_repeated(client: Client, server: Server) -> None:
    with pytest.raises(TriviumCallError):
        client.classify(b"away")
    assert len(server.requests) == 1


def test_nothing_at_the_address_is_told_apart_from_a_refusal() -> None:
    with Client(f"127.0.0.1:{free_port()}") as client, pytest.raises(TriviumCallError) as caught:
        client.classify(b"seven")
    assert caught.value.unreachable


def test_large_messages_pass_both_ways(client: Client) -> None:
    assert len(client.embed(bytes(5 << 20)).values) == 5 << 20


def test_of_many_images_each_gets_its_own_answer_or_error(client: Client, server: Server) -> None:
    answers = dict(client.classify_many([b"one", ("second", b"bad"), b"three"], "digits-cnn"))
    assert list(answers) == ["0", "second", "2"]
    assert isinstance(answers["0"], Classification)
    assert isinstance(answers["second"], TriviumCallError)
    assert answers["second"].reason == "IMAGE_UNREADABLE"
    assert [request.model for request in server.requests] == ["digits-cnn", "", ""]


def test_a_file_that_cannot_be_read_is_an_error_after_the_answers_before_it(client: Client, tmp_path: Path) -> None:
    answers = client.classify_many([b"one", tmp_path / "none.png", b"three"])
    assert next(answers)[0] == "0"
    with pytest.raises(FileNotFoundError):
        next(answers)


def test_leaving_a_stream_early_ends_the_call(client: Client, server: Server) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"seven"

    for _ in client.classify_many(endless()):
        break
    assert server.left.wait(5)


def run(*arguments: str, stdin: bytes | None = None) -> Any:
    return CliRunner().invoke(main, arguments, input=stdin)


def test_the_command_prints_one_line_an_image_and_goes_on_after_a_bad_one(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the names are short, wherever that is: long ones are cut in messages
    (tmp_path / "good.png").write_bytes(b"seven")
    (tmp_path / "bad.png").write_bytes(b"bad")
    files = ["none.png", "bad.png", "good.png"]
    result = run("classify", *files, "-", "--address", server.address, stdin=b"seven")
    assert result.exit_code == 1
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert lines[0] == ["file", "label", "probability", "model", "ms"]
    assert [line[:4] for line in lines[1:]] == [[name, "7", "0.7500", "digits-cnn:2"] for name in (files[2], "-")]
    assert f"{files[0]}: No such file or directory" in result.stderr
    assert f"{files[1]}: INVALID_ARGUMENT (IMAGE_UNREADABLE)" in result.stderr


def test_the_command_prints_json_for_programs(server: Server) -> None:
    result = run("classify", "-", "--json", "--address", server.address, stdin=b"seven")
    assert result.exit_code == 0
    (answer,) = json.loads(result.stdout)
    assert (answer["file"], answer["classes"][0]["label"], answer["instance"]) == ("-", "7", "vision-1")
    (model,) = json.loads(run("models", "--json", "--address", server.address).stdout)
    assert (model["name"], model["ready"]) == ("digits-cnn", True)


def test_the_command_describes_a_model_and_says_if_there_is_none(server: Server) -> None:
    assert "digits-cnn:2" in run("models", "digits-cnn", "--address", server.address).stdout
    missing = run("models", "nothing", "--address", server.address)
    assert missing.exit_code == 1
    assert "no such model" in missing.stderr


def test_the_commands_load_and_unload_with_the_time_that_it_takes(server: Server) -> None:
    loaded = run("load", "digits-cnn", "--address", server.address)
    assert (loaded.exit_code, loaded.stderr) == (0, "")
    assert "digits-cnn" in loaded.stdout
    unloaded = run("unload", "digits-cnn", "--timeout", "30", "--address", server.address)
    assert (unloaded.exit_code, unloaded.stderr) == (0, "`trivium load digits-cnn` brings it back\n")
    assert [120 < remaining <= 151 for remaining in server.remaining_s] == [True, False]
    assert (
        json.loads(run("load", "digits-cnn", "--json", "--address", server.address).stdout)[0]["name"] == "digits-cnn"
    )


def test_the_command_says_what_to_do_when_nobody_answers() -> None:
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-c", "from trivium.command import main; main()", "health", "--address", address]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout) == (3, "")
    first, second = ended.stderr.splitlines()
    assert first == f"trivium: nothing answers at {address}"
    assert "make run" in second
    assert "--address" in second
