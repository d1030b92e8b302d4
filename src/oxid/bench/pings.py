"""Clients that ping a resolver (`servers.resolver`), over one connection, as nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from oxid.bench.clients import connected, load
from oxid.bench.servers import identifiers
from oxid.bench.talk import say
from oxid.com.ping_client import MAX_CHANGES
from oxid.interfaces.object_exporter import IObjectExporter

ADDS: Final = 100
"""Objects that one ComplexPing adds."""
SETS: Final = 16
"""A set has a limit; so many of them have room for everything that is added."""


async def simple(port: int, seconds: float, *, members: int) -> dict[str, Any]:
    """SimplePing of one set of so many objects, one after the other."""
    async with _resolver(port) as resolver:
        ping = _Pinging(resolver)
        oids = identifiers(members)
        for at in range(0, members, MAX_CHANGES):
            await ping.add(oids[at : at + MAX_CHANGES])
        set_id = ping.set_id
        say({"prepared": members})
        report = await load([lambda: resolver.simple_ping(set_id)], seconds)
        if status := await resolver.simple_ping(set_id):
            raise RuntimeError(f"a SimplePing was answered with {status}")
        return report


async def adding(port: int, seconds: float, *, objects: int, depth: int = 1) -> dict[str, Any]:
    """ComplexPings that add objects which no set has had before, so many at once; ends early where none is left."""
    fresh = _pieces(identifiers(objects))
    async with _resolver(port) as resolver:
        sets = [_Pinging(resolver) for _ in range(SETS)]
        for each in sets:
            await each.add([])
        say({"prepared": SETS})
        return await load([_adder(sets[at::depth], fresh) for at in range(depth)], seconds)


def _adder(sets: Sequence[_Pinging], fresh: Iterator[list[int]]) -> Callable[[], Awaitable[None]]:
    """Adds the next objects to one set after the other."""
    number = 0

    async def add() -> None:
        nonlocal number
        try:
            oids = next(fresh)
        except StopIteration:
            raise StopAsyncIteration from None
        number += 1
        await sets[number % len(sets)].add(oids)

    return add


def _pieces(oids: list[int]) -> Iterator[list[int]]:
    return (oids[at : at + ADDS] for at in range(0, len(oids), ADDS))


class _Pinging:
    """One ping set."""

    def __init__(self, resolver: IObjectExporter) -> None:
        self._resolver = resolver
        self._sequence = 0
        self.set_id = 0

    async def add(self, oids: list[int]) -> None:
        """Add objects. RuntimeError where the resolver does not take them all."""
        self._sequence = self._sequence % 0xFFFF + 1
        reply = await self._resolver.complex_ping(self.set_id, self._sequence, oids or None, None)
        if reply.status:
            raise RuntimeError(f"a ComplexPing was answered with {reply.status}")
        self.set_id = reply.set_id


@asynccontextmanager
async def _resolver(port: int) -> AsyncIterator[IObjectExporter]:
    async with connected(port) as connection:
        yield await connection.proxy(IObjectExporter)
