"""A class whose methods take and return interface pointers, for clients of other people to call."""

from __future__ import annotations

import inspect

from oxid.com.coclass import coclass
from oxid.errors import hresult
from oxid.interfaces.unknown import IUnknown
from oxid.ndr.types import I32, InterfacePointer
from oxid.rpc.interface import interface, operation
from oxid.samples.calculator import Calculator, ICalculator
from oxid.values.status import E_POINTER

__all__ = ["Calculator", "Referee"]


@interface("7c1fb2d4-30d7-4f07-8e0c-5f1e0d9c2a61")
class IReferee(IUnknown):
    @operation(3, out="sum")
    async def add_through(self, calculator: InterfacePointer[ICalculator], a: I32, b: I32) -> I32:
        """Let the given calculator add."""
        raise NotImplementedError

    @operation(4)
    async def keep(self, calculator: InterfacePointer[ICalculator]) -> None:
        """Hold the calculator until `kept` gives it back."""
        raise NotImplementedError

    @operation(5, out="calculator")
    async def kept(self) -> InterfacePointer[ICalculator]:
        """Give the calculator back."""
        raise NotImplementedError


@coclass("0b59cba5-7e71-45a8-a1f3-9c3c6c3e4d10", progid="Oxid.Tests.Referee", implements=[IReferee])
class Referee:
    def __init__(self) -> None:
        self._kept: ICalculator | None = None

    async def add_through(self, calculator: ICalculator | None, a: int, b: int) -> int:
        if calculator is None:
            raise hresult(E_POINTER, "a calculator is wanted")
        # A calculator of this very host comes as the object itself, and its `add` is a plain method.
        total = calculator.add(a, b)
        return await total if inspect.isawaitable(total) else total

    async def keep(self, calculator: ICalculator | None) -> None:
        self._kept = calculator

    async def kept(self) -> ICalculator | None:
        kept, self._kept = self._kept, None
        return kept
