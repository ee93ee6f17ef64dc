"""Texts that share one model: who begins, who waits, who leaves, and what that costs the others."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from inference import grpc_service_pb2 as oip
from services.kit.transport.upstream import Upstream, UpstreamSettings
from services.language.settings import GenerationSettings
from tests.chaos.live_infer_texts import inferred as live_inferred
from tests.harness import Replica, error_info
from tests.language_suite import (
    LIMIT_S,
    WISHES,
    Running,
    always_written,
    becomes,
    being_written,
    caller_address,
    calling,
    counted,
    long_text,
    reaches,
    start,
    wish_of,
)
from tests.texts import (
    GENERATE,
    STREAM_INFER,
    Written,
    failure,
    infer_request,
    inferred,
    put_together,
    rest,
)
from trivium.language.v1 import language_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="package")
STATISTICS = "/inference.GRPCInferenceService/ModelStatistics"


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_a_caller_that_leaves_frees_its_place_and_costs_at_most_one_step(running: Running, where: str) -> None:
    replicas = running.replicas[:1] if where == "one" else running.replicas

    async def total(name: str, **labels: str) -> float:
        return sum([await counted(replica, name, **labels) for replica in replicas])

    reasons = ("cancelled", "length")  # some may have come to their ends before
    before = {reason: await total("texts_total", reason=reason) for reason in reasons}
    wasted, made = await total("wasted_steps_total"), await total("tokens_total", kind="made")
    async with being_written(running.at(where), 20, 480):
        pass
    for replica in replicas:
        await becomes(replica, 0, "texts_running")
        assert await counted(replica, "cache_tokens_reserved") == 0
    cancelled, ended = [await total("texts_total", reason=reason) - before[reason] for reason in reasons]
    assert cancelled + ended == 20
    assert cancelled >= 10
    assert await total("wasted_steps_total") - wasted <= cancelled
    assert await total("tokens_total", kind="made") - made < 20 * 480


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_readers_that_stop_hold_up_nobody_and_lose_nothing(
    running: Running, alone: dict[str, list[Written]], where: str
) -> None:
    """With 20 alternatives a token, what the transport takes in for them is soon full."""
    caller = running.at(where)
    requests = [long_text(seed, 450, logprobs=20) for seed in range(2)]
    known = await asyncio.gather(*(caller.text(**wish_of(request)) for request in requests))
    async with calling(caller_address(running, where)) as other:
        calls = [other.call(request) for request in requests]
        firsts = [pb.GenerateResponse.FromString(await call.read()) for call in calls]
        for name in ("drawn", "penalties", "a translation"):
            assert await caller.texts(**WISHES[name]) == alone[name]
        for replica in running.replicas:
            await becomes(replica, 0, "texts_running")  # they are written to their ends, though nobody reads
        for first, call, text in zip(firsts, calls, known, strict=True):
            more = await rest(call)
            assert put_together([first, *more]) == [text]
            if where == "one":
                assert max(len(message.token_ids) for message in more) > 1  # what waited came together


async def test_the_first_token_of_a_short_prompt_comes_within_three_steps_of_the_others(running: Running) -> None:
    steps = [made for _ in range(3) for made in await steps_before_first_tokens(running, 5)]
    assert sorted(steps)[len(steps) // 2] <= 3, steps


async def steps_before_first_tokens(running: Running, count: int) -> list[int]:
    """How many steps each of `count` short prompts waits for its token beside 15 texts.

    Counted in one stream, whose answers come in the order in which the instance gives them: a text of no tokens is
    answered when it is accepted, and behind it the short one, at which one of the others has gone on for so many steps.
    The rest of them are on a stream that nobody reads once they have begun: this caller is slower than the instance.
    """
    crowd: Any = running.one.channel.stream_stream(STREAM_INFER)(timeout=LIMIT_S)
    call: Any = running.one.channel.stream_stream(STREAM_INFER)(timeout=LIMIT_S)

    async def ask(stream: Any, name: str, count: int) -> None:
        request = infer_request("novel", name, count, ignore_eos=True)
        request.id = name
        await stream.write(request.SerializeToString())

    async def answer(stream: Any) -> tuple[str, int]:
        response = oip.ModelStreamInferResponse.FromString(await stream.read())
        assert response.error_message == ""
        return response.infer_response.id, len(inferred(response.infer_response)[1])

    others, begun, steps = {f"other {number}" for number in range(14)}, set[str](), []
    for name in others:
        await ask(crowd, name, 500)
    while begun != others:
        begun.add((await answer(crowd))[0])
    await ask(call, "counted", 500)
    assert (await answer(call))[0] == "counted"
    for number in range(count):
        await ask(call, f"none {number}", 0)
        await ask(call, f"short {number}", 1)
        made = 0
        while (found := await answer(call))[0] != f"short {number}":
            made = 0 if found[0] == f"none {number}" else made + found[1] * (found[0] == "counted")
        steps.append(made)
    assert await counted(running.replicas[0], "texts_running") == 15
    assert await counted(running.replicas[0], "cache_tokens_reserved") > 15 * 500
    for stream in (crowd, call):
        stream.cancel()
    await becomes(running.replicas[0], 0, "texts_running")
    return steps


async def test_a_long_prompt_does_not_stall_the_others(running: Running) -> None:
    replica = running.replicas[0]

    async def runs(kind: str) -> float:
        return await counted(replica, "step_seconds_count", kind=kind)

    async with always_written(running.one, 6):
        steps, pieces = await runs("decode"), await runs("prefill")
        await running.one.text(model="novel", prompt="y" * 500, max_new_tokens=1)
        pieces, steps = await runs("prefill") - pieces, await runs("decode") - steps
        assert pieces >= 501 // GenerationSettings().chunk_tokens  # it was read in pieces,
        assert steps >= pieces - 1  # and the others went on after each


async def test_a_prompt_that_begins_like_one_before_it_is_not_computed_again(running: Running) -> None:
    prompt = "The same beginning of many prompts, which is long enough to be kept. " * 3
    first = await running.one.text(model="novel", prompt=prompt, max_new_tokens=8, logprobs=2, seed=1)
    before = await counted(running.replicas[0], "reused_tokens_total")
    assert await running.one.text(model="novel", prompt=prompt, max_new_tokens=8, logprobs=2, seed=1) == first
    assert await counted(running.replicas[0], "reused_tokens_total") - before > 100


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def small(running: Running) -> AsyncIterator[Replica]:
    """An instance that writes one text at a time, and lets a hundred wait."""
    limits: dict[str, Any] = {"GENERATION__MAX_TEXTS": 1, "GENERATION__MAX_QUEUE": 100}
    replica = await start(running.suite, "small", running.folder, **limits)
    yield replica
    assert await replica.stop() == 0


async def test_higher_priorities_begin_first_and_then_the_earliest_deadlines(small: Replica) -> None:
    ended: list[str] = []

    async def asks(name: str, priority: int, timeout_s: float) -> None:
        # Long ones: the ends of texts that are milliseconds apart come in any order on their own streams.
        request = pb.GenerateRequest(model="novel", prompt=name, max_new_tokens=200, ignore_eos=True, priority=priority)
        put_together(await rest(caller.call(request, timeout_s)))
        ended.append(name)

    async with calling(small.address) as caller:
        known = await counted(small, "queue_seconds_count")
        before = [caller.call(long_text(seed, 500, n=8, priority=100)) for seed in range(10)]  # for many seconds
        await reaches(small, known + 80, "queue_seconds_count", "texts_waiting")  # begun and waiting
        async with asyncio.TaskGroup() as group:
            for name, priority, timeout_s in (("last", -5, 30), ("third", 0, 50), ("second", 0, 40), ("first", 7, 50)):
                group.create_task(asks(name, priority, timeout_s))
            await reaches(small, known + 80 + 4, "queue_seconds_count", "texts_waiting")
            assert ended == []
            for call in before:
                call.cancel()
    assert ended == ["first", "second", "third", "last"]


async def test_more_texts_than_may_wait_are_refused(small: Replica) -> None:
    wish = {"model": "recite", "prompt": "abc", "max_new_tokens": 100, "ignore_eos": True, "seed": 1}
    async with calling(small.address) as caller:
        whole = await caller.text(**wish)
        ends = await asyncio.gather(*(caller.text(**wish) for _ in range(140)), return_exceptions=True)
    assert ends.count(whole) >= 101
    refused = [error for error in ends if isinstance(error, grpc.aio.AioRpcError)]
    assert len(refused) + ends.count(whole) == 140
    assert refused
    for error in refused:
        info = error_info(error)
        assert (error.code(), info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert (info.metadata["limit"], info.metadata["executed"], info.metadata["token"]) == ("100", "no", "0")


async def test_a_deadline_ends_a_text_and_frees_its_place(small: Replica) -> None:
    async with calling(small.address) as caller:
        made, error = await failure(caller.call(long_text(1, 500), timeout_s=0.1))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert made < 500
        await becomes(small, 0, "texts_running")
        assert await counted(small, "texts_waiting") == 0


@pytest.mark.parametrize("method", [GENERATE, STREAM_INFER], ids=["Generate", "ModelStreamInfer"])
async def test_an_instance_that_leaves_hands_its_texts_over(running: Running, method: str) -> None:
    """It has more texts than it can end in the second in which it still takes calls."""
    leaving = await start(running.suite, "leaving", running.folder)
    requests = [long_text(seed, 450) for seed in range(12)]
    known = await asyncio.gather(*(running.one.text(**wish_of(request)) for request in requests))
    upstream, before = Upstream(running.gateway_replica.address, UpstreamSettings()), await resumes(running, method)
    over = asyncio.Event()

    async def streamed(number: int) -> tuple[str, list[int]]:
        """The same text by the Open Inference Protocol."""
        request = infer_request("novel", f"text {number}", 450, seed=number, temperature=1.0, ignore_eos=True)
        (text,) = await live_inferred(upstream, [request])
        return text.text, text.tokens

    async def neighbour(number: int) -> None:
        while True:
            if method == STREAM_INFER:
                assert await streamed(number) == (known[number].text, known[number].tokens)
            else:
                assert await running.gateway.text(**wish_of(requests[number])) == known[number]
            if over.is_set():
                return

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(upstream.close)
        caller = await stack.enter_async_context(calling(leaving.address))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for number in range(6):
            group.create_task(neighbour(number))
        await reaches(leaving, 1, "texts_running")  # the gateway has found it
        direct = [caller.call(long_text(seed, 450, n=8)) for seed in range(6)]
        await reaches(leaving, 8, "texts_waiting")
        for number in range(6, 12):
            group.create_task(neighbour(number))
        await reaches(leaving, 6 * 8 + 2, "texts_running", "texts_waiting")
        leaving.send(signal.SIGTERM)
        ends = await asyncio.gather(*map(failure, direct))
        over.set()
        assert await leaving.child.wait() == 0
    for made, error in ends:
        info = error_info(error)
        assert (error.code(), info.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert (info.metadata["stage"], info.metadata["token"]) == ("stream", str(made))
    assert sum(made for made, _ in ends) > 0
    assert await resumes(running, method) > before
    assert "calls_cut_off" not in leaving.log.read_text()


async def resumes(running: Running, method: str) -> float:
    return await running.gateway_replica.metric("trivium_gateway_stream_resumes_total", method=method)


async def test_model_statistics_count_texts(running: Running) -> None:
    async def counts() -> tuple[int, int, int]:
        data = await running.two.unary(STATISTICS, oip.ModelStatisticsRequest(name="recite"))
        (found,) = oip.ModelStatisticsResponse.FromString(data).model_stats
        return found.inference_count, found.inference_stats.success.count, found.execution_count

    before = await counts()
    await asyncio.gather(*(running.two.text(model="recite", prompt="x" * (1 + n), max_new_tokens=6) for n in range(5)))
    await running.two.texts(model="recite", prompt="x", max_new_tokens=6, n=3)
    after = await counts()
    assert (after[0] - before[0], after[1] - before[1]) == (8, 8)
    assert 12 <= after[2] - before[2] <= 8 * 6


async def test_its_metrics_are_there(running: Running) -> None:
    names = {name for name, _ in await running.replicas[0].metrics()}
    expected = {
        "tokens_total", "step_seconds_count", "step_rows_count", "first_token_seconds_count", "queue_seconds_count",
        "texts_total", "reused_tokens_total", "wasted_steps_total", "texts_running", "texts_waiting",
        "cache_tokens_reserved", "cache_tokens_capacity",
    }  # fmt: skip
    assert {f"trivium_generation_{name}" for name in expected} <= names
