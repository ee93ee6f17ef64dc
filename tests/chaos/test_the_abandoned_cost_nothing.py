"""Callers that die without a goodbye leave nothing behind: neither streams nor sequences nor memory."""

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from tests.harness import Replica, Suite, serving
from tests.recurrent import KINDS, recurrent_bundle

MODEL = "rnn"
MIB = 2**20
LIMIT_S = 60


async def opened_and_killed(gateway: Replica, count: int) -> None:
    """A process that opens so many streams, and is then killed."""
    command = (sys.executable, "-m", "tests.chaos.abandon", gateway.address, MODEL, str(count))
    caller = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert caller.stdout is not None
    async with asyncio.timeout(LIMIT_S):
        assert await caller.stdout.readline() == b"opened\n"
    caller.kill()
    await caller.wait()


async def gone(service: Replica, gateway: Replica) -> None:
    """Returns when neither of them has a stream or a sequence."""
    async with asyncio.timeout(LIMIT_S):
        while any(  # noqa: ASYNC110
            [
                await service.metric("trivium_live_streams"),
                await service.metric("trivium_live_sequences"),
                await gateway.metric("trivium_gateway_live_streams"),
                await gateway.metric("trivium_gateway_live_sequences"),
            ]
        ):
            await asyncio.sleep(0.1)  # the processes tell of it by nothing but their metrics


async def waves(tmp_path: Path, *, count: int, times: int) -> list[float]:
    """MiB that service and gateway have together after each wave of abandoned streams."""
    folder = tmp_path / "bundles"
    recurrent_bundle(folder, MODEL, **KINDS[MODEL])
    async with Suite.open(tmp_path) as suite:
        service = await suite.start("sequence", "sequence-1", BUNDLES_DIR=folder, BATCHER__MAX_BATCH=16)
        gateway = await suite.start_gateway(SEQUENCES__IDLE_S=1)
        await serving(gateway.address, f"model/{MODEL}")
        processes = [psutil.Process(replica.child.pid) for replica in (service, gateway)]
        found = []
        for _ in range(times):
            await opened_and_killed(gateway, count)
            await gone(service, gateway)
            found.append(sum(process.memory_info().rss for process in processes) / MIB)
        return found


async def test_streams_of_a_caller_that_was_killed_end(tmp_path: Path) -> None:
    assert len(await waves(tmp_path, count=200, times=1)) == 1


@pytest.mark.long
async def test_ten_thousand_of_them_leave_memory_as_it_was(tmp_path: Path) -> None:
    memory = await waves(tmp_path, count=1000, times=12)
    print("MiB after each thousand:", [round(mib) for mib in memory])
    assert max(memory[-3:]) - min(memory[1:4]) < 32, memory
