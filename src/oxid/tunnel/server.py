"""The server's side of tunnels: connections from proxies, and the virtual connections they make. [MS-RPCH] 3.2.5

    table = VirtualConnections(world, options, opened=..., want=driver.want)
    leg = table.accept(port, peer)        for each TCP connection whose first PDU is RTS (type 20); a Leg
    opened(connection)                    both halves met: `connection` is a Duplex; the shell sets connection.upper
    table.expire(now), table.shut_down(), table.statistics()

The shell sends the banner, and tells RTS from RPC by the first PDU (RH-10). The machine of one virtual connection is
in `virtual_connection`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from oxid.errors import RemoteProtocolError, TransportError
from oxid.tunnel import rts as r
from oxid.tunnel.deadlines import Deadlines
from oxid.tunnel.duplex import at_once
from oxid.tunnel.ends import NO_PORT, End
from oxid.tunnel.options import TunnelOptions
from oxid.tunnel.pdus import PduStream
from oxid.tunnel.ports import Buffer, Port
from oxid.tunnel.rts import Kind, Rts, parse
from oxid.tunnel.virtual_connection import VirtualConnection as VirtualConnection  # shells find both here
from oxid.tunnel.windows import ReceiveWindow
from oxid.world import World

log: Final = logging.getLogger("oxid.tunnel.server")


class ServerChannel(PduStream):
    """One TCP connection from a proxy, of either direction."""

    __slots__ = (
        "__weakref__",
        "bucket",
        "connection",
        "finished",
        "opened_at",
        "peer",
        "port",
        "receives",
        "table",
        "window",
    )

    flowing = True

    def __init__(self, table: VirtualConnections, port: Port, peer: object) -> None:
        super().__init__(table.world.clock.now)
        self.table = table
        self.port: Port = port
        self.peer = peer
        self.connection: VirtualConnection | None = None
        self.window: ReceiveWindow | None = None
        """IN channels: the server's window."""
        self.receives = False
        """Whether RPC PDUs may come here: it is the default IN channel."""
        self.finished = False
        self.bucket: int | None = None
        self.opened_at = self.now()
        table.world.ledger.tunnel_channel.enter()
        table.channels[self] = None
        table.deadlines.put(self, self.opened_at + table.options.first_pdu_timeout * table.options.scale)

    def on_rpc(self, data: Buffer, size: int) -> None:
        if not self.receives or self.connection is None or self.window is None:
            raise RemoteProtocolError("RPC PDU where none may come")
        self.connection.take_rpc(data, size, self.window)

    def on_rts(self, pdu: Buffer) -> None:
        rts = parse(pdu)  # type: ignore[arg-type]  # a bytearray will do
        if self.connection is None:
            self.table.deadlines.drop(self)
            self.table.first(self, rts)
        else:
            self.connection.on_rts(self, pdu, rts)

    def on_broken(self, error: RemoteProtocolError) -> None:
        """A proxy broke the rules (T10)."""
        log.info("%r from %s: %s", self.connection or self, self.peer, error)
        if self.connection is not None:
            self.connection.end(End.PROTOCOL_ERROR, error)
        self.let_go()

    def closed(self, error: Exception | None = None) -> None:
        """The proxy's connection has ended (T1, T2); that of a predecessor is no matter (T13)."""
        if self.connection is not None:
            self.connection.lost(self, error)
        self.let_go()

    def writable(self, flag: bool) -> None:
        """The proxy takes more, or not: what makes us send to it is read accordingly."""
        if self.connection is not None:
            for channel in self.connection.channels():
                if channel is not self:
                    channel.port.resume() if flag else channel.port.pause()

    def let_go(self, *, abort: bool = False) -> None:
        """End this connection alone, once."""
        if self.finished:
            return
        self.writable(True)  # nobody waits for it any more
        self.finished = True
        self.silence()
        self.receives = False
        self.connection = None
        if self.window is not None:
            self.window.retire()
        port, self.port = self.port, NO_PORT
        self.table.deadlines.drop(self)
        del self.table.channels[self]
        self.table.world.ledger.tunnel_channel.leave()
        if abort:
            port.abort()
        else:
            port.close()

    def expire(self, now: float) -> float | None:
        """No first PDU in time."""
        if self.connection is None:
            log.info("%r from %s: no first PDU in time", self, self.peer)
            self.let_go(abort=True)
        return None

    def __repr__(self) -> str:
        return f"<ServerChannel {'ended' if self.finished else 'open'}>"


class VirtualConnections:
    """All virtual connections of one server, by cookie."""

    def __init__(
        self,
        world: World,
        options: TunnelOptions | None = None,
        *,
        opened: Callable[[VirtualConnection], None],
        want: Callable[[float], None] | None = None,
        soon: Callable[[Callable[[], None]], object] = at_once,
    ) -> None:
        """`want(deadline)` asks that `expire` be called by then; `soon` is the loop's `call_soon`."""
        self.world = world
        self.options = options or TunnelOptions()
        self.opened = opened
        self.soon = soon
        self.deadlines = Deadlines(self.options.tick, want)
        self.connections: dict[bytes, VirtualConnection] = {}
        self.channels: dict[ServerChannel, None] = {}
        self.half_open = 0
        self.established = 0
        """How many there have been."""
        self.recycled = 0
        """Recyclings that were completed, of either direction."""
        self.ends: Counter[End] = Counter()

    def accept(self, port: Port, peer: object = None) -> ServerChannel:
        """A TCP connection of a proxy; returns its leg."""
        return ServerChannel(self, port, peer)

    def first(self, channel: ServerChannel, rts: Rts) -> None:
        """The first PDU says what a connection is. Raises RemoteProtocolError. RH-53

        [MS-RPCH] 3.2.5.5.3, 3.2.5.5.4, 3.2.5.5.5, 3.2.5.5.9. What is wrong with a newcomer is no matter to the
        virtual connection whose cookie it has (RH-52), but where it breaks a recycling. RH-83
        """
        kind = rts.kind
        if kind not in (Kind.CONN_A2, Kind.CONN_B2, Kind.IN_R1_A2, Kind.OUT_R1_A4):
            raise RemoteProtocolError(f"{rts} is not the first of a channel")
        cookie = rts.cookies[0]
        if cookie == r.NIL_COOKIE:
            raise RemoteProtocolError("virtual connection cookie 0")
        found = self.connections.get(cookie)
        if found is None:
            if kind not in (Kind.CONN_A2, Kind.CONN_B2):
                raise RemoteProtocolError(f"{rts} of an unknown virtual connection")
            options = self.options
            if len(self.connections) >= options.max_connections or self.half_open >= options.max_half_open:
                raise RemoteProtocolError("too many virtual connections")
            found = self.connections[cookie] = VirtualConnection(self, cookie)
        found.join(channel, rts)

    def next_deadline(self) -> float | None:
        return self.deadlines.next()

    def expire(self, now: float) -> float | None:
        """End what was not set up in time; returns the next deadline."""
        return self.deadlines.expire(now)

    def shut_down(self) -> None:
        """The server stops: everything ends (T16)."""
        for connection in list(self.connections.values()):
            connection.end(End.SHUT_DOWN, TransportError("the server stops"))
        for channel in list(self.channels):
            channel.let_go()

    def statistics(self) -> dict[str, int]:
        """Counts by name; ends with their cause."""
        return {
            "connections": len(self.connections),
            "half_open": self.half_open,
            "channels": len(self.channels),
            "opened": self.established,
            "recycled": self.recycled,
        } | {f"end_{end.value}": self.ends[end] for end in End}

    def __repr__(self) -> str:
        return f"<VirtualConnections {len(self.connections)}, {self.half_open} half open>"
