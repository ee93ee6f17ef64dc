"""A series gets the bits that the graph alone gives, however it comes and whoever is beside it."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest

from inference import grpc_service_pb2 as oip
from services.kit.inference.bundle import Bundle, load
from tests.harness import ROOT, error_info
from tests.integration.sequence.instances import NEIGHBOURS, Running, series
from tests.integration.test_triton_client import python
from tests.series import STREAM_INFER, Caller, Track, graph_says, infer_request, messages, said
from trivium.models.v1 import models_pb2
from trivium.sequence.v1 import sequence_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="package")
FORECASTERS = ("rnn", "lstm", "gru")
DEFAULTS = ROOT / "services" / "sequence" / "bundles"
SAMPLES = ROOT / "services" / "sequence" / "samples"


@contextlib.asynccontextmanager
async def beside(caller: Caller, bundle: Bundle, width: int) -> AsyncIterator[None]:
    """Thirty others keep the instance busy with series and messages of other lengths, and get their bits."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 90, NEIGHBOURS)
    known = [series(100 + index, int(length), width) for index, length in enumerate(lengths)]
    expected = [graph_says(bundle, x).tobytes() for x in known]
    over = asyncio.Event()

    async def neighbour(index: int) -> None:
        x, name = known[index], bundle.name
        while True:
            parts = messages(x, rng.integers(1, 20, 5).tolist())
            assert said(await caller.track(name, parts)) == expected[index]
            if over.is_set():
                return

    async with asyncio.TaskGroup() as group:
        for index in range(NEIGHBOURS):
            group.create_task(neighbour(index))
        yield
        over.set()


@pytest.mark.parametrize("name", FORECASTERS)
async def test_a_series_gets_the_bits_of_the_graph_however_it_comes(running: Running, name: str) -> None:
    width, bundle = running.width(name), running.bundles[name]
    x = series(0, 70, width)
    after = graph_says(bundle, x)
    whole = after.tobytes()
    for company in (contextlib.nullcontext(), beside(running.one, bundle, width)):
        async with company:
            for sizes in ((1,), (7, 1), (33, 32), (70,)):
                assert said(await running.one.track(name, messages(x, sizes))) == whole, sizes
            for steps in (1, 2, 31, 32, 33, 64, 70):
                assert await running.one.forecast(name, x[:steps]) == after[steps - 1].tobytes(), steps
            for steps in (1, 9, 70):
                sequence = {"sequence_id": 5, "sequence_start": True, "sequence_end": True}
                assert (await running.one.infer(name, x[:steps], **sequence))[0] == after[:steps].tobytes(), steps


@pytest.mark.parametrize("name", FORECASTERS)
async def test_a_stream_goes_on_at_another_instance_with_the_same_bits(running: Running, name: str) -> None:
    x = series(1, 40, running.width(name))
    whole = graph_says(running.bundles[name], x).tobytes()

    async def resumed(at: int) -> None:
        before = await running.one.track(name, messages(x[:at], (3, 1)), return_state=True)
        after = await running.two.track(name, messages(x[at:], (5, 2)), resume_state=before[-1].state)
        assert said(before + after) == whole
        assert [answer.step for answer in before + after] == list(range(1, 41))
        assert (before[0].model, after[0].model) == (f"{name}:1", f"{name}:1")

    await asyncio.gather(*(resumed(at) for at in (1, 2, 3, 4, 17, 32, 39)))


@pytest.mark.parametrize("name", FORECASTERS)
async def test_a_sequence_goes_from_instance_to_instance_with_the_same_bits(running: Running, name: str) -> None:
    x = series(2, 24, running.width(name))
    whole, bits, state = graph_says(running.bundles[name], x).tobytes(), b"", ""
    for turn, part in enumerate(messages(x, (1, 4))):
        caller = (running.one, running.two)[turn % 2]
        answer, state = await caller.infer(name, part, trivium_state=state)
        bits += answer
    assert bits == whole


@pytest.mark.parametrize("where", ["one", "gateway"])
@pytest.mark.parametrize("sequence_id", [7, ("uint64_param", 2**64 - 1), "a text", "i" * 22], ids=str)
async def test_a_sequence_has_its_state_kept_for_it(running: Running, where: str, sequence_id: Any) -> None:
    caller: Caller = getattr(running, where)
    x = series(3, 20)
    parts, bits = messages(x, (1, 3)), b""
    for index, part in enumerate(parts):
        flags = {"sequence_start": index == 0, "sequence_end": index == len(parts) - 1}
        answer, state = await caller.infer("rnn", part, sequence_id=sequence_id, **flags)
        assert state == ""
        bits += answer
    assert bits == graph_says(running.bundles["rnn"], x).tobytes()


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_sequences_of_one_stream_keep_their_order_and_do_not_mix(running: Running, where: str) -> None:
    stream: Track = getattr(running, where).stream(STREAM_INFER)
    known = {number: series(number, 12) for number in range(1, 6)}
    for step in range(12):
        for number, x in known.items():
            flags = {"sequence_id": number, "sequence_start": step == 0, "sequence_end": step == 11}
            request = infer_request("rnn", x[step : step + 1], **flags)
            request.id = str(number)
            await stream.call.write(request.SerializeToString())
    await stream.call.done_writing()
    bits = dict.fromkeys(known, b"")
    async for data in stream.call:
        response = oip.ModelStreamInferResponse.FromString(data)
        assert response.error_message == ""
        bits[int(response.infer_response.id)] += response.infer_response.raw_output_contents[0]
    for number, x in known.items():
        assert bits[number] == graph_says(running.bundles["rnn"], x).tobytes()


async def test_classes_are_the_same_whole_and_step_by_step(running: Running) -> None:
    x = np.abs(series(4, 64)) * 8
    answers = await running.one.track("digits-rnn", messages(x, (1, 6)), top_k=10)
    for steps in (1, 2, 33, 64):
        classified = await running.two.classify("digits-rnn", x[:steps], top_k=10)
        assert classified == pb.ClassifyResponse(classes=answers[steps - 1].classes).SerializeToString()
    logits = graph_says(load(DEFAULTS / "digits-rnn" / "1"), x)
    assert [answer.classes[0].index for answer in answers] == logits.argmax(axis=1).tolist()


async def test_a_bidirectional_bundle_reads_whole_series_of_any_length_in_one_batch(running: Running) -> None:
    known = [series(index, 1 + 3 * index) for index in range(20)]
    alone = [await running.one.classify("both", x) for x in known]
    together = await asyncio.gather(*(running.one.classify("both", x) for x in known for _ in range(2)))
    assert together == [answer for answer in alone for _ in range(2)]
    for x, answer in zip(known, alone, strict=True):
        logits = graph_says(running.bundles["both"], x)[-1]
        best = pb.ClassifyResponse.FromString(answer).classes[0]
        share = np.exp(logits - logits.max())
        assert best.index == int(logits.argmax())
        assert math.isclose(best.probability, share.max() / share.sum(), rel_tol=1e-6)
    stream = running.one.stream()
    await stream.send([1.0], model="both")
    _, error = await stream.failure()
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    assert (error_info(error).reason, error_info(error).metadata["model"]) == ("UNSUPPORTED_BY_MODEL", "both")


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_a_model_says_that_it_keeps_state_and_how_far_it_looks(running: Running, where: str) -> None:
    caller: Caller = getattr(running, where)
    data = await caller.unary("/trivium.models.v1.ModelService/ListModels", b"")
    found = {model.name: model for model in models_pb2.ListModelsResponse.FromString(data).models}
    has = {name: (found[name].stateful, found[name].max_horizon, found[name].max_steps) for name in running.bundles}
    assert has == {
        "rnn": (True, 3, 4096),
        "lstm": (True, 3, 300),
        "gru": (True, 64, 1_000_000),
        "both": (False, 0, 4096),
        "any": (True, 3, 4096),
    }
    assert [(spec.name, list(spec.shape)) for spec in found["lstm"].inputs] == [("x", [-1, -1, 2])]
    assert [spec.name for spec in found["lstm"].outputs] == ["forecast"]


async def test_the_configuration_speaks_of_sequences_where_there_are_any(running: Running) -> None:
    async def config(name: str) -> oip.ModelConfig:
        request = oip.ModelConfigRequest(name=name).SerializeToString()
        data = await running.one.unary("/inference.GRPCInferenceService/ModelConfig", request)
        return oip.ModelConfigResponse.FromString(data).config

    rnn, both = await config("rnn"), await config("both")
    assert rnn.sequence_batching.max_sequence_idle_microseconds == 60_000_000
    assert rnn.WhichOneof("scheduling_choice") == "sequence_batching"
    assert both.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert [list(tensor.dims) for tensor in rnn.input] == [[-1, 1]]


async def test_the_default_bundles_answer(running: Running) -> None:
    files = sorted(SAMPLES.glob("[0-9]-*.csv"))
    assert len(files) >= 5
    for file in files:
        pixels = [float(text) for text in file.read_text().split(",")]
        answers = await running.gateway.track("", messages(np.array(pixels, np.float32).reshape(-1, 1), (8,)))
        assert (len(answers), answers[-1].classes[0].label, answers[0].model) == (64, file.name[0], "digits-rnn:1")
    assert len(await running.gateway.forecast("sunspots-lstm", [5.0, 11, 16, 23, 36])) == 4 * 12


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_an_unmodified_tritonclient_has_its_sequences(running: Running, where: str) -> None:
    address = running.replicas[0].address if where == "one" else running.gateway_address
    script = str(ROOT / "tests" / "integration" / "triton_sequences.py")
    seen = json.loads(await python(script, address, "rnn"))
    expected = [graph_says(running.bundles["rnn"], np.array(x, np.float32).reshape(-1, 1)) for x in seen["series"]]
    assert len(expected) == 4
    for kind in ("unary", "stream"):
        for answers, known in zip(seen[kind], expected, strict=True):
            assert np.array(answers, np.float32).tobytes() == known.tobytes()
    assert seen["not_started"][0] == "StatusCode.FAILED_PRECONDITION"
    assert "must specify the START flag on the first request of the sequence" in seen["not_started"][1]
    assert seen["no_id"][0] == "StatusCode.INVALID_ARGUMENT"
    assert "must specify a non-zero or non-empty correlation ID" in seen["no_id"][1]
    assert "must specify the START flag" in seen["stream_error"]
    assert seen["batching"] == "sequence_batching"
