"""Client, proxies and server of RPC over HTTP in memory: bytes split at will, time that is moved by hand.

    world = TunnelWorld(seed=1, proxies=2)
    client = world.open()                  a ClientEnd: client.send(pdu), client.got
    world.settle()                         until nothing moves any more
    world.advance(120)                     time passes; whatever is due happens
    world.close()

Every connection is a Pipe of two Ends. An End is the Port of the machine on its side, and carries what the other
side wrote to the machine's leg, in pieces of any size and in any order between connections.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from oxid.errors import TransportError
from oxid.tunnel.client import ChannelLeg, ClientTunnel
from oxid.tunnel.deadlines import Deadlines
from oxid.tunnel.in_proxy import InProxy
from oxid.tunnel.options import TunnelOptions
from oxid.tunnel.out_proxy import OutProxy
from oxid.tunnel.pdus import pdu_length
from oxid.tunnel.proxy_table import ProxyTable
from oxid.tunnel.rts import BANNER
from oxid.tunnel.server import VirtualConnection, VirtualConnections
from oxid.world import World


class HandClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def utc(self) -> float:
        return self.time


class SeededEntropy:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)


class End:
    """One side of a connection: a Port, and the mailbox of the leg behind it."""

    def __init__(self, world: TunnelWorld) -> None:
        self.world = world
        self.leg: Any = None
        self.other: End = self
        self.inbox: deque[Any] = deque()
        self.waiting = 0
        self.most_waiting = 0
        self.ended = False
        """Nothing is written here any more."""
        self.told = False
        self.broken: Exception | None = None
        self.paused = False
        self.written = bytearray() if world.recording else None

    def write(self, data: Any, /) -> None:
        if self.ended:
            return
        if self.written is not None:
            self.written += data
        other = self.other
        other.inbox.append(bytes(data))
        other.waiting += len(data)
        other.most_waiting = max(other.most_waiting, other.waiting)

    def write_all(self, buffers: list[Any], /) -> None:
        self.write(b"".join(buffers))

    def call(self, what: Callable[[], None]) -> None:
        """Something that happens at the other side once everything before has arrived."""
        if not self.ended:
            self.other.inbox.append(what)

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        if not self.ended or self.other.inbox:
            self.ended = True
            self.other.inbox.clear()
            self.other.waiting = 0
            self.other.broken = TransportError("reset")

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    @property
    def ready(self) -> bool:
        if self.told or self.leg is None:
            return False
        return bool(self.inbox and not self.paused) or (not self.inbox and (self.other.ended or self.ended))

    def step(self) -> None:
        """Deliver one piece, or the end."""
        if not self.inbox:
            self.told = True
            leg, self.leg = self.leg, None
            self.ended = True
            leg.closed(self.broken)
            return
        piece = self.inbox.popleft()
        if not isinstance(piece, bytes):
            piece()
            return
        while (
            self.world.pieces != "crumbs"
            and self.inbox
            and isinstance(self.inbox[0], bytes)
            and self.world.random.random() < 0.5
        ):
            piece += self.inbox.popleft()
        cut = self.world.cut(len(piece))
        if cut < len(piece):
            self.inbox.appendleft(piece[cut:])
            piece = piece[:cut]
        self.waiting -= len(piece)
        self.leg.receive(piece)


@dataclass
class ProxyRequest:
    """The shell of one tunnel request in a proxy."""

    world: TunnelWorld
    end: End
    client: End
    machine: Any = None
    events: list[Any] = field(default_factory=list)
    server_end: End | None = None
    give_up: bool = False

    def connect(self) -> None:
        self.events.append("connect")
        self.world.soon(self._connect)

    def _connect(self) -> None:
        if self.give_up:
            return
        if self.world.connect_fails:
            self.machine.connect_failed()
            return
        mine, server = self.world.pipe()
        self.server_end = mine
        if self.world.no_server:
            server.leg = Silent()
            mine.leg = self.machine.connected(mine)
            return
        server.write(BANNER)
        server.leg = self.world.server.accept(server, ("proxy", len(self.world.ends)))
        mine.leg = self.machine.connected(mine)

    def cancel_connect(self) -> None:
        self.events.append("cancel")
        self.give_up = True

    def keep_alive(self, seconds: float) -> None:
        self.events.append(("keep_alive", seconds))

    def refuse(self, status: int) -> None:
        self.events.append(("refuse", status))
        error = TransportError(f"503 RPC Error: {status:x}")
        self.end.close()
        self.client.broken = error

    def send_response_head(self, content_length: int) -> None:
        self.events.append(("head", content_length))
        client = self.client
        self.end.call(lambda: client.leg.responded() if client.leg is not None else None)

    def finished(self, end: str) -> None:
        self.events.append(("finished", end))
        self.machine = None


class Silent:
    """A leg that hears nothing."""

    def receive(self, data: bytes) -> None: ...

    def closed(self, error: Exception | None = None) -> None: ...

    def writable(self, flag: bool) -> None: ...


def pdu(payload: bytes, ptype: int = 0) -> bytes:
    """An RPC PDU that nobody on the way understands."""
    return (
        bytes((5, 0, ptype, 3, 0x10, 0, 0, 0))
        + (16 + len(payload)).to_bytes(2, "little")
        + bytes(6)
        + payload
    )


class RpcEnd:
    """The RPC layer above one end: keeps the PDUs that came."""

    def __init__(self) -> None:
        self.duplex: Any = None
        self.data = bytearray()
        self.got: list[bytes] = []
        self.lost: list[Exception | None] = []
        self.may_write = True
        self.echo = False

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        self.data += data
        while len(self.data) >= 16 and len(self.data) >= (size := pdu_length(self.data, 0)):
            whole = bytes(self.data[:size])
            del self.data[:size]
            self.got.append(whole[16:])
            if self.echo:
                self.duplex.write(whole)

    def send(self, payload: bytes) -> None:
        self.duplex.write(pdu(payload))

    def pause_writing(self) -> None:
        assert self.may_write
        self.may_write = False

    def resume_writing(self) -> None:
        assert not self.may_write
        self.may_write = True

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.append(error)


class ClientEnd(RpcEnd):
    """A client: its tunnel's shell, and what is above it."""

    def __init__(self, world: TunnelWorld, options: TunnelOptions, identity: Hashable, target: str) -> None:
        super().__init__()
        self.world = world
        self.identity = identity
        self.target = target
        self.failures: list[Exception] = []
        self.is_open = False
        self.requests: list[tuple[ChannelLeg, End, ProxyRequest]] = []
        self.given_up: list[ChannelLeg] = []
        self.tunnel = self.duplex = ClientTunnel(world.world, options, self, world.deadlines, soon=world.soon)
        self.tunnel.start()

    def open_in(self, leg: ChannelLeg) -> None:
        self.world.soon(lambda: self._request(leg, is_in=True))

    def open_out(self, leg: ChannelLeg) -> None:
        self.world.soon(lambda: self._request(leg, is_in=False))

    def _request(self, leg: ChannelLeg, *, is_in: bool) -> None:
        if leg in self.given_up:
            return
        world = self.world
        mine, proxy = world.pipe()
        mine.leg = leg
        shell = ProxyRequest(world, proxy, mine)
        table = world.table_for(is_in)
        make: Any = InProxy if is_in else OutProxy
        machine = make(table, proxy, shell, self.identity, self.target)
        shell.machine = proxy.leg = machine
        self.requests.append((leg, mine, shell))
        leg.opened(mine)

    def give_up(self, leg: ChannelLeg) -> None:
        self.given_up.append(leg)

    def opened(self) -> None:
        self.is_open = True
        self.tunnel.upper = self

    def failed(self, error: Exception) -> None:
        assert not self.is_open
        self.failures.append(error)

    def ends(self, *, is_in: bool) -> list[End]:
        """The client's ends of its requests of one direction, the oldest first."""
        return [end for leg, end, _ in self.requests if leg.is_in is is_in]

    def requests_in(self) -> list[tuple[ChannelLeg, End, ProxyRequest]]:
        return [request for request in self.requests if request[0].is_in]

    def requests_out(self) -> list[tuple[ChannelLeg, End, ProxyRequest]]:
        return [request for request in self.requests if not request[0].is_in]

    def request_of(self, identity: Hashable, *, is_in: bool, table: int = 0, target: str = "") -> RawRequest:
        """A tunnel request of anybody, to be filled by hand."""
        return RawRequest(self.world, identity, target or self.target, is_in=is_in, table=table)

    def shells(self, *, is_in: bool) -> list[ProxyRequest]:
        return [shell for leg, _, shell in self.requests if leg.is_in is is_in]


class RawRequest:
    """A tunnel request whose body is written by hand; what comes back is kept."""

    def __init__(
        self, world: TunnelWorld, identity: Hashable, target: str, *, is_in: bool, table: int = 0
    ) -> None:
        self.world = world
        self.mine, proxy = world.pipe()
        self.mine.leg = self
        self.shell = ProxyRequest(world, proxy, self.mine)
        make: Any = InProxy if is_in else OutProxy
        self.machine = make(world.tables[table], proxy, self.shell, identity, target)
        self.shell.machine = proxy.leg = self.machine
        self.data = b""
        self.gone: list[Exception | None] = []

    def first(self, data: bytes) -> None:
        self.mine.write(data)

    def receive(self, data: bytes) -> None:
        self.data += data

    def responded(self) -> None:
        self.data += b"200 "

    def closed(self, error: Exception | None) -> None:
        self.gone.append(error)


class TunnelWorld:
    """Everything, with one ledger."""

    def __init__(
        self,
        seed: int = 0,
        *,
        proxies: int = 1,
        options: TunnelOptions | None = None,
        client_options: TunnelOptions | None = None,
        pieces: str = "any",
        recording: bool = False,
    ) -> None:
        self.random = random.Random(seed)
        self.clock = HandClock()
        self.world = World(clock=self.clock, entropy=SeededEntropy(seed))
        self.options = options or TunnelOptions()
        self.client_options = client_options or self.options
        self.pieces = pieces
        self.recording = recording
        self.connect_fails = False
        self.no_server = False
        """Connections to the server are played by hand."""
        self.ends: list[End] = []
        self.tasks: list[Callable[[], None]] = []
        self.deadlines = Deadlines(self.options.tick)
        self.tables = [ProxyTable(self.world, self.options) for _ in range(proxies)]
        self.turn = {True: 0, False: 0}
        self.server = VirtualConnections(self.world, self.options, opened=self._server_opened, soon=self.soon)
        self.servers: list[RpcEnd] = []
        self.clients: list[ClientEnd] = []
        self.echo = False

    def soon(self, what: Callable[[], None]) -> None:
        self.tasks.append(what)

    def pipe(self) -> tuple[End, End]:
        one, other = End(self), End(self)
        one.other, other.other = other, one
        self.ends += (one, other)
        return one, other

    def table_for(self, is_in: bool) -> ProxyTable:
        """Requests of each direction go to the proxies in turn."""
        self.turn[is_in] += 1
        return self.tables[(self.turn[is_in] - 1) % len(self.tables)]

    def cut(self, size: int) -> int:
        if self.pieces == "whole" or size < 2:
            return size
        if self.pieces == "crumbs":
            return min(size, self.random.randint(1, 60))
        return size if self.random.random() < 0.3 else self.random.randint(1, size)

    def _server_opened(self, connection: VirtualConnection) -> None:
        end = RpcEnd()
        end.duplex = connection
        end.echo = self.echo
        connection.upper = end
        self.servers.append(end)

    def open(
        self, identity: Hashable = "alice", target: str = "server:593", *, settle: bool = True
    ) -> ClientEnd:
        client = ClientEnd(self, self.client_options, identity, target)
        self.clients.append(client)
        if settle:
            self.settle()
        return client

    # Motion -----------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Let one thing happen; False where nothing can."""
        ready = [end for end in self.ends if end.ready]
        count = len(ready) + len(self.tasks)
        if not count:
            return False
        at = self.random.randrange(count)
        if at < len(ready):
            ready[at].step()
        else:
            self.tasks.pop(at - len(ready))()
        if len(self.ends) > 40:
            self.ends = [end for end in self.ends if not (end.told and end.other.told)]
        return True

    def settle(self, most: int = 1_000_000) -> None:
        for _ in range(most):
            if not self.step():
                return
        raise AssertionError("it does not come to rest")

    def advance(self, seconds: float) -> None:
        """Time passes; deadlines are met when they are due."""
        until = self.clock.time + seconds
        parties: list[Any] = [self.deadlines, *self.tables, self.server]
        while True:
            self.settle()
            dues = [
                due
                for party in parties
                if (due := party.next() if isinstance(party, Deadlines) else party.next_deadline())
                is not None
            ]
            if not dues or min(dues) > until:
                break
            self.clock.time = max(self.clock.time, min(dues))
            for party in parties:
                party.expire(self.clock.time)
        self.clock.time = until
        self.settle()

    def live(self) -> dict[str, int]:
        return {kind: count for kind, count in self.world.ledger.live().items() if count}

    def close(self) -> None:
        """Everything ends; nothing may be left."""
        for client in self.clients:
            client.tunnel.abort()
        self.settle()
        for table in self.tables:
            table.shut_down()
        self.server.shut_down()
        self.settle()
        assert not self.live(), self.live()
        assert not len(self.deadlines)
        for table in self.tables:
            assert not len(table.deadlines)
            assert not table.inbound_quota.total
            assert not table.outbound_quota.total
            assert not table.inbound_quota.half_open
            assert not table.outbound_quota.half_open
        assert not len(self.server.deadlines)
        assert not self.server.half_open
