"""The certificates of a TLS session, as server variables and GET_CERT_INFO_EX tell them. isapi.md §4, §8"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange


def peer_certificate(exchange: Exchange) -> bytes | None:
    """The client's certificate as DER, or None."""
    tls = exchange.connection.tls
    found: bytes | None = None if tls is None else getattr(tls, "peer_certificate", None)
    return found


def own_certificate(exchange: Exchange) -> bytes | None:
    """The server's certificate as DER, where the connection knows it."""
    tls = exchange.connection.tls
    found: bytes | None = None if tls is None else getattr(tls, "own_certificate", None)
    return found


def field(certificate: bytes | None, part: str) -> str:
    """One field of a certificate, by the last word of its variable: subject, issuer, serial, cookie, flags, bits."""
    if not certificate:
        return "0" if part == "flags" else ""
    if part == "flags":
        return "1"  # a certificate is there; who is not trusted does not come this far
    if part == "cookie":
        return hashlib.md5(certificate, usedforsecurity=False).hexdigest()
    return _fields(certificate).get(part, "")


@lru_cache(maxsize=256)
def _fields(certificate: bytes) -> dict[str, str]:
    from cryptography import x509  # 0.2 s that most workers never need

    try:
        read = x509.load_der_x509_certificate(certificate)
    except ValueError:
        return {}
    serial = f"{read.serial_number:x}"
    serial = serial.zfill(len(serial) + len(serial) % 2)
    return {
        "subject": read.subject.rfc4514_string(),
        "issuer": read.issuer.rfc4514_string(),
        "serial": "-".join(serial[i : i + 2] for i in range(0, len(serial), 2)),
        "bits": str(getattr(read.public_key(), "key_size", "")),
    }
