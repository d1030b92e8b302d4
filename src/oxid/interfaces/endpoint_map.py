"""The endpoint mapper's interface (ept). [C706] appendix O, [MS-RPCE] 2.2.1.2"""

from __future__ import annotations

from typing import Annotated, ClassVar, NamedTuple

from oxid.ndr.types import (
    U16,
    U32,
    ConformantVarying,
    ContextHandle,
    Full,
    Guid,
    Octets,
    Range,
    StringOf,
    count_of,
    struct,
)
from oxid.rpc.interface import interface, operation

MAX_ENTRIES = 500
"""The range of max_ents and max_towers."""


@struct
class TowerIdl:
    """twr_t: a tower's bytes; `oxid.rpc.tower` reads them. [MS-RPCE] 2.2.1.2.2"""

    length: ClassVar = count_of("octets", Annotated[U32, Range(0, 2000)], name="tower_length")
    octets: Octets


@struct
class InterfaceIdIdl:
    """RPC_IF_ID."""

    uuid: Guid
    major: U16
    minor: U16


@struct
class EntryIdl:
    """ept_entry_t: a registration."""

    object: Guid
    tower: Full[TowerIdl]
    annotation: Annotated[str, StringOf(64, wide=False)]


class LookupReply(NamedTuple):
    entry_handle: ContextHandle
    entries: ConformantVarying[EntryIdl]
    status: U32


class MapReply(NamedTuple):
    entry_handle: ContextHandle
    towers: ConformantVarying[Full[TowerIdl]]
    status: U32


class HandleFreeReply(NamedTuple):
    entry_handle: ContextHandle
    status: U32


@interface("e1af8308-5d1f-11c9-91a4-08002b14a0fa", version=(3, 0), name="epmapper")
class IEndpointMap:
    @operation(0, name="ept_insert")
    async def insert(self) -> None:
        """Refused: registering is local."""
        raise NotImplementedError

    @operation(1, name="ept_delete")
    async def delete(self) -> None:
        """Refused: registering is local."""
        raise NotImplementedError

    @operation(
        2,
        name="ept_lookup",
        reply=("entry_handle", count_of("entries", U32, name="num_ents"), "entries", "status"),
        correlate={"entries": "max_entries"},
    )
    async def lookup(
        self,
        inquiry_type: U32,
        object: Full[Guid],
        interface_id: Full[InterfaceIdIdl],
        version_option: U32,
        entry_handle: ContextHandle,
        max_entries: Annotated[U32, Range(0, MAX_ENTRIES)],
    ) -> LookupReply:
        """List registrations, in pieces. [MS-RPCE] 2.2.1.2.4"""
        raise NotImplementedError

    @operation(
        3,
        name="ept_map",
        reply=("entry_handle", count_of("towers", U32, name="num_towers"), "towers", "status"),
        correlate={"towers": "max_towers"},
    )
    async def map(
        self,
        object: Full[Guid],
        map_tower: Full[TowerIdl],
        entry_handle: ContextHandle,
        max_towers: Annotated[U32, Range(0, MAX_ENTRIES)],
    ) -> MapReply:
        """Where an interface listens. [MS-RPCE] 2.2.1.2.5"""
        raise NotImplementedError

    @operation(4, name="ept_lookup_handle_free")
    async def lookup_handle_free(self, entry_handle: ContextHandle) -> HandleFreeReply:
        """End a look-up before its last piece. [MS-RPCE] 2.2.1.2.8"""
        raise NotImplementedError

    @operation(5, name="ept_inq_object")
    async def inq_object(self) -> None:
        """Refused: not supported by any Windows."""
        raise NotImplementedError

    @operation(6, name="ept_mgmt_delete")
    async def mgmt_delete(self) -> None:
        """Refused: registering is local."""
        raise NotImplementedError
