"""Texts: a bundle that writes, on the GPU beside the CPU, by the code that serves it.

A device that sums in another order takes another token where two are about as probable. So what is compared is how far
log-probabilities are off while the tokens are the same, and what is counted is how often one changes: from one device
to the other, and on one device from a text that is written among others to one that is alone, or that was cut and goes
on elsewhere, as after the death of an instance.
"""

import asyncio
import dataclasses
import random
import statistics
import time
from collections.abc import Iterator
from collections.abc import Sequence as Tokens
from dataclasses import dataclass

from services.kit.deadline import Deadline
from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Bundle
from services.kit.inference.engine import Engine, EngineSettings
from services.kit.inference.manifest import ENCODER, Generation
from services.language import graph
from services.language.batch import Batch
from services.language.engine.runs import Runs
from services.language.loader import opened
from services.language.sampling import Sampling
from services.language.sequence import Sequence
from services.language.settings import GenerationSettings
from services.language.tokenizer import Tokenizer
from tests.gpu_check.check import PROVIDER
from tests.gpu_check.placement import HEAVY, Device, traced_run

TEXTS, LONGEST_PROMPT, NEW = 32, 48, 48  # tokens
ROWS = (1, 8, 32)
LOGPROB_TOLERANCE = {"FP32": 2e-2, "FP16": 1e-1, "BF16": 5e-1}  # while the tokens are the same
PIECE = 128  # tokens of prompts in one run
DRAWN = Sampling(temperature=1.0, top_k=40, top_p=0.95)
GREEDY = Sampling(temperature=0.0)

Written = list[list[tuple[int, float]]]  # of each text its tokens and their log-probabilities


@dataclass(frozen=True, slots=True)
class Changed:
    """How often a token became another one: tokens that were compared up to the first such one of each text."""

    tokens: int
    texts: int
    difference: float  # the largest one of a log-probability before

    def __str__(self) -> str:
        return f"{self.texts} of {self.tokens} ({self.difference:.1e})"


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found of one bundle."""

    bundle: str
    precision: str
    nodes: int  # of the decoder that ran on the device
    elsewhere: tuple[str, ...]  # operators that did not
    from_cpu: Changed | None  # None: no CPU did the same
    drawn_from_cpu: Changed | None
    alone: Changed
    resumed: Changed
    drawn_resumed: Changed
    steps_ms: dict[str, dict[int, float]]  # by device and texts, of a run that takes each text one token further
    problems: tuple[str, ...] = ()


def check(bundle: Bundle, generation: Generation, device: Device, runs_each: int, *, beside: bool = True) -> Checked:
    """Compares and times.

    Args:
        runs_each: how often a step is timed.
        beside: whether the CPU does the same.

    Raises:
        StartupError: the bundle cannot be opened on the device, or its known answers are others there.
    """
    tokenizer = Tokenizer(bundle.path / generation.tokenizer, generation.vocab)
    settings = GenerationSettings(cache_mib=512, max_texts=TEXTS, prefix_mib=0)
    here = _Writer(generation, tokenizer, opened(bundle, generation, EngineSettings(device=device), settings)[1])
    cpu = None
    if beside and generation.precision != "BF16":  # ONNX Runtime has none on the CPU
        cpu = _Writer(generation, tokenizer, opened(bundle, generation, EngineSettings(device="cpu"), settings)[1])
    prompts = _prompts(generation)
    greedy, drawn = here.written(prompts, GREEDY), here.written(prompts, DRAWN)
    alone = [here.written([prompt], GREEDY)[0] for prompt in prompts]
    traced = () if cpu is None else _placed(bundle, generation, device)
    found = Checked(
        bundle=f"{bundle.name}/{bundle.version}",
        precision=generation.precision,
        nodes=sum(ran_on == PROVIDER[device] for _, ran_on in traced),
        elsewhere=tuple(sorted({operator for operator, ran_on in traced if ran_on != PROVIDER[device]})),
        from_cpu=_changed(cpu.written(prompts, GREEDY), greedy) if cpu is not None else None,
        drawn_from_cpu=_changed(cpu.written(prompts, DRAWN), drawn) if cpu is not None else None,
        alone=_changed(greedy, alone),
        resumed=_changed(greedy, here.resumed(prompts, GREEDY, greedy)),
        drawn_resumed=_changed(drawn, here.resumed(prompts, DRAWN, drawn)),
        steps_ms={
            name: {rows: writer.step_ms(rows, runs_each) for rows in ROWS}
            for name, writer in ({device: here} | ({} if cpu is None else {"cpu": cpu})).items()
        },
    )
    return dataclasses.replace(found, problems=tuple(_problems(found)))


def _problems(found: Checked) -> Iterator[str]:
    tolerance = LOGPROB_TOLERANCE[found.precision]
    others = {"written alone": found.alone, "that go on elsewhere": found.resumed}
    if found.from_cpu is not None:
        others["on the CPU"] = found.from_cpu
    for name, changed in others.items():
        if not changed.difference <= tolerance:
            yield f"log-probabilities of texts {name} differ by {changed.difference:.1e}, tolerance {tolerance:.0e}"
        if changed.texts > TEXTS // 2:
            yield f"{changed.texts} of {TEXTS} texts {name} become others"
    if heavy := HEAVY.intersection(found.elsewhere):
        yield f"{', '.join(sorted(heavy))} did not run on the device"


def _placed(bundle: Bundle, generation: Generation, device: Device) -> tuple[tuple[str, str], ...]:
    """Where the nodes of the decoder ran, for the known answers."""
    inputs, expected = bundles.known_answers(bundle)
    if generation.max_source:
        sources = {graph.SOURCE: inputs.pop(graph.SOURCE), graph.SOURCE_LENGTH: inputs[graph.SOURCE_LENGTH]}
        names = graph.cross(generation.layers)
        encoder = Engine(bundle.path / ENCODER, EngineSettings(device="cpu"))
        inputs |= dict(zip(names, encoder.run(sources, names), strict=True))
    return traced_run(bundle.path / bundles.MODEL, device, inputs, sorted(expected)).nodes


class _Writer:
    """The scheduler's own batch, without its thread."""

    def __init__(self, generation: Generation, tokenizer: Tokenizer, runs: Runs) -> None:
        self._generation, self._tokenizer = generation, tokenizer
        self._batch = Batch(runs, graph.candidates(generation), None, 16)
        self._new = min(NEW, generation.max_tokens // 2)

    def written(self, prompts: Tokens[list[int]], sampling: Sampling) -> Written:
        """All of them side by side, to their ends."""
        return self._ended([self._sequence(prompt, sampling, seed) for seed, prompt in enumerate(prompts)])

    def resumed(self, prompts: Tokens[list[int]], sampling: Sampling, before: Written) -> Written:
        """The same, each going on after some token of what was written before."""
        source, sequences = random.Random(7), []
        for seed, (prompt, text) in enumerate(zip(prompts, before, strict=True)):
            sequence = self._sequence(prompt, sampling, seed)
            kept = text[: source.randrange(len(text))]
            sequence.replay([token for token, _ in kept])
            sequences.append(sequence)
        made = self._ended(sequences)
        return [text[: len(text) - len(new)] + new for text, new in zip(before, made, strict=True)]

    def step_ms(self, rows: int, runs: int) -> float:
        """The median."""
        prompts = [[1] * 8 for _ in range(rows)] if not self._generation.max_source else _prompts(self._generation)
        for seed in range(rows):
            self._batch.join(self._sequence(prompts[seed % len(prompts)], GREEDY, seed, endless=True))
        if self._generation.max_source:
            self._batch.encode()
        while self._batch.prefill(PIECE) is not None:
            pass
        taken = []
        for _ in range(min(runs, self._new - 4)):
            started = time.perf_counter()
            self._batch.decode()
            taken.append(time.perf_counter() - started)
        for sequence in list(self._batch.rows):
            self._batch.remove(sequence)
        return statistics.median(taken) * 1e3

    def _sequence(self, prompt: list[int], sampling: Sampling, seed: int, *, endless: bool = False) -> Sequence:
        generation = self._generation
        begin = list(generation.begin)
        wishes = Sampling(sampling.temperature, sampling.top_k, sampling.top_p, seed=seed, ignore_eos=endless)
        return Sequence(
            begin if generation.max_source else begin + prompt,
            wishes,
            self._tokenizer,
            limit=self._new,
            end=frozenset(generation.end),
            deadline=Deadline(),
            source=prompt if generation.max_source else None,
            woken=asyncio.Event(),
        )

    def _ended(self, sequences: list[Sequence]) -> Written:
        batch, found = self._batch, {sequence: list[tuple[int, float]]() for sequence in sequences}
        for sequence in sequences:
            batch.join(sequence)
        if self._generation.max_source:
            batch.encode()
        while batch.rows:
            for made in (batch.prefill(PIECE), batch.decode()):
                for news in made.news if made is not None else ():
                    found[news.sequence] += [(one.token, one.logprob) for one in news.chosen]
                    if news.finish is not None:
                        batch.remove(news.sequence)
        return list(found.values())


def _prompts(generation: Generation) -> list[list[int]]:
    source = random.Random(3)
    most = min(LONGEST_PROMPT, (generation.max_source or generation.max_tokens) // 2)
    special = set(generation.end) | set(generation.begin)
    tokens = [token for token in range(generation.vocab) if token not in special]
    return [source.choices(tokens, k=source.randint(1, most)) for _ in range(TEXTS)]


def _changed(wanted: Written, got: Written) -> Changed:
    tokens, texts, difference = 0, 0, 0.0
    for one, other in zip(wanted, got, strict=True):
        for (token, logprob), (other_token, other_logprob) in zip(one, other, strict=False):
            tokens += 1
            if token != other_token:
                texts += 1
                break
            difference = max(difference, abs(logprob - other_logprob))
    return Changed(tokens, texts, difference)
