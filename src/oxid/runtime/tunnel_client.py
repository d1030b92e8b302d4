"""Client connections that travel over HTTP: through an RPC proxy, version 2 or 1, or straight to a server's port
for proxies. [MS-RPCH] 2.1.1, 2.1.2, 3.2.2

    await open_tunnel(route, "server", 593, connection, world=world, threads=threads, timeout=10)

`connection` is what TCP would have had as its protocol: it gets `connection_made` with a transport, bytes, and in the
end `connection_lost`, once everything below it is closed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Final
from weakref import WeakKeyDictionary

from oxid.errors import OxidError, RemoteProtocolError, TransportError
from oxid.runtime import forks
from oxid.runtime.deadlines import DeadlineDriver
from oxid.runtime.dispatch import Threads
from oxid.runtime.http_channel import HttpChannel, open_channel
from oxid.runtime.proxy_route import ProxyRoute
from oxid.runtime.tcp import connect, face_of, transport_error
from oxid.tunnel.client import ChannelLeg, ClientTunnel
from oxid.tunnel.deadlines import Deadlines
from oxid.tunnel.options import TunnelOptions
from oxid.tunnel.rts import COOKIE_SIZE
from oxid.world import World

BANNER: Final = b"ncacn_http/1.0"
"""What a server sends first on its port for proxies. [MS-RPCH] 2.1.2.2.1"""
FAREWELL_S: Final = 5.0
"""For what is on its way when a tunnel is closed: a proxy may never read it."""


async def open_tunnel(
    route: ProxyRoute,
    host: str,
    port: int,
    connection: Any,
    *,
    world: World,
    threads: Threads,
    timeout: float,
) -> None:
    """Connect `connection` to an RPC server over HTTP, within `timeout` seconds. Raises TransportError, AccessDenied,
    StatusError with what the proxy refused, AuthenticationError, ConfigurationError."""
    try:
        async with asyncio.timeout(timeout):
            if route.direct:
                await _open_directly(host, port, connection)
            elif route.version == 1:
                await _open_version_1(route, host, port, connection, world, threads, timeout)
            else:
                await _Tunnel(route, host, port, connection, world, threads, timeout).open()
    except TimeoutError as error:
        raise _timed_out(route, host, port) from error


def _timed_out(route: ProxyRoute, host: str, port: int) -> TransportError:
    if route.direct:
        made = TransportError(f"cannot connect to {host}:{port}: timed out before {BANNER.decode()!r} came")
        made.remedy = "check that this is the server's port for RPC proxies, mostly 593"
    else:
        made = TransportError(f"cannot reach {host}:{port} through {route.authority}: timed out")
        made.remedy = "check the address of the RPC proxy, and that it reaches the server"
    return made


# Version 2 ------------------------------------------------------------------------------------------------


class _Machine(ClientTunnel):
    """A tunnel whose `abort` also cuts the connections that an earlier `close`, or a recycling, left to end by
    themselves: their proxy may never read."""

    __slots__ = ("cut",)

    cut: Callable[[], None]

    def abort(self) -> None:
        ClientTunnel.abort(self)
        self.cut()


def _nothing() -> None:
    """What is left to do when everything is closed."""


class _Tunnel:
    """The shell of one client tunnel: makes its HTTP requests, and tells its end when all of them are closed."""

    def __init__(
        self,
        route: ProxyRoute,
        host: str,
        port: int,
        connection: Any,
        world: World,
        threads: Threads,
        timeout: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._route, self._target = route, route.target(host, port)
        self._connection = connection
        self._world, self._threads, self._timeout = world, threads, timeout
        self._tls: ssl.SSLContext | None = route.tls()
        options = TunnelOptions(
            period=route.period,
            receive_window=route.receive_window,
            channel_lifetime=route.in_lifetime,
        )
        self._timers = _timers_of(self._loop, world, options.tick)
        self.machine = _Machine(
            world,
            options,
            self,
            self._timers.deadlines,
            association_group=self._timers.association_group,
            soon=self._loop.call_soon,
        )
        self.machine.cut = self._cut
        self._requests: dict[ChannelLeg, asyncio.Task[None]] = {}
        self._channels: set[HttpChannel] = set()
        self._waiter: asyncio.Future[None] = self._loop.create_future()
        self._lost: Exception | None = None
        self._ended = False
        self._attached = False
        self._over = False
        self._farewell: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self.data_received = connection.data_received
        self.pause_writing = connection.pause_writing
        self.resume_writing = connection.resume_writing

    async def open(self) -> None:
        """Until the virtual connection stands."""
        self.machine.start()
        try:
            await self._waiter
        except BaseException:
            self.machine.abort()
            for task in list(self._requests.values()):
                task.cancel()
            self._look_whether_over()
            await asyncio.shield(self._closed)
            raise

    # What the machine asks for ------------------------------------------------------------------------

    def open_in(self, leg: ChannelLeg) -> None:
        self._request("RPC_IN_DATA", leg)

    def open_out(self, leg: ChannelLeg) -> None:
        self._request("RPC_OUT_DATA", leg)

    def give_up(self, leg: ChannelLeg) -> None:
        task = self._requests.get(leg)
        if task is not None:
            task.cancel()

    def opened(self) -> None:
        """The virtual connection stands."""
        machine = self.machine
        machine.upper = self
        machine.extra["peername"] = next((c.peer for c in self._channels if c.peer), None)
        machine.extra["sockname"] = next(
            (c.transport.get_extra_info("sockname") for c in self._channels if c.transport is not None), None
        )
        self._attached = True
        self._connection.connection_made(machine)
        if not self._waiter.done():
            self._waiter.set_result(None)

    def failed(self, error: Exception) -> None:
        """It could not be opened."""
        if not self._waiter.done():
            self._waiter.set_exception(error)
        self._ended = True
        self._cut()

    def connection_lost(self, error: Exception | None) -> None:
        """The machine is over; the RPC layer hears of it when the channels are."""
        self._lost, self._ended = error, True
        if error is not None:
            self._cut()
            return
        self._look_whether_over()
        if not self._over:
            self._world.ledger.timer.enter()
            self._farewell = self._loop.call_later(FAREWELL_S, self._cut)

    def _cut(self) -> None:
        """Wait for no connection that ends by itself."""
        for channel in list(self._channels):
            channel.abort()
        self._look_whether_over()

    # Its HTTP requests --------------------------------------------------------------------------------

    def _request(self, method: str, leg: ChannelLeg) -> None:
        self._requests[leg] = self._task(self._open_channel(method, leg), leg)

    def _task(self, work: Coroutine[Any, Any, None], leg: ChannelLeg) -> asyncio.Task[None]:
        self._world.ledger.task.enter()
        task = self._loop.create_task(work, name="oxid tunnel")

        def over(_: object) -> None:
            self._world.ledger.task.leave()
            self._requests.pop(leg, None)
            self._look_whether_over()

        task.add_done_callback(over)
        return task

    async def _open_channel(self, method: str, leg: ChannelLeg) -> None:
        receiver = _Receiver(leg)
        try:
            channel = await open_channel(
                self._route,
                method,
                self._target,
                leg.content_length,
                receiver,
                world=self._world,
                threads=self._threads,
                timeout=self._timeout,
                tls=self._tls,
            )
        except Exception as error:
            leg.closed(_reason(error))
            return
        self._channels.add(channel)
        channel.closed_waiter.add_done_callback(lambda _: self._channel_closed(channel))
        leg.opened(channel)

    def _channel_closed(self, channel: HttpChannel) -> None:
        self._channels.discard(channel)
        self._look_whether_over()

    def _look_whether_over(self) -> None:
        if not self._ended or self._over or self._requests or self._channels:
            return
        self._over = True
        self._timers.give_back()
        self.machine.cut = _nothing
        if self._farewell is not None:
            self._farewell.cancel()
            self._farewell = None
            self._world.ledger.timer.leave()
        connection, self._connection = self._connection, None
        self.data_received = self.pause_writing = self.resume_writing = None
        if connection is not None and self._attached:
            connection.connection_lost(self._lost)
        if not self._closed.done():
            self._closed.set_result(None)


class _Receiver:
    """Tells a leg of the machine what its HTTP channel tells."""

    __slots__ = ("_refusal", "leg", "received")

    def __init__(self, leg: ChannelLeg) -> None:
        self.leg = leg
        self.received = leg.receive
        self._refusal: Exception | None = None

    def opened(self) -> None:
        self.leg.responded()

    def refused(self, error: OxidError) -> None:
        self._refusal = error

    def lost(self, error: Exception | None) -> None:
        self.leg.closed(self._refusal or error)

    def pause_writing(self) -> None:
        self.leg.writable(False)

    def resume_writing(self) -> None:
        self.leg.writable(True)


class _Timers:
    """The deadlines of all client tunnels of a loop that have one period; ends with the last of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, world: World, granularity: float) -> None:
        self._loop = loop
        self._key = world, granularity
        self._users = 0
        self._driver = DeadlineDriver(loop, world, self._expire)
        self.deadlines = Deadlines(granularity, self._driver.want)
        self.association_group = world.entropy.token(COOKIE_SIZE)
        """What the tunnels of one client share, as connections of one address do over TCP. [MS-RPCH] 2.2.3.5.13"""

    def _expire(self, now: float) -> float | None:
        return self.deadlines.expire(now)

    def take(self) -> _Timers:
        """For one more tunnel, until `give_back`."""
        self._users += 1
        return self

    def give_back(self) -> None:
        """Keep no timer where nothing has a deadline, and nothing at all, not even the loop, where no tunnel is."""
        self._users -= 1
        # `next` also forgets what was wanted, so that the next one is wanted anew
        if self.deadlines.next() is None:
            self._driver.close()
        if not self._users:
            _timers[self._loop].pop(self._key)


_timers: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, _Timers]]] = WeakKeyDictionary()


def _timers_of(loop: asyncio.AbstractEventLoop, world: World, granularity: float) -> _Timers:
    of_loop = _timers.setdefault(loop, {})
    found = of_loop.get((world, granularity))
    if found is None:
        found = of_loop[world, granularity] = _Timers(loop, world, granularity)
    return found.take()


def _reason(error: Exception) -> Exception:
    if isinstance(error, OxidError):
        return error
    what = str(error) or type(error).__name__
    if isinstance(error, OSError):
        made = TransportError(f"the connection to the RPC proxy was lost: {what}")
    else:
        made = TransportError(f"the RPC proxy cannot be asked: {what}")
    made.__cause__ = error
    return made


# Version 1, and no proxy at all ---------------------------------------------------------------------------


class _Version1:
    """Hears of the one connection of version 1 until it is the RPC layer's. [MS-RPCH] 3.1.1"""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: Any) -> None:
        self._loop = loop
        self._connection = connection
        self.channel: HttpChannel | None = None
        self.waiter: asyncio.Future[None] = loop.create_future()
        self._refusal: Exception | None = None
        self._responded = False
        self._transport: Any = None

    def opened(self) -> None:
        self._responded = True
        self.hand_over()

    def hand_over(self) -> None:
        """The transport belongs to the RPC layer from now on."""
        channel = self.channel
        if channel is None or not self._responded or self.waiter.done():
            return
        transport = self._transport = channel.release()
        self.channel = None
        self._connection.connection_made(transport)
        transport.set_protocol(face_of(self._connection, self._loop))
        self.waiter.set_result(None)

    def received(self, data: bytes) -> None:
        self._connection.data_received(data)  # behind the head, in one piece with it

    def refused(self, error: OxidError) -> None:
        self._refusal = error

    def lost(self, error: Exception | None) -> None:
        self.channel = None
        if not self.waiter.done():
            self.waiter.set_exception(_reason(self._refusal or error or TransportError("the proxy hung up")))

    def abort(self) -> None:
        """Whoever asked for the connection went away, perhaps after it was handed over."""
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        """Nothing is written here yet."""

    def resume_writing(self) -> None:
        """Nothing is written here yet."""


async def _open_version_1(
    route: ProxyRoute,
    host: str,
    port: int,
    connection: Any,
    world: World,
    threads: Threads,
    timeout: float,
) -> None:
    receiver = _Version1(asyncio.get_running_loop(), connection)
    channel = await open_channel(
        route,
        "RPC_CONNECT",
        route.target(host, port),
        None,
        receiver,
        world=world,
        threads=threads,
        timeout=timeout,
    )
    receiver.channel = channel
    try:
        await receiver.waiter
    except BaseException:
        receiver.abort()
        await channel.aclose()
        raise


class _Banner:
    """Reads the server's banner, then gives the connection to the RPC layer. RH-10"""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: Any) -> None:
        self._loop = loop
        self._connection = connection
        self._seen = b""
        self._descriptor = -1
        self.transport: Any = None
        self.waiter: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        link = transport.get_extra_info("socket")
        self._descriptor = -1 if link is None else link.fileno()
        forks.watch(self)

    def descriptors(self) -> tuple[int, ...]:
        return (self._descriptor,)

    def after_fork(self) -> None:
        """We are a child of whoever connected: this is not our connection."""

    def data_received(self, data: bytes) -> None:
        if self.waiter.done():
            return
        self._seen += data
        seen = self._seen
        if not seen.startswith(BANNER[: len(seen)]):
            self.waiter.set_exception(RemoteProtocolError("the server is none for RPC over HTTP: no banner"))
            self.transport.abort()
        elif len(seen) >= len(BANNER):
            transport = self.transport
            forks.forget(self)
            self._connection.connection_made(transport)
            transport.set_protocol(face_of(self._connection, self._loop))
            self.waiter.set_result(None)
            self.closed.set_result(None)
            if len(seen) > len(BANNER):
                self._connection.data_received(seen[len(BANNER) :])

    def eof_received(self) -> None:
        return None

    def pause_writing(self) -> None:
        """Nothing is written here."""

    def resume_writing(self) -> None:
        """Nothing is written here."""

    def connection_lost(self, error: Exception | None) -> None:
        forks.forget(self)
        if not self.waiter.done():
            self.waiter.set_exception(TransportError("the server closed the connection before its banner"))
        if not self.closed.done():
            self.closed.set_result(None)


async def _open_directly(host: str, port: int, connection: Any) -> None:
    loop = asyncio.get_running_loop()
    banner = _Banner(loop, connection)
    try:
        try:
            await connect(banner, host, port)
        except OSError as error:
            raise transport_error(host, port, error) from error
        await banner.waiter
    except BaseException:
        await _abort(banner)
        raise


async def _abort(banner: _Banner) -> None:
    if banner.transport is not None:
        banner.transport.abort()
        await asyncio.shield(banner.closed)
