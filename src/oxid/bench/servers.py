"""The servers of a round, each in a process of its own: raw echo, plain RPC, a host with objects.

Every one is a coroutine context: it yields the port and serves until its block ends.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from oxid.bench.raw import Echo

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
    from oxid.config import Address, HostOptions
    from oxid.host import Host
    from oxid.samples.calculator import Calculator

    classes = [coclass_of(Calculator), coclass_of(CoroutineCalculator)]
    with tempfile.TemporaryDirectory(prefix="oxid-bench-") as state:
        options = HostOptions(
            state=Path(state), rpc=(Address("127.0.0.1", 0),), insecure_anonymous=True, log_level="error"
        )
        host = Host(options, classes=classes)
        host.accounts.add(USER, PASSWORD)
        async with host:
            yield int(dict(host.ready)["rpc"].rpartition(":")[2])


SERVERS: Final[dict[str, Any]] = {"raw": raw, "rpc": rpc, "objects": objects}
