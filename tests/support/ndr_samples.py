"""The Calculator and Echo interfaces as CONTRACT section 6 describes them, for tests of the declaration API."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, ClassVar, NamedTuple

from oxid.interfaces.unknown import IUnknown
from oxid.ndr import (
    F64,
    I32,
    NTSTATUS,
    U8,
    U16,
    U32,
    U64,
    Conformant,
    Hyper,
    InterfacePointer,
    Octets,
    Str,
    Union,
    Unique,
    count_of,
    enum16,
    enum32,
    struct,
)
from oxid.rpc.interface import interface, operation


@interface("5859270E-BE58-4CA6-8157-B4CB6B24051B")
class ICalculator(IUnknown):
    """Adds, divides and greets."""

    @operation(3, out="sum")
    async def add(self, a: I32, b: I32) -> I32:
        """Add two numbers."""
        raise NotImplementedError

    @operation(4, out="quotient")
    async def divide(self, dividend: F64, divisor: F64) -> F64:
        raise NotImplementedError

    @operation(
        5, wire=(count_of("data", U32, name="size"), "data"), out="echoed", correlate={"echoed": "data"}
    )
    async def echo(self, data: Octets) -> Octets:
        raise NotImplementedError

    @operation(6, wire=(count_of("values", U32, name="count"), "values"), out="sum")
    async def sum(self, values: Conformant[I32]) -> Hyper:
        raise NotImplementedError

    @operation(7, out="greeting")
    async def greet(self, name: Str) -> Unique[Str]:
        raise NotImplementedError

    @operation(8, out="copy")
    async def clone(self) -> InterfacePointer[ICalculator]:
        raise NotImplementedError

    @operation(9)
    async def sleep(self, milliseconds: U32) -> None:
        raise NotImplementedError


class Enum1(IntEnum):
    ENUM1 = 1
    ENUM2 = 2


class Enum1Wide(IntEnum):
    ENUM1_32 = 1
    ENUM2_32 = 2


@struct
class Info1:
    v: U8


@struct
class Info2:
    v: U16


@struct
class Info3:
    v: U32


@struct
class Info4:
    v: U64


@struct
class Info5:
    v1: U8
    v2: U64


@struct
class Info6:
    v1: U8
    info1: Info1


@struct
class Info7:
    v1: U8
    info4: Info4


class Info(Union, switch=U16):
    cases: ClassVar[dict[Any, Any]] = {1: Info1, 2: Info2, 3: Info3, 4: Info4, 5: Info5, 6: Info6, 7: Info7}


@struct
class Enum2:
    e1: Annotated[Enum1, enum16]
    e2: Annotated[Enum1Wide, enum32]


class Enum3(Union, switch=U16):
    cases: ClassVar[dict[Any, Any]] = {1: Annotated[Enum1, enum16], 2: Enum2}


@struct
class Surrounding:
    x: ClassVar = count_of("surrounding", U32)
    surrounding: Conformant[U16]


class Enums(NamedTuple):
    foo1: Annotated[Enum1, enum16]
    foo2: Enum2
    foo3: Enum3


@interface("60a15ec5-4de8-11d7-a637-005056a20182", version=(1, 0))
class IEcho:
    @operation(0, out="out_data")
    def add_one(self, in_data: U32) -> U32:
        raise NotImplementedError

    @operation(
        1,
        wire=(count_of("in_data", U32, name="len"), "in_data"),
        out="out_data",
        correlate={"out_data": "in_data"},
    )
    def echo_data(self, in_data: Octets) -> Octets:
        raise NotImplementedError

    @operation(2, wire=(count_of("data", U32, name="len"), "data"))
    def sink_data(self, data: Octets) -> None:
        raise NotImplementedError

    @operation(3, out="data", correlate={"data": "len"})
    def source_data(self, len: U32) -> Octets:
        raise NotImplementedError

    @operation(4, out="s2")
    def test_call(self, s1: Str) -> Unique[Str]:
        raise NotImplementedError

    @operation(5, out=("info", "result"), correlate={"info": "level"})
    def test_call2(self, level: U16) -> tuple[Info, NTSTATUS]:
        raise NotImplementedError

    @operation(6, out="result")
    async def test_sleep(self, seconds: U32) -> U32:
        raise NotImplementedError

    @operation(7, correlate={"foo3": "foo1"})
    def test_enum(self, foo1: Annotated[Enum1, enum16], foo2: Enum2, foo3: Enum3) -> Enums:
        raise NotImplementedError

    @operation(8, out="data")
    def test_surrounding(self, data: Surrounding) -> Surrounding:
        raise NotImplementedError

    @operation(9, out="result")
    def test_double_pointer(self, data: Unique[Unique[U16]]) -> U16:
        raise NotImplementedError
