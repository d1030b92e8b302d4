"""The TLS channel that an authentication belongs to: tls-server-end-point. [RFC5929] 4, [MS-NLMP] 2.2.2.1

    bindings = tls_server_end_point(certificate)      16 bytes, for `initiator(channel_bindings=...)`

Both ends hash the server's certificate; who stands in the middle has another one.
"""

from __future__ import annotations

import hashlib
from struct import pack

from cryptography import x509

from oxid.errors import ConfigurationError


def application_data(certificate: bytes) -> bytes:
    """What the channel is called: the prefix and the certificate's hash. `certificate` in DER.

    Raises ConfigurationError for what is no certificate.
    """
    try:
        algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    except ValueError as error:
        raise ConfigurationError(f"the TLS certificate cannot be read: {error}") from error
    name = "sha256" if algorithm is None or algorithm.name in ("md5", "sha1") else algorithm.name
    return b"tls-server-end-point:" + hashlib.new(name, certificate).digest()


def tls_server_end_point(certificate: bytes) -> bytes:
    """MD5 of the gss_channel_bindings_struct with the name of this channel, as NTLM carries it."""
    name = application_data(certificate)
    return hashlib.md5(bytes(16) + pack("<I", len(name)) + name, usedforsecurity=False).digest()
