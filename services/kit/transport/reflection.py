"""Reflection: grpc.reflection v1 and v1alpha over a pool of descriptors.

The two packages differ in nothing but their name, so the messages of v1alpha, the only ones in the Python package,
serve both. Source: grpc/reflection/v1/reflection.proto.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal, cast

from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import code_pb2
from grpc_reflection.v1alpha import reflection_pb2 as messages

from services.kit.call import Call
from services.kit.transport.method import Method, methods_of

NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

Request, Response = messages.ServerReflectionRequest, messages.ServerReflectionResponse


class Reflection:
    """Answers which services there are and what their files say.

    Args:
        pool: where symbols and files are looked up.
        names: the full names of the services served now.
    """

    service: ClassVar[ServiceDescriptor] = cast(Any, messages.DESCRIPTOR).services_by_name["ServerReflection"]

    def __init__(self, pool: DescriptorPool, names: Callable[[], Iterable[str]]) -> None:
        self.pool, self._names = pool, names
        self._closing = asyncio.Event()

    def methods(self) -> dict[str, Method]:
        """The methods of both versions by path."""
        return {path: method for name in NAMES for path, method in methods_of(self, name).items()}

    def close(self) -> None:
        """Ends every open stream: one would hold up the server's stop."""
        self._closing.set()

    async def server_reflection_info(
        self, requests: AsyncIterator[messages.ServerReflectionRequest], call: Call
    ) -> AsyncIterator[messages.ServerReflectionResponse]:
        """One response a request, in order; what is not found becomes an error_response, as the protocol says."""
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            while (request := await _next_unless(requests, closing)) is not None:
                yield self._answer(request)
        finally:
            closing.cancel()

    def _answer(self, request: messages.ServerReflectionRequest) -> messages.ServerReflectionResponse:
        response = Response(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        try:
            match kind:
                case "list_services":
                    for name in sorted({*self._names(), *NAMES}):
                        response.list_services_response.service.add(name=name)
                case "file_by_filename":
                    _add_files(response, self.pool.FindFileByName(request.file_by_filename))
                case "file_containing_symbol":
                    _add_files(response, self._file_of(request.file_containing_symbol))
                case "file_containing_extension":
                    wanted = request.file_containing_extension
                    message = self.pool.FindMessageTypeByName(wanted.containing_type)
                    extension: Any = self.pool.FindExtensionByNumber(message, wanted.extension_number)
                    _add_files(response, extension.file)
                case "all_extension_numbers_of_type":
                    message = self.pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                    numbers = response.all_extension_numbers_response
                    numbers.base_type_name = message.full_name
                    numbers.extension_number.extend(e.number for e in self.pool.FindAllExtensions(message))
                case _:
                    response.error_response.error_code = code_pb2.INVALID_ARGUMENT
                    response.error_response.error_message = "message_request is not set"
        except KeyError:
            response.error_response.error_code = code_pb2.NOT_FOUND
            response.error_response.error_message = f"{kind} of the request is not known here"
        return response

    def _file_of(self, symbol: str) -> FileDescriptor:
        if symbol == NAMES[0]:  # v1's own service: the file of its twin describes it
            symbol = NAMES[1]
        try:
            return self.pool.FindFileContainingSymbol(symbol)
        except KeyError:  # the pool knows no methods: ask for the method's service
            service, _, method = symbol.rpartition(".")
            if method not in self.pool.FindServiceByName(service).methods_by_name:
                raise
            return self.pool.FindFileContainingSymbol(service)


def _add_files(response: messages.ServerReflectionResponse, file: FileDescriptor) -> None:
    """The file and all that it imports, each once, so that a caller needs one round trip."""
    seen: dict[str, bytes] = {}
    _collect(file, seen)
    response.file_descriptor_response.file_descriptor_proto.extend(seen.values())


def _collect(file: FileDescriptor, seen: dict[str, bytes]) -> None:
    if file.name not in seen:
        seen[file.name] = file.serialized_pb
        for dependency in _dependencies(file):
            _collect(dependency, seen)


def _dependencies(file: FileDescriptor) -> Sequence[FileDescriptor]:
    found: Sequence[FileDescriptor] = file.dependencies
    return found


async def _next_unless(
    requests: AsyncIterator[messages.ServerReflectionRequest], closing: "asyncio.Future[Literal[True]]"
) -> messages.ServerReflectionRequest | None:
    """The next request; None if the caller is done or `closing` comes first."""
    following = asyncio.ensure_future(anext(requests, None))
    try:
        await asyncio.wait((following, closing), return_when=asyncio.FIRST_COMPLETED)
        return following.result() if following.done() else None
    finally:
        following.cancel()
