"""trivium-client, the package that callers install, keeps step with the suite's own pyproject.toml."""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
IMPORT = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)


def project(path: str) -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / path).read_text("utf-8"))["project"]
    return content


SUITE, CLIENT = project("pyproject.toml"), project("protos/python/pyproject.toml")


def names(dependencies: list[str]) -> set[str]:
    return {re.split(r"[<>=;\[ ]", dependency, maxsplit=1)[0] for dependency in dependencies}


def test_it_has_the_suites_version_and_commands() -> None:
    assert CLIENT["version"] == SUITE["version"]
    assert CLIENT["scripts"] == SUITE["scripts"]
    commands = {n: c for n, c in SUITE["entry-points"]["trivium.commands"].items() if c.startswith("trivium.")}
    assert CLIENT["entry-points"]["trivium.commands"] == commands


def test_it_depends_on_all_that_it_imports_and_on_nothing_more() -> None:
    roots = {
        module
        for folder in ("trivium", "inference")
        for path in (ROOT / "protos" / "python" / folder).rglob("*.py")
        for module in IMPORT.findall(path.read_text("utf-8"))
    }
    imported = roots - set(sys.stdlib_module_names) - {"trivium", "inference"}
    packages = metadata.packages_distributions()
    # google.protobuf and google.rpc share the namespace google.
    needed = {packages[module][0] for module in imported if module != "google"} | {
        "protobuf",
        "googleapis-common-protos",
    }
    assert names(CLIENT["dependencies"]) == needed
    assert needed <= names(SUITE["dependencies"])
