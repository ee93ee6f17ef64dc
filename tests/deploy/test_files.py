"""Linters of others over the files of deploy/, and what our compose files and Consul's configurations have to hold."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.kit import settings
from tests.deploy.lint.environment import settings_class
from tests.deploy.manifests import DEPLOY, ROOT, program

BIN = Path(sys.executable).parent
COMPOSE = DEPLOY / "compose/compose.yaml"
GPU_COMPOSE = sorted(DEPLOY.glob("compose/compose.gpu*.yaml"))
DOCKERFILES = sorted(DEPLOY.rglob("Dockerfile"))
CONSUL_FILES = sorted([*DEPLOY.rglob("server.json"), *DEPLOY.rglob("agent.json")])
COMPONENTS = sorted(["gateway", *(path.parent.name for path in ROOT.glob("services/*/__main__.py"))])


def scripts() -> list[Path]:
    """The shell scripts of the repository."""
    folders = [ROOT / name for name in (".ci", "deploy", "requirements", "tests")]
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix in ("", ".sh")]
    return sorted(path for path in paths if path.read_bytes().startswith((b"#!/bin/sh", b"#!/bin/bash")))


def run(*command: str | Path) -> tuple[int, str]:
    """The exit code of a tool of the deploy extra, and what it says."""
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


def hadolint(*paths: Path) -> tuple[int, str]:
    return run("hadolint", *paths)


def shellcheck(*paths: Path) -> tuple[int, str]:
    return run("shellcheck", *paths)


def yamllint(*paths: Path) -> tuple[int, str]:
    return run("yamllint", "--strict", "--config-file", DEPLOY / ".yamllint.yaml", *paths)


def compose_lint(*paths: Path) -> tuple[int, str]:
    return run("compose-lint", "check", "--quiet", *paths)


def test_the_dockerfiles_are_clean() -> None:
    assert DOCKERFILES
    assert hadolint(*DOCKERFILES) == (0, "")


def test_the_shell_scripts_are_clean() -> None:
    found = scripts()
    assert DEPLOY / "local/get_program" in found
    assert shellcheck(*found) == (0, "")


def test_the_yaml_files_are_clean() -> None:
    assert yamllint(DEPLOY, Path(__file__).parent) == (0, "")


def test_the_compose_file_is_clean() -> None:
    status, said = compose_lint(COMPOSE)
    assert status == 0, said


@pytest.mark.parametrize(
    ("lint", "name", "content"),
    [
        (hadolint, "Dockerfile", "FROM debian:latest\nMAINTAINER me\n"),
        (shellcheck, "script", "#!/bin/sh\ncd $1\n"),
        (yamllint, "file.yaml", "a: 1\na: 2\n"),
        (compose_lint, "compose.yaml", "services:\n  a:\n    image: x:1\n    privileged: true\n"),
    ],
)
def test_a_linter_sees_what_is_broken(tmp_path: Path, lint: Any, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert lint(tmp_path / name)[0]


def composed(*paths: Path) -> dict[str, dict[str, Any]]:
    """The services of compose files, the environment of later ones added to that of the first."""
    services: dict[str, dict[str, Any]] = {}
    for path in paths:
        for name, service in yaml.safe_load(path.read_text("utf-8"))["services"].items():
            known = services.setdefault(name, {"environment": {}})
            known["environment"].update(service.pop("environment", {}))
            known.update(service)
    return services


@pytest.mark.parametrize("paths", [(COMPOSE,), *((COMPOSE, each) for each in GPU_COMPOSE), (COMPOSE, *GPU_COMPOSE)])
def test_every_variable_of_the_compose_files_is_a_setting(paths: tuple[Path, ...]) -> None:
    services = composed(*paths)
    assert set(COMPONENTS) <= set(services)
    for component in COMPONENTS:
        environment = {name: str(value) for name, value in services[component]["environment"].items()}
        assert all(name.startswith(f"TRIVIUM_{component.upper()}__") for name in environment)
        settings.load(settings_class(component), component, environment)


def test_every_file_that_the_compose_files_mount_exists() -> None:
    for name, service in composed(COMPOSE, *GPU_COMPOSE).items():
        for volume in service.get("volumes", ()):
            source = volume.rpartition("}")[0].partition(":-")[2] or volume.partition(":")[0]
            if source.startswith("."):
                assert (COMPOSE.parent / source).exists(), (name, source)


def test_what_waits_for_a_container_knows_its_health() -> None:
    services = composed(COMPOSE)
    for service in services.values():
        for name, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in services[name]


@pytest.mark.parametrize("path", CONSUL_FILES, ids=[str(path.relative_to(DEPLOY)) for path in CONSUL_FILES])
def test_consul_accepts_its_configuration(path: Path) -> None:
    assert consul_validates(path) == 0


def test_consul_refuses_a_broken_configuration(tmp_path: Path) -> None:
    broken = tmp_path / "agent.json"
    broken.write_text(json.dumps(json.loads(CONSUL_FILES[0].read_text("utf-8")) | {"retry_jion": ["consul"]}))
    assert consul_validates(broken)


def consul_validates(path: Path) -> int:
    command = [program("consul"), "validate", "-config-format=json", str(path)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode


@pytest.mark.parametrize("name", ["kubectl", "promtool"])
def test_a_program_that_cannot_be_had_is_explained(tmp_path: Path, name: str) -> None:
    """No program on PATH, no apt, nothing in the cache."""
    for tool in ("sh", "sed", "grep", "mkdir", "dirname", "cat"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    script = DEPLOY / "local/get_program"
    done = subprocess.run(
        [script, name, tmp_path / "cache"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"get_{name}: no usable {name} on PATH, and no apt-get to fetch Debian's: install it (http" in done.stderr
