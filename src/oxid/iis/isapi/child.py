"""Child requests: another URL answers an exchange in its place. EXEC_URL, SEND_URL; isapi.md §4

    services = WebServices(server)          what applications of a web server ask it
    cancel = services.execute(exchange, ChildRequest("/other"), done)

The child is an exchange of its own on the same connection, with the parent's body. When it is finished the parent has
sent what it sent; the parent's `finish` decides about the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from oxid.errors import LocalProtocolError
from oxid.http.errors import BadRequest
from oxid.http.heads import RequestHead
from oxid.http.targets import decode_path, split_target
from oxid.iis import error_pages
from oxid.iis.exchange import Exchange
from oxid.iis.isapi import constants as c
from oxid.iis.isapi.failures import IsapiError
from oxid.iis.isapi.services import ChildRequest, ErrorPage, ExecStatus, PlainServices
from oxid.iis.routes import Route, find_directory, find_place
from oxid.iis.settings import SiteSettings

if TYPE_CHECKING:
    from oxid.iis.server import WebServer

MAX_DEPTH: Final = 12
"""Child requests within each other; more is a circle."""


class ChildExchange(Exchange):
    """A request that answers in the place of another one."""

    depth: int = 1

    def __init__(
        self, parent: Exchange, head: RequestHead, route: Route, done: Callable[[ExecStatus], None]
    ) -> None:
        super().__init__(parent.connection, head, route)
        self._parent: Exchange | None = parent
        self._done: Callable[[ExecStatus], None] | None = done
        self._entity: bytes | None = None
        self._bare = False
        """The parent has sent a head: only content goes out."""
        self.depth = getattr(parent, "depth", 0) + 1
        self.user = parent.user
        self.started = parent.started
        self._lost = parent.lost
        parent.when_lost(self.client_gone)

    def give_entity(self, entity: bytes) -> None:
        """A body instead of the parent's."""
        self._entity = entity

    # The body is the parent's, or the entity -----------------------------------------------------------------

    @property
    def available(self) -> int:
        if self._entity is not None:
            return len(self._entity)
        return 0 if self._parent is None else self._parent.available

    @property
    def body_ended(self) -> bool:
        if self._entity is not None:
            return not self._entity
        return self._parent is None or self._parent.body_ended

    def take(self, limit: int | None = None) -> bytes:
        entity = self._entity
        if entity is not None:
            data, self._entity = entity[:limit], b"" if limit is None else entity[limit:]
            return data
        return b"" if self._parent is None else self._parent.take(limit)

    def when_body(self, wake: Callable[[], None]) -> None:
        if self._entity is not None or self._parent is None:
            wake()
        else:
            self._parent.when_body(wake)

    async def read(self, limit: int | None = None) -> bytes:
        if self._entity is not None or self._parent is None:
            return self.take(limit)
        return await self._parent.read(limit)

    def stream_body(self, receive: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        if self._entity is not None or self._parent is None:
            if self._entity:
                receive(self.take())
            ended()
        else:
            self._parent.stream_body(receive, ended)

    def pause_body(self) -> None:
        if self._parent is not None:
            self._parent.pause_body()

    def resume_body(self) -> None:
        if self._parent is not None:
            self._parent.resume_body()

    def send_continue(self) -> None:
        if self._parent is not None:
            self._parent.send_continue()

    def when_writable(self, wake: Callable[[], None]) -> None:
        if self._parent is None:
            wake()
        else:
            self._parent.when_writable(wake)

    # The response --------------------------------------------------------------------------------------------

    def send_head(
        self, status: bytes, headers: bytes | Sequence[tuple[bytes, bytes]] = (), *, keep: bool
    ) -> None:
        if self._bare:
            self.status = int(status[:3])
            self.head_sent = True
            return
        super().send_head(status, headers, keep=keep)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._bare and self._parent is not None:
            self._parent.write(data)
        else:
            super().write(data)

    def respond(
        self,
        status: int,
        body: bytes = b"",
        headers: bytes | Sequence[tuple[bytes, bytes]] = (),
        *,
        keep: bool = True,
    ) -> None:
        if self._bare:
            self.status = status
            self.write(body)
            self.finish(keep=keep)
        else:
            super().respond(status, body, headers, keep=keep)

    def respond_prepared(self, response: bytes, status: int) -> None:
        if self._bare:
            self.respond(status, response.partition(b"\r\n\r\n")[2])
        else:
            super().respond_prepared(response, status)

    def finish(self, *, keep: bool, abort: bool = False) -> None:
        """Hand what was sent to the parent, and tell that the child is done."""
        if self.finished:
            return
        self.finished = True
        parent, self._parent = self._parent, None
        done, self._done = self._done, None
        self._hearers = self._writers = self._body_wake = None
        self._entity = b""
        if parent is not None and not parent.finished:
            if not self._bare and self.head_sent:
                self._hand_over(parent, abort)
            self.connection.server.world.ledger.http_request.leave()
        self.connection = self.connection.server.nobody
        if done is not None:
            win32 = self.win32_status if not abort else c.ERROR_OPERATION_ABORTED
            done(ExecStatus(self.status, self.substatus, win32))

    def _hand_over(self, parent: Exchange, abort: bool) -> None:
        """The parent has sent what this sent, and ends as this would."""
        parent._framing = self._framing
        parent._complete = self._complete
        parent._overrun = self._overrun or abort
        parent.head_sent = True
        parent.status = self.status
        parent.substatus = self.substatus
        parent.bytes_sent += self.bytes_sent


class WebServices(PlainServices):
    """The services of a `WebServer`."""

    def __init__(self, server: WebServer) -> None:
        self._server = server
        self._without: dict[tuple[int, str], tuple[SiteSettings, SiteSettings]] = {}
        """(site, directory) -> the site, and itself without that directory's interceptors. Keeps both."""

    def execute(
        self, exchange: Exchange, child: ChildRequest, done: Callable[[ExecStatus], None]
    ) -> Callable[[], None]:
        server = self._server
        if getattr(exchange, "depth", 0) >= MAX_DEPTH or exchange.lost:
            raise IsapiError(c.ERROR_INVALID_PARAMETER, "EXEC_URL")
        bare = exchange.head_sent
        if bare and not child.flags & c.EXEC_URL_NO_HEADERS:
            raise IsapiError(c.ERROR_INVALID_PARAMETER, "EXEC_URL")
        head = _head_of(exchange, child)
        route = self._route(exchange, head, bool(child.flags & c.EXEC_URL_IGNORE_CURRENT_INTERCEPTOR))
        server.world.ledger.http_request.enter()
        made = ChildExchange(exchange, head, route, done)
        made._bare = bare
        if child.entity is not None:
            made.give_entity(child.entity)
        server.loop.call_soon(self._begin, made, route)
        return lambda: made.finish(keep=False, abort=True)

    def _begin(self, made: ChildExchange, route: Route) -> None:
        if made.finished:
            return
        try:
            if route.plain:
                route.handler(made)
            else:
                self._server._gate.admit(made)
        except Exception:
            self._server.failed(made)

    def _route(self, exchange: Exchange, head: RequestHead, ignore: bool) -> Route:
        site = exchange.site
        try:
            path = decode_path(split_target(head.target)[1])
        except BadRequest:
            raise IsapiError(c.ERROR_INVALID_DATA, "EXEC_URL") from None
        if ignore:
            directory = find_directory(site, path)
            if directory is not None:
                site = self._without_interceptors(site, directory.path)
        place = find_place(site, path)
        return self._server.route_for(site, path, place)

    def _without_interceptors(self, site: SiteSettings, path: str) -> SiteSettings:
        found = self._without.get((id(site), path))
        if found is None:
            if len(self._without) > 256:
                self._without.clear()
            directories = tuple(
                replace(one, script_maps=tuple(m for m in one.script_maps if m.extension != "*"))
                if one.path == path
                else one
                for one in site.directories
            )
            found = self._without[id(site), path] = site, replace(site, directories=directories)
        return found[1]

    def error_page(self, exchange: Exchange, status: int, substatus: int) -> ErrorPage:
        body = error_pages.page(status)
        headers = b"Content-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n" % len(body)
        return ErrorPage(error_pages.line(status), headers, body)

    def invalidate(self, url: str) -> None:
        self._server.files.clear()


def _head_of(exchange: Exchange, child: ChildRequest) -> RequestHead:
    """The child's head: the parent's, with what the extension changed. Raises IsapiError."""
    headers = list(exchange.headers)
    if child.headers is not None:
        framing = (b"content-length", b"transfer-encoding")  # the body is still the client's
        kept = [pair for pair in headers if pair[0] in framing]
        host = [pair for pair in headers if pair[0] == b"host"]
        headers = [pair for pair in _parsed(child.headers) if pair[0] not in framing]
        if not any(name == b"host" for name, _ in headers):
            headers = host + headers
        headers += kept
    if child.entity is not None:
        headers = [pair for pair in headers if pair[0] not in (b"content-length", b"transfer-encoding")]
        headers.append((b"content-length", b"%d" % len(child.entity)))
    target = exchange.target
    if child.url is not None:
        if not child.url.startswith("/") or any(ord(letter) <= 0x20 for letter in child.url):
            raise IsapiError(c.ERROR_INVALID_PARAMETER, "EXEC_URL")
        target = child.url.encode("utf-8")
    try:
        return RequestHead(child.method or exchange.method, target, exchange.version, headers)
    except (BadRequest, LocalProtocolError):
        raise IsapiError(c.ERROR_INVALID_PARAMETER, "EXEC_URL") from None


def _parsed(lines: bytes) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    for line in lines.split(b"\r\n"):
        if not line:
            continue
        name, colon, value = line.partition(b":")
        if not colon or not name.strip():
            raise IsapiError(c.ERROR_INVALID_PARAMETER, "EXEC_URL")
        found.append((name.strip().lower(), value.strip()))
    return found
