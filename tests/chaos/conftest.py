import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests import bundles
from tests.images import png
from trivium.vision.v1 import vision_pb2

CLASSIFY = "/trivium.vision.v1.VisionService/Classify"
COLOURS = {"red": png((220, 30, 30)), "green": png((30, 220, 30)), "blue": png((30, 30, 220))}


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Path:
    """A folder with the tiny classifier of colours."""
    folder = tmp_path / "bundles"
    bundles.colours(folder)
    return folder


@pytest.fixture
def classify() -> Callable[..., Callable[[], Any]]:
    """Makes, for a channel, a call that classifies the next colour and looks at the answer."""

    def for_channel(channel: Any, timeout_s: float = 10) -> Callable[[], Any]:
        colours = itertools.cycle(COLOURS.items())
        method = channel.unary_unary(CLASSIFY)

        async def one() -> None:
            colour, image = next(colours)
            request = vision_pb2.ClassifyRequest(model="colours", image=image)
            answer = await method(request.SerializeToString(), timeout=timeout_s)
            label = vision_pb2.ClassifyResponse.FromString(answer).classes[0].label
            assert label == colour, f"{label} instead of {colour}"

        return one

    return for_channel


@pytest.fixture
def connect() -> Callable[[str], Any]:
    """Dials an address with a connection of its own."""
    return lambda address: grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
