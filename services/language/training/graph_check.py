"""The proof that a graph computes what its network does."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from services.kit.inference.bundle import Array
from services.kit.training.export import ParityError
from services.language.training.encoder_decoder import EncoderDecoder
from services.language.training.graph import Network
from services.language.training.graph_run import GraphRun, padded

TOLERANCE = 1e-3  # of log-probabilities
PIECE = 5  # tokens
BEST, OTHERS = 4, 4  # tokens whose log-probabilities are compared at every position: the best ones, and any


def check_parity(
    network: Network,
    run: GraphRun,
    texts: Sequence[Sequence[int]] = (),
    sources: Sequence[Sequence[int]] = (),
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> float:
    """The largest difference of a log-probability after every token of the texts, which are run whole and in pieces.

    Args:
        texts: tokens, of an encoder-decoder those of targets; none: random ones.
        sources: of these targets; none: random ones.

    Raises:
        ParityError: it is more than the tolerance.
    """
    random = np.random.default_rng(seed)
    texts = texts or random_texts(network.config.vocab, network.config.max_tokens, random)
    if isinstance(network, EncoderDecoder):
        sources = sources or random_texts(network.config.vocab, network.max_source, random)
    every = log_probabilities(network, texts, sources)
    chosen = np.concatenate(
        (
            torch.topk(every, min(BEST, every.shape[-1])).indices.numpy(),
            random.integers(0, network.config.vocab, (*every.shape[:2], OTHERS)),
        ),
        axis=2,
    )
    wanted = torch.gather(every, 2, torch.from_numpy(chosen)).numpy()
    within = np.arange(wanted.shape[1]) < np.array([len(text) for text in texts])[:, None]
    largest = 0.0
    for piece in (wanted.shape[1], PIECE):
        got = graph_log_probabilities(run, texts, chosen, piece, sources)
        difference = float(np.abs(got - wanted)[within].max())
        if not difference <= tolerance:  # nor NaN
            raise ParityError(f"log-probabilities, in pieces of {piece} tokens, differ by up to {difference:.2g}")
        largest = max(largest, difference)
    return largest


def log_probabilities(
    network: Network, texts: Sequence[Sequence[int]], sources: Sequence[Sequence[int]] = ()
) -> Tensor:
    """float32 [texts, longest, vocab], by the network itself; those behind the end of a text mean nothing."""
    tokens = torch.from_numpy(padded(texts))
    with torch.no_grad():
        if isinstance(network, EncoderDecoder):
            lengths = torch.tensor([len(source) for source in sources])
            logits = network.eval()(torch.from_numpy(padded(sources)), lengths, tokens)
        else:
            logits = network.eval()(tokens)
    return torch.log_softmax(logits.float(), -1)


def graph_log_probabilities(
    run: GraphRun, texts: Sequence[Sequence[int]], chosen: Array, piece: int, sources: Sequence[Sequence[int]] = ()
) -> Array:
    """float32 [texts, longest, chosen], by the graph, which gets the texts in pieces of at most `piece` tokens.

    Args:
        chosen: int64 [texts, longest, chosen], the tokens whose log-probability is asked for.
    """
    tokens, columns = padded(texts), []
    batch, longest = tokens.shape
    for column in range(chosen.shape[2]):
        cache, parts = run.cache(batch, longest, sources=sources), []
        for at in range(0, longest, piece):
            part, forced = tokens[:, at : at + piece], chosen[:, at : at + piece, column]
            results = run.step(cache, part, np.full(batch, at), np.arange(part.size), forced=forced.reshape(-1))
            parts.append(results["logprob"].reshape(part.shape))
        columns.append(np.concatenate(parts, axis=1))
    return np.stack(columns, axis=2)


def random_texts(vocab: int, longest: int, random: np.random.Generator, count: int = 3) -> list[list[int]]:
    """`count` texts of different lengths up to 16 tokens."""
    most = min(16, longest)
    return [random.integers(0, vocab, max(1, most - 3 * index)).tolist() for index in range(count)]
