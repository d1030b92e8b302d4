"""Replies to our client, from servers that are scripts: any order, broken ones, and calls that are given up.

Statuses and their meaning: [MS-RPCE] 3.1.1.5.5; what a client must check: 3.3.2.5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.conformance.scripts import answers, bound, out, tell
from tests.conformance.wire import (
    BIND_NAK,
    CANCELLED,
    CO_CANCEL,
    FIRST,
    LAST,
    NDR20,
    ORPHANED,
    SHUTDOWN,
    Wire,
    bind_ack,
    fault_pdu,
    pdu,
    response,
    turns,
)

from oxid.errors import (
    RemoteProtocolError,
    TransportError,
)
from oxid.rpc.limits import Limits
from oxid.runtime.client import RpcConnection

# -- Responses -----------------------------------------------------------------------------------------------


@pytest.mark.req("REQ-5", "REQ-6")
def test_replies_in_another_order_find_their_calls() -> None:
    async def script(wire: Wire) -> None:
        await bound(wire)
        calls = [await wire.pdu() for _ in range(5)]
        for asked in reversed(calls):
            assert asked is not None
            await wire.send(response(asked.stub, asked.call_id))
        await wire.pdu()

    async def play(connection: RpcConnection, context_id: int) -> None:
        waiting = [connection.submit(context_id, 0, out(b"%d" % i)) for i in range(5)]
        assert await asyncio.gather(*waiting) == [b"0", b"1", b"2", b"3", b"4"]

    tell(script, play)


@pytest.mark.req("REQ-6", "REQ-4", "rpce§1.2", "PDU-6")
@pytest.mark.parametrize("piece", [1, 7, 24, 1 << 20])
def test_fragments_of_different_replies_interleave(piece: int) -> None:
    async def script(wire: Wire) -> None:
        await bound(wire)
        one, two, three = [(await wire.pdu()).call_id for _ in range(3)]  # type: ignore[union-attr]
        await wire.send(
            response(b"a1 ", one, flags=FIRST),
            response(b"b1 ", two, flags=FIRST, hint=0),
            response(b"a2 ", one, flags=0, hint=0x7FFF_FFFF),
            response(b"c", three),
            response(b"b2", two, flags=LAST),
            response(b"a3", one, flags=LAST, context_id=77),
            piece=piece,
        )
        await wire.pdu()

    async def play(connection: RpcConnection, context_id: int) -> None:
        waiting = [connection.submit(context_id, 0, out()) for _ in range(3)]
        assert await asyncio.gather(*waiting) == [b"a1 a2 a3", b"b1 b2", b"c"]

    tell(script, play)


BROKEN_RESPONSES = {
    "another-call": lambda call: response(b"", call + 1),
    "alloc_hint-over-2^31": lambda call: response(b"", call, hint=0x8000_0000),
    "alloc_hint-over-2^31-first": lambda call: response(b"", call, flags=FIRST, hint=0xFFFF_FFFF),
    "alloc_hint-over-2^31-middle": lambda call: (
        response(b"", call, flags=FIRST) + response(b"", call, flags=0, hint=0x8000_0000)
    ),
    "middle-alone": lambda call: response(b"", call, flags=0),
    "last-alone": lambda call: response(b"", call, flags=LAST),
    "first-twice": lambda call: response(b"", call, flags=FIRST) * 2,
    "longer-than-we-take": lambda call: (
        response(bytes(3000), call, flags=FIRST) + response(bytes(2000), call, flags=0)
    ),
    "longer-at-the-end": lambda call: (
        response(bytes(3000), call, flags=FIRST) + response(bytes(2000), call, flags=LAST)
    ),
    "too-short": lambda call: pdu(2, bytes(4), call_id=call),
    "auth_length-over-the-end": lambda call: pdu(2, bytes(12), call_id=call, auth_length=500),
    "another-version": lambda call: b"\4" + response(b"", call)[1:],
    "a-request": lambda call: pdu(0, bytes(8), call_id=call),
    "a-bind_ack": lambda call: bind_ack((0, 0, NDR20), call_id=call),
    "a-bind_nak": lambda call: pdu(BIND_NAK, bytes(8), call_id=call),
    "no-type": lambda call: pdu(99, bytes(8), call_id=call),
    "short-fault": lambda call: pdu(3, bytes(8), call_id=call),
    "fault-of-another-call": lambda call: fault_pdu(5, call + 1),
}


@pytest.mark.req("REQ-4", "REQ-5", "PDU-2", "PDU-6")
@pytest.mark.parametrize("broken", BROKEN_RESPONSES.values(), ids=BROKEN_RESPONSES)
def test_broken_replies_end_the_connection_and_wake_everybody(broken: Callable[[int], bytes]) -> None:
    async def script(wire: Wire) -> None:
        await bound(wire)
        calls = [await wire.pdu() for _ in range(2)]
        assert calls[1] is not None
        await wire.send(broken(calls[1].call_id))
        assert await wire.pdu() is None  # the client hung up

    async def play(connection: RpcConnection, context_id: int) -> None:
        waiting = [connection.submit(context_id, 0, out()) for _ in range(2)]
        async with asyncio.timeout(5):
            for error in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(error, RemoteProtocolError)
        assert isinstance(connection.lost, RemoteProtocolError)

    tell(script, play, limits=replace(Limits(), max_response=4096))


@pytest.mark.req("REQ-4")
def test_a_hint_allocates_nothing() -> None:
    async def script(wire: Wire) -> None:
        await answers(wire, lambda asked: response(b"tiny", asked.call_id, hint=0x7FFF_FFFF))

    async def play(connection: RpcConnection, context_id: int) -> None:
        assert await connection.submit(context_id, 0, out()) == b"tiny"

    tell(script, play)


@pytest.mark.req("rpce§1.8")
def test_a_shutdown_is_tolerated() -> None:
    async def script(wire: Wire) -> None:
        await answers(
            wire,
            lambda asked: pdu(SHUTDOWN, b"", call_id=0) + response(b"first", asked.call_id),
            lambda asked: response(b"second", asked.call_id),
        )

    async def play(connection: RpcConnection, context_id: int) -> None:
        assert await connection.submit(context_id, 0, out()) == b"first"
        assert await connection.submit(context_id, 0, out()) == b"second"

    tell(script, play)


# -- Cancelling ----------------------------------------------------------------------------------------------


@pytest.mark.req("REQ-8", "rpce§1.8", "REQ-7")
@pytest.mark.parametrize("keeps", [True, False], ids=["keep-on-orphan", "no-features"])
def test_giving_up_a_call_sends_co_cancel_then_orphans_it(keeps: bool) -> None:
    async def script(wire: Wire) -> None:
        await bound(wire, features=2 if keeps else 0)
        asked = await wire.pdu()
        assert asked is not None
        cancel = await wire.pdu()
        assert cancel is not None
        assert cancel.raw == pdu(CO_CANCEL, b"", call_id=asked.call_id)
        last = await wire.pdu()
        if not keeps:
            assert last is None  # without the feature the connection goes with the call
            return
        assert last is not None
        assert last.raw == pdu(ORPHANED, b"", call_id=asked.call_id)
        await wire.send(response(b"too late", asked.call_id))
        asked = await wire.pdu()
        assert asked is not None
        await wire.send(response(b"next", asked.call_id))
        await wire.pdu()

    async def play(connection: RpcConnection, context_id: int) -> None:
        call = asyncio.ensure_future(connection.call(context_id, 0, out()))
        await turns(5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await turns(5)
        connection.expire_cancelled(connection.world.clock.now() + 60)  # patience is at its end
        if keeps:
            assert await connection.submit(context_id, 0, out()) == b"next"
        else:
            assert isinstance(connection.lost, TransportError)

    tell(script, play)


@pytest.mark.req("REQ-8")
def test_a_server_that_heeds_a_cancel_keeps_its_connection() -> None:
    async def script(wire: Wire) -> None:
        await bound(wire, features=0)
        asked = await wire.pdu()
        assert asked is not None
        cancel = await wire.pdu()
        assert cancel is not None
        assert cancel.ptype == CO_CANCEL
        await wire.send(fault_pdu(CANCELLED, asked.call_id))
        asked = await wire.pdu()
        assert asked is not None
        await wire.send(response(b"next", asked.call_id))
        await wire.pdu()

    async def play(connection: RpcConnection, context_id: int) -> None:
        call = asyncio.ensure_future(connection.call(context_id, 0, out()))
        await turns(5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await connection.submit(context_id, 0, out()) == b"next"
        assert connection.expire_cancelled(connection.world.clock.now() + 60) is None

    tell(script, play)
