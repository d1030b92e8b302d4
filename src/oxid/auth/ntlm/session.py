"""An NTLM security context: the handshake's outcome, then a signature on every PDU. [MS-NLMP] 3.4

The hot path of protected calls. Only extended session security is spoken; it signs header, body and
trailer whether or not header signing was agreed for the connection. Order of the key stream: first the
body (privacy), then the checksum. Key streams and digest states are made at the first message, so that
an idle context stays small.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final, NoReturn, Protocol

from cryptography.hazmat.primitives.ciphers import CipherContext

from oxid.auth.context import (
    SEC_E_UNSUPPORTED_FUNCTION,
    SEC_TRAILER_SIZE,
    AuthLevel,
    AuthType,
    Counted,
    Impersonation,
    invalid_token,
    tampered,
)
from oxid.auth.ntlm import messages as m
from oxid.auth.ntlm.keys import arc4, hmac_md5, sealing_key, signing_key
from oxid.errors import AuthenticationError, LocalProtocolError
from oxid.ledger import Counter
from oxid.values.status import HResult

SIGNATURE_SIZE: Final = 16
_SIGNATURE_VERSION: Final = b"\x01\0\0\0"
_INNER_PAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD: Final = bytes(byte ^ 0x5C for byte in range(256))
_NO_KEY: Final = b""
_REFUSING: Final = -1
"""In place of the sequence number of the next message, once one has failed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished handshake hands to the context."""

    flags: int
    session_key: bytes = field(repr=False)
    principal: str | None = None
    anonymous: bool = False
    admin: bool = False
    target_name: str | None = None


class Handshake(Protocol):
    of_client: bool

    def step(self, token: bytes) -> tuple[bytes | None, Outcome | None]: ...


class NtlmContext(Counted):
    """Either end of an NTLM conversation; see `oxid.auth.context.SecurityContext`."""

    __slots__ = (
        "_flags",
        "_handshake",
        "_key_exchange",
        "_of_client",
        "_privacy",
        "_receive_mac",
        "_receive_rc4",
        "_receive_sequence",
        "_send_mac",
        "_send_rc4",
        "_send_sequence",
        "admin",
        "anonymous",
        "blocking",
        "complete",
        "header_signing",
        "impersonation",
        "level",
        "principal",
        "session_key",
        "signature_size",
        "target_name",
    )

    auth_type: int = AuthType.NTLM
    odd_legs: bool = True

    def __init__(
        self, handshake: Handshake, level: int, counter: Counter | None = None, *, blocking: bool = False
    ) -> None:
        """`blocking`: the accounts are another process's, which a step has to ask."""
        super().__init__(counter)
        self.blocking: bool = blocking
        self._handshake: Handshake | None = handshake
        self._of_client = handshake.of_client
        self.level: int = level
        self.complete: bool = False
        self.principal: str | None = None
        self.anonymous: bool = False
        self.admin: bool = False
        self.impersonation: Impersonation = Impersonation.IMPERSONATE
        self.target_name: str | None = None
        self.header_signing: bool = False
        self.session_key: bytes = _NO_KEY
        self.signature_size: int = SIGNATURE_SIZE if level >= AuthLevel.CALL else 0
        self._privacy = level == AuthLevel.PKT_PRIVACY
        self._key_exchange = False
        self._flags = 0
        self._send_sequence = 0
        self._receive_sequence = 0
        self._send_mac: tuple[hashlib._Hash, hashlib._Hash] | None = None
        self._receive_mac: tuple[hashlib._Hash, hashlib._Hash] | None = None
        self._send_rc4: CipherContext | None = None
        self._receive_rc4: CipherContext | None = None

    def step(self, token: bytes) -> bytes | None:
        """Take the peer's token, return ours; raises AuthenticationError."""
        handshake = self._handshake
        if handshake is None:
            raise invalid_token("the NTLM handshake is over, or failed")
        self._handshake = None  # a failed handshake stays failed
        reply, outcome = handshake.step(token)
        if outcome is None:
            self._handshake = handshake
            return reply
        self._check_strength(outcome.flags)
        self._flags = outcome.flags
        self._key_exchange = bool(outcome.flags & m.KEY_EXCHANGE)
        self.session_key = outcome.session_key
        self.principal = outcome.principal
        self.anonymous = outcome.anonymous
        self.admin = outcome.admin
        self.target_name = outcome.target_name
        if outcome.anonymous:
            self.impersonation = Impersonation.ANONYMOUS
        elif outcome.flags & m.IDENTIFY:
            self.impersonation = Impersonation.IDENTIFY
        self.complete = True
        return reply

    def _check_strength(self, flags: int) -> None:
        """Refuse flags that cannot give the protection the level promises."""
        wanted = m.EXTENDED_SESSION_SECURITY | m.SIGN
        if self.level >= AuthLevel.CALL and flags & wanted != wanted:
            raise AuthenticationError(
                f"NTLM peer offers no extended session security with signing (flags 0x{flags:08X})",
                HResult(SEC_E_UNSUPPORTED_FUNCTION),
            )
        if self._privacy and not flags & m.SEAL:
            raise AuthenticationError(
                f"NTLM peer offers no encryption (flags 0x{flags:08X})", HResult(SEC_E_UNSUPPORTED_FUNCTION)
            )

    def seal(self, out: bytearray, start: int, body_at: int, body_end: int) -> bytes:
        """Protect the PDU out[start:body_end + 8]; at privacy the body is encrypted in place."""
        states = self._send_mac
        if states is None:
            states = self._start_sending()
        sequence = self._send_sequence
        self._send_sequence = sequence + 1 & 0xFFFF_FFFF
        number = sequence.to_bytes(4, "little")
        mac = states[0].copy()
        mac.update(number + out[start : body_end + SEC_TRAILER_SIZE])
        outer = states[1].copy()
        outer.update(mac.digest())
        checksum = outer.digest()[:8]
        if self._privacy:
            out[body_at:body_end] = self._send_rc4.update(out[body_at:body_end])  # type: ignore[union-attr]  # made with the MAC
        if self._key_exchange:
            checksum = self._send_rc4.update(checksum)  # type: ignore[union-attr]  # made with the MAC
        return _SIGNATURE_VERSION + checksum + number

    def unseal(self, pdu: bytes | bytearray, body_at: int, body_end: int) -> bytes:
        """Check a PDU and its token, return the plain body; raises AuthenticationError."""
        states = self._receive_mac
        if states is None:
            states = self._start_receiving()
        sequence = self._receive_sequence
        self._receive_sequence = sequence + 1 & 0xFFFF_FFFF
        number = sequence.to_bytes(4, "little")
        mac = states[0].copy()
        trailer_end = body_end + SEC_TRAILER_SIZE
        if self._privacy:
            body = self._receive_rc4.update(pdu[body_at:body_end])  # type: ignore[union-attr]  # made with the MAC
            mac.update(b"".join((number, pdu[:body_at], body, pdu[body_end:trailer_end])))
        else:
            body = bytes(pdu[body_at:body_end])
            mac.update(number + pdu[:trailer_end])
        outer = states[1].copy()
        outer.update(mac.digest())
        checksum = outer.digest()[:8]
        if self._key_exchange:
            checksum = self._receive_rc4.update(checksum)  # type: ignore[union-attr]  # made with the MAC
        if not hmac.compare_digest(pdu[trailer_end:], _SIGNATURE_VERSION + checksum + number):
            self._refuse_from_now_on(sequence)
        return body

    @property
    def can_sign(self) -> bool:
        """Whether `mic` means anything: signing was agreed, and the key is nobody else's."""
        wanted = m.EXTENDED_SESSION_SECURITY | m.SIGN
        return self._flags & wanted == wanted and not self.anonymous

    def mic(self, data: bytes) -> bytes:
        """Sign SPNEGO's list of mechanisms, with a key stream of its own. [MS-SPNG] 3.2.5.1"""
        sequence = self._send_sequence
        self._send_sequence = sequence + 1
        return self._mic(data, sequence, of_client=self._of_client)

    def check_mic(self, data: bytes, mic: bytes) -> None:
        """Check the peer's signature of the list of mechanisms; raises AuthenticationError."""
        sequence = self._receive_sequence
        self._receive_sequence = sequence + 1
        if not hmac.compare_digest(mic, self._mic(data, sequence, of_client=not self._of_client)):
            self._refuse_from_now_on(sequence)

    def _mic(self, data: bytes, sequence: int, *, of_client: bool) -> bytes:
        number = sequence.to_bytes(4, "little")
        checksum = hmac_md5(signing_key(self.session_key, of_client=of_client), number + data)[:8]
        if self._key_exchange:
            checksum = arc4(sealing_key(self._flags, self.session_key, of_client=of_client)).update(checksum)
        return _SIGNATURE_VERSION + checksum + number

    def close(self) -> None:
        """Forget the keys; may be called twice."""
        self._handshake = None
        self.session_key = _NO_KEY
        self._send_mac = self._receive_mac = None
        self._send_rc4 = self._receive_rc4 = None
        super().close()

    def _start_sending(self) -> tuple[hashlib._Hash, hashlib._Hash]:
        self._check_usable()
        self._send_rc4 = arc4(sealing_key(self._flags, self.session_key, of_client=self._of_client))
        key = signing_key(self.session_key, of_client=self._of_client)
        self._send_mac = states = _mac_states(key)
        return states

    def _start_receiving(self) -> tuple[hashlib._Hash, hashlib._Hash]:
        self._check_usable()
        if self._receive_sequence == _REFUSING:
            raise tampered("an earlier message of this NTLM context failed its check")
        self._receive_rc4 = arc4(sealing_key(self._flags, self.session_key, of_client=not self._of_client))
        key = signing_key(self.session_key, of_client=not self._of_client)
        self._receive_mac = states = _mac_states(key)
        return states

    def _check_usable(self) -> None:
        if not self.complete:
            raise LocalProtocolError("the NTLM handshake is not complete")
        if self.level == AuthLevel.CONNECT:
            raise LocalProtocolError("level connect has no per-message protection")
        if self.session_key is _NO_KEY:
            raise AuthenticationError("the NTLM context is closed")

    def _refuse_from_now_on(self, sequence: int) -> NoReturn:
        """A message that failed leaves the key stream out of step: nothing after it can be trusted."""
        self._receive_mac = None
        self._receive_sequence = _REFUSING
        raise tampered(f"NTLM signature of message {sequence} is wrong")

    def __repr__(self) -> str:
        state = "complete" if self.complete else "open"
        return f"<NtlmContext level {int(self.level)} {state}, {self.principal or 'peer unnamed'}>"


def _mac_states(key: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """HMAC-MD5 with the key already digested: inner and outer. [RFC2104] 4"""
    block = key.ljust(64, b"\0")
    return (
        hashlib.md5(block.translate(_INNER_PAD), usedforsecurity=False),
        hashlib.md5(block.translate(_OUTER_PAD), usedforsecurity=False),
    )
