"""IUnknown: the root of every COM interface. [MS-DCOM] 3.1.1.5.8

Its three operations never travel (opnums 0 to 2): references and queries go through IRemUnknown. To Python,
every proxy has `query`, `release` and `async with` instead.
"""

from __future__ import annotations

from typing import Final, Self, TypeVar
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

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(self, *exc_info: object) -> None:
        """Releases the proxy."""
        raise NotImplementedError
