"""impacket's NDR classes as another reading: each side reads what the other wrote. (Facts of impacket, no code.)"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pytest

from oxid.ndr import (
    F32,
    F64,
    U8,
    U16,
    U32,
    U64,
    ArrayOf,
    Conformant,
    Full,
    Guid,
    Octets,
    Ref,
    Str,
    Syntax,
    Unique,
    codec_of,
    count_of,
    struct,
)
from oxid.rpc.interface import spec_of

ndr: Any = pytest.importorskip("impacket.dcerpc.v5.ndr")
dtypes: Any = pytest.importorskip("impacket.dcerpc.v5.dtypes")

pytestmark = [pytest.mark.peer("impacket"), pytest.mark.req("NDR-1", "NDR-2", "NDR-3", "NDR-5", "NDR-15")]

SYNTAXES = [(Syntax.NDR20_LE, False), (Syntax.NDR64, True)]


@struct
class Medium:
    """The medium struct of shared/bench."""

    f0: U32
    f1: U16
    f2: U8
    f3: U64
    f4: F64
    f5: F32
    name: Unique[Str]
    count: ClassVar = count_of("data", U32)
    data: Unique[Conformant[U32]]


@struct
class Strings:
    entries: ClassVar = count_of("data", U16)
    security: U16
    data: Conformant[U16]


@struct
class Item:
    id: U16
    name: Unique[Str]


@struct
class Items:
    count: ClassVar = count_of("items", U32)
    items: Unique[Conformant[Item]]


MEDIUM = Medium(1, 2, 3, 1 << 40, 1.5, 2.5, "medium", [7, 8, 9])
ITEMS = Items([Item(1, "one"), Item(2, None), Item(3, "drei")])
STRINGS = Strings(2, [0x7, 0x61, 0, 0])


def _classes() -> dict[str, Any]:
    class LongArray(ndr.NDRUniConformantArray):  # type: ignore[misc]
        item = "<L"

    class PLongArray(ndr.NDRPOINTER):  # type: ignore[misc]
        referent = (("Data", LongArray),)

    class MediumPeer(ndr.NDRSTRUCT):  # type: ignore[misc]
        structure = (
            ("f0", dtypes.DWORD),
            ("f1", ndr.NDRUSHORT),
            ("f2", ndr.NDRSMALL),
            ("f3", ndr.NDRHYPER),
            ("f4", ndr.NDRDOUBLEFLOAT),
            ("f5", ndr.NDRFLOAT),
            ("name", dtypes.LPWSTR),
            ("count", dtypes.DWORD),
            ("data", PLongArray),
        )

    class ShortArray(ndr.NDRUniConformantArray):  # type: ignore[misc]
        item = "<H"

    class StringsPeer(ndr.NDRSTRUCT):  # type: ignore[misc]
        structure = (("entries", ndr.NDRUSHORT), ("security", ndr.NDRUSHORT), ("data", ShortArray))

    class ItemPeer(ndr.NDRSTRUCT):  # type: ignore[misc]
        structure = (("id", ndr.NDRUSHORT), ("name", dtypes.LPWSTR))

    class ItemArray(ndr.NDRUniConformantArray):  # type: ignore[misc]
        item = ItemPeer

    class PItemArray(ndr.NDRPOINTER):  # type: ignore[misc]
        referent = (("Data", ItemArray),)

    class ItemsPeer(ndr.NDRSTRUCT):  # type: ignore[misc]
        structure = (("count", dtypes.DWORD), ("items", PItemArray))

    return {"medium": MediumPeer, "strings": StringsPeer, "items": ItemsPeer, "item": ItemPeer}


def _call(inner: Any, wide: bool) -> Any:
    class Call(ndr.NDRCALL):  # type: ignore[misc]
        opnum = 0
        structure = (("value", inner),)

    return Call(isNDR64=wide)


def _fill(name: str, call: Any, wide: bool) -> None:
    value = call["value"]
    if name == "medium":
        for i in range(6):
            value[f"f{i}"] = getattr(MEDIUM, f"f{i}")
        value["name"] = "medium\0"
        value["count"] = 3
        value["data"] = [7, 8, 9]
    elif name == "strings":
        value["entries"], value["security"], value["data"] = 4, 2, [0x7, 0x61, 0, 0]
    else:
        value["count"] = 3
        items = []
        for item in ITEMS.items or ():
            one = _classes_cache["item"](isNDR64=wide)
            one["id"] = item.id
            one["name"] = item.name + "\0" if item.name else ndr.NULL
            items.append(one)
        value["items"] = items


_classes_cache = _classes()
OURS = {"medium": MEDIUM, "strings": STRINGS, "items": ITEMS}


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(("syntax", "wide"), SYNTAXES)
def test_we_read_what_impacket_writes(name: str, syntax: Syntax, wide: bool) -> None:
    call = _call(_classes_cache[name], wide)
    _fill(name, call, wide)
    assert codec_of(type(OURS[name]), syntax).from_bytes(call.getData()) == OURS[name]


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(("syntax", "wide"), SYNTAXES)
def test_impacket_reads_what_we_write(name: str, syntax: Syntax, wide: bool) -> None:
    call = _call(_classes_cache[name], wide)
    call.fromString(codec_of(type(OURS[name]), syntax).to_bytes(OURS[name]))
    value = call["value"]
    if name == "medium":
        assert [value[f"f{i}"] for i in range(6)] == [1, 2, 3, 1 << 40, 1.5, 2.5]
        assert value["name"] == "medium\0"
        assert (value["count"], list(value["data"])) == (3, [7, 8, 9])
    elif name == "strings":
        assert (value["entries"], value["security"], list(value["data"])) == (4, 2, [0x7, 0x61, 0, 0])
    else:
        assert value["count"] == 3
        read = [(item["id"], str(item["name"]).rstrip("\0")) for item in value["items"]]
        assert [one[0] for one in read] == [1, 2, 3]
        assert read[0][1] == "one"
        assert read[2][1] == "drei"


def test_remote_query_interface_agrees_with_impacket() -> None:
    from uuid import UUID

    from impacket.dcerpc.v5 import dcomrt

    from oxid.interfaces.remote_unknown import IRemUnknown, RemQiResult, StdObjRef

    ipid, iid = UUID(int=0x0102030405060708), UUID("00020400-0000-0000-c000-000000000046")
    query = spec_of(IRemUnknown).operations[3].codec(Syntax.NDR20_LE)
    peer = dcomrt.RemQueryInterface()
    peer["ORPCthis"]["cid"] = bytes(16)
    peer["ORPCthis"]["extensions"] = ndr.NULL
    peer["ORPCthis"]["flags"] = 0
    peer["ripid"] = ipid.bytes_le
    peer["cRefs"] = 5
    peer["cIids"] = 1
    one = dcomrt.IID()
    one["Data"] = iid.bytes_le
    peer["iids"].append(one)
    assert query.decode_request(peer.getData(), 32, None) == (ipid, 5, [iid])
    out = bytearray(8)
    query.encode_reply(out, None, (ipid, 5, [iid]), [RemQiResult(0, StdObjRef(1, 5, 0xA1, 0xB2, ipid))])
    reply = dcomrt.RemQueryInterfaceResponse(bytes(out))
    result = reply["ppQIResults"]
    assert (result["hResult"], result["std"]["oxid"], result["std"]["oid"]) == (0, 0xA1, 0xB2)
    assert result["std"]["ipid"] == ipid.bytes_le


def test_an_endpoint_map_entry_agrees_with_impacket() -> None:
    from impacket.dcerpc.v5 import epm

    @struct
    class Tower:
        length: ClassVar = count_of("octets", U32)
        octets: Octets

    peer = epm.twr_t()
    peer["tower_length"] = 5
    peer["tower_octet_string"] = b"tower"
    call = _call(epm.twr_p_t, False)
    call["value"]["tower_length"] = 5
    call["value"]["tower_octet_string"] = b"tower"
    assert codec_of(Full[Tower]).from_bytes(call.getData()) == Tower(b"tower")


def test_arrays_of_guids_and_references() -> None:
    for hint in (Conformant[Guid], Ref[Conformant[Guid]], Annotated[list[Guid], ArrayOf(0)]):
        assert codec_of(hint).from_bytes(codec_of(hint).to_bytes([])) == []
