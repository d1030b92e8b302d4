"""What a client of `oxid soak http` does through the RPC proxy. Q241104; SC-1 to SC-8

Every act begins with nothing and ends with nothing. It raises Wrong where something did not come as it must, and
counts in `place.counts` what it did.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

from oxid.auth import Password
from oxid.com.machine import connect
from oxid.com.options import ClientOptions
from oxid.errors import OxidError
from oxid.rpc import pdu as p
from oxid.runtime.client import open_connection
from oxid.runtime.proxy_route import ProxyRoute
from oxid.samples.calculator import CLSID_CALCULATOR, ICalculator
from oxid.samples.echo import IEcho
from oxid.soak.http_wire import (
    ADD_ONE,
    BIND_ACK,
    BIND_ECHO,
    BIND_RESOLVER,
    ECHO,
    GIB,
    HERE,
    LIFE,
    PASSWORD,
    RESPONSE,
    SERVER_ALIVE,
    SOURCE_DATA,
    USER,
    WINDOW,
    Ended,
    Place,
    RawTunnel,
    RawVersion1,
    Wrong,
    head,
    request,
)
from oxid.tunnel import rts

END_S: Final = 5.0
"""For a client to see that its server has closed, on a busy machine; one second is what is wanted."""
CALL_S: Final = 20.0
PIECE: Final = 20_000
STORM_CALLS: Final = 40
LARGE: Final = 100_000
"""More than a window, and less than a channel's life."""
WRONG_ADDRESSES: Final = 200
"""Addresses that wrong passwords come from: too many of one address shut it out."""

Tunnel = RawTunnel | RawVersion1
Act = Callable[[Place, random.Random], Awaitable[None]]


# Sessions that go well --------------------------------------------------------------------------------


async def _talk(tunnel: Tunnel, interface: UUID, calls: int, chance: random.Random) -> None:
    """Bind and call."""
    tunnel.send(BIND_ECHO if interface == ECHO else BIND_RESOLVER)
    _expect(await tunnel.rpc(), BIND_ACK)
    await _call(tunnel, interface, calls, chance)


async def _call(tunnel: Tunnel, interface: UUID, calls: int, chance: random.Random) -> None:
    """Every answer is looked at."""
    for call in range(2, 2 + calls):
        if interface == ECHO:
            number = chance.randrange(1 << 31)
            tunnel.send(request(number.to_bytes(4, "little"), ADD_ONE, call))
            wanted = (number + 1).to_bytes(4, "little")
        else:
            tunnel.send(request(b"", SERVER_ALIVE, call))
            wanted = bytes(4)
        answer = await tunnel.rpc()
        _expect(answer, RESPONSE)
        if answer[24:] != wanted:
            raise Wrong(f"a call was answered with {answer[24:60].hex()}, not {wanted.hex()}")
    tunnel.place.counts["calls"] += calls


def _expect(pdu: bytes, kind: int) -> None:
    if not pdu:
        raise Ended(f"the tunnel ended in the place of a PDU of type {kind}")
    if pdu[2] != kind:
        raise Wrong(f"a PDU of type {pdu[2]} came in the place of {kind}: {pdu[:40].hex()}")


def _leave(tunnel: Tunnel, chance: random.Random) -> None:
    """Most clients close, some reset."""
    if chance.random() < 0.1:
        tunnel.reset()
    else:
        tunnel.close()


def _session(which: str, version: int) -> Act:
    """Connect, bind, call, close. SC-1, T3"""

    async def act(place: Place, chance: random.Random) -> None:
        port = {"resolver": place.ports.resolver, "echo": place.ports.echo, "far": place.ports.far_echo}[
            which
        ]
        tunnel = RawTunnel(place, port) if version == 2 else RawVersion1(place, port)
        try:
            await tunnel.establish()
            kind = ECHO if which != "resolver" else UUID(int=0)
            await _talk(tunnel, kind, chance.randrange(1, 4), chance)
        finally:
            _leave(tunnel, chance)

    return act


def _route(place: Place, version: int = 2, **more: Any) -> ProxyRoute:
    who = Password(USER, PASSWORD)
    url = f"http://{HERE}:{place.ports.web}"
    return ProxyRoute(url, who, auth="basic", version=version, period=place.period, **more)


def _dcom(version: int) -> Act:
    """The whole of SC-1 by our own client: resolve, activate, call, release, close."""

    async def act(place: Place, chance: random.Random) -> None:
        options = ClientOptions(
            port=place.ports.resolver,
            proxy=_route(place, version),
            agent="own",
            call_timeout=CALL_S,
            ping_period=place.period,
        )
        async with (
            connect(HERE, Password(USER, PASSWORD), options=options, world=place.world) as machine,
            machine.activate(CLSID_CALCULATOR, ICalculator) as calculator,
        ):
            place.counts["sessions"] += 2  # one to the resolver, one to the object's server
            one, other = chance.randrange(1000), chance.randrange(1000)
            if await calculator.add(one, other) != one + other:
                raise Wrong("the calculator cannot add")
            place.counts["calls"] += 1

    return act


# Sessions that do not ---------------------------------------------------------------------------------


async def server_closes(place: Place, chance: random.Random) -> None:
    """The server hangs up, whatever it is at; the client sees the end. SC-2, T5, T6"""
    version = chance.choice((1, 2))
    tunnel = (
        RawTunnel(place, place.ports.closing) if version == 2 else RawVersion1(place, place.ports.closing)
    )
    try:
        try:
            await tunnel.establish()
            await _talk(tunnel, ECHO, 1, chance)
            while True:
                await _call(tunnel, ECHO, 1, chance)
                await asyncio.sleep(0.005)
        except Ended:
            pass
        wires = tunnel.wires if isinstance(tunnel, RawTunnel) else [tunnel.wire]
        async with asyncio.timeout(END_S):
            for wire in wires:
                if wire is not None:
                    await wire.ends()
    except TimeoutError:
        raise Wrong(f"the server has closed, and {END_S:g} s later the tunnel stands") from None
    finally:
        tunnel.close()


async def vanishes(place: Place, chance: random.Random) -> None:
    """The client is gone, at one of twelve points. SC-3, T1, T2, T20"""
    tunnel = RawTunnel(place, chance.choice((place.ports.echo, place.ports.far_echo)))
    try:
        await chance.choice(POINTS)(tunnel)
    finally:
        tunnel.reset() if chance.random() < 0.7 else tunnel.close()


async def _before_headers(tunnel: RawTunnel) -> None:
    (await tunnel.wire()).send(b"RPC_IN_DA")


async def _after_headers(tunnel: RawTunnel) -> None:
    await tunnel.open_in()
    await tunnel.open_out()


async def _mid_a1(tunnel: RawTunnel) -> None:
    await tunnel.open_in()
    await tunnel.open_out(tunnel.a1()[:40])


async def _after_a1(tunnel: RawTunnel) -> None:
    await tunnel.open_in()
    await (await tunnel.open_out(tunnel.a1())).head()


async def _after_b1_only(tunnel: RawTunnel) -> None:
    await tunnel.open_in(tunnel.b1())
    await asyncio.sleep(0.002)


async def _after_a1_only(tunnel: RawTunnel) -> None:
    await (await tunnel.open_out(tunnel.a1())).head()


async def _after_c2(tunnel: RawTunnel) -> None:
    await tunnel.establish()


async def _mid_bind(tunnel: RawTunnel) -> None:
    await tunnel.establish()
    tunnel.send(BIND_ECHO[:30])


async def _mid_request(tunnel: RawTunnel) -> None:
    await tunnel.establish()
    tunnel.send(BIND_ECHO)
    _expect(await tunnel.rpc(), BIND_ACK)
    tunnel.send(request(bytes(4000), 1, flags=p.FIRST)[:2000])


async def _mid_response(tunnel: RawTunnel) -> None:
    await tunnel.establish()
    tunnel.send(BIND_ECHO)
    _expect(await tunnel.rpc(), BIND_ACK)
    tunnel.send(request(LARGE.to_bytes(4, "little"), SOURCE_DATA))  # more than the window takes
    assert tunnel.outward is not None
    await tunnel.outward.more()


async def _during_in_recycling(tunnel: RawTunnel) -> None:
    await tunnel.establish()
    assert tunnel.outward is not None
    successor = await tunnel.wire()
    successor.send(head("RPC_IN_DATA", tunnel.target, GIB))
    successor.send(rts.in_a1(tunnel.vc, tunnel.in_cookie, b"s" * 16))
    while (pdu := await tunnel.outward.pdu()) and rts.parse(pdu).kind is not rts.Kind.IN_R2_A4:
        pass


async def _during_out_recycling(tunnel: RawTunnel) -> None:
    await tunnel.establish()
    successor = await tunnel.wire()
    successor.send(head("RPC_OUT_DATA", tunnel.target, 120))
    successor.send(rts.out_a3(tunnel.vc, tunnel.out_cookie, b"s" * 16, WINDOW)[:50])


POINTS: Final = (
    _before_headers,
    _after_headers,
    _mid_a1,
    _after_a1,
    _after_b1_only,
    _after_a1_only,
    _after_c2,
    _mid_bind,
    _mid_request,
    _mid_response,
    _during_in_recycling,
    _during_out_recycling,
)


async def half_closes(place: Place, chance: random.Random) -> None:
    """One channel ends; so does the other. T1, T2"""
    tunnel = RawTunnel(place, place.ports.echo)
    try:
        await tunnel.establish()
        assert tunnel.inward is not None
        assert tunnel.outward is not None
        first, other = tunnel.inward, tunnel.outward
        if chance.random() < 0.5:
            first, other = other, first
        first.close()
        async with asyncio.timeout(END_S):
            await other.ends()
    except TimeoutError:
        raise Wrong("one channel has ended, the other has not") from None
    finally:
        tunnel.close()


async def refused(place: Place, chance: random.Random) -> None:
    """Nobody listens, no banner, another one's banner, or silence. SC-7, T7"""
    port = chance.choice((place.ports.nobody, place.ports.mute, place.ports.foreign, place.ports.silent))
    wire = await place.wire()
    try:
        wire.send(head("RPC_CONNECT", f"{HERE}:{port}", None))
        if port == place.ports.silent:
            await asyncio.sleep(0.05)
            return
        status = await wire.head()
        if not status.startswith(b"HTTP/1.0 503 RPC Error: 6ba"):
            raise Wrong(f"a server that is none was answered with {status[:60]!r}")
        await wire.ends()
    finally:
        wire.close()
    if port == place.ports.nobody:
        tunnel = RawTunnel(place, port)
        try:
            inward, outward = await tunnel.open_in(tunnel.b1()), await tunnel.open_out(tunnel.a1())
            for wire in (inward, outward):
                status = await wire.head()
                if not status.startswith(b"HTTP/1.0 503 RPC Error: 6ba"):
                    raise Wrong(f"a port where nobody listens was answered with {status[:60]!r}")
        finally:
            tunnel.close()


async def wrong_password(place: Place, chance: random.Random) -> None:
    """401, and nothing of a tunnel. AB-20, RH-26"""
    number = chance.randrange(WRONG_ADDRESSES)
    wire = await place.wire(f"127.77.{place.number % 250}.{1 + number}")
    try:
        wrong = b64encode(f"{USER}:{number}".encode()).decode()
        method, length = chance.choice((("RPC_IN_DATA", GIB), ("RPC_OUT_DATA", 76), ("RPC_CONNECT", None)))
        wire.send(head(method, f"{HERE}:{place.ports.resolver}", length, wrong))
        status = await wire.head()
        if not status.startswith(b"HTTP/1.1 401 "):
            raise Wrong(f"a wrong password was answered with {status[:60]!r}")
    finally:
        wire.close()


# Sessions that last -----------------------------------------------------------------------------------


async def storm(place: Place, chance: random.Random) -> None:
    """Channels of the shortest life, and calls that must not notice. SC-8, RH-81"""
    port = chance.choice((place.ports.echo, place.ports.far_echo))
    way = _route(place, in_lifetime=LIFE)
    async with open_connection(HERE, port, world=place.world, proxy=way, call_timeout=CALL_S) as connection:
        place.counts["sessions"] += 1
        echo = await connection.proxy(IEcho)
        numbers = iter(range(STORM_CALLS))
        salt = chance.randbytes(8)

        async def work() -> None:
            for number in numbers:
                data = hashlib.sha256(salt + b"%d" % number).digest() * (PIECE // 32)
                if bytes(await echo.echo_data(data)) != data:
                    raise Wrong(f"call {number} of a recycled tunnel came back changed")
                place.counts["calls"] += 1

        await asyncio.gather(*(work() for _ in range(3)))
        place.counts["recycled"] += connection.transport.recycled


async def idles(place: Place, chance: random.Random) -> None:
    """Nothing but pings for three ConnectionTimeouts, then a call. SC-6, RH-90"""
    port = chance.choice((place.ports.echo, place.ports.far_echo))
    async with open_connection(
        HERE, port, world=place.world, proxy=_route(place), call_timeout=CALL_S
    ) as connection:
        place.counts["sessions"] += 1
        echo = await connection.proxy(IEcho)
        try:
            async with asyncio.timeout(3 * place.period):
                await place.quiet.wait()
        except TimeoutError:
            place.counts["idled"] += 1
        if await echo.add_one(1) != 2:
            raise Wrong("a tunnel that has been idle cannot add")


async def reads_slowly(place: Place, chance: random.Random) -> None:
    """The window closes again and again; the client reads to the end, or is gone in the middle. RH-70, T12"""
    tunnel = RawTunnel(place, chance.choice((place.ports.echo, place.ports.far_echo)))
    patience = chance.randrange(5, 80)
    try:
        await tunnel.establish()
        tunnel.send(BIND_ECHO)
        _expect(await tunnel.rpc(), BIND_ACK)
        tunnel.send(request(LARGE.to_bytes(4, "little"), SOURCE_DATA))
        got = bytearray()
        while True:
            pdu = await tunnel.rpc()
            _expect(pdu, RESPONSE)
            got += pdu[24:]
            if pdu[3] & p.LAST:
                break
            patience -= 1
            if not patience:
                tunnel.reset()
                return
            assert tunnel.outward is not None
            tunnel.outward.transport.pause_reading()
            await asyncio.sleep(0.01)
            tunnel.outward.transport.resume_reading()
        if got[4 : 4 + LARGE] != (bytes(range(256)) * (LARGE // 256 + 1))[:LARGE]:
            raise Wrong("what was read slowly is not what was sent")
        place.counts["calls"] += 1
    finally:
        tunnel.close()


ACTS: Final[dict[str, tuple[float, Act]]] = {
    "session v2": (44, _session("echo", 2)),
    "session v2, resolver": (10, _session("resolver", 2)),
    "session v2, other process": (8, _session("far", 2)),
    "session v1": (12, _session("echo", 1)),
    "session v1, other process": (4, _session("far", 1)),
    "DCOM v2": (1.5, _dcom(2)),
    "DCOM v1": (0.7, _dcom(1)),
    "server closes": (1.5, server_closes),
    "client vanishes": (8, vanishes),
    "half close": (1, half_closes),
    "refused": (1.5, refused),
    "wrong password": (1.5, wrong_password),
    "recycling storm": (0.15, storm),
    "idle": (0.1, idles),
    "slow reader": (0.3, reads_slowly),
}
"""Name -> how often, and what."""

KNOWN: Final = (Wrong, OxidError, OSError, TimeoutError)
"""How an act may fail; anything else is a defect of the soak itself."""
