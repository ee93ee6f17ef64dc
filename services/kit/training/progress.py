"""What a training shows while it runs: a bar on a terminal, a plain line now and then elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINES = 10  # of one task without a terminal

Report = Callable[[int, str], None]  # (steps done, how it goes in words)


def say(text: str) -> None:
    """One line."""
    Console(soft_wrap=True, highlight=False, markup=False).print(text)


@contextlib.contextmanager
def steps(title: str, total: int) -> Iterator[Report]:
    """A function that is told after every step how many of `total` are done."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not console.is_terminal:
        yield _plain(console, title, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(title, total=total, words="")
        yield lambda done, words: bar.update(task, completed=done, words=words)


def _plain(console: Console, title: str, total: int) -> Report:
    started = time.monotonic()

    def report(done: int, words: str) -> None:
        if done == total or done % max(total // LINES, 1) == 0:
            console.print(f"{title}  step {done}/{total}  {words}  {time.monotonic() - started:.0f} s")

    return report
