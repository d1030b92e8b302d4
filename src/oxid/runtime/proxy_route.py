"""The way through an RPC proxy: where it is, who we are to it, and how its tunnel is run. [MS-RPCH] 2.1.2"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from oxid.auth.credentials import Credentials
from oxid.errors import ConfigurationError
from oxid.runtime.http_auth import SCHEMES

RESOLVER_PORT: Final = 593
"""Where RPCSS listens for proxies. [MS-RPCH] 2.1"""
DEFAULT_PATH: Final = "/rpc/rpcproxy.dll"
TUNNEL_PERIOD: Final = 120.0
"""Seconds of a wire ConnectionTimeout; the timers of a tunnel are fractions of it."""
_IN_A_TARGET: Final = frozenset(map(chr, range(0x21, 0x7F)))
"""What the path of a request may be written with."""


@dataclass(frozen=True, slots=True)
class ProxyRoute:
    """How to reach RPC servers over HTTP; part of the key under which connections are shared."""

    url: str
    """`http://gateway[:port][/rpc/rpcproxy.dll]`, the same with https, or `direct` for servers that listen for proxies
    and are asked without one."""
    credentials: Credentials | None = None
    """Who we are to the web server; the calls inside have their own."""
    auth: str = "auto"
    """How we say it: one of `runtime.http_auth.SCHEMES`."""
    version: int = 2
    """2 for two channels, 1 for one connection (COM Internet Services of NT 4 and Windows 2000)."""
    cafile: str = ""
    """Certificates that a TLS server is checked against; empty for the system's."""
    insecure: bool = False
    """Take any TLS certificate: for labs."""
    certificate: str = ""
    """Our own certificate (PEM with its key) for proxies that ask for one."""
    key: str = ""
    """Its key, where that is in a file of its own."""
    receive_window: int = 256 * 1024
    """Bytes that the proxy may send before we acknowledge. [MS-RPCH] 2.2.3.5.1: 8 to 256 KiB"""
    period: float = field(default_factory=lambda: tunnel_period())
    """Scales the tunnel's timers; the proxy's must be the same."""
    in_lifetime: int = 1 << 30
    """Bytes of one IN channel, its Content-Length; 128 KiB to 2 GiB."""
    _parts: tuple[str, str, int, str] = field(init=False, repr=False, compare=False, default=("", "", 0, ""))

    def __post_init__(self) -> None:
        if self.auth not in SCHEMES:
            raise ConfigurationError(f"HTTP authentication {self.auth!r}: {', '.join(SCHEMES)} were expected")
        if self.version not in (1, 2):
            raise ConfigurationError(f"RPC over HTTP version {self.version}: 1 or 2 was expected")
        if not 128 * 1024 <= self.in_lifetime <= 1 << 31:
            raise ConfigurationError("the life of an IN channel is 128 KiB to 2 GiB")
        object.__setattr__(self, "_parts", _split(self.url))

    @property
    def direct(self) -> bool:
        """No proxy: the server's own port for proxies is spoken to. RH-10"""
        return self.url == "direct"

    @property
    def secure(self) -> bool:
        return self._parts[0] == "https"

    @property
    def host(self) -> str:
        return self._parts[1]

    @property
    def port(self) -> int:
        return self._parts[2]

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    def target(self, server: str, port: int) -> str:
        """The request target that names an RPC server. [MS-RPCH] 2.2.2"""
        return f"{self._parts[3]}?{server}:{port}"

    def tls(self) -> ssl.SSLContext | None:
        """The TLS settings, or None over plain HTTP. Raises ConfigurationError for files that cannot be used."""
        if not self.secure:
            return None
        files = self.cafile, self.certificate, self.key
        try:
            written = tuple(os.stat(file).st_mtime_ns if file else 0 for file in files)
            return _context(*files, self.insecure, written)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"TLS to {self.authority}: {error}") from error


@lru_cache(maxsize=16)
def _context(
    cafile: str, certificate: str, key: str, insecure: bool, written: tuple[int, ...]
) -> ssl.SSLContext:
    """Shared by the connections of a route: reading the system's certificates takes 20 ms. `written` tells the
    files of now from what they were."""
    context = ssl.create_default_context(cafile=cafile or None)
    if certificate:
        context.load_cert_chain(certificate, key or None, password=_no_password)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _no_password() -> str:
    """OpenSSL would ask the terminal, and everything would wait."""
    raise ssl.SSLError("the private key is encrypted: name one that is not")


def tunnel_period(environ: Mapping[str, str] | None = None) -> float:
    """The period that `OXID_TUNNEL_PERIOD` says, for tests, or the usual one. Raises ConfigurationError."""
    text = (os.environ if environ is None else environ).get("OXID_TUNNEL_PERIOD", "")
    if not text:
        return TUNNEL_PERIOD
    try:
        period = float(text)
    except ValueError:
        period = 0.0
    if not 0.05 <= period <= 86400:
        raise ConfigurationError(
            f"OXID_TUNNEL_PERIOD: {text!r} is no period: seconds from 0.05 to 86400 were wanted"
        )
    return period


def _split(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path of a proxy's address. Raises ConfigurationError."""
    if url == "direct":
        return "", "", 0, ""
    shown = url if "@" not in url else "…@" + url.rpartition("@")[2]  # a password may stand in front of it
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = (parts.hostname or "").encode("idna").decode("ascii"), parts.port
    except ValueError as error:
        raise ConfigurationError(f"{shown!r} is no address of an RPC proxy: {error}") from error
    if "@" in parts.netloc:
        raise ConfigurationError(
            f"{shown!r} is no address of an RPC proxy: the account is given apart from it (--proxy-user)"
        )
    if (
        parts.scheme not in ("http", "https")
        or not host
        or parts.query
        or parts.fragment
        or not _IN_A_TARGET.issuperset(parts.path)
    ):
        raise ConfigurationError(
            f"{shown!r} is no address of an RPC proxy: http://gateway/rpc/rpcproxy.dll was expected"
        )
    path = parts.path if parts.path not in ("", "/") else DEFAULT_PATH
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path
