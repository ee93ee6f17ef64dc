"""Known answers of a model that writes texts: what every machine that serves it must compute.

Another device rounds otherwise. So that it need not take another token, the positions are such whose best tokens lie
far apart, and the draws such that hit the same token when they and their cuts are a little off. Where there is no such
draw, the token is forced.
"""

from collections.abc import Sequence

import numpy as np

from services.kit.inference.bundle import Array
from services.language.training.encoder_decoder import EncoderDecoder
from services.language.training.graph import Network, Precision
from services.language.training.graph_check import random_texts
from services.language.training.graph_run import GraphRun, counted, of_float32, padded
from services.language.training.sampler import CANDIDATES, OF_DRAWS

MEMORY = 64
FORBIDDEN = -1e30  # added to the logit of a token that must not come
DRAWS = np.linspace(0.05, 0.95, 13)
SLACK: dict[Precision, float] = {"FP32": 0.004, "FP16": 0.04, "BF16": 0.04}  # of a draw and its cuts
GAP: dict[Precision, float] = {"FP32": 0.001, "FP16": 0.2, "BF16": 0.2}  # of the log-probabilities of the best two
# Two positions of each of three texts: greedy, drawn, forced, drawn with a penalty, greedy without the best, drawn.
TOP_K = (1, 40, 1, 64, 1, 10)
TOP_P = (1.0, 0.9, 1.0, 1.0, 1.0, 0.95)
MIN_P = (0.0, 0.0, 0.0, 0.05, 0.0, 0.02)
TEMPERATURE = (1.0, 0.7, 1.0, 1.3, 1.0, 0.9)
FORCED, PENALISED, BARRED = 2, 3, 4


def known_answers(
    run: GraphRun,
    network: Network,
    texts: Sequence[Sequence[int]] = (),
    sources: Sequence[Sequence[int]] = (),
    *,
    precision: Precision = "FP32",
    seed: int = 0,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The decoder's inputs by name, with `source` in the place of what an encoder makes of it, and what it gives.

    Args:
        run: of the graph, or of its float32 twin where the graph does not run on the CPU.
        texts: tokens of three texts of 2 to MEMORY tokens, as the model gets them; none: random ones.
        sources: theirs, where there is an encoder; none: random ones.
        precision: of the graph that will be compared.
    """
    random = np.random.default_rng(seed)
    texts = texts or random_texts(network.config.vocab, network.config.max_tokens, random)
    inputs = {"token_ids": padded(texts), "start": np.zeros(len(texts), np.int64)}
    if isinstance(network, EncoderDecoder):
        sources = sources or random_texts(network.config.vocab, network.max_source, random)
    places, best = _clear_places(run, inputs, texts, sources)
    inputs |= {"out_index": places} | _sampling(best, network.config.vocab)
    inputs["uniform"], sure = _clear_draws(run, inputs, sources, SLACK[precision])
    answers = _step(run, inputs, sources)
    sure[BARRED] = answers["top_logprob"][BARRED, 0] - answers["top_logprob"][BARRED, 1] >= GAP[precision]
    inputs["forced"] = np.where(sure, inputs["forced"], answers["token"])
    if isinstance(network, EncoderDecoder):
        inputs |= {"source": padded(sources), "source_length": np.array([len(source) for source in sources], np.int64)}
    del answers["top_token"]  # some of so many lie close together
    inputs |= {name: inputs[name][:, np.newaxis] for name in OF_DRAWS}  # as the graph has them
    answers |= {name: answers[name][:, np.newaxis] for name in ("token", "logprob")}
    inputs |= counted(inputs["token_ids"].shape[1], MEMORY)
    if precision == "FP32":
        inputs |= of_float32(inputs)
    return inputs | _caches(run, len(texts), precision), answers


def _step(run: GraphRun, inputs: dict[str, Array], sources: Sequence[Sequence[int]]) -> dict[str, Array]:
    return run.step(run.cache(len(inputs["start"]), MEMORY, sources=sources), **inputs)


def _clear_places(
    run: GraphRun, inputs: dict[str, Array], texts: Sequence[Sequence[int]], sources: Sequence[Sequence[int]]
) -> tuple[Array, Array]:
    """Positions, int64 [2 * texts], two in each text, and the best token at each of them."""
    batch, longest = inputs["token_ids"].shape
    results = _step(run, {**inputs, "out_index": np.arange(batch * longest), "ranks": np.arange(2)}, sources)
    gaps = -np.diff(results["top_logprob"], axis=1)[:, 0]
    clearest = [
        row * longest + np.sort(np.argsort(-gaps[row * longest :][: len(text)])[:2]) for row, text in enumerate(texts)
    ]
    places = np.concatenate(clearest)
    return places, results["top_token"][places, 0]


def _sampling(best: Array, vocab: int) -> dict[str, Array]:
    forced = np.full(len(best), -1)
    forced[FORCED] = best[FORCED] // 2
    return {
        "temperature": np.array(TEMPERATURE, np.float32),
        "top_k": np.minimum(TOP_K, min(CANDIDATES, vocab)),
        "top_p": np.array(TOP_P, np.float32),
        "min_p": np.array(MIN_P, np.float32),
        "uniform": np.zeros(len(best), np.float32),
        "forced": forced,
        "ranks": np.arange(min(CANDIDATES, vocab)),
        "adjust_index": np.array([(PENALISED, best[PENALISED]), (BARRED, best[BARRED])]),
        "adjust_scale": np.array([1.3, 1.0], np.float32),
        "adjust_bias": np.array([-0.2, FORBIDDEN], np.float32),
    }


def _clear_draws(
    run: GraphRun, inputs: dict[str, Array], sources: Sequence[Sequence[int]], slack_of: float
) -> tuple[Array, Array]:
    """float32 [N]: for each position a draw that hits the same token with slack, and another than the first if any.

    And bool [N]: whether there is one.
    """
    first = _step(run, inputs, sources)["token"]
    chosen = np.full(len(first), 0.5, np.float32)
    rank = np.zeros(len(first))
    for draw in DRAWS:
        tokens = []
        for slack in (-slack_of, 0.0, slack_of):
            off = {"uniform": draw + slack + 0 * chosen, "top_p": np.minimum(inputs["top_p"] - slack, 1)}
            off["min_p"] = np.maximum(inputs["min_p"] + slack, 0)
            off = {name: values.astype(np.float32) for name, values in off.items()}
            tokens.append(_step(run, inputs | off, sources)["token"])
        sure = (tokens[0] == tokens[1]) & (tokens[1] == tokens[2])
        worth = sure * (1 + (tokens[1] != first))
        chosen = np.where(worth > rank, draw, chosen).astype(np.float32)
        rank = np.maximum(worth, rank)
    return chosen, rank > 0


def _caches(run: GraphRun, batch: int, precision: Precision) -> dict[str, Array]:
    """Empty ones; numpy has no bfloat16, of which these are the bits."""
    dtype = {"FP32": np.float32, "FP16": np.float16, "BF16": np.uint16}[precision]
    return {name: array.astype(dtype) for name, array in run.cache(batch, MEMORY).past.items()}
