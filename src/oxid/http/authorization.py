"""The Authorization header, taken apart. RFC 9110 11.6.2, RFC 7617, RFC 4559

scheme, token = split_authorization(value)         ("ntlm", b"TlRM...")
user, password = basic_credentials(token)
"""

from __future__ import annotations

import binascii
from base64 import b64decode

from oxid.http.errors import BadRequest


def split_authorization(value: bytes) -> tuple[str, bytes]:
    """The scheme in lower case and what follows it."""
    scheme, _, rest = value.strip().partition(b" ")
    return scheme.decode("latin-1").lower(), rest.strip()


def decode_token(token: bytes) -> bytes:
    """What NTLM, Negotiate and Basic carry in base64. Raises BadRequest."""
    try:
        return b64decode(token, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("the Authorization header is no base64") from None


def basic_credentials(token: bytes) -> tuple[str, str]:
    """User and password; UTF-8, or Latin-1 where it is none. Raises BadRequest."""
    raw = decode_token(token)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    user, colon, password = text.partition(":")
    if not colon or any(character < " " or character == "\x7f" for character in text):
        raise BadRequest("Basic credentials without a colon, or with control characters")
    return user, password
