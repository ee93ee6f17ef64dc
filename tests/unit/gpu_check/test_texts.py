"""The check of bundles that write, on the CPU beside itself."""

import shutil
from pathlib import Path

import pytest

from services.kit.inference import bundle as bundles
from services.language.__main__ import BUNDLES
from tests.gpu_check import texts
from tests.gpu_check.__main__ import main
from tests.gpu_check.texts import Changed, Checked, check

SAME = Changed(100, 0, 0.0)


def checked(**found: object) -> Checked:
    same = dict.fromkeys(("from_cpu", "drawn_from_cpu", "alone", "resumed", "drawn_resumed"), SAME)
    given = {"bundle": "a/1", "precision": "FP32", "nodes": 9, "elsewhere": (), "steps_ms": {}, **same, **found}
    return Checked(**given)  # type: ignore[arg-type]


def test_texts_on_a_device_are_compared_with_the_cpu_and_with_themselves_cut_and_alone() -> None:
    bundle = bundles.load(BUNDLES / "dates-transformer" / "1")
    assert bundle.manifest.generation is not None
    found = check(bundle, bundle.manifest.generation, "cpu", runs_each=2)
    changes = (found.from_cpu, found.drawn_from_cpu, found.alone, found.resumed, found.drawn_resumed)
    assert all(one is not None and one.tokens > 100 and (one.texts, one.difference) == (0, 0.0) for one in changes)
    assert found.nodes > 50
    assert found.problems == ()
    assert set(found.steps_ms["cpu"]) == {1, 8, 32}


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({}, ""),
        ({"from_cpu": Changed(100, 17, 0.0)}, "17 of 32 texts on the CPU become others"),
        ({"alone": Changed(100, 0, 0.03)}, "log-probabilities of texts written alone differ by 3.0e-02"),
        ({"resumed": Changed(100, 0, float("nan"))}, "log-probabilities of texts that go on elsewhere differ by nan"),
        ({"elsewhere": ("Concat", "MatMul")}, "MatMul did not run on the device"),
    ],
)
def test_what_is_wrong_is_said(found: dict[str, object], says: str) -> None:
    problems = list(texts._problems(checked(**found)))
    assert len(problems) == bool(says)
    assert "".join(problems).startswith(says)


def test_where_two_texts_part_nothing_behind_is_compared() -> None:
    here = [[(1, -0.5), (2, -0.25), (3, -0.1)], [(7, -1.0)]]
    there = [[(1, -0.5), (9, -3.0), (4, -9.0)], [(7, -1.5)]]
    assert texts._changed(here, there) == Changed(tokens=3, texts=1, difference=0.5)


def test_bundles_of_ones_own_are_looked_at_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(BUNDLES / "dates-transformer", tmp_path / "mine" / "dates-transformer")
    assert main(tmp_path, "cpu", 0.01, [tmp_path / "mine"], alone=True) == 0
    printed = capsys.readouterr().out
    assert "dates-transformer/1 FP32" in printed
    assert printed.count("0 of 256") == 3  # none of the CPU
