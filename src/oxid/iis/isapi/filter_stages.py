"""Where a web server asks its filters: connections and exchanges that do so at each stage. isapi.md §9

    install_filters(server, chain)      before the first connection; servers without filters pay nothing

The stages, in the order of a request: raw data read, head read, authentication, URL mapped, authentication complete,
access denied, response sent, raw data sent, log, end of request; at the end of the connection, end of net session.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from oxid.http.heads import RequestHead
from oxid.http.responses import header_lines, status_line
from oxid.http.targets import split_target
from oxid.iis import error_pages
from oxid.iis.connection import HttpConnection
from oxid.iis.exchange import Exchange, Handler
from oxid.iis.isapi import constants as c
from oxid.iis.isapi.filters import STATE, FilterChain, LogRecord, Verdict

if TYPE_CHECKING:
    from oxid.iis.server import WebServer

PIECE = 256 * 1024
_UNREAD = "isapi.filters.unread"


def install_filters(server: WebServer, chain: FilterChain) -> None:
    """Let a server's connections and requests ask these filters."""
    server.filters = Stages(server, chain)
    server.exchange_type = FilteredExchange
    server.connection_type = FilteredConnection


class Stages:
    """What a server with filters calls."""

    __slots__ = ("chain", "server")

    def __init__(self, server: WebServer, chain: FilterChain) -> None:
        self.server = server
        self.chain = chain

    def admit(self, exchange: Exchange) -> bool:
        """Ask about a request before anything is decided; False where a filter has answered it."""
        verdict, head = self.chain.on_preproc_headers(exchange)
        if not _settle(exchange, verdict):
            return False
        if head is not None:
            self._route(exchange, head)
        if self.chain.wants(c.SF_NOTIFY_AUTHENTICATION) and not self._authenticate(exchange):
            return False
        if self.chain.wants(c.SF_NOTIFY_URL_MAP) and not self._map(exchange):
            return False
        if self.chain.wants(c.SF_NOTIFY_AUTH_COMPLETE):
            self._replace(exchange, partial(_complete, self.chain, exchange.route.handler))
        return True

    def _route(self, exchange: Exchange, head: RequestHead) -> None:
        """The request goes where its new head says."""
        exchange.head = head
        exchange.method = head.method
        target = head.target.partition(b"?")[0]
        exchange.route = self.server._route(exchange.connection, head, target)

    def _authenticate(self, exchange: Exchange) -> bool:
        user, password = _credentials(exchange.header(b"authorization"))
        if user is None:
            return True  # NTLM and Negotiate bring nothing that a filter could read
        verdict, new_user, new_password = self.chain.on_authentication(exchange, user, password)
        if not _settle(exchange, verdict):
            return False
        if (new_user, new_password) != (user, password):
            head = exchange.head
            headers = [pair for pair in head.headers if pair[0] != b"authorization"]
            if new_user:
                token = b64encode(f"{new_user}:{new_password}".encode())
                headers.append((b"authorization", b"Basic " + token))
            exchange.head = RequestHead(head.method, head.target, head.version, headers)
        return True

    def _map(self, exchange: Exchange) -> bool:
        url = split_target(exchange.target)[1].decode("latin-1")
        before = str(exchange.physical or "")
        verdict, physical = self.chain.on_url_map(exchange, url, before)
        if not _settle(exchange, verdict):
            return False
        if physical != before:
            route = exchange.route
            place = replace(route.place, physical=Path(physical))
            exchange.route = type(route)(route.site, route.path, place, route.handler, plain=route.plain)
        return True

    @staticmethod
    def _replace(exchange: Exchange, handler: Handler) -> None:
        route = exchange.route
        exchange.route = type(route)(route.site, route.path, route.place, handler, plain=route.plain)

    def connection_ended(self, connection: HttpConnection) -> None:
        """The last reference of a connection is gone."""
        self.chain.on_end_of_net_session(connection)
        connection.state.pop(STATE, None)


def _settle(exchange: Exchange, verdict: Verdict) -> bool:
    """Do what a verdict says; True where the request goes on."""
    if exchange.finished:
        return False
    if verdict is Verdict.PROCEED:
        return True
    if verdict is Verdict.ERROR and not exchange.head_sent:
        error_pages.deny(exchange, 500, keep=False)
    else:
        exchange.finish(keep=verdict is Verdict.FINISHED_KEEP)
    return False


def _complete(chain: FilterChain, handler: Handler, exchange: Exchange) -> None:
    if _settle(exchange, chain.on_auth_complete(exchange)):
        handler(exchange)


def _credentials(header: bytes | None) -> tuple[str | None, str]:
    """User and password of Basic; both empty for an anonymous request; None for other schemes."""
    if header is None:
        return "", ""
    scheme, _, token = header.partition(b" ")
    if scheme.lower() != b"basic":
        return None, ""
    try:
        user, _, password = b64decode(token.strip(), validate=True).decode("utf-8").partition(":")
    except (BadBase64, UnicodeDecodeError):
        return None, ""
    return user, password


class FilteredExchange(Exchange):
    """An exchange whose response and end the filters hear of."""

    _asked: bool = False

    @property
    def _chain(self) -> FilterChain:
        stages: Stages = self.connection.server.filters
        return stages.chain

    def _ask(
        self, status: bytes, headers: list[tuple[bytes, bytes]]
    ) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Status line and headers as the filters want them; may finish the exchange."""
        code = int(status[:3]) if status[:3].isdigit() else 200
        if code == 401 and not _settle(self, self._chain.on_access_denied(self)):
            return status, headers
        verdict, new, headers = self._chain.on_send_response(self, code, headers)
        if verdict is not Verdict.PROCEED:
            self.finish(keep=False)
        return (status if new == code else status_line(new)), headers

    def send_head(
        self, status: bytes, headers: bytes | Sequence[tuple[bytes, bytes]] = (), *, keep: bool
    ) -> None:
        if self._asked or self.finished:
            super().send_head(status, headers, keep=keep)
            return
        self._asked = True
        lines, _, content = header_lines(headers).partition(b"\r\n\r\n")
        status, pairs = self._ask(status, _pairs(lines))
        if not self.finished:
            super().send_head(status, header_lines(pairs) + b"\r\n" + content, keep=keep)

    def respond(
        self,
        status: int,
        body: bytes = b"",
        headers: bytes | Sequence[tuple[bytes, bytes]] = (),
        *,
        keep: bool = True,
    ) -> None:
        if self._asked or self.finished or self.head_sent:
            super().respond(status, body, headers, keep=keep)
            return
        self._asked = True
        line, pairs = self._ask(status_line(status), _pairs(header_lines(headers)))
        if not self.finished:
            pairs = [pair for pair in pairs if pair[0].lower() != b"content-length"]
            super().respond(int(line[:3]), body, pairs, keep=keep)

    def respond_prepared(self, response: bytes, status: int) -> None:
        head, _, body = response.partition(b"\r\n\r\n")
        lines = head.partition(b"\r\n")[2]
        own = (b"content-length", b"server", b"date", b"connection")
        pairs = [pair for pair in _pairs(lines) if pair[0].lower() not in own]
        self.respond(status, body, pairs)

    async def send_file(self, file: BinaryIO, offset: int, count: int) -> int:
        if not self._chain.wants(c.SF_NOTIFY_SEND_RAW_DATA):
            return await super().send_file(file, offset, count)
        sent = 0
        while sent < count and not self.lost:  # every byte passes the filters
            piece = os.pread(file.fileno(), min(PIECE, count - sent), offset + sent)
            if not piece:
                break
            self.write(piece)
            sent += len(piece)
            await self.drain()
        return sent

    def finish(self, *, keep: bool, abort: bool = False) -> None:
        if self.finished:
            return
        chain = self._chain
        if chain.wants(c.SF_NOTIFY_LOG):
            record = LogRecord(
                self.connection.peer[0],
                "" if self.user is None else self.user.name,
                self.connection.local[0],
                self.method,
                self.path,
                self.query.decode("latin-1"),
                self.status,
                self.win32_status,
            )
            chain.on_log(self, record)
            self.status, self.win32_status = record.status, record.win32
        chain.on_end_of_request(self)
        super().finish(keep=keep, abort=abort)


def _pairs(lines: bytes) -> list[tuple[bytes, bytes]]:
    found = []
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            found.append((name, value.strip()))
    return found


class FilteredConnection(HttpConnection):
    """A connection whose bytes the filters see, where one wants to."""

    __slots__ = ()

    @property
    def _chain(self) -> FilterChain:
        stages: Stages = self.server.filters
        return stages.chain

    def connection_made(self, transport: Any) -> None:
        if self._chain.wants(c.SF_NOTIFY_SEND_RAW_DATA):
            transport = _FilteredTransport(transport, self)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        chain = self._chain
        if not chain.wants(c.SF_NOTIFY_READ_RAW_DATA):
            super().data_received(data)
            return
        data = self.state.pop(_UNREAD, b"") + data
        verdict, data = chain.on_read_raw_data(self, data)
        if verdict is Verdict.READ_NEXT:
            if len(data) > self.server.limits.max_head + self.server.limits.read_ahead:
                verdict = Verdict.ERROR
            else:
                self.state[_UNREAD] = data
                return
        if verdict is not Verdict.PROCEED:
            if self.transport is not None:
                self.transport.close()
        elif data:
            super().data_received(data)


class _FilteredTransport:
    """A transport whose written bytes the filters see."""

    def __init__(self, transport: Any, connection: FilteredConnection) -> None:
        self._transport = transport
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        verdict, filtered = self._connection._chain.on_send_raw_data(self._connection, bytes(data))
        if verdict is Verdict.PROCEED:
            if filtered:
                self._transport.write(filtered)
        else:
            self._transport.close()

    def writelines(self, buffers: list[Any]) -> None:
        self.write(b"".join(buffers))
