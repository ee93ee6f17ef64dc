"""Descriptions: a model in the words of the protocol's metadata, of Triton's configuration and of its index."""

from inference import grpc_service_pb2 as pb
from services.kit.inference.batcher import BatcherSettings
from services.kit.inference.manifest import TensorSpec
from services.kit.inference.model import Model

PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"


def metadata(model: Model[object], versions: list[int]) -> pb.ModelMetadataResponse:
    """Public inputs and outputs; shapes with the batch."""
    response = pb.ModelMetadataResponse(name=model.name, versions=map(str, versions), platform=PLATFORM)
    for specs, tensors in ((model.manifest.inputs, response.inputs), (model.manifest.outputs, response.outputs)):
        for spec in specs:
            tensors.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    return response


def config(model: Model[object], batcher: BatcherSettings, sequence_idle_s: float) -> pb.ModelConfig:
    """How the model is served; dims without the batch.

    Args:
        sequence_idle_s: silence after which a model that keeps state forgets a sequence.
    """
    manifest, batched = model.manifest, model.max_batch > 0
    kind = pb.ModelInstanceGroup.KIND_GPU if model.engine.device == "cuda" else pb.ModelInstanceGroup.KIND_CPU
    result = pb.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=model.max_batch,
        version_policy=pb.ModelVersionPolicy(all=pb.ModelVersionPolicy.All()),
        default_model_filename="model.onnx",
        input=[
            pb.ModelInput(name=spec.name, data_type=_data_type(spec), dims=spec.shape[int(batched) :])
            for spec in manifest.inputs
        ],
        output=[
            pb.ModelOutput(name=spec.name, data_type=_data_type(spec), dims=spec.shape[int(batched) :])
            for spec in manifest.outputs
        ],
        instance_group=[pb.ModelInstanceGroup(name=f"{model.name}_0", count=1, kind=kind, gpus=model.engine.gpus)],
    )
    if manifest.stateful:
        result.sequence_batching.max_sequence_idle_microseconds = round(sequence_idle_s * 1e6)
    elif batched:
        result.dynamic_batching.max_queue_delay_microseconds = round(batcher.max_wait_ms * 1e3)
    result.model_transaction_policy.decoupled = manifest.decoupled
    result.parameters["service"].string_value = manifest.service
    result.parameters["task"].string_value = manifest.task
    return result


def _data_type(spec: TensorSpec) -> pb.DataType.ValueType:
    return pb.DataType.Value("TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}")
