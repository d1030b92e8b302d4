"""Arguments and replies as JSON. CONTRACT section 4"""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Annotated, Any, ClassVar
from uuid import UUID

import pytest
from tests.support.ndr_samples import ICalculator, IEcho, Info, Info1

from oxid.errors import ConfigurationError
from oxid.ndr import (
    F64,
    U8,
    U16,
    U32,
    ArrayOf,
    Bool,
    Conformant,
    ContextHandle,
    Guid,
    InterfacePointer,
    Octets,
    RawInterfacePointer,
    Str,
    Union,
    Unique,
    enum16,
    struct,
)
from oxid.ndr.model import resolve
from oxid.rpc.interface import interface, operation, spec_of
from oxid.rpc.json_values import arguments_from_json, describe, reply_to_json, value_from_json, value_to_json


class Color(IntEnum):
    RED = 1


@struct
class Everything:
    data: Octets
    guid: Guid
    name: Unique[Str]
    color: Annotated[Color, enum16]
    grid: Annotated[list[list[U8]], ArrayOf(2, 2)]
    handle: ContextHandle
    real: F64
    yes: Bool
    text: Annotated[str, ArrayOf(2)]


class Choice(Union, switch=U16):
    cases: ClassVar[dict[Any, Any]] = {1: Everything, 2: None}


EVERYTHING = Everything(
    b"\0\xff", UUID(int=5), None, Color.RED, [[1, 2], [3, 4]], bytes(20), float("inf"), True, "ab"
)
AS_JSON = {
    "data": "hex:00ff",
    "guid": "00000000-0000-0000-0000-000000000005",
    "name": None,
    "color": 1,
    "grid": [[1, 2], [3, 4]],
    "handle": "hex:" + "00" * 20,
    "real": "Infinity",
    "yes": True,
    "text": "ab",
}


def op(interface: type[Any], name: str) -> Any:
    return spec_of(interface).operation(name)


def test_values_go_to_json_and_back() -> None:
    node = resolve(Choice)
    shown = value_to_json(node, Choice(1, EVERYTHING))
    assert shown == {"tag": 1, "value": AS_JSON}
    assert json.loads(json.dumps(shown)) == shown
    assert value_from_json(node, shown, "x") == Choice(1, EVERYTHING)
    assert value_from_json(node, {"tag": 2}, "x") == Choice(2)
    assert value_from_json(resolve(Everything), AS_JSON | {"color": "RED"}, "x") == EVERYTHING
    assert value_from_json(resolve(U32), "0x10", "x") == 16


def test_arguments_by_position_and_by_name() -> None:
    assert arguments_from_json(op(ICalculator, "add"), [1, 2]) == (1, 2)
    assert arguments_from_json(op(ICalculator, "Add"), {"b": 2, "a": 1}) == (1, 2)
    assert arguments_from_json(op(ICalculator, "Echo"), ["hex:6162"]) == (b"ab",)
    assert arguments_from_json(op(ICalculator, "Echo"), [[1, 2]]) == (b"\1\2",)
    assert arguments_from_json(op(IEcho, "TestDoublePointer"), [None]) == (None,)


def test_replies_by_their_idl_names() -> None:
    assert reply_to_json(op(ICalculator, "Add"), 3) == {"sum": 3}
    assert reply_to_json(op(ICalculator, "Sleep"), None) == {}
    assert reply_to_json(op(ICalculator, "Echo"), b"a") == {"echoed": "hex:61"}
    assert reply_to_json(op(IEcho, "TestCall2"), (Info(1, Info1(2)), 0)) == {
        "info": {"tag": 1, "value": {"v": 2}},
        "result": 0,
    }


WRONG = [
    (op(ICalculator, "Add"), [1], r"Add\(a: I32, b: I32\) takes 2 arguments, 1 were given"),
    (op(ICalculator, "Add"), [1, 2, 3], "3 were given"),
    (op(ICalculator, "Add"), {"a": 1, "c": 2}, "no parameter c"),
    (op(ICalculator, "Add"), {"a": 1}, "also needs b"),
    (op(ICalculator, "Add"), [1, 2**31], r"b is 2147483648, which is not in -2147483648\.\.2147483647"),
    (op(ICalculator, "Add"), [1, "x"], "b must be a number"),
    (op(ICalculator, "Add"), [1, 1.5], "b must be an int"),
    (op(ICalculator, "Add"), [1, True], "b must be a number"),
    (op(ICalculator, "Echo"), ["abc"], 'data must be bytes as "hex:…"'),
    (op(ICalculator, "Echo"), ["hex:0"], "not hexadecimal"),
    (op(ICalculator, "Echo"), [5], "data must be bytes"),
    (op(ICalculator, "Sum"), [[1, "x"]], r"values\[1\] must be a number"),
    (op(ICalculator, "Sum"), ["x"], "values must be a list"),
    (op(ICalculator, "Greet"), [5], "name must be a str"),
    (op(IEcho, "TestEnum"), [1, {"e1": 1}, {}], "Enum2 needs e2"),
    (op(IEcho, "TestEnum"), [1, {"e1": 1, "e2": 1, "e3": 1}, {}], "no field e3"),
    (op(IEcho, "TestEnum"), [1, 5, {}], "must be an object with e1, e2"),
    (op(IEcho, "TestEnum"), [1, {"e1": 1, "e2": 1}, {}], '"tag"'),
    (op(IEcho, "TestEnum"), [1, {"e1": 1, "e2": 1}, {"tag": 9}], "no arm for tag 9"),
]


@pytest.mark.parametrize(("operation_spec", "given", "said"), WRONG, ids=[wrong[2] for wrong in WRONG])
def test_what_does_not_fit_is_named(operation_spec: Any, given: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        arguments_from_json(operation_spec, given)


def test_other_words_for_what_does_not_fit() -> None:
    for hint, value in (
        (Guid, "x"),
        (Guid, 5),
        (Bool, 1),
        (ContextHandle, "hex:00"),
        (U32, "0xzz"),
        (U8, 256),
    ):
        with pytest.raises(ConfigurationError):
            value_from_json(resolve(hint), value, "x")


@interface("00000000-0000-0000-0000-000000000006")
class Pointers:
    @operation(0, out="back")
    def pass_on(
        self, raw: RawInterfacePointer, proxy: InterfacePointer[ICalculator], count: U16 = 3
    ) -> RawInterfacePointer:
        raise NotImplementedError


def test_interface_pointers_and_defaults() -> None:
    pass_on = op(Pointers, "PassOn")
    assert arguments_from_json(pass_on, ["hex:00", None]) == (b"\0", None, 3)
    assert reply_to_json(pass_on, b"\0") == {"back": "hex:00"}
    with pytest.raises(ConfigurationError, match="only null"):
        arguments_from_json(pass_on, [None, 5])


def test_descriptions_of_parameters() -> None:
    described = {
        Unique[Unique[Str]]: "string or null",
        Conformant[Guid]: "list of UUID",
        Octets: "bytes",
        Everything: "Everything",
        ContextHandle: "context handle",
        InterfacePointer[ICalculator]: "interface or null",
        Annotated[Color, enum16]: "Color",
    }
    assert {hint: describe(resolve(hint)) for hint in described} == described
