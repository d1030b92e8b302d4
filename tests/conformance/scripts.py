"""Our client against servers that are scripts.

    async def script(wire: Wire) -> None:
        await answers(wire, lambda asked: response(b"reply", asked.call_id))

    tell(script, play)          play(connection, context_id) is the client's side

A script fails its test by raising.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.conformance.wire import (
    BIND,
    CONC_MPX,
    NDR20,
    PROBE_UUID,
    WHOLE,
    ZERO,
    Pdu,
    Wire,
    bind_ack,
    scripted,
    story,
)

from oxid.rpc.interface import InterfaceSpec
from oxid.runtime.client import RpcConnection, open_connection
from oxid.world import World

SPEC = InterfaceSpec(PROBE_UUID, (1, 0), "probe", False, {})
Script = Callable[[Wire], Awaitable[None]]


async def bound(wire: Wire, *, features: int = 3, flags: int = WHOLE | CONC_MPX, **options: Any) -> Pdu:
    """Take our client's bind: its interface is accepted, bind-time features are granted."""
    asked = await wire.pdu()
    assert asked is not None
    assert asked.ptype == BIND
    await wire.send(
        bind_ack((0, 0, NDR20), (3, features, ZERO), call_id=asked.call_id, flags=flags, **options)
    )
    return asked


@asynccontextmanager
async def client(script: Script, **options: Any) -> AsyncIterator[RpcConnection]:
    async with scripted(script) as port:
        world = World.real()
        async with open_connection("127.0.0.1", port, world=world, **options) as connection:
            yield connection


def out(stub: bytes = b"") -> bytearray:
    return bytearray(24) + stub


async def answers(wire: Wire, *messages: Callable[[Pdu], bytes]) -> None:
    """One answer per request."""
    await bound(wire)
    for message in messages:
        asked = await wire.pdu()
        assert asked is not None
        await wire.send(message(asked))
    await wire.pdu()


def tell(script: Script, play: Callable[[RpcConnection, int], Awaitable[None]], **options: Any) -> None:
    """A client that bound context by context to a script, and what it does then."""

    async def told() -> None:
        async with client(script, **options) as connection:
            await play(connection, await connection.context(SPEC))

    story(told)
