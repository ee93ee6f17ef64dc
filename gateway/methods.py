"""What is known of every method: arity, whether it is safe to repeat, where it names its model.

Read from the descriptors that are shipped with the protos, and from those that instances give by reflection.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

import structlog
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodOptions
from google.protobuf.descriptor_pool import DescriptorPool

from gateway.addressing import OIP, Address, address_of
from services.kit.discovery.client import consul_service
from services.kit.transport.health import Health
from services.kit.transport.reflection import Reflection
from trivium.common.v1 import options_pb2

ANY = ""  # in the place of a Consul service: every service serves the package
SHARED_PACKAGES = frozenset({"inference", "trivium.models.v1"})
MODEL_INFER = f"{OIP}ModelInfer"
# The Open Inference Protocol marks no method: of its own all but these can be repeated.
OIP_UNSAFE = frozenset({f"{OIP}RepositoryModelLoad", f"{OIP}RepositoryModelUnload"})


@dataclass(frozen=True, slots=True)
class Rpc:
    """One method as the gateway forwards it."""

    path: str  # "/trivium.vision.v1.VisionService/Classify"
    service: str  # Consul service, or ANY
    request_streaming: bool = True  # a stream both ways carries a unary call too
    response_streaming: bool = True
    safe: bool = False  # the same call twice is as good as once
    resumable: bool = False
    address: Address | None = None


class Methods:
    """The methods that are known, by path, and the pool of their descriptors, which reflection answers from."""

    def __init__(self) -> None:
        self.pool = DescriptorPool()
        self._files: set[str] = set()
        self._messages: dict[str, DescriptorProto] = {}
        self._rpcs: dict[str, Rpc] = {}
        self._services: dict[str, list[str]] = {}  # full gRPC names by Consul service

    @classmethod
    def shipped(cls) -> "Methods":
        """With the descriptors that lie beside the generated code."""
        methods = cls()
        data = (resources.files("trivium") / "descriptors.binpb").read_bytes()
        methods.add(FileDescriptorSet.FromString(data).file)
        for service in (Health.service, Reflection.service):  # the gateway's own, for reflection only
            methods.pool.AddSerializedFile(service.file.serialized_pb)
        return methods

    def add(self, files: Iterable[FileDescriptorProto]) -> None:
        """Learns files, each after those that it imports; one that is known by name is left as it is."""
        waiting = {file.name: file for file in files if file.name not in self._files}
        for name in list(waiting):
            self._add(name, waiting)

    def find(self, path: str) -> Rpc | None:
        """What is known of the method; None if nothing is."""
        return self._rpcs.get(path)

    def services(self, consul: str) -> list[str]:
        """Full names of the gRPC services that belong to a Consul service."""
        return self._services.get(consul, [])

    def knows(self, service: str) -> bool:
        """Whether the gRPC service of that full name is described."""
        return any(service in names for names in self._services.values())

    def _add(self, name: str, waiting: dict[str, FileDescriptorProto]) -> None:
        file = waiting.pop(name, None)
        if file is None:
            return
        for dependency in file.dependency:
            self._add(dependency, waiting)
        try:
            self.pool.AddSerializedFile(file.SerializeToString())
        except (TypeError, KeyError) as error:  # names a type that another file defines already, or an absent import
            structlog.get_logger().warning("descriptors_refused", file=name, error=str(error))
            return
        self._files.add(name)
        prefix = f"{file.package}." if file.package else ""
        self._messages.update({f".{prefix}{message.name}": message for message in file.message_type})
        for service in file.service:
            self._services.setdefault(consul_name(file.package), []).append(f"{prefix}{service.name}")
            for method in service.method:
                path = f"/{prefix}{service.name}/{method.name}"
                self._rpcs[path] = Rpc(
                    path=path,
                    service=consul_name(file.package),
                    request_streaming=method.client_streaming,
                    response_streaming=method.server_streaming,
                    safe=_safe(path, method.options),
                    resumable=method.options.Extensions[options_pb2.resumable],
                    address=address_of(path, self._messages.get(method.input_type)),
                )


def consul_name(package: str) -> str:
    """The Consul service whose instances serve a package, or ANY."""
    return ANY if package in SHARED_PACKAGES else consul_service(package)


def undescribed(path: str) -> Rpc:
    """A method seen on the wire only: forwarded to an instance of its package as a stream both ways."""
    return Rpc(path, consul_name(package_of(path)))


def package_of(path: str) -> str:
    """The package in "/package.Service/Method"."""
    return path.removeprefix("/").partition("/")[0].rpartition(".")[0]


def _safe(path: str, options: MethodOptions) -> bool:
    if path.startswith(OIP):
        return path not in OIP_UNSAFE
    return options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS
