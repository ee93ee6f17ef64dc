"""What an unmodified tritonclient.grpc sees of the server at argv[1]; run in a process of its own, prints JSON.

tritonclient's generated code and ours have the same symbols and cannot live in one process.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from PIL import Image


def digits(client: Any, folder: Path) -> dict[str, Any]:
    """The class of every held-out sample, asked as tensors."""
    found = {}
    for path in sorted(folder.glob("[0-9]-*.png")):
        pixels = np.asarray(Image.open(path).convert("L").resize((28, 28), Image.Resampling.BILINEAR))
        tensor = triton.InferInput("image", [1, 28, 28, 1], "UINT8")
        tensor.set_data_from_numpy(pixels.reshape(1, 28, 28, 1))
        wanted = [triton.InferRequestedOutput("logits", class_count=1)]
        answer = client.infer("digits-cnn", [tensor], outputs=wanted, client_timeout=10)
        found[path.name] = answer.as_numpy("logits").reshape(-1)[0].decode().split(":")[2]
    return found


def refusal(call: Any) -> list[str]:
    """Status and message of a call that must fail."""
    try:
        call()
    except triton.InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    return ["OK", ""]


def stream(client: Any) -> list[float]:
    """Ten requests on one stream."""
    answers: list[Any] = []
    client.start_stream(callback=lambda result, error: answers.append(error or result))
    for number in range(10):
        tensor = triton.InferInput("x", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.full((1, 4), number, np.float32))
        client.async_stream_infer("identity", [tensor], request_id=str(number))
    client.stop_stream()
    return [float(answer.as_numpy("y")[0, 0]) for answer in answers]


def wrong_shape() -> Any:
    tensor = triton.InferInput("x", [1, 3], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 3), np.float32))
    return [tensor]


def main() -> None:
    """Asks for everything and prints it."""
    address, samples = sys.argv[1], Path(sys.argv[2])
    with triton.InferenceServerClient(address) as client:
        seen = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready("digits-cnn"),
            "server": client.get_server_metadata(as_json=True),
            "metadata": client.get_model_metadata("digits-cnn", as_json=True),
            "config": client.get_model_config("digits-cnn", as_json=True),
            "index": client.get_model_repository_index(as_json=True),
            "digits": digits(client, samples),
            "statistics": client.get_inference_statistics("digits-cnn", as_json=True),
            "stream": stream(client),
            "unknown": refusal(lambda: client.get_model_metadata("nope")),
            "shape": refusal(lambda: client.infer("identity", wrong_shape())),
            "shared_memory": refusal(client.get_system_shared_memory_status),
            "trace": refusal(client.get_trace_settings),
        }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
