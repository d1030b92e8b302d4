"""Requests as raw bytes: objects, fragments, hints, flags.

The answers are those of Windows Server as Samba's raw_protocol.py recorded them, or of [MS-RPCE] where a
test names its section.
"""

from __future__ import annotations

import dataclasses
import logging

import pytest
from tests.conformance.wire import (
    ACCESS_DENIED,
    BAD_STUB,
    BIT_08,
    CONC_MPX,
    DID_NOT_EXECUTE,
    ECHO,
    FIRST,
    LAST,
    MAYBE,
    NDR20,
    OBJECT,
    OP_RANGE,
    PROBE,
    PROTO_ERROR,
    RESPONSE,
    UNSPECIFIED,
    WHOLE,
    arena,
    big_endian,
    check_fault,
    element,
    request,
    story,
)

from oxid.rpc.limits import Limits

DNE = WHOLE | DID_NOT_EXECUTE
MPX = WHOLE | CONC_MPX
OBJECT_ID = bytes.fromhex("00112233445566778899aabbccddeeff")
MAX = 0x40_0000


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
