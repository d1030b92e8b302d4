"""What people set: host options from command line, environment and file; how a target is written.

    options = host_options({"rpc": ["127.0.0.1:0"]}, environ=os.environ, file=Path("oxid.toml"))
    target = Target.parse("LAB\\\\admin%secret@server:10135")

The command line wins over `OXID_*` in the environment, that over `[host]` in the file. A wrong value or an
unknown key raises ConfigurationError, which names where it stands and what was probably meant.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Self

from oxid.auth.credentials import Credentials, Keytab, Password
from oxid.errors import ConfigurationError
from oxid.iis.rpc_proxy.settings import proxy_settings
from oxid.iis.settings import ServerSettings
from oxid.iis.settings_file import sites_from
from oxid.rpcss.class_registry import ClassRegistry
from oxid.rpcss.registry_file import read_registry

DEFAULT_RPC_PORT: Final = 135
DEFAULT_NCACN_HTTP_PORT: Final = 593
FALLBACK_NCACN_HTTP_PORT: Final = 10593
DEFAULT_HTTP_PORT: Final = 8080
FALLBACK_RPC_PORT: Final = 10135
"""Where the default listener goes when 135 may not be bound."""

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
DEFAULT_TUNNEL_PERIOD_S: Final = 120.0
"""[MS-RPCH] 2.2.3.5.3"""
DEFAULT_PING_PERIOD_S: Final = 120.0
"""[MS-DCOM] 3.1.2.3"""


@dataclass(frozen=True, slots=True)
class Address:
    """A host name or IP address with a port; `[::1]:135` as text."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, default_port: int | None = None) -> Self:
        """Read HOST:PORT; the port may be absent only where there is a default. ConfigurationError"""
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or rest[:1] not in ("", ":"):
                raise ConfigurationError(f"{text!r}: an IPv6 address is written [ADDRESS]:PORT")
            port = rest[1:] if rest else None
        else:
            host, colon, after = text.partition(":")
            port = after if colon else None
            if port is not None and ":" in port:
                raise ConfigurationError(f"{text!r}: an IPv6 address is written in brackets, [ADDRESS]:PORT")
        if not host or any(character.isspace() for character in host):
            raise ConfigurationError(f"{text!r}: no host in front of the port; HOST:PORT was wanted")
        if ":" not in host and not _can_be_looked_up(host):
            raise ConfigurationError(
                f"{text!r}: {host[:60]!r} is no host name: its parts have from 1 to 63 characters"
            )
        if port is None:
            if default_port is None:
                raise ConfigurationError(f"{text!r}: no port; HOST:PORT was wanted, port 0 takes a free one")
            return cls(host, default_port)
        return cls(host, _port(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


OFF: Final = Address("off", 0)
"""In the place of an address: no such listener."""


@dataclass(frozen=True, slots=True)
class PortRange:
    """First and last port of a range."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read LO-HI. ConfigurationError"""
        low, dash, high = text.partition("-")
        if not dash:
            raise ConfigurationError(f"{text!r}: a range of ports is written LO-HI")
        ports = cls(_port(low), _port(high))
        if not 0 < ports.low <= ports.high:
            raise ConfigurationError(
                f"{text!r}: the first port of a range is at least 1 and at most the last"
            )
        return ports

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a client command speaks to, and as whom: `[[DOMAIN\\]user[%password]@]host[:port]`."""

    host: str
    port: int = DEFAULT_RPC_PORT
    user: str = ""
    domain: str = ""
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The last @ splits account and host, the first % account and password. ConfigurationError"""
        account, at, place = text.rpartition("@")
        address = Address.parse(place, default_port=DEFAULT_RPC_PORT)
        name, percent, password = account.partition("%")
        domain, _, user = name.rpartition("\\")
        if at and not user:
            raise ConfigurationError(
                "no user in front of the @; [[DOMAIN\\]user[%password]@]host[:port] was wanted"
            )
        return cls(address.host, address.port, user, domain, password if percent else None)

    @property
    def address(self) -> Address:
        return Address(self.host, self.port)


@dataclass(frozen=True, slots=True)
class HostOptions:
    """Everything `oxid serve` can be told."""

    state: Path
    """Accounts, the control socket, logs."""
    rpc: tuple[Address, ...] = ()
    """Endpoint mapper, resolver and activation; empty = 127.0.0.1:135, else port 10135."""
    ncacn_http: tuple[Address, ...] | None = None
    """The same services for RPC proxies; empty = 127.0.0.1:593, else port 10593; None = off."""
    http: tuple[Address, ...] | None = None
    """The web server; empty = 127.0.0.1:8080; None = off, unless there is `https` or a site says where."""
    https: tuple[Address, ...] = ()
    """The web server over TLS; needs `cert` and `key`."""
    cert: Path | None = None
    """The web server's certificate chain, PEM."""
    key: Path | None = None
    """Its private key, PEM; None where the certificate's file holds it."""
    tunnel_period: float = DEFAULT_TUNNEL_PERIOD_S
    """Seconds of a wire ConnectionTimeout of 120 s; every timer of RPC over HTTP scales with it."""
    proxy_insecure: bool = False
    """The RPC proxy takes anonymous and plain-HTTP clients: for labs."""
    exporter_ports: PortRange | None = None
    """Ports of the object exporters; None = whatever is free."""
    advertise: tuple[str, ...] = ()
    """Host names or addresses for string bindings; empty = the addresses listened on."""
    ping_period: float = DEFAULT_PING_PERIOD_S
    """Seconds between pings; every lifetime timer scales with it."""
    keytab: Path | None = None
    """Kerberos keys; None = no Kerberos."""
    log_level: str = "info"
    log_json: bool = False
    log_file: Path | None = None
    """None = stderr."""
    insecure_anonymous: bool = False
    """Anonymous callers may activate and call: for labs."""
    isolate: bool = False
    """Each application in a process of its own."""
    identity: Path | None = None
    """A file with the account as which this host calls others; None for nobody."""
    registry: ClassRegistry = field(default_factory=ClassRegistry)
    """Applications, classes and permissions, of the file and of the state directory."""
    sites: ServerSettings | None = None
    """The web sites of the file; None where it names none."""
    rpc_proxy: Mapping[str, Any] = field(default_factory=dict)
    """The file's table `[rpc_proxy]`."""
    agent: Path | None = None
    """The socket on which this host is its machine's agent; None for a host that is none."""

    @property
    def local_channel(self) -> Path:
        """Where processes of this machine find the host."""
        return self.state / "rpcss"

    @property
    def accounts_file(self) -> Path:
        return self.state / "accounts.json"

    @property
    def control_socket(self) -> Path:
        return self.state / "control"


def host_options(
    command_line: Mapping[str, Any], *, environ: Mapping[str, str], file: Path | None = None
) -> HostOptions:
    """Merge the three sources; keys of `command_line` are option names, None means not given.

    Raises ConfigurationError for a wrong value, an unknown key, or a file that cannot be read.
    """
    chosen: dict[str, Any] = {}
    registry = ClassRegistry()
    if file is not None:
        base = file.absolute().parent
        document = _document(file)
        registry = ClassRegistry.parse(document, str(file))
        chosen.update(_web_tables(document, file, base))
        for name, value in _host_table(document, file).items():
            setting = _setting(name, f"{file}: [host]")
            chosen[setting.field] = setting.value(value, f"{file}: [host] {name}", base)
    here = Path()
    for setting in SETTINGS:
        if (text := environ.get(setting.variable)) is not None:
            chosen[setting.field] = setting.value(text, setting.variable, here)
    for name, value in command_line.items():
        if value is not None and value != ():
            setting = _setting(name, "command line")
            chosen[setting.field] = setting.value(value, f"--{setting.name}", here)
    chosen.setdefault("state", state_directory(environ))
    for listener in CAN_BE_OFF:
        chosen[listener] = None if chosen.get(listener) == (OFF,) else chosen.get(listener, ())
    registered = read_registry(chosen["state"])
    merged = replace(registered.merged(registry), permissions=registry.permissions)
    merged.check()
    return HostOptions(**chosen, registry=merged)


def state_directory(environ: Mapping[str, str]) -> Path:
    """Where a host keeps its things when nothing was said. XDG base directory specification"""
    if told := environ.get("OXID_STATE"):
        return Path(told)
    base = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME", ".")) / ".local" / "state"
    return Path(base) / "oxid"


@dataclass(frozen=True, slots=True)
class Setting:
    """One option by its name, wherever it is set."""

    name: str
    parse: Callable[[str], Any]
    repeatable: bool = False
    is_path: bool = False

    @property
    def field(self) -> str:
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        return f"OXID_{self.field.upper()}"

    def value(self, given: Any, where: str, base: Path) -> Any:
        """Turn what was given (text, list, number, boolean) into the option's value."""
        if self.repeatable:
            items = (
                given if isinstance(given, Sequence) and not isinstance(given, str) else str(given).split(",")
            )
            return tuple(_named(where, self.parse, item) for item in items)
        parsed = _named(where, self.parse, given)
        return base / parsed if self.is_path else parsed


def _named(where: str, parse: Callable[[str], Any], given: Any) -> Any:
    text = str(given).lower() if isinstance(given, bool) else str(given).strip()
    try:
        return parse(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None


def _can_be_looked_up(host: str) -> bool:
    """Whether a name can be asked of the resolver at all: no part empty or too long. RFC 1035 2.3.4"""
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 0xFFFF:
        raise ConfigurationError(f"{text!r} is no port: a number from 0 to 65535 was wanted")
    return int(text)


def parse_period(text: str) -> float:
    """Seconds of a ping period. ConfigurationError"""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0.05 <= seconds <= 86400:
        raise ConfigurationError(f"{text!r} is no period: seconds from 0.05 to 86400 were wanted")
    return seconds


def parse_listener(text: str) -> Address:
    """HOST:PORT, or `off`. ConfigurationError"""
    return OFF if text == "off" else Address.parse(text)


def _switch(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ConfigurationError(f"{text!r}: true or false was wanted")


def _path(text: str) -> Path:
    if not text:
        raise ConfigurationError("a path was wanted")
    return Path(text).expanduser()


def _level(text: str) -> str:
    if text.lower() not in LOG_LEVELS:
        raise ConfigurationError(f"{text!r} is no log level: {', '.join(LOG_LEVELS)}")
    return text.lower()


def _host_name(text: str) -> str:
    if not text or any(character.isspace() or character in "[]" for character in text):
        raise ConfigurationError(f"{text!r} is no host name or address; IPv6 without brackets here")
    return text


SETTINGS: Final = (
    Setting("state", _path, is_path=True),
    Setting("rpc", Address.parse, repeatable=True),
    Setting("ncacn-http", parse_listener, repeatable=True),
    Setting("http", parse_listener, repeatable=True),
    Setting("https", Address.parse, repeatable=True),
    Setting("cert", _path, is_path=True),
    Setting("key", _path, is_path=True),
    Setting("tunnel-period", parse_period),
    Setting("proxy-insecure", _switch),
    Setting("exporter-ports", PortRange.parse),
    Setting("advertise", _host_name, repeatable=True),
    Setting("ping-period", parse_period),
    Setting("keytab", _path, is_path=True),
    Setting("log-level", _level),
    Setting("log-json", _switch),
    Setting("log-file", _path, is_path=True),
    Setting("insecure-anonymous", _switch),
    Setting("isolate", _switch),
    Setting("identity", _path, is_path=True),
)
assert {setting.field for setting in SETTINGS} == {field.name for field in fields(HostOptions)} - {
    "registry",
    "agent",
    "sites",
    "rpc_proxy",
}

CAN_BE_OFF: Final = ("ncacn_http", "http")
TABLES: Final = ("host", "app", "class", "permissions", "site", "rpc_proxy")
"""What a configuration file may hold."""


def _setting(name: str, where: str) -> Setting:
    wanted = name.replace("_", "-")
    for setting in SETTINGS:
        if setting.name == wanted:
            return setting
    raise ConfigurationError(f"{where}: unknown key {name!r}{nearest(wanted, [s.name for s in SETTINGS])}")


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?` where something known is near, else what there is."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"


def _document(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            document = tomllib.load(stream)
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is no TOML: {error}") from error
    for name in document:
        if name not in TABLES:
            raise ConfigurationError(f"{file}: unknown key {name!r}{nearest(name, TABLES)}")
    return document


def _web_tables(document: Mapping[str, Any], file: Path, base: Path) -> dict[str, Any]:
    """The web sites, and how their RPC proxy is set up. Raises ConfigurationError."""
    found: dict[str, Any] = {}
    if "site" in document:
        found["sites"] = sites_from(document["site"], base=base, where=str(file))
    if "rpc_proxy" in document:
        table = document["rpc_proxy"]
        if not isinstance(table, dict):
            raise ConfigurationError(f"{file}: 'rpc_proxy' is a table, written [rpc_proxy]")
        proxy_settings(table, f"{file}: [rpc_proxy]")  # what is wrong is said where it is read
        found["rpc_proxy"] = table
    return found


def _host_table(document: Mapping[str, Any], file: Path) -> dict[str, Any]:
    table = document.get("host", {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"{file}: 'host' is a table, written [host]")
    return table


def credentials_file(path: str | Path) -> Credentials:
    """Read an account from a file of lines `username = …`, `password = …`, `domain = …`, as Samba's tools do; for
    Kerberos `keytab = FILE` (relative to this one) in place of the password, with the principal as the user name.

    Raises ConfigurationError for a file that others can read, or that names nobody.
    """
    path = Path(path)
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigurationError(f"{path} holds a password and can be read by others: chmod 600 {path}")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    found: dict[str, str] = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if equals and not line.lstrip().startswith("#"):
            found[key.strip().lower()] = value.strip()
    if keytab := found.get("keytab"):
        return Keytab(str(path.parent.absolute() / keytab), found.get("username"))
    if not found.get("username"):
        raise ConfigurationError(f"{path}: no line username = NAME")
    domain, _, user = found["username"].rpartition("\\")
    return Password(user, found.get("password", ""), found.get("domain", domain))
