"""The two faces of asyncio's transports: bytes from uvloop, a shared buffer from stock asyncio.

uvloop reads into one buffer of its loop and hands out `bytes` of the size received. Stock asyncio would
allocate 256 KiB for every read; with `BufferedProtocol` all connections of a loop read into one buffer here.
Either way an idle connection owns no buffer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from oxid.errors import TransportError

READ_SIZE: Final = 256 * 1024
"""Bytes of one read: what asyncio and libuv use."""

_buffers: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[bytearray, memoryview]] = WeakKeyDictionary()


def shared_buffer(loop: asyncio.AbstractEventLoop) -> tuple[bytearray, memoryview]:
    """The receive buffer of a loop; valid within one callback."""
    found = _buffers.get(loop)
    if found is None:
        buffer = bytearray(READ_SIZE)
        found = _buffers[loop] = (buffer, memoryview(buffer))
    return found


def hands_out_bytes(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop has a receive buffer of its own (uvloop)."""
    return type(loop).__module__.startswith("uvloop")


class SharedBufferFace(asyncio.BufferedProtocol):
    """Gives what arrives in the shared buffer to a connection."""

    __slots__ = ("_receive", "_view", "connection")

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.connection = connection
        self._receive = connection.data_received
        _, self._view = shared_buffer(loop)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.connection.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view  # a view: TLS slices it to read on, and a slice of the bytearray would be a copy

    def buffer_updated(self, nbytes: int) -> None:
        self._receive(bytes(self._view[:nbytes]))

    def eof_received(self) -> None:
        return None

    def pause_writing(self) -> None:
        self.connection.pause_writing()

    def resume_writing(self) -> None:
        self.connection.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self.connection.connection_lost(error)


def face_of(connection: Any, loop: asyncio.AbstractEventLoop) -> Any:
    """The protocol object to give to this loop for a connection."""
    return connection if hands_out_bytes(loop) else SharedBufferFace(connection, loop)


class _Arrival(asyncio.Protocol):
    """Has a new connection until whoever asked for it is known to get it."""

    def __init__(self) -> None:
        self._early: list[bytes] = []
        self._lost: tuple[Exception | None] | None = None

    def data_received(self, data: bytes) -> None:
        self._early.append(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = (error,)

    def hand_over(
        self, transport: asyncio.BaseTransport, connection: Any, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Tell the connection what has happened so far; the rest it hears itself."""
        own = isinstance(connection, asyncio.BaseProtocol)
        transport.set_protocol(connection if own else face_of(connection, loop))
        connection.connection_made(transport)
        for data in self._early:
            connection.data_received(data)
        if self._lost is not None:
            connection.connection_lost(*self._lost)


async def connect(connection: Any, host: str | None = None, port: int | None = None, **options: Any) -> None:
    """Connect, and give the connection to `connection`: it hears `connection_made` only where this returns.

    Whoever cancels `loop.create_connection` at its end gets a protocol that was told of a connection and, on uvloop,
    never hears of its end. Here nobody has been told by then. Options as of the loop's. Raises OSError.
    """
    loop, arrival = asyncio.get_running_loop(), _Arrival()
    where: Any = (host, port)  # both None with `sock`
    transport, _ = await loop.create_connection(lambda: arrival, *where, **options)
    arrival.hand_over(transport, connection, loop)


async def connect_locally(connection: Any, path: str) -> None:
    """The same with a Unix socket."""
    loop, arrival = asyncio.get_running_loop(), _Arrival()
    transport, _ = await loop.create_unix_connection(lambda: arrival, path)
    arrival.hand_over(transport, connection, loop)


def vector_writer(transport: Any, loop: asyncio.AbstractEventLoop) -> Callable[[list[Any]], object]:
    """How several buffers are written at once.

    uvloop takes them as they are. Stock asyncio's `writelines` joins them itself up to 3.11, and in some 3.12 and
    3.13 it never tells that the peer does not read (CVE-2024-12254): there they are joined here.
    """
    if hands_out_bytes(loop):
        write: Callable[[list[Any]], object] = transport.writelines
        return write
    return lambda buffers: transport.write(b"".join(buffers))


def look_for_the_vanished(link: Any, idle: float, *, times: int = 8, unacknowledged: float = 0.0) -> None:
    """A machine that vanished says nothing, and its connection stays: let the kernel ask whether it is there.

    `link` is a socket, or None for what has none. After `idle` seconds of silence it asks `times` times, a quarter of
    that apart; `unacknowledged`: seconds that bytes may wait for an acknowledgement, 0 for the system's quarter of an
    hour.
    """
    if link is None:
        return
    whole = max(1, min(round(idle), 32767))
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, whole)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, whole // 4))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, times)
    if unacknowledged:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(unacknowledged * 1000))


def transport_error(host: str, port: int, error: OSError | TimeoutError) -> TransportError:
    """The one-line reason why a connection could not be made."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or "timed out"
    if isinstance(error, TimeoutError) and not isinstance(error, OSError):
        reason = "timed out"
    made = TransportError(f"cannot connect to {host}:{port}: {reason}")
    made.remedy = "check host, port and firewall, and that the server runs"
    return made
