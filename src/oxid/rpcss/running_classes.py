"""Which class objects are ready, and who offers each: the table that CoRegisterClassObject fills.
[MS-DCOM] 3.1.2.1 (CLSID table)

    cookie = classes.register(clsid, provider, single_use=False)
    provider = classes.take(clsid)           for one activation; None where nobody is ready
    classes.revoke(cookie) / classes.revoke_all(provider)

Pure. A registration for single use is taken once; a suspended one is not taken until it is resumed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar
from uuid import UUID

from oxid.errors import LocalProtocolError

P = TypeVar("P")


class _Registration(Generic[P]):
    __slots__ = ("clsid", "cookie", "provider", "single_use", "suspended")

    def __init__(self, cookie: int, clsid: UUID, provider: P, single_use: bool, suspended: bool) -> None:
        self.cookie = cookie
        self.clsid = clsid
        self.provider = provider
        self.single_use = single_use
        self.suspended = suspended


class RunningClasses(Generic[P]):
    """Registrations by class, the oldest first."""

    def __init__(self) -> None:
        self._by_clsid: dict[UUID, dict[int, _Registration[P]]] = {}
        self._by_cookie: dict[int, _Registration[P]] = {}
        self._cookies = 0

    def register(self, clsid: UUID, provider: P, *, single_use: bool = False, suspended: bool = False) -> int:
        """A class object is ready; the cookie by which it is revoked."""
        self._cookies += 1
        made = _Registration(self._cookies, clsid, provider, single_use, suspended)
        self._by_clsid.setdefault(clsid, {})[made.cookie] = made
        self._by_cookie[made.cookie] = made
        return made.cookie

    def take(self, clsid: UUID) -> P | None:
        """Who serves the next activation of a class. A registration for single use is used up by it."""
        for found in self._by_clsid.get(clsid, {}).values():
            if not found.suspended:
                if found.single_use:
                    self._drop(found)
                return found.provider
        return None

    def offers(self, clsid: UUID, admits: Callable[[P], bool] = lambda provider: True) -> bool:
        """Whether `take` would find somebody, of those that `admits` lets pass."""
        ready = (found for found in self._by_clsid.get(clsid, {}).values() if not found.suspended)
        return any(admits(found.provider) for found in ready)

    def of(self, provider: P) -> list[UUID]:
        """The classes that a provider has registered."""
        return [found.clsid for found in self._of(provider)]

    def revoke(self, cookie: int, provider: P) -> None:
        """End a registration; one that is used up or revoked already: nothing. LocalProtocolError for another's."""
        found = self._by_cookie.get(cookie)
        if found is None:
            return
        if found.provider is not provider:
            raise LocalProtocolError(f"registration {cookie} is another process's")
        self._drop(found)

    def suspend(self, provider: P, suspended: bool) -> None:
        """Take no more of a provider's classes, or take them again. CoSuspendClassObjects"""
        for found in self._of(provider):
            found.suspended = suspended

    def revoke_all(self, provider: P) -> int:
        """End everything that a provider registered; how many that were."""
        mine = self._of(provider)
        for found in mine:
            self._drop(found)
        return len(mine)

    def _of(self, provider: P) -> list[_Registration[P]]:
        return [found for found in self._by_cookie.values() if found.provider is provider]

    def _drop(self, found: _Registration[P]) -> None:
        del self._by_cookie[found.cookie]
        of_class = self._by_clsid[found.clsid]
        del of_class[found.cookie]
        if not of_class:
            del self._by_clsid[found.clsid]

    def __len__(self) -> int:
        return len(self._by_cookie)

    def __repr__(self) -> str:
        return f"<RunningClasses {len(self)} registrations of {len(self._by_clsid)} classes>"
