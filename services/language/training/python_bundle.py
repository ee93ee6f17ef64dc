"""The bundle python-gpt: trained, exported and measured beside gzip and a 5-gram model."""

import math
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from services.kit.inference.bundle import Array, Bundle
from services.kit.inference.manifest import Metrics
from services.language.training import python_source, python_writer, resumable, written
from services.language.training.byte_models import Ngrams, gzip_bits_per_byte
from services.language.training.card import Card
from services.language.training.export import export, write
from services.language.training.graph import describe
from services.language.training.graph_run import GraphRun
from services.language.training.python_source import Source
from services.language.training.python_writer import END_TOKEN, MAX_TOKENS
from services.language.training.writing_cards import PYTHON_WEIGHTS

STRIDE = MAX_TOKENS // 2  # tokens that each window measures; what it has before them is context
BATCH = 4  # windows of one run
KNOWN = ("def add(a, b):\n    return", "import os\nimport sys\n\n\nclass", '"""A queue.\n\nThis module')


def build(folder: Path, card: Card, digest: str) -> Bundle:
    """Trains, exports, measures and writes `folder`/NAME/1.

    Raises:
        ParityError: the exported graph computes something else than the network.
    """
    source, held_out = python_source.load()
    saved = resumable.saved(card.name, written.weights_digest(card, PYTHON_WEIGHTS, source.digest))
    network, pairs = python_writer.train(source, card.settings, card.name, saved)
    texts = [[END_TOKEN, *pairs.encode(text, add_special_tokens=False).ids] for text in KNOWN]
    exported = export(network, half_file=True, texts=texts)
    data = f"{card.data}; here that of {python_source.release()}, SHA-256 {source.digest}"
    return write(
        folder,
        card.name,
        exported,
        describe(network, begin=(END_TOKEN,), end=(END_TOKEN,)),
        pairs.to_str().encode(),
        description=card.description,
        training=written.training(card, data, digest),
        metrics=measure(exported.run, pairs, source, held_out, f"{card.held_out}: {', '.join(held_out.packages)}"),
        limits=card.limits,
    )


def measure(run: GraphRun, pairs: Tokenizer, source: Source, held_out: Source, data: str) -> Metrics:
    """Bits for each byte of all that is held out: of the graph, and of what it must beat."""
    text = "".join(held_out.texts).encode()
    values = {
        "bits_per_byte": bits(run, python_writer.encode(held_out.texts, pairs)) / len(text),
        "bits_per_byte_gzip": gzip_bits_per_byte(text),
        "bits_per_byte_5gram": Ngrams("".join(source.texts).encode()).bits_per_byte(text),
    }
    return Metrics(data=data, samples=len(text), values={name: round(value, 4) for name, value in values.items()})


def bits(run: GraphRun, tokens: Array) -> float:
    """What the graph needs to say the tokens, at least MAX_TOKENS of them: the sum of -log2 of each one's probability.

    The tokens are read in windows of MAX_TOKENS, each of which begins with END and overlaps by half with the one before
    it, so that every token behind the first window has at least STRIDE of context.
    """
    padded = np.concatenate((tokens, np.full(-len(tokens) % STRIDE, END_TOKEN)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, MAX_TOKENS)[::STRIDE]
    nats = [logprobs(run, windows[:1], np.arange(MAX_TOKENS))]
    for at in range(1, len(windows), BATCH):
        nats.append(logprobs(run, windows[at : at + BATCH], np.arange(STRIDE, MAX_TOKENS)))
    every = np.concatenate([part.reshape(-1) for part in nats])
    return -float(every[: len(tokens)].sum(dtype=np.float64)) / math.log(2)


def logprobs(run: GraphRun, targets: Array, measured: Array) -> Array:
    """float32 [windows, measured]: log-probabilities of the tokens at the places `measured` of each window.

    Args:
        targets: int64 [windows, MAX_TOKENS].
    """
    count, size = targets.shape
    inputs = np.concatenate((np.full((count, 1), END_TOKEN), targets[:, :-1]), 1)
    places = (np.arange(count)[:, None] * size + measured).reshape(-1)
    forced = targets[:, measured].reshape(-1)
    start = np.zeros(count, np.int64)
    found: Array = run.step(run.cache(count, size), inputs, start, places, forced=forced)["logprob"]
    return found.reshape(count, -1)
