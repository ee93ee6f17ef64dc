"""Asks a model by plain tensors with NVIDIA's tritonclient: python examples/python/triton.py [MODEL]

Needs `pip install tritonclient grpcio numpy`. The server speaks the Open Inference Protocol, so what was written for
Triton works: readiness, metadata and inference. Random numbers are no digits; the answer shows only that it runs.
"""

import os
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


def main() -> int:
    if len(sys.argv) > 2:
        print("usage: python examples/python/triton.py [MODEL]", file=sys.stderr)
        return 2
    client = triton.InferenceServerClient(os.environ.get("TRIVIUM_ADDRESS", "localhost:8001"))
    name = sys.argv[1] if len(sys.argv) > 1 else "digits-cnn"
    try:
        print(f"server ready: {client.is_server_ready()}, {name} ready: {client.is_model_ready(name)}")
        metadata = client.get_model_metadata(name)
        result = client.infer(name, [random_input(tensor) for tensor in metadata.inputs])
    except InferenceServerException as error:  # no server, or no such model
        print(error)
        return 1
    for tensor in metadata.outputs:
        values = result.as_numpy(tensor.name)
        print(f"{tensor.name} {tensor.datatype} {list(values.shape)}: {values.ravel()[:5]} ...")
    return 0


def random_input(tensor: object) -> triton.InferInput:
    """A tensor of random numbers as the metadata describes it; a free dimension has size 1."""
    shape = [max(size, 1) for size in tensor.shape]  # -1 is any size
    values = np.random.default_rng(0).random(shape) * 255
    made = triton.InferInput(tensor.name, shape, tensor.datatype)
    made.set_data_from_numpy(values.astype(triton.triton_to_np_dtype(tensor.datatype)))
    return made


if __name__ == "__main__":
    sys.exit(main())
