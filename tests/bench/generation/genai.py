"""onnxruntime-genai in static batches; runs in an environment that has it and nothing of this suite.

As `worker`: a line of standard input is a job, a line of standard output what came of it, both JSON.
"""

import json
import os
import sys
import time
from typing import Any

import numpy as np
import onnxruntime
import onnxruntime_genai as og  # type: ignore[import-not-found,unused-ignore]


def measured(model: Any, pad: int, job: dict[str, Any]) -> dict[str, Any]:
    """All of the texts; tokens that nobody asked for, made until the longest text ends, do not count."""
    wanted, callers = job["texts"], job["callers"]
    started = time.perf_counter()
    texts = []
    for begin in range(0, len(wanted), callers):
        texts += written(model, pad, wanted[begin : begin + callers])
    seconds = time.perf_counter() - started
    return {"tokens": sum(text["new"] for text in wanted), "seconds": seconds, "texts": texts}


def written(model: Any, pad: int, batch: list[dict[str, Any]]) -> list[list[int]]:
    """One batch; shorter prompts are padded on their right, as its attention wants it."""
    longest, new = max(len(text["prompt"]) for text in batch), max(text["new"] for text in batch)
    tokens = np.full((len(batch), longest), pad, np.int32)
    for row, text in enumerate(batch):
        tokens[row, : len(text["prompt"])] = text["prompt"]
    params = og.GeneratorParams(model)
    size = longest + new
    params.set_search_options(max_length=size, min_length=size, batch_size=len(batch), do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(tokens)
    while not generator.is_done():
        generator.generate_next_token()
    return [generator.get_sequence(row)[longest:][: text["new"]].tolist() for row, text in enumerate(batch)]


def main(folder: str, pad: str) -> None:
    """Works until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    models: dict[int, Any] = {}
    for line in sys.stdin:
        job = json.loads(line)
        threads = job["threads"]
        if threads not in models:
            if job["device"] == "cuda":
                onnxruntime.preload_dlls()  # CUDA's, which are wheels here
            config = og.Config(folder)
            options = {"session_options": {"intra_op_num_threads": threads}}
            config.overlay(json.dumps({"model": {"decoder": options}}))
            models[threads] = og.Model(config)
            written(models[threads], int(pad), [{"prompt": [1, 2, 3], "new": 3}])
            if job["device"] == "cuda":  # where what comes for the first time takes as long as all of the rest
                measured(models[threads], int(pad), job)
        print(json.dumps(measured(models[threads], int(pad), job)), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
