"""Sites from the tables of a configuration file. CONTRACT 4

    settings = sites_from(document["site"], base=Path("/etc/oxid"), where="oxid.toml")

    [[site]]
    bindings = ["127.0.0.1:8080:www.example", "https/*:8443:"]       [https/]ADDRESS:PORT:HOST
    root = "web"
    [[site.dir]]
    path = "/app"
    access = ["read", "script"]
    auth = ["basic", "ntlm"]
    script_maps = ["*,asgi:package.module:app,1"]                    EXTENSION,[KIND:]PROCESSOR,FLAGS[,VERBS]

Every error is a ConfigurationError that names the key and what was probably meant.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from oxid.errors import ConfigurationError
from oxid.iis.access_log import check_fields
from oxid.iis.limits import HttpLimits
from oxid.iis.settings import (
    Access,
    Auth,
    Binding,
    DirectorySettings,
    HandlerSettings,
    LogSettings,
    MapFlags,
    Module,
    Network,
    ScriptMap,
    ServerSettings,
    SiteSettings,
    TlsSettings,
)

T = TypeVar("T")

KINDS: Final = ("isapi", "asgi", "rpcproxy")
"""Who may answer; a processor without one of these in front is an ISAPI extension."""
SITE_KEYS: Final = (
    "id", "name", "bindings", "root", "default_documents", "cert", "key", "client_certificates", "client_ca",
    "keep_alive", "limits", "realm", "error_pages", "mime_types", "log", "access", "auth", "browse", "dir",
    "filters",
)  # fmt: skip
DIRECTORY_KEYS: Final = (
    "path", "physical", "access", "auth", "script_maps", "modules", "isolated", "default_documents", "browse",
    "follow_links", "mime_types", "allow_plain_basic", "auth_persists", "require_channel_binding",
    "certificates", "allow", "deny", "max_body", "cache_control",
)  # fmt: skip
LOG_KEYS: Final = ("directory", "fields", "roll", "roll_size", "delay")

_ACCESS: Final = {
    "read": Access.READ, "write": Access.WRITE, "execute": Access.EXECUTE, "script": Access.SCRIPT,
    "ssl": Access.SSL, "ssl128": Access.SSL_128, "negotiate_certificate": Access.NEGOTIATE_CERTIFICATE,
    "require_certificate": Access.REQUIRE_CERTIFICATE, "map_certificate": Access.MAP_CERTIFICATE,
}  # fmt: skip
_AUTH: Final = {
    "anonymous": Auth.ANONYMOUS, "basic": Auth.BASIC, "ntlm": Auth.NTLM, "negotiate": Auth.NEGOTIATE,
}  # fmt: skip


def sites_from(tables: object, *, base: Path, where: str = "configuration") -> ServerSettings:
    """The tree for a file's `[[site]]` tables; relative paths begin at `base`. Raises ConfigurationError."""
    if not isinstance(tables, list):
        _fail(where, "'site' is a list of tables, written [[site]]")
    sites: list[SiteSettings] = []
    limits: HttpLimits | None = None
    filters: list[str] = []
    for number, table in enumerate(tables, 1):
        at = f"{where}: [[site]] {number}"
        site = _Table(table, SITE_KEYS, at, base)
        own = site.limits()
        if own is not None:
            if limits is not None and own != limits:
                _fail(f"{at} limits", "they hold for the whole server, and another site says otherwise")
            limits = own
        filters += [str(base / name) for name in site.each("filters", str)]
        made = _site(site, number)
        if any(made.id == other.id for other in sites):
            _fail(f"{at} id", f"there are two sites with id {made.id}")
        sites.append(made)
    _check_bindings(sites, where)
    loaded = tuple(dict.fromkeys(filters))
    return ServerSettings(sites=tuple(sites), limits=limits or HttpLimits(), filters=loaded)


def _site(table: _Table, number: int) -> SiteSettings:
    cert = table.path("cert")
    tls = None
    if cert is not None:
        client = table.text("client_certificates", "none")
        if client not in ("none", "optional", "required"):
            table.fail("client_certificates", f"{client!r}: none, optional or required")
        tls = TlsSettings(cert, table.path("key"), client, table.path("client_ca"))
    elif table.given("key"):
        table.fail("key", "a key without a certificate: cert is missing")
    bindings = tuple(table.each("bindings", parse_binding)) or (Binding(),)
    if tls is None and any(binding.tls for binding in bindings):
        table.fail("bindings", "https needs a certificate: cert and key")
    root = DirectorySettings(
        physical=table.path("root"),
        access=table.flags("access", _ACCESS, Access.READ | Access.SCRIPT),
        auth=table.flags("auth", _AUTH, Auth.ANONYMOUS),
        browse=table.switch("browse", False),
    )
    directories = [root]
    for index, raw in enumerate(table.tables("dir"), 1):
        made = _directory(
            _Table(raw, DIRECTORY_KEYS, f"{table.where} [[site.dir]] {index}", table.base), root
        )
        if made.path == "/":
            directories[0] = made
        elif any(made.path.lower() == other.path.lower() for other in directories):
            _fail(f"{table.where} [[site.dir]] {index} path", f"{made.path} is there twice")
        else:
            directories.append(made)
    return SiteSettings(
        id=table.number("id", number, 1),
        name=table.text("name", ""),
        bindings=bindings,
        directories=tuple(directories),
        default_documents=tuple(table.each("default_documents", str)) or SiteSettings().default_documents,
        tls=tls,
        keep_alive=table.switch("keep_alive", True),
        log=_log(table),
        error_pages={key: table.base / value for key, value in table.mapping("error_pages").items()},
        realm=table.text("realm", ""),
        mime_types=_extensions(table.mapping("mime_types")),
    )


def _directory(table: _Table, root: DirectorySettings) -> DirectorySettings:
    path = table.text("path", "")
    if not path.startswith("/") or "//" in path or "\\" in path or "/." in path:
        table.fail("path", f"{path!r}: a path from the site's root was expected, like /app")
    path = path.rstrip("/") or "/"
    access = table.flags("access", _ACCESS, root.access)
    isolated = table.number("isolated", 0, 0)
    if isolated > 2:
        table.fail("isolated", f"{isolated}: 0 in process, 1 isolated, 2 pooled")
    physical = table.path("physical")
    if physical is None and root.physical is not None:
        physical = root.physical.joinpath(*(part for part in path.split("/") if part))
    runs = HandlerSettings("isapi")
    return DirectorySettings(
        path=path,
        physical=physical,
        access=access,
        auth=table.flags("auth", _AUTH, root.auth),
        script_maps=tuple(_located(one, table.base) for one in table.each("script_maps", parse_script_map)),
        modules=tuple(_located(one, table.base) for one in table.each("modules", _module)),
        executables={".dll": runs, ".so": runs} if access & Access.EXECUTE else {},
        isolated=isolated,
        default_documents=tuple(table.each("default_documents", str))
        if table.given("default_documents")
        else None,
        browse=table.switch("browse", False),
        follow_links=table.switch("follow_links", False),
        mime_types=_extensions(table.mapping("mime_types")),
        allow_plain_basic=table.switch("allow_plain_basic", False),
        auth_persists=table.switch("auth_persists", True),
        require_channel_binding=table.switch("require_channel_binding", False),
        certificates={
            key.replace(":", "").lower(): name for key, name in table.mapping("certificates").items()
        },
        allow=tuple(table.each("allow", _network)),
        deny=tuple(table.each("deny", _network)),
        max_body=table.number("max_body", 0, 0) if table.given("max_body") else None,
        cache_control=table.text("cache_control", ""),
    )


def parse_binding(text: str) -> Binding:
    """`[https/]ADDRESS:PORT:HOST`; address and host may be empty or `*`. Raises ConfigurationError."""
    scheme, slash, rest = text.rpartition("/")
    if slash and scheme not in ("http", "https"):
        raise ConfigurationError(f"{text!r}: {scheme!r} is neither http nor https")
    if rest.startswith("["):
        address, bracket, rest = rest[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise ConfigurationError(f"{text!r}: an IPv6 address is written [ADDRESS]:PORT:HOST")
        rest = rest[1:]
    else:
        address, colon, rest = rest.partition(":")
        if not colon:
            raise ConfigurationError(f"{text!r} is no binding: ADDRESS:PORT:HOST was expected")
    port, _, host = rest.partition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
        raise ConfigurationError(f"{text!r}: {port!r} is no port")
    return Binding(
        "" if address == "*" else address, int(port), "" if host == "*" else host.lower(), scheme == "https"
    )


def parse_script_map(text: str) -> ScriptMap:
    """`EXTENSION,PROCESSOR,FLAGS[,VERB…]`. isapi.md 7. Raises ConfigurationError."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) < 3:
        raise ConfigurationError(f"{text!r} is no script map: EXTENSION,PROCESSOR,FLAGS[,VERBS] was expected")
    extension, processor, flags, *verbs = parts
    if extension != "*" and (not extension.startswith(".") or len(extension) < 2):
        raise ConfigurationError(f"{text!r}: {extension!r} is no extension; .ext or * was expected")
    if flags not in ("0", "1", "4", "5"):
        raise ConfigurationError(
            f"{text!r}: flags {flags!r}; 0, 1 (script), 4 (check file) or 5 were expected"
        )
    if verbs and not all(verbs):
        raise ConfigurationError(f"{text!r}: an empty verb; leave the comma out to let all of them through")
    return ScriptMap(
        extension.lower(), _processor(processor), MapFlags(int(flags)), frozenset(verbs) if verbs else None
    )


def _processor(text: str) -> HandlerSettings:
    if not text:
        raise ConfigurationError("a processor was expected: KIND:ARGUMENT, or the file of an ISAPI extension")
    kind, colon, argument = text.partition(":")
    if kind in KINDS and (colon or kind != "isapi"):
        return HandlerSettings(kind, argument)
    return HandlerSettings("isapi", text)


M = TypeVar("M", ScriptMap, Module)


def _located(made: M, base: Path) -> M:
    """The same with the file of its extension found from where the configuration is."""
    handler = made.handler
    if handler.kind == "isapi" and handler.argument.endswith((".py", ".so", ".dll")):
        return replace(made, handler=HandlerSettings("isapi", str(base / handler.argument)))
    return made


def _module(text: str) -> Module:
    name, comma, processor = text.partition(",")
    if not comma or "/" in name or not name:
        raise ConfigurationError(f"{text!r} is no module: NAME,KIND:ARGUMENT was expected")
    return Module(name.strip().lower(), _processor(processor.strip()))


def _network(text: str) -> Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ConfigurationError(f"{text!r} is no address or network") from None


def _extensions(table: Mapping[str, str]) -> dict[str, str]:
    return {(key if key.startswith(".") else f".{key}").lower(): value for key, value in table.items()}


def _log(table: _Table) -> LogSettings | None:
    raw = table.raw("log")
    if raw is None:
        return None
    log = _Table(raw, LOG_KEYS, f"{table.where} log", table.base)
    directory = log.path("directory")
    if directory is None:
        log.fail("directory", "where the log is written was expected")
    roll = log.text("roll", "daily")
    if roll not in ("daily", "size"):
        log.fail("roll", f"{roll!r}: daily or size")
    made = LogSettings(
        directory, roll=roll, roll_size=log.number("roll_size", LogSettings(directory).roll_size, 1024)
    )
    if log.given("fields"):
        made = replace(made, fields=tuple(log.each("fields", str)))
        try:
            check_fields(made.fields)
        except ConfigurationError as error:
            log.fail("fields", str(error))
    return replace(made, delay=log.seconds("delay", made.delay))


def _check_bindings(sites: Sequence[SiteSettings], where: str) -> None:
    seen: dict[tuple[str, int, str], int] = {}
    secure: dict[tuple[str, int], bool] = {}
    for site in sites:
        for binding in site.bindings:
            key = (binding.address, binding.port, binding.host)
            if key in seen:
                _fail(where, f"sites {seen[key]} and {site.id} have the same binding {binding}")
            seen[key] = site.id
            place = (binding.address, binding.port)
            if binding.port and secure.setdefault(place, binding.tls) != binding.tls:
                _fail(where, f"port {binding.port} cannot be both http and https")


class _Table:
    """One table of the file, read key by key."""

    def __init__(self, raw: object, keys: Collection[str], where: str, base: Path) -> None:
        self.where = where
        self.base = base
        if not isinstance(raw, dict):
            _fail(where, "a table was expected")
        self._raw: dict[str, Any] = raw
        for key in raw:
            if key not in keys:
                _fail(where, f"unknown key {key!r}{nearest(key, keys)}")

    def fail(self, key: str, message: str) -> NoReturn:
        _fail(f"{self.where} {key}", message)

    def given(self, key: str) -> bool:
        return key in self._raw

    def raw(self, key: str) -> object:
        return self._raw.get(key)

    def text(self, key: str, default: str) -> str:
        value = self._raw.get(key, default)
        if not isinstance(value, str):
            self.fail(key, f"{value!r}: text was expected")
        return value

    def path(self, key: str) -> Path | None:
        text = self.text(key, "")
        return self.base / Path(text).expanduser() if text else None

    def switch(self, key: str, default: bool) -> bool:
        value = self._raw.get(key, default)
        if not isinstance(value, bool):
            self.fail(key, f"{value!r}: true or false was expected")
        return value

    def number(self, key: str, default: int, least: int) -> int:
        value = self._raw.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            self.fail(key, f"{value!r}: a number from {least} was expected")
        return value

    def seconds(self, key: str, default: float) -> float:
        value = self._raw.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 3600:
            self.fail(key, f"{value!r}: seconds from 0 to 3600 were expected")
        return float(value)

    def each(self, key: str, parse: Callable[[str], T]) -> list[T]:
        value = self._raw.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fail(key, "a list of texts was expected")
        try:
            return [parse(item) for item in value]
        except ConfigurationError as error:
            self.fail(key, str(error))

    def flags(self, key: str, names: Mapping[str, T], default: T) -> T:
        if key not in self._raw:
            return default
        found: Any = 0
        for name in self.each(key, str):
            flag = names.get(name.lower())
            if flag is None:
                self.fail(key, f"unknown word {name!r}{nearest(name, names)}")
            found = flag | found
        return type(default)(found)  # type: ignore[call-arg]  # flags are made from their sum

    def mapping(self, key: str) -> dict[str, str]:
        value = self._raw.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            self.fail(key, "a table of texts was expected")
        return value

    def tables(self, key: str) -> list[object]:
        value = self._raw.get(key, [])
        if not isinstance(value, list):
            self.fail(key, f"a list of tables was expected, written [[site.{key}]]")
        return value

    def limits(self) -> HttpLimits | None:
        raw = self._raw.get("limits")
        if raw is None:
            return None
        known = {field.name: field for field in fields(HttpLimits)}
        table = _Table(raw, known, f"{self.where} limits", self.base)
        given: dict[str, Any] = {}
        for key in table._raw:
            default = getattr(HttpLimits(), key)
            given[key] = table.number(key, 0, 1) if isinstance(default, int) else table.seconds(key, 0)
        try:
            return HttpLimits(**given)
        except ValueError as error:
            self.fail("limits", str(error))


def _fail(where: str, message: str) -> NoReturn:
    raise ConfigurationError(f"{where}: {message}")


def nearest(name: str, known: Collection[str]) -> str:
    """`; did you mean 'x'?` where something known is near, else what there is."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
