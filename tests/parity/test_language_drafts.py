"""The default bundles with drafts and without: the same tokens, and the same log-probabilities to the bit."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.kit.deadline import Deadline
from services.kit.inference.batcher import BatcherSettings
from services.kit.inference.engine import EngineSettings
from services.kit.inference.loading import ModelsSettings
from services.kit.inference.models import Models
from services.language.answers import Answers
from services.language.leaving import Leaving
from services.language.loader import loader
from services.language.lookup import PromptLookup
from services.language.metrics import GenerationMetrics
from services.language.settings import GenerationSettings
from services.language.training.recipes import FOLDER
from services.language.writer import Writer
from trivium.language.v1 import language_pb2 as pb

NEW = 48  # tokens of a text
CODE = "def area(width, height):\n    return width * height\n\n\ndef area_of(box):\n    return area(box."
PROMPTS = (CODE, "import os\nimport sys\nimport", "class Point:\n    def __init__(self, x, y):\n        self.x = x\n")
WISHES: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0, "logprobs": 3},
    {"temperature": 0.8, "seed": 3, "top_p": 0.95, "logprobs": 2},
    {"temperature": 1.1, "seed": 4, "top_k": 5, "stop": ["\n\n"]},
    {"temperature": 0.7, "seed": 5, "repetition_penalty": 1.2, "logprobs": 0},
)
ASKED = {
    "python-gpt": [
        pb.GenerateRequest(prompt=prompt, max_new_tokens=NEW, ignore_eos=True, **wishes)
        for wishes in WISHES
        for prompt in PROMPTS
    ],
    "dates-transformer": [
        pb.GenerateRequest(prompt=prompt, max_new_tokens=12, temperature=0, logprobs=2)
        for prompt in ("14 February 2024", "Tue, 7 Dec 1999", "2001年9月27日")
    ],
}


class Opened:
    """A model, and how many of its drafted tokens were right."""

    def __init__(self, name: str, writer: Writer, registry: CollectorRegistry) -> None:
        self._name, self._writer, self._registry = name, writer, registry

    @classmethod
    @asynccontextmanager
    async def open(cls, name: str, speculative_tokens: int) -> AsyncIterator["Opened"]:
        engine, registry = EngineSettings(device="cpu", threads=2), CollectorRegistry()
        models = ModelsSettings("language", (FOLDER,), name, engine, BatcherSettings(max_batch=1))
        settings = GenerationSettings(prefix_mib=0, speculative_tokens=speculative_tokens)
        async with Models.open(models, loader(settings, GenerationMetrics(registry)), registry) as opened:
            writer = opened.find(name).pipeline
            assert isinstance(writer, Writer)
            yield cls(name, writer, registry)

    async def written(self, callers: int) -> list[pb.GenerateResponse]:
        """All texts, so many at a time: everything that is said of each token, and of the text."""
        free = asyncio.Semaphore(callers)

        async def one(request: pb.GenerateRequest) -> pb.GenerateResponse:
            async with free:
                texts = await self._writer.texts(request, Deadline(), lambda: 0)
                messages = [each async for each in Answers(self._writer, texts, self._name, None).messages(Leaving())]
            last = messages[-1]
            whole = pb.GenerateResponse(finish_reason=last.finish_reason, stop_string=last.stop_string)
            for each in messages:
                whole.text += each.text
                whole.token_ids.extend(each.token_ids)
                whole.logprobs.extend(each.logprobs)
            return whole

        return await asyncio.gather(*map(one, ASKED[self._name]))

    def counted(self, name: str) -> float:
        labels = {"model": self._name, "version": "1"}
        return self._registry.get_sample_value(f"trivium_generation_{name}", labels) or 0.0


@pytest.mark.parametrize("name", ASKED)
async def test_texts_are_what_they_are_without_drafts(name: str) -> None:
    async with Opened.open(name, 0) as plain, Opened.open(name, 4) as drafting:
        expected = await plain.written(callers=1)
        for callers in (1, 2, 8):
            assert await drafting.written(callers) == expected
        assert plain.counted("draft_tokens_total") == 0
        assert drafting.counted("draft_tokens_total") > 0
        assert drafting.counted("accepted_draft_tokens_total") > 100 or name != "python-gpt"


async def test_texts_are_what_they_are_where_drafts_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    source, own = random.Random(7), PromptLookup.draft

    def drafted(lookup: PromptLookup, most: int, sure: float) -> list[int]:
        return [token if source.random() < 0.7 else source.randrange(2048) for token in own(lookup, most, sure)]

    monkeypatch.setattr(PromptLookup, "draft", drafted)
    async with Opened.open("python-gpt", 0) as plain, Opened.open("python-gpt", 5) as drafting:
        expected = await plain.written(callers=1)
        for callers in (1, 2):
            assert await drafting.written(callers) == expected
