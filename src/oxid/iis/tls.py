"""TLS contexts of listeners: at least TLS 1.2, client certificates where asked for, one certificate per site by name.

contexts = Contexts(sites)
contexts.default, contexts.binding_of(ssl_object)
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from oxid.auth.channel_binding import tls_server_end_point
from oxid.errors import ConfigurationError
from oxid.iis.settings import SiteSettings, TlsSettings

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_MODES: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


@dataclass(frozen=True, slots=True)
class TlsInfo:
    """What is known of a connection's TLS."""

    cipher: str
    protocol: str
    bits: int
    peer_certificate: bytes | None
    """DER; checked against the listener's authorities."""
    channel_binding: bytes | None
    """Hash of our certificate, as NTLM and Negotiate carry it. [RFC5929] 4"""


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """A context for a certificate. Raises ConfigurationError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.cert, settings.key)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"cannot use the certificate {settings.cert}: {reason}") from error
    context.set_alpn_protocols(["http/1.1"])
    context.verify_mode = _MODES[settings.client_certificates]
    if settings.client_certificates != "none":
        try:
            if settings.client_ca is None:
                context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
            else:
                context.load_verify_locations(settings.client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"cannot use {settings.client_ca}: {error}") from error
    return context


def channel_binding(cert: Path) -> bytes | None:
    """tls-server-end-point of the first certificate of a PEM file."""
    match = _PEM.search(cert.read_text(encoding="ascii", errors="replace"))
    return None if match is None else tls_server_end_point(ssl.PEM_cert_to_DER_cert(match[0]))


class Contexts:
    """The contexts of one TLS listener, chosen by the name the client asks for (SNI)."""

    __slots__ = ("_bindings", "_by_name", "_current", "default", "fallback")

    def __init__(self, sites: Sequence[SiteSettings], fallback: TlsSettings | None) -> None:
        """Raises ConfigurationError where there is no certificate at all."""
        made: dict[int, ssl.SSLContext] = {}
        self._by_name: dict[str, ssl.SSLContext] = {}
        self._bindings: dict[int, bytes | None] = {}
        default: ssl.SSLContext | None = None
        every = [(tls, "") for tls in (fallback,) if tls is not None]
        for site in sites:
            if site.tls is not None:
                every += [(site.tls, binding.host) for binding in site.bindings if binding.tls]
        for tls, name in every:
            context = made.get(id(tls))
            if context is None:
                context = made[id(tls)] = server_context(tls)
                self._bindings[id(context)] = channel_binding(tls.cert)
            if name:
                self._by_name.setdefault(name, context)
            if default is None or (not name and fallback is None):
                default = context
        if default is None:
            raise ConfigurationError("a TLS listener needs a certificate: cert and key of the site")
        self.fallback = fallback
        self.default = default
        """What the listener was made with."""
        self._current = default
        default.sni_callback = self._choose

    def succeed(self, other: Contexts) -> None:
        """Show the certificates of `other` from the next handshake on."""
        self._by_name = other._by_name
        self._current = other.default
        self._bindings |= other._bindings

    def _choose(self, ssl_object: Any, name: str | None, _: ssl.SSLContext) -> None:
        chosen = self._by_name.get((name or "").lower(), self._current)
        if chosen is not self.default:
            ssl_object.context = chosen

    def binding_of(self, ssl_object: Any) -> bytes | None:
        """The channel binding of the certificate that was shown."""
        return self._bindings.get(id(ssl_object.context))
