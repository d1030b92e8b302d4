"""IRemUnknown and IRemUnknown2: references to an exporter's interfaces. [MS-DCOM] 3.1.1.5.6, 3.1.1.5.7"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from oxid.interfaces.unknown import IUnknown
from oxid.ndr.types import (
    HRESULT,
    U16,
    U32,
    U64,
    Conformant,
    Guid,
    RawInterfacePointer,
    Unique,
    count_of,
    struct,
)
from oxid.rpc.interface import interface, operation

IID_IREMUNKNOWN: Final = UUID("00000131-0000-0000-c000-000000000046")
IID_IREMUNKNOWN2: Final = UUID("00000143-0000-0000-c000-000000000046")


@struct
class StdObjRef:
    """STDOBJREF: which interface, of which object, of which exporter. [MS-DCOM] 2.2.18.1"""

    flags: U32
    public_refs: U32
    oxid: U64
    oid: U64
    ipid: Guid


@struct
class RemQiResult:
    """REMQIRESULT; four bytes of padding follow the status. [MS-DCOM] 2.2.24"""

    hresult: HRESULT
    std: StdObjRef


@struct
class RemInterfaceRef:
    """REMINTERFACEREF: how many references to add or release. [MS-DCOM] 2.2.23"""

    ipid: Guid
    public_refs: U32
    private_refs: U32


@interface(IID_IREMUNKNOWN)
class IRemUnknown(IUnknown):
    """Counts references for remote clients; one per object exporter, itself never counted."""

    @operation(
        3,
        name="RemQueryInterface",
        wire=("ipid", "refs", count_of("iids", U16, name="cIids"), "iids"),
        out="ppQIResults",
        correlate={"ppQIResults": "iids"},
        names={"ipid": "ripid", "refs": "cRefs"},
    )
    async def rem_query_interface(
        self, ipid: Guid, refs: U32, iids: Conformant[Guid]
    ) -> Unique[Conformant[RemQiResult]]:
        """Ask an object for more interfaces, with `refs` references to each."""
        raise NotImplementedError

    @operation(
        4,
        wire=(count_of("refs", U16, name="cInterfaceRefs"), "refs"),
        out="pResults",
        correlate={"pResults": "refs"},
        names={"refs": "InterfaceRefs"},
    )
    async def rem_add_ref(self, refs: Conformant[RemInterfaceRef]) -> Conformant[HRESULT]:
        """Add references; each entry has a result of its own."""
        raise NotImplementedError

    @operation(
        5, wire=(count_of("refs", U16, name="cInterfaceRefs"), "refs"), names={"refs": "InterfaceRefs"}
    )
    async def rem_release(self, refs: Conformant[RemInterfaceRef]) -> None:
        """Give references back."""
        raise NotImplementedError


@interface(IID_IREMUNKNOWN2)
class IRemUnknown2(IRemUnknown):
    """IRemUnknown, and interface queries whose answers may be marshalled in any way."""

    @operation(
        6,
        name="RemQueryInterface2",
        wire=("ipid", count_of("iids", U16, name="cIids"), "iids"),
        out=("phr", "ppMIF"),
        correlate={"phr": "iids", "ppMIF": "iids"},
        names={"ipid": "ripid"},
    )
    async def rem_query_interface2(
        self, ipid: Guid, iids: Conformant[Guid]
    ) -> tuple[Conformant[HRESULT], Conformant[RawInterfacePointer]]:
        """Ask for interfaces; the answers are OBJREFs."""
        raise NotImplementedError
