"""Interface pointers of one outgoing call: what it passes on, what it brings back. [MS-DCOM] 3.2.4.3, 3.2.4.1.2"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oxid.com.exporter import MARSHAL_REFS
from oxid.com.local_proxy import LocalProxy, local_proxy
from oxid.com.proxy import Proxy
from oxid.com.references import RemotePointer
from oxid.errors import LocalProtocolError, NotSupported
from oxid.ndr.codec import OperationCodec
from oxid.rpc.interface import spec_of

if TYPE_CHECKING:
    from oxid.com.machine import Machine


class _NeedsReferences(Exception):
    """A proxy has no reference to spare: more must be fetched before it can be passed on."""

    def __init__(self, proxy: Proxy, pointer: RemotePointer) -> None:
        self.channel = proxy._channel
        self.pointer = pointer


class _NeedsExporter(Exception):
    """An object of this process is passed on, and there is no exporter yet that could serve it."""


class ClientMarshaller:
    """Owns the references of one call until the call has taken them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._passed_on: list[RemotePointer] = []
        self._granted: list[tuple[Any, int]] = []
        self._imported: list[Proxy] = []

    async def encode(self, codec: OperationCodec, head: bytes, arguments: tuple[Any, ...]) -> bytearray:
        """The request, in a new buffer that begins with `head`."""
        while True:
            out = bytearray(head)
            try:
                codec.encode_request(out, self, *arguments)
            except _NeedsReferences as wanted:
                self.take_back()
                await wanted.channel.add_refs(wanted.pointer)
                continue
            except _NeedsExporter:
                self.take_back()
                await self._machine.open_exporter()
                continue
            except BaseException:
                self.take_back()
                raise
            return out

    def marshal(self, target: Any, declared: type[Any] | None) -> bytes:
        if isinstance(target, Proxy):
            pointer = target._pointer
            if pointer is None or target._released:
                raise LocalProtocolError(f"{target!r} cannot be passed on: it is released")
            if pointer.refs < 2:
                raise _NeedsReferences(target, pointer)
            pointer.refs -= 1
            self._passed_on.append(pointer)
            return pointer.objref(1)
        if isinstance(target, LocalProxy):
            target = target._target
        if declared is None:
            raise NotSupported("a parameter without a declared interface takes proxies only")
        exporter = self._machine.exporter
        if exporter is None:
            raise _NeedsExporter
        found = exporter.pointer_to(target, spec_of(declared))
        reference = exporter.objref(found)
        self._granted.append((found, MARSHAL_REFS))
        return reference

    def unmarshal(self, objref: bytes, declared: type[Any] | None) -> Any:
        exporter = self._machine.exporter
        if exporter is not None:
            own = exporter.local(objref)
            if own is not None:
                pointer, refs = own
                exporter.table.release_refs(pointer, refs)
                return local_proxy(pointer.exported.target, declared, exporter.threads)
        proxy = self._machine.proxy(objref, declared)
        self._imported.append(proxy)
        return proxy

    async def adopt(self) -> None:
        """The call succeeded: make what it brought usable."""
        await self._machine.adopt(self._imported)

    def take_back(self) -> None:
        """The peer has not seen the request: its references are ours again."""
        for pointer in self._passed_on:
            pointer.refs += 1
        self._passed_on.clear()
        for granted, refs in self._granted:
            granted.exported.table.release_refs(granted, refs)
        self._granted.clear()

    def drop_imported(self) -> None:
        """The reply was wrong as a whole: let go what it brought so far."""
        self._machine.abandon(self._imported)
        self._imported.clear()
