"""One virtual connection at the server: set-up, both recyclings, forwarding. [MS-RPCH] 3.2.5

A `Duplex`: what comes on the default IN channel goes up, what is written goes out on the default OUT channel.

    set-up     half open (the other half is awaited) --> opened, then each direction on its own:
    IN         opened --IN_R1/A2 on a new connection: A3--> A6W --A6--> B1W --B1: switch, B2--> opened
               opened --IN_R2/A2: A3--> opened
    OUT        opened --the lifetime runs out: A1--> A4W
               A4W --OUT_R1/A4 on a new connection: A5--> A8W --A8: switch, A9--> opened
               A4W --OUT_R2/A4: A5--> R2A8W --A8: B1--> opened
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from oxid.errors import RemoteProtocolError, TransportError
from oxid.tunnel import rts as r
from oxid.tunnel.channel import RESERVE, SendingChannel
from oxid.tunnel.duplex import NEVER, Duplex
from oxid.tunnel.ends import End
from oxid.tunnel.ports import Buffer
from oxid.tunnel.proxy_table import short
from oxid.tunnel.rts import Destination, Kind, Rts
from oxid.tunnel.windows import ReceiveWindow

if TYPE_CHECKING:
    from oxid.tunnel.server import ServerChannel, VirtualConnections

log: Final = logging.getLogger("oxid.tunnel.server")

MOST_PINGS: Final = 8 << 10
"""Bytes of pings that a proxy may report in four minutes. Windows' limit. [MS-RPCH] 2.2.3.5.15"""
PING_PERIOD: Final = 240.0


class InState(Enum):
    AWAITED = "awaited"
    OPENED = "opened"
    A6W = "A6W"
    B1W = "B1W"


class OutState(Enum):
    AWAITED = "awaited"
    OPENED = "opened"
    A4W = "A4W"
    A8W = "A8W"
    R2A8W = "R2A8W"


class VirtualConnection(Duplex):
    """Both directions of one client's tunnel."""

    __slots__ = (
        "__weakref__",
        "_early",
        "_in",
        "_in_cookie",
        "_in_due",
        "_in_next",
        "_in_next_cookie",
        "_out",
        "_out_due",
        "_out_next",
        "_out_next_channel",
        "_out_next_cookie",
        "_out_old",
        "_out_old_cookie",
        "_ping_sum",
        "_ping_until",
        "association_group",
        "bucket",
        "client_address",
        "cookie",
        "in_proxy_timeout_ms",
        "in_proxy_window",
        "in_state",
        "made_at",
        "opened_at",
        "out_state",
        "table",
        "version",
    )

    def __init__(self, table: VirtualConnections, cookie: bytes) -> None:
        super().__init__(table.soon)
        self.table = table
        self.cookie = cookie
        self.version = r.VERSION
        self.in_state = InState.AWAITED
        self.out_state = OutState.AWAITED
        self.client_address = b""
        """4 or 16 bytes as the in-proxy said; trust only where the proxy is trusted. RH-113"""
        self.association_group = r.NIL_COOKIE
        """What the client asserts: to be scoped by identity. RH-112"""
        self.in_proxy_window = 0
        self.in_proxy_timeout_ms = 0
        self._in: ServerChannel | None = None
        self._in_cookie = r.NIL_COOKIE
        self._in_next: ServerChannel | None = None
        self._in_next_cookie = r.NIL_COOKIE
        self._early: tuple[ServerChannel, Rts] | None = None
        """The IN_R1/A2 of the next recycling: the last one's B1 is still on its way from another proxy."""
        self._out: ServerChannel | None = None
        self._out_next: ServerChannel | None = None
        self._out_next_channel: SendingChannel | None = None
        self._out_next_cookie = r.NIL_COOKIE
        self._out_old: ServerChannel | None = None
        """The predecessor of an OUT_R1, until its proxy has sent what waits there."""
        self._out_old_cookie = r.NIL_COOKIE
        self._ping_sum = 0
        self._ping_until = 0.0
        self.bucket: int | None = None
        self.made_at = table.world.clock.now()
        self.opened_at: float | None = None
        self._in_due: float | None = None
        """When the recycling of the IN channel must be done."""
        self._out_due: float | None = None
        """The same for OUT, and for the set-up itself."""
        table.half_open += 1
        table.world.ledger.virtual_connection.enter()
        self._out_due = self._deadline()

    @property
    def in_peer(self) -> Any:
        """What `VirtualConnections.accept` was told of the in-proxy's connection; None once it is gone."""
        return None if self._in is None else self._in.peer

    def _deadline(self) -> float:
        options = self.table.options
        due = self.table.world.clock.now() + options.setup_timeout * options.scale
        self.table.deadlines.put(self, due)
        return due

    def expire(self, now: float) -> float | None:
        """The connection setup timer. [MS-RPCH] 3.2.5.6.1 (T15)"""
        dues = [due for due in (self._in_due, self._out_due) if due is not None]
        if dues and min(dues) <= now:
            log.info("%r: not set up in time", self)
            self.end(End.SETUP, TransportError("the tunnel was not set up in time"), abort=True)
            return None
        return min(dues) if dues else None

    # Connections join -------------------------------------------------------------------------------------

    def join(self, channel: ServerChannel, rts: Rts) -> None:
        """A connection says that it belongs here. Raises RemoteProtocolError, for the newcomer alone."""
        kind = rts.kind
        if kind is Kind.CONN_A2 and self.out_state is OutState.AWAITED:
            self.out_state = OutState.OPENED
            self._out = channel
            self._channel = self._sending(channel, rts.cookies[1], rts)
        elif kind is Kind.CONN_B2 and self.in_state is InState.AWAITED:
            self.in_state = InState.OPENED
            self._in = channel
            self._in_cookie = rts.cookies[1]
            self.in_proxy_window = rts.window
            self.in_proxy_timeout_ms = rts.timeout
            self.association_group = rts.group
            self.client_address = rts.client_address
            channel.window = self._receiving(channel, self._in_cookie)
        elif kind is Kind.IN_R1_A2:
            self._on_in_r1_a2(channel, rts)
            return
        elif kind is Kind.OUT_R1_A4:
            self._on_out_r1_a4(channel, rts)
            return
        else:
            raise RemoteProtocolError(f"{rts}, but the virtual connection has that half")
        channel.connection = self
        self.version = min(self.version, rts.version)
        if self._in is not None and self._out is not None:
            self._open(self._in, self._out)

    def _sending(self, channel: ServerChannel, cookie: bytes, rts: Rts) -> SendingChannel:
        return SendingChannel(
            channel.port, cookie, rts.window, self.table.world.clock.now, lifetime=rts.lifetime
        )

    def _receiving(self, channel: ServerChannel, cookie: bytes) -> ReceiveWindow:
        port = channel.port
        return ReceiveWindow(
            self.table.options.receive_window,
            cookie,
            lambda window: port.write(r.ack(*window.report(), window.cookie)),
        )

    def _open(self, into: ServerChannel, out: ServerChannel) -> None:
        """Both halves are here: C1 on OUT, then B3 on IN. [MS-RPCH] 3.2.5.5.3.2, 3.2.5.5.4.2"""
        self._out_due = None
        self.table.half_open -= 1
        self.table.established += 1
        self.opened_at = self.table.world.clock.now()
        into.receives = True
        self._send_rts(r.conn_c(self.in_proxy_window, self.in_proxy_timeout_ms, self.version))
        into.port.write(r.conn_b3(self.table.options.receive_window, self.version))
        self._watch_lifetime()
        self.table.opened(self)

    def _send_rts(self, pdu: Buffer) -> None:
        """Send an RTS PDU on the default OUT channel."""
        channel = self._channel
        assert channel is not None
        channel.send_rts(pdu)

    def _watch_lifetime(self) -> None:
        channel = self._channel
        assert channel is not None
        self._recycle_below = self.table.options.threshold(channel.lifetime) - RESERVE

    # RPC --------------------------------------------------------------------------------------------------

    def take_rpc(self, data: Buffer, size: int, window: ReceiveWindow) -> None:
        """RPC data came on the default IN channel."""
        self._deliver(data, size, window)

    # RTS --------------------------------------------------------------------------------------------------

    def on_rts(self, channel: ServerChannel, pdu: Buffer, rts: Rts) -> None:
        """An RTS PDU came on a connection of ours. Raises RemoteProtocolError."""
        if channel is self._in:
            self._on_in(rts, pdu)
        elif channel is self._out:
            self._on_out(rts, pdu)
        elif channel is self._out_old:
            if rts.kind not in (Kind.ACK, Kind.PING_NOTIFY):
                raise RemoteProtocolError(f"{rts} on a predecessor")
        elif channel is self._in_next and rts.destination is not None:
            self._addressed(pdu, rts)  # its client has switched; what it sent before is still under way
        else:
            raise RemoteProtocolError(f"{rts} on a successor")

    def _on_in(self, rts: Rts, pdu: Buffer) -> None:
        kind = rts.kind
        if self.opened_at is None:
            raise RemoteProtocolError(f"{rts} before the virtual connection stands")
        if rts.destination is not None:
            self._addressed(pdu, rts)
        elif kind is Kind.COOKIE and self.in_state is InState.OPENED:
            # IN_R2/A2. [MS-RPCH] 3.2.5.5.8
            self._in_cookie = rts.cookies[0]
            if self._in is not None and self._in.window is not None:
                self._in.window.cookie = self._in_cookie
            self.table.recycled += 1
            self._send_rts(r.IN_R2_A3)
        elif kind is Kind.COOKIE and self.in_state is InState.A6W:
            # IN_R1/A6. [MS-RPCH] 3.2.5.5.6
            self._in_due = None
            if rts.cookies[0] != self._in_next_cookie:
                raise RemoteProtocolError("IN_R1/A6 with a wrong cookie")
            self.in_state = InState.B1W
        elif kind is Kind.EMPTY and self.in_state is InState.B1W:
            self._on_in_r1_b1()
        else:
            raise RemoteProtocolError(f"{rts} on the IN channel in state {self.in_state.value}")

    def _on_out(self, rts: Rts, pdu: Buffer) -> None:
        kind, channel = rts.kind, self._channel
        assert channel is not None
        if kind is Kind.ACK:
            assert rts.ack is not None
            received, window, cookie = rts.ack
            if channel.knows(cookie):
                channel.ack(received, window)
                if self._channel is channel:
                    self._strained(channel)
        elif kind is Kind.PING_NOTIFY:
            self._on_ping_notify(rts.sent)
        elif kind is Kind.COOKIE and self.out_state is OutState.A4W:
            # OUT_R2/A4. [MS-RPCH] 3.2.5.5.11
            self._out_next_cookie = rts.cookies[0]
            self.out_state = OutState.R2A8W
            self._send_rts(r.OUT_R2_A5)
        elif rts.destination == Destination.IN_PROXY and self._in is not None:
            self._in.port.write(pdu)
        else:
            raise RemoteProtocolError(f"{rts} on the OUT channel in state {self.out_state.value}")

    def _addressed(self, pdu: Buffer, rts: Rts) -> None:
        """A PDU with a destination came on an IN channel: for us, or to be forwarded."""
        if rts.destination in (Destination.CLIENT, Destination.OUT_PROXY):
            self._forward(pdu, rts)
        elif rts.destination == Destination.SERVER and rts.kind in (Kind.OUT_A8, Kind.OUT_R2_A7):
            self._on_a8(rts.cookies[0])
        else:
            raise RemoteProtocolError(f"{rts} on the IN channel")

    def _forward(self, pdu: Buffer, rts: Rts) -> None:
        """To client or out-proxy: both by way of the OUT channel. [MS-RPCH] 3.2.1.5.2"""
        old = self._out_old
        if old is not None and rts.ack is not None and rts.ack[2] == self._out_old_cookie:
            old.port.write(pdu)  # its proxy still sends what waits there
        else:
            self._send_rts(pdu)

    def _on_ping_notify(self, sent: int) -> None:
        """The proxy has sent pings: they count as sent by us. [MS-RPCH] 3.2.5.5.14"""
        channel = self._channel
        assert channel is not None
        now = self.table.world.clock.now()
        if now >= self._ping_until:
            self._ping_until = now + PING_PERIOD * self.table.options.scale
            self._ping_sum = 0
        self._ping_sum += sent
        if self._ping_sum > MOST_PINGS:
            raise RemoteProtocolError(f"{self._ping_sum} bytes of pings, at most {MOST_PINGS}")
        channel.room -= sent
        self._strained(channel)

    # Recycling of the IN channel --------------------------------------------------------------------------

    def _on_in_r1_a2(self, channel: ServerChannel, rts: Rts) -> None:
        """[MS-RPCH] 3.2.5.5.5"""
        under_way = self.in_state in (InState.A6W, InState.B1W)
        if under_way and rts.cookies[1] == self._in_next_cookie and self._early is None:
            self._early = channel, rts
            return
        if self.opened_at is None or self.in_state is not InState.OPENED or rts.cookies[1] != self._in_cookie:
            error = RemoteProtocolError(
                f"IN_R1/A2 in state {self.in_state.value}, or with a wrong predecessor"
            )
            self.end(End.PROTOCOL_ERROR, error)
            raise error
        channel.connection = self
        channel.window = self._receiving(channel, rts.cookies[2])
        self._in_next = channel
        self._in_next_cookie = rts.cookies[2]
        self.in_proxy_window = rts.window
        self.in_proxy_timeout_ms = rts.timeout
        self.in_state = InState.A6W
        self._in_due = self._deadline()
        self._send_rts(r.in_r1_a3(rts.window, rts.timeout, self.version))

    def _on_in_r1_b1(self) -> None:
        """The old in-proxy has sent everything. [MS-RPCH] 3.2.5.5.7"""
        old, successor = self._in, self._in_next
        assert old is not None
        assert successor is not None
        self._in, self._in_next = successor, None
        self._in_cookie = self._in_next_cookie
        self.in_state = InState.OPENED
        self.table.recycled += 1
        successor.receives = True
        successor.port.write(r.in_r1_b2(self.table.options.receive_window))
        old.let_go()
        early, self._early = self._early, None
        if early is not None and not early[0].finished:
            self._on_in_r1_a2(*early)

    # Recycling of the OUT channel -------------------------------------------------------------------------

    def _recycle(self) -> None:
        """[MS-RPCH] 3.2.5.5.15"""
        if self.out_state is not OutState.OPENED or self.opened_at is None:
            return
        self.out_state = OutState.A4W
        self._out_due = self._deadline()
        self._send_rts(r.OUT_A1)

    def _on_out_r1_a4(self, channel: ServerChannel, rts: Rts) -> None:
        """[MS-RPCH] 3.2.5.5.9"""
        sending = self._channel
        if self.out_state is not OutState.A4W or sending is None or rts.cookies[1] != sending.cookie:
            error = RemoteProtocolError(
                f"OUT_R1/A4 in state {self.out_state.value}, or with a wrong predecessor"
            )
            self.end(End.PROTOCOL_ERROR, error)
            raise error
        channel.connection = self
        self._out_next = channel
        self._out_next_cookie = rts.cookies[2]
        self._out_next_channel = self._sending(channel, rts.cookies[2], rts)
        self.out_state = OutState.A8W
        self._send_rts(r.out_r1_a5(rts.timeout, self.version))

    def _on_a8(self, cookie: bytes) -> None:
        """The client has said yes. [MS-RPCH] 3.2.5.5.10, 3.2.5.5.12"""
        channel, state = self._channel, self.out_state
        assert channel is not None
        if state not in (OutState.A8W, OutState.R2A8W):
            raise RemoteProtocolError(f"A8 in state {state.value}")
        if cookie != self._out_next_cookie:
            if state is OutState.R2A8W:
                channel.send_rts(r.OUT_R2_B2)
            raise RemoteProtocolError("A8 with a wrong cookie")
        self.out_state = OutState.OPENED
        self._out_due = None
        self.table.recycled += 1
        if state is OutState.R2A8W:
            channel.send_rts(r.OUT_R2_B1)
            channel.renew(cookie, channel.lifetime)
            self._watch_lifetime()
            channel.flush()
        else:
            successor, self._out_next_channel = self._out_next_channel, None
            assert successor is not None
            if self._out_old is not None:
                self._out_old.let_go()
            self._out_old, self._out, self._out_next = self._out, self._out_next, None
            self._out_old_cookie = channel.cookie
            channel.send_rts(r.OUT_R1_A9)
            channel.hand_over(successor)
            self._channel = successor
            self._watch_lifetime()
            successor.flush()
        if self._channel is not None:
            self._strained(self._channel)

    # End --------------------------------------------------------------------------------------------------

    def lost(self, channel: ServerChannel, error: Exception | None) -> None:
        """A proxy's connection has ended. [MS-RPCH] 3.2.5.5.13"""
        if channel is self._out_old:
            self._out_old = None
            return
        self.end(End.PROXY_CLOSED, TransportError("the proxy closed the tunnel"))

    def channels(self) -> list[ServerChannel]:
        every = (self._in, self._in_next, self._out, self._out_next, self._out_old)
        return [channel for channel in every if channel is not None]

    def _closing(self) -> None:
        if self._out_due is None:
            self._out_due = self._deadline()

    def end(self, end: End, error: Exception | None = None, *, abort: bool = False) -> None:
        """All connections of the virtual connection close; once. RH-101"""
        if self.over:
            return
        self.over = True
        table = self.table
        table.deadlines.drop(self)
        table.connections.pop(self.cookie, None)
        if self.opened_at is None:
            table.half_open -= 1
        table.ends[end] += 1
        table.world.ledger.virtual_connection.leave()
        self._in_due = self._out_due = None
        for sending in (self._channel, self._out_next_channel):
            if sending is not None:
                sending.clear()
        channels = self.channels()
        early, self._early = self._early, None
        if early is not None:
            channels.append(early[0])
        self._in = self._in_next = self._out = self._out_next = self._out_old = None
        self._out_next_channel = None
        self._recycle_below = NEVER
        for channel in channels:
            channel.let_go(abort=abort)
        self._let_go(error)

    def describe(self) -> dict[str, Any]:
        """A row for the console: no whole cookie. RH-103"""
        found: dict[str, Any] = {
            "connection": short(self.cookie),
            "in": self.in_state.value,
            "out": self.out_state.value,
            "age": self.table.world.clock.now() - self.made_at,
        }
        if self._channel is not None:
            found |= {"window": self._channel.available, "lifetime_used": self._channel.spent}
        return found

    def __repr__(self) -> str:
        return (
            f"<VirtualConnection {short(self.cookie)} in {self.in_state.value}, out {self.out_state.value}>"
        )
