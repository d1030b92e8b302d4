"""Authenticated PDUs by hand: tokens and signatures come from oxid's initiators, everything around from us.

security = Security(there, NTLM, INTEGRITY)
await security.join(wire, element(0, PROBE, NDR20))           all legs
await wire.send(security.request(b"stub", call_id=4))
stub = security.open(await wire.pdu())
"""

from __future__ import annotations

import struct
from typing import Any

from tests.conformance.wire import (
    ALTER,
    ALTER_RESP,
    BIND_ACK,
    CONNECT,
    INTEGRITY,
    NTLM,
    OBJECT,
    RESPONSE,
    USER,
    WHOLE,
    Arena,
    Pdu,
    Wire,
    alter,
    auth3,
    bind,
    request,
    sec_trailer,
)

from oxid import auth


class Security:
    """One security context of a client, by its id on the connection.

    `made_for` is the level the security package is asked for, where it differs from the one on the wire.
    """

    def __init__(
        self,
        there: Arena,
        auth_type: int = NTLM,
        level: int = INTEGRITY,
        context_id: int = 1,
        *,
        credentials: Any = USER,
        made_for: int | None = None,
        **options: Any,
    ) -> None:
        self.auth_type = auth_type
        self.level = level
        self.context_id = context_id
        self.context = auth.initiator(
            credentials, auth_type, made_for or level, world=there.world, target="host/localhost", **options
        )
        there.contexts.append(self.context)

    def leg(
        self, token: bytes | None, *, pad: int = 0, auth_type: int | None = None, level: int | None = None
    ) -> bytes:
        """sec_trailer and token of a handshake PDU."""
        return sec_trailer(
            self.auth_type if auth_type is None else auth_type,
            self.level if level is None else level,
            pad,
            self.context_id,
        ) + (token or b"")

    def first(self) -> bytes:
        return self.leg(self.context.step(b""))

    def next(self, answer: Pdu, **changes: Any) -> bytes:
        """The leg that answers a server's token."""
        return self.leg(self.context.step(answer.token), **changes)

    async def join(
        self,
        wire: Wire,
        *elements: bytes,
        start: int | None = None,
        flags: int = WHOLE,
        last_flags: int = WHOLE,
        last: str = "",
        call_id: int = 1,
    ) -> Pdu:
        """All legs of a handshake; `start` ALTER on a connection that is bound, `last` auth3 or alter."""
        make = alter if start == ALTER else bind
        ack = await wire.ask(
            make(*elements, flags=flags, call_id=call_id, auth=self.first(), group=wire.group if start else 0)
        )
        assert ack.ptype == (ALTER_RESP if start == ALTER else BIND_ACK), ack
        wire.group = ack.group
        assert ack.trailer[0] == self.auth_type
        assert ack.trailer[3] == self.context_id
        answer = ack
        while True:
            token = self.context.step(answer.token) if answer.token or not self.context.complete else None
            if not token:
                break
            if (last or ("auth3" if self.context.odd_legs else "alter")) == "auth3":
                await wire.send(auth3(self.leg(token), flags=last_flags, call_id=call_id))
                break
            answer = await wire.ask(
                alter(*elements, flags=last_flags, call_id=call_id, auth=self.leg(token), group=wire.group)
            )
            assert answer.ptype == ALTER_RESP, answer
            if not answer.token:
                break
        assert self.context.complete
        return ack

    def protect(
        self,
        message: bytes,
        *,
        align: int = 16,
        padding: bytes | None = None,
        trailer: tuple[int, int, int] | None = None,
        body_at: int | None = None,
        spoil: int | None = None,
    ) -> bytes:
        """Sign or seal a PDU made without security; `trailer` forges auth_type, level and context id.

        `spoil` is the offset of a byte that is changed afterwards.
        """
        if body_at is None:
            body_at = 40 if message[2] == 0 and message[3] & OBJECT else 24
        size = self.context.signature_size or 16
        out = bytearray(message)
        out += bytes(-(len(out) - body_at) % align) if padding is None else padding
        body_end = len(out)
        auth_type, level, context_id = trailer or (self.auth_type, self.level, self.context_id)
        out += sec_trailer(auth_type, level, body_end - len(message), context_id)
        struct.pack_into("<HH", out, 8, len(out) + size, size)
        if self.context.signature_size:
            out += self.context.seal(out, 0, body_at, body_end)
        else:
            out += bytes.fromhex("01" + 15 * "00")  # level connect: anything does
        if spoil is not None:
            out[spoil] ^= 0x01
        return bytes(out)

    def request(
        self, stub: bytes = b"", *, protection: dict[str, Any] | None = None, **options: Any
    ) -> bytes:
        return self.protect(request(stub, **options), **(protection or {}))

    def open(self, answer: Pdu | None) -> bytes:
        """The stub of a protected response."""
        assert answer is not None
        assert answer.ptype == RESPONSE, answer
        assert answer.trailer[:2] == (self.auth_type, self.level)
        assert answer.trailer[3] == self.context_id
        at, padding = answer.trailer_at, answer.trailer[2]
        assert (at - 24) % 16 == 0, "the trailer stands 16-aligned behind the start of the body"
        body = self.context.unseal(answer.raw, 24, at)
        return body[: len(body) - padding]

    async def echoes(self, wire: Wire, call_id: int = 0x60, *, context_id: int = 0) -> None:
        """A call under this context goes through, protected both ways as its level says."""
        stub = b"under %08x" % call_id
        answer = await wire.ask(self.request(stub, call_id=call_id, context_id=context_id))
        assert answer.ptype == RESPONSE, answer
        if self.level == CONNECT:
            assert (answer.auth_length, answer.stub) == (0, stub)
        else:
            assert self.open(answer) == stub

    async def caller(self, wire: Wire, call_id: int) -> str:
        """Who the server thinks made this call."""
        answer = await wire.ask(self.request(opnum=3, call_id=call_id))
        assert answer.ptype == RESPONSE, answer
        return (answer.stub if self.level == CONNECT else self.open(answer)).decode()


class ServerSecurity(Security):
    """The same for the server's side of one connection: a script answers our client with it."""

    def __init__(self, authenticator: auth.Authenticator, first: Pdu) -> None:
        self.auth_type, self.level, _, self.context_id = first.trailer
        self.context = authenticator.acceptor(self.auth_type, self.level)

    def open_request(self, request: Pdu) -> bytes:
        """The stub of a protected request, verification trailer and all."""
        assert request.trailer[:2] == (self.auth_type, self.level)
        assert request.trailer[3] == self.context_id
        at, body_at = request.trailer_at, 40 if request.flags & OBJECT else 24
        assert (at - body_at) % 16 == 0, "the trailer stands 16-aligned behind the start of the body"
        body = self.context.unseal(request.raw, body_at, at)
        return body[: len(body) - request.trailer[2]]
