"""Our client's security against servers that are scripts: legs, protection, forged replies. [MS-RPCE] 3.3.2"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from tests.conformance.scripts import SPEC, client, out, tell
from tests.conformance.security import ServerSecurity
from tests.conformance.wire import (
    ALTER,
    ALTER_RESP,
    AUTH3,
    BIND,
    CONC_MPX,
    CONNECT,
    DID_NOT_EXECUTE,
    FIRST,
    HEADER_SIGN,
    INTEGRITY,
    KERBEROS,
    LAST,
    NDR20,
    NTLM,
    PRIVACY,
    PROBE,
    SPNEGO,
    USER,
    WHOLE,
    ZERO,
    Wire,
    accounts,
    bind_ack,
    fault_pdu,
    response,
    story,
)

from oxid import auth
from oxid.errors import (
    AccessDenied,
    AuthenticationError,
    RemoteProtocolError,
)
from oxid.runtime.client import RpcConnection
from oxid.world import World

# -- Security ------------------------------------------------------------------------------------------------


def authenticator(world: World) -> auth.Authenticator:
    return auth.Authenticator(accounts(), world=world)


async def handshake(
    wire: Wire, world: World, *, flags: int = WHOLE | CONC_MPX | HEADER_SIGN
) -> ServerSecurity:
    """Answer our client's legs; what they are is the point of the tests."""
    asked = await wire.pdu()
    assert asked is not None
    assert asked.ptype == BIND
    assert asked.flags == WHOLE | CONC_MPX | HEADER_SIGN
    assert asked.trailer_at % 4 == 0
    server = ServerSecurity(authenticator(world), asked)
    elements = [(0, 0, NDR20), (3, 3, ZERO)]
    call_id = asked.call_id
    token = server.context.step(asked.token)
    ack = bytearray(bind_ack(*elements, call_id=call_id, flags=flags))
    ack += server.leg(token)
    struct.pack_into("<HH", ack, 8, len(ack), len(token or b""))
    await wire.send(bytes(ack))
    asked = await wire.pdu()
    assert asked is not None
    if server.auth_type == NTLM:
        assert asked.ptype == AUTH3
        assert server.context.step(asked.token) is None
    else:
        assert asked.ptype == ALTER
        assert asked.raw[24] == 1  # the context list of the bind, without its features
        token = server.context.step(asked.token)
        answer = bytearray(bind_ack((0, 0, NDR20), ptype=ALTER_RESP, call_id=asked.call_id, address=b""))
        answer += server.leg(token)
        struct.pack_into("<HH", answer, 8, len(answer), len(token or b""))
        await wire.send(bytes(answer))
    assert server.context.complete
    server.context.header_signing = bool(flags & HEADER_SIGN)
    return server


@pytest.mark.req("SEC-1", "SEC-3", "SEC-5", "SEC-8", "SEC-10", "SEC-11")
@pytest.mark.parametrize("auth_type", [NTLM, SPNEGO])
@pytest.mark.parametrize("level", [CONNECT, INTEGRITY, PRIVACY])
@pytest.mark.parametrize("signing", [0, HEADER_SIGN], ids=["body", "header-signing"])
def test_our_legs_and_protected_requests(auth_type: int, level: int, signing: int) -> None:
    magic = bytes.fromhex("8ae3137102f43671")

    async def script(wire: Wire) -> None:
        world = World.real()
        server = await handshake(wire, world, flags=WHOLE | CONC_MPX | signing)
        try:
            assert server.context.principal == "user"
            for number in range(3):
                asked = await wire.pdu()
                assert asked is not None
                if level == CONNECT:
                    assert (asked.auth_length, asked.stub) == (0, b"12345")
                    await wire.send(response(asked.stub, asked.call_id))
                    continue
                stub = server.open_request(asked)
                if number == 0:
                    # once per connection what we support, once per pair of syntaxes what was negotiated
                    trailer = magic + bytes.fromhex("0100 0400") + bytes([bool(signing), 0, 0, 0])
                    trailer += bytes.fromhex("0240 2800") + PROBE + NDR20  # the last command
                    assert stub == b"12345\0\0\0" + trailer
                else:
                    assert stub == b"12345"
                await wire.send(server.protect(response(b"12345", asked.call_id)))
            await wire.pdu()
        finally:
            server.context.close()

    async def play(connection: RpcConnection, context_id: int) -> None:
        for _ in range(3):
            assert await connection.submit(context_id, 0, out(b"12345")) == b"12345"

    tell(script, play, credentials=USER, level=level, auth_type=auth_type, large_fragments=False)


@pytest.mark.req("SEC-3", "REQ-9", "SEC-4")
@pytest.mark.parametrize("level", [INTEGRITY, PRIVACY])
def test_our_protected_requests_with_an_object_and_in_fragments(level: int) -> None:
    identity = bytes(range(16))

    async def script(wire: Wire) -> None:
        server = await handshake(wire, World.real())
        try:
            stub = b""
            while True:
                asked = await wire.pdu()
                assert asked is not None
                assert len(asked.raw) <= 5840
                assert asked.raw[24:40] == identity
                stub += server.open_request(asked)  # the trailer is 16-aligned to the body at 40
                if asked.flags & LAST:
                    break
            assert stub.startswith(bytes(15_001))
            await wire.send(server.protect(response(b"done", asked.call_id)))
            await wire.pdu()
        finally:
            server.context.close()

    async def play(connection: RpcConnection, context_id: int) -> None:
        message = bytearray(40) + bytes(15_001)
        assert await connection.submit(context_id, 0, message, identity) == b"done"

    tell(script, play, credentials=USER, level=level, auth_type=NTLM, large_fragments=False)


@pytest.mark.req("SEC-4", "SEC-6", "SEC-8")
@pytest.mark.parametrize("level", [INTEGRITY, PRIVACY])
@pytest.mark.parametrize(
    ("protection", "kind"),
    [
        pytest.param(None, RemoteProtocolError, id="without-protection"),
        pytest.param({"spoil": 24}, AuthenticationError, id="changed-body"),
        pytest.param({"spoil": -1}, AuthenticationError, id="changed-signature"),
        pytest.param({"trailer": (NTLM, CONNECT, 1)}, RemoteProtocolError, id="lower-level"),
        pytest.param({"trailer": (KERBEROS, 0, 1)}, RemoteProtocolError, id="another-type"),
        pytest.param({"trailer": (NTLM, 0, 2)}, RemoteProtocolError, id="another-context"),
    ],
)
@pytest.mark.parametrize("flags", [WHOLE, FIRST])
def test_replies_under_wrong_security_are_not_believed(
    level: int, protection: dict[str, Any] | None, kind: type[Exception], flags: int
) -> None:
    async def script(wire: Wire) -> None:
        server = await handshake(wire, World.real())
        try:
            asked = await wire.pdu()
            assert asked is not None
            server.open_request(asked)
            answer = response(b"forged", asked.call_id, flags=flags)
            if protection is not None:
                made = dict(protection)
                if "trailer" in made:
                    made["trailer"] = tuple(part or level for part in made["trailer"])
                answer = server.protect(answer, **made)
            await wire.send(answer)
            assert await wire.pdu() is None
        finally:
            server.context.close()

    async def play(connection: RpcConnection, context_id: int) -> None:
        with pytest.raises(kind):
            await connection.submit(context_id, 0, out(b"ask"))

    tell(script, play, credentials=USER, level=level, auth_type=NTLM)


@pytest.mark.req("SEC-2", "SEC-1")
def test_a_handshake_that_the_server_ends_with_a_fault() -> None:
    async def script(wire: Wire) -> None:
        asked = await wire.pdu()
        assert asked is not None
        server = ServerSecurity(authenticator(World.real()), asked)
        ack = bytearray(bind_ack((0, 0, NDR20), (3, 3, ZERO), call_id=asked.call_id))
        token = server.context.step(asked.token)
        ack += server.leg(token)
        struct.pack_into("<HH", ack, 8, len(ack), len(token or b""))
        await wire.send(bytes(ack))
        asked = await wire.pdu()
        assert asked is not None
        assert asked.ptype == ALTER
        await wire.send(fault_pdu(5, asked.call_id, flags=WHOLE | DID_NOT_EXECUTE))
        await wire.pdu()
        server.context.close()

    async def told() -> None:
        async with client(script, credentials=USER, level=INTEGRITY, auth_type=SPNEGO) as connection:
            with pytest.raises((AccessDenied, AuthenticationError)):
                await connection.context(SPEC)

    story(told)
