"""Track streams through the gateway while the instances and the versions of a bundle come and go."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from services.kit.inference.bundle import Bundle
from tests.harness import OPTIONS, Suite, serving
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
            expected = [answer async for answer in track(messages())]
            assert len(expected) == STEPS
            call = track(messages())
            answers = aiter(call)
            found = [await anext(answers)]
            one.send(signal.SIGSTOP)  # long before the last step
            await suite.start("sequence", "two", BUNDLES_DIR=new)
            await serving(gateway.address, "model/rolling/2")
            one.kill()
            found += [answer async for answer in answers]
            assert found == expected
            assert ("trivium-attempts", "2") in tuple(await call.trailing_metadata())
