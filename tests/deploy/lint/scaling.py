"""Who decides how many pods there are."""

from collections import Counter
from collections.abc import Iterator, Sequence

from tests.deploy.manifests import WORKLOADS, Object, of_kind, pod_of, servers, title, variables

SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")
GPU_TAG = "-gpu"  # of images with VARIANT=gpu; a digest tells nothing


def target_of(scaler: Object) -> str:
    """What it scales: Deployment/vision."""
    target = scaler["spec"]["scaleTargetRef"]
    return f"{target.get('kind', 'Deployment')}/{target['name']}"


def targets_exist(objects: Sequence[Object]) -> Iterator[str]:
    workloads = {title(found) for found in of_kind(objects, *WORKLOADS)}
    for scaler in of_kind(objects, *SCALERS):
        if target_of(scaler) not in workloads:
            yield f"{title(scaler)}: there is no {target_of(scaler)}"


def one_decides(objects: Sequence[Object]) -> Iterator[str]:
    counted = Counter(target_of(scaler) for scaler in of_kind(objects, *SCALERS))
    yield from (f"{target}: {count} autoscalers would fight" for target, count in counted.items() if count > 1)
    for workload in of_kind(objects, *WORKLOADS):
        if title(workload) in counted and "replicas" in workload["spec"]:
            yield f"{title(workload)}: replicas would undo what its autoscaler did at every apply"


def triggers_stay_in_their_namespace(objects: Sequence[Object]) -> Iterator[str]:
    for scaler in of_kind(objects, "ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            if f'namespace="{scaler["metadata"]["namespace"]}"' not in trigger["metadata"]["query"]:
                yield f"{title(scaler)}: its query asks for another namespace than its own"


def gpus_are_given_up_first(objects: Sequence[Object]) -> Iterator[str]:
    for workload, container in servers(objects):
        gpus = "nvidia.com/gpu" in container["resources"].get("limits", {})
        environment = variables(container, objects)
        asked = any(name.endswith("__ENGINE__DEVICE") and value == "cuda" for name, value in environment.items())
        if gpus != asked:
            yield f"{title(workload)}: ENGINE__DEVICE and nvidia.com/gpu do not say the same"
        if gpus and workload["spec"]["strategy"]["rollingUpdate"]["maxSurge"] != 0:
            yield f"{title(workload)}: in a roll-out a further pod would wait for a GPU for ever"
        if gpus and not pod_of(workload).get("tolerations"):
            yield f"{title(workload)}: it does not tolerate the taint of GPU nodes"
        if asked and "@" not in container["image"] and not container["image"].endswith(GPU_TAG):
            yield f"{title(workload)}: {container['image']} has no CUDA: its tag does not end with {GPU_TAG}"


CHECKS = (targets_exist, one_decides, triggers_stay_in_their_namespace, gpus_are_given_up_first)
