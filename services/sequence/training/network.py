"""The networks of the default bundles. Each takes the numbers of its data set as they are."""

import torch
from torch import Tensor, nn

from services.kit.training.recurrent_network import RecurrentNetwork

HORIZON = 12  # years


class Ink(nn.Module):
    """Ink of one pixel, 0 to 16 or 0 to 1, to one number that both scales can be read from."""

    def __init__(self) -> None:
        super().__init__()
        self.curve = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[..., 1] from [..., 1]; below 0 is paper."""
        curved: Tensor = self.curve(x.clamp(min=0).sqrt())
        return curved


class DigitsRnn(RecurrentNetwork):
    """A plain tanh network of one layer: whatever comes, its state stays within [-1, 1]."""

    def __init__(self) -> None:
        recurrent = nn.RNN(1, 50, batch_first=True)
        super().__init__(recurrent, nn.Linear(50, 10), Ink())
        # Gradients have 64 steps to go: an orthogonal matrix neither shrinks nor stretches them at the beginning.
        nn.init.orthogonal_(recurrent.get_parameter("weight_hh_l0"))
        nn.init.normal_(recurrent.get_parameter("weight_ih_l0"), 0, 0.5)


class Counts(nn.Module):
    """Sunspot numbers to numbers around 0: the root, as the larger a count, the more it varies."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., 1] from [..., 1]; below 0 is 0."""
        return x.clamp(min=0).sqrt() / 6 - 1


class ManyYears(nn.Module):
    """From the state to the next years' sunspot numbers, none of them negative."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.years = nn.Linear(hidden, HORIZON)

    def forward(self, x: Tensor) -> Tensor:
        """[..., 12] from [..., hidden]."""
        return torch.relu(50 * self.years(x) + 50)


class SunspotsLstm(RecurrentNetwork):
    """One LSTM layer that says after every year what the next twelve will bring."""

    def __init__(self) -> None:
        hidden = 24
        super().__init__(nn.LSTM(1, hidden, batch_first=True), ManyYears(hidden), Counts(), horizon=HORIZON)


class RegressionLinear(nn.Module):
    """y = wx + b."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """y, [batch, 1], from x, [batch, 1]."""
        return (self.line(x),)


class RegressionMlp(nn.Module):
    """2-10-1 with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 1))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """y, [batch, 1], from x, [batch, 2]."""
        return (self.layers(x),)
