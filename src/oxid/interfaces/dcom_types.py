"""The structures that DCOM's interfaces share, as they travel in NDR. [MS-DCOM] 2.2

Named after the specification's "IDL version" of each; the values that programs handle are
`oxid.values.bindings.DualStringArray` and `oxid.com.orpc`.
"""

from __future__ import annotations

from typing import ClassVar, TypeAlias

from oxid.errors import BadStubData
from oxid.ndr.types import U16, U32, U64, Conformant, Guid, Octets, Unique, count_of, struct
from oxid.values.bindings import DualStringArray

Oxid: TypeAlias = U64
Oid: TypeAlias = U64
SetId: TypeAlias = U64
Ipid: TypeAlias = Guid

MAX_REQUESTED_INTERFACES = 0x8000
MAX_REQUESTED_PROTSEQS = 0x8000


@struct
class ComVersionIdl:
    """COMVERSION. [MS-DCOM] 2.2.11"""

    major: U16 = 5
    minor: U16 = 7


@struct
class DualStringArrayIdl:
    """DUALSTRINGARRAY: bindings as an array of 16-bit entries. [MS-DCOM] 2.2.19.2"""

    entry_count: ClassVar = count_of("entries", U16, name="wNumEntries")
    security_offset: U16
    entries: Conformant[U16]

    @classmethod
    def of(cls, bindings: DualStringArray) -> DualStringArrayIdl:
        return cls(*bindings.entries())

    def bindings(self) -> DualStringArray:
        """What the entries mean. Raises BadStubData."""
        return DualStringArray.from_entries(self.security_offset, self.entries, wrong=BadStubData)


@struct
class OrpcExtentIdl:
    """ORPC_EXTENT; the array is rounded up to a multiple of eight. [MS-DCOM] 2.2.13.1"""

    id: Guid
    size: U32
    data: Octets


@struct
class OrpcExtentArrayIdl:
    """ORPC_EXTENT_ARRAY; the array is rounded up to an even number. [MS-DCOM] 2.2.13.2"""

    size: U32
    reserved: U32
    extent: Unique[Conformant[Unique[OrpcExtentIdl]]]


@struct
class OrpcThisIdl:
    """ORPCTHIS as an explicit parameter of an activation: flags ignored, no extensions. [MS-DCOM] 2.2.13.3"""

    version: ComVersionIdl
    flags: U32
    reserved: U32
    cid: Guid
    extensions: Unique[OrpcExtentArrayIdl] = None


@struct
class OrpcThatIdl:
    """ORPCTHAT as an explicit parameter. [MS-DCOM] 2.2.13.4"""

    flags: U32 = 0
    extensions: Unique[OrpcExtentArrayIdl] = None
