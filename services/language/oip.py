"""TextInfer: the Open Inference Protocol's requests to this service's bundles.

A request to a model that writes is a GenerateRequest in other words: the text and the number of tokens are tensors, all
other wishes are request parameters of the same names. ModelInfer gives the whole text, ModelStreamInfer each piece.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType

import numpy as np

from inference import grpc_service_pb2 as oip
from services.kit import texts
from services.kit.call import Call
from services.kit.errors import InvalidField
from services.kit.inference.bundle import Array
from services.kit.inference.job import Output
from services.kit.inference.oip import Answer, through_batcher
from services.kit.open_inference import INTEGER
from services.kit.texts import CONTINUE_FROM, SEED, TOKENS
from services.language.answers import Answers
from services.language.classifier import Classifier
from services.language.leaving import Leaving
from services.language.loader import LanguageModel
from services.language.servicer import SEED_BITS
from services.language.writer import Writer
from trivium.language.v1 import language_pb2 as pb

NUMBER = ("double_param", *INTEGER)
FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
INTEGERS = ("top_k", "seed", "min_new_tokens")
PARAMETERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(FLOATS, NUMBER),
        **dict.fromkeys(INTEGERS, INTEGER),
        "stop": ("string_param",),
        "ignore_eos": ("bool_param",),
        CONTINUE_FROM: ("string_param",),
    }
)
TEXT, MAX_TOKENS, OUTPUT = "text_input", "max_tokens", "text_output"
MIDDLE = 101  # the level of Triton's priorities, of which 1 is the most urgent, that is the same as none
LEVELS = MIDDLE + 100
MOST = {"top_k": 1 << 32, "seed": 1 << 64, "min_new_tokens": 1 << 32}


class TextInfer:
    """Computes requests of the Open Inference Protocol."""

    parameters = PARAMETERS

    def __init__(self, leaving: Leaving) -> None:
        self._leaving = leaving

    async def __call__(
        self, model: LanguageModel, inputs: Mapping[str, Array], given: Mapping[str, oip.InferParameter], call: Call
    ) -> tuple[Output, Mapping[str, str]]:
        """The whole text, or the outputs of a classifier."""
        if isinstance(model.pipeline, Classifier):
            return await self._classified(model, model.pipeline, inputs[TEXT], call), {}
        if model.pipeline is None:
            return await through_batcher(model, inputs, given, call)
        text, tokens, said, last = "", list[int](), dict[str, str](), None
        answers = self.answers(model, inputs, given, call)
        async with contextlib.aclosing(answers):
            async for answer in answers:
                text += answer.output.arrays[OUTPUT][0]
                tokens += answer.output.arrays[TOKENS].tolist()
                said.update(answer.texts)
                last = answer
        assert last is not None
        output = last.output
        return Output(_arrays(text, tokens), output.queue_s, output.compute_s, output.batch_size), said

    async def answers(
        self, model: LanguageModel, inputs: Mapping[str, Array], given: Mapping[str, oip.InferParameter], call: Call
    ) -> AsyncGenerator[Answer, None]:
        """Each piece of the text as it is made."""
        writer = model.pipeline
        assert isinstance(writer, Writer)
        request = _request(inputs, given, writer.generation.max_tokens)
        try:
            wanted = await writer.texts(request, call.deadline, lambda: secrets.randbits(SEED_BITS))
        except InvalidField as error:
            error.metadata["field"] = _field(error.metadata["field"])
            error.message = error.message.replace("max_new_tokens", MAX_TOKENS)
            raise
        answers = Answers(writer, wanted, f"{model.name}:{model.version}", None)
        async with contextlib.aclosing(answers.messages(self._leaving)) as messages:
            async for message in messages:
                cost = answers.output
                output = Output(
                    _arrays(message.text, list(message.token_ids)), cost.queue_s, cost.compute_s, cost.batch_size
                )
                final = message.finish_reason != pb.FINISH_REASON_UNSPECIFIED
                yield Answer(output, _said(message), final)

    async def _classified(self, model: LanguageModel, classifier: Classifier, given: Array, call: Call) -> Output:
        """The outputs for rows [rows, 1]; each goes to the batcher alone, as rows of other lengths share no run."""
        rows = [classifier.inputs(str(text), f"inputs[{TEXT}][{at}]") for at, text in enumerate(given[:, 0])]
        outputs = await asyncio.gather(
            *(model.batcher.submit(row, call.deadline, admitted=at > 0) for at, row in enumerate(rows))
        )
        arrays = {name: np.concatenate([output.arrays[name] for output in outputs]) for name in outputs[0].arrays}
        return Output(
            arrays,
            max(output.queue_s for output in outputs),
            max(output.compute_s for output in outputs),
            max(output.batch_size for output in outputs),
        )


def _field(name: str) -> str:
    """What a field of a GenerateRequest is called in this protocol."""
    tensors = {"prompt": TEXT, "max_new_tokens": MAX_TOKENS}
    name = name.partition(".")[0]  # the tokens to go on from are one parameter here
    return f"inputs[{tensors[name]}]" if name in tensors else f"parameters.{name}"


def _arrays(text: str, tokens: list[int]) -> dict[str, Array]:
    return {OUTPUT: np.array([text], np.object_), TOKENS: np.array(tokens, np.int64)}


def _said(message: pb.GenerateResponse) -> dict[str, str]:
    """What the first and the last message of a text say of it besides its tensors."""
    seed = {SEED: str(message.seed)} if message.HasField("seed") else {}
    if message.finish_reason == pb.FINISH_REASON_UNSPECIFIED:
        return seed
    return seed | {
        "finish_reason": pb.FinishReason.Name(message.finish_reason).removeprefix("FINISH_REASON_"),
        "prompt_tokens": str(message.usage.prompt_tokens),
        "generated_tokens": str(message.usage.generated_tokens),
    }


def _request(
    inputs: Mapping[str, Array], given: Mapping[str, oip.InferParameter], max_tokens: int
) -> pb.GenerateRequest:
    """The same wishes as a GenerateRequest.

    Args:
        max_tokens: that a text of the model may have.

    Raises:
        InvalidField, InputTooLarge: a number or tokens that no such request can have.
    """
    count = int(inputs[MAX_TOKENS][0])
    if count < 0:
        raise InvalidField(
            f"{MAX_TOKENS} is {count}, and must be 0 or more",
            field=f"inputs[{MAX_TOKENS}]",
            limit="0",
            value=str(count),
        )
    request = pb.GenerateRequest(prompt=str(inputs[TEXT][0]), max_new_tokens=count)
    for name, value in given.items():
        if name not in PARAMETERS and name != "priority":
            continue
        found = getattr(value, value.WhichOneof("parameter_choice") or "int64_param")
        if name == "priority":
            request.priority = _priority(found)
        elif name == CONTINUE_FROM:
            request.continue_from.generated_token_ids.extend(texts.read(found, max_tokens))
        elif name == "stop":
            request.stop.append(found)
        elif name in MOST:
            if not 0 <= found < MOST[name]:
                raise InvalidField(
                    f"'{name}' must lie in [0, {MOST[name] - 1}], got {found}",
                    field=f"parameters.{name}",
                    limit=f"[0, {MOST[name] - 1}]",
                    value=str(found),
                )
            setattr(request, name, found)
        else:
            setattr(request, name, found)
    return request


def _priority(level: int) -> int:
    """A GenerateRequest's priority for one of Triton's, where 1 is the most urgent and 0 the default.

    Raises:
        InvalidField: there are fewer levels.
    """
    if not 0 <= level <= LEVELS:
        raise InvalidField(
            f"'priority' must lie in [0, {LEVELS}], got {level}: 1 is the most urgent, and 0 the same as {MIDDLE}",
            field="parameters.priority",
            limit=f"[0, {LEVELS}]",
            value=str(level),
        )
    return MIDDLE - level if level else 0
