"""Who may launch, activate and call: lists as dcomcnfg has them. [MS-DCOM] 3.1.1.4, 3.1.2.5.2.3, ACT-9

    AccessList.parse(["Everyone", "!mallory", "operators:local"])
    list.admits(Subject("alice", admin=False, local=True))

An entry is the name of an account or of a group: `Everyone` (whoever has proved who he is), `Anonymous`,
`Administrators`. `!` in front denies, and wins over what allows; `:local` or `:remote` behind restricts an entry to
callers of this machine or of others. Whoever is not allowed is denied.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from oxid.errors import ConfigurationError
from oxid.rpc.calls import ServerCall

EVERYONE: Final = "everyone"
ANONYMOUS: Final = "anonymous"
ADMINISTRATORS: Final = "administrators"


@dataclass(frozen=True, slots=True)
class Subject:
    """A caller, as permissions see it."""

    name: str | None
    """The account; None for nobody."""
    admin: bool = False
    local: bool = False
    """The call comes from this machine."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a list."""

    name: str
    deny: bool = False
    where: str = ""
    """`local`, `remote`, or empty for both."""

    @classmethod
    def parse(cls, text: str) -> Entry:
        """Read `[!]NAME[:local|:remote]`. ConfigurationError"""
        deny = text.startswith("!")
        name, colon, where = text.removeprefix("!").partition(":")
        if colon and where not in ("local", "remote"):
            raise ConfigurationError(f"{text!r}: behind the colon stands local or remote")
        if not name or name != name.strip() or not name.isprintable():
            raise ConfigurationError(f"{text!r} names no account: [!]NAME[:local|:remote] was wanted")
        return cls(name, deny, where)

    def means(self, who: Subject) -> bool:
        if self.where and (self.where == "local") != who.local:
            return False
        name = self.name.casefold()
        if name == EVERYONE:
            return who.name is not None
        if name == ANONYMOUS:
            return who.name is None
        if name == ADMINISTRATORS:
            return who.admin
        return who.name is not None and _same(name, who.name.casefold())

    def __str__(self) -> str:
        return f"{'!' if self.deny else ''}{self.name}{':' if self.where else ''}{self.where}"


def _same(wanted: str, name: str) -> bool:
    """A name without domain means the account of this host."""
    return wanted == name


@dataclass(frozen=True, slots=True)
class AccessList:
    """Entries in any order."""

    entries: tuple[Entry, ...] = ()

    @classmethod
    def parse(cls, raw: Any, where: str = "") -> AccessList:
        """Read a list of texts. ConfigurationError"""
        if not isinstance(raw, list | tuple) or not all(isinstance(text, str) for text in raw):
            raise ConfigurationError(f"{where or 'a permission'}: a list of accounts and groups was wanted")
        try:
            return cls(tuple(Entry.parse(text) for text in raw))
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}" if where else str(error)) from None

    def admits(self, who: Subject) -> bool:
        allowed = False
        for entry in self.entries:
            if entry.means(who):
                if entry.deny:
                    return False
                allowed = True
        return allowed

    def with_entry(self, entry: Entry) -> AccessList:
        """The list with one entry more, in place of an opposite one."""
        rest = [
            e for e in self.entries if (e.name.casefold(), e.where) != (entry.name.casefold(), entry.where)
        ]
        return AccessList((*rest, entry))

    def without(self, name: str, where: str = "") -> AccessList:
        """The list without what it says of a name. ConfigurationError where it says nothing."""
        rest = [e for e in self.entries if (e.name.casefold(), e.where) != (name.casefold(), where)]
        if len(rest) == len(self.entries):
            raise ConfigurationError(f"{name} is not in the list: {', '.join(self.texts()) or 'it is empty'}")
        return AccessList(tuple(rest))

    def texts(self) -> list[str]:
        return [str(entry) for entry in self.entries]

    def __str__(self) -> str:
        return ", ".join(self.texts()) or "nobody"


ALL_ACCOUNTS: Final = AccessList((Entry("Everyone"),))
ANYBODY: Final = AccessList((Entry("Everyone"), Entry("Anonymous")))


@dataclass(frozen=True, slots=True)
class MachinePermissions:
    """What holds for every application: bounds that no application can widen, and defaults for those that say
    nothing themselves."""

    limit_launch: AccessList = ANYBODY
    limit_activate: AccessList = ANYBODY
    limit_access: AccessList = ANYBODY
    launch: AccessList = ALL_ACCOUNTS
    activate: AccessList = ALL_ACCOUNTS
    access: AccessList = ALL_ACCOUNTS

    @classmethod
    def parse(cls, raw: dict[str, Any], where: str) -> MachinePermissions:
        """Read the `[permissions]` table; keys with hyphens. ConfigurationError"""
        known = {name.replace("_", "-"): name for name in cls.__slots__}
        fields: dict[str, AccessList] = {}
        for key, value in raw.items():
            if key not in known:
                raise ConfigurationError(
                    f"{where}: unknown key {key!r}; there are {', '.join(sorted(known))}"
                )
            fields[known[key]] = AccessList.parse(value, f"{where} {key}")
        return cls(**fields)

    def open_to_anybody(self) -> MachinePermissions:
        """Anonymous callers included: for labs."""
        return MachinePermissions(launch=ANYBODY, activate=ANYBODY, access=ANYBODY)


def subject_of(call: ServerCall) -> Subject:
    """Who makes a call."""
    security = call.security
    principal = call.principal
    admin = principal is not None and security is not None and security.admin
    return Subject(principal, admin, is_local(call))


def is_local(call: ServerCall) -> bool:
    """Whether a call comes from this machine: over loopback, or from the very address that it came in on."""
    peer = call.peer
    host = str(peer[0]) if isinstance(peer, tuple) else ""
    if _is_loopback(host):
        return True
    local = getattr(call.connection, "local", None)
    return bool(host) and local is not None and local[0] == host


@lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


class AccessCheck:
    """Judges the calls of one exporter: the machine's bound, then the application's list. Remembers what it found
    for each account, so that a call costs a look into a set."""

    __slots__ = ("_bound", "_known", "_own")

    def __init__(self, bound: AccessList, own: AccessList) -> None:
        self._bound = bound
        self._own = own
        self._known: dict[tuple[str | None, bool, Any], bool] = {}

    def __call__(self, call: ServerCall) -> bool:
        security = call.security
        peer = call.peer
        host = peer[0] if isinstance(peer, tuple) else peer
        key = call.principal, security is not None and security.admin, host
        found = self._known.get(key)
        if found is None:
            who = subject_of(call)
            found = self._bound.admits(who) and self._own.admits(who)
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[key] = found
        return found
