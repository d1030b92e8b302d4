"""Type serialization 1 and 2. [MS-RPCE] 2.2.6, 2.2.7"""

from __future__ import annotations

from typing import Any

import pytest

from oxid.errors import BadStubData, LocalProtocolError
from oxid.ndr import U16, U32, U64, Conformant, Str, Syntax, Unique, pickle, struct


@struct
class Properties:
    flags: U32
    name: Unique[Str]


@struct
class Pair:
    a: U16
    b: U16


V1 = "01 10 0800 cccccccc"
PAIR = Pair(1, 2)


@pytest.mark.req("NDR-14")
def test_version_1_bytes() -> None:
    wire = f"{V1} 08000000 00000000 0100 0200 00000000".replace(" ", "")
    assert pickle.encode(Pair, PAIR).hex() == wire
    assert pickle.decode(Pair, bytes.fromhex(wire)) == PAIR
    assert pickle.decode_prefix(Pair, bytes.fromhex(wire) + b"more") == (PAIR, 24)


@pytest.mark.req("NDR-14")
def test_version_1_big_endian_has_a_little_endian_header() -> None:
    wire = "01 00 0800 cccccccc 00000008 00000000 0001 0002 00000000".replace(" ", "")
    assert pickle.encode(Pair, PAIR, syntax=Syntax.NDR20_BE).hex() == wire
    assert pickle.decode(Pair, bytes.fromhex(wire)) == PAIR
    odd = bytearray.fromhex(wire)
    odd[1] = 0x55  # Windows takes everything that is not 0x10 as big-endian
    assert pickle.decode(Pair, bytes(odd)) == PAIR


@pytest.mark.req("NDR-14")
def test_version_1_primitives_have_no_private_header_and_alignment_restarts() -> None:
    values = [(U32, 5), (Properties, Properties(7, None)), (U64, 9)]
    made = pickle.encode_all(values)
    assert made.hex().startswith(f"{V1} 0500000000000000 0800000000000000 0700000000000000".replace(" ", ""))
    assert made.hex().endswith("0900000000000000")
    assert pickle.decode_all([hint for hint, _ in values], made) == [value for _, value in values]


@pytest.mark.req("NDR-14")
def test_version_1_lengths_include_padding() -> None:
    made = pickle.encode(Properties, Properties(1, "abc"))
    assert len(made) % 8 == 0
    assert int.from_bytes(made[8:12], "little") == len(made) - 16
    assert pickle.decode(Properties, made) == Properties(1, "abc")


@pytest.mark.req("NDR-14")
def test_version_2_has_a_private_header_for_primitives_too() -> None:
    made = pickle.encode_v2(U16, 7)
    header = (
        "02 10 4000 cccccccc" + "cc" * 16 + "045d888aeb1cc9119fe808002b104860 0200 0000" + "00" * 20
    ).replace(" ", "")
    assert made.hex() == header + "10000000" + "00" * 12 + "0700" + "00" * 14
    assert pickle.decode_v2(U16, made) == 7


@pytest.mark.req("NDR-14")
@pytest.mark.parametrize("syntax", [Syntax.NDR20_LE, Syntax.NDR64])
def test_version_2_names_its_syntax(syntax: Syntax) -> None:
    value = Properties(1, "abc")
    made = pickle.encode_v2(Properties, value, syntax=syntax)
    assert len(made) % 16 == 0
    assert pickle.decode_v2(Properties, made) == value


def test_what_a_version_does_not_have_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="NDR only"):
        pickle.encode(U32, 1, syntax=Syntax.NDR64)
    with pytest.raises(ValueError, match="little-endian"):
        pickle.encode_v2(U32, 1, syntax=Syntax.NDR20_BE)
    with pytest.raises(LocalProtocolError):
        pickle.encode(U32, "x")


GOOD = pickle.encode(Conformant[U32], [1, 2, 3])
GOOD_V2 = pickle.encode_v2(Conformant[U32], [1, 2, 3])


@pytest.mark.req("NDR-12", "NDR-14")
@pytest.mark.parametrize(
    "data",
    [
        *(GOOD[:size] for size in range(len(GOOD))),
        b"\2" + GOOD[1:],
        GOOD[:2] + b"\x09\0" + GOOD[4:],
        GOOD[:8] + b"\xff\xff\xff\xff" + GOOD[12:],
        GOOD[:8] + b"\0\0\0\0" + GOOD[12:],
    ],
)
def test_damaged_version_1_streams_are_refused(data: bytes) -> None:
    with pytest.raises(BadStubData):
        pickle.decode(Conformant[U32], data)


@pytest.mark.req("NDR-12", "NDR-14")
@pytest.mark.parametrize(
    "data",
    [
        *(GOOD_V2[:size] for size in range(0, len(GOOD_V2), 3)),
        b"\1" + GOOD_V2[1:],
        GOOD_V2[:24] + bytes(16) + GOOD_V2[40:],
        GOOD_V2[:64] + b"\xff\xff\xff\xff" + GOOD_V2[68:],
    ],
)
def test_damaged_version_2_streams_are_refused(data: bytes) -> None:
    with pytest.raises(BadStubData):
        pickle.decode_v2(Conformant[U32], data)


def test_primitives_that_are_cut_short_are_refused() -> None:
    made: Any = pickle.encode(U64, 1)
    with pytest.raises(BadStubData):
        pickle.decode(U64, made[:-1])
