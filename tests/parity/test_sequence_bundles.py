"""The committed sequence bundles against the networks that they were exported from, and against their own promises."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Array, Bundle
from services.kit.training import export, recurrent
from services.kit.training.recurrent_graph import GATES
from services.kit.training.recurrent_network import RecurrentNetwork
from services.sequence.training import digits, sunspots
from services.sequence.training.card import Card
from services.sequence.training.recipes import CARDS, FOLDER, SAMPLES, digest
from services.sequence.training.train import SUBJECTS, Subject
from tests.recurrent_runs import Runner, some_rows

BATCHES = (1, 2, 3, 5, 8, 16, 32, 64)
WINDOWS = (1, 2, 7, 16, 64)
ROWS = 64
MIB = 1 << 20
RECURRENT = tuple(card for card in CARDS if issubclass(SUBJECTS[card.network].network, RecurrentNetwork))
PLAIN = tuple(card for card in CARDS if card not in RECURRENT)


def name_of(card: Card) -> str:
    return card.name


def load(card: Card) -> tuple[Bundle, bytes]:
    bundle = bundles.load(FOLDER / card.name / "1")
    return bundle, (bundle.path / "model.onnx").read_bytes()


def restored(subject: Subject, model: bytes) -> nn.Module:
    """The network with the weights that are in the graph."""
    network, graph = subject.network(), onnx.load_from_string(model).graph
    constants = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    weights = {name: constants[name] for name in network.state_dict() if name in constants}
    if isinstance(network, RecurrentNetwork):
        # The exporter turns the matrix of each linear layer over, and gives the turned one a name of its own.
        products = [constants[node.input[1]] for node in graph.node if node.op_type == "MatMul"]
        linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
        weights |= {f"{name}.weight": product.T for name, product in zip(linear, products, strict=True)}
        weights |= {f"recurrent.{name}": weight for name, weight in layer_weights(network, constants).items()}
    network.load_state_dict(weights)
    return network.eval()


def layer_weights(network: RecurrentNetwork, constants: dict[str, Tensor]) -> dict[str, Tensor]:
    """torch's weights of the recurrent layers, from ONNX's."""
    found = {}
    for layer in range(network.recurrent.num_layers):
        biases = constants[f"B{layer}"][0].chunk(2)
        for kind, weight in zip(
            ("weight_ih", "weight_hh", "bias_ih", "bias_hh"),
            (constants[f"W{layer}"][0], constants[f"R{layer}"][0], *biases),
            strict=True,
        ):
            gates = weight.chunk(len(GATES[network.cell]))
            found[f"{kind}_l{layer}"] = torch.cat([gates[at] for at in np.argsort(GATES[network.cell])])
    return found


@pytest.fixture(params=CARDS, ids=name_of)
def card(request: pytest.FixtureRequest) -> Card:
    found: Card = request.param
    return found


def test_training_again_would_change_nothing(card: Card) -> None:
    training = load(card)[0].manifest.training
    assert training is not None
    assert training.digest == digest(card), "run `make models` and commit what it writes"


def test_known_answers_hold(card: Card) -> None:
    bundle, model = load(card)
    bundles.verify_files(bundle)
    inputs, expected = bundles.known_answers(bundle)
    actual = dict(zip(expected, export.session(model).run(list(expected), inputs), strict=True))
    assert bundles.compare_known_answers(expected, actual, rtol=1e-4, atol=1e-4) is None


def test_the_manifest_describes_the_graph(card: Card) -> None:
    bundle, model = load(card)
    inputs, outputs = export.interface(model)
    assert (bundle.manifest.inputs, bundle.manifest.outputs) == (inputs[:1], outputs[:1])
    assert onnx.load_from_string(model).opset_import[0].version == bundle.manifest.opset
    recurrence = bundle.manifest.recurrence
    hidden = {} if recurrence is None else {"lengths": (-1,), "state": (-1, recurrence.state_width)}
    assert {spec.name: spec.shape for spec in inputs[1:]} == hidden
    assert {spec.name: spec.shape for spec in outputs[1:]} == (
        {} if recurrence is None else {"next_state": (-1, recurrence.state_width)}
    )


@pytest.mark.parametrize("card", RECURRENT, ids=name_of)
def test_the_graph_computes_what_the_network_does(card: Card) -> None:
    subject, model = SUBJECTS[card.network], load(card)[1]
    network = restored(subject, model)
    assert isinstance(network, RecurrentNetwork)
    scale = float(np.abs(subject.examples(ROWS)).max())
    assert recurrent.check_parity(network, model, subject.examples(ROWS), BATCHES, WINDOWS) < 1e-5 * scale


@pytest.mark.parametrize("card", PLAIN, ids=name_of)
def test_a_regression_computes_what_its_network_does_and_rows_do_not_touch_each_other(card: Card) -> None:
    subject, model = SUBJECTS[card.network], load(card)[1]
    x = subject.examples(ROWS)
    assert export.check_parity(restored(subject, model), model, {"x": x}, ["y"], BATCHES) < 1e-5
    for threads in (1, 2):
        loaded = export.session(model, threads)
        alone = [loaded.run(["y"], {"x": x[row : row + 1]})[0].tobytes() for row in range(ROWS)]
        for rows in BATCHES:
            (together,) = loaded.run(["y"], {"x": x[-rows:]})
            assert [row.tobytes() for row in together] == alone[ROWS - rows :]


@pytest.mark.parametrize("card", RECURRENT, ids=name_of)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_series_gets_the_same_bits_alone_beside_others_in_windows_and_step_by_step(card: Card, threads: int) -> None:
    bundle, model = load(card)
    recurrence = bundle.manifest.recurrence
    assert recurrence is not None
    everything = some_rows(SUBJECTS[card.network].examples(ROWS), recurrence.state_width)
    runner = Runner(model, threads, lonely=recurrence.cell != "rnn")
    alone = [bits for row in range(ROWS) for bits in runner.bits(everything.part([row]))]
    for count in BATCHES:
        assert runner.bits(everything.part(slice(ROWS - count, ROWS))) == alone[ROWS - count :]
    for window in WINDOWS:
        assert runner.bits_in_turns(everything, window) == alone
    assert runner.bits_in_turns(everything, 16, np.random.default_rng(12)) == alone


@pytest.mark.parametrize("card", RECURRENT, ids=name_of)
def test_a_stream_as_long_as_one_may_be_stays_finite(card: Card) -> None:
    bundle, model = load(card)
    recurrence = bundle.manifest.recurrence
    assert recurrence is not None
    random = np.random.default_rng(13)
    x = random.uniform(0, 300, (4, recurrence.max_steps, 1)).astype(np.float32)
    x[1], x[2], x[3] = 0, -1e30, 1e30
    lengths = np.full(4, recurrence.max_steps, np.int32)
    answers, state = recurrent.run(export.session(model), x, lengths, np.zeros((4, recurrence.state_width), np.float32))
    assert np.isfinite(answers).all()
    assert np.isfinite(state).all()


def test_the_held_out_figures_are_what_the_manifest_says(card: Card) -> None:
    bundle, model = load(card)
    metrics = bundle.manifest.metrics
    assert metrics is not None
    again = SUBJECTS[card.network].measure(model, metrics.data)
    assert again.samples == metrics.samples
    for name, value in metrics.values.items():
        assert again.values[name] == pytest.approx(value, rel=1e-3, abs=0.003), name
    assert sum(map(sum, metrics.confusion)) == (metrics.samples if metrics.confusion else 0)


def test_digits_are_recognised_and_better_the_more_is_read() -> None:
    values = figures("digits-rnn")
    assert values["accuracy"] >= 0.93
    assert values["accuracy_0_to_1"] >= 0.93
    assert values["accuracy_step_64"] == values["accuracy"]
    curve = [values[f"accuracy_step_{step:02d}"] for step in digits.CURVE]
    assert curve[0] < curve[3] < curve[6]
    assert curve[0] > 0.1


def test_sunspots_are_forecast_better_than_by_rules_of_thumb() -> None:
    values = figures("sunspots-lstm")
    for ahead in (1, 12):
        for rule in ("last_value", "11_years_before", "22_years_before"):
            assert values[f"rmse_{ahead}"] < values[f"rmse_{ahead}_{rule}"]


def test_regressions_find_what_was_generated() -> None:
    assert figures("regression-linear")["rmse"] < 0.01
    assert figures("regression-mlp")["rmse"] < 0.03


def figures(name: str) -> dict[str, float]:
    metrics = bundles.load(FOLDER / name / "1").manifest.metrics
    assert metrics is not None
    return dict(metrics.values)


def test_the_graph_holds_no_path_of_the_machine_that_exported_it(card: Card) -> None:
    model = load(card)[1]
    assert b".py" not in model
    assert str(Path.cwd()).encode() not in model


def test_the_bundles_are_small_enough_to_be_committed() -> None:
    sizes = {path: path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 2 * MIB
    assert max(sizes.values()) <= 4 * MIB


def test_the_sample_digits_show_what_their_names_say() -> None:
    model = load(CARDS[0])[1]
    paths = sorted(SAMPLES.glob("[0-9]-*.csv"))
    assert [path.name[0] for path in paths] == list(digits.CLASSES)
    series = np.stack([np.array(path.read_text().split(","), np.float32)[:, None] for path in paths])
    assert series.shape == (10, 64, 1)
    assert [digits.CLASSES[index] for index in digits.predict(model, series)[:, -1]] == list(digits.CLASSES)


def test_the_sample_sunspots_are_all_years() -> None:
    header, *lines = (SAMPLES / "sunspots.csv").read_text().splitlines()
    table: Array = np.array([line.split(",") for line in lines], np.float64)
    years, numbers = sunspots.load()
    assert header == "year,sunspots"
    assert table[:, 0].tolist() == years.tolist()
    assert np.allclose(table[:, 1], numbers)
