"""Roll-outs that lose no call: who may be away, and for how long a pod may finish."""

from collections.abc import Iterator, Sequence

from services.kit.errors import StartupError
from tests.deploy.lint.environment import loaded
from tests.deploy.manifests import Object, pod_of, servers, title

STOP_S = 10  # for the agent of Consul, and for the process to end


def there_is_time_to_finish(objects: Sequence[Object]) -> Iterator[str]:
    for workload, container in servers(objects):
        try:
            process = loaded(workload, container, objects)
        except StartupError:
            continue  # environment.py has said it
        longest_s = process.limits.unary_timeout_s
        if process.drain_s <= longest_s:
            yield f"{title(workload)}: a call may take {longest_s} s and draining {process.drain_s} s"
        grace = pod_of(workload)["terminationGracePeriodSeconds"]
        if grace < _pre_stop(container) + process.drain_s + STOP_S:
            yield f"{title(workload)}: is killed after {grace} s, in the midst of its drain"


def _pre_stop(container: Object) -> float:
    action = container.get("lifecycle", {}).get("preStop", {})
    command = action.get("exec", {}).get("command", ["sleep", "0"])
    return float(command[1])


def callers_by_name_have_a_moment(objects: Sequence[Object]) -> Iterator[str]:
    for workload, container in servers(objects):
        if workload["metadata"]["name"] == "gateway" and _pre_stop(container) < 1:
            yield f"{title(workload)}: ends before kube-proxy has forgotten it"


def a_new_pod_comes_first(objects: Sequence[Object]) -> Iterator[str]:
    for workload, container in servers(objects):
        update = workload["spec"]["strategy"]["rollingUpdate"]
        gpu = "nvidia.com/gpu" in container["resources"].get("limits", {})
        if not gpu and update != {"maxSurge": 1, "maxUnavailable": 0}:
            yield f"{title(workload)}: a roll-out takes pods away before there are new ones"
        if not workload["spec"].get("minReadySeconds"):
            yield f"{title(workload)}: minReadySeconds leaves gateways no time to meet a new pod"


CHECKS = (there_is_time_to_finish, callers_by_name_have_a_moment, a_new_pod_comes_first)
