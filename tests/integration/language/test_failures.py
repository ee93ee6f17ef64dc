"""Runs that fail in an instance: the texts that no run can take end, and the others do not notice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from tests.frail import frail
from tests.harness import Replica, Suite, error_info, serving
from tests.language_bundles import tiny_bundle, tokenizer
from tests.language_suite import LIMIT_S, calling, start
from tests.texts import Caller, failure
from trivium.language.v1 import language_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Failing:
    """Two instances of a sound model and of its frail twin, and a gateway."""

    replicas: list[Replica]
    gateway_replica: Replica
    one: Caller
    gateway: Caller
    character: str  # which the frail one cannot compute

    def wish(self, number: int, model: str = "frail") -> dict[str, Any]:
        """A text that never has the character."""
        (token,) = tokenizer().encode(self.character).ids
        return {
            "model": model,
            "prompt": f"def f{number}(x):",
            "max_new_tokens": 60,
            "temperature": 1.0,
            "seed": number,
            "logprobs": 2,
            "ignore_eos": True,
            "logit_bias": {token: -100.0},
        }

    def bad(self, number: int) -> pb.GenerateRequest:
        """A text that has it: in its prompt, or as its first or a later token."""
        (token,) = tokenizer().encode(self.character).ids
        request = pb.GenerateRequest(model="frail", prompt=f"bad {number} ", max_new_tokens=40, ignore_eos=True)
        if number % 3 == 0:
            request.prompt += f"{self.character} and more"
        elif number % 3 == 1:
            request.logit_bias[token] = 100.0
        else:
            request.logit_bias.update({65: 20.0, token: 19.0})
            request.frequency_penalty = 2.0
        return request


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def failing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Failing]:
    folder: Path = tmp_path_factory.mktemp("frail_bundles")
    tiny_bundle(folder, "gpt")
    character = frail(folder)
    async with Suite.open(tmp_path_factory.mktemp("failing")) as suite, contextlib.AsyncExitStack() as stack:
        gateway, *replicas = await asyncio.gather(
            suite.start_gateway(), *(start(suite, f"language-{n}", folder) for n in (1, 2))
        )
        await serving(gateway.address, "model/frail")
        one, both = [await stack.enter_async_context(calling(found.address)) for found in (replicas[0], gateway)]
        yield Failing(replicas, gateway, one, both, character)


async def failed_runs(replica: Replica) -> float:
    return await replica.metric("trivium_batch_failed_runs_total", model="frail")


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_texts_that_no_run_can_take_end_alone_and_the_others_get_their_bits(failing: Failing, where: str) -> None:
    caller: Caller = getattr(failing, where)
    expected = [await failing.one.text(**failing.wish(number, "gpt")) for number in range(12)]
    before = sum([await failed_runs(replica) for replica in failing.replicas])
    async with asyncio.TaskGroup() as group:
        good = [group.create_task(caller.text(**failing.wish(number))) for number in range(12)]
        bad = [group.create_task(failure(caller.call(failing.bad(number)))) for number in range(6)]
    assert [task.result() for task in good] == expected
    for number, (made, error) in enumerate(task.result() for task in bad):
        info = error_info(error)
        assert (error.code(), info.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert info.metadata["executed"] == "unknown"
        assert made == number % 3 if number % 3 < 2 else made > 1
    assert sum([await failed_runs(replica) for replica in failing.replicas]) - before >= 6
    assert await caller.text(**failing.wish(0)) == expected[0]  # the model is there as before
    assert not any("scheduler_broken" in replica.log.read_text() for replica in failing.replicas)


async def test_a_text_that_fails_goes_on_at_another_instance_as_far_as_that_can(failing: Failing) -> None:
    """Both fail with this one: after either has, the caller is told."""
    async with asyncio.timeout(LIMIT_S):  # the gateway may keep one away for the texts before
        while await failing.gateway_replica.metric("trivium_gateway_ejected_endpoints"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    resumes = await failing.gateway_replica.metric("trivium_gateway_stream_resumes_total")
    before = [await failed_runs(replica) for replica in failing.replicas]
    made, error = await failure(failing.gateway.call(failing.bad(1)))
    assert (made, error.code()) == (1, grpc.StatusCode.INTERNAL)
    assert await failing.gateway_replica.metric("trivium_gateway_stream_resumes_total") > resumes
    assert all([await failed_runs(replica) > known for replica, known in zip(failing.replicas, before, strict=True)])
