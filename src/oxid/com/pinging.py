"""The one ping agent of a process, shared by all its machines. [MS-DCOM] 3.2.6.1"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from oxid.com.connections import Connections
from oxid.com.options import Blanket, ClientOptions
from oxid.com.ping_agent import PingAgent
from oxid.com.ping_client import Ping
from oxid.errors import OxidError, ServerUnavailable
from oxid.interfaces.object_exporter import IObjectExporter
from oxid.values import status as s
from oxid.values.status import Win32
from oxid.world import World


@dataclass(frozen=True, slots=True)
class PingTarget:
    """One ping set's key: a resolver, by its addresses, and the identity that pings it."""

    places: tuple[tuple[str, int], ...]
    blanket: Blanket

    def __str__(self) -> str:
        host, port = self.places[0]
        return f"{host}:{port}"


@dataclass(slots=True)
class _Shared:
    agent: PingAgent
    pool: Connections
    users: int = 0


_agents: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[World, float], _Shared]]] = WeakKeyDictionary()


@asynccontextmanager
async def agent_of_this_process(world: World, options: ClientOptions) -> AsyncIterator[PingAgent]:
    """The agent of the running loop, started by its first user and ended with its last."""
    of_loop = _agents.setdefault(asyncio.get_running_loop(), {})
    key = world, options.ping_period
    shared = of_loop.get(key)
    if shared is None:
        pool = Connections(world, options)

        async def send(target: PingTarget, ping: Ping) -> tuple[int, int]:
            return await _send(pool, target, ping)

        agent = PingAgent(world, options.ping_period, send)
        shared = of_loop[key] = _Shared(agent, pool)
    shared.users += 1
    try:
        yield shared.agent
    finally:
        shared.users -= 1
        if not shared.users:
            del of_loop[key]
            await shared.agent.aclose()
            await shared.pool.aclose()


async def _send(pool: Connections, target: PingTarget, ping: Ping) -> tuple[int, int]:
    """Send one ping to the first address of the resolver that answers. Raises the last failure."""
    failure: Exception = ServerUnavailable(Win32(s.RPC_S_SERVER_UNAVAILABLE), "no address")
    for host, port in dict.fromkeys(target.places):
        try:
            async with pool.use(host, port, target.blanket) as connection:
                resolver: IObjectExporter = await connection.proxy(IObjectExporter)
                if ping.simple:
                    return await resolver.simple_ping(ping.set_id), ping.set_id
                reply = await resolver.complex_ping(
                    ping.set_id, ping.sequence or 0, list(ping.add) or None, list(ping.remove) or None
                )
        except (OxidError, OSError, TimeoutError) as error:
            failure = error
        else:
            return reply.status, reply.set_id
    raise failure
