"""RPC over HTTP by hand: requests, PDUs and tunnels that a client of the soak may stop, spoil and tear anywhere.

wire = await place.wire()                     one connection to the web server
tunnel = RawTunnel(place, target)             both channels of one virtual connection
await tunnel.establish()                      up to CONN/C2
tunnel.send(bind(ECHO)); await tunnel.rpc()   PDUs inside

They cost a fraction of what our own client costs, which is why they make most of the sessions of a soak.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Self
from uuid import UUID

from oxid.interfaces.object_exporter import IObjectExporter
from oxid.rpc import pdu as p
from oxid.rpc.interface import spec_of
from oxid.rpc.pdu import ContextElement, PacketType, SyntaxId
from oxid.rpc.presentation import NDR20
from oxid.runtime.tcp import connect
from oxid.samples.echo import IEcho
from oxid.tunnel import rts
from oxid.world import World

HERE: Final = "127.0.0.1"
RPC_PATH: Final = "/rpc/rpcproxy.dll"
USER: Final = "soak"
PASSWORD: Final = "of sessions"
GIB: Final = 1 << 30
LIFE: Final = rts.MIN_LIFETIME
"""Bytes of a channel of the soak's proxy: the least there may be, so that channels are recycled."""
WINDOW: Final = 65536
FRAGMENT: Final = 5840
LEAVE: Final = struct.pack("ii", 1, 0)


class Wrong(Exception):
    """Something did not come as it must."""


class Ended(Wrong):
    """The server has ended a tunnel, where it must not."""


@dataclass(frozen=True, slots=True)
class Ports:
    """On this machine's loopback; `http_peers` tells what listens behind the proxy."""

    web: int
    resolver: int
    echo: int
    far_echo: int
    """The same interface in another process: the proxy has connections to that one."""
    closing: int
    """A server that hangs up."""
    nobody: int
    mute: int
    foreign: int
    silent: int


@dataclass
class Place:
    """Where a client is, and what it has seen."""

    ports: Ports
    period: float
    number: int = 0
    """Of the client's process."""
    counts: Counter[str] = field(default_factory=Counter)
    quiet: asyncio.Event = field(default_factory=asyncio.Event)
    """The soak wants rest: what takes long ends soon."""
    world: World = field(default_factory=World.real)
    setups: list[float] = field(default_factory=list)
    """Seconds in which virtual connections were made, until they are reported."""

    async def wire(self, local: str = "") -> Wire:
        """A new connection to the web server."""
        made = Wire(self)
        source = (local, 0) if local else None
        await connect(made, HERE, self.ports.web, local_addr=source)
        return made


class Wire(asyncio.Protocol):
    """One connection to the web server."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.received = bytearray()
        self.over = False
        self.transport: Any = None
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._wake()

    def eof_received(self) -> bool:
        self.over = True
        self._wake()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.over = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def more(self) -> bool:
        """Wait for bytes; False at the end of the connection."""
        if self.over:
            return False
        before = len(self.received)
        while not self.over and len(self.received) == before:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return len(self.received) > before

    def send(self, data: bytes) -> None:
        if not self.over:
            self.transport.write(data)

    async def head(self) -> bytes:
        """A response's head; b"" where the connection ended without one."""
        while (at := self.received.find(b"\r\n\r\n")) < 0:
            if not await self.more():
                return b""
        found = bytes(self.received[:at])
        del self.received[: at + 4]
        self._place.counts["answers"] += 1
        return found

    async def exactly(self, count: int) -> bytes:
        """So many bytes, or fewer where the connection ends."""
        while len(self.received) < count and await self.more():
            pass
        found = bytes(self.received[:count])
        del self.received[:count]
        return found

    async def pdu(self) -> bytes:
        """The next PDU; b"" at the end of the connection."""
        while len(self.received) < 10 or len(self.received) < self._length():
            if not await self.more():
                return b""
        return await self.exactly(self._length())

    def _length(self) -> int:
        return int.from_bytes(self.received[8:10], "little")

    async def ends(self) -> None:
        """Wait for the server's end of the connection; what still comes is thrown away."""
        while await self.more():
            self.received.clear()

    def reset(self) -> None:
        """RST."""
        if not self.transport.is_closing():
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LEAVE)
            self.transport.abort()

    def close(self) -> None:
        self.transport.close()


_ANSWER: Final = b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def head(method: str, target: str, length: int | None, authorization: str = _ANSWER) -> bytes:
    """The head of a tunnel's request. [MS-RPCH] 2.1.2.1"""
    sized = "" if length is None else f"Content-Length: {length}\r\n"
    return (
        f"{method} {RPC_PATH}?{target} HTTP/1.1\r\nHost: gateway\r\nUser-Agent: MSRPC\r\n"
        f"Authorization: Basic {authorization}\r\n{sized}\r\n"
    ).encode("latin-1")


class RawTunnel:
    """Both channels of one virtual connection."""

    def __init__(self, place: Place, port: int) -> None:
        self.place, self.target = place, f"{HERE}:{port}"
        entropy = place.world.entropy
        self.vc, self.in_cookie, self.out_cookie = (entropy.token(16) for _ in range(3))
        self.inward: Wire | None = None
        self.outward: Wire | None = None
        self.wires: list[Wire] = []
        self._taken = 0

    async def wire(self) -> Wire:
        made = await self.place.wire()
        self.wires.append(made)
        return made

    async def open_in(self, more: bytes = b"") -> Wire:
        self.inward = await self.wire()
        self.inward.send(head("RPC_IN_DATA", self.target, GIB) + more)
        return self.inward

    async def open_out(self, more: bytes = b"") -> Wire:
        self.outward = await self.wire()
        self.outward.send(head("RPC_OUT_DATA", self.target, 76) + more)
        return self.outward

    def a1(self) -> bytes:
        return rts.conn_a1(self.vc, self.out_cookie, WINDOW)

    def b1(self) -> bytes:
        return rts.conn_b1(self.vc, self.in_cookie, GIB, rts.DEFAULT_KEEPALIVE_MS, bytes(16))

    async def establish(self) -> Self:
        """Up to CONN/C2. Raises Wrong."""
        began = self.place.world.clock.now()
        await self.open_in(self.b1())
        await self.open_out(self.a1())
        await self.await_c2()
        self.place.counts["sessions"] += 1
        self.place.setups.append(self.place.world.clock.now() - began)
        return self

    async def await_c2(self) -> None:
        assert self.outward is not None
        status = await self.outward.head()
        if not status or status.startswith(b"HTTP/1.0 503 "):
            raise Ended(f"the OUT channel was answered with {status[:60]!r}")
        if not status.startswith(b"HTTP/1.1 200 Success\r\n"):
            raise Wrong(f"the OUT channel was answered with {status[:60]!r}")
        for kind in (rts.Kind.CONN_A3, rts.Kind.CONN_C):
            found = await self.outward.pdu()
            if not found:
                raise Ended(f"the OUT channel ended before {kind.name}")
            if rts.parse(found).kind is not kind:
                raise Wrong(f"{rts.parse(found).kind} came in the place of {kind.name}")

    def send(self, pdu: bytes) -> None:
        assert self.inward is not None
        self.inward.send(pdu)

    async def rpc(self) -> bytes:
        """The next RPC PDU, acknowledged as a client does; b"" at the end."""
        assert self.outward is not None
        while pdu := await self.outward.pdu():
            if pdu[2] != rts.RTS_TYPE:
                before = self._taken // (WINDOW // 2)
                self._taken += len(pdu)
                if self._taken // (WINDOW // 2) != before:
                    to = rts.Destination.OUT_PROXY
                    self.send(rts.ack_forwarded(to, self._taken, WINDOW, self.out_cookie))
                return pdu
        return b""

    def reset(self) -> None:
        for wire in self.wires:
            wire.reset()

    def close(self) -> None:
        for wire in self.wires:
            wire.close()


class RawVersion1:
    """A tunnel of version 1: one connection, answered once the server's banner is there. [MS-RPCH] 3.1"""

    def __init__(self, place: Place, port: int) -> None:
        self.place, self.target = place, f"{HERE}:{port}"
        self.wire: Wire | None = None

    async def establish(self) -> Self:
        """Raises Wrong."""
        began = self.place.world.clock.now()
        self.wire = await self.place.wire()
        self.wire.send(head("RPC_CONNECT", self.target, None))
        status = await self.wire.head()
        if not status or status.startswith(b"HTTP/1.0 503 "):
            raise Ended(f"RPC_CONNECT was answered with {status[:60]!r}")
        if not status.startswith(b"HTTP/1.1 200 "):
            raise Wrong(f"RPC_CONNECT was answered with {status[:60]!r}")
        self.place.counts["sessions"] += 1
        self.place.setups.append(self.place.world.clock.now() - began)
        return self

    def send(self, pdu: bytes) -> None:
        assert self.wire is not None
        self.wire.send(pdu)

    async def rpc(self) -> bytes:
        assert self.wire is not None
        return await self.wire.pdu()

    def reset(self) -> None:
        if self.wire is not None:
            self.wire.reset()

    def close(self) -> None:
        if self.wire is not None:
            self.wire.close()


# What travels inside ------------------------------------------------------------------------------------

ECHO: Final = UUID(str(spec_of(IEcho).uuid))
RESOLVER: Final = spec_of(IObjectExporter).uuid
ADD_ONE: Final = 0
SOURCE_DATA: Final = 3
SERVER_ALIVE: Final = 3
BIND_ACK: Final = int(PacketType.BIND_ACK)
RESPONSE: Final = int(PacketType.RESPONSE)


def bind(interface: UUID) -> bytes:
    """Version 1.0 of Echo, 0.0 of the resolver: the minor version is 0 for both."""
    abstract = SyntaxId(interface, 1 if interface == ECHO else 0)
    flags = p.FIRST | p.LAST | p.CONC_MPX
    element = ContextElement(0, abstract, (NDR20,))
    return bytes(p.bind(PacketType.BIND, flags, 1, FRAGMENT, 0, [element]))


def request(stub: bytes, opnum: int, call_id: int = 2, flags: int = p.FIRST | p.LAST) -> bytes:
    word = p.VERSION | flags << 24
    return p.REQUEST.pack(word, 0x10, 24 + len(stub), 0, call_id, len(stub), 0, opnum) + stub


BIND_ECHO: Final = bind(ECHO)
BIND_RESOLVER: Final = bind(RESOLVER)
