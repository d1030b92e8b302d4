"""The inbound proxy: one machine per IN channel request. [MS-RPCH] 3.2.3

    proxy = InProxy(table, port, shell, identity, target, client_address="10.0.0.1")   a Leg: receive, closed, writable
    proxy.connected(server_port) -> Leg of the TCP connection to the server
    proxy.connect_failed(status)
    proxy.shut_down()

States of a virtual IN channel (`InState`):
    connecting --B2--> B3W --B3--> opened                        CONN
    connecting --A2--> B2W --B2--> opened                        IN_R1, at the successor
    opened --A5: A6, the queue, B1--> finished                   IN_R1, at the predecessor
    opened --A1: A2--> A5W --A5--> opened                        IN_R2
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from hashlib import sha256
from typing import Any

from oxid.errors import RemoteProtocolError
from oxid.tunnel import rts as r
from oxid.tunnel.channel import SendingChannel, when_drained
from oxid.tunnel.ends import End
from oxid.tunnel.ports import Buffer, Port, ProxyShell
from oxid.tunnel.proxy_channel import ProxyChannel, ProxyConnection, log, same_cookie
from oxid.tunnel.proxy_table import ACCESS_DENIED, SERVER_TOO_BUSY, ProxyTable
from oxid.tunnel.rts import Destination, Kind, Rts
from oxid.tunnel.windows import ReceiveWindow


class InState(Enum):
    CONNECTING = "connecting"
    B3W = "B3W"
    B2W = "B2W"
    OPENED = "opened"
    A5W = "A5W"
    DRAINING = "draining"
    """After IN_R1/A5: what waits for the server's window is sent, then B1."""


def scoped_group(identity: Hashable, group: bytes) -> bytes:
    """What the server hears as AssociationGroupId: one for each identity that claims it, the same from every proxy.

    A client chooses the value, and servers share context handles within it: nobody gets into a group by naming it.
    RH-112, AB-12
    """
    return sha256(repr(identity).encode() + b"\0" + group).digest()[: r.COOKIE_SIZE]


class InProxy(ProxyChannel):
    """One IN channel request."""

    __slots__ = ("address", "held", "to", "window", "window_size")

    connection: Inbound | None

    def __init__(
        self,
        table: ProxyTable,
        client: Port,
        shell: ProxyShell,
        identity: Hashable,
        target: str,
        *,
        client_address: str = "0.0.0.0",
        window: int | None = None,
    ) -> None:
        """`identity` and `target` (`host:port`) as the shell has checked them; the address is the peer's. RH-113

        `window` where this client's is to be smaller than that of the options.
        """
        super().__init__(table, client, shell, identity, target)
        self.address = client_address
        self.window_size = min(window or table.options.receive_window, table.options.receive_window)
        self.window: ReceiveWindow | None = None
        self.to: SendingChannel | None = None
        """Where RPC PDUs go: to the server, when this is the default channel."""
        self.held: list[tuple[Buffer, int]] | None = None
        """A successor's RPC PDUs before A5 came on the predecessor."""

    # Bytes from the client --------------------------------------------------------------------------------

    def on_rpc(self, data: Buffer, size: int) -> None:
        self.heard = self.now()
        to = self.to
        if to is not None:
            to.send(data, size, self.window)
        elif self.held is not None and self.window is not None:
            self.window.arrive(size)
            self.held.append((bytes(data), size))
        else:
            raise RemoteProtocolError("RPC PDU before the virtual connection stands")

    def first(self, rts: Rts) -> None:
        """CONN/B1, or A1 of a recycling. [MS-RPCH] 3.2.3.5.3, 3.2.3.5.5"""
        table = self.table
        if rts.kind not in (Kind.CONN_B1, Kind.IN_A1):
            raise RemoteProtocolError(f"{rts} is not the first of an IN channel")
        vc = rts.cookies[0]
        if vc == r.NIL_COOKIE:
            raise RemoteProtocolError("virtual connection cookie 0")
        if table.is_stranger(vc, self.identity, self.target):
            self.refuse(ACCESS_DENIED, "the virtual connection has another identity or target")
            return
        found = table.inbound.get(vc)
        if rts.kind is Kind.IN_A1 and found is not None:
            found.succeed(self, rts)
            return
        if found is not None:
            raise RemoteProtocolError("CONN/B1 for a virtual connection that exists")
        if not table.inbound_quota.has_room(self.identity):
            self.refuse(SERVER_TOO_BUSY, "too many virtual connections")
            return
        self.cookie = rts.cookies[-1]
        self.connection = Inbound(self, rts)
        self.shell.connect()

    def joins(self, connection: Inbound, to: SendingChannel | None) -> None:
        """The channel belongs to a virtual connection now; its RPC PDUs go to `to`, or are held."""
        self.connection = connection
        size = connection.window_size
        self.window = ReceiveWindow(size, self.cookie, connection.acknowledge)
        if size != self.table.options.receive_window:
            self.window.low = (
                size // 2
            )  # the client's PDUs are small, and it hears no more often than from Windows
        self.to = to
        self.held = [] if to is None else None

    def let_go(self, end: End, *, status: int | None = None, abort: bool = False) -> None:
        self.to = self.held = None
        if self.window is not None:
            self.window.retire()
        super().let_go(end, status=status, abort=abort)

    # Time -------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> float | None:
        """End what is silent, or too slow with the rest of a PDU. T11, AB-2"""
        connection = self.connection
        if connection is None:
            return self.first_pdu_due(now)
        options = self.table.options
        timeout = options.connection_timeout * options.scale
        due = self.heard + timeout * options.silence
        if self.began is not None:
            due = min(due, self.began + timeout)
        if now < due:
            return due
        log.info("%r: nothing from the client", connection)
        connection.end(End.IDLE, abort=True)
        return None


class Inbound(ProxyConnection):
    """A virtual IN channel: its channels from the client, and the one to the server."""

    __slots__ = (
        "_a1",
        "_a5",
        "_early",
        "default",
        "keepalive_ms",
        "state",
        "successor",
        "to_server",
        "window_size",
    )

    def __init__(self, channel: InProxy, first: Rts) -> None:
        table = channel.table
        super().__init__(channel, first.cookies[0], first.version, table.inbound_quota)
        self.state = InState.CONNECTING
        self.default = channel
        self.successor: InProxy | None = None
        self.to_server: SendingChannel | None = None
        self.keepalive_ms = first.keepalive
        self.window_size = channel.window_size
        """What we take before the client has to wait; that of the first channel for all."""
        self._a1: Rts | None = first
        self._a5: bytes | None = None
        """The cookie of an A5 that came before the server had answered us, likewise."""
        self._early: tuple[InProxy, Rts] | None = None
        """A successor that came before the server had answered us: IN_R1/B2 is on its way."""
        table.inbound[self.cookie] = self

    @property
    def state_name(self) -> str:
        return self.state.value

    # Establishment ----------------------------------------------------------------------------------------

    def greet(self) -> None:
        """Send CONN/B2, or IN_R1/A2; what comes from the client waits until the server has answered."""
        first, self._a1 = self._a1, None
        assert first is not None
        assert self.server is not None
        options = self.table.options
        channel = self.default
        self.connecting = None
        to = self.to_server = SendingChannel(
            self.server.port, channel.cookie, r.MIN_WINDOW, self.table.world.clock.now, plugged=True
        )
        channel.joins(self, to)
        timeout_ms = int(options.connection_timeout * 1000)
        if first.kind is Kind.CONN_B1:
            self.state = InState.B3W
            to.send_plain(
                r.conn_b2(
                    self.cookie,
                    channel.cookie,
                    self.window_size,
                    timeout_ms,
                    scoped_group(channel.identity, first.group),
                    r.client_address(channel.address),
                    self.version,
                )
            )
            channel.shell.keep_alive(self.keepalive_ms / 1000 * options.scale)
        else:
            self.state = InState.B2W
            to.send_plain(
                r.in_r1_a2(
                    self.cookie,
                    first.cookies[1],
                    channel.cookie,
                    self.window_size,
                    timeout_ms,
                    self.version,
                )
            )
        self.table.deadlines.put(channel, channel.heard + options.connection_timeout * options.scale)

    def _answered(self, window: int) -> None:
        """CONN/B3 or IN_R1/B2: the server's window is known."""
        assert self.to_server is not None
        self.state = InState.OPENED
        self.set_up()
        self.to_server.set_window(window)
        self.to_server.unplug()
        early, self._early = self._early, None
        if early is not None and not early[0].finished:
            self.succeed(*early)
        a5, self._a5 = self._a5, None
        if a5 is not None and not self.over:
            self._on_a5(self.default, a5)

    # Recycling --------------------------------------------------------------------------------------------

    def succeed(self, channel: InProxy, rts: Rts) -> None:
        """IN_R2/A1: the channel is to succeed the default one. [MS-RPCH] 3.2.3.5.5.1"""
        right = same_cookie(rts.cookies[1], self.default.cookie)
        if right and self.state in (InState.B2W, InState.B3W) and self._early is None:
            self._early = channel, rts
            return
        if self.state is not InState.OPENED or not right:
            state = self.state_name
            self.end(End.PROTOCOL_ERROR)
            raise RemoteProtocolError(f"IN_R2/A1 in state {state}, or with a wrong predecessor")
        assert self.to_server is not None
        channel.cookie = rts.cookies[2]
        channel.joins(self, None)
        self.successor = channel
        self.state = InState.A5W
        self.expect_setup()
        self.table.deadlines.put(
            channel, channel.heard + self.table.options.connection_timeout * self.table.options.scale
        )
        # A new channel has a new window: what the server has not taken of the old one's must not add up
        when_drained(self.to_server, self._on_room_for_successor)

    def _on_room_for_successor(self) -> None:
        """IN_R2/A2: tell the server, and so the client, that the successor stands."""
        to, successor = self.to_server, self.successor
        if to is not None and successor is not None:
            to.renew(successor.cookie)
            to.send_plain(r.one_cookie(successor.cookie))

    def _on_a5(self, channel: InProxy, cookie: bytes) -> None:
        """A5: nothing more comes on the predecessor. [MS-RPCH] 3.2.3.5.6, 3.2.3.5.8"""
        to = self.to_server
        assert to is not None
        if self.state in (InState.B2W, InState.B3W) and self._a5 is None:
            self._a5 = cookie
            return
        if self.state is InState.OPENED:
            to.send_plain(r.one_cookie(cookie))
            self.state = InState.DRAINING
            self.expect_setup()
            channel.silence()
            channel.client.pause()
            if channel.window is not None:
                channel.window.retire()  # the client does not send here any more
            when_drained(to, self._farewell)
            return
        successor = self.successor
        if self.state is not InState.A5W or successor is None or channel is not self.default:
            raise RemoteProtocolError(f"A5 in state {self.state_name}, or off the predecessor")
        self.state = InState.OPENED
        self.set_up()
        self.successor = None
        if not same_cookie(cookie, successor.cookie):
            to.renew(channel.cookie)
            successor.let_go(End.PROTOCOL_ERROR)
            return
        self.default = successor
        channel.let_go(End.RECYCLED)
        held, successor.held = successor.held, None
        successor.to = to
        for data, size in held or ():
            to.put(data, size, successor.window)
        to.flush()

    def _farewell(self) -> None:
        """IN_R1/B1: the old in-proxy has nothing more for the server."""
        assert self.to_server is not None
        self.to_server.send_plain(r.IN_R1_B1)
        self.end(End.RECYCLED)

    # PDUs -------------------------------------------------------------------------------------------------

    def from_client(self, channel: ProxyChannel, pdu: Buffer, rts: Rts) -> None:
        to = self.to_server
        if self.state is InState.DRAINING:
            return
        if to is None:
            raise RemoteProtocolError(f"{rts} in state {self.state_name}")
        kind = rts.kind
        if rts.destination in (Destination.SERVER, Destination.OUT_PROXY):
            to.send_plain(pdu)
        elif kind is Kind.PING:
            pass
        elif kind is Kind.COOKIE:
            assert isinstance(channel, InProxy)
            self._on_a5(channel, rts.cookies[0])
        elif kind is Kind.KEEP_ALIVE:
            self.keepalive_ms = rts.keepalive
            self.default.shell.keep_alive(rts.keepalive / 1000 * self.table.options.scale)
        else:
            raise RemoteProtocolError(f"{rts} from the client in state {self.state_name}")

    def from_server(self, pdu: Buffer, rts: Rts) -> None:
        kind = rts.kind
        if kind is Kind.ACK or (kind is Kind.ACK_FORWARDED and rts.destination == Destination.IN_PROXY):
            assert rts.ack is not None
            received, window, cookie = rts.ack
            if self.to_server is not None and self.to_server.knows(cookie):
                self.to_server.ack(received, window)
        elif (kind is Kind.CONN_B3 and self.state is InState.B3W) or (
            kind is Kind.WINDOW and self.state is InState.B2W
        ):
            self._answered(rts.window)
        else:
            raise RemoteProtocolError(f"{rts} from the server in state {self.state_name}")

    def acknowledge(self, window: ReceiveWindow) -> None:
        """Tell the client, by way of server and out-proxy, that there is room again."""
        if self.to_server is not None:
            self.to_server.send_plain(r.ack_forwarded(Destination.CLIENT, *window.report(), window.cookie))

    # End --------------------------------------------------------------------------------------------------

    def client_gone(self, channel: ProxyChannel) -> None:
        """A client's connection has ended. While the queue goes to the server, that is as it should be."""
        if self.state is not InState.DRAINING:
            self.end(End.CLIENT_CLOSED)

    def channels(self) -> list[ProxyChannel]:
        return [channel for channel in (self.default, self.successor) if channel is not None]

    def release(self) -> None:
        self.table.inbound.pop(self.cookie, None)
        self._a1 = None
        self.successor = None
        early, self._early = self._early, None
        if early is not None:
            early[0].let_go(End.PROTOCOL_ERROR)
        if self.to_server is not None:
            self.to_server.clear()
            self.to_server = None

    def describe(self) -> dict[str, Any]:
        found = super().describe()
        to = self.to_server
        if to is not None:
            found |= {"window": to.available, "waiting": to.queued, "sent": to.sent}
        return found
