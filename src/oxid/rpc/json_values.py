"""Arguments and replies as JSON, for the command line. CONTRACT section 4

    arguments_from_json(operation, [1, 2])          ->  (1, 2)
    arguments_from_json(operation, {"data": "hex:00ff"})   by name, IDL's or Python's
    reply_to_json(operation, 3)                     ->  {"sum": 3}

bytes are "hex:…", UUIDs strings, structures objects, unions {"tag": …, "value": …}, NULL is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from oxid.errors import ConfigurationError
from oxid.ndr.check import explain
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
from oxid.rpc.interface import OperationSpec, Param

HEX = "hex:"


def arguments_from_json(
    operation: OperationSpec, given: Sequence[Any] | Mapping[str, Any]
) -> tuple[Any, ...]:
    """Turn parsed JSON into the arguments of an operation, in the order of its Python signature.

    Raises ConfigurationError that names the parameter, what it takes and what came.
    """
    params = operation.in_params
    usage = f"{operation.name}({', '.join(f'{p.idl_name}: {describe(p.node)}' for p in params)})"
    if isinstance(given, Mapping):
        values = _by_name(params, given, usage)
    else:
        if len(given) > len(params) or any(param.required for param in params[len(given) :]):
            raise ConfigurationError(f"{usage} takes {len(params)} arguments, {len(given)} were given")
        values = {param.name: given[i] for i, param in enumerate(params[: len(given)])}
    return tuple(
        value_from_json(param.node, values[param.name], param.idl_name)
        if param.name in values
        else param.default
        for param in params
    )


def _by_name(params: Sequence[Param], given: Mapping[str, Any], usage: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    names = {param.idl_name: param.name for param in params} | {param.name: param.name for param in params}
    for name, value in given.items():
        if name not in names:
            raise ConfigurationError(f"{usage} has no parameter {name}")
        values[names[name]] = value
    missing = [param.idl_name for param in params if param.required and param.name not in values]
    if missing:
        raise ConfigurationError(f"{usage} also needs {', '.join(missing)}")
    return values


def reply_to_json(operation: OperationSpec, result: Any) -> dict[str, Any]:
    """Turn a method's result into {IDL name of the out parameter: JSON value}."""
    params = operation.out_params
    form = operation.shape.form
    if form == "none":
        return {}
    if form == "one":
        return {params[0].idl_name: value_to_json(params[0].node, result)}
    parts = result if form == "tuple" else [getattr(result, param.name) for param in params]
    return {
        param.idl_name: value_to_json(param.node, part) for param, part in zip(params, parts, strict=True)
    }


def describe(node: Node) -> str:
    """What a parameter takes, in a word or two: `I32`, `bytes or null`, `list of U32`."""
    if isinstance(node, Ranged):
        return f"{node.number.name} {node.low}..{node.high}"
    if isinstance(node, Scalar):
        return node.enum.__name__ if node.enum is not None else node.name
    if isinstance(node, Pointer):
        inner = describe(node.target)
        return inner if node.kind is PointerKind.REF or inner.endswith("or null") else f"{inner} or null"
    if isinstance(node, Text) or (isinstance(node, Array) and node.text):
        return "string"
    if isinstance(node, Array):
        return "bytes" if node.octets else f"list of {describe(node.item)}"
    if isinstance(node, Pipe):
        return f"list of {describe(node.item)}"
    if isinstance(node, (Struct, UnionNode)):
        return node.cls.__name__
    if isinstance(node, InterfaceNode):
        return "interface or null"
    return {GuidNode: "UUID", HandleNode: "context handle"}.get(type(node), type(node).__name__)


def value_from_json(node: Node, value: Any, path: str) -> Any:
    """Turn one JSON value into what the codec takes. Raises ConfigurationError that names the place."""
    made = _from_json(node, value, path)
    wrong = explain(node, made, path)
    if wrong:
        raise ConfigurationError(wrong)
    return made


def _from_json(node: Node, value: Any, path: str) -> Any:
    if isinstance(node, Pointer):
        return None if value is None else _from_json(node.target, value, path)
    if isinstance(node, (Scalar, Ranged)):
        return _number(node.number if isinstance(node, Ranged) else node, value, path)
    if isinstance(node, GuidNode):
        try:
            return UUID(value)
        except (ValueError, AttributeError, TypeError) as error:
            raise ConfigurationError(f"{path} must be a UUID as a string, not {value!r}") from error
    if isinstance(node, HandleNode):
        return bytes(20) if value is None else _bytes(value, path)
    if isinstance(node, InterfaceNode):
        if value is None or (node.raw and isinstance(value, str)):
            return None if value is None else _bytes(value, path)
        raise ConfigurationError(f"{path} is an interface pointer: only null can be written as JSON")
    if isinstance(node, Text) or (isinstance(node, Array) and node.text):
        return value
    if isinstance(node, Array) and node.octets and isinstance(value, str):
        return _bytes(value, path)
    if isinstance(node, (Array, Pipe)):
        return _items(node, value, path)
    if isinstance(node, Struct):
        return _struct(node, value, path)
    if isinstance(node, UnionNode):
        return _union(node, value, path)
    return value


def _number(node: Scalar, value: Any, path: str) -> Any:
    if isinstance(value, str):
        if node.enum is not None and value in node.enum.__members__:
            return node.enum[value]
        if node.low is None and value in ("NaN", "Infinity", "-Infinity"):
            return float(value)
        if node.low is not None and value[:2].lower() == "0x":
            try:
                return int(value, 16)
            except ValueError:
                pass
    if node.truth or node.code == "?":
        if not isinstance(value, bool):
            raise ConfigurationError(f"{path} must be true or false, not {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(f"{path} must be a number ({node.name}), not {value!r}")
    return value


def _bytes(value: Any, path: str) -> bytes:
    if isinstance(value, str) and value.startswith(HEX):
        try:
            return bytes.fromhex(value[len(HEX) :])
        except ValueError as error:
            raise ConfigurationError(f"{path}: {value!r} is not hexadecimal behind hex:") from error
    raise ConfigurationError(f'{path} must be bytes as "hex:…", not {value!r}')


def _items(node: Array | Pipe, value: Any, path: str) -> Any:
    if not isinstance(value, list):
        kind = 'bytes as "hex:…"' if isinstance(node, Array) and node.octets else "a list"
        raise ConfigurationError(f"{path} must be {kind}, not {value!r}")
    if isinstance(node, Array) and len(node.bounds) > 1:
        inner = Array(node.item, node.bounds[1:], node.varying)
        return [list(_items(inner, row, f"{path}[{i}]")) for i, row in enumerate(value)]
    made = [value_from_json(node.item, item, f"{path}[{i}]") for i, item in enumerate(value)]
    return bytes(made) if isinstance(node, Array) and node.octets else made


def _struct(node: Struct, value: Any, path: str) -> Any:
    names = [member.name for member in node.fields]
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{path} must be an object with {', '.join(names)}, not {value!r}")
    unknown = [name for name in value if name not in names]
    missing = [name for name in names if name not in value]
    if unknown or missing:
        said = f"has no field {unknown[0]}" if unknown else f"needs {', '.join(missing)}"
        raise ConfigurationError(f"{path}: {node.cls.__name__} {said}")
    return node.cls(*(_from_json(m.node, value[m.name], f"{path}.{m.name}") for m in node.fields))


def _union(node: UnionNode, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping) or not isinstance(value.get("tag"), int):
        raise ConfigurationError(f'{path} must be {{"tag": number, "value": …}}, not {value!r}')
    tag = value["tag"]
    if tag not in node.arms and DEFAULT not in node.arms:
        raise ConfigurationError(f"{path}: {node.cls.__name__} has no arm for tag {tag}")
    arm = node.arms.get(tag, node.arms.get(DEFAULT))
    inner = value.get("value")
    return node.cls(tag, None if arm is None else _from_json(arm, inner, f"{path}.value"))


def value_to_json(node: Node, value: Any) -> Any:
    """Turn a decoded value into what `json.dumps` takes."""
    if value is None:
        return None
    if isinstance(node, Pointer):
        return value_to_json(node.target, value)
    if isinstance(value, (bytes, bytearray)):
        return HEX + bytes(value).hex()
    if isinstance(node, GuidNode):
        return str(value)
    if isinstance(node, (Scalar, Ranged)):
        if isinstance(value, float) and not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return int(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(node, Text) or (isinstance(node, Array) and node.text):
        return value
    if isinstance(node, Array) and len(node.bounds) > 1:
        inner = Array(node.item, node.bounds[1:], node.varying)
        return [value_to_json(inner, row) for row in value]
    if isinstance(node, (Array, Pipe)):
        return [value_to_json(node.item, item) for item in value]
    if isinstance(node, Struct):
        return {
            member.name: value_to_json(member.node, getattr(value, member.name)) for member in node.fields
        }
    if isinstance(node, UnionNode):
        arm = node.arms.get(value.tag, node.arms.get(DEFAULT))
        return {"tag": int(value.tag), "value": None if arm is None else value_to_json(arm, value.value)}
    return repr(value)
