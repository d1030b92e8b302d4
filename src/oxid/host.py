"""One host: endpoint mapper, OXID resolver, activation and an object exporter, in one process.

    async with Host(options, world) as host:
        print(host.ready)              every listener accepts
        await stop.wait()
    world.ledger.live()                nothing is left

What `oxid serve` runs. The tables are pure and live in `rpcss`; objects live in `com`; here they are put on the
network and given one timer.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import fields
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

from oxid.auth import Authenticator, Credentials, FailureLimiter, Keytab, ServerNames
from oxid.auth.account_file import FileAccountStore
from oxid.com.activation import ClassObjects
from oxid.com.activation_properties import ActivationOut, InterfaceResult
from oxid.com.coclass import ClassTable, CoClass
from oxid.com.exporter import Exporter
from oxid.com.machine import Machine, connect
from oxid.com.options import ClientOptions
from oxid.com.orpc import COM_VERSION
from oxid.com.reference_table import Verdict
from oxid.com.remote_unknown import RemoteUnknown
from oxid.config import DEFAULT_RPC_PORT, FALLBACK_RPC_PORT, Address, HostOptions
from oxid.errors import ConfigurationError
from oxid.interfaces.activation import IActivation, IRemoteSCMActivator
from oxid.interfaces.endpoint_map import IEndpointMap
from oxid.interfaces.management import IManagement
from oxid.interfaces.object_exporter import ComplexPingReply, IObjectExporter
from oxid.interfaces.remote_unknown import IRemUnknown
from oxid.interfaces.unknown import IUnknown
from oxid.rpc.interface import InterfaceSpec, spec_of
from oxid.rpcss.activator import ActivationPolicy, ActivationRequest, ActivationService, Caller
from oxid.rpcss.endpoint_mapper import EndpointMapper, Registration
from oxid.rpcss.oid_leases import PingPolicy
from oxid.rpcss.open_lookups import OpenLookups
from oxid.rpcss.oxid_resolver import OxidResolver
from oxid.rpcss.service import EndpointMapService, ObjectExporterService
from oxid.runtime.control import open_control
from oxid.runtime.deadlines import DeadlineDriver
from oxid.runtime.dispatch import current_call
from oxid.runtime.server import Endpoint, RpcServer
from oxid.values.bindings import NCACN_IP_TCP, DcomBinding, DualStringArray, SecurityBinding
from oxid.world import World

log = logging.getLogger("oxid.host")

_INTEGRITY: Final = 5
_CONNECT: Final = 2
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})


class PlainInterface:
    """A plain RPC interface to serve, with the object that answers it."""

    __slots__ = ("annotation", "implementation", "spec")

    def __init__(self, interface: type[Any], implementation: object, annotation: str = "") -> None:
        self.spec = spec_of(interface)
        self.implementation = implementation
        self.annotation = annotation or self.spec.name


class Host:
    """Serves classes and interfaces until its block ends."""

    def __init__(
        self,
        options: HostOptions,
        world: World | None = None,
        *,
        classes: Sequence[CoClass] = (),
        interfaces: Sequence[PlainInterface] = (),
        credentials: Credentials | None = None,
    ) -> None:
        """`credentials`: who this host is where its objects call objects elsewhere; None for nobody."""
        self.options = options
        self.world = world or World.real()
        self.classes = ClassTable(classes)
        self.interfaces = tuple(interfaces)
        self._credentials = credentials
        self._stack = AsyncExitStack()
        self._rpc_endpoints: list[Endpoint] = []
        self._exporter_endpoints: list[Endpoint] = []
        self._names: dict[str, tuple[str, ...]] = {}
        """What clients are told for each address listened on; looked up once, since every reference says it."""
        self._served: set[UUID] = set()
        self.accounts = FileAccountStore(options.accounts_file)

    # -- life ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Listen. Raises ConfigurationError naming the address that cannot be bound, or the bad setting."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        world, options, ledger = self.world, self.options, self.world.ledger
        self.authenticator = Authenticator(
            self.accounts,
            world=world,
            names=ServerNames(computer=_computer_name()),
            keytab=Keytab(str(options.keytab)) if options.keytab is not None else None,
            limiter=FailureLimiter(),
        )
        policy = PingPolicy(options.ping_period)
        self.resolver = OxidResolver(world.new_id, policy, ledger)
        self.mapper = EndpointMapper(ledger)
        self._sweep_timer = DeadlineDriver(asyncio.get_running_loop(), world, self._sweep)
        self._stack.callback(self._sweep_timer.close)

        rpc = RpcServer(world, authenticator=self.authenticator)
        objects = RpcServer(world, authenticator=self.authenticator)
        self.rpc_server, self.object_server = rpc, objects
        self._make_exporter()
        following = self.connect("", credentials=self._credentials, probe=False)
        self.exporter.importer = await self._stack.enter_async_context(following)
        # What calls bring and grant goes back through exporter and importer: the servers end before them.
        self._stack.push_async_callback(self._close_servers)
        self._register_services()
        await self._listen()
        self.resolver.update_bindings(self.exporter.oxid, self.exporter_bindings())
        self._enter_into_endpoint_mapper()
        control: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {"status": self._status}
        await self._stack.enter_async_context(open_control(options.control_socket, control))

    async def _close_servers(self) -> None:
        """Stop accepting everywhere at once, and cut what is still open."""
        await asyncio.gather(self.rpc_server.aclose(), self.object_server.aclose())

    def _enter_into_endpoint_mapper(self) -> None:
        """What clients may look for by interface. Objects are found through their OXID instead."""
        here, there = self._rpc_endpoints, self._exporter_endpoints
        rows = [(spec_of(IEndpointMap), e, "endpoint mapper") for e in here]
        rows += [(spec_of(IManagement), e, "management") for e in (*here, *there)]
        rows += [(offered.spec, e, offered.annotation) for offered in self.interfaces for e in there]
        for spec, endpoint, annotation in rows:
            row = Registration(
                spec.uuid, spec.version, endpoint.protseq, str(endpoint.port), annotation=annotation
            )
            lease = self.mapper.register(row, owner=self.exporter.oxid)
            self._stack.callback(lease.close)

    def _make_exporter(self) -> None:
        oxid = self.world.new_id()
        self.exporter = Exporter(
            self.world,
            oxid=oxid,
            new_oid=self._new_oid,
            on_dropped=self._object_dropped,
            on_marshalled=self._object_marshalled,
            on_interface=self._serve_interface,
            resolver_bindings=self.resolver_bindings,
            allow_anonymous=self.options.insecure_anonymous,
            threads=self.object_server.threads,
        )
        self._stack.callback(self.exporter.close)
        self.remote_unknown = RemoteUnknown(self.exporter, _caller_name)
        ipid = UUID(bytes_le=self.remote_unknown.pointer.ipid)
        self.resolver.add_exporter(DualStringArray(), ipid, authn_hint=_INTEGRITY, oxid=oxid)
        self._stack.callback(self._remove_exporter, oxid)
        self.class_objects = ClassObjects(self.exporter, self.classes)

    def _remove_exporter(self, oxid: int) -> None:
        self.resolver.remove_exporter(oxid, self.world.clock.now())

    def _register_services(self) -> None:
        policy = ActivationPolicy(allow_anonymous=self.options.insecure_anonymous)
        self.activation = ActivationService(_HostActivator(self), _caller, policy)
        self.object_exporter = _WakingResolverService(self)
        lookups = OpenLookups(self.world.clock)
        mapper = EndpointMapService(self.mapper, _handles, _local_address, lookups)
        self.rpc_server.register(IObjectExporter, self.object_exporter, ndr64=False)
        self.rpc_server.register(IEndpointMap, mapper)
        self.rpc_server.register(IActivation, self.activation, ndr64=False)
        self.rpc_server.register(IRemoteSCMActivator, self.activation, ndr64=False)
        for spec in (spec_of(IUnknown), spec_of(IRemUnknown)):
            self._serve_interface(spec)
        lowest = 0 if self.options.insecure_anonymous else _CONNECT
        for interface in self.interfaces:
            self.object_server.register(interface.spec, interface.implementation, min_level=lowest)

    async def _listen(self) -> None:
        addresses = self.options.rpc
        if addresses:
            for address in addresses:
                self._rpc_endpoints.append(await self.rpc_server.listen(address.host, address.port))
        else:
            self._rpc_endpoints.append(await self._listen_by_default())
        ports = self.options.exporter_ports
        wanted = (ports.low, ports.high) if ports is not None else 0
        for host in dict.fromkeys(endpoint.host for endpoint in self._rpc_endpoints):
            self._exporter_endpoints.append(await self.object_server.listen(host, wanted))
            if not self.options.advertise:
                self._names[host] = await _own_addresses(host) if host in _WILDCARDS else (host,)

    async def _listen_by_default(self) -> Endpoint:
        try:
            return await self.rpc_server.listen("127.0.0.1", DEFAULT_RPC_PORT)
        except ConfigurationError as error:
            log.warning("%s; listening on port %d instead", error, FALLBACK_RPC_PORT)
            return await self.rpc_server.listen("127.0.0.1", FALLBACK_RPC_PORT)

    # -- what others see -----------------------------------------------------------------------------------

    @property
    def ready(self) -> list[tuple[str, str]]:
        """The parts of the ready line, in order."""
        rpc = [("rpc", str(Address(e.host, e.port))) for e in self._rpc_endpoints]
        return [*rpc, ("state", str(self.options.state))]

    def resolver_bindings(self) -> DualStringArray:
        """Where the resolver listens: what goes into every OBJREF."""
        return DualStringArray(
            tuple(
                DcomBinding(NCACN_IP_TCP, name, "" if e.port == DEFAULT_RPC_PORT else str(e.port))
                for e in self._rpc_endpoints
                for name in self._names_of(e)
            ),
            self._security_bindings(),
        )

    def exporter_bindings(self) -> DualStringArray:
        """Where the exporter listens: what activation and ResolveOxid answer."""
        return DualStringArray(
            tuple(
                DcomBinding(NCACN_IP_TCP, name, str(e.port))
                for e in self._exporter_endpoints
                for name in self._names_of(e)
            ),
            self._security_bindings(),
        )

    def _names_of(self, endpoint: Endpoint) -> tuple[str, ...]:
        return self.options.advertise or self._names[endpoint.host]

    def _security_bindings(self) -> tuple[SecurityBinding, ...]:
        return tuple(
            SecurityBinding(int(kind), self.authenticator.principal_name(kind) or "")
            for kind in self.authenticator.auth_types
        )

    def connect(
        self,
        host: str,
        credentials: Credentials | None = None,
        *,
        options: ClientOptions | None = None,
        probe: bool = True,
    ) -> AbstractAsyncContextManager[Machine]:
        """As `oxid.connect`; objects of this host may be passed as parameters, and come back as themselves."""
        options = options or ClientOptions(ping_period=self.options.ping_period)
        return connect(
            host, credentials, options=options, world=self.world, exporter=self.exporter, probe=probe
        )

    def _status(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        ledger = self.world.ledger
        servers = (self.rpc_server.core, self.object_server.core)
        refused = {
            "protocol_errors": sum(core.protocol_errors for core in servers),
            "callers": sum(core.refusals for core in servers),
            "activations": self.activation.refused,
        }
        return {"live": ledger.live(), "peak": ledger.peak(), "total": ledger.total(), "refused": refused}

    def reload(self, options: HostOptions) -> None:
        """Say what of a new configuration waits for a restart: nothing may change under clients.

        The account file is read anew by itself whenever it changes; the log is its owner's affair.
        """
        for changed in fields(options):
            name = changed.name
            if not name.startswith("log_") and getattr(options, name) != getattr(self.options, name):
                log.warning("--%s takes effect after a restart", name.replace("_", "-"))

    # -- the exporter's conversation with the resolver -----------------------------------------------------

    def _new_oid(self, pinned: bool) -> int:
        if pinned:  # the remote unknown: known by its IPID, never pinged
            return self.world.new_id()
        oid = self.resolver.add_oid(self.exporter.oxid, self.world.clock.now())
        self._watch_leases()
        return oid

    def _object_marshalled(self, oid: int) -> None:
        self.resolver.marshalled(oid, self.world.clock.now())
        self._watch_leases()

    def _object_dropped(self, oid: int, reason: str) -> None:
        log.debug("object %016x is gone: %s", oid, reason)
        self.resolver.remove_oid(oid, self.world.clock.now())
        self._watch_leases()

    def _serve_interface(self, spec: InterfaceSpec) -> None:
        if spec.uuid not in self._served:
            self._served.add(spec.uuid)
            self.object_server.register(spec, handler=self.exporter.handle, ndr64=False)

    def _watch_leases(self) -> None:
        deadline = self.resolver.next_deadline()
        if deadline is not None:
            self._sweep_timer.want(deadline)
        else:
            self._sweep_timer.close()

    def _sweep(self, now: float) -> float | None:
        """Ask the exporter about objects that nobody pings any more."""
        self.resolver.sweep(now, self._reclaim)
        return self.resolver.next_deadline()

    def _reclaim(self, oxid: int, oids: Sequence[int]) -> Sequence[Verdict]:
        now = self.world.clock.now()
        verdicts = self.exporter.table.reclaim(oids, now, self.options.ping_period)
        return [verdicts[oid] for oid in oids]


class _HostActivator:
    """Activation requests of the resolver's port, answered by this process's own exporter."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def create_instance(self, request: ActivationRequest) -> ActivationOut:
        return self._answer(self._host.class_objects.instance(request.clsid), request)

    async def get_class_object(self, request: ActivationRequest) -> ActivationOut:
        return self._answer(self._host.class_objects.class_object(request.clsid), request)

    def _answer(self, target: Any, request: ActivationRequest) -> ActivationOut:
        host = self._host
        results = host.class_objects.references(target, request.iids)
        return ActivationOut(
            host.exporter.oxid,
            host.exporter_bindings(),
            UUID(bytes_le=host.remote_unknown.pointer.ipid),
            _INTEGRITY,
            COM_VERSION,
            tuple(InterfaceResult(iid, code, objref) for iid, code, objref in results),
        )


class _WakingResolverService(ObjectExporterService):
    """IObjectExporter that sees to the sweep of the leases it makes."""

    def __init__(self, host: Host) -> None:
        super().__init__(host.resolver, host.resolver_bindings, _caller, host.world.clock)
        self._host = host

    def complex_ping(
        self, set_id: int, sequence: int, add: Sequence[int] | None, remove: Sequence[int] | None
    ) -> ComplexPingReply:
        reply = super().complex_ping(set_id, sequence, add, remove)
        self._host._watch_leases()
        return reply


class _CallerOfCall:
    """The caller of the call that runs now, as rpcss judges it."""

    __slots__ = ("_call",)

    def __init__(self, call: Any) -> None:
        self._call = call

    @property
    def principal(self) -> str | None:
        found: str | None = self._call.principal
        return found

    @property
    def anonymous(self) -> bool:
        return self._call.principal is None

    @property
    def level(self) -> int:
        return int(self._call.level)

    @property
    def peer(self) -> str:
        peer = self._call.peer
        return str(peer[0]) if isinstance(peer, tuple) else str(peer)


class _Handles:
    """Context handles of the client whose call runs now."""

    def open(self, value: Any, rundown: Callable[[Any], object] | None = None) -> bytes:
        call = current_call()
        return call.association.open_handle(
            value, owner=call.principal, interface=call.interface.uuid, rundown=rundown
        )

    def find(self, handle: bytes) -> Any:
        call = current_call()
        return call.association.handle(handle, owner=call.principal, interface=call.interface.uuid).value

    def close(self, handle: bytes) -> Any:
        call = current_call()
        return call.association.close_handle(handle, owner=call.principal, interface=call.interface.uuid)

    def closer(self, handle: bytes) -> Callable[[], object]:
        call = current_call()
        association, owner, uuid = call.association, call.principal, call.interface.uuid
        return lambda: association.close_handle(handle, owner=owner, interface=uuid)


def _handles() -> _Handles:
    return _Handles()


def _caller() -> Caller:
    return _CallerOfCall(current_call())


def _caller_name() -> str:
    return current_call().principal or ""


def _local_address() -> str:
    transport = getattr(current_call().connection, "transport", None)
    name = transport.get_extra_info("sockname") if transport is not None else None
    return str(name[0]) if isinstance(name, tuple) else "0.0.0.0"


def _computer_name() -> str:
    return socket.gethostname().partition(".")[0].upper()[:15] or "OXID"


async def _own_addresses(wildcard: str) -> tuple[str, ...]:
    """Names for a wildcard listener: the host name, then the addresses of its family that others can use."""
    name = socket.gethostname()
    family = socket.AF_INET6 if ":" in wildcard else socket.AF_INET
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            name, None, family=family, type=socket.SOCK_STREAM
        )
    except OSError:
        return (name,)
    addresses = [str(entry[4][0]) for entry in found]
    useful = [a for a in addresses if "%" not in a and a != "::1" and not a.startswith("127.")]
    return tuple(dict.fromkeys([name, *(useful or addresses)]))
