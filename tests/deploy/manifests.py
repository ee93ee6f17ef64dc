"""Manifests: what kubectl makes of a kustomization, and how to ask about it."""

import functools
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
Object = dict[str, Any]
WORKLOADS = ("Deployment", "StatefulSet")


@functools.cache
def program(name: str) -> str:
    """The path of kubectl or promtool; the reason in the failure where there is none."""
    command = [str(DEPLOY / "local/get_program"), name, str(ROOT / ".cache" / name)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def build(folder: Path) -> list[Object]:
    """The objects of a kustomization.

    Raises:
        ValueError: kubectl's complaint.
    """
    built = subprocess.run([program("kubectl"), "kustomize", folder], capture_output=True, text=True, check=False)
    if built.returncode:
        raise ValueError(built.stderr[:2000])
    return [found for found in yaml.safe_load_all(built.stdout) if found]


def combine(folder: Path, components: Sequence[str], base: str = "base") -> Path:
    """Writes a kustomization of the base and these components into the folder, as deploy/README.md says."""
    bases = [base, "base/consul"] if "consul-sidecar" in components else [base]
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(DEPLOY / name, folder.resolve()) for name in bases],
        "components": [os.path.relpath(DEPLOY / "components" / name, folder.resolve()) for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content), "utf-8")
    return folder


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    """Those of these kinds."""
    return [found for found in objects if found["kind"] in kinds]


def named(objects: Sequence[Object], kind: str, name: str) -> Object:
    """The one of that kind and name."""
    return next(found for found in of_kind(objects, kind) if found["metadata"]["name"] == name)


def title(found: Object) -> str:
    """How a problem names an object: Deployment/vision."""
    return f"{found['kind']}/{found['metadata']['name']}"


def pod_of(workload: Object) -> Object:
    """The specification of a workload's pods."""
    return workload["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def labels_of(workload: Object) -> dict[str, str]:
    """The labels of a workload's pods."""
    return workload["spec"]["template"]["metadata"]["labels"]  # type: ignore[no-any-return]


def containers_of(workload: Object) -> list[Object]:
    """All containers of a workload's pods, sidecars included."""
    pod = pod_of(workload)
    return [*pod.get("initContainers", ()), *pod["containers"]]


def servers(objects: Sequence[Object]) -> Iterator[tuple[Object, Object]]:
    """(workload, container) of the gateway and of every service."""
    for workload in of_kind(objects, "Deployment"):
        for container in pod_of(workload)["containers"]:
            if container["name"] == "server":
                yield workload, container


def variables(container: Object, objects: Sequence[Object]) -> dict[str, str]:
    """A container's environment; what only the cluster knows is an address of an example."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found.update(named(objects, "ConfigMap", source["configMapRef"]["name"])["data"])
    for entry in container.get("env", ()):
        value = entry.get("value", "192.0.2.1")
        for name, known in found.items():
            value = value.replace(f"$({name})", known)
        found[entry["name"]] = value
    return found
