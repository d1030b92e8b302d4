"""Several security contexts on a connection, header signing, and who may call, as raw bytes.

The answers are those of Windows Server as Samba's raw_protocol.py recorded them, or of [MS-RPCE] where a
test names its section.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tests.conformance.security import Security
from tests.conformance.wire import (
    ACCESS_DENIED,
    ALTER,
    ALTER_RESP,
    CONNECT,
    DID_NOT_EXECUTE,
    ECHO,
    HEADER_SIGN,
    INTEGRITY,
    NDR20,
    NTLM,
    OTHER_USER,
    PACKET,
    PRIVACY,
    PROBE,
    PROTO_ERROR,
    RESPONSE,
    SPNEGO,
    WHOLE,
    Arena,
    alter,
    arena,
    check_fault,
    element,
    request,
    story,
    turns,
)

from oxid import auth
from oxid.rpc.limits import Limits
from oxid.samples.echo import Echo, IEcho

DNE = WHOLE | DID_NOT_EXECUTE
PLAIN = element(0, PROBE, NDR20)


# -- Several security contexts -------------------------------------------------------------------------------


@pytest.mark.req("SEC-7", "SEC-11")
def test_several_contexts_on_one_connection_each_with_its_caller() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            contexts = [
                Security(there, NTLM, PACKET, 1),
                Security(there, SPNEGO, INTEGRITY, 2, credentials=OTHER_USER),
                Security(there, NTLM, PRIVACY, 0xFFFF_FFFF),
                Security(there, SPNEGO, CONNECT, 0, credentials=OTHER_USER, identify=True),
            ]
            for security in contexts:
                await security.join(wire, PLAIN, start=ALTER)
            for turn in range(3):
                callers = [await s.caller(wire, 10 * turn + i) for i, s in enumerate(contexts, 10)]
                assert callers == [
                    "user 10 4 IMPERSONATE",
                    "other 9 5 IMPERSONATE",
                    "user 10 6 IMPERSONATE",
                    "other 9 2 IDENTIFY",
                ]

    story(told)


@pytest.mark.req("SEC-7")
def test_security_contexts_are_bounded() -> None:
    async def told() -> None:
        async with arena(limits=dataclasses.replace(Limits(), max_security_contexts=3)) as there:
            wire = await there.bound()
            for context_id in range(1, 4):
                security = Security(there, SPNEGO, INTEGRITY, context_id)
                await security.join(wire, PLAIN, start=ALTER)
                await security.echoes(wire, context_id)
            one_more = Security(there, SPNEGO, INTEGRITY, 4)
            check_fault(
                await wire.ask(alter(PLAIN, call_id=4, auth=one_more.first())), PROTO_ERROR, 4, flags=DNE
            )
            await wire.gone()

    story(told)


@pytest.mark.req("SEC-7")
def test_windows_and_we_take_2048_security_contexts() -> None:
    assert Limits().max_security_contexts == 2048  # multiple_auth_limit; [MS-RPCE] 3.3.1.5.4


async def name(wire: Any, call_id: int) -> str:
    """Who makes a call without a trailer."""
    answer = await wire.ask(request(opnum=3, call_id=call_id))
    assert answer.ptype == RESPONSE, answer
    return str(answer.stub.decode())


USER_1, OTHER_2, NOBODY = "user 10 2 IMPERSONATE", "other 10 2 IMPERSONATE", "None 0 1"

# bind: without security (0), or with a context. Then: a new context by alter_context ("+1"), a call that names
# its context ("1"), or one that does not (""), each with the caller that the server should see.
DEFAULTS = {
    "connect1": (
        1,
        [("", USER_1), ("1", USER_1), ("+2", ""), ("", NOBODY), ("1", USER_1), ("2", OTHER_2), ("", NOBODY)],
    ),
    "connect2": (
        0,
        [
            ("", NOBODY),
            ("+1", ""),
            ("", USER_1),
            ("1", USER_1),
            ("+2", ""),
            ("", NOBODY),
            ("1", USER_1),
            ("2", OTHER_2),
        ],
    ),
    "connect3": (
        0,
        [
            ("+1", ""),
            ("", USER_1),
            ("", USER_1),
            ("1", USER_1),
            ("", NOBODY),
            ("+2", ""),
            ("", NOBODY),
            ("2", OTHER_2),
        ],
    ),
    "connect4": (
        0,
        [("+1", ""), ("", USER_1), ("+2", ""), ("", OTHER_2), ("", OTHER_2), ("1", USER_1), ("", NOBODY)],
    ),
}


@pytest.mark.req("SEC-6", "SEC-11")
@pytest.mark.parametrize(("first", "steps"), DEFAULTS.values(), ids=DEFAULTS)
def test_who_calls_without_a_trailer(first: int, steps: list[tuple[str, str]]) -> None:
    """lsa_multi_auth_connect1 to 4, with TCP's anonymous caller in place of the pipe's.

    The newest context at level connect stands for such calls, until one call has named its context.
    """

    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            known = {
                "1": Security(there, NTLM, CONNECT, 1),
                "2": Security(there, NTLM, CONNECT, 2, credentials=OTHER_USER),
            }
            if first:
                await known["1"].join(wire, PLAIN)
            else:
                await wire.bound()
            for call_id, (step, expected) in enumerate(steps, 10):
                if step.startswith("+"):
                    await known[step[1:]].join(wire, PLAIN, start=ALTER)
                elif step:
                    assert await known[step].caller(wire, call_id) == expected
                else:
                    assert await name(wire, call_id) == expected

    story(told)


@pytest.mark.req("SEC-6")
def test_a_context_at_level_connect_beside_ones_that_sign() -> None:
    """lsa_multi_auth_sign_connect1"""

    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            signing = [Security(there, NTLM, INTEGRITY, number) for number in (1, 2)]
            for security in signing:
                await security.join(wire, PLAIN, start=ALTER)
            assert await name(wire, 5) == NOBODY
            assert await signing[0].caller(wire, 6) == "user 10 5 IMPERSONATE"
            assert await name(wire, 7) == NOBODY
            await Security(there, NTLM, CONNECT, 3, credentials=OTHER_USER).join(wire, PLAIN, start=ALTER)
            assert await name(wire, 8) == OTHER_2
            assert await name(wire, 9) == OTHER_2
            assert await signing[1].caller(wire, 10) == "user 10 5 IMPERSONATE"
            assert await name(wire, 11) == NOBODY

    story(told)


# -- Header signing is agreed --------------------------------------------------------------------------------


@pytest.mark.req("SEC-5", "BND-8")
@pytest.mark.parametrize("auth_type", [NTLM, SPNEGO])
@pytest.mark.parametrize("flags", [WHOLE, WHOLE | HEADER_SIGN])
def test_header_signing_is_agreed_by_its_flag_in_the_bind(auth_type: int, flags: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, auth_type, PRIVACY)
            ack = await security.join(wire, PLAIN, flags=flags)
            assert ack.flags == flags
            (connection,) = there.server.connections
            assert connection.header_signing == bool(flags & HEADER_SIGN)
            await security.echoes(wire)

    story(told)


@pytest.mark.req("SEC-5")
@pytest.mark.parametrize(
    ("join", "bare", "signed"),
    [
        pytest.param({}, True, True, id="a-bare-alter-turns-it-on-for-older-contexts"),
        pytest.param(
            {"last": "alter", "last_flags": WHOLE | HEADER_SIGN}, False, True, id="the-last-leg-by-alter"
        ),
        pytest.param(
            {"last": "auth3", "last_flags": WHOLE | HEADER_SIGN}, False, False, id="not-in-an-auth3"
        ),
    ],
)
def test_header_signing_may_come_late(join: dict[str, Any], bare: bool, signed: bool) -> None:
    """krb5_hdr_sign_delayed1 to 3, as the connection knows it; what it signs is shown with Kerberos."""

    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, INTEGRITY)
            await security.join(wire, PLAIN, **join)
            if bare:
                await security.echoes(wire)
                answer = await wire.ask(alter(PLAIN, flags=WHOLE | HEADER_SIGN))
                assert (answer.ptype, answer.flags) == (ALTER_RESP, WHOLE | HEADER_SIGN)
            await turns(5)
            (connection,) = there.server.connections
            assert connection.header_signing is signed
            (entry,) = (connection._auths or {}).values()
            assert entry.context.header_signing is signed
            await security.echoes(wire)

    story(told)


@pytest.mark.req("SEC-12", "SEC-6")
def test_guards_speak_before_arguments_are_unmarshalled() -> None:
    """Arguments that no decoder would take: who may not call hears 5, not 0x6F7."""

    async def told() -> None:
        async with arena(echo=False) as there:
            await check_guards(there)

    story(told)


async def check_guards(there: Arena) -> None:
    asked: list[str | None] = []

    def access(call: Any) -> bool:
        asked.append(call.principal)
        return bool(call.principal == "user")

    there.server.register(IEcho, Echo(), min_level=INTEGRITY, access=access)
    wire = await there.bound(element(0, ECHO, NDR20))
    check_fault(await wire.ask(request(b"\1", call_id=2)), ACCESS_DENIED, 2, flags=DNE)
    for number, (made, status) in enumerate(
        [
            (Security(there, NTLM, PACKET, 1), ACCESS_DENIED),  # below the least level
            (Security(there, NTLM, INTEGRITY, 2, credentials=auth.Anonymous()), ACCESS_DENIED),
            (Security(there, NTLM, INTEGRITY, 3, credentials=OTHER_USER), ACCESS_DENIED),  # by the callback
            (Security(there, NTLM, PRIVACY, 4), 0x6F7),  # may call, with better arguments
        ],
        10,
    ):
        await made.join(wire, element(0, ECHO, NDR20), start=ALTER)
        answer = await wire.ask(made.request(b"\1", call_id=number))
        check_fault(answer, status, number, flags=DNE if status == ACCESS_DENIED else WHOLE)
    assert asked == ["other", "user"]


@pytest.mark.req("SEC-8", "SEC-11", "SEC-12")
def test_anonymous_ntlm_is_nobody() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, CONNECT, credentials=auth.Anonymous())
            await security.join(wire, PLAIN)
            answer = await wire.ask(security.request(opnum=3, call_id=3))
            assert answer.stub.decode().startswith("None 10 2")
            (connection,) = there.server.connections
            (entry,) = (connection._auths or {}).values()
            assert entry.context.anonymous

    story(told)
