"""A first look at a suite that is up: a few digits that no training saw, classified through the gateway."""

import time
from collections.abc import Callable
from pathlib import Path

from deploy.local.settings import ROOT
from trivium.client import DEFAULT_ADDRESS, Client, TriviumCallError

SAMPLES = ROOT / "services" / "vision" / "samples"
COUNT = 4


def show(address: str, say: Callable[[str], None], folder: Path = SAMPLES) -> None:
    """Classifies some sample images and says what came out; a failure is said too, and harms nothing."""
    images = sorted(folder.glob("[0-9]-*.png"))
    with Client(address, timeout_s=5) as client:
        for image in images[:: max(1, len(images) // COUNT)][:COUNT]:
            try:
                say(_line(client, image))
            except TriviumCallError as error:
                say(f"  {image.name}: {error}")
                return
    if images:
        say(f"  try: .venv/bin/trivium classify {_short(images[0])} --top-k 3{_option(address)}")


def _line(client: Client, image: Path) -> str:
    """The name of a sample begins with what it shows."""
    started = time.perf_counter()
    answer = client.classify(image)
    ms = (time.perf_counter() - started) * 1e3
    shown = image.stem.partition("-")[0]
    return f"  a {shown}: {answer.model}:{answer.version} says {answer.label} ({answer.probability:.1%}), {ms:.1f} ms"


def _option(address: str) -> str:
    """What the `trivium` command must be told so that it asks this gateway."""
    return "" if address in (DEFAULT_ADDRESS, "127.0.0.1:8001") else f" --address {address}"


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
