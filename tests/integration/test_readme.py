"""Every snippet of the README that is marked `<!-- run -->` runs, against a real suite."""

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.harness import ROOT, Suite, serving

SNIPPET = re.compile(r"<!-- run(?:: (?P<needs>\w+))? -->\n```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)
SNIPPETS = [match.groupdict() for match in SNIPPET.finditer((ROOT / "README.md").read_text("utf-8"))]
LIMIT_S = 120
MODELS = {  # what the snippets ask, by service
    "vision": ("digits-cnn",),
    "sequence": ("digits-rnn",),
    "language": ("python-gpt", "dates-transformer", "langid-text"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Where a gateway with one instance of each service listens."""
    async with Suite.open(tmp_path_factory.mktemp("readme")) as suite:
        await asyncio.gather(*(suite.start(service, f"{service}-1") for service in MODELS))
        gateway = await suite.start_gateway()
        models = (model for models in MODELS.values() for model in models)
        await asyncio.gather(*(serving(gateway.address, f"model/{model}") for model in models))
        yield gateway.address


async def run(*command: str) -> str:
    """What a command prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(LIMIT_S):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


def test_there_are_snippets_to_run() -> None:
    assert {snippet["language"] for snippet in SNIPPETS} == {"python", "sh"}
    assert len(SNIPPETS) >= 4


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: str(snippet["code"]).split("\n", 1)[0][:40])
async def test_a_snippet_of_the_readme_runs(address: str, snippet: dict[str, str]) -> None:
    needs, code = snippet["needs"], snippet["code"].replace("localhost:8001", address)
    if needs and not shutil.which(needs):
        pytest.skip(f"there is no {needs} here")
    if snippet["language"] == "python":
        output = await run(sys.executable, "-c", code)
    else:
        output = await run("bash", "-ec", f"export TRIVIUM_ADDRESS={address}\n{code}")
    assert output.strip()


def test_every_file_that_the_readme_links_to_exists() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "README.md").read_text("utf-8"))
    assert [target for target in targets if not Path(ROOT, target).exists()] == []
