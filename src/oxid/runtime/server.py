"""An RPC server on asyncio: listeners, their connections, and the one timer that watches them.

    server = RpcServer(world, authenticator=authenticator)
    server.register(IEcho, Echo())
    endpoint = await server.listen("127.0.0.1", 0)
    ...
    await server.aclose()            nothing of it is left afterwards

The protocol lives in `rpc.server_connection`; here bytes move, tasks run and deadlines pass.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from typing import Any, Final, NamedTuple

from oxid.errors import ConfigurationError
from oxid.interfaces.management import IManagement
from oxid.rpc.association import Association
from oxid.rpc.calls import ServerCall
from oxid.rpc.framing import Buffer
from oxid.rpc.interface import InterfaceSpec, spec_of
from oxid.rpc.limits import Limits
from oxid.rpc.presentation import Handler, Registration
from oxid.rpc.server_connection import ServerConnection, Stepped
from oxid.rpc.server_core import Acceptors, ServerCore, address_text
from oxid.runtime import forks
from oxid.runtime.deadlines import DeadlineDriver
from oxid.runtime.dispatch import Threads, handler_for
from oxid.runtime.management import Management
from oxid.runtime.near import nearby
from oxid.runtime.tcp import face_of, look_for_the_vanished, vector_writer
from oxid.tunnel.options import TunnelOptions
from oxid.world import World

log: Final = logging.getLogger("oxid.rpc.server")

KEEPALIVE_S: Final = 120
"""Seconds of silence after which the kernel asks whether a client is still there; it asks eight times."""
MAX_WINDOW: Final = 256 * 1024
"""Bytes that a proxy may send ahead: the most that a window may be. [MS-RPCH] 2.2.3.5.1"""
SMALL: Final = 512
"""Bytes of a first reply below which what is ready together is joined before it is written."""


def tunnel_options(period: float) -> TunnelOptions:
    """How servers run tunnels: the largest windows, every timer scaled by `period` seconds."""
    return TunnelOptions(period=period, receive_window=MAX_WINDOW)


class Endpoint(NamedTuple):
    """Where a server listens."""

    host: str
    port: int
    protseq: str = "ncacn_ip_tcp"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class TcpServerConnection(ServerConnection):
    """A server connection with its transport."""

    __slots__ = ("client_host", "seen_call_id", "server", "transport")

    data_received = ServerConnection.receive

    def __init__(self, server: RpcServer, secondary_address: bytes) -> None:
        # peer and identity are known when the transport is
        super().__init__(server.core, None, None, secondary_address)
        self.server = server
        self.transport: Any = None
        self.client_host = ""
        """Of the client, or of the proxy that stands between."""
        self.seen_call_id = -2

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.server.admit(self, transport)

    @property
    def local(self) -> tuple[str, int] | None:
        """Our own address that the client connected to; None once the connection is gone."""
        name = None if self.transport is None else self.transport.get_extra_info("sockname")
        return tuple(name[:2]) if isinstance(name, tuple) else None

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        server = self.server
        server.dismiss(self)
        self.closed(error)
        if self._calls:
            server.draining.add(self)

    def eof_received(self) -> None:
        return None  # a half-closed connection is of no use to RPC: close it

    def pause_writing(self) -> None:
        self.stalled = True
        self.pause()

    def resume_writing(self) -> None:
        self.stalled = False
        self.relax()

    def send(self, buffer: Buffer) -> None:
        transport = self.transport
        if transport is not None:
            transport.write(buffer)

    def flush(self) -> None:
        out = self.outgoing
        self.outgoing = None
        transport = self.transport
        if out and transport is not None:
            if len(out) == 1:
                transport.write(out[0])
            elif len(out[0]) <= SMALL:
                transport.write(b"".join(out))  # many small replies: one copy is less than a vector of them
            else:
                vector_writer(transport, self.server.loop)(out)

    def hang_up(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def pause(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None and not self.stalled and not self.transport.is_closing():
            self.transport.resume_reading()

    def fragment_began(self) -> None:
        self.server.fragment_began(self)

    def fragment_done(self) -> None:
        if self._partial is None:
            self.server.fragments.pop(self, None)

    def start(self, call: ServerCall, work: Coroutine[Any, Any, bytearray]) -> Any:
        counter = self.core.task
        counter.total += 1
        counter.live = live = counter.live + 1
        if live > counter.peak:
            counter.peak = live
        return self.server.loop.create_task(self._drive(call, work), name="oxid call")

    async def _drive(self, call: ServerCall, work: Coroutine[Any, Any, bytearray]) -> None:
        try:
            reply = await work
        except BaseException as error:
            self.finish(call, None, error)
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise
        else:
            self.finish(call, reply)
        finally:
            self.core.task.live -= 1
            if self.transport is None and not self._calls:
                self.server.draining.discard(self)

    def cancel_call(self, running: Any) -> None:
        if inspect.getcoroutinestate(running.get_coro()) == inspect.CORO_CREATED:
            # cancelled before its first step it would never run, and never tell its end
            self.server.loop.call_soon(running.cancel)
        else:
            running.cancel()

    def step_elsewhere(self, work: Callable[[], bytes | None], then: Stepped) -> None:
        self.server.step_in_thread(work, then)


class RpcServer:
    """Interfaces offered on any number of endpoints; closing it runs everything down."""

    def __init__(
        self,
        world: World,
        *,
        limits: Limits | None = None,
        authenticator: Acceptors | None = None,
        threads: int = 32,
        management: bool = True,
        tunnel_options: TunnelOptions | None = None,
    ) -> None:
        """`threads`: the most that run methods which block. `tunnel_options` are for listeners of ncacn_http."""
        self.world = world
        self.limits = limits or Limits()
        self.core = ServerCore(world, self.limits, authenticator)
        self.threads = Threads(threads)
        self.connections: set[TcpServerConnection] = set()
        self.draining: set[TcpServerConnection] = set()
        """Connections that are gone while calls of theirs still end."""
        self.fragments: dict[TcpServerConnection, float] = {}
        """Who owes us the rest of a PDU or request, and until when; in the order of the deadlines."""
        self.endpoints: list[Endpoint] = []
        self._unbound: dict[TcpServerConnection, float] = {}
        self._addresses: dict[str, int] = {}
        self._listeners: list[asyncio.Server] = []
        self._steps: set[asyncio.Task[None]] = set()
        self._deadlines: DeadlineDriver | None = None
        self._idle_check = 0.0
        self._closing = False
        self._empty: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.tunnel_options = tunnel_options or TunnelOptions(receive_window=MAX_WINDOW)
        self._proxied: Any = None
        """The connections of RPC proxies, once there is a listener for them."""
        if management:
            self.register(IManagement, Management(self.core))

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    # Interfaces ---------------------------------------------------------------------------------------

    def register(
        self,
        interface: type[Any] | InterfaceSpec,
        implementation: object | None = None,
        *,
        handler: Handler | None = None,
        min_level: int = 0,
        allow_anonymous: bool | None = None,
        access: Callable[[ServerCall], bool] | None = None,
        strict: bool = True,
        ndr64: bool = True,
    ) -> Registration:
        """Offer an interface, answered by the methods of `implementation` or by `handler`.

        `min_level`: the least authentication level (0: anyone). `allow_anonymous`: whether callers without
        an identity may call; by default only where `min_level` is none. `access(call)`: asked before the
        arguments are unmarshalled. Raises ConfigurationError where it is registered already.
        """
        spec = interface if isinstance(interface, InterfaceSpec) else spec_of(interface)
        if handler is None:
            if implementation is None:
                raise ConfigurationError(f"{spec.name} needs an implementation or a handler")
            handler = handler_for(spec, implementation, self.threads)
        registration = Registration(
            spec,
            handler,
            min_level=min_level,
            allow_anonymous=allow_anonymous,
            access=access,
            strict=strict,
            ndr64=ndr64,
        )
        self.core.registry.add(registration)
        return registration

    def unregister(self, registration: Registration) -> None:
        """Offer an interface no more; contexts that clients have already stay valid."""
        self.core.registry.remove(registration)

    # Listening ----------------------------------------------------------------------------------------

    async def listen(
        self,
        host: str,
        port: int | tuple[int, int] = 0,
        *,
        avoid: Collection[int] = (),
        protseq: str = "ncacn_ip_tcp",
    ) -> Endpoint:
        """Accept connections; `port` may be a range, of which the first free one is taken that is not in `avoid`.

        `protseq` "ncacn_http" is for RPC proxies, and for clients that know the port. Raises ConfigurationError where
        the address cannot be bound.
        """
        low, high = (port, port) if isinstance(port, int) else port
        loop = self.loop
        if self._deadlines is None:
            self._deadlines = DeadlineDriver(loop, self.world, self._expire)
        last: OSError | None = None
        for candidate in range(low, high + 1):
            if candidate in avoid:
                continue
            address = _SecondaryAddress()
            try:
                listener = await loop.create_server(
                    partial(self._face if protseq == "ncacn_ip_tcp" else self._proxied_face, address),
                    host,
                    candidate,
                    backlog=1024,
                )
            except OSError as error:
                last = error
                continue
            bound = listener.sockets[0].getsockname()
            endpoint = Endpoint(bound[0], bound[1], protseq)
            address.value = b"%d\0" % endpoint.port
            self._listeners.append(listener)
            forks.watch(self)
            self.endpoints.append(endpoint)
            if protseq != "ncacn_ip_tcp":
                nearby(loop).offer(endpoint.host, endpoint.port, partial(self._proxied_face, address))
            self.world.ledger.endpoint.enter()
            return endpoint
        where = f"{host}:{low}" if low == high else f"{host}:{low}-{high}"
        reason = last.strerror if last is not None and last.strerror else "no port in the range"
        raise ConfigurationError(f"cannot listen on {where}: {reason}") from last

    def _face(self, address: _SecondaryAddress) -> Any:
        return face_of(TcpServerConnection(self, address.value), self.loop)

    def _proxied_face(self, address: _SecondaryAddress) -> Any:
        if self._proxied is None:
            from oxid.runtime.proxied_server import ProxiedConnections  # few servers have proxies

            self._proxied = ProxiedConnections(self, self.tunnel_options)
        return self._proxied.face(address)

    def tunnelled(self, secondary_address: bytes) -> TcpServerConnection:
        """A connection that came over HTTP; `connection_made` is called by whoever asked for it."""
        return TcpServerConnection(self, secondary_address)

    def descriptors(self) -> list[int]:
        """The sockets of its listeners and connections, for children that must not have them."""
        found = [listening.fileno() for listener in self._listeners for listening in listener.sockets]
        for connection in self.connections:
            link = None if connection.transport is None else connection.transport.get_extra_info("socket")
            if link is not None:
                found.append(link.fileno())
        if self._proxied is not None:
            found += self._proxied.descriptors()
        return found

    def after_fork(self) -> None:
        """Nobody is served in a child."""
        self._closing = True

    async def aclose(self) -> None:
        """Stop accepting, cut every connection, wait for what still runs. May be called twice."""
        forks.forget(self)
        self._closing = True
        self.core.serving = False
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
            self.world.ledger.endpoint.leave()
        for endpoint in self.endpoints:
            if endpoint.protseq != "ncacn_ip_tcp":
                nearby(self.loop).withdraw(endpoint.host, endpoint.port)
        self.endpoints.clear()
        if self._proxied is not None:
            await self._proxied.aclose()
        for connection in list(self.connections):
            if connection.transport is not None:
                connection.transport.abort()
        if self.connections:
            self._empty = self.loop.create_future()
            await self._empty
        while self.draining or self._steps:
            tasks: set[Any] = set(self._steps)
            for connection in self.draining:
                tasks.update((connection._calls or {}).values())
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for listener in listeners:
            await listener.wait_closed()
        if self._deadlines is not None:
            self._deadlines.close()
        self.threads.close()

    # Connections --------------------------------------------------------------------------------------

    def admit(self, connection: TcpServerConnection, transport: Any) -> None:
        """A connection was accepted: note its address, or turn it away above a limit."""
        peer = transport.get_extra_info("peername")
        host = peer[0] if isinstance(peer, tuple) else str(peer)
        count = self._addresses.get(host, 0)
        limits = self.limits
        connection.peer = peer[:2] if isinstance(peer, tuple) else peer
        connection.client_host = host
        group = transport.get_extra_info("association_group")
        connection.identity = host if group is None else ("ncacn_http", group)
        self.connections.add(connection)
        self._addresses[host] = count + 1
        if (
            self._closing
            or len(self.connections) > limits.max_connections
            or count >= limits.max_connections_per_address
        ):
            if not self._closing:
                self.core.note_refusal(
                    peer, f"{len(self.connections)} connections, {count + 1} of this address"
                )
            transport.abort()
            return
        transport.set_write_buffer_limits(high=limits.write_buffer)
        if isinstance(peer, tuple):
            look_for_the_vanished(transport.get_extra_info("socket"), KEEPALIVE_S)
        deadline = self.world.clock.now() + limits.bind_timeout
        self._unbound[connection] = deadline
        assert self._deadlines is not None
        self._deadlines.want(deadline)
        if limits.idle_timeout is not None:
            self._deadlines.want(deadline - limits.bind_timeout + limits.idle_timeout)

    def dismiss(self, connection: TcpServerConnection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        self._unbound.pop(connection, None)
        self.fragments.pop(connection, None)
        host = connection.client_host
        count = self._addresses.get(host, 0) - 1
        if count > 0:
            self._addresses[host] = count
        else:
            self._addresses.pop(host, None)
        if not self.connections and self._deadlines is not None:
            self._deadlines.close()  # nothing is left that could have a deadline
        if self._empty is not None and not self.connections and not self._empty.done():
            self._empty.set_result(None)

    def fragment_began(self, connection: TcpServerConnection) -> None:
        """A PDU or request is incomplete: the peer has a while to finish it."""
        if connection in self.fragments:
            return
        deadline = self.world.clock.now() + self.limits.fragment_timeout
        self.fragments[connection] = deadline
        assert self._deadlines is not None
        self._deadlines.want(deadline)

    def step_in_thread(self, work: Callable[[], bytes | None], then: Stepped) -> None:
        """Run a handshake step in a thread and tell its outcome here."""

        async def step() -> None:
            counter = self.world.ledger.task
            counter.enter()
            try:
                token = await self.threads.run(work)
            except Exception as error:
                then(None, error)
            else:
                then(token, None)
            finally:
                counter.leave()

        task = self.loop.create_task(step())
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)

    def _expire(self, now: float) -> float | None:
        """Close connections whose time is over; returns the next deadline."""
        upcoming: list[float] = []
        for table, what in ((self._unbound, "bind"), (self.fragments, "finish a PDU")):
            for connection, deadline in list(table.items()):
                if deadline > now:
                    upcoming.append(deadline)
                    break
                del table[connection]
                if table is self._unbound and connection.bound:
                    continue
                if table is self.fragments and connection.full:
                    upcoming.append(now + self.limits.fragment_timeout)
                    table[connection] = upcoming[-1]  # it is we who do not look at the rest
                    continue
                self.core.note_refusal(connection.peer, f"it did not {what} in time")
                if connection.transport is not None:
                    connection.transport.abort()
        idle = self.limits.idle_timeout
        if idle is not None and self.connections:
            if now >= self._idle_check:
                self._close_idle()
                self._idle_check = now + idle / 2
            upcoming.append(self._idle_check)
        return min(upcoming, default=None)

    def _close_idle(self) -> None:
        """Close connections that made no call since two checks ago, save the last of a group with handles."""
        for connection in list(self.connections):
            if not connection.idle or connection.seen_call_id != connection.last_call_id:
                connection.seen_call_id = connection.last_call_id
                continue
            group: Association | None = connection.association
            if group is not None and group.handle_count and group.connections == 1:
                continue
            log.info("closing idle connection of %s", address_text(connection.peer))
            connection.hang_up()

    def statistics(self) -> dict[str, int]:
        return {"connections": len(self.connections), **self.core.statistics()}

    def __repr__(self) -> str:
        where = ", ".join(map(str, self.endpoints)) or "nowhere"
        return f"<RpcServer on {where}, {len(self.connections)} connections>"


class _SecondaryAddress:
    """The port as the bind_ack says it; known after binding the socket."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = b""
