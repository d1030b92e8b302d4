"""The client's side of a tunnel. [MS-RPCH] 3.2.2

deadlines = Deadlines(options.tick, driver.want)       shared by the clients of a shell
tunnel = ClientTunnel(world, options, shell, deadlines)       a Duplex
tunnel.start()                        shell.open_in(leg) and shell.open_out(leg) are called inside
leg.opened(port)                      the request's head is on its way; the body is written to the port
leg.responded()                       OUT only: 200 came; the bytes of its body go to leg.receive
leg.closed(error)                     refused (503, 401 ...) or lost

opening    response --200--> A3W --A3--> C2W --C2--> opened, then each direction on its own:
IN         opened --the lifetime runs out: a new request, A1--> A4W --A4: switch, A5--> opened
OUT        opened --A2: a new request, A3--> A6W
           A6W --OUT_R1/A6: A7--> A10W --A10: switch, A11--> opened
           A6W --OUT_R2/A6: A7 and C1--> B3W --B3: switch--> opened
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Protocol

from oxid.errors import RemoteProtocolError, TransportError
from oxid.tunnel import rts as r
from oxid.tunnel.channel import RESERVE, SendingChannel
from oxid.tunnel.deadlines import Deadlines
from oxid.tunnel.duplex import NEVER, Duplex, at_once
from oxid.tunnel.ends import NO_PORT, End
from oxid.tunnel.options import TunnelOptions
from oxid.tunnel.pdus import PduStream
from oxid.tunnel.ports import Buffer, Port
from oxid.tunnel.proxy_table import short
from oxid.tunnel.rts import Destination, Kind, Rts, parse
from oxid.tunnel.windows import MAX_FRAGMENT, ReceiveWindow
from oxid.world import World

log: Final = logging.getLogger("oxid.tunnel.client")

FIRST_OUT: Final = 76
"""Content-Length of the first OUT channel request: CONN/A1. [MS-RPCH] 2.1.2.1.2"""
NEXT_OUT: Final = 120
"""Content-Length of its successors: A3, then A11 or C1."""
FAREWELL: Final = 256
"""Bytes of a lifetime for the PDUs of a recycling: A7 and A5, with some to spare."""


class ClientShell(Protocol):
    """What the shell of a client's tunnel does."""

    def open_in(self, leg: ChannelLeg) -> None:
        """Make an RPC_IN_DATA request with leg.content_length; then leg.opened(port), or leg.closed(error)."""

    def open_out(self, leg: ChannelLeg) -> None:
        """Make an RPC_OUT_DATA request likewise; leg.responded() once 200 came, leg.closed(error) for others."""

    def give_up(self, leg: ChannelLeg) -> None:
        """Cancel a request that is being made; leg.opened is not called any more."""

    def opened(self) -> None:
        """The virtual connection stands; set tunnel.upper now."""

    def failed(self, error: Exception) -> None:
        """It could not be opened. Once, instead of `opened`; later upper.connection_lost tells the end."""


class _NoShell:
    __slots__ = ()

    def open_in(self, leg: ChannelLeg) -> None: ...

    def open_out(self, leg: ChannelLeg) -> None: ...

    def give_up(self, leg: ChannelLeg) -> None: ...

    def opened(self) -> None: ...

    def failed(self, error: Exception) -> None: ...


_NO_SHELL: Final = _NoShell()


class InState(Enum):
    OPENING = "opening"
    OPENED = "opened"
    A4W = "A4W"


class OutState(Enum):
    RESPONSE = "response"
    A3W = "A3W"
    C2W = "C2W"
    OPENED = "opened"
    A6W = "A6W"
    A10W = "A10W"
    B3W = "B3W"


class ChannelLeg(PduStream):
    """One tunnel request of a client: a Leg with `opened` and `responded`."""

    __slots__ = (
        "__weakref__",
        "_held",
        "_held_size",
        "content_length",
        "cookie",
        "finished",
        "is_in",
        "is_open",
        "port",
        "sending",
        "tunnel",
        "window",
    )

    flowing = True

    def __init__(self, tunnel: ClientTunnel, content_length: int, *, is_in: bool) -> None:
        super().__init__(tunnel.world.clock.now)
        self.tunnel: ClientTunnel | None = tunnel
        self.content_length = content_length
        """What the HTTP request declares."""
        self.is_in = is_in
        self.cookie = tunnel.world.entropy.token(r.COOKIE_SIZE)
        self.port: Port = NO_PORT
        self.is_open = False
        self.finished = False
        self.sending: SendingChannel | None = None
        """IN channels: what is sent on it."""
        self.window: ReceiveWindow | None = None
        """OUT channels: our room."""
        self._held: list[bytes] | None = None
        """A successor's bytes before the predecessor's last ones came."""
        self._held_size = 0
        tunnel.world.ledger.tunnel_channel.enter()

    # What the shell tells ---------------------------------------------------------------------------------

    def opened(self, port: Port) -> None:
        """The request's head is on its way; the machine writes the body."""
        tunnel = self.tunnel
        if self.finished or tunnel is None:
            port.abort()
            return
        self.port = port
        self.is_open = True
        if self.is_in:
            self.sending = SendingChannel(
                port, self.cookie, r.MIN_WINDOW, self.now, lifetime=self.content_length, plugged=True
            )
        tunnel.leg_opened(self)

    def responded(self) -> None:
        """OUT: the response is 200; its body follows."""
        if self.tunnel is not None:
            self.tunnel.leg_responded(self)

    def closed(self, error: Exception | None = None) -> None:
        """The request has ended, or was refused."""
        if self.tunnel is not None:
            self.tunnel.leg_closed(self, error)
        self.let_go()

    def writable(self, flag: bool) -> None:
        """Nothing: windows bound what is under way."""

    def receive(self, data: bytes) -> None:
        tunnel = self.tunnel
        if tunnel is None:
            return
        tunnel.heard = self.now()
        if self._held is None:
            PduStream.receive(self, data)
            return
        self._held_size += len(data)
        if self._held_size > tunnel.options.receive_window + 2 * MAX_FRAGMENT:
            self.on_broken(RemoteProtocolError(f"{self._held_size} bytes before the predecessor ended"))
        else:
            self._held.append(data)

    # PDUs -------------------------------------------------------------------------------------------------

    def on_rpc(self, data: Buffer, size: int) -> None:
        if self.tunnel is None or self.window is None or self.is_in:
            raise RemoteProtocolError("RPC PDU where none may come")
        self.tunnel.take_rpc(data, size, self.window)

    def on_rts(self, pdu: Buffer) -> None:
        if self.tunnel is None:
            return
        if self.is_in:
            raise RemoteProtocolError("RTS PDU on an IN channel")
        self.tunnel.on_rts(self, parse(pdu))  # type: ignore[arg-type]  # a bytearray will do

    def on_broken(self, error: RemoteProtocolError) -> None:
        if self.tunnel is not None:
            self.tunnel.end(End.PROTOCOL_ERROR, error)

    # Recycling --------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Keep what comes until `go_on`: the predecessor's last bytes are still under way."""
        self._held = []

    def go_on(self) -> None:
        """The predecessor has ended: take what was kept."""
        held, self._held = self._held, None
        for data in held or ():
            self.receive(data)

    def let_go(self, *, abort: bool = False) -> None:
        """End this request alone, once."""
        tunnel = self.tunnel
        if self.finished or tunnel is None:
            return
        self.finished = True
        self.silence()
        self.tunnel = None
        self._held = None
        if self.window is not None:
            self.window.retire()
        if self.sending is not None:
            self.sending.clear()
        port, self.port = self.port, NO_PORT
        tunnel.world.ledger.tunnel_channel.leave()
        if not self.is_open:
            tunnel.shell.give_up(self)
        elif abort:
            port.abort()
        else:
            port.close()

    def __repr__(self) -> str:
        return f"<ChannelLeg {'IN' if self.is_in else 'OUT'} {short(self.cookie)}>"


class ClientTunnel(Duplex):
    """A virtual connection as its client has it."""

    __slots__ = (
        "__weakref__",
        "_in",
        "_in_due",
        "_in_next",
        "_out",
        "_out_due",
        "_out_next",
        "_retired",
        "association_group",
        "bucket",
        "cookie",
        "deadlines",
        "heard",
        "in_state",
        "in_timeout",
        "options",
        "out_state",
        "out_timeout",
        "recycled",
        "shell",
        "version",
        "world",
    )

    def __init__(
        self,
        world: World,
        options: TunnelOptions,
        shell: ClientShell,
        deadlines: Deadlines,
        *,
        association_group: bytes | None = None,
        soon: Callable[[Callable[[], None]], object] = at_once,
    ) -> None:
        """`association_group`: 16 bytes that tunnels of one client share; `soon` is the loop's `call_soon`."""
        super().__init__(soon)
        self.world = world
        self.options = options
        self.shell: ClientShell = shell
        self.deadlines = deadlines
        self.cookie = world.entropy.token(r.COOKIE_SIZE)
        self.association_group = association_group or world.entropy.token(r.COOKIE_SIZE)
        self.version = r.VERSION
        self.in_state = InState.OPENING
        self.out_state = OutState.RESPONSE
        self.in_timeout = self.out_timeout = options.connection_timeout * options.scale
        """The proxies' ConnectionTimeouts in real seconds."""
        self.recycled = 0
        """Recyclings that were completed, of either direction."""
        self.bucket: int | None = None
        self.heard = world.clock.now()
        self._in: ChannelLeg | None = None
        self._in_next: ChannelLeg | None = None
        self._out: ChannelLeg | None = None
        self._out_next: ChannelLeg | None = None
        self._retired: list[tuple[float, ChannelLeg]] = []
        """Predecessors that their proxy is to close, and until when it has time for that."""
        self._in_due: float | None = None
        self._out_due: float | None = None

    def start(self) -> None:
        """Open the virtual connection; the shell hears `opened` or `failed`. Called once."""
        self.world.ledger.virtual_connection.enter()
        self._out_due = self._deadline()
        self._in = ChannelLeg(self, self.options.channel_lifetime, is_in=True)
        self._out = ChannelLeg(self, FIRST_OUT, is_in=False)
        self.shell.open_in(self._in)
        if not self.over:
            self.shell.open_out(self._out)

    # Requests ---------------------------------------------------------------------------------------------

    def leg_opened(self, leg: ChannelLeg) -> None:
        """A request is on its way. A1 and B1 go out when both are. [MS-RPCH] 3.2.2.4.1.2"""
        options = self.options
        if not leg.is_in:
            leg.window = ReceiveWindow(options.receive_window, leg.cookie, self._acknowledge)
        if leg is self._in_next:
            assert leg.sending is not None
            assert self._in is not None
            leg.sending.send_plain(r.in_a1(self.cookie, self._in.cookie, leg.cookie, self.version))
        elif leg is self._out_next:
            assert self._out is not None
            leg.port.write(
                r.out_a3(self.cookie, self._out.cookie, leg.cookie, options.receive_window, self.version)
            )
        elif self._in is not None and self._out is not None and self._in.is_open and self._out.is_open:
            assert self._in.sending is not None
            self._out.port.write(r.conn_a1(self.cookie, self._out.cookie, options.receive_window))
            self._in.sending.send_plain(
                r.conn_b1(
                    self.cookie,
                    self._in.cookie,
                    self._in.content_length,
                    int(options.client_keepalive * 1000),
                    self.association_group,
                )
            )

    def leg_responded(self, leg: ChannelLeg) -> None:
        """200 came on an OUT channel."""
        if leg is self._out and self.out_state is OutState.RESPONSE:
            self.out_state = OutState.A3W

    def leg_closed(self, leg: ChannelLeg, error: Exception | None) -> None:
        """A request has ended: so does everything, but for predecessors. [MS-RPCH] 3.2.2.5.11"""
        for entry in self._retired:
            if entry[1] is leg:
                self._retired.remove(entry)
                if self._channel is not None:
                    self._strained(self._channel)  # a recycling may have waited for this
                return
        self.end(End.PROXY_CLOSED, error or TransportError("the proxy closed the tunnel"))

    # RPC --------------------------------------------------------------------------------------------------

    def take_rpc(self, data: Buffer, size: int, window: ReceiveWindow) -> None:
        """RPC data came on the default OUT channel."""
        if self.in_state is InState.OPENING:
            raise RemoteProtocolError("RPC PDU before the virtual connection stands")
        self._deliver(data, size, window)

    def _acknowledge(self, window: ReceiveWindow) -> None:
        """Tell the out-proxy, by way of in-proxy and server, that there is room again."""
        self._send_aside(r.ack_forwarded(Destination.OUT_PROXY, *window.report(), window.cookie))

    def _send_aside(self, pdu: Buffer) -> None:
        """Send an RTS PDU that is part of no sequence: those may be many while a recycling is not answered.

        A request's body never gets longer than declared: its rest would be read as the next request.
        """
        channel = self._channel
        if channel is None:
            return
        if channel.left < len(pdu) + FAREWELL:
            self.end(End.SETUP, TransportError("the lifetime of the IN channel is used up"), abort=True)
        else:
            channel.send_rts(pdu)

    # RTS --------------------------------------------------------------------------------------------------

    def on_rts(self, leg: ChannelLeg, rts: Rts) -> None:
        """An RTS PDU came on an OUT channel. Raises RemoteProtocolError."""
        kind = rts.kind
        if rts.destination not in (None, Destination.CLIENT):
            raise RemoteProtocolError(f"{rts} is not for clients")
        if leg is not self._out:
            raise RemoteProtocolError(f"{rts} on a successor")
        if kind is Kind.PING:
            pass
        elif kind is Kind.ACK_FORWARDED:
            self._on_ack(rts)
        elif kind is Kind.CONN_A3 and self.out_state is OutState.A3W:
            self.out_state = OutState.C2W
            self.out_timeout = self.in_timeout = rts.timeout / 1000 * self.options.scale
        elif kind is Kind.CONN_C and self.out_state is OutState.C2W:
            self._on_c2(rts)
        elif kind in (Kind.IN_R1_A4, Kind.IN_R2_A4) and self.in_state is InState.A4W:
            self._on_in_a4(rts)
        elif kind is Kind.OUT_A1 and self.out_state is OutState.OPENED:
            self._on_out_a2()
        elif kind in (Kind.OUT_R1_A6, Kind.OUT_R2_A6) and self.out_state is OutState.A6W:
            self._on_out_a6(rts)
        elif (kind is Kind.ANCE and self.out_state is OutState.A10W) or (
            kind is Kind.OUT_R2_B3 and self.out_state is OutState.B3W
        ):
            self._on_out_end()
        else:
            raise RemoteProtocolError(
                f"{rts} in state {self.in_state.value} (IN), {self.out_state.value} (OUT)"
            )

    def _on_ack(self, rts: Rts) -> None:
        assert rts.ack is not None
        received, window, cookie = rts.ack
        channel = self._channel
        if channel is not None and channel.knows(cookie):
            channel.ack(received, window)
            if self._channel is channel:
                self._strained(channel)

    def _on_c2(self, rts: Rts) -> None:
        """The virtual connection stands. [MS-RPCH] 3.2.2.5.4"""
        assert self._in is not None
        channel = self._in.sending
        if channel is None:
            raise RemoteProtocolError("CONN/C2 before CONN/B1 was sent")
        self.out_state = OutState.OPENED
        self.in_state = InState.OPENED
        self.in_timeout = rts.timeout / 1000 * self.options.scale
        self.version = min(self.version, rts.version)
        self._out_due = None
        channel.set_window(rts.window)
        channel.unplug()
        self._channel = channel
        self._recycle_below = self.options.threshold(channel.lifetime) - RESERVE
        self.deadlines.put(self, self._look_again())
        self.shell.opened()

    # Recycling of the IN channel --------------------------------------------------------------------------

    def _recycle(self) -> None:
        """[MS-RPCH] 3.2.2.5.12. Not before the proxy of the last predecessor is done with it: it would not know us."""
        channel = self._channel
        if self._retired and channel is not None:
            self._recycle_below = self.options.threshold(channel.lifetime) - RESERVE
        elif self.in_state is InState.OPENED:
            self.in_state = InState.A4W
            self._in_due = self._deadline()
            self._in_next = ChannelLeg(self, self.options.channel_lifetime, is_in=True)
            self.shell.open_in(self._in_next)

    def _on_in_a4(self, rts: Rts) -> None:
        """The successor stands. [MS-RPCH] 3.2.2.5.5

        What waits on the predecessor goes to the successor, so A5 is its last PDU at once.
        """
        successor, old = self._in_next, self._in
        assert old is not None
        if successor is None or successor.sending is None or old.sending is None:
            raise RemoteProtocolError(f"{rts} before A1 was sent")
        channel = successor.sending
        window = old.sending.size
        if rts.kind is Kind.IN_R1_A4:
            window = rts.window
            self.in_timeout = rts.timeout / 1000 * self.options.scale
        self._in, self._in_next = successor, None
        self.in_state = InState.OPENED
        self._in_due = None
        self.recycled += 1
        old.sending.hand_over(channel)
        old.sending.send_plain(r.one_cookie(successor.cookie))
        self._retired.append((self._deadline(), old))
        self._channel = channel
        self._recycle_below = self.options.threshold(channel.lifetime) - RESERVE
        channel.set_window(window)
        channel.unplug()
        if self._channel is channel:
            self._strained(channel)

    # Recycling of the OUT channel -------------------------------------------------------------------------

    def _on_out_a2(self) -> None:
        """[MS-RPCH] 3.2.2.5.6"""
        self.out_state = OutState.A6W
        self._out_due = self._deadline()
        self._out_next = ChannelLeg(self, NEXT_OUT, is_in=False)
        self._out_next.hold()
        self.shell.open_out(self._out_next)

    def _on_out_a6(self, rts: Rts) -> None:
        """[MS-RPCH] 3.2.2.5.7, 3.2.2.5.9"""
        successor, channel = self._out_next, self._channel
        if successor is None or not successor.is_open or channel is None:
            raise RemoteProtocolError(f"{rts} before A3 was sent")
        if rts.kind is Kind.OUT_R1_A6:
            self.out_timeout = rts.timeout / 1000 * self.options.scale
            self.out_state = OutState.A10W
            channel.send_rts(r.out_r1_a7(successor.cookie))
        else:
            self.out_state = OutState.B3W
            channel.send_rts(r.out_r2_a7(successor.cookie, self.version))
            successor.port.write(r.OUT_R2_C1)

    def _on_out_end(self) -> None:
        """A10 or B3: the predecessor's last bytes; what follows them is ignored. [MS-RPCH] 3.2.2.5.8, 3.2.2.5.10"""
        successor, old = self._out_next, self._out
        assert successor is not None
        assert old is not None
        if self.out_state is OutState.A10W:
            successor.port.write(r.OUT_R1_A9)
        self.out_state = OutState.OPENED
        self._out, self._out_next = successor, None
        self._out_due = None
        self.recycled += 1
        old.let_go()
        successor.go_on()

    # Time -------------------------------------------------------------------------------------------------

    def keep_alive(self, seconds: float) -> None:
        """Ask the in-proxy for another TCP keep-alive to the server: 0 or at least 60 s on the wire."""
        self._send_aside(r.keep_alive(int(seconds * 1000)))

    def _deadline(self) -> float:
        due = self.world.clock.now() + self.options.setup_timeout * self.options.scale
        self.deadlines.put(self, due)
        return due

    def _look_again(self) -> float:
        dues = [due for due in (self._in_due, self._out_due) if due is not None]
        dues += [due for due, _ in self._retired]
        channel = self._channel
        if channel is not None:
            dues.append(channel.last + self.in_timeout / 2)
            dues.append(self.heard + self.out_timeout * self.options.silence)
        return min(dues)

    def expire(self, now: float) -> float | None:
        """Ping; end what was not set up in time, or is silent. [MS-RPCH] 3.2.2.6.1"""
        if any(due is not None and due <= now for due in (self._in_due, self._out_due)):
            self.end(End.SETUP, TransportError("the tunnel was not set up in time"), abort=True)
            return None
        while self._retired and self._retired[0][0] <= now:
            self._retired.pop(0)[1].let_go()
        channel = self._channel
        if channel is not None:
            if now >= self.heard + self.out_timeout * self.options.silence:
                self.end(End.IDLE, TransportError("nothing came through the tunnel"), abort=True)
                return None
            if now >= channel.last + self.in_timeout / 2:
                self._send_aside(r.PING)
                if not self.over:
                    self._strained(channel)
        return None if self.over else self._look_again()

    # End --------------------------------------------------------------------------------------------------

    def _closing(self) -> None:
        if self._out_due is None:
            self._out_due = self._deadline()

    def end(self, end: End, error: Exception | None = None, *, abort: bool = False) -> None:
        """All requests of the virtual connection end; once. RH-101"""
        if self.over:
            return
        self.over = True
        log.debug("%r ends: %s", self, error or end.value)
        opening = self.in_state is InState.OPENING
        self.deadlines.drop(self)
        self.world.ledger.virtual_connection.leave()
        self._recycle_below = NEVER
        legs = [leg for leg in (self._in, self._in_next, self._out, self._out_next) if leg is not None]
        legs += [leg for _, leg in self._retired]
        self._in = self._in_next = self._out = self._out_next = None
        self._retired.clear()
        for leg in legs:
            leg.let_go(abort=abort)
        shell, self.shell = self.shell, _NO_SHELL
        if opening:
            shell.failed(error or TransportError(f"the tunnel was not opened: {end.value}"))
        self._let_go(error)

    def describe(self) -> dict[str, Any]:
        """A row for the console: no whole cookie. RH-103"""
        found: dict[str, Any] = {
            "connection": short(self.cookie),
            "in": self.in_state.value,
            "out": self.out_state.value,
            "recycled": self.recycled,
        }
        if self._channel is not None:
            found |= {"window": self._channel.available, "lifetime_used": self._channel.spent}
        return found

    def __repr__(self) -> str:
        return f"<ClientTunnel {short(self.cookie)} in {self.in_state.value}, out {self.out_state.value}>"
