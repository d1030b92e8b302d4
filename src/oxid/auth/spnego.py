"""SPNEGO: agreeing on a mechanism, and on having seen the same offers. [RFC4178], [MS-SPNG]

    initiator   negTokenInit(mechanisms, first token) ->        <- negTokenResp(mechanism, token)
                negTokenResp(token, MIC) ->                     <- negTokenResp(completed, MIC)

The chosen mechanism judges whether the handshake is complete. A mechListMIC is always sent where the
mechanism can sign, and checked where one comes. Its absence is tolerated (impacket never sends one)
except where the first mechanism was not the chosen one: there it is the only guard against a
downgrade. [RFC4178] 5. Protection of PDUs is the mechanism's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from oxid.auth import der
from oxid.auth.context import AuthType, Counted, Impersonation, SecurityContext, invalid_token, logon_failure
from oxid.errors import AuthenticationError, LocalProtocolError, NotSupported
from oxid.ledger import Counter

# Object identifiers, DER values without tag. [MS-SPNG] 1.9.1
SPNEGO_OID: Final = bytes.fromhex("2b0601050502")  # 1.3.6.1.5.5.2
KERBEROS_OID: Final = bytes.fromhex("2a864886f712010202")  # 1.2.840.113554.1.2.2
MS_KERBEROS_OID: Final = bytes.fromhex("2a864882f712010202")  # 1.2.840.48018.1.2.2, 16 bits of 113554
NTLM_OID: Final = bytes.fromhex("2b06010401823702020a")  # 1.3.6.1.4.1.311.2.2.10

ACCEPT_COMPLETED: Final = 0
ACCEPT_INCOMPLETE: Final = 1
REJECT: Final = 2
REQUEST_MIC: Final = 3

_HINT_NAME: Final = b"not_defined_in_RFC4178@please_ignore"
_MOST_MECHANISMS: Final = 16
"""Windows offers five; a list longer than this is an attack on our patience."""

Mechanism: TypeAlias = Callable[[], SecurityContext]


@dataclass(frozen=True, slots=True)
class InitToken:
    """negTokenInit. [RFC4178] 4.2.1"""

    mechanisms: tuple[bytes, ...]
    token: bytes | None
    mic: bytes | None
    raw_mechanisms: bytes
    """The list as it was encoded: what the MIC covers."""


@dataclass(frozen=True, slots=True)
class ResponseToken:
    """negTokenResp. [RFC4178] 4.2.2"""

    state: int | None = None
    mechanism: bytes | None = None
    token: bytes | None = None
    mic: bytes | None = None

    def encode(self) -> bytes:
        parts = []
        if self.state is not None:
            parts.append(der.tlv(0xA0, der.tlv(der.ENUMERATED, bytes((self.state,)))))
        if self.mechanism is not None:
            parts.append(der.tlv(0xA1, der.tlv(der.OBJECT_IDENTIFIER, self.mechanism)))
        if self.token is not None:
            parts.append(der.tlv(0xA2, der.tlv(der.OCTET_STRING, self.token)))
        if self.mic is not None:
            parts.append(der.tlv(0xA3, der.tlv(der.OCTET_STRING, self.mic)))
        return der.tlv(0xA1, der.tlv(der.SEQUENCE, *parts))


def encode_mechanisms(mechanisms: Sequence[bytes]) -> bytes:
    return der.tlv(der.SEQUENCE, *(der.tlv(der.OBJECT_IDENTIFIER, oid) for oid in mechanisms))


def encode_init(raw_mechanisms: bytes, token: bytes | None, hint: bytes | None = None) -> bytes:
    """A negTokenInit, or with a hint the server's negTokenInit2. [MS-SPNG] 2.2.1"""
    parts = [der.tlv(0xA0, raw_mechanisms)]
    if token is not None:
        parts.append(der.tlv(0xA2, der.tlv(der.OCTET_STRING, token)))
    if hint is not None:
        parts.append(der.tlv(0xA3, der.tlv(der.SEQUENCE, der.tlv(0xA0, der.tlv(0x1B, hint)))))
    body = der.tlv(0xA0, der.tlv(der.SEQUENCE, *parts))
    return der.tlv(der.GSS_TOKEN, der.tlv(der.OBJECT_IDENTIFIER, SPNEGO_OID), body)


def decode_init(raw: bytes) -> InitToken:
    """Decode an initiator's first token; raises AuthenticationError."""
    _, framed, _ = der.take(raw, 0, der.GSS_TOKEN)
    _, oid, at = der.take(framed, 0, der.OBJECT_IDENTIFIER)
    if oid != SPNEGO_OID:
        raise invalid_token(f"GSS token of mechanism {oid.hex()}, wanted SPNEGO")
    _, choice, _ = der.take(framed, at, 0xA0)
    _, sequence, _ = der.take(choice, 0, der.SEQUENCE)
    mechanisms: tuple[bytes, ...] = ()
    raw_mechanisms = b""
    token = mic = None
    for tag, value in der.take_all(sequence):
        if tag == 0xA0:
            _, listed, end = der.take(value, 0, der.SEQUENCE)
            raw_mechanisms = value[:end]
            mechanisms = tuple(oid for kind, oid in der.take_all(listed) if kind == der.OBJECT_IDENTIFIER)
        elif tag == 0xA2:
            token = der.take(value, 0, der.OCTET_STRING)[1]
        elif tag in (0xA3, 0xA4) and value[:1] == b"\x04":  # negHints of negTokenInit2 share the number
            mic = der.take(value, 0, der.OCTET_STRING)[1]
    if not 1 <= len(mechanisms) <= _MOST_MECHANISMS:
        raise invalid_token(f"SPNEGO offers {len(mechanisms)} mechanisms")
    return InitToken(mechanisms, token, mic, raw_mechanisms)


def decode_response(raw: bytes) -> ResponseToken:
    """Decode any later token; raises AuthenticationError."""
    _, choice, _ = der.take(raw, 0, 0xA1)
    _, sequence, _ = der.take(choice, 0, der.SEQUENCE)
    state: int | None = None
    mechanism = token = mic = None
    for tag, value in der.take_all(sequence):
        if tag == 0xA0:
            state = int.from_bytes(der.take(value, 0, der.ENUMERATED)[1][:4], "big")
        elif tag == 0xA1:
            mechanism = der.take(value, 0, der.OBJECT_IDENTIFIER)[1]
        elif tag == 0xA2:
            token = der.take(value, 0, der.OCTET_STRING)[1]
        elif tag == 0xA3:
            mic = der.take(value, 0, der.OCTET_STRING)[1]
    return ResponseToken(state, mechanism, token, mic)


def same_mechanism(one: bytes, other: bytes) -> bool:
    """Kerberos has two names, one of them a mistake of Windows 2000. [MS-SPNG] 3.1.5.2"""
    kerberos = (KERBEROS_OID, MS_KERBEROS_OID)
    return one == other or (one in kerberos and other in kerberos)


class SpnegoContext(Counted):
    """What both ends share: the chosen mechanism does everything but the negotiation."""

    __slots__ = (
        "_failed",
        "_header_signing",
        "_inner",
        "_mic_checked",
        "_mic_sent",
        "_raw_mechanisms",
        "_reselected",
        "blocking",
        "complete",
        "level",
    )

    auth_type: int = AuthType.SPNEGO
    odd_legs: bool = False

    def __init__(self, level: int, counter: Counter | None, *, blocking: bool) -> None:
        super().__init__(counter)
        self.level: int = level
        self.blocking: bool = blocking
        self.complete: bool = False
        self._inner: SecurityContext | None = None
        self._header_signing = False
        self._raw_mechanisms = b""
        self._reselected = False
        self._mic_checked = False
        self._mic_sent = False
        self._failed = False

    def step(self, token: bytes) -> bytes | None:
        """Take the peer's token, return ours; raises AuthenticationError."""
        if self.complete or self._failed:
            raise invalid_token("the SPNEGO handshake is over, or failed")
        self._failed = True  # until this step turns out well
        reply = self._negotiate(token)
        self._failed = False
        if self.complete:
            self._raw_mechanisms = b""
            self._forget_mechanisms()
        return reply

    def _negotiate(self, token: bytes) -> bytes | None:
        raise NotImplementedError

    def _forget_mechanisms(self) -> None:
        raise NotImplementedError

    def _adopt(self, mechanism: SecurityContext) -> SecurityContext:
        mechanism.header_signing = self._header_signing
        self.blocking = mechanism.blocking
        self._inner = mechanism
        return mechanism

    def _check_peer_mic(self, inner: SecurityContext, mic: bytes) -> None:
        if not inner.complete:
            raise invalid_token("a mechListMIC came before the mechanism was ready")
        inner.check_mic(self._raw_mechanisms, mic)
        self._mic_checked = True

    def _our_mic(self, inner: SecurityContext) -> bytes | None:
        if self._mic_sent or not inner.complete or not inner.can_sign:
            return None
        self._mic_sent = True
        return inner.mic(self._raw_mechanisms)

    def _check_downgrade(self) -> None:
        if self._reselected and not self._mic_checked:
            raise AuthenticationError(
                "the peer proved no mechListMIC although its mechanism was not the first choice"
            )

    @property
    def _chosen(self) -> SecurityContext:
        if self._inner is None:
            raise LocalProtocolError("SPNEGO has not chosen a mechanism yet")
        return self._inner

    @property
    def mechanism(self) -> AuthType | None:
        """The chosen mechanism, once there is one."""
        return None if self._inner is None else AuthType(self._inner.auth_type)

    @property
    def signature_size(self) -> int:
        return self._chosen.signature_size

    @property
    def principal(self) -> str | None:
        return self._inner.principal if self._inner else None

    @property
    def anonymous(self) -> bool:
        return self._inner is not None and self._inner.anonymous

    @property
    def admin(self) -> bool:
        return self._inner is not None and self._inner.admin

    @property
    def impersonation(self) -> Impersonation:
        return self._inner.impersonation if self._inner else Impersonation.IMPERSONATE

    @property
    def target_name(self) -> str | None:
        return self._inner.target_name if self._inner else None

    @property
    def session_key(self) -> bytes:
        return self._chosen.session_key

    @property
    def can_sign(self) -> bool:
        return self._inner is not None and self._inner.can_sign

    @property
    def header_signing(self) -> bool:
        return self._header_signing

    @header_signing.setter
    def header_signing(self, agreed: bool) -> None:
        self._header_signing = agreed
        if self._inner is not None:
            self._inner.header_signing = agreed

    def seal(self, out: bytearray, start: int, body_at: int, body_end: int) -> bytes:
        """Protect a PDU, as the mechanism does."""
        if not self.complete:
            raise LocalProtocolError("the SPNEGO handshake is not complete")
        return self._inner.seal(out, start, body_at, body_end)  # type: ignore[union-attr]  # complete has one

    def unseal(self, pdu: bytes | bytearray, body_at: int, body_end: int) -> bytes:
        """Check a PDU, as the mechanism does."""
        if not self.complete:
            raise LocalProtocolError("the SPNEGO handshake is not complete")
        return self._inner.unseal(pdu, body_at, body_end)  # type: ignore[union-attr]  # complete has one

    def mic(self, data: bytes) -> bytes:
        return self._chosen.mic(data)

    def check_mic(self, data: bytes, mic: bytes) -> None:
        self._chosen.check_mic(data, mic)

    def close(self) -> None:
        """Close the mechanism too; may be called twice."""
        if self._inner is not None:
            self._inner.close()
        self._failed = True
        super().close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} level {int(self.level)} of {self._inner!r}>"


class SpnegoInitiator(SpnegoContext):
    """The client's end: `mechanisms` in the order we like them, each with its object identifier."""

    __slots__ = ("_answered", "_mechanisms", "_offered")

    def __init__(
        self,
        mechanisms: Sequence[tuple[bytes, Mechanism]],
        level: int,
        counter: Counter | None = None,
        *,
        blocking: bool = False,
    ) -> None:
        super().__init__(level, counter, blocking=blocking)
        self._mechanisms = list(mechanisms)
        self._offered: bytes | None = None
        self._answered = False

    def _forget_mechanisms(self) -> None:
        self._mechanisms = []

    def _negotiate(self, token: bytes) -> bytes | None:
        if self._offered is None:
            return self._offer(token)
        if not token:
            self._finish_quietly()
            return None
        answer = decode_response(token)
        if answer.state == REJECT:
            raise logon_failure("the server rejects all our SPNEGO mechanisms")
        inner = self._chosen
        reply: bytes | None = None
        first_answer, self._answered = not self._answered, True
        # Later answers may name a mechanism too, which is ignored. [MS-SPNG] 3.3.5
        if (
            first_answer
            and answer.token is None
            and answer.mechanism is not None
            and not same_mechanism(answer.mechanism, self._offered)
        ):
            return ResponseToken(token=self._switch(answer.mechanism)).encode()
        if answer.token is not None and not inner.complete:
            reply = inner.step(answer.token)
        if answer.mic is not None:
            self._check_peer_mic(inner, answer.mic)
        if answer.state == ACCEPT_COMPLETED:
            if not inner.complete:
                raise invalid_token("the server finished SPNEGO before the mechanism was")
            self._check_downgrade()
            self.complete = True
        mic = self._our_mic(inner)
        if self.complete and reply is None:
            return None
        if reply is None and mic is None:
            if inner.complete:
                raise invalid_token("the server wants more than the mechanism has")
            return ResponseToken(state=ACCEPT_INCOMPLETE).encode()
        return ResponseToken(ACCEPT_INCOMPLETE if mic is None else None, None, reply, mic).encode()

    def _offer(self, token: bytes) -> bytes:
        """negTokenInit with the first mechanism that can start; the others follow in the list."""
        if token:
            decode_init(token)  # a server's negTokenInit2 is a hint, no more. [MS-SPNG] 3.3.5.2
        refusal: Exception = NotSupported("SPNEGO has no mechanism for these credentials")
        while self._mechanisms:
            oid, make = self._mechanisms[0]
            mechanism: SecurityContext | None = None
            try:
                mechanism = make()
                first = mechanism.step(b"")
            except (AuthenticationError, NotSupported) as error:
                refusal = error
                if mechanism is not None:
                    mechanism.close()
                del self._mechanisms[0]
                continue
            self._adopt(mechanism)
            self._offered = oid
            self._raw_mechanisms = encode_mechanisms([oid for oid, _ in self._mechanisms])
            return encode_init(self._raw_mechanisms, first)
        raise refusal

    def _switch(self, wanted: bytes) -> bytes | None:
        """Begin again with the mechanism the server prefers."""
        for oid, make in self._mechanisms:
            if same_mechanism(oid, wanted):
                self._chosen.close()
                self._reselected = True
                return self._adopt(make()).step(b"")
        raise invalid_token(f"the server chose mechanism {wanted.hex()}, which was not offered")

    def _finish_quietly(self) -> None:
        """An empty answer to our last token: some servers say no more."""
        if not self._chosen.complete:
            raise invalid_token("the server's SPNEGO answer is empty")
        self._check_downgrade()
        self.complete = True


class SpnegoAcceptor(SpnegoContext):
    """The server's end; it also takes bare NTLM and Kerberos tokens, as Windows does."""

    __slots__ = ("_bare", "_mechanisms")

    def __init__(
        self,
        mechanisms: Sequence[tuple[bytes, Mechanism]],
        level: int,
        counter: Counter | None = None,
        *,
        blocking: bool = False,
    ) -> None:
        super().__init__(level, counter, blocking=blocking)
        self._mechanisms = list(mechanisms)
        self._bare = False

    def _forget_mechanisms(self) -> None:
        self._mechanisms = []

    def _negotiate(self, token: bytes) -> bytes | None:
        if self._inner is None:
            return self._answer_offer(token)
        inner = self._inner
        if self._bare:
            reply = inner.step(token)
            self.complete = inner.complete
            return reply
        answer = decode_response(token)
        if answer.state == REJECT:
            raise invalid_token("the client rejects the SPNEGO negotiation")
        reply = None
        if answer.token is not None and not inner.complete:
            reply = inner.step(answer.token)
        return self._respond(reply, answer.mic, None)

    def _answer_offer(self, token: bytes) -> bytes | None:
        if not token:
            raw = encode_mechanisms([oid for oid, _ in self._mechanisms])
            return encode_init(raw, None, _HINT_NAME)
        if bare := self._bare_mechanism(token):
            self._bare = True
            inner = self._adopt(bare())
            reply = inner.step(token)
            self.complete = inner.complete
            return reply
        offer = decode_init(token)
        self._raw_mechanisms = offer.raw_mechanisms
        for oid in offer.mechanisms:
            make = self._mechanism(oid)
            if make is None:
                continue
            inner = self._adopt(make())
            if not same_mechanism(oid, offer.mechanisms[0]):
                self._reselected = True
                return ResponseToken(REQUEST_MIC, oid).encode()
            if offer.token is None:
                return ResponseToken(ACCEPT_INCOMPLETE, oid).encode()
            return self._respond(inner.step(offer.token), offer.mic, oid)
        raise invalid_token("the client offers no SPNEGO mechanism we have")

    def _respond(self, reply: bytes | None, peer_mic: bytes | None, oid: bytes | None) -> bytes:
        inner = self._chosen
        if peer_mic is not None:
            self._check_peer_mic(inner, peer_mic)
        if not inner.complete:
            return ResponseToken(ACCEPT_INCOMPLETE, oid, reply).encode()
        if self._reselected and not self._mic_checked:
            if reply is None:
                self._check_downgrade()
            return ResponseToken(ACCEPT_INCOMPLETE, oid, reply, self._our_mic(inner)).encode()
        self.complete = True
        mic = self._our_mic(inner) if self._mic_checked else None
        return ResponseToken(ACCEPT_COMPLETED, oid, reply, mic).encode()

    def _mechanism(self, wanted: bytes) -> Mechanism | None:
        for oid, make in self._mechanisms:
            if same_mechanism(oid, wanted):
                return make
        return None

    def _bare_mechanism(self, token: bytes) -> Mechanism | None:
        """The mechanism of a token without SPNEGO around it."""
        if token.startswith(b"NTLMSSP\0"):
            return self._mechanism(NTLM_OID)
        if token[:1] == b"\x6e":  # a Kerberos AP-REQ, [APPLICATION 14]
            return self._mechanism(KERBEROS_OID)
        if token[:1] == b"\x60":
            _, framed, _ = der.take(token, 0, der.GSS_TOKEN)
            if der.take(framed, 0, der.OBJECT_IDENTIFIER)[1] in (KERBEROS_OID, MS_KERBEROS_OID):
                return self._mechanism(KERBEROS_OID)
        return None
