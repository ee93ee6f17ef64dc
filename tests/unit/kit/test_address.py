import pytest

from services.kit.address import join, split


@pytest.mark.parametrize(
    ("host", "text"), [("10.0.0.7", "10.0.0.7:9000"), ("::1", "[::1]:9000"), ("vision", "vision:9000")]
)
def test_an_address_reads_back(host: str, text: str) -> None:
    assert join(host, 9000) == text
    assert split(text) == (host, 9000)
