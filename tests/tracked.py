"""Answered: what a Track stream says of one step, however its steps were put together into responses."""

from collections.abc import Iterable
from dataclasses import dataclass

from trivium.common.v1 import classes_pb2
from trivium.sequence.v1 import sequence_pb2 as pb


@dataclass(frozen=True)
class Answered:
    """One step, with what its response brought besides: the state with its last step, the model with its first."""

    step: int
    classes: tuple[classes_pb2.RankedClass, ...]
    values: tuple[float, ...]
    state: bytes
    model: str


def by_step(responses: Iterable[pb.TrackResponse | bytes]) -> list[Answered]:
    """The steps of all responses, in order."""
    found = []
    for response in responses:
        if isinstance(response, bytes):
            response = pb.TrackResponse.FromString(response)
        assert response.steps, "a response without steps"
        last = len(response.steps) - 1
        found += [
            Answered(
                one.step,
                tuple(one.classes),
                tuple(one.values),
                response.state if place == last else b"",
                response.model if place == 0 else "",
            )
            for place, one in enumerate(response.steps)
        ]
    return found
