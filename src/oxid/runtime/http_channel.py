"""One connection to an RPC proxy, opened up to where the body of its request flows. [MS-RPCH] 2.1.2.1

    channel = await open_channel(route, "RPC_IN_DATA", route.target("server", 593), 1 << 30, receiver, ...)
    channel.write(pdu)
    await channel.aclose()

The receiver is told what comes back: `opened()` at a 200, `received(data)` for what follows it, `refused(error)` for
any other response, and `lost(error)` at the end, once.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from contextlib import suppress
from typing import Any, Final, Protocol

from oxid.auth.channel_binding import tls_server_end_point
from oxid.errors import AccessDenied, OxidError, RemoteProtocolError, TransportError, error_for
from oxid.http.client import ClientExchange, Reply
from oxid.runtime import forks
from oxid.runtime.dispatch import Threads
from oxid.runtime.http_auth import HttpLogin
from oxid.runtime.proxy_route import ProxyRoute
from oxid.runtime.tcp import connect, transport_error
from oxid.runtime.transport_port import TransportPort
from oxid.values.status import ERROR_ACCESS_DENIED, Win32
from oxid.world import World

_RPC_ERROR: Final = re.compile(r"RPC Error: ([0-9A-Fa-f]{1,8})")
_FINAL: Final = range(200, 600)
"""Statuses of responses that are acted on at their head: of a refusal nobody reads the page."""
_MOST_REASON: Final = 200
"""Characters of a web server's own words in an error of ours."""


class Receiver(Protocol):
    """Who hears what comes back on a channel."""

    def opened(self) -> None:
        """The proxy answered 200: what follows is the channel's."""

    def received(self, data: bytes) -> None:
        """Bytes behind the response's head."""

    def refused(self, error: OxidError) -> None:
        """The proxy answered with an error; the connection is closed."""

    def lost(self, error: Exception | None) -> None:
        """The connection is gone. Said once, also after `refused`."""

    def pause_writing(self) -> None:
        """The proxy does not read."""

    def resume_writing(self) -> None:
        """It reads again."""


class _Nobody:
    """Who hears of a channel that is gone, or is somebody else's."""

    __slots__ = ()

    def opened(self) -> None: ...

    def received(self, data: bytes) -> None: ...

    def refused(self, error: OxidError) -> None: ...

    def lost(self, error: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


_NOBODY: Final = _Nobody()


class HttpChannel(TransportPort):
    """Made by `open_channel`; whoever has it closes it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receiver: Receiver) -> None:
        super().__init__(loop)
        self.peer: Any = None
        self._receiver: Receiver = receiver
        self._exchange: ClientExchange | None = None
        self._reply: asyncio.Future[Reply] | None = None
        self._handed_over = False
        self._streaming = False
        self._descriptor = -1
        self._connected = False
        self.closed_waiter: asyncio.Future[None] = loop.create_future()

    # What the loop calls ----------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._connected = True
        self.peer = transport.get_extra_info("peername")
        link = transport.get_extra_info("socket")
        self._descriptor = -1 if link is None else link.fileno()
        forks.watch(self)

    def data_received(self, data: bytes) -> None:
        if self._streaming:
            self._receiver.received(data)
            return
        exchange = self._exchange
        if exchange is None:
            self._fail(RemoteProtocolError("the proxy speaks without being asked"))
            return
        try:
            reply = exchange.receive(data)
        except RemoteProtocolError as error:
            self._fail(error)
            return
        if reply is None:
            return
        if self._reply is not None:
            if not self._reply.done():
                self._reply.set_result(reply)
        elif not 200 <= reply.status < 300:
            self._fail(refusal(reply))
        elif reply.values("transfer-encoding"):
            self._fail(RemoteProtocolError("the answer comes in chunks: something changes it on its way"))
        else:
            self._streaming = True
            self._exchange = None
            receiver = self._receiver
            receiver.opened()
            if reply.body:
                receiver.received(reply.body)

    def pause_writing(self) -> None:
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        self._receiver.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        forks.forget(self)
        if self._reply is not None and not self._reply.done():
            self._end_reply(self._reply, error)
        receiver, self._receiver = self._receiver, _NOBODY
        if self._handed_over:
            receiver.lost(error)
        if not self.closed_waiter.done():
            self.closed_waiter.set_result(None)

    def _end_reply(self, waiter: asyncio.Future[Reply], error: Exception | None) -> None:
        """The connection is gone while a response is awaited: its end may be the response's."""
        reply: Reply | None = None
        if error is None and self._exchange is not None:
            with suppress(RemoteProtocolError):
                reply = self._exchange.receive(b"")
        if reply is not None:
            waiter.set_result(reply)
            return
        lost = TransportError("the proxy closed the connection")
        lost.__cause__ = error
        waiter.set_exception(lost)

    def _fail(self, error: OxidError) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)
        elif self._handed_over:
            self._receiver.refused(error)
        self.abort()

    # What the owner calls ---------------------------------------------------------------------------------

    def release(self) -> Any:
        """The transport, which is somebody else's from now on."""
        transport, self.transport = self.transport, None
        self._receiver = _NOBODY
        forks.forget(self)
        if not self.closed_waiter.done():
            self.closed_waiter.set_result(None)
        return transport

    async def aclose(self) -> None:
        """Close at once, and wait until it is. May be called twice."""
        self.abort()
        if self._connected:
            await asyncio.shield(self.closed_waiter)

    def descriptors(self) -> tuple[int, ...]:
        return (self._descriptor,)

    def after_fork(self) -> None:
        """We are a child of whoever connected: this is not our connection."""

    # Opening ----------------------------------------------------------------------------------------------

    async def ask(self, exchange: ClientExchange) -> Reply:
        """Send a request that has no body, and return its response. Raises TransportError, RemoteProtocolError."""
        if self.transport is None:
            raise TransportError("the proxy closed the connection")
        self._exchange = exchange
        self._reply = self.loop.create_future()
        self.transport.write(exchange.head)
        try:
            return await self._reply
        finally:
            self._reply = self._exchange = None

    def begin(self, exchange: ClientExchange) -> None:
        """Send the head of the request whose body is the channel; from now on the receiver is told."""
        if self.transport is None:
            raise TransportError("the proxy closed the connection")
        self._exchange = exchange
        self._handed_over = True
        self.transport.write(exchange.head)


async def open_channel(
    route: ProxyRoute,
    method: str,
    target: str,
    length: int | None,
    receiver: Receiver,
    *,
    world: World,
    threads: Threads,
    timeout: float,
    tls: ssl.SSLContext | None = None,
) -> HttpChannel:
    """Connect, authenticate, and send the request's head; `length` None for a body without an end.

    The response of the last request is not awaited. Raises TransportError, TimeoutError, AuthenticationError,
    AccessDenied where the proxy refuses the credentials, StatusError with what else it refused.
    """
    loop = asyncio.get_running_loop()
    channel = HttpChannel(loop, receiver)
    secure = tls if tls is not None else route.tls()
    try:
        async with asyncio.timeout(timeout):
            try:
                await connect(
                    channel,
                    route.host,
                    route.port,
                    ssl=secure,
                    server_hostname=route.host if secure is not None else None,
                )
            except ssl.SSLError as error:
                raise _tls_error(route, error) from error
            except OSError as error:
                raise transport_error(route.host, route.port, error) from error
            await _authenticate(channel, route, method, target, length, world, threads)
    except TimeoutError as error:
        await channel.aclose()
        raise transport_error(route.host, route.port, error) from error
    except BaseException:
        await channel.aclose()
        raise
    return channel


async def _authenticate(
    channel: HttpChannel,
    route: ProxyRoute,
    method: str,
    target: str,
    length: int | None,
    world: World,
    threads: Threads,
) -> None:
    login = HttpLogin(
        route.auth,
        route.credentials,
        host=route.host,
        world=world,
        secure=route.secure,
        channel_bindings=_bindings(channel) if route.secure else None,
    )
    try:
        said = await _step(threads, login, login.first)
        if login.asks_first:
            reply = await channel.ask(ClientExchange(method, target, _headers(route, 0, said), ended=True))
            if 200 <= reply.status < 300:
                said = None  # it takes anybody: that was the answer to a request without a body
            elif reply.status != 401:
                raise refusal(reply)
            else:
                said = await _step(threads, login, lambda: login.answer(reply))
                if said is None:
                    raise refusal(reply)
            if not reply.keep_alive:
                raise RemoteProtocolError(
                    "the proxy closes the connection in the middle of the authentication"
                )
        exchange = ClientExchange(method, target, _headers(route, length, said), streams=_FINAL)
        channel.begin(exchange)
    finally:
        login.close()


async def _step(threads: Threads, login: HttpLogin, step: Any) -> str | None:
    said: str | None = await threads.run(step) if login.blocking else step()
    return said


def _headers(route: ProxyRoute, length: int | None, said: str | None) -> list[tuple[str, str]]:
    """What RPC clients send. [MS-RPCH] 2.1.1.1.1, 2.1.2.1.1"""
    headers = [("Host", route.authority), ("User-Agent", "RPC" if length is None else "MSRPC")]
    headers += [("Pragma", "No-cache"), ("Protocol", "1.1" if length is None else "1.0")]
    if length is not None:
        headers.append(("Pragma", f"ReceiveWindow={route.receive_window}"))  # our own: see `iis.rpc_proxy`
        headers += [
            ("Cache-Control", "no-cache"),
            ("Accept", "application/rpc"),
            ("Connection", "Keep-Alive"),
            ("Content-Length", str(length)),
        ]
    if said is not None:
        headers.append(("Authorization", said))
    return headers


def refusal(reply: Reply) -> OxidError:
    """The exception for a response that is not 200: the code of the proxy where it tells one. [MS-RPCH] 2.1.2.1.3"""
    found = _RPC_ERROR.search(reply.reason)
    if found is not None:
        refused = error_for(Win32(int(found[1], 16)), "the RPC proxy refused")
        if isinstance(refused, AccessDenied):
            refused.remedy = (
                "name the server and the port as the proxy's ValidPorts does, or have them added there"
            )
        return refused
    reason = reply.reason[:_MOST_REASON]
    if reply.status in (401, 403):
        error = AccessDenied(Win32(ERROR_ACCESS_DENIED), f"the web server refused: {reply.status} {reason}")
        error.remedy = (
            "check user and password at the web server; it may want TLS (https), or a certificate of ours"
        )
        return error
    return TransportError(f"the web server answered {reply.status} {reason}")


def _bindings(channel: HttpChannel) -> bytes | None:
    link = channel.transport.get_extra_info("ssl_object") if channel.transport is not None else None
    certificate = None if link is None else link.getpeercert(binary_form=True)
    return tls_server_end_point(certificate) if certificate else None


def _tls_error(route: ProxyRoute, error: ssl.SSLError) -> TransportError:
    made = TransportError(f"TLS to {route.authority}: {error.reason or error}")
    made.remedy = (
        "check the proxy's certificate and its name, or name the file that it is signed with; a port of plain HTTP "
        "is asked with http://"
    )
    return made
