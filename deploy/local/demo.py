"""A first look at a suite that is up: samples that no training saw, sent through the gateway."""

import csv
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from deploy.local.settings import ROOT
from trivium.client import DEFAULT_ADDRESS, Client, GenerateOptions, TriviumCallError

IMAGES = 4
LOOKS = (16, 32, 48, 64)  # pixels after which a digit is looked at
YEARS = 12
DATES = ("2026年11月25日", "the 25th of November, 2026")
PHRASE = "Vi måste vänta här tills tåget från Göteborg kommer."
FUNCTION = "def fibonacci(n):\n"
TOKENS, LINES = 48, 6  # of the function: made, and shown
LIMIT_S = 5.0  # for one answer
BARS = "▁▂▃▄▅▆▇█"

Say = Callable[[str], None]


def show(address: str, say: Say, services: Path = ROOT / "services") -> None:
    """Sends some samples and says what came out. A failure is said too, and harms nothing; no samples, no words."""
    with Client(address, timeout_s=LIMIT_S) as client:
        for part in (_images, _digit, _sunspots, _dates, _phrase, _function):
            try:
                part(client, services, say)
            except TriviumCallError as error:
                say(f"  {part.__name__.lstrip('_')}: {error}")


def _images(client: Client, services: Path, say: Say) -> None:
    """Some digits at once; the name of a sample begins with what it shows."""
    images = sorted((services / "vision" / "samples").glob("[0-9]-*.png"))
    for image in images[:: max(1, len(images) // IMAGES)][:IMAGES]:
        started = time.perf_counter()
        answer = client.classify(image)
        ms = (time.perf_counter() - started) * 1e3
        said = f"{answer.model}:{answer.version} says {answer.label} ({answer.probability:.1%})"
        say(f"  a {_shown(image)}: {said}, {ms:.1f} ms")
    if images:
        say(f"  try: .venv/bin/trivium classify {_short(images[0])} --top-k 3{_option(client)}")


def _digit(client: Client, services: Path, say: Say) -> None:
    """A digit that is seen pixel by pixel: what the network takes it for, the more it sees."""
    samples = sorted((services / "sequence" / "samples").glob("[0-9]-*.csv"))
    if not samples:
        return
    sample = samples[len(samples) * 3 // 4]
    pixels = [float(pixel) for pixel in sample.read_text("utf-8").split(",")]
    answers = [answer for answer in client.track([pixels]) if answer.step in LOOKS]
    said = ", ".join(f"{answer.label} ({answer.probability:.0%}) after {answer.step}" for answer in answers)
    say(f"  a {_shown(sample)}, pixel by pixel: {answers[0].model} says {said}")
    say(f"  try: .venv/bin/trivium track {_short(sample)}{_option(client)}")


def _sunspots(client: Client, services: Path, say: Say) -> None:
    """How the yearly sunspots go on."""
    sample = services / "sequence" / "samples" / "sunspots.csv"
    if not sample.exists():
        return
    with sample.open(encoding="utf-8", newline="") as file:
        rows = [(int(float(row["year"])), float(row["sunspots"])) for row in csv.DictReader(file)]
    answer = client.forecast([value for _, value in rows], YEARS)
    year = rows[-1][0]
    numbers = " ".join(f"{value:.0f}" for value in answer.values)
    years = f"{year + 1}-{year + len(answer.values)}"
    say(f"  sunspots {years}: {answer.model}:{answer.version} says {sparkline(answer.values)}  {numbers}")
    say(f"  try: .venv/bin/trivium forecast {_short(sample)} --column sunspots{_option(client)}")


def _dates(client: Client, services: Path, say: Say) -> None:
    """Days as people write them, as computers do."""
    if not _has_texts(services, "dates-transformer"):
        return
    answers = [client.complete(day, "dates-transformer", timeout_s=LIMIT_S) for day in DATES]
    said = ", ".join(f"{day} is {answer}" for day, answer in zip(DATES, answers, strict=True))
    say(f"  {answers[0].model} says {said}")
    say(f"  try: .venv/bin/trivium generate --model dates-transformer '{DATES[1]}'{_option(client)}")


def _phrase(client: Client, services: Path, say: Say) -> None:
    """Which language a phrase is in."""
    if not _has_texts(services, "langid-text"):
        return
    answer = client.classify_text(PHRASE, "langid-text")
    say(f"  {PHRASE} {answer.model}:{answer.version} says {answer.label} ({answer.probability:.1%})")


def _function(client: Client, services: Path, say: Say) -> None:
    """How a function goes on."""
    if not _has_texts(services, "python-gpt"):
        return
    drawn = GenerateOptions(  # the most probable tokens alone soon repeat themselves
        max_new_tokens=TOKENS, temperature=0.7, top_p=0.9, seed=4
    )
    answer = client.complete(FUNCTION, "python-gpt", timeout_s=LIMIT_S, **drawn)
    say(f"  {answer.model} goes on with a function, {answer.usage.generated_tokens} tokens:")
    for line in f"{FUNCTION}{answer}".splitlines()[:LINES]:
        say(f"    {line}")
    say(
        f"  try: printf 'def fibonacci(n):\\n' | .venv/bin/trivium generate --echo --temperature 0.7 -{_option(client)}"
    )


def _has_texts(services: Path, model: str) -> bool:
    return (services / "language" / "bundles" / model).is_dir()


def sparkline(values: Iterable[float]) -> str:
    """One bar for each value, from the lowest to the highest of them."""
    heights = list(values)
    low, high = min(heights), max(heights)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in heights)


def _shown(sample: Path) -> str:
    return sample.stem.partition("-")[0]


def _option(client: Client) -> str:
    """What the `trivium` command must be told so that it asks this gateway."""
    return "" if client.address in (DEFAULT_ADDRESS, "127.0.0.1:8001") else f" --address {client.address}"


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
