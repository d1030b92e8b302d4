"""The servers of a round, each in a process of its own: raw echo, plain RPC, a host with objects or a full resolver.

Every one is a coroutine context: it yields the port and serves until its block ends.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from oxid.bench.raw import Echo

if TYPE_CHECKING:
    from oxid.com.coclass import CoClass
    from oxid.host import Host

USER: Final = "bench"
PASSWORD: Final = "bench-password"
"""Of servers that live for a second, on loopback."""


@asynccontextmanager
async def raw() -> AsyncIterator[int]:
    """The yardstick."""
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1024)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


@asynccontextmanager
async def rpc() -> AsyncIterator[int]:
    """IBench, for callers with and without an account."""
    from oxid.auth import Authenticator, MemoryAccountStore
    from oxid.bench.interfaces import Bench, IBench
    from oxid.runtime.server import RpcServer
    from oxid.world import World

    world = World.real()
    accounts = MemoryAccountStore({USER: PASSWORD})
    server = RpcServer(world, authenticator=Authenticator(accounts, world=world))
    server.register(IBench, Bench())
    endpoint = await server.listen("127.0.0.1", 0)
    try:
        yield endpoint.port
    finally:
        await server.aclose()


@asynccontextmanager
async def objects() -> AsyncIterator[int]:
    """A host with the Calculator, and with one whose methods are coroutines; open to anybody."""
    from oxid.bench.interfaces import CoroutineCalculator
    from oxid.com.coclass import coclass_of
    from oxid.samples.calculator import Calculator

    async with host([coclass_of(Calculator), coclass_of(CoroutineCalculator)]) as running:
        yield port_of(running)


@asynccontextmanager
async def resolver(objects: int) -> AsyncIterator[int]:
    """A host whose resolver knows so many objects: `identifiers(objects)`."""
    async with host([]) as running:
        exporter, now = running.exporter.oxid, running.world.clock.now()
        for oid in identifiers(objects):
            running.resolver.announce(exporter, oid, now)
        yield port_of(running)


def identifiers(count: int) -> list[int]:
    """Random OIDs, the same in every process: so nobody has to send them."""
    numbers = Random(count)
    return [numbers.getrandbits(64) or 1 for _ in range(count)]


@asynccontextmanager
async def host(classes: list[CoClass]) -> AsyncIterator[Host]:
    """What `oxid serve` runs, open to anybody."""
    from oxid.config import Address, HostOptions
    from oxid.host import Host

    with tempfile.TemporaryDirectory(prefix="oxid-bench-") as state:
        options = HostOptions(
            state=Path(state), rpc=(Address("127.0.0.1", 0),), insecure_anonymous=True, log_level="error"
        )
        running = Host(options, classes=classes)
        running.accounts.add(USER, PASSWORD)
        async with running:
            yield running


def port_of(running: Host) -> int:
    return int(dict(running.ready)["rpc"].rpartition(":")[2])
