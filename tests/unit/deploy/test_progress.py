"""Progress: lines that people and pipes can read."""

import io

from rich.console import Console

from deploy.local.progress import Progress


def test_without_a_terminal_lines_are_plain_and_whole() -> None:
    text, times = io.StringIO(), iter([100.0, 101.25, 102.5])
    progress = Progress(Console(file=text, soft_wrap=True, highlight=False), clock=lambda: next(times))
    progress.step("x" * 300)
    progress.problem("[vision-1] ended", ["[bold]last words[/]"])
    progress.ready([("gRPC", "127.0.0.1:8001"), ("run directory", "/a path/" + "y" * 200)])
    assert text.getvalue().splitlines() == [
        "    1.25 s " + "x" * 300,
        "    2.50 s [vision-1] ended",
        "           | [bold]last words[/]",
        "ready  gRPC 127.0.0.1:8001  run directory /a path/" + "y" * 200,
    ]
