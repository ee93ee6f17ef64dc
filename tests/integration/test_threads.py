"""Threads of a real process of each service, counted by the operating system."""

import asyncio
from pathlib import Path

import psutil
import pytest

from tests.harness import Suite


@pytest.mark.asyncio
@pytest.mark.parametrize("service", ["vision", "sequence", "language"])
async def test_all_models_of_a_process_compute_with_the_same_threads(service: str, tmp_path: Path) -> None:
    """Those of each would take the cores from the runs of the others; each service has three models or more."""

    async def threads(computing: int) -> int:
        replica = await suite.start(service, f"{service}-{computing}", ENGINE__THREADS=computing, ENGINE__DEVICE="cpu")
        return psutil.Process(replica.child.pid).num_threads()

    async with Suite.open(tmp_path) as suite:
        many, few = await asyncio.gather(threads(8), threads(1))
    assert 3 <= many - few < 2 * 7  # seven, and what else a process may have begun by then or not
