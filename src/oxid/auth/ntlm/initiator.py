"""The client's side of the NTLM handshake. [MS-NLMP] 3.1.5

step(b"")         -> NEGOTIATE_MESSAGE
step(challenge)   -> AUTHENTICATE_MESSAGE, and the outcome
"""

from __future__ import annotations

from typing import Final

from oxid.auth.context import SEC_E_UNSUPPORTED_FUNCTION, AuthLevel, invalid_token, logon_failure
from oxid.auth.credentials import Anonymous, NtlmCredentials
from oxid.auth.ntlm import messages as m
from oxid.auth.ntlm.keys import hmac_md5, ntowf_v2, rc4k
from oxid.auth.ntlm.session import Outcome
from oxid.errors import AuthenticationError
from oxid.values.status import HResult
from oxid.world import World

UNIX_EPOCH: Final = 116_444_736_000_000_000
"""1970 as a FILETIME. [MS-DTYP] 2.3.3"""

_WISHES: Final = (
    m.UNICODE | m.OEM | m.REQUEST_TARGET | m.SIGN | m.NTLM | m.ALWAYS_SIGN | m.EXTENDED_SESSION_SECURITY
    | m.TARGET_INFO | m.VERSION | m.KEY_128 | m.KEY_EXCHANGE | m.KEY_56
)  # fmt: skip


def filetime(utc: float) -> int:
    """Seconds since 1970 as a FILETIME."""
    return UNIX_EPOCH + int(utc * 10_000_000)


class InitiatorHandshake:
    """Two steps, then garbage."""

    __slots__ = (
        "_channel_bindings",
        "_credentials",
        "_flags",
        "_negotiate",
        "_target",
        "_workstation",
        "_world",
    )

    of_client = True

    def __init__(
        self,
        credentials: NtlmCredentials,
        *,
        level: int,
        world: World,
        target: str | None = None,
        workstation: str = "",
        identify: bool = False,
        channel_bindings: bytes | None = None,
    ) -> None:
        self._credentials = credentials
        self._world = world
        self._target = target
        self._workstation = workstation
        self._channel_bindings = channel_bindings
        self._negotiate: bytes | None = None
        self._flags = _WISHES
        if level <= AuthLevel.CONNECT:
            # Nothing is going to be signed; Samba faults calls whose context could.
            self._flags &= ~(m.SIGN | m.KEY_EXCHANGE)
        if level == AuthLevel.PKT_PRIVACY:
            self._flags |= m.SEAL
        if identify:
            self._flags |= m.IDENTIFY
        if isinstance(credentials, Anonymous):
            self._flags |= m.ANONYMOUS

    def step(self, token: bytes) -> tuple[bytes | None, Outcome | None]:
        if self._negotiate is not None:
            return self._authenticate(self._negotiate, token)
        if token:
            raise invalid_token("the server spoke before the NTLM negotiate message")
        self._negotiate = m.Negotiate(self._flags).encode()
        return self._negotiate, None

    def _authenticate(self, negotiate: bytes, challenge_token: bytes) -> tuple[bytes, Outcome]:
        challenge = m.Challenge.decode(challenge_token)
        if not challenge.flags & (m.UNICODE | m.OEM):
            raise invalid_token("the NTLM server chose no character set")
        flags = challenge.flags & (self._flags | m.TARGET_TYPE_SERVER | m.TARGET_TYPE_DOMAIN)
        flags &= ~(m.TARGET_TYPE_SERVER | m.TARGET_TYPE_DOMAIN)
        if flags & m.UNICODE:
            flags &= ~m.OEM
        if not flags & m.KEY_128:
            raise AuthenticationError(
                "the NTLM server takes no 128-bit keys; oxid insists on them",
                HResult(SEC_E_UNSUPPORTED_FUNCTION),
            )
        pairs = m.decode_av_pairs(challenge.target_info) if challenge.target_info else {}
        with_mic = m.AV_TIMESTAMP in pairs
        lm_response, nt_response, session_base_key = self._responses(challenge, pairs, with_mic)

        session_key, encrypted_key = session_base_key, b""
        if flags & m.KEY_EXCHANGE:
            session_key = self._world.entropy.token(16)
            encrypted_key = rc4k(session_base_key, session_key)
        credentials = self._credentials
        message = m.Authenticate(
            flags, credentials.domain, credentials.user, self._workstation, lm_response, nt_response,
            encrypted_key,
        ).encode(with_mic=with_mic)  # fmt: skip
        if with_mic:
            mic = hmac_md5(session_key, negotiate + challenge_token + message)
            message[m.MIC_AT : m.MIC_AT + 16] = mic
        return bytes(message), Outcome(flags, session_key, anonymous=isinstance(credentials, Anonymous))

    def _responses(
        self, challenge: m.Challenge, pairs: dict[int, bytes], with_mic: bool
    ) -> tuple[bytes, bytes, bytes]:
        """LM response, NT response and session base key. [MS-NLMP] 3.3.2"""
        credentials = self._credentials
        if isinstance(credentials, Anonymous):
            return b"\0", b"", bytes(16)
        if not pairs and challenge.flags & m.TARGET_INFO:
            raise logon_failure("the NTLM server sent no names")
        client_challenge = self._world.entropy.token(8)
        if with_mic:
            self._extend(pairs)
            timestamp = int.from_bytes(pairs[m.AV_TIMESTAMP][:8], "little")
        else:
            timestamp = filetime(self._world.clock.utc())
        key = ntowf_v2(credentials.nt_hash(), credentials.user, credentials.domain)
        blob = m.encode_blob(timestamp, client_challenge, m.encode_av_pairs(pairs))
        proof = hmac_md5(key, challenge.server_challenge + blob)
        if with_mic:
            lm_response = bytes(24)
        else:
            lm_response = hmac_md5(key, challenge.server_challenge + client_challenge) + client_challenge
        return lm_response, proof + blob, hmac_md5(key, proof)

    def _extend(self, pairs: dict[int, bytes]) -> None:
        """What Windows adds to the server's AV pairs since it has MICs. [MS-NLMP] 3.1.5.1.2"""
        flags = int.from_bytes(pairs.get(m.AV_FLAGS, b"")[:4], "little") | m.AV_FLAG_MIC
        pairs[m.AV_FLAGS] = flags.to_bytes(4, "little")
        pairs[m.AV_CHANNEL_BINDINGS] = self._channel_bindings or bytes(16)
        pairs[m.AV_TARGET_NAME] = (self._target or "").encode("utf-16-le", "surrogatepass")
