"""The host's local control socket: one JSON object per line, asked and answered.

    async with open_control(path, {"status": lambda request: {...}}): ...     in the host
    ask(path, "status")                                                       in a command

The socket lies in the state directory and only the host's own user and root may speak to it (SO_PEERCRED).
Asking is not counted in the ledger: who looks must not change what is seen.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from oxid.errors import ConfigurationError, TransportError
from oxid.runtime.local_channel import check_path, is_served

Handler = Callable[[Mapping[str, Any]], "Mapping[str, Any] | Awaitable[Mapping[str, Any]]"]

log = logging.getLogger("oxid.runtime.control")

MAX_LINE: Final = 1 << 16
_PEER_CREDENTIALS = struct.Struct("3i")


@asynccontextmanager
async def open_control(path: Path, handlers: Mapping[str, Handler]) -> AsyncIterator[None]:
    """Answer requests on `path` until the block ends; a socket file that nobody serves is replaced.

    Raises ConfigurationError where another host serves the same state directory.
    """
    check_path(path)
    if is_served(path):
        raise ConfigurationError(f"another host serves {path.parent}: stop it, or choose another --state")
    path.unlink(missing_ok=True)
    open_writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.add(writer)
        try:
            if not _is_friend(writer):
                log.warning("a control request of another user was refused")
                return
            while line := await reader.readline():
                answer = _answer(line, handlers)
                if isinstance(answer, Awaitable):
                    answer = await answer
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError, asyncio.CancelledError):
            pass  # the asker went away, sent too long a line, or the host stops
        finally:
            open_writers.discard(writer)
            writer.close()

    server = await asyncio.start_unix_server(serve, path, limit=MAX_LINE)
    path.chmod(0o600)
    try:
        yield
    finally:
        server.close()
        for writer in open_writers:
            writer.close()
        await server.wait_closed()
        while open_writers:
            await asyncio.sleep(0)
        path.unlink(missing_ok=True)


def ask(path: Path, command: str, *, timeout_s: float = 5.0, **arguments: Any) -> dict[str, Any]:
    """Send one request and return the answer.

    Raises TransportError where no host serves the socket, ConfigurationError where it refuses the request.
    """
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(timeout_s)
            link.connect(str(path))
            link.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            with link.makefile("rb") as answers:
                line = answers.readline()
    except OSError as error:
        raise TransportError(f"no host answers on {path}: {error.strerror or error}") from error
    if not line:
        raise TransportError(f"the host on {path} closed the control connection")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise ConfigurationError(str(answer["error"]))
    return answer


def _answer(line: bytes, handlers: Mapping[str, Handler]) -> Mapping[str, Any] | Awaitable[Mapping[str, Any]]:
    try:
        request = json.loads(line)
        command = request["command"]
    except (ValueError, TypeError, KeyError):
        return {"error": "a request is one JSON object with a command"}
    handler = handlers.get(command)
    return handler(request) if handler else {"error": f"unknown command {command!r}"}


def _is_friend(writer: asyncio.StreamWriter) -> bool:
    link = writer.get_extra_info("socket")
    raw = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    _, uid, _ = _PEER_CREDENTIALS.unpack(raw)
    return uid in (0, os.getuid())
