"""Connections between two parts of one process that would otherwise meet over loopback: an RPC proxy and its server.

    nearby(loop).offer("127.0.0.1", 593, accept)       a listener of this loop; `accept()` makes its protocol
    transport = connect_near(loop, "127.0.0.1", 593, protocol)    None where nobody here listens
    nearby(loop).withdraw("127.0.0.1", 593)

Two transports are joined: what one writes, the other's protocol gets in a later turn of the loop, as from a socket. A
side that does not read is felt: `pause_writing` comes at the same marks. No system call, no descriptor, no buffer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from oxid.runtime.tcp import SharedBufferFace

HIGH: Final = 64 * 1024
"""Bytes that wait before the writer is told to pause; what asyncio's transports have."""

Accept = Callable[[], Any]


class Nearby:
    """The listeners of one loop that can be reached without a socket."""

    def __init__(self) -> None:
        self._offers: dict[tuple[str, int], Accept] = {}

    def offer(self, host: str, port: int, accept: Accept) -> None:
        """Whoever connects to this address from here is accepted by `accept()`, a protocol or its face."""
        self._offers[host, port] = accept

    def withdraw(self, host: str, port: int) -> None:
        """Nobody listens there any more."""
        self._offers.pop((host, port), None)

    def find(self, host: str, port: int) -> Accept | None:
        """Who listens at this address, itself or as any address."""
        found = self._offers.get((host, port))
        if found is None and host.startswith("127."):
            found = self._offers.get(("0.0.0.0", port))
        return found

    def __repr__(self) -> str:
        return f"<Nearby {len(self._offers)} listeners>"


_nearby: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Nearby]] = WeakKeyDictionary()


def nearby(loop: asyncio.AbstractEventLoop) -> Nearby:
    """The listeners of a loop."""
    found = _nearby.get(loop)
    if found is None:
        found = _nearby[loop] = Nearby()
    return found


def connect_near(
    loop: asyncio.AbstractEventLoop, host: str, port: int, protocol: Any
) -> NearTransport | None:
    """Connect a protocol with a listener of this loop; None where there is none at this address."""
    accept = nearby(loop).find(host, port)
    if accept is None:
        return None
    here, there = NearTransport(loop, (host, 0), (host, port)), NearTransport(loop, (host, port), (host, 0))
    here.join(there)
    here.set_protocol(protocol)
    there.set_protocol(accept())
    protocol.connection_made(here)
    there.made()
    return here


class NearTransport:
    """One of the two ends; speaks as a transport of asyncio does."""

    __slots__ = (
        "_closing",
        "_ended",
        "_eof_written",
        "_high",
        "_inbox",
        "_local",
        "_loop",
        "_other",
        "_paused",
        "_peer",
        "_protocol",
        "_receive",
        "_scheduled",
        "_size",
        "_stalled",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, local: tuple[str, int], peer: tuple[str, int]
    ) -> None:
        self._loop = loop
        self._local, self._peer = local, peer
        self._other: NearTransport | None = None
        self._protocol: Any = None
        self._receive: Any = None
        self._inbox: list[bytes] = []
        """What the other wrote and we have not delivered."""
        self._size = 0
        self._high = HIGH
        self._scheduled = False
        self._paused = False
        self._stalled = False
        """Our protocol was told not to write."""
        self._ended = False
        """The other writes no more."""
        self._eof_written = False
        self._closing = False

    def join(self, other: NearTransport) -> None:
        """Both are each other's peer from now on."""
        self._other, other._other = other, self

    def made(self) -> None:
        self._protocol.connection_made(self)

    # Writing ------------------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        other = self._other
        if other is None or self._closing or self._eof_written or other._closing:
            return
        other._inbox.append(data if type(data) is bytes else bytes(data))
        size = other._size = other._size + len(data)
        if not other._scheduled and not other._paused:
            other._scheduled = True
            self._loop.call_soon(other._deliver)
        if size > self._high and not self._stalled:
            self._stalled = True
            self._protocol.pause_writing()

    def writelines(self, buffers: list[Any]) -> None:
        self.write(b"".join(buffers))

    def write_eof(self) -> None:
        """Send no more; the other may still."""
        if not self._eof_written and not self._closing and self._other is not None:
            self._eof_written = True
            self._other._end()

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH if high is None else high

    def get_write_buffer_size(self) -> int:
        return 0 if self._other is None else self._other._size

    # Reading ------------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        self._scheduled = False
        if self._paused or self._closing:
            return
        inbox = self._inbox
        if inbox:
            data = inbox[0] if len(inbox) == 1 else b"".join(inbox)
            inbox.clear()
            self._size = 0
            other = self._other
            if other is not None and other._stalled:
                other._reads_again()
            try:
                self._receive(data)
            except Exception as error:
                self._failed(error)
        if self._ended and not self._inbox and not self._paused and not self._closing:
            self._ended = False
            if not self._protocol.eof_received():
                self.close()

    def _failed(self, error: Exception) -> None:
        """Our protocol raised: as with sockets, that is told and ends the connection."""
        self._loop.call_exception_handler(
            {"message": "a connection within the process failed", "exception": error, "transport": self}
        )
        self.abort()

    def _reads_again(self) -> None:
        self._stalled = False
        if not self._closing:
            self._protocol.resume_writing()

    def _end(self) -> None:
        """The other has written its last."""
        self._ended = True
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and not self._paused:
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            if self._inbox or self._ended:
                self._schedule()

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    # Who, and the end ---------------------------------------------------------------------------------------

    def set_protocol(self, protocol: Any) -> None:
        """Give what comes to this protocol; the face that stock asyncio's sockets need is looked through."""
        if isinstance(protocol, SharedBufferFace):
            protocol = protocol.connection
        self._protocol = protocol
        self._receive = protocol.data_received

    def get_protocol(self) -> Any:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peername":
            return self._peer
        return self._local if name == "sockname" else default

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """The other gets what was written, then the end."""
        if self._closing:
            return
        self._closing = True
        self._inbox.clear()
        self._size = 0
        other = self._other
        if other is not None and not other._closing:
            other._end()
        self._loop.call_soon(self._lost)

    def abort(self) -> None:
        """The other gets nothing more but the end."""
        other = self._other
        if not self._closing and other is not None:
            other._inbox.clear()
            other._size = 0
        self.close()

    def _lost(self) -> None:
        protocol, self._protocol = self._protocol, None
        self._receive = self._other = None
        protocol.connection_lost(None)

    def __repr__(self) -> str:
        state = "closed" if self._closing else "paused" if self._paused else "open"
        return f"<NearTransport to {self._peer[0]}:{self._peer[1]}, {state}, {self._size} bytes wait>"
