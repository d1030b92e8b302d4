"""The load of `oxid bench http`: GETs over kept connections, calls through the tunnel, tunnels made and held.

`Asker` does as little as a client can: it reads one response to learn how long all are, and counts bytes after that.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from oxid.bench.clients import Call, load
from oxid.bench.http_servers import FILE, RPC_PATH, Ports
from oxid.bench.meter import Meter, clock
from oxid.bench.servers import PASSWORD, USER
from oxid.bench.talk import let_go, say

if TYPE_CHECKING:
    from oxid.runtime.proxy_route import ProxyRoute
    from oxid.world import World

REQUEST: Final = "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
OK: Final = b"HTTP/1.1 200 "
READ: Final = 1 << 20
OPENING: Final = 32
"""Tunnels that are opened at once while many are made to be held."""


# GETs ---------------------------------------------------------------------------------------------------


class Asker(asyncio.Protocol):
    """Asks the same on a kept connection, again and again."""

    def __init__(self, path: str) -> None:
        self._request = REQUEST.format(path=path).encode()
        self._size = 0
        """Bytes of every response; 0 until the first has come."""
        self._got = b""
        self._count = 0
        self._since = 0.0
        self._meter: Meter | None = None
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._write = transport.write
        self._write(self._request)

    def go(self, meter: Meter) -> None:
        """Ask until the meter's time is over; `over` is done then."""
        self._meter = meter
        self._note, self._end = meter.latencies.append, meter.end
        self._since = clock()
        self._write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._size:
            self._learn(data)
            return
        before = self._count
        count = self._count = before + len(data)
        if count > self._size or not (before or data.startswith(OK)):
            self._fail(f"a response is not like the first: {data[:60]!r}")
            return
        if count < self._size:
            return
        self._count = 0
        now = clock()
        self._note(now - self._since)
        if now < self._end:
            self._since = now
            self._write(self._request)
        else:
            self.over.set_result(None)

    def _learn(self, data: bytes) -> None:
        """The first response: how long all of them are."""
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(OK):
            self._fail(f"the server answered {head.partition(bytes((13,)))[0].decode()}")
            return
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._size = len(head) + len(end) + length
            self.first.set_result(None)

    def _fail(self, why: str) -> None:
        for waiter in (self.first, self.over):
            if not waiter.done():
                waiter.set_exception(RuntimeError(why))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail("the server closed the connection")
        for waiter in (self.first, self.over):
            if not waiter.cancelled():
                waiter.exception()


async def gets(port: int, seconds: float, *, path: str, connections: int = 1) -> dict[str, Any]:
    """GET the same over so many connections at once, one after the other on each."""
    loop = asyncio.get_running_loop()
    pairs = [await loop.create_connection(lambda: Asker(path), "127.0.0.1", port) for _ in range(connections)]
    askers = [asker for _, asker in pairs]
    for asker in askers:
        await asker.first
    say({"prepared": connections})
    meter = Meter(seconds)
    loop.call_later(meter.counts_from - clock(), meter.mark)
    for asker in askers:
        asker.go(meter)
    for asker in askers:
        await asker.over
    report = meter.report()
    for transport, _ in pairs:
        transport.abort()
    return report


async def files(port: int, seconds: float, *, file_bytes: int) -> dict[str, Any]:
    """GET a big file again and again, and let the kernel throw away what comes. Nothing else runs on this loop."""
    request = REQUEST.format(path=f"/{FILE}").encode()
    with socket.create_connection(("127.0.0.1", port)) as link:
        _get(link, request, file_bytes)  # its pages are in the cache afterwards
        say({"prepared": 1})
        meter = Meter(seconds)
        meter.mark()
        meter.end = clock() + seconds
        while True:
            before = clock()
            _get(link, request, file_bytes)
            now = clock()
            meter.latencies.append(now - before)
            if now >= meter.end:
                break
    report = meter.report()
    return report | {"mib_s": report["rate"] * file_bytes / (1 << 20)}


def _get(link: socket.socket, request: bytes, size: int) -> None:
    link.sendall(request)
    head = b""
    while b"\r\n\r\n" not in head:
        got = link.recv(65536)
        if not got:
            raise RuntimeError("the server closed the connection")
        head += got
    if not head.startswith(OK):
        raise RuntimeError(f"the server answered {head[:40]!r}")
    left = size - len(head.partition(b"\r\n\r\n")[2])
    buffer = bytearray(READ)
    while left:
        got_bytes = link.recv_into(buffer, min(left, READ), socket.MSG_TRUNC)  # what comes is not copied
        if not got_bytes:
            raise RuntimeError("the server closed the connection")
        left -= got_bytes


# Calls through the tunnel -------------------------------------------------------------------------------


def route_to(ports: Ports, *, period: float = 120.0) -> ProxyRoute:
    """The way to the server behind its proxy."""
    from oxid.auth import Password
    from oxid.runtime.proxy_route import ProxyRoute

    url = f"http://127.0.0.1:{ports.web}{RPC_PATH}"
    return ProxyRoute(url, Password(USER, PASSWORD), auth="basic", period=period)


@asynccontextmanager
async def tunnelled(ports: Ports, world: World, route: ProxyRoute) -> AsyncIterator[Any]:
    """A connection through the proxy."""
    from oxid.runtime.client import open_connection

    async with open_connection("127.0.0.1", ports.proxied, world=world, proxy=route) as connection:
        yield connection


async def calls(
    port: list[int], seconds: float, *, operation: str, size: int = 100, connections: int = 1
) -> dict[str, Any]:
    """null or echo of IBench, through the tunnel."""
    from oxid.bench.interfaces import IBench
    from oxid.world import World

    ports, world, data = Ports(*port), World.real(), bytes(size)
    route = route_to(ports)
    async with AsyncExitStack() as stack:
        todo: list[Call] = []
        for _ in range(connections):
            connection = await stack.enter_async_context(tunnelled(ports, world, route))
            proxy = await connection.proxy(IBench)
            call: Call = {"null": proxy.null, "echo": lambda proxy=proxy: proxy.echo(data)}[operation]
            todo.append(call)
            await call()
        say({"prepared": connections})
        return await load(todo, seconds)


async def set_up(port: list[int], seconds: float, *, depth: int = 1) -> dict[str, Any]:
    """Open tunnels and close them, so many at once; both channels stand when one counts."""
    from oxid.world import World

    ports, world = Ports(*port), World.real()
    route = route_to(ports)

    async def once() -> None:
        async with tunnelled(ports, world, route):
            pass

    await once()
    say({"prepared": depth})
    return await load([once] * depth, seconds)


async def hold(port: list[int], seconds: float, *, connections: int, period: float) -> dict[str, Any]:
    """Open many tunnels, say so, and keep them until standard input ends."""
    from oxid.bench.interfaces import IBench
    from oxid.world import World

    ports, world, began = Ports(*port), World.real(), clock()
    route = route_to(ports, period=period)
    async with AsyncExitStack() as stack:
        entering = asyncio.Semaphore(OPENING)

        async def one() -> None:
            async with entering:
                connection = await stack.enter_async_context(tunnelled(ports, world, route))
                await connection.context(IBench)

        await asyncio.gather(*(one() for _ in range(connections)))
        say({"bound": connections, "seconds": clock() - began})
        await let_go()
    return {"rate": connections / (clock() - began)}
