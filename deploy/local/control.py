"""The launcher's ear: a socket in the run's folder, on which `trivium stop` asks and waits for the answer.

One line of JSON each way: {"stop": "vision-1"}, then {"message": "..."} or {"error": "..."}.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

NAME = "control"

# Stops an instance and returns what happened in words; raises Refused.
Stop = Callable[[str], Awaitable[str]]


class Refused(Exception):
    """The launcher did not do what was asked; the text says why."""


@contextlib.asynccontextmanager
async def listening(folder: Path, stop: Stop) -> AsyncIterator[None]:
    """Answers requests until the block ends."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            writer.write(json.dumps(await _reply(await reader.readline(), stop)).encode() + b"\n")
            await writer.drain()

    listener = socket.socket(socket.AF_UNIX)
    (folder / NAME).unlink(missing_ok=True)
    with _short(folder) as path:
        listener.bind(path)
    server = await asyncio.start_unix_server(answer, sock=listener)
    try:
        yield
    finally:
        server.close()
        (folder / NAME).unlink(missing_ok=True)


async def _reply(request: bytes, stop: Stop) -> dict[str, str]:
    try:
        return {"message": await stop(str(json.loads(request)["stop"]))}
    except Refused as error:
        return {"error": str(error)}
    except (ValueError, KeyError, TypeError):
        return {"error": f"no request: {request!r}"}


def ask_to_stop(folder: Path, instance: str) -> str:
    """Asks the launcher of a run to stop an instance; returns, once it has ended, what happened in words.

    Raises:
        Refused: the launcher says no, or no launcher listens in that folder.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            with _short(folder) as path:
                connection.connect(path)
        except OSError:
            raise Refused(f"no run is up in {folder}") from None
        connection.sendall(json.dumps({"stop": instance}).encode() + b"\n")
        with connection.makefile("rb") as answer:
            reply = json.loads(answer.readline() or b'{"error": "the launcher ended before it answered"}')
    if "error" in reply:
        raise Refused(str(reply["error"]))
    return str(reply["message"])


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A path of the socket that fits: addresses of this family have about 100 bytes, folders may have more."""
    path = str(folder / NAME)
    if len(os.fsencode(path)) < 100:
        yield path
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)
