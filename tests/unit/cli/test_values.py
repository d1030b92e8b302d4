"""JSON arguments to wire values and back."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, ClassVar
from uuid import UUID

import pytest

from oxid.cli.values import argument, from_json, to_json
from oxid.errors import ConfigurationError
from oxid.ndr.model import ArrayOf, resolve
from oxid.ndr.types import (
    DEFAULT,
    F64,
    I32,
    U8,
    U16,
    U32,
    Conformant,
    Guid,
    Octets,
    RawInterfacePointer,
    Str,
    Union,
    Unique,
    struct,
)

NIL = UUID(int=0)


@struct
class Point:
    x: I32
    y: I32


class Shape(Union, switch=U16):
    """A number, or something else."""

    cases: ClassVar = {1: U32, DEFAULT: Point}


class Color(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("hint", "json", "value"),
    [
        (U32, 7, 7),
        (I32, -1, -1),
        (F64, 2, 2.0),
        (Guid, str(NIL), NIL),
        (Str, "Grüße", "Grüße"),
        (Unique[Str], None, None),
        (Octets, "hex:00ff", b"\x00\xff"),
        (Octets, "hex:", b""),
        (Conformant[U32], [1, 2], [1, 2]),
        (Unique[Conformant[Point]], [{"x": 1, "y": 2}], [Point(1, 2)]),
        (Annotated[list[list[U16]], ArrayOf(2, 2)], [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        (Shape, {"tag": 1, "value": 5}, Shape(1, 5)),
        (Shape, {"tag": 9, "value": {"x": 1, "y": 2}}, Shape(9, Point(1, 2))),
        (RawInterfacePointer, "hex:4d45", b"ME"),
    ],
)
def test_values_go_both_ways(hint: Any, json: Any, value: Any) -> None:
    node = resolve(hint)
    assert from_json(node, json, "a") == value
    assert to_json(node, value) == json


@pytest.mark.parametrize(
    ("hint", "json", "said"),
    [
        (U8, 256, "a number from 0 to 255 wanted"),
        (U8, "x", "a whole number wanted"),
        (U32, 1.5, "a whole number wanted"),
        (F64, "x", "a number wanted"),
        (Guid, 5, "a UUID"),
        (Str, 5, "text wanted"),
        (Octets, "abc", 'bytes as "hex:'),
        (Octets, "hex:a", 'bytes as "hex:'),
        (Conformant[U32], 5, "a list wanted"),
        (Conformant[U8], [300], "a[0]: 300 given"),
        (Point, {"x": 1, "z": 2}, "unknown member 'z'"),
        (Point, {"x": 1}, "y missing"),
        (Point, 5, "an object with x, y"),
        (Shape, {"tag": 1}, 'an object {"tag"'),
    ],
)
def test_mistakes_are_named(hint: Any, json: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_json(resolve(hint), json, "a")
    assert said in str(caught.value)
    assert str(caught.value).startswith("a")


@pytest.mark.parametrize(
    ("hint", "word", "value"),
    [
        (Str, "World", "World"),
        (Str, '"World"', "World"),
        (Str, "42", "42"),
        (Unique[Str], "null", None),
        (U32, "0x10", 16),
    ],
)
def test_bare_words_are_strings(hint: Any, word: str, value: Any) -> None:
    assert argument(resolve(hint), word, "a") == value
