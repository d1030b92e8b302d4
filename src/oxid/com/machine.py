"""Another machine as a client sees it: activation, resolution, proxies, and keeping them alive. [MS-DCOM] 3.2

    async with connect("plant7", Password("admin", "secret")) as machine:
        async with machine.activate(CLSID, ICalculator) as calculator:
            print(await calculator.add(2, 3))

A Machine owns its connections, its proxies' references and its share of the process's ping agent; the end of its
block gives all of them back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

from oxid.com.activation_properties import (
    ActivationIn,
    ActivationOut,
    InterfaceResult,
    decode_activation_out,
    encode_activation_in,
)
from oxid.com.background import BackgroundWork
from oxid.com.channel import Channel
from oxid.com.client_marshaller import ClientMarshaller
from oxid.com.connections import Connections
from oxid.com.endpoints import map_endpoint
from oxid.com.objref import ExtendedObjRef, HandlerObjRef, StandardObjRef, StdObjRef, decode_objref
from oxid.com.options import RESOLVER_PORT, UNAUTHENTICATED, Blanket, ClientOptions
from oxid.com.orpc import COM_VERSION, ComVersion, negotiate
from oxid.com.ping_agent import PingAgent
from oxid.com.pinging import PingTarget, agent_of_this_process
from oxid.com.proxy import Causality, Proxy, proxy_class
from oxid.com.references import ExporterAddress, RemoteExporter, RemoteObject, tcp_addresses
from oxid.errors import (
    LocalProtocolError,
    NoSuchInterface,
    NotImplementedByPeer,
    NotSupported,
    Origin,
    OxidError,
    RemoteProtocolError,
    StatusError,
    TransportError,
    error_for,
)
from oxid.interfaces.activation import (
    MODE_GET_CLASS_OBJECT,
    IActivation,
    IRemoteSCMActivator,
    RemoteActivationReply,
)
from oxid.interfaces.class_factory import IClassFactory
from oxid.interfaces.dcom_types import ComVersionIdl, OrpcThisIdl
from oxid.interfaces.object_exporter import IObjectExporter, ResolveOxid2Reply, ResolveOxidReply
from oxid.interfaces.unknown import IID_IUNKNOWN, IUnknown
from oxid.rpc.interface import spec_of
from oxid.values import status as s
from oxid.values.bindings import EMPTY_BINDINGS, NCACN_IP_TCP, DualStringArray
from oxid.values.status import HResult, Win32
from oxid.world import World

I = TypeVar("I")  # noqa: E741 - an interface
T = TypeVar("T")

log = logging.getLogger("oxid.com.machine")

INTEGRITY = 5
_IMPERSONATE = 3
_CHANNELS_KEPT = 64


class Pending(Generic[I]):
    """A proxy on its way: await it, or enter it with `async with` to have it released at the end."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, I]]) -> None:
        self._make = make
        self._made: I | None = None

    def __await__(self) -> Generator[Any, None, I]:
        return self._make().__await__()

    async def __aenter__(self) -> I:
        self._made = await self._make()
        return self._made

    async def __aexit__(self, *exc_info: object) -> None:
        made, self._made = self._made, None
        await cast("Proxy", made).release()


class Machine(BackgroundWork):
    """A connection to one machine's DCOM services. Made by `connect`."""

    def __init__(
        self,
        host: str,
        blanket: Blanket,
        options: ClientOptions,
        world: World,
        exporter: Any,
        agent: PingAgent | None = None,
    ) -> None:
        """`exporter` is the process's own object exporter, where it has one: see `oxid.host`; `agent` pings for
        what this machine holds."""
        super().__init__(world.ledger)
        self.host = host
        self.options = options
        self.world = world
        self._port = options.port
        self.connections = Connections(world, options)
        self._stack = AsyncExitStack()
        self.version = COM_VERSION
        """The DCOM version both ends speak; known after `connect`."""
        self._credentials = blanket.credentials
        self._exporter = exporter
        self._causality = Causality(world.entropy)
        self._channels: dict[int, Channel] = {}
        self._agent = agent
        self._targets: set[PingTarget] = set()
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._old_activation = False

    # -- activation ----------------------------------------------------------------------------------------

    def activate(self, clsid: UUID | str, interface: type[I]) -> Pending[I]:
        """Make an object of a class and return its interface. [MS-DCOM] 3.2.4.1.1.1

        Raises AccessDenied, ClassNotRegistered, NoSuchInterface, AuthenticationError, TransportError, TimeoutError.
        """

        return Pending(lambda: self._make(clsid, interface, class_object=False))

    def get_class_object(self, clsid: UUID | str, interface: type[I] = IClassFactory) -> Pending[I]:  # type: ignore[assignment]  # the default of a type variable
        """The class object of a class, IClassFactory unless asked otherwise. Raises as `activate`."""

        return Pending(lambda: self._make(clsid, interface, class_object=True))

    async def _make(self, clsid: UUID | str, interface: type[I], *, class_object: bool) -> I:
        self._check_open()
        wanted = UUID(str(clsid)), [spec_of(interface).uuid]

        async def work() -> Proxy:
            return await self._proxy_of(await self._activate(*wanted, class_object=class_object), interface)

        return cast("I", await self.to_the_end(work(), lambda proxy: self.abandon([proxy])))

    async def create_instance(self, factory: IClassFactory, interface: type[I]) -> I:
        """Make an object with a class object. Raises NoSuchInterface."""
        made = await factory.create_instance(spec_of(interface).uuid)
        if made is None:
            raise NoSuchInterface(HResult(s.E_NOINTERFACE), "the class object gave no object")
        return cast("I", await self._as(cast("Proxy", made), interface))

    async def activate_raw(
        self, clsid: UUID, iids: Sequence[UUID], *, class_object: bool = False
    ) -> ActivationOut:
        """Activate, and return the reply with its OBJREFs: the caller owns the references in them.

        Where the caller is cancelled, an object that is made nevertheless is released in the background.
        """
        self._check_open()
        work = self._activate(clsid, iids, class_object=class_object)
        return await self.to_the_end(work, self._discard)

    async def _activate(self, clsid: UUID, iids: Sequence[UUID], *, class_object: bool) -> ActivationOut:
        blanket = self.call_blanket(INTEGRITY)
        async with self.connections.use(self.host, self._port, blanket) as connection:
            if not self._old_activation:
                try:
                    return await self._activate_by_properties(connection, clsid, iids, class_object)
                except NoSuchInterface as error:
                    if error.origin not in (Origin.BIND, Origin.FAULT):
                        raise
                    self._old_activation = True  # a peer before DCOM 5.6
            return await self._activate_by_parameters(connection, clsid, iids, class_object)

    async def _activate_by_properties(
        self, connection: Any, clsid: UUID, iids: Sequence[UUID], class_object: bool
    ) -> ActivationOut:
        activator: IRemoteSCMActivator = await connection.proxy(IRemoteSCMActivator)
        wanted = encode_activation_in(ActivationIn(clsid, tuple(iids), client_version=self.version))
        if class_object:
            reply = await activator.remote_get_class_object(self._orpcthis(), wanted)
        else:
            reply = await activator.remote_create_instance(self._orpcthis(), None, wanted)
        what = "class object" if class_object else "class"
        if reply.hresult >= 0x8000_0000:
            raise self.error(reply.hresult, f"{what} {{{clsid}}} on {self.host}")
        if reply.properties is None:
            raise self.error(s.E_UNEXPECTED, "the activation succeeded without a result")
        return decode_activation_out(reply.properties)

    async def _activate_by_parameters(
        self, connection: Any, clsid: UUID, iids: Sequence[UUID], class_object: bool
    ) -> ActivationOut:
        activation: IActivation = await connection.proxy(IActivation)
        mode = MODE_GET_CLASS_OBJECT if class_object else 0
        reply: RemoteActivationReply = await activation.remote_activation(
            self._orpcthis(), clsid, None, None, _IMPERSONATE, mode, list(iids), [NCACN_IP_TCP]
        )
        if reply.status or reply.hresult >= 0x8000_0000:
            code = reply.hresult if reply.hresult >= 0x8000_0000 else Win32(reply.status).as_hresult().code
            raise self.error(code, f"class {{{clsid}}} on {self.host}")
        if not len(iids) == len(reply.results) == len(reply.interface_data):
            raise RemoteProtocolError(
                f"RemoteActivation answered {len(reply.results)} results and {len(reply.interface_data)} "
                f"references for {len(iids)} interfaces"
            )
        version = ComVersion(reply.server_version.major, reply.server_version.minor)
        results = zip(iids, reply.results, reply.interface_data, strict=True)
        return ActivationOut(
            reply.oxid,
            reply.bindings.bindings() if reply.bindings is not None else EMPTY_BINDINGS,
            reply.ipid_rem_unknown,
            reply.authn_hint,
            negotiate(version),
            tuple(InterfaceResult(iid, code, objref) for iid, code, objref in results),
        )

    def use_exporter(self, out: ActivationOut) -> None:
        """Remember where the exporter of an activation listens, so that it need not be resolved."""
        version = negotiate(out.version, self.version)
        self._channel(out.oxid).set_address(
            ExporterAddress(out.bindings, out.ipid_rem_unknown.bytes_le, out.authn_hint, version)
        )

    def _discard(self, out: ActivationOut) -> None:
        """Release everything of an activation that nobody waits for any more."""
        self.use_exporter(out)
        for result in out.interfaces:
            if result.objref is not None:
                try:
                    self.abandon([self.proxy(result.objref, None)])
                except OxidError as error:
                    log.debug("an unused reference of %s cannot be released: %s", self, error)

    async def _proxy_of(self, out: ActivationOut, interface: type[Any]) -> Proxy:
        self.use_exporter(out)
        if len(out.interfaces) != 1:
            self._discard(out)
            raise RemoteProtocolError(f"the activation of 1 interface answered {len(out.interfaces)}")
        result = out.interfaces[0]
        if result.failed or result.objref is None:
            raise self.error(result.hresult or s.E_NOINTERFACE, spec_of(interface).name)
        proxy = self.proxy(result.objref, interface)
        await self.adopt([proxy])
        return await self._as(proxy, interface)

    def _orpcthis(self) -> OrpcThisIdl:
        cid = UUID(bytes_le=self._causality.next())
        return OrpcThisIdl(ComVersionIdl(*self.version), 0, 0, cid)

    # -- the resolver --------------------------------------------------------------------------------------

    async def server_alive(self) -> tuple[ComVersion, DualStringArray]:
        """The other machine's DCOM version and its resolver's bindings; needs no account. [MS-DCOM] 3.1.2.5.1.6

        A resolver without ServerAlive2 speaks DCOM 5.1 to us, and tells no bindings. [MS-DCOM] 3.2.4.1.2.1
        """
        async with self.connections.use(self.host, self._port, UNAUTHENTICATED) as connection:
            resolver: IObjectExporter = await connection.proxy(IObjectExporter)
            try:
                reply = await resolver.server_alive2()
            except NotImplementedByPeer:
                return ComVersion(5, 1), EMPTY_BINDINGS
        if reply.status:
            raise error_for(Win32(reply.status), "ServerAlive2")
        bindings = reply.bindings.bindings() if reply.bindings is not None else EMPTY_BINDINGS
        return ComVersion(reply.version.major, reply.version.minor), bindings

    async def resolve(self, oxid: int) -> ExporterAddress:
        """Where an exporter of the other machine listens. Raises ObjectGone for an unknown OXID."""
        return await self._resolve_at(self.host, self._port, oxid)

    async def resolve_exporter(self, exporter: RemoteExporter) -> ExporterAddress:
        """Resolve through the resolvers that the exporter's own references name, or ours."""
        places = resolver_addresses(exporter.resolver)
        for remote in exporter.objects.values():
            places += resolver_addresses(remote.resolver)
        places += self._own_place()
        failure: Exception | None = None
        for host, port in dict.fromkeys(places):
            try:
                return await self._resolve_at(host, port, exporter.oxid)
            except (TransportError, TimeoutError, OSError, StatusError, UnicodeError) as error:
                failure = error
        raise failure or self.error(s.RPC_E_INVALID_OBJREF, f"no resolver is named for {exporter!r}")

    async def _resolve_at(self, host: str, port: int, oxid: int) -> ExporterAddress:
        async with self.connections.use(host, port, self.call_blanket(INTEGRITY)) as connection:
            resolver: IObjectExporter = await connection.proxy(IObjectExporter)
            version = self.version
            reply: ResolveOxidReply | ResolveOxid2Reply
            try:
                reply = await resolver.resolve_oxid2(oxid, [NCACN_IP_TCP])
                version = negotiate((reply.version.major, reply.version.minor), version)
            except NotImplementedByPeer:  # DCOM 5.1
                reply = await resolver.resolve_oxid(oxid, [NCACN_IP_TCP])
        if reply.status or reply.bindings is None:
            raise error_for(Win32(reply.status or s.OR_INVALID_OXID), f"OXID {oxid:016x} at {host}")
        return ExporterAddress(
            reply.bindings.bindings(), reply.ipid_rem_unknown.bytes_le, reply.authn_hint, version
        )

    # -- plain RPC -----------------------------------------------------------------------------------------

    async def bind(self, interface: type[I], *, port: int | None = None) -> I:
        """A proxy of a plain RPC interface, its port asked of the endpoint mapper unless given."""
        spec = spec_of(interface)
        if spec.is_object:
            raise NotSupported(f"{spec.name} is a COM interface: use activate")
        self._check_open()
        ports = [port] if port is not None else await map_endpoint(self, spec)
        for number in ports:
            using = self.connections.use(self.host, number, self.call_blanket(0))
            try:
                connection = await self._stack.enter_async_context(using)
            except TransportError:
                if number == ports[-1]:
                    raise
            else:
                break
        return await connection.proxy(interface)

    # -- proxies -------------------------------------------------------------------------------------------

    async def query(self, proxy: Proxy, interface: type[I]) -> I:
        """Another interface of a proxy's object; one that is held already costs no call."""
        spec = spec_of(interface)
        pointer = proxy._pointer
        if proxy._released or pointer is None:
            raise LocalProtocolError(f"{proxy!r}: query it before it is released")
        remote = pointer.object
        channel = self._channel(remote.exporter.oxid)
        held = remote.pointer_for(spec.uuid)
        if held is not None:
            held.uses += 1
            return cast("I", proxy_class(interface)(channel, held, held.ipid))
        result = await channel.query(pointer, spec.uuid)
        if result.hresult >= 0x8000_0000:
            raise self.error(result.hresult, f"{spec.name} of {proxy!r}")
        std = StdObjRef(
            0x1000 if remote.noping else 0,
            result.std.public_refs,
            result.std.oxid,
            result.std.oid,
            result.std.ipid,
        )
        taken = remote.exporter.take(std, spec.uuid, remote.resolver)
        return cast("I", proxy_class(interface)(channel, taken, taken.ipid))

    def proxy(self, objref: bytes, declared: type[Any] | None) -> Proxy:
        """A proxy for a reference; `adopt` must follow before it is used. Raises RPC_E_INVALID_OBJREF."""
        self._check_open()
        reference = decode_objref(objref)
        if not isinstance(reference, StandardObjRef | HandlerObjRef | ExtendedObjRef):
            raise NotSupported(f"custom marshalling of class {reference.clsid} is not known here")
        channel = self._channel(reference.std.oxid)
        pointer = channel.exporter.take(reference.std, reference.iid, reference.bindings)
        cls = proxy_class(declared if declared is not None else IUnknown)
        return cast("Proxy", cls(channel, pointer, pointer.ipid))

    async def adopt(self, proxies: Sequence[Any]) -> None:
        """Fetch the references that came without any; find the exporters that are new.

        Where that fails none of the proxies will be used, and all are let go.
        """
        try:
            for proxy in proxies:
                await self._adopt(proxy)
        except BaseException:
            self.abandon([proxy for proxy in proxies if not proxy._released])
            raise

    async def _adopt(self, proxy: Proxy) -> None:
        pointer = proxy._pointer
        assert pointer is not None  # new
        if not pointer.refs:
            await self._channel(pointer.object.exporter.oxid).add_refs(pointer)
        if pointer.iid != proxy._spec.uuid and proxy._spec.uuid != IID_IUNKNOWN:
            wanted = cast("Proxy", await self.query(proxy, cast("type[Any]", proxy._spec.cls)))
            proxy._become(wanted)
            await proxy._channel.send_releases()

    async def _as(self, proxy: Proxy, interface: type[I]) -> I:
        """The proxy itself if it is of the interface, else one that is queried for it."""
        if isinstance(proxy, interface):
            return proxy
        try:
            return await self.query(proxy, interface)
        finally:
            await proxy.release()

    def marshaller(self) -> ClientMarshaller:
        """For the interface pointers of one call."""
        return ClientMarshaller(self, self._exporter)

    def marshal(self, target: Any) -> bytes | None:
        """The OBJREF of a proxy, with one of its references; None for what is no proxy."""
        if not isinstance(target, Proxy):
            return None
        pointer = target._pointer
        if pointer is None or target._released:
            raise LocalProtocolError(f"{target!r} cannot be passed on: it is released")
        # A reference without counts is legal: its receiver asks the exporter for some before it calls. But one
        # that we are about to release would be gone by then: it is handed over as it is.
        handed_over = pointer.uses == 1 and not target._kept
        given = min(pointer.refs, 1) if handed_over or pointer.refs > 1 else 0
        pointer.refs -= given
        return pointer.objref(given)

    def take_back(self, objref: bytes) -> None:
        """What `marshal` gave will not be sent: its references are ours again."""
        std = cast("StandardObjRef", decode_objref(objref)).std
        exporter = self._channel(std.oxid).exporter
        remote = exporter.objects.get(std.oid)
        pointer = remote.pointers.get(std.ipid.bytes_le) if remote is not None else None
        if pointer is not None:
            pointer.refs += std.public_refs
        elif std.public_refs:
            exporter.unreleased.append((std.ipid.bytes_le, std.public_refs))
            self._channel(std.oxid).release_later()

    async def dismiss(self, proxies: Sequence[Any]) -> None:
        """Release the proxies that came with a call which is over, save those it kept.

        In the background: the call's own answer does not wait for other servers.
        """
        self.abandon([proxy for proxy in proxies if not proxy._kept and not proxy._released])

    def abandon(self, proxies: Sequence[Any]) -> None:
        """Let go proxies that nobody will use, and tell their servers in the background."""
        for proxy in proxies:
            proxy._let_go()
            proxy._channel.release_later()

    def _channel(self, oxid: int) -> Channel:
        channel = self._channels.get(oxid)
        if channel is None:
            exporter = RemoteExporter(oxid, self._hold, self._let_go)
            channel = self._channels[oxid] = Channel(self, exporter, self._causality)
        return channel

    def channel_idle(self, channel: Channel) -> None:
        """Forget an exporter in which nothing is held any more, once there are many of them."""
        oxid = channel.exporter.oxid
        if len(self._channels) > _CHANNELS_KEPT and self._channels.get(oxid) is channel:
            del self._channels[oxid]

    # -- keeping alive -------------------------------------------------------------------------------------

    def _ping_target(self, remote: RemoteObject) -> PingTarget:
        places = resolver_addresses(remote.resolver)
        return PingTarget(tuple(dict.fromkeys([*places, *self._own_place()])), self.call_blanket(INTEGRITY))

    def _own_place(self) -> list[tuple[str, int]]:
        """The resolver that was connected to; none for a host that only follows references."""
        return [(self.host, self._port)] if self.host else []

    def _hold(self, remote: RemoteObject) -> None:
        if not remote.noping and self._agent is not None and not self._closed:
            target = remote.pinged_by = self._ping_target(remote)
            self._targets.add(target)
            self._agent.hold(target, remote.oid)

    def _let_go(self, remote: RemoteObject) -> None:
        target, remote.pinged_by = remote.pinged_by, None
        if target is not None and self._agent is not None:
            self._agent.let_go(target, remote.oid)

    def object_gone(self, remote: RemoteObject) -> None:
        """A call found the object dead: pings stop naming it."""
        if remote.pinged_by is not None and self._agent is not None:
            self._agent.object_gone(remote.pinged_by, remote.oid)

    # -- the rest ------------------------------------------------------------------------------------------

    def call_blanket(self, minimum: int) -> Blanket:
        """The blanket for calls that need at least `minimum`."""
        return Blanket.of(self._credentials, self.options, minimum=minimum)

    def error(self, code: int, context: str) -> StatusError:
        """The exception for an HRESULT that this machine answered with."""
        return error_for(HResult(code), context)

    def later(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run a function on the machine's loop; safe from any thread and from finalisers."""
        if not self._closed and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    @property
    def closed(self) -> bool:
        """The machine's block has ended; everything it held was given back."""
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise LocalProtocolError(f"{self!r} is closed")

    async def _start(self, *, probe: bool) -> None:
        if probe:
            try:
                version, _ = await self.server_alive()
            except NoSuchInterface:
                # Not where it was looked for: ask the endpoint mapper, then try again. [MS-DCOM] 3.2.4.1.2.1
                self._port, *_ = await map_endpoint(self, spec_of(IObjectExporter))
                version, _ = await self.server_alive()
            self.version = negotiate(version)
            self._old_activation = self.version.minor < 6

    async def _aclose(self) -> None:
        """Release what is still held, politely and in bounded time, then close every connection."""
        channels = list(self._channels.values())
        for channel in channels:
            for remote in list(channel.exporter.objects.values()):
                for pointer in list(remote.pointers.values()):
                    pointer.uses = 1
                    channel.exporter.let_go(pointer)
        self._closed = True
        for channel in channels:
            channel.release_later()
        try:
            owed = self.farewells()
            if self._agent is not None:
                owed += [self._agent.say_goodbye(t, self.options.release_timeout) for t in self._targets]
            await asyncio.gather(*owed)
        finally:
            await self.end_work()
            await self._stack.aclose()
            await self.connections.aclose()

    def __repr__(self) -> str:
        objects = sum(len(channel.exporter.objects) for channel in self._channels.values())
        return f"<Machine {self.host} {len(self._channels)} exporters, {objects} objects>"


@asynccontextmanager
async def connect(
    host: str,
    credentials: Any = None,
    *,
    options: ClientOptions | None = None,
    world: World | None = None,
    exporter: Any = None,
    probe: bool = True,
) -> AsyncIterator[Machine]:
    """Reach a machine: its resolver is asked for its version at once (`probe`), so that an unreachable host fails here.

    `credentials` is a Password, NtHash, Ticket, Keytab or Anonymous; None makes unauthenticated calls.
    Raises TransportError, TimeoutError, OxidError.
    """
    options = options or ClientOptions.from_environment()
    world = world or World.real()
    async with agent_of_this_process(world, options) as agent:
        machine = Machine(host, Blanket.of(credentials, options), options, world, exporter, agent)
        try:
            await machine._start(probe=probe)
            yield machine
        finally:
            await machine._aclose()


def resolver_addresses(bindings: DualStringArray) -> list[tuple[str, int]]:
    """Where the resolver of these bindings listens: on 135 unless a binding says otherwise."""
    return [(host, RESOLVER_PORT if port is None else port) for host, port in tcp_addresses(bindings)]
