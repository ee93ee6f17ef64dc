"""Graphs that write texts: what torch computes, and the same bits however texts are run, cut, stopped and resumed."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from services.kit.inference import bundle as bundles
from services.kit.inference.manifest import ENCODER
from services.kit.training.digest import ROOT
from services.kit.training.export import ParityError, session
from services.language.graph import BY_QUERY
from services.language.training import graph as graph_module
from services.language.training.decoder import Decoder
from services.language.training.export import export
from services.language.training.graph import NotExportableError, to_onnx
from services.language.training.graph_check import check_parity
from services.language.training.graph_run import GraphRun
from services.language.training.layers import DecoderConfig
from services.language.training.sampler import INPUTS, OF_DRAWS, OUTPUTS
from tests.language_bundles import Kind, network, tiny
from tests.language_runs import Texts, bits, sampling, some_texts, together, written

BATCHES = (1, 2, 3, 5, 8, 16, 32)
PIECES = (1, 2, 7, 16)
MEMORIES = (32, 48, 144)
TEXTS, LENGTH, PROMPT = 32, 16, 5
SHIPPED = sorted((ROOT / "services" / "language" / "bundles").glob("*/*/tokenizer.json"))
ENCODERS = [file.parent for file in SHIPPED if (file.parent / ENCODER).exists()]


@pytest.fixture(params=["gpt", "gpt2", "translate"])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def runner(path: Path, threads: int = 1) -> GraphRun:
    encoder = path / ENCODER
    return GraphRun((path / "model.onnx").read_bytes(), encoder.read_bytes() if encoder.exists() else None, threads)


def texts_of(path: Path, count: int = TEXTS) -> Texts:
    generation = bundles.load(path).manifest.generation
    assert generation is not None
    return some_texts(generation.vocab, count, LENGTH, min(20, generation.max_source))


@functools.cache
def alone(path: Path) -> list[bytes]:
    """What every text gives by itself, in one run."""
    run, texts = runner(path), texts_of(path)
    return [bits(run, texts.part([row]), LENGTH, MEMORIES[0], fill=0.0)[0] for row in range(TEXTS)]


def test_the_graph_computes_what_torch_does(kind: Kind) -> None:
    assert check_parity(network(kind), runner(tiny(kind)), seed=3) < 1e-4


@pytest.mark.parametrize("threads", [1, 2])
def test_a_text_gets_the_same_bits_alone_and_beside_others_whole_and_in_pieces(kind: Kind, threads: int) -> None:
    run, texts = runner(tiny(kind), threads), texts_of(tiny(kind))
    for count in BATCHES:
        for piece in PIECES:
            rows = range(TEXTS - count, TEXTS)
            memory = MEMORIES[(count + piece) % len(MEMORIES)]
            assert bits(run, texts.part(rows), piece, memory) == alone(tiny(kind))[TEXTS - count :], (count, piece)


def test_a_prompt_a_piece_of_one_and_a_single_token_share_a_run(kind: Kind) -> None:
    path = tiny(kind)
    run, texts = runner(path), texts_of(path)
    rows, start, length = [3, 9, 20], np.array([0, 5, 15]), np.array([16, 7, 1])
    part = texts.part(rows)
    cache = run.cache(3, 64, fill=7.0, sources=part.sources)
    run.step(cache, part.tokens[:, :15], np.zeros(3, np.int64), np.zeros(1, np.int64))
    tokens, last, uniform = np.zeros((3, 16), np.int64), start + length - 1, np.zeros(3, np.float32)
    for row in range(3):
        tokens[row, : length[row]] = part.tokens[row, start[row] : start[row] + length[row]]
        uniform[row] = part.uniform[row, last[row]]
    how = [sampling(part.tokens[[row], [last[row]]][None], uniform[row : row + 1], last[row]) for row in range(3)]
    results = run.step(cache, tokens, start, np.arange(3) * 16 + length - 1, **together(how))
    for row in range(3):
        size = len(alone(path)[0]) // LENGTH
        wanted = alone(path)[rows[row]][last[row] * size : (last[row] + 1) * size]
        assert b"".join(results[name][row].tobytes() for name in OUTPUTS) == wanted


@pytest.mark.parametrize("after", [0, 1, 4, 10])
def test_a_text_that_is_stopped_goes_on_elsewhere_as_if_nothing_had_happened(kind: Kind, after: int) -> None:
    path = tiny(kind)
    texts = some_texts(network(kind).config.vocab, TEXTS, PROMPT + 12, 20 if kind == "translate" else 0)
    nothing = np.zeros((TEXTS, 0), np.int64)
    wanted, logprobs = written(runner(path), texts, PROMPT, nothing, 64)
    rows = [17, 4, 30, 8, 0]
    elsewhere = runner(path, threads=2)
    got, got_logprobs = written(elsewhere, texts.part(rows), PROMPT, wanted[rows, :after], 128)
    np.testing.assert_array_equal(got, wanted[rows])
    np.testing.assert_array_equal(got_logprobs, logprobs[rows, after:])
    assert len(np.unique(wanted)) > 20


@pytest.mark.parametrize("path", [None, *ENCODERS], ids=lambda path: path.parent.name if path else "translate")
def test_a_source_gets_the_same_bits_alone_and_beside_longer_ones(path: Path | None) -> None:
    sources = texts_of(path or tiny("translate")).sources
    for threads in (1, 2):
        run = runner(path or tiny("translate"), threads)
        everything = run.encoded(sources)
        for row, source in enumerate(sources):
            for name, array in run.encoded([source]).items():
                mine = everything[name][row : row + 1]
                assert (mine if mine.ndim == 1 else mine[:, :, : len(source)]).tobytes() == array.tobytes()


def small(**more: Any) -> Decoder:
    """With one layer, as an export takes seconds."""
    return Decoder(DecoderConfig(130, 32, 1, 4, 1, 16, 48, 64, **more))


def test_another_network_is_told_from_the_one_that_was_exported() -> None:
    other = network("gpt")
    with torch.no_grad():
        other.layers[1].mlp.down.weight[3, 5] += 0.1
    with pytest.raises(ParityError, match="differ by up to"):
        check_parity(other, runner(tiny("gpt")))


def test_weights_in_half_the_bytes_become_what_the_network_has() -> None:
    made = small(head_norm=True)  # a Qwen3, its embedding tied
    exported = export(made, half_file=True)
    assert exported.difference < 1e-5
    weights = sum(weight.numel() for weight in made.parameters())
    graph = onnx.load_from_string(exported.model).graph
    stored = [weight for weight in graph.initializer if weight.data_type == onnx.TensorProto.FLOAT16]
    assert sum(len(weight.raw_data) for weight in stored) > 2 * 0.95 * weights
    texts = some_texts(made.config.vocab, 5, LENGTH)
    every_way = [bits(exported.run, texts, piece, 64) for piece in PIECES]
    assert every_way == [[bits(exported.run, texts.part([row]), LENGTH, 32)[0] for row in range(5)]] * len(PIECES)


def test_a_file_of_half_weights_computes_the_same_where_no_norm_follows_queries() -> None:
    made = small(attention_bias=True)  # a Qwen2
    exported = export(made, half_file=True)
    assert exported.difference < 1e-5


def test_queries_that_share_a_product_get_almost_the_same() -> None:
    run, texts = runner(tiny("gpt")), some_texts(network("gpt").config.vocab, 3, LENGTH)
    start, places = np.zeros(3, np.int64), np.arange(3 * LENGTH)
    kv_heads = network("gpt").config.kv_heads
    alone, shared = (
        run.step(run.cache(3, 32), texts.tokens, start, places, queries=np.array(form))["logprob"]
        for form in (BY_QUERY, (0, kv_heads, -1, 0))
    )
    assert 0 < np.abs(alone - shared).max() < 1e-4


def test_half_precision_has_caches_of_half_the_bytes_and_is_near() -> None:
    exported = export(small(head_norm=True, tied=False), precision="FP16")
    assert 1e-5 < exported.difference < 0.05
    types = {node.name: node.type for node in session(exported.model).get_inputs()}
    assert types["past_k_0"] == types["past_v_0"] == "tensor(float16)"
    assert types["temperature"] == "tensor(float)"
    assert exported.inputs["past_k_0"].dtype == np.float16
    assert "top_token" not in exported.outputs


def test_brain_floats_are_exported_beside_known_answers_of_their_twin() -> None:
    exported = export(small(), precision="BF16")
    graph = onnx.load_from_string(exported.model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    assert types["past_k_0"] == onnx.TensorProto.BFLOAT16
    assert types["temperature"] == onnx.TensorProto.FLOAT
    assert exported.inputs["past_k_0"].dtype == np.uint16
    assert exported.difference < 1e-4


def test_the_graph_holds_no_path_and_says_its_free_sizes_by_name(kind: Kind) -> None:
    model = (tiny(kind) / "model.onnx").read_bytes()
    assert b".py" not in model
    graph = onnx.load_from_string(model).graph
    sizes = {value.name: [size.dim_param for size in value.type.tensor_type.shape.dim] for value in graph.input}
    assert sizes["token_ids"] == ["batch", "time"]
    assert sizes["past_v_1"] == ["batch", "", "memory", ""]
    assert sizes["adjust_index"] == ["adjusted", ""]
    assert sizes["top_p"] == ["rows", ""]
    assert sizes["ranks"] == ["candidates"]
    told = {value.name: [size.dim_param for size in value.type.tensor_type.shape.dim] for value in graph.output}
    assert told["top_token"] == ["rows", "candidates"]


def test_a_network_that_no_file_can_hold_is_refused_before_it_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "LARGEST", 1000)
    with pytest.raises(NotExportableError, match="GiB with FP32, an ONNX file holds less than 2 GiB"):
        to_onnx(network("gpt"))


def test_known_answers_are_what_the_graph_gives_a_little_off_as_well(kind: Kind) -> None:
    bundle = bundles.load(tiny(kind))
    inputs, outputs = bundles.known_answers(bundle)
    run = runner(bundle.path)
    sources = (
        [row[:length].tolist() for row, length in zip(inputs["source"], inputs["source_length"], strict=True)]
        if "source" in inputs
        else ()
    )
    names = ["token_ids", "start", "out_index", *INPUTS]
    for slack in (-0.003, 0.0, 0.003):
        off = {
            "uniform": inputs["uniform"] + np.float32(slack),
            "top_p": inputs["top_p"] + min(np.float32(0), np.float32(slack)),
        }
        given = {name: inputs[name] for name in names} | off
        given |= {name: given[name][:, 0] for name in OF_DRAWS}
        results = run.step(run.cache(3, 64, sources=sources), **given)
        np.testing.assert_array_equal(results["token"], outputs["token"][:, 0])
    assert (results["token"] == results["top_token"][:, 0]).sum() < 5  # not all are the best one


@pytest.mark.parametrize("path", [file.parent for file in SHIPPED], ids=lambda path: path.parent.name)
def test_a_shipped_bundle_gives_the_same_bits_alone_beside_others_and_after_a_stop(path: Path) -> None:
    texts = texts_of(path, 16)
    for threads in (1, 2):
        run = runner(path, threads)
        lonely = [bits(run, texts.part([row]), LENGTH, 32, fill=0.0)[0] for row in range(16)]
        for count, piece in ((1, 1), (2, 7), (3, 2), (5, 16), (8, 1), (16, 7), (16, 16)):
            assert bits(run, texts.part(range(16 - count, 16)), piece, 64) == lonely[16 - count :], (count, piece)
    wanted, logprobs = written(run, texts, PROMPT, np.zeros((16, 0), np.int64), 64)
    rows = [11, 2, 7]
    got, got_logprobs = written(runner(path), texts.part(rows), PROMPT, wanted[rows, :4], 32)
    np.testing.assert_array_equal(got, wanted[rows])
    np.testing.assert_array_equal(got_logprobs, logprobs[rows, 4:])
