"""The three NTLM messages and AV pairs, as bytes and back. [MS-NLMP] 2.2

Decoders keep what matters as it was received: proofs and MICs are computed over the raw bytes.
Every decoder raises AuthenticationError (SEC_E_INVALID_TOKEN) for bytes that are no such message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from oxid.auth.context import invalid_token

SIGNATURE: Final = b"NTLMSSP\0"

# NegotiateFlags. [MS-NLMP] 2.2.2.5
UNICODE: Final = 0x0000_0001
OEM: Final = 0x0000_0002
REQUEST_TARGET: Final = 0x0000_0004
SIGN: Final = 0x0000_0010
SEAL: Final = 0x0000_0020
LM_KEY: Final = 0x0000_0080
NTLM: Final = 0x0000_0200
ANONYMOUS: Final = 0x0000_0800
OEM_DOMAIN_SUPPLIED: Final = 0x0000_1000
OEM_WORKSTATION_SUPPLIED: Final = 0x0000_2000
ALWAYS_SIGN: Final = 0x0000_8000
TARGET_TYPE_DOMAIN: Final = 0x0001_0000
TARGET_TYPE_SERVER: Final = 0x0002_0000
EXTENDED_SESSION_SECURITY: Final = 0x0008_0000
IDENTIFY: Final = 0x0010_0000
TARGET_INFO: Final = 0x0080_0000
VERSION: Final = 0x0200_0000
KEY_128: Final = 0x2000_0000
KEY_EXCHANGE: Final = 0x4000_0000
KEY_56: Final = 0x8000_0000

# AvId. [MS-NLMP] 2.2.2.1
AV_EOL: Final = 0
AV_NB_COMPUTER: Final = 1
AV_NB_DOMAIN: Final = 2
AV_DNS_COMPUTER: Final = 3
AV_DNS_DOMAIN: Final = 4
AV_DNS_TREE: Final = 5
AV_FLAGS: Final = 6
AV_TIMESTAMP: Final = 7
AV_SINGLE_HOST: Final = 8
AV_TARGET_NAME: Final = 9
AV_CHANNEL_BINDINGS: Final = 10

AV_FLAG_MIC: Final = 0x2
AV_FLAG_UNVERIFIED_TARGET: Final = 0x4

OUR_VERSION: Final = bytes((6, 1, 0, 0, 0, 0, 0, 15))
"""6.1 with NTLMSSP_REVISION_W2K3; read by debuggers only. [MS-NLMP] 2.2.2.10"""

MIC_AT: Final = 72
"""Where an AUTHENTICATE_MESSAGE has its MIC, if any."""

NEGOTIATE_FIELDS: Final = (16, 24)
AUTHENTICATE_FIELDS: Final = (12, 20, 28, 36, 44, 52)
"""Where a message says where its payloads are."""

_NAMED: Final = REQUEST_TARGET | TARGET_TYPE_DOMAIN | TARGET_TYPE_SERVER
"""Any of these says that a challenge has a target name; the specification's example lacks the first."""

_OEM_CHARACTERS: Final = "cp437"
_FIELD: Final = Struct("<HHI")
_NEGOTIATE: Final = Struct("<8sII")
_CHALLENGE: Final = Struct("<8sIHHII8s8sHHI8s")
_AUTHENTICATE: Final = Struct("<8sI" + "HHI" * 6 + "I8s")
_BLOB: Final = Struct("<BB6xQ8s4x")


def take_field(message: bytes, at: int, what: str) -> bytes:
    """The payload a length/offset field at `at` points to."""
    if at + 8 > len(message):
        raise invalid_token(f"NTLM message of {len(message)} bytes ends before its {what} field")
    size, _, offset = _FIELD.unpack_from(message, at)
    if not size:
        return b""
    if offset + size > len(message):
        raise invalid_token(f"NTLM {what}: {size} bytes at {offset} of {len(message)}")
    return message[offset : offset + size]


def without_padding(message: bytes, fields: tuple[int, ...], minimum: int) -> bytes:
    """The message up to the end of its last payload, at least `minimum` bytes of it."""
    ends = [minimum]
    for at in fields:
        if at + 8 <= len(message):
            size, _, offset = _FIELD.unpack_from(message, at)
            ends.append(offset + size if size else 0)
    return message[: max(ends)]


def check_header(message: bytes, kind: int, minimum: int) -> None:
    if len(message) < minimum or message[:8] != SIGNATURE or message[8:12] != bytes((kind, 0, 0, 0)):
        raise invalid_token(f"wanted NTLM message {kind}, got {len(message)} other bytes")


def decode_text(raw: bytes, flags: int, what: str) -> str:
    """A name in the negotiated character set."""
    try:
        return raw.decode("utf-16-le" if flags & UNICODE else _OEM_CHARACTERS)
    except UnicodeDecodeError as error:
        raise invalid_token(f"NTLM {what} is no text") from error


def encode_text(text: str, flags: int) -> bytes:
    if flags & UNICODE:
        return text.encode("utf-16-le", "surrogatepass")
    return text.encode(_OEM_CHARACTERS, "replace")


def decode_av_pairs(raw: bytes) -> dict[int, bytes]:
    """AV pairs by id; a missing end mark is an error, bytes behind it are not. [MS-NLMP] 2.2.2.1"""
    pairs: dict[int, bytes] = {}
    at = 0
    while True:
        if at + 4 > len(raw):
            raise invalid_token(f"AV pairs of {len(raw)} bytes have no end mark")
        kind = raw[at] | raw[at + 1] << 8
        size = raw[at + 2] | raw[at + 3] << 8
        at += 4
        if kind == AV_EOL:
            return pairs
        if at + size > len(raw):
            raise invalid_token(f"AV pair {kind} wants {size} bytes, {len(raw) - at} are left")
        pairs[kind] = raw[at : at + size]
        at += size


def encode_av_pairs(pairs: dict[int, bytes]) -> bytes:
    out = bytearray()
    for kind, value in pairs.items():
        out += kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value
    return bytes(out + b"\0\0\0\0")


@dataclass(frozen=True, slots=True)
class Negotiate:
    """NEGOTIATE_MESSAGE: what the client can do. [MS-NLMP] 2.2.1.1"""

    flags: int

    def encode(self) -> bytes:
        version = OUR_VERSION if self.flags & VERSION else bytes(8)
        return _NEGOTIATE.pack(SIGNATURE, 1, self.flags) + bytes(16) + version

    @classmethod
    def decode(cls, message: bytes) -> Negotiate:
        # Windows 9x and some tools send no fields and no version, only the flags.
        check_header(message, 1, 16)
        return cls(_NEGOTIATE.unpack_from(message)[2])


@dataclass(frozen=True, slots=True)
class Challenge:
    """CHALLENGE_MESSAGE: the server's choice, its nonce and its names. [MS-NLMP] 2.2.1.2"""

    flags: int
    server_challenge: bytes
    target_name: str = ""
    target_info: bytes = b""
    version: bytes = OUR_VERSION

    def encode(self) -> bytes:
        name = encode_text(self.target_name, self.flags)
        info = self.target_info
        at = 56
        head = _CHALLENGE.pack(
            SIGNATURE, 2, len(name), len(name), at, self.flags, self.server_challenge, bytes(8),
            len(info), len(info), at + len(name), self.version if self.flags & VERSION else bytes(8),
        )  # fmt: skip
        return head + name + info

    @classmethod
    def decode(cls, message: bytes) -> Challenge:
        check_header(message, 2, 32)
        flags = int.from_bytes(message[20:24], "little")
        name = take_field(message, 12, "target name") if flags & _NAMED else b""
        info = take_field(message, 40, "target info") if flags & TARGET_INFO else b""
        return cls(flags, message[24:32], decode_text(name, flags, "target name"), info)


@dataclass(frozen=True, slots=True)
class ClientBlob:
    """NTLMv2_CLIENT_CHALLENGE, the part of the response the proof covers. [MS-NLMP] 2.2.2.7"""

    timestamp: int
    """FILETIME: 100 ns since 1601."""
    client_challenge: bytes
    pairs: dict[int, bytes]

    def encode(self) -> bytes:
        return encode_blob(self.timestamp, self.client_challenge, encode_av_pairs(self.pairs))

    @classmethod
    def decode(cls, raw: bytes) -> ClientBlob:
        if len(raw) < _BLOB.size:
            raise invalid_token(f"NTLMv2 response blob of {len(raw)} bytes, wanted {_BLOB.size} and more")
        kind, highest, timestamp, challenge = _BLOB.unpack_from(raw)
        if kind != 1 or highest < 1:
            raise invalid_token(f"NTLMv2 response version {kind}, wanted 1")
        return cls(timestamp, challenge, decode_av_pairs(raw[_BLOB.size :]))


def encode_blob(timestamp: int, client_challenge: bytes, av_pairs: bytes) -> bytes:
    return _BLOB.pack(1, 1, timestamp, client_challenge) + av_pairs + bytes(4)


@dataclass(frozen=True, slots=True)
class Authenticate:
    """AUTHENTICATE_MESSAGE: the proof. [MS-NLMP] 2.2.1.3"""

    flags: int
    domain: str
    user: str
    workstation: str
    lm_response: bytes = field(repr=False)
    nt_response: bytes = field(repr=False)
    encrypted_session_key: bytes = field(default=b"", repr=False)
    version: bytes = OUR_VERSION

    def encode(self, *, with_mic: bool) -> bytearray:
        """The message, its MIC still zero where it has one; the payload is in Windows' order."""
        at = MIC_AT + (16 if with_mic else 0)
        payload = bytearray()

        def put(value: bytes) -> tuple[int, int, int]:
            where = at + len(payload)
            payload.extend(value)
            return len(value), len(value), where

        domain = put(encode_text(self.domain, self.flags))
        user = put(encode_text(self.user, self.flags))
        workstation = put(encode_text(self.workstation, self.flags))
        lm = put(self.lm_response)
        nt = put(self.nt_response)
        key = put(self.encrypted_session_key)
        version = self.version if self.flags & VERSION else bytes(8)
        out = bytearray(
            _AUTHENTICATE.pack(
                SIGNATURE, 3, *lm, *nt, *domain, *user, *workstation, *key, self.flags, version
            )
        )
        if with_mic:
            out += bytes(16)
        return out + payload

    @classmethod
    def decode(cls, message: bytes) -> Authenticate:
        check_header(message, 3, 64)
        flags = int.from_bytes(message[60:64], "little")
        return cls(
            flags=flags,
            lm_response=take_field(message, 12, "LM response"),
            nt_response=take_field(message, 20, "NT response"),
            domain=decode_text(take_field(message, 28, "domain"), flags, "domain"),
            user=decode_text(take_field(message, 36, "user"), flags, "user"),
            workstation=decode_text(take_field(message, 44, "workstation"), flags, "workstation"),
            encrypted_session_key=take_field(message, 52, "session key"),
        )
