"""The accounts a host knows, and how a name from the wire finds one. CONTRACT section 3

    account = find_account(store, "WORKGROUP", "Admin")     an unknown domain means this host

Names are compared without regard to case, as Windows does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from oxid.auth.credentials import nt_hash
from oxid.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Account:
    """One account: `name`, `DOMAIN\\name`, or (for Kerberos) `name@REALM`."""

    name: str
    nt_hash: bytes = field(repr=False)
    admin: bool = False


class AccountStore(Protocol):
    """Where accounts come from; implementations raise ConfigurationError when they cannot be read."""

    def find(self, name: str) -> Account | None:
        """The account of exactly this name, in any case."""
        ...


def find_account(store: AccountStore, domain: str, user: str) -> Account | None:
    """The account a client means: `DOMAIN\\name` if there is one, else the local `name`.

    `name@domain` without a domain is taken apart, as clients may send either form.
    """
    if domain and (found := store.find(f"{domain}\\{user}")):
        return found
    if found := store.find(user):
        return found
    if not domain and "@" in user:
        local, _, realm = user.rpartition("@")
        return store.find(f"{realm}\\{local}") or store.find(local)
    return None


def check_account_name(name: str) -> str:
    """Return the name if it can be used on the wire; raises ConfigurationError."""
    bare = name.rpartition("\\")[2]
    if not bare or len(name) > 256 or not name.isprintable() or name != name.strip() or name.count("\\") > 1:
        raise ConfigurationError(f"{name!r} is no account name: wanted NAME or DOMAIN\\NAME")
    return name


class AccountTable:
    """Accounts in memory by name; the base of both stores."""

    __slots__ = ("_by_name",)

    def __init__(self) -> None:
        self._by_name: dict[str, Account] = {}

    def find(self, name: str) -> Account | None:
        return self._by_name.get(name.casefold())

    def list(self) -> tuple[Account, ...]:
        """Every account, by name."""
        return tuple(self._by_name[key] for key in sorted(self._by_name))

    def add(self, name: str, password: str, *, admin: bool = False) -> Account:
        """Make a new account; raises ConfigurationError if there is one of that name."""
        key = check_account_name(name).casefold()
        if key in self._by_name:
            raise ConfigurationError(f"account {name} exists already")
        self._by_name[key] = account = Account(name, nt_hash(password), admin)
        return account

    def passwd(self, name: str, password: str) -> Account:
        """Give an account a new password; raises ConfigurationError if there is none."""
        old = self._existing(name)
        self._by_name[name.casefold()] = account = Account(old.name, nt_hash(password), old.admin)
        return account

    def remove(self, name: str) -> None:
        """Delete an account; raises ConfigurationError if there is none."""
        self._existing(name)
        del self._by_name[name.casefold()]

    def _existing(self, name: str) -> Account:
        account = self._by_name.get(name.casefold())
        if account is None:
            raise ConfigurationError(f"there is no account {name}")
        return account

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._by_name)} accounts>"


class MemoryAccountStore(AccountTable):
    """Accounts for tests and embedded hosts: `MemoryAccountStore({"admin": "secret"}, admins={"admin"})`."""

    __slots__ = ()

    def __init__(
        self, passwords: dict[str, str] | None = None, *, admins: frozenset[str] | set[str] = frozenset()
    ) -> None:
        super().__init__()
        for name, password in (passwords or {}).items():
            self.add(name, password, admin=name in admins)
