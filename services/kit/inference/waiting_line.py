"""WaitingLine: the items that have been accepted and have not reached the engine."""

import threading
import time
from collections import Counter, OrderedDict

from services.kit.inference.job import Job


class WaitingLine:
    """Jobs, oldest first. The event loop adds and removes them, the batcher's thread takes them.

    Args:
        max_rows: of the jobs that are taken together.
        max_wait_s: how long the oldest waits for company while nothing else delays it.
    """

    def __init__(self, max_rows: int, max_wait_s: float) -> None:
        self._max_rows, self._max_wait_s = max_rows, max_wait_s
        self._jobs: OrderedDict[Job, None] = OrderedDict()  # a set that keeps the order
        self._changed = threading.Condition(threading.Lock())
        self._closed = False
        self._expected_until = 0.0
        self._rows: Counter[int] = Counter()  # by the steps of their jobs
        self.admitted = 0  # jobs among them that nobody may refuse

    def __len__(self) -> int:
        return len(self._jobs)

    def rows(self) -> dict[int, int]:
        """Rows that wait, by the steps of their jobs; a copy, as the other thread changes them."""
        return dict(self._rows)

    def add(self, job: Job) -> None:
        """Appends a job. Who waits in `take` learns of it by `wake`."""
        with self._changed:
            self._jobs[job] = None
            self._rows[job.steps] += job.rows
            self.admitted += job.admitted

    def wake(self) -> None:
        """Lets `take` look at what was added."""
        with self._changed:
            self._changed.notify()

    def expect(self, until: float) -> None:
        """More jobs are on their way: unless the batch is full, `take` waits for them up to this instant."""
        with self._changed:
            self._expected_until = until
            self._changed.notify()

    def remove(self, job: Job) -> bool:
        """Takes out a job that nobody waits for any more; False if it has been taken already."""
        with self._changed:
            if job not in self._jobs:
                return False
            self._pop([job])
            return True

    def close(self) -> None:
        """From now on `take` waits for nothing: it gives what is there and then nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def clear(self) -> list[Job]:
        """Takes out everything."""
        with self._changed:
            jobs = list(self._jobs)
            self._pop(jobs)
            return jobs

    def take(self) -> list[Job]:
        """The oldest job with those that may share its run, in order; waits for the first. Empty once closed."""
        with self._changed:
            while self._jobs or not self._closed:
                if not self._jobs:
                    self._changed.wait()
                    continue
                batch, full = self._next()
                wait_s = max(batch[0].submitted + self._max_wait_s, self._expected_until) - time.monotonic()
                if full or self._closed or wait_s <= 0:
                    self._pop(batch)
                    return batch
                self._changed.wait(wait_s)
            return []

    def _next(self) -> tuple[list[Job], bool]:
        """The jobs that would be taken now, and whether no other of their shape fits beside them."""
        shape = next(iter(self._jobs)).shape
        batch: list[Job] = []
        rows = 0
        for job in self._jobs:
            if job.shape != shape:
                continue
            if rows + job.rows > self._max_rows:
                return batch, True
            batch.append(job)
            rows += job.rows
        return batch, rows == self._max_rows

    def _pop(self, jobs: list[Job]) -> None:
        for job in jobs:
            del self._jobs[job]
            self._rows[job.steps] -= job.rows
            self.admitted -= job.admitted
