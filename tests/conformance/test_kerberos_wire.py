"""Kerberos on the wire, where header signing makes a difference to what is signed.

The answers are those of Windows Server as Samba's raw_protocol.py recorded them (krb5_hdr_sign_delayed1 to 3,
spnego_multiple_auth_hdr_signing); the tokens are MIT's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.security import Security
from tests.conformance.wire import (
    ALTER,
    ALTER_RESP,
    BIND_ACK,
    DID_NOT_EXECUTE,
    HEADER_SIGN,
    INTEGRITY,
    KERBEROS,
    NDR20,
    OP_RANGE,
    PACKET,
    PRIVACY,
    PROBE,
    SEC_PKG_ERROR,
    SPNEGO,
    WHOLE,
    Arena,
    Wire,
    alter,
    arena,
    auth3,
    bind,
    check_fault,
    element,
    story,
)
from tests.kdc import LocalKdc

from oxid import auth

pytestmark = pytest.mark.peer("krb5kdc", "kdb5_util", "kadmin.local", "kinit")
PLAIN = element(0, PROBE, NDR20)
SIGNED = WHOLE | HEADER_SIGN


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[auth.Keytab, auth.Ticket]]:
    with LocalKdc(tmp_path_factory.mktemp("realm")) as kdc, pytest.MonkeyPatch.context() as environment:
        kdc.add_user("user", "pass word")
        for name, value in kdc.env.items():
            environment.setenv(name, value)
        keytab: Path = kdc.keytab("host/localhost")
        yield auth.Keytab(str(keytab)), auth.Ticket(f"FILE:{kdc.ticket('user', 'pass word')}")


def under(
    there: Arena, ticket: Any, auth_type: int = KERBEROS, level: int = INTEGRITY, number: int = 1
) -> Security:
    return Security(there, auth_type, level, number, credentials=ticket)


@pytest.mark.req("SEC-9", "SEC-1", "SEC-3", "SEC-5")
@pytest.mark.parametrize("auth_type", [KERBEROS, SPNEGO])
@pytest.mark.parametrize("level", [PACKET, INTEGRITY, PRIVACY])
@pytest.mark.parametrize("flags", [WHOLE, SIGNED], ids=["body", "header-signing"])
def test_calls_under_kerberos(realm: Any, auth_type: int, level: int, flags: int) -> None:
    async def told() -> None:
        keytab, ticket = realm
        async with arena(keytab=keytab) as there:
            wire = await there.connect()
            security = under(there, ticket, auth_type, level)
            security.context.header_signing = flags == SIGNED
            await security.join(wire, PLAIN, flags=flags)
            for number in range(3):
                await security.echoes(wire, 10 + number)
            assert await security.caller(wire, 20) == f"user@OXID.TEST {auth_type} {level} IMPERSONATE"
            answer = await wire.ask(security.request(b"17 bytes of a stub"[:17], call_id=21, opnum=0xFFFF))
            check_fault(answer, OP_RANGE, 21, flags=WHOLE | DID_NOT_EXECUTE)

    story(told)


@pytest.mark.req("SEC-9", "SEC-1")
def test_kerberos_takes_three_legs_without_gss_framing(realm: Any) -> None:
    async def told() -> None:
        keytab, ticket = realm
        async with arena(keytab=keytab) as there:
            wire = await there.connect()
            security = under(there, ticket, level=PRIVACY)
            first = security.first()
            assert first[8] == 0x6E  # AP-REQ, APPLICATION 14, where GSS framing would begin with 60
            ack = await wire.ask(bind(PLAIN, auth=first))
            assert (ack.ptype, ack.token[0]) == (BIND_ACK, 0x6F)  # AP-REP, APPLICATION 15
            third = security.next(ack)
            assert third[8] == 0x6F
            answer = await wire.ask(alter(PLAIN, auth=third))
            assert answer.ptype == ALTER_RESP
            assert not answer.auth_length
            await security.echoes(wire)

    story(told)


@pytest.mark.req("SEC-9", "SEC-5")
@pytest.mark.parametrize("agreed", [False, True])
@pytest.mark.parametrize("level", [INTEGRITY, PRIVACY])
def test_a_header_signed_otherwise_than_agreed_is_a_package_error(
    realm: Any, level: int, agreed: bool
) -> None:
    async def told() -> None:
        keytab, ticket = realm
        async with arena(keytab=keytab) as there:
            wire = await there.connect()
            security = under(there, ticket, level=level)
            security.context.header_signing = not agreed
            await security.join(wire, PLAIN, flags=SIGNED if agreed else WHOLE)
            security.context.header_signing = not agreed
            check_fault(await wire.ask(security.request(b"stub", call_id=4)), SEC_PKG_ERROR, 4)
            await wire.gone()

    story(told)


@pytest.mark.req("SEC-5", "SEC-9")
@pytest.mark.parametrize("upgraded", [True, False])
@pytest.mark.parametrize("last", [False, True], ids=["bare-alter", "last-leg"])
def test_header_signing_agreed_late_counts_at_once(realm: Any, upgraded: bool, last: bool) -> None:
    async def told() -> None:
        keytab, ticket = realm
        async with arena(keytab=keytab) as there:
            wire = await there.connect()
            security = under(there, ticket)
            await security.join(wire, PLAIN, last_flags=SIGNED if last else WHOLE)
            if not last:
                await security.echoes(wire, 2)
                answer = await wire.ask(alter(PLAIN, flags=SIGNED, call_id=3))
                assert (answer.ptype, answer.flags) == (ALTER_RESP, SIGNED)
            security.context.header_signing = upgraded
            if upgraded:
                await security.echoes(wire, 4)
                await security.echoes(wire, 5)
            else:
                check_fault(await wire.ask(security.request(b"stub", call_id=4)), SEC_PKG_ERROR, 4)
                await wire.gone()

    story(told)


@pytest.mark.req("SEC-5", "SEC-9")
def test_header_signing_on_an_auth3_has_no_effect(realm: Any) -> None:
    async def told() -> None:
        keytab, ticket = realm
        async with arena(keytab=keytab) as there:
            wire = await there.connect()
            security = under(there, ticket)
            ack = await wire.ask(bind(PLAIN, auth=security.first()))
            await wire.send(auth3(security.next(ack), flags=SIGNED))
            await security.echoes(wire, 2)
            security.context.header_signing = True
            check_fault(await wire.ask(security.request(b"stub", call_id=4)), SEC_PKG_ERROR, 4)
            await wire.gone()

    story(told)


@pytest.mark.req("SEC-5", "SEC-7", "SEC-9")
def test_header_signing_is_agreed_for_all_contexts_of_a_connection(realm: Any) -> None:
    async def told() -> None:
        keytab, ticket = realm
        async with arena(keytab=keytab) as there:
            wire: Wire = await there.bound()
            one = under(there, ticket, SPNEGO, INTEGRITY, 1)
            two = under(there, ticket, SPNEGO, PACKET, 2)
            for security in (one, two):
                await security.join(wire, PLAIN, start=ALTER)
            await one.echoes(wire, 5)
            await two.echoes(wire, 6)
            assert (await wire.ask(alter(PLAIN, flags=SIGNED, call_id=7))).flags == SIGNED
            one.context.header_signing = True
            await wire.echoes(8)
            await one.echoes(wire, 9)
            check_fault(await wire.ask(two.request(b"stub", call_id=10)), SEC_PKG_ERROR, 10)
            await wire.gone()

    story(told)
