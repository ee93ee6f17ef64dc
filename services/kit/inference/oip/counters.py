"""Counters: a batcher's statistics in Triton's message, as perf_analyzer reads it."""

from inference import grpc_service_pb2 as pb
from services.kit.inference.model import Model
from services.kit.inference.statistics import Total


def counters(model: Model[object]) -> pb.ModelStatistics:
    """What this version has counted since it was loaded."""
    counted = model.statistics
    return pb.ModelStatistics(
        name=model.name,
        version=str(model.version),
        last_inference=int(counted.last_inference_time * 1e3),
        inference_count=counted.inferences,
        execution_count=counted.executions,
        inference_stats=pb.InferStatistics(
            success=_duration(counted.success),
            fail=_duration(counted.fail),
            queue=_duration(counted.queue),
            compute_input=_duration(counted.compute_input),
            compute_infer=_duration(counted.compute_infer),
            compute_output=_duration(counted.compute_output),
            cache_hit=pb.StatisticDuration(),
            cache_miss=pb.StatisticDuration(),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=rows,
                compute_input=_duration(run.input),
                compute_infer=_duration(run.infer),
                compute_output=_duration(run.output),
            )
            for rows, run in sorted(counted.batches.items())
        ],
    )


def _duration(total: Total) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=total.count, ns=int(total.seconds * 1e9))
