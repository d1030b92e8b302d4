"""What every security package looks like from the RPC core. [MS-RPCE] 2.2.1.1.7, 2.2.1.1.8, 3.3.1.5.2

context = authenticator.acceptor(AuthType.NTLM, AuthLevel.PKT_PRIVACY)     or auth.initiator(...)
reply = context.step(token)                 until context.complete; an initiator starts with step(b"")
token = context.seal(pdu, 0, body_at, body_end)        one call per PDU, in wire order
body = context.unseal(pdu, body_at, body_end)
context.close()
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Protocol

from oxid.errors import AuthenticationError
from oxid.ledger import Counter
from oxid.values.status import HResult, NtStatus

SEC_TRAILER_SIZE: Final = 8
"""auth_type, auth_level, auth_pad_length, reserved, auth_context_id. [MS-RPCE] 2.2.2.11"""

STATUS_LOGON_FAILURE: Final = 0xC000_006D
STATUS_ACCOUNT_LOCKED_OUT: Final = 0xC000_0234
STATUS_NOT_SUPPORTED: Final = 0xC000_00BB
SEC_E_INVALID_TOKEN: Final = 0x8009_0308
SEC_E_UNSUPPORTED_FUNCTION: Final = 0x8009_0302
SEC_E_MESSAGE_ALTERED: Final = 0x8009_030F
SEC_E_BAD_BINDINGS: Final = 0x8009_0346


class AuthType(IntEnum):
    """Security providers oxid has. [MS-RPCE] 2.2.1.1.7"""

    SPNEGO = 9
    NTLM = 10
    KERBEROS = 16


class AuthLevel(IntEnum):
    """How much of a call is protected. [MS-RPCE] 2.2.1.1.8"""

    CONNECT = 2
    """The caller is known; nothing is protected and PDUs carry no token."""
    CALL = 3
    """Taken as PKT."""
    PKT = 4
    """Signed like PKT_INTEGRITY, as Windows does."""
    PKT_INTEGRITY = 5
    PKT_PRIVACY = 6
    """Signed, and the body encrypted."""


class Impersonation(IntEnum):
    """What the server may do as the client. [MS-RPCE] 2.2.1.1.9"""

    ANONYMOUS = 1
    IDENTIFY = 2
    IMPERSONATE = 3
    DELEGATE = 4


class SecurityContext(Protocol):
    """One authenticated conversation: first a handshake, then protection of every PDU.

    Messages must be sealed and unsealed in the order of the wire; after a failed `unseal` the context
    refuses everything.
    """

    @property
    def auth_type(self) -> int: ...

    @property
    def level(self) -> int:
        """As given: CALL stays CALL, and protects like PKT."""
        ...

    @property
    def complete(self) -> bool:
        """True when no further token is needed from the peer (a last token may still have to be sent)."""
        ...

    @property
    def principal(self) -> str | None:
        """Who the peer is here: `admin`, `DOMAIN\\name`, `name@REALM`; None if unknown."""
        ...

    @property
    def anonymous(self) -> bool:
        """The client finished the handshake without proving anything."""
        ...

    @property
    def admin(self) -> bool:
        """The account is an administrator of this host."""
        ...

    @property
    def impersonation(self) -> Impersonation:
        """What the client allows; on the wire only as flags inside the tokens."""
        ...

    @property
    def target_name(self) -> str | None:
        """The service name (SPN) the initiator wanted; at the acceptor, where it said so."""
        ...

    @property
    def blocking(self) -> bool:
        """`step` may wait for other machines and belongs in a thread."""
        ...

    @property
    def odd_legs(self) -> bool:
        """The initiator's last token goes into an auth3 PDU, which is not answered. [MS-RPCE] 3.3.1.5.2.1"""
        ...

    @property
    def header_signing(self) -> bool: ...

    @header_signing.setter
    def header_signing(self, agreed: bool) -> None:
        """Set by the RPC core once PFC_SUPPORT_HEADER_SIGN was agreed for the connection."""

    @property
    def signature_size(self) -> int:
        """Bytes `seal` returns; known when the handshake is complete."""
        ...

    @property
    def session_key(self) -> bytes: ...

    def step(self, token: bytes) -> bytes | None:
        """Take the peer's token, return ours; raises AuthenticationError, also for a malformed token."""
        ...

    def seal(self, out: bytearray, start: int, body_at: int, body_end: int) -> bytes:
        """Protect the PDU that begins at `start` and ends behind its sec_trailer; return its token."""
        ...

    def unseal(self, pdu: bytes | bytearray, body_at: int, body_end: int) -> bytes:
        """Check a whole PDU, return its plain body with padding; raises AuthenticationError."""
        ...

    @property
    def can_sign(self) -> bool:
        """Whether `mic` can be used."""
        ...

    def mic(self, data: bytes) -> bytes:
        """Sign the list of mechanisms. [RFC4178] 5"""
        ...

    def check_mic(self, data: bytes, mic: bytes) -> None: ...

    def close(self) -> None:
        """Forget the keys; may be called twice."""
        ...


def invalid_token(message: str) -> AuthenticationError:
    """The error for a token that no implementation would send."""
    return AuthenticationError(message, HResult(SEC_E_INVALID_TOKEN))


def logon_failure(message: str = "unknown user name or wrong password") -> AuthenticationError:
    """The error for credentials that do not match; it never tells which part was wrong."""
    return AuthenticationError(message, NtStatus(STATUS_LOGON_FAILURE))


def tampered(message: str) -> AuthenticationError:
    """The error for a protected PDU that is not what the peer sent next."""
    return AuthenticationError(message, HResult(SEC_E_MESSAGE_ALTERED))


class Counted:
    """Counts a context into the ledger while it is open."""

    __slots__ = ("_counter",)

    def __init__(self, counter: Counter | None) -> None:
        self._counter = counter
        if counter is not None:
            counter.enter()

    def close(self) -> None:
        counter = self._counter
        if counter is not None:
            self._counter = None
            counter.leave()
