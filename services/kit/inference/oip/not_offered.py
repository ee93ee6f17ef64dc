"""Triton's methods that exist in no Trivium: each says so, instead of looking like a typing error."""

from services.kit.call import Call
from services.kit.errors import UnknownMethod
from services.kit.transport.method import Method, raw

PREFIX = "/inference.GRPCInferenceService/"
SHARED_MEMORY = "shared memory is not offered: send tensors in the request"
METHODS = {
    "SystemSharedMemoryStatus": SHARED_MEMORY,
    "SystemSharedMemoryRegister": SHARED_MEMORY,
    "SystemSharedMemoryUnregister": SHARED_MEMORY,
    "CudaSharedMemoryStatus": SHARED_MEMORY,
    "CudaSharedMemoryRegister": SHARED_MEMORY,
    "CudaSharedMemoryUnregister": SHARED_MEMORY,
    "TraceSetting": "trace settings cannot be read or changed by a call",
    "LogSettings": "log settings cannot be read or changed by a call: LOG__LEVEL sets them at start-up",
}


def not_offered() -> dict[str, Method]:
    """A method for each path, which answers UNIMPLEMENTED and why."""
    return {method.path: method for method in (_refusing(name, why) for name, why in METHODS.items())}


def _refusing(name: str, why: str) -> Method:
    async def refuse(request: bytes, call: Call) -> bytes:
        raise UnknownMethod(f"{name}: {why}", method=call.method)

    return raw(f"{PREFIX}{name}", refuse, request_streaming=False, response_streaming=False)
