"""Security of requests and responses: sec_trailer, padding, verification trailer. [MS-RPCE] 2.2.2.11, 2.2.2.13

    entry.seal_one(out, 24, word, ...)              header + stub -> the whole protected PDU, in place
    body = unprotect(entry, pdu, body_at, trailer)  the stub of a received PDU
    stub = check_verification(stub, ...)            the stub without its verification trailer

Sealing moves the context's sequence number, so a PDU is protected in the very step that queues it.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from oxid.errors import AuthenticationError, RemoteProtocolError
from oxid.rpc import pdu as p
from oxid.rpc.pdu import SyntaxId
from oxid.values import status as s

if TYPE_CHECKING:
    from oxid.auth.context import SecurityContext

LEVEL_NONE: Final = 1
LEVEL_CONNECT: Final = 2
LEVEL_CALL: Final = 3
LEVEL_PKT: Final = 4
LEVEL_INTEGRITY: Final = 5
LEVEL_PRIVACY: Final = 6
AUTH_NTLM: Final = 10

VERIFICATION_MAGIC: Final = bytes.fromhex("8ae3137102f43671")
VT_BITMASK1: Final = 1
VT_PCONTEXT: Final = 2
VT_HEADER2: Final = 3
VT_END: Final = 0x4000
VT_MUST_PROCESS: Final = 0x8000
VT_HEADER_SIGNING: Final = 1
_VT_MAX: Final = 1024
"""Bytes from the end in which a verification trailer is looked for: ten times what Windows sends."""

_COMMAND: Final = Struct("<HH")
_HEADER2: Final = Struct("<BxxxIIHH")
_TRAILER: Final = Struct("<BBBxI")
TRAILER_SHORT: Final = Struct("<HBxI").unpack_from
"""auth_type and level in one word, padding, context id"""
_tails: Final[dict[tuple[int, int, int], tuple[bytes, ...]]] = {}
"""Padding and sec_trailer by (auth_type, level, context id), shared by all connections."""


class HandshakeFailed(RemoteProtocolError):
    """A call under a security context whose handshake was refused; that was told when it happened."""


class SecurityEntry:
    """A security context in use on a connection, by the id the client gave it."""

    __slots__ = (
        "_tails",
        "auth_type",
        "context",
        "context_id",
        "elements",
        "failed",
        "level",
        "ready",
        "seen",
        "signature_size",
    )

    def __init__(self, context_id: int, auth_type: int, level: int, context: SecurityContext) -> None:
        self.context_id = context_id
        self.auth_type = auth_type
        self.level = level
        self.context = context
        self.ready = False
        """The handshake is over and the context may be used."""
        self.failed = False
        self.elements: tuple[p.ContextElement, ...] | None = None
        """Server: the context list of the first leg, of which later legs repeat some or all."""
        self.seen: set[tuple[SyntaxId, SyntaxId]] | None = None
        """Client: pairs of syntaxes whose pcontext was sent already."""

        self.signature_size = 0
        self._tails: tuple[bytes, ...] = ()

    def establish(self) -> None:
        """The handshake is over: from here on PDUs are protected."""
        self.ready = True
        self.elements = None
        self.signature_size = self.context.signature_size
        key = self.auth_type, self.level, self.context_id
        tails = _tails.get(key)
        if tails is None:
            tails = tuple(
                bytes(padding) + _TRAILER.pack(self.auth_type, self.level, padding, self.context_id)
                for padding in range(16)
            )
            if len(_tails) < 256:  # context ids are the clients' choice
                _tails[key] = tails
        self._tails = tails

    def seal_one(
        self,
        out: bytearray,
        header: int,
        word: int,
        call_id: int,
        context_id: int,
        opnum: int,
        hint: int = 0,
    ) -> None:
        """Make the buffer of `header` free bytes and a stub one whole protected PDU, in place.

        `hint`: stub bytes from here to the end of the call, where this is a fragment of it.
        """
        end = len(out)
        padding = (header - end) & 15
        body_end = end + padding
        size = self.signature_size
        p.REQUEST.pack_into(
            out, 0, word, 0x10, body_end + 8 + size, size, call_id, hint or end - header, context_id, opnum
        )
        out += self._tails[padding]
        out += self.context.seal(out, 0, header, body_end)

    @property
    def protects(self) -> bool:
        return self.level >= LEVEL_PKT

    def room(self, max_fragment: int, header: int) -> int:
        """Stub bytes that fit into one protected fragment."""
        return (max_fragment - header - p.TRAILER_SIZE - self.signature_size) & ~15

    def __repr__(self) -> str:
        state = "failed" if self.failed else "ready" if self.ready else "in handshake"
        return f"<SecurityEntry {self.context_id} type {self.auth_type} level {self.level} {state}>"


def unprotect(entry: SecurityEntry, pdu: bytes, body_at: int, trailer: p.Trailer) -> bytes:
    """Check a received PDU, return its stub. Raises AuthenticationError where it was tampered with."""
    protected = entry.level >= LEVEL_PKT
    body = entry.context.unseal(pdu, body_at, trailer.at) if protected else pdu[body_at : trailer.at]
    return body[: len(body) - trailer.padding] if trailer.padding else body


def verification_trailer(
    *, bitmask: int | None, pcontext: tuple[SyntaxId, SyntaxId] | None, header2: bytes | None = None
) -> bytes:
    """The verification trailer with the commands given, in ascending order; 4-aligned by the caller."""
    commands: list[tuple[int, bytes]] = []
    if bitmask is not None:
        commands.append((VT_BITMASK1, bitmask.to_bytes(4, "little")))
    if pcontext is not None:
        commands.append((VT_PCONTEXT, pcontext[0].encode() + pcontext[1].encode()))
    if header2 is not None:
        commands.append((VT_HEADER2, header2))
    out = bytearray(VERIFICATION_MAGIC)
    for number, (command, value) in enumerate(commands, 1):
        flags = VT_END if number == len(commands) else 0
        out += _COMMAND.pack(command | flags, len(value)) + value
    return bytes(out)


def header2_of(drep: int, call_id: int, context_id: int, opnum: int) -> bytes:
    """What a header2 command must say about a request."""
    return _HEADER2.pack(p.PacketType.REQUEST, drep, call_id, context_id, opnum)


def parse_verification(stub: bytes) -> tuple[int, list[tuple[int, bytes]]] | None:
    """Where a verification trailer begins and its commands, flags included; None where there is none.

    Bytes that look like the signature but are not followed by whole commands are stub data.
    """
    at = stub.rfind(VERIFICATION_MAGIC, max(0, len(stub) - _VT_MAX))
    if at < 0 or at % 4:
        return None
    here, commands = at + 8, []
    while True:
        if len(stub) - here < 4:
            return None
        command, length = _COMMAND.unpack_from(stub, here)
        here += 4
        if length % 4 or len(stub) - here < length:
            return None
        commands.append((command, stub[here : here + length]))
        here += length
        if command & VT_END:
            break
    # padding of the client's own may follow, up to the 16 that sec_trailer asks for
    return (at, commands) if len(stub) - here < 16 else None


def check_verification(
    stub: bytes,
    *,
    header_signing: bool,
    abstract: SyntaxId,
    transfer: SyntaxId,
    drep: int,
    call_id: int,
    context_id: int,
    opnum: int,
) -> bytes:
    """Verify and cut off a verification trailer. Raises AuthenticationError where it contradicts the request."""
    found = parse_verification(stub)
    if found is None:
        return stub
    at, commands = found
    for command, value in commands:
        kind = command & 0x3FFF
        if kind == VT_BITMASK1:
            wrong = len(value) != 4
            if not wrong and value[0] & VT_HEADER_SIGNING and not header_signing:
                raise AuthenticationError(
                    "the client supports header signing, its bind was changed on the way"
                )
        elif kind == VT_PCONTEXT:
            wrong = value != abstract.encode() + transfer.encode()
        elif kind == VT_HEADER2:
            expected = header2_of(drep, call_id, context_id, opnum)
            wrong = len(value) != 16 or value[:1] + value[4:] != expected[:1] + expected[4:]
        else:
            wrong = bool(command & VT_MUST_PROCESS)
        if wrong:
            raise AuthenticationError(
                f"verification trailer command 0x{command:04x} does not match the request"
            )
    return stub[:at]


def check_level(level: int, *, strict_call: bool) -> int:
    """The level a handshake asks for, as we use it. Raises RemoteProtocolError with status 0 for no level at all."""
    if level == LEVEL_CALL:
        if strict_call:
            raise AuthenticationError("authentication level 3 (call) is refused by configuration")
        return LEVEL_PKT
    if not LEVEL_CONNECT <= level <= LEVEL_PRIVACY:
        raise RemoteProtocolError(f"authentication level {level}", s.NCA_S_PROTO_ERROR)
    return level
