"""Progress: how far a stream came, its last state in a file, and words about both when it ends."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from trivium.client.output import complain
from trivium.client.results import TrackAnswer

FAILED, TERMINATED = 1, 128 + signal.SIGTERM  # exit codes, as a shell gives them


class Progress:
    """A context manager around a command that reads a stream: however it ends, the last state is in the file then.

    What ends the command inside it has been said already; this adds where the stream stopped, and how to go on.

    Args:
        path: where to leave the state; None for nowhere.

    Attributes:
        answers: how many there were; a stream that was resumed has further steps before them.
        model: who gave them, as "name:version"; empty before the first.

    Raises:
        ValueError: no state can be left there; says why.
    """

    def __init__(self, path: Path | None) -> None:
        self.answers, self.model = 0, ""
        self._path = path
        self._target = None if path is None else _target(path)
        self._state, self._state_step = b"", 0
        self._step = 0  # the last one that was answered, 0 before the first

    def resume(self, state: bytes) -> None:
        """The stream goes on from this state; should it have no further step, this stays its last."""
        self._state = state

    def answered(self, answer: TrackAnswer) -> None:
        """The stream has come as far as this answer."""
        self.answers, self.model, self._step = self.answers + 1, answer.model, answer.step
        if answer.state:
            self._state, self._state_step = answer.state, answer.step

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        saved = self._save(failed=error is not None)
        if error is None:
            if not saved:
                sys.exit(FAILED)
        elif self._step and (saved or not _interrupted(error)):
            kept = (
                f"the state after step {self._state_step} is saved, go on with --resume {self._path}" if saved else ""
            )
            complain(f"the stream stopped after step {self._step}", kept)

    def _save(self, failed: bool) -> bool:
        """Whether the state is where it was wanted; if not, it has been said why."""
        if self._path is None or self._target is None:
            return not failed
        if not self._state or (failed and not self._state_step):
            complain("nothing was answered, so there is no state to save")
            return False
        try:
            _write(self._target, self._state)
        except OSError as error:
            complain(f"{self._path}: {error.strerror or error}; the state is not saved")
            return False
        return True


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the block as an exit of the program does, so that everything in it is left in order."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(TERMINATED)

    if threading.current_thread() is not threading.main_thread():  # others have no signals
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted(error: BaseException) -> bool:
    return not isinstance(error, SystemExit) or (isinstance(error.code, int) and error.code > 128)


def _target(path: Path) -> Path:
    """The file itself, where `path` is a link to it."""
    try:
        found = path.resolve()
        if found.exists() and not found.is_file():
            raise ValueError(f"{path} is no file")
        if not found.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}")
    except (OSError, RuntimeError) as error:  # a name that is too long, links in a circle
        raise ValueError(f"{path}: {getattr(error, 'strerror', '') or error}") from error
    if not os.access(found.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: nothing may be written in {path.parent}")
    return found


def _write(target: Path, state: bytes) -> None:
    """Replaces the file, which at no moment holds half a state."""
    made = target.with_name(f".trivium-state-{os.getpid()}")
    try:
        with made.open("xb") as file:
            file.write(state)
        if target.exists() and not target.is_file():
            raise FileExistsError(errno.EEXIST, "it is no file any more")
        made.replace(target)
    finally:
        made.unlink(missing_ok=True)
