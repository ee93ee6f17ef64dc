"""Series with the SDK and the command, from a gateway and two instances in processes of their own."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from tests.harness import Suite, serving
from tests.integration.commands import run, written
from tests.recurrent import recurrent_bundle
from trivium.client import Client, TriviumCallError
from trivium.client.sequence_commands import forecast, track


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def addresses(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[str]]:
    """Where a gateway and its two sequence instances listen; they serve "digits" and, two numbers wide, "walk"."""
    folder = tmp_path_factory.mktemp("suite")
    bundles = folder / "bundles"
    recurrent_bundle(bundles, "digits", cell="rnn", hidden=8, classes=10)
    recurrent_bundle(bundles, "walk", cell="lstm", hidden=8, width=2, horizon=4)
    async with Suite.open(folder) as suite:
        gateway, *instances = await asyncio.gather(
            suite.start_gateway(),
            suite.start("sequence", "sequence-1", BUNDLES_DIR=bundles, DEFAULT_MODEL="digits"),
            suite.start("sequence", "sequence-2", BUNDLES_DIR=bundles, DEFAULT_MODEL="digits"),
        )
        await serving(gateway.address, "model/walk")
        yield [gateway.address, *(instance.address for instance in instances)]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_real_service_says_the_same_of_a_series_whole_and_step_by_step(addresses: list[str]) -> None:
    series = [float(value) for value in range(-8, 8)]

    def ask() -> None:
        with Client(addresses[0]) as client:
            whole = client.classify_series(series, top_k=10)
            *_, last = client.track(series, top_k=10)
            assert (last.step, last.classes, last.model) == (16, whole.classes, f"{whole.model}:{whole.version}")
            steps = np.array(series, np.float32).reshape(8, 2)
            (*_, end), continued = client.track([steps[:3], steps[3:]], "walk"), client.forecast(steps, model="walk")
            assert (end.step, end.values) == (8, continued.values)
            assert client.forecast(steps, 1, "walk").values == continued.values[:2]

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_series_goes_on_at_another_instance_from_its_state(addresses: list[str]) -> None:
    def ask() -> None:
        gateway, first, second = (Client(address) for address in addresses)
        with gateway, first, second:
            unbroken = list(gateway.track([1, 2, 3, 4], top_k=10))
            with first.tracker(top_k=10) as tracker:
                before = tracker.send([1, 2])
            with second.tracker(top_k=10, resume_state=tracker.state) as tracker:
                after = tracker.send([3, 4])
            assert [answer.classes for answer in (*before, *after)] == [answer.classes for answer in unbroken]
            assert [answer.step for answer in after] == [3, 4]
            with pytest.raises(TriviumCallError) as caught:
                next(gateway.track([[1, 2]], "walk", resume_state=tracker.state))
            assert caught.value.reason == "STATE_MISMATCH"

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_model_says_how_far_it_goes_and_what_it_cannot_do(addresses: list[str]) -> None:
    def ask() -> None:
        with Client(addresses[0]) as client:
            wide = np.ones((4, 4))
            for call in (
                lambda: client.classify_series(wide),
                lambda: client.forecast(wide, model="walk"),
                lambda: next(client.track(wide)),
            ):
                with pytest.raises(TriviumCallError, match="width is 4") as caught:
                    call()
                assert caught.value.reason == "INVALID_FIELD"
            model = client.model("walk")
            assert (model.stateful, model.max_horizon, model.max_steps) == (True, 4, 4096)
            for call in (lambda: client.classify_series([1, 2], "walk"), lambda: client.forecast([1], model="digits")):
                with pytest.raises(TriviumCallError) as caught:
                    call()
                assert caught.value.reason == "UNSUPPORTED_BY_MODEL"
            with pytest.raises(TriviumCallError) as caught:
                next(client.track(iter(lambda: 1, 0), "nothing"))  # known before the first number comes
            assert caught.value.reason == "MODEL_NOT_FOUND"

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_command_prints_what_a_real_service_says(addresses: list[str], tmp_path: Path) -> None:
    file = written(tmp_path, "a,b\n1,2\n3,4\n")
    options = ("--model", "walk", "--column", "a", "--column", "b", "--address", addresses[0])
    titles, *steps = (await asyncio.to_thread(run, forecast, file, *options)).stdout.splitlines()
    assert (titles, [step.split("\t")[0] for step in steps]) == ("step\tvalue_1\tvalue_2", ["1", "2", "3", "4"])
    long = written(tmp_path, "a,b\n" + "1,2\n" * 600 + "1,nan\n")
    for how in (options, ("--model", "walk", "--address", addresses[0])):
        text = long if how is options else written(tmp_path, "1,2\n" * 600 + "1,nan\n")
        refused = await asyncio.to_thread(run, track, text, *how)
        assert refused.exit_code == 1
        assert "number 1202 of the input was refused" in refused.stderr
        assert "the stream stopped after step 512" in refused.stderr
    file = written(tmp_path, "a,b\n1,2\n3,4\n")
    answers = (await asyncio.to_thread(run, track, file, "--json", *options)).stdout.splitlines()
    last = json.loads(answers[-1])
    assert last["step"] == 2
    assert [f"{value:.7g}" for value in last["values"]] == [cell for step in steps for cell in step.split("\t")[1:]]
