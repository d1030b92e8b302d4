"""What declared types look like on the wire, byte by byte. [C706] 14, [MS-RPCE] 2.2.4, 2.2.5"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, ClassVar
from uuid import UUID

import pytest

from oxid.errors import BadStubData, LocalProtocolError
from oxid.ndr import (
    DEFAULT,
    F64,
    I8,
    I32,
    NULL_HANDLE,
    U8,
    U16,
    U32,
    U64,
    AnyInterface,
    ArrayOf,
    AStr,
    Bool,
    Boolean,
    Char8,
    Conformant,
    ConformantVarying,
    ContextHandle,
    Enum16,
    Full,
    Guid,
    Int3264,
    InterfacePointer,
    Octets,
    Pipe,
    Range,
    RawInterfacePointer,
    Ref,
    Str,
    StringOf,
    Syntax,
    Union,
    Unique,
    Varying,
    WChar,
    codec_of,
    count_of,
    enum16,
    size_of,
    struct,
    switch_of,
)

LE, BE, WIDE = Syntax.NDR20_LE, Syntax.NDR20_BE, Syntax.NDR64


class Color(IntEnum):
    RED = 1
    BLUE = 2


@struct
class Mixed:
    small: U8
    big: U64
    word: U16


@struct
class Tail:
    kind: U8
    data: Conformant[U16]


@struct
class Outer:
    first: U32
    tail: Tail


@struct
class VaryingTail:
    kind: U16
    data: ConformantVarying[U8]


@struct
class Named:
    id: U32
    name: Unique[Str]
    other: Unique[Str]


@struct
class Chain:
    value: U16
    next: Unique[Chain]


@struct
class Refs:
    item: Ref[U16]
    items: Ref[Conformant[Ref[U16]]]


@struct
class Graph:
    value: U32
    left: Full[Graph]
    right: Full[Graph]


@struct
class Counted:
    size: ClassVar = count_of("data", U32)
    data: Unique[Conformant[U16]]


@struct
class Part:
    length: ClassVar = count_of("data", U16)
    maximum: ClassVar = size_of("data", U16)
    data: Unique[ConformantVarying[U8]]


@struct(correlate={"data": "count"})
class Visible:
    count: U32
    data: Unique[Conformant[U8]]


class Choice(Union, switch=U16):
    cases: ClassVar[dict[Any, Any]] = {1: U8, 2: U64, 3: Unique[Str], 4: None}


class Open(Union, switch=U32):
    cases: ClassVar[dict[Any, Any]] = {1: U32, DEFAULT: None}


class MsChoice(Union, switch=U16, ms_union=True):
    cases: ClassVar[dict[Any, Any]] = {1: U8, 2: U64}


class Inside(Union, switch=U16, encapsulated=True):
    cases: ClassVar[dict[Any, Any]] = {1: U32}


@struct
class Switched:
    tag: ClassVar = switch_of("choice", U32)
    choice: Choice


@struct
class Colored:
    flag: Boolean
    color: Annotated[Color, enum16]
    truth: Bool


def pack(hint: Any, value: Any, syntax: Syntax = LE) -> str:
    return codec_of(hint, syntax).to_bytes(value).hex(" ", 4).replace(" ", "")


def unpack(hint: Any, data: str, syntax: Syntax = LE) -> Any:
    return codec_of(hint, syntax).from_bytes(bytes.fromhex(data))


VECTORS = [
    # numbers and their alignment
    ("mixed", LE, Mixed, Mixed(1, 2, 3), "01 00000000000000 0200000000000000 0300"),
    ("mixed", BE, Mixed, Mixed(1, 2, 3), "01 00000000000000 0000000000000002 0003"),
    ("mixed: trailing gap", WIDE, Mixed, Mixed(1, 2, 3), "01 00000000000000 0200000000000000 0300 000000000000"),
    ("enum and truth values", LE, Colored, Colored(True, Color.BLUE, True), "01 00 0200 01000000"),
    ("enum is 32 bits", WIDE, Colored, Colored(True, Color.BLUE, True), "01 000000 02000000 01000000"),
    ("plain enum", LE, Enum16, 258, "0201"),
    ("plain enum", WIDE, Enum16, 258, "02010000"),
    ("__int3264", LE, Int3264, -2, "feffffff"),
    ("__int3264", WIDE, Int3264, -2, "feffffffffffffff"),
    ("guid", LE, Guid, UUID("00112233-4455-6677-8899-aabbccddeeff"), "33221100 5544 7766 8899aabbccddeeff"),
    ("guid", BE, Guid, UUID("00112233-4455-6677-8899-aabbccddeeff"), "00112233 4455 6677 8899aabbccddeeff"),
    ("handle", LE, ContextHandle, bytes(range(20)), bytes(range(20)).hex()),
    ("handle", BE, ContextHandle, bytes(range(20)), "03020100 07060504 0908 0b0a 0c0d0e0f10111213"),
    ("NULL handle", LE, ContextHandle, NULL_HANDLE, "00" * 20),
    # strings: max, offset 0, actual with the terminator
    ("string", LE, Str, "Hi", "03000000 00000000 03000000 4800 6900 0000"),
    ("string", BE, Str, "Hi", "00000003 00000000 00000003 0048 0069 0000"),
    ("string", WIDE, Str, "Hi", "0300000000000000 0000000000000000 0300000000000000 4800 6900 0000"),
    ("empty string", LE, Str, "", "01000000 00000000 01000000 0000"),
    ("beyond the BMP: two units", LE, Str, "\U0001f600", "03000000 00000000 03000000 3dd8 00de 0000"),
    ("narrow", LE, AStr, "Hé", "03000000 00000000 03000000 48 e9 00"),
    ("fixed string", LE, Annotated[str, StringOf(8)], "A", "00000000 02000000 4100 0000"),
    # arrays
    ("octets", LE, Octets, b"abc", "03000000 616263"),
    ("empty array has its count", LE, Conformant[U16], [], "00000000"),
    ("shorts", LE, Conformant[U16], [1, 2, 3], "03000000 0100 0200 0300"),
    ("hypers are aligned behind their count", LE, Conformant[U64], [1], "01000000 00000000 0100000000000000"),
    ("64-bit count", WIDE, Conformant[U16], [1], "0100000000000000 0100"),
    ("varying", LE, Annotated[list[U8], ArrayOf(9, varying=True, item=I8)], [-1], "00000000 01000000 ff"),
    ("unbounded varying", LE, Varying[U16], [7], "00000000 01000000 0700"),
    ("conformant varying", LE, ConformantVarying[U16], [5], "01000000 00000000 01000000 0500"),
    ("fixed", LE, Annotated[list[U16], ArrayOf(2)], [1, 2], "0100 0200"),
    ("two dimensions: both counts first", LE, Annotated[list[list[U8]], ArrayOf(None, None)], [[1, 2], [3, 4]],
     "02000000 02000000 01020304"),
    ("conformant rows of a fixed length", LE, Annotated[list[list[U16]], ArrayOf(None, 2)], [[1, 2]],
     "01000000 0100 0200"),
    ("varying in two dimensions", LE, Annotated[list[list[U8]], ArrayOf(None, 2, varying=True)], [[1, 2]],
     "01000000 00000000 01000000 00000000 02000000 0102"),
    ("characters without a terminator", LE, Annotated[str, ArrayOf(None)], "ab", "02000000 6100 6200"),
    ("fixed characters are filled up", LE, Annotated[str, ArrayOf(3)], "a\0\0", "6100 0000 0000"),
    ("strings in an array: each with its counts", LE, Conformant[Str], ["a", ""],
     "02000000 02000000 00000000 02000000 6100 0000 01000000 00000000 01000000 0000"),
    # conformant structures: the maximum count in front of the outermost
    ("hoisted count", LE, Tail, Tail(9, [1, 2]), "02000000 09 00 0100 0200"),
    ("hoisted over two structures", LE, Outer, Outer(7, Tail(9, [1])), "01000000 07000000 09 00 0100"),
    ("hoisted", WIDE, Outer, Outer(7, Tail(9, [1])), "0100000000000000 07000000 09 00 0100"),
    ("offset and actual stay in place", LE, VaryingTail, VaryingTail(1, b"xy"),
     "02000000 0100 0000 00000000 02000000 7879"),
    # pointers
    ("top-level reference: nothing", LE, Ref[U16], 5, "0500"),
    ("top-level unique", LE, Unique[U16], 5, "00000200 0500"),
    ("NULL", LE, Unique[U16], None, "00000000"),
    ("64-bit NULL", WIDE, Unique[U16], None, "0000000000000000"),
    ("pointer to pointer", LE, Unique[Unique[U8]], 5, "00000200 04000200 05"),
    ("reference to unique to array", LE, Ref[Unique[Conformant[U8]]], b"z", "00000200 01000000 7a"),
    ("referents deferred in order", LE, Named, Named(1, "a", "b"),
     "01000000 00000200 04000200 02000000 00000000 02000000 61000000 02000000 00000000 02000000 62000000"),
    ("array of structures with pointers", LE, Conformant[Named], [Named(1, "a", None), Named(2, None, "b")],
     "02000000 01000000 00000200 00000000 02000000 00000000 04000200"
     "02000000 00000000 02000000 61000000 02000000 00000000 02000000 62000000"),
    ("depth first", LE, Chain, Chain(1, Chain(2, None)), "0100 0000 00000200 0200 0000 00000000"),
    ("embedded references have ids, arrays of them none", LE, Refs, Refs(1, [2, 3]),
     "00000200 04000200 0100 0000 02000000 0200 0300"),
    ("NDR64 sends ids there too", WIDE, Refs, Refs(1, [2]),
     "0000020000000000 0400020000000000 0100 000000000000 0100000000000000 0800020000000000 0200"),
    # unions
    ("small arm", LE, Choice, Choice(1, 7), "0100 07"),
    ("large arm aligned by itself", LE, Choice, Choice(2, 7), "0200 000000000000 0700000000000000"),
    ("ms_union aligns every arm alike", LE, MsChoice, MsChoice(1, 7), "0100 000000000000 07"),
    ("NDR64 aligns every arm alike", WIDE, Choice, Choice(1, 7), "0100 000000000000 07"),
    ("arm with a pointer", LE, Choice, Choice(3, "x"),
     "0300 0000 00000200 02000000 00000000 02000000 7800 0000"),
    ("empty arm", LE, Choice, Choice(4), "0400"),
    ("default", LE, Open, Open(9), "09000000"),
    ("encapsulated", LE, Inside, Inside(1, 2), "0100 0000 02000000"),
    ("switch_is and tag", LE, Switched, Switched(Choice(1, 2)), "01000000 0100 02"),
    # counts
    ("size_is", LE, Counted, Counted([1, 2]), "02000000 00000200 02000000 0100 0200"),
    ("size_is of NULL", LE, Counted, Counted(None), "00000000 00000000"),
    ("length_is and size_is", LE, Part, Part(b"ab"), "0200 0200 00000200 02000000 00000000 02000000 6162"),
    ("in an array", LE, Conformant[Counted], [Counted([1]), Counted(None), Counted([2, 3])],
     "03000000 01000000 00000200 00000000 00000000 02000000 00000200 01000000 0100 0000 02000000 0200 0300"),
    # pipes
    ("pipe", LE, Pipe[U8], b"ab", "02000000 6162 0000 00000000"),
    ("pipe with a trailer", WIDE, Pipe[U8], b"ab",
     "0200000000000000 6162 000000000000 feffffffffffffff 0000000000000000 0000000000000000"),
    ("empty pipe", LE, Pipe[U32], [], "00000000"),
    # interface pointers
    ("interface pointer", LE, RawInterfacePointer, b"MEOW", "00000200 04000000 04000000 4d454f57"),
    ("NULL interface", LE, RawInterfacePointer, None, "00000000"),
]  # fmt: skip


@pytest.mark.req(
    "NDR-1",
    "NDR-2",
    "NDR-3",
    "NDR-4",
    "NDR-5",
    "NDR-6",
    "NDR-7",
    "NDR-8",
    "NDR-9",
    "NDR-10",
    "NDR-11",
    "NDR-15",
)
@pytest.mark.parametrize(
    ("syntax", "hint", "value", "wire"),
    [v[1:] for v in VECTORS],
    ids=[f"{v[0]} {v[1].value}" for v in VECTORS],
)
def test_a_value_and_its_bytes(syntax: Syntax, hint: Any, value: Any, wire: str) -> None:
    assert pack(hint, value, syntax) == wire.replace(" ", "")
    assert unpack(hint, wire, syntax) == value


@pytest.mark.req("NDR-12", "NDR-13")
@pytest.mark.parametrize(
    ("syntax", "hint", "wire"),
    [(v[1], v[2], v[4]) for v in VECTORS],
    ids=[f"{v[0]} {v[1].value}" for v in VECTORS],
)
def test_every_type_whole_followed_and_cut_short(syntax: Syntax, hint: Any, wire: str) -> None:
    data = bytes.fromhex(wire)
    codec = codec_of(hint, syntax)
    assert codec.from_bytes(data + b"\xff" * 5) == codec.from_bytes(data)
    gap = 6 if syntax is WIDE else 0  # the trailing gap of a structure carries nothing
    for size in range(len(data) - gap):
        with pytest.raises(BadStubData):
            codec.from_bytes(data[:size])


@pytest.mark.req("NDR-1")
def test_padding_counts_from_the_start_of_the_stub_and_is_ignored_when_read() -> None:
    codec = codec_of(Mixed)
    out = bytearray(b"\xee" * 28)
    codec.encode(out, None, Mixed(1, 2, 3))
    assert out[28:32] == bytes(4)
    assert out[32:].hex() == pack(Mixed, Mixed(1, 2, 3))
    dirty = bytes.fromhex("01 ffffffffffffff 0200000000000000 0300")
    assert codec.from_bytes(dirty) == Mixed(1, 2, 3)


@pytest.mark.req("NDR-6")
def test_ids_of_unique_pointers_may_be_anything_but_zero() -> None:
    data = (
        "01000000 01000000 01000000 02000000 00000000 02000000 61000000 02000000 00000000 02000000 62000000"
    )
    assert unpack(Named, data) == Named(1, "a", "b")


@pytest.mark.req("NDR-6")
def test_full_pointers_alias_and_form_cycles() -> None:
    shared = Graph(2, None, None)
    top = Graph(1, shared, shared)
    shared.left = top
    for syntax in Syntax:
        codec = codec_of(Full[Graph], syntax)
        read = codec.from_bytes(codec.to_bytes(top))
        assert read.value == 1
        assert read.left is read.right
        assert read.left.left is read
        assert read.left.right is None


@pytest.mark.req("NDR-6")
def test_the_bytes_of_an_alias_travel_once() -> None:
    shared = Graph(2, None, None)
    wire = pack(Full[Graph], Graph(1, shared, shared))
    assert wire == "00000400 01000000 04000400 04000400 02000000 00000000 00000000".replace(" ", "")


@pytest.mark.req("NDR-6")
def test_equal_numbers_behind_full_pointers_are_no_aliases() -> None:
    assert unpack(Conformant[Full[U32]], pack(Conformant[Full[U32]], [5, 5, None])) == [5, 5, None]


@pytest.mark.req("NDR-6")
def test_a_null_embedded_reference_is_refused_both_ways() -> None:
    with pytest.raises(BadStubData, match="NULL"):
        unpack(Refs, "00000000 04000200 0100 0000 00000000")
    with pytest.raises(LocalProtocolError, match="None"):
        pack(Refs, Refs(None, []))  # type: ignore[arg-type]


BAD_WIDE = [
    ("pipe without its end", Pipe[U8], "00" * 8),
    ("pipe with another end", Pipe[U8], "00" * 8 + "01" + "00" * 7),
]
BAD = [
    ("offset is not 0", Str, "03000000 01000000 02000000 4800 0000"),
    ("actual exceeds maximum", Str, "01000000 00000000 02000000 4800 0000"),
    ("no terminator", Str, "02000000 00000000 02000000 4800 6900"),
    ("embedded terminator", Str, "03000000 00000000 03000000 4800 0000 0000"),
    ("no characters at all", Str, "00000000 00000000 00000000"),
    ("string beyond the end", Str, "ffffffff 00000000 ffffffff 4800 0000"),
    ("fixed string too long", Annotated[str, StringOf(1)], "00000000 02000000 4100 0000"),
    ("varying offset", ConformantVarying[U8], "02000000 01000000 01000000 61"),
    ("varying actual", ConformantVarying[U8], "01000000 00000000 02000000 6162"),
    ("varying bound", Annotated[bytes, ArrayOf(1, varying=True)], "00000000 02000000 6162"),
    ("hostile count of octets", Octets, "ffffffff 00"),
    ("hostile count of hypers", Conformant[U64], "ffffff7f 00000000 0000000000000000"),
    ("hostile count of structures", Conformant[Named], "ffffff7f 00000000"),
    ("hostile count of pointers", Conformant[Unique[U8]], "ffffff7f 00000000"),
    ("hostile count of references", Conformant[Ref[U8]], "ffffff7f 00000000"),
    ("hostile dimensions", Annotated[list[list[U8]], ArrayOf(None, None)], "ffffffff ffffffff 00"),
    ("hostile empty rows", Annotated[list[list[U8]], ArrayOf(None, None)], "ffffffff 00000000"),
    ("hostile pipe", Pipe[U8], "ffffffff 00"),
    ("size_is differs", Counted, "03000000 00000200 02000000 0100 0200"),
    ("size_is with NULL", Counted, "01000000 00000000"),
    ("length_is differs", Part, "0100 0200 00000200 02000000 00000000 02000000 6162"),
    ("maximum differs", Part, "0200 0300 00000200 02000000 00000000 02000000 6162"),
    ("size_is differs in an array", Conformant[Counted], "01000000 02000000 00000200 01000000 0100"),
    ("visible count differs", Visible, "02000000 00000200 01000000 61"),
    ("switch_is differs", Switched, "02000000 0100 02"),
    ("no such arm", Choice, "0900 07"),
    ("out of range", Annotated[U32, Range(0, 500)], "f5010000"),
    ("sizes of an interface pointer", RawInterfacePointer, "00000200 04000000 05000000 4d454f57"),
    ("interface pointer beyond the end", RawInterfacePointer, "00000200 ffffffff ffffffff"),
    ("nothing", U32, ""),
    ("half a surrogate byte", Annotated[str, ArrayOf(None)], "02000000 6100 62"),
]  # fmt: skip


@pytest.mark.req("NDR-4", "NDR-7", "NDR-9", "NDR-12", "NDR-13")
@pytest.mark.parametrize(("hint", "wire"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_wrong_bytes_are_bad_stub_data(hint: Any, wire: str) -> None:
    with pytest.raises(BadStubData) as caught:
        unpack(hint, wire)
    assert caught.value.status == 0x6F7


@pytest.mark.req("NDR-11", "NDR-12")
@pytest.mark.parametrize(("hint", "wire"), [bad[1:] for bad in BAD_WIDE], ids=[bad[0] for bad in BAD_WIDE])
def test_wrong_bytes_in_ndr64(hint: Any, wire: str) -> None:
    with pytest.raises(BadStubData):
        unpack(hint, wire, WIDE)


@pytest.mark.req("NDR-11")
def test_a_pipe_comes_in_chunks_and_its_trailer_is_checked() -> None:
    assert unpack(Pipe[U8], "01000000 61 000000 02000000 6263 0000 00000000") == b"abc"
    assert unpack(Pipe[U16], "01000000 0100 0000 01000000 0200 0000 00000000") == [1, 2]
    with pytest.raises(BadStubData, match="negated"):
        unpack(Pipe[U8], "0100000000000000 61 00000000000000 0100000000000000" + "00" * 16, WIDE)


@pytest.mark.req("NDR-13")
def test_a_chain_of_a_million_pointers_is_refused_without_a_deep_stack() -> None:
    link = bytes.fromhex("0100 0000 00000200")
    with pytest.raises(BadStubData, match="deeper"):
        codec_of(Chain).from_bytes(link * 100_000)
    deep = Chain(0, None)
    for _ in range(1000):
        deep = Chain(0, deep)
    with pytest.raises(LocalProtocolError, match="deeper"):
        pack(Chain, deep)


@pytest.mark.req("NDR-13")
def test_a_hostile_count_costs_no_memory() -> None:
    import tracemalloc

    codecs = [
        codec_of(hint) for hint in (Octets, Conformant[U64], Conformant[Named], Conformant[Ref[U8]], Str)
    ]
    data = bytes.fromhex("ffffff7f 00000000 ffffff7f 00000000")
    tracemalloc.start()
    for codec in codecs:
        with pytest.raises(BadStubData):
            codec.from_bytes(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


def test_unknown_members_of_an_enumeration_stay_numbers() -> None:
    assert unpack(Colored, "01 00 0900 00000000") == Colored(True, 9, False)  # type: ignore[arg-type]
    assert isinstance(unpack(Colored, "01 00 0100 02000000").color, Color)
    assert unpack(Colored, "01 00 0100 02000000").truth is True


def test_lone_surrogates_survive() -> None:
    assert unpack(Str, pack(Str, "a\ud800b")) == "a\ud800b"


WRONG = [
    (U8, 256, r"value is 256, which is not in 0\.\.255 \(U8\)"),
    (I32, "x", r"value must be an int \(I32\), not str 'x'"),
    (F64, None, "value must be a number"),
    (Guid, "x", "value must be a uuid.UUID"),
    (ContextHandle, b"short", "20 bytes"),
    (Str, 5, "value must be a str"),
    (Str, "a\0b", "NUL"),
    (Annotated[str, StringOf(2)], "ab", "terminator"),
    (Annotated[bytes, ArrayOf(4)], b"abc", "not 4"),
    (Annotated[list[U32], ArrayOf(4)], [1], "not 4"),
    (Annotated[str, ArrayOf(2)], "abc", "in 2"),
    (Annotated[list[list[U8]], ArrayOf(None, None)], [[1], []], "different lengths"),
    (Annotated[bytes, ArrayOf(1, varying=True)], b"ab", "not 1"),
    (Conformant[U16], [1, 70000], r"value\[1\] is 70000"),
    (Named, Named(1, 2, None), r"value\.name must be a str"),  # type: ignore[arg-type]
    (Named, Named(-1, None, None), r"value\.id is -1"),
    (Named, "x", "must be a Named"),
    (Choice, Choice(9, 1), "no arm"),
    (Choice, Choice(1, 300), r"value\.value is 300"),
    (Visible, Visible(3, b"a"), "count"),
    (Annotated[U32, Range(0, 5)], 6, "not in 0..5"),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "value", "said"), WRONG, ids=[str(wrong[2]) for wrong in WRONG])
def test_values_that_do_not_fit_say_which_and_why(hint: Any, value: Any, said: str) -> None:
    with pytest.raises(LocalProtocolError, match=said):
        pack(hint, value)


@pytest.mark.parametrize("hint", [int, str, "U32", dict[str, int], Annotated[list, ArrayOf(2)], Unique[int]])
def test_a_type_that_does_not_say_how_it_travels_is_an_error_of_the_declaration(hint: Any) -> None:
    with pytest.raises(TypeError):
        codec_of(hint)


class Thing:
    pass


class Table:
    def marshal(self, obj: Any, interface: type[Any] | None) -> bytes:
        assert isinstance(obj, Thing)
        return b"OBJREF " + (interface.__name__ if interface else "any").encode()

    def unmarshal(self, objref: bytes, interface: type[Any] | None) -> Any:
        return objref, interface


@struct
class Holder:
    before: U32
    thing: InterfacePointer[Thing]
    others: Unique[Conformant[AnyInterface]]
    after: U8


@pytest.mark.req("NDR-5")
def test_interface_pointers_go_through_the_marshaller_wherever_they_are() -> None:
    codec = codec_of(Holder)
    data = codec.to_bytes(Holder(1, Thing(), [Thing(), None], 2), Table())
    read = codec.from_bytes(data, Table())
    assert read == Holder(1, (b"OBJREF Thing", Thing), [(b"OBJREF any", None), None], 2)  # type: ignore[arg-type]
    assert codec.from_bytes(data).thing == b"OBJREF Thing"


def test_characters_and_bytes_as_numbers() -> None:
    assert unpack(Conformant[WChar], "01000000 6100") == [0x61]
    assert unpack(Conformant[Char8], "01000000 61") == b"a"
    assert pack(Octets, memoryview(b"ab")) == pack(Octets, [97, 98]) == pack(Octets, bytearray(b"ab"))


@pytest.mark.req("NDR-15")
@pytest.mark.parametrize("syntax", Syntax)
@pytest.mark.parametrize("count", [0, 1, 127, 128, 5000])
def test_long_arrays_of_numbers(syntax: Syntax, count: int) -> None:
    for hint, values in (
        (Conformant[U64], [i << 40 for i in range(count)]),
        (Conformant[F64], [i / 4 for i in range(count)]),
        (Conformant[Boolean], [i % 3 == 0 for i in range(count)]),
        (Conformant[Bool], [i % 3 == 0 for i in range(count)]),
    ):
        codec = codec_of(hint, syntax)
        assert codec.from_bytes(codec.to_bytes(values)) == values


@struct
class Wide:
    name: Str


@struct
class Flat:
    name: Unique[Str]
    id: U8


class Arms(Union, switch=U16):
    cases: ClassVar[dict[Any, Any]] = {1: Ref[Wide], 2: Flat, 3: Unique[Flat]}


@pytest.mark.req("NDR-7")
@pytest.mark.parametrize("value", [Arms(1, Wide("a")), Arms(2, Flat("b", 1)), Arms(3, Flat("c", 2)), Arms(3)])
def test_arms_with_pointers_do_not_disturb_each_other(value: Arms) -> None:
    for syntax in Syntax:
        assert unpack(Unique[Arms], pack(Unique[Arms], value, syntax), syntax) == value


@struct
class Aliases:
    one: Full[Conformant[U16]]
    two: Full[Conformant[U16]]


@pytest.mark.req("NDR-6")
def test_fields_of_one_type_may_alias() -> None:
    shared = [7]
    wire = "00000400 00000400 01000000 0700"
    assert pack(Aliases, Aliases(shared, shared)) == wire.replace(" ", "")
    read = unpack(Aliases, wire)
    assert read == Aliases([7], [7])
    assert read.one is read.two


@pytest.mark.req("NDR-6")
def test_full_pointers_to_full_pointers() -> None:
    hint = Conformant[Full[Full[Conformant[U16]]]]
    assert unpack(hint, pack(hint, [[1], None, [2]])) == [[1], None, [2]]
