"""What selects pods: Services, PodDisruptionBudgets, NetworkPolicies, PodMonitors; and the namespace of all of it."""

from collections.abc import Iterator, Sequence

from tests.deploy.manifests import WORKLOADS, Object, containers_of, labels_of, of_kind, pod_of, servers, title

CLUSTER_WIDE = ("Namespace",)
MAP_BYTES = 250_000  # `kubectl apply` keeps a copy in an annotation, which has room for 256 KiB


def selected(objects: Sequence[Object], labels: dict[str, str]) -> list[Object]:
    """The workloads whose pods have these labels."""
    return [found for found in of_kind(objects, *WORKLOADS) if labels.items() <= labels_of(found).items()]


def ports_of(workloads: Sequence[Object]) -> set[object]:
    """Names and numbers of their pods' ports."""
    ports = [port for workload in workloads for each in containers_of(workload) for port in each.get("ports", ())]
    return {port["name"] for port in ports} | {port["containerPort"] for port in ports}


def all_is_in_one_namespace(objects: Sequence[Object]) -> Iterator[str]:
    names = {found["metadata"]["name"] for found in of_kind(objects, "Namespace")}
    if not names:  # it is not ours: then it is that of the pods
        names = {str(found["metadata"].get("namespace")) for found in of_kind(objects, *WORKLOADS)[:1]}
    for found in objects:
        if found["kind"] not in CLUSTER_WIDE and found["metadata"].get("namespace") not in names:
            yield f"{title(found)}: its namespace {found['metadata'].get('namespace')} is not among {sorted(names)}"


def claims_of_others_outlive_us(objects: Sequence[Object]) -> Iterator[str]:
    """A claim that somebody else makes goes with its namespace, when a kustomization that has both is deleted."""
    own = {found["metadata"]["name"] for found in of_kind(objects, "PersistentVolumeClaim")}
    for workload in of_kind(objects, *WORKLOADS):
        for volume in pod_of(workload).get("volumes", ()):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and claim not in own and of_kind(objects, "Namespace"):
                yield f"{title(workload)}: the claim {claim} would be deleted with the namespace"


def services_reach_pods(objects: Sequence[Object]) -> Iterator[str]:
    for service in of_kind(objects, "Service"):
        pods = selected(objects, service["spec"]["selector"])
        if not pods:
            yield f"{title(service)}: selects no pods"
        for port in service["spec"]["ports"]:
            if pods and port.get("targetPort", port["port"]) not in ports_of(pods):
                yield f"{title(service)}: no pod has its port {port.get('targetPort', port['port'])}"
    headless = {found["metadata"]["name"] for found in of_kind(objects, "Service")}
    for workload in of_kind(objects, "StatefulSet"):
        if workload["spec"]["serviceName"] not in headless:
            yield f"{title(workload)}: there is no Service {workload['spec']['serviceName']}"


def budgets_protect_pods(objects: Sequence[Object]) -> Iterator[str]:
    budgets = of_kind(objects, "PodDisruptionBudget")
    for budget in budgets:
        if not selected(objects, budget["spec"]["selector"]["matchLabels"]):
            yield f"{title(budget)}: selects no pods"
    for workload in of_kind(objects, *WORKLOADS):
        if not any(b["spec"]["selector"]["matchLabels"].items() <= labels_of(workload).items() for b in budgets):
            yield f"{title(workload)}: has no PodDisruptionBudget"


def policies_select_pods(objects: Sequence[Object]) -> Iterator[str]:
    for policy in of_kind(objects, "NetworkPolicy"):
        spec = policy["spec"]
        pods = selected(objects, spec["podSelector"].get("matchLabels", {}))
        if not pods:
            yield f"{title(policy)}: selects no pods"
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(direction, ()):
                yield from _peers(objects, policy, rule, direction, side, pods)


def _peers(
    objects: Sequence[Object], policy: Object, rule: Object, direction: str, side: str, pods: list[Object]
) -> Iterator[str]:
    """What one rule of a policy opens: pods that exist, at ports that they have."""
    peers = rule.get(side, ())
    within = [peer["podSelector"].get("matchLabels", {}) for peer in peers if set(peer) == {"podSelector"}]
    for labels in within:
        if not selected(objects, labels):
            yield f"{title(policy)}: {side} {labels} selects no pods"
    if direction == "egress" and len(within) < len(peers):
        return  # the ports may be those of others
    targets = pods if direction == "ingress" else [found for labels in within for found in selected(objects, labels)]
    for port in rule.get("ports", ()):
        if targets and port["port"] not in ports_of(targets):
            yield f"{title(policy)}: no pod has the port {port['port']} that it opens"


def everything_is_denied_by_default(objects: Sequence[Object]) -> Iterator[str]:
    for policy in of_kind(objects, "NetworkPolicy"):
        spec = policy["spec"]
        if spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}:
            return
    yield "no NetworkPolicy denies what the others do not open"


def monitors_scrape_pods(objects: Sequence[Object]) -> Iterator[str]:
    for monitor in of_kind(objects, "PodMonitor"):
        labels = monitor["spec"]["selector"]["matchLabels"]
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            for workload, _ in servers(objects):
                if workload not in selected(objects, labels) or endpoint["port"] not in ports_of([workload]):
                    yield f"{title(monitor)}: does not find the port {endpoint['port']} of {title(workload)}"


def maps_can_be_applied(objects: Sequence[Object]) -> Iterator[str]:
    for found in of_kind(objects, "ConfigMap"):
        if sum(len(text.encode()) for text in found["data"].values()) > MAP_BYTES:
            yield f"{title(found)}: too large for `kubectl apply`"


CHECKS = (
    all_is_in_one_namespace,
    claims_of_others_outlive_us,
    services_reach_pods,
    budgets_protect_pods,
    policies_select_pods,
    everything_is_denied_by_default,
    monitors_scrape_pods,
    maps_can_be_applied,
)
