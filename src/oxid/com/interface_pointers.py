"""Interface pointers among the parameters of a call. [MS-DCOM] 2.2.14"""

from __future__ import annotations

from typing import Any, NamedTuple

from oxid.ndr.model import InterfaceNode, Node
from oxid.rpc.interface import InterfaceSpec, OperationSpec


class TypedPointer(NamedTuple):
    """An object with the interface it is to be marshalled as, where the declaration leaves that to `iid_is`."""

    target: Any
    spec: InterfaceSpec


def carries_pointers(operation: OperationSpec) -> bool:
    """Whether interface pointers travel with an operation, so that references must be counted for it."""
    return any(_has_pointers(param.node) for param in (*operation.in_params, *operation.out_params))


def _has_pointers(node: Node, seen: frozenset[int] = frozenset()) -> bool:
    if id(node) in seen:
        return False
    if isinstance(node, InterfaceNode):
        return not node.raw
    return any(_has_pointers(part, seen | {id(node)}) for part in node.parts())
