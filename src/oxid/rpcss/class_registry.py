"""Which classes this host knows, which application serves each, and how that is run: what dcomcnfg edits.
[MS-DCOM] 3.1.2.1, CONTRACT section 4

    registry = ClassRegistry.parse(document, "oxid.toml")
    registry.app_of(clsid)              -> the application's settings, or None
    registry.merged(other)              other's entries win

Settings are immutable values. What runs refers to the settings it was started with, and owns none of them: a static
endpoint is one of these, whoever listens on it at the moment.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final
from uuid import UUID

from oxid.com.permissions import AccessList, MachinePermissions
from oxid.errors import ConfigurationError

START_TIMEOUT_S: Final = 30.0
LEVEL_NAMES: Final = {"connect": 2, "packet": 4, "integrity": 5, "privacy": 6}
THREADING: Final = ("free", "both", "apartment")


@dataclass(frozen=True, slots=True)
class EndpointSetting:
    """One line of an application's endpoints: `protseq,flags,endpoint`; endpoint 0 or none is a dynamic one."""

    protseq: str
    flags: int = 0
    endpoint: str = ""

    @classmethod
    def parse(cls, text: Any, where: str) -> EndpointSetting:
        """Read the text of a registry's `Endpoints` value. ConfigurationError"""
        parts = [part.strip() for part in str(text).split(",")]
        protseq = parts[0]
        if protseq != "ncacn_ip_tcp":
            raise ConfigurationError(f"{where}: {text!r}: objects are served over ncacn_ip_tcp only")
        flags = parts[1] if len(parts) > 1 else "0"
        endpoint = parts[2] if len(parts) > 2 else ""
        if len(parts) > 3 or not _is_number(flags, 0xFFFF_FFFF):
            raise ConfigurationError(f"{where}: {text!r}: protseq,flags,endpoint was wanted")
        if endpoint and not _is_number(endpoint, 65535):
            raise ConfigurationError(f"{where}: {text!r}: {endpoint!r} is no port")
        return cls(protseq, int(flags), endpoint if int(endpoint or 0) else "")

    @property
    def static(self) -> bool:
        """The port is configured, not chosen by the system."""
        return bool(self.endpoint)

    @property
    def port(self) -> int:
        """The port; 0 for a dynamic one."""
        return int(self.endpoint or 0)

    def __str__(self) -> str:
        return f"{self.protseq},{self.flags},{self.endpoint}"


@dataclass(frozen=True, slots=True)
class AppSettings:
    """One application (AppID)."""

    id: UUID
    command: tuple[str, ...] = ()
    """Starts a local server; empty for classes that this host runs itself."""
    user: str | None = None
    """The account of this machine that it runs as; None for the host's own."""
    start_timeout: float = START_TIMEOUT_S
    """Seconds from its start until it must have registered its classes."""
    endpoints: tuple[EndpointSetting, ...] = ()
    authentication: int | None = None
    """The least level of calls; None for integrity."""
    launch: AccessList | None = None
    activate: AccessList | None = None
    access: AccessList | None = None
    identity: str | None = None
    """A file with the account as which it calls others; None for the host's."""
    name: str = ""

    @classmethod
    def parse(cls, raw: Any, where: str) -> AppSettings:
        """Read one `[[app]]` table. ConfigurationError"""
        table = _table(raw, where, [f.name for f in fields(cls)])
        made: dict[str, Any] = {"id": _uuid(table, "id", where)}
        if (command := table.get("command")) is not None:
            if not isinstance(command, list | tuple) or not all(isinstance(w, str) and w for w in command):
                raise ConfigurationError(f"{where} command: a list of words was wanted")
            made["command"] = tuple(command)
        for key in ("user", "identity", "name"):
            if (text := table.get(key)) is not None:
                made[key] = _text(text, f"{where} {key}")
        if (seconds := table.get("start_timeout")) is not None:
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 3600:
                raise ConfigurationError(f"{where} start_timeout: seconds up to 3600 were wanted")
            made["start_timeout"] = float(seconds)
        if (endpoints := table.get("endpoints")) is not None:
            if not isinstance(endpoints, list | tuple):
                raise ConfigurationError(f"{where} endpoints: a list was wanted")
            made["endpoints"] = tuple(EndpointSetting.parse(e, f"{where} endpoints") for e in endpoints)
        if (level := table.get("authentication")) is not None:
            if not isinstance(level, str) or level not in LEVEL_NAMES:
                raise ConfigurationError(f"{where} authentication: {', '.join(LEVEL_NAMES)} were expected")
            made["authentication"] = LEVEL_NAMES[level]
        for key in ("launch", "activate", "access"):
            if (names := table.get(key)) is not None:
                made[key] = AccessList.parse(names, f"{where} {key}")
        return cls(**made)

    def to_raw(self) -> dict[str, Any]:
        """The form in which it is kept in a file, and told to another process."""
        raw: dict[str, Any] = {"id": str(self.id)}
        if self.command:
            raw["command"] = list(self.command)
        for key in ("user", "identity"):
            if (value := getattr(self, key)) is not None:
                raw[key] = value
        if self.name:
            raw["name"] = self.name
        if self.start_timeout != START_TIMEOUT_S:
            raw["start_timeout"] = self.start_timeout
        if self.endpoints:
            raw["endpoints"] = [str(endpoint) for endpoint in self.endpoints]
        if self.authentication is not None:
            names = {level: name for name, level in LEVEL_NAMES.items()}
            raw["authentication"] = names[self.authentication]
        for key in ("launch", "activate", "access"):
            if (names_of := getattr(self, key)) is not None:
                raw[key] = names_of.texts()
        return raw

    @property
    def of_its_own(self) -> bool:
        """Whether its objects need an exporter of their own, even where the host runs its classes."""
        return bool(self.endpoints or self.access is not None or self.authentication is not None)


@dataclass(frozen=True, slots=True)
class ClassSettings:
    """One class (CLSID)."""

    clsid: UUID
    progid: str = ""
    app: UUID | None = None
    threading: str = "free"
    """`apartment`: one call at a time to all objects of the application; `free` and `both`: calls overlap."""

    @classmethod
    def parse(cls, raw: Any, where: str) -> ClassSettings:
        """Read one `[[class]]` table. ConfigurationError"""
        table = _table(raw, where, [f.name for f in fields(cls)])
        threading = table.get("threading", "free")
        if threading not in THREADING:
            raise ConfigurationError(f"{where} threading: {', '.join(THREADING)} were expected")
        return cls(
            _uuid(table, "clsid", where),
            _text(table.get("progid", ""), f"{where} progid"),
            _uuid(table, "app", where) if "app" in table else None,
            threading,
        )

    def to_raw(self) -> dict[str, Any]:
        raw: dict[str, Any] = {"clsid": str(self.clsid)}
        if self.progid:
            raw["progid"] = self.progid
        if self.app is not None:
            raw["app"] = str(self.app)
        if self.threading != "free":
            raw["threading"] = self.threading
        return raw


@dataclass(frozen=True, slots=True)
class ClassRegistry:
    """Everything that is configured; a value."""

    apps: Mapping[UUID, AppSettings] = field(default_factory=dict)
    classes: Mapping[UUID, ClassSettings] = field(default_factory=dict)
    permissions: MachinePermissions = field(default_factory=MachinePermissions)

    @classmethod
    def parse(cls, document: Mapping[str, Any], where: str) -> ClassRegistry:
        """Read the tables `app`, `class` and `permissions` of a document. ConfigurationError"""
        apps: dict[UUID, AppSettings] = {}
        for number, raw in enumerate(_tables(document, "app", where), 1):
            app = AppSettings.parse(raw, f"{where}: [[app]] {number}")
            if app.id in apps:
                raise ConfigurationError(f"{where}: application {app.id} is there twice")
            apps[app.id] = app
        classes: dict[UUID, ClassSettings] = {}
        for number, raw in enumerate(_tables(document, "class", where), 1):
            found = ClassSettings.parse(raw, f"{where}: [[class]] {number}")
            if found.clsid in classes:
                raise ConfigurationError(f"{where}: class {found.clsid} is there twice")
            classes[found.clsid] = found
        raw = document.get("permissions", {})
        if not isinstance(raw, dict):
            raise ConfigurationError(f"{where}: 'permissions' is a table, written [permissions]")
        return cls(apps, classes, MachinePermissions.parse(raw, f"{where}: [permissions]"))

    def to_raw(self) -> dict[str, Any]:
        return {
            "app": [app.to_raw() for app in self.apps.values()],
            "class": [found.to_raw() for found in self.classes.values()],
        }

    def merged(self, other: ClassRegistry) -> ClassRegistry:
        """This and the other, whose entries win; the permissions of the machine are this one's."""
        return replace(self, apps={**self.apps, **other.apps}, classes={**self.classes, **other.classes})

    def check(self) -> None:
        """Raises ConfigurationError where a class names an application that is not there, or two applications
        one static port."""
        for found in self.classes.values():
            if found.app is not None and found.app not in self.apps:
                raise ConfigurationError(
                    f"class {found.clsid} names application {found.app}, which is not there"
                )
        ports: dict[int, UUID] = {}
        for app in self.apps.values():
            for endpoint in app.endpoints:
                other = ports.setdefault(endpoint.port, app.id) if endpoint.static else app.id
                if other != app.id:
                    raise ConfigurationError(
                        f"applications {other} and {app.id} both have port {endpoint.port}"
                    )

    def app_of(self, clsid: UUID) -> AppSettings | None:
        """The application of a class; None where nothing is configured for it."""
        found = self.classes.get(clsid)
        return None if found is None or found.app is None else self.apps.get(found.app)

    def in_apartment(self) -> frozenset[UUID]:
        """The classes to whose objects one call at a time is made."""
        return frozenset(c.clsid for c in self.classes.values() if c.threading == "apartment")

    def with_app(self, app: AppSettings) -> ClassRegistry:
        return replace(self, apps={**self.apps, app.id: app})

    def with_class(self, found: ClassSettings) -> ClassRegistry:
        return replace(self, classes={**self.classes, found.clsid: found})

    def without_class(self, clsid: UUID) -> ClassRegistry:
        return replace(self, classes={k: v for k, v in self.classes.items() if k != clsid})

    def __repr__(self) -> str:
        return f"<ClassRegistry {len(self.apps)} applications, {len(self.classes)} classes>"


def _tables(document: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    found = document.get(key, [])
    if not isinstance(found, list):
        raise ConfigurationError(f"{where}: {key!r} is a list of tables, written [[{key}]]")
    return found


def _table(raw: Any, where: str, known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ConfigurationError(f"{where}: a table was wanted")
    for key in raw:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            raise ConfigurationError(f"{where}: unknown key {key!r}; {hint}")
    return raw


def _uuid(table: Mapping[str, Any], key: str, where: str) -> UUID:
    text = table.get(key)
    if text is None:
        raise ConfigurationError(f"{where}: {key} is missing")
    try:
        return UUID(str(text))
    except ValueError as error:
        raise ConfigurationError(f"{where} {key}: {text!r} is no UUID") from error


def _is_number(text: str, most: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= most


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{where}: text was wanted")
    return value
