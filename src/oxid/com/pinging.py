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
        return " ".join(f"{host}:{port}" for host, port in self.places[:1]) or "a resolver without an address"


@dataclass(slots=True)
class _Shared:
    agent: PingAgent
    pool: Connections
    users: int = 0


_agents: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[World, float], _Shared]]] = (
    WeakKeyDictionary()
)


@asynccontextmanager
async def agent_of_this_process(world: World, options: ClientOptions) -> AsyncIterator[PingAgent]:
    """The agent of the running loop, started by its first user and ended with its last."""
    of_loop = _agents.setdefault(asyncio.get_running_loop(), {})
    key = world, options.ping_period
    shared = of_loop.get(key)
    if shared is None:
        pool = Connections(world, options)

        agent = PingAgent(world, options.ping_period, Pinger(pool).send)
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


class Pinger:
    """Sends pings, each to the address of its resolver that answered last."""

    def __init__(self, pool: Connections) -> None:
        self._pool = pool
        self._first: dict[PingTarget, int] = {}

    async def send(self, target: PingTarget, ping: Ping) -> tuple[int, int]:
        """Send one ping to the first address that answers: (status, SETID). Raises the last failure.

        An address that takes longer than the agent waits is not the first to be tried at the next tick.
        """
        failure: Exception = ServerUnavailable(Win32(s.RPC_S_SERVER_UNAVAILABLE), "no address")
        places, first = target.places, self._first.pop(target, 0)
        for index in (*range(first, len(places)), *range(first)):
            # Where this attempt is cancelled, the next ping begins behind it.
            self._first[target] = (index + 1) % len(places)
            try:
                answer = await self._send_to(places[index], target.blanket, ping)
            except (OxidError, OSError, TimeoutError, UnicodeError) as error:
                failure = error
                continue
            if index:
                self._first[target] = index
            else:
                del self._first[target]
            return answer
        raise failure

    async def _send_to(self, place: tuple[str, int], blanket: Blanket, ping: Ping) -> tuple[int, int]:
        async with self._pool.use(*place, blanket) as connection:
            resolver: IObjectExporter = await connection.proxy(IObjectExporter)
            if ping.simple:
                return await resolver.simple_ping(ping.set_id), ping.set_id
            reply = await resolver.complex_ping(
                ping.set_id, ping.sequence or 0, list(ping.add) or None, list(ping.remove) or None
            )
            return reply.status, reply.set_id
