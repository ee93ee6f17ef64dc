import pytest

from services.kit.errors import InputTooLarge, InvalidField
from services.kit.texts import read, written


@pytest.mark.parametrize("tokens", [[], [0], [7, 0, 4294967295], list(range(100))])
def test_what_was_written_is_read(tokens: list[int]) -> None:
    assert read(written(tokens), most=100) == tokens


@pytest.mark.parametrize(
    "value", [",", "1,", ",1", "1,,2", " 1", "1, 2", "-1", "+1", "1.0", "0x1", "٣", "a", "4294967296"]
)
def test_what_is_no_list_of_token_ids_is_refused(value: str) -> None:
    with pytest.raises(InvalidField, match="token ids in decimal digits") as caught:
        read(value, most=100)
    assert caught.value.metadata["field"] == "parameters.continue_from"


def test_too_many_tokens_are_refused_before_any_is_looked_at() -> None:
    with pytest.raises(InputTooLarge, match="has 4 tokens and the limit is 3"):
        read("a,b,c,d", most=3)
