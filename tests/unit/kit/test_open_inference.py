"""Service and gateway read a version alike."""

import pytest

from services.kit.errors import InvalidField, UnknownMethod
from services.kit.model_name import ModelName, bundle_name
from services.kit.open_inference import check_repository, version


@pytest.mark.parametrize(("text", "number"), [("", None), ("1", 1), ("01", 1), ("9" * 18, 10**18 - 1)])
def test_a_version_is_a_decimal_number(text: str, number: int | None) -> None:
    assert version(text) == number
    if text:
        assert ModelName.parse(f"digits:{text}").version == number


@pytest.mark.parametrize("text", ["0", "00", "-1", "+1", " 1", "1 ", "x", "1x", "٣", "²", "9" * 19, "9" * 5000])
def test_anything_else_is_no_version(text: str) -> None:
    with pytest.raises(InvalidField, match="version should be an integral value > 0"):
        version(text)
    with pytest.raises(InvalidField):
        ModelName.parse(f"digits:{text}")


def test_the_one_repository_has_no_name() -> None:
    check_repository("")
    with pytest.raises(UnknownMethod, match="'repository_name' specification is not supported") as raised:
        check_repository("x" * 1000)
    assert len(raised.value.metadata["repository_name"]) == 80


@pytest.mark.parametrize("text", ["", "../secret", "a/b", "digits:1", "digits@x", "UPPER", "a" * 64, "a\n"])
def test_what_is_no_name_of_a_bundle_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(InvalidField, match="is no name of a bundle") as raised:
        bundle_name(text, "model_name")
    assert raised.value.metadata["field"] == "model_name"
