"""InferText: what one text by ModelStreamInfer needs to go on at another instance, and what its caller has got."""

import struct
from array import array
from collections.abc import Callable

from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from gateway.endpoint import Endpoint
from gateway.failures import found
from gateway.lane import FINAL
from gateway.routes import Pin
from inference import grpc_service_pb2 as oip
from services.kit.deadline import Deadline
from services.kit.model_name import version_number
from services.kit.open_inference import INTEGER
from services.kit.texts import CONTINUE_FROM, HIGHEST, SEED, TOKENS, written

LONGEST = (1 << 63) - 1  # microseconds; beyond, a float may not be exact
TIMEOUT, TEMPERATURE, COUNT = "timeout", "temperature", "generated_tokens"


class InferText:
    """The caller's request, the bundle that answers it, and the tokens of the text.

    The tokens are read from the output `token_ids`; a caller that does not want it gets its answers without. An attempt
    is asked for what comes after the tokens that the caller has got, so its first answer is the next one. An answer's
    text is a function of the tokens up to its last one.

    Args:
        request: the caller's; belongs to the text from now on.
        draw: gives 64 random bits, where the request brings no seed.
    """

    def __init__(self, request: oip.ModelInferRequest, draw: Callable[[], int]) -> None:
        self._request, given = request, request.parameters
        self._given = given[CONTINUE_FROM].string_param if CONTINUE_FROM in given else ""
        # Without a seed there is no going on with tokens that were drawn: that is for the service to refuse.
        if SEED not in given and not (self._given and TEMPERATURE in given):
            given[SEED].uint64_param = draw()
        self._strips_tokens = bool(request.outputs) and all(output.name != TOKENS for output in request.outputs)
        if self._strips_tokens:
            request.outputs.add(name=TOKENS)
        self.expires = _expires(request)
        self._tokens = array("I")  # that the caller has got in this call
        self.pin: Pin | None = None
        self.complete = False

    @property
    def model(self) -> str:
        """As the caller names it, without the version."""
        return self._request.model_name

    @property
    def version(self) -> str:
        """As the caller names it."""
        return self._request.model_version

    @property
    def begun(self) -> bool:
        """Whether the caller has got anything."""
        return self.pin is not None

    @property
    def sent(self) -> int:
        """Tokens that the caller has got in this call."""
        return len(self._tokens)

    def request(self) -> bytes:
        """What the next attempt is asked for."""
        request = oip.ModelInferRequest()
        request.CopyFrom(self._request)
        if self._tokens:
            made = written(self._tokens)
            request.parameters[CONTINUE_FROM].string_param = f"{self._given},{made}" if self._given else made
        if self.pin is not None:
            request.model_version = str(self.pin.version)
        if (left_s := self.expires.timeout_s()) is not None:
            request.parameters[TIMEOUT].uint64_param = min(max(1, int(left_s * 1e6)), LONGEST)
        return request.SerializeToString()

    def answered(self, data: bytes, endpoint: Endpoint) -> bytes | None:
        """The answer as the caller gets it; None after the last one.

        Raises:
            CallFailed: it is none, another bundle's, or not the next one.
        """
        answer = _answer(data, endpoint)
        if self.complete:
            return None
        response = answer.infer_response
        pin = self._bundle(response, endpoint)
        place, tokens = _tokens(response, endpoint)
        last = FINAL not in response.parameters or response.parameters[FINAL].bool_param
        if last:
            self._check_count(response, len(self._tokens) + len(tokens), endpoint)
        strips_seed = self.begun and SEED in response.parameters
        self.pin, self.complete = pin, last  # from here on the answer is the caller's
        self._tokens.extend(tokens)
        if strips_seed:
            del response.parameters[SEED]
        if self._strips_tokens:
            del response.outputs[place]
            del response.raw_output_contents[place]
        return answer.SerializeToString() if strips_seed or self._strips_tokens else data

    def _bundle(self, response: oip.ModelInferResponse, endpoint: Endpoint) -> Pin:
        """The one that answers, which is that of the answers before."""
        name, version = response.model_name, version_number(response.model_version)
        if version is None:
            raise found(code_pb2.INTERNAL, f"an answer of {endpoint.id} names no version")
        if self.pin is not None and (name, version) != (self.pin.model, self.pin.version):
            said = f"{endpoint.id} answered with {name}:{version} and was asked for {self.pin}"
            raise found(code_pb2.INTERNAL, said)
        return self.pin or Pin.of(endpoint, name, version)

    def _check_count(self, response: oip.ModelInferResponse, made: int, endpoint: Endpoint) -> None:
        """Whether a text that ends with so many tokens made in this call lacks none, and has none twice."""
        if COUNT not in response.parameters or not made:  # it may end in the midst of what its caller brought
            return
        had = made + (self._given.count(",") + 1 if self._given else 0)
        count = response.parameters[COUNT].string_param
        if count != str(had):
            raise found(code_pb2.INTERNAL, f"{endpoint.id} ended a text of {had} tokens after {count}")


def _expires(request: oip.ModelInferRequest) -> Deadline:
    """The instant at which the request's own timeout ends; an instance refuses one of another type."""
    value = request.parameters[TIMEOUT] if TIMEOUT in request.parameters else oip.InferParameter()
    choice = value.WhichOneof("parameter_choice")
    microseconds = getattr(value, choice) if choice in INTEGER else 0
    return Deadline.after(microseconds / 1e6) if microseconds > 0 else Deadline()


def _answer(data: bytes, endpoint: Endpoint) -> oip.ModelStreamInferResponse:
    try:
        answer = oip.ModelStreamInferResponse.FromString(data)
    except (DecodeError, UnicodeDecodeError):
        raise found(code_pb2.INTERNAL, f"an answer of {endpoint.id} is no ModelStreamInferResponse") from None
    if answer.error_message:  # of an instance that knows no better
        raise found(code_pb2.UNKNOWN, answer.error_message)
    return answer


def _tokens(response: oip.ModelInferResponse, endpoint: Endpoint) -> tuple[int, tuple[int, ...]]:
    """Where among the outputs the tokens of the answer are, and which."""
    for place, output in enumerate(response.outputs):
        if output.name == TOKENS and place < len(response.raw_output_contents):
            raw = response.raw_output_contents[place]
            if output.datatype == "INT64" and not len(raw) % 8:
                tokens = struct.unpack(f"<{len(raw) // 8}q", raw)
                if all(0 <= token <= HIGHEST for token in tokens):
                    return place, tokens
    raise found(code_pb2.INTERNAL, f"an answer of {endpoint.id} brings no token ids")
