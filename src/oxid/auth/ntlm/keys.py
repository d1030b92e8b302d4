"""The keys NTLM derives from one another. [MS-NLMP] 3.3.2, 3.4.5, 6"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from cryptography.hazmat.decrepit.ciphers.algorithms import ARC4
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext

from oxid.auth.ntlm.messages import KEY_56, KEY_128

_CLIENT_SIGNING: Final = b"session key to client-to-server signing key magic constant\0"
_SERVER_SIGNING: Final = b"session key to server-to-client signing key magic constant\0"
_CLIENT_SEALING: Final = b"session key to client-to-server sealing key magic constant\0"
_SERVER_SEALING: Final = b"session key to server-to-client sealing key magic constant\0"


def uppercase(name: str) -> str:
    """Windows' upper case: character by character, never changing the length."""
    raised = name.upper()
    if len(raised) == len(name):
        return raised
    return "".join(up if len(up := c.upper()) == 1 else c for c in name)


def hmac_md5(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "md5")


def ntowf_v2(nt_hash: bytes, user: str, domain: str) -> bytes:
    """The response key: NT hash, upper-case user and domain as sent. [MS-NLMP] 3.3.2"""
    return hmac_md5(nt_hash, (uppercase(user) + domain).encode("utf-16-le", "surrogatepass"))


def arc4(key: bytes) -> CipherContext:
    """A fresh RC4 key stream."""
    return Cipher(ARC4(key), None).encryptor()


def rc4k(key: bytes, data: bytes) -> bytes:
    return arc4(key).update(data)


def signing_key(session_key: bytes, *, of_client: bool) -> bytes:
    """SIGNKEY with extended session security. [MS-NLMP] 3.4.5.2"""
    magic = _CLIENT_SIGNING if of_client else _SERVER_SIGNING
    return hashlib.md5(session_key + magic, usedforsecurity=False).digest()


def sealing_key(flags: int, session_key: bytes, *, of_client: bool) -> bytes:
    """SEALKEY with extended session security: 128, 56 or 40 bits of entropy. [MS-NLMP] 3.4.5.3"""
    size = 16 if flags & KEY_128 else 7 if flags & KEY_56 else 5
    magic = _CLIENT_SEALING if of_client else _SERVER_SEALING
    return hashlib.md5(session_key[:size] + magic, usedforsecurity=False).digest()
