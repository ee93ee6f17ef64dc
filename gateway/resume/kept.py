"""KeptSequences: the live sequences whose state is at the gateway, each of one bundle."""

from dataclasses import dataclass

from gateway.routes import Pin
from services.kit.sequences import Sequences, Step


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a sequence."""

    state: str  # in base64
    pin: Pin  # the bundle that the state belongs to


class KeptSequences(Sequences[Kept]):
    """A sequence whose START named no version is found by the version that it has got, and the other way round."""

    def version(self, model: str, named: int, newest: int, step: Step) -> int:
        """The version by which the step's sequence is kept: the one that its START named, 0 if that named none.

        Args:
            named: the version that the step names; 0 if it names none.
            newest: the version that no version stands for now; 0 if that is not known.
        """
        if (model, named, step.id) in self._live:
            return named
        if not named:
            return newest if (model, newest, step.id) in self._live else 0
        first = self._live.get((model, 0, step.id))
        if first is None or (first.value is not None and first.value.pin.version != named):
            return named
        return 0
