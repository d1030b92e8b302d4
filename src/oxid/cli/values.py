"""Arguments and results of calls as JSON: bytes are "hex:…", structures objects, identifiers text.

from_json(param.node, json_value, "data")     what the codec wants
to_json(param.node, value)                    what `oxid call` prints
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from oxid.config import nearest
from oxid.errors import ConfigurationError
from oxid.ndr.model import (
    DEFAULT,
    Array,
    GuidNode,
    HandleNode,
    InterfaceNode,
    Node,
    Pipe,
    Pointer,
    PointerKind,
    Ranged,
    Scalar,
    Struct,
    Text,
    UnionNode,
)

HEX: Final = "hex:"


def argument(node: Node, text: str, name: str) -> Any:
    """Read one argument: JSON, or a bare word where a string is wanted. ConfigurationError"""
    try:
        value = json.loads(text)
    except ValueError as error:
        if text[:1] in ("[", "{") and not is_text(node):
            raise ConfigurationError(f"{name}: {text[:60]} is no JSON: {error}") from None
        value = text
    return from_json(node, text if is_text(node) and not isinstance(value, str | None) else value, name)


def is_text(node: Node) -> bool:
    """Whether Python sees a str, pointers aside."""
    while isinstance(node, Pointer):
        node = node.target
    return isinstance(node, Text) or (isinstance(node, Array) and node.text)


def from_json(node: Node, value: Any, name: str) -> Any:
    """Turn a JSON value into what the codec of this type takes. ConfigurationError names the argument."""
    match node:
        case Scalar():
            return _number(node, value, name)
        case Ranged(number=number):
            return _number(number, value, name)
        case GuidNode():
            try:
                return UUID(value)
            except (ValueError, AttributeError, TypeError):
                raise _wrong(name, value, "a UUID as text") from None
        case Pointer(kind=kind, target=target):
            if value is None and kind is not PointerKind.REF:
                return None
            return from_json(target, value, name)
        case Struct():
            return _struct(node, value, name)
        case UnionNode():
            return _union(node, value, name)
        case Array() | Pipe():
            return _array(node, value, name)
        case HandleNode() | InterfaceNode(raw=True):
            return None if value is None else _octets(value, name)
        case InterfaceNode():
            if value is not None:
                raise _wrong(name, value, "null: objects cannot be passed on the command line")
            return None
        case Text():
            if not isinstance(value, str):
                raise _wrong(name, value, "text")
            return value
    raise ConfigurationError(f"{name}: {type(node).__name__} cannot be given on the command line")


def to_json(node: Node, value: Any) -> Any:
    """Turn a decoded value into JSON's words; an object becomes its identifiers."""
    if value is None:
        return None
    match node:
        case Scalar(code=code):
            return value if code in "fd?" or isinstance(value, bool) else int(value)
        case Ranged(number=number):
            return to_json(number, value)
        case GuidNode():
            return str(value)
        case Pointer(target=target):
            return to_json(target, value)
        case Struct():
            return {member.name: to_json(member.node, getattr(value, member.name)) for member in node.fields}
        case UnionNode():
            arm = _arm(node, value.tag)
            return {"tag": int(value.tag), "value": to_json(arm, value.value) if arm else None}
        case Array(text=True) | Text():
            return value
        case Array(item=item) | Pipe(item=item):
            if isinstance(value, (bytes, bytearray, memoryview)):
                return HEX + bytes(value).hex()
            depth = len(node.bounds) if isinstance(node, Array) else 1
            return _nested(item, value, depth)
        case HandleNode() | InterfaceNode(raw=True):
            return HEX + bytes(value).hex()
    return repr(value)


def _nested(item: Node, value: Any, depth: int) -> list[Any]:
    return [_nested(item, row, depth - 1) if depth > 1 else to_json(item, row) for row in value]


def _number(node: Scalar, value: Any, name: str) -> Any:
    if node.enum is not None and isinstance(value, str) and value in node.enum.__members__:
        return node.enum[value]
    if node.code in "fd":
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong(name, value, "a number")
        return float(value)
    if isinstance(value, str):
        try:
            value = int(value, 0)
        except ValueError:
            raise _wrong(name, value, "a whole number") from None
    if not isinstance(value, int):
        raise _wrong(name, value, "a whole number")
    if node.low is not None and node.high is not None and not node.low <= value <= node.high:
        raise _wrong(name, value, f"a number from {node.low} to {node.high}")
    return value


def _octets(value: Any, name: str) -> bytes:
    if isinstance(value, str) and value.startswith(HEX):
        try:
            return bytes.fromhex(value[len(HEX) :])
        except ValueError:
            pass
    raise _wrong(name, value, 'bytes as "hex:0123…"')


def _array(node: Array | Pipe, value: Any, name: str) -> Any:
    if isinstance(node, Array) and node.text:
        if not isinstance(value, str):
            raise _wrong(name, value, "text")
        return value
    octets = isinstance(node.item, Scalar) and node.item.code == "B"
    if octets and isinstance(value, str):
        return _octets(value, name)
    if not isinstance(value, list):
        raise _wrong(name, value, 'bytes as "hex:0123…"' if octets else "a list")

    def rows(level: Any, depth: int, where: str) -> Any:
        if depth == 0:
            return from_json(node.item, level, where)
        if not isinstance(level, list):
            raise _wrong(where, level, "a list")
        return [rows(item, depth - 1, f"{where}[{index}]") for index, item in enumerate(level)]

    found = rows(value, len(node.bounds) if isinstance(node, Array) else 1, name)
    return bytes(found) if octets and isinstance(node, Array) and node.octets else found


def _struct(node: Struct, value: Any, name: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(name, value, f"an object with {', '.join(member.name for member in node.fields)}")
    known = {member.name: member for member in node.fields}
    for key in value:
        if key not in known:
            raise ConfigurationError(f"{name}: unknown member {key!r}{nearest(key, list(known))}")
    if missing := [key for key in known if key not in value]:
        raise ConfigurationError(f"{name}: {', '.join(missing)} missing")
    return node.cls(**{key: from_json(known[key].node, value[key], f"{name}.{key}") for key in known})


def _union(node: UnionNode, value: Any, name: str) -> Any:
    if not isinstance(value, Mapping) or set(value) != {"tag", "value"}:
        raise _wrong(name, value, 'an object {"tag": …, "value": …}')
    tag = from_json(node.tag, value["tag"], f"{name}.tag")
    arm = _arm(node, tag)
    return node.cls(tag, from_json(arm, value["value"], f"{name}.value") if arm else None)


def _arm(node: UnionNode, tag: Any) -> Node | None:
    return node.arms[tag] if tag in node.arms else node.arms.get(DEFAULT)


def _wrong(name: str, value: Any, wanted: str) -> ConfigurationError:
    shown = json.dumps(value, default=str, ensure_ascii=False)
    return ConfigurationError(f"{name}: {shown[:60]} given, {wanted} wanted")
