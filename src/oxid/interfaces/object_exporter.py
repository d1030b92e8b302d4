"""IObjectExporter: where objects live, and keeping them alive. [MS-DCOM] 3.1.2.5.1

The methods "MUST NOT throw exceptions": their status is a value, and every reply is complete.
"""

from __future__ import annotations

from typing import NamedTuple

from oxid.interfaces.dcom_types import ComVersionIdl, DualStringArrayIdl, Ipid, Oid, Oxid, SetId
from oxid.ndr.types import U16, U32, Conformant, ErrorStatus, Unique
from oxid.rpc.interface import count_of, interface, operation


class ResolveOxidReply(NamedTuple):
    bindings: Unique[DualStringArrayIdl]
    ipid_rem_unknown: Ipid
    authn_hint: U32
    status: ErrorStatus


class ResolveOxid2Reply(NamedTuple):
    bindings: Unique[DualStringArrayIdl]
    ipid_rem_unknown: Ipid
    authn_hint: U32
    version: ComVersionIdl
    status: ErrorStatus


class ComplexPingReply(NamedTuple):
    set_id: SetId
    backoff_factor: U16
    status: ErrorStatus


class ServerAlive2Reply(NamedTuple):
    version: ComVersionIdl
    bindings: Unique[DualStringArrayIdl]
    reserved: U32
    status: ErrorStatus


@interface("99fcfec4-5260-101b-bbcb-00aa0021347a", version=(0, 0))
class IObjectExporter:
    @operation(0, wire=("oxid", count_of("protseqs", U16, name="cRequestedProtseqs"), "protseqs"))
    async def resolve_oxid(self, oxid: Oxid, protseqs: Conformant[U16]) -> ResolveOxidReply:
        """Where an object exporter listens. [MS-DCOM] 3.1.2.5.1.1"""
        raise NotImplementedError

    @operation(1, out="status")
    async def simple_ping(self, set_id: SetId) -> ErrorStatus:
        """Keep every object of a ping set alive. [MS-DCOM] 3.1.2.5.1.2"""
        raise NotImplementedError

    @operation(
        2,
        wire=(
            "set_id",
            "sequence",
            count_of("add", U16, name="cAddToSet"),
            count_of("remove", U16, name="cDelFromSet"),
            "add",
            "remove",
        ),
    )
    async def complex_ping(
        self, set_id: SetId, sequence: U16, add: Unique[Conformant[Oid]], remove: Unique[Conformant[Oid]]
    ) -> ComplexPingReply:
        """Make a ping set (`set_id` 0), or change and ping one. [MS-DCOM] 3.1.2.5.1.3"""
        raise NotImplementedError

    @operation(3, out="status")
    async def server_alive(self) -> ErrorStatus:
        """Is anybody there? [MS-DCOM] 3.1.2.5.1.4"""
        raise NotImplementedError

    @operation(
        4,
        name="ResolveOxid2",
        wire=("oxid", count_of("protseqs", U16, name="cRequestedProtseqs"), "protseqs"),
    )
    async def resolve_oxid2(self, oxid: Oxid, protseqs: Conformant[U16]) -> ResolveOxid2Reply:
        """Where an object exporter listens, and which DCOM it speaks. [MS-DCOM] 3.1.2.5.1.5"""
        raise NotImplementedError

    @operation(5, name="ServerAlive2")
    async def server_alive2(self) -> ServerAlive2Reply:
        """Which DCOM the resolver speaks, and all its bindings. [MS-DCOM] 3.1.2.5.1.6"""
        raise NotImplementedError
