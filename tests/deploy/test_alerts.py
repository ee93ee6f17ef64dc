"""The alert rules: promtool accepts them, and each one fires when it should and not before."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.monitoring.__main__ import contents
from tests.deploy.manifests import DEPLOY, ROOT, program

ALERTS = DEPLOY / "components/monitoring/alerts.yaml"
CASES = Path(__file__).with_name("alerts_test.yaml")
RULES = [rule for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"] for rule in group["rules"]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the rules, their tests and Prometheus' configuration of deploy/compose."""
    for path in (ALERTS, CASES):
        shutil.copy(path, tmp_path)
    # Debian builds Prometheus without Consul's discovery: what finds the targets is left to its own fields.
    configuration = yaml.safe_load((DEPLOY / "compose/prometheus.yaml").read_text("utf-8"))
    for job in configuration["scrape_configs"]:
        for found in job.pop("consul_sd_configs", ()):
            assert set(found) == {"server", "tags", "refresh_interval"}
            job["static_configs"] = [{"targets": [found["server"]]}]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(configuration), "utf-8")
    return tmp_path


def promtool(folder: Path, *arguments: str) -> tuple[int, str]:
    """Its exit code and what it says."""
    done = subprocess.run(
        [program("promtool"), *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


def spoiled(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def test_promtool_accepts_the_rules(folder: Path) -> None:
    assert promtool(folder, "check", "rules", "alerts.yaml")[0] == 0


def test_prometheus_of_the_compose_file_reads_its_configuration(folder: Path) -> None:
    assert promtool(folder, "check", "config", "prometheus.yaml")[0] == 0


def test_each_alert_fires_when_it_should_and_not_before(folder: Path) -> None:
    status, said = promtool(folder, "test", "rules", "alerts_test.yaml")
    assert status == 0, said


def test_a_rule_with_a_broken_query_is_seen(folder: Path) -> None:
    spoiled(folder / "alerts.yaml", "absent(", "absnet(")
    status, said = promtool(folder, "check", "rules", "alerts.yaml")
    assert status
    assert "absnet" in said


def test_a_rule_with_another_limit_fails_its_test(folder: Path) -> None:
    spoiled(folder / "alerts.yaml", "> 0.01", "> 0.1")
    status, said = promtool(folder, "test", "rules", "alerts_test.yaml")
    assert status
    assert "TriviumFailing" in said


def test_a_broken_configuration_of_prometheus_is_seen(folder: Path) -> None:
    spoiled(folder / "prometheus.yaml", "scrape_configs", "scarpe_configs")
    assert promtool(folder, "check", "config", "prometheus.yaml")[0]


def test_each_alert_has_a_test() -> None:
    cases = yaml.safe_load(CASES.read_text("utf-8"))["tests"]
    fired = {each["alertname"] for case in cases for each in case["alert_rule_test"] if each.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in RULES}


def test_each_alert_leads_to_its_place_in_the_readme() -> None:
    for rule in RULES:
        file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text("utf-8"), re.MULTILINE)
        assert anchor == rule["alert"].lower()
        assert rule["alert"] in headings


def test_a_metric_that_is_not_ours_is_one_whose_source_the_readme_names() -> None:
    """tests/integration/test_dashboard.py asks a running suite for all of ours."""
    asked = {name for rule in RULES for name in re.findall(r"\b[a-z]+_[a-z_]+\b(?=\{|\[| [>=)]|\)|$)", rule["expr"])}
    others = {name for name in asked if not name.startswith(("trivium_", "process_"))}
    assert "trivium_build_info" in asked
    assert others == {"kube_deployment_status_replicas_unavailable"}
    assert "kube-state-metrics" in (DEPLOY / "README.md").read_text("utf-8")


def test_what_is_generated_is_up_to_date() -> None:
    assert [path.name for path, text in contents().items() if path.read_text("utf-8") != text] == []
