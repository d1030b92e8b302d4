"""Typed proxies of plain RPC interfaces: one class per interface and syntax, generated once.

    echo = await connection.proxy(IEcho)
    answer = await echo.add_one(in_data=1)

A proxy's method encodes, submits and awaits one future; there is nothing in between.
"""

from __future__ import annotations

import inspect
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any

from oxid.ndr.syntax import Syntax
from oxid.rpc.interface import OperationSpec, spec_of
from oxid.rpc.replies import BigEndianStub

if TYPE_CHECKING:
    from oxid.runtime.client import RpcConnection

_classes: dict[tuple[type[Any], Syntax], type[Any]] = {}

_METHOD = """\
async def {name}(self{parameters}):
    connection = self._connection
    if connection.stalled:
        await connection.drain()
    out = bytearray(24)
    encode(out, None{arguments})
    waiter = connection.submit(self._context_id, {opnum}, out)
    try:
        stub = await waiter
    except CancelledError:
        connection.forsake(waiter)
        raise
    return decode(stub, 0, None) if type(stub) is not BigEndianStub else decode_big(stub, 0, None)
"""


def proxy_class(interface: type[Any], syntax: Syntax) -> type[Any]:
    """The proxy class of an interface in a transfer syntax."""
    made = _classes.get((interface, syntax))
    if made is None:
        made = _classes[interface, syntax] = _make(interface, syntax)
    return made


def _make(interface: type[Any], syntax: Syntax) -> type[Any]:
    spec = spec_of(interface)

    def __init__(self: Any, connection: RpcConnection, context_id: int) -> None:
        self._connection = connection
        self._context_id = context_id

    def __repr__(self: Any) -> str:
        return f"<{spec.name} proxy over {self._connection!r}>"

    members: dict[str, Any] = {"__init__": __init__, "__repr__": __repr__, "__doc__": interface.__doc__}
    for operation in spec.operations.values():
        members[operation.method] = _method(operation, syntax)
    return type(f"{spec.name}Proxy", (interface,), members)


def _method(operation: OperationSpec, syntax: Syntax) -> Any:
    codec = operation.codec(syntax)
    defaults: dict[str, Any] = {}
    parameters: list[str] = []
    for number, param in enumerate(operation.in_params):
        if param.default is inspect.Parameter.empty:
            # a parameter without default behind one that has some can only be given by keyword
            marker = ", *" if defaults and ", *" not in parameters else ""
            if marker:
                parameters.append(marker)
            parameters.append(f", {param.name}")
        else:
            defaults[f"_default{number}"] = param.default
            parameters.append(f", {param.name}=_default{number}")
    source = _METHOD.format(
        name=operation.method,
        parameters="".join(parameters),
        arguments="".join(f", {param.name}" for param in operation.in_params),
        opnum=operation.opnum,
    )
    scope: dict[str, Any] = {
        "encode": codec.encode_request,
        "decode": codec.decode_reply,
        "decode_big": lambda *stub: operation.codec(Syntax.NDR20_BE).decode_reply(*stub),
        "BigEndianStub": BigEndianStub,
        "CancelledError": CancelledError,
        **defaults,
    }
    exec(compile(source, f"<proxy {operation.name}>", "exec"), scope)
    method = scope[operation.method]
    method.__doc__ = operation.doc
    return method
