"""Texts as an unmodified tritonclient.grpc asks the server at argv[1] for them; prints JSON.

The models are "novel", "gpt", "recite" and "translate", which write, and "scripts", which classifies.
"""

import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton

WISHES: list[dict[str, Any]] = [
    {
        "model": "novel",
        "text": "三百🙂",
        "max_tokens": 200,
        "parameters": {"temperature": 0.875, "seed": 42, "top_k": 50},
    },
    {"model": "recite", "text": "abc", "max_tokens": 40, "parameters": {"stop": "he e"}},
    {"model": "translate", "text": "25 Nov", "max_tokens": 12, "parameters": {"ignore_eos": True, "min_new_tokens": 2}},
]


def tensors(wish: dict[str, Any]) -> list[Any]:
    text = triton.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([wish["text"].encode()], np.object_))
    count = triton.InferInput("max_tokens", [1], "INT32")
    count.set_data_from_numpy(np.array([wish["max_tokens"]], np.int32))
    return [text, count]


def said(result: Any) -> dict[str, Any]:
    """One answer."""
    final = result.get_response().parameters["triton_final_response"].bool_param
    tokens = [int(token) for token in result.as_numpy("token_ids")]
    return {"text": result.as_numpy("text_output")[0].decode(), "tokens": tokens, "final": final}


def whole(client: Any, wish: dict[str, Any]) -> dict[str, Any]:
    """The text in one answer."""
    return said(client.infer(wish["model"], tensors(wish), parameters=wish["parameters"], client_timeout=30))


def streams(client: Any) -> list[list[dict[str, Any]]]:
    """All texts on one stream, side by side."""
    pieces: list[list[dict[str, Any]]] = [[] for _ in WISHES]
    results = called_back(client)
    for index, wish in enumerate(WISHES):
        client.async_stream_infer(
            wish["model"],
            tensors(wish),
            request_id=str(index),
            parameters=wish["parameters"],
            enable_empty_final_response=True,
        )
    ended = 0
    while ended < len(WISHES):
        result, error = results.get(timeout=30)
        if error is not None:
            raise error
        pieces[int(result.get_response().id)].append(said(result))
        ended += pieces[int(result.get_response().id)][-1]["final"]
    client.stop_stream()
    return pieces


def called_back(client: Any) -> "queue.Queue[tuple[Any, Any]]":
    results: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: results.put((result, error)))
    return results


def stream_error(client: Any) -> str:
    """What a parameter that does not exist gets on a stream."""
    results = called_back(client)
    client.async_stream_infer("gpt", tensors(WISHES[0]), parameters={"unheard_of": 1})
    _, error = results.get(timeout=30)
    client.stop_stream()
    return str(error)


def refusal(client: Any) -> list[str]:
    """What it gets otherwise."""
    try:
        client.infer("gpt", tensors(WISHES[0]), parameters={"unheard_of": 1}, client_timeout=30)
    except triton.InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    return ["OK", ""]


def classes(client: Any) -> list[str]:
    """Of two texts in one request."""
    texts = triton.InferInput("text_input", [2, 1], "BYTES")
    texts.set_data_from_numpy(np.array([["三百二十一".encode()], [b"words"]], np.object_))
    wanted = [triton.InferRequestedOutput("logits", class_count=1)]
    answer = client.infer("scripts", [texts], outputs=wanted, client_timeout=30)
    return [row.decode() for row in answer.as_numpy("logits").reshape(-1)]


def main() -> None:
    """Asks for everything and prints it."""
    with triton.InferenceServerClient(sys.argv[1]) as client:
        config = client.get_model_config("gpt", as_json=True)["config"]
        seen = {
            "wishes": WISHES,
            "texts": [whole(client, wish) for wish in WISHES],
            "streams": streams(client),
            "decoupled": config.get("model_transaction_policy", {}).get("decoupled", False),
            "classes": classes(client),
            "refused": refusal(client),
            "stream_error": stream_error(client),
        }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
