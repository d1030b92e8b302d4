"""ISupportErrorInfo: which of an object's interfaces tell more about their errors. [MS-OAUT] 3.2, 3.3"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from oxid.interfaces.unknown import IUnknown
from oxid.ndr.types import HRESULT, Guid
from oxid.rpc.interface import interface, operation

IID_ISUPPORTERRORINFO: Final = UUID("df0b3d60-548f-101b-8e65-08002b2bd119")


@interface(IID_ISUPPORTERRORINFO)
class ISupportErrorInfo(IUnknown):
    """Asked by clients before they trust error information."""

    @operation(3, name="InterfaceSupportsErrorInfo", out="hresult", names={"iid": "riid"})
    async def interface_supports_error_info(self, iid: Guid) -> HRESULT:
        """S_OK where `iid`'s methods provide error information, else S_FALSE."""
        raise NotImplementedError
