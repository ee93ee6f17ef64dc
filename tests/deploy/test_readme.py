"""deploy/README.md: its kustomizations build, its commands are kubectl's, and what they name exists."""

import functools
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.deploy.lint import problems
from tests.deploy.manifests import DEPLOY, ROOT, WORKLOADS, Object, build, containers_of, of_kind, program, title

TEXT = (DEPLOY / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"<!-- build -->\n```yaml\n(.*?)```", TEXT, re.DOTALL)
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
LINES = [line.split("  #")[0] for block in BLOCKS for line in block.splitlines() if line]
INLINE = re.findall(r"`(kubectl [^`]+)`", TEXT)
KUBECTL = [line for line in [*LINES, *INLINE] if line.startswith("kubectl ")]
KINDS = {"deployment": "Deployment", "statefulset": "StatefulSet", "service": "Service"}


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["of-your-own", "servers-elsewhere"])
def test_a_kustomization_of_the_readme_builds_and_is_well(tmp_path: Path, snippet: str) -> None:
    own = snippet.replace("../../", os.path.relpath(DEPLOY, tmp_path.resolve()) + "/")
    (tmp_path / "kustomization.yaml").write_text(own, "utf-8")
    assert problems(build(tmp_path)) == []


@pytest.mark.parametrize("line", KUBECTL)
def test_kubectl_knows_the_command_and_we_have_what_it_names(line: str) -> None:
    assert unknown(line) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("kubectl -n trivium rollout undone deployment/vision", "rollout undone"),
        ("kubectl -n trivium logs deployment/vision --last", "--last"),
        ("kubectl -n trivium rollout undo deployment/visoin", "deployment/visoin"),
        ("kubectl -n default get pods", "default"),
        ("kubectl apply -k deploy/overlays/cup", "deploy/overlays/cup"),
        ("kubectl -n trivium logs consul-0 --container consul-agnet", "consul-agnet"),
    ],
)
def test_a_command_that_is_wrong_is_seen(line: str, expected: str) -> None:
    assert expected in unknown(line)


@functools.cache
def of_cpu() -> list[Object]:
    """The objects that the commands are about."""
    return build(DEPLOY / "overlays/cpu")


def unknown(line: str) -> list[str]:
    """The words of a kubectl command that neither kubectl nor our manifests know."""
    rest = shlex.split(line.partition(" -- ")[0])[1:]
    objects = of_cpu()
    names = {title(found) for found in objects}
    found = []
    for flag, known in (("-n", {"trivium"}), ("-k", {f"deploy/overlays/{p.name}" for p in DEPLOY.glob("overlays/*")})):
        if flag in rest:
            value = rest.pop(rest.index(flag) + 1)
            found += [value] if value not in known else []
    containers = {each["name"] for workload in of_kind(objects, *WORKLOADS) for each in containers_of(workload)}
    if "--container" in rest:
        value = rest.pop(rest.index("--container") + 1)
        found += [value] if value not in containers else []
    verbs = [word for word in rest if not word.startswith("-") and "/" not in word and ":" not in word]
    verbs = verbs[:2] if verbs[0] == "rollout" else verbs[:1]
    help_text = kubectl(*verbs, "--help")
    if f"kubectl {' '.join(verbs)} " not in help_text:
        return [*found, " ".join(verbs)]
    known_flags = help_text + kubectl("options")
    for word in rest:
        if word.startswith("-") and not re.search(rf"(^|[\s,]){re.escape(word.partition('=')[0])}\b", known_flags):
            found.append(word)
        kind, _, name = word.partition("/")
        if kind in KINDS and f"{KINDS[kind]}/{name}" not in names:
            found.append(word)
    return found


@functools.cache
def kubectl(*arguments: str) -> str:
    done = subprocess.run([program("kubectl"), *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout


def test_other_commands_are_targets_of_make_and_commands_of_ours() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z-]+)", TEXT)) <= set(targets)
    ours = (ROOT / "pyproject.toml").read_text("utf-8")
    for line in LINES:
        if not line.startswith("kubectl "):
            program_name, command, *paths = line.split()
            assert program_name == ".venv/bin/trivium"
            assert re.search(rf'^{command} = "', ours, re.MULTILINE)
            assert all((ROOT / path).exists() for path in paths)


def test_every_file_and_place_that_the_readme_links_to_exists() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", TEXT):
        path, _, anchor = target.partition("#")
        file = (DEPLOY / path) if path else DEPLOY / "README.md"
        assert file.exists(), target
        headings = [
            re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
        ]
        assert not anchor or anchor in headings, target
