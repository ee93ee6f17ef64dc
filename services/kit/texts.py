"""Texts of the Open Inference Protocol: the words in which one says how far it is, so that it can go on elsewhere."""

import re
from collections.abc import Iterable

from services.kit.errors import InputTooLarge, InvalidField

TOKENS = "token_ids"  # the output that brings the tokens made since the answer before
SEED = "seed"  # request parameter; and of the first response, the one that the text is drawn with
CONTINUE_FROM = "continue_from"  # request parameter: the tokens that the text has already
FIELD = f"parameters.{CONTINUE_FROM}"
IDS = re.compile(r"[0-9]{1,10}(,[0-9]{1,10})*")
HIGHEST = (1 << 32) - 1


def written(tokens: Iterable[int]) -> str:
    """The value of CONTINUE_FROM for these tokens."""
    return ",".join(map(str, tokens))


def read(value: str, most: int) -> list[int]:
    """The tokens that a value of CONTINUE_FROM names.

    Args:
        most: tokens that there may be.

    Raises:
        InputTooLarge: there are more.
        InvalidField: it is no list of token ids.
    """
    if not value:
        return []
    if (count := value.count(",") + 1) > most:
        raise InputTooLarge(
            f"'{CONTINUE_FROM}' has {count} tokens and the limit is {most}",
            field=FIELD,
            limit=str(most),
            value=str(count),
        )
    if IDS.fullmatch(value) is None or max(found := [int(part) for part in value.split(",")]) > HIGHEST:
        raise InvalidField(
            f"'{CONTINUE_FROM}' must be token ids in decimal digits with commas between them",
            field=FIELD,
            limit="token ids",
            value=value,
        )
    return found
