"""Recording: a run can be recorded as a CUDA graph only while nothing else in this process talks to the GPU.

Any other call of CUDA's meanwhile, by whichever thread, fails and spoils the recording.
"""

import contextlib
import threading
from collections.abc import Iterator


class Recording:
    """Who talks to the GPUs of this process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a garbage collection within may give a GPU's memory back
        self._users = 0

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Around everything that calls CUDA; waits while a run is recorded."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody is using them now; then nobody begins to until the end of it. It waits for nobody."""
        with self._lock:
            if not self._users:
                yield True
                return
        yield False


GPU = Recording()
