"""Exported recurrent graphs with random weights: what torch computes, and the same bits however rows are run."""

import functools

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from services.kit.training.recurrent import NotExportableError, check_parity, to_onnx
from services.kit.training.recurrent_network import RecurrentNetwork
from tests.recurrent_runs import Rows, Runner, some_rows

BATCHES = (1, 2, 3, 5, 8, 16, 32, 64)
WINDOWS = (1, 2, 7, 16, 64)
ROWS, STEPS, WIDTH, HIDDEN, ANSWERS = 64, 64, 3, 24, 5

Case = tuple[str, int]  # cell, layers


class Degrees(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - 10) / 4


CELLS: dict[str, type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def network(cell: str, layers: int, *, both_ways: bool = False) -> RecurrentNetwork:
    """With what torch's layers can vary in: one layer without bias and time first, two with both and dropout."""
    torch.manual_seed(layers)
    recurrent = CELLS[cell](
        WIDTH,
        HIDDEN,
        num_layers=layers,
        bias=layers > 1,
        batch_first=layers > 1,
        dropout=0.2 if layers > 1 else 0.0,
        bidirectional=both_ways,
        **({"nonlinearity": "relu"} if cell == "rnn" and layers == 1 else {}),
    )
    return RecurrentNetwork(recurrent, nn.Linear(HIDDEN * (1 + both_ways), ANSWERS), Degrees()).eval()


@functools.cache
def exported(cell: str, layers: int, both_ways: bool = False) -> bytes:
    return to_onnx(network(cell, layers, both_ways=both_ways), "y")


@functools.cache
def rows(state_width: int) -> Rows:
    return some_rows(np.random.default_rng(3).normal(10, 4, (ROWS, STEPS, WIDTH)).astype(np.float32), state_width)


@pytest.fixture(params=[("rnn", 1), ("rnn", 2), ("lstm", 2), ("gru", 2)], ids=lambda case: f"{case[0]}-{case[1]}")
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def test_the_graph_computes_what_torch_does(case: Case) -> None:
    series = rows(0).x
    assert check_parity(network(*case), exported(*case), series, BATCHES, WINDOWS) < 1e-5


def test_a_graph_that_reads_both_ways_computes_what_torch_does() -> None:
    model = exported("lstm", 2, True)
    assert check_parity(network("lstm", 2, both_ways=True), model, rows(0).x, BATCHES, ()) < 1e-5
    assert [node.name for node in onnx.load_from_string(model).graph.input] == ["x", "lengths"]
    everything = rows(0)
    runner = Runner(model, 1, lonely=True)
    together = runner.bits(everything)
    assert together == [runner.bits(everything.part([row]))[0] for row in range(ROWS)]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_series_gets_the_same_bits_alone_beside_others_in_windows_and_step_by_step(case: Case, threads: int) -> None:
    everything = rows(network(*case).state_width)
    runner = Runner(exported(*case), threads, lonely=case[0] != "rnn")
    alone = [bits for row in range(ROWS) for bits in runner.bits(everything.part([row]))]
    for count in BATCHES:
        assert runner.bits(everything.part(slice(ROWS - count, ROWS))) == alone[ROWS - count :]
    for window in WINDOWS:
        assert runner.bits_in_turns(everything, window) == alone
        assert runner.bits_in_turns(everything.part([1]), window) == [alone[1]]
    assert runner.bits_in_turns(everything, 16, np.random.default_rng(11)) == alone
    one_thread = Runner(exported(*case), 1, lonely=case[0] != "rnn")
    assert one_thread.bits(everything) == alone


def test_what_lies_behind_the_end_of_a_row_changes_nothing(case: Case) -> None:
    everything = rows(network(*case).state_width)
    garbage = np.where(np.arange(STEPS)[:, None] < everything.lengths[:, None, None], everything.x, np.float32(-1e30))
    runner = Runner(exported(*case), 1, lonely=True)
    assert runner.bits(Rows(garbage, everything.lengths, everything.state)) == runner.bits(everything)


def test_another_state_gives_other_answers(case: Case) -> None:
    everything = rows(network(*case).state_width)
    fresh = Rows(everything.x, everything.lengths, np.zeros_like(everything.state))
    runner = Runner(exported(*case), 1, lonely=True)
    assert all(a[0] != b[0] for a, b in zip(runner.bits(fresh), runner.bits(everything), strict=True))


def test_a_lone_row_of_an_rnn_is_given_twice_as_it_would_be_rounded_otherwise() -> None:
    everything = rows(network("rnn", 2).state_width)
    runner = Runner(exported("rnn", 2), 1, lonely=True)
    together = [answers for answers, _ in runner.bits(everything)]
    alone = [runner.bits(everything.part([row]))[0][0] for row in range(ROWS)]
    if alone == together:
        pytest.skip("on this CPU a row by itself gets the same bits")
    difference = np.frombuffer(b"".join(alone), np.float32) - np.frombuffer(b"".join(together), np.float32)
    assert 0 < np.abs(difference).max() < 1e-5


def test_the_graph_holds_no_path_and_no_fixed_number_of_rows_or_steps(case: Case) -> None:
    model = exported(*case)
    assert b".py" not in model
    graph = onnx.load_from_string(model).graph
    free = {node.name: [size.dim_param for size in node.type.tensor_type.shape.dim][:2] for node in graph.input}
    assert free == {"x": ["batch", "time"], "lengths": ["batch"], "state": ["batch", ""]}


def test_what_onnx_cannot_say_is_refused() -> None:
    projecting = RecurrentNetwork(nn.LSTM(2, 8, proj_size=4), nn.Linear(4, 1))
    with pytest.raises(NotExportableError, match="proj_size is 4"):
        to_onnx(projecting, "y")
    with pytest.raises(NotExportableError, match=r"torch\.float64"):
        to_onnx(RecurrentNetwork(nn.GRU(2, 8), nn.Linear(8, 1)).double(), "y")
