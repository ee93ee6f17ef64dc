"""Environment variables: they exist in the component's settings, have values that it takes, and fit the pod."""

import importlib
import json
import math
import re
from collections.abc import Iterator, Sequence

from services.kit import settings
from services.kit.errors import StartupError
from services.kit.process import ProcessSettings
from tests.deploy.manifests import ROOT, Object, containers_of, labels_of, of_kind, pod_of, servers, title, variables

LOCAL_CONSUL = "http://127.0.0.1:8500"


def component_of(workload: Object) -> str:
    """gateway, vision and so on."""
    return labels_of(workload)["app.kubernetes.io/name"]


def settings_class(component: str) -> type[ProcessSettings]:
    """The settings class of the gateway or of a service."""
    package = f"services.{component}" if (ROOT / "services" / component).is_dir() else component
    module = importlib.import_module(f"{package}.settings")
    return getattr(module, f"{component.capitalize()}Settings")  # type: ignore[no-any-return]


def loaded(workload: Object, container: Object, objects: Sequence[Object]) -> ProcessSettings:
    """The settings that the container's process has.

    Raises:
        StartupError: what it would end with.
    """
    component = component_of(workload)
    return settings.load(settings_class(component), component, variables(container, objects))


def variables_are_settings(objects: Sequence[Object]) -> Iterator[str]:
    for workload, container in servers(objects):
        own = f"TRIVIUM_{component_of(workload).upper()}__"
        for name in variables(container, objects):
            if name.startswith("TRIVIUM_") and not name.startswith(own):
                yield f"{title(workload)}: {name} is no variable of this component"
        try:
            loaded(workload, container, objects).advertised_host()
        except StartupError as error:
            yield f"{title(workload)}: {error} ({error.hint})"


def references_are_defined_before(objects: Sequence[Object]) -> Iterator[str]:
    for workload in of_kind(objects, "Deployment", "StatefulSet"):
        for container in containers_of(workload):
            known: set[str] = set()
            for entry in container.get("env", ()):
                for name in re.findall(r"\$\((\w+)\)", entry.get("value", "")):
                    if name not in known:
                        yield f"{title(workload)}: {entry['name']} uses {name}, which is not defined before it"
                known.add(entry["name"])
            for name in re.findall(r"\$\((\w+)\)", " ".join(container.get("command", ()))):
                if name not in known:
                    yield f"{title(workload)}: the command of {container['name']} uses {name}, which is not defined"


def ports_are_those_of_the_settings(objects: Sequence[Object]) -> Iterator[str]:
    for workload, container in servers(objects):
        try:
            process = loaded(workload, container, objects)
        except StartupError:
            continue  # variables_are_settings has said it
        wanted = {"grpc": process.grpc_port, "health": process.health_port, "metrics": process.http_port}
        declared = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        if wanted != declared:
            yield f"{title(workload)}: listens on {wanted} and declares {declared}"
        if process.host != "0.0.0.0":
            yield f"{title(workload)}: listens on {process.host}, which nobody reaches"


def threads_fit_the_request(objects: Sequence[Object]) -> Iterator[str]:
    """Where a setting says nothing, a process takes as many threads as the node has cores."""
    for workload, container in servers(objects):
        if component_of(workload) == "gateway":
            continue
        prefix = f"TRIVIUM_{component_of(workload).upper()}__"
        environment = variables(container, objects)
        names = [f"{prefix}ENGINE__THREADS"]
        if "decoder.threads" in settings.keys(settings_class(component_of(workload))):
            names.append(f"{prefix}DECODER__THREADS")
        cores = math.ceil(_cores(container["resources"]["requests"]["cpu"]))
        for name in names:
            if not 1 <= int(environment.get(name, 0)) <= max(cores, 2):
                yield f"{title(workload)}: {name} is {environment.get(name, 'unset')} and {cores} cores are requested"


def _cores(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def consul_is_found(objects: Sequence[Object]) -> Iterator[str]:
    for workload, container in servers(objects):
        environment = variables(container, objects)
        address = environment.get(f"TRIVIUM_{component_of(workload).upper()}__CONSUL__ADDRESS", LOCAL_CONSUL)
        sidecar = any(each["name"] == "consul-agent" for each in pod_of(workload).get("initContainers", ()))
        if sidecar != (address == LOCAL_CONSUL):
            yield f"{title(workload)}: looks for Consul at {address}, {'with' if sidecar else 'without'} an agent there"


def agents_find_servers(objects: Sequence[Object]) -> Iterator[str]:
    services = {found["metadata"]["name"] for found in of_kind(objects, "Service")}
    for found in of_kind(objects, "ConfigMap"):
        for name, text in found["data"].items():
            if name in ("agent.json", "server.json"):
                for server in json.loads(text).get("retry_join", ()):
                    if "." not in server and server not in services:
                        yield f"{title(found)}: joins {server}, and there is no such Service"


CHECKS = (
    variables_are_settings,
    references_are_defined_before,
    ports_are_those_of_the_settings,
    threads_fit_the_request,
    consul_is_found,
    agents_find_servers,
)
