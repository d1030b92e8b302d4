"""The server's side of the NTLM handshake: NTLMv2 and anonymous only. [MS-NLMP] 3.2.5

    step(negotiate)      -> CHALLENGE_MESSAGE
    step(authenticate)   -> None, and the outcome

Proof and MIC are computed over the bytes as they came, since clients differ in what they put there.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from oxid.auth.accounts import Account, AccountStore, find_account
from oxid.auth.context import SEC_E_BAD_BINDINGS, invalid_token, logon_failure
from oxid.auth.failures import FailureLimiter
from oxid.auth.ntlm import messages as m
from oxid.auth.ntlm.initiator import filetime
from oxid.auth.ntlm.keys import hmac_md5, ntowf_v2, rc4k
from oxid.auth.ntlm.session import Outcome
from oxid.errors import AuthenticationError
from oxid.values.status import HResult
from oxid.world import World

_MAX_LIFETIME: Final = 36 * 3600 * 10_000_000
"""How far a client's clock may be off, 36 hours in FILETIME units. [MS-NLMP] 3.1.1.1"""

_SUPPORTED: Final = (
    m.UNICODE | m.OEM | m.REQUEST_TARGET | m.SIGN | m.SEAL | m.NTLM | m.ALWAYS_SIGN
    | m.EXTENDED_SESSION_SECURITY | m.IDENTIFY | m.VERSION | m.KEY_128 | m.KEY_EXCHANGE | m.KEY_56
)  # fmt: skip

_NOBODY: Final = Account("", bytes(16))

Logon: TypeAlias = Callable[[str, str, bytes, bytes], "tuple[Account, bytes] | None"]
"""(domain, user, server challenge, NT response) -> what `check_proof` returns: asked of another process."""


@dataclass(frozen=True, slots=True)
class ServerNames:
    """How an NTLM server calls itself. [MS-NLMP] 3.2.1.1"""

    computer: str = "OXID"
    """NetBIOS name, at most 15 characters."""
    domain: str = ""
    """NetBIOS domain; empty: the computer's own."""
    dns_computer: str = ""
    dns_domain: str = ""


class AcceptorHandshake:
    """Two steps, then garbage."""

    __slots__ = (
        "_accounts",
        "_allow_anonymous",
        "_bare_messages",
        "_challenge",
        "_channel_bindings",
        "_limiter",
        "_messages",
        "_names",
        "_peer",
        "_world",
    )

    of_client = False

    def __init__(
        self,
        accounts: AccountStore,
        *,
        world: World,
        names: ServerNames,
        allow_anonymous: bool = True,
        channel_bindings: bytes | None = None,
        limiter: FailureLimiter | None = None,
        peer: str = "",
    ) -> None:
        self._accounts = accounts
        self._limiter = limiter
        self._peer = peer
        self._world = world
        self._names = names
        self._allow_anonymous = allow_anonymous
        self._channel_bindings = channel_bindings
        self._challenge: m.Challenge | None = None
        self._messages = b""
        self._bare_messages = b""

    def step(self, token: bytes) -> tuple[bytes | None, Outcome | None]:
        if self._challenge is not None:
            return None, self._accept_unless_guessing(self._challenge, token)
        self._challenge = challenge = self._choose(m.Negotiate.decode(token))
        reply = challenge.encode()
        self._messages = token + reply
        self._bare_messages = m.without_padding(token, m.NEGOTIATE_FIELDS, 40) + reply
        return reply, None

    def _choose(self, offer: m.Negotiate) -> m.Challenge:
        """Answer the client's wishes with what both can. [MS-NLMP] 3.2.5.1.1"""
        flags = offer.flags & _SUPPORTED
        if not flags & (m.UNICODE | m.OEM):
            raise invalid_token("the NTLM client offers no character set")
        if flags & m.UNICODE:
            flags &= ~m.OEM
        flags |= m.REQUEST_TARGET | m.NTLM | m.ALWAYS_SIGN | m.TARGET_INFO | m.TARGET_TYPE_SERVER
        names = self._names
        pairs = {
            m.AV_NB_DOMAIN: (names.domain or names.computer).encode("utf-16-le"),
            m.AV_NB_COMPUTER: names.computer.encode("utf-16-le"),
            m.AV_DNS_DOMAIN: names.dns_domain.encode("utf-16-le"),
            m.AV_DNS_COMPUTER: (names.dns_computer or names.computer.lower()).encode("utf-16-le"),
            m.AV_TIMESTAMP: filetime(self._world.clock.utc()).to_bytes(8, "little"),
        }
        nonce = self._world.entropy.token(8)
        return m.Challenge(flags, nonce, names.computer, m.encode_av_pairs(pairs))

    def _accept_unless_guessing(self, challenge: m.Challenge, token: bytes) -> Outcome:
        limiter, peer = self._limiter, self._peer
        if limiter is None:
            return self._accept(challenge, token)
        now = self._world.clock.now()
        limiter.check(peer, now)
        try:
            outcome = self._accept(challenge, token)
        except AuthenticationError:
            limiter.failed(peer, now)
            raise
        if not outcome.anonymous:
            limiter.succeeded(peer)
        return outcome

    def _accept(self, challenge: m.Challenge, token: bytes) -> Outcome:
        proof = m.Authenticate.decode(token)
        flags = proof.flags & challenge.flags
        if not proof.user and not proof.nt_response and proof.lm_response in (b"", b"\0"):
            if not self._allow_anonymous:
                raise logon_failure("anonymous callers are not admitted")
            session_key = self._session_key(flags, bytes(16), proof)
            return Outcome(flags, session_key, anonymous=True)
        account, session_base_key = self._verify(challenge, proof)
        blob = m.ClientBlob.decode(proof.nt_response[16:])
        self._check_time(blob)
        self._check_bindings(blob)
        session_key = self._session_key(flags, session_base_key, proof)
        av_flags = int.from_bytes(blob.pairs.get(m.AV_FLAGS, b"")[:4], "little")
        if av_flags & m.AV_FLAG_MIC:
            self._check_mic(session_key, token)
        target = None
        if m.AV_TARGET_NAME in blob.pairs and not av_flags & m.AV_FLAG_UNVERIFIED_TARGET:
            target = m.decode_text(blob.pairs[m.AV_TARGET_NAME], m.UNICODE, "target name") or None
        return Outcome(flags, session_key, account.name, admin=account.admin, target_name=target)

    def _verify(self, challenge: m.Challenge, proof: m.Authenticate) -> tuple[Account, bytes]:
        """The account whose password made the proof, and the session base key. [MS-NLMP] 3.3.2"""
        response = proof.nt_response
        if len(response) < 16 + 28 + 4:
            # 24 bytes is NTLMv1: too weak to be let in, however right it may be.
            raise logon_failure(f"NT response of {len(response)} bytes: only NTLMv2 is accepted")
        elsewhere: Logon | None = getattr(self._accounts, "logon", None)
        if elsewhere is not None:
            found = elsewhere(proof.domain, proof.user, challenge.server_challenge, response)
        else:
            found = check_proof(
                self._accounts, proof.domain, proof.user, challenge.server_challenge, response
            )
        if found is None:
            raise logon_failure()
        return found

    def _session_key(self, flags: int, session_base_key: bytes, proof: m.Authenticate) -> bytes:
        if not (flags & m.KEY_EXCHANGE and flags & (m.SIGN | m.SEAL)):
            return session_base_key
        if len(proof.encrypted_session_key) != 16:
            raise invalid_token(f"NTLM session key of {len(proof.encrypted_session_key)} bytes, wanted 16")
        return rc4k(session_base_key, proof.encrypted_session_key)

    def _check_mic(self, session_key: bytes, token: bytes) -> None:
        if len(token) < m.MIC_AT + 16:
            raise invalid_token("the NTLM message claims a MIC and ends before it")
        sent = token[m.MIC_AT : m.MIC_AT + 16]
        blank = token[: m.MIC_AT] + bytes(16) + token[m.MIC_AT + 16 :]
        # Clients may pad a token behind its message: then the MIC is over the messages alone.
        bare = m.without_padding(blank, m.AUTHENTICATE_FIELDS, m.MIC_AT + 16)
        wholes = (self._messages + blank, self._bare_messages + bare)
        if not any(hmac.compare_digest(hmac_md5(session_key, whole), sent) for whole in wholes):
            raise AuthenticationError(
                "the NTLM handshake was tampered with: wrong MIC", logon_failure().status
            )

    def _check_time(self, blob: m.ClientBlob) -> None:
        if abs(filetime(self._world.clock.utc()) - blob.timestamp) > _MAX_LIFETIME:
            raise logon_failure("the NTLM client's clock is more than 36 hours away from ours")

    def _check_bindings(self, blob: m.ClientBlob) -> None:
        wanted = self._channel_bindings
        if wanted is not None and not hmac.compare_digest(
            blob.pairs.get(m.AV_CHANNEL_BINDINGS, bytes(16)), wanted
        ):
            raise AuthenticationError("wrong or missing channel bindings", HResult(SEC_E_BAD_BINDINGS))


def check_proof(
    accounts: AccountStore, domain: str, user: str, server_challenge: bytes, response: bytes
) -> tuple[Account, bytes] | None:
    """The account whose password made an NTLMv2 response, and the session base key; None for a wrong one.
    [MS-NLMP] 3.3.2"""
    account = find_account(accounts, domain, user)
    nt_hash = (account or _NOBODY).nt_hash
    # Some clients leave the domain out of the key although they send it. [MS-NLMP] 3.2.5.1.2
    for of_key in (domain, "") if domain else ("",):
        key = ntowf_v2(nt_hash, user, of_key)
        expected = hmac_md5(key, server_challenge + response[16:])
        if hmac.compare_digest(expected, response[:16]) and account is not None:
            return account, hmac_md5(key, expected)
    return None
