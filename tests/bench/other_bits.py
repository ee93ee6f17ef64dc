"""`python -m tests.bench.other_bits`: how often a text takes another token where it goes on with other bits.

A text that goes on at an instance whose known answers are the same to the bit gets the very same tokens. Where they are
not, as on a processor of another kind, sums are rounded otherwise, and a text changes where two tokens are about as
probable or a draw lies beside the border of two. Here the other machine is ONNX Runtime without prepacked weights,
whose kernels add up in another order. Each text is written to its end, cut at a random token, and continued there.
"""

import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Array
from services.kit.inference.manifest import ENCODER, Generation
from services.language.sampling import uniform
from services.language.tokenizer import Tokenizer
from services.language.training.graph_run import GraphRun
from tests.bench.cores import Cores
from tests.bench.facts import ROOT, Facts
from tests.bench.generation import model as bench_model
from tests.bench.table import render

SHIPPED = ROOT / "services" / "language" / "bundles"
BATCH, BATCHES = 32, 16  # texts in one run, and runs
PROMPT, LONGEST = 16, 112  # tokens
MONTHS = "January February March April May June July August September October November December"


@dataclass(frozen=True, slots=True)
class Way:
    """How tokens are chosen."""

    name: str
    temperature: float = 1.0
    top_k: int = 1
    top_p: float = 1.0

    def sampling(self, seeds: Array, position: int) -> dict[str, Array]:
        """What the sampler takes for the token at a place of texts with these seeds."""
        draws = [uniform(int(seed), position) if self.top_k > 1 else 0.0 for seed in seeds]
        ones = np.ones(len(seeds), np.float32)
        return {
            "temperature": ones * np.float32(self.temperature),
            "top_k": np.full(len(seeds), self.top_k),
            "top_p": ones * np.float32(self.top_p),
            "uniform": np.array(draws, np.float32),
            "ranks": np.arange(self.top_k),
        }


WAYS = (Way("the most probable"), Way("drawn, temperature 0.7", 0.7, 64, 0.95), Way("drawn", 1.0, 64))


@dataclass(frozen=True, slots=True)
class Texts:
    """Some that are written side by side."""

    tokens: Array  # int64 [texts, prompt]
    seeds: Array
    sources: Sequence[Sequence[int]] = ()


@dataclass(slots=True)
class Found:
    """What came of the texts that went on elsewhere."""

    texts: int = 0
    tokens: int = 0  # up to and with the first one that was another
    changed: int = 0  # texts
    difference: float = 0.0  # the largest one of a log-probability, while tokens were the same

    def add(self, wanted: tuple[Array, Array], got: tuple[Array, Array], cut: int, end: int | None) -> None:
        """One run of texts, as they are here and as they became when they went on elsewhere after `cut` tokens."""
        for tokens, others, here, there in zip(wanted[0], got[0], wanted[1], got[1], strict=True):
            ends = np.flatnonzero(tokens == end) if end is not None else np.empty(0, np.int64)
            length = int(ends[0]) + 1 if len(ends) else len(tokens)
            if length <= cut:
                continue
            differ = np.flatnonzero(tokens[cut:length] != others[cut:length])
            same = int(differ[0]) if len(differ) else length - cut
            self.texts += 1
            self.changed += bool(len(differ))
            self.tokens += same + bool(len(differ))
            if same:
                self.difference = max(self.difference, float(np.abs(here - there)[cut : cut + same].max()))


class Elsewhere(GraphRun):
    """The same graphs where sums are made in another order."""

    def __init__(self, decoder: bytes, encoder: bytes | None = None) -> None:
        super().__init__(decoder, encoder)
        self._decoder = _unpacked(decoder)
        self._encoder = None if encoder is None else _unpacked(encoder)


def _unpacked(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_prepacking", "1")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def written(run: GraphRun, texts: Texts, made: Array, longest: int, way: Way) -> tuple[Array, Array]:
    """Tokens int64 [texts, longest], those of `made` first, and their log-probabilities, 0 for those of `made`."""
    cache = run.cache(len(texts.seeds), texts.tokens.shape[1] + longest, sources=texts.sources)
    tokens, start, logprobs = np.concatenate((texts.tokens, made), 1), 0, np.zeros(made.shape, np.float32)
    while made.shape[1] < longest:
        count, steps = tokens.shape
        out_index = np.arange(count) * steps + steps - 1
        how = way.sampling(texts.seeds, texts.tokens.shape[1] + made.shape[1])
        results = run.step(cache, tokens, np.full(count, start), out_index, **how)
        start, tokens = start + steps, results["token"][:, None]
        made = np.concatenate((made, tokens), 1)
        logprobs = np.concatenate((logprobs, results["logprob"][:, None]), 1)
    return made, logprobs


def measured(path: Path, prompts: Sequence[Sequence[int]], generation: Generation, way: Way) -> Found:
    """BATCHES times BATCH texts of a bundle."""
    encoder = (path / ENCODER).read_bytes() if generation.max_source else None
    here, elsewhere = (kind((path / bundles.MODEL).read_bytes(), encoder) for kind in (GraphRun, Elsewhere))
    random, found = np.random.default_rng(3), Found()
    longest = min(LONGEST, generation.max_tokens - (1 if generation.max_source else PROMPT))
    for at in range(0, BATCH * BATCHES, BATCH):
        some, seeds = prompts[at : at + BATCH], random.integers(0, 2**62, BATCH)
        if generation.max_source:
            texts = Texts(np.full((BATCH, 1), generation.begin[0]), seeds, some)
        else:
            texts = Texts(np.array(some), seeds)
        wanted = written(here, texts, np.zeros((BATCH, 0), np.int64), longest, way)
        cut = int(random.integers(0, longest // 2))
        got = written(elsewhere, texts, wanted[0][:, :cut], longest, way)
        found.add(wanted, got, cut, generation.end[0] if generation.max_source else None)
    return found


def python_prompts(tokenizer: Tokenizer, count: int) -> list[list[int]]:
    """Pieces of the standard library's modules."""
    random, files = np.random.default_rng(1), sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    prompts: list[list[int]] = []
    while len(prompts) < count:
        text = files[random.integers(len(files))].read_text("utf-8", "replace")
        tokens = tokenizer.encode(text[random.integers(max(1, len(text) - 200)) :][:200])
        if len(tokens) >= PROMPT:
            prompts.append(tokens[:PROMPT])
    return prompts


def dates(tokenizer: Tokenizer, generation: Generation, count: int) -> list[list[int]]:
    """Days as people write them."""
    random, months = np.random.default_rng(1), MONTHS.split()
    written = (f"{random.integers(1, 29)} {random.choice(months)} {random.integers(1950, 2050)}" for _ in range(count))
    return [[*tokenizer.encode(date), *generation.source_end] for date in written]


def main() -> None:
    """Prints a table."""
    rows: list[list[str]] = []
    paths = [SHIPPED / "python-gpt" / "1", SHIPPED / "dates-transformer" / "1"]
    paths.append(bench_model.made().bundles / bench_model.NAME / "1")
    for path in paths:
        generation = bundles.load(path).manifest.generation
        assert generation is not None
        tokenizer, count = Tokenizer(path / generation.tokenizer, generation.vocab), BATCH * BATCHES
        if generation.max_source:
            prompts = dates(tokenizer, generation, count)
        elif path.parent.name == "python-gpt":
            prompts = python_prompts(tokenizer, count)
        else:
            prompts = np.random.default_rng(1).integers(0, generation.vocab, (count, PROMPT)).tolist()
        for way in WAYS:
            print(f"{path.parent.name}, {way.name}", flush=True)
            found = measured(path, prompts, generation, way)
            rate = f"{found.changed / found.tokens:.1e}" if found.changed else f"< {1 / found.tokens:.1e}"
            counts = map(str, (found.texts, found.tokens, found.changed))
            rows.append([path.parent.name, way.name, *counts, rate, f"{found.difference:.1e}"])
    facts = Facts.gather(Cores((), (), pinned=False))
    print(f"\n`python -m tests.bench.other_bits`, {facts.date[:10]}, {facts.cpu}, onnxruntime {facts.onnxruntime}\n")
    head = ["bundle", "tokens are", "texts that went on", "tokens", "texts that changed", "a token", "log-probability"]
    print(render(head, rows))


if __name__ == "__main__":
    main()
