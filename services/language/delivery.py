"""Delivery: what runs gave reaches the callers, and is counted; in the event loop."""

import time

import structlog

from services.kit.errors import TriviumError
from services.kit.inference.statistics import Statistics
from services.language.isolation import Made, News
from services.language.metrics import ModelMetrics
from services.language.sequence import Sequence


class Delivery:
    """Of one model."""

    def __init__(self, metrics: ModelMetrics) -> None:
        self.statistics = Statistics()
        self._metrics = metrics
        self._log = structlog.get_logger()

    def ran(self, runs: list[Made], news: list[News], wasted: int) -> None:
        """Hands over what was made of some texts, and counts runs, `wasted` of whose tokens nobody waited for."""
        for one in news:
            self._hand_over(one)
        for run in runs:
            self._metrics.ran(run.kind, run.rows, run.tokens, run.made, run.seconds)
            self.statistics.record_run(run.rows, 0.0, sum(run.seconds), 0.0, times=len(run.seconds))
        if wasted:
            self._metrics.wasted(wasted)

    def fail(self, sequence: Sequence, reason: str, error: TriviumError) -> None:
        """A text ends with an error; `reason` is "expired" or "failed"."""
        sequence.fail(error)
        self.end(sequence, reason)

    def end(self, sequence: Sequence, reason: str) -> None:
        """Counts a text that has ended, once, in the metrics and in what ModelStatistics says."""
        self._metrics.finished(reason)
        now, counted = time.monotonic(), self.statistics
        if reason in ("stop", "length"):
            counted.inferences += 1
            counted.last_inference_time = time.time()
            counted.success.add(now - sequence.submitted)
            counted.queue.add(sequence.started - sequence.submitted)
            counted.compute_infer.add(now - sequence.started)
        else:
            counted.fail.add(now - sequence.submitted)

    def _hand_over(self, one: News) -> None:
        """What was made of one text; where its tokens cannot be made text, that ends it and no other one."""
        sequence = one.sequence
        if sequence.error is None:
            try:
                sequence.deliver(one.index, one.chosen, one.text, one.finish)
            except Exception as error:
                self._log.exception("text_not_told", tokens=[chosen.token for chosen in one.chosen])
                sequence.fail(error if isinstance(error, TriviumError) else _untold())
        if one.finish is not None:
            self.end(sequence, one.finish if sequence.error is None else "failed")


def _untold() -> TriviumError:
    return TriviumError("the tokens of this text could not be told", stage="compute")
