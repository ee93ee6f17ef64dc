"""A few held-out digits and the yearly sunspots as CSV files: for the README, the demo and the tests."""

from pathlib import Path

import numpy as np

from services.sequence.training import digits, sunspots


def write(folder: Path) -> None:
    """Writes them: "7-0013.csv" is sample 13 of scikit-learn's digits and shows a 7, 64 pixels on one line.

    The samples are the first held-out ones of their class, whatever models say. "sunspots.csv" has all years.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (_digits() | {"sunspots.csv": _sunspots()}).items():
        (folder / name).write_text(text, "utf-8")


def _digits() -> dict[str, str]:
    _, held_out = digits.load()
    first = [int(np.flatnonzero(held_out.labels == label)[0]) for label in range(len(digits.CLASSES))]
    return {
        f"{held_out.labels[at]}-{held_out.index[at]:04d}.csv": ",".join(map("{:g}".format, held_out.pixels[at].flat))
        + "\n"
        for at in first
    }


def _sunspots() -> str:
    years, numbers = sunspots.load()
    rows = [f"{year},{number:g}\n" for year, number in zip(years, numbers, strict=True)]
    return "".join(("year,sunspots\n", *rows))
