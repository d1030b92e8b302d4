"""The benches of each party of a tunnel: proxy, server and client, each alone. See `tunnels_replay`.

bench = bench_for(session, fuzz)
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final

from tests.fuzz.tunnels import SMALL, Event, Session
from tests.fuzz.tunnels_replay import (
    COOKIE,
    MARKS,
    MOST_HELD,
    WORST,
    Bench,
    Broken,
    FuzzPort,
    FuzzUpper,
    FuzzWorld,
    check_channel,
    check_duplex,
)

from oxid.errors import ProtocolError, TransportError
from oxid.tunnel.client import ChannelLeg, ClientTunnel
from oxid.tunnel.deadlines import Deadlines
from oxid.tunnel.ends import End
from oxid.tunnel.in_proxy import Inbound, InProxy, InState
from oxid.tunnel.out_proxy import Outbound, OutProxy
from oxid.tunnel.proxy_table import ProxyTable
from oxid.tunnel.server import VirtualConnection, VirtualConnections
from oxid.tunnel.windows import MAX_FRAGMENT

# A proxy --------------------------------------------------------------------------------------------------


class FuzzRequest:
    """The shell of one tunnel request."""

    def __init__(self, bench: ProxyBench, link: int, port: FuzzPort, owner: Hashable) -> None:
        self.bench, self.link, self.port, self.owner = bench, link, port, owner
        self.machine: Any = None
        self.connecting = False
        self.heads = self.refusals = self.ends = 0

    def connect(self) -> None:
        assert not self.ends
        assert not self.connecting
        self.connecting = True

    def cancel_connect(self) -> None:
        assert self.connecting
        self.connecting = False

    def keep_alive(self, seconds: float) -> None:
        assert not self.ends
        assert seconds == 0 or seconds >= 60 * SMALL.scale

    def refuse(self, status: int) -> None:
        assert not self.heads, "refused behind the head"
        assert not self.port.size
        assert status in (5, 1722, 1723)
        self.refusals += 1
        self.port.ended = True

    def send_response_head(self, content_length: int) -> None:
        assert not self.ends
        assert not self.refusals
        assert not self.port.size, "something was written before the head"
        self.heads += 1

    def finished(self, end: str) -> None:
        self.ends += 1
        assert self.port.ended, "the request was not ended"
        assert not self.connecting or self.machine.connection is None
        self.connecting = False


class ProxyBench(Bench):
    """One proxy process: requests of clients, connections to servers."""

    def __init__(self, session: Session, fuzz: FuzzWorld, *, keep: bool = False) -> None:
        super().__init__(session, fuzz, keep=keep)
        self.table = ProxyTable(self.world, SMALL)
        self.requests: dict[int, FuzzRequest] = {}
        self.next_deadline = self.table.next_deadline  # type: ignore[method-assign]
        self.expire = self.table.expire  # type: ignore[method-assign]

    def open(self, event: Event) -> None:
        if event.link in self.requests:
            return
        is_in, identity, target = event.extra
        port = self.ports[event.link, False] = FuzzPort(self, event.link, False)
        request = FuzzRequest(self, event.link, port, (identity, target))
        make: Any = InProxy if is_in else OutProxy
        request.machine = make(self.table, port, request, identity, target)
        self.requests[event.link] = request
        self.legs[event.link, False] = request.machine

    def connected(self, event: Event, *, failed: bool) -> None:
        request = self.requests.get(event.link)
        if request is None or not request.connecting:
            return
        request.connecting = False
        if failed:
            request.machine.connect_failed()
            return
        port = self.ports[event.link, True] = FuzzPort(self, event.link, True)
        self.legs[event.link, True] = request.machine.connected(port)

    def owner(self, link: int, far: bool) -> Hashable:
        return self.requests[link].owner

    def check(self) -> None:
        for request in self.requests.values():
            assert request.ends <= 1, f"ended {request.ends} times"
            assert request.heads <= 1
            assert request.refusals <= 1
            assert request.machine.finished == bool(request.ends)
            if request.port.ended and not request.ends and not request.refusals:
                # whose client has gone while its last bytes are on their way to the server goes on for that
                connection = request.machine.connection
                draining = connection is not None and connection.state is InState.DRAINING
                assert request.port.gone, "a request ended, its machine not"
                assert draining, "the client has gone, and nobody minds"
        for inbound in self.table.inbound.values():
            self._check_in(inbound)
        for outbound in self.table.outbound.values():
            self._check_out(outbound)
        early = [inbound._early[0] for inbound in self.table.inbound.values() if inbound._early is not None]
        for channel in self.table.channels:
            assert channel._tail is None or len(channel._tail) <= MAX_FRAGMENT
            if channel.connection is None and channel.bucket is None and channel not in early:
                raise Broken(f"nothing would ever end {channel}")
        for connection in (*self.table.inbound.values(), *self.table.outbound.values()):
            if connection.state.name != "OPENED" and (
                connection.setup_due is None or connection.bucket is None
            ):
                raise Broken(f"nothing would ever end {connection}")

    def _check_in(self, inbound: Inbound) -> None:
        to = inbound.to_server
        # a predecessor's and the successor's
        held = check_channel(to, 2 * MOST_HELD)
        for channel in (inbound.default, inbound.successor):
            if channel is None or channel.window is None:
                continue
            window = channel.window
            of_it = sum(size for _, size in channel.held or ())
            held += of_it
            of_it += 0 if to is None else sum(size for _, size, source in to.queue if source is window)
            assert window.held == of_it, f"{window} of {of_it}"
        if held > 2 * MOST_HELD:
            raise Broken(f"{held} bytes of one IN channel wait")

    def _check_out(self, outbound: Outbound) -> None:
        held = 0
        for channel in (outbound.default, outbound.predecessor, outbound.successor):
            if channel is not None:
                held += check_channel(channel.out)
        assert outbound.window.held == held, f"{outbound.window} of {held}"

    def shut_down(self) -> None:
        self.table.shut_down()

    def at_rest(self) -> None:
        table = self.table
        assert not table.inbound
        assert not table.outbound
        assert not table.channels
        assert not len(table.deadlines)
        for quota in (table.inbound_quota, table.outbound_quota):
            assert not quota.total
            assert not quota.half_open
            assert not quota._total
            assert not quota._half
        for request in self.requests.values():
            assert request.ends == 1, f"ended {request.ends} times"
        assert all(port.ended for port in self.ports.values()), "a connection was left open"

    def worst(self) -> str:
        ends = self.table.ends + self.table.channel_ends
        return next((end.value for end in WORST if ends[end]), "went on")


# A server -------------------------------------------------------------------------------------------------


class ServerBench(Bench):
    """An RPC server, and its connections from proxies."""

    def __init__(self, session: Session, fuzz: FuzzWorld, *, keep: bool = False) -> None:
        super().__init__(session, fuzz, keep=keep)
        self.server = VirtualConnections(self.world, SMALL, opened=self._opened, soon=self.tasks.append)
        self.next_deadline = self.server.next_deadline  # type: ignore[method-assign]
        self.expire = self.server.expire  # type: ignore[method-assign]
        self.connections: list[VirtualConnection] = []
        self.own = 0

    def _opened(self, connection: VirtualConnection) -> None:
        upper = ServerUpper(self, connection)
        connection.upper = upper
        self.connections.append(connection)
        self.uppers.append(upper)

    def open(self, event: Event) -> None:
        key = event.link, False
        if key not in self.legs:
            port = self.ports[key] = FuzzPort(self, event.link, False)
            self.legs[key] = self.server.accept(port, event.link)

    def write(self, event: Event) -> None:
        if event.link < len(self.connections) and self.uppers[event.link].may_write:
            self.own = max(self.own, len(event.data))
            self.connections[event.link].write(event.data)

    def owner(self, link: int, far: bool) -> Hashable:
        return self.ports[link, far].fed[COOKIE]

    def check(self) -> None:
        for connection in self.server.connections.values():
            check_duplex(connection, self.own)
            check_channel(connection._out_next_channel)
            waits = connection.opened_at is None or connection.out_state.name != "OPENED"
            if (waits and connection._out_due is None) or (
                connection.in_state.name == "A6W" and connection._in_due is None
            ):
                raise Broken(f"nothing would ever end {connection}")
        early = [c._early[0] for c in self.server.connections.values() if c._early is not None]
        for channel in self.server.channels:
            assert channel._tail is None or len(channel._tail) <= MAX_FRAGMENT
            if channel.connection is None and channel.bucket is None and channel not in early:
                raise Broken(f"nothing would ever end {channel}")

    def shut_down(self) -> None:
        self.server.shut_down()

    def at_rest(self) -> None:
        server = self.server
        assert not server.connections
        assert not server.channels
        assert not server.half_open
        assert not len(server.deadlines)
        assert all(port.ended for port in self.ports.values()), "a connection was left open"

    def worst(self) -> str:
        return next((end.value for end in WORST if self.server.ends[end]), "went on")


class ServerUpper(FuzzUpper):
    """Looks whose data it is given."""

    def __init__(self, bench: ServerBench, connection: VirtualConnection) -> None:
        super().__init__(connection, echo=True)
        self.bench = bench
        self.cookie = connection.cookie

    def data_received(self, data: bytes, /) -> None:
        for mark in set(MARKS.findall(data)):
            came = self.bench.marks.get(mark)
            if came is not None and self.bench.owner(*came) != self.cookie:
                raise Broken(f"link {came} speaks in another virtual connection")
        super().data_received(data)


# A client -------------------------------------------------------------------------------------------------


class ClientBench(Bench):
    """One client's tunnel."""

    def __init__(self, session: Session, fuzz: FuzzWorld, *, keep: bool = False) -> None:
        super().__init__(session, fuzz, keep=keep)
        self.deadlines = Deadlines(SMALL.tick)
        self.asked: list[ChannelLeg] = []
        self.given_up: list[ChannelLeg] = []
        self.answered: set[int] = set()
        self.failures: list[Exception] = []
        self.opens = 0
        self.own = 0
        self.tunnel = ClientTunnel(self.world, SMALL, self, self.deadlines, soon=self.tasks.append)
        self.tunnel.start()

    def open_in(self, leg: ChannelLeg) -> None:
        self.asked.append(leg)

    open_out = open_in

    def give_up(self, leg: ChannelLeg) -> None:
        assert leg not in self.given_up
        self.given_up.append(leg)

    def opened(self) -> None:
        self.opens += 1
        upper = FuzzUpper(self.tunnel, echo=False)
        self.uppers.append(upper)
        self.tunnel.upper = upper

    def failed(self, error: Exception) -> None:
        assert isinstance(error, ProtocolError | TransportError), error
        self.failures.append(error)

    def next_deadline(self) -> float | None:
        return self.deadlines.next()

    def expire(self, now: float) -> float | None:
        return self.deadlines.expire(now)

    def open(self, event: Event) -> None:
        key = event.link, False
        if key in self.legs or event.link >= len(self.asked):
            return
        leg = self.asked[event.link]
        if leg not in self.given_up:
            port = self.ports[key] = FuzzPort(self, event.link, False)
            self.legs[key] = leg
            leg.opened(port)

    def responded(self, link: int) -> None:
        leg = self.legs.get((link, False))
        if leg is not None and not leg.is_in and link not in self.answered:
            self.answered.add(link)
            leg.responded()

    def write(self, event: Event) -> None:
        if self.uppers and not self.uppers[0].may_write:
            return  # an RPC layer writes no more until it may
        self.own = max(self.own, len(event.data))
        self.tunnel.write(self.remarked(event.data, (99, False)))

    def owner(self, link: int, far: bool) -> Hashable:
        # what came may not be written: clients send what their own RPC layer says
        return link == 99 or self.asked[link].is_in

    def check(self) -> None:
        assert self.opens + len(self.failures) <= 1
        tunnel = self.tunnel
        check_duplex(tunnel, self.own)
        assert not tunnel.over or all(leg.finished for leg in self.asked), "requests outlive their tunnel"
        in_waits, out_waits = tunnel.in_state.name == "A4W", tunnel.out_state.name != "OPENED"
        if not tunnel.over and (
            (in_waits and tunnel._in_due is None) or (out_waits and tunnel._out_due is None)
        ):
            raise Broken(f"nothing would ever end {tunnel}")
        for (link, _), port in self.ports.items():
            leg = self.asked[link]
            assert port.size <= leg.content_length, f"{port.size} bytes of {leg.content_length} declared"
            assert sum(map(len, leg._held or ())) <= SMALL.receive_window + 2 * MAX_FRAGMENT

    def shut_down(self) -> None:
        self.tunnel.abort()

    def last_close(self) -> None:
        # requests that are still being made fail too
        for leg in self.asked:
            if not leg.is_open and leg not in self.given_up:
                leg.closed(TransportError("no connection"))
                self.turn_tasks()
        super().last_close()

    def at_rest(self) -> None:
        assert self.tunnel.over
        assert not len(self.deadlines)
        assert self.opens + len(self.failures) == 1
        assert all(port.ended for port in self.ports.values()), "a connection was left open"
        assert all(leg.is_open or leg in self.given_up for leg in self.asked if leg.finished)

    def worst(self) -> str:
        if not self.tunnel.over:
            return "went on"
        error = self.failures[0] if self.failures else None
        lost = self.lost_with if error is None else error
        if isinstance(lost, ProtocolError):
            return End.PROTOCOL_ERROR.value
        text = str(lost)
        if "set up" in text or "used up" in text:
            return End.SETUP.value
        return End.IDLE.value if "nothing came" in text else End.PROXY_CLOSED.value

    @property
    def lost_with(self) -> Exception | None:
        """The error that the upper layer heard."""
        return next((upper.error for upper in self.uppers), None)


BENCHES: Final[dict[str, type[Bench]]] = {"proxy": ProxyBench, "server": ServerBench, "client": ClientBench}


def bench_for(session: Session, fuzz: FuzzWorld, *, keep: bool = False) -> Bench:
    """The party of a session, fresh."""
    return BENCHES[session.party](session, fuzz, keep=keep)
