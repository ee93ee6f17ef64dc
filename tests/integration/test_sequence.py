"""The sequence service in processes of its own: a series gets the bits that the graph alone gives, however it comes."""

import asyncio
import contextlib
import json
import math
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

from inference import grpc_service_pb2 as oip
from services.kit.inference.bundle import Array, Bundle, load
from tests.harness import OPTIONS, Replica, Suite, error_info, serving
from tests.hostile import details
from tests.integration.test_triton_client import python
from tests.series import STREAM_INFER, Caller, Track, graph_says, infer_request, messages, said, whole_stream
from trivium.models.v1 import models_pb2
from trivium.sequence.v1 import sequence_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")
FORECASTERS = ("rnn", "lstm", "gru")
NEIGHBOURS = 30
STATISTICS = "/inference.GRPCInferenceService/ModelStatistics"
DEFAULTS = Path(__file__).resolve().parents[2] / "services" / "sequence" / "bundles"
SAMPLES = Path(__file__).resolve().parents[2] / "services" / "sequence" / "samples"


@dataclass(frozen=True)
class Running:
    """A gateway and two instances of the same bundles, with a caller of each."""

    suite: Suite
    folder: Path
    bundles: dict[str, Bundle]
    replicas: Sequence[Replica]
    one: Caller
    two: Caller
    gateway: Caller
    gateway_address: str

    def width(self, name: str) -> int:
        """Numbers of one step."""
        return self.bundles[name].manifest.inputs[0].shape[2]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    recurrent_bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    at = recurrent_bundles["rnn"].path.parents[1]
    async with Suite.open(tmp_path_factory.mktemp("sequence")) as suite, contextlib.AsyncExitStack() as stack:
        gateway, *replicas = await asyncio.gather(
            suite.start_gateway(), *(suite.start("sequence", f"sequence-{n}", BUNDLES_DIR=at) for n in (1, 2))
        )
        await serving(gateway.address, "model/rnn")
        addresses = [replica.address for replica in (*replicas, gateway)]
        one, two, both = [await stack.enter_async_context(calling(address)) for address in addresses]
        yield Running(suite, at, recurrent_bundles, replicas, one, two, both, gateway.address)


@contextlib.asynccontextmanager
async def calling(address: str) -> AsyncIterator[Caller]:
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        yield Caller(channel)


def series(seed: int, steps: int, width: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=(steps, width)).astype(np.float32)


@contextlib.asynccontextmanager
async def beside(caller: Caller, bundle: Bundle, width: int) -> AsyncIterator[None]:
    """Thirty others keep the instance busy with series and messages of other lengths, and get their bits."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 90, NEIGHBOURS)
    known = [series(100 + index, int(length), width) for index, length in enumerate(lengths)]
    expected = [graph_says(bundle, x).tobytes() for x in known]
    over = asyncio.Event()

    async def neighbour(index: int) -> None:
        x, name = known[index], bundle.name
        while True:
            parts = messages(x, rng.integers(1, 20, 5).tolist())
            assert said(await caller.track(name, parts)) == expected[index]
            if over.is_set():
                return

    async with asyncio.TaskGroup() as group:
        for index in range(NEIGHBOURS):
            group.create_task(neighbour(index))
        yield
        over.set()


@pytest.mark.parametrize("name", FORECASTERS)
async def test_a_series_gets_the_bits_of_the_graph_however_it_comes(running: Running, name: str) -> None:
    width, bundle = running.width(name), running.bundles[name]
    x = series(0, 70, width)
    after = graph_says(bundle, x)
    whole = after.tobytes()
    for company in (contextlib.nullcontext(), beside(running.one, bundle, width)):
        async with company:
            for sizes in ((1,), (7, 1), (33, 32), (70,)):
                assert said(await running.one.track(name, messages(x, sizes))) == whole, sizes
            for steps in (1, 2, 31, 32, 33, 64, 70):
                assert await running.one.forecast(name, x[:steps]) == after[steps - 1].tobytes(), steps
            for steps in (1, 9, 70):
                sequence = {"sequence_id": 5, "sequence_start": True, "sequence_end": True}
                assert (await running.one.infer(name, x[:steps], **sequence))[0] == after[:steps].tobytes(), steps


@pytest.mark.parametrize("name", FORECASTERS)
async def test_a_stream_goes_on_at_another_instance_with_the_same_bits(running: Running, name: str) -> None:
    x = series(1, 40, running.width(name))
    whole = graph_says(running.bundles[name], x).tobytes()

    async def resumed(at: int) -> None:
        before = await running.one.track(name, messages(x[:at], (3, 1)), return_state=True)
        after = await running.two.track(name, messages(x[at:], (5, 2)), resume_state=before[-1].state)
        assert said(before + after) == whole
        assert [answer.step for answer in before + after] == list(range(1, 41))
        assert (before[0].model, after[0].model) == (f"{name}:1", f"{name}:1")

    await asyncio.gather(*(resumed(at) for at in (1, 2, 3, 4, 17, 32, 39)))


@pytest.mark.parametrize("name", FORECASTERS)
async def test_a_sequence_goes_from_instance_to_instance_with_the_same_bits(running: Running, name: str) -> None:
    x = series(2, 24, running.width(name))
    whole, bits, state = graph_says(running.bundles[name], x).tobytes(), b"", ""
    for turn, part in enumerate(messages(x, (1, 4))):
        caller = (running.one, running.two)[turn % 2]
        answer, state = await caller.infer(name, part, trivium_state=state)
        bits += answer
    assert bits == whole


@pytest.mark.parametrize("where", ["one", "gateway"])
@pytest.mark.parametrize("sequence_id", [7, ("uint64_param", 2**64 - 1), "a text", "i" * 22], ids=str)
async def test_a_sequence_has_its_state_kept_for_it(running: Running, where: str, sequence_id: Any) -> None:
    caller: Caller = getattr(running, where)
    x = series(3, 20)
    parts, bits = messages(x, (1, 3)), b""
    for index, part in enumerate(parts):
        flags = {"sequence_start": index == 0, "sequence_end": index == len(parts) - 1}
        answer, state = await caller.infer("rnn", part, sequence_id=sequence_id, **flags)
        assert state == ""
        bits += answer
    assert bits == graph_says(running.bundles["rnn"], x).tobytes()


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_sequences_of_one_stream_keep_their_order_and_do_not_mix(running: Running, where: str) -> None:
    stream: Track = getattr(running, where).stream(STREAM_INFER)
    known = {number: series(number, 12) for number in range(1, 6)}
    for step in range(12):
        for number, x in known.items():
            flags = {"sequence_id": number, "sequence_start": step == 0, "sequence_end": step == 11}
            request = infer_request("rnn", x[step : step + 1], **flags)
            request.id = str(number)
            await stream.call.write(request.SerializeToString())
    await stream.call.done_writing()
    bits = dict.fromkeys(known, b"")
    async for data in stream.call:
        response = oip.ModelStreamInferResponse.FromString(data)
        assert response.error_message == ""
        bits[int(response.infer_response.id)] += response.infer_response.raw_output_contents[0]
    for number, x in known.items():
        assert bits[number] == graph_says(running.bundles["rnn"], x).tobytes()


async def test_classes_are_the_same_whole_and_step_by_step(running: Running) -> None:
    x = np.abs(series(4, 64)) * 8
    answers = await running.one.track("digits-rnn", messages(x, (1, 6)), top_k=10)
    for steps in (1, 2, 33, 64):
        classified = await running.two.classify("digits-rnn", x[:steps], top_k=10)
        assert classified == pb.ClassifyResponse(classes=answers[steps - 1].classes).SerializeToString()
    logits = graph_says(load(DEFAULTS / "digits-rnn" / "1"), x)
    assert [answer.classes[0].index for answer in answers] == logits.argmax(axis=1).tolist()


async def test_a_bidirectional_bundle_reads_whole_series_of_any_length_in_one_batch(running: Running) -> None:
    known = [series(index, 1 + 3 * index) for index in range(20)]
    alone = [await running.one.classify("both", x) for x in known]
    together = await asyncio.gather(*(running.one.classify("both", x) for x in known for _ in range(2)))
    assert together == [answer for answer in alone for _ in range(2)]
    for x, answer in zip(known, alone, strict=True):
        logits = graph_says(running.bundles["both"], x)[-1]
        best = pb.ClassifyResponse.FromString(answer).classes[0]
        share = np.exp(logits - logits.max())
        assert best.index == int(logits.argmax())
        assert math.isclose(best.probability, share.max() / share.sum(), rel_tol=1e-6)
    stream = running.one.stream()
    await stream.send([1.0], model="both")
    _, error = await stream.failure()
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    assert (error_info(error).reason, error_info(error).metadata["model"]) == ("UNSUPPORTED_BY_MODEL", "both")


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_a_slow_reader_holds_back_itself_and_nobody_else(running: Running, where: str) -> None:
    caller: Caller = getattr(running, where)
    x = series(5, 1000, 2)
    known = await windows(caller, "gru")
    slow, sent, held_back = caller.stream(timeout_s=120), 0, asyncio.Event()

    async def send() -> None:
        nonlocal sent
        await slow.send(model="gru")
        while not held_back.is_set():
            await slow.send(x)
            sent += 1

    sending = asyncio.create_task(send())
    before = -1
    while sent > before:  # until half a second has passed in which nothing more was taken
        before = sent
        await asyncio.wait((sending,), timeout=0.5)
    held_back.set()
    assert not sending.done()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for seed in range(NEIGHBOURS):
            group.create_task(quick(caller, running.bundles["rnn"], seed))
    assert 32 * (await windows(caller, "gru") - known) < len(x) * sent / 4  # what nobody takes is not computed either
    answers = await slow.answers(3000)  # nothing of it was lost
    assert said(answers) == graph_says(running.bundles["gru"], np.tile(x, (3, 1))).tobytes()
    assert [answer.step for answer in answers] == list(range(1, 3001))
    slow.call.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def windows(caller: Caller, name: str) -> int:
    """How many have been computed."""
    data = await caller.unary(STATISTICS, oip.ModelStatisticsRequest(name=name).SerializeToString())
    (counted,) = oip.ModelStatisticsResponse.FromString(data).model_stats
    return counted.inference_count


async def quick(caller: Caller, bundle: Bundle, seed: int) -> None:
    x = series(seed, 20)
    assert said(await caller.track(bundle.name, messages(x, (1, 2)))) == graph_says(bundle, x).tobytes()


async def test_a_draining_instance_ends_its_streams_at_once_and_says_how_far_they_came(running: Running) -> None:
    leaving = await running.suite.start("sequence", "leaving", BUNDLES_DIR=running.folder)
    x = series(6, 500)
    async with calling(leaving.address) as caller:
        streams = [caller.stream() for _ in range(20)]
        for number, stream in enumerate(streams):
            await stream.send(x[:number], model="rnn", return_state=True)
            await stream.answers(number)
        silent = caller.stream()

        def send() -> Iterator[bytes]:
            for step in x:
                time.sleep(0.01)
                yield pb.TrackRequest(model="rnn", values=step).SerializeToString()

        with grpc.insecure_channel(leaving.address, options=OPTIONS) as channel:
            started = time.monotonic()
            leaving.send(signal.SIGTERM)
            busy = asyncio.to_thread(whole_stream, channel, send())
            ends = await asyncio.gather(*(stream.failure() for stream in (*streams, silent)), busy)
        assert await leaving.child.wait() == 0
        assert time.monotonic() - started < 5
    for number, (answers, error) in enumerate(ends):
        code, info, _ = details(error)
        assert (code, info.reason) == ("UNAVAILABLE", "DRAINING")
        assert (info.metadata["stage"], info.metadata["executed"]) == ("stream", "no")
        if number < len(streams):
            assert (answers, info.metadata["step"]) == ([], str(number))
    answers, error = ends[-1]
    assert details(error)[1].metadata["step"] == str(len(answers))
    assert 10 < len(answers) < 500
    assert said(answers) == graph_says(running.bundles["rnn"], x[: len(answers)]).tobytes()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small(running: Running) -> AsyncIterator[Replica]:
    """An instance with room for two streams and two sequences, which does not wait for long."""
    streams: dict[str, Any] = {"LIMITS__MAX_STREAMS": 2, "LIMITS__STREAM_IDLE_S": 1.5}
    sequences: dict[str, Any] = {"SEQUENCES__MAX_LIVE": 2, "SEQUENCES__IDLE_S": 1}
    replica = await running.suite.start("sequence", "small", BUNDLES_DIR=running.folder, **streams, **sequences)
    yield replica
    assert await replica.stop() == 0


async def test_streams_have_a_limit_and_silent_ones_end(running: Running, small: Replica) -> None:
    async with calling(small.address) as caller:
        streams = [caller.stream() for _ in range(2)]
        for stream in streams:
            await stream.send([1.0, 2.0], model="rnn")
            await stream.answers(2)
        refused = caller.stream()
        with contextlib.suppress(grpc.aio.AioRpcError):  # it may be refused before it has said anything
            await refused.send([1.0], model="rnn")
        _, error = await refused.failure()
        info = error_info(error)
        assert (error.code(), info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert (info.metadata["limit"], info.metadata["executed"]) == ("2", "no")
        assert await small.metric("trivium_live_streams") == 2
        assert len(await caller.forecast("rnn", series(0, 3))) == 4 * 3  # calls have a limit of their own
        for _, error in await asyncio.gather(*(stream.failure() for stream in streams)):
            info = error_info(error)
            assert (error.code(), info.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXPIRED")
            assert (info.metadata["step"], info.metadata["limit"]) == ("2", "1.5")
        x = series(0, 5)
        assert said(await caller.track("rnn", [x])) == graph_says(running.bundles["rnn"], x).tobytes()
        assert await small.metric("trivium_live_streams") == 0


async def test_a_caller_that_never_reads_is_let_go(running: Running, small: Replica) -> None:
    """`gru` answers 128 numbers a step: what the transport takes in for the caller is soon full."""
    ended = {"code": "DEADLINE_EXCEEDED", "reason": "DEADLINE_EXPIRED"}
    before = await small.metric("trivium_calls_total", **ended)
    async with calling(small.address) as caller:
        stream = caller.stream()
        await stream.send(model="gru")

        async def send() -> None:
            x = series(0, 256, 2)
            while True:
                await stream.send(x)

        sending = asyncio.create_task(send())
        async with asyncio.timeout(30):
            while await small.metric("trivium_calls_total", **ended) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # the instance tells of it by nothing else: its caller does not listen
        assert await small.metric("trivium_live_streams") == 0
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        stream.call.cancel()


async def test_sequences_have_a_limit_and_silent_ones_are_forgotten(small: Replica) -> None:
    async with calling(small.address) as caller:
        assert [await start_sequence(caller, number) for number in (1, 2, 3)] == ["", "", "QUEUE_FULL"]
        assert await small.metric("trivium_live_sequences") == 2
        for _ in range(100):  # until there is a place for it
            if (reason := await start_sequence(caller, 3)) != "QUEUE_FULL":
                break
            await asyncio.sleep(0.1)
        assert reason == ""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.infer("rnn", series(0, 1), sequence_id=1)
        assert error_info(caught.value).reason == "SEQUENCE_NOT_STARTED"


async def start_sequence(caller: Caller, sequence_id: int) -> str:
    """Why it was refused; empty if it was not."""
    try:
        await caller.infer("rnn", series(0, 1), sequence_id=sequence_id, sequence_start=True)
    except grpc.aio.AioRpcError as error:
        return str(error_info(error).reason)
    return ""


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_a_model_says_that_it_keeps_state_and_how_far_it_looks(running: Running, where: str) -> None:
    caller: Caller = getattr(running, where)
    data = await caller.unary("/trivium.models.v1.ModelService/ListModels", b"")
    found = {model.name: model for model in models_pb2.ListModelsResponse.FromString(data).models}
    has = {name: (found[name].stateful, found[name].max_horizon, found[name].max_steps) for name in running.bundles}
    assert has == {
        "rnn": (True, 3, 4096),
        "lstm": (True, 3, 300),
        "gru": (True, 64, 1_000_000),
        "both": (False, 0, 4096),
        "any": (True, 3, 4096),
    }
    assert [(spec.name, list(spec.shape)) for spec in found["lstm"].inputs] == [("x", [-1, -1, 2])]
    assert [spec.name for spec in found["lstm"].outputs] == ["forecast"]


async def test_the_configuration_speaks_of_sequences_where_there_are_any(running: Running) -> None:
    async def config(name: str) -> oip.ModelConfig:
        request = oip.ModelConfigRequest(name=name).SerializeToString()
        data = await running.one.unary("/inference.GRPCInferenceService/ModelConfig", request)
        return oip.ModelConfigResponse.FromString(data).config

    rnn, both = await config("rnn"), await config("both")
    assert rnn.sequence_batching.max_sequence_idle_microseconds == 60_000_000
    assert rnn.WhichOneof("scheduling_choice") == "sequence_batching"
    assert both.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert [list(tensor.dims) for tensor in rnn.input] == [[-1, 1]]


async def test_the_default_bundles_answer(running: Running) -> None:
    files = sorted(SAMPLES.glob("[0-9]-*.csv"))
    assert len(files) >= 5
    for file in files:
        pixels = [float(text) for text in file.read_text().split(",")]
        answers = await running.gateway.track("", messages(np.array(pixels, np.float32).reshape(-1, 1), (8,)))
        assert (len(answers), answers[-1].classes[0].label, answers[0].model) == (64, file.name[0], "digits-rnn:1")
    assert len(await running.gateway.forecast("sunspots-lstm", [5.0, 11, 16, 23, 36])) == 4 * 12


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_an_unmodified_tritonclient_has_its_sequences(running: Running, where: str) -> None:
    address = running.replicas[0].address if where == "one" else running.gateway_address
    script = str(Path(__file__).with_name("triton_sequences.py"))
    seen = json.loads(await python(script, address, "rnn"))
    expected = [graph_says(running.bundles["rnn"], np.array(x, np.float32).reshape(-1, 1)) for x in seen["series"]]
    assert len(expected) == 4
    for kind in ("unary", "stream"):
        for answers, known in zip(seen[kind], expected, strict=True):
            assert np.array(answers, np.float32).tobytes() == known.tobytes()
    assert seen["not_started"][0] == "StatusCode.FAILED_PRECONDITION"
    assert "must specify the START flag on the first request of the sequence" in seen["not_started"][1]
    assert seen["no_id"][0] == "StatusCode.INVALID_ARGUMENT"
    assert "must specify a non-zero or non-empty correlation ID" in seen["no_id"][1]
    assert "must specify the START flag" in seen["stream_error"]
    assert seen["batching"] == "sequence_batching"
