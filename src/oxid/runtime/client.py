"""RPC client connections on asyncio.

    async with open_connection("server", 135, credentials=Password("admin", "secret")) as connection:
        echo = await connection.proxy(IEcho)
        stub = await connection.submit(await connection.context(IEcho), 0, out)

The protocol lives in `rpc.client_connection`; here bytes move, handshakes are driven and time limits pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from oxid.auth import AuthLevel, AuthType, Credentials, SecurityContext, initiator
from oxid.errors import (
    AccessDenied,
    LocalProtocolError,
    Origin,
    RemoteProtocolError,
    StatusError,
    TransportError,
    error_for,
)
from oxid.ndr.syntax import Syntax
from oxid.rpc import pdu as p
from oxid.rpc.client_connection import ClientConnection
from oxid.rpc.interface import InterfaceSpec, spec_of
from oxid.rpc.limits import Limits
from oxid.rpc.pdu import ContextElement, PacketType, SyntaxId
from oxid.rpc.presentation import (
    ACCEPTANCE,
    FEATURE_KEEP_ON_ORPHAN,
    FEATURE_LARGE_FRAGMENTS,
    FEATURE_MULTIPLE_SECURITY,
    NDR20,
    NDR64,
    NEGOTIATE_ACK,
    REASON_LARGE_FRAGMENTS,
    feature_syntax,
)
from oxid.rpc.replies import Answer
from oxid.rpc.security import SecurityEntry
from oxid.runtime import forks, tcp
from oxid.runtime.deadlines import DeadlineDriver
from oxid.runtime.dispatch import Threads
from oxid.runtime.proxy import proxy_class
from oxid.runtime.proxy_route import ProxyRoute
from oxid.runtime.tcp import transport_error, vector_writer
from oxid.runtime.tunnel_client import open_tunnel
from oxid.values import status as s
from oxid.values.status import RPC_S_SEC_PKG_ERROR, Win32
from oxid.world import World

T = TypeVar("T")

CANCEL_PATIENCE: Final = 5.0
"""Seconds a server has to heed a cancel before the call is orphaned; Windows waits as the caller says."""

_WIRE: Final = {Syntax.NDR20_LE: NDR20, Syntax.NDR64: NDR64}


class RpcConnection(ClientConnection):
    """A client connection with its transport."""

    __slots__ = (
        "_by_interface",
        "_call_timeout",
        "_deadlines",
        "_descriptor",
        "_drained",
        "_group_wanted",
        "_large",
        "_lock",
        "_marks",
        "_next_context_id",
        "_security",
        "_syntaxes",
        "_threads",
        "_watched",
        "closed_waiter",
        "idle_since",
        "loop",
        "peer",
        "stalled",
        "transport",
        "world",
    )

    data_received = ClientConnection.receive

    def __init__(
        self,
        world: World,
        limits: Limits,
        security: SecurityEntry | None,
        *,
        large_fragments: bool,
        call_timeout: float | None,
        group_id: int,
        threads: Threads,
    ) -> None:
        super().__init__(limits)
        self.world = world
        self.loop = asyncio.get_running_loop()
        self.make_waiter = self.loop.create_future
        self.transport: Any = None
        self.peer: Any = None
        self.stalled = False
        self.closed_waiter: asyncio.Future[None] = self.loop.create_future()
        self.idle_since = 0.0
        self._security = security
        self._large = large_fragments
        self._call_timeout = call_timeout
        self._group_wanted = group_id
        self._threads = threads
        self._lock = asyncio.Lock()
        self._next_context_id = 0
        self._by_interface: dict[tuple[SyntaxId, tuple[Syntax, ...]], int] = {}
        self._syntaxes: dict[int, Syntax] = {}
        self._drained: asyncio.Future[None] | None = None
        self._deadlines = DeadlineDriver(self.loop, world, self._expire)
        self._marks: list[tuple[float, int]] = []
        self._watched = False

    # Transport ----------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.world.ledger.rpc_connection.enter()
        self.peer = transport.get_extra_info("peername")
        socket = transport.get_extra_info("socket")
        self._descriptor = -1 if socket is None else socket.fileno()
        forks.watch(self)
        self.write = transport.write
        self.write_all = vector_writer(transport, self.loop)
        transport.set_write_buffer_limits(high=self.limits.write_buffer)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        forks.forget(self)
        lost: Exception | None = None
        if error is not None:
            lost = TransportError(f"the connection was lost: {error}")
            lost.__cause__ = error
        self.closed(lost)
        if self._security is not None and not self._security.ready:
            self._security.context.close()
        self._deadlines.close()
        self.world.ledger.rpc_connection.leave()
        self.resume_writing()
        if not self.closed_waiter.done():
            self.closed_waiter.set_result(None)

    def descriptors(self) -> tuple[int, ...]:
        return (self._descriptor,)

    def after_fork(self) -> None:
        """We are a child of whoever connected: this is not our connection."""
        self.lost = self.lost or TransportError("this process is a fork of the one that connected")

    def eof_received(self) -> None:
        return None

    def pause_writing(self) -> None:
        self.stalled = True

    def resume_writing(self) -> None:
        self.stalled = False
        if self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None

    async def drain(self) -> None:
        """Wait until the server reads again."""
        while self.stalled:
            if self._drained is None:
                self._drained = self.loop.create_future()
            await asyncio.shield(self._drained)

    @property
    def local_address(self) -> str:
        """Our own address on this connection; empty once it is gone."""
        name = None if self.transport is None else self.transport.get_extra_info("sockname")
        return str(name[0]) if isinstance(name, tuple) else ""

    def hang_up(self) -> None:
        if self.transport is not None:
            self.transport.close()

    async def aclose(self) -> None:
        """Close at once; calls that wait get TransportError. May be called twice."""
        self.fail(TransportError("the connection was closed here"))
        if self.transport is not None:
            self.transport.abort()
        await self.closed_waiter

    # Binding ------------------------------------------------------------------------------------------

    async def context(
        self, interface: type[Any] | InterfaceSpec, *, syntaxes: tuple[Syntax, ...] = (Syntax.NDR20_LE,)
    ) -> int:
        """The id of a presentation context for an interface, negotiated at first use.

        `syntaxes` in the order of preference. Raises NoSuchInterface where the server does not have it,
        AccessDenied where it refuses our credentials.
        """
        spec = interface if isinstance(interface, InterfaceSpec) else spec_of(interface)
        abstract = SyntaxId(spec.uuid, spec.version[0] | spec.version[1] << 16)
        key = abstract, syntaxes
        found = self._by_interface.get(key)
        if found is not None:
            return found
        async with self._lock:
            found = self._by_interface.get(key)
            if found is None:
                found = await self._negotiate(spec.name, abstract, syntaxes)
                self._by_interface[key] = found
        return found

    async def proxy(self, interface: type[T], *, syntaxes: tuple[Syntax, ...] = (Syntax.NDR20_LE,)) -> T:
        """A typed proxy of a plain RPC interface."""
        context_id = await self.context(interface, syntaxes=syntaxes)
        if self._syntaxes[context_id] is Syntax.NDR20_LE:
            self.either_order.add(context_id)
        made: T = proxy_class(interface, self._syntaxes[context_id])(self, context_id)
        return made

    def syntax_of(self, context_id: int) -> Syntax:
        """The transfer syntax that was negotiated for a presentation context."""
        return self._syntaxes[context_id]

    async def _negotiate(self, name: str, abstract: SyntaxId, syntaxes: tuple[Syntax, ...]) -> int:
        first = self._next_context_id
        elements = [
            ContextElement(first + i, abstract, (_WIRE[syntax],)) for i, syntax in enumerate(syntaxes)
        ]
        bound = bool(self.group_id)
        if not bound:
            features = FEATURE_MULTIPLE_SECURITY | FEATURE_KEEP_ON_ORPHAN
            if self._large:
                features |= FEATURE_LARGE_FRAGMENTS
            elements.append(ContextElement(first + len(syntaxes), abstract, (feature_syntax(features),)))
        self._next_context_id += len(elements)
        entry = self._security
        try:
            if bound or entry is None:
                kind = PacketType.ALTER_CONTEXT if bound else PacketType.BIND
                answer = await self.exchange(kind, elements, group_id=self._group_wanted, large=self._large)
                if not bound:
                    self._agree(answer)
            else:
                answer = await self._authenticate(entry, elements)
        except asyncio.CancelledError:
            # the answer would meet nobody who understands it
            self.fail(TransportError("binding was cancelled"))
            raise
        except Exception as error:
            if not bound:
                self.fail(error)
            raise
        return self._accepted(name, abstract, syntaxes, elements, answer)

    def _accepted(
        self,
        name: str,
        abstract: SyntaxId,
        syntaxes: tuple[Syntax, ...],
        elements: list[ContextElement],
        answer: Answer,
    ) -> int:
        """The context of the most preferred syntax that the server accepted."""
        results = answer.ack.results
        if len(results) != len(elements):
            error = RemoteProtocolError(f"{len(results)} results for {len(elements)} presentation contexts")
            self.fail(error)
            raise error
        accepted: int | None = None
        for element, result, syntax in zip(elements, results, syntaxes, strict=False):
            if result.result == ACCEPTANCE:
                if result.transfer != _WIRE[syntax]:
                    raise RemoteProtocolError(f"{name}: accepted with a transfer syntax nobody proposed")
                self.add_context(element.context_id, abstract, result.transfer)
                self._syntaxes[element.context_id] = syntax
                if accepted is None:
                    accepted = element.context_id
        if accepted is not None:
            return accepted
        if any(result.reason == 2 for result in results[: len(syntaxes)]):
            raise error_for(
                Win32(s.RPC_S_UNSUPPORTED_TRANS_SYN), f"{name}: no common transfer syntax", origin=Origin.BIND
            )
        raise error_for(
            Win32(s.RPC_S_UNKNOWN_IF), f"the server does not offer {name}", origin=Origin.BIND, executed=False
        )

    def _agree(self, answer: Answer) -> None:
        """Take over sizes and features from a BIND_ACK."""
        large = False
        for result in answer.ack.results:
            if result.result == NEGOTIATE_ACK:
                self.features = result.reason & (FEATURE_MULTIPLE_SECURITY | FEATURE_KEEP_ON_ORPHAN)
                large = bool(result.reason & REASON_LARGE_FRAGMENTS) and self._large
        self.agree(answer, large=large)

    async def _authenticate(self, entry: SecurityEntry, elements: list[ContextElement]) -> Answer:
        """Bind with a security context: legs until both sides are done. [MS-RPCE] 3.3.1.5.2.1"""
        context = entry.context
        token = await self._step(context, b"")
        first: Answer | None = None
        kind = PacketType.BIND
        while True:
            try:
                answer: Answer = await self.exchange(
                    kind, elements, entry, token, self._group_wanted, self._large
                )
            except StatusError as error:
                if error.status.code != RPC_S_SEC_PKG_ERROR:
                    raise
                raise AccessDenied(
                    error.status, "the server refused the credentials", origin=Origin.BIND, executed=False
                ) from error
            if first is None:
                first = answer
                self._agree(answer)
            kind = PacketType.ALTER_CONTEXT
            elements = [e for e in elements if e.transfers[0] in (NDR20, NDR64)]
            if context.complete and not answer.token:
                break
            if answer.token is None:
                raise RemoteProtocolError("the server ended the handshake early")
            signing = bool(first.flags & p.SUPPORT_HEADER_SIGN)
            context.header_signing = signing
            token = await self._step(context, answer.token)
            if not token:
                if not context.complete:
                    raise RemoteProtocolError("the server has no more tokens, the handshake is not complete")
                break
            if context.complete and context.odd_legs:
                self.send_auth3(entry, token)
                break
        self.use_security(entry, header_signing=bool(first.flags & p.SUPPORT_HEADER_SIGN))
        return first

    async def _step(self, context: SecurityContext, token: bytes) -> bytes | None:
        if context.blocking:
            stepped: bytes | None = await self._threads.run(lambda: context.step(token))
            return stepped
        return context.step(token)

    # Calls --------------------------------------------------------------------------------------------

    async def call(self, context_id: int, opnum: int, out: bytearray, object: bytes | None = None) -> bytes:
        """One call; cancelling the task that awaits it cancels it on the server too."""
        if self.stalled:
            await self.drain()
        waiter = self.submit(context_id, opnum, out, object)
        try:
            stub: bytes = await waiter
        except asyncio.CancelledError:
            self.forsake(waiter)
            raise
        return stub

    async def call_to_the_end(
        self, context_id: int, opnum: int, out: bytearray, late: Callable[[bytes], object]
    ) -> bytes:
        """One call whose reply brings what must not be lost: where the caller is cancelled the call is cancelled on
        the server, too, and `late` gets the reply that comes all the same."""
        if self.stalled:
            await self.drain()
        waiter: asyncio.Future[bytes] = self.submit(context_id, opnum, out)
        try:
            return await asyncio.shield(waiter)
        except asyncio.CancelledError:
            waiter.add_done_callback(lambda came: came.cancelled() or came.exception() or late(came.result()))
            if not waiter.done():
                self.forsake(waiter)
            raise

    def forsake(self, waiter: Any) -> None:
        """Whoever awaited this call went away: cancel it on the server, orphan it if that is not heeded."""
        if self.lost is not None:
            return
        now = self.world.clock.now()
        self.abandon(waiter, now, CANCEL_PATIENCE)
        self._deadlines.want(now + CANCEL_PATIENCE)

    def _watch(self) -> None:
        """Calls are under way: look at them every eighth of the time-out."""
        assert self._call_timeout is not None
        self._watched = True
        now = self.world.clock.now()
        self._marks.append((now, self.last_call_id))
        self._deadlines.want(now + self._call_timeout / 8)

    def _expire(self, now: float) -> float | None:
        upcoming = self.expire_cancelled(now)
        if self.lost is not None:
            return None
        timeout = self._call_timeout
        if timeout is not None and self._watched:
            # call ids only grow: those up to the id noted a time-out ago are overdue
            overdue = -1
            marks = self._marks
            while marks and marks[0][0] + timeout <= now:
                overdue = marks.pop(0)[1]
            late = [waiter for call_id, waiter in self.calls.items() if call_id <= overdue]
            for waiter in late:
                if not waiter.done():
                    waiter.set_exception(TimeoutError(f"no answer within {timeout:g} s"))
                    self.abandon(waiter, now, CANCEL_PATIENCE)
            if self.calls:
                marks.append((now, self.last_call_id))
                following = now + timeout / 8
                upcoming = following if upcoming is None else min(upcoming, following)
            else:
                marks.clear()
                self._watched = False
            patience = self.expire_cancelled(now)
            if patience is not None:
                upcoming = patience if upcoming is None else min(upcoming, patience)
        return upcoming


class TimedRpcConnection(RpcConnection):
    """A client connection whose calls have a time-out; one mark per period, nothing per call."""

    __slots__ = ()

    def submit(self, context_id: int, opnum: int, out: bytearray, object: bytes | None = None) -> Any:
        if not self._watched:
            self._watch()
        return ClientConnection.submit(self, context_id, opnum, out, object)


async def connect(
    host: str,
    port: int,
    *,
    world: World,
    credentials: Credentials | None = None,
    level: int | None = None,
    auth_type: int = AuthType.SPNEGO,
    target: str | None = None,
    limits: Limits | None = None,
    timeout: float = 30.0,
    call_timeout: float | None = None,
    large_fragments: bool = True,
    group_id: int = 0,
    identify: bool = False,
    delegate: bool = False,
    threads: Threads | None = None,
    proxy: ProxyRoute | None = None,
) -> RpcConnection:
    """Make a connection; whoever calls closes it with `aclose`. See `open_connection`."""
    security: SecurityEntry | None = None
    if credentials is not None:
        wanted = AuthLevel.PKT_PRIVACY if level is None else level
        wanted = AuthLevel.PKT if wanted == AuthLevel.CALL else wanted
        if wanted < AuthLevel.CONNECT:
            raise LocalProtocolError(f"level {wanted} has no credentials; leave them out")
        context = initiator(
            credentials,
            auth_type,
            wanted,
            world=world,
            target=target or f"host/{host}",
            identify=identify,
            delegate=delegate,
        )
        security = SecurityEntry(1, auth_type, wanted, context)

    made = RpcConnection if call_timeout is None else TimedRpcConnection
    way = threads or _threads
    connection = made(
        world,
        limits or Limits(),
        security,
        large_fragments=large_fragments,
        call_timeout=call_timeout,
        group_id=group_id,
        threads=way,
    )
    try:
        if proxy is None:
            async with asyncio.timeout(timeout):
                await tcp.connect(connection, host, port)
        else:
            await open_tunnel(proxy, host, port, connection, world=world, threads=way, timeout=timeout)
    except (OSError, TimeoutError) as error:
        if security is not None:
            security.context.close()
        raise transport_error(host, port, error) from error
    except BaseException:
        if security is not None:
            security.context.close()
        raise
    return connection


_threads: Final = Threads(4)
"""For handshakes that block (Kerberos); shared by the clients of a process."""


@asynccontextmanager
async def open_connection(host: str, port: int, **options: Any) -> AsyncIterator[RpcConnection]:
    """Connect to an RPC server; the connection is closed at the end of the block.

    Options as of `connect`: `world`; `credentials` with `level` (default privacy), `auth_type` (default
    SPNEGO) and `target` (the service's principal name); `timeout` in seconds for connecting; `call_timeout`
    for every call, accurate to an eighth; `large_fragments` between two oxid ends; `proxy`, the way through an RPC
    proxy.
    Raises TransportError.
    """
    connection = await connect(host, port, **options)
    try:
        yield connection
    finally:
        await connection.aclose()
