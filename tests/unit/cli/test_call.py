"""`oxid call`: words to an operation and its arguments, results to JSON."""

from __future__ import annotations

from uuid import UUID

import click
import pytest

from oxid.cli.apps import samples
from oxid.cli.call import failure, results, understand
from oxid.errors import ConfigurationError, hresult
from oxid.interfaces.unknown import IUnknown
from oxid.ndr.types import HRESULT, U32, Octets
from oxid.rpc.interface import interface, operation, spec_of
from oxid.samples.calculator import CLSID_CALCULATOR, IID_ICALCULATOR, ICalculator


@interface("0e7f8f2e-6d5c-4c8e-9c5f-0d8d64a1a001")
class IOuts(IUnknown):
    @operation(3)
    async def nothing(self) -> None:
        raise NotImplementedError

    @operation(4, out=("a", "data", "hr"))
    async def many(self) -> tuple[U32, Octets, HRESULT]:
        raise NotImplementedError


@pytest.mark.parametrize(
    "words",
    [
        ("Oxid.Calculator", "Add", "1", "-2"),
        ("oxid.calculator", "add", "1", "-2"),
        (str(CLSID_CALCULATOR), str(IID_ICALCULATOR), "Add", "1", "-2"),
        (f"{{{CLSID_CALCULATOR}}}".upper(), "ICalculator", "Add", "1", "-2"),
    ],
)
def test_a_method_is_named_by_progid_or_by_identifiers(words: tuple[str, ...]) -> None:
    wanted = understand(words, samples())
    assert wanted.clsid == CLSID_CALCULATOR
    assert wanted.interface is ICalculator
    assert wanted.operation.opnum == 3
    assert wanted.arguments == [1, -2]


@pytest.mark.parametrize(
    "words", [("Echo", "3", "hex:010203"), ("Echo", "hex:010203"), ("Echo", '"hex:010203"')]
)
def test_sizes_may_be_given_as_in_the_idl_or_left_out(words: tuple[str, ...]) -> None:
    assert understand(("Oxid.Calculator", *words), samples()).arguments == [b"\1\2\3"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("Oxid.Calculator", "Echo", "4", "hex:010203"), "size: 4 given, data has 3 items"),
        (("Oxid.Calculator", "Ad", "1", "2"), "no method Ad; did you mean 'Add'?"),
        (("Oxid.Calculator", "Add", "1"), "ICalculator.Add: 1 arguments given, wanted: a, b"),
        (("Oxid.Calculator", "Add", "1", "x"), 'b: "x" given, a whole number wanted'),
        (("Oxid.Calc", "Add", "1", "2"), "no class Oxid.Calc is known here"),
        ((str(CLSID_CALCULATOR), "ICalc", "Add"), "no interface ICalc is known"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        understand(words, samples())
    assert said in str(caught.value)


@pytest.mark.parametrize("words", [(), ("Oxid.Calculator",), (str(UUID(int=1)), "Add")])
def test_too_few_words_are_wrong_usage(words: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError):
        understand(words, samples())


def test_results_are_named() -> None:
    outs = spec_of(IOuts)
    assert results(outs.operation("nothing"), None) == {"hresult": 0, "out": {}}
    assert results(outs.operation("many"), (7, b"\xff", 1)) == {
        "hresult": 1,
        "out": {"a": 7, "data": "hex:ff"},
    }
    assert results(spec_of(ICalculator).operation("Sum"), 3) == {"hresult": 0, "out": {"sum": 3}}


def test_a_failure_keeps_its_hresult_and_description() -> None:
    error = hresult(0x80020012, "by zero", source="Oxid.Calculator")
    assert failure(error) == {
        "hresult": 0x80020012,
        "out": {},
        "error": {"description": "by zero", "source": "Oxid.Calculator"},
    }
