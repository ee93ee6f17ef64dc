"""`python -m tests.gpu_check.deaths [--kills N]`: instances on the GPU die, and their texts go on at others.

Every text, greedy or drawn, with penalties, biases and stop strings, is compared with that of an unbroken call. None
may be lost. Other tokens, and other bits of log-probabilities, are counted: a GPU adds up in another order for another
number of texts.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from services.kit.inference.engine import has_cuda_driver
from services.kit.telemetry import LogSettings, configure_logs
from services.kit.transport.upstream import Upstream
from tests.chaos.live_texts import Known, LiveTexts, random_request, written
from tests.chaos.mortal import Mortal
from tests.gpu_check import gpu
from tests.harness import Replica, Suite, serving
from tests.language_bundles import Kind, Precision, tiny_bundle
from tests.texts import Written
from trivium.language.v1 import language_pb2 as pb

MODEL: Kind = "novel"
INSTANCES, CALLS, REQUESTS = 3, 12, 16
LONGEST, ANSWERS = 160, 400  # tokens: of a text, and between two deaths at most


class Running(Mortal):
    """Instances on the GPU, and a gateway."""

    def __init__(self, suite: Suite, folder: Path, device: str) -> None:
        super().__init__(suite)
        self._settings: dict[str, Any] = {"BUNDLES_DIR": folder, "DEFAULT_MODEL": MODEL, "ENGINE__DEVICE": device}

    async def start(self, name: str) -> Replica:
        """One more instance."""
        replica = await self.suite.start("language", name, **self._settings)
        self.instances.append(replica)
        return replica

    async def start_gateway(self) -> None:
        """The one that calls go through."""
        self.gateways["gateway"] = gateway = await self.suite.start_gateway()
        await serving(gateway.address, f"model/{MODEL}")


class Others:
    """Counts calls whose texts are not those of the unbroken call."""

    def __init__(self) -> None:
        self.tokens = self.bits = 0

    def watched(self, unbroken: dict[bytes, list[Written]]) -> Callable[..., Awaitable[list[Written]]]:
        """As `written`, with the unbroken texts in the place of others, after they have been counted."""

        async def ask(upstream: Upstream, request: pb.GenerateRequest, came: Callable[[int], Any]) -> list[Written]:
            found, wanted = await written(upstream, request, came), unbroken[_key(request)]
            if [text.tokens for text in found] != [text.tokens for text in wanted]:
                self.tokens += 1
            elif found != wanted:
                self.bits += 1
            return wanted

        return ask


def _key(request: pb.GenerateRequest) -> bytes:
    return request.SerializeToString(deterministic=True)


def request(rng: random.Random) -> Any:
    """Of the model that is meant."""
    while (found := random_request(rng, LONGEST)).model != MODEL:
        pass
    return found


async def main(kills: int, device: str, precision: Precision) -> int:
    """The exit code: 1 if a text was lost or became another one."""
    if device == "cuda" and not has_cuda_driver():
        print("no GPU here (libcuda.so.1 does not load, or sees no device): nothing was checked")
        return 0
    with tempfile.TemporaryDirectory(prefix="trivium-gpu-") as name:
        folder = Path(name)
        await asyncio.to_thread(tiny_bundle, folder / "bundles", MODEL, precision=precision)
        async with Suite.open(folder) as suite:
            running, rng = Running(suite, folder / "bundles", device), random.Random(5)
            await asyncio.gather(*(running.start(f"language-{number}") for number in range(1, INSTANCES + 1)))
            await running.start_gateway()
            async with running.caller() as upstream:
                asked = [request(rng) for _ in range(REQUESTS)]
                unbroken = await asyncio.gather(*(written(upstream, one) for one in asked))
                texts, others = LiveTexts(upstream, list(map(Known, asked, unbroken)), rng, written), Others()
                texts.ask = others.watched(dict(zip(map(_key, asked), unbroken, strict=True)))
                async with texts.running(CALLS):
                    await running.kill_again_and_again(texts, kills, ANSWERS, rng)
                    await texts.more(ANSWERS)
            resumed = await running.resumes()
    where = f"{gpu.describe() if device == 'cuda' else 'the CPU'}, {precision}"
    print(
        f"{where}: {kills} or {kills + 1} instances killed, {texts.begun} calls, {texts.tokens} tokens, "
        f"{resumed:.0f} resumed, {len(texts.failures)} failed; {others.tokens} calls with another token than the "
        f"unbroken one, {others.bits} with another log-probability"
    )
    for failure in texts.failures:
        print(f"failed: {failure}")
    return int(bool(texts.failures) or texts.begun != texts.ended or not resumed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.gpu_check.deaths", description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: try the check itself")
    parser.add_argument("--precision", choices=("FP32", "FP16", "BF16"), default="FP16", help="of the model")
    given = parser.parse_args()
    configure_logs(LogSettings(level="error"))
    sys.exit(asyncio.run(main(given.kills, given.device, given.precision)))
