"""Whatever is thrown at the language service, each caller gets what it deserves, and its neighbours their tokens.

Everything is asked of an instance and of a gateway before it.
"""

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference import grpc_service_pb2 as oip
from tests.harness import OPTIONS, Replica, Suite, serving
from tests.hostile import details
from tests.hostile_texts import THROWN
from tests.language_bundles import END, tokenizer
from tests.texts import (
    CLASSIFY,
    DETOKENIZE,
    EMBED,
    GENERATE,
    INFER,
    SCORE,
    STREAM_INFER,
    TOKENIZE,
    Caller,
    Written,
    infer_request,
    inferred,
    rest,
)
from trivium.language.v1 import language_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")
LIMIT_S = 60
VOCAB = tokenizer().get_vocab_size()
ENDS = tokenizer().token_to_id(END)
MAX_TOKENS, MAX_SOURCE = 256, 64
# What neighbours ask for, all the time.
NEIGHBOURS: tuple[dict[str, Any], ...] = (
    {"model": "gpt", "prompt": "a neighbour", "max_new_tokens": 20, "seed": 1, "logprobs": 2},
    {"model": "gpt", "prompt": "三百", "max_new_tokens": 24, "temperature": 1.0, "seed": 2, "n": 2, "stop": ["q"]},
)
ALLOWED = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}
NAN, INFINITY = math.nan, math.inf


@dataclass
class Place:
    """Where hostile requests go, and neighbours that want their tokens there all the time."""

    caller: Caller
    known: list[list[Written]]
    rounds: list[int] = field(default_factory=lambda: [0] * len(NEIGHBOURS))  # that each neighbour has finished
    failed: list[BaseException] = field(default_factory=list)
    _progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    @contextlib.asynccontextmanager
    async def with_neighbours(self) -> AsyncIterator["Place"]:
        """Each of them asks again when it has its text."""
        tasks = [asyncio.create_task(self._neighbour(index)) for index in range(len(NEIGHBOURS))]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def neighbours_are_well(self) -> None:
        """Returns when each of them has got a text that it asked for after now."""
        wanted = [rounds + 2 for rounds in self.rounds]
        async with asyncio.timeout(LIMIT_S), self._progress:
            await self._progress.wait_for(
                lambda: self.failed or all(now >= then for now, then in zip(self.rounds, wanted, strict=True))
            )
        assert self.failed == []

    async def _neighbour(self, index: int) -> None:
        try:
            while True:
                assert await self.caller.texts(**NEIGHBOURS[index]) == self.known[index]
                self.rounds[index] += 1
                async with self._progress:
                    self._progress.notify_all()
        except (AssertionError, grpc.aio.AioRpcError) as error:
            self.failed.append(error)
            async with self._progress:
                self._progress.notify_all()


@dataclass(frozen=True)
class Running:
    instance: Place
    gateway: Place
    replica: Replica


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(language_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with Suite.open(tmp_path_factory.mktemp("bad")) as suite, contextlib.AsyncExitStack() as stack:
        quick: dict[str, Any] = {
            "ENGINE__THREADS": 1,
            "DEFAULT_MODEL": "gpt",
            "BUNDLES_DIR": language_folder,
            "GENERATION__MAX_QUEUE": 10_000,
        }
        gateway, replica = await asyncio.gather(suite.start_gateway(), suite.start("language", "language-1", **quick))
        for name in ("gpt", "translate", "recite", "scripts"):
            await serving(gateway.address, f"model/{name}")
        places, known = [], list[list[Written]]()
        for address in (replica.address, gateway.address):
            caller = Caller(await stack.enter_async_context(grpc.aio.insecure_channel(address, options=OPTIONS)))
            known = known or [await caller.texts(**wish) for wish in NEIGHBOURS]
            places.append(await stack.enter_async_context(Place(caller, known).with_neighbours()))
        yield Running(places[0], places[1], replica)
        for place in places:
            assert place.failed == []
        await stack.aclose()
        assert await replica.stop() == 0
        for log in (replica.log, gateway.log):
            assert "internal_error" not in log.read_text()
            assert "scheduler_broken" not in log.read_text()


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


def refusal(error: Any) -> Refusal:
    code, info, bad = details(error)
    assert (info.domain, info.metadata["executed"]) == ("trivium", "no")
    assert info.metadata["instance"] in ("language-1", "gateway")
    for violation in bad.field_violations:
        assert violation.field == info.metadata["field"]
    assert len(error.details() or "") > 10
    return Refusal(code, info.reason, info.metadata["field"])


async def refused(call: Awaitable[Any]) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


async def generate_refused(place: Place, **fields: Any) -> Refusal:
    """Why such a Generate was refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest(place.caller.call(pb.GenerateRequest(**fields)))
    return refusal(caught.value)


def invalid(name: str) -> Refusal:
    return Refusal("INVALID_ARGUMENT", "INVALID_FIELD", name)


def too_large(name: str) -> Refusal:
    return Refusal("INVALID_ARGUMENT", "INPUT_TOO_LARGE", name)


# Each of them is wrong by itself; the prompt is a good one where none is given.
WRONG: dict[str, tuple[dict[str, Any], Refusal]] = {
    "no prompt": ({"model": "recite", "prompt": ""}, invalid("prompt")),
    "no source": ({"model": "translate", "prompt_token_ids": [], "prompt": ""}, invalid("prompt")),
    "both prompts": ({"prompt": "a", "prompt_token_ids": [1]}, invalid("prompt")),
    "a token too high": ({"prompt": "", "prompt_token_ids": [1, VOCAB]}, invalid("prompt_token_ids[1]")),
    "the highest number": ({"prompt": "", "prompt_token_ids": [2**32 - 1]}, invalid("prompt_token_ids[0]")),
    "more tokens at least than at most": ({"min_new_tokens": 65}, invalid("min_new_tokens")),
    "temperature NaN": ({"temperature": NAN}, invalid("temperature")),
    "temperature infinite": ({"temperature": INFINITY}, invalid("temperature")),
    "temperature below 0": ({"temperature": -0.1}, invalid("temperature")),
    "temperature above 100": ({"temperature": 100.5}, invalid("temperature")),
    "top_k": ({"top_k": 65}, invalid("top_k")),
    "top_p 0": ({"top_p": 0.0}, invalid("top_p")),
    "top_p above 1": ({"top_p": 1.5}, invalid("top_p")),
    "top_p NaN": ({"top_p": NAN}, invalid("top_p")),
    "min_p": ({"min_p": 1.1}, invalid("min_p")),
    "min_p NaN": ({"min_p": NAN}, invalid("min_p")),
    "repetition_penalty 0": ({"repetition_penalty": 0.0}, invalid("repetition_penalty")),
    "repetition_penalty NaN": ({"repetition_penalty": NAN}, invalid("repetition_penalty")),
    "repetition_penalty above 10": ({"repetition_penalty": 10.5}, invalid("repetition_penalty")),
    "presence_penalty": ({"presence_penalty": 2.5}, invalid("presence_penalty")),
    "presence_penalty NaN": ({"presence_penalty": NAN}, invalid("presence_penalty")),
    "frequency_penalty": ({"frequency_penalty": -2.5}, invalid("frequency_penalty")),
    "frequency_penalty infinite": ({"frequency_penalty": -INFINITY}, invalid("frequency_penalty")),
    "stops": ({"stop": [str(number) for number in range(17)]}, invalid("stop")),
    "an empty stop": ({"stop": ["a", ""]}, invalid("stop[1]")),
    "a long stop": ({"stop": ["a" * 257]}, invalid("stop[0]")),
    "stop tokens": ({"stop_token_ids": range(17)}, invalid("stop_token_ids")),
    "a stop token too high": ({"stop_token_ids": [VOCAB]}, invalid("stop_token_ids[0]")),
    "logprobs": ({"logprobs": 21}, invalid("logprobs")),
    "n 0": ({"n": 0}, invalid("n")),
    "n 9": ({"n": 9}, invalid("n")),
    "biases": ({"logit_bias": dict.fromkeys(range(257), 1.0)}, invalid("logit_bias")),
    "a bias too large": ({"logit_bias": {7: 100.5}}, invalid("logit_bias[7]")),
    "a bias that is NaN": ({"logit_bias": {7: NAN}}, invalid("logit_bias[7]")),
    "a bias of a token too high": ({"logit_bias": {VOCAB: 1.0}}, invalid(f"logit_bias[{VOCAB}]")),
    "priority too high": ({"priority": 101}, invalid("priority")),
    "priority too low": ({"priority": -101}, invalid("priority")),
    "continue_from a token too high": (
        {"continue_from": pb.ContinueFrom(generated_token_ids=[VOCAB])},
        invalid("continue_from.generated_token_ids[0]"),
    ),
    "continue_from more texts than n": (
        {"continue_from": pb.ContinueFrom(generated_token_ids=[1], further=[pb.TokenIds(ids=[1])])},
        invalid("continue_from.further"),
    ),
    "continue_from without a seed": (
        {"continue_from": pb.ContinueFrom(generated_token_ids=[1]), "temperature": 1.0},
        invalid("seed"),
    ),
    "continue_from more than new tokens": (
        {"continue_from": pb.ContinueFrom(generated_token_ids=[1, 2, 3]), "max_new_tokens": 2},
        too_large("continue_from"),
    ),
    "a name that is none": ({"model": "gpt:zero"}, invalid("model")),
}


@pytest.mark.parametrize("how", WRONG)
async def test_a_wrong_wish_is_refused_and_says_which(place: Place, how: str) -> None:
    fields, expected = WRONG[how]
    assert await generate_refused(place, **{"prompt": "good", **fields}) == expected


async def test_after_all_of_that_the_neighbours_are_well(place: Place) -> None:
    await asyncio.gather(*(generate_refused(place, **{"prompt": "good", **fields}) for fields, _ in WRONG.values()))
    await place.neighbours_are_well()


async def test_values_at_their_limits_are_taken(place: Place) -> None:
    good: tuple[dict[str, Any], ...] = (
        {"temperature": 100.0, "top_k": 64, "top_p": 1.0, "min_p": 1.0},
        {"temperature": 1e-45, "top_k": 0, "top_p": 1e-45, "min_p": 0.0},
        {"repetition_penalty": 10.0, "presence_penalty": 2.0, "frequency_penalty": -2.0, "temperature": 1.0},
        {"repetition_penalty": 1e-45, "temperature": 1.0},
        {"stop": [str(number) * 128 for number in range(10, 26)], "stop_token_ids": range(16)},
        {"logprobs": 20, "n": 8, "temperature": 1.0},
        {"logit_bias": dict.fromkeys(range(1, 257), -100.0), "priority": 100},
        {"min_new_tokens": 5, "priority": -100},
        {"seed": 2**64 - 1, "temperature": 1.0},
    )
    for fields in good:
        for text in await place.caller.texts(prompt="good", max_new_tokens=5, **fields):
            assert len(text.tokens) <= 5
    await place.neighbours_are_well()


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
async def test_a_prompt_below_at_and_over_the_limit(place: Place, tokens: bool) -> None:
    begin = 0 if tokens else 1  # which a text gets

    def prompt(count: int, **fields: Any) -> dict[str, Any]:
        own = {"prompt_token_ids": [97] * count} if tokens else {"prompt": "a" * (count - begin)}
        return {**own, "seed": 1, **fields}

    below = await place.caller.text(**prompt(MAX_TOKENS - 1))
    assert (below.prompt_tokens, len(below.tokens)) == (MAX_TOKENS - 1, 1)
    at = await place.caller.text(**prompt(MAX_TOKENS))
    assert (at.prompt_tokens, at.tokens, at.text) == (MAX_TOKENS, [], "")
    assert await generate_refused(place, **prompt(MAX_TOKENS + 1)) == too_large("prompt")
    assert await generate_refused(place, **prompt(100_000)) == too_large("prompt")
    assert await generate_refused(place, **prompt(MAX_TOKENS - 1, max_new_tokens=2)) == too_large("max_new_tokens")
    assert await generate_refused(place, **prompt(MAX_TOKENS, max_new_tokens=1)) == too_large("max_new_tokens")
    assert await generate_refused(place, **prompt(2, max_new_tokens=2**32 - 1)) == too_large("max_new_tokens")
    whole = await place.caller.text(**prompt(2, max_new_tokens=MAX_TOKENS - 2, ignore_eos=True))
    assert len(whole.tokens) == MAX_TOKENS - 2
    await place.neighbours_are_well()


async def test_a_source_text_has_a_limit_of_its_own(place: Place) -> None:
    fits = await place.caller.text(model="translate", prompt="a" * (MAX_SOURCE - 1), max_new_tokens=3)
    assert fits.prompt_tokens == MAX_SOURCE
    expected = too_large("prompt")
    assert await generate_refused(place, model="translate", prompt="a" * MAX_SOURCE) == expected
    assert await generate_refused(place, model="translate", prompt_token_ids=[97] * (MAX_SOURCE + 1)) == expected
    late = await generate_refused(place, model="translate", prompt="a", max_new_tokens=MAX_SOURCE)
    assert late == too_large("max_new_tokens")


BAD_UTF8 = b"\x12\x02\xff\xfe"  # field 2, two bytes


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (GENERATE, BAD_UTF8),
        (GENERATE, b"\x62\x01\xc3"),  # a stop string that is cut in a character
        (GENERATE, b"\x0a\x01\x80\x12\x01a"),  # a name
        (GENERATE, b"\xff\xff\xff rubbish"),
        (SCORE, BAD_UTF8),
        (CLASSIFY, BAD_UTF8),
        (EMBED, BAD_UTF8),
        (TOKENIZE, BAD_UTF8),
        (DETOKENIZE, b"\x0a\x01\xff"),
    ],
)
async def test_bytes_that_are_no_text_are_no_message(place: Place, path: str, data: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (rest(place.caller.call(data)) if path == GENERATE else place.caller.unary(path, data))
    code, info, _ = details(caught.value)
    assert (code, info.reason, info.domain) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST", "trivium")
    assert info.metadata["executed"] == "no"
    await place.neighbours_are_well()


async def test_a_text_of_the_protocol_that_is_no_utf8_is_refused(place: Place) -> None:
    request = infer_request("gpt", "a", 4)
    request.inputs[0].contents.bytes_contents[0] = b"\xff\xfe"
    assert (await refused(place.caller.unary(INFER, request))).code == "INVALID_ARGUMENT"
    raw = infer_request("scripts", "a", 4)
    del raw.inputs[:]
    raw.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
    raw.raw_input_contents.append(b"\x02\0\0\0\xff\xfe")
    assert (await refused(place.caller.unary(INFER, raw))).code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("nope", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("gpt:9", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("scripts", "UNIMPLEMENTED", "UNSUPPORTED_BY_MODEL"),
    ],
)
async def test_a_model_that_does_not_write_is_refused(place: Place, name: str, code: str, reason: str) -> None:
    calls = [
        rest(place.caller.call(pb.GenerateRequest(model=name, prompt="a"))),
        place.caller.score(model=name, text="ab"),
        place.caller.tokenize("a", model=name),
        place.caller.detokenize([1], model=name),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        found, info, _ = details(caught.value)
        assert (found, info.reason, info.metadata["executed"]) == (code, reason, "no")
        assert info.metadata["model"] == name.partition(":")[0]


async def test_a_model_that_writes_has_neither_classes_nor_vectors(place: Place) -> None:
    for name in ("gpt", "translate"):
        for call in (place.caller.classify(model=name, text="a"), place.caller.embed(model=name, text="a")):
            assert await refused(call) == Refusal("UNIMPLEMENTED", "UNSUPPORTED_BY_MODEL", "")


async def test_what_cannot_be_scored_read_or_classified_is_refused(place: Place) -> None:
    caller = place.caller
    refusals: list[tuple[Awaitable[Any], Refusal]] = [
        (caller.score(model="recite", text="a"), invalid("text")),  # one token, with nothing before it
        (caller.score(text=""), invalid("text")),
        (caller.score(text="a", text_token_ids=[1]), invalid("text")),
        (caller.score(context="a", context_token_ids=[1], text="a"), invalid("context")),
        (caller.score(text_token_ids=[VOCAB]), invalid("text_token_ids[0]")),
        (caller.score(context="a" * 200, text="a" * 56), too_large("text")),
        (caller.score(text="a" * 100_000), too_large("text")),
        (caller.tokenize("a" * 100_000), too_large("text")),
        (caller.detokenize([1, 2, VOCAB]), invalid("token_ids[2]")),
        (caller.classify(model="scripts", text=""), invalid("text")),
        (caller.classify(model="scripts", text=" \n\t"), invalid("text")),
        (caller.classify(model="scripts", text="a" * 301), too_large("text")),
        (caller.classify(model="scripts", text="a", top_k=0), invalid("top_k")),
        (caller.classify(model="scripts", text="a", top_k=101), invalid("top_k")),
        (caller.embed(model="scripts", text=""), invalid("text")),
        (caller.embed(model="scripts", text="a" * 301), too_large("text")),
    ]
    for call, expected in refusals:
        assert await refused(call) == expected
    assert len((await caller.score(context="a" * 200, text="a" * 55)).tokens) == 55
    assert len(await caller.embed(model="scripts", text="a" * 300)) == 3
    await place.neighbours_are_well()


@pytest.mark.parametrize(
    ("given", "name", "reason"),
    [
        ({"unheard_of": 1}, "parameters", "UNKNOWN_PARAMETER"),
        ({"max_new_tokens": 1}, "parameters", "UNKNOWN_PARAMETER"),
        ({"triton_enable": True}, "parameters", "UNKNOWN_PARAMETER"),
        ({"temperature": "1"}, "parameters.temperature", "INVALID_FIELD"),
        ({"temperature": True}, "parameters.temperature", "INVALID_FIELD"),
        ({"temperature": NAN}, "parameters.temperature", "INVALID_FIELD"),
        ({"top_p": 1e300}, "parameters.top_p", "INVALID_FIELD"),
        ({"seed": 1.0}, "parameters.seed", "INVALID_FIELD"),
        ({"seed": -1}, "parameters.seed", "INVALID_FIELD"),
        ({"top_k": 2**40}, "parameters.top_k", "INVALID_FIELD"),
        ({"top_k": 65}, "parameters.top_k", "INVALID_FIELD"),
        ({"stop": 1}, "parameters.stop", "INVALID_FIELD"),
        ({"stop": ""}, "parameters.stop[0]", "INVALID_FIELD"),
        ({"ignore_eos": 1}, "parameters.ignore_eos", "INVALID_FIELD"),
        ({"min_new_tokens": -1}, "parameters.min_new_tokens", "INVALID_FIELD"),
        ({"priority": 202}, "parameters.priority", "INVALID_FIELD"),
        ({"priority": -1}, "parameters.priority", "INVALID_FIELD"),
        ({"priority": 1.0}, "parameters.priority", "INVALID_FIELD"),
        ({"timeout": -1}, "parameters.timeout", "INVALID_FIELD"),
        ({"continue_from": 7}, "parameters.continue_from", "INVALID_FIELD"),
        ({"continue_from": "7;8"}, "parameters.continue_from", "INVALID_FIELD"),
        ({"continue_from": "1,99999"}, "parameters.continue_from", "INVALID_FIELD"),
        ({"continue_from": "1" + ",1" * 300}, "parameters.continue_from", "INPUT_TOO_LARGE"),
        ({"continue_from": "1", "temperature": 1.0}, "parameters.seed", "INVALID_FIELD"),
    ],
    ids=str,
)
async def test_a_parameter_of_the_protocol_is_known_and_of_its_type(
    place: Place, given: dict[str, Any], name: str, reason: str
) -> None:
    found = await refused(place.caller.infer("gpt", "a", 4, **given))
    assert found == Refusal("INVALID_ARGUMENT", reason, name)


async def test_a_request_of_the_protocol_with_wrong_tensors_is_refused(place: Place) -> None:
    def wrong(number: int, **fields: Any) -> oip.ModelInferRequest:
        request = infer_request("gpt", "a", 4)
        for key, value in fields.items():
            if key == "shape":
                request.inputs[number].shape[:] = value
            else:
                setattr(request.inputs[number], key, value)
        return request

    missing = infer_request("gpt", "a", 4)
    del missing.inputs[1]
    requests = [
        wrong(0, datatype="INT32"),
        wrong(1, datatype="INT64"),
        wrong(0, shape=[1, 1]),
        wrong(0, shape=[2]),
        wrong(1, shape=[]),
        wrong(1, name="max_new_tokens"),
        missing,
        infer_request("gpt", "a", -1),
        infer_request("gpt", "a", 256),
        infer_request("recite", "", 4),
    ]
    for request in requests:
        assert (await refused(place.caller.unary(INFER, request))).code == "INVALID_ARGUMENT"
    assert (await refused(place.caller.infer("scripts", "a", 4))).code == "INVALID_ARGUMENT"
    empty = await place.caller.infer("gpt", "a", 0)
    assert inferred(empty) == ("", [])
    await place.neighbours_are_well()


async def test_a_bad_request_on_a_stream_of_the_protocol_is_an_answer_and_the_stream_goes_on(place: Place) -> None:
    call: Any = place.caller.channel.stream_stream(STREAM_INFER)(timeout=LIMIT_S)
    requests = [
        infer_request("gpt", "a", 6, seed=1),
        infer_request("gpt", "a", 6, seed=-1),
        infer_request("gpt", "a", -6),
        infer_request("nope", "a", 6),
        infer_request("gpt", "a", 6, seed=1),
    ]
    ends, tokens = list[str](), list[list[int]]()
    for number, request in enumerate(requests):
        request.id = str(number)
        await call.write(request.SerializeToString())
        tokens.append([])
        while True:
            answer = oip.ModelStreamInferResponse.FromString(await call.read())
            assert answer.infer_response.id == str(number)
            if answer.error_message:
                ends.append(answer.error_message)
                break
            tokens[-1] += inferred(answer.infer_response)[1]
            if answer.infer_response.parameters["triton_final_response"].bool_param:
                ends.append("")
                break
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert [bool(end) for end in ends] == [False, True, True, True, False]
    assert tokens[0] == tokens[4]
    assert len(tokens[0]) == 6


async def test_a_thousand_callers_that_leave_at_once_leave_nothing_behind(place: Place, running: Running) -> None:
    """A third of them before they are answered, a third after the first token, a third by their deadline."""
    calls = [
        place.caller.call(
            pb.GenerateRequest(prompt=f"caller {number}", max_new_tokens=200, ignore_eos=True, seed=number),
            timeout_s=0.5 if number % 3 == 2 else LIMIT_S,
        )
        for number in range(1000)
    ]
    first = [asyncio.ensure_future(call.read()) for number, call in enumerate(calls) if number % 3 == 1]
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    for number, call in enumerate(calls):
        if number % 3 != 2:
            call.cancel()
    await asyncio.gather(*first, *(call.code() for call in calls), return_exceptions=True)
    await place.neighbours_are_well()
    async with asyncio.timeout(LIMIT_S):
        while await running.replica.metric("trivium_calls_in_flight") > 8:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # the process tells of it by nothing else
    labels = {"model": "gpt", "version": "1"}
    assert await running.replica.metric("trivium_generation_texts_running", **labels) <= 6
    assert await running.replica.metric("trivium_generation_texts_waiting", **labels) == 0
    assert await running.replica.metric("trivium_generation_cache_tokens_reserved", **labels) <= 6 * 64


EXAMPLES = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    """What became of all that was thrown."""
    yield (counted := Counter[str]())
    assert counted.total() >= 2 * EXAMPLES.max_examples * 20
    assert counted["INVALID_ARGUMENT"] > 100
    assert counted["OK"] > 20


@EXAMPLES
@given(thrown=st.lists(THROWN, min_size=20, max_size=20))
async def test_no_request_harms_the_service_or_its_neighbours(
    place: Place, tally: Counter[str], thrown: list[tuple[str, bytes]]
) -> None:
    async with asyncio.timeout(LIMIT_S):
        ends = await asyncio.gather(*(asked(place.caller, path, data) for path, data in thrown))
    await place.neighbours_are_well()
    for (path, _), error in zip(thrown, ends, strict=True):
        if error is None:
            tally["OK"] += 1
            continue
        code, info, _ = details(error)
        tally[code] += 1
        assert code in ALLOWED, (path, code, error.details())
        assert (info.domain, info.metadata["executed"]) == ("trivium", "no")
        assert len(error.details() or "") > 10


async def asked(caller: Caller, path: str, data: bytes) -> grpc.aio.AioRpcError | None:
    """What a call ends with."""
    try:
        await (rest(caller.call(data)) if path == GENERATE else caller.unary(path, data))
    except grpc.aio.AioRpcError as error:
        return error
    return None
