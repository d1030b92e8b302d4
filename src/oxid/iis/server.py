"""The web server: listeners, connections, who answers what, and the end of it all.

    server = WebServer(world, settings, authenticator=authenticator)
    server.register_handler("hello", lambda directory, argument: hello)
    endpoint = await server.listen("127.0.0.1", 0)
    server.apply(other_settings)          requests in flight keep what they began with
    await server.aclose()                 nothing of it is left afterwards

Plain requests are answered inside the callback that brought their bytes: no task, no future, no timer of their own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from heapq import heappop, heappush
from math import inf
from typing import Any, Final

from oxid.auth import Authenticator
from oxid.errors import ConfigurationError
from oxid.http.dates import http_date
from oxid.http.errors import BadRequest
from oxid.http.heads import AUTHORIZATION, SECRET, RequestHead, parse_request
from oxid.http.targets import decode_path, split_target
from oxid.iis import error_pages
from oxid.iis.access_log import AccessLogs
from oxid.iis.connection import HttpConnection
from oxid.iis.exchange import Exchange, Handler
from oxid.iis.gate import Gate
from oxid.iis.listener import Face, Listener
from oxid.iis.routes import NO_SITE, NOWHERE, Place, Route, find_place, find_site
from oxid.iis.settings import (
    Access,
    DirectorySettings,
    HandlerSettings,
    ServerSettings,
    SiteSettings,
    TlsSettings,
)
from oxid.iis.static_files import StaticFiles
from oxid.iis.tls import Contexts
from oxid.runtime import forks
from oxid.runtime.deadlines import DeadlineDriver
from oxid.runtime.dispatch import Threads
from oxid.runtime.server import Endpoint
from oxid.runtime.tcp import hands_out_bytes
from oxid.world import World

log: Final = logging.getLogger("oxid.iis.server")

MOST_HEADS: Final = 512
"""Heads remembered as parsed: a client that asks again sends the same bytes again."""
LARGEST_REMEMBERED: Final = 1024
"""Bytes of a head worth remembering."""
MOST_ROUTES: Final = 4096
"""Targets remembered per listener."""
TICKS: Final = 16
"""Looks at connections per second; patience ends a tick late at most."""
TLS_SHUTDOWN_S: Final = 2.0
"""For a client's farewell; most send none."""

HandlerFactory = Callable[[DirectorySettings, str], Handler]
"""Makes the handler of a directory from the argument of its script map or module; may raise ConfigurationError."""


class WebServer:
    """Sites on any number of listeners; closing it runs everything down."""

    def __init__(
        self,
        world: World,
        settings: ServerSettings | None = None,
        *,
        authenticator: Authenticator | None = None,
        threads: int = 16,
    ) -> None:
        self.world = world
        self.settings = settings or ServerSettings()
        self.limits = self.settings.limits
        self.authenticator = authenticator
        self.threads = Threads(threads)
        self.connections: set[HttpConnection] = set()
        self.listeners: list[Listener] = []
        self.heads: dict[bytes, RequestHead] = {}
        self.stopping = False
        self.nobody = HttpConnection(self, Listener(tls=False))
        """Where finished exchanges point to: no peer, no transport."""
        self.filters: Any = None
        """The stages of ISAPI filters (`isapi.filter_stages`), where there are filters."""
        self.exchange_type: type[Exchange] = Exchange
        self.connection_type: type[HttpConnection] = HttpConnection
        self.requests = 0
        self.refused = 0
        self.timeouts = 0
        self.files = StaticFiles(self)
        self.logs = AccessLogs(world, self)
        self._gate = Gate(self)
        self._factories: dict[str, HandlerFactory] = {}
        self._handlers: dict[tuple[int, HandlerSettings], tuple[DirectorySettings, Handler | None]] = {}
        """Identity of a directory, which is kept so that it stays one."""
        self._addresses: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._due: list[int] = []
        self._watched: dict[int, set[HttpConnection]] = {}
        """Tick -> connections that are looked at then; what is gone is out of it at once."""
        self._deadlines: DeadlineDriver | None = None
        self._empty: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._second = -1
        self._stamp = b""
        self.logs.apply(self.settings)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    # Configuration ----------------------------------------------------------------------------------------

    def register_handler(self, kind: str, factory: HandlerFactory) -> None:
        """Say who makes the handlers of a kind; directories name it in script maps and modules."""
        self._factories[kind] = factory
        self._forget()

    def apply(self, settings: ServerSettings) -> None:
        """Serve by other settings from the next request on; what is in flight goes on as it began.

        Listeners stay: `listen_all` opens what new bindings need. Raises ConfigurationError for certificates that
        cannot be used, and then nothing has changed.
        """
        made = [
            (listener, Contexts(settings.sites, listener.contexts.fallback))
            for listener in self.listeners
            if listener.contexts is not None
        ]
        for listener, contexts in made:
            assert listener.contexts is not None
            listener.contexts.succeed(contexts)
        self.settings = settings
        self.limits = settings.limits
        self.logs.apply(settings)
        self._second = -1
        self._forget()

    def _forget(self) -> None:
        self._handlers.clear()
        for listener in self.listeners:
            listener.routes.clear()
        self.files.clear()

    def handler_of(self, directory: DirectorySettings, wanted: HandlerSettings) -> Handler | None:
        """The handler of a directory; None where nobody registered its kind or it could not be made."""
        key = (id(directory), wanted)
        if key in self._handlers:
            return self._handlers[key][1]
        handler: Handler | None = None
        factory = self._factories.get(wanted.kind)
        if factory is None:
            log.error("%s: nobody answers requests of kind %r", directory.path, wanted.kind)
        else:
            try:
                handler = factory(directory, wanted.argument)
            except ConfigurationError as error:
                log.error("%s: %s", directory.path, error)
            except Exception:
                log.exception("%s: %s %s cannot be used", directory.path, wanted.kind, wanted.argument)
        self._handlers[key] = (directory, handler)
        return handler

    # Listening ----------------------------------------------------------------------------------------------

    async def listen(
        self, host: str, port: int, *, tls: TlsSettings | None = None, secure: bool | None = None
    ) -> Endpoint:
        """Accept connections; port 0 takes a free one. `secure`: with the sites' certificates; `tls`: with this one.

        Raises ConfigurationError where the address cannot be bound or a certificate not be used.
        """
        loop = self.loop
        if self._deadlines is None:
            self._deadlines = DeadlineDriver(loop, self.world, self._expire)
        listener = Listener(tls is not None if secure is None else secure)
        options: dict[str, Any] = {}
        if listener.tls:
            listener.contexts = Contexts(self.settings.sites, tls)
            options = {
                "ssl": listener.contexts.default,
                "ssl_handshake_timeout": self.limits.header_timeout,
                "ssl_shutdown_timeout": TLS_SHUTDOWN_S,
            }
        try:
            made = await loop.create_server(
                partial(self._accept, listener), host, port, backlog=2048, **options
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigurationError(f"cannot listen on {host}:{port}: {reason}") from error
        bound = made.sockets[0].getsockname()
        listener.endpoint = Endpoint(bound[0], bound[1], "https" if listener.tls else "http")
        listener.server_socket = made
        self.listeners.append(listener)
        forks.watch(self)
        self.world.ledger.endpoint.enter()
        return listener.endpoint

    async def listen_all(self) -> list[Endpoint]:
        """Listen wherever bindings name a port and nobody listens yet."""
        there = {(one.endpoint.host, one.endpoint.port) for one in self.listeners}
        found = []
        for site in self.settings.sites:
            for binding in site.bindings:
                place = (binding.address or "0.0.0.0", binding.port)
                if binding.port and place not in there:
                    there.add(place)
                    found.append(await self.listen(*place, secure=binding.tls))
        return found

    def _accept(self, listener: Listener) -> Any:
        connection = self.connection_type(self, listener)
        return connection if hands_out_bytes(self.loop) else Face(connection, self.loop)

    def descriptors(self) -> list[int]:
        """The sockets of its listeners and connections, for children that must not have them."""
        found = [
            sock.fileno()
            for listener in self.listeners
            if listener.server_socket is not None
            for sock in listener.server_socket.sockets
        ]
        for connection in self.connections:
            if connection.transport is not None:
                found.append(connection.transport.get_extra_info("socket").fileno())
        return found

    def after_fork(self) -> None:
        """Nobody is served in a child."""
        self.stopping = True

    # Connections --------------------------------------------------------------------------------------------

    def admit(self, connection: HttpConnection) -> None:
        """A connection was accepted: note who it is, or turn it away above a limit."""
        transport = connection.transport
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            connection.peer = (str(peer[0]), int(peer[1]))
        local = transport.get_extra_info("sockname")
        if isinstance(local, tuple):
            connection.local = (str(local[0]), int(local[1]))
        host = connection.peer[0]
        count = self._addresses.get(host, 0) + 1
        self._addresses[host] = count
        self.connections.add(connection)
        limits = self.limits
        if (
            self.stopping
            or len(self.connections) > limits.max_connections
            or count > limits.max_connections_per_address
        ):
            self.refused += 1
            log.debug("%s refused: %d connections, %d of it", host, len(self.connections), count)
            transport.abort()
            return
        transport.set_write_buffer_limits(high=limits.write_buffer)
        contexts = connection.listener.contexts
        if contexts is not None:
            ssl_object = transport.get_extra_info("ssl_object")
            connection.tls_found(ssl_object, contexts.binding_of(ssl_object))
        connection.wait(limits.header_timeout)

    def dismiss(self, connection: HttpConnection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        self._unwatch(connection)
        host = connection.peer[0]
        count = self._addresses.get(host, 0) - 1
        if count > 0:
            self._addresses[host] = count
        else:
            self._addresses.pop(host, None)
        if not self.connections:
            self._due.clear()
            self._watched.clear()
            if self._deadlines is not None:
                self._deadlines.close()  # nothing is left that could have a deadline
            if self._empty is not None and not self._empty.done():
                self._empty.set_result(None)

    def look_at(self, connection: HttpConnection, due: float) -> None:
        """See that this connection is looked at by then, to a tick."""
        self._unwatch(connection)
        tick = int(due * TICKS) + 1
        connection.listed = tick / TICKS
        watched = self._watched.get(tick)
        if watched is None:
            watched = self._watched[tick] = set()
            heappush(self._due, tick)
            if self._deadlines is not None:
                self._deadlines.want(tick / TICKS)
        watched.add(connection)

    def _unwatch(self, connection: HttpConnection) -> None:
        if connection.listed != inf:
            watched = self._watched.get(int(connection.listed * TICKS))
            if watched is not None:
                watched.discard(connection)
            connection.listed = inf

    def _expire(self, now: float) -> float | None:
        due = self._due
        while due and due[0] / TICKS <= now:
            for connection in self._watched.pop(heappop(due)):
                connection.listed = inf
                if connection.due <= now:
                    try:
                        connection.timed_out(now)
                    except Exception:
                        log.exception("%r cannot be ended", connection)
                elif connection.due != inf:
                    self.look_at(connection, connection.due)
        return due[0] / TICKS if due else None

    # Requests -------------------------------------------------------------------------------------------------

    def parse(self, raw: bytes) -> RequestHead:
        """Parse a head, and remember it where its bytes may come again. Raises BadRequest."""
        limits = self.limits
        if len(raw) > limits.max_head:
            raise BadRequest("the head is too long", 431)
        head = parse_request(raw, max_headers=limits.max_headers)
        if len(head.target) > limits.max_target:
            raise BadRequest("the request target is too long", 414)
        if len(raw) <= LARGEST_REMEMBERED and not head.marks & SECRET:
            if len(self.heads) >= MOST_HEADS:
                self.heads.clear()
            self.heads[raw] = head
        return head

    def begin(
        self,
        connection: HttpConnection,
        head: RequestHead,
        pieces: list[bytes] | None = None,
        more: bool = False,
    ) -> None:
        """A request is there: find who answers, ask who the client is, and hand it over."""
        self.requests += 1
        target = head.target
        if b"?" in target:
            target = target[: target.index(b"?")]
        route = connection.listener.routes.get((connection.local[0], head.host, target))
        if route is None:
            route = self._route(connection, head, target)
        exchange = self.exchange_type(connection, head, route)
        connection.exchange = exchange
        connection.references += 1
        counter = self.world.ledger.http_request
        counter.total += 1
        counter.live = live = counter.live + 1
        if live > counter.peak:
            counter.peak = live
        if route.site.log is not None:
            exchange.started = self.world.clock.now()
        if pieces is not None:
            exchange.body_timeout = self.limits.body_timeout
            exchange.begin_body(pieces, more)
        try:
            if self.filters is not None:
                if not self.filters.admit(exchange):
                    return
                head, route = exchange.head, exchange.route  # a filter may have sent it elsewhere
            if route.plain and not head.marks & AUTHORIZATION and connection.login is None:
                route.handler(exchange)
            else:
                self._gate.admit(exchange)
        except Exception:
            self.failed(exchange)

    def failed(self, exchange: Exchange) -> None:
        """A handler raised: its traceback is for our log, the client learns 500 or a cut."""
        log.exception("%s %s: the handler failed", exchange.method, exchange.path)
        if exchange.finished:
            return
        if exchange.head_sent:
            exchange.finish(keep=False, abort=True)
        else:
            error_pages.deny(exchange, 500, keep=False)

    def exchange_finished(self, exchange: Exchange) -> None:
        """From an exchange: it is over; its line goes to the log."""
        self.world.ledger.http_request.live -= 1
        if exchange.route.site.log is not None:
            self.logs.note(exchange)

    def refuse(self, connection: HttpConnection, error: BadRequest) -> None:
        """Answer bytes that are no request."""
        self.refused += 1
        log.debug("%s: %s", connection.peer[0], error)
        transport = connection.transport
        if transport is None:
            return
        body = error_pages.page(error.code)
        transport.write(
            b"HTTP/1.1 %s\r\n%sContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%s" % (error_pages.line(error.code), self.stamp(), len(body), body)
        )

    def stamp(self, *, server: bool = True, date: bool = True) -> bytes:
        """The Server and Date lines."""
        second = int(self.world.clock.utc())
        if second != self._second:
            name = self.settings.server_header.encode("latin-1", "replace")
            self._stamp = (b"Server: %s\r\n" % name if name else b"") + b"Date: %s\r\n" % http_date(second)
            self._second = second
        if server and date:
            return self._stamp
        return b"".join(
            line
            for line in self._stamp.splitlines(keepends=True)
            if (line.startswith(b"Server") and server) or (line.startswith(b"Date") and date)
        )

    @property
    def second(self) -> int:
        """The second that the stamp tells."""
        return self._second

    # Routes -------------------------------------------------------------------------------------------------

    def _route(self, connection: HttpConnection, head: RequestHead, target: bytes) -> Route:
        """Find who answers a target, and remember it where it does not depend on files."""
        authority, raw, _ = split_target(target)
        listener = connection.listener
        site = find_site(
            self.settings.sites,
            connection.local[0],
            connection.local[1],
            listener.tls,
            authority or head.host,
        )
        if site is None:
            return Route(NO_SITE, "/", Place(NOWHERE, None, "/"), _not_found, plain=True)
        try:
            path = "*" if raw == b"*" else decode_path(raw)
        except BadRequest as error:
            code = error.code
            place = find_place(site, "/")
            return Route(site, "/", place, partial(_deny, code, 0), plain=True)
        place = find_place(site, path)
        route = self.route_for(site, path, place)
        if place.certain and (len(head.host) + len(target)) < LARGEST_REMEMBERED:
            routes = listener.routes
            if len(routes) >= MOST_ROUTES:
                routes.clear()
            routes[connection.local[0], head.host, target] = route
        return route

    def route_for(self, site: SiteSettings, path: str, place: Place) -> Route:
        """A place with its handler."""
        directory = place.directory
        return Route(site, path, place, self._handler_at(path, place), plain=self._gate.is_open(directory))

    def _handler_at(self, path: str, place: Place) -> Handler:
        directory = place.directory
        if directory is NOWHERE:
            return _not_found
        if path == "*":
            return _options
        if place.handler is None:
            if place.physical is None:
                return _not_found
            return self.files.serve if directory.access & Access.READ else partial(_deny, 403, 2)
        if not directory.access & place.needs:
            return partial(_deny, 403, 1)
        if place.missing:
            return _not_found
        handler = self.handler_of(directory, place.handler)
        if handler is None:
            return partial(_deny, 500, 0)
        if place.verbs is not None:
            return partial(_only, place.verbs, handler)
        return handler

    # Tasks and the end ------------------------------------------------------------------------------------

    def spawn(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        """Run what answers an exchange in a task; what it raises is the handler's failure."""
        self.world.ledger.task.enter()
        task = self.loop.create_task(self._run(exchange, work), name="oxid http request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            self.failed(exchange)
        except asyncio.CancelledError:
            exchange.finish(keep=False, abort=True)
            raise
        finally:
            self.world.ledger.task.leave()

    async def aclose(self) -> None:
        """Stop accepting, let requests in flight end for a bounded time, cut the rest. May be called twice."""
        forks.forget(self)
        self.stopping = True
        listeners, self.listeners = self.listeners, []
        for listener in listeners:
            if listener.server_socket is not None:
                listener.server_socket.close()
                self.world.ledger.endpoint.leave()
        for connection in list(self.connections):
            if connection.exchange is None:
                connection.close()
        if self.connections:
            self._empty = self.loop.create_future()
            await asyncio.wait({self._empty}, timeout=self.limits.shutdown_timeout)
            for connection in list(self.connections):
                if connection.transport is not None:
                    connection.transport.abort()
            if self.connections:
                await self._empty
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for listener in listeners:
            if listener.server_socket is not None:
                try:  # from Python 3.12 on it waits for handshakes too, which have a time limit of their own
                    async with asyncio.timeout(TLS_SHUTDOWN_S):
                        await listener.server_socket.wait_closed()
                except TimeoutError:
                    log.debug("a TLS handshake outlives %s", listener.endpoint)
        await self.logs.aclose()
        self.files.clear()
        if self._deadlines is not None:
            self._deadlines.close()
        self._due.clear()
        self._watched.clear()
        self.threads.close()

    def statistics(self) -> dict[str, int]:
        return {
            "connections": len(self.connections),
            "requests": self.requests,
            "live_requests": self.world.ledger.http_request.live,
            "refused": self.refused,
            "timeouts": self.timeouts,
            "heads": len(self.heads),
            "files": len(self.files),
        }

    def __repr__(self) -> str:
        where = ", ".join(str(listener.endpoint) for listener in self.listeners)
        return (
            f"<WebServer {where or 'closed'}, {len(self.connections)} connections, {self.requests} requests>"
        )


def _deny(status: int, substatus: int, exchange: Exchange) -> None:
    error_pages.deny(exchange, status, substatus)


def _not_found(exchange: Exchange) -> None:
    error_pages.deny(exchange, 404)


def _options(exchange: Exchange) -> None:
    exchange.respond(200, b"", [(b"Allow", b"OPTIONS, GET, HEAD, POST")])


def _only(verbs: frozenset[str], handler: Handler, exchange: Exchange) -> None:
    """A script map's verbs. IS-40"""
    if exchange.method in verbs:
        handler(exchange)
    else:
        error_pages.deny(exchange, 405, 0, [(b"Allow", ", ".join(sorted(verbs)).encode())])
