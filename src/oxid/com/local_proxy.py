"""Pointers to objects of this very process: called like remote ones, without a network between.

    local = local_proxy(implementation, ICalculator)
    await local.add(2, 3)                    whatever way the implementation's `add` is written
    implementation_of(local)                 the object itself; None for one that lives elsewhere

So a method that is given an interface pointer need not know where the object lives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, Self, TypeVar, cast

from oxid.com.interface_pointers import interface_of
from oxid.errors import hresult
from oxid.interfaces.unknown import IUnknown
from oxid.ndr.model import InterfaceNode, Node
from oxid.rpc.interface import OperationSpec, spec_of
from oxid.runtime.dispatch import THREAD, Threads, kind_of
from oxid.values.status import E_NOINTERFACE

I = TypeVar("I")  # noqa: E741 - an interface


class LocalProxy:
    """One interface of an object of this process. Holds the object as any Python reference does."""

    __oxid_proxy__ = True

    def __init__(self, target: Any, threads: Threads) -> None:
        self._target = target
        self._threads = threads

    async def query(self, interface: type[I]) -> I:
        """Another interface of the object. Raises NoSuchInterface."""
        if interface_of(self._target, spec_of(interface).uuid) is None:
            raise hresult(E_NOINTERFACE, spec_of(interface).name)
        return cast("I", local_proxy(self._target, interface, self._threads))

    def subscribe(self, interface: type[Any], handler: Any) -> Any:
        """As a remote proxy's: hear the object's events."""
        from oxid.com.subscription import Subscription

        return Subscription(self, interface, handler)

    async def release(self) -> None:
        """Nothing is owed for an object of this process."""

    def release_soon(self) -> None:
        """Nothing is owed for an object of this process."""

    def on_gone(self, listener: Callable[[], object]) -> None:
        """An object of this process does not go while it is referred to."""

    def keep(self) -> Self:
        """As a remote proxy's `keep`: nothing has to be done."""
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalProxy) and other._target is self._target

    def __hash__(self) -> int:
        return hash((LocalProxy, id(self._target)))

    def __repr__(self) -> str:
        return f"<local proxy of {self._target!r}>"


def local_proxy(target: Any, interface: type[Any] | None, threads: Threads) -> Any:
    """A pointer to `target` as `interface` (IUnknown where None)."""
    return _class_for(interface or IUnknown)(target, threads)


def implementation_of(pointer: Any) -> Any:
    """The object behind a pointer if it lives in this process, else None."""
    return pointer._target if isinstance(pointer, LocalProxy) else None


def is_proxy(value: Any) -> bool:
    """Whether something stands for an object, here or elsewhere, and is not one that implements an interface."""
    return getattr(type(value), "__oxid_proxy__", False)


_classes: Final[dict[type[Any], type[LocalProxy]]] = {}


def _class_for(interface: type[Any]) -> type[LocalProxy]:
    made = _classes.get(interface)
    if made is None:
        spec = spec_of(interface)
        body: dict[str, Any] = {"__doc__": spec.doc}
        for operation in spec.operations.values():
            body[operation.method] = _method(operation)
        made = _classes[interface] = type(f"Local{spec.name}", (LocalProxy, interface), body)
    return made


def _method(operation: OperationSpec) -> Callable[..., Any]:
    names = [param.name for param in operation.in_params]
    ins = {param.name: _pointed_at(param.node) for param in operation.in_params}
    outs = [_pointed_at(param.node) for param in operation.out_params]

    async def method(self: LocalProxy, *arguments: Any, **named: Any) -> Any:
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        values = [_as_pointer(bound.arguments[name], ins[name], self._threads) for name in names]
        function = getattr(self._target, operation.method)
        if kind_of(function, operation) == THREAD:
            result = await self._threads.run(lambda: function(*values))
        else:
            result = function(*values)
            if inspect.isawaitable(result):
                result = await result
        if not any(outs):
            return result
        if len(outs) == 1 and not isinstance(result, tuple):
            return _as_pointer(result, outs[0], self._threads)
        wrapped = [_as_pointer(v, out, self._threads) for v, out in zip(result, outs, strict=True)]
        return type(result)(*wrapped) if hasattr(result, "_fields") else tuple(wrapped)

    signature = inspect.Signature(
        [
            inspect.Parameter(p.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=p.default)
            for p in operation.in_params
        ]
    )
    method.__name__ = operation.method
    method.__doc__ = operation.doc
    return method


def _pointed_at(node: Node) -> type[Any] | None:
    """The interface a parameter points to, if it is an interface pointer."""
    if isinstance(node, InterfaceNode) and not node.raw:
        return node.interface or IUnknown
    return None


def _as_pointer(value: Any, interface: type[Any] | None, threads: Threads) -> Any:
    if interface is None or value is None or is_proxy(value):
        return value
    return local_proxy(value, interface, threads)
