"""Counts that promise gigabytes: refused before anything of that size is made. NDR-13

The peak of what Python allocates while decoding is measured; the input is small, so it must be small.
"""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from typing import Annotated, Any

import pytest

from oxid.com.activation_properties import ActivationIn, decode_activation_in, encode_activation_in
from oxid.com.objref import decode_objref
from oxid.com.orpc import read_orpcthat, read_orpcthis
from oxid.errors import OxidError
from oxid.interfaces.dcom_types import DualStringArrayIdl
from oxid.interfaces.endpoint_map import IEndpointMap
from oxid.interfaces.object_exporter import IObjectExporter
from oxid.interfaces.remote_unknown import IRemUnknown
from oxid.ndr import Syntax
from oxid.ndr.codec import codec_of
from oxid.ndr.types import (
    U8,
    U16,
    U32,
    ArrayOf,
    Conformant,
    ConformantVarying,
    Guid,
    Octets,
    Str,
    Unique,
)
from oxid.ndr.types import (
    struct as ndr_struct,
)
from oxid.rpc.interface import spec_of
from oxid.rpc.tower import Tower
from oxid.samples.calculator import CLSID_CALCULATOR, IID_ICALCULATOR, ICalculator
from oxid.samples.echo import IEcho
from oxid.values.bindings import DualStringArray

MOST = 512 * 1024
"""Bytes a refusal may cost: the largest input here is 256 KiB, an error message and its traceback are small."""
HUGE = (0xFFFF_FFFF, 0x8000_0000, 0x7FFF_FFFF, 0x4000_0001, 0x1000_0000)


@ndr_struct
class Pair:
    a: U32
    b: Unique[Str]


@ndr_struct
class Rows:
    rows: Unique[Conformant[Unique[Conformant[U32]]]]


@ndr_struct
class Chain:
    value: U32
    next: Unique[Chain]


def refused(decode: Callable[[bytes], Any], data: bytes) -> None:
    """Decoding fails with a typed error and allocates next to nothing."""
    try:  # what is made once per type is made now
        decode(data)
    except OxidError:
        pass
    tracemalloc.start()
    try:
        with pytest.raises(OxidError):
            decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST, f"{peak} bytes were allocated for a refusal"


def word(value: int, syntax: Syntax) -> bytes:
    if syntax in (Syntax.NDR20_LE, Syntax.NDR20_BE):
        return struct.pack("<I" if syntax is Syntax.NDR20_LE else ">I", value)
    return struct.pack("<Q", value)


TYPES = {
    "bytes": Octets,
    "numbers": Conformant[U32],
    "shorts": Conformant[U16],
    "small": Conformant[U8],
    "ids": Conformant[Guid],
    "structures": Conformant[Pair],
    "strings": Conformant[Unique[Str]],
}


@pytest.mark.req("NDR-13")
@pytest.mark.parametrize("syntax", [Syntax.NDR20_LE, Syntax.NDR20_BE, Syntax.NDR64])
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("behind", [0, 64, 65536], ids=lambda n: f"{n} bytes behind")
def test_a_conformant_array_of_gigabytes(name: str, syntax: Syntax, behind: int) -> None:
    codec = codec_of(TYPES[name], syntax)
    for huge in HUGE:
        refused(codec.from_bytes, word(huge, syntax) + bytes(behind))


@pytest.mark.req("NDR-13")
@pytest.mark.parametrize("syntax", [Syntax.NDR20_LE, Syntax.NDR64])
def test_a_count_of_64_bits(syntax: Syntax) -> None:
    if syntax is Syntax.NDR64:
        codec = codec_of(Octets, syntax)
        for huge in (1 << 63, (1 << 64) - 1, 1 << 40):
            refused(codec.from_bytes, struct.pack("<Q", huge) + bytes(64))
    else:
        codec = codec_of(ConformantVarying[U32], syntax)
        for most, offset, count in ((2**32 - 1, 0, 2**32 - 1), (2**32 - 1, 2**32 - 1, 0), (4, 0, 2**31)):
            data = struct.pack("<III", most, offset, count) + bytes(64)
            if count:
                refused(codec.from_bytes, data)


@pytest.mark.req("NDR-13", "NDR-9")
@pytest.mark.parametrize("syntax", [Syntax.NDR20_LE, Syntax.NDR20_BE, Syntax.NDR64])
def test_a_string_of_gigabytes(syntax: Syntax) -> None:
    codec = codec_of(Str, syntax)
    for huge in HUGE:
        header = word(huge, syntax) + word(0, syntax) + word(huge, syntax)
        refused(codec.from_bytes, header + b"a\0" * 100)


@pytest.mark.req("NDR-13")
def test_arrays_of_arrays_of_nothing_but_counts() -> None:
    codec = codec_of(Rows, Syntax.NDR20_LE)
    referents = struct.pack("<II", 1, 60_000) + struct.pack("<I", 2) * 60_000
    refused(codec.from_bytes, struct.pack("<II", 1, 0xFFFF_FFFF) + bytes(64))
    refused(codec.from_bytes, referents[:400])
    # every row promises 4 GiB; the first one must end it
    tracemalloc.start()
    try:
        with pytest.raises(OxidError):
            codec.from_bytes(referents + struct.pack("<I", 0xFFFF_FFFF) * 1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * len(referents)


@pytest.mark.req("NDR-13")
def test_a_chain_without_end() -> None:
    codec = codec_of(Chain, Syntax.NDR20_LE)
    with pytest.raises(OxidError):
        codec.from_bytes(struct.pack("<II", 1, 2) * 100_000)


@pytest.mark.req("NDR-13")
def test_fixed_arrays_cost_what_they_say() -> None:
    codec = codec_of(Annotated[list[U32], ArrayOf(1000)], Syntax.NDR20_LE)
    refused(codec.from_bytes, bytes(3999))


@pytest.mark.req("NDR-13")
@pytest.mark.parametrize("interface", [IEcho, IObjectExporter, IEndpointMap, IRemUnknown, ICalculator])
def test_requests_of_our_own_interfaces_full_of_huge_counts(interface: type[Any]) -> None:
    for operation in spec_of(interface).operations.values():
        decode = operation.codec(Syntax.NDR20_LE).decode_request
        for stub in (b"\xff" * 256, b"\xff\xff\xff\x7f" * 64, struct.pack("<II", 1, 0xFFFF_FFFF) * 32):
            tracemalloc.start()
            try:
                decode(stub, 0, _Deaf())
            except OxidError:
                pass
            finally:
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
            assert peak < MOST, f"{operation.name}: {peak} bytes"


class _Deaf:
    def marshal(self, target: object, declared: object) -> bytes:
        return b""

    def unmarshal(self, objref: bytes, declared: object) -> object:
        return None


@pytest.mark.req("NDR-13")
def test_bindings_references_and_extensions_that_promise_too_much() -> None:
    for entries, security in ((0xFFFF, 0xFFFF), (0xFFFF, 0), (0xFFFF, 2), (0x7FFF, 0x7FFE)):
        packed = struct.pack("<HH", entries, security)
        refused(DualStringArray.decode, packed + bytes(16))
        idl = codec_of(DualStringArrayIdl, Syntax.NDR20_LE)
        refused(idl.from_bytes, struct.pack("<I", entries) + packed + bytes(16))
        std = b"MEOW" + struct.pack("<I", 1) + bytes(16 + 40)
        refused(decode_objref, std + packed + bytes(8))
    custom = b"MEOW" + struct.pack("<I", 4) + bytes(32) + struct.pack("<II", 0xFFFF_FFFF, 0xFFFF_FFFF)
    refused(decode_objref, custom)
    extents = struct.pack("<IIIII", 1, 0xFFFF_FFFF, 0, 1, 0xFFFF_FFFF) + bytes(64)
    refused(read_orpcthat, bytes(4) + extents)
    head = struct.pack("<HHII", 5, 7, 0, 0) + bytes(16)
    refused(read_orpcthis, head + extents)


@pytest.mark.req("NDR-13")
def test_towers_that_promise_too_much() -> None:
    good = Tower.of(spec_of(IEcho).uuid, (1, 0)).encode()
    refused(Tower.decode, b"\xff\xff" + good[2:])
    for at in range(2, len(good) - 1):
        data = good[:at] + b"\xff\xff" + good[at + 2 :]
        tracemalloc.start()
        try:
            Tower.decode(data)
        except OxidError:
            pass
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < MOST


@pytest.mark.req("NDR-13")
def test_an_activation_blob_with_any_one_count_huge() -> None:
    good = encode_activation_in(ActivationIn(CLSID_CALCULATOR, (IID_ICALCULATOR,)))
    decode_activation_in(good)
    for at in range(0, len(good) - 3, 4):
        for huge in (0xFFFF_FFFF, 0x7FFF_FFFF):
            data = good[:at] + struct.pack("<I", huge) + good[at + 4 :]
            tracemalloc.start()
            try:
                decode_activation_in(data)
            except OxidError:
                pass
            finally:
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
            assert peak < MOST, f"{peak} bytes for a count at {at}"
