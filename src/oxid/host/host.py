"""One host: endpoint mapper, OXID resolver, activation, and the exporters of its classes.

    async with Host(options, world) as host:
        print(host.ready)              every listener accepts
        await stop.wait()
    world.ledger.live()                nothing is left

What `oxid serve` runs. The tables are pure and live in `rpcss`; objects live in `com`; here they are put on the
network. Classes run in this process, or, with `isolate` and where the class registry has a command, in processes of
their own, which reach the resolver through its local channel.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import fields, replace
from types import TracebackType
from typing import Any, Final, Self

from oxid.auth import Authenticator, Credentials, FailureLimiter, Keytab, ServerNames
from oxid.auth.account_file import FileAccountStore
from oxid.com.agent_process import agent_lock
from oxid.com.coclass import ClassTable, CoClass
from oxid.com.connections import Connections
from oxid.com.exporter import Exporter
from oxid.com.machine import Machine, connect
from oxid.com.object_server import ObjectServer, security_bindings
from oxid.com.options import CallbackOptions, ClientOptions
from oxid.com.permissions import ANYBODY, MachinePermissions
from oxid.com.ping_agent import PingAgent
from oxid.com.pinging import Pinger
from oxid.config import (
    DEFAULT_NCACN_HTTP_PORT,
    DEFAULT_RPC_PORT,
    FALLBACK_NCACN_HTTP_PORT,
    FALLBACK_RPC_PORT,
    Address,
    HostOptions,
)
from oxid.errors import ConfigurationError
from oxid.host.activation import HostActivator, subject
from oxid.host.applications import Applications
from oxid.host.calls import caller, handles, local_address
from oxid.host.explain import explain
from oxid.host.memory import MemoryWatch
from oxid.host.plain import PlainInterface
from oxid.host.web import WebPart
from oxid.interfaces.activation import IActivation, IRemoteSCMActivator
from oxid.interfaces.endpoint_map import IEndpointMap
from oxid.interfaces.management import IManagement
from oxid.rpc.interface import spec_of
from oxid.rpcss.activator import ActivationPolicy, ActivationService
from oxid.rpcss.endpoint_mapper import Registration
from oxid.rpcss.launcher import Launcher, server_environment
from oxid.rpcss.machine_service import MachineService
from oxid.rpcss.oid_table import PingPolicy
from oxid.rpcss.open_lookups import OpenLookups
from oxid.rpcss.service import EndpointMapService
from oxid.runtime.control import Handler as ControlHandler
from oxid.runtime.control import open_control
from oxid.runtime.local_channel import open_listener
from oxid.runtime.server import Endpoint, RpcServer, tunnel_options
from oxid.values.bindings import DualStringArray
from oxid.world import World

log = logging.getLogger("oxid.host")

IDLE_S: Final = 1.0
"""For which the host keeps its own connections to others that nothing uses: it is at rest soon after its clients."""
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})


class HostAgent(PingAgent):
    """Pings for the host's own objects, and for all processes of the machine where the host is its agent."""

    host: Host

    async def open_exporter(self, callbacks: CallbackOptions, address: str) -> Exporter:
        """The host's own exporter, which listens already."""
        return self.host.exporter

    def callback_exporter(self, callbacks: CallbackOptions) -> None:
        """Nothing more is known of callers of the host's own exporter than the log says."""


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
        modules: Sequence[str] = (),
    ) -> None:
        """`credentials`: who this host is where its objects call objects elsewhere; None for nobody. `modules` name
        the files of the classes, for processes of their own (`isolate`)."""
        self.options = options
        self.world = world or World.real()
        self.classes = ClassTable(classes)
        self.interfaces = tuple(interfaces)
        self.modules = tuple(modules)
        self.credentials = credentials
        self._stack = AsyncExitStack()
        self._rpc_endpoints: list[Endpoint] = []
        self._proxied_endpoints: list[Endpoint] = []
        self.tunnel_options = tunnel_options(options.tunnel_period)
        self._names: dict[str, tuple[str, ...]] = {}
        """What clients are told for each address listened on; looked up once, since every reference says it."""
        self.accounts = FileAccountStore(options.accounts_file)
        self.on_reload: Callable[[], object] = lambda: None
        """What SIGHUP does; the process that runs the host sets it."""

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
        world, options = self.world, self.options
        self.authenticator = Authenticator(
            self.accounts,
            world=world,
            names=ServerNames(computer=computer_name()),
            keytab=Keytab(str(options.keytab)) if options.keytab is not None else None,
            limiter=FailureLimiter(),
        )
        pool = Connections(world, ClientOptions(idle_timeout=IDLE_S))
        self._stack.push_async_callback(pool.aclose)
        self.agent = HostAgent(world, Pinger(pool).send)
        self.agent.host = self
        self._stack.push_async_callback(self.agent.aclose)
        self.service = MachineService(
            world,
            PingPolicy(options.ping_period),
            self.agent,
            caller=caller,
            security=lambda: security_bindings(self.authenticator),
            admits_ping=self._admits_ping,
            names=self._names_of,
            listen=self._listen_for_callbacks,
        )
        self.survivors = options.local_channel.exists()
        """A host before us did not end, but died: its local servers may live on."""
        self.service.resolver.started(world.clock.now(), survivors=self.survivors)
        self.service.accounts = self.accounts
        self.mapper, self.resolver = self.service.mapper, self.service.resolver
        self._stack.push_async_callback(self.service.aclose)
        self.launcher = Launcher(
            world,
            self.service,
            options.registry,
            options.local_channel,
            server_environment(),
            survivors=self.survivors,
        )
        self.service.launches = self.launcher
        self.activator = HostActivator(self.service, self.launcher, options.registry)
        self.applications = Applications(self)
        self.launcher.describe = self.applications.welcome
        self._stack.push_async_callback(self.launcher.aclose)
        self._stack.callback(self.applications.drop)
        following = self.connect("", credentials=self.credentials, probe=False)
        self.importer = await self._stack.enter_async_context(following)
        # What calls bring and grant goes back through exporters and importer: the servers end before them.
        self.rpc_server = RpcServer(
            world, authenticator=self.authenticator, tunnel_options=self.tunnel_options
        )
        self._stack.push_async_callback(self._close_servers)
        self._register_services()
        await self.applications.open(self.importer)
        await self._listen()
        self._enter_into_endpoint_mapper()
        self.web = WebPart(self)
        self._stack.push_async_callback(self.web.aclose)
        await self.web.start()
        control: dict[str, ControlHandler] = {
            "status": self._status,
            "object": self._object,
            "reload": self._asked_to_reload,
            "tunnels": self._tunnels,
            "memory": MemoryWatch(self.web.statistics).answer,
        }
        await self._stack.enter_async_context(open_control(options.control_socket, control))
        await self._open_local_channels()

    async def _close_servers(self) -> None:
        """Stop accepting everywhere at once, and cut what is still open."""
        await asyncio.gather(self.rpc_server.aclose(), self.applications.close_servers())

    async def _open_local_channels(self) -> None:
        """Where processes of this machine find their resolver, and their agent where there is no other."""
        options = self.options
        users = self.applications.users()
        await self._stack.enter_async_context(open_listener(options.local_channel, self.service.accept))
        self._admit(users)
        if options.agent is not None:
            try:
                self._stack.enter_context(agent_lock(options.agent))
                await self._stack.enter_async_context(open_listener(options.agent, self.service.accept))
            except ConfigurationError as error:
                log.info("this machine has an agent already, which goes on: %s", error)

    def _admit(self, users: set[int]) -> None:
        """Let local servers that run as somebody else connect; who they are the kernel says."""
        self.service.users = {os.getuid(), 0, *users}
        if users:
            self.options.local_channel.chmod(0o666)
            self.options.state.chmod(0o711)

    def _enter_into_endpoint_mapper(self) -> None:
        """What clients may look for by interface. Objects are found through their OXID instead."""
        here = [*self._rpc_endpoints, *self._proxied_endpoints]
        there = self.applications.main.endpoints
        rows = [(spec_of(IEndpointMap), e, "endpoint mapper") for e in here]
        rows += [(spec_of(IManagement), e, "management") for e in (*here, *there)]
        rows += [(offered.spec, e, offered.annotation) for offered in self.interfaces for e in there]
        for spec, endpoint, annotation in rows:
            row = Registration(
                spec.uuid, spec.version, endpoint.protseq, str(endpoint.port), annotation=annotation
            )
            lease = self.mapper.register(row, owner=self)
            self._stack.callback(lease.close)

    def _register_services(self) -> None:
        policy = ActivationPolicy(allow_anonymous=self.options.insecure_anonymous)
        self.activation = ActivationService(self.activator, caller, policy)
        mapper = EndpointMapService(self.mapper, handles, local_address, OpenLookups(self.world.clock))
        self.service.register(self.rpc_server)
        self.rpc_server.register(IEndpointMap, mapper)
        self.rpc_server.register(IActivation, self.activation, ndr64=False)
        self.rpc_server.register(IRemoteSCMActivator, self.activation, ndr64=False)

    async def _listen(self) -> None:
        addresses = self.options.rpc
        if addresses:
            for address in addresses:
                self._rpc_endpoints.append(await self.rpc_server.listen(address.host, address.port))
        else:
            self._rpc_endpoints.append(await self._listen_by_default())
        for address in self.options.ncacn_http or ():
            bound = await self.rpc_server.listen(address.host, address.port, protseq="ncacn_http")
            self._proxied_endpoints.append(bound)
        if self.options.ncacn_http == ():
            self._proxied_endpoints.append(await self._listen_for_proxies_by_default())
        for endpoint in (*self._rpc_endpoints, *self._proxied_endpoints):
            await self.look_up_names(endpoint.host)
            self.service.listens(endpoint)

    async def look_up_names(self, host: str) -> tuple[str, ...]:
        """What clients are told for an address that is listened on; looked up once."""
        if not self.options.advertise and host not in self._names:
            self._names[host] = await _own_addresses(host) if host in _WILDCARDS else (host,)
        return self.names_of(host)

    async def _listen_by_default(self) -> Endpoint:
        try:
            return await self.rpc_server.listen("127.0.0.1", DEFAULT_RPC_PORT)
        except ConfigurationError as error:
            log.warning("%s; listening on port %d instead", error, FALLBACK_RPC_PORT)
            return await self.rpc_server.listen("127.0.0.1", FALLBACK_RPC_PORT)

    async def _listen_for_proxies_by_default(self) -> Endpoint:
        """On the well-known port, else on the other one, else on any: nobody asked for one."""
        host = self.hosts[0]
        for port in (DEFAULT_NCACN_HTTP_PORT, FALLBACK_NCACN_HTTP_PORT):
            try:
                return await self.rpc_server.listen(host, port, protseq="ncacn_http")
            except ConfigurationError as error:
                log.info("%s; listening for RPC proxies on another port", error)
        return await self.rpc_server.listen(host, 0, protseq="ncacn_http")

    async def _listen_for_callbacks(self, host: str, port: int, keytab: Any) -> Endpoint:
        """A client of this machine needs the resolver at an address where nobody listens yet."""
        for endpoint in self._rpc_endpoints:
            if endpoint.host in _WILDCARDS and port in (0, endpoint.port):
                return Endpoint(host, endpoint.port)
        return await self.rpc_server.listen(host, port)

    # -- what others see -----------------------------------------------------------------------------------

    @property
    def hosts(self) -> list[str]:
        """The addresses on which this host listens, or will, each once."""
        return list(dict.fromkeys(address.host for address in self.options.rpc)) or ["127.0.0.1"]

    @property
    def exporter(self) -> Exporter:
        """The exporter of the classes that run in this process without settings of their own."""
        return self.applications.main.exporter

    @property
    def object_server(self) -> RpcServer:
        return self.applications.main.server

    @property
    def objects(self) -> ObjectServer:
        return self.applications.main

    @property
    def permissions(self) -> MachinePermissions:
        return self.activator.permissions

    @property
    def ready(self) -> list[tuple[str, str]]:
        """The parts of the ready line, in order."""
        rpc = [("rpc", str(Address(e.host, e.port))) for e in self._rpc_endpoints]
        proxied = [("ncacn_http", str(Address(e.host, e.port))) for e in self._proxied_endpoints]
        web = [("http", str(Address(e.host, e.port))) for e in self.web.http]
        web += [("https", str(Address(e.host, e.port))) for e in self.web.https]
        return [*rpc, *proxied, *web, ("state", str(self.options.state))]

    def resolver_bindings(self) -> DualStringArray:
        """Where the resolver listens: what goes into every OBJREF."""
        return self.service.bindings()

    def names_of(self, host: str) -> tuple[str, ...]:
        """What clients are told for an address that is listened on."""
        return self.options.advertise or self._names.get(host, (host,))

    def _names_of(self, endpoint: Endpoint) -> tuple[str, ...]:
        return self.names_of(endpoint.host)

    def _admits_ping(self, who: Any) -> bool:
        limit = self.permissions.limit_access
        return limit is ANYBODY or limit.admits(subject(who))

    def connect(
        self,
        host: str,
        credentials: Credentials | None = None,
        *,
        options: ClientOptions | None = None,
        probe: bool = True,
    ) -> AbstractAsyncContextManager[Machine]:
        """As `oxid.connect`; objects of this host may be passed as parameters, and come back as themselves. Not so
        through an RPC proxy: this host's agent does not know that way, and nobody can call back on it."""
        options = replace(options or ClientOptions(idle_timeout=IDLE_S), ping_period=self.options.ping_period)
        proxied = options.proxy is not None
        return connect(
            host,
            credentials,
            options=options,
            world=self.world,
            exporter=None if proxied else self.exporter,
            agent=None if proxied else self.agent,
            probe=probe,
        )

    # -- what the operator asks ----------------------------------------------------------------------------

    async def _status(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        servers = [self.rpc_server.core, *(objects.server.core for objects in self.applications.all)]
        refused = {
            "protocol_errors": sum(core.protocol_errors for core in servers),
            "callers": sum(core.refusals for core in servers),
            "activations": self.activation.refused + self.activator.refused,
        }
        return {**await self.service.counts(), "refused": refused}

    async def _tunnels(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.web.tunnels()

    async def _object(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return await explain(self.service, int(request["oid"]))

    def _asked_to_reload(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Another process has changed a file in the state directory: as SIGHUP."""
        self.on_reload()
        return {}

    async def reload(self, options: HostOptions) -> None:
        """Take over a new configuration: classes, applications and permissions now, without touching what runs.

        What of it waits for a restart is said in the log. The account file is read anew by itself whenever it
        changes; the log is its owner's affair.
        """
        for changed in fields(options):
            name = changed.name
            if name in ("registry", "sites", "rpc_proxy", "proxy_insecure") or name.startswith("log_"):
                continue
            if getattr(options, name) != getattr(self.options, name):
                log.warning("--%s takes effect after a restart", name.replace("_", "-"))
        await self.web.apply(options)
        await self.applications.reload(options.registry)
        self._admit(self.applications.users(strict=False))


def computer_name() -> str:
    """This machine's name as NTLM and permissions know it."""
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
