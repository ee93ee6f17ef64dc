"""`python -m tests.chaos.abandon ADDRESS MODEL COUNT`: opens streams and sequences, says so, and waits to be killed."""

import asyncio
import sys
from typing import Any

import grpc

from inference import grpc_service_pb2 as oip
from trivium.sequence.v1 import sequence_pb2 as pb

AT_ONCE = 32


async def main(address: str, model: str, count: int) -> None:
    """Each stream and sequence takes one step and stays open."""
    gate, calls = asyncio.Semaphore(AT_ONCE), []
    channel = grpc.aio.insecure_channel(address)

    async def stream() -> None:
        async with gate:
            call: Any = channel.stream_stream("/trivium.sequence.v1.SequenceService/Track")()
            await call.write(pb.TrackRequest(model=model, values=[0.5]).SerializeToString())
            assert pb.TrackResponse.FromString(await call.read()).steps[0].step == 1
            calls.append(call)

    async def sequence(number: int) -> None:
        async with gate:
            request = oip.ModelInferRequest(model_name=model)
            request.inputs.add(name="x", datatype="FP32", shape=[1, 1, 1]).contents.fp32_contents.append(0.5)
            request.parameters["sequence_id"].string_param = f"{id(channel)}-{number}"
            request.parameters["sequence_start"].bool_param = True
            infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            await infer(request.SerializeToString())

    await asyncio.gather(*(stream() for _ in range(count)), *(sequence(number) for number in range(count // 10)))
    print("opened", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
