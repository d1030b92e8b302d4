"""Interfaces as Python classes: one declaration for proxy, server, CLI and manual. [C706] 4

@interface("5859270e-be58-4ca6-8157-b4cb6b24051b")
class ICalculator(IUnknown):
    @operation(3, out="sum")
    async def add(self, a: I32, b: I32) -> I32: raise NotImplementedError

spec_of(ICalculator).operations[3].codec(Syntax.NDR20_LE).encode_request(out, None, 1, 2)
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args, get_origin
from uuid import UUID

from oxid.ndr.codec import OperationCodec, OperationShape, compile_operation
from oxid.ndr.model import Array, Count, Member, Node, Pointer, Scalar, Struct, hints_of, resolve
from oxid.ndr.syntax import Syntax
from oxid.ndr.types import count_of, size_of, switch_of
from oxid.values.status import HResult, NtStatus, Win32

__all__ = [
    "InterfaceSpec", "OperationSpec", "Param", "count_of", "interface", "is_interface", "operation",
    "size_of", "spec_of", "switch_of",
]  # fmt: skip

C = TypeVar("C", bound=type[Any])
F = TypeVar("F", bound=Callable[..., Any])
StatusKind = type[HResult] | type[Win32] | type[NtStatus]


class _Default:
    """`returns=` was not given: HResult for COM interfaces, nothing for plain ones."""


_DEFAULT: Any = _Default()


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter as Python and the IDL name it."""

    name: str
    """The Python name."""
    idl_name: str
    node: Node
    hint: Any
    default: Any = inspect.Parameter.empty

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class _Mark:
    """What `@operation` leaves on a method."""

    opnum: int
    name: str
    wire: tuple[Any, ...]
    reply: tuple[Any, ...]
    out: tuple[str, ...]
    returns: Any
    correlate: Mapping[str, str]
    names: Mapping[str, str]
    blocking: bool


@dataclass(eq=False)
class OperationSpec:
    """One operation of an interface, ready for the wire."""

    opnum: int
    method: str
    """The name of the Python method."""
    name: str
    """The IDL's name."""
    doc: str
    in_params: tuple[Param, ...]
    """In the order of the Python signature."""
    out_params: tuple[Param, ...]
    """In the order of the wire; a trailing status is not among them unless the method returns it."""
    shape: OperationShape
    blocking: bool = False
    """The declaration says that plain implementations run in a thread."""
    _codecs: dict[Syntax, OperationCodec] = field(default_factory=dict)

    def codec(self, syntax: Syntax) -> OperationCodec:
        """The functions that marshal this operation; generated at first use."""
        found = self._codecs.get(syntax)
        if found is None:
            found = self._codecs[syntax] = compile_operation(self.shape, syntax)
        return found

    @property
    def status(self) -> StatusKind | None:
        """The kind of status that ends every reply, None where there is none."""
        return self.shape.status


@dataclass(eq=False)
class InterfaceSpec:
    """An interface: its identity and its operations by number."""

    uuid: UUID
    version: tuple[int, int]
    name: str
    is_object: bool
    """Whether it is a COM interface."""
    operations: dict[int, OperationSpec]
    doc: str = ""
    cls: type[Any] | None = None

    def operation(self, name: str) -> OperationSpec:
        """Find an operation by its IDL or Python name, upper and lower case alike. Raises KeyError."""
        wanted = name.lower().replace("_", "")
        for spec in self.operations.values():
            if wanted in (spec.name.lower().replace("_", ""), spec.method.replace("_", "")):
                return spec
        raise KeyError(f"{self.name} has no operation {name}")


def operation(
    opnum: int,
    *,
    name: str = "",
    wire: Sequence[Any] = (),
    reply: Sequence[Any] = (),
    out: str | Sequence[str] = (),
    returns: StatusKind | None = _DEFAULT,
    correlate: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    blocking: bool = False,
) -> Callable[[F], F]:
    """Give a method its place on the wire.

    `name`: the IDL's name, where it is not the CamelCase of the Python name.
    `wire`: the [in] parameters in wire order with `count_of(...)` between them, if not the signature.
    `out`: names of the [out] values; needed for one value or a tuple, taken from the fields of a reply class.
    `reply`: the [out] values in wire order with `count_of(...)` between them.
    `returns`: the kind of status that ends the reply and is checked; None for none. COM: HResult.
        Where the last out value has that type, it is this status, and successes are returned to the caller.
    `correlate`: {out array: in parameter that is (or has) its size, out union: its switch}.
    `names`: {python name: IDL name} of parameters for the command line and messages.
    `blocking`: plain (not async) implementations run in a thread.
    """
    outs = (out,) if isinstance(out, str) else tuple(out)
    mark_ = _Mark(
        opnum,
        name,
        tuple(wire),
        tuple(reply),
        outs,
        returns,
        dict(correlate or {}),
        dict(names or {}),
        blocking,
    )

    def mark(method: F) -> F:
        method.__rpc_operation__ = mark_  # type: ignore[attr-defined]
        return method

    return mark


def interface(
    uuid: str | UUID, *, version: tuple[int, int] = (0, 0), name: str = "", is_object: bool | None = None
) -> Callable[[C], C]:
    """Make a class an interface. A class that derives from a COM interface is one itself.

    Raises TypeError at first use (`spec_of`) where an annotation does not say how it travels.
    """

    def mark(cls: C) -> C:
        identity = uuid if isinstance(uuid, UUID) else UUID(uuid)
        base_is_object = getattr(cls, "__rpc_is_object__", False)
        cls.__rpc_interface__ = (identity, version, name or cls.__name__)
        cls.__rpc_is_object__ = base_is_object if is_object is None else is_object
        return cls

    return mark


def is_interface(cls: Any) -> bool:
    """Whether a class was declared with `@interface` itself (not only a base of it)."""
    return isinstance(cls, type) and "__rpc_interface__" in cls.__dict__


_specs: dict[type[Any], InterfaceSpec] = {}


def spec_of(cls: type[Any]) -> InterfaceSpec:
    """Return what an interface class declares; built once. Raises TypeError for what is not an interface."""
    spec = _specs.get(cls)
    if spec is None:
        if not is_interface(cls):
            raise TypeError(f"{cls!r} is not an interface; declare it with @interface(uuid)")
        spec = _specs[cls] = _build(cls)
    return spec


def _build(cls: type[Any]) -> InterfaceSpec:
    uuid, version, name = cls.__dict__["__rpc_interface__"]
    is_object = cls.__dict__["__rpc_is_object__"]
    operations: dict[int, OperationSpec] = {}
    for owner in reversed(cls.__mro__):
        for method_name, method in vars(owner).items():
            mark = getattr(method, "__rpc_operation__", None)
            if mark is None:
                continue
            if is_object and mark.opnum < 3:
                raise TypeError(f"{name}: the operations of COM interfaces start at number 3")
            if mark.opnum in operations and operations[mark.opnum].method != method_name:
                raise TypeError(f"{name}: operation number {mark.opnum} is given twice")
            operations[mark.opnum] = _operation_spec(owner, name, method_name, method, mark, is_object)
    return InterfaceSpec(
        uuid, version, name, is_object, dict(sorted(operations.items())), inspect.getdoc(cls) or "", cls
    )


def _operation_spec(
    owner: type[Any], interface_name: str, method_name: str, method: Any, mark: _Mark, is_object: bool
) -> OperationSpec:
    label = f"{interface_name}.{mark.name or _camel(method_name)}"
    try:
        hints = hints_of(method, owner)
        result = hints.pop("return", None)
        signature = list(inspect.signature(method).parameters.values())[1:]
        ins = tuple(
            Param(p.name, mark.names.get(p.name, p.name), resolve(hints[p.name]), hints[p.name], p.default)
            for p in signature
        )
        outs, form, make = _outs(result, mark, owner)
    except (TypeError, NameError, KeyError) as error:
        raise TypeError(f"{label}: {error}") from error
    request = _in_wire_order(label, ins, mark.wire)
    reply = _in_wire_order(label, outs, mark.reply)
    status = (HResult if is_object else None) if isinstance(mark.returns, _Default) else mark.returns
    last = reply[-1].node if reply and isinstance(reply[-1], Member) else None
    returned = isinstance(last, Scalar) and last.status is not None and last.status is status
    shape = OperationShape(
        label=label,
        in_names=tuple(param.name for param in ins),
        request=request,
        reply=reply,
        out_names=tuple(param.name for param in outs),
        form=form,
        make=make,
        status=status,
        status_returned=returned,
        correlate=dict(mark.correlate),
    )
    _check(shape, label)
    return OperationSpec(
        mark.opnum,
        method_name,
        mark.name or _camel(method_name),
        inspect.getdoc(method) or "",
        ins,
        outs,
        shape,
        mark.blocking,
    )


def _in_wire_order(label: str, params: Sequence[Param], order: Sequence[Any]) -> tuple[Member | Count, ...]:
    by_name = {param.name: Member(param.name, param.node) for param in params}
    parts: list[Member | Count] = []
    for part in order or tuple(by_name):
        if not isinstance(part, Count) and part not in by_name:
            raise TypeError(f"{label}: wire= or reply= names {part!r}, which is no parameter")
        parts.append(part if isinstance(part, Count) else by_name[part])
    return tuple(parts)


def _outs(result: Any, mark: _Mark, owner: type[Any]) -> tuple[tuple[Param, ...], str, Any]:
    """The [out] values of a return annotation: their parameters, how Python holds them, and their class."""

    def param(name: str, hint: Any) -> Param:
        return Param(name, mark.names.get(name, name), resolve(hint), hint)

    if result is None or result is type(None):
        return (), "none", None
    if get_origin(result) is tuple:
        hints = get_args(result)
        names = mark.out or tuple(f"out{i}" for i in range(len(hints)))
        if len(names) != len(hints):
            raise TypeError(f"{len(hints)} values are returned, out= names {len(names)}")
        return tuple(map(param, names, hints)), "tuple", None
    if isinstance(result, type) and issubclass(result, tuple) and hasattr(result, "_fields"):
        hints_by_name = hints_of(result, result)
        return tuple(param(n, hints_by_name[n]) for n in result._fields), "tuple", result
    if dataclasses.is_dataclass(result) and not isinstance(result.__dict__.get("__ndr__"), Struct):
        hints_by_name = hints_of(result, result if isinstance(result, type) else None)
        return (
            tuple(param(f.name, hints_by_name[f.name]) for f in dataclasses.fields(result)),
            "record",
            result,
        )
    name = mark.out[0] if mark.out else "result"
    return (param(name, result),), "one", None


def _check(shape: OperationShape, label: str) -> None:
    """Find mistakes of a declaration before the first call does."""
    declared_ins = {part.name for part in shape.request if isinstance(part, Member)}
    if declared_ins != set(shape.in_names):
        raise TypeError(f"{label}: wire= and the signature differ in {declared_ins ^ set(shape.in_names)}")
    declared_outs = {part.name for part in shape.reply if isinstance(part, Member)}
    if declared_outs != set(shape.out_names):
        raise TypeError(f"{label}: reply= and the result differ in {declared_outs ^ set(shape.out_names)}")
    for parts in (shape.request, shape.reply):
        names = {part.name for part in parts if isinstance(part, Member)}
        for part in parts:
            if isinstance(part, Count) and part.of not in names:
                raise TypeError(f"{label}: {part.label} counts {part.of!r}, which is not there")
    for out, source in shape.correlate.items():
        if out not in shape.out_names and out not in shape.in_names:
            raise TypeError(f"{label}: correlate names {out!r}, which is no parameter")
        if source not in shape.in_names:
            raise TypeError(f"{label}: correlate takes {source!r}, which is no in parameter")


def _camel(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


def array_of(node: Node) -> Array | None:
    """The array behind pointers, if there is one."""
    while isinstance(node, Pointer):
        node = node.target
    return node if isinstance(node, Array) else None
