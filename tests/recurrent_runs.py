"""Runs of a recurrent graph as the service makes them: whole, in windows, and rows at different steps in one run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from services.kit.inference.bundle import Array
from services.kit.training.export import session
from services.kit.training.recurrent import run

Bits = tuple[bytes, bytes]  # of a row's answers within its length, and of its last state


@dataclass(frozen=True, slots=True)
class Rows:
    """Series of different lengths, each with a state to begin with."""

    x: Array  # float32 [rows, time, width]
    lengths: Array  # int32 [rows]
    state: Array  # float32 [rows, state_width]

    def part(self, chosen: Sequence[int] | slice) -> "Rows":
        """Some of the rows, cut to the longest of them."""
        lengths = self.lengths[chosen]
        return Rows(np.ascontiguousarray(self.x[chosen, : lengths.max()]), lengths, self.state[chosen])


class Runner:
    """The graph on some number of threads.

    Args:
        lonely: whether a row may run alone; else it is given twice, as ONNX Runtime's RNN computes one row by itself
            with another kernel than two.
    """

    def __init__(self, model: bytes, threads: int, *, lonely: bool) -> None:
        self._session: ort.InferenceSession = session(model, threads)
        self._lonely = lonely

    def bits(self, rows: Rows) -> list[Bits]:
        """What each row gets from one run."""
        answers, state = self._run(rows.x, rows.lengths, rows.state)
        return _bits(answers, rows.lengths, state)

    def bits_in_turns(self, rows: Rows, window: int, random: np.random.Generator | None = None) -> list[Bits]:
        """The same by many runs, in which each row goes on from the state that its last run left.

        Args:
            window: steps of a row in one run, at most.
            random: draws which rows share a run and how many steps each has; unset: all rows, `window` steps.
        """
        done, state = np.zeros_like(rows.lengths), rows.state.copy()
        parts: list[list[Array]] = [[] for _ in done]
        while len(live := np.flatnonzero(done < rows.lengths)):
            if random is not None:
                live = random.permutation(live)[: random.integers(1, len(live) + 1)]
            most = window if random is None else random.integers(1, window + 1, len(live))
            steps = np.minimum(most, rows.lengths[live] - done[live]).astype(np.int32)
            longest = 1 << (int(steps.max()) - 1).bit_length()  # as the service does; padding is never looked at
            x = np.full((len(live), longest, rows.x.shape[2]), 1e6, np.float32)
            for place, row in enumerate(live):
                x[place, : steps[place]] = rows.x[row, done[row] : done[row] + steps[place]]
            answers, state[live] = self._run(x, steps, state[live])
            for place, row in enumerate(live):
                parts[row].append(answers[place, : steps[place]])
            done[live] += steps
        return [(np.concatenate(part).tobytes(), last.tobytes()) for part, last in zip(parts, state, strict=True)]

    def _run(self, x: Array, lengths: Array, state: Array) -> tuple[Array, Array]:
        count = len(x)
        if count == 1 and not self._lonely:
            x, lengths, state = (np.repeat(array, 2, axis=0) for array in (x, lengths, state))
        answers, last = run(self._session, x, lengths, state)
        return answers[:count], last[:count]


def _bits(answers: Array, lengths: Array, state: Array) -> list[Bits]:
    return [
        (answer[:length].tobytes(), last.tobytes())
        for answer, length, last in zip(answers, lengths, state, strict=True)
    ]


def some_rows(series: Array, state_width: int) -> Rows:
    """The series cut to lengths of 1 step, all steps and anything between, from states other than zeros."""
    random = np.random.default_rng(7)
    count, steps = series.shape[:2]
    lengths = random.integers(1, steps + 1, count).astype(np.int32)
    lengths[:4] = (1, steps, 2, steps - 1)
    state = random.uniform(-0.9, 0.9, (count, state_width)).astype(np.float32)
    return Rows(np.ascontiguousarray(series), lengths, state)
