"""Messages between processes of one machine: both ends ask, answer and tell, over a Unix socket.

    async with open_listener(path, accept): ...                 the resolver's end
    channel = await dial(path, handlers, on_lost)               a process's end
    answer = await channel.ask("reclaim", oids=[...])
    channel.tell("dropped", oid=7)

The connection is the proof of life: however a process ends, the kernel closes it, and `on_lost` runs at once. Who
is on the other side the kernel says too (SO_PEERCRED). A message is one JSON object behind its length; a reply
carries the number of its question. A peer that does not read, or sends nonsense, loses the connection.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from oxid.errors import (
    ConfigurationError,
    LocalProtocolError,
    OxidError,
    StatusError,
    TransportError,
    error_for,
)
from oxid.ledger import Counter
from oxid.runtime import forks
from oxid.runtime.tcp import connect_locally
from oxid.values.status import HResult

log = logging.getLogger("oxid.runtime.local")

MAX_MESSAGE: Final = 16 << 20
"""Bytes of one message. A process that asserts a hundred thousand objects again needs two million."""
MAX_UNREAD: Final = 32 << 20
"""Bytes that a peer may leave unread before it counts as hung."""
_LENGTH: Final = struct.Struct(">I")
_CREDENTIALS: Final = struct.Struct("3i")
_SUN_PATH: Final = 107  # sockaddr_un.sun_path less its NUL, linux/un.h

Answer: TypeAlias = "Mapping[str, Any] | None"
Handler: TypeAlias = Callable[..., "Answer | Awaitable[Answer]"]
"""Gets a message's fields as keyword arguments. An OxidError is its answer, too."""


class Peer(NamedTuple):
    """The process on the other side, as the kernel knows it."""

    pid: int
    uid: int
    gid: int


class LocalChannel(asyncio.Protocol):
    """One end of a connection; `lost` is set once it is gone."""

    def __init__(self, counter: Counter | None = None) -> None:
        self.handlers: Mapping[str, Handler] = {}
        self.on_lost: Callable[[], object] = lambda: None
        self.peer = Peer(0, -1, -1)
        self.lost = False
        self._counter = counter
        self._transport: Any = None
        self._received = bytearray()
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = 0
        self._answering: set[asyncio.Task[None]] = set()
        self._outgoing: list[bytes] | None = None
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # Talking ------------------------------------------------------------------------------------------

    def tell(self, what: str, **fields: Any) -> None:
        """Send a message that has no answer. Without a connection it is for nobody."""
        self._send({"do": what, **fields})

    async def ask(self, what: str, **fields: Any) -> dict[str, Any]:
        """Send a question and await its answer.

        Raises TransportError where the connection is gone or goes, and whatever OxidError the other side
        answered with.
        """
        if self.lost:
            raise TransportError("the other process is gone")
        self._numbers = number = self._numbers + 1
        waiter: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = waiter
        try:
            self._send({"do": what, "no": number, **fields})
            return await waiter
        finally:
            self._asked.pop(number, None)

    def _send(self, message: Mapping[str, Any]) -> None:
        if self.lost or self._transport is None:
            return
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) > MAX_MESSAGE:
            raise LocalProtocolError(f"a message of {len(data)} bytes, at most {MAX_MESSAGE} are allowed")
        # Joined until the turn of the loop ends: a burst of small messages is one system call.
        if self._outgoing is None:
            self._outgoing = []
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing += (_LENGTH.pack(len(data)), data)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, None
        if outgoing and not self.lost and self._transport is not None:
            self._transport.write(b"".join(outgoing))
            if self._transport.get_write_buffer_size() > MAX_UNREAD:
                log.warning("process %d does not read what it is told: cut off", self.peer.pid)
                self._transport.abort()

    # Listening ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        link = transport.get_extra_info("socket")
        self._descriptor = link.fileno()
        forks.watch(self)
        raw = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.peer = Peer(*_CREDENTIALS.unpack(raw))
        if self._counter is not None:
            self._counter.enter()

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        at = 0
        while len(received) - at >= 4 and not self.lost:
            (length,) = _LENGTH.unpack_from(received, at)
            if length > MAX_MESSAGE:
                self._misbehaved(f"a message of {length} bytes")
                return
            if len(received) - at - 4 < length:
                break
            body = bytes(received[at + 4 : at + 4 + length])
            at += 4 + length
            self._take(body)
        del received[:at]

    def descriptors(self) -> tuple[int, ...]:
        return (self._descriptor,)

    def after_fork(self) -> None:
        """We are a child of the process whose channel this is."""
        self.lost = True

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._transport = None
        forks.forget(self)
        if self._counter is not None:
            self._counter.leave()
        for waiter in self._asked.values():
            if not waiter.done():
                waiter.set_exception(TransportError("the other process is gone"))
        for task in list(self._answering):
            task.cancel()
        if not self._closed.done():
            self._closed.set_result(None)
        self.on_lost()

    def _take(self, body: bytes) -> None:
        try:
            message = json.loads(body)
            what, number = message.pop("do", None), message.pop("no", None)
        except (ValueError, AttributeError, RecursionError):
            self._misbehaved("what is no message")
            return
        if what is None:
            self._answered(number, message)
            return
        handler = self.handlers.get(what)
        if handler is None:
            self._reply(number, LocalProtocolError(f"unknown message {what!r}"))
            return
        try:
            answer = handler(**message)
        except (OxidError, TypeError, ValueError, KeyError, AttributeError) as error:
            self._reply(number, error)
            return
        if isinstance(answer, Awaitable):
            task = asyncio.get_running_loop().create_task(self._answer_later(number, answer))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif number is not None:
            self._send({"no": number, "ok": answer})

    async def _answer_later(self, number: int | None, answer: Awaitable[Answer]) -> None:
        try:
            result = await answer
        except (OxidError, TimeoutError, OSError, TypeError, ValueError, KeyError) as error:
            self._reply(number, error)
        else:
            if number is not None:
                self._send({"no": number, "ok": result})

    def _reply(self, number: int | None, error: BaseException) -> None:
        if not isinstance(error, OxidError):
            log.warning("a message of process %d failed", self.peer.pid, exc_info=error)
        if number is not None:
            self._send({"no": number, "error": _error_fields(error)})

    def _answered(self, number: Any, message: dict[str, Any]) -> None:
        waiter = self._asked.get(number)
        if waiter is None or waiter.done():
            return  # whoever asked does not wait any more
        if "error" in message:
            waiter.set_exception(_error_of(message["error"]))
        else:
            waiter.set_result(message.get("ok") or {})

    def _misbehaved(self, what: str) -> None:
        log.warning("process %d sent %s: cut off", self.peer.pid, what)
        self.lost = True
        self._transport.abort()

    # The end ------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """End the connection; what was told before still goes out."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    async def aclose(self) -> None:
        """End the connection and wait until it is gone. May be called twice."""
        self.cut()
        if self._transport is not None:
            await asyncio.shield(self._closed)
        if self._answering:
            await asyncio.gather(*self._answering, return_exceptions=True)

    def __repr__(self) -> str:
        return f"<LocalChannel to process {self.peer.pid}{' lost' if self.lost else ''}>"


def _error_fields(error: BaseException) -> dict[str, Any]:
    fields: dict[str, Any] = {"text": str(error) or type(error).__name__, "kind": type(error).__name__}
    return fields | {"code": error.status.code} if isinstance(error, StatusError) else fields


def _error_of(fields: Any) -> OxidError:
    if not isinstance(fields, dict):
        return TransportError("the other process failed")
    text, code = str(fields.get("text", "")), fields.get("code")
    if isinstance(code, int):
        return error_for(HResult(code), text)
    if fields.get("kind") == "ConfigurationError":
        return ConfigurationError(text)
    return LocalProtocolError(text)


@asynccontextmanager
async def open_listener(
    path: Path,
    accept: Callable[[], LocalChannel],
    *,
    mode: int = 0o600,
) -> AsyncIterator[None]:
    """Accept channels on a socket until the block ends; a socket file that nobody serves is replaced.

    Raises ConfigurationError where another process serves it, or where it cannot be made.
    """
    check_path(path)
    if is_served(path):
        raise ConfigurationError(f"another process serves {path}")
    if path.exists() and not path.is_socket():
        raise ConfigurationError(f"{path} is there already, and is no socket")
    try:
        path.unlink(missing_ok=True)
        before = os.umask(0o777 & ~mode)
        try:
            server = await asyncio.get_running_loop().create_unix_server(accept, str(path))
        finally:
            os.umask(before)
        path.chmod(mode)
        inode = path.stat().st_ino
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {path}: {error.strerror}") from error
    sockets = forks.Sockets(listening.fileno() for listening in server.sockets)
    forks.watch(sockets)
    try:
        yield
    finally:
        forks.forget(sockets)
        server.close()
        await server.wait_closed()
        try:
            if path.stat().st_ino == inode:  # not that of a successor
                path.unlink()
        except FileNotFoundError:
            pass


def check_path(path: Path) -> None:
    """Raises ConfigurationError where a socket cannot have this path."""
    size = len(os.fsencode(path))
    if size > _SUN_PATH:
        raise ConfigurationError(f"the socket's path has {size} bytes, {_SUN_PATH} are allowed: {path}")


def is_served(path: Path) -> bool:
    """Whether anybody listens on a socket, however busy it is."""
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(str(path))
        except OSError:
            return False
    return True


async def dial(
    path: Path,
    handlers: Mapping[str, Handler],
    on_lost: Callable[[], object],
    counter: Counter | None = None,
    *,
    of_user: int | None = None,
) -> LocalChannel:
    """Connect to whoever serves a socket. `of_user`: who that must be, or root.

    Raises TransportError where nobody does, or somebody else.
    """
    channel = LocalChannel(counter)
    try:
        await connect_locally(channel, str(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TransportError(f"nobody serves {path}: {reason}") from error
    channel.handlers = handlers
    if of_user is not None and channel.peer.uid not in (of_user, 0):
        await channel.aclose()
        raise TransportError(f"{path} is served by user {channel.peer.uid}, who is not trusted")
    channel.on_lost = on_lost
    return channel


def private_directory(path: Path) -> Path:
    """Make a directory that only its user can enter; an existing one must be such. ConfigurationError"""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise ConfigurationError(f"cannot make {path}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigurationError(f"{path} is not a directory of this user alone")
    return path
