"""Accounts in a JSON file in the host's state directory; the one file of this room that touches disks.

    store = FileAccountStore(state / "accounts.json")
    store.add("admin", "secret", admin=True)

Several processes may use the file: each change is made under a lock file and replaces the file in one
step (mode 0600), and a reader looks again whenever the file is another one than it read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from oxid.auth.accounts import Account, AccountTable, check_account_name
from oxid.errors import ConfigurationError
from oxid.state_file import locked, replace_text

_FORMAT: Final = 1
_Result = TypeVar("_Result")


class FileAccountStore(AccountTable):
    """An AccountStore whose accounts survive; a file that does not exist holds none."""

    __slots__ = ("_seen", "path")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path)
        self._seen: tuple[int, int, int] | None = None

    def find(self, name: str) -> Account | None:
        """The account of this name, from the file as it is now; raises ConfigurationError if unreadable."""
        self._refresh()
        return super().find(name)

    def list(self) -> tuple[Account, ...]:
        self._refresh()
        return super().list()

    def add(self, name: str, password: str, *, admin: bool = False) -> Account:
        return self._change(lambda: AccountTable.add(self, name, password, admin=admin))

    def passwd(self, name: str, password: str) -> Account:
        return self._change(lambda: AccountTable.passwd(self, name, password))

    def remove(self, name: str) -> None:
        self._change(lambda: AccountTable.remove(self, name))

    def _change(self, change: Callable[[], _Result]) -> _Result:
        with locked(self.path):
            self._refresh()
            result = change()
            self._write()
        return result

    def _refresh(self) -> None:
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            self._by_name, self._seen = {}, None
            return
        except OSError as error:
            raise ConfigurationError(f"cannot read accounts in {self.path}: {error.strerror}") from error
        seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        if seen == self._seen:
            return
        try:
            self._by_name = _decode(self.path.read_bytes())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"{self.path} is no accounts file: {error}") from error
        self._seen = seen

    def _write(self) -> None:
        table = {
            account.name: {"nt_hash": account.nt_hash.hex(), "admin": account.admin}
            for account in AccountTable.list(self)
        }
        text = json.dumps({"format": _FORMAT, "accounts": table}, indent=2) + "\n"
        try:
            replace_text(self.path, text)
        except OSError as error:
            self._seen = None
            raise ConfigurationError(f"cannot write accounts to {self.path}: {error.strerror}") from error
        status = os.stat(self.path)
        self._seen = (status.st_mtime_ns, status.st_ino, status.st_size)


def _decode(raw: bytes) -> dict[str, Account]:
    document = json.loads(raw)
    if document["format"] != _FORMAT:
        raise ValueError(f"format {document['format']!r}, wanted {_FORMAT}")
    accounts = {}
    for name, entry in document["accounts"].items():
        nt_hash = bytes.fromhex(entry["nt_hash"])
        if len(nt_hash) != 16:
            raise ValueError(f"the NT hash of {name} has {len(nt_hash)} bytes")
        accounts[check_account_name(name).casefold()] = Account(
            name, nt_hash, bool(entry.get("admin", False))
        )
    return accounts
