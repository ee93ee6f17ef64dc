"""The networks of the default bundles. Each takes images as they are, uint8 [batch, height, width, channels].

Every forward gives logits, float32 [batch, classes], and the embedding that they are computed from,
float32 [batch, width].
"""

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """uint8 [batch, height, width, channels] in 0..255 to float32 [batch, channels, height, width] in [-1, 1]."""

    def forward(self, image: Tensor) -> Tensor:
        """The image's planes, normalised."""
        return image.permute(0, 3, 1, 2).to(torch.float32) * (2 / 255) - 1


class DigitsLenet(nn.Module):
    """LeNet-5 with ReLU and max pooling, 32x32 grey. Source: LeCun et al., Proc. IEEE 86(11), 1998."""

    size = 32
    channels = 1

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            Normalise(),
            nn.Conv2d(1, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )
        self.classes = nn.Linear(84, 10)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [batch, 10] and embedding [batch, 84]."""
        embedding = self.features(image)
        return self.classes(embedding), embedding


class DigitsCnn(nn.Module):
    """Two convolutions of width 32 and 64, each pooled, and one hidden layer; 28x28 grey."""

    size = 28
    channels = 1

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            Normalise(),
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 7 * 7, 128),
            nn.ReLU(),
        )
        self.classes = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [batch, 10] and embedding [batch, 128]."""
        embedding = self.features(image)
        return self.classes(embedding), embedding


class ShapesRgb(nn.Module):
    """Three valid convolutions of width 32, 64 and 128, each pooled, global average pooling and one hidden layer.

    64x64 RGB; half of that works too.
    """

    size = 64
    channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            Normalise(),
            nn.Conv2d(3, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(128, 512),
            nn.ReLU(),
        )
        self.classes = nn.Linear(512, 3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [batch, 3] and embedding [batch, 512]."""
        embedding = self.features(image)
        return self.classes(embedding), embedding
