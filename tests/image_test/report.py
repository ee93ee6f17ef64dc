"""Report: what the tests have measured, printed after them."""

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median

from tests.bench.table import render

MIB = 1 << 20


@dataclass
class Report:
    """Of one run."""

    engine: str = ""
    base: str = ""
    base_size: int = 0  # bytes
    sizes: dict[str, int] = field(default_factory=dict)  # bytes, by component
    starts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # seconds, by component
    counts: list[str] = field(default_factory=list)  # one line for each drain

    def started(self, component: str, seconds: float) -> None:
        """A container of the component was ready that long after its start."""
        self.starts[component].append(seconds)

    def text(self) -> str:
        """Tables and lines, in Markdown."""
        rows = [
            [component, f"{size / MIB:.0f}", f"{(size - self.base_size) / MIB:.0f}", self._start(component)]
            for component, size in self.sizes.items()
        ]
        heading = f"Built with {self.engine} on {self.base} ({self.base_size / MIB:.0f} MiB)."
        columns = ["image", "MiB", "without its base", "start to READY, s (starts)"]
        return "\n\n".join([heading, render(columns, rows), *self.counts])

    def _start(self, component: str) -> str:
        found = self.starts[component]
        return f"{median(found):.1f} [{min(found):.1f}-{max(found):.1f}] ({len(found)})" if found else ""
