"""Track streams while instances, the versions of a bundle, and gateways come and go."""

import asyncio
import contextlib
import dataclasses
import itertools
import math
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2

from services.kit.deadline import Deadline
from services.kit.inference.bundle import Bundle
from services.kit.transport.upstream import CallFailed, Upstream, UpstreamSettings
from tests.harness import OPTIONS, Suite, serving
from tests.tracked import Answered, by_step
from trivium.sequence.v1 import sequence_pb2 as pb

TRACK = "/trivium.sequence.v1.SequenceService/Track"
STEPS = 1000  # of one message


async def test_a_message_that_was_answered_in_part_is_answered_to_its_end_by_the_version_that_began(
    recurrent_bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, version, name in ((old, 1, "gru"), (new, 1, "gru"), (new, 2, "lstm")):
        shutil.copytree(recurrent_bundles[name].path, folder / "rolling" / str(version))
    series = pb.TrackRequest(model="rolling", values=[number % 7 / 7 for number in range(2 * STEPS)])

    async def messages() -> AsyncIterator[bytes]:
        yield series.SerializeToString()

    async with Suite.open(tmp_path) as suite:
        slow = {"BUNDLES_DIR": old, "SERIES__WINDOW_STEPS": 1}  # a run for each step
        gateway, one = await asyncio.gather(suite.start_gateway(), suite.start("sequence", "one", "", **slow))
        await serving(gateway.address, "model/rolling/1")
        async with grpc.aio.insecure_channel(gateway.address, options=OPTIONS) as channel:
            track: Any = channel.stream_stream(TRACK)
            expected = by_step([data async for data in track(messages())])
            assert len(expected) == STEPS
            call = track(messages())
            answers = aiter(call)
            found = by_step([await anext(answers)])
            one.send(signal.SIGSTOP)  # long before the last step
            await suite.start("sequence", "two", BUNDLES_DIR=new)
            await serving(gateway.address, "model/rolling/2")
            one.kill()
            found += by_step([data async for data in answers])
            assert found == expected
            attempts = int(dict(await call.trailing_metadata())["trivium-attempts"])
            assert attempts >= 2  # more, where the second instance took so long that the silent one was tried again


async def track(
    upstream: Upstream, messages: Sequence[Sequence[float]], *, state: bytes = b"", stays: bool = False
) -> AsyncIterator[Answered]:
    """The answers to the messages, which are sent at once, of a stream that begins with that state.

    Args:
        stays: the caller does not end the stream.
    """

    async def requests() -> AsyncIterator[bytes]:
        yield pb.TrackRequest(model="gru", resume_state=state, return_state=True).SerializeToString()
        for values in messages:
            yield pb.TrackRequest(values=values).SerializeToString()
        if stays:
            await asyncio.Event().wait()

    async with contextlib.aclosing(upstream.stream(TRACK, requests(), (), Deadline.after(30), [])) as answers:
        async for data in answers:
            for answer in by_step([data]):
                yield dataclasses.replace(answer, model="")  # each stream tells it once


async def test_a_stream_whose_gateway_died_goes_on_through_another_one_to_the_bit_with_the_state_that_its_caller_has(
    recurrent_bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    steps = [(math.sin(number), math.cos(3 * number)) for number in range(30)]
    cuts = [0, 1, 8, 10, 23, 30]  # into messages
    messages = [[value for step in steps[a:b] for value in step] for a, b in itertools.pairwise(cuts)]
    got = [1, 5, 8, 9, 10, 22, 23, 29]  # answers that a caller has when its gateway dies

    async with Suite.open(tmp_path) as suite:
        folder = recurrent_bundles["gru"].path.parents[1]
        first, second, _ = await asyncio.gather(
            suite.start_gateway("first"),
            suite.start_gateway("second"),
            suite.start("sequence", "one", BUNDLES_DIR=folder),
        )
        await asyncio.gather(*(serving(gateway.address, "model/gru/1") for gateway in (first, second)))
        one, two = (Upstream(gateway.address, UpstreamSettings()) for gateway in (first, second))
        unbroken = [answer async for answer in track(two, messages)]
        assert [bool(answer.state) for answer in unbroken] == [step in cuts for step in range(1, 31)]

        streams = [track(one, messages[: sum(cut < count for cut in cuts[:-1])], stays=True) for count in got]
        found = [[await anext(stream) for _ in range(count)] for stream, count in zip(streams, got, strict=True)]
        first.kill()
        for stream, answers in zip(streams, found, strict=True):
            with pytest.raises(CallFailed) as raised:
                [answer async for answer in stream]
            assert raised.value.status.code == code_pb2.UNAVAILABLE
            had = max(answer.step for answer in answers if answer.state)  # those after it are asked for again
            state = answers[had - 1].state
            rest = [answer async for answer in track(two, messages[cuts.index(had) :], state=state)]
            assert answers[:had] + rest == unbroken
        await asyncio.gather(one.close(), two.close())
