"""Echo: a plain RPC interface whose ten operations exercise every corner of marshalling.

    echo = await machine.bind(IEcho)            any authenticated caller, from level connect
    await echo.add_one(41)                      42

The interface is the one that Samba's test program calls, `smbtorture rpc.echo`, with the results it expects.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Final, NamedTuple

from oxid.errors import fault
from oxid.ndr.types import (
    NTSTATUS,
    U8,
    U16,
    U32,
    Conformant,
    Enum16,
    Enum32,
    Hyper,
    Octets,
    Str,
    Union,
    Unique,
    count_of,
    struct,
)
from oxid.rpc.interface import interface, operation
from oxid.values.status import NCA_S_FAULT_INVALID_BOUND, NCA_S_FAULT_INVALID_TAG

MAX_SOURCE: Final = 4 << 20
"""The most octets one SourceData call makes; as much as one request may carry. [MS-RPCE] 3.3.3.5.4"""

ENUM_2: Final = 2


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
    v: Hyper


@struct
class Info5:
    v1: U8
    v2: Hyper


@struct
class Info6:
    v1: U8
    info1: Info1


@struct
class Info7:
    v1: U8
    info4: Info4


class Info(Union, switch=U16):
    """One structure per level, each aligned in its own way."""

    cases: ClassVar = {1: Info1, 2: Info2, 3: Info3, 4: Info4, 5: Info5, 6: Info6, 7: Info7}


@struct
class EnumPair:
    """The same two values as an ordinary enum and as one with [v1_enum]."""

    e1: Enum16
    e2: Enum32


class EnumChoice(Union, switch=U16):
    cases: ClassVar = {1: Enum16, 2: Enum16}


class EnumReply(NamedTuple):
    foo1: Enum16
    foo2: EnumPair
    foo3: EnumChoice


@struct
class Surrounding:
    """A structure that ends in an array of its own size."""

    x: ClassVar = count_of("surrounding", U32)
    surrounding: Conformant[U16]


@interface("60a15ec5-4de8-11d7-a637-005056a20182", version=(1, 0), name="rpcecho")
class IEcho:
    """Samba's echo.idl."""

    @operation(0, out="out_data")
    async def add_one(self, in_data: U32) -> U32:
        """Add one, modulo 2^32."""
        raise NotImplementedError

    @operation(
        1,
        wire=(count_of("in_data", U32, name="len"), "in_data"),
        out="out_data",
        correlate={"out_data": "in_data"},
    )
    async def echo_data(self, in_data: Octets) -> Octets:
        """Return the octets as they came."""
        raise NotImplementedError

    @operation(2, wire=(count_of("data", U32, name="len"), "data"))
    async def sink_data(self, data: Octets) -> None:
        """Take the octets and forget them."""
        raise NotImplementedError

    @operation(3, names={"length": "len"}, out="data", correlate={"data": "length"})
    async def source_data(self, length: U32) -> Octets:
        """Return so many octets, counting up from 0 modulo 256."""
        raise NotImplementedError

    @operation(4, out="s2")
    async def test_call(self, s1: Str) -> Unique[Str]:
        """Return the string."""
        raise NotImplementedError

    @operation(5, out=("info", "status"), correlate={"info": "level"})
    async def test_call2(self, level: U16) -> tuple[Info, NTSTATUS]:
        """Return the structure of a level from 1 to 7. Another level faults with nca_s_fault_invalid_tag."""
        raise NotImplementedError

    @operation(6, out="result")
    async def test_sleep(self, seconds: U32) -> U32:
        """Answer after so many seconds with their number; other calls go on meanwhile."""
        raise NotImplementedError

    @operation(7, correlate={"foo3": "foo1"})
    async def test_enum(self, foo1: Enum16, foo2: EnumPair, foo3: EnumChoice) -> EnumReply:
        """Return the three, with the first member of `foo2` set to 2."""
        raise NotImplementedError

    @operation(8, out="data")
    async def test_surrounding(self, data: Surrounding) -> Surrounding:
        """Return an array of twice the size, all zero."""
        raise NotImplementedError

    @operation(9, out="result")
    async def test_double_pointer(self, data: Unique[Unique[U16]]) -> U16:
        """Return the number behind three pointers; 0 where one of them is NULL."""
        raise NotImplementedError


class Echo:
    """The implementation that `oxid serve` offers."""

    implements = IEcho

    def add_one(self, in_data: int) -> int:
        return (in_data + 1) & 0xFFFF_FFFF

    def echo_data(self, in_data: bytes) -> bytes:
        return in_data

    def sink_data(self, data: bytes) -> None:
        return None

    def source_data(self, length: int) -> bytes:
        if length > MAX_SOURCE:
            raise fault(NCA_S_FAULT_INVALID_BOUND, f"{length} octets wanted, at most {MAX_SOURCE} are made")
        return (bytes(range(256)) * (length // 256 + 1))[:length]

    def test_call(self, s1: str) -> str:
        return s1

    def test_call2(self, level: int) -> tuple[Info, int]:
        levels = {
            1: Info1(10),
            2: Info2(20),
            3: Info3(30),
            4: Info4(40),
            5: Info5(50, 60),
            6: Info6(70, Info1(80)),
            7: Info7(80, Info4(90)),
        }
        if level not in levels:
            raise fault(NCA_S_FAULT_INVALID_TAG, f"there is no level {level}")
        return Info(level, levels[level]), 0

    async def test_sleep(self, seconds: int) -> int:
        await asyncio.sleep(seconds)
        return seconds

    def test_enum(self, foo1: int, foo2: EnumPair, foo3: EnumChoice) -> EnumReply:
        return EnumReply(foo1, EnumPair(ENUM_2, foo2.e2), foo3)

    def test_surrounding(self, data: Surrounding) -> Surrounding:
        return Surrounding([0] * (2 * len(data.surrounding)))

    def test_double_pointer(self, data: int | None) -> int:
        return data or 0
