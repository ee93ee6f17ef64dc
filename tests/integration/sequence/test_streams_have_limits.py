"""Streams and sequences that stop, stay silent or outlive their instance end, and hold up nobody else."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

from inference import grpc_service_pb2 as oip
from services.kit.inference.bundle import Bundle
from tests.harness import OPTIONS, Replica, error_info
from tests.hostile import details
from tests.integration.sequence.instances import NEIGHBOURS, Running, calling, series
from tests.series import Caller, graph_says, messages, said, whole_stream
from trivium.sequence.v1 import sequence_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="package")
STATISTICS = "/inference.GRPCInferenceService/ModelStatistics"


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


@pytest_asyncio.fixture(scope="module", loop_scope="package")
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
        # It may be refused before it has said anything; grpc.aio now and then loses the status of a stream then.
        request = pb.TrackRequest(model="rnn", values=[1.0]).SerializeToString()
        with grpc.insecure_channel(small.address, options=OPTIONS) as channel:
            _, refused = await asyncio.to_thread(whole_stream, channel, iter([request]))
        code, info, _ = details(refused)
        assert (code, info.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
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
