"""Pods without a cluster: what overlays/cpu says, run in network namespaces; prints what happened as JSON.

Run by test_pods.py, in namespaces of its own (network, mounts, processes), so that nothing of it outlives it. A pod is
a network namespace on a bridge. Its processes are those of the manifest's containers, from the checkout in the place
of the images: with the manifest's environment, Consul's configuration and the addresses that the manifest asks for.
What the kubelet does is done here: probes, one after the other; preStop; SIGTERM; sidecars last.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from tests.deploy.manifests import DEPLOY, ROOT, Object, build, containers_of, named, pod_of, program, variables
from trivium.client import Client, TriviumCallError

NETWORK = "10.96.0"
SERVERS = (1, 2, 3)  # last numbers of the addresses that the name `consul` stands for
LIMIT_S = 120  # for a pod to get ready
IMAGE = (ROOT / "services/vision/samples/7-0007.png").read_bytes()
CHECK = "/grpc.health.v1.Health/Check"


def sh(command: str) -> None:
    subprocess.run(command.split(), check=True)


@dataclass
class Pod:
    """One pod of a workload."""

    objects: Sequence[Object]
    workload: Object
    number: int  # last number of its address
    folder: Path
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)  # by container

    @property
    def name(self) -> str:
        return f"{self.workload['metadata']['name']}-{self.number}"

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    def start(self) -> "Pod":
        """Sidecars first, as the kubelet does."""
        link = f"pod{self.number}"
        sh(f"ip netns add {self.name}")
        sh(f"ip link add name {link} type veth peer name eth0 netns {self.name}")
        sh(f"ip link set {link} master pods up")
        sh(f"ip -n {self.name} addr add {self.address}/24 dev eth0")
        sh(f"ip -n {self.name} link set eth0 up")
        sh(f"ip -n {self.name} link set lo up")
        for container in containers_of(self.workload):
            self._spawn(container)
        return self

    def _spawn(self, container: Object) -> None:
        own = {
            entry["name"]: {"status.podIP": self.address, "metadata.name": self.name}[path]
            for entry in container.get("env", ())
            if (path := entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath"))
        }
        clean = {key: value for key, value in os.environ.items() if not key.startswith("TRIVIUM_")}
        environment = clean | variables(container, self.objects) | own
        command = [self._word(word, own) for word in self._command(container)]
        with (self.folder / f"{self.name}-{container['name']}.log").open("wb") as log:
            self.processes[container["name"]] = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command], env=environment, cwd=ROOT, stdout=log, stderr=log
            )

    def _command(self, container: Object) -> list[str]:
        if "command" not in container:
            component = self.workload["metadata"]["name"]
            return [sys.executable, "-m", component if component == "gateway" else f"services.{component}"]
        newer = "advertise_reconnect_timeout"  # than the Consul that Debian has
        return [program("consul"), *(word for word in container["command"][1:] if newer not in word)]

    def _word(self, word: str, values: dict[str, str]) -> str:
        for name, value in values.items():
            word = word.replace(f"$({name})", value)
        return word.replace("/consul/config/", f"{self._configuration()}/")

    def _configuration(self) -> Path:
        """A folder with Consul's configuration, whose data lies in another one of this pod's."""
        folder = self.folder / f"{self.name}-config"
        folder.mkdir(exist_ok=True)
        for volume in pod_of(self.workload)["volumes"]:
            if "configMap" in volume:
                for name, text in named(self.objects, "ConfigMap", volume["configMap"]["name"])["data"].items():
                    content = json.loads(text) | {"data_dir": str(self.folder / f"{self.name}-data")}
                    (folder / name).write_text(json.dumps(content))
        return folder

    def probe(self, name: str) -> str:
        """What a probe of the server's container hears."""
        asked = next(each for each in containers_of(self.workload) if each["name"] == "server")[f"{name}Probe"]["grpc"]
        request = health_pb2.HealthCheckRequest(service=asked["service"]).SerializeToString()
        with grpc.insecure_channel(f"{self.address}:{asked['port']}") as channel:
            try:
                check: Any = channel.unary_unary(CHECK)
                answer = check(request, timeout=2)
            except grpc.RpcError as error:
                return str(error.code().name)
        status = health_pb2.HealthCheckResponse.FromString(answer).status
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))

    def until(self, name: str) -> "Pod":
        """Returns when the probe succeeds."""
        deadline = time.monotonic() + LIMIT_S
        while self.probe(name) != "SERVING":
            log = (self.folder / f"{self.name}-server.log").read_text()
            assert time.monotonic() < deadline, f"{self.name}: {name} is {self.probe(name)}\n{log[-2000:]}"
            assert self.processes["server"].poll() is None, f"{self.name} ended\n{log[-2000:]}"
            time.sleep(0.2)
        return self

    def leave(self) -> dict[str, Any]:
        """preStop, SIGTERM, then the sidecars: exit code, and seconds altogether."""
        started = time.monotonic()
        server = next(each for each in containers_of(self.workload) if each["name"] == "server")
        subprocess.run(
            server.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["true"]), check=True
        )
        code = None
        for name in reversed(self.processes):
            self.processes[name].send_signal(signal.SIGTERM)
            ended = self.processes[name].wait(LIMIT_S)
            code = ended if name == "server" else code
        return {"code": code, "seconds": time.monotonic() - started}


@dataclass
class Traffic:
    """Callers of the gateways, each at one of them."""

    gateways: Sequence[Pod]
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> list[threading.Thread]:
        """Starts them."""
        threads = [threading.Thread(target=self._call, args=(gateway,)) for gateway in self.gateways]
        for thread in threads:
            thread.start()
        return threads

    def end(self, threads: list[threading.Thread]) -> None:
        """Ends them after the calls that they make."""
        self._over.set()
        for thread in threads:
            thread.join()

    def more(self, calls: int) -> None:
        """Returns when so many further calls have ended."""
        wanted = self.answered + len(self.failures) + calls
        while self.answered + len(self.failures) < wanted:
            time.sleep(0.05)

    def _call(self, gateway: Pod) -> None:
        with Client(f"{gateway.address}:8001") as client:
            while not self._over.is_set():
                try:
                    client.classify(IMAGE)
                    self.answered += 1
                except TriviumCallError as error:
                    self.failures.append(str(error))


def scenario(objects: Sequence[Object], folder: Path) -> Iterator[tuple[str, Any]]:
    """A start from nothing, then a roll-out of vision and the death of a Consul server under traffic."""

    def start(kind: str, name: str, *numbers: int) -> list[Pod]:
        return [Pod(objects, named(objects, kind, name), number, folder).start() for number in numbers]

    consul = start("StatefulSet", "consul", *SERVERS)
    gateways = start("Deployment", "gateway", 10, 11)
    gateways[0].until("startup")  # Consul has a leader and has answered
    yield "gateway without instances", {name: gateways[0].probe(name) for name in ("readiness", "liveness")}
    vision = start("Deployment", "vision", 20, 21)
    others = start("Deployment", "sequence", 30) + start("Deployment", "language", 31)
    for pod in (*vision, *others, *gateways):
        pod.until("startup").until("readiness").until("liveness")
    yield "ready", len([*vision, *others, *gateways])
    traffic = Traffic(gateways)
    threads = traffic.run()
    traffic.more(20)
    new = start("Deployment", "vision", 22, 23)
    for pod in new:
        pod.until("readiness")
    time.sleep(new[0].workload["spec"]["minReadySeconds"])
    yield "left", [pod.leave() for pod in vision]
    traffic.more(20)
    consul[0].processes["consul"].kill()
    traffic.more(100)
    traffic.end(threads)
    yield "answered", traffic.answered
    yield "failures", traffic.failures
    yield "gateway left", gateways[0].leave()


def main() -> None:
    """In namespaces that the caller has made."""
    objects = build(DEPLOY / "overlays/cpu")
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder, "hosts")
        names.write_text("127.0.0.1 localhost\n" + "".join(f"{NETWORK}.{number} consul\n" for number in SERVERS))
        sh("mount --make-rprivate /")
        sh("mount -t tmpfs none /run")
        sh(f"mount --bind {names} /etc/hosts")
        sh("ip link set lo up")
        sh("ip link add name pods type bridge")
        sh(f"ip addr add {NETWORK}.254/24 dev pods")
        sh("ip link set pods up")
        try:
            print(json.dumps(dict(scenario(objects, Path(folder)))))
        except AssertionError as error:
            print(f"{error}", file=sys.stderr)
            raise


if __name__ == "__main__":
    main()
