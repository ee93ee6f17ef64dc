"""The language service writes with checkpoints what `transformers` does."""

import asyncio
from pathlib import Path

import grpc

from tests.harness import OPTIONS, Suite
from tests.hf.pairs import NEW, PROMPTS, Pair
from tests.texts import Caller


async def test_the_service_writes_what_transformers_does_with_all_at_once(
    folder: Path, pairs: dict[str, Pair], tmp_path: Path
) -> None:
    async with Suite.open(tmp_path) as suite:
        first = next(iter(pairs))
        service = await suite.start("language", "language-1", BUNDLES_DIR=folder / "bundles", DEFAULT_MODEL=first)
        async with grpc.aio.insecure_channel(service.address, options=OPTIONS) as channel:
            caller = Caller(channel)
            wishes = [(name, prompt) for name in pairs for prompt in PROMPTS]
            asked = (caller.texts(model=name, prompt=prompt, max_new_tokens=NEW) for name, prompt in wishes)
            answers = await asyncio.gather(*asked)
    written = [answer[0].tokens for answer in answers]
    assert written == [text for pair in pairs.values() for text in pair.texts]
