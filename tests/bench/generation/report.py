"""Report: the figures of all rounds, and the tables."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.bench.facts import Facts
from tests.bench.generation.engines import FLOOR, GATEWAY, GENAI, INSIDE, JOINED, PORT, TRANSFORMERS
from tests.bench.generation.ours import FirstTokens
from tests.bench.spread import Spread, percentile, ratios
from tests.bench.table import render

TITLES = {
    JOINED: "with joined prompts",
    INSIDE: "inside the service",
    PORT: "over its port",
    GATEWAY: "through the gateway",
    GENAI: "onnxruntime-genai",
    TRANSFORMERS: "transformers",
}


@dataclass
class Report:
    """Tokens a second by engine and number of callers, one figure a round; and the rest."""

    where: str  # what each engine has
    rates: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    equal: dict[str, list[int]] = field(default_factory=dict)  # by engine: texts equal to the reference, and texts
    first: FirstTokens | None = None

    def add(self, engine: str, callers: int, per_s: float, equal: int, texts: int) -> None:
        """One measurement; `equal` of its `texts` are those of the reference."""
        self.rates.setdefault(engine, {}).setdefault(callers, []).append(per_s)
        counted = self.equal.setdefault(engine, [0, 0])
        counted[0] += equal
        counted[1] += texts

    def markdown(self, facts: Facts) -> str:
        """The tables."""
        floor = self.rates[FLOOR]
        engines = [name for name in TITLES if name in self.rates]
        head = ("callers", "floor, tokens/s", *(TITLES[name] for name in engines))
        rows = [
            (str(callers), _cell(Spread.of(rates), 0), *(self._ratio(name, FLOOR, callers) for name in engines))
            for callers, rates in sorted(floor.items())
        ]
        parts = [
            f"`python -m tests.bench.generation`, {facts.date[:10]}, {facts.cpu}, {facts.cores} cores, commit "
            f"{facts.commit}, {facts.onnxruntime}, grpcio {facts.grpcio}, load average before "
            f"{facts.load_average[0]}; {self.where}. Median of the rounds, with the lowest "
            "and the highest.",
            "**Texts of 8 to 128 tokens after prompts of 8 to 128**, tokens a second as parts of the floor's:",
            render(head, rows),
        ]
        compared = list(self._comparisons())
        if compared:
            parts += ["**Ratios**, each of one round:", render(("what", "callers", "ratio"), compared)]
        return "\n\n".join([*parts, *self._first(), self._equal()])

    def _comparisons(self) -> Iterable[tuple[str, str, str]]:
        most = max(self.rates[INSIDE])
        if 1 in self.rates[INSIDE] and most > 1:
            gain = ratios(self.rates[INSIDE][most], self.rates[INSIDE][1])
            yield f"{most} callers to one at a time, inside", str(most), _cell(gain, 1)
        for ours in (INSIDE, PORT, GATEWAY):
            for other in (GENAI, TRANSFORMERS):
                for callers in sorted(self.rates.get(other, {})):
                    what = f"{TITLES[ours]} to {TITLES[other]}"
                    yield what, str(callers), self._ratio(ours, other, callers)

    def _first(self) -> list[str]:
        if self.first is None:
            return []
        steps, first = self.first.steps, self.first
        return [
            f"**First token of a short prompt while 15 texts run**, {len(steps)} times at any moment of a step: "
            f"{statistics.mean(steps):.1f} steps on the average and {max(steps)} at most, the one under way included; "
            f"{percentile(first.seconds, 0.5) * 1e3:.0f} ms (median), {percentile(first.seconds, 0.99) * 1e3:.0f} ms "
            f"(p99), where a step takes {first.step_s * 1e3:.0f} ms."
        ]

    def _equal(self) -> str:
        said = ", ".join(
            f"{TITLES[name]} {equal} of {texts}"
            for name, (equal, texts) in self.equal.items()
            if name not in (FLOOR, JOINED)
        )
        return f"Texts that are those of the service inside, token for token: {said}."

    def _ratio(self, part: str, whole: str, callers: int) -> str:
        return _cell(ratios(self.rates[part][callers], self.rates[whole][callers]), 2)


def _cell(spread: Spread, digits: int) -> str:
    return f"{spread.median:.{digits}f} [{spread.low:.{digits}f}-{spread.high:.{digits}f}]"
