"""The messages of audio.proto, compiled when they are asked for."""

import functools
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

FOLDER = Path(__file__).parent


@functools.cache
def audio() -> FileDescriptor:
    """The file's descriptor, in the process's default pool."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "audio.binpb")
        assert protoc.main(["protoc", f"-I{FOLDER}", f"--descriptor_set_out={out}", "audio.proto"]) == 0
        compiled = FileDescriptorSet.FromString(out.read_bytes()).file[0]
    return descriptor_pool.Default().AddSerializedFile(compiled.SerializeToString())
