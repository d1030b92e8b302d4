"""IUnknown: the root of every COM interface. [MS-DCOM] 3.1.1.5.8

Its three operations never travel (opnums 0 to 2): references and queries go through IRemUnknown. To Python,
every proxy has `query`, `release` and `async with` instead.
"""

from __future__ import annotations

from typing import Any, Final, Self, TypeVar
from uuid import UUID

from oxid.rpc.interface import interface

I = TypeVar("I")  # noqa: E741 - an interface

IID_IUNKNOWN: Final = UUID("00000000-0000-0000-c000-000000000046")


@interface(IID_IUNKNOWN, is_object=True)
class IUnknown:
    """Derive COM interfaces from this; their own operations start at number 3."""

    async def query(self, interface: type[I]) -> I:
        """Another interface of the same object. Raises NoSuchInterface. [MS-DCOM] 3.2.4.4.3"""
        raise NotImplementedError

    async def release(self) -> None:
        """Give this proxy's references back; may be called twice."""
        raise NotImplementedError

    def subscribe(self, interface: type[Any], handler: Any) -> Any:
        """Hear the object's events, from `async with` until its end: `interface` is that of the sink, `handler` an
        object with its methods, or a function where there is one."""
        raise NotImplementedError

    async def query_blanket(self) -> Any:
        """How calls through this proxy are secured. IClientSecurity::QueryBlanket"""
        raise NotImplementedError

    async def set_blanket(self, blanket: Any = None, *, unknown: bool = False, **changes: Any) -> None:
        """Secure the calls of this proxy, and of no other, in another way. IClientSecurity::SetBlanket"""
        raise NotImplementedError

    def copy(self) -> Self:
        """Another proxy of the same interface, with a blanket of its own. IClientSecurity::CopyProxy"""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(self, *exc_info: object) -> None:
        """Releases the proxy."""
        raise NotImplementedError
