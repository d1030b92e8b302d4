"""The words interfaces are declared with. Each is an ordinary Python type plus how it travels. [C706] 14

U32                         an unsigned 32-bit integer (int)
Str, Unique[Str]            a [string] wchar_t array (str); one that may be NULL (str | None)
Conformant[U32]             a sized array (list); of U8 it is `bytes`, see `Octets`
Annotated[list[U32], ArrayOf(4)]          a fixed array;  ArrayOf(None, 3) is conformant in two dimensions
Annotated[U32, Range(0, 500)]             a checked number
@struct class Point: x: I32; y: I32       a structure
class Shape(Union, switch=U16): cases = {1: Point, 2: F64, DEFAULT: None}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar, dataclass_transform, overload
from typing import Union as _PythonUnion
from uuid import UUID

from oxid.ndr.model import (
    DEFAULT,
    ArrayOf,
    Count,
    GuidNode,
    HandleNode,
    InterfaceTo,
    PipeOf,
    PointerKind,
    PointerTo,
    Range,
    Scalar,
    StringOf,
    Struct,
    Text,
    UnionNode,
)
from oxid.values.status import HResult, NtStatus, Win32

__all__ = [
    "DEFAULT",
    "F32",
    "F64",
    "HRESULT",
    "I8",
    "I16",
    "I32",
    "I64",
    "NTSTATUS",
    "NULL_HANDLE",
    "U8",
    "U16",
    "U32",
    "U64",
    "AStr",
    "AnyInterface",
    "ArrayOf",
    "Bool",
    "Boolean",
    "Char8",
    "Conformant",
    "ConformantVarying",
    "ContextHandle",
    "Enum16",
    "Enum32",
    "ErrorStatus",
    "Full",
    "Guid",
    "Hyper",
    "Int3264",
    "InterfacePointer",
    "Octets",
    "Pipe",
    "Range",
    "RawInterfacePointer",
    "Ref",
    "Str",
    "StringOf",
    "UInt3264",
    "Union",
    "Unique",
    "Varying",
    "WChar",
    "count_of",
    "enum16",
    "enum32",
    "size_of",
    "struct",
    "switch_of",
]  # fmt: skip

T = TypeVar("T")

U8 = Annotated[int, Scalar("U8", "B", 1, 0, 0xFF)]
U16 = Annotated[int, Scalar("U16", "H", 2, 0, 0xFFFF)]
U32 = Annotated[int, Scalar("U32", "I", 4, 0, 0xFFFF_FFFF)]
U64 = Annotated[int, Scalar("U64", "Q", 8, 0, (1 << 64) - 1)]
I8 = Annotated[int, Scalar("I8", "b", 1, -0x80, 0x7F)]
I16 = Annotated[int, Scalar("I16", "h", 2, -0x8000, 0x7FFF)]
I32 = Annotated[int, Scalar("I32", "i", 4, -0x8000_0000, 0x7FFF_FFFF)]
I64 = Annotated[int, Scalar("I64", "q", 8, -(1 << 63), (1 << 63) - 1)]
Hyper = I64
"""The IDL's `hyper`; eight-aligned on every machine."""
F32 = Annotated[float, Scalar("F32", "f", 4)]
F64 = Annotated[float, Scalar("F64", "d", 8)]
Boolean = Annotated[bool, Scalar("Boolean", "?", 1)]
"""The IDL's `boolean`, one byte."""
Bool = Annotated[bool, Scalar("Bool", "I", 4, truth=True)]
"""The `BOOL` of Windows headers, four bytes."""
WChar = Annotated[int, Scalar("WChar", "H", 2, 0, 0xFFFF)]
"""One wchar_t as a number; text is `Str`, or `Annotated[str, ArrayOf(n)]` without a terminator's rules."""
Char8 = Annotated[int, Scalar("Char8", "B", 1, 0, 0xFF)]
"""One `char` as a number; arrays of it are `bytes`."""
Enum16 = Annotated[int, Scalar("Enum16", "H", 2, 0, 0xFFFF, wide_code="I", wide_size=4)]
"""An IDL enum as a number: 16 bits in NDR, 32 in NDR64. For Python enumerations see `enum16`."""
Enum32 = Annotated[int, Scalar("Enum32", "I", 4, 0, 0xFFFF_FFFF)]
"""An enum with [v1_enum]: always 32 bits."""
enum16 = Scalar("Enum16", "H", 2, 0, 0xFFFF, wide_code="I", wide_size=4)
"""For Python enumerations: `Annotated[Color, enum16]`."""
enum32 = Scalar("Enum32", "I", 4, 0, 0xFFFF_FFFF)
"""For Python enumerations with [v1_enum]: `Annotated[Color, enum32]`."""
Int3264 = Annotated[int, Scalar("Int3264", "i", 4, -0x8000_0000, 0x7FFF_FFFF, wide_code="q", wide_size=8)]
"""__int3264: 32 bits in NDR, 64 in NDR64. [MS-RPCE] 2.2.4.1.2"""
UInt3264 = Annotated[int, Scalar("UInt3264", "I", 4, 0, 0xFFFF_FFFF, wide_code="Q", wide_size=8)]
HRESULT = Annotated[int, Scalar("HRESULT", "I", 4, 0, 0xFFFF_FFFF, status=HResult)]
"""A COM status as an unsigned number."""
ErrorStatus = Annotated[int, Scalar("ErrorStatus", "I", 4, 0, 0xFFFF_FFFF, status=Win32)]
"""error_status_t: a Win32 or RPC status."""
NTSTATUS = Annotated[int, Scalar("NTSTATUS", "I", 4, 0, 0xFFFF_FFFF, status=NtStatus)]
Guid = Annotated[UUID, GuidNode()]
ContextHandle = Annotated[bytes, HandleNode()]
"""20 bytes: attributes and a UUID, in little-endian form; `NULL_HANDLE` is NULL."""
NULL_HANDLE = bytes(20)

Str = Annotated[str, Text(wide=True)]
"""[string] wchar_t, conformant; the terminator is on the wire only."""
AStr = Annotated[str, Text(wide=False)]
"""[string] char, conformant, Latin-1."""

Ref = Annotated[T, PointerTo(PointerKind.REF)]
Unique = Annotated[_PythonUnion[T, None], PointerTo(PointerKind.UNIQUE)]  # noqa: UP007 - T may be a string
Full = Annotated[_PythonUnion[T, None], PointerTo(PointerKind.FULL)]  # noqa: UP007
"""A [ptr] pointer: the same object in two places travels once; cycles are fine."""
Conformant = Annotated[Sequence[T], ArrayOf(None)]
Varying = Annotated[Sequence[T], ArrayOf(0xFFFF_FFFF, varying=True)]
"""Offset and actual count; give the bound with `Annotated[list[U32], ArrayOf(16, varying=True)]`."""
ConformantVarying = Annotated[Sequence[T], ArrayOf(None, varying=True)]
Octets = Annotated[bytes, ArrayOf(None)]
"""`Conformant[U8]` that Python sees as bytes."""
Pipe = Annotated[Sequence[T], PipeOf()]
InterfacePointer = Annotated[_PythonUnion[T, None], InterfaceTo()]  # noqa: UP007
"""A reference to a COM object: a proxy when it comes, any implementation or proxy when it goes."""
AnyInterface = Annotated[Any, InterfaceTo()]
"""An interface pointer whose IID another parameter gives (iid_is)."""
RawInterfacePointer = Annotated[_PythonUnion[bytes, None], InterfaceTo(raw=True)]  # noqa: UP007
"""An interface pointer as the OBJREF's bytes."""


def count_of(of: str, hint: Any, *, name: str = "", loose: bool = False) -> Any:
    """A number that travels apart: how many items of `of` are sent: size_is, or length_is where it varies.

    It is computed when sending and compared when receiving; Python code does not see it. Use it in `wire=`
    and `reply=` of an operation, or in a structure as `size: ClassVar = count_of("data", U32)`.
    `loose` lets a NULL pointer come with any number (disable_consistency_check).
    """
    return Count(of, hint, name, "length", loose)


def size_of(of: str, hint: Any, *, name: str = "", loose: bool = False) -> Any:
    """Like `count_of`, for the maximum count of a conformant varying array (its size_is)."""
    return Count(of, hint, name, "size", loose)


def switch_of(of: str, hint: Any, *, name: str = "") -> Any:
    """The discriminant of the union `of` where it travels apart (switch_is)."""
    return Count(of, hint, name, "switch", False)


@overload
@dataclass_transform()
def struct(cls: type[T], /) -> type[T]: ...
@overload
@dataclass_transform()
def struct(*, correlate: Mapping[str, str] | None = None, align: int = 1) -> Callable[[type[T]], type[T]]: ...
def struct(
    cls: type[Any] | None = None, /, *, correlate: Mapping[str, str] | None = None, align: int = 1
) -> Any:
    """Make a class a structure: a slotted dataclass whose annotations say how it travels.

    `correlate={"data": "count"}` says that the visible field `count` is the size of `data` (or the switch of
    a union): checked in both directions. Hidden counts are `size: ClassVar = count_of("data", U32)`.
    """

    def make(plain: type[Any]) -> type[Any]:
        made = dataclasses.dataclass(slots=True)(plain)
        made.__ndr__ = Struct(made, dict(correlate or {}), align)
        return made

    return make if cls is None else make(cls)


class Union:
    """Base of unions: `tag` says which arm `value` is.

    class Info(Union, switch=U16):       # or also encapsulated=True, ms_union=True as in the IDL
        cases = {1: U8, 2: Point, DEFAULT: None}

    Info(1, 7).tag == 1. None is an empty arm; without DEFAULT an unknown tag is refused. An arm may be a string
    that is evaluated later: needed for classes below, and type checkers want it for `"Unique[Str]"`.
    """

    __slots__ = ("tag", "value")
    cases: ClassVar[Mapping[Any, Any]] = {}
    __ndr__: ClassVar[UnionNode]

    def __init_subclass__(cls, *, switch: Any, encapsulated: bool = False, ms_union: bool = False) -> None:
        cls.__ndr__ = UnionNode(cls, switch, encapsulated, ms_union)

    def __init__(self, tag: int, value: Any = None) -> None:
        self.tag = tag
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and (self.tag, self.value) == (other.tag, other.value)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.tag!r}, {self.value!r})"
