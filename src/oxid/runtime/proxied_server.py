"""Connections of an RPC server's port for proxies: each says with its first PDU what it is. [MS-RPCH] 2.1.1.2, 3.2.5

The banner goes out at once. An RTS PDU begins a channel of a virtual connection (version 2); anything else is RPC as
over TCP: version 1, or a client without a proxy (RH-10).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from oxid.rpc.pdu import PacketType
from oxid.runtime.deadlines import DeadlineDriver
from oxid.runtime.tcp import face_of, look_for_the_vanished
from oxid.runtime.transport_port import TransportPort, deaf
from oxid.tunnel.options import TunnelOptions
from oxid.tunnel.ports import Leg
from oxid.tunnel.server import VirtualConnections
from oxid.tunnel.virtual_connection import VirtualConnection

if TYPE_CHECKING:
    from oxid.runtime.server import RpcServer

log: Final = logging.getLogger("oxid.rpc.server")

BANNER: Final = b"ncacn_http/1.0"
_HEADER: Final = 16


class ProxiedConnections:
    """The connections of an RpcServer's listeners for proxies, and what they become."""

    def __init__(self, server: RpcServer, options: TunnelOptions) -> None:
        self.server = server
        self.accepted: set[TunnelTcp] = set()
        self._driver = DeadlineDriver(server.loop, server.world, self._expire)
        self.virtual = VirtualConnections(
            server.world, options, opened=self._opened, want=self._driver.want, soon=server.loop.call_soon
        )
        self._undecided: dict[TunnelTcp, float] = {}
        """Who has not said what it is, and until when; in the order of the deadlines."""
        self._undecided_of: Counter[str] = Counter()
        """How many of them come from each address: a proxy has many connections, but it says at once what they are."""
        self._closing = False
        self._empty: asyncio.Future[None] | None = None

    def face(self, address: Any) -> Any:
        """The protocol object for a connection that is accepted; `address.value` is the secondary address."""
        return face_of(TunnelTcp(self, address.value), self.server.loop)

    def admit(self, connection: TunnelTcp) -> bool:
        """A connection was accepted; whether it may stay."""
        self.accepted.add(connection)
        self.server.world.ledger.rpc_connection.enter()
        limits = self.server.limits
        if self._closing:
            return False
        of_address = self._undecided_of[connection.source] + 1
        if len(self.accepted) > 2 * limits.max_connections or of_address > limits.max_connections_per_address:
            self.server.core.note_refusal(
                connection.peer, f"{len(self.accepted)} connections, {of_address} of this address in suspense"
            )
            return False
        deadline = self.server.world.clock.now() + limits.bind_timeout
        self._undecided[connection] = deadline
        self._undecided_of[connection.source] = of_address
        self._driver.want(deadline)
        return True

    def decided(self, connection: TunnelTcp) -> None:
        """It has said what it is, or never will."""
        if self._undecided.pop(connection, None) is None:
            return
        counts = self._undecided_of
        counts[connection.source] -= 1
        if not counts[connection.source]:
            del counts[connection.source]

    def left(self, connection: TunnelTcp) -> None:
        """A connection is gone, or is none of ours any more."""
        self.decided(connection)
        self.accepted.discard(connection)
        self.server.world.ledger.rpc_connection.leave()
        if not self.accepted:
            if not self.virtual.next_deadline():
                self._driver.close()
            if self._empty is not None and not self._empty.done():
                self._empty.set_result(None)

    def _opened(self, virtual: VirtualConnection) -> None:
        """Both halves met: the RPC layer takes over."""
        peer, local, secondary_address = virtual.in_peer
        virtual.extra["sockname"] = local
        connection = self.server.tunnelled(secondary_address)
        virtual.upper = connection
        virtual.extra["peername"] = peer
        virtual.extra["association_group"] = bytes(virtual.association_group)
        connection.connection_made(virtual)

    def _expire(self, now: float) -> float | None:
        for connection, deadline in list(self._undecided.items()):
            if deadline > now:
                break
            self.decided(connection)
            self.server.core.note_refusal(connection.peer, "it did not say what it is in time")
            connection.abort()
        upcoming = [next(iter(self._undecided.values()))] if self._undecided else []
        following = self.virtual.expire(now)
        if following is not None:
            upcoming.append(following)
        return min(upcoming, default=None)

    def descriptors(self) -> list[int]:
        """The sockets, for children that must not have them."""
        links = [c.transport.get_extra_info("socket") for c in self.accepted if c.transport is not None]
        return [link.fileno() for link in links if link is not None]

    async def aclose(self) -> None:
        """End every virtual connection, cut what is left. May be called twice."""
        self._closing = True
        self.virtual.shut_down()
        for connection in list(self.accepted):
            connection.abort()
        if self.accepted:
            self._empty = self.server.loop.create_future()
            await self._empty
        self._driver.close()

    def __repr__(self) -> str:
        return f"<ProxiedConnections {len(self.accepted)} sockets, {self.virtual!r}>"


class TunnelTcp(TransportPort):
    """One accepted connection: a Port of the tunnel's machine once it is a channel."""

    __slots__ = ("_early", "_leg", "_owner", "_secondary_address", "data_received", "peer")

    def __init__(self, owner: ProxiedConnections, secondary_address: bytes) -> None:
        super().__init__(owner.server.loop)
        self._owner = owner
        self._secondary_address = secondary_address
        self._leg: Leg | None = None
        self._early = b""
        self.peer: Any = None
        self.data_received: Any = self._decide

    @property
    def local(self) -> Any:
        """Our own address that the proxy connected to."""
        name = None if self.transport is None else self.transport.get_extra_info("sockname")
        return name[:2] if isinstance(name, tuple) else name

    # What the loop calls ----------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = peer[:2] if isinstance(peer, tuple) else peer
        if not self._owner.admit(self):
            transport.abort()
            return
        idle = self._owner.server.tunnel_options.period
        look_for_the_vanished(transport.get_extra_info("socket"), idle, times=4, unacknowledged=2 * idle)
        transport.write(BANNER)

    def _decide(self, data: bytes) -> None:
        """The first PDU's header tells."""
        early = self._early = self._early + data
        if len(early) < _HEADER:
            return
        self._early = b""
        self._owner.decided(self)
        if early[0] == 5 and early[2] == PacketType.RTS:
            leg = self._leg = self._owner.virtual.accept(
                self, (self.peer, self.local, self._secondary_address)
            )
            receive = leg.receive
            self.data_received = receive
            transport = self.transport
            transport.set_protocol(face_of(self, self.loop))  # which looks up the method anew
            receive(early)
            return
        connection = self._owner.server.tunnelled(self._secondary_address)
        transport, self.transport = self.transport, None
        transport.set_protocol(face_of(connection, self.loop))
        self.data_received = deaf
        self._owner.left(self)
        connection.connection_made(transport)
        if not transport.is_closing():  # above a limit it is cut at once
            connection.data_received(early)

    @property
    def source(self) -> str:
        """The address of whoever connected."""
        return str(self.peer[0]) if isinstance(self.peer, tuple) else str(self.peer)

    def pause_writing(self) -> None:
        if self._leg is not None:
            self._leg.writable(False)

    def resume_writing(self) -> None:
        if self._leg is not None:
            self._leg.writable(True)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        leg, self._leg = self._leg, None
        self.data_received = deaf
        if leg is not None:
            leg.closed(error)
        self._owner.left(self)
