"""Each check sees the manifest that was broken for it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import schemas
from tests.deploy.lint import CHECKS, environment, leaving, pods, problems, scaling, selection
from tests.deploy.manifests import Object, build, combine, named, pod_of

Objects = list[Object]
Break = Callable[[Objects], Any]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """Everything that a kustomization may have, except KEDA's."""
    return build(
        combine(tmp_path_factory.mktemp("all"), ["consul-sidecar", "gpu", "gpu-language", "bundles", "monitoring"])
    )


@pytest.fixture
def keda(tmp_path: Path) -> Objects:
    return build(combine(tmp_path, ["consul-sidecar", "monitoring", "keda"]))


def deployment(objects: Objects, name: str = "vision") -> Object:
    return named(objects, "Deployment", name)


def server(objects: Objects, name: str = "vision") -> Object:
    return pod_of(deployment(objects, name))["containers"][0]  # type: ignore[no-any-return]


def policy(objects: Objects, name: str) -> Object:
    return named(objects, "NetworkPolicy", name)


def setting(objects: Objects, name: str, value: str, component: str = "vision") -> None:
    """Sets a variable of the container itself; it wins over those of the ConfigMap."""
    variable = {"name": f"TRIVIUM_{component.upper()}__{name}", "value": value}
    server(objects, component)["env"].append(variable)


def unset(objects: Objects, kind: str, name: str) -> None:
    objects.remove(named(objects, kind, name))


BREAKS: list[tuple[Any, str, Break]] = [
    (
        pods.selectors_match_templates,
        "Deployment/vision: its selector",
        lambda o: deployment(o)["spec"]["selector"]["matchLabels"].update({"app.kubernetes.io/name": "visoin"}),
    ),
    (
        pods.selectors_match_templates,
        "it is spread by labels",
        lambda o: pod_of(deployment(o))["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"].update(a="b"),
    ),
    (pods.volumes_exist, "there is no volume tmp", lambda o: pod_of(deployment(o)).update(volumes=[])),
    (pods.volumes_exist, "nothing mounts the volume tmp", lambda o: server(o).update(volumeMounts=[])),
    (
        pods.volumes_exist,
        "there is no ConfigMap nowhere",
        lambda o: server(o)["envFrom"].append({"configMapRef": {"name": "nowhere"}}),
    ),
    (
        pods.ports_are_declared_once,
        "port grpc twice",
        lambda o: server(o)["ports"].append({"name": "grpc", "containerPort": 1}),
    ),
    (
        pods.probes_ask_declared_ports,
        "readinessProbe asks port 50053",
        lambda o: server(o)["readinessProbe"]["grpc"].update(port=50053),
    ),
    (
        pods.probes_ask_declared_ports,
        "StatefulSet/consul: readinessProbe asks port htpp",
        lambda o: pod_of(named(o, "StatefulSet", "consul"))["containers"][0]["readinessProbe"]["httpGet"].update(
            port="htpp"
        ),
    ),
    (
        pods.servers_have_three_probes,
        "livenessProbe does not ask for the health of 'liveness'",
        lambda o: server(o)["livenessProbe"]["grpc"].update(service="readiness"),
    ),
    (pods.servers_have_three_probes, "startupProbe does not", lambda o: server(o).pop("startupProbe")),
    (
        pods.pods_are_restricted,
        "container server is not restricted",
        lambda o: server(o)["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    (
        pods.pods_are_restricted,
        "its pods are not restricted",
        lambda o: pod_of(deployment(o))["securityContext"].pop("runAsNonRoot"),
    ),
    (
        pods.pods_are_restricted,
        "a folder of the host",
        lambda o: pod_of(deployment(o))["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
    ),
    (pods.pods_are_restricted, "with the host", lambda o: pod_of(deployment(o)).update(hostNetwork=True)),
    (pods.pods_are_restricted, "get a token", lambda o: pod_of(deployment(o)).pop("automountServiceAccountToken")),
    (
        pods.resources_are_requested,
        "server lacks a request",
        lambda o: server(o)["resources"]["requests"].pop("memory"),
    ),
    (pods.resources_are_requested, "a limit of CPU", lambda o: server(o)["resources"]["limits"].update(cpu="2")),
    (pods.images_have_tags, "has no tag", lambda o: server(o).update(image="registry:5000/trivium-vision")),
    (
        selection.all_is_in_one_namespace,
        "NetworkPolicy/metrics: its namespace None",
        lambda o: policy(o, "metrics")["metadata"].pop("namespace"),
    ),
    (
        selection.all_is_in_one_namespace,
        "Deployment/vision: its namespace elsewhere is not among ['trivium']",
        lambda o: deployment(o)["metadata"].update(namespace="elsewhere"),
    ),
    (
        selection.claims_of_others_outlive_us,
        "Deployment/vision: the claim bundles would be deleted",
        lambda o: o.append({"kind": "Namespace", "metadata": {"name": "trivium"}}),
    ),
    (
        selection.services_reach_pods,
        "Service/gateway: selects no pods",
        lambda o: named(o, "Service", "gateway")["spec"]["selector"].update({"app.kubernetes.io/name": "gate"}),
    ),
    (
        selection.services_reach_pods,
        "no pod has its port htpp",
        lambda o: named(o, "Service", "gateway")["spec"]["ports"][0].update(targetPort="htpp"),
    ),
    (selection.services_reach_pods, "there is no Service consul", lambda o: unset(o, "Service", "consul")),
    (
        selection.budgets_protect_pods,
        "PodDisruptionBudget/vision: selects no pods",
        lambda o: named(o, "PodDisruptionBudget", "vision")["spec"]["selector"]["matchLabels"].update(a="b"),
    ),
    (
        selection.budgets_protect_pods,
        "Deployment/vision: has no PodDisruptionBudget",
        lambda o: unset(o, "PodDisruptionBudget", "vision"),
    ),
    (
        selection.policies_select_pods,
        "NetworkPolicy/services: selects no pods",
        lambda o: policy(o, "services")["spec"]["podSelector"]["matchLabels"].update(a="b"),
    ),
    (
        selection.policies_select_pods,
        "from {'app.kubernetes.io/part-of': 'elsewhere'} selects no pods",
        lambda o: policy(o, "services")["spec"]["ingress"][0].update(
            {"from": [{"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "elsewhere"}}}]}
        ),
    ),
    (
        selection.policies_select_pods,
        "NetworkPolicy/gateway: no pod has the port 50061",
        lambda o: policy(o, "gateway")["spec"]["egress"][0]["ports"][0].update(port=50061),
    ),
    (
        selection.everything_is_denied_by_default,
        "no NetworkPolicy denies",
        lambda o: policy(o, "default-deny")["spec"]["policyTypes"].remove("Egress"),
    ),
    (
        selection.monitors_scrape_pods,
        "does not find the port http of Deployment/gateway",
        lambda o: named(o, "PodMonitor", "trivium")["spec"]["podMetricsEndpoints"][0].update(port="http"),
    ),
    (
        selection.maps_can_be_applied,
        "ConfigMap/trivium-dashboard: too large",
        lambda o: named(o, "ConfigMap", "trivium-dashboard")["data"].update({"trivium.json": "x" * 300_000}),
    ),
    (
        scaling.targets_exist,
        "there is no Deployment/visoin",
        lambda o: named(o, "HorizontalPodAutoscaler", "vision")["spec"]["scaleTargetRef"].update(name="visoin"),
    ),
    (
        scaling.one_decides,
        "Deployment/gateway: 2 autoscalers",
        lambda o: named(o, "HorizontalPodAutoscaler", "vision")["spec"]["scaleTargetRef"].update(name="gateway"),
    ),
    (scaling.one_decides, "replicas would undo", lambda o: deployment(o)["spec"].update(replicas=3)),
    (
        scaling.gpus_are_given_up_first,
        "a further pod would wait",
        lambda o: deployment(o)["spec"]["strategy"]["rollingUpdate"].update(maxSurge=1),
    ),
    (scaling.gpus_are_given_up_first, "do not say the same", lambda o: setting(o, "ENGINE__DEVICE", "cpu")),
    (
        scaling.gpus_are_given_up_first,
        "registry:5000/trivium-vision:0.1.0 has no CUDA",
        lambda o: server(o).update(image="registry:5000/trivium-vision:0.1.0"),
    ),
    (
        scaling.gpus_are_given_up_first,
        "Deployment/language: ENGINE__DEVICE and nvidia.com/gpu do not say the same",
        lambda o: server(o, "language")["resources"]["limits"].pop("nvidia.com/gpu"),
    ),
    (
        scaling.gpus_are_given_up_first,
        "Deployment/language: trivium-language:0.1.0 has no CUDA",
        lambda o: server(o, "language").update(image="trivium-language:0.1.0"),
    ),
    (scaling.gpus_are_given_up_first, "does not tolerate", lambda o: pod_of(deployment(o)).pop("tolerations")),
    (environment.variables_are_settings, "DRIAN_S", lambda o: setting(o, "DRIAN_S", "9")),
    (environment.variables_are_settings, "it must lie in", lambda o: setting(o, "BATCHER__MAX_BATCH", "0")),
    (
        environment.variables_are_settings,
        "TRIVIUM_VISON__DRAIN_S is no variable of this component",
        lambda o: server(o)["env"].append({"name": "TRIVIUM_VISON__DRAIN_S", "value": "9"}),
    ),
    (environment.variables_are_settings, "ADVERTISE_ADDRESS is not set", lambda o: server(o).update(env=[])),
    (
        environment.references_are_defined_before,
        "uses NODE_IP, which is not defined before it",
        lambda o: setting(o, "CONSUL__ADDRESS", "http://$(NODE_IP):8500"),
    ),
    (
        environment.references_are_defined_before,
        "the command of consul uses POD_IP",
        lambda o: pod_of(named(o, "StatefulSet", "consul"))["containers"][0].update(env=[]),
    ),
    (
        environment.ports_are_those_of_the_settings,
        "Deployment/vision: listens on",
        lambda o: setting(o, "GRPC_PORT", "50061"),
    ),
    (
        environment.ports_are_those_of_the_settings,
        "which nobody reaches",
        lambda o: setting(o, "HOST", "127.0.0.1"),
    ),
    (
        environment.threads_fit_the_request,
        "DECODER__THREADS is 0",
        lambda o: setting(o, "DECODER__THREADS", "0"),
    ),
    (
        environment.consul_is_found,
        "without an agent there",
        lambda o: pod_of(deployment(o)).pop("initContainers"),
    ),
    (environment.agents_find_servers, "joins consul, and there", lambda o: unset(o, "Service", "consul")),
    (
        leaving.there_is_time_to_finish,
        "in the midst of its drain",
        lambda o: pod_of(deployment(o)).update(terminationGracePeriodSeconds=30),
    ),
    (leaving.there_is_time_to_finish, "and draining 8.0 s", lambda o: setting(o, "DRAIN_S", "8")),
    (
        leaving.callers_by_name_have_a_moment,
        "before kube-proxy has forgotten it",
        lambda o: server(o, "gateway").pop("lifecycle"),
    ),
    (
        leaving.a_new_pod_comes_first,
        "before there are new ones",
        lambda o: deployment(o, "gateway")["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1),
    ),
    (
        leaving.a_new_pod_comes_first,
        "minReadySeconds",
        lambda o: deployment(o)["spec"].pop("minReadySeconds"),
    ),
]


def test_nothing_is_wrong_before_it_is_broken(suite: Objects) -> None:
    assert problems(suite) == []


@pytest.mark.parametrize(("check", "expected", "spoil"), BREAKS, ids=[expected for _, expected, _ in BREAKS])
def test_a_check_sees_what_is_broken(suite: Objects, check: Any, expected: str, spoil: Break) -> None:
    broken = copy.deepcopy(suite)
    spoil(broken)
    found = list(check(broken))
    assert any(expected in problem for problem in found), found


def test_every_check_has_a_manifest_that_it_refuses() -> None:
    seen_elsewhere = {scaling.triggers_stay_in_their_namespace}
    assert {check for check, _, _ in BREAKS} | seen_elsewhere == set(CHECKS)


def test_a_trigger_that_asks_for_another_namespace_is_seen(keda: Objects) -> None:
    named(keda, "ScaledObject", "vision")["metadata"]["namespace"] = "elsewhere"
    assert "ScaledObject/vision: its query asks for another namespace than its own" in problems(keda)


def test_an_autoscaler_beside_keda_is_seen(keda: Objects, suite: Objects) -> None:
    assert "Deployment/vision: 2 autoscalers would fight" in problems(
        [*keda, named(suite, "HorizontalPodAutoscaler", "vision")]
    )


SCHEMA_BREAKS: list[tuple[str, Break]] = [
    ("maxSruge", lambda o: deployment(o)["spec"]["strategy"]["rollingUpdate"].update(maxSruge=1)),
    ("'six' is not of type", lambda o: server(o)["livenessProbe"].update(failureThreshold="six")),
    (
        "has no PodDisruptionBudget in policy/v1beta1",
        lambda o: named(o, "PodDisruptionBudget", "vision").update(apiVersion="policy/v1beta1"),
    ),
    ("has no Deploiment", lambda o: deployment(o).update(kind="Deploiment")),
]


@pytest.mark.parametrize(("expected", "spoil"), SCHEMA_BREAKS, ids=[expected for expected, _ in SCHEMA_BREAKS])
@pytest.mark.parametrize("version", [schemas.versions()[0], schemas.versions()[-1]])
def test_the_schemas_see_what_is_broken(suite: Objects, version: str, expected: str, spoil: Break) -> None:
    broken = copy.deepcopy(suite)
    spoil(broken)
    assert any(expected in problem for problem in schemas.invalid(broken, version))


def test_a_kustomization_that_names_what_is_not_there_does_not_build(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no-such-component"):
        build(combine(tmp_path, ["no-such-component"]))
