"""The Open Inference Protocol's requests for texts: what its words mean, and how a text goes on."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import InputTooLarge, InvalidField
from services.kit.inference.oip import Answer
from services.language.leaving import Leaving
from services.language.oip import TextInfer
from services.language.scheduler import Scheduler
from services.language.sequence import Sequence
from services.language.writer import Writer
from tests.unit.language.fakes import FakeTokenizer
from tests.unit.language.scheduling import scheduler
from tests.unit.language.test_writer import GENERATION

TYPES = {int: "int64_param", float: "double_param", str: "string_param", bool: "bool_param"}


@dataclass
class Model:
    """As far as TextInfer looks at one."""

    pipeline: Writer
    name: str = "fake"
    version: int = 1


@pytest.fixture
async def writing() -> AsyncIterator[Scheduler]:
    async with scheduler() as made:
        yield made


@pytest.fixture
def model(writing: Scheduler) -> Model:
    return Model(Writer(GENERATION, FakeTokenizer(), writing, 64))  # type: ignore[arg-type]


async def answers(model: Any, text: str = "abc", count: int = 20, **given: Any) -> list[Answer]:
    """Every answer to a request."""
    inputs = {"text_input": np.array([text], np.object_), "max_tokens": np.array([count], np.int32)}
    parameters = {name: oip.InferParameter(**{TYPES[type(value)]: value}) for name, value in given.items()}
    found = TextInfer(Leaving()).answers(model, inputs, parameters, Call("/", Deadline()))
    return [answer async for answer in found]


def tokens(found: list[Answer]) -> list[int]:
    return [int(token) for answer in found for token in answer.output.arrays["token_ids"]]


def text(found: list[Answer]) -> str:
    return "".join(answer.output.arrays["text_output"][0] for answer in found)


async def refusal(model: Any, **given: Any) -> InvalidField:
    with pytest.raises(InvalidField) as caught:
        await answers(model, **given)
    return caught.value


@pytest.mark.parametrize("wish", [{}, {"stop": "L"}, {"repetition_penalty": 1.5}], ids=str)
async def test_a_text_goes_on_from_any_of_its_tokens_with_the_very_same_ones(model: Any, wish: dict[str, Any]) -> None:
    wishes = {"temperature": 0.9, "seed": 7, "ignore_eos": True, **wish}
    whole = await answers(model, **wishes)
    all_tokens = tokens(whole)
    assert len(all_tokens) > 5
    for had in range(len(all_tokens) + 1):
        rest = await answers(model, **wishes, continue_from=",".join(map(str, all_tokens[:had])))
        assert tokens(rest) == all_tokens[had:]
        assert text(whole).endswith(text(rest))
        assert rest[-1].texts["generated_tokens"] == str(len(all_tokens))
        assert [answer.final for answer in rest] == [False] * (len(rest) - 1) + [True]


async def test_the_first_answer_says_the_seed_and_the_last_one_how_the_text_ended(model: Any) -> None:
    found = await answers(model, seed=2**40)
    assert found[0].texts["seed"] == str(2**40)
    assert all("seed" not in answer.texts for answer in found[1:])
    assert {"finish_reason", "prompt_tokens", "generated_tokens"} <= found[-1].texts.keys()
    seeds = {(await answers(model, count=1))[0].texts["seed"] for _ in range(5)}
    assert len(seeds) == 5


async def test_a_text_in_one_answer_says_its_seed_too(model: Any) -> None:
    inputs = {"text_input": np.array(["abc"], np.object_), "max_tokens": np.array([9], np.int32)}
    given = {"seed": oip.InferParameter(uint64_param=2**64 - 1)}
    _, said = await TextInfer(Leaving())(model, inputs, given, Call("/", Deadline()))
    assert said["seed"] == str(2**64 - 1)
    assert said["finish_reason"] in ("STOP", "LENGTH")


@pytest.mark.parametrize(
    ("level", "priority"), [(None, 0), (0, 0), (1, 100), (2, 99), (100, 1), (101, 0), (102, -1), (201, -100)]
)
async def test_lower_levels_are_more_urgent_and_0_is_the_middle(
    model: Any, writing: Scheduler, monkeypatch: pytest.MonkeyPatch, level: int | None, priority: int
) -> None:
    submitted: list[Sequence] = []
    submit = writing.submit

    def remembered(sequences: list[Sequence]) -> None:
        submitted.extend(sequences)
        submit(sequences)

    monkeypatch.setattr(writing, "submit", remembered)
    given: dict[str, Any] = {} if level is None else {"priority": level}
    await answers(model, count=1, **given)
    assert [sequence.priority for sequence in submitted] == [priority]


@pytest.mark.parametrize("level", [-1, 202, 2**62])
async def test_a_priority_that_is_no_level_is_refused(model: Any, level: int) -> None:
    error = await refusal(model, priority=level)
    assert str(error) == f"'priority' must lie in [0, 201], got {level}: 1 is the most urgent, and 0 the same as 101"
    assert error.metadata["field"] == "parameters.priority"


async def test_tokens_that_are_none_of_the_model_are_refused_by_their_parameter(model: Any) -> None:
    for value in ("1,97", "1,,2", "1,2," + "3," * 200):
        error = await refusal(model, seed=1, continue_from=value)
        assert error.metadata["field"] == "parameters.continue_from"
    assert isinstance(error, InputTooLarge)
    error = await refusal(model, temperature=1.0, continue_from="1")
    assert error.metadata["field"] == "parameters.seed"


async def test_more_tokens_than_a_text_may_have_are_refused_by_the_name_of_their_tensor(model: Any) -> None:
    error = await refusal(model, count=5000)
    assert error.metadata["field"] == "inputs[max_tokens]"
    assert error.message.startswith("max_tokens is 5000 and this model makes at most ")
