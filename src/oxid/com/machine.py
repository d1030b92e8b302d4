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
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, Final, Generic, TypeVar, cast
from uuid import UUID

from oxid.auth.credentials import Anonymous, Credentials
from oxid.com import client_activation
from oxid.com.activation_properties import ActivationOut
from oxid.com.activation_templates import ReplyReader
from oxid.com.background import BackgroundWork
from oxid.com.channel import Channel
from oxid.com.client_activation import INTEGRITY
from oxid.com.client_marshaller import ClientMarshaller
from oxid.com.connections import Connections
from oxid.com.endpoints import map_endpoint
from oxid.com.exporter import Exporter
from oxid.com.identity import NOBODY, acting
from oxid.com.keep_alive import KeepAlive
from oxid.com.lifelines import Lifelines
from oxid.com.objref import ExtendedObjRef, HandlerObjRef, StandardObjRef, StdObjRef, decode_objref
from oxid.com.options import (
    UNAUTHENTICATED,
    AuthInfo,
    Blanket,
    Capabilities,
    ClientOptions,
)
from oxid.com.orpc import COM_VERSION, ComVersion, negotiate
from oxid.com.process_agent import process_agent
from oxid.com.proxy import Causality, Proxy, proxy_class
from oxid.com.references import ExporterAddress, Owed, RemoteExporter
from oxid.com.security import checked, negotiated, process_security
from oxid.errors import (
    ConfigurationError,
    LocalProtocolError,
    NoSuchInterface,
    NotSupported,
    OxidError,
    RemoteProtocolError,
    StatusError,
    TransportError,
    error_for,
)
from oxid.interfaces.class_factory import IClassFactory
from oxid.interfaces.object_exporter import IObjectExporter
from oxid.interfaces.unknown import IID_IUNKNOWN, IUnknown
from oxid.rpc.interface import spec_of
from oxid.runtime.proxy_route import ProxyRoute
from oxid.values import status as s
from oxid.values.bindings import DualStringArray
from oxid.values.status import HResult
from oxid.world import World

I = TypeVar("I")  # noqa: E741 - an interface
T = TypeVar("T")

log = logging.getLogger("oxid.com.machine")

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
        exporter: Exporter | None = None,
        agent: KeepAlive | None = None,
    ) -> None:
        """`exporter` is the process's own object exporter, where it has one: see `oxid.host`; `agent` pings for
        what this machine holds."""
        super().__init__(world.ledger)
        self.host = host
        self.port = options.port
        self.options = options
        self.world = world
        self.connections = Connections(world, options)
        self._stack = AsyncExitStack()
        self.version = COM_VERSION
        """The DCOM version both ends speak; known after `connect`."""
        self._credentials = blanket.credentials
        self._blankets: dict[int, Blanket] = {}
        self.exporter = exporter
        """Of this process, where it has one: what it passes to servers lives there."""
        self.causality = Causality(world.entropy)
        self.replies = ReplyReader()
        self.activation_flags = 0x2 if options.capabilities & Capabilities.DISABLE_AAA else 0
        """ACTVFLAGS of our activations."""
        self._secure_refs = bool(options.capabilities & Capabilities.SECURE_REFS)
        self._channels: dict[int, Channel] = {}
        self.lifelines = Lifelines(self, agent)
        """What keeps the proxies alive."""
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._process = os.getpid()
        self.old_activation = False
        """The other machine's DCOM is older than 5.6."""
        cloaking = Capabilities.STATIC_CLOAKING | Capabilities.DYNAMIC_CLOAKING
        self._cloaked = bool(options.capabilities & cloaking)

    # -- activation ----------------------------------------------------------------------------------------

    def activate(
        self, clsid: UUID | str, interface: type[I], *, auth_info: AuthInfo | None = None
    ) -> Pending[I]:
        """Make an object of a class and return its interface. [MS-DCOM] 3.2.4.1.1.1

        `auth_info` secures the activation, and only that: the object's proxies call as the machine does.
        Raises AccessDenied, ClassNotRegistered, NoSuchInterface, AuthenticationError, TransportError, TimeoutError.
        """

        return Pending(lambda: self._make(clsid, interface, auth_info, class_object=False))

    def get_class_object(
        self,
        clsid: UUID | str,
        interface: type[I] = IClassFactory,  # type: ignore[assignment]  # the default of a type variable
        *,
        auth_info: AuthInfo | None = None,
    ) -> Pending[I]:
        """The class object of a class, IClassFactory unless asked otherwise. Raises as `activate`."""

        return Pending(lambda: self._make(clsid, interface, auth_info, class_object=True))

    async def _make(
        self, clsid: UUID | str, interface: type[I], auth_info: AuthInfo | None, *, class_object: bool
    ) -> I:
        self._check_open()
        wanted = UUID(str(clsid)), [spec_of(interface).uuid]
        blanket = self._activation_blanket(auth_info)
        out = await client_activation.activate(self, blanket, *wanted, class_object=class_object)
        activated_as = blanket if auth_info is not None else None
        return cast("I", await self._proxy_of(out, interface, activated_as))

    def _activation_blanket(self, auth_info: AuthInfo | None) -> Blanket:
        if auth_info is None:
            blanket = self._acting_blanket() if self._cloaked else None
            return blanket or self.call_blanket(INTEGRITY)
        return auth_info.blanket().at_least(INTEGRITY if self.options.raise_level else 0)

    async def activate_raw(
        self,
        clsid: UUID,
        iids: Sequence[UUID],
        *,
        class_object: bool = False,
        auth_info: AuthInfo | None = None,
    ) -> ActivationOut:
        """Activate, and return the reply with its OBJREFs: the caller owns the references in them.

        Where the caller is cancelled, an object that is made nevertheless is released in the background.
        """
        self._check_open()
        blanket = self._activation_blanket(auth_info)
        return await client_activation.activate(self, blanket, clsid, iids, class_object=class_object)

    async def create_instance(self, factory: IClassFactory, interface: type[I]) -> I:
        """Make an object with a class object. Raises NoSuchInterface."""
        made = await factory.create_instance(spec_of(interface).uuid)
        if made is None:
            raise NoSuchInterface(HResult(s.E_NOINTERFACE), "the class object gave no object")
        return cast("I", await self._as(cast("Proxy", made), interface))

    def use_exporter(self, out: ActivationOut) -> None:
        """Remember where the exporter of an activation listens, so that it need not be resolved."""
        channel = self._channel(out.oxid)
        address = channel.exporter.address
        ipid, version = out.ipid_rem_unknown.bytes_le, negotiate(out.version, self.version)
        if (
            address is None
            or address.bindings is not out.bindings
            or address.ipid_rem_unknown != ipid
            or address.authn_hint != out.authn_hint
            or address.version != version
        ):
            channel.set_address(ExporterAddress(out.bindings, ipid, out.authn_hint, version))

    def discard(self, out: ActivationOut) -> None:
        """Release everything of an activation that nobody waits for any more."""
        self.use_exporter(out)
        for result in out.interfaces:
            if result.objref is not None:
                try:
                    self.abandon([self.proxy(result.objref, None)])
                except OxidError as error:
                    log.debug("an unused reference of %s cannot be released: %s", self, error)

    async def _proxy_of(
        self, out: ActivationOut, interface: type[Any], activated_as: Blanket | None
    ) -> Proxy:
        self.use_exporter(out)
        if len(out.interfaces) != 1:
            self.discard(out)
            raise RemoteProtocolError(f"the activation of 1 interface answered {len(out.interfaces)}")
        result = out.interfaces[0]
        if result.failed or result.objref is None:
            raise self.error(result.hresult or s.E_NOINTERFACE, spec_of(interface).name)
        proxy = self.proxy(result.objref, interface, activated_as)
        await self.adopt([proxy])
        return await self._as(proxy, interface)

    # -- the resolver --------------------------------------------------------------------------------------

    async def server_alive(self) -> tuple[ComVersion, DualStringArray]:
        """The other machine's DCOM version and its resolver's bindings; needs no account. [MS-DCOM] 3.1.2.5.1.6

        A resolver without ServerAlive2 speaks DCOM 5.1 to us, and tells no bindings. [MS-DCOM] 3.2.4.1.2.1
        """
        return await client_activation.server_alive(self)

    async def resolve(self, oxid: int) -> ExporterAddress:
        """Where an exporter of the other machine listens. Raises ObjectGone for an unknown OXID."""
        return await client_activation.resolve_at(self, self.host, self.port, oxid)

    async def resolve_exporter(self, exporter: RemoteExporter) -> ExporterAddress:
        """Resolve through the resolvers that the exporter's own references name, or ours."""
        return await client_activation.resolve_exporter(self, exporter)

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
            return cast("I", self._class_of(interface)(channel, held, held.ipid))
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
        if self.options.capabilities & Capabilities.SECURE_REFS:
            await channel.make_private(taken)
        return cast("I", self._class_of(interface)(channel, taken, taken.ipid))

    def _class_of(self, interface: type[Any]) -> type[Any]:
        return proxy_class(interface, cloaked=self._cloaked)

    def proxy(self, objref: bytes, declared: type[Any] | None, activated_as: Blanket | None = None) -> Proxy:
        """A proxy for a reference; `adopt` must follow before it is used. Raises RPC_E_INVALID_OBJREF."""
        self._check_open()
        reference = decode_objref(objref)
        if not isinstance(reference, StandardObjRef | HandlerObjRef | ExtendedObjRef):
            raise NotSupported(f"custom marshalling of class {reference.clsid} is not known here")
        channel = self._channel(reference.std.oxid)
        pointer = channel.exporter.take(reference.std, reference.iid, reference.bindings, activated_as)
        cls = self._class_of(declared if declared is not None else IUnknown)
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
        channel = self._channel(pointer.object.exporter.oxid)
        if self._secure_refs:
            await channel.make_private(pointer)
        elif not pointer.refs:
            await channel.add_refs(pointer)
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
        return ClientMarshaller(self)

    async def open_exporter(self) -> Exporter:
        """The exporter of this process, opened for callbacks of this machine where there is none.

        Raises NotSupported where this process can have none, ConfigurationError where its ports are taken.
        """
        if self.exporter is None:
            if self.lifelines.agent is None:
                raise NotSupported("this process has no agent, so nobody could ping its objects")
            async with self.connections.use(self.host, self.port, UNAUTHENTICATED) as connection:
                address = connection.local_address
            self.exporter = await self.lifelines.agent.open_exporter(self.options.callbacks, address)
        return self.exporter

    def callback_exporter(self) -> Any:
        """What knows why nobody calls back; None where objects of this process are a host's."""
        agent = self.lifelines.agent
        return None if agent is None else agent.callback_exporter(self.options.callbacks)

    def marshal(self, target: Any, *, hand_over: bool = False) -> bytes | None:
        """The OBJREF of a proxy, with one of its references where it has one to spare; None for what is no proxy.

        `hand_over`: the proxy is about to be released, so its last reference goes along.
        """
        if not isinstance(target, Proxy):
            return None
        pointer = target._pointer
        if pointer is None or target._released:
            raise LocalProtocolError(f"{target!r} cannot be passed on: it is released")
        # A reference without counts is legal: its receiver asks the exporter for some before it calls. But one
        # that we are about to release would be gone by then: it is handed over as it is.
        last = hand_over and pointer.uses == 1
        given = min(pointer.refs, 1) if last or pointer.refs > 1 else 0
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
            exporter.unreleased.append(Owed(std.ipid.bytes_le, std.public_refs))
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
            exporter = RemoteExporter(oxid, self.lifelines.hold, self.lifelines.let_go)
            channel = self._channels[oxid] = Channel(self, exporter, self.causality)
        return channel

    def channel_idle(self, channel: Channel) -> None:
        """Forget an exporter in which nothing is held any more, once there are many of them."""
        oxid = channel.exporter.oxid
        if len(self._channels) > _CHANNELS_KEPT and self._channels.get(oxid) is channel:
            del self._channels[oxid]

    def exporters(self) -> list[RemoteExporter]:
        """Those in which something is held, or was lately."""
        return [channel.exporter for channel in self._channels.values()]

    def own_place(self) -> list[tuple[str, int]]:
        """The resolver that was connected to; none for a host that only follows references."""
        return [(self.host, self.port)] if self.host else []

    # -- the rest ------------------------------------------------------------------------------------------

    def call_blanket(self, minimum: int) -> Blanket:
        """The blanket for calls that need at least `minimum`."""
        found = self._blankets.get(minimum)
        if found is None:
            found = self._blankets[minimum] = Blanket.of(self._credentials, self.options, minimum=minimum)
        return found

    def default_blanket(self, address: ExporterAddress) -> Blanket:
        """How calls to an exporter are secured unless a proxy says otherwise. Raises StatusError
        RPC_E_NO_GOOD_SECURITY_PACKAGES where there is no way that both know."""
        return negotiated(self.call_blanket(address.authn_hint), address.bindings, self.options)

    def checked_blanket(self, blanket: Blanket, changes: Mapping[str, Any]) -> Blanket:
        """A blanket with changes, if one can have it. Raises InvalidArgument."""
        return checked(blanket, changes)

    def acting_blanket(self, exporter: RemoteExporter) -> Blanket | None:
        """The blanket of the identity that acts now, for calls to an exporter; None where none acts."""
        blanket = self._acting_blanket()
        address = exporter.address
        return blanket if blanket is None or address is None else blanket.at_least(address.authn_hint)

    def _acting_blanket(self) -> Blanket | None:
        found = acting()
        if found is NOBODY:
            return None
        return Blanket.of(cast("Credentials | None", found), self.options, minimum=INTEGRITY)

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

    def check_process(self) -> None:
        """Raises LocalProtocolError in a child of the process that connected."""
        if self._process != os.getpid():
            raise LocalProtocolError(f"{self!r} was connected before a fork: a child connects by itself")

    def _check_open(self) -> None:
        self.check_process()
        if self._closed:
            raise LocalProtocolError(f"{self!r} is closed")

    async def _start(self, *, probe: bool) -> None:
        if probe:
            try:
                version, _ = await self.server_alive()
            except NoSuchInterface:
                # Not where it was looked for: ask the endpoint mapper, then try again. [MS-DCOM] 3.2.4.1.2.1
                self.port, *_ = await map_endpoint(self, spec_of(IObjectExporter))
                version, _ = await self.server_alive()
            self.version = negotiate(version)
            self.old_activation = self.version.minor < 6

    async def _aclose(self) -> None:
        """Release what is still held, politely and in bounded time, then close every connection."""
        channels = list(self._channels.values())
        for channel in channels:
            for remote in list(channel.exporter.objects.values()):
                for pointer in list(remote.pointers.values()):
                    pointer.uses = 1
                    channel.exporter.let_go(pointer)
        self._closed = True
        self.lifelines.aclose()
        for channel in channels:
            channel.release_later()
        try:
            await asyncio.gather(*self.farewells(), self.lifelines.say_goodbye(self.options.release_timeout))
        finally:
            await self.end_work()
            await self._stack.aclose()
            await self.connections.aclose()

    def __repr__(self) -> str:
        objects = sum(len(channel.exporter.objects) for channel in self._channels.values())
        return f"<Machine {self.host} {len(self._channels)} exporters, {objects} objects>"


_PLACE: Final = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:]+))(?::([0-9]{1,5}))?")


def _place(target: str, options: ClientOptions) -> tuple[str, ClientOptions]:
    """The host of a target and options with its port, where it names one. Raises ConfigurationError."""
    if not target or (target.count(":") > 1 and not target.startswith("[")):
        return target, options  # nowhere yet, or an IPv6 address without a port
    found = _PLACE.fullmatch(target)
    port = int(found[3] or options.port) if found else 0
    if found is None or not 0 < port < 1 << 16:
        raise ConfigurationError(f"{target!r}: HOST, HOST:PORT or [IPV6]:PORT was expected")
    return found[1] or found[2], replace(options, port=port)


@asynccontextmanager
async def connect(
    host: str,
    credentials: Any = None,
    *,
    options: ClientOptions | None = None,
    proxy: ProxyRoute | str | None = None,
    world: World | None = None,
    exporter: Exporter | None = None,
    agent: KeepAlive | None = None,
    probe: bool = True,
) -> AsyncIterator[Machine]:
    """Reach a machine: its resolver is asked for its version at once (`probe`), so that an unreachable host fails here.

    `host` may name a port, as `HOST:PORT` or `[IPV6]:PORT`. `credentials` is a Password, NtHash, Ticket, Keytab or
    Anonymous; None makes unauthenticated calls. `proxy` is the RPC proxy through which everything travels, by its
    address (with the same credentials) or as a ProxyRoute. `exporter` and `agent` are those of a host that calls
    others, see `Host.connect`.
    Raises ConfigurationError, TransportError, TimeoutError, OxidError.
    """
    options, credentials = process_security.settled(options, credentials)
    if proxy is not None:
        who = None if isinstance(credentials, Anonymous) else credentials
        route = ProxyRoute(proxy, who) if isinstance(proxy, str) else proxy
        options = replace(options, proxy=route)
    host, options = _place(host, options)
    world = world or World.real()
    async with AsyncExitStack() as stack:
        if agent is None:
            agent = await stack.enter_async_context(process_agent(world, options))
        machine = Machine(host, Blanket.of(credentials, options), options, world, exporter, agent)
        try:
            await machine._start(probe=probe)
            yield machine
        finally:
            await machine._aclose()
