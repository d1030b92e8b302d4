"""Proxies: the objects that stand for remote ones. [MS-DCOM] 3.2.4.2

    proxy_class(ICalculator)        a subclass of the interface, its methods generated once
    async with proxy: ...           releases at the end of the block
    other = await proxy.query(IOther)

A method's cost is decided here: it encodes into one buffer, awaits one future, decodes. Interface pointers among
the arguments or results take a longer way, since references must be counted and exporters found.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from asyncio import CancelledError
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast
from uuid import UUID

from oxid.com.interface_pointers import carries_pointers
from oxid.com.options import Capabilities
from oxid.com.orpc import EMPTY_ORPCTHAT, ORPCTHAT_SIZE, error_info_of, read_orpcthat
from oxid.com.references import RemotePointer
from oxid.com.subscription import Subscription
from oxid.errors import LocalProtocolError, Origin, StatusError, TransportError, error_for, hresult
from oxid.interfaces.unknown import IID_IUNKNOWN
from oxid.ndr.codec import OperationCodec
from oxid.ndr.syntax import Syntax
from oxid.rpc.interface import InterfaceSpec, OperationSpec, spec_of
from oxid.runtime.dispatch import current_call_or_none
from oxid.values.status import E_INVALIDARG
from oxid.world import Entropy

if TYPE_CHECKING:
    from oxid.com.channel import Channel
    from oxid.com.client_marshaller import ClientMarshaller
    from oxid.com.options import Blanket
    from oxid.runtime.client import RpcConnection

I = TypeVar("I")  # noqa: E741 - an interface

log = logging.getLogger("oxid.com.proxy")

_ZERO4: Final = bytes(4)


class Causality:
    """Causality identifiers: a new one for each chain of calls, the caller's own within one. [MS-DCOM] 1.3.5"""

    __slots__ = ("_numbers", "_prefix")

    def __init__(self, entropy: Entropy) -> None:
        self._prefix = entropy.token(8)
        # 63 bits, and a start that leaves room for more calls than any process makes
        self._numbers = count(int.from_bytes(entropy.token(6), "little"))

    def next(self) -> bytes:
        """16 bytes for the next call: unique, not secret."""
        call = current_call_or_none()
        if call is not None and call.object is not None and len(call.stub) >= 32:
            return bytes(call.stub[12:28])  # we are inside a call: the same chain
        return self._prefix + next(self._numbers).to_bytes(8, "little")


class Proxy:
    """One interface of one remote object. Made by a Machine; released by `release` or `async with`."""

    _spec: InterfaceSpec
    __oxid_proxy__ = True

    def __init__(self, channel: Channel, pointer: RemotePointer | None, ipid: bytes) -> None:
        """`pointer` carries our references; an exporter's own remote unknown has none."""
        self._channel = channel
        self._pointer = pointer
        self._ipid = ipid
        self._connection: RpcConnection | None = None
        self._context = 0
        self._cid = channel.causality.next
        self._head = channel.request_head
        self._blanket: Blanket | None = None
        self._released = False
        self._kept = False

    # -- what users call -----------------------------------------------------------------------------------

    async def query(self, interface: type[I]) -> I:
        """Another interface of the same object. Raises NoSuchInterface. [MS-DCOM] 3.2.4.4.3"""
        return cast("I", await self._channel.machine.query(self, interface))

    def subscribe(self, interface: type[Any], handler: Any) -> Subscription:
        """Hear the object's events, from `async with` until its end: `interface` is that of the sink, `handler` an
        object with its methods, or a function where there is one. See `oxid.com.subscription`."""
        return Subscription(self, interface, handler)

    async def release(self) -> None:
        """Give this proxy's references back; may be called twice. A server that cannot be told notices by
        itself, so no error is raised."""
        if not self._released:
            self._let_go()
            await self._channel.send_releases()

    def release_soon(self) -> None:
        """Give the references back in the background: for callers that cannot wait."""
        if not self._released:
            self._let_go()
            self._channel.release_later()

    # -- security: IClientSecurity, local to this process ---------------------------------------------------

    async def query_blanket(self) -> Blanket:
        """How calls through this proxy are secured. May have to ask the resolver what the exporter wants."""
        return self._own_blanket() or await self._channel.default_blanket()

    async def set_blanket(
        self,
        blanket: Blanket | None = None,
        *,
        unknown: bool = False,
        **changes: Any,
    ) -> None:
        """Secure the calls of this proxy, and of no other, in another way from now on. IClientSecurity::SetBlanket

        Give a whole Blanket, or what changes of the present one: `credentials`, `level`, `auth_type`,
        `target_name`, `impersonation`. `unknown` sets that of the object's IUnknown, too, with which its references
        are asked for and given back: an exporter that takes no calls of the default identity takes no releases of
        it either. Raises InvalidArgument for a blanket that no connection can have.
        """
        chosen = blanket or await self.query_blanket()
        chosen = self._channel.machine.checked_blanket(chosen, changes)
        if unknown or self._spec.uuid == IID_IUNKNOWN:
            if self._channel.machine.options.capabilities & Capabilities.SECURE_REFS:
                raise hresult(E_INVALIDARG, "references of our own account are kept with its own blanket")
            if self._pointer is not None:
                self._pointer.object.unknown_blanket = chosen
        self._blanket = chosen
        self._connection = None

    def copy(self) -> Self:
        """Another proxy of the same interface, whose blanket is its own from now on. IClientSecurity::CopyProxy

        It is released by itself.
        """
        pointer = self._pointer
        if self._released or pointer is None:
            raise LocalProtocolError(f"{self!r}: copy it before it is released")
        pointer.uses += 1
        made = type(self)(self._channel, pointer, self._ipid)
        made._blanket = self._blanket
        return made

    def _own_blanket(self) -> Blanket | None:
        """The blanket that was set for this proxy, or that of the identity that acts; None for the default one."""
        return self._blanket

    def on_gone(self, listener: Callable[[], object]) -> None:
        """Call `listener()` once, when it turns out that the object is dead: its resolver does not know it any
        more, or a call found it gone."""
        if self._pointer is not None:
            self._pointer.object.on_gone.append(listener)

    @property
    def ipid(self) -> UUID:
        """The identifier of this interface pointer."""
        return UUID(bytes_le=self._ipid)

    @property
    def oid(self) -> int:
        """The identifier of the object."""
        return self._pointer.object.oid if self._pointer is not None else 0

    @property
    def oxid(self) -> int:
        """The identifier of the exporter it lives in."""
        return self._channel.exporter.oxid

    def keep(self) -> Self:
        """Within a method that was given this proxy as an argument: do not release it when the call ends."""
        self._kept = True
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.release()

    def __del__(self) -> None:
        if getattr(self, "_released", True) or self._pointer is None or self._channel.machine.closed:
            return  # the end of its machine released it
        warnings.warn(f"{self!r} was dropped without release()", ResourceWarning, source=self, stacklevel=2)
        self._channel.drop_later(self._pointer)

    def __repr__(self) -> str:
        state = " released" if self._released else ""
        return f"<{self._spec.name} proxy oid {self.oid:016x}{state}>"

    # -- what generated methods call -----------------------------------------------------------------------

    async def _open(self) -> RpcConnection:
        """The connection to the object, bound to this interface."""
        if self._released:
            raise LocalProtocolError(f"{self!r}: call it before it is released")
        blanket = self._own_blanket() or await self._channel.default_blanket()
        connection = await self._channel.connection(blanket)
        self._context = await connection.context(self._spec)
        self._connection = connection
        self._channel.accepted(blanket)
        return connection

    def _extended(self, stub: bytes, decode: Callable[..., Any], marshaller: Any) -> Any:
        """Decode a reply that carries extensions: the description of an error, most often."""
        at, extents = read_orpcthat(stub)
        try:
            return decode(stub, at, marshaller)
        except StatusError as error:
            info = error_info_of(extents)
            if info is None:
                raise
            raise error_for(error.status, origin=error.origin, info=info) from None

    async def _call_with_pointers(self, operation: OperationSpec, arguments: tuple[Any, ...]) -> Any:
        """A call whose arguments or results are interface pointers.

        A caller that is cancelled does not leave the references of a late reply behind: the server is asked to
        cancel, and what it answers all the same is given back.
        """
        connection = self._connection
        if connection is None or connection.lost is not None:
            connection = await self._open()
        elif connection.stalled:
            await connection.drain()
        machine = self._channel.machine
        marshaller = machine.marshaller()
        codec = operation.codec(Syntax.NDR20_LE)
        out = await marshaller.encode(codec, self._head + self._cid() + _ZERO4, arguments)
        try:
            waiter = connection.submit(self._context, operation.opnum, out, self._ipid)
        except TransportError:
            marshaller.take_back()  # it was not sent
            raise
        work = self._finish_with_pointers(waiter, codec, marshaller)
        try:
            return await machine.to_the_end(work, lambda _: marshaller.drop_imported())
        except asyncio.CancelledError:
            connection.forsake(waiter)
            raise

    async def _finish_with_pointers(
        self, waiter: Any, codec: OperationCodec, marshaller: ClientMarshaller
    ) -> Any:
        try:
            stub = await waiter
        except StatusError as error:
            if not error.executed:
                marshaller.take_back()
            self._failed(error)
            raise
        try:
            if stub.startswith(EMPTY_ORPCTHAT):
                result = codec.decode_reply(stub, ORPCTHAT_SIZE, marshaller)
            else:
                result = self._extended(stub, codec.decode_reply, marshaller)
        except BaseException:
            marshaller.drop_imported()
            raise
        await marshaller.adopt()
        return result

    def _failed(self, error: StatusError) -> None:
        if error.origin is Origin.FAULT and self._pointer is not None:
            self._channel.call_failed(self._pointer, error)

    def _become(self, other: Proxy) -> None:
        """Take over another proxy's pointer in place of our own, which is let go."""
        if self._pointer is not None:
            self._channel.exporter.let_go(self._pointer)
        self._pointer, self._ipid, self._connection = other._pointer, other._ipid, None
        other._pointer, other._released = None, True

    def _let_go(self) -> None:
        self._released = True
        self._connection = None
        if self._pointer is not None:
            self._channel.exporter.let_go(self._pointer)


class CloakedProxy(Proxy):
    """A proxy with the identity that acts: at its first call, or at each of them. [MS-DCOM] 3.2.4.2"""

    def _own_blanket(self) -> Blanket | None:
        if self._blanket is not None:
            return self._blanket
        blanket = self._channel.machine.acting_blanket(self._channel.exporter)
        if not self._channel.machine.options.capabilities & Capabilities.DYNAMIC_CLOAKING:
            self._blanket = blanket
        return blanket

    @property
    def _connection(self) -> RpcConnection | None:
        """Nothing is kept between calls where each call may have another identity."""
        if self._channel.machine.options.capabilities & Capabilities.DYNAMIC_CLOAKING:
            return None
        return self._kept_connection

    @_connection.setter
    def _connection(self, connection: RpcConnection | None) -> None:
        self._kept_connection = connection


_METHOD = """
async def {method}(self{params}):
    connection = self._connection
    if connection is None or connection.lost is not None:
        connection = await self._open()
    elif connection.stalled:
        await connection.drain()
    out = bytearray(self._head + self._cid() + ZERO4)
    encode(out, None{args})
    waiter = connection.submit(self._context, {opnum}, out, self._ipid)
    try:
        stub = await waiter
    except StatusError as error:
        self._failed(error)
        raise
    except CancelledError:
        connection.forsake(waiter)
        raise
    except TransportError:
        self._connection = None
        raise
    if stub.startswith(NO_EXTENSIONS):
        return decode(stub, 8, None)
    return self._extended(stub, decode, None)
"""

_POINTER_METHOD = """
async def {method}(self{params}):
    return await self._call_with_pointers(operation, ({tuple_args}))
"""

_classes: dict[tuple[type[Any], bool], type[Any]] = {}


def proxy_class(interface: type[I], *, cloaked: bool = False) -> type[Any]:
    """The proxy class of a COM interface; generated once. Raises TypeError for what is not one."""
    made = _classes.get((interface, cloaked))
    if made is None:
        spec = spec_of(interface)
        if not spec.is_object:
            raise TypeError(f"{spec.name} is a plain RPC interface; use machine.bind({spec.name})")
        body: dict[str, Any] = {"_spec": spec, "__doc__": spec.doc, "__hash__": object.__hash__}
        for operation in spec.operations.values():
            body[operation.method] = _method(interface, operation)
        base = CloakedProxy if cloaked else Proxy
        made = _classes[interface, cloaked] = type(f"{spec.name}Proxy", (base, interface), body)
    return made


def _method(interface: type[Any], operation: OperationSpec) -> Callable[..., Any]:
    codec: OperationCodec = operation.codec(Syntax.NDR20_LE)
    names = [param.name for param in operation.in_params]
    defaults = {f"default_{p.name}": p.default for p in operation.in_params if not p.required}
    params = "".join(
        f", {p.name}" if p.required else f", {p.name}=default_{p.name}" for p in operation.in_params
    )
    source = (_POINTER_METHOD if carries_pointers(operation) else _METHOD).format(
        method=operation.method,
        opnum=operation.opnum,
        params=params,
        args="".join(f", {name}" for name in names),
        tuple_args="".join(f"{name}, " for name in names),
    )
    scope: dict[str, Any] = {
        "encode": codec.encode_request,
        "decode": codec.decode_reply,
        "operation": operation,
        "CancelledError": CancelledError,
        "StatusError": StatusError,
        "TransportError": TransportError,
        "NO_EXTENSIONS": EMPTY_ORPCTHAT,
        "ZERO4": _ZERO4,
        **defaults,
    }
    exec(compile(source, f"<proxy {interface.__name__}.{operation.method}>", "exec"), scope)
    method = scope[operation.method]
    method.__qualname__ = f"{interface.__name__}.{operation.method}"
    method.__doc__ = operation.doc
    return cast("Callable[..., Any]", method)
