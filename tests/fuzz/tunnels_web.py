"""The web server with the RPC proxy in memory, and several clients that send it what `tunnels_heads` composes.

    async with WebArena() as arena:
        await arena.case(rng)                   some connections of two users, talking at the same time
        await arena.check()

Nothing listens for the cases: connections are pairs of `NearTransport` within the loop, both before the proxy and
behind it, where a server of tunnels answers every RPC PDU with itself.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections import Counter
from typing import Any, Final, Self

from tests.fuzz.arena import Complaints
from tests.fuzz.tunnels import marked, pdus_of
from tests.fuzz.tunnels_heads import GIB, KINDS, PASSWORDS, TARGET, head
from tests.fuzz.tunnels_mutate import made_pdu
from tests.fuzz.tunnels_replay import Broken, FuzzUpper

from oxid.auth import Authenticator, MemoryAccountStore
from oxid.iis.isapi.application import ApplicationSettings, AsyncApplication
from oxid.iis.rpc_proxy.extension import RpcProxy
from oxid.iis.rpc_proxy.settings import ProxySettings
from oxid.iis.rpc_proxy.valid_ports import ValidPorts
from oxid.iis.server import WebServer
from oxid.iis.settings import (
    Access,
    Auth,
    DirectorySettings,
    HandlerSettings,
    Module,
    ServerSettings,
    SiteSettings,
)
from oxid.runtime.near import connect_near, nearby
from oxid.testing.virtual_loop import virtual_world
from oxid.tunnel import rts as r
from oxid.tunnel.options import TunnelOptions
from oxid.tunnel.server import VirtualConnection, VirtualConnections

MARKS: Final = {"alice": b"~alice~~", "bob": b"~bobby~~"}
SLOWEST_S: Final = 1.0
WEB: Final = ("127.0.0.1", 80)
MAY_ANSWER_5XX: Final = (501, 503, 505)
"""A refused tunnel is 503; 501 and 505 are codings, verbs and versions that HTTP has and we do not. RH-28"""
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_ANY_MARK: Final = re.compile(rb"~(?:alice~|bobby~|l\d{5})~")
_HELD_KINDS: Final = (
    *("http_connection", "http_request", "ecb", "isapi_io"),
    *("virtual_connection", "tunnel_channel", "task"),
)

# The server -----------------------------------------------------------------------------------------------


class Behind:
    """A connection at the server behind the proxy: a Port for version 2, an echo for version 1."""

    def __init__(self, arena: WebArena) -> None:
        self.arena = arena
        self.transport: Any = None
        self.leg: Any = None
        self.first = b""
        self.decided = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.write = transport.write
        self.write_all = transport.writelines
        self.close = transport.close
        self.abort = transport.abort
        self.pause = transport.pause_reading
        self.resume = transport.resume_reading
        transport.write(r.BANNER)

    def data_received(self, data: bytes) -> None:
        self.arena.moves += 1
        if not self.decided:
            data = self.first = self.first + data
            if len(data) < 3:
                return
            self.decided = True
            if data[2] == r.RTS_TYPE:
                self.leg = self.arena.tunnels.accept(self)
        if self.leg is not None:
            self.leg.receive(data)
        else:
            self.transport.write(data)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self.leg is not None:
            self.leg.writable(False)
        else:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.leg is not None:
            self.leg.writable(True)
        else:
            self.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self.leg is not None:
            self.leg.closed(error)


class Caller:
    """One connection of a user to the web server."""

    def __init__(self, arena: WebArena, user: str) -> None:
        self.arena, self.user = arena, user
        self.transport: Any = None
        self.received = bytearray()
        self.gone = False
        connect_near(arena.loop, *WEB, self)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.arena.moves += 1
        self.received += data

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True

    def send(self, data: bytes) -> None:
        """Send bytes; RPC PDUs in them are marked as this user's."""
        if not self.gone:
            self.transport.write(_ANY_MARK.sub(MARKS[self.user], data))


class WebArena:
    """A web server with the proxy, and what is behind it. Open it on a VirtualLoop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.world = virtual_world()
        self.moves = 0
        self.statuses: Counter[tuple[str, str]] = Counter()
        self.cases = 0
        self.slowest = 0.0
        self.lingered: Counter[float] = Counter()
        """How many cases were not at rest after so many seconds."""
        self.broken: list[str] = []
        self.complaints = Complaints()
        authenticator = Authenticator(MemoryAccountStore(PASSWORDS), world=self.world)
        options = TunnelOptions(receive_window=64 << 10, channel_lifetime=1 << 17, recycle_at=100 << 10)
        self.tunnels = VirtualConnections(self.world, options, opened=self._opened, soon=self.loop.call_soon)
        self.uppers: list[FuzzUpper] = []
        self.proxy = RpcProxy(
            self.world,
            ProxySettings(valid_ports=ValidPorts.parse(TARGET), allow_plain=True, tunnel=options),
        )
        self.application = AsyncApplication(
            ApplicationSettings("rpcproxy.dll", pending_warning=float("inf")), self.proxy, self.world
        )
        directory = DirectorySettings(
            "/rpc",
            access=Access.EXECUTE,
            auth=Auth.BASIC | Auth.NTLM | Auth.NEGOTIATE,
            allow_plain_basic=True,
            modules=(Module("rpcproxy.dll", HandlerSettings("rpcproxy")),),
        )
        settings = ServerSettings(sites=(SiteSettings(directories=(DirectorySettings(), directory)),))
        self.server = WebServer(self.world, settings, authenticator=authenticator)
        self.server.register_handler("rpcproxy", lambda directory, argument: self.application.begin)

    async def __aenter__(self) -> Self:
        logger = logging.getLogger("oxid")
        self._logging = logger.level, logger.propagate
        logger.setLevel(logging.ERROR)
        logger.propagate = False
        logger.addHandler(self.complaints)
        self.loop.set_exception_handler(lambda _, context: self.broken.append(repr(context)))
        await self.application.start()
        await self.server.listen("127.0.0.1", 0)
        listener = self.server.listeners[0]
        near = nearby(self.loop)
        near.offer(*WEB, lambda: self.server.connection_type(self.server, listener))
        near.offer("127.0.0.1", 593, lambda: Behind(self))
        return self

    async def __aexit__(self, *_: object) -> None:
        near = nearby(self.loop)
        near.withdraw(*WEB)
        near.withdraw("127.0.0.1", 593)
        await self.server.aclose()
        await self.application.stop()
        self.tunnels.shut_down()
        await self.settle()
        logger = logging.getLogger("oxid")
        logger.removeHandler(self.complaints)
        logger.level, logger.propagate = self._logging
        logger.setLevel(self._logging[0])

    def _opened(self, connection: VirtualConnection) -> None:
        upper = FuzzUpper(connection, echo=True)
        connection.upper = upper
        self.uppers.append(upper)

    async def settle(self) -> None:
        """Until nothing moves any more; no time passes."""
        quiet, seen = 0, self.moves
        for _ in range(5000):
            await asyncio.sleep(0)
            quiet = quiet + 1 if self.moves == seen else 0
            seen = self.moves
            if quiet > 8:
                return
        raise Broken("it does not come to rest")

    # Cases ------------------------------------------------------------------------------------------------------

    async def case(self, seed: int) -> None:
        """Some connections of two users, who know each other's cookies."""
        rng = random.Random(seed)
        begun = time.process_time()
        said: list[tuple[int, bytes]] = []
        callers: list[Caller] = []
        try:
            await self._play(rng, callers, said)
            if rng.random() < 0.04:
                await asyncio.sleep(rng.choice((31.0, 130.0, 1000.0)))
            self._look(callers)
        except Exception as error:
            raise self._message(seed, said, f"{type(error).__name__}: {error}") from error
        finally:
            for caller in callers:
                if not caller.gone:
                    caller.transport.abort() if rng.random() < 0.5 else caller.transport.close()
            await self.settle()
        await self._judge(seed, said, begun)

    async def _play(self, rng: random.Random, callers: list[Caller], said: list[tuple[int, bytes]]) -> None:
        cookies = [rng.randbytes(16) for _ in range(6)]
        plans: list[list[bytes]] = []
        for user, own in (("alice", cookies[:3]), ("bob", cookies[3:])):
            for plan in self._plans(rng, user, own, cookies):
                plans.append(plan)
                callers.append(Caller(self, user))
        while any(plans):
            number = rng.choice([i for i, plan in enumerate(plans) if plan])
            data = plans[number].pop(0)
            said.append((number, data))
            caller = callers[number]
            if not data:
                caller.gone or rng.choice(
                    (caller.transport.close, caller.transport.abort, caller.transport.write_eof)
                )()
            else:
                for piece in _torn(rng, data):
                    caller.send(piece)
                    if rng.random() < 0.5:
                        await asyncio.sleep(0)
            if rng.random() < 0.6:
                await self.settle()
        await self.settle()

    def _plans(
        self, rng: random.Random, user: str, own: list[bytes], cookies: list[bytes]
    ) -> list[list[bytes]]:
        """What the connections of one user send; an empty piece ends one."""
        vc, into, out = own
        if rng.random() < 0.15:
            vc = rng.choice(cookies)
        hostile = rng.choice((0.0, 0.1, 0.5))
        plans = []
        if rng.random() < 0.85:
            plans.append(
                [head(rng, "out", user, hostile=hostile), r.conn_a1(vc, out, rng.choice((8192, 65536)))]
            )
            b1 = r.conn_b1(vc, into, GIB, 300_000, bytes(16))
            plans.append([head(rng, "in", user, hostile=hostile), b1])
            plans[-1] += [marked(rng.choice((40, 1000, 4000))) for _ in range(rng.choice((0, 1, 5)))]
        if not plans or rng.random() < 0.3:
            kind = rng.choice(KINDS)
            body = {"post": b"hello", "chunked": _chunks(rng), "echo": b"echo"}.get(kind, b"")
            if kind in ("in", "out", "next out"):
                successor = rng.randbytes(16)
                body = r.in_a1(vc, into, successor) if kind == "in" else r.out_a3(vc, out, successor, 65536)
            elif kind == "v1":
                body = marked(400)
            plans.append([head(rng, kind, user), body or b"\r\n", head(rng, rng.choice(KINDS), user)])
        if rng.random() < 0.8:
            for _ in range(rng.choice((1, 1, 2, 4))):
                self._change(rng, rng.choice(plans), cookies)
        return plans

    def _change(self, rng: random.Random, plan: list[bytes], cookies: list[bytes]) -> None:
        at = rng.randrange(len(plan))
        choice = rng.randrange(8)
        if choice == 0:
            plan.insert(at, b"")
        elif choice == 1:
            plan.insert(at, plan[at])
        elif choice == 2:
            del plan[at]
        elif choice == 3 and plan[at]:
            data = bytearray(plan[at])
            data[rng.randrange(len(data))] ^= rng.choice((1, 32, 128, 255))
            # an Authorization header must not become somebody else's: nobody's password is a bit away
            plan[at] = bytes(data)
        elif choice == 4:
            plan[at] = plan[at][: rng.randrange(len(plan[at]) + 1)]
        elif choice == 5:
            for old in cookies:
                plan[at] = plan[at].replace(old, rng.choice(cookies))
        else:
            plan.insert(at + 1, b"".join(made_pdu(rng, cookies) for _ in range(rng.choice((1, 2, 5)))))
        if not plan:
            plan.append(b"\r\n\r\n")

    # Judging --------------------------------------------------------------------------------------------------

    def _look(self, callers: list[Caller]) -> None:
        for caller in callers:
            for user, mark in MARKS.items():
                if user != caller.user and mark in caller.received:
                    raise Broken(f"{caller.user} was sent what is {user}'s")
            if b"Traceback" in caller.received:
                raise Broken("a traceback was sent")
            for status in map(int, _STATUS.findall(caller.received)):
                if status >= 500 and status not in MAY_ANSWER_5XX:
                    raise Broken(f"status {status}")
                self.statuses["status", str(status)] += 1

    async def _judge(self, seed: int, said: list[tuple[int, bytes]], begun: float) -> None:
        self.cases += 1
        spent = time.process_time() - begun
        self.slowest = max(self.slowest, spent)
        if spent > SLOWEST_S:
            raise self._message(seed, said, f"took {spent:.1f} s")
        if self.broken or self.complaints.said:
            wrong, self.broken, self.complaints.said = [*self.broken, *self.complaints.said], [], []
            raise self._message(seed, said, f"not a typed error: {wrong}")
        for patience in (0.0, 31.0, 1000.0):
            # who sends more than is read ahead is not read, and its end is noticed when something falls due
            if patience:
                await asyncio.sleep(patience)
            if not (left := self._left()):
                break
            self.lingered[patience] += 1
        if left:
            raise self._message(seed, said, f"left behind: {left}, {self.proxy!r}, {self.server!r}")
        if any(upper.lost != 1 for upper in self.uppers):
            raise self._message(seed, said, "the RPC layer did not hear of the end exactly once")
        self.uppers.clear()

    def _left(self) -> str:
        """What is not at rest."""
        live = self.world.ledger.live()
        left = [f"{kind} {live[kind]}" for kind in _HELD_KINDS if live[kind]]
        table = self.proxy._table
        assert table is not None
        tables = (table.inbound, table.outbound, table.channels, table.deadlines, self.proxy.channels)
        left += [
            repr(each) for each in (*tables, self.tunnels.channels, self.server.connections) if len(each)
        ]
        return ", ".join(left)

    def _message(self, seed: int, said: list[tuple[int, bytes]], what: str) -> Broken:
        text = "\n".join(f"  connection {number}: {data[:200]!r}" for number, data in said)
        return Broken(f"{what}\ncase {seed}:\n{text}")

    async def check(self) -> None:
        """A good client is served as ever."""
        rng = random.Random(1)
        cookies = [b"v" * 16, b"i" * 16, b"o" * 16]
        out, into = Caller(self, "alice"), Caller(self, "alice")
        out.send(head(rng, "out", "alice", hostile=0) + r.conn_a1(cookies[0], cookies[2], 65536))
        into.send(
            head(rng, "in", "alice", hostile=0) + r.conn_b1(cookies[0], cookies[1], GIB, 300_000, bytes(16))
        )
        await self.settle()
        into.send(marked(400))
        await self.settle()
        head_, _, body = bytes(out.received).partition(b"\r\n\r\n")
        came = [pdu for pdu in pdus_of(body) if pdu[2] != r.RTS_TYPE]
        if not head_.startswith(b"HTTP/1.1 200 Success") or len(came) != 1 or MARKS["alice"] not in came[0]:
            raise Broken(f"a good client gets {bytes(out.received[:300])!r}, {bytes(into.received[:300])!r}")
        out.transport.close()
        into.transport.close()
        await self.settle()
        self.uppers.clear()


def _chunks(rng: random.Random) -> bytes:
    """A chunked body, good or not."""
    parts = []
    for _ in range(rng.randrange(4)):
        data = rng.randbytes(rng.choice((1, 5, 40)))
        size = len(data) if rng.random() < 0.8 else rng.choice((0, 1, 1 << 20, 1 << 62))
        extension = rng.choice(("", "", ";x", ';x="y"', " ", ";" + "z" * 300))
        parts.append(f"{size:x}{extension}\r\n".encode() + data + rng.choice((b"\r\n", b"\r\n", b"\n", b"")))
    return b"".join(parts) + rng.choice(
        (b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"0\n\n", b"", b"0\r\nx\r\n\r\n", b"g\r\n")
    )


def _torn(rng: random.Random, data: bytes) -> list[bytes]:
    if rng.random() < 0.6 or len(data) > 5000:
        return [data]
    pieces = []
    while data:
        size = rng.choice((1, 3, 17, 60, 400))
        pieces.append(data[:size])
        data = data[size:]
    return pieces
