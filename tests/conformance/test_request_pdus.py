"""Requests as raw bytes: fragments, hints, flags, cancels, orphans, and what is no PDU at all.

The answers are those of Windows Server as Samba's raw_protocol.py recorded them, or of [MS-RPCE] where a
test names its section.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import struct

import pytest
from tests.conformance.wire import (
    ACCESS_DENIED,
    BAD_STUB,
    BIND_ACK,
    BIT_08,
    CANCELLED,
    CO_CANCEL,
    CONC_MPX,
    DID_NOT_EXECUTE,
    ECHO,
    FAULT,
    FIRST,
    LAST,
    MAYBE,
    NDR20,
    NDR64,
    NO_CALL_ACTIVE,
    OBJECT,
    OP_RANGE,
    ORPHANED,
    PENDING_CANCEL,
    PROBE,
    PROTO_ERROR,
    RESPONSE,
    UNSPECIFIED,
    WHOLE,
    Arena,
    Wire,
    arena,
    big_endian,
    bind,
    check_fault,
    element,
    feature,
    pdu,
    request,
    story,
    turns,
)

from oxid.rpc.limits import Limits

DNE = WHOLE | DID_NOT_EXECUTE
MPX = WHOLE | CONC_MPX
OBJECT_ID = bytes.fromhex("00112233445566778899aabbccddeeff")
MAX = 0x40_0000


def cancel(call_id: int) -> bytes:
    return pdu(CO_CANCEL, b"", call_id=call_id)


def orphaned(call_id: int) -> bytes:
    return pdu(ORPHANED, b"", call_id=call_id)


# -- Contexts, operations, objects ---------------------------------------------------------------------------


@pytest.mark.req("REQ-1", "REQ-10", "rpce§1.3")
def test_an_unknown_context_is_a_fault_and_the_connection_stays() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            answer = await wire.ask(request(context_id=1, call_id=3))
            assert answer.raw == bytes.fromhex(
                "05 00 03 23 10000000 2000 0000 03000000"  # fault, FIRST|LAST|DID_NOT_EXECUTE, 32 bytes
                "20000000 0000 00 00"  # alloc_hint 32, context 0, cancel count, flags
                "0300011c 00000000"  # nca_s_unk_if, reserved
            )
            await wire.echoes()

    story(told)


@pytest.mark.req("REQ-1", "REQ-10", "rpce§1.3")
@pytest.mark.parametrize(("abstract", "opnum"), [(ECHO, 10), (ECHO, 0xFFFF), (PROBE, 6)])
def test_an_unknown_operation_is_a_fault_and_the_connection_stays(abstract: bytes, opnum: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(0x1001, abstract, NDR20), element(0, PROBE, NDR20))
            if abstract is PROBE:
                assert (await wire.ask(request(context_id=0x1001, call_id=9))).ptype == RESPONSE
            answer = await wire.ask(request(context_id=0x1001, opnum=opnum, call_id=3))
            check_fault(answer, OP_RANGE, 3, 0x1001, flags=DNE)
            if abstract is ECHO:
                await wire.echoes()

    story(told)


@pytest.mark.req("REQ-9", "rpce§1.1")
@pytest.mark.parametrize("size", [0, 1, 7, 8, 100])
def test_a_request_with_an_object_has_16_bytes_more(size: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            stub = bytes(range(size))
            answer = await wire.ask(request(stub, object=OBJECT_ID))
            assert answer.stub == stub
            assert there.probe.calls[-1].object == OBJECT_ID
            answer = await wire.ask(request(stub, call_id=3))
            assert there.probe.calls[-1].object is None

    story(told)


@pytest.mark.req("REQ-9")
def test_the_object_of_a_big_endian_request_is_turned_round() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            made = big_endian(request(b"stub", object=OBJECT_ID))
            assert (await wire.ask(made)).stub == b"stub"
            # time_low, time_mid and time_hi are numbers, the rest are octets
            assert there.probe.calls[-1].object == bytes.fromhex("33221100 5544 7766 8899aabbccddeeff")

    story(told)


@pytest.mark.req("REQ-9", "REQ-3")
def test_the_object_of_the_first_fragment_counts_and_every_fragment_has_room_for_one() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            answer = await wire.ask(
                request(b"ab", object=OBJECT_ID, flags=FIRST),
                request(b"cd", object=bytes(16), flags=0),
                request(b"ef", flags=LAST),
            )
            assert answer.stub == b"abcdef"
            assert there.probe.calls[-1].object == OBJECT_ID

    story(told)


@pytest.mark.req("REQ-9", "PDU-2")
def test_an_object_flag_without_room_for_the_object_is_a_protocol_error() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            check_fault(await wire.ask(request(bytes(15), flags=WHOLE | OBJECT)), PROTO_ERROR, 2)
            await wire.gone()

    story(told)


@pytest.mark.req("REQ-10")
@pytest.mark.parametrize(
    ("opnum", "stub", "status", "flags"),
    [
        pytest.param(2, b"", UNSPECIFIED, WHOLE, id="an-exception-nobody-expected"),
        pytest.param(4, bytes.fromhex("d2040000"), 1234, WHOLE, id="a-status"),
        pytest.param(
            4, bytes.fromhex("05000000") + b"not", ACCESS_DENIED, DNE, id="a-status-before-execution"
        ),
        pytest.param(4, bytes.fromhex("ffff0780"), 0x8007_FFFF, WHOLE, id="an-hresult"),
    ],
)
def test_exceptions_become_faults(
    opnum: int, stub: bytes, status: int, flags: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def told() -> None:
        caplog.set_level(logging.CRITICAL)
        async with arena() as there:
            wire = await there.bound()
            check_fault(await wire.ask(request(stub, opnum=opnum)), status, 2, flags=flags)
            await wire.echoes()

    story(told)


@pytest.mark.req("PDU-3", "REQ-10")
@pytest.mark.parametrize(
    "forbidden",
    [
        0x0000_0000,
        0x8000_0001,
        0x8000_0002,
        0x8000_0003,
        0xC000_0005,
        0xC000_0006,
        0xC000_001D,
        0xC000_0096,
        0xC000_00AA,
        0xC000_00FD,
        0xC000_0194,
        0xC000_0235,
        0xC000_0409,
        0xC000_0420,
    ],
)
def test_forbidden_statuses_are_never_sent(forbidden: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            answer = await wire.ask(request(forbidden.to_bytes(4, "little"), opnum=4))
            check_fault(answer, UNSPECIFIED, 2)

    story(told)


@pytest.mark.req("REQ-10")
def test_arguments_that_do_not_unmarshal_are_bad_stub_data() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(0, ECHO, NDR20), element(1, PROBE, NDR20))
            check_fault(await wire.ask(request(b"\x01\x02")), BAD_STUB, 2)
            await wire.echoes(context_id=1)

    story(told)


# -- alloc_hint and the limit of 4 MiB -----------------------------------------------------------------------


@pytest.mark.req("REQ-4")
@pytest.mark.parametrize("hint", [0, 1, 3, 0x1000, MAX, MAX + 1, 0xFFFF_FFFF])
def test_alloc_hint_of_a_whole_request_does_not_matter(hint: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            answer = await wire.ask(request(b"four", hint=hint))
            assert (answer.stub, answer.hint) == (b"four", 4)

    story(told)


def pieces(total: int, hint: int, chunk: int = 5840 - 24) -> list[bytes]:
    """A request in fragments; alloc_hint counts down from `hint`."""
    made, left, flags = [], total, FIRST
    while left:
        size = min(left, chunk)
        left -= size
        flags |= 0 if left else LAST
        made.append(request(bytes(size), flags=flags, hint=hint, opnum=3, call_id=0x21234))
        hint, flags = max(0, hint - size), 0
    return made


@pytest.mark.req("REQ-4")
@pytest.mark.parametrize("hint", [MAX, 0x10_0000, 0])
def test_four_mebibytes_in_fragments_are_taken(hint: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            answer = await wire.ask(*pieces(MAX, hint))
            assert (answer.ptype, answer.call_id) == (RESPONSE, 0x21234)
            assert len(there.probe.calls[-1].stub) == MAX

    story(told)


@pytest.mark.req("REQ-4")
@pytest.mark.parametrize("hint", [0, 1, 6, 7, MAX])
def test_a_hint_larger_than_all_fragments_together_is_refused(hint: int) -> None:
    """[MS-RPCE] 2.2.2.6, which wants it of implementations; Samba does not look."""

    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(1, PROBE, NDR20))
            answer = await wire.ask(
                request(b"abc", flags=FIRST, hint=hint, context_id=1),
                request(b"def", flags=LAST, context_id=1),
            )
            if hint <= 6:
                assert answer.stub == b"abcdef"
            else:
                check_fault(answer, PROTO_ERROR, 2, 1)
                await wire.gone()

    story(told)


@pytest.mark.req("REQ-4")
def test_a_hint_over_four_mebibytes_in_the_first_fragment_is_refused_at_once() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(1, PROBE, NDR20))
            message = request(bytes(100), flags=FIRST, hint=MAX + 1, context_id=1, call_id=0x21234)
            check_fault(await wire.ask(message), ACCESS_DENIED, 0x21234, 1)
            await wire.gone()

    story(told)


@pytest.mark.req("REQ-4")
def test_more_than_four_mebibytes_are_refused_as_soon_as_they_are_there() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            fragments = pieces(MAX + 1, 0)
            await wire.send(*fragments[:-2])
            await wire.nothing()
            check_fault(await wire.ask(*fragments[-2:-1], fragments[-1]), ACCESS_DENIED, 0x21234)
            await wire.gone()
            assert there.probe.calls == []

    story(told)


@pytest.mark.req("REQ-4")
def test_the_limit_of_requests_is_configurable() -> None:
    async def told() -> None:
        async with arena(limits=dataclasses.replace(Limits(), max_request=64, max_fragments=3)) as there:
            wire = await there.bound()
            answer = await wire.ask(request(bytes(60), flags=FIRST, hint=60), request(bytes(5), flags=LAST))
            check_fault(answer, ACCESS_DENIED, 2)
            await wire.gone()
            wire = await there.bound()
            answer = await wire.ask(request(b"", flags=FIRST), *[request(b"", flags=0)] * 3)
            check_fault(answer, ACCESS_DENIED, 2)
            await wire.gone()

    story(told)


# -- First, last and in between ------------------------------------------------------------------------------


@pytest.mark.req("REQ-2")
@pytest.mark.parametrize("flags", [0, LAST], ids=["none-only", "last-only"])
def test_a_request_without_its_first_fragment(flags: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(1, PROBE, NDR20))
            check_fault(await wire.ask(request(flags=flags, context_id=1)), PROTO_ERROR, 2)
            await wire.gone()

    story(told)


@pytest.mark.req("REQ-2", "REQ-3", "REQ-6")
@pytest.mark.parametrize(
    "more",
    [0, MAYBE, DID_NOT_EXECUTE, CONC_MPX, BIT_08],
    ids=["first", "maybe", "did-not-execute", "conc-mpx", "08"],
)
def test_a_second_first_fragment_of_a_call(more: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(1, PROBE, NDR20))
            message = request(b"x", flags=FIRST | more, context_id=1)
            await wire.send(message)
            await wire.nothing()
            check_fault(await wire.ask(message), PROTO_ERROR, 2, 1)
            await wire.gone()
            assert there.probe.calls == []

    story(told)


@pytest.mark.req("REQ-3")
@pytest.mark.parametrize("more", [MAYBE, DID_NOT_EXECUTE, CONC_MPX, BIT_08])
def test_flags_that_mean_nothing_in_a_request(more: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            await wire.echoes(flags=WHOLE | more)

    story(told)


@pytest.mark.req("REQ-2", "REQ-6")
@pytest.mark.parametrize(
    ("bind_flags", "blamed", "context_id"),
    [pytest.param(WHOLE, 50, 1, id="one-call-at-a-time"), pytest.param(MPX, 51, 0, id="concurrent")],
)
@pytest.mark.parametrize("flags", [FIRST, WHOLE, 0, LAST])
def test_another_call_while_a_request_is_incomplete(
    bind_flags: int, blamed: int, context_id: int, flags: int
) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(1, PROBE, NDR20), flags=bind_flags)
            await wire.send(request(b"a", flags=FIRST, call_id=50, context_id=1))
            await wire.nothing()
            answer = await wire.ask(request(b"b", flags=flags, call_id=51, context_id=1))
            check_fault(answer, PROTO_ERROR, blamed, context_id)
            await wire.gone()
            assert there.probe.calls == []

    story(told)


@pytest.mark.req("REQ-3")
def test_fields_of_later_fragments_do_not_matter() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(1, PROBE, NDR20))
            answer = await wire.ask(
                request(b"one ", flags=FIRST, context_id=1),
                request(b"two ", flags=0, context_id=111, opnum=111, hint=0),
                request(b"three", flags=LAST, context_id=0xFFFF, opnum=2),
            )
            assert (answer.ptype, answer.context_id, answer.stub) == (RESPONSE, 1, b"one two three")

    story(told)


@pytest.mark.req("REQ-3")
def test_the_byte_order_of_a_request_must_not_change() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            await wire.send(request(b"one ", flags=FIRST))
            check_fault(await wire.ask(big_endian(request(b"two", flags=LAST))), PROTO_ERROR, 2)
            await wire.gone()

    story(told)


@pytest.mark.req("REQ-3", "rpce§1.1")
def test_a_big_endian_request_is_answered_in_little_endian() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(0, ECHO, NDR20))
            answer = await wire.ask(big_endian(request(bytes.fromhex("00000029"))))
            assert answer.raw[4:8] == bytes.fromhex("10000000")
            assert answer.stub == bytes.fromhex("2a000000")
            answer = await wire.ask(
                big_endian(request(bytes.fromhex("0000"), flags=FIRST, call_id=3)),
                big_endian(request(bytes.fromhex("0029"), flags=LAST, call_id=3)),
            )
            assert (answer.call_id, answer.stub) == (3, bytes.fromhex("2a000000"))

    story(told)


@pytest.mark.req("REQ-5")
@pytest.mark.parametrize("behind", [0, 1, 149])
def test_stray_fragments_of_recent_calls_are_dropped(behind: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            await wire.echoes(call_id=1000)
            await wire.send(request(b"late", flags=LAST, call_id=1000 - behind))
            await wire.nothing()
            await wire.echoes(call_id=1001)

    story(told)


@pytest.mark.req("REQ-5")
@pytest.mark.parametrize("call_id", [850, 1001])
def test_stray_fragments_of_other_calls_are_protocol_errors(call_id: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            await wire.echoes(call_id=1000)
            check_fault(await wire.ask(request(b"late", flags=LAST, call_id=call_id)), PROTO_ERROR, call_id)
            await wire.gone()

    story(told)


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
            await wire.nothing()
            assert there.probe.cancelled == 1
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


# -- Bytes that are no PDUs ----------------------------------------------------------------------------------


async def conversation(there: Arena, piece: int) -> list[tuple[int, int, int, bytes]]:
    """A bit of everything, sent in pieces; what was answered without what differs by connection."""
    wire = await there.connect()
    await wire.send(
        bind(element(0, PROBE, NDR64), element(2, ECHO, NDR20), flags=MPX),
        request(b"plain"),
        request(b"object", call_id=3, object=OBJECT_ID),
        request(b"in ", flags=FIRST, call_id=4),
        cancel(4),
        request(b"three ", flags=0, call_id=4),
        request(b"pieces", flags=LAST, call_id=4),
        orphaned(77),
        request(bytes.fromhex("29000000"), call_id=5, context_id=2),
        request(context_id=9, call_id=6),
        request((6000).to_bytes(4, "little"), opnum=5, call_id=7),
        request(opnum=77, call_id=8),
        request(flags=LAST, call_id=999),
        piece=piece,
    )
    heard = []
    while (answer := await wire.pdu()) is not None:
        body = b"" if answer.ptype == BIND_ACK else answer.raw[16:]
        heard.append((answer.ptype, answer.flags, answer.call_id, body))
    return heard


@pytest.mark.req("PDU-6")
@pytest.mark.parametrize("piece", [1, 2, 15, 16, 17, 23, 25, 100])
def test_answers_do_not_depend_on_how_the_bytes_arrive(piece: int) -> None:
    async def told() -> None:
        async with arena() as there:
            whole = await conversation(there, 1 << 20)
            assert await conversation(there, piece) == whole
            assert [(kind, call_id) for kind, _, call_id, _ in whole] == [
                (BIND_ACK, 1),
                (RESPONSE, 2),
                (RESPONSE, 3),
                (RESPONSE, 4),
                (RESPONSE, 5),
                (FAULT, 6),
                (RESPONSE, 7),
                (RESPONSE, 7),
                (FAULT, 8),
                (FAULT, 999),
            ]

    story(told)


@pytest.mark.req("PDU-6")
@pytest.mark.parametrize("kept", [1, 8, 15, 16, 20, 30])
def test_a_peer_that_ends_in_the_middle_of_a_pdu_is_forgotten(kept: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            await wire.send(request(bytes(64))[:kept])
            wire.writer.write_eof()
            await wire.gone()
            await turns(5)
            assert not there.server.connections
            assert not there.server.fragments

    story(told)


@pytest.mark.req("PDU-1")
def test_a_request_of_another_version_faults_and_closes() -> None:
    async def told() -> None:
        async with arena() as there:
            for version in ("04 00", "05 01"):
                wire = await there.bound()
                await wire.send(bytes.fromhex(version) + request()[2:])
                check_fault(await wire.pdu(), PROTO_ERROR, 2)
                await wire.gone()

    story(told)


@pytest.mark.req("PDU-2")
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param((24, 0xFFFF), id="auth_length-over-everything"),
        pytest.param((24, 8), id="no-room-for-the-trailer"),
        pytest.param((23, 0), id="shorter-than-a-request"),
        pytest.param((16, 0), id="only-a-header"),
        pytest.param((15, 0), id="shorter-than-a-header"),
        pytest.param((0, 0), id="no-length"),
        pytest.param((5841, 0), id="longer-than-the-transport-takes"),
        pytest.param((0xFFFF, 0), id="as-long-as-it-gets"),
    ],
)
def test_wrong_lengths_fault_and_close(fields: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            message = bytearray(request())
            struct.pack_into("<HH", message, 8, *fields)
            await wire.send(bytes(message))
            check_fault(await wire.pdu(), PROTO_ERROR, 2)
            await wire.gone()
            assert not [record for record in caplog.records if record.exc_info]

    story(told)


@pytest.mark.req("PDU-2", "PDU-6")
@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        bytes(64),
        b"\xff" * 64,
        bytes.fromhex("16030100a5010000a10303"),  # a TLS ClientHello begins so
    ],
    ids=["http", "zeros", "ones", "tls"],
)
@pytest.mark.parametrize("bound", [False, True])
def test_noise_ends_its_own_connection_and_no_other(
    noise: bytes, bound: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def told() -> None:
        async with arena() as there:
            other = await there.bound()
            wire = await (there.bound() if bound else there.connect())
            await wire.send(noise)
            wire.writer.write_eof()
            async with asyncio.timeout(5):
                while await drained(wire):
                    pass
            await other.echoes()
            assert not [record for record in caplog.records if record.exc_info]

    story(told)


async def drained(wire: Wire) -> bytes:
    try:
        return await wire.reader.read(1 << 16)
    except ConnectionResetError:
        return b""


@pytest.mark.req("rpce§1.2", "REQ-5")
def test_the_context_id_of_a_response_is_cut_to_a_byte() -> None:
    """Windows does so (raw_protocol.py, orphaned_no_request); faults carry all of it."""

    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(0x1234, PROBE, NDR20))
            assert (await wire.ask(request(context_id=0x1234))).context_id == 0x34
            check_fault(await wire.ask(request(b"\1\0\0\0", opnum=4, context_id=0x1234)), 1, 2, 0x1234)

    story(told)
