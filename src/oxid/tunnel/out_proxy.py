"""The outbound proxy: one machine per OUT channel request. [MS-RPCH] 3.2.4

    proxy = OutProxy(table, port, shell, identity, target, connection_timeout=None)     a Leg: receive, closed, writable
    proxy.connected(server_port) -> Leg of the TCP connection to the server
    proxy.connect_failed(status)
    proxy.shut_down()

`connection_timeout` is the client's `Pragma: MinConnTimeout`, in seconds on the wire.

States of a virtual OUT channel (`OutState`):
    connecting --A2, head, A3--> C1W --C1: C2--> opened                      CONN
    connecting --A4--> A11W --A11: head--> opened                            OUT_R1, at the successor
    opened --A9: the queue, A10--> finished                                  OUT_R1, at the predecessor
    opened --A3: A4--> B1 or C1W --C1--> B1W --B1: the queue, B3, head--> opened                  OUT_R2
                       B1 or C1W --B1: the queue, B3--> R2C1W --C1: head--> opened
                                              B1W --B2--> opened
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import Any, Final

from oxid.errors import RemoteProtocolError
from oxid.tunnel import rts as r
from oxid.tunnel.channel import SendingChannel, when_drained
from oxid.tunnel.ends import End
from oxid.tunnel.ports import Buffer, Port, ProxyShell
from oxid.tunnel.proxy_channel import ProxyChannel, ProxyConnection, log, same_cookie
from oxid.tunnel.proxy_table import ACCESS_DENIED, SERVER_TOO_BUSY, ProxyTable
from oxid.tunnel.rts import Destination, Kind, Rts
from oxid.tunnel.windows import ReceiveWindow

PINGS_TOLD_AT: Final = 1031
"""Bytes of pings that the server does not hear of: what Windows does. [MS-RPCH] 3.2.4.6"""


class OutState(Enum):
    CONNECTING = "connecting"
    C1W = "C1W"
    A11W = "A11W"
    OPENED = "opened"
    B1_OR_C1W = "B1 or C1W"
    B1W = "B1W"
    R2C1W = "R2C1W"
    """B1 came: the predecessor's queue, then B3; C1 is still to come, or has come (`c1_came`)."""
    DRAINING = "draining"
    """After OUT_R1/A9: what waits for the client's window is sent, then A10."""


class OutProxy(ProxyChannel):
    """One OUT channel request."""

    __slots__ = ("headed", "out", "timeout")

    connection: Outbound | None

    def __init__(
        self,
        table: ProxyTable,
        client: Port,
        shell: ProxyShell,
        identity: Hashable,
        target: str,
        *,
        connection_timeout: float | None = None,
    ) -> None:
        super().__init__(table, client, shell, identity, target)
        self.timeout = table.options.connection_timeout if connection_timeout is None else connection_timeout
        self.out: SendingChannel | None = None
        """What is sent to the client."""
        self.headed = False
        """Whether the 200 has gone out."""

    # Bytes from the client --------------------------------------------------------------------------------

    def on_rpc(self, data: Buffer, size: int) -> None:
        raise RemoteProtocolError("RPC PDU on an OUT channel")

    def first(self, rts: Rts) -> None:
        """CONN/A1, or A3 of a recycling. [MS-RPCH] 3.2.4.5.3, 3.2.4.5.6"""
        table = self.table
        if rts.kind not in (Kind.CONN_A1, Kind.OUT_A3):
            raise RemoteProtocolError(f"{rts} is not the first of an OUT channel")
        vc = rts.cookies[0]
        if vc == r.NIL_COOKIE:
            raise RemoteProtocolError("virtual connection cookie 0")
        if table.is_stranger(vc, self.identity, self.target):
            self.refuse(ACCESS_DENIED, "the virtual connection has another identity or target")
            return
        found = table.outbound.get(vc)
        if rts.kind is Kind.OUT_A3 and found is not None:
            found.succeed(self, rts)
            return
        if found is not None:
            raise RemoteProtocolError("CONN/A1 for a virtual connection that exists")
        if not table.outbound_quota.has_room(self.identity):
            self.refuse(SERVER_TOO_BUSY, "too many virtual connections")
            return
        self.joins(rts)
        self.connection = Outbound(self, rts)
        self.shell.connect()

    def joins(self, rts: Rts) -> None:
        """The client said which channel this is, and how large its window is."""
        self.cookie = rts.cookies[-1]
        # without a lifetime: the server counts it, and keeps a reserve that must not be kept twice
        self.out = SendingChannel(self.client, self.cookie, rts.window, self.now, plugged=True)

    def head(self) -> None:
        """The 200 goes out, then what waited."""
        assert self.out is not None
        self.headed = True
        self.shell.send_response_head(self.table.options.channel_lifetime)
        self.out.unplug()
        self.watch()

    @property
    def can_refuse(self) -> bool:
        return not self.headed

    def let_go(self, end: End, *, status: int | None = None, abort: bool = False) -> None:
        if self.out is not None:
            self.out.clear()
        super().let_go(end, status=status, abort=abort)

    # Time -------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        self.table.deadlines.put(self, self.now() + self._ping_after)

    @property
    def _ping_after(self) -> float:
        """A quarter of the ConnectionTimeout: half of the keep-alive interval, which is half of it."""
        return self.timeout * self.table.options.scale / 4

    def expire(self, now: float) -> float | None:
        """Ping a client that heard nothing, end one that does not read. T11, T12, [MS-RPCH] 3.2.4.6"""
        connection, out = self.connection, self.out
        if connection is None:
            return self.first_pdu_due(now)
        if not self.headed or out is None:
            return None  # `head` asks again
        options = self.table.options
        following = now + self._ping_after
        if out.blocked_since is not None:
            stall = self.timeout if options.stall_timeout is None else options.stall_timeout
            due = out.blocked_since + stall * options.scale
            if now >= due:
                log.info("%r: the client does not read", connection)
                connection.end(End.STALLED, abort=True)
                return None
            following = min(following, due)
        if connection.default is self:
            if now >= out.last + self._ping_after:
                out.send_rts(r.PING)
                connection.count_ping()
            following = min(following, out.last + self._ping_after)
        return following


class Outbound(ProxyConnection):
    """A virtual OUT channel: its channels to the client, and the one from the server."""

    __slots__ = ("_first", "c1_came", "default", "pings", "predecessor", "state", "successor", "window")

    def __init__(self, channel: OutProxy, first: Rts) -> None:
        table = channel.table
        super().__init__(channel, first.cookies[0], first.version, table.outbound_quota)
        self.state = OutState.CONNECTING
        self.default = channel
        """Where everything for the client goes."""
        self.successor: OutProxy | None = None
        self.predecessor: OutProxy | None = None
        """The one before B1 whose queue is still under way."""
        self.c1_came = False
        self.pings = 0
        """Bytes of pings that the server does not know of."""
        self.window = ReceiveWindow(table.options.receive_window, channel.cookie, self.acknowledge)
        self._first: Rts | None = first
        table.outbound[self.cookie] = self

    @property
    def state_name(self) -> str:
        return self.state.value

    def _out(self) -> SendingChannel:
        out = self.default.out
        assert out is not None
        return out

    # Establishment ----------------------------------------------------------------------------------------

    def greet(self) -> None:
        """Send CONN/A2, then head and A3 to the client; or OUT_R1/A4. [MS-RPCH] 3.2.4.5.3, 3.2.4.5.6.2"""
        first, self._first = self._first, None
        assert first is not None
        assert self.server is not None
        options = self.table.options
        channel = self.default
        timeout_ms = int(channel.timeout * 1000)
        self.connecting = None
        leg = self.server
        leg.window = self.window
        if first.kind is Kind.CONN_A1:
            self.state = OutState.C1W
            leg.port.write(
                r.conn_a2(
                    self.cookie,
                    channel.cookie,
                    options.channel_lifetime,
                    options.receive_window,
                    self.version,
                )
            )
            channel.head()
            self._out().send_rts(r.conn_a3(timeout_ms))
        else:
            self.state = OutState.A11W
            leg.to = self._out()
            leg.port.write(
                r.out_r1_a4(
                    self.cookie,
                    first.cookies[1],
                    channel.cookie,
                    options.channel_lifetime,
                    options.receive_window,
                    timeout_ms,
                    self.version,
                )
            )

    # Recycling --------------------------------------------------------------------------------------------

    def succeed(self, channel: OutProxy, rts: Rts) -> None:
        """OUT_R2/A3: the channel is to succeed the default one. [MS-RPCH] 3.2.4.5.6.1"""
        if self.state is not OutState.OPENED or not same_cookie(rts.cookies[1], self.default.cookie):
            state = self.state_name
            self.end(End.PROTOCOL_ERROR)
            raise RemoteProtocolError(f"OUT_R2/A3 in state {state}, or with a wrong predecessor")
        assert self.server is not None
        channel.joins(rts)
        channel.connection = self
        self.successor = channel
        self.c1_came = False
        self.state = OutState.B1_OR_C1W
        self.expect_setup()
        self.server.port.write(r.one_cookie(channel.cookie))

    def _on_b1(self) -> None:
        """OUT_R2/B1: what the server sends from now on is for the successor. [MS-RPCH] 3.2.4.5.10"""
        successor = self.successor
        assert successor is not None
        assert successor.out is not None
        assert self.server is not None
        old = self.predecessor = self.default
        assert old.out is not None
        self.default, self.successor = successor, None
        self.c1_came = self.state is OutState.B1W
        self.state = OutState.R2C1W
        self.server.to = successor.out
        self.window.cookie = successor.cookie
        when_drained(old.out, self._last_on_predecessor)

    def _last_on_predecessor(self) -> None:
        """OUT_R2/B3: the predecessor's last bytes."""
        old, self.predecessor = self.predecessor, None
        assert old is not None
        assert old.out is not None
        old.out.send_rts(r.OUT_R2_B3)
        old.writable(True)  # the server's connection does not wait for it any more
        old.let_go(End.RECYCLED)
        self._go_on()

    def _go_on(self) -> None:
        """Both B1 (with the queue sent) and C1 are in: the successor's head, then what waits."""
        if self.c1_came and self.predecessor is None:
            self.state = OutState.OPENED
            self.set_up()
            self.default.head()

    def _on_a9(self) -> None:
        """OUT_R1/A9: the server sends no more through this proxy. [MS-RPCH] 3.2.4.5.8"""
        assert self.server is not None
        self.state = OutState.DRAINING
        self.server.to = None
        self.window.retire()
        self.expect_setup()
        when_drained(self._out(), self._farewell)

    def _farewell(self) -> None:
        """OUT_R1/A10: the old out-proxy has nothing more for the client."""
        self._out().send_rts(r.OUT_R1_A9)
        self.end(End.RECYCLED)

    # PDUs -------------------------------------------------------------------------------------------------

    def from_client(self, channel: ProxyChannel, pdu: Buffer, rts: Rts) -> None:
        """A11 or C1: the body of a successor's request is complete. [MS-RPCH] 3.2.4.5.9, 3.2.4.5.11"""
        if rts.kind is Kind.ANCE and self.state is OutState.A11W:
            self.state = OutState.OPENED
            self.set_up()
            self.default.head()
        elif rts.kind is Kind.OUT_R2_C1 and len(pdu) == len(r.OUT_R2_C1):
            if self.state is OutState.B1_OR_C1W and channel is self.successor:
                self.state = OutState.B1W
            elif self.state is OutState.R2C1W and channel is self.default and not self.c1_came:
                self.c1_came = True
                self._go_on()
            else:
                raise RemoteProtocolError(f"{rts} in state {self.state_name}")
        else:
            raise RemoteProtocolError(f"{rts} from the client in state {self.state_name}")

    def from_server(self, pdu: Buffer, rts: Rts) -> None:
        kind, state = rts.kind, self.state
        if kind is Kind.ACK or (kind is Kind.ACK_FORWARDED and rts.destination == Destination.OUT_PROXY):
            assert rts.ack is not None
            received, window, cookie = rts.ack
            for channel in (self.default, self.predecessor):
                if channel is not None and channel.out is not None and channel.out.knows(cookie):
                    channel.out.ack(received, window)
                    break
        elif state is OutState.DRAINING:
            pass
        elif rts.destination == Destination.CLIENT:
            self._check_forwarded(kind, rts)
            self._out().send_rts(pdu)
        elif kind is Kind.CONN_C and state is OutState.C1W:
            assert self.server is not None
            self.version = min(self.version, rts.version)
            self.state = OutState.OPENED
            self.set_up()
            self.server.to = self._out()
            self._out().send_rts(r.conn_c(rts.window, rts.timeout, self.version))
        elif kind is Kind.ANCE and state is OutState.OPENED:
            self._on_a9()
        elif kind is Kind.ANCE and state in (OutState.B1W, OutState.B1_OR_C1W):
            self._on_b1()
        elif kind is Kind.NEGATIVE_ANCE and state is OutState.B1W and self.successor is not None:
            successor, self.successor = self.successor, None
            self.state = OutState.OPENED
            self.set_up()
            successor.let_go(End.PROTOCOL_ERROR)
        else:
            raise RemoteProtocolError(f"{rts} from the server in state {self.state_name}")

    def _check_forwarded(self, kind: Kind, rts: Rts) -> None:
        """PDUs for the client that are legal in some states only.

        After A8 the server may recycle again, before the client has said A11 or C1: then A1 waits for that too.
        """
        allowed = {
            Kind.OUT_A1: (OutState.OPENED, OutState.R2C1W, OutState.A11W),
            Kind.OUT_R1_A6: (OutState.OPENED,),
            Kind.OUT_R2_A6: (OutState.B1_OR_C1W,),
        }.get(kind)
        if allowed is not None and self.state not in allowed:
            raise RemoteProtocolError(f"{rts} from the server in state {self.state_name}")

    def acknowledge(self, window: ReceiveWindow) -> None:
        """Tell the server that there is room again."""
        if self.server is not None:
            self.server.port.write(r.ack(*window.report(), window.cookie))

    def count_ping(self) -> None:
        """The server shall know of pings before they make its count of the lifetime wrong."""
        self.pings += len(r.PING)
        if self.pings > PINGS_TOLD_AT and self.server is not None and self.state is not OutState.DRAINING:
            self.server.port.write(r.ping_notify(self.pings))
            self.pings = 0

    # End --------------------------------------------------------------------------------------------------

    def channels(self) -> list[ProxyChannel]:
        return [c for c in (self.default, self.successor, self.predecessor) if c is not None]

    def release(self) -> None:
        self.table.outbound.pop(self.cookie, None)
        self._first = None
        self.successor = self.predecessor = None
        self.window.retire()

    def describe(self) -> dict[str, Any]:
        found = super().describe()
        out = self.default.out
        if out is not None:
            found |= {"window": out.available, "waiting": out.queued, "sent": out.spent}
        return found
