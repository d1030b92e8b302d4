"""The Calculator: an object with results, errors, strings, arrays and a second object. The contract, section 6

async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
    print(await calculator.add(2, 3))
"""

from __future__ import annotations

import asyncio
from typing import Final, NoReturn
from uuid import UUID

from oxid.com.coclass import coclass
from oxid.errors import hresult
from oxid.interfaces.unknown import IUnknown
from oxid.ndr.types import F64, I32, I64, U32, Conformant, InterfacePointer, Octets, Str, Unique, count_of
from oxid.rpc.interface import interface, operation
from oxid.values.status import DISP_E_DIVBYZERO, DISP_E_OVERFLOW

APPID_SAMPLES: Final = UUID("2891faf8-c90a-45a8-a3c5-372c2948d626")
CLSID_CALCULATOR: Final = UUID("b81bb948-688d-436a-9eba-5f37813e2375")
IID_ICALCULATOR: Final = UUID("5859270e-be58-4ca6-8157-b4cb6b24051b")
PROGID: Final = "Oxid.Calculator"


@interface(IID_ICALCULATOR)
class ICalculator(IUnknown):
    """Arithmetic at a distance."""

    @operation(3, out="sum")
    async def add(self, a: I32, b: I32) -> I32:
        """The sum of two numbers. A sum past 32 bits is DISP_E_OVERFLOW."""
        raise NotImplementedError

    @operation(4, out="quotient")
    async def divide(self, dividend: F64, divisor: F64) -> F64:
        """The quotient of two numbers. Dividing by zero is DISP_E_DIVBYZERO."""
        raise NotImplementedError

    @operation(
        5, wire=(count_of("data", U32, name="size"), "data"), out="echoed", correlate={"echoed": "data"}
    )
    async def echo(self, data: Octets) -> Octets:
        """The same bytes again."""
        raise NotImplementedError

    @operation(6, wire=(count_of("values", U32, name="count"), "values"), out="sum")
    async def sum(self, values: Conformant[I32]) -> I64:
        """The sum of many numbers."""
        raise NotImplementedError

    @operation(7, out="greeting")
    async def greet(self, name: Str) -> Unique[Str]:
        """A greeting for somebody."""
        raise NotImplementedError

    @operation(8, out="copy")
    async def clone(self) -> InterfacePointer[ICalculator]:
        """Another calculator."""
        raise NotImplementedError

    @operation(9)
    async def sleep(self, milliseconds: U32) -> None:
        """Answer after a while; other calls are answered meanwhile."""
        raise NotImplementedError


@coclass(CLSID_CALCULATOR, implements=[ICalculator], progid=PROGID, appid=APPID_SAMPLES)
class Calculator:
    """Implements ICalculator; plain methods, since none but `sleep` waits."""

    def add(self, a: int, b: int) -> int:
        total = a + b
        if not -0x8000_0000 <= total <= 0x7FFF_FFFF:
            _fail(DISP_E_OVERFLOW, f"{a} + {b} does not fit into 32 bits")
        return total

    def divide(self, dividend: float, divisor: float) -> float:
        if divisor == 0:
            _fail(DISP_E_DIVBYZERO, f"{dividend} cannot be divided by zero")
        return dividend / divisor

    def echo(self, data: bytes) -> bytes:
        return data

    def sum(self, values: list[int]) -> int:
        return sum(values)

    def greet(self, name: str) -> str:
        return f"Hello, {name}"

    def clone(self) -> Calculator:
        return Calculator()

    async def sleep(self, milliseconds: int) -> None:
        await asyncio.sleep(milliseconds / 1000)


def _fail(code: int, description: str) -> NoReturn:
    raise hresult(code, description, source=PROGID, iid=IID_ICALCULATOR)
