"""What the bench calls: a plain RPC interface, and a class whose methods are coroutines.

The medium structure has 20 scalars, a string and 100 integers: 544 bytes of stub.
"""

from __future__ import annotations

import asyncio
from typing import Final
from uuid import UUID

from oxid.com.coclass import coclass
from oxid.ndr.types import F32, F64, U8, U16, U32, U64, Conformant, Octets, Str, Unique, count_of, struct
from oxid.rpc.interface import interface, operation
from oxid.samples.calculator import Calculator, ICalculator
from oxid.values.status import Win32

CLSID_COROUTINES: Final = UUID("6f0c1a52-93b5-4a5e-8e3a-1d1a8d3b6c40")


@struct(correlate={"data": "count"})
class Medium:
    """A structure as ordinary interfaces have them."""

    long0: U32
    long1: U32
    long2: U32
    long3: U32
    long4: U32
    long5: U32
    long6: U32
    long7: U32
    short0: U16
    short1: U16
    short2: U16
    short3: U16
    small0: U8
    small1: U8
    small2: U8
    small3: U8
    hyper0: U64
    hyper1: U64
    double: F64
    single: F32
    name: Unique[Str]
    count: U32
    data: Unique[Conformant[U32]]


MEDIUM: Final = Medium(
    *(*range(1, 17), 1 << 40, 2 << 40, 1.5, 2.5, "medium name string", 100, list(range(100)))
)


@interface("deadbeef-1234-5678-9abc-def012345678", version=(1, 0))
class IBench:
    """Calls that do nothing but travel."""

    @operation(0, returns=Win32)
    async def null(self) -> None:
        """Nothing in, nothing but the status out."""
        raise NotImplementedError

    @operation(
        1,
        wire=(count_of("data", U32, name="n"), "data"),
        reply=(count_of("data", U32, name="n"), "data"),
        out="data",
        returns=Win32,
    )
    async def echo(self, data: Octets) -> Octets:
        """The same bytes again."""
        raise NotImplementedError

    @operation(2, out="medium", returns=Win32)
    async def medium(self, medium: Medium) -> Medium:
        """The same structure again."""
        raise NotImplementedError


class Bench:
    """Implements IBench with plain methods."""

    def null(self) -> None:
        return None

    def echo(self, data: bytes) -> bytes:
        return data

    def medium(self, medium: Medium) -> Medium:
        return medium


class _Coroutines(Calculator):
    """The calculator with an `async def` where the sample has a plain one."""

    async def add(self, a: int, b: int) -> int:  # type: ignore[override]
        return a + b

    async def sleep(self, milliseconds: int) -> None:
        await asyncio.sleep(milliseconds / 1000)


CoroutineCalculator: Final = coclass(CLSID_COROUTINES, implements=[ICalculator])(_Coroutines)
