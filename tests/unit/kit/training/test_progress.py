import pytest

from services.kit.training import progress


def test_without_a_terminal_a_task_prints_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.steps("digits", 1000) as report:
        for step in range(1, 1001):
            report(step, "loss 0.1")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith("digits  step 1000/1000  loss 0.1")
