"""Client connections shared by all who call the same server as the same somebody.

    pool = ConnectionPool(world)
    async with pool.connection("server", 135, credentials=..., level=6) as connection:
        ...
    await pool.aclose()

The key is everything that makes a caller: address, credentials, level, provider, target. A connection is
multiplexed, so one serves all of a key at once; nobody's call travels under another's identity.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from oxid.errors import TransportError
from oxid.rpc.pdu import MAX_CALL_ID
from oxid.runtime.client import RpcConnection, connect
from oxid.runtime.deadlines import DeadlineDriver
from oxid.world import World

Connect: TypeAlias = Callable[..., Coroutine[Any, Any, RpcConnection]]


class Pooled:
    """A connection, how many use it, and since when nobody does."""

    __slots__ = ("connection", "idle_since", "key", "leases")

    def __init__(self, key: Hashable, connection: RpcConnection) -> None:
        self.key = key
        self.connection = connection
        self.leases = 0
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        connection = self.connection
        return connection.lost is None and connection.last_call_id < MAX_CALL_ID


class ConnectionPool:
    """Keeps connections for a while after their last use."""

    def __init__(self, world: World, *, idle_s: float = 10.0, opener: Connect = connect) -> None:
        self._world = world
        self._idle_s = idle_s
        self._opener = opener
        self._pooled: dict[Hashable, Pooled] = {}
        self._opening: dict[Hashable, asyncio.Lock] = {}
        self._retired: set[Pooled] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._deadlines: DeadlineDriver | None = None
        self._closed = False

    @asynccontextmanager
    async def connection(self, host: str, port: int, **options: Any) -> AsyncIterator[RpcConnection]:
        """A connection to a server for a while; options as of `client.connect`. Raises TransportError."""
        pooled = await self.lease(_key(host, port, options), host, port, options)
        try:
            yield pooled.connection
        finally:
            self.give_back(pooled)

    def take(self, key: Hashable) -> Pooled | None:
        """The connection under a key of the caller's, until `give_back`; None where `lease` has to make one."""
        pooled = self._pooled.get(key)
        if pooled is None or not pooled.usable:
            return None
        pooled.leases += 1
        return pooled

    async def lease(self, key: Hashable, host: str, port: int, options: dict[str, Any]) -> Pooled:
        """The same, made where there is none. Raises TransportError."""
        if self._closed:
            raise TransportError("the connection pool is closed")
        pooled = self._pooled.get(key)
        if pooled is None or not pooled.usable:
            lock = self._opening.setdefault(key, asyncio.Lock())
            try:
                async with lock:
                    pooled = self._pooled.get(key)
                    if pooled is None or not pooled.usable:
                        if pooled is not None:
                            self._retire(pooled)
                        connection = await self._opener(host, port, world=self._world, **options)
                        if self._closed:
                            await connection.aclose()
                            raise TransportError("the connection pool is closed")
                        pooled = self._pooled[key] = Pooled(key, connection)
            finally:
                if not lock.locked() and self._opening.get(key) is lock:
                    del self._opening[key]
        pooled.leases += 1
        return pooled

    def give_back(self, pooled: Pooled) -> None:
        """End one lease."""
        pooled.leases -= 1
        if pooled.leases:
            return
        if pooled in self._retired:
            self._retired.discard(pooled)
            self._close_later(pooled)
        elif not pooled.usable or self._closed:
            self._retire(pooled)
        else:
            now = self._world.clock.now()
            pooled.idle_since = now
            if self._deadlines is None:
                self._deadlines = DeadlineDriver(asyncio.get_running_loop(), self._world, self._expire)
            self._deadlines.want(now + self._idle_s)

    def _retire(self, pooled: Pooled) -> None:
        """Give a connection to nobody any more; it is closed when its last user is done."""
        if self._pooled.get(pooled.key) is pooled:
            del self._pooled[pooled.key]
        if pooled.leases:
            self._retired.add(pooled)
        else:
            self._close_later(pooled)

    def _close_later(self, pooled: Pooled) -> None:
        task = asyncio.get_running_loop().create_task(self._close(pooled.connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, connection: RpcConnection) -> None:
        counter = self._world.ledger.task
        counter.enter()
        try:
            await connection.aclose()
        finally:
            counter.leave()

    def _expire(self, now: float) -> float | None:
        upcoming = None
        for pooled in list(self._pooled.values()):
            if pooled.leases:
                continue
            due = pooled.idle_since + self._idle_s
            if due <= now:
                self._retire(pooled)
            elif upcoming is None or due < upcoming:
                upcoming = due
        return upcoming

    async def aclose(self) -> None:
        """Close every connection, also those in use. May be called twice."""
        self._closed = True
        if self._deadlines is not None:
            self._deadlines.close()
        everything = [*self._pooled.values(), *self._retired]
        self._pooled.clear()
        self._retired.clear()
        for pooled in everything:
            await pooled.connection.aclose()
        while self._closing:
            await asyncio.wait(set(self._closing))

    def statistics(self) -> dict[str, int]:
        idle = sum(1 for pooled in self._pooled.values() if not pooled.leases)
        return {"connections": len(self._pooled) + len(self._retired), "idle": idle}

    def __repr__(self) -> str:
        counts = self.statistics()
        return f"<ConnectionPool {counts['connections']} connections, {counts['idle']} idle>"


def _key(host: str, port: int, options: dict[str, Any]) -> Hashable:
    """Everything that tells callers apart; credentials are frozen values and compare by their secrets."""
    return host, port, tuple(sorted((name, value) for name, value in options.items() if name != "timeout"))
