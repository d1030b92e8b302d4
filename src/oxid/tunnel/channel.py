"""The sending side of a channel: window, queue, lifetime, plugged mode. [MS-RPCH] 3.2.1.1.4, 3.2.1.4.1

    channel.send(data, size, source)     RPC PDUs: now where window and lifetime allow, else they wait
    channel.send_rts(pdu)                an RTS PDU: now, whatever waits; behind `plug` it waits too
    channel.ack(received, window)        the receiver has room again
    channel.plug(), unplug()             everything waits; go on

A channel's lifetime counts every byte (RPC and RTS); some of it is kept back for RTS PDUs, so that a recycling can
always be finished.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from oxid.errors import RemoteProtocolError
from oxid.tunnel.pdus import pdu_length
from oxid.tunnel.ports import Buffer, Port
from oxid.tunnel.windows import U32, ReceiveWindow

UNLIMITED: Final = 1 << 62
RESERVE: Final = 4096
"""Bytes of a lifetime kept for RTS PDUs: seventy acknowledgments and the farewell."""

MAX_RTS_WAITING: Final = 1024
"""RTS PDUs behind a plugged channel."""


class SendingChannel:
    """What one party sends on one channel instance."""

    __slots__ = (
        "acked",
        "available",
        "blocked_since",
        "cookie",
        "drained",
        "former",
        "last",
        "lifetime",
        "now",
        "open",
        "plugged",
        "port",
        "queue",
        "queued",
        "room",
        "rts_queue",
        "sent",
        "size",
    )

    def __init__(
        self,
        port: Port,
        cookie: bytes,
        window: int,
        now: Callable[[], float],
        *,
        lifetime: int = UNLIMITED,
        plugged: bool = False,
    ) -> None:
        self.port = port
        self.cookie = cookie
        self.former: deque[bytes] = deque(maxlen=8)
        """The cookies before recyclings that kept this connection: acknowledgments may be late by some. Each takes
        half of a lifetime, 64 KiB, and no window is above 256 KiB: more than four cannot be under way."""
        self.size = window
        """The receiver's window."""
        self.available = window
        self.sent = 0
        self.acked = 0
        """The latest BytesReceived."""
        self.lifetime = lifetime
        self.room = lifetime - RESERVE
        """What is left of the lifetime for RPC PDUs."""
        self.plugged = plugged
        self.open = not plugged
        """Whether RPC PDUs may be sent past the queue."""
        self.queue: deque[tuple[Any, int, ReceiveWindow | None]] = deque()
        self.rts_queue: list[Buffer] = []
        self.queued = 0
        self.blocked_since: float | None = None
        """Since when the receiver's window is too small for what waits."""
        self.drained: Callable[[], None] | None = None
        """Called, once, when nothing waits any more."""
        self.now = now
        self.last = now()
        """When the last byte was sent."""

    # RPC --------------------------------------------------------------------------------------------------

    def send(self, data: Buffer, size: int, source: ReceiveWindow | None = None) -> None:
        """Send RPC PDUs that lie in one buffer; they came through the window `source`."""
        if self.open and size <= self.available and size <= self.room:
            self.available -= size
            self.sent += size
            self.room -= size
            self.last = self.now()
            self.port.write(data)
            if source is not None:
                source.passed(size)
            return
        if source is not None:
            source.arrive(size)
        if type(data) is memoryview and size << 2 < len(data.obj):  # type: ignore[arg-type]  # obj is our bytes
            data = bytes(data)  # a small one must not keep a whole read alive
        self.put(data, size, source)
        self.flush()

    def put(self, data: Buffer, size: int, source: ReceiveWindow | None) -> None:
        """Queue RPC PDUs without trying to send; `source` has counted them already."""
        self.queue.append((data, size, source))
        self.queued += size
        self.open = False

    def send_all(self, buffers: list[Any]) -> None:
        """Send RPC PDUs that are whole when all buffers are taken together."""
        size = sum(map(len, buffers))
        if self.open and size <= self.available and size <= self.room:
            self.available -= size
            self.sent += size
            self.room -= size
            self.last = self.now()
            self.port.write_all(buffers)
        else:
            self.put(b"".join(buffers), size, None)
            self.flush()

    def flush(self) -> None:
        """Send what waits, as much as window and lifetime allow. RH-70

        Raises RemoteProtocolError for a PDU that the receiver's window can never take.
        """
        if self.plugged:
            return
        queue = self.queue
        while queue:
            data, size, source = queue[0]
            fits = min(self.available, self.room)
            if size > fits:
                whole = self._prefix(data, size, fits)
                if not whole:
                    if self.available < self.size and self.blocked_since is None:
                        self.blocked_since = self.now()
                    return
                view = memoryview(data)
                queue[0] = (view[whole:], size - whole, source)
                data, size = view[:whole], whole
            else:
                queue.popleft()
            self.queued -= size
            self.available -= size
            self.sent += size
            self.room -= size
            self.last = self.now()
            self.port.write(data)
            if source is not None:
                source.release(size)
        self.blocked_since = None
        self.open = not self.plugged
        drained, self.drained = self.drained, None
        if drained is not None:
            drained()

    def _prefix(self, data: Buffer, size: int, fits: int) -> int:
        """How many bytes of whole PDUs at the front of a buffer fit."""
        at = 0
        while at < size:
            length = pdu_length(data, at)
            if length > self.size:
                raise RemoteProtocolError(f"PDU of {length} bytes, the window has {self.size}")
            if at + length > fits:
                break
            at += length
        return at

    def hand_over(self, successor: SendingChannel) -> None:
        """Give what waits to the channel that succeeds this one, before what waits there already."""
        successor.queue.extendleft(reversed(self.queue))
        successor.queued += self.queued
        successor.open = False
        successor.drained, self.drained = self.drained, None
        self.queue.clear()
        self.queued = 0
        self.blocked_since = None

    # RTS --------------------------------------------------------------------------------------------------

    def send_rts(self, pdu: Buffer) -> None:
        """Send an RTS PDU past everything that waits for the window. RH-61"""
        if self.plugged:
            if len(self.rts_queue) >= MAX_RTS_WAITING:
                raise RemoteProtocolError(f"{MAX_RTS_WAITING} RTS PDUs wait for a channel")
            self.rts_queue.append(pdu)
            return
        self.room -= len(pdu)
        self.last = self.now()
        self.port.write(pdu)

    def send_plain(self, pdu: Buffer) -> None:
        """Send an RTS PDU even when plugged: one that is part of the establishment itself."""
        self.room -= len(pdu)
        self.last = self.now()
        self.port.write(pdu)

    # Window and mode --------------------------------------------------------------------------------------

    def knows(self, cookie: bytes) -> bool:
        """Whether an acknowledgment with this cookie is for this channel."""
        return cookie == self.cookie or cookie in self.former

    def ack(self, received: int, window: int) -> None:
        """The receiver acknowledges. Raises RemoteProtocolError for what cannot be. RH-72

        BytesReceived never wraps within a lifetime of 2 GiB, but a connection between proxy and server outlives
        the channels of clients: the difference is taken in 32 bits. An acknowledgment may be overtaken by a later
        one where the channel it travels on is recycled meanwhile: the older says nothing new.
        """
        under_way = (self.sent - received) & U32
        reached = self.sent - under_way
        if 0 <= reached < self.acked and window <= self.size:
            return
        if window > self.size or under_way > window or reached < 0:
            raise RemoteProtocolError(
                f"acknowledgment of {received} bytes with {window} free: {self.sent} sent, window {self.size}"
            )
        self.acked = reached
        self.available = window - under_way
        self.blocked_since = None
        if self.queue:
            self.flush()

    def set_window(self, size: int) -> None:
        """The receiver says how large its window is; nothing was sent before."""
        self.size = size
        self.available = size - self.sent

    def renew(self, cookie: bytes, lifetime: int | None = None) -> None:
        """The connection stays, the channel through it is a new one: R2 recycling."""
        self.former.append(self.cookie)
        self.cookie = cookie
        if lifetime is not None:
            self.lifetime = lifetime
            self.room = lifetime - RESERVE

    def plug(self) -> None:
        self.plugged = True
        self.open = False

    def unplug(self) -> None:
        """Send what waited: RTS PDUs first, then RPC PDUs as the window allows."""
        self.plugged = False
        waiting, self.rts_queue = self.rts_queue, []
        for pdu in waiting:
            self.send_rts(pdu)
        self.flush()

    @property
    def left(self) -> int:
        """Bytes that are left of the lifetime."""
        return self.room + RESERVE

    @property
    def spent(self) -> int:
        """Bytes of the lifetime that are used."""
        return self.lifetime - self.left

    def clear(self) -> None:
        """The channel has ended: nothing of it may keep anything alive."""
        self.queue.clear()
        self.rts_queue.clear()
        self.queued = 0
        self.drained = None
        self.plug()

    def __repr__(self) -> str:
        return f"<SendingChannel {self.available} of {self.size} free, {self.queued} waiting>"


def when_drained(channel: SendingChannel, then: Callable[[], None]) -> None:
    """Call `then` once nothing waits at a channel; at once where nothing does."""
    if channel.queue:
        channel.drained = then
    else:
        then()
