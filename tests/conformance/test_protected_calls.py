"""Signed and sealed requests as raw bytes: levels, alignment, fragments of several contexts, tampering.

The answers are those of Windows Server as Samba's raw_protocol.py recorded them, or of [MS-RPCE] where a
test names its section.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.conformance.security import Security
from tests.conformance.wire import (
    ACCESS_DENIED,
    ALTER,
    CANCELLED,
    CO_CANCEL,
    CONC_MPX,
    CONNECT,
    DID_NOT_EXECUTE,
    FIRST,
    HEADER_SIGN,
    INTEGRITY,
    LAST,
    NDR20,
    NTLM,
    OP_RANGE,
    ORPHANED,
    PACKET,
    PRIVACY,
    PROBE,
    PROTO_ERROR,
    RESPONSE,
    SEC_PKG_ERROR,
    SPNEGO,
    UNKNOWN_IF,
    WHOLE,
    Arena,
    Wire,
    arena,
    check_fault,
    element,
    pdu,
    request,
    sec_trailer,
    story,
)

DNE = WHOLE | DID_NOT_EXECUTE
PLAIN = element(0, PROBE, NDR20)
ONE = element(1, PROBE, NDR20)
OBJECT_ID = bytes.fromhex("00112233445566778899aabbccddeeff")


# -- Levels --------------------------------------------------------------------------------------------------


@pytest.mark.req("SEC-3", "SEC-4", "SEC-6", "SEC-8", "SEC-11")
@pytest.mark.parametrize("auth_type", [NTLM, SPNEGO])
@pytest.mark.parametrize("level", [PACKET, INTEGRITY, PRIVACY])
@pytest.mark.parametrize("flags", [WHOLE, WHOLE | HEADER_SIGN], ids=["plain", "hdr_signing"])
def test_calls_are_protected_both_ways(auth_type: int, level: int, flags: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, auth_type, level)
            await security.join(wire, PLAIN, flags=flags)
            security.context.header_signing = bool(flags & HEADER_SIGN)
            for size in (0, 1, 4, 7, 8, 12, 15, 16, 17, 33):  # all paddings
                stub = bytes(range(200, 200 + size))
                answer = await wire.ask(security.request(stub, call_id=size + 2))
                assert answer.trailer[2] == -size % 16
                sealed = answer.raw[24 : 24 + size] != stub
                assert sealed == (level == PRIVACY and size > 0) or size == 1
                assert security.open(answer) == stub
            answer = await wire.ask(security.request(b"stub", call_id=50, opnum=0xFFFF))
            check_fault(answer, OP_RANGE, 50, flags=DNE)
            assert await security.caller(wire, 51) == f"user {auth_type} {level} IMPERSONATE"

    story(told)


@pytest.mark.req("SEC-6")
@pytest.mark.parametrize("auth_type", [NTLM, SPNEGO])
@pytest.mark.parametrize("made_for", [CONNECT, INTEGRITY, PRIVACY])
def test_calls_at_level_connect_carry_no_token_back(auth_type: int, made_for: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, auth_type, CONNECT, 2, made_for=made_for)
            await security.join(wire, PLAIN)
            answer = await wire.ask(request(opnum=3, call_id=3))  # without a trailer it is this caller's too
            assert (answer.auth_length, answer.stub[:9].decode()) == (0, f"user {auth_type} 2 "[:9])
            trailer = sec_trailer(auth_type, CONNECT, 0, 2) + bytes.fromhex("01" + 15 * "00")
            answer = await wire.ask(request(b"abcd", call_id=4, auth=trailer))
            assert (answer.ptype, answer.auth_length, answer.stub) == (RESPONSE, 0, b"abcd")

    story(told)


@pytest.mark.req("SEC-6")
@pytest.mark.parametrize(
    ("bound_at", "asked_at"),
    [
        (CONNECT, PACKET),
        (CONNECT, INTEGRITY),
        (PACKET, CONNECT),
        (INTEGRITY, CONNECT),
        (INTEGRITY, PRIVACY),
        (PRIVACY, INTEGRITY),
    ],
)
def test_a_request_can_neither_raise_nor_lower_the_level(bound_at: int, asked_at: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, SPNEGO, bound_at, 2)
            await security.join(wire, ONE)
            answer = await wire.ask(
                request(
                    context_id=1,
                    call_id=4,
                    auth=sec_trailer(SPNEGO, asked_at, 0, 2) + bytes.fromhex("01" + 15 * "00"),
                )
            )
            check_fault(answer, ACCESS_DENIED, 4, 1)
            await wire.gone()
            assert there.probe.calls == []

    story(told)


@pytest.mark.req("SEC-6", "SEC-2")
@pytest.mark.parametrize("auth_type", [NTLM, SPNEGO])
@pytest.mark.parametrize("level", [PACKET, INTEGRITY, PRIVACY])
def test_a_request_without_the_protection_that_was_agreed(auth_type: int, level: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            await Security(there, auth_type, level).join(wire, ONE)
            check_fault(await wire.ask(request(context_id=1)), ACCESS_DENIED, 2, 1)
            await wire.gone()
            assert there.probe.calls == []

    story(told)


@pytest.mark.req("SEC-2", "SEC-6")
@pytest.mark.parametrize(
    ("level", "made_for", "fine"),
    [
        (PACKET, CONNECT, False),
        (PACKET, INTEGRITY, True),
        (INTEGRITY, CONNECT, False),
        (INTEGRITY, PACKET, True),
    ],
)
def test_what_the_security_package_was_asked_for_must_carry_the_level(
    level: int, made_for: int, fine: bool
) -> None:
    """spnego_packet_bind_none, _sign, _seal and their like."""

    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, SPNEGO, level, 2, made_for=made_for)
            try:
                await security.join(wire, element(0x1001, PROBE, NDR20))
            except AssertionError:
                assert not fine  # refused in the last leg already
                return
            auth = {"padding": bytes(15)}
            made = security.request(bytes(17), call_id=4, context_id=0x1001, opnum=0xFFFF, protection=auth)
            answer = await wire.ask(made)
            if fine:
                check_fault(answer, OP_RANGE, 4, 0x1001, flags=DNE)
            else:
                check_fault(answer, SEC_PKG_ERROR, 4, 0x1001)
                await wire.gone()

    story(told)


# -- Alignment and padding -----------------------------------------------------------------------------------


@pytest.mark.req("SEC-3")
@pytest.mark.parametrize("align", [16, 8, 4])
@pytest.mark.parametrize("level", [INTEGRITY, PRIVACY])
def test_any_4_aligned_trailer_is_taken(align: int, level: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, SPNEGO, level, 2)
            await security.join(wire, PLAIN)
            for size in (1, 3, 4, 9, 17):
                stub = bytes(range(size))
                answer = await wire.ask(security.request(stub, call_id=4 + size, protection={"align": align}))
                assert security.open(answer) == stub

    story(told)


@pytest.mark.req("SEC-3")
@pytest.mark.parametrize("padding", [1, 3, 5])
def test_a_2_aligned_trailer_is_a_protocol_error(padding: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, SPNEGO, INTEGRITY, 2)
            await security.join(wire, element(0x1001, PROBE, NDR20))
            made = security.request(
                bytes(17), call_id=4, context_id=0x1001, protection={"padding": bytes(padding)}
            )
            answer = await wire.ask(made)
            if (17 + padding) % 4:
                check_fault(answer, PROTO_ERROR, 4, 0x1001)
                await wire.gone()

    story(told)


@pytest.mark.req("SEC-3", "REQ-9")
@pytest.mark.parametrize("level", [INTEGRITY, PRIVACY])
def test_with_an_object_the_trailer_aligns_to_the_start_of_the_body(level: int) -> None:
    """The body begins at 40: a trailer 16-aligned to it stands at 8 modulo 16 of the PDU."""

    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, level)
            await security.join(wire, PLAIN)
            for size in (0, 5, 16, 20):
                stub = bytes(range(size))
                made = security.request(stub, call_id=4 + size, object=OBJECT_ID)
                assert (len(made) - 16 - 8) % 16 == 40 % 16
                assert security.open(await wire.ask(made)) == stub
                assert there.probe.calls[-1].object == OBJECT_ID

    story(told)


@pytest.mark.req("SEC-3", "PDU-2")
@pytest.mark.parametrize("level", [CONNECT, INTEGRITY])
def test_more_padding_than_body_is_a_protocol_error(level: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, level)
            await security.join(wire, ONE)
            made = request(bytes(16), context_id=1, auth=sec_trailer(NTLM, level, 17, 1) + bytes(16))
            check_fault(await wire.ask(made), PROTO_ERROR, 2, 1)
            await wire.gone()

    story(told)


# -- Tampering -----------------------------------------------------------------------------------------------


@pytest.mark.req("SEC-8", "SEC-4")
@pytest.mark.parametrize("auth_type", [NTLM, SPNEGO])
@pytest.mark.parametrize("level", [PACKET, INTEGRITY, PRIVACY])
@pytest.mark.parametrize("offset", [24, 30, -17, -16, -9, -8, -4, -1], ids=str)
def test_a_changed_byte_is_a_package_error(auth_type: int, level: int, offset: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, auth_type, level)
            await security.join(wire, ONE)
            made = security.request(
                b"0123456789abcdef", call_id=4, context_id=1, protection={"spoil": offset}
            )
            answer = await wire.ask(made)
            # the last byte of a trailer is its context id's: another context, which nobody made
            check_fault(answer, ACCESS_DENIED if offset == -17 else SEC_PKG_ERROR, 4, 1)
            await wire.gone()
            assert there.probe.calls == []

    story(told)


@pytest.mark.req("SEC-8")
def test_a_request_cannot_be_replayed() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, INTEGRITY)
            await security.join(wire, ONE)
            made = security.request(b"once", call_id=4, context_id=1)
            assert security.open(await wire.ask(made)) == b"once"
            check_fault(await wire.ask(made), SEC_PKG_ERROR, 4, 1)
            await wire.gone()

    story(told)


@pytest.mark.req("SEC-8")
def test_requests_cannot_change_places() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, PRIVACY)
            await security.join(wire, ONE)
            first = security.request(b"first", call_id=4, context_id=1)
            second = security.request(b"second", call_id=5, context_id=1)
            check_fault(await wire.ask(second + first), SEC_PKG_ERROR, 5, 1)
            await wire.gone()

    story(told)


@pytest.mark.req("SEC-8", "SEC-4")
def test_sequence_numbers_and_keys_go_their_own_way_in_each_direction() -> None:
    """Twenty requests before the first answer is read: both counters are at 20 in the end, apart."""

    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, PRIVACY)
            await security.join(wire, PLAIN)
            stubs = [b"call %d" % i for i in range(20)]
            await wire.send(*(security.request(stub, call_id=10 + i) for i, stub in enumerate(stubs)))
            assert [security.open(await wire.pdu()) for _ in stubs] == stubs

    story(told)


# -- Fragments -----------------------------------------------------------------------------------------------


@pytest.mark.req("SEC-4", "REQ-3")
@pytest.mark.parametrize("auth_type", [NTLM, SPNEGO])
@pytest.mark.parametrize("level", [CONNECT, PACKET, INTEGRITY, PRIVACY])
def test_every_fragment_is_protected_by_itself(auth_type: int, level: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, auth_type, level)
            await security.join(wire, PLAIN)
            await wire.send(
                security.request(b"first piece", flags=FIRST, call_id=4),
                security.request(b", second", flags=0, call_id=4),
                security.request(b" and last", flags=LAST, call_id=4),
            )
            answer = await wire.pdu()
            assert answer is not None
            stub = answer.stub if level == CONNECT else security.open(answer)
            assert stub == b"first piece, second and last"
            # an answer in fragments: one token for each
            await wire.send(security.request((20_000).to_bytes(4, "little"), opnum=5, call_id=5))
            total = 0
            while True:
                answer = await wire.pdu()
                assert answer is not None
                assert len(answer.raw) <= 5840
                total += len(answer.stub if level == CONNECT else security.open(answer))
                if answer.flags & LAST:
                    break
            assert total == 20_000
            await security.echoes(wire)

    story(told)


async def two_contexts(there: Arena, flags: int) -> tuple[Wire, Security, Security]:
    """A connection with security contexts 1 (integrity) and 2 (packet), and presentation context 1."""
    wire = await there.bound(ONE, flags=flags)
    first = Security(there, NTLM, INTEGRITY, 1)
    second = Security(there, NTLM, PACKET, 2)
    await first.join(wire, ONE, start=ALTER, call_id=1)
    await second.join(wire, ONE, start=ALTER, call_id=2)
    return wire, first, second


FORGED: dict[str, Any] = {"trailer": (111, 111, 111)}
FORGED_IDS = {"context_id": 111, "opnum": 111}
MPX = WHOLE | CONC_MPX


@pytest.mark.req("SEC-4", "REQ-2", "REQ-3")
@pytest.mark.parametrize(
    ("signer", "call_id", "forged", "conc", "status", "blamed"),
    [
        pytest.param(2, 3, False, False, SEC_PKG_ERROR, (3, 1), id="lastSame2"),
        pytest.param(2, 4, False, False, PROTO_ERROR, (3, 1), id="lastNext2"),
        pytest.param(1, 3, True, False, None, None, id="lastSame111"),
        pytest.param(1, 4, True, False, PROTO_ERROR, (3, 1), id="lastNext111"),
        pytest.param(1, 4, True, True, PROTO_ERROR, (4, 0), id="MPX_lastNext111"),
        pytest.param(0, 3, False, False, PROTO_ERROR, (3, 1), id="lastSameNone"),
        pytest.param(0, 3, False, True, PROTO_ERROR, (3, 1), id="MPX_lastSameNone"),
        pytest.param(0, 4, False, False, PROTO_ERROR, (3, 1), id="lastNextNone"),
        pytest.param(0, 4, False, True, PROTO_ERROR, (4, 0), id="MPX_lastNextNone"),
        pytest.param(0, 3, True, False, PROTO_ERROR, (3, 1), id="lastSameNone111"),
        pytest.param(0, 3, True, True, PROTO_ERROR, (3, 1), id="MPX_lastSameNone111"),
        pytest.param(0, 4, True, False, PROTO_ERROR, (3, 1), id="lastNextNone111"),
        pytest.param(0, 4, True, True, PROTO_ERROR, (4, 0), id="MPX_lastNextNone111"),
    ],
)
def test_a_last_fragment_under_another_context(
    signer: int, call_id: int, forged: bool, conc: bool, status: int | None, blamed: tuple[int, int] | None
) -> None:
    """ntlmssp_multi_auth_first1_*: the first fragment, call 3, is signed under context 1.

    Of a later fragment's trailer nothing counts but its padding: what verifies it is the context of the first.
    """

    async def told() -> None:
        async with arena() as there:
            wire, *contexts = await two_contexts(there, MPX if conc else WHOLE)
            await wire.send(contexts[0].request(bytes(16), flags=FIRST, call_id=3, context_id=1, hint=60))
            await wire.nothing()
            made = request(
                bytes(44), flags=LAST, call_id=call_id, **(FORGED_IDS if forged else {"context_id": 1})
            )
            if signer:
                made = contexts[signer - 1].protect(made, **(FORGED if forged else {}))
            answer = await wire.ask(made)
            if status is None:
                assert contexts[0].open(answer) == bytes(60)
                return
            assert blamed is not None
            check_fault(answer, status, *blamed)
            await wire.gone()
            assert there.probe.calls == []

    story(told)


@pytest.mark.req("SEC-4", "REQ-2")
@pytest.mark.parametrize(
    ("signer", "call_id", "forged", "conc", "status", "blamed"),
    [
        pytest.param(2, 3, False, False, SEC_PKG_ERROR, (3, 1), id="firstSame2"),
        pytest.param(2, 4, False, False, PROTO_ERROR, (3, 1), id="firstNext2"),
        pytest.param(1, 3, True, False, PROTO_ERROR, (3, 1), id="firstSame111"),
        pytest.param(1, 3, True, True, PROTO_ERROR, (3, 1), id="MPX_firstSame111"),
        pytest.param(1, 4, True, False, PROTO_ERROR, (3, 1), id="firstNext111"),
        pytest.param(1, 4, True, True, PROTO_ERROR, (4, 0), id="MPX_firstNext111"),
        pytest.param(0, 3, False, False, PROTO_ERROR, (3, 1), id="firstSameNone"),
        pytest.param(0, 3, False, True, PROTO_ERROR, (3, 1), id="MPX_firstSameNone"),
        pytest.param(0, 4, False, False, PROTO_ERROR, (3, 1), id="firstNextNone"),
        pytest.param(0, 4, False, True, PROTO_ERROR, (4, 0), id="MPX_firstNextNone"),
        pytest.param(0, 3, True, False, PROTO_ERROR, (3, 1), id="firstSameNone111"),
        pytest.param(0, 3, True, True, PROTO_ERROR, (3, 1), id="MPX_firstSameNone111"),
        pytest.param(0, 4, True, False, PROTO_ERROR, (3, 1), id="firstNextNone111"),
        pytest.param(0, 4, True, True, PROTO_ERROR, (4, 0), id="MPX_firstNextNone111"),
    ],
)
def test_a_second_first_fragment_under_another_context(
    signer: int, call_id: int, forged: bool, conc: bool, status: int, blamed: tuple[int, int]
) -> None:
    async def told() -> None:
        async with arena() as there:
            wire, *contexts = await two_contexts(there, MPX if conc else WHOLE)
            await wire.send(contexts[0].request(bytes(16), flags=FIRST, call_id=3, context_id=1, hint=60))
            await wire.nothing()
            made = request(
                bytes(44), flags=FIRST, call_id=call_id, **(FORGED_IDS if forged else {"context_id": 1})
            )
            if signer:
                made = contexts[signer - 1].protect(made, **(FORGED if forged else {}))
            check_fault(await wire.ask(made), status, *blamed)
            await wire.gone()
            assert there.probe.calls == []

    story(told)


@pytest.mark.req("SEC-4", "REQ-2")
@pytest.mark.parametrize("conc", [False, True], ids=["one-call", "MPX"])
@pytest.mark.parametrize(
    ("ids", "trailer", "status", "context_id", "flags"),
    [
        pytest.param({"context_id": 1}, None, PROTO_ERROR, 1, WHOLE, id="alone"),
        pytest.param(FORGED_IDS, (111, 111, 111), UNKNOWN_IF, 0, DNE, id="all_111"),
        pytest.param(
            {"context_id": 1, "opnum": 111}, (111, 111, 111), ACCESS_DENIED, 1, WHOLE, id="auth_all_111"
        ),
        pytest.param(
            {"context_id": 1}, (NTLM, INTEGRITY, 111), ACCESS_DENIED, 1, WHOLE, id="auth_context_111"
        ),
        pytest.param({"context_id": 1}, (111, INTEGRITY, 1), ACCESS_DENIED, 1, WHOLE, id="auth_type_111"),
        pytest.param({"context_id": 1}, (NTLM, 111, 1), ACCESS_DENIED, 1, WHOLE, id="auth_level_111"),
    ],
)
def test_a_middle_fragment_without_its_request(
    ids: dict[str, int],
    trailer: tuple[int, int, int] | None,
    status: int,
    context_id: int,
    flags: int,
    conc: bool,
) -> None:
    """ntlmssp_auth_middle_*: without multiplexing it is a protocol error, with it its security is looked at first."""

    async def told() -> None:
        async with arena() as there:
            wire, first, _ = await two_contexts(there, MPX if conc else WHOLE)
            made = first.protect(request(bytes(44), flags=0, call_id=3, **ids), trailer=trailer)
            answer = await wire.ask(made)
            if not conc:
                check_fault(answer, PROTO_ERROR, 3)
                await wire.gone()
                return
            check_fault(answer, status, 3, context_id, flags=flags)
            if flags == WHOLE:
                await wire.gone()
            else:
                await wire.nothing()

    story(told)


@pytest.mark.req("REQ-7", "REQ-8", "rpce§1.8", "SEC-4")
@pytest.mark.parametrize("level", [INTEGRITY, PRIVACY])
def test_cancels_under_security(level: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, level)
            await security.join(wire, PLAIN, flags=MPX)
            await wire.send(security.request(opnum=1, call_id=5))
            await wire.nothing()
            # protected as every PDU of the context is: the body is empty, the trailer follows the header
            await wire.send(security.protect(pdu(ORPHANED, b"", call_id=77), body_at=16))
            await wire.nothing()
            check_fault(
                await wire.ask(security.protect(pdu(CO_CANCEL, b"", call_id=5), body_at=16)), CANCELLED, 5
            )
            await security.echoes(wire)

    story(told)
