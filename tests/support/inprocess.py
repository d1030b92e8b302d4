"""A host and its clients in one process and one loop: `async with served(tmp_path) as there`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import oxid
from oxid.rpc.interface import spec_of
from oxid.runtime.client import RpcConnection

USER = oxid.Password("admin", "secret")


@dataclass(frozen=True)
class There:
    """A host that runs, and how to reach it."""

    host: oxid.Host
    world: oxid.World
    client_world: oxid.World
    port: int
    options: oxid.ClientOptions

    def connect(self, credentials: Any = USER, **changes: Any) -> Any:
        """A machine object; keyword arguments change the client's options."""
        return oxid.connect(
            "127.0.0.1", credentials, options=replace(self.options, **changes), world=self.client_world
        )

    def live(self, *kinds: str) -> dict[str, int]:
        live = self.world.ledger.live()
        return {kind: live[kind] for kind in kinds} if kinds else live

    async def settle(self) -> None:
        """Let what is on its way arrive."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def at_rest(self, rest: dict[str, int]) -> None:
        """Wait until the host's counts are what they were; fails after a second of turns."""
        for _ in range(1000):
            if self.live() == rest:
                return
            await asyncio.sleep(0.001)
        assert self.live() == rest


@asynccontextmanager
async def served(
    tmp_path: Path,
    classes: Sequence[type] = (),
    *,
    world: oxid.World | None = None,
    client_world: oxid.World | None = None,
    credentials: Any = None,
    **options: Any,
) -> AsyncIterator[There]:
    world = world or oxid.World.real()
    tmp_path.mkdir(parents=True, exist_ok=True)
    wanted = oxid.HostOptions(state=tmp_path, rpc=(oxid.Address("127.0.0.1", 0),), **options)
    host = oxid.Host(wanted, world, classes=[oxid.coclass_of(c) for c in classes], credentials=credentials)
    if host.accounts.find("admin") is None:
        host.accounts.add("admin", "secret", admin=True)
    async with host:
        port = host.rpc_server.endpoints[0].port
        client = oxid.ClientOptions(port=port, ping_period=wanted.ping_period, agent="own")
        yield There(host, world, client_world or oxid.World.real(), port, client)


async def raw_call(connection: RpcConnection, interface: type, opnum: int, ipid: UUID, stub: bytes) -> bytes:
    """One ORPC request with exactly these stub bytes; returns the reply's."""
    context = await connection.context(spec_of(interface))
    out = bytearray(40)
    out += stub
    return await connection.call(context, opnum, out, ipid.bytes_le)
