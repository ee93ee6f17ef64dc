"""The part of a graph that draws tokens, against numpy."""

import functools
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from services.kit.inference.bundle import Array
from services.kit.training.export import session
from services.language.training.graph_run import greedy
from services.language.training.model_file import finished
from services.language.training.sampler import CANDIDATES, INPUTS, OF_DRAWS, OF_MOST_PROBABLE, OUTPUTS
from services.language.training.sampler_graph import MostProbable, Sampler
from services.language.training.traced import exported

ROWS = 2000


@functools.cache
def graph(vocab: int) -> ort.InferenceSession:
    """The sampler alone, whose logits are an input."""
    sampling = greedy(5) | {"adjust_index": np.arange(8).reshape(4, 2), "adjust_scale": np.ones(4, np.float32)}
    sampling |= {"adjust_bias": np.ones(4, np.float32), "ranks": np.arange(6)}
    example = (torch.ones(5, vocab), [torch.from_numpy(array.copy()) for array in given(sampling)])
    return session(finished(exported(Sampler(), example, ["logits", *INPUTS], OUTPUTS), half=False))


def given(sampling: dict[str, Array]) -> list[Array]:
    """As the graph has them, in order."""
    return [sampling[name][:, np.newaxis] if name in OF_DRAWS else sampling[name] for name in INPUTS]


def run(logits: Array, **sampling: Array) -> dict[str, Array]:
    """What the graph gives, with as many candidates as there can be unless `ranks` says otherwise."""
    every = {**greedy(len(logits)), "ranks": np.arange(min(CANDIDATES, logits.shape[1])), **sampling}
    inputs = {"logits": logits, **dict(zip(INPUTS, given(every), strict=True))}
    token, logprob, *top = graph(logits.shape[1]).run(list(OUTPUTS), inputs)
    return dict(zip(OUTPUTS, (token[:, 0], logprob[:, 0], *top), strict=True))


def some_logits(vocab: int, rows: int = ROWS) -> Array:
    return np.random.default_rng(1).normal(0, 2.5, (rows, vocab)).astype(np.float32)


def some_sampling(vocab: int, rows: int = ROWS) -> dict[str, Array]:
    """All kinds of wishes; every fourth row is greedy, every fifth forced, and some logits of every row change."""
    random = np.random.default_rng(2)
    pairs = np.unique(np.stack((random.integers(0, rows, 3 * rows), random.integers(0, vocab, 3 * rows)), 1), axis=0)
    return {
        "temperature": random.choice([0.05, 0.6, 1.0, 3.0], rows).astype(np.float32),
        "top_k": np.where(np.arange(rows) % 4, random.integers(1, min(CANDIDATES, vocab) + 1, rows), 1),
        "top_p": random.choice([0.1, 0.5, 0.9, 1.0], rows).astype(np.float32),
        "min_p": random.choice([0.0, 0.05, 0.5], rows).astype(np.float32),
        "uniform": random.random(rows, np.float32),
        "forced": np.where(np.arange(rows) % 5, -1, random.integers(0, vocab, rows)),
        "adjust_index": pairs,
        "adjust_scale": random.choice([0.5, 1.0, 1.8], len(pairs)).astype(np.float32),
        "adjust_bias": random.choice([-1e30, -2.0, 0.0, 5.0], len(pairs)).astype(np.float32),
    }


def adjusted(logits: Array, sampling: dict[str, Array]) -> Array:
    found = logits.copy()
    for (row, token), scale, bias in zip(
        sampling["adjust_index"], sampling["adjust_scale"], sampling["adjust_bias"], strict=True
    ):
        logit = found[row, token]
        found[row, token] = (logit / scale if logit > 0 else logit * scale) + bias
    return found


def candidates(logits: Array) -> Array:
    """The most probable tokens, of equals the lowest first."""
    return np.argsort(-logits, kind="stable")[:CANDIDATES]


def draw(logits: Array, wish: dict[str, Any]) -> tuple[int, float]:
    """The token, and how far the draw was from where another one begins; the logits are adjusted."""
    tokens = candidates(logits)
    scaled = logits[tokens].astype(np.float64) / wish["temperature"]
    probability = np.exp(scaled - scaled[0]) / np.exp(scaled - scaled[0]).sum()
    kept = list(probability[: wish["top_k"]])
    sums = np.cumsum([0.0, *kept])
    reached = int(np.sum(sums[:-1] < wish["top_p"] * sums[-1]))
    near = np.abs(sums[1:-1] - wish["top_p"] * sums[-1]).min(initial=1.0)
    kept = [value for value in kept[:reached] if value >= wish["min_p"] * kept[0]]
    sums = np.cumsum(kept)
    target = wish["uniform"] * sums[-1]
    return int(tokens[int(np.sum(sums[:-1] <= target))]), min(near, float(np.abs(sums[:-1] - target).min(initial=1.0)))


@pytest.mark.parametrize("vocab", [300, 40])
def test_every_wish_is_followed_as_numpy_does(vocab: int) -> None:
    logits, sampling = some_logits(vocab), some_sampling(vocab)
    results, changed = run(logits, **sampling), adjusted(logits, sampling)
    wanted, near = [], []
    for row in range(ROWS):
        wish = {name: sampling[name][row] for name in OF_DRAWS}
        token, distance = draw(changed[row], wish)
        wanted.append(wish["forced"] if wish["forced"] >= 0 else token)
        near.append(distance)
    other = np.flatnonzero(results["token"] != wanted)
    assert all(near[row] < 1e-6 for row in other), other  # where float32 and float64 fall on two sides
    assert len(other) < 3
    every = torch.log_softmax(torch.from_numpy(logits), 1).numpy()
    np.testing.assert_allclose(results["logprob"], every[np.arange(ROWS), results["token"]], atol=1e-5)
    best = np.stack([candidates(row) for row in changed])
    np.testing.assert_array_equal(results["top_token"], best)
    np.testing.assert_allclose(results["top_logprob"], np.take_along_axis(every, best, 1), atol=1e-5)


def test_a_vocabulary_of_few_tokens_has_as_many_alternatives() -> None:
    results = run(some_logits(7, 3))
    assert results["top_token"].shape == results["top_logprob"].shape == (3, 7)


def test_greedy_takes_the_lowest_of_equal_tokens_whatever_is_drawn() -> None:
    logits = np.zeros((3, 300), np.float32)
    logits[:, [250, 17, 90]] = 4.0
    results = run(logits, uniform=np.array([0.0, 0.5, 0.999], np.float32))
    assert results["token"].tolist() == [17, 17, 17]


def test_a_forbidden_token_is_never_drawn_even_where_all_are_candidates() -> None:
    logits, rows = np.tile(some_logits(40, 1), (500, 1)), np.arange(500)
    best = int(logits[0].argmax())
    pairs = np.stack((np.repeat(rows, 2), np.tile([best, 7], 500)), 1)
    neutral = np.ones(1000, np.float32)
    how = {"adjust_index": pairs, "adjust_scale": neutral, "adjust_bias": -1e30 * neutral, "top_k": np.full(500, 40)}
    drawn = run(logits, **how, uniform=np.linspace(0, 1 - 2**-24, 500, dtype=np.float32))["token"]
    assert not {best, 7} & set(drawn.tolist())
    assert len(set(drawn.tolist())) > 10


def test_a_place_gets_the_same_bits_alone_and_among_others() -> None:
    logits, sampling = some_logits(300, 33), some_sampling(300, 33)
    whole = run(logits, **sampling)
    for row in range(33):
        mine = sampling["adjust_index"][:, 0] == row
        own = {name: array[row : row + 1] for name, array in sampling.items() if not name.startswith("adjust")}
        if mine.any():
            own["adjust_index"] = sampling["adjust_index"][mine] * [0, 1]
            own |= {name: sampling[name][mine] for name in ("adjust_scale", "adjust_bias")}
        alone = run(logits[row : row + 1], **own)
        assert all(whole[name][row : row + 1].tobytes() == alone[name].tobytes() for name in OUTPUTS)


@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_a_draw_is_the_same_to_the_bit_among_as_few_candidates_as_it_needs(count: int) -> None:
    logits, sampling = some_logits(300), some_sampling(300)
    sampling["top_k"] = np.minimum(sampling["top_k"], count)
    whole, few = run(logits, **sampling), run(logits, **sampling, ranks=np.arange(count))
    assert len(set(few["token"].tolist())) > 10
    for name in ("token", "logprob"):
        assert few[name].tobytes() == whole[name].tobytes()
    for name in ("top_token", "top_logprob"):
        assert few[name].tobytes() == whole[name][:, :count].tobytes()


def test_the_most_probable_tokens_are_found_more_quickly_to_the_bit() -> None:
    logits = np.round(some_logits(300), 1)  # of equals the lowest
    forced = np.where(np.arange(ROWS) % 5, -1, np.arange(ROWS) % 300)[:, np.newaxis]
    example = (torch.ones(5, 300), torch.ones(5, 1, dtype=torch.int64), torch.arange(6))
    exported_graph = exported(MostProbable(), example, ["logits", *OF_MOST_PROBABLE], OUTPUTS)
    quick = session(finished(exported_graph, half=False))
    for count in (1, 20):
        found = quick.run(list(OUTPUTS), {"logits": logits, "forced": forced, "ranks": np.arange(count)})
        whole = run(logits, forced=forced[:, 0], ranks=np.arange(count))
        found[:2] = [array[:, 0] for array in found[:2]]
        assert all(one.tobytes() == whole[name].tobytes() for name, one in zip(OUTPUTS, found, strict=True))


def test_what_is_neutral_changes_nothing() -> None:
    logits = some_logits(300, 9)
    plain = run(logits, top_k=np.full(9, 64), uniform=np.full(9, 0.7, np.float32))
    neutral = {"adjust_index": np.array([[0, 3], [8, 299]]), "adjust_scale": np.ones(2, np.float32)}
    neutral["adjust_bias"] = np.zeros(2, np.float32)
    same = run(logits, top_k=np.full(9, 64), uniform=np.full(9, 0.7, np.float32), **neutral)
    assert all(plain[name].tobytes() == same[name].tobytes() for name in OUTPUTS)
