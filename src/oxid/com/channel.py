"""The way to one remote exporter: its connection, its IRemUnknown, and what is owed to it. [MS-DCOM] 3.2.4"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from oxid.com.connections import Lease
from oxid.com.orpc import COM_VERSION
from oxid.com.proxy import Causality, proxy_class
from oxid.com.references import ExporterAddress, RemoteExporter, RemotePointer, tcp_addresses
from oxid.errors import OxidError, ServerUnavailable, StatusError, TransportError
from oxid.interfaces.remote_unknown import IRemUnknown, RemInterfaceRef, RemQiResult
from oxid.values import status as s
from oxid.values.status import HResult

if TYPE_CHECKING:
    from oxid.com.machine import Machine
    from oxid.runtime.client import RpcConnection

log = logging.getLogger("oxid.com.channel")

_GONE = frozenset((s.RPC_E_DISCONNECTED, s.RPC_E_INVALID_OBJECT, s.CO_E_OBJNOTREG))
_REFS_TO_ASK = 5
_RELEASES_PER_CALL = 1000


class Channel:
    """One exporter as one machine object sees it. Owned by the Machine, which closes it."""

    def __init__(self, machine: Machine, exporter: RemoteExporter, causality: Causality) -> None:
        self.machine = machine
        self.exporter = exporter
        self.causality = causality
        self._version = COM_VERSION
        self.request_head = _request_head(COM_VERSION)
        self._lease = Lease()
        self._connecting = asyncio.Lock()
        self._remote_unknown: Any = None

    def set_address(self, address: ExporterAddress) -> None:
        """Where the exporter listens, as activation or the resolver said."""
        self.exporter.address = address
        self.request_head = _request_head(address.version)

    async def connection(self) -> RpcConnection:
        """The connection to the exporter, made where there is none; every binding is tried.

        Raises ServerUnavailable with what each attempt met.
        """
        if not self._lease.usable:
            async with self._connecting:
                if not self._lease.usable:
                    await self._connect()
        connection = self._lease.connection
        assert connection is not None  # usable
        return connection

    async def _connect(self) -> None:
        address = self.exporter.address
        if address is None:
            address = await self.machine.resolve_exporter(self.exporter)
            self.set_address(address)
        blanket = self.machine.call_blanket(address.authn_hint)
        failures: list[str] = []
        for host, port in self._candidates(address):
            try:
                await self._lease.take(self.machine.connections.use(host, port, blanket))
                return
            except (TransportError, ServerUnavailable, OSError, TimeoutError, UnicodeError) as error:
                failures.append(f"{host}:{port}: {error or type(error).__name__}")
        raise ServerUnavailable(
            HResult(0x8007_0000 | s.RPC_S_SERVER_UNAVAILABLE),
            f"exporter {self.exporter.oxid:016x} cannot be reached ({'; '.join(failures) or 'no TCP binding'})",
        )

    def _candidates(self, address: ExporterAddress) -> list[tuple[str, int]]:
        """Hosts and ports to try: the host that was connected to first, since it is known to be reachable."""
        found = [(host, port) for host, port in tcp_addresses(address.bindings) if port is not None]
        ports = list(dict.fromkeys(port for _, port in found))
        first = [(self.machine.host, port) for port in ports] if self.machine.host else []
        return list(dict.fromkeys([*(c for c in found if c in first), *found, *first]))

    # -- IRemUnknown ---------------------------------------------------------------------------------------

    def remote_unknown(self) -> IRemUnknown:
        if self._remote_unknown is None:
            address = self.exporter.address
            assert address is not None  # known since `connection` succeeded
            self._remote_unknown = proxy_class(IRemUnknown)(self, None, address.ipid_rem_unknown)
        return cast("IRemUnknown", self._remote_unknown)

    async def query(self, pointer: RemotePointer, iid: UUID, refs: int = _REFS_TO_ASK) -> RemQiResult:
        """RemQueryInterface for one interface. Raises StatusError.

        Where the caller is cancelled, the references that may still come are given back in the background.
        """

        async def ask() -> RemQiResult:
            await self.connection()
            results = await self.remote_unknown().rem_query_interface(
                UUID(bytes_le=pointer.ipid), refs, [iid]
            )
            if results is None or len(results) != 1:
                raise self.machine.error(
                    s.E_UNEXPECTED, "RemQueryInterface answered another number of results"
                )
            return results[0]

        def give_back(result: RemQiResult) -> None:
            if result.hresult < 0x8000_0000:
                self._owe(result.std.ipid.bytes_le, result.std.public_refs)

        return await self.machine.to_the_end(ask(), give_back)

    async def add_refs(self, pointer: RemotePointer, refs: int = _REFS_TO_ASK) -> None:
        """Ask for more references to a pointer. Raises StatusError where the object is gone."""

        async def ask() -> None:
            await self.connection()
            wanted = [RemInterfaceRef(UUID(bytes_le=pointer.ipid), refs, 0)]
            codes = await self.remote_unknown().rem_add_ref(wanted)
            if len(codes) != 1:
                raise self.machine.error(s.E_UNEXPECTED, "RemAddRef answered another number of results")
            if codes[0] >= 0x8000_0000:
                raise self.machine.error(codes[0], "RemAddRef")
            if pointer.uses:
                pointer.refs += refs
            else:
                self._owe(pointer.ipid, refs)  # released by others meanwhile

        await self.machine.to_the_end(ask(), _nothing)

    def _owe(self, ipid: bytes, refs: int) -> None:
        """References came for which there is no use any more."""
        if refs:
            self.exporter.unreleased.append((ipid, refs))
            self.release_later()

    async def send_releases(self) -> None:
        """Give back what is unreleased, in as few calls as possible. Never raises an OxidError.

        Where the caller is cancelled it goes on in the background: a release is told once, and whole.
        """
        if self.exporter.unreleased:
            with suppress(TransportError):  # the machine was closed meanwhile
                await self.machine.to_the_end(self._send_releases(), _nothing, farewell=True)
        else:
            await self._rest_if_idle()

    async def _send_releases(self) -> None:
        owed = self.exporter.take_unreleased()
        try:
            while owed:
                batch, owed = owed[:_RELEASES_PER_CALL], owed[_RELEASES_PER_CALL:]
                released = [RemInterfaceRef(UUID(bytes_le=ipid), refs, 0) for ipid, refs in batch]
                async with asyncio.timeout(self.machine.options.release_timeout):
                    await self.connection()
                    await self.remote_unknown().rem_release(released)
        except (OxidError, OSError, TimeoutError, UnicodeError) as error:
            # The ping set no longer names these objects: the server's own time-out is the backstop.
            log.debug("exporter %016x was not told of a release: %s", self.exporter.oxid, error)
        await self._rest_if_idle()

    async def _rest_if_idle(self) -> None:
        if self.exporter.idle:
            await self._lease.give_back()
            self.machine.channel_idle(self)

    def drop_later(self, pointer: RemotePointer) -> None:
        """A proxy was dropped without release: let it go on the loop's own thread, outside the finaliser."""
        self.machine.later(self._drop, pointer)

    def _drop(self, pointer: RemotePointer) -> None:
        self.exporter.let_go(pointer)
        self.release_later()

    def release_later(self) -> None:
        """Give back in the background what is unreleased."""
        if self.exporter.unreleased:
            self.machine.spawn(self._send_releases(), farewell=True)

    def call_failed(self, pointer: RemotePointer, error: StatusError) -> None:
        """A call met a fault: an object that is gone is not pinged any more."""
        if error.status.code in _GONE:
            pointer.gone = True
            if pointer.object.gone:
                self.machine.object_gone(pointer.object)


def _nothing(_result: object) -> None:
    """What is to be given back where a call brings no references."""


def _request_head(version: tuple[int, int]) -> bytes:
    """Room for a request header with object UUID, and the part of ORPCTHIS before the causality identifier."""
    major, minor = version
    return bytes(40) + major.to_bytes(2, "little") + minor.to_bytes(2, "little") + bytes(8)
