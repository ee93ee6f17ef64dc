"""Forecasts the yearly sunspots, at once and year by year: python examples/python/forecast.py"""

import csv
import sys
from pathlib import Path

from trivium.client import Client, TriviumCallError

SAMPLE = Path(__file__).parents[2] / "services" / "sequence" / "samples" / "sunspots.csv"
MODEL = "sunspots-lstm"


def main() -> int:
    with SAMPLE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sunspots, year = [float(row["sunspots"]) for row in rows], int(float(rows[-1]["year"]))
    with Client() as client:  # TRIVIUM_ADDRESS, or localhost:8001
        try:
            for ahead, value in enumerate(client.forecast(sunspots, horizon=12, model=MODEL).values, 1):
                print(f"{year + ahead}: {value:.0f}")
            with client.tracker(MODEL) as tracker:  # all but the last year, then that one alone
                tracker.send(sunspots[:-1])
                (answer,) = tracker.send(sunspots[-1])
                print(f"after step {answer.step}, {answer.model} expects {answer.values[0]:.0f} in {year + 1}")
        except TriviumCallError as error:
            print(error)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
