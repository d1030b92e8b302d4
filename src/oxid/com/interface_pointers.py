"""Interface pointers among the parameters of a call. [MS-DCOM] 2.2.14"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from oxid.interfaces.error_info import ISupportErrorInfo
from oxid.interfaces.unknown import IUnknown
from oxid.ndr.model import InterfaceNode, Node
from oxid.rpc.interface import InterfaceSpec, OperationSpec, is_interface, spec_of

if TYPE_CHECKING:
    from oxid.com.coclass import CoClass

IUNKNOWN: Final = spec_of(IUnknown)
ISUPPORT_ERROR_INFO: Final = spec_of(ISupportErrorInfo)


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


def interfaces_of(target: Any) -> tuple[InterfaceSpec, ...]:
    """The interfaces an object has: of its `@coclass`, of its `implements`, or those its class derives from."""
    cls = type(target)
    described: CoClass | None = getattr(cls, "__oxid_coclass__", None)
    if described is not None:
        return described.interfaces
    return tuple(spec_of(base) for base in cls.__mro__ if is_interface(base) and base is not IUnknown)


def interface_of(target: Any, iid: UUID) -> InterfaceSpec | None:
    """The interface `iid` of an object, IUnknown and ISupportErrorInfo included; None if it has none such."""
    for spec in interfaces_of(target):
        if spec.uuid == iid:
            return spec
        for base in spec.cls.__mro__ if spec.cls is not None else ():
            if is_interface(base) and spec_of(base).uuid == iid:
                return spec_of(base)
    if iid == IUNKNOWN.uuid:
        return IUNKNOWN
    if iid == ISUPPORT_ERROR_INFO.uuid and hasattr(type(target), "__oxid_coclass__"):
        return ISUPPORT_ERROR_INFO
    return None
