"""Nothing is computed for a caller that has no time left or has gone."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from inference import grpc_service_pb2 as oip
from tests import bundles
from tests.harness import OPTIONS, Replica, Suite, error_info, serving

CALLS = 500
LEAVING = 120
INFER = "/inference.GRPCInferenceService/ModelInfer"
ROUNDS = 150  # of the slow bundle: a run of about 50 ms


def request() -> bytes:
    message = oip.ModelInferRequest(model_name="slow")
    message.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    message.raw_input_contents.append(np.zeros(1, np.float32).tobytes())
    return message.SerializeToString()


async def start(suite: Suite, folder: Path) -> tuple[Replica, Replica]:
    bundles.slow(folder / "bundles", rounds=ROUNDS, max_batch=1)
    service = await suite.start(
        "vision", "vision-1", BUNDLES_DIR=folder / "bundles", BATCHER__MAX_QUEUE=1000, DEFAULT_MODEL="slow"
    )
    gateway = await suite.start_gateway()
    await serving(gateway.address, "model/slow")
    return service, gateway


async def outcome(call: Any) -> str:
    """OK, or the code and reason of the failure."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {error_info(error).reason}".strip()
    except asyncio.CancelledError:
        return "CANCELLED"
    return "OK"


async def runs(service: Replica) -> float:
    """Items that the engine has computed."""
    return await service.metric("trivium_batch_rows_sum", model="slow")


async def test_no_item_reaches_the_engine_after_its_deadline(tmp_path: Path) -> None:
    async with Suite.open(tmp_path) as suite:
        service, gateway = await start(suite, tmp_path)
        async with grpc.aio.insecure_channel(gateway.address, options=OPTIONS) as channel:
            infer: Any = channel.unary_unary(INFER)
            await infer(request(), timeout=30)  # calls that wait for the connection would not arrive in their order
            before = await runs(service)
            outcomes = await asyncio.gather(*(outcome(infer(request(), timeout=2)) for _ in range(CALLS)))
            computed = await runs(service) - before
            late = await service.metric("trivium_batch_late_items_total")
            assert await outcome(infer(request(), timeout=10)) == "OK"  # the next caller finds a free engine
    answered = outcomes.count("OK")
    assert len(outcomes) == CALLS
    assert late == 0
    assert 0 < answered < CALLS  # the queue was longer than the deadline, and good callers were served
    assert computed < CALLS / 2
    assert set(outcomes) <= {
        "OK",
        "DEADLINE_EXCEEDED",
        "DEADLINE_EXCEEDED DEADLINE_EXPIRED",
        "RESOURCE_EXHAUSTED DEADLINE_UNREACHABLE",
        "RESOURCE_EXHAUSTED QUEUE_FULL",
    }


async def test_callers_that_leave_are_not_computed_for(tmp_path: Path) -> None:
    async with Suite.open(tmp_path) as suite:
        service, gateway = await start(suite, tmp_path)
        async with grpc.aio.insecure_channel(gateway.address, options=OPTIONS) as channel:
            infer: Any = channel.unary_unary(INFER)
            await infer(request(), timeout=30)  # calls that wait for the connection would not arrive in their order
            before = await runs(service)
            calls = [infer(request(), timeout=30) for _ in range(LEAVING)]
            await calls[0]
            for call in calls[1:]:
                call.cancel()
            await asyncio.gather(*(outcome(call) for call in calls[1:]))
            assert await outcome(infer(request(), timeout=60)) == "OK"  # answered when those before it are gone
            assert await runs(service) - before < LEAVING / 2
            assert await service.metric("trivium_batch_dropped_items_total", reason="cancelled") > 0
