"""Bind and alter_context as raw bytes: flags, contexts, bind-time features.

The answers are those of Windows Server (2012 R2 to 2022) as Samba's raw_protocol.py recorded them, or of
[MS-RPCE] where a test names its section.
"""

from __future__ import annotations

import dataclasses
import struct

import pytest
from tests.conformance.wire import (
    ACCEPTED,
    ALTER_RESP,
    BIND_ACK,
    BIT_08,
    CONC_MPX,
    DID_NOT_EXECUTE,
    ECHO,
    FIRST,
    GUARDED_UUID,
    HEADER_SIGN,
    LAST,
    MANAGEMENT,
    MAYBE,
    NDR20,
    NDR64,
    NO_ABSTRACT,
    NO_TRANSFER,
    OBJECT,
    OP_RANGE,
    PROBE,
    PROTO_ERROR,
    UNKNOWN,
    UNKNOWN_IF,
    WHOLE,
    ZERO,
    alter,
    arena,
    bind,
    check_fault,
    check_nak,
    element,
    feature,
    pdu,
    request,
    story,
)

from oxid.rpc.limits import Limits

PLAIN = element(0, PROBE, NDR20)

# what a request sets -> what the answer adds to FIRST|LAST in a bind_ack and in an alter_context_resp
ECHOED_FLAGS = [
    pytest.param(0x00, 0, 0, id="none"),
    pytest.param(FIRST, 0, 0, id="first"),
    pytest.param(LAST, 0, 0, id="last"),
    pytest.param(WHOLE | HEADER_SIGN, HEADER_SIGN, HEADER_SIGN, id="header-sign"),
    pytest.param(WHOLE | BIT_08, 0, 0, id="08"),
    pytest.param(WHOLE | CONC_MPX, CONC_MPX, 0, id="conc-mpx"),
    pytest.param(WHOLE | DID_NOT_EXECUTE, 0, 0, id="did-not-execute"),
    pytest.param(WHOLE | MAYBE, 0, 0, id="maybe"),
    pytest.param(WHOLE | OBJECT, 0, 0, id="object"),
    pytest.param(0xFF, HEADER_SIGN | CONC_MPX, HEADER_SIGN, id="all"),
]


# -- Layouts and flags ---------------------------------------------------------------------------------------


@pytest.mark.req("rpce§1.4", "rpce§1.5", "rpce§1.1", "rpce§1.2", "BND-1", "BND-8")
def test_bind_request_and_their_answers_octet_for_octet() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            ack = await wire.ask(
                bytes.fromhex(
                    "05 00 0b 03 10000000 4800 0000 01000000"  # 5.0, bind, FIRST|LAST, LE, 72 bytes, call 1
                    "d016 d016 00000000 01 00 0000"  # 5840 both ways, new group, one context
                    "0700 01 00"  # context 7, one transfer syntax
                    "c55ea160e84dd711a637005056a20182 0100 0000"  # rpcecho 1.0
                    "045d888aeb1cc9119fe808002b104860 0200 0000"  # NDR 2.0
                )
            )
            address = b"%d\0" % there.port
            expected = struct.pack("<HHI", 5840, 5840, ack.group) + struct.pack("<H", len(address)) + address
            expected += bytes(-len(expected) % 4)  # the results are 4-aligned
            expected += bytes.fromhex("01 000000 0000 0000") + NDR20  # one result: acceptance, no reason
            assert ack.raw == pdu(BIND_ACK, expected)
            assert ack.group
            answer = await wire.ask(
                bytes.fromhex(
                    "05 00 00 03 10000000 1c00 0000 02000000"  # request, 28 bytes, call 2
                    "04000000 0700 0000"  # alloc_hint 4, context 7, AddOne
                    "29000000"
                )
            )
            assert answer.raw == bytes.fromhex(
                "05 00 02 03 10000000 1c00 0000 02000000"  # response
                "04000000 0700 00 00"  # alloc_hint, context, cancel count, reserved
                "2a000000"
            )

    story(told)


@pytest.mark.req("BND-8")
@pytest.mark.parametrize(("flags", "added", "_"), ECHOED_FLAGS)
def test_bind_ack_echoes_two_flags_and_ignores_the_others(flags: int, added: int, _: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            ack = await wire.ask(bind(PLAIN, flags=flags))
            assert (ack.ptype, ack.flags, ack.auth_length) == (BIND_ACK, WHOLE | added, 0)
            assert ack.address == b"%d\0" % there.port
            assert ack.results == [ACCEPTED]
            await wire.echoes()

    story(told)


@pytest.mark.req("BND-8")
@pytest.mark.parametrize(("flags", "_", "added"), ECHOED_FLAGS)
def test_alter_context_resp_echoes_header_signing_only(flags: int, _: int, added: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            answer = await wire.ask(alter(PLAIN, flags=flags, call_id=0))
            assert (answer.ptype, answer.flags, answer.call_id) == (ALTER_RESP, WHOLE | added, 0)
            assert answer.address == b""  # length 0, no NUL either
            assert (answer.sizes, answer.group) == ((5840, 5840), wire.group)
            await wire.echoes()

    story(told)


# -- Useless and repeated binds ------------------------------------------------------------------------------


@pytest.mark.req("BND-3", "PDU-4", "rpce§1.6")
def test_a_bind_without_contexts_is_refused_with_reason_4() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            answer = await wire.ask(bind(call_id=7))
            check_nak(answer, 4, call_id=7)  # Windows 2022; 2012 R2 gives reason 0
            assert answer.raw == bytes.fromhex(
                "05 00 0d 03 10000000 1800 0000 07000000"  # bind_nak, 24 bytes, call 7
                "0400 01 0500 000000"  # reason 4, one version: 5.0, padding
            )
            await wire.gone()

    story(told)


@pytest.mark.req("BND-3")
@pytest.mark.parametrize("elements", [(), (element(1, PROBE),)], ids=["no-contexts", "no-transfer-syntaxes"])
def test_an_empty_alter_context_faults_and_closes(elements: tuple[bytes, ...]) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            check_fault(
                await wire.ask(alter(*elements, call_id=9)), PROTO_ERROR, 9, flags=WHOLE | DID_NOT_EXECUTE
            )
            await wire.gone()

    story(told)


@pytest.mark.req("BND-3", "PDU-4")
def test_an_element_without_transfer_syntaxes_refuses_the_bind() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            check_nak(await wire.ask(bind(element(1, PROBE))), 0)
            await wire.gone()

    story(told)


@pytest.mark.req("BND-5", "PDU-4")
def test_a_second_bind_is_refused_and_ends_the_connection() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            check_nak(await wire.ask(bind(element(1, ECHO, NDR20), call_id=2)), 0, call_id=2)
            await wire.gone()

    story(told)


@pytest.mark.req("BND-5")
@pytest.mark.parametrize("ptype", [0, 2, 3, 12, 14, 15, 16, 17, 18, 19, 20, 99])
def test_the_first_pdu_must_be_a_bind(ptype: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            await wire.send(pdu(ptype, bind(PLAIN)[16:]))
            await wire.gone()

    story(told)


@pytest.mark.req("BND-5")
@pytest.mark.parametrize("ptype", [2, 12, 13, 15, 17, 20, 99])
def test_pdus_of_servers_end_a_bound_connection(ptype: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            await wire.send(pdu(ptype, bytes(16)))
            await wire.gone()

    story(told)


# -- Presentation contexts -----------------------------------------------------------------------------------


@pytest.mark.req("BND-2", "BND-3", "PDU-5", "REQ-1")
def test_contexts_are_answered_one_by_one_in_order() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            ack = await wire.ask(
                bind(
                    element(0, UNKNOWN, NDR20),
                    element(1, PROBE, ZERO),
                    element(2, PROBE, NDR64),
                    element(3, ECHO, NDR20),
                    element(4, ECHO, NDR64),  # one transfer syntax per interface
                )
            )
            assert ack.results == [NO_ABSTRACT, NO_TRANSFER, (0, 0, NDR64), ACCEPTED, NO_TRANSFER]
            for context_id in (0, 1, 4, 5):
                answer = await wire.ask(request(context_id=context_id, call_id=10 + context_id))
                check_fault(answer, UNKNOWN_IF, 10 + context_id, flags=WHOLE | DID_NOT_EXECUTE)
            await wire.echoes(context_id=2)

    story(told)


@pytest.mark.req("BND-3", "PDU-5", "REQ-1")
def test_an_unknown_interface_leaves_a_connection_without_contexts() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            assert (await wire.ask(bind(element(1, NDR20, NDR20)))).results == [NO_ABSTRACT]
            answer = await wire.ask(alter(element(1, NDR20, NDR20)))
            assert answer.results == [NO_ABSTRACT]
            check_fault(await wire.ask(request(context_id=1)), UNKNOWN_IF, 2, flags=WHOLE | DID_NOT_EXECUTE)
            assert (await wire.ask(alter(element(1, PROBE, NDR20)))).results == [ACCEPTED]
            await wire.echoes(context_id=1)

    story(told)


@pytest.mark.req("BND-3", "BND-4")
def test_the_same_context_may_be_proposed_again() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(1, PROBE, NDR20))
            assert (await wire.ask(alter(element(1, PROBE, NDR20)))).results == [ACCEPTED]
            answer = await wire.ask(request(context_id=1, opnum=0xFFFF))
            check_fault(answer, OP_RANGE, 2, 1, flags=WHOLE | DID_NOT_EXECUTE)

    story(told)


@pytest.mark.req("BND-4")
def test_another_known_syntax_for_a_context_is_a_protocol_error() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(1, PROBE, ZERO, NDR20, NDR20))
            answer = await wire.ask(alter(element(1, PROBE, ZERO, MANAGEMENT, NDR64), call_id=3))
            check_fault(answer, PROTO_ERROR, 3, flags=WHOLE | DID_NOT_EXECUTE)
            await wire.gone()

    story(told)


@pytest.mark.req("BND-4", "PDU-5")
def test_unknown_syntaxes_for_a_context_leave_it_as_it_was() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(1, PROBE, NDR20))
            assert (await wire.ask(alter(element(1, PROBE, ZERO, MANAGEMENT)))).results == [NO_TRANSFER]
            await wire.echoes(context_id=1)

    story(told)


@pytest.mark.req("BND-2", "BND-3", "PDU-5")
@pytest.mark.parametrize(
    ("proposed", "results", "usable"),
    [
        pytest.param([(1, PROBE, (ZERO, NDR20))], [ACCEPTED], 1, id="unknown-then-known"),
        pytest.param([(2, PROBE, (NDR20, NDR20))], [ACCEPTED], 2, id="known-twice"),
        pytest.param(
            [(3, PROBE, (NDR20,)), (4, PROBE, (NDR20,))],
            [ACCEPTED, NO_TRANSFER],
            3,
            id="one-interface-two-ids",
        ),
        pytest.param(
            [(4, PROBE, (NDR20,)), (4, PROBE, (NDR20,))], [ACCEPTED, NO_TRANSFER], 4, id="one-id-twice"
        ),
        pytest.param(
            [(5, PROBE, (NDR20,)), (5, ECHO, (NDR20,))],
            [ACCEPTED, NO_TRANSFER],
            5,
            id="one-id-two-interfaces",
        ),
        pytest.param([(6, PROBE, (NDR64, NDR20))], [(0, 0, NDR64)], 6, id="the-first-that-is-known"),
        pytest.param([(0xFFFF, PROBE, (NDR20,))], [ACCEPTED], 0xFFFF, id="the-largest-id"),
    ],
)
def test_elements_that_repeat_themselves(
    proposed: list[tuple[int, bytes, tuple[bytes, ...]]], results: list[tuple[int, int, bytes]], usable: int
) -> None:
    """The group that Samba calls no_ndr64: after a useless bind, everything comes by alter_context."""

    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(54321, ZERO, ZERO))
            answer = await wire.ask(alter(*(element(i, abstract, *ts) for i, abstract, ts in proposed)))
            assert answer.results == results
            await wire.echoes(context_id=usable)

    story(told)


@pytest.mark.req("BND-3")
def test_a_second_id_for_an_interface_may_come_later() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(3, PROBE, NDR20))
            answer = await wire.ask(alter(element(4, PROBE, NDR20), element(3, PROBE, NDR20)))
            assert answer.results == [ACCEPTED, NO_TRANSFER]
            await wire.echoes(context_id=4)
            await wire.echoes(context_id=3)

    story(told)


@pytest.mark.req("BND-11")
@pytest.mark.parametrize(
    ("version", "result"),
    [
        ("0100 0300", ACCEPTED),  # 1.3 is registered
        ("0100 0000", ACCEPTED),
        ("0100 0400", NO_ABSTRACT),  # minor above ours
        ("0200 0000", NO_ABSTRACT),
        ("0000 0300", NO_ABSTRACT),
    ],
)
def test_interface_versions(version: str, result: tuple[int, int, bytes]) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            abstract = GUARDED_UUID.bytes_le + bytes.fromhex(version)
            assert (await wire.ask(bind(element(0, abstract, NDR20)))).results == [result]

    story(told)


@pytest.mark.req("BND-10", "PDU-5")
def test_presentation_contexts_are_bounded() -> None:
    async def told() -> None:
        limits = dataclasses.replace(Limits(), max_presentation_contexts=2)
        async with arena(limits=limits) as there:
            wire = await there.bound(element(0, PROBE, NDR20), element(1, ECHO, NDR20))
            answer = await wire.ask(alter(element(2, MANAGEMENT, NDR20), element(1, ECHO, NDR20)))
            assert answer.results == [(2, 3, ZERO), ACCEPTED]  # local limit exceeded
            await wire.echoes()

    story(told)


# -- Bind-time features --------------------------------------------------------------------------------------


MULTIPLE, KEEP = 0x01, 0x02


@pytest.mark.req("BND-6", "PDU-5", "BND-1")
@pytest.mark.parametrize(
    ("syntaxes", "abstract", "result"),
    [
        pytest.param([feature(0)], ZERO, (3, 0, ZERO), id="none"),
        pytest.param([feature(KEEP)], ZERO, (3, KEEP, ZERO), id="keep-on-orphan"),
        pytest.param([feature(MULTIPLE)], PROBE, (3, MULTIPLE, ZERO), id="security-multiplexing"),
        pytest.param([feature(3)], UNKNOWN, (3, 3, ZERO), id="both"),
        pytest.param([feature(0), feature(3), ZERO], NDR64, (3, 0, ZERO), id="the-first-counts-0"),
        pytest.param(
            [feature(KEEP), feature(MULTIPLE), ZERO], NDR64, (3, KEEP, ZERO), id="the-first-counts-2"
        ),
        pytest.param(
            [feature(MULTIPLE), feature(KEEP), ZERO], NDR64, (3, MULTIPLE, ZERO), id="the-first-counts-1"
        ),
        pytest.param([ZERO, feature(KEEP), feature(MULTIPLE), ZERO], ZERO, NO_ABSTRACT, id="only-first"),
        pytest.param([feature(0xFFFF_FFFF_FFFF_FFFF)], ZERO, (3, 3, ZERO), id="reserved-bits-are-cleared"),
    ],
)
def test_bind_time_features(syntaxes: list[bytes], abstract: bytes, result: tuple[int, int, bytes]) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            ack = await wire.ask(bind(element(1, abstract, *syntaxes)))
            assert (ack.ptype, ack.results) == (BIND_ACK, [result])

    story(told)


@pytest.mark.req("BND-6")
def test_bind_time_features_twice_refuse_the_bind() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            check_nak(await wire.ask(bind(element(1, ZERO, feature(2)), element(2, ZERO, feature(1)))), 0)
            await wire.gone()

    story(told)


@pytest.mark.req("BND-6")
def test_bind_time_features_mean_nothing_in_an_alter_context() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            answer = await wire.ask(alter(element(1, PROBE, feature(3)), element(2, ZERO, feature(3))))
            assert answer.results == [NO_TRANSFER, NO_ABSTRACT]
            await wire.echoes()

    story(told)


# -- Binds that make no sense --------------------------------------------------------------------------------


@pytest.mark.req("PDU-1", "PDU-4")
def test_a_bind_ends_in_reason_4_where_its_version_is_another() -> None:
    async def told() -> None:
        async with arena() as there:
            for major, minor in ((4, 0), (5, 1), (6, 0), (0, 0)):
                wire = await there.connect()
                await wire.send(bytes([major, minor]) + bind(PLAIN)[2:])
                check_nak(await wire.pdu(), 4)
                await wire.gone()

    story(told)


@pytest.mark.req("PDU-2", "PDU-4")
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda b: b[:10] + bytes.fromhex("0800") + b[12:], id="auth_length-without-a-trailer"),
        pytest.param(lambda b: b[:10] + bytes.fromhex("ffff") + b[12:], id="auth_length-over-the-pdu"),
        pytest.param(lambda b: b[:8] + bytes.fromhex("1000") + b[10:16], id="header-only"),
        pytest.param(lambda b: b[:8] + bytes.fromhex("2700") + b[10:39], id="cut-in-an-element"),
        pytest.param(lambda b: b[:24] + bytes.fromhex("ff") + b[25:], id="more-contexts-than-bytes"),
        pytest.param(lambda b: b[:30] + bytes.fromhex("ff") + b[31:], id="more-transfers-than-bytes"),
        pytest.param(lambda b: b[:4] + bytes.fromhex("20000000") + b[8:], id="integers-of-no-kind"),
        pytest.param(lambda b: b[:4] + bytes.fromhex("10010000") + b[8:], id="vax-floats"),
    ],
)
def test_a_malformed_bind_is_refused_with_reason_4(damage) -> None:  # type: ignore[no-untyped-def]
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            await wire.send(damage(bind(PLAIN)))
            check_nak(await wire.pdu(), 4)
            await wire.gone()

    story(told)


@pytest.mark.req("PDU-2", "PDU-4")
def test_an_invalid_auth_length_in_a_useless_bind_is_refused_with_reason_4() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            message = bytearray(bind())
            message[10:12] = bytes.fromhex("0800")  # auth_length, where no sec_trailer is
            check_nak(await wire.ask(bytes(message)), 4)
            await wire.gone()

    story(told)


@pytest.mark.req("BND-1", "rpce§1.4")
def test_a_big_endian_bind_is_understood() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            ack = await wire.ask(
                bytes.fromhex(
                    "05 00 0b 03 00000000 0048 0000 00000001"  # big-endian: 72 bytes, call 1
                    "16d0 16d0 00000000 01 00 0000"
                    "0001 01 00"
                    "60a15ec5 4de8 11d7 a637 005056a20182 00000001"  # rpcecho, minor 0 and major 1
                    "8a885d04 1ceb 11c9 9fe8 08002b104860 00000002"
                )
            )
            assert (ack.ptype, ack.call_id, ack.results) == (BIND_ACK, 1, [ACCEPTED])

    story(told)
