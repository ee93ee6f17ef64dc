"""Method: one rpc as the transport serves it, and how a servicer becomes a table of them."""

import functools
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from services.kit.call import Call
from services.kit.errors import UnknownMethod
from services.kit.wire import parsed
from trivium.common.v1 import options_pb2


class Servicer(Protocol):
    """An object with one coroutine function, or async generator, per rpc, named in snake_case; it gives messages or
    their bytes.

    unary -> unary: `async def f(self, request, call) -> response`; unary -> stream: an async generator of the same
    arguments; where the caller streams, the first argument is an async iterator of requests.
    """

    service: ClassVar[ServiceDescriptor]


@dataclass(frozen=True, slots=True)
class Method:
    """One rpc: where it is, which sides stream, and what answers it.

    The handler's first argument is what `parse` returns, or an async iterator of that where the caller streams; its
    result, or each item of its async iterator where the server streams, goes through `serialize`.
    """

    path: str  # "/package.Service/Method"; the label of its metrics too
    request_streaming: bool
    response_streaming: bool
    handler: Callable[[Any, Call], Any]
    parse: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]
    live: bool = False  # its streams last long and are mostly silent: admission has a limit of its own for them


def raw(
    path: str,
    handler: Callable[[Any, Call], Any],
    *,
    request_streaming: bool,
    response_streaming: bool,
    live: bool = False,
) -> Method:
    """A method whose handler takes and gives bytes."""
    return Method(path, request_streaming, response_streaming, handler, _same, _same, live)


def methods_of(servicer: Servicer, service_name: str | None = None) -> Mapping[str, Method]:
    """The methods of a servicer by path; an rpc that it does not have is left out.

    Args:
        service_name: serve under this full name instead of the descriptor's (reflection has two).
    """
    prefix = service_name or servicer.service.full_name
    methods = (
        _method(f"/{prefix}/{found.name}", found, handler)
        for found in servicer.service.methods
        if (handler := getattr(servicer, snake_case(found.name), None)) is not None
    )
    return {method.path: method for method in methods}


def merged(tables: Iterable[Mapping[str, Method]]) -> dict[str, Method]:
    """One table of all methods."""
    return {path: method for table in tables for path, method in table.items()}


def unknown_method(path: str) -> Method:
    """What answers a path that nothing serves."""

    def refuse(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        raise UnknownMethod(f"nothing here serves {path[:200]}", method=path)

    return raw("unknown", refuse, request_streaming=True, response_streaming=True)


def snake_case(name: str) -> str:
    """ClassifyStream -> classify_stream."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _method(path: str, found: MethodDescriptor, handler: Callable[[Any, Call], Any]) -> Method:
    parse = functools.partial(parsed, GetMessageClass(found.input_type))
    live = found.client_streaming and found.GetOptions().Extensions[options_pb2.resumable]
    return Method(path, found.client_streaming, found.server_streaming, handler, parse, _serialize, live)


def _serialize(message: Any) -> bytes:
    """Of a message, or of one that its handler has serialized itself."""
    data: bytes = message if isinstance(message, bytes) else message.SerializeToString()
    return data


def _same(data: Any) -> Any:
    return data
