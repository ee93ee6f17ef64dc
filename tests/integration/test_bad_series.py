"""Whatever is thrown at the sequence service, each caller gets what it deserves, and its neighbours their right bits.

Everything is asked of an instance and of a gateway before it.
"""

import asyncio
import base64
import contextlib
import math
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference import grpc_service_pb2 as oip
from services.kit.inference.bundle import Array, Bundle
from tests.harness import OPTIONS, Replica, Suite, serving
from tests.hostile import details
from tests.hostile_series import tracks, unaries
from tests.series import INFER, STREAM_INFER, Caller, graph_says, infer_request, messages, said, whole_stream
from tests.tracked import Answered
from trivium.sequence.v1 import sequence_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")
MAX_STEPS, MAX_MESSAGE_STEPS = 300, 50  # of "lstm", and of one message
NEIGHBOURS = 2
ALLOWED = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "FAILED_PRECONDITION"}
NAN, INFINITY = math.nan, math.inf


@dataclass
class Place:
    """Where hostile requests go, and neighbours that want their bits there all the time."""

    caller: Caller
    channel: grpc.Channel
    bundles: dict[str, Bundle]
    rounds: int = 0  # that neighbours have finished
    failed: list[BaseException] = field(default_factory=list)
    _progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    @contextlib.asynccontextmanager
    async def with_neighbours(self) -> AsyncIterator["Place"]:
        """Series in turns: whole, on a stream, and in a sequence."""
        tasks = [asyncio.create_task(self._neighbour(index)) for index in range(NEIGHBOURS)]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def neighbours_are_well(self) -> None:
        """Returns when each of them has got its bits once more."""
        wanted = self.rounds + 2 * NEIGHBOURS
        async with asyncio.timeout(20), self._progress:
            await self._progress.wait_for(lambda: self.rounds >= wanted or self.failed)
        assert self.failed == []

    async def _neighbour(self, index: int) -> None:
        name = ("rnn", "lstm")[index % 2]
        bundle = self.bundles[name]
        x = np.random.default_rng(index).normal(size=(8 + index, bundle.manifest.inputs[0].shape[2]))
        x = x.astype(np.float32)
        expected = graph_says(bundle, x)
        try:
            while True:
                await self._round(name, x, expected, 10_000 + index)
                await asyncio.sleep(0.01)
                async with self._progress:
                    self.rounds += 1
                    self._progress.notify_all()
        except (AssertionError, grpc.aio.AioRpcError) as error:
            self.failed.append(error)
            async with self._progress:
                self._progress.notify_all()

    async def _round(self, name: str, x: Array, expected: Array, sequence_id: int) -> None:
        assert said(await self.caller.track(name, messages(x, (1, 3)))) == expected.tobytes()
        assert await self.caller.forecast(name, x) == expected[-1].tobytes()
        half = len(x) // 2
        first, _ = await self.caller.infer(name, x[:half], sequence_id=sequence_id, sequence_start=True)
        second, _ = await self.caller.infer(name, x[half:], sequence_id=sequence_id, sequence_end=True)
        assert first + second == expected.tobytes()


@dataclass(frozen=True)
class Running:
    instance: Place
    gateway: Place
    replica: Replica


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    recurrent_bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    at = recurrent_bundles["rnn"].path.parents[1]
    async with Suite.open(tmp_path_factory.mktemp("bad")) as suite, contextlib.AsyncExitStack() as stack:
        limits = {"SERIES__MAX_MESSAGE_STEPS": str(MAX_MESSAGE_STEPS), "BUNDLES_DIR": str(at)}
        gateway, replica = await asyncio.gather(suite.start_gateway(), start(suite, limits))
        await serving(gateway.address, "model/rnn")
        places = []
        for address in (replica.address, gateway.address):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=OPTIONS))
            blocking = stack.enter_context(grpc.insecure_channel(address, options=OPTIONS))
            place = Place(Caller(channel), blocking, recurrent_bundles)
            places.append(await stack.enter_async_context(place.with_neighbours()))
        yield Running(places[0], places[1], replica)
        for place in places:
            assert place.failed == []
        await stack.aclose()
        assert await replica.stop() == 0
        for log in (replica.log, gateway.log):
            assert "internal_error" not in log.read_text()


async def start(suite: Suite, limits: dict[str, Any]) -> Replica:
    return await suite.start("sequence", "sequence-1", **limits)


@pytest.fixture(params=["instance", "gateway"])
def place(request: pytest.FixtureRequest, running: Running) -> Place:
    found: Place = getattr(running, request.param)
    return found


@dataclass(frozen=True)
class Refusal:
    """What a caller is told."""

    code: str
    reason: str
    field: str  # of ErrorInfo, and of BadRequest where there is one


def refusal(error: Any, *, executed: str = "no") -> Refusal:
    code, info, bad = details(error)
    assert (info.domain, info.metadata["instance"], info.metadata["executed"]) == ("trivium", "sequence-1", executed)
    for violation in bad.field_violations:
        assert violation.field == info.metadata["field"]
    assert len(error.details() or "") > 10
    return Refusal(code, info.reason, info.metadata["field"])


async def refused(call: Awaitable[Any]) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


async def stream_refused(place: Place, *sent: dict[str, Any], answers: int = 0) -> tuple[Refusal, str]:
    """Why a stream of these messages ended after so many answers, and the step in its error."""
    came, error = await thrown(place, [pb.TrackRequest(**message).SerializeToString() for message in sent])
    assert len(came) == answers
    return refusal(error), details(error)[1].metadata["step"]


async def thrown(place: Place, sent: Sequence[bytes]) -> tuple[list[Answered], Any]:
    """The answers to a stream of these messages, and its error if it has one."""
    return await asyncio.to_thread(whole_stream, place.channel, sent)


INVALID = Refusal("INVALID_ARGUMENT", "INVALID_FIELD", "values")
TOO_LARGE = Refusal("INVALID_ARGUMENT", "INPUT_TOO_LARGE", "values")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([NAN, 1], INVALID),
        ([1, 2, 3, INFINITY], INVALID),
        ([1, 2, -INFINITY, 4], INVALID),
        ([1, 2, 3], INVALID),
        ([], INVALID),
        ([0] * 2 * (MAX_STEPS + 1), TOO_LARGE),
    ],
    ids=["NaN", "infinity", "minus infinity", "half a step", "no step", "too many steps"],
)
async def test_what_is_no_series_is_refused_whole(place: Place, values: list[float], expected: Refusal) -> None:
    assert await refused(place.caller.forecast("lstm", values)) == expected
    await place.neighbours_are_well()


@pytest.mark.parametrize("values", [[], [NAN], [1.0] * 4097], ids=["no step", "NaN", "too many steps"])
async def test_and_it_has_no_classes_either(place: Place, values: list[float]) -> None:
    expected = TOO_LARGE if len(values) > 1 else INVALID
    for name in ("digits-rnn", "both"):
        assert await refused(place.caller.classify(name, values)) == expected
    await place.neighbours_are_well()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([NAN, 1], INVALID),
        ([1, INFINITY], INVALID),
        ([1, 2, 3], INVALID),
        ([0] * 2 * (MAX_MESSAGE_STEPS + 1), TOO_LARGE),
    ],
    ids=["NaN", "infinity", "half a step", "too many steps of one message"],
)
async def test_a_bad_message_ends_its_stream_after_all_answers_before_it(
    place: Place, values: list[float], expected: Refusal
) -> None:
    good = {"values": [1, 2, 3, 4], "model": "lstm"}
    assert await stream_refused(place, {**good, "values": values}) == (expected, "0")
    assert await stream_refused(place, good, {"values": values}, {"values": [1, 2]}, answers=2) == (
        expected,
        "2",
    )
    await place.neighbours_are_well()


async def test_a_bundle_may_take_what_is_not_finite(place: Place) -> None:
    x = np.array([[1], [NAN], [INFINITY], [2]], np.float32)
    answers = await place.caller.track("any", messages(x, (1, 3)))
    assert [answer.step for answer in answers] == [1, 2, 3, 4]
    assert len(await place.caller.forecast("any", x)) == 3 * 4
    bits, _ = await place.caller.infer("any", x, sequence_id=1, sequence_start=True, sequence_end=True)
    assert len(bits) == 4 * 3 * 4
    finite = np.array([[1], [2], [3]], np.float32)
    assert said(await place.caller.track("any", [finite])) == graph_says(place.bundles["any"], finite).tobytes()


async def test_an_empty_message_is_no_fault_of_a_stream(place: Place) -> None:
    x = np.ones((3, 2), np.float32)
    answers = await place.caller.track("lstm", [x[:1], x[:0], x[1:], x[:0]])
    assert said(answers) == graph_says(place.bundles["lstm"], x).tobytes()
    assert await place.caller.track("lstm", []) == []


async def test_the_steps_of_a_stream_have_a_limit_also_after_a_resume(place: Place) -> None:
    full = messages(np.zeros((MAX_STEPS, 2), np.float32), (MAX_MESSAGE_STEPS,))
    answers = await place.caller.track("lstm", full, return_state=True)
    assert answers[-1].step == MAX_STEPS
    more = {"model": "lstm", "resume_state": answers[-1].state, "values": [1, 2]}
    assert await stream_refused(place, more) == (TOO_LARGE, str(MAX_STEPS))
    before = next(answer for answer in reversed(answers) if answer.state and answer.step < MAX_STEPS)
    one_too_many = {"model": "lstm", "resume_state": before.state, "values": [0] * 2 * (MAX_STEPS - before.step + 1)}
    assert await stream_refused(place, one_too_many) == (TOO_LARGE, str(before.step))
    await place.neighbours_are_well()


@pytest.mark.parametrize("top_k", [0, 101, 2**32 - 1])
async def test_top_k_and_horizon_have_their_limits(place: Place, top_k: int) -> None:
    expected = Refusal("INVALID_ARGUMENT", "INVALID_FIELD", "top_k")
    assert await refused(place.caller.classify("digits-rnn", [1.0], top_k=top_k)) == expected
    found, _ = await stream_refused(place, {"model": "digits-rnn", "values": [1.0], "top_k": top_k})
    assert found == expected
    expected = Refusal("INVALID_ARGUMENT", "INVALID_FIELD", "horizon")
    assert await refused(place.caller.forecast("rnn", [1.0], horizon=top_k)) == expected


@pytest.mark.parametrize(
    ("later", "field"),
    [({"model": "rnn"}, "model"), ({"model": "lstm:1"}, "model"), ({"resume_state": b"TRVS"}, "resume_state")],
    ids=["another model", "another name of the model", "a state"],
)
async def test_what_belongs_into_the_first_message_is_refused_later(
    place: Place, later: dict[str, Any], field: str
) -> None:
    first = {"model": "lstm", "values": [1, 2]}
    found, step = await stream_refused(place, first, {"values": [3, 4], **later}, answers=1)
    assert (found, step) == (Refusal("INVALID_ARGUMENT", "INVALID_FIELD", field), "1")


@pytest.mark.parametrize(
    ("model", "code", "reason"),
    [
        ("nope", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("lstm:9", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("lstm:zero", "INVALID_ARGUMENT", "INVALID_FIELD"),
        ("both", "UNIMPLEMENTED", "UNSUPPORTED_BY_MODEL"),
        ("regression-mlp", "UNIMPLEMENTED", "UNSUPPORTED_BY_MODEL"),
    ],
)
async def test_a_model_that_cannot_track_is_refused(place: Place, model: str, code: str, reason: str) -> None:
    stream = place.caller.stream()
    await stream.send(model=model, values=[1, 2])
    answers, error = await stream.failure()
    found, info, _ = details(error)
    assert (answers, found, info.reason, info.metadata["executed"]) == ([], code, reason, "no")


def sealed(state: bytes, change: Callable[[bytearray], object]) -> bytes:
    """A state that was tampered with by someone who knows its checksum."""
    body = bytearray(state[:-4])
    change(body)
    return bytes(body) + zlib.crc32(body).to_bytes(4, "little")


MISMATCH = ("FAILED_PRECONDITION", "STATE_MISMATCH")
BROKEN = ("INVALID_ARGUMENT", "INVALID_FIELD")
TAMPERED: dict[str, tuple[Callable[[bytes], bytes], tuple[str, str]]] = {
    "truncated": (lambda state: state[:-1], BROKEN),
    "half": (lambda state: state[: len(state) // 2], BROKEN),
    "longer": (lambda state: state + b"\0", BROKEN),
    "a number changed": (lambda state: state[:60] + bytes([state[60] ^ 1]) + state[61:], BROKEN),
    "a step changed": (lambda state: state[:37] + b"\xff" + state[38:], BROKEN),
    "rubbish": (lambda state: b"rubbish", BROKEN),
    "1 MiB": (lambda state: bytes(1 << 20), BROKEN),
    "of another bundle": (lambda state: sealed(state, lambda body: body.__setitem__(10, body[10] ^ 1)), MISMATCH),
    "of another format": (lambda state: sealed(state, lambda body: body.__setitem__(4, 9)), MISMATCH),
    "a number less": (lambda state: sealed(state, lambda body: body.__delitem__(slice(-4, None))), BROKEN),
    "a byte more": (lambda state: sealed(state, lambda body: body.append(0)), BROKEN),
    "far behind the limit": (
        lambda state: sealed(state, lambda body: body.__setitem__(slice(37, 45), b"\xff" * 8)),
        ("INVALID_ARGUMENT", "INPUT_TOO_LARGE"),
    ),
}


@pytest.mark.parametrize("how", TAMPERED)
async def test_a_state_that_was_tampered_with_is_refused(place: Place, how: str) -> None:
    change, (code, reason) = TAMPERED[how]
    x = np.ones((2, 2), np.float32)
    *_, answer = await place.caller.track("lstm", [x], return_state=True)
    bad = change(answer.state)
    field = "values" if reason == "INPUT_TOO_LARGE" else "resume_state"
    found, _ = await stream_refused(place, {"model": "lstm", "resume_state": bad, "values": [1, 2]})
    assert found == Refusal(code, reason, field)
    field = "inputs[x]" if reason == "INPUT_TOO_LARGE" else "parameters.trivium_state"
    text = base64.b64encode(bad).decode()
    assert await refused(place.caller.infer("lstm", x, trivium_state=text)) == Refusal(code, reason, field)
    await place.neighbours_are_well()


async def test_the_state_of_another_model_is_foreign(place: Place) -> None:
    *_, answer = await place.caller.track("rnn", [np.ones((2, 1), np.float32)], return_state=True)
    found, _ = await stream_refused(place, {"model": "any", "resume_state": answer.state, "values": [1.0]})
    assert found == Refusal(*MISMATCH, "resume_state")


@pytest.mark.parametrize("text", ["no base64!", "AAA", "ä", "=" * 8, "A" * 10_000])
async def test_a_state_that_is_no_base64_or_nothing_in_it_is_refused(place: Place, text: str) -> None:
    found = await refused(place.caller.infer("rnn", np.ones((1, 1), np.float32), trivium_state=text))
    assert found == Refusal(*BROKEN, "parameters.trivium_state")


NOT_STARTED = Refusal("FAILED_PRECONDITION", "SEQUENCE_NOT_STARTED", "parameters.sequence_start")
NO_ID = Refusal("INVALID_ARGUMENT", "INVALID_FIELD", "parameters.sequence_id")
ONE = np.ones((1, 1), np.float32)


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ({}, NO_ID),
        ({"sequence_id": 0, "sequence_start": True}, NO_ID),
        ({"sequence_id": "", "sequence_start": True}, NO_ID),
        ({"sequence_id": -1, "sequence_start": True}, NO_ID),
        ({"sequence_id": "i" * 10_000, "sequence_start": True}, NO_ID),
        ({"sequence_id": True, "sequence_start": True}, NO_ID),
        ({"sequence_id": 404}, NOT_STARTED),
        ({"sequence_id": 404, "sequence_end": True}, NOT_STARTED),
        ({"sequence_id": "404"}, NOT_STARTED),
        ({"sequence_id": 5, "sequence_start": 1}, NOT_STARTED),
    ],
    ids=str,
)
async def test_a_request_that_belongs_to_no_sequence_is_refused(
    place: Place, sequence: dict[str, Any], expected: Refusal
) -> None:
    if sequence.get("sequence_start") == 1 and sequence["sequence_start"] is not True:
        expected = Refusal("INVALID_ARGUMENT", "INVALID_FIELD", "parameters.sequence_start")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await place.caller.infer("rnn", ONE, **sequence)
    code, info, _ = details(caught.value)  # the gateway keeps sequences, and refuses some itself
    assert Refusal(code, info.reason, info.metadata["field"]) == expected
    assert info.metadata["executed"] == "no"
    await place.neighbours_are_well()


@pytest.mark.parametrize("sequence_id", ["i" * 22, "i" * 256, "日本", 2**63 - 1], ids=["22", "256", "wide", "large"])
async def test_a_sequence_is_neither_started_twice_nor_continued_after_its_end(place: Place, sequence_id: Any) -> None:
    async def ask(**flags: bool) -> bytes:
        return (await place.caller.infer("rnn", ONE, sequence_id=sequence_id, **flags))[0]

    async def reason(**flags: bool) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(**flags)
        assert details(caught.value)[0] == "FAILED_PRECONDITION"
        assert details(caught.value)[1].metadata["field"] == "parameters.sequence_start"
        return str(details(caught.value)[1].reason)

    bits = await ask(sequence_start=True)
    assert await reason(sequence_start=True) == "STATE_MISMATCH"
    bits += await ask()
    bits += await ask(sequence_end=True)
    assert bits == graph_says(place.bundles["rnn"], np.ones((3, 1), np.float32)).tobytes()
    for flags in ({}, {"sequence_end": True}):
        assert await reason(**flags) == "SEQUENCE_NOT_STARTED"
    await place.neighbours_are_well()


@pytest.mark.parametrize(
    ("x", "field", "reason"),
    [
        (np.full((2, 1), NAN), "inputs[x]", "INVALID_FIELD"),
        (np.full((2, 1), INFINITY), "inputs[x]", "INVALID_FIELD"),
        (np.zeros((0, 1)), "inputs[x]", "INVALID_FIELD"),
        (np.zeros((4097, 1)), "inputs[x]", "INPUT_TOO_LARGE"),
        (np.zeros((2, 2)), "inputs[x].shape", "INVALID_FIELD"),
    ],
    ids=["NaN", "infinity", "no step", "too many steps", "too wide"],
)
async def test_a_tensor_that_is_no_series_is_refused_and_the_sequence_stays(
    place: Place, x: Array, field: str, reason: str
) -> None:
    bits, _ = await place.caller.infer("rnn", ONE, sequence_id=77, sequence_start=True)
    found = await refused(place.caller.infer("rnn", x, sequence_id=77))
    assert found == Refusal("INVALID_ARGUMENT", reason, field)
    more, _ = await place.caller.infer("rnn", ONE, sequence_id=77, sequence_end=True)
    assert bits + more == graph_says(place.bundles["rnn"], np.ones((2, 1), np.float32)).tobytes()
    await place.neighbours_are_well()


@pytest.mark.parametrize(
    ("x", "field"), [(ONE * NAN, "inputs[x]"), (np.zeros((2, 2)), "inputs[x].shape")], ids=["NaN", "too wide"]
)
async def test_a_last_request_that_is_wrong_ends_its_sequence(place: Place, x: Array, field: str) -> None:
    """Else one that has had all its steps could not be ended."""
    for _ in range(2):
        await place.caller.infer("rnn", ONE, sequence_id=79, sequence_start=True)
        found = await refused(place.caller.infer("rnn", x, sequence_id=79, sequence_end=True))
        assert found == Refusal("INVALID_ARGUMENT", "INVALID_FIELD", field)


async def test_two_rows_are_two_sequences_and_refused(place: Place) -> None:
    request = infer_request("rnn", ONE, sequence_id=78, sequence_start=True)
    request.inputs[0].shape[:] = (2, 1, 1)
    request.raw_input_contents[0] += request.raw_input_contents[0]
    found = await refused(place.caller.unary(INFER, request.SerializeToString()))
    assert found == Refusal("INVALID_ARGUMENT", "INVALID_FIELD", "inputs[x].shape")


async def test_huge_values_are_answered_or_the_callers_fault(place: Place) -> None:
    for name in ("rnn", "lstm", "digits-rnn", "sunspots-lstm"):
        x = np.array([1e38, -1e38, 3.4e38, 1e-45, 1e38, 3.4e38], np.float32)
        request = pb.TrackRequest(model=name, values=x)
        answers, error = await thrown(place, [request.SerializeToString()])
        if error is not None:
            assert refusal(error, executed="yes") == INVALID
        for answer in answers:
            assert all(math.isfinite(value) for value in answer.values)
            assert all(math.isfinite(ranked.probability) for ranked in answer.classes)
    await place.neighbours_are_well()


async def test_bytes_that_are_no_message_end_the_stream_after_the_answers_before_them(place: Place) -> None:
    for opening in (True, False):
        stream = place.caller.stream()
        if opening:
            await stream.send([1, 2, 3, 4], model="lstm")
            await stream.answers(2)
        await stream.call.write(b"\xff\xff\xff rubbish")
        answers, error = await stream.failure()
        code, info, _ = details(error)
        assert (answers, code, info.reason) == ([], "INVALID_ARGUMENT", "MALFORMED_REQUEST")
        if opening:
            assert info.metadata["step"] == "2"
    await place.neighbours_are_well()


async def test_a_bad_request_on_a_stream_of_the_protocol_is_an_answer_and_the_stream_goes_on(place: Place) -> None:
    stream = place.caller.stream(STREAM_INFER)
    requests = [
        infer_request("rnn", ONE, sequence_id=90, sequence_start=True),
        infer_request("rnn", ONE * NAN, sequence_id=90),
        infer_request("rnn", ONE, sequence_id=91),
        infer_request("rnn", ONE, sequence_id=90, sequence_end=True),
        infer_request("rnn", ONE, sequence_id=90),
    ]
    answers = []
    for request in requests:  # one at a time: what waits behind a failure is refused with it
        await stream.call.write(request.SerializeToString())
        answers.append(oip.ModelStreamInferResponse.FromString(await stream.call.read()))
    await stream.call.done_writing()
    assert [bool(answer.error_message) for answer in answers] == [False, True, True, False, True]
    bits = [answers[index].infer_response.raw_output_contents[0] for index in (0, 3)]
    assert b"".join(bits) == graph_says(place.bundles["rnn"], np.ones((2, 1), np.float32)).tobytes()


EXAMPLES = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    """What became of all that was thrown."""
    yield (counted := Counter[str]())
    assert counted.total() >= 2 * EXAMPLES.max_examples * 15
    assert counted["INVALID_ARGUMENT"] > 100
    assert counted["OK"] > 15


@EXAMPLES
@given(data=st.data())
async def test_no_stream_and_no_request_harms_the_service_or_its_neighbours(
    place: Place, tally: Counter[str], data: st.DataObject
) -> None:
    *_, answer = await place.caller.track("lstm", [np.ones((2, 2), np.float32)], return_state=True)
    streams = data.draw(st.lists(tracks(answer.state), min_size=10, max_size=10))
    requests = data.draw(st.lists(unaries(base64.b64encode(answer.state).decode()), min_size=10, max_size=10))
    async with asyncio.timeout(30):
        ends = await asyncio.gather(
            *(tracked(place, sent) for sent in streams),
            *(asked(place.caller, path, sent) for path, sent in requests),
        )
    await place.neighbours_are_well()
    for error in ends:
        if error is None:
            tally["OK"] += 1
            continue
        code, info, _ = details(error)
        tally[code] += 1
        assert code in ALLOWED, (code, error.details())
        assert info.domain == "trivium"
        assert info.metadata["executed"] == ("yes" if "too large for it" in (error.details() or "") else "no")
        assert len(error.details() or "") > 10


async def tracked(place: Place, sent: Sequence[bytes]) -> Any:
    """What a stream of these messages ends with."""
    answers, error = await thrown(place, sent)
    first = answers[0].step if answers else 1
    assert [answer.step for answer in answers] == list(range(first, first + len(answers)))
    if answers and error is not None:
        assert details(error)[1].metadata["step"] == str(answers[-1].step)
    return error


async def asked(caller: Caller, path: str, sent: bytes) -> grpc.aio.AioRpcError | None:
    """What a unary call ends with."""
    try:
        await caller.unary(path, sent)
    except grpc.aio.AioRpcError as error:
        return error
    return None
