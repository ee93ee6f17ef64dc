"""Pods by themselves: labels, volumes, ports, probes, security, resources."""

from collections import Counter
from collections.abc import Iterator, Sequence

from tests.deploy.manifests import (
    WORKLOADS,
    Object,
    containers_of,
    labels_of,
    of_kind,
    pod_of,
    servers,
    title,
)

PROBES = {"startupProbe": "startup", "readinessProbe": "readiness", "livenessProbe": "liveness"}


def selectors_match_templates(objects: Sequence[Object]) -> Iterator[str]:
    for workload in of_kind(objects, *WORKLOADS):
        wanted = workload["spec"]["selector"]["matchLabels"]
        if not wanted.items() <= labels_of(workload).items():
            yield f"{title(workload)}: its selector {wanted} does not match its pods"
        for spread in pod_of(workload).get("topologySpreadConstraints", ()):
            if not spread["labelSelector"]["matchLabels"].items() <= labels_of(workload).items():
                yield f"{title(workload)}: it is spread by labels that its pods do not have"


def volumes_exist(objects: Sequence[Object]) -> Iterator[str]:
    maps = {found["metadata"]["name"] for found in of_kind(objects, "ConfigMap")}
    for workload in of_kind(objects, *WORKLOADS):
        pod = pod_of(workload)
        claims = workload["spec"].get("volumeClaimTemplates") or ()
        volumes = {volume["name"] for volume in pod.get("volumes", ())} | {c["metadata"]["name"] for c in claims}
        mounted = {mount["name"] for each in containers_of(workload) for mount in each.get("volumeMounts", ())}
        yield from (f"{title(workload)}: there is no volume {name}" for name in sorted(mounted - volumes))
        yield from (f"{title(workload)}: nothing mounts the volume {name}" for name in sorted(volumes - mounted))
        used = {volume["configMap"]["name"] for volume in pod.get("volumes", ()) if "configMap" in volume}
        used |= {s["configMapRef"]["name"] for each in containers_of(workload) for s in each.get("envFrom", ())}
        yield from (f"{title(workload)}: there is no ConfigMap {name}" for name in sorted(used - maps))


def ports_are_declared_once(objects: Sequence[Object]) -> Iterator[str]:
    for workload in of_kind(objects, *WORKLOADS):
        ports = [port for each in containers_of(workload) for port in each.get("ports", ())]
        counted = Counter((port["containerPort"], port.get("protocol", "TCP")) for port in ports)
        counted.update(port["name"] for port in ports)
        yield from (f"{title(workload)}: port {port} twice" for port, count in counted.items() if count > 1)


def probes_ask_declared_ports(objects: Sequence[Object]) -> Iterator[str]:
    for workload in of_kind(objects, *WORKLOADS):
        for container in containers_of(workload):
            declared = {port["containerPort"] for port in container.get("ports", ())}
            declared |= {port["name"] for port in container.get("ports", ())}
            for probe in PROBES:
                asked = container.get(probe, {})
                for way in ("grpc", "httpGet", "tcpSocket"):
                    if way in asked and asked[way]["port"] not in declared:
                        yield f"{title(workload)}: {probe} asks port {asked[way]['port']}, which is not declared"


def servers_have_three_probes(objects: Sequence[Object]) -> Iterator[str]:
    for workload, container in servers(objects):
        for probe, name in PROBES.items():
            if container.get(probe, {}).get("grpc", {}).get("service") != name:
                yield f"{title(workload)}: {probe} does not ask for the health of {name!r}"


def pods_are_restricted(objects: Sequence[Object]) -> Iterator[str]:
    for workload in of_kind(objects, *WORKLOADS):
        pod = pod_of(workload)
        security = pod.get("securityContext", {})
        if not security.get("runAsNonRoot") or security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{title(workload)}: its pods are not restricted (runAsNonRoot, seccompProfile)"
        if pod.get("automountServiceAccountToken") is not False or pod.get("enableServiceLinks") is not False:
            yield f"{title(workload)}: its pods get a token or variables of Services"
        if any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{title(workload)}: its pods share a namespace with the host"
        if any("hostPath" in volume for volume in pod.get("volumes", ())):
            yield f"{title(workload)}: its pods mount a folder of the host"
        for container in containers_of(workload):
            own = container.get("securityContext", {})
            wanted = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            if not all(own.get(key) == value for key, value in wanted.items()):
                yield f"{title(workload)}: container {container['name']} is not restricted"


def resources_are_requested(objects: Sequence[Object]) -> Iterator[str]:
    for workload in of_kind(objects, *WORKLOADS):
        for container in containers_of(workload):
            resources = container.get("resources", {})
            if not {"cpu", "memory"} <= set(resources.get("requests", ())) or "memory" not in resources.get(
                "limits", ()
            ):
                yield f"{title(workload)}: {container['name']} lacks a request of CPU or memory, or a limit of memory"
            if "cpu" in resources.get("limits", ()):
                yield f"{title(workload)}: {container['name']} has a limit of CPU, which makes it late"


def images_have_tags(objects: Sequence[Object]) -> Iterator[str]:
    for workload in of_kind(objects, *WORKLOADS):
        for container in containers_of(workload):
            if ":" not in container["image"].rpartition("/")[2] and "@" not in container["image"]:
                yield f"{title(workload)}: image {container['image']} has no tag"


CHECKS = (
    selectors_match_templates,
    volumes_exist,
    ports_are_declared_once,
    probes_ask_declared_ports,
    servers_have_three_probes,
    pods_are_restricted,
    resources_are_requested,
    images_have_tags,
)
