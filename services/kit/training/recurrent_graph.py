"""RecurrentGraph: a recurrent network as the exporter has to see it, with ONNX's own recurrent nodes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from services.kit.training.export import OPSET
from services.kit.training.recurrent_network import Cell, RecurrentNetwork

# Where ONNX's gates lie in torch's weights. torch: LSTM i, f, g, o and GRU r, z, n; ONNX: i, o, f, c and z, r, h.
GATES: dict[Cell, tuple[int, ...]] = {"rnn": (0,), "lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
Attributes = dict[str, int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool]]


class RecurrentGraph(nn.Module):
    """The network with ONNX's nodes RNN, LSTM or GRU in the place of torch's layers; only an exporter can run it."""

    def __init__(self, network: RecurrentNetwork) -> None:
        super().__init__()
        self.prepare, self.head = network.prepare, network.head
        self._network = (network,)  # in a tuple, so that its weights are no second set of ours
        for layer in range(network.recurrent.num_layers):
            for name, weight in zip("WRB", _weights(network, layer), strict=True):
                self.register_buffer(f"{name}{layer}", weight)

    def forward(self, x: Tensor, lengths: Tensor, state: Tensor | None = None) -> tuple[Tensor, ...]:
        """The answers and, where there is a state, the next one."""
        network = self._network[0]
        layers, parts = network.recurrent.num_layers, network.parts
        states = () if state is None else (state,) if parts == 1 else torch.split(state, state.shape[1] // parts, 1)
        rows = [part.unsqueeze(0) for part in states]  # [1, batch, hidden], the hidden ones first
        outputs, last = self.prepare(x).transpose(0, 1), []
        for layer in range(layers):
            outputs, final = self._layer(layer, outputs, lengths, rows[layer::layers])
            last.append(final)
        answers = self.head(outputs).transpose(0, 1)
        if state is None:
            return (answers,)
        states = tuple(part.squeeze(0) for kind in zip(*last, strict=True) for part in kind)
        return answers, states[0] if parts == 1 else torch.cat(states, 1)

    def _layer(self, layer: int, x: Tensor, lengths: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The layer's outputs, [time, batch, directions * hidden], and its last states, each [1, batch, hidden]."""
        network = self._network[0]
        time, batch, hidden = x.shape[0], x.shape[1], network.recurrent.hidden_size
        directions = 2 if network.recurrent.bidirectional else 1
        weights = [getattr(self, f"{name}{layer}") for name in "WRB"]
        shapes = [(time, directions, batch, hidden)] + [(directions, batch, hidden)] * (
            2 if network.cell == "lstm" else 1
        )
        every, *last = torch.onnx.ops.symbolic_multi_out(
            f"::{network.cell.upper()}",
            [x, *weights, lengths, *(states or (None,))],
            _attributes(network),
            dtypes=[torch.float32] * len(shapes),
            shapes=shapes,
            version=OPSET,
        )
        return every.squeeze(1) if directions == 1 else every.transpose(1, 2).flatten(2), last


def _attributes(network: RecurrentNetwork) -> Attributes:
    recurrent = network.recurrent
    directions = 2 if recurrent.bidirectional else 1
    attributes: Attributes = {
        "hidden_size": recurrent.hidden_size,
        "direction": "bidirectional" if recurrent.bidirectional else "forward",
    }
    if isinstance(recurrent, nn.RNN):
        attributes["activations"] = ["Relu" if recurrent.nonlinearity == "relu" else "Tanh"] * directions
    if isinstance(recurrent, nn.GRU):
        attributes["linear_before_reset"] = 1  # as torch's: the reset gate scales what the matrix product gave
    return attributes


def _weights(network: RecurrentNetwork, layer: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """W [directions, gates * hidden, width], R [directions, gates * hidden, hidden] and B, both biases one by one."""
    recurrent = network.recurrent
    ways = [f"l{layer}", f"l{layer}_reverse"] if recurrent.bidirectional else [f"l{layer}"]

    def gathered(kind: str) -> Tensor:
        return torch.stack([_in_order(getattr(recurrent, f"{kind}_{way}"), network.cell) for way in ways])

    bias = torch.cat((gathered("bias_ih"), gathered("bias_hh")), 1) if recurrent.bias else None
    return gathered("weight_ih"), gathered("weight_hh"), bias


def _in_order(weight: Tensor, cell: Cell) -> Tensor:
    gates = weight.detach().chunk(len(GATES[cell]))
    return torch.cat([gates[gate] for gate in GATES[cell]])
