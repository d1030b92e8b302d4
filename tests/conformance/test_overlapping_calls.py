"""Calls that overlap, are cancelled or orphaned, as raw bytes.

The answers are those of Windows Server as Samba's raw_protocol.py recorded them, or of [MS-RPCE] where a
test names its section.
"""

from __future__ import annotations

import pytest
from tests.conformance.wire import (
    CANCELLED,
    CONC_MPX,
    DID_NOT_EXECUTE,
    FIRST,
    LAST,
    NDR20,
    NO_CALL_ACTIVE,
    PENDING_CANCEL,
    PROBE,
    PROTO_ERROR,
    WHOLE,
    arena,
    cancel,
    check_fault,
    element,
    feature,
    orphaned,
    request,
    story,
    until,
)

DNE = WHOLE | DID_NOT_EXECUTE
MPX = WHOLE | CONC_MPX


# -- Cancels and orphans -------------------------------------------------------------------------------------


@pytest.mark.req("REQ-3")
def test_a_first_fragment_that_is_cancelled_already() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(0, PROBE, NDR20))
            answer = await wire.ask(request(flags=FIRST | PENDING_CANCEL))
            check_fault(answer, NO_CALL_ACTIVE, 2, flags=DNE)
            await wire.gone()

    story(told)


@pytest.mark.req("REQ-3")
def test_a_cancel_in_later_fragments_means_nothing() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            await wire.send(request(b"a", flags=FIRST), request(b"b", flags=PENDING_CANCEL))
            await wire.nothing()
            assert (await wire.ask(request(b"c", flags=LAST | PENDING_CANCEL))).stub == b"abc"

    story(told)


@pytest.mark.req("REQ-7", "rpce§1.8")
@pytest.mark.parametrize("message", [cancel(3), orphaned(3)], ids=["co_cancel", "orphaned"])
def test_cancels_of_calls_nobody_made_are_ignored(message: bytes) -> None:
    assert len(message) == 16  # a header and nothing else

    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            await wire.send(message)
            await wire.nothing()
            await wire.echoes(call_id=1)

    story(told)


@pytest.mark.req("REQ-7")
@pytest.mark.parametrize("flags", [WHOLE, MPX], ids=["one-call", "concurrent"])
@pytest.mark.parametrize("message", [cancel(1), orphaned(1)], ids=["co_cancel", "orphaned"])
def test_a_cancel_of_an_incomplete_request_changes_nothing(message: bytes, flags: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(flags=flags)
            await wire.send(request(b"a", flags=FIRST, call_id=1), message)
            await wire.nothing()
            assert (await wire.ask(request(b"b", flags=LAST, call_id=1))).stub == b"ab"
            await wire.echoes(call_id=2)

    story(told)


@pytest.mark.req("REQ-7", "REQ-2")
@pytest.mark.parametrize(
    ("flags", "blamed", "context_id"),
    [pytest.param(WHOLE, 1, 1, id="one-call"), pytest.param(MPX, 2, 0, id="concurrent")],
)
def test_a_new_request_after_orphaning_an_incomplete_one(flags: int, blamed: int, context_id: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(1, PROBE, NDR20), flags=flags)
            await wire.send(request(flags=FIRST, call_id=1, context_id=1), orphaned(1))
            await wire.nothing()
            check_fault(await wire.ask(request(call_id=2, context_id=1)), PROTO_ERROR, blamed, context_id)
            await wire.gone()

    story(told)


@pytest.mark.req("REQ-8", "rpce§1.8")
def test_co_cancel_ends_a_running_call_which_is_answered_once() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(flags=MPX)
            await wire.send(request(opnum=1, call_id=5))
            await wire.nothing()
            check_fault(await wire.ask(cancel(5)), CANCELLED, 5)
            assert there.probe.cancelled == 1
            await wire.send(cancel(5))
            await wire.nothing()
            await wire.echoes()

    story(told)


@pytest.mark.req("REQ-8", "rpce§1.8")
def test_an_orphaned_call_is_ended_and_not_answered() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(0, PROBE, NDR20), element(1, PROBE, feature(3)), flags=MPX)
            await wire.send(request(opnum=1, call_id=5))
            await wire.nothing()
            await wire.send(orphaned(5))
            await until(lambda: there.probe.cancelled == 1)
            await wire.nothing()
            await wire.echoes(call_id=6)

    story(told)


# -- Calls that overlap --------------------------------------------------------------------------------------


@pytest.mark.req("REQ-5", "REQ-6")
def test_concurrent_calls_are_answered_out_of_order() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(flags=MPX)
            await wire.send(request(b"slow", opnum=1, call_id=5), request(b"slow too", opnum=1, call_id=6))
            await wire.echoes(call_id=7)
            there.probe.release.set()
            answers = {(await wire.pdu()).call_id for _ in range(2)}  # type: ignore[union-attr]
            assert answers == {5, 6}

    story(told)


@pytest.mark.req("REQ-6")
def test_without_multiplexing_calls_wait_for_each_other() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(flags=WHOLE)
            await wire.send(request(b"slow", opnum=1, call_id=5), request(b"quick", call_id=6))
            await until(lambda: there.probe.calls)
            await wire.nothing()
            assert [call.call_id for call in there.probe.calls] == [5]
            there.probe.release.set()
            assert [(await wire.pdu()).call_id for _ in range(2)] == [5, 6]  # type: ignore[union-attr]

    story(told)


@pytest.mark.req("REQ-6")
def test_response_fragments_of_one_call_are_joined_by_their_call_id() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(flags=MPX)
            sizes = {5: 20_000, 6: 9_000, 7: 1}
            await wire.send(
                *(request(size.to_bytes(4, "little"), opnum=5, call_id=call) for call, size in sizes.items())
            )
            got = dict.fromkeys(sizes, 0)
            open_calls = set(sizes)
            begun: set[int] = set()
            while open_calls:
                fragment = await wire.pdu()
                assert fragment is not None
                assert bool(fragment.flags & FIRST) == (fragment.call_id not in begun)
                begun.add(fragment.call_id)
                # every fragment says how much is still to come, itself included
                assert fragment.hint == sizes[fragment.call_id] - got[fragment.call_id]
                got[fragment.call_id] += len(fragment.stub)
                if fragment.flags & LAST:
                    open_calls.discard(fragment.call_id)
            assert got == sizes

    story(told)
