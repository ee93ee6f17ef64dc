"""An unmodified tritonclient.grpc against the gateway."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests import bundles
from tests.harness import Suite, serving
from tests.images import SAMPLES

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def python(*arguments: str) -> str:
    """What a Python process prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seen(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("triton")
    bundles.identity(folder / "bundles")
    async with Suite.open(folder) as suite:
        await suite.start("vision", "vision-1", BUNDLES_DIR=folder / "bundles")
        gateway = await suite.start_gateway()
        await serving(gateway.address, "model/identity")
        script = str(Path(__file__).with_name("triton_client.py"))
        yield json.loads(await python(script, gateway.address, str(SAMPLES)))


async def test_it_finds_a_live_server_and_its_models(seen: dict[str, Any]) -> None:
    assert seen["live"]
    assert seen["ready"]
    assert seen["model_ready"]
    assert seen["server"]["name"] == "trivium"
    assert {"name": "digits-cnn", "version": "1", "state": "READY"} in seen["index"]["models"]


async def test_it_reads_inputs_and_outputs(seen: dict[str, Any]) -> None:
    image = seen["metadata"]["inputs"][0]
    assert (image["name"], image["datatype"], image["shape"]) == ("image", "UINT8", ["-1", "28", "28", "1"])
    assert [output["name"] for output in seen["metadata"]["outputs"]] == ["logits", "embedding"]
    config = seen["config"]["config"]
    assert (config["backend"], config["platform"]) == ("onnxruntime", "onnxruntime_onnx")
    assert config["input"][0]["dims"] == ["28", "28", "1"]


async def test_it_gets_right_answers(seen: dict[str, Any]) -> None:
    right = [name for name, label in seen["digits"].items() if name.startswith(label)]
    assert len(seen["digits"]) >= 10
    assert len(right) == len(seen["digits"])


async def test_it_counts_what_it_asked(seen: dict[str, Any]) -> None:
    statistics = seen["statistics"]["model_stats"][0]
    assert int(statistics["inference_count"]) == len(seen["digits"])
    assert int(statistics["inference_stats"]["success"]["count"]) == len(seen["digits"])


async def test_its_stream_answers_in_order(seen: dict[str, Any]) -> None:
    assert seen["stream"] == [float(number) for number in range(10)]


async def test_it_reads_why_a_request_was_refused(seen: dict[str, Any]) -> None:
    assert seen["unknown"] == ["StatusCode.NOT_FOUND", "Request for unknown model: 'nope' is not found"]
    assert seen["shape"][0] == "StatusCode.INVALID_ARGUMENT"
    assert "unexpected shape for input 'x' for model 'identity'. Expected [-1,4], got [1,3]" in seen["shape"][1]


@pytest.mark.parametrize("what", ["shared_memory", "trace"])
async def test_what_is_not_offered_says_so(seen: dict[str, Any], what: str) -> None:
    assert seen[what][0] == "StatusCode.UNIMPLEMENTED"
    assert seen[what][1]


async def test_the_sdk_and_tritonclient_live_in_one_process() -> None:
    program = "import tritonclient.grpc; from trivium.client import Client; Client('localhost:1').close()"
    assert await python("-c", program) == ""
