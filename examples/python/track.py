"""Recognises a digit while it is read, pixel by pixel: python examples/python/track.py [FILE.csv]

The file has the 8 times 8 pixels of a digit, row by row, from 0 to 16, with commas between them.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from trivium.client import Client, TriviumCallError

SAMPLES = Path(__file__).parents[2] / "services" / "sequence" / "samples"


def pixels(path: Path) -> Iterator[float]:
    """One pixel after the other, as if they came from a camera."""
    for pixel in path.read_text("utf-8").split(","):
        time.sleep(0.02)
        yield float(pixel)


def main() -> int:
    path = Path(sys.argv[1]) if sys.argv[1:] else min(SAMPLES.glob("[0-9]-*.csv"))
    if len(sys.argv) > 2 or not path.is_file():
        print("usage: python examples/python/track.py [FILE.csv]", file=sys.stderr)
        return 2
    with Client() as client:  # TRIVIUM_ADDRESS, or localhost:8001
        try:
            for answer in client.track(pixels(path)):
                print(f"{path.name}, pixel {answer.step}: {answer.label} {answer.probability:.1%}", flush=True)
        except (TriviumCallError, ValueError) as error:  # no server, or no numbers in the file
            print(error)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
