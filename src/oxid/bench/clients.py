"""The load of a round, each in a process of its own: what calls our servers and says how long that took."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from oxid.bench.meter import Meter, clock
from oxid.bench.servers import PASSWORD, USER

if TYPE_CHECKING:
    from oxid.com.machine import Machine

Call = Callable[[], Awaitable[object]]


async def load(calls: list[Call], seconds: float) -> dict[str, Any]:
    """Every call in a loop of its own, all at once. One that has nothing left to do raises StopAsyncIteration."""
    meter = Meter(seconds)
    asyncio.get_running_loop().call_later(meter.counts_from - clock(), meter.mark)

    async def work(call: Call) -> None:
        note, end = meter.latencies.append, meter.end
        before = clock()
        while before < end:
            try:
                await call()
            except StopAsyncIteration:
                return
            now = clock()
            note(now - before)
            before = now

    if len(calls) == 1:
        await work(calls[0])
    else:
        await asyncio.gather(*(work(call) for call in calls))
    return meter.report()


@asynccontextmanager
async def connected(
    port: int, *, secure: bool = False, large: bool = True, host: str = "127.0.0.1"
) -> AsyncIterator[Any]:
    """A connection; NTLM at privacy where it is to be secure."""
    from oxid.auth import AuthLevel, AuthType, Password
    from oxid.runtime.client import open_connection
    from oxid.world import World

    options: dict[str, Any] = {"world": World.real(), "large_fragments": large}
    if secure:
        options |= {
            "credentials": Password(USER, PASSWORD),
            "level": AuthLevel.PKT_PRIVACY,
            "auth_type": AuthType.NTLM,
        }
    async with open_connection(host, port, **options) as connection:
        yield connection


async def calls(
    port: int,
    seconds: float,
    *,
    operation: str,
    size: int = 100,
    connections: int = 1,
    depth: int = 1,
    secure: bool = False,
    large: bool = True,
) -> dict[str, Any]:
    """Plain RPC: null, echo or medium of IBench."""
    from oxid.bench.interfaces import MEDIUM, IBench

    data = bytes(size)
    async with AsyncExitStack() as stack:
        todo: list[Call] = []
        for _ in range(connections):
            connection = await stack.enter_async_context(connected(port, secure=secure, large=large))
            proxy = await connection.proxy(IBench)
            call: Call = {
                "null": proxy.null,
                "echo": lambda proxy=proxy: proxy.echo(data),
                "medium": lambda proxy=proxy: proxy.medium(MEDIUM),
            }[operation]
            todo += [call] * depth
        return await load(todo, seconds)


async def management(
    port: int, seconds: float, *, connections: int = 1, host: str = "127.0.0.1"
) -> dict[str, Any]:
    """is_server_listening: the null call that every RPC server answers."""
    from oxid.interfaces.management import IManagement

    async with AsyncExitStack() as stack:
        proxies = [
            await (await stack.enter_async_context(connected(port, host=host))).proxy(IManagement)
            for _ in range(connections)
        ]
        return await load([proxy.is_server_listening for proxy in proxies], seconds)


async def add(port: int, seconds: float, *, coroutine: bool = False, secure: bool = False) -> dict[str, Any]:
    """ORPC: Calculator.Add of an activated object."""
    from oxid.bench.interfaces import CLSID_COROUTINES
    from oxid.samples.calculator import CLSID_CALCULATOR, ICalculator

    clsid = CLSID_COROUTINES if coroutine else CLSID_CALCULATOR
    async with machine(port, secure=secure) as reached, reached.activate(clsid, ICalculator) as calculator:
        if await calculator.add(2, 3) != 5:
            raise RuntimeError("the calculator cannot add")
        return await load([lambda: calculator.add(2, 3)], seconds)


async def activate(port: int, seconds: float) -> dict[str, Any]:
    """Make an object and release it, sealed, over connections that are open."""
    from oxid.samples.calculator import CLSID_CALCULATOR, ICalculator

    async with machine(port, secure=True) as reached:

        async def once() -> None:
            async with reached.activate(CLSID_CALCULATOR, ICalculator):
                pass

        await once()
        return await load([once], seconds)


@asynccontextmanager
async def machine(port: int, *, secure: bool) -> AsyncIterator[Machine]:
    """A host as a client sees it; it pings by itself, no agent of the machine is started for it."""
    from oxid.auth import Password
    from oxid.com.machine import connect
    from oxid.com.options import ClientOptions

    credentials = Password(USER, PASSWORD) if secure else None
    options = ClientOptions(port=port, agent="own")
    async with connect("127.0.0.1", credentials, options=options) as reached:
        yield reached


async def bind(port: int, seconds: float, *, secure: bool = False) -> dict[str, Any]:
    """Connect, bind with all legs of the handshake, hang up."""
    from oxid.bench.interfaces import IBench

    async def once() -> None:
        async with connected(port, secure=secure) as connection:
            await connection.context(IBench)

    return await load([once], seconds)


async def hold(port: int, seconds: float, *, connections: int, secure: bool = False) -> dict[str, Any]:
    """Bind many connections, say so, and keep them until standard input ends."""
    from oxid.bench.interfaces import IBench

    began = clock()
    async with AsyncExitStack() as stack:
        for _ in range(connections):
            connection = await stack.enter_async_context(connected(port, secure=secure))
            await connection.context(IBench)
        # the last leg of NTLM has no answer: one more call shows that the server has come so far
        await (await connection.proxy(IBench)).null()
        print(f'{{"bound": {connections}, "seconds": {clock() - began:.3f}}}', flush=True)
        await asyncio.to_thread(sys.stdin.read)
    return {"rate": connections / (clock() - began)}


async def raw(port: int, seconds: float, *, size: int = 100, connections: int = 1) -> dict[str, Any]:
    """The yardstick."""
    from oxid.bench.raw import measure

    return await measure(port, size, connections, seconds)
