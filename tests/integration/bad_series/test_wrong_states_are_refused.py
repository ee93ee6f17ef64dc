"""A state that a service did not give, or gave for another model, is refused."""

import base64
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from tests.integration.bad_series.places import Place, Refusal, refused, stream_refused

pytestmark = pytest.mark.asyncio(loop_scope="package")


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
