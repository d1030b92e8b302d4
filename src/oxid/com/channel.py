"""The way to one remote exporter: its connection, its IRemUnknown, and what is owed to it. [MS-DCOM] 3.2.4"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from oxid.com.connections import Lease
from oxid.com.orpc import COM_VERSION
from oxid.com.proxy import Causality, proxy_class
from oxid.com.references import ExporterAddress, Owed, RemoteExporter, RemotePointer, addresses_of
from oxid.errors import (
    AccessDenied,
    AuthenticationError,
    OxidError,
    ServerUnavailable,
    StatusError,
    TransportError,
)
from oxid.interfaces.remote_unknown import IRemUnknown, RemInterfaceRef, RemQiResult
from oxid.ndr import Syntax
from oxid.rpc.interface import spec_of
from oxid.values import status as s
from oxid.values.bindings import protseq_of
from oxid.values.status import HResult

if TYPE_CHECKING:
    from oxid.com.machine import Machine
    from oxid.com.options import Blanket
    from oxid.runtime.client import RpcConnection

log = logging.getLogger("oxid.com.channel")

_GONE = frozenset((s.RPC_E_DISCONNECTED, s.RPC_E_INVALID_OBJECT, s.CO_E_OBJNOTREG))
_REFS_TO_ASK = 5
_RELEASES_PER_CALL = 1000
_RELEASES_AT_ONCE = 100
_RELEASE_OPNUM, _RELEASE = 5, spec_of(IRemUnknown).operations[5].codec(Syntax.NDR20_LE)
_ZERO4 = bytes(4)


class Channel:
    """One exporter as one machine object sees it. Owned by the Machine, which closes it."""

    def __init__(self, machine: Machine, exporter: RemoteExporter, causality: Causality) -> None:
        self.machine = machine
        self.exporter = exporter
        self.causality = causality
        self.request_head = _request_head(COM_VERSION)
        self._leases: dict[Blanket, Lease] = {}
        self._default: Blanket | None = None
        """How calls are secured by default, once the address is known."""
        self._connecting = asyncio.Lock()
        self._unknowns: dict[Blanket | None, Any] = {}

    def set_address(self, address: ExporterAddress) -> None:
        """Where the exporter listens, as activation or the resolver said."""
        self.exporter.address = address
        self._default = None
        self.request_head = _request_head(address.version)

    # -- connections ---------------------------------------------------------------------------------------

    async def default_blanket(self) -> Blanket:
        """How calls are secured unless their proxy says otherwise; the exporter's wishes are heard."""
        if self._default is None:
            address = self.exporter.address or await self._resolve()
            self._default = self.machine.default_blanket(address)
        return self._default

    async def connection(self, blanket: Blanket | None = None) -> RpcConnection:
        """The connection to the exporter for calls with this blanket, the default one for None; made where there
        is none, every binding is tried.

        Raises ServerUnavailable with what each attempt met, AccessDenied where the identity is refused.
        """
        self.machine.check_process()
        if blanket is None:
            blanket = await self.default_blanket()
        lease = self._leases.get(blanket)
        if lease is None or not lease.usable:
            async with self._connecting:
                lease = self._leases.setdefault(blanket, Lease(self.machine.connections))
                if not lease.usable:
                    await self._connect(lease, blanket)
        connection = lease.connection
        assert connection is not None  # usable
        return connection

    async def _resolve(self) -> ExporterAddress:
        address = await self.machine.resolve_exporter(self.exporter)
        self.set_address(address)
        return address

    async def _connect(self, lease: Lease, blanket: Blanket) -> None:
        address = self.exporter.address or await self._resolve()
        failures: list[str] = []
        for host, port in self._candidates(address):
            try:
                connection = await lease.take(host, port, blanket)
            except (TransportError, ServerUnavailable, OSError, TimeoutError, UnicodeError) as error:
                failures.append(f"{host}:{port}: {error or type(error).__name__}")
            else:
                connection.closed_waiter.add_done_callback(partial(self._lost, lease, connection))
                return
        self.machine.lifelines.suspect(self.exporter)
        raise ServerUnavailable(
            HResult(0x8007_0000 | s.RPC_S_SERVER_UNAVAILABLE),
            f"exporter {self.exporter.oxid:016x} cannot be reached ({'; '.join(failures) or self._no_binding()})",
        )

    def _no_binding(self) -> str:
        return f"it names no {protseq_of(self.machine.options.tower_id)} binding"

    def _lost(self, lease: Lease, connection: RpcConnection, _: object) -> None:
        """A connection that was in use is gone, and its exporter perhaps with it."""
        if lease.connection is connection and not self.machine.closed:
            self.machine.lifelines.suspect(self.exporter)

    def _candidates(self, address: ExporterAddress) -> list[tuple[str, int]]:
        """Hosts and ports to try: the host that was connected to first, since it is known to be reachable."""
        tower_id = self.machine.options.tower_id
        found = [(host, port) for host, port in addresses_of(address.bindings, tower_id) if port is not None]
        ports = list(dict.fromkeys(port for _, port in found))
        first = [(self.machine.host, port) for port in ports] if self.machine.host else []
        return list(dict.fromkeys([*(c for c in found if c in first), *found, *first]))

    def accepted(self, blanket: Blanket) -> None:
        """A connection was made with this blanket: its identity is known to the exporter, and may ping. Nobody is no
        identity: where somebody may ping, that is better than a set that anybody could have made."""
        proven = self.exporter.proven
        if blanket.credentials is not None and blanket not in proven:
            proven.insert(0, blanket)
            self.machine.lifelines.learn(self.exporter, blanket)

    # -- IRemUnknown ---------------------------------------------------------------------------------------

    def remote_unknown(self, blanket: Blanket | None = None) -> IRemUnknown:
        """The exporter's IRemUnknown, to be called with a blanket. Its address is known."""
        found = self._unknowns.get(blanket)
        if found is None:
            address = self.exporter.address
            assert address is not None  # known since `connection` succeeded
            found = proxy_class(IRemUnknown)(self, None, address.ipid_rem_unknown)
            found._blanket = blanket
            self._unknowns[blanket] = found
        return cast("IRemUnknown", found)

    async def query(self, pointer: RemotePointer, iid: UUID, refs: int = _REFS_TO_ASK) -> RemQiResult:
        """RemQueryInterface for one interface. Raises StatusError.

        Where the caller is cancelled, the references that may still come are given back in the background.
        """
        blanket = pointer.object.unknown_blanket

        async def ask() -> RemQiResult:
            await self.connection(blanket)
            results = await self.remote_unknown(blanket).rem_query_interface(
                UUID(bytes_le=pointer.ipid), refs, [iid]
            )
            if results is None or len(results) != 1:
                raise self.machine.error(
                    s.E_UNEXPECTED, "RemQueryInterface answered another number of results"
                )
            return results[0]

        def give_back(result: RemQiResult) -> None:
            if result.hresult < 0x8000_0000:
                self._owe(Owed(result.std.ipid.bytes_le, result.std.public_refs, 0, blanket))

        return await self.machine.to_the_end(ask(), give_back)

    async def add_refs(self, pointer: RemotePointer, refs: int = _REFS_TO_ASK, private: int = 0) -> None:
        """Ask for more references to a pointer. Raises StatusError where the object is gone."""
        blanket = pointer.object.unknown_blanket

        async def ask() -> None:
            await self.connection(blanket)
            wanted = [RemInterfaceRef(UUID(bytes_le=pointer.ipid), refs, private)]
            codes = await self.remote_unknown(blanket).rem_add_ref(wanted)
            if len(codes) != 1:
                raise self.machine.error(s.E_UNEXPECTED, "RemAddRef answered another number of results")
            if codes[0] >= 0x8000_0000:
                raise self.machine.error(codes[0], "RemAddRef")
            if pointer.uses:
                pointer.refs += refs
                pointer.private_refs += private
            else:
                self._owe(Owed(pointer.ipid, refs, private, blanket))  # released by others meanwhile

        await self.machine.to_the_end(ask(), _nothing)

    async def make_private(self, pointer: RemotePointer) -> None:
        """Hold a pointer by references of our own account instead of those that anybody could release."""
        if not pointer.private_refs:
            await self.add_refs(pointer, 0, _REFS_TO_ASK)
        if pointer.refs:
            self._owe(Owed(pointer.ipid, pointer.refs, 0, pointer.object.unknown_blanket))
            pointer.refs = 0

    def _owe(self, owed: Owed) -> None:
        """References came for which there is no use any more."""
        if owed.refs or owed.private_refs:
            self.exporter.unreleased.append(owed)
            self.release_later()

    async def send_releases(self) -> None:
        """Give back what is unreleased, in as few calls as possible. Never raises an OxidError.

        Where the caller is cancelled it goes on in the background: a release is told once, and whole.
        """
        if not self.exporter.unreleased:
            self._rest_if_idle()
            return
        told = self._tell_releases()
        if told is None:
            with suppress(TransportError):  # the machine was closed meanwhile
                await self.machine.to_the_end(self._send_releases(), _nothing, farewell=True)
            return
        batch, waiter = told
        try:
            await waiter  # where the caller is cancelled, it is told nevertheless
        except (AccessDenied, AuthenticationError):
            self.exporter.unreleased += batch
            await self.machine.to_the_end(self._send_releases(), _nothing, farewell=True)
        except (OxidError, OSError, TimeoutError) as error:
            log.debug("exporter %016x was not told of a release: %s", self.exporter.oxid, error)
        finally:
            self._rest_if_idle()

    def _tell_releases(self) -> tuple[list[Owed], asyncio.Future[bytes]] | None:
        """Send what is unreleased at once, if there is a connection on which that is one small call."""
        owed = self.exporter.unreleased
        unknown = self._unknowns.get(None)
        connection: RpcConnection | None = None if unknown is None else unknown._connection
        if (
            unknown is None
            or connection is None
            or connection.lost is not None
            or connection.stalled
            or len(owed) > _RELEASES_AT_ONCE
            or any(one.blanket is not None or one.private_refs for one in owed)
        ):
            return None
        batch = self.exporter.take_unreleased()
        out = bytearray(self.request_head + self.causality.next() + _ZERO4)
        refs = [RemInterfaceRef(UUID(bytes_le=one.ipid), one.refs, 0) for one in batch]
        _RELEASE.encode_request(out, None, refs)
        waiter = connection.submit(unknown._context, _RELEASE_OPNUM, out, unknown._ipid)
        patience = asyncio.get_running_loop().call_later(
            self.machine.options.release_timeout, _give_up, waiter
        )
        waiter.add_done_callback(lambda _: patience.cancel())
        return batch, waiter

    async def _send_releases(self) -> None:
        by_blanket: dict[Blanket | None, list[Owed]] = {}
        for owed in self.exporter.take_unreleased():
            by_blanket.setdefault(owed.blanket, []).append(owed)
        for blanket, owing in by_blanket.items():
            while owing:
                batch, owing = owing[:_RELEASES_PER_CALL], owing[_RELEASES_PER_CALL:]
                await self._release(batch, blanket)
        self._rest_if_idle()

    async def _release(self, batch: list[Owed], blanket: Blanket | None) -> None:
        """Tell the exporter of releases: as the blanket says, else as somebody whom it has accepted before.

        A release whose identity is refused would leave the object to the time-outs. [MS-DCOM] 3.2.4.4.2
        """
        given = [RemInterfaceRef(UUID(bytes_le=o.ipid), o.refs, o.private_refs) for o in batch]
        private = any(o.private_refs for o in batch)
        others = [] if private else [b for b in self.exporter.proven if b != blanket]
        for identity in (blanket, *others):
            try:
                async with asyncio.timeout(self.machine.options.release_timeout):
                    await self.connection(identity)
                    await self.remote_unknown(identity).rem_release(given)
                return
            except (AccessDenied, AuthenticationError) as error:
                log.debug("exporter %016x refused a release: %s", self.exporter.oxid, error)
            except (OxidError, OSError, TimeoutError, UnicodeError) as error:
                # The ping set no longer names these objects: the server's own time-out is the backstop.
                log.debug("exporter %016x was not told of a release: %s", self.exporter.oxid, error)
                return

    def _rest_if_idle(self) -> None:
        if self.exporter.idle:
            leases, self._leases = self._leases, {}
            for lease in leases.values():
                lease.give_back()
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
                self.machine.lifelines.object_gone(pointer.object)


def _give_up(waiter: asyncio.Future[bytes]) -> None:
    """A server that does not answer a release: its own time-out is the backstop."""
    if not waiter.done():
        waiter.set_exception(TimeoutError("no answer to a release"))


def _nothing(_result: object) -> None:
    """What is to be given back where a call brings no references."""


def _request_head(version: tuple[int, int]) -> bytes:
    """Room for a request header with object UUID, and the part of ORPCTHIS before the causality identifier."""
    major, minor = version
    return bytes(40) + major.to_bytes(2, "little") + minor.to_bytes(2, "little") + bytes(8)
