"""Mortal: a suite whose instances die and come again while something lives on them."""

import asyncio
import contextlib
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Protocol

from services.kit.transport.upstream import Upstream, UpstreamSettings
from tests.harness import Replica, Suite


class Live(Protocol):
    """What goes on over the deaths, as many calls at a time."""

    failures: list[str]
    begun: int
    ended: int

    async def more(self, answers: int, /) -> None:
        """Returns after so many more answers."""


class Mortal(ABC):
    """Instances, of which one or two at a time may be missing, and the gateways before them, by name."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.instances: list[Replica] = []
        self.gateways: dict[str, Replica] = {}

    @abstractmethod
    async def start(self, name: str) -> Replica:
        """One more instance."""

    def kill(self, replica: Replica) -> None:
        self.instances.remove(replica)
        replica.kill()

    async def again(self, replica: Replica) -> None:
        await replica.child.wait()
        await self.start(replica.name)

    async def resumes(self, **labels: str) -> float:
        return await self.gateways["gateway"].metric("trivium_gateway_stream_resumes_total", **labels)

    @contextlib.asynccontextmanager
    async def caller(self, gateway: str = "gateway") -> AsyncIterator[Upstream]:
        """The kit's own client, since a plain grpc.aio stream now and then loses the status that it ended with."""
        upstream = Upstream(self.gateways[gateway].address, UpstreamSettings())
        try:
            yield upstream
        finally:
            await upstream.close()

    async def kill_again_and_again(self, live: Live, kills: int, answers: int, rng: random.Random) -> None:
        """Kills a random instance after 1 to `answers` answers; every third time or so, two right after one another."""
        done = 0
        while done < kills and not live.failures:
            await live.more(rng.randint(1, answers))
            doomed = [rng.choice(self.instances)]
            self.kill(doomed[0])
            if done % 4 == 1:
                await live.more(rng.randint(1, answers // 10))
                doomed.append(rng.choice(self.instances))
                self.kill(doomed[1])
            done += len(doomed)
            await asyncio.gather(*map(self.again, doomed))


def complete(live: Live) -> None:
    """Nothing is missing, and nothing failed."""
    assert not live.failures, live.failures
    assert live.begun == live.ended
