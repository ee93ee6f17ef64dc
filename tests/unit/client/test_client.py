"""Client: which addresses and timeouts it takes."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from trivium.client import Client, TriviumCallError
from trivium.client.channel import LONGEST_S, seconds


@pytest.mark.parametrize("address", ["localhost:8001", "127.0.0.1:1", "[::1]:8001", "unix:/run/trivium.sock"])
def test_an_address_names_a_host_and_a_port_or_a_socket(address: str) -> None:
    with Client(address) as client:
        assert client.address == address


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":8001", "localhost:grpc", "host:0", "http://host:1"])
def test_any_other_address_is_refused_with_words_for_people(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_ADDRESS", address)
    with pytest.raises(ValueError, match="the address is host:port"):
        Client()


NOBODY = "unix:/nowhere/trivium.sock"
CALLS: list[Callable[[Client, Any], Any]] = [
    lambda client, timeout_s: client.health(timeout_s=timeout_s),
    lambda client, timeout_s: client.load("cats", timeout_s=timeout_s),
    lambda client, timeout_s: client.generate("x", timeout_s=timeout_s),
    lambda client, timeout_s: list(client.track([1], timeout_s=timeout_s)),
]


def test_a_timeout_is_cut_to_what_grpc_can_say_and_infinity_is_none() -> None:
    assert [seconds(given) for given in (None, math.inf, 5, 0.5)] == [None, None, 5.0, 0.5]
    assert [seconds(given) for given in (1e9, 1e12, 1e99)] == [LONGEST_S] * 3


@pytest.mark.parametrize("timeout_s", [1e12, 1e99, math.inf])
def test_a_very_long_timeout_is_not_over_at_once(timeout_s: float) -> None:
    with Client(NOBODY, timeout_s=timeout_s) as client, pytest.raises(TriviumCallError) as caught:
        client.health()
    assert caught.value.unreachable


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("timeout_s", [math.nan, 0, -1])
def test_a_timeout_that_is_none_is_refused_before_anything_is_sent(
    call: Callable[[Client, Any], Any], timeout_s: float
) -> None:
    words = f"the timeout is more than 0 s, not {timeout_s}"
    with pytest.raises(ValueError, match=words):
        Client(NOBODY, timeout_s=timeout_s)
    with Client(NOBODY) as client:
        with pytest.raises(ValueError, match=words):
            call(client, timeout_s)
        with pytest.raises(TypeError, match="timeout_s is a number, not '5'"):
            call(client, "5")
