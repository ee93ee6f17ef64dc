"""Every overlay, every base and every combination of components that deploy/README.md names builds and is well."""

import re
from pathlib import Path

import pytest
import yaml

from tests.deploy import schemas
from tests.deploy.lint import problems
from tests.deploy.lint.pods import pods_are_restricted
from tests.deploy.manifests import DEPLOY, Object, build, combine, of_kind, pod_of, servers, title, variables

OVERLAYS = sorted(path.parent.name for path in DEPLOY.glob("overlays/*/kustomization.yaml"))
BASES = sorted(path.parent.name for path in DEPLOY.glob("base/*/kustomization.yaml") if path.parent.name != "common")
README = (DEPLOY / "README.md").read_text("utf-8")
COMPONENTS = {path.parent.name for path in DEPLOY.glob("components/*/kustomization.yaml")}
# A row of its table begins with components that go together.
TABLE = README.partition("### Components\n")[2].partition("\n#")[0]
ROWS = re.findall(r"^\| ((?:`[a-z-]+`(?: \+ )?)+) \|", TABLE, re.MULTILINE)
COMBINATIONS = [tuple(re.findall(r"`([a-z-]+)`", row)) for row in ROWS]


def all_builds(folder: Path) -> dict[str, list[Object]]:
    """By name: overlays and combinations."""
    built = {name: build(DEPLOY / "overlays" / name) for name in OVERLAYS}
    for names in COMBINATIONS:
        own = folder / "-".join(names)
        own.mkdir()
        built["+".join(names)] = build(combine(own, names))
    return built


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Object]]:
    return all_builds(tmp_path_factory.mktemp("combinations"))


def test_the_readme_names_every_component_in_a_combination() -> None:
    assert {name for names in COMBINATIONS for name in names} == COMPONENTS


@pytest.mark.parametrize("name", BASES)
def test_a_base_builds_by_itself(name: str) -> None:
    assert of_kind(build(DEPLOY / "base" / name), "Deployment", "StatefulSet")


def test_everything_fits_together(builds: dict[str, list[Object]]) -> None:
    assert {name: found for name, objects in builds.items() if (found := problems(objects))} == {}


@pytest.mark.parametrize("version", schemas.versions())
def test_kubernetes_takes_every_object(builds: dict[str, list[Object]], version: str) -> None:
    different = {repr(each): each for objects in builds.values() for each in objects}
    assert schemas.invalid(list(different.values()), version) == []


def test_the_claim_and_the_pod_that_fills_it_are_what_the_component_and_the_namespace_take(
    builds: dict[str, list[Object]],
) -> None:
    claim, pod = yaml.safe_load_all((DEPLOY / "components/bundles/example.yaml").read_text("utf-8"))
    assert [problem for version in schemas.versions() for problem in schemas.invalid([claim, pod], version)] == []
    mounting = [pod_of(each) for each in of_kind(builds["consul-sidecar+bundles"], "Deployment")]
    claims = [
        v["persistentVolumeClaim"]["claimName"] for p in mounting for v in p["volumes"] if "persistentVolumeClaim" in v
    ]
    assert claims == [claim["metadata"]["name"]] * 3
    wrapped = {"kind": "Deployment", "metadata": pod["metadata"], "spec": {"template": {"spec": pod["spec"]}}}
    assert list(pods_are_restricted([wrapped])) == []


def test_schemas_reach_from_the_oldest_version_on() -> None:
    found = schemas.versions()
    assert found[0] == "1.29"
    assert len(found) >= 9


def test_another_namespace_takes_everything_along(tmp_path: Path) -> None:
    combine(tmp_path, (), base="overlays/gpu")
    with (tmp_path / "kustomization.yaml").open("a") as file:
        file.write("namespace: elsewhere\n")
    objects = build(tmp_path)
    assert {each["metadata"]["namespace"] for each in objects if each["kind"] != "Namespace"} == {"elsewhere"}
    assert problems(objects) == []


def on_gpus(objects: list[Object]) -> list[str]:
    """The deployments whose pods ask for a GPU."""
    return sorted(
        each["metadata"]["name"] for each in of_kind(objects, "Deployment") if "nvidia.com/gpu" in repr(pod_of(each))
    )


def test_the_language_service_gets_gpus_by_a_component_of_its_own_alone(builds: dict[str, list[Object]]) -> None:
    wanted = {"gpu": ["sequence", "vision"], "gpu-language": ["language"]}
    for names in COMBINATIONS:
        objects = builds["+".join(names)]
        assert on_gpus(objects) == sorted(service for name in names for service in wanted.get(name, ())), names
        (server,) = (container for workload, container in servers(objects) if title(workload) == "Deployment/language")
        gpu = "gpu-language" in names
        assert server["image"] == f"trivium-language:0.1.0{'-gpu' if gpu else ''}", names
        assert variables(server, objects)["TRIVIUM_LANGUAGE__ENGINE__DEVICE"] == ("cuda" if gpu else "cpu"), names


def test_a_pod_on_a_gpu_is_the_same_for_every_service(builds: dict[str, list[Object]]) -> None:
    cpu = {title(workload): workload for workload, _ in servers(builds["cpu"])}
    added = {}
    for workload, container in servers(builds["consul-sidecar+monitoring+gpu+gpu-language+bundles"]):
        if workload["metadata"]["name"] != "gateway":
            known = cpu[title(workload)]
            assert workload["spec"]["strategy"] != known["spec"]["strategy"]
            driver = [each for each in container["env"] if each["name"].startswith("NVIDIA_")]
            memory = container["resources"]["limits"], container["resources"]["requests"]["memory"]
            added[title(workload)] = workload["spec"]["strategy"], pod_of(workload)["tolerations"], driver, memory
    assert len(added) == 3
    assert [each for each in added.values() if each != added["Deployment/vision"]] == []


def test_the_overlays_differ_in_what_they_are_for(builds: dict[str, list[Object]]) -> None:
    gpus = {name: on_gpus(objects) for name, objects in builds.items()}
    assert gpus["gpu"] == ["sequence", "vision"]
    assert gpus["cpu"] == gpus["dev"] == []
    assert of_kind(builds["dev"], "HorizontalPodAutoscaler") == []
    assert len(of_kind(builds["cpu"], "HorizontalPodAutoscaler")) == 4
    by_cpu = of_kind(builds["consul-sidecar+scale-by-cpu"], "HorizontalPodAutoscaler")
    assert [each["type"] for scaler in by_cpu for each in scaler["spec"]["metrics"]] == ["Resource"] * 4
    assert of_kind(builds["consul-external"], "StatefulSet") == []
