"""Security handshakes as raw bytes: legs, refusals, levels, padding.

The answers are those of Windows Server as Samba's raw_protocol.py recorded them, or of [MS-RPCE] where a
test names its section.
"""

from __future__ import annotations

import dataclasses

import pytest
from tests.conformance.security import Security
from tests.conformance.wire import (
    ACCEPTED,
    ACCESS_DENIED,
    ALTER,
    ALTER_RESP,
    BIND_ACK,
    CALL,
    CONNECT,
    DID_NOT_EXECUTE,
    ECHO,
    INTEGRITY,
    KERBEROS,
    NDR20,
    NDR64,
    NONE,
    NTLM,
    PACKET,
    PRIVACY,
    PROBE,
    PROTO_ERROR,
    SEC_PKG_ERROR,
    SPNEGO,
    WHOLE,
    alter,
    arena,
    auth3,
    bind,
    check_fault,
    check_nak,
    element,
    request,
    sec_trailer,
    story,
)

from oxid import auth
from oxid.rpc.limits import Limits

DNE = WHOLE | DID_NOT_EXECUTE
PLAIN = element(0, PROBE, NDR20)
WRONG = auth.Password("user", "not it")


# -- Legs ---------------------------------------------------------------------------------------------------


@pytest.mark.req("SEC-1", "rpce§1.7")
@pytest.mark.parametrize("level", [CONNECT, PACKET, INTEGRITY, PRIVACY])
def test_ntlm_ends_in_an_auth3_that_is_not_answered(level: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, level)
            ack = await wire.ask(bind(PLAIN, auth=security.first()))
            assert (ack.ptype, ack.results) == (BIND_ACK, [ACCEPTED])
            assert ack.trailer == (NTLM, level, ack.trailer[2], 1)
            assert ack.token[:12] == b"NTLMSSP\0" + bytes.fromhex("02000000")  # CHALLENGE
            await wire.send(auth3(security.next(ack)))
            await wire.nothing()
            await security.echoes(wire)

    story(told)


@pytest.mark.req("SEC-1")
def test_ntlm_may_end_in_an_alter_context_too() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, PRIVACY)
            ack = await wire.ask(bind(PLAIN, auth=security.first()))
            answer = await wire.ask(alter(PLAIN, auth=security.next(ack)))
            assert (answer.ptype, answer.results, answer.auth_length) == (ALTER_RESP, [ACCEPTED], 0)
            await security.echoes(wire)

    story(told)


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize("level", [CONNECT, PACKET, INTEGRITY, PRIVACY])
def test_spnego_ends_in_an_alter_context(level: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, SPNEGO, level, 79)
            ack = await wire.ask(bind(PLAIN, auth=security.first()))
            assert ack.trailer == (SPNEGO, level, ack.trailer[2], 79)
            answer = await wire.ask(alter(PLAIN, auth=security.next(ack)))
            assert (answer.ptype, answer.results) == (ALTER_RESP, [ACCEPTED])
            assert answer.token  # accept-completed and mechListMIC
            security.context.step(answer.token)
            assert security.context.complete
            await security.echoes(wire)

    story(told)


@pytest.mark.req("SEC-1", "SEC-2", "rpce§1.7")
def test_an_auth3_that_asks_for_an_answer_makes_the_first_request_fail() -> None:
    """spnego_auth3: SPNEGO has an even number of legs."""

    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, SPNEGO, CONNECT, 2)
            ack = await wire.ask(bind(element(1, PROBE, NDR20), auth=security.first()))
            await wire.send(auth3(security.next(ack)))
            await wire.nothing()
            check_fault(await wire.ask(request(context_id=1)), ACCESS_DENIED, 2, 1)
            await wire.gone()

    story(told)


@pytest.mark.req("SEC-1")
def test_security_may_come_after_the_bind() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            await wire.echoes()
            security = Security(there, SPNEGO, INTEGRITY)
            await security.join(wire, PLAIN, start=ALTER)
            await security.echoes(wire)

    story(told)


@pytest.mark.req("SEC-2")
@pytest.mark.parametrize("auth_type", [NTLM, SPNEGO])
@pytest.mark.parametrize("protected", [False, True])
def test_a_request_before_the_handshake_is_finished(auth_type: int, protected: bool) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, auth_type, CONNECT, 2)
            await wire.ask(bind(element(1, PROBE, NDR20), auth=security.first()))
            made = request(context_id=1, auth=security.leg(bytes(16)) if protected else b"")
            check_fault(await wire.ask(made), PROTO_ERROR, 2, flags=DNE)
            await wire.gone()
            assert there.probe.calls == []

    story(told)


# -- Refusals ------------------------------------------------------------------------------------------------


@pytest.mark.req("SEC-2", "PDU-4")
@pytest.mark.parametrize(
    ("level", "reason"),
    [(0, 0), (NONE, 0), (CONNECT, 8), (CALL, 8), (PACKET, 8), (INTEGRITY, 8), (PRIVACY, 8), (7, 0), (255, 0)],
)
@pytest.mark.parametrize("auth_type", [1, 14, 68, 255])
def test_binds_of_unknown_providers(auth_type: int, level: int, reason: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            check_nak(await wire.ask(bind(PLAIN, auth=sec_trailer(auth_type, level, 0, 0) + b"none")), reason)
            await wire.gone()

    story(told)


@pytest.mark.req("SEC-2")
@pytest.mark.parametrize("level", [NONE, CONNECT, CALL, PACKET])
def test_a_security_trailer_of_a_context_nobody_made(level: int) -> None:
    """auth_none_*_request and no_auth_ctx_request: an unauthenticated connection, and type 0 in a request."""

    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(1, PROBE, NDR20))
            await wire.echoes(context_id=1)
            made = request(context_id=1, call_id=3, auth=sec_trailer(0, level, 0, 0) + b"none")
            check_fault(await wire.ask(made), ACCESS_DENIED, 3, 1)
            await wire.gone()

    story(told)


@pytest.mark.req("SEC-2", "PDU-4")
@pytest.mark.parametrize("level", [0, NONE, 7, 255])
@pytest.mark.parametrize("auth_type", [NTLM, SPNEGO])
def test_levels_that_are_none_refuse_the_bind(auth_type: int, level: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, auth_type, level, made_for=INTEGRITY)
            check_nak(await wire.ask(bind(PLAIN, auth=security.first())), 0)
            await wire.gone()

    story(told)


@pytest.mark.req("SEC-2", "PDU-4")
def test_level_call_is_packet_by_the_specification_and_refused_by_windows() -> None:
    async def told() -> None:
        async with arena() as there:  # [MS-RPCE] 2.2.1.1.8
            wire = await there.connect()
            security = Security(there, NTLM, CALL, made_for=PACKET)
            ack = await wire.ask(bind(PLAIN, auth=security.first()))
            await wire.send(auth3(security.next(ack)))
            security.level = PACKET
            await security.echoes(wire)
        async with arena(
            limits=dataclasses.replace(Limits(), strict_call_level=True)
        ) as there:  # spnego_call_bind
            wire = await there.connect()
            check_nak(
                await wire.ask(bind(PLAIN, auth=Security(there, SPNEGO, CALL, made_for=PACKET).first())), 9
            )
            await wire.gone()

    story(told)


@pytest.mark.req("SEC-2", "PDU-4")
@pytest.mark.parametrize("auth_type", [NTLM, SPNEGO])
@pytest.mark.parametrize(
    "token", [b"", b"x", bytes(32), b"NTLMSSP\0\x03\0\0\0" + bytes(80), b"\x60\x84\xff\xff\xff\xff"]
)
def test_tokens_that_make_no_sense_are_refused(auth_type: int, token: bytes) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            made = bind(PLAIN, auth=sec_trailer(auth_type, INTEGRITY, 0, 1) + token)
            answer = await wire.ask(made)
            if not token:
                assert answer.ptype == BIND_ACK  # auth_length 0: no sec_trailer, says the header
            else:
                check_nak(answer, 9)
                await wire.gone()

    story(told)


@pytest.mark.req("SEC-2", "rpce§1.7")
def test_a_wrong_password_in_an_auth3_shows_at_the_first_request() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, INTEGRITY, credentials=WRONG)
            ack = await wire.ask(bind(PLAIN, auth=security.first()))
            await wire.send(auth3(security.next(ack)))
            await wire.nothing()
            check_fault(await wire.ask(security.request(b"stub", call_id=4)), ACCESS_DENIED, 4)
            await wire.gone()
            assert there.probe.calls == []

    story(told)


@pytest.mark.req("SEC-2")
@pytest.mark.parametrize("auth_type", [NTLM, SPNEGO])
def test_a_wrong_password_in_an_alter_context_faults_and_closes(auth_type: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, auth_type, INTEGRITY, credentials=WRONG)
            ack = await wire.ask(bind(PLAIN, auth=security.first()))
            answer = await wire.ask(alter(PLAIN, call_id=2, auth=security.next(ack)))
            check_fault(answer, ACCESS_DENIED, 2, flags=DNE)
            await wire.gone()

    story(told)


@pytest.mark.req("SEC-2")
def test_an_altered_spnego_leg_is_a_package_error() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, SPNEGO, INTEGRITY)
            ack = await wire.ask(bind(PLAIN, auth=security.first()))
            security.context.step(ack.token)
            answer = await wire.ask(alter(PLAIN, call_id=2, auth=security.leg(bytes(40))))
            check_fault(answer, SEC_PKG_ERROR, 2, flags=DNE)
            await wire.gone()

    story(told)


# -- What may not change within a handshake or after it ------------------------------------------------------


@pytest.mark.req("SEC-7", "SEC-2")
@pytest.mark.parametrize(
    ("changed", "elements", "status"),
    [
        pytest.param({"level": PRIVACY}, [element(1, PROBE, NDR20)], ACCESS_DENIED, id="level"),
        pytest.param({"level": PRIVACY}, [element(1, ECHO, NDR20)], PROTO_ERROR, id="abstract"),
        pytest.param({"level": PRIVACY}, [element(1, PROBE, NDR64)], PROTO_ERROR, id="transfer"),
        pytest.param({"auth_type": KERBEROS}, [element(1, PROBE, NDR20)], SEC_PKG_ERROR, id="type"),
        pytest.param(
            {"auth_type": KERBEROS}, [element(1, PROBE, NDR20, NDR64)], PROTO_ERROR, id="type-and-list"
        ),
        pytest.param({"auth_type": 0}, [element(1, PROBE, NDR20, NDR64)], ACCESS_DENIED, id="type-none"),
    ],
)
def test_a_later_leg_that_says_something_else(
    changed: dict[str, int], elements: list[bytes], status: int
) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, SPNEGO, INTEGRITY, 2)
            ack = await wire.ask(bind(element(1, PROBE, NDR20), auth=security.first()))
            answer = await wire.ask(alter(*elements, call_id=0, auth=security.next(ack, **changed)))
            check_fault(answer, status, 0, flags=DNE)
            await wire.gone()

    story(told)


@pytest.mark.req("SEC-7")
def test_an_established_context_cannot_authenticate_again_by_alter_context() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, SPNEGO, CONNECT, 2)
            await security.join(wire, PLAIN)
            await security.echoes(wire)
            again = Security(there, SPNEGO, CONNECT, 2)
            check_fault(
                await wire.ask(alter(PLAIN, call_id=9, auth=again.first())), ACCESS_DENIED, 9, flags=DNE
            )
            await wire.gone()

    story(told)


@pytest.mark.req("SEC-7", "rpce§1.7")
def test_an_established_context_cannot_authenticate_again_by_auth3() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, SPNEGO, CONNECT, 2)
            await security.join(wire, PLAIN)
            again = Security(there, SPNEGO, CONNECT, 2)
            check_fault(await wire.ask(auth3(again.first(), call_id=9)), PROTO_ERROR, 9, flags=DNE)
            await wire.gone()

    story(told)


@pytest.mark.req("rpce§1.7", "SEC-2")
@pytest.mark.parametrize(
    "token", [b"", sec_trailer(NTLM, INTEGRITY, 0, 7) + bytes(16)], ids=["no-token", "no-context"]
)
def test_an_auth3_that_belongs_to_nothing(token: bytes) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            check_fault(await wire.ask(auth3(token, call_id=9)), PROTO_ERROR, 9, flags=DNE)
            await wire.gone()

    story(told)


# -- Padding and alignment of the trailer in handshake PDUs --------------------------------------------------


@pytest.mark.req("SEC-3")
@pytest.mark.parametrize("auth_type", [NTLM, SPNEGO])
@pytest.mark.parametrize("padding", [4, 16, 1000, 60_000])
def test_padding_in_front_of_the_trailer_is_tolerated(auth_type: int, padding: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, auth_type, CONNECT, 2)
            ack = await wire.ask(bind(PLAIN, auth=security.first(), padding=bytes(padding)))
            answer = await wire.ask(alter(PLAIN, auth=security.next(ack), padding=bytes(padding)))
            assert answer.ptype == ALTER_RESP
            await wire.echoes()
            await security.echoes(wire)

    story(told)


@pytest.mark.req("SEC-3", "BND-7")
@pytest.mark.parametrize("kind", ["bind", "alter"])
def test_a_bind_may_be_as_long_as_its_length_can_say(kind: str) -> None:
    """Tickets of users in many groups need it; the limit of 5,840 is one of requests and auth3."""

    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, SPNEGO, INTEGRITY)
            make, more = bind, {}
            if kind == "alter":
                await wire.bound()
                make, more = alter, {"group": wire.group}
            leg = security.first()
            room = 0xFFFF - len(make(PLAIN, auth=leg)) & ~3
            made = make(PLAIN, auth=leg, padding=bytes(room), **more)
            assert 0xFFFC <= len(made) <= 0xFFFF
            ack = await wire.ask(made)
            answer = await wire.ask(alter(PLAIN, auth=security.next(ack), padding=bytes(room - 1000)))
            assert answer.ptype == ALTER_RESP
            security.context.step(answer.token)
            await security.echoes(wire)

    story(told)


@pytest.mark.req("SEC-3", "rpce§1.7")
@pytest.mark.parametrize("padding", [4, 16, 1000])
def test_padding_in_front_of_the_trailer_of_an_auth3_is_tolerated(padding: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, CONNECT, 2)
            ack = await wire.ask(bind(PLAIN, auth=security.first(), padding=bytes(padding)))
            await wire.send(auth3(security.next(ack), padding=bytes(padding)))
            await wire.nothing()
            await security.echoes(wire)

    story(told)


@pytest.mark.req("SEC-3")
@pytest.mark.parametrize("auth_type", [NTLM, SPNEGO])
def test_padding_behind_the_first_token_is_tolerated(auth_type: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, auth_type, CONNECT, 2)
            ack = await wire.ask(bind(PLAIN, auth=security.first() + bytes(1000)))
            assert ack.ptype == BIND_ACK
            assert (await wire.ask(alter(PLAIN, auth=security.next(ack)))).ptype == ALTER_RESP
            await security.echoes(wire)

    story(told)


@pytest.mark.req("SEC-3")
@pytest.mark.parametrize("auth_type", [NTLM, SPNEGO])
def test_padding_behind_the_last_token_is_tolerated(auth_type: int) -> None:
    """Windows takes it from NTLM and refuses it from SPNEGO; [MS-RPCE] 3.3.1.5.2.2 knows no limit but the package's."""

    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, auth_type, CONNECT, 2)
            ack = await wire.ask(bind(PLAIN, auth=security.first()))
            answer = await wire.ask(alter(PLAIN, call_id=2, auth=security.next(ack) + bytes(100)))
            assert answer.ptype == ALTER_RESP
            await security.echoes(wire)

    story(told)


@pytest.mark.req("SEC-3", "SEC-2")
@pytest.mark.parametrize("auth_type", [NTLM, SPNEGO])
def test_a_trailer_that_is_2_aligned_refuses_the_bind(auth_type: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, auth_type, CONNECT, 2)
            check_nak(await wire.ask(bind(PLAIN, auth=security.first(), padding=bytes(2))), 0)
            await wire.gone()

    story(told)


@pytest.mark.req("SEC-3", "SEC-2")
@pytest.mark.parametrize(
    ("auth_type", "last"), [(NTLM, "alter"), (NTLM, "auth3"), (SPNEGO, "alter"), (SPNEGO, "auth3")]
)
def test_a_trailer_that_is_2_aligned_in_the_last_leg_faults(auth_type: int, last: str) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, auth_type, CONNECT, 2)
            ack = await wire.ask(bind(PLAIN, auth=security.first()))
            leg = security.next(ack)
            if last == "alter":
                made = alter(PLAIN, call_id=2, auth=leg, padding=bytes(2))
            else:
                made = auth3(leg, call_id=2, padding=bytes(2))
            check_fault(await wire.ask(made), PROTO_ERROR, 2, flags=DNE)
            await wire.gone()

    story(told)


@pytest.mark.req("SEC-3", "SEC-2", "PDU-4")
@pytest.mark.parametrize("size", [2888, 2889])
def test_ntlm_tokens_have_a_limit_in_the_bind(size: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, CONNECT, 2)
            first = security.first()
            answer = await wire.ask(bind(PLAIN, auth=first + bytes(size + 8 - len(first))))
            if size > 2888:
                check_nak(answer, 9)
                await wire.gone()
            else:
                assert answer.ptype == BIND_ACK

    story(told)


@pytest.mark.req("SEC-3", "SEC-2")
@pytest.mark.parametrize("size", [2888, 2889])
@pytest.mark.parametrize("last", ["alter", "auth3"])
def test_ntlm_tokens_have_a_limit_in_the_last_leg(last: str, size: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, CONNECT, 2)
            ack = await wire.ask(bind(PLAIN, auth=security.first()))
            leg = security.next(ack)
            leg += bytes(size + 8 - len(leg))
            refused = size > 2888
            if last == "alter":
                answer = await wire.ask(alter(PLAIN, call_id=2, auth=leg))
                if refused:
                    check_fault(answer, ACCESS_DENIED, 2, flags=DNE)
            else:
                await wire.send(auth3(leg, call_id=2))
                await wire.nothing()
                if refused:
                    check_fault(await wire.ask(request(call_id=3)), ACCESS_DENIED, 3)
            if refused:
                await wire.gone()
            else:
                await security.echoes(wire)

    story(told)
