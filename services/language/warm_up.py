"""WarmUp: what is run before a model that writes is ready, so that no caller pays for the first run of a shape."""

import dataclasses
import time
from collections.abc import Iterator

import numpy as np

from services.kit.errors import StartupError
from services.kit.inference.bundle import Bundle
from services.kit.inference.manifest import Generation
from services.language import graph
from services.language.engine.drawn import Draws, Wishes
from services.language.engine.memory import Memory
from services.language.engine.runs import FEWEST_STEPS, Runs
from services.language.settings import GenerationSettings

WARM_UP_S = 5.0  # once it has taken so long, it looks at fewer shapes


def warm_up(bundle: Bundle, generation: Generation, runs: Runs, settings: GenerationSettings, speculative: int) -> None:
    """Runs the longest piece of a prompt, and every number of texts with one token: no caller pays for a first run.

    And one text with its drafts, of every length.

    Raises:
        StartupError: the manifest allows what the graphs cannot compute: a caller who asked for it would break them.
    """
    started, memory = time.monotonic(), Memory(runs.cache, runs.cross)
    try:
        _run_limits(generation, runs, settings.most_read)
    except Exception as error:  # onnxruntime's own classes share no other base
        raise StartupError(
            f"{bundle.path}: the graphs refuse the last token, place or source that the manifest allows: {error}",
            hint="correct vocab, max_tokens and max_source in the manifest, or export the model again; on a GPU it may "
            "also lack memory: set GENERATION__CACHE_MIB to less",
        ) from error
    if runs.records:
        _record(generation, runs, settings, started + WARM_UP_S)
        return
    for steps in range(2, min(2 + speculative, generation.max_tokens)):
        runs.cache.settle(1 + steps, [0])
        _run(runs, 1, steps, 1)
    for rows in range(1, settings.max_texts + 1):
        if time.monotonic() - started > WARM_UP_S and rows & (rows - 1):
            continue
        if rows > memory.texts(1, 1):
            return
        for cache in (runs.cache, runs.cross):
            if cache is not None:
                cache.settle(1, [0] * rows)
        _run(runs, rows, 1)


def _record(generation: Generation, runs: Runs, settings: GenerationSettings, end: float) -> None:
    """Runs that will be recorded, with one most probable token and with several."""
    for rows, steps in _recorded(generation, runs, settings):
        for candidates in (1, graph.candidates(generation)):
            if time.monotonic() < end:
                _run(runs, rows, steps, candidates=candidates)


def _recorded(generation: Generation, runs: Runs, settings: GenerationSettings) -> Iterator[tuple[int, int]]:
    """Rows and steps of what takes texts one token further, in every room in the cache, for every number of them.

    And of what reads the beginnings of prompts: as many as are read beside other texts, or one.
    """
    for room in runs.cache.rooms:
        runs.cache.empty(room)
        for rows in sorted({runs.rows(texts) for texts in range(1, settings.max_texts + 1)}):
            if rows * room <= runs.cache.capacity:
                yield rows, 1
    steps = FEWEST_STEPS
    while steps <= min(settings.most_read, generation.max_tokens):
        runs.cache.empty(steps)
        rows = 1
        while rows * steps <= max(steps, settings.chunk_tokens) and rows <= settings.max_texts:
            if rows * runs.cache.size <= runs.cache.capacity:
                yield rows, steps
            rows *= 2
        steps *= 2


def _run_limits(generation: Generation, runs: Runs, most_read: int) -> None:
    """The longest source, and the longest piece of a prompt, of the highest token, up to the last place."""
    highest, steps = generation.vocab - 1, min(most_read, generation.max_tokens)
    if runs.cross is not None:
        runs.cross.settle(generation.max_source, [])
        runs.encode(0, [[highest] * generation.max_source])
    runs.cache.settle(generation.max_tokens, [])
    _run(runs, 1, steps, generation.max_tokens - steps, token=highest)


def _run(runs: Runs, rows: int, steps: int, place: int = 0, *, token: int = 0, candidates: int = 1) -> None:
    """One token of each row as often as there are steps, from a place on, and one token drawn for each."""
    wishes = dataclasses.replace(Wishes.greedy(np.arange(rows) * steps), candidates=candidates)
    lengths = np.ones(rows, np.int64) if runs.cross is not None else None
    runs.run(0, [[token] * steps] * rows, [place] * rows, Draws(wishes, [0.0] * rows), lengths)
