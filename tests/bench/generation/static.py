"""Static batches: as many texts as there are callers, begun together; the next ones when the longest has ended."""

import time
from pathlib import Path
from typing import Any

from tests.bench.generation.load import Made, Text


class Transformers:
    """transformers.generate.

    Args:
        checkpoint: its folder.
        threads: of torch.
        device: cpu, or cuda with float16.
    """

    def __init__(self, checkpoint: Path, threads: int, device: str) -> None:
        import torch
        from transformers import LlamaForCausalLM

        torch.set_num_threads(threads)
        self._torch: Any = torch
        self._device = torch.device(device)
        dtype = torch.float16 if device == "cuda" else torch.float32
        self._model: Any = LlamaForCausalLM.from_pretrained(checkpoint).to(self._device, dtype).eval()
        self._model.generation_config.eos_token_id = None
        self._write([Text([1, 2, 3], 3)])

    def measured(self, wanted: list[Text], callers: int) -> Made:
        """All of the texts; tokens that nobody asked for, made until the longest text ends, do not count."""
        started = time.perf_counter()
        texts = [
            text for begin in range(0, len(wanted), callers) for text in self._write(wanted[begin : begin + callers])
        ]
        return Made(sum(text.new for text in wanted), time.perf_counter() - started, texts)

    def _write(self, batch: list[Text]) -> list[list[int]]:
        longest = max(len(text.prompt) for text in batch)
        token_ids = [[0] * (longest - len(text.prompt)) + text.prompt for text in batch]
        mask = [[0] * (longest - len(text.prompt)) + [1] * len(text.prompt) for text in batch]
        made = self._model.generate(
            self._torch.tensor(token_ids, device=self._device),
            attention_mask=self._torch.tensor(mask, device=self._device),
            max_new_tokens=max(text.new for text in batch),
            do_sample=False,
            pad_token_id=0,
        )
        return [row[longest:][: text.new] for row, text in zip(made.tolist(), batch, strict=True)]
