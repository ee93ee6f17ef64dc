"""Sequences as an unmodified tritonclient.grpc sends them to model argv[2] of the server at argv[1]; prints JSON.

The model takes one number a step. Two sequences have numbers as ids and two have texts, one of them of 22 characters;
their requests come in turns, first as unary calls, then on one stream.
"""

import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton

IDS: list[int | str] = [1000, 1001, "a text", "i" * 22]
SERIES = [[float(index + step) / 7 for step in range(6)] for index in range(len(IDS))]
STEPS = len(SERIES[0])


def tensor(value: float) -> list[Any]:
    x = triton.InferInput("x", [1, 1, 1], "FP32")
    x.set_data_from_numpy(np.full((1, 1, 1), value, np.float32))
    return [x]


def flags(index: int, step: int) -> dict[str, Any]:
    return {"sequence_id": IDS[index], "sequence_start": step == 0, "sequence_end": step == STEPS - 1}


def numbers(result: Any) -> list[float]:
    """What the model says after the request's one step."""
    return [float(number) for number in result.as_numpy("forecast").reshape(-1)]


def unary(client: Any, model: str) -> list[list[list[float]]]:
    answers: list[list[list[float]]] = [[] for _ in IDS]
    for step in range(STEPS):
        for index, series in enumerate(SERIES):
            result = client.infer(model, tensor(series[step]), client_timeout=10, **flags(index, step))
            answers[index].append(numbers(result))
    return answers


def stream(client: Any, model: str) -> list[list[list[float]]]:
    """All requests of one stream; its answers come in order."""
    answers: list[list[list[float]]] = [[] for _ in IDS]
    results = called_back(client)
    for step in range(STEPS):
        for index, series in enumerate(SERIES):
            client.async_stream_infer(model, tensor(series[step]), request_id=str(index), **flags(index, step))
    for _ in range(STEPS * len(IDS)):
        result, error = results.get(timeout=10)
        if error is not None:
            raise error
        answers[int(result.get_response().id)].append(numbers(result))
    client.stop_stream()
    return answers


def called_back(client: Any) -> "queue.Queue[tuple[Any, Any]]":
    results: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: results.put((result, error)))
    return results


def stream_error(client: Any, model: str) -> str:
    """What a request to a sequence that was never started gets on a stream."""
    results = called_back(client)
    client.async_stream_infer(model, tensor(1.0), sequence_id=999)
    _, error = results.get(timeout=10)
    client.stop_stream()
    return str(error)


def refusal(client: Any, model: str, **sequence: Any) -> list[str]:
    """Status and message of a call that must fail."""
    try:
        client.infer(model, tensor(1.0), client_timeout=10, **sequence)
    except triton.InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    return ["OK", ""]


def batching(client: Any, model: str) -> str:
    config = client.get_model_config(model, as_json=True)["config"]
    return next((key for key in config if key.endswith("_batching")), "")


def main() -> None:
    """Asks for everything and prints it."""
    address, model = sys.argv[1:]
    with triton.InferenceServerClient(address) as client:
        seen = {
            "series": SERIES,
            "unary": unary(client, model),
            "stream": stream(client, model),
            "not_started": refusal(client, model, sequence_id=999),
            "no_id": refusal(client, model),
            "stream_error": stream_error(client, model),
            "batching": batching(client, model),
        }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
