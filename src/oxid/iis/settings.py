"""What a web server serves: one tree of frozen values. metabase-adsi, isapi.md 7; CONTRACT 4

    ServerSettings -> SiteSettings -> DirectorySettings

`WebServer.apply(settings)` swaps the tree while requests are in flight: each keeps what it began with. Files are read
into it by `settings_file.sites_from`; the metabase drives the same tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import MappingProxyType
from typing import Final

from oxid.iis.limits import HttpLimits


class Access(IntFlag):
    """What a directory permits; numbers of the metabase's AccessFlags (6016)."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXECUTE = 4
    SSL = 8
    """Only over TLS."""
    NEGOTIATE_CERTIFICATE = 0x20
    REQUIRE_CERTIFICATE = 0x40
    MAP_CERTIFICATE = 0x80
    """A client certificate of the table is a log-on."""
    SSL_128 = 0x100
    SCRIPT = 0x200


class Auth(IntFlag):
    """How callers may say who they are; the first three are the metabase's AuthFlags (6000)."""

    NONE = 0
    ANONYMOUS = 1
    BASIC = 2
    NTLM = 4
    NEGOTIATE = 8


class MapFlags(IntFlag):
    """Flags of a script map. isapi.md 7"""

    NONE = 0
    SCRIPT = 1
    """Script permission is enough; else Execute is needed."""
    CHECK_FILE = 4
    """404 where the file that the URL names is not there."""


@dataclass(frozen=True, slots=True)
class HandlerSettings:
    """Who answers: a kind that was registered with the server, and what that kind is to run."""

    kind: str
    argument: str = ""


@dataclass(frozen=True, slots=True)
class ScriptMap:
    """Requests for names with an extension, or all of them, go to a handler. ScriptMaps (6014)"""

    extension: str
    """`.py` in lower case, or `*`."""
    handler: HandlerSettings
    flags: MapFlags = MapFlags.SCRIPT
    verbs: frozenset[str] | None = None
    """Methods that are let through; None for all."""


@dataclass(frozen=True, slots=True)
class Module:
    """A URL name that is an extension by itself, like `rpcproxy.dll`; needs Execute. No file has to be there."""

    name: str
    """In lower case."""
    handler: HandlerSettings
    path_info: bool = False
    """Whether anything may follow the name."""


Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class DirectorySettings:
    """A virtual directory and everything below it that has no own."""

    path: str = "/"
    """Where it begins, without a slash at the end (except the root's)."""
    physical: Path | None = None
    """Where its files are; None for one that has only handlers."""
    access: Access = Access.READ | Access.SCRIPT
    auth: Auth = Auth.ANONYMOUS
    script_maps: tuple[ScriptMap, ...] = ()
    modules: tuple[Module, ...] = ()
    executables: Mapping[str, HandlerSettings] = field(default_factory=lambda: NO_EXECUTABLES)
    """Extension of files that are extensions themselves (`.dll`, `.so`) -> who runs them; needs Execute."""
    isolated: int = 0
    """AppIsolated: 0 in this process, 1 in one of its own, 2 pooled."""
    default_documents: tuple[str, ...] | None = None
    """None: those of the site."""
    browse: bool = False
    """List what is in a directory without a default document."""
    follow_links: bool = False
    """Whether symbolic links may lead out of `physical`."""
    mime_types: Mapping[str, str] = field(default_factory=lambda: NO_TYPES)
    """Extension -> media type, before the server's."""
    allow_plain_basic: bool = False
    """Basic without TLS: passwords can be read on the way."""
    auth_persists: bool = True
    """NTLM and Negotiate hold for the connection, not only for one request. AuthPersistence (6031)"""
    require_channel_binding: bool = False
    """Over TLS, NTLM has to name our certificate (extended protection); clients that do not are refused."""
    certificates: Mapping[str, str] = field(default_factory=lambda: NO_TYPES)
    """SHA-256 of a client certificate in hexadecimal -> account."""
    allow: tuple[Network, ...] = ()
    """Addresses that may come; empty for all."""
    deny: tuple[Network, ...] = ()
    """Addresses that may not, whatever `allow` says."""
    max_body: int | None = None
    """Bytes of a request body, 413 above; None: any, as a stream. RH-20"""
    cache_control: str = ""
    """Of files."""


NO_TYPES: Final[Mapping[str, str]] = MappingProxyType({})
NO_EXECUTABLES: Final[Mapping[str, HandlerSettings]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How a listener speaks TLS."""

    cert: Path
    """PEM with the certificate and what stands between it and a root."""
    key: Path | None = None
    """PEM with the key; None where `cert` holds it too."""
    client_certificates: str = "none"
    """`none`, `optional` or `required`."""
    client_ca: Path | None = None
    """PEM with whom client certificates are checked against."""

    def __post_init__(self) -> None:
        if self.client_certificates not in ("none", "optional", "required"):
            raise ValueError(f"client_certificates {self.client_certificates!r}: none, optional or required")


@dataclass(frozen=True, slots=True)
class Binding:
    """What a site listens to; empty and 0 stand for any."""

    address: str = ""
    port: int = 0
    host: str = ""
    """The Host header, in lower case, without port."""
    tls: bool = False

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address or "*"
        return f"{'https/' if self.tls else ''}{address}:{self.port or '*'}:{self.host}"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """An access log in the W3C extended format. [W3C WD-logfile]"""

    directory: Path
    fields: tuple[str, ...] = (
        "date",
        "time",
        "s-sitename",
        "s-ip",
        "cs-method",
        "cs-uri-stem",
        "cs-uri-query",
        "s-port",
        "cs-username",
        "c-ip",
        "cs(User-Agent)",
        "sc-status",
        "sc-substatus",
        "sc-win32-status",
        "sc-bytes",
        "cs-bytes",
        "time-taken",
    )
    """In order; IIS's names."""
    roll: str = "daily"
    """`daily`, or `size`."""
    roll_size: int = 20 * 1024 * 1024
    """Bytes of a file that rolls by size. IIS: 20 MB."""
    delay: float = 1.0
    """Seconds a line may wait for others before it is written."""


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """One web site."""

    id: int = 1
    name: str = ""
    bindings: tuple[Binding, ...] = (Binding(),)
    directories: tuple[DirectorySettings, ...] = (DirectorySettings(),)
    """The root `/` and any others; the longest that is a prefix of the path is used."""
    default_documents: tuple[str, ...] = ("default.htm", "default.html", "index.htm", "index.html")
    tls: TlsSettings | None = None
    keep_alive: bool = True
    """AllowKeepAlive (6038)."""
    log: LogSettings | None = None
    error_pages: Mapping[str, Path] = field(default_factory=lambda: NO_PAGES)
    """`404` or `403.4` -> an HTML file."""
    realm: str = ""
    """Of Basic; empty: the host name asked for."""
    mime_types: Mapping[str, str] = field(default_factory=lambda: NO_TYPES)


NO_PAGES: Final[Mapping[str, Path]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Everything of one web server."""

    sites: tuple[SiteSettings, ...] = ()
    limits: HttpLimits = field(default_factory=HttpLimits)
    filters: tuple[str, ...] = ()
    """Python files of ISAPI filters, in the order in which they are loaded. They see every site."""
    server_header: str = "Microsoft-IIS/6.0"
    """What extensions and clients see as SERVER_SOFTWARE; empty sends none."""
    file_check: float = 0.5
    """Seconds for which a cached small file is not looked at again."""
