"""IClassFactory: a class as an object that makes instances. [MS-DCOM] 1.3.1, CONTRACT section 6

The local CreateInstance and LockServer take parameters that cannot travel; their remote forms are here.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from oxid.interfaces.unknown import IUnknown
from oxid.ndr.types import AnyInterface, Bool, Guid
from oxid.rpc.interface import interface, operation

IID_ICLASSFACTORY: Final = UUID("00000001-0000-0000-c000-000000000046")


@interface(IID_ICLASSFACTORY)
class IClassFactory(IUnknown):
    """Makes objects of one class."""

    @operation(3, name="RemoteCreateInstance", out="ppvObject", names={"iid": "riid"})
    async def create_instance(self, iid: Guid) -> AnyInterface:
        """Make an object and return its interface `iid`."""
        raise NotImplementedError

    @operation(4, name="RemoteLockServer", names={"lock": "fLock"})
    async def lock_server(self, lock: Bool) -> None:
        """Keep the server running while no object lives, or let it go."""
        raise NotImplementedError
