import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import InvalidField
from services.kit.model_name import ModelName


@pytest.mark.parametrize("text", ["", "digits-cnn", "digits-cnn:2", "digits-cnn@canary"])
def test_a_name_reads_back_as_it_was_written(text: str) -> None:
    assert str(ModelName.parse(text)) == text


@pytest.mark.parametrize("text", [":", "a:", ":1", "a:0", "a:-1", "a:x", "a:1:2", "a:²", "@", "a@", "@b", "x" * 257])
def test_a_malformed_name_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(InvalidField) as caught:
        ModelName.parse(text)
    assert caught.value.metadata["field"] == "model"


def test_the_refusal_of_a_malformed_name_says_how_names_are_written() -> None:
    with pytest.raises(InvalidField, match=r"model is 'a:x', which is not name:version .*: it is NAME, NAME:VERSION"):
        ModelName.parse("a:x")
    with pytest.raises(InvalidField, match="model has 257 characters, and a model's name has at most 256"):
        ModelName.parse("a" * 257)


@given(st.text(max_size=300))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        name = ModelName.parse(text)
    except InvalidField:
        return
    assert name.version is None or name.version > 0
