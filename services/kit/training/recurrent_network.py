"""RecurrentNetwork: nn.RNN, nn.LSTM or nn.GRU between two parts that look at one step each, its state in one row."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Cell = Literal["rnn", "lstm", "gru"]
Recurrent = nn.RNN | nn.LSTM | nn.GRU


class RecurrentNetwork(nn.Module):
    """Series in, an answer after every step out.

    A row of the state holds the hidden states of all layers, for an LSTM followed by the cell states of all layers;
    zeros are the beginning of a series. A network that reads both ways has no state.

    Args:
        recurrent: of any number of layers, with or without bias, batch_first or not.
        head: from the last layer's output to the answer; sees [..., hidden] and works on the last dimension alone.
        prepare: from the caller's numbers to the first layer's input; the same. Unset: they are taken as they are.
        width: numbers of one step, as `prepare` takes them. Unset: as many as the first layer takes.
        horizon: steps that an answer reaches ahead; 0: the answer is no forecast.
    """

    def __init__(
        self,
        recurrent: Recurrent,
        head: nn.Module,
        prepare: nn.Module | None = None,
        width: int | None = None,
        horizon: int = 0,
    ) -> None:
        super().__init__()
        self.prepare, self.recurrent, self.head = prepare or nn.Identity(), recurrent, head
        self.width, self.horizon = width or recurrent.input_size, horizon

    @property
    def cell(self) -> Cell:
        """What kind of layers it has."""
        return "lstm" if isinstance(self.recurrent, nn.LSTM) else "gru" if isinstance(self.recurrent, nn.GRU) else "rnn"

    @property
    def parts(self) -> int:
        """States that make up a row: one a layer, of an LSTM two; 0 where it reads both ways."""
        if self.recurrent.bidirectional:
            return 0
        return self.recurrent.num_layers * (2 if self.cell == "lstm" else 1)

    @property
    def state_width(self) -> int:
        """Numbers in the state of one row."""
        return self.parts * self.recurrent.hidden_size

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The answers, float32 [batch, time, ...], and the next state, float32 [batch, state_width].

        Args:
            x: float32 [batch, time, width].
            lengths: integers [batch], the steps of each row, at least 1; what lies behind them is padding, and so are
                its answers. Unset: every row is `time` steps long.
            state: float32 [batch, state_width] before the first step. Unset: zeros.
        """
        steps = x.shape[1]
        series = self.prepare(x)
        if not self.recurrent.batch_first:
            series = series.transpose(0, 1)
        if lengths is not None:
            first = self.recurrent.batch_first
            series = pack_padded_sequence(series, lengths.cpu().long(), batch_first=first, enforce_sorted=False)
        outputs, last = self.recurrent(series, self._initial(state))
        if lengths is not None:
            outputs, _ = pad_packed_sequence(outputs, batch_first=self.recurrent.batch_first, total_length=steps)
        if not self.recurrent.batch_first:
            outputs = outputs.transpose(0, 1)
        return self.head(outputs), self._row(last, len(x))

    def _initial(self, state: Tensor | None) -> Tensor | tuple[Tensor, Tensor] | None:
        """The state as torch takes it, [layers, batch, hidden] each."""
        if state is None or not self.parts:
            return None
        layers = state.reshape(len(state), self.parts, -1).transpose(0, 1).contiguous()
        if self.cell != "lstm":
            return layers
        return layers[: self.parts // 2], layers[self.parts // 2 :]

    def _row(self, last: Tensor | tuple[Tensor, Tensor], batch: int) -> Tensor:
        if not self.parts:
            return torch.zeros(batch, 0)
        layers = torch.cat(last) if isinstance(last, tuple) else last
        return layers.transpose(0, 1).flatten(1)
