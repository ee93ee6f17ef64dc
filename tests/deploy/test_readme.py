"""deploy/README.md: its kustomizations build, its commands are kubectl's, and what they name exists."""

import functools
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.deploy.lint import problems
from tests.deploy.manifests import (
    DEPLOY,
    ROOT,
    WORKLOADS,
    Object,
    build,
    containers_of,
    labels_of,
    named,
    of_kind,
    program,
    servers,
    title,
    variables,
)
from tests.deploy.test_files import yamllint

TEXT = (DEPLOY / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"<!-- build -->\n```yaml\n(.*?)```", TEXT, re.DOTALL)
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
LINES = [line.split("  #")[0] for block in BLOCKS for line in block.splitlines() if line]
INLINE = re.findall(r"`(kubectl [^`]+)`", TEXT)
KUBECTL = [line for line in [*LINES, *INLINE] if line.startswith("kubectl ")]
KINDS = {
    "deployment": "Deployment",
    "statefulset": "StatefulSet",
    "service": "Service",
    "hpa": "HorizontalPodAutoscaler",
}
OWN, _, TEXTS_ON_GPUS, MONITORING = SNIPPETS


def built(folder: Path, snippet: str) -> list[Object]:
    """The objects of a kustomization of the README."""
    own = snippet.replace("../../", os.path.relpath(DEPLOY, folder.resolve()) + "/")
    (folder / "kustomization.yaml").write_text(own, "utf-8")
    return build(folder)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["of-your-own", "servers-elsewhere", "texts-on-gpus", "monitoring"])
def test_a_kustomization_of_the_readme_builds_and_is_well(tmp_path: Path, snippet: str) -> None:
    assert problems(built(tmp_path, snippet)) == []
    assert yamllint(tmp_path) == (0, "")


def test_an_overlay_of_your_own_takes_gpus_by_one_line_more(tmp_path: Path) -> None:
    sidecar = "  - ../../components/consul-sidecar\n"
    objects = built(tmp_path, OWN.replace(sidecar, f"{sidecar}  - ../../components/gpu\n"))
    assert problems(objects) == []
    images = {each["image"] for found in of_kind(objects, "Deployment") for each in containers_of(found)}
    assert {"registry.example.com/trivium-vision:0.1.0-gpu", "registry.example.com/trivium-language:0.1.0"} < images


def test_an_overlay_of_your_own_takes_gpus_for_texts_by_another_line(tmp_path: Path) -> None:
    sidecar = "  - ../../components/consul-sidecar\n"
    objects = built(tmp_path, OWN.replace(sidecar, f"{sidecar}  - ../../components/gpu-language\n"))
    assert problems(objects) == []
    images = {each["image"] for found in of_kind(objects, "Deployment") for each in containers_of(found)}
    assert {"registry.example.com/trivium-vision:0.1.0", "registry.example.com/trivium-language:0.1.0-gpu"} < images


def test_the_overlay_for_texts_on_gpus_gives_the_cache_more_of_them_than_the_base(tmp_path: Path) -> None:
    objects = built(tmp_path, TEXTS_ON_GPUS)
    own, base = language_settings(objects), language_settings(of_cpu())
    assert (own["TRIVIUM_LANGUAGE__ENGINE__DEVICE"], base["TRIVIUM_LANGUAGE__ENGINE__DEVICE"]) == ("cuda", "cpu")
    cache = "TRIVIUM_LANGUAGE__GENERATION__CACHE_MIB"
    assert int(own[cache]) > int(base[cache])
    assert f"(`GENERATION__CACHE_MIB`, {base[cache]} in the base)" in TEXT


def language_settings(objects: list[Object]) -> dict[str, str]:
    """The environment of the language service's containers."""
    (server,) = (container for workload, container in servers(objects) if title(workload) == "Deployment/language")
    return variables(server, objects)


def test_an_overlay_of_your_own_that_names_images_without_cuda_for_gpus_is_refused(tmp_path: Path) -> None:
    own = OWN.replace("components/monitoring", "components/gpu").replace(
        "trivium-vision}", "trivium-vision, newTag: '9'}"
    )
    assert problems(built(tmp_path, own)) == [
        "Deployment/vision: registry.example.com/trivium-vision:9 has no CUDA: its tag does not end with -gpu"
    ]


def test_alerts_of_the_overlay_with_monitoring_lead_to_a_repository(tmp_path: Path) -> None:
    objects = built(tmp_path, MONITORING)
    rule = named(objects, "PrometheusRule", "trivium")
    urls = [each["annotations"]["runbook_url"] for group in rule["spec"]["groups"] for each in group["rules"]]
    assert urls
    assert [
        url for url in urls if not url.startswith("https://git.example.com/trivium/blob/main/deploy/README.md#")
    ] == []
    for found in (rule, named(objects, "PodMonitor", "trivium")):
        assert found["metadata"]["labels"]["release"] == "kube-prometheus-stack"


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "dev"])
def test_the_readme_says_what_an_overlay_needs(overlay: str) -> None:
    row = re.search(rf"^\| `{overlay}` \| .*$", TEXT, re.MULTILINE)
    assert row
    cores, memory = requested(build(DEPLOY / "overlays" / overlay))
    assert f"{cores:.1f} cores, {memory:.1f} GiB" in row[0]


def requested(objects: list[Object]) -> tuple[float, float]:
    """Cores and GiB of all pods, as many as the autoscalers start with."""
    scalers = {each["spec"]["scaleTargetRef"]["name"]: each for each in of_kind(objects, "HorizontalPodAutoscaler")}
    cores = memory = 0.0
    for workload in of_kind(objects, *WORKLOADS):
        scaler = scalers.get(workload["metadata"]["name"])
        pods = scaler["spec"]["minReplicas"] if scaler else workload["spec"]["replicas"]
        for each in containers_of(workload):
            cores += pods * quantity(each["resources"]["requests"]["cpu"])
            memory += pods * quantity(each["resources"]["requests"]["memory"])
    return cores, memory


def quantity(text: str) -> float:
    """Cores, or GiB."""
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1.0, "m": 1e-3, "Mi": 1 / 1024, "Gi": 1.0}[unit]


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
        ("kubectl -n trivium get pods --selector app.kubernetes.io/name=visoin", "app.kubernetes.io/name=visoin"),
        ("kubectl -n trivium patch hpa/visoin --type merge", "hpa/visoin"),
        ("kubectl -n trivium apply -f deploy/base/namespaces.yaml", "deploy/base/namespaces.yaml"),
        ("kubectl -n trivium logs POD | grep -E 'run_failed|run_fialed'", "run_fialed"),
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
    line, _, sought = line.partition(" | grep ")
    rest = shlex.split(line.partition(" -- ")[0])[1:]
    objects = of_cpu()
    names = {title(found) for found in objects}
    found = [word for word in re.findall(r"[a-z_]{2,}", sought) if word not in events()]
    found += [word for word in rest if word.startswith("deploy/") and not (ROOT / word).exists()]
    if "--selector" in rest:
        value = rest.pop(rest.index("--selector") + 1)
        labels = [labels_of(workload) for workload in of_kind(objects, *WORKLOADS)]
        found += [] if any(f"{key}={own}" == value for each in labels for key, own in each.items()) else [value]
    for flag, known in (("-n", {"trivium"}), ("-k", {f"deploy/overlays/{p.name}" for p in DEPLOY.glob("overlays/*")})):
        if flag in rest:
            value = rest.pop(rest.index(flag) + 1)
            found += [value] if value not in known else []
    containers = {each["name"] for workload in of_kind(objects, *WORKLOADS) for each in containers_of(workload)}
    if "--container" in rest:
        value = rest.pop(rest.index("--container") + 1)
        found += [value] if value not in containers else []
    verbs = [word for word in rest if not word.startswith("-") and "/" not in word and ":" not in word]
    verbs = verbs[:2] if verbs[0] in ("rollout", "top") else verbs[:1]
    help_text = kubectl(*verbs, "--help")
    if f"kubectl {' '.join(verbs)} " not in help_text:
        return [*found, " ".join(verbs)]
    known_flags = help_text + kubectl("options")
    for word in rest:
        if word.startswith("-") and not re.search(rf"(^|[\s,]){re.escape(word.partition('=')[0])}\b", known_flags):
            found.append(word)
        kind, _, name = word.partition("/")
        if name and kind in KINDS and f"{KINDS[kind]}/{name}" not in names:
            found.append(word)
    return found


@functools.cache
def events() -> set[str]:
    """What our processes log: the first words of the calls that write a line."""
    sources = [path.read_text("utf-8") for name in ("services", "gateway") for path in (ROOT / name).rglob("*.py")]
    return set(re.findall(r'\.(?:info|warning|error)\(\s*"([a-z_]+)"', "\n".join(sources)))


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
