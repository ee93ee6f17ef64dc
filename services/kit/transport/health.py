"""Health: grpc.health.v1 Check and Watch over a table of names."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar, cast

from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2

from services.kit.call import Call
from services.kit.errors import NameNotFound

Response = health_pb2.HealthCheckResponse
SERVING, NOT_SERVING, UNKNOWN = Response.SERVING, Response.NOT_SERVING, Response.SERVICE_UNKNOWN

# startup: loaded and warm, never goes back. readiness: wants calls now. liveness: the process answers at all.
STARTUP, READINESS, LIVENESS = "startup", "readiness", "liveness"


class Health:
    """Which names are SERVING: "", gRPC services, `model/NAME`, `model/NAME/VERSION` and the three probes."""

    service: ClassVar[ServiceDescriptor] = cast(Any, health_pb2.DESCRIPTOR).services_by_name["Health"]

    def __init__(self) -> None:
        self._status: dict[str, Any] = {
            LIVENESS: SERVING,
            STARTUP: NOT_SERVING,
            READINESS: NOT_SERVING,
            "": NOT_SERVING,
        }
        self._changed = asyncio.Event()
        self._closed = False

    def set(self, name: str, serving: bool) -> None:
        """Declares `name`, from now on known, as SERVING or NOT_SERVING."""
        self._change({name: SERVING if serving else NOT_SERVING})

    def replace(self, prefix: str, serving: dict[str, bool]) -> None:
        """Declares all names that begin with `prefix`; those of them not given are unknown from now on."""
        self._status = {name: status for name, status in self._status.items() if not name.startswith(prefix)}
        self._change({name: SERVING if ready else NOT_SERVING for name, ready in serving.items()})

    def serving(self, name: str) -> bool:
        """Whether `name` is known and SERVING."""
        return bool(self._status.get(name) == SERVING)

    def leave(self) -> None:
        """Everything but startup and liveness becomes NOT_SERVING."""
        self._change({name: NOT_SERVING for name in self._status if name not in (STARTUP, LIVENESS)})

    def close(self) -> None:
        """Ends every Watch: an open one would hold up the server's stop."""
        self._closed = True
        self._change({})

    async def check(self, request: health_pb2.HealthCheckRequest, call: Call) -> health_pb2.HealthCheckResponse:
        """The status of one name, NOT_FOUND for an unknown one."""
        status = self._status.get(request.service)
        if status is None:
            raise NameNotFound(f"no service or model is called {request.service!r} here", service=request.service)
        return Response(status=status)

    async def watch(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status of one name now and at each change; SERVICE_UNKNOWN while there is no such name."""
        last = None
        while not self._closed:
            changed = self._changed
            status = self._status.get(request.service, UNKNOWN)
            if status != last:
                last = status
                yield Response(status=status)
            await changed.wait()

    def _change(self, changes: dict[str, Any]) -> None:
        self._status.update(changes)
        self._changed.set()
        self._changed = asyncio.Event()
