"""From a network that writes texts to the bytes of its ONNX files.

The decoder's graph takes, B, T, N, K, A and S being any sizes from 1 on and M any multiple of 16:

    token_ids int64 [B, T], start int64 [B], steps int64 [T], places int64 [M], out_index int64 [N];
    with FP32, queries int64 [4]: (0, -1, 1, 0) where each query is a product of its own in attention, so that a CPU
        gives all the same bits, or (0, kv_heads, -1, 0) where all that share keys are one product;
    what the sampler takes, and, with FP32, plain, bool [1]: whether all draws are of the most probable token, as it is;
    with an encoder: source_length int64 [B] and cross_k_0, cross_v_0, cross_k_1, ... [B, heads, S, head_dim];
    past_k_0, past_v_0, past_k_1, ... [B, kv_heads, M, head_dim].

It gives what the sampler does and present_k_0, present_v_0, ..., which may be bound to the memory of past_k_0, ...
The encoder's graph takes source int64 [B, S] and source_length int64 [B], and gives cross_k_0, cross_v_0, ...
"""

import copy
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from services.kit.inference.manifest import Generation
from services.language.graph import BY_QUERY
from services.language.training.decoder import Decoder
from services.language.training.decoder_graph import DecoderGraph, EncoderGraph
from services.language.training.encoder_decoder import EncoderDecoder
from services.language.training.model_file import finished
from services.language.training.sampler_graph import with_sampler
from services.language.training.traced import exported, integers

Network = Decoder | EncoderDecoder
AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)
Precision = Literal["FP32", "FP16", "BF16"]
DTYPES: dict[Precision, torch.dtype] = {"FP32": torch.float32, "FP16": torch.float16, "BF16": torch.bfloat16}


LARGEST = 2**31 - 2**26  # bytes of an ONNX file's weights: protobuf takes less than 2 GiB, and the graph needs some


class NotExportableError(Exception):
    """An ONNX file cannot hold the network."""


def to_onnx(network: Network, precision: Precision = "FP32", *, half_file: bool = False) -> bytes:
    """The decoder as an ONNX file.

    Args:
        network: its weights are float32; they stay as they are.
        precision: of weights, products and caches; the sampler computes with float32.
        half_file: whether the file holds float32 weights as float16 where that loses nothing, as `round_weights` makes
            sure of; they become float32 when the file is loaded. The matrix that queries come from stays as it is where
            no norm follows: it has their scale, with which float16 would lose something.

    Raises:
        NotExportableError: the file would be larger than ONNX allows.
    """
    graph = DecoderGraph(_in_precision(network, precision), by_query=precision == "FP32")
    source = ["source_length", *_of_layers("cross", network)] if isinstance(network, EncoderDecoder) else []
    inputs = ["token_ids", "start", "steps", "places", "out_index", *(["queries"] if precision == "FP32" else [])]
    inputs += [*source, *_of_layers("past", network)]
    model = exported(graph, _example(network, precision), inputs, ["logits", *_of_layers("present", network)])
    whole = with_sampler(model, network.config.vocab, branches=precision == "FP32")
    return finished(whole, half=half_file)


def encoder_to_onnx(network: EncoderDecoder, precision: Precision = "FP32", *, half_file: bool = False) -> bytes:
    """The encoder as an ONNX file; arguments and errors are those of `to_onnx`."""
    graph = EncoderGraph(_in_precision(network, precision))
    model = exported(graph, (integers(2, 3), integers(2)), ["source", "source_length"], _of_layers("cross", network))
    return finished(model, half=half_file)


def round_weights(network: Network) -> None:
    """Rounds the network's weights, in place, to what float16 can say."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(weight.half().float())


def describe(
    network: Network,
    *,
    end: Sequence[int],
    begin: Sequence[int] = (),
    source_end: Sequence[int] = (),
    precision: Precision = "FP32",
    formats: Sequence[str] = (),
) -> Generation:
    """What the manifest says of the graphs."""
    config = network.config
    return Generation(
        vocab=config.vocab,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        max_tokens=config.max_tokens,
        begin=tuple(begin),
        end=tuple(end),
        precision=precision,
        max_source=network.max_source if isinstance(network, EncoderDecoder) else 0,
        source_end=tuple(source_end),
        formats=tuple(formats),
    )


def _in_precision(network: AnyNetwork, precision: Precision) -> AnyNetwork:
    """A copy where numbers change, in evaluation mode."""
    dtype = DTYPES[precision]
    bytes_of_weights = sum(weight.numel() for weight in network.parameters()) * dtype.itemsize
    if bytes_of_weights > LARGEST:
        raise NotExportableError(
            f"its weights are {bytes_of_weights / 2**30:.1f} GiB with {precision}, an ONNX file holds less than 2 GiB"
        )
    return (network if precision == "FP32" else copy.deepcopy(network).to(dtype)).eval()


def _example(network: Network, precision: Precision) -> tuple[Any, ...]:
    """What the decoder's graph is traced with: every size is another, and every tensor an object of its own."""
    config, dtype = network.config, DTYPES[precision]
    past = [torch.zeros(2, config.kv_heads, 7, config.head_dim, dtype=dtype) for _ in range(2 * config.layers)]
    source = []
    if isinstance(network, EncoderDecoder):
        cross = [torch.zeros(2, config.heads, 6, config.head_dim, dtype=dtype) for _ in range(2 * config.layers)]
        source = [integers(2), *cross]
    token_ids, start, steps, places = integers(2, 3), integers(2), integers(3), integers(7)
    form = [torch.tensor(BY_QUERY)] if precision == "FP32" else []
    return token_ids, start, steps, places, integers(5), form, source, past


def _of_layers(kind: str, network: Network) -> list[str]:
    return [f"{kind}_{part}_{layer}" for layer in range(network.config.layers) for part in "kv"]
