"""The demonstration after `ready`: what it can say without a server."""

from pathlib import Path

import pytest

from deploy.local.demo import show, sparkline


@pytest.mark.parametrize(
    ("values", "bars"), [((0, 7, 3, 4), "▁█▄▅"), ((5, 5), "▁▁"), ((-1.5,), "▁"), ((10, 20, 30), "▁▅█")]
)
def test_a_sparkline_goes_from_the_lowest_to_the_highest_value(values: tuple[float, ...], bars: str) -> None:
    assert sparkline(values) == bars


def test_without_samples_it_says_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    show("127.0.0.1:1", said.append, tmp_path)
    assert said == []
