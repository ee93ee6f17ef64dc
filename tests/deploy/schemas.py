"""Kubernetes' own schemas, strict, of every version that we support."""

from collections.abc import Sequence

from kubernetes_validate import utils

from tests.deploy.manifests import Object, title

OLDEST = (1, 29)  # sidecars

# Kinds of others, of which there are no schemas here: (apiVersion, kind).
CUSTOM = {
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("keda.sh/v1alpha1", "ScaledObject"),
}


def versions() -> list[str]:
    """All that there are schemas of, from the oldest that we support."""
    found = {utils.major_minor(version) for version in utils.all_versions()}
    return sorted((v for v in found if _number(v) >= OLDEST), key=_number)


def invalid(objects: Sequence[Object], version: str) -> list[str]:
    """What is wrong with them for that version; an unknown kind is, too."""
    found = []
    for each in objects:
        if (each["apiVersion"], each["kind"]) in CUSTOM:
            continue
        try:
            utils.validate(each, version, strict=True)
        except utils.SchemaNotFoundError:
            found.append(f"{title(each)}: {version} has no {each['kind']} in {each['apiVersion']}")
        except utils.ValidationError as error:
            path = ".".join(map(str, error.path))
            found.append(f"{title(each)}: {version}: {path}: {error.message[:200]}")
    return found


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
