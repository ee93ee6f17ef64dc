"""What overlays/cpu says, run: it starts from nothing, and a roll-out under traffic loses no call."""

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.deploy.manifests import DEPLOY, ROOT, build, named, pod_of

OWN = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


def possible() -> bool:
    """Whether this machine lets us have namespaces with networks of their own."""
    if not all(map(shutil.which, ("unshare", "ip", "mount"))):
        return False
    tried = "mount --make-rprivate / && mount -t tmpfs none /run && ip netns add a && ip link add name pods type bridge"
    return subprocess.run([*OWN, "sh", "-c", tried], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def happened() -> dict[str, Any]:
    if not possible():
        pytest.skip("this machine does not let us have network namespaces (as root on Linux it does)")
    done = subprocess.run(
        [*OWN, sys.executable, "-m", "tests.deploy.pods"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_gateway_without_instances_is_live_and_not_ready(happened: dict[str, Any]) -> None:
    assert happened["gateway without instances"] == {"readiness": "NOT_SERVING", "liveness": "SERVING"}


def test_every_pod_gets_ready_by_its_own_probes(happened: dict[str, Any]) -> None:
    assert happened["ready"] == 6


def test_a_roll_out_and_the_death_of_a_consul_server_lose_no_call(happened: dict[str, Any]) -> None:
    assert happened["failures"] == []
    assert happened["answered"] >= 140


def test_pods_leave_by_themselves_long_before_they_are_killed(happened: dict[str, Any]) -> None:
    vision = pod_of(named(build(DEPLOY / "overlays/cpu"), "Deployment", "vision"))
    for left in (*happened["left"], happened["gateway left"]):
        assert left["code"] == 0
        assert left["seconds"] < vision["terminationGracePeriodSeconds"] / 2
