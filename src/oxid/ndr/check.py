"""Looking at values by their type: what is wrong with one, and a type's zero value. Never on the hot path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from oxid.ndr.model import (
    DEFAULT,
    Array,
    Count,
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


def explain(node: Node, value: Any, path: str) -> str | None:
    """Say what is wrong with a value, or None where it fits its type."""
    if isinstance(node, Ranged):
        return explain(node.number, value, path) or _between(value, node.low, node.high, path)
    if isinstance(node, Scalar):
        return _explain_number(node, value, path)
    if isinstance(node, Pointer):
        if value is None:
            return None if node.optional else f"{path} cannot be None"
        return None if node.kind is PointerKind.FULL else explain(node.target, value, path)
    if isinstance(node, Text) or (isinstance(node, Array) and node.text):
        return None if isinstance(value, str) else f"{path} must be a str, not {_shown(value)}"
    if isinstance(node, GuidNode):
        return None if isinstance(value, UUID) else f"{path} must be a uuid.UUID, not {_shown(value)}"
    if isinstance(node, HandleNode):
        fine = value is None or (isinstance(value, bytes) and len(value) == 20)
        return None if fine else f"{path} must be 20 bytes, not {_shown(value)}"
    if isinstance(node, (Array, Pipe)):
        return _explain_items(node, value, path)
    if isinstance(node, Struct):
        if not isinstance(value, node.cls):
            return f"{path} must be a {node.cls.__name__}, not {_shown(value)}"
        return _first(explain(m.node, getattr(value, m.name, None), f"{path}.{m.name}") for m in node.fields)
    if isinstance(node, UnionNode):
        if not isinstance(value, node.cls):
            return f"{path} must be a {node.cls.__name__}, not {_shown(value)}"
        arm = node.arms.get(value.tag, node.arms.get(DEFAULT))
        return explain(arm, value.value, f"{path}.value") if arm is not None else None
    return None


def _first(found: Any) -> str | None:
    return next((wrong for wrong in found if wrong), None)


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"


def _between(value: Any, low: int, high: int, path: str) -> str | None:
    return None if low <= value <= high else f"{path} is {value}, which is not in {low}..{high}"


def _explain_number(node: Scalar, value: Any, path: str) -> str | None:
    if node.low is None or node.high is None:
        if node.truth or node.code == "?":
            return None
        return None if isinstance(value, (int, float)) else f"{path} must be a number, not {_shown(value)}"
    if not isinstance(value, int):
        return f"{path} must be an int ({node.name}), not {_shown(value)}"
    wrong = _between(value, node.low, node.high, path)
    return f"{wrong} ({node.name})" if wrong else None


def _explain_items(node: Array | Pipe, value: Any, path: str) -> str | None:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return None
    if not isinstance(value, Sequence) or isinstance(value, str):
        return f"{path} must be a sequence, not {_shown(value)}"
    if isinstance(node, Array) and len(node.bounds) > 1:
        inner = Array(node.item, node.bounds[1:], node.varying)
        return _first(explain(inner, row, f"{path}[{i}]") for i, row in enumerate(value))
    return _first(explain(node.item, item, f"{path}[{i}]") for i, item in enumerate(value))


def zero_of(node: Node, wanted: int = 0) -> Any:
    """What a failing method's reply carries: zero, NULL, `wanted` zero items, or the arm of tag `wanted`."""
    if isinstance(node, Ranged):
        return max(0, node.low)
    if isinstance(node, Scalar):
        return 0
    if isinstance(node, Pointer):
        return zero_of(node.target, wanted) if node.kind is PointerKind.REF else None
    if isinstance(node, InterfaceNode):
        return None
    if isinstance(node, Text):
        return ""
    if isinstance(node, GuidNode):
        return UUID(int=0)
    if isinstance(node, HandleNode):
        return bytes(20)
    if isinstance(node, Pipe):
        return []
    if isinstance(node, Array):
        return _zero_array(node, wanted)
    if isinstance(node, Struct):
        value = object.__new__(node.cls)
        for member in node.members:
            if not isinstance(member, Count):
                setattr(value, member.name, zero_of(member.node))
        return value
    if isinstance(node, UnionNode):
        tag = wanted if wanted in node.arms or DEFAULT in node.arms else next(iter(node.arms), 0)
        arm = node.arms.get(tag, node.arms.get(DEFAULT))
        return node.cls(tag, zero_of(arm) if arm is not None else None)
    raise TypeError(f"{type(node).__name__} has no zero value")


def _zero_array(node: Array, wanted: int) -> Any:
    if node.text:
        return "" if node.varying else "\0" * (node.bounds[0] if node.bounds[0] is not None else wanted)
    value: Any = None
    for position, bound in reversed(list(enumerate(node.bounds))):
        count = 0 if node.varying else bound if bound is not None else wanted if position == 0 else 0
        if value is None:
            value = bytes(count) if node.octets else [zero_of(node.item) for _ in range(count)]
        else:
            value = [value for _ in range(count)]
    return value
