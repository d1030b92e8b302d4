"""The objects of the soak's local servers: they say in which process they live, so that a kill hits the right one."""

from __future__ import annotations

import os
from typing import Final
from uuid import UUID

from oxid.com.coclass import coclass
from oxid.interfaces.unknown import IUnknown
from oxid.ndr.types import U32
from oxid.rpc.interface import interface, operation

APP_STATIC: Final = UUID("b588db81-b83d-46e6-85be-3fe9955b1e39")
"""The application on a static endpoint (Q292041)."""
APP_DYNAMIC: Final = UUID("6c5a89b9-3218-4d23-b338-214631c30a3c")
CLSID_STATIC: Final = UUID("0292d20d-5a10-47a0-8d1f-dd7fa029f49f")
CLSID_DYNAMIC: Final = UUID("fbc24b39-2898-4c76-9a59-bb035a931937")


@interface("135bd3c2-c809-4939-ace0-2e1a9e460b4e")
class IResident(IUnknown):
    """An object that knows where it lives."""

    @operation(3, out="process")
    async def process(self) -> U32:
        """The identifier of its process."""
        raise NotImplementedError


class _Resident:
    """Implements IResident."""

    def process(self) -> int:
        return os.getpid()


@coclass(CLSID_STATIC, implements=[IResident], appid=APP_STATIC)
class StaticResident(_Resident):
    """Lives behind the static endpoint."""


@coclass(CLSID_DYNAMIC, implements=[IResident], appid=APP_DYNAMIC)
class DynamicResident(_Resident):
    """Lives behind whatever port the system gives."""
