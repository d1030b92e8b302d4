"""ISAPI filters: who hears what of a request, in which order, and what their answers mean. isapi.md §9; IS-50, IS-51

    chain = FilterChain([first, second])                 ordered by priority, then as given (FilterLoadOrder)
    verdict = chain.on_preproc_headers(exchange)         the web server asks at each of its stages
    chain.on_end_of_net_session(connection)              once for every accepted connection

Filters run on the loop's thread and must not block. Their contexts live with the connection and end with it: the chain
keeps them in `connection.state`, so that nothing but the connection holds them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from oxid.http.errors import BadRequest
from oxid.http.heads import RequestHead
from oxid.iis.isapi import constants as c

if TYPE_CHECKING:
    from oxid.iis.connection import HttpConnection
    from oxid.iis.exchange import Exchange

log: Final = logging.getLogger("oxid.iis.isapi.filters")

STATE: Final = "isapi.filters"
"""Where the contexts are in a connection's state."""
ORDERS: Final = c.SF_NOTIFY_ORDER_HIGH | c.SF_NOTIFY_ORDER_MEDIUM | c.SF_NOTIFY_ORDER_LOW
FRAMING: Final = ("content-length:", "transfer-encoding:")
"""Headers that no filter changes: the body was framed by what the client sent."""
_PORTS: Final = c.SF_NOTIFY_SECURE_PORT | c.SF_NOTIFY_NONSECURE_PORT


class Verdict(IntEnum):
    """What the server is to do after the filters were asked."""

    PROCEED = 0
    FINISHED = 1
    """The filter has answered: end the request and close."""
    FINISHED_KEEP = 2
    """The filter has answered: end the request, keep the connection where that is possible."""
    ERROR = 3
    """Answer 500 and close."""
    READ_NEXT = 4
    """Raw data: read more first."""


_VERDICTS: Final = {
    c.SF_STATUS_REQ_FINISHED: Verdict.FINISHED,
    c.SF_STATUS_REQ_FINISHED_KEEP_CONN: Verdict.FINISHED_KEEP,
    c.SF_STATUS_REQ_ERROR: Verdict.ERROR,
    c.SF_STATUS_REQ_READ_NEXT: Verdict.READ_NEXT,
}


@dataclass(slots=True)
class PreprocHeaders:
    """SF_NOTIFY_PREPROC_HEADERS: the head, which may be changed."""

    method: str
    url: bytes
    version: tuple[int, int]
    headers: list[tuple[bytes, bytes]]

    def get(self, name: str) -> bytes | None:
        """A header by `Name:`, or `url`, `method`, `version`. IS-51"""
        special = {
            "url": self.url,
            "method": self.method.encode(),
            "version": b"HTTP/%d.%d" % self.version,
        }.get(name.lower())
        if special is not None:
            return special
        if not name.endswith(":"):
            return None
        wanted = name[:-1].lower().encode("latin-1", "replace")
        found = [value for key, value in self.headers if key == wanted]
        return b", ".join(found) if found else None

    def set(self, name: str, value: bytes) -> bool:
        """Replace a header, remove it by an empty value, or set url or method. False for what cannot be set, which
        includes the headers that say where the body ends."""
        if any(byte in value for byte in b"\r\n\0"):
            return False
        low = name.lower()
        if low == "url":
            if not value or b" " in value:
                return False
            self.url = value
        elif low == "method":
            self.method = value.decode("latin-1")
        elif not name.endswith(":") or low in FRAMING:
            return False
        else:
            key = low[:-1].encode("latin-1", "replace")
            self.headers[:] = [pair for pair in self.headers if pair[0] != key]
            if value:
                self.headers.append((key, value))
        return True

    def add(self, name: str, value: bytes) -> bool:
        """Add a header to those of the same name."""
        if not name.endswith(":") or name.lower() in FRAMING or any(byte in value for byte in b"\r\n\0"):
            return False
        self.headers.append((name[:-1].lower().encode("latin-1", "replace"), value))
        return True


@dataclass(slots=True)
class UrlMap:
    """SF_NOTIFY_URL_MAP: where a URL leads; the path may be changed."""

    url: str
    physical: str


@dataclass(slots=True)
class Authentication:
    """SF_NOTIFY_AUTHENTICATION: who asks; both may be changed. Anonymous: both are empty."""

    user: str
    password: str = field(repr=False)


@dataclass(slots=True)
class AccessDenied:
    """SF_NOTIFY_ACCESS_DENIED."""

    url: str
    physical: str
    reason: int = 0


@dataclass(slots=True)
class SendResponse:
    """SF_NOTIFY_SEND_RESPONSE: the head that is about to go out; it may be changed."""

    status: int
    headers: list[tuple[bytes, bytes]]

    def get(self, name: str) -> bytes | None:
        wanted = name.removesuffix(":").lower().encode("latin-1", "replace")
        found = [value for key, value in self.headers if key.lower() == wanted]
        return b", ".join(found) if found else None

    def set(self, name: str, value: bytes) -> bool:
        if any(byte in value for byte in b"\r\n\0"):
            return False
        if name.lower() == "status":
            self.status = int(value[:3])
            return True
        plain = name.removesuffix(":").encode("latin-1", "replace")
        self.headers[:] = [pair for pair in self.headers if pair[0].lower() != plain.lower()]
        if value:
            self.headers.append((plain, value))
        return True

    def add(self, name: str, value: bytes) -> bool:
        if any(byte in value for byte in b"\r\n\0"):
            return False
        self.headers.append((name.removesuffix(":").encode("latin-1", "replace"), value))
        return True


@dataclass(slots=True)
class LogRecord:
    """SF_NOTIFY_LOG: the line that is about to be written; it may be changed."""

    client: str
    user: str
    server: str
    operation: str
    target: str
    parameters: str
    status: int
    win32: int


@dataclass(slots=True)
class RawData:
    """SF_NOTIFY_READ_RAW_DATA and SEND_RAW_DATA: bytes of the connection; they may be changed."""

    data: bytes


class Filter(Protocol):
    """A filter as the chain sees it."""

    name: str
    flags: int
    """What it wants to hear, its priority, and on which ports."""

    def notify(
        self, session: Session, connection: HttpConnection, exchange: Exchange | None, kind: int, data: Any
    ) -> int:
        """Hear one notification; returns an SF_STATUS. What it raises counts as SF_STATUS_REQ_ERROR."""
        ...

    def session_ended(self, context: Any) -> None:
        """The connection is gone, and with it this context of it."""
        ...


class Session:
    """What the filters keep of one connection."""

    __slots__ = ("added", "contexts", "denial", "disabled", "ended")

    def __init__(self) -> None:
        self.contexts: dict[str, Any] = {}
        """Name of the filter -> its FilterContext."""
        self.disabled: dict[str, int] = {}
        """Name of the filter -> notifications that it does not want of this request any more."""
        self.added: list[tuple[bytes, bytes]] = []
        """Headers for the response of this request."""
        self.denial: list[tuple[bytes, bytes]] = []
        """Headers for a response of this request that denies access."""
        self.ended = False


class FilterChain:
    """The filters of a server or site, in their order."""

    def __init__(self, filters: Sequence[Filter] = ()) -> None:
        self.filters: tuple[Filter, ...] = tuple(
            sorted(filters, key=lambda one: -(one.flags & ORDERS or c.SF_NOTIFY_ORDER_LOW))
        )
        wanted = 0
        for one in self.filters:
            wanted |= one.flags
        self.wanted = wanted
        """Every notification that somebody wants: the server asks before it goes to any trouble."""
        self._lists: dict[tuple[int, bool], tuple[Filter, ...]] = {}

    def wants(self, kind: int) -> bool:
        """Whether any filter wants to hear this."""
        return bool(self.wanted & kind)

    def _for(self, kind: int, secure: bool) -> tuple[Filter, ...]:
        found = self._lists.get((kind, secure))
        if found is None:
            port = c.SF_NOTIFY_SECURE_PORT if secure else c.SF_NOTIFY_NONSECURE_PORT
            found = self._lists[kind, secure] = tuple(
                one
                for one in self.filters
                if one.flags & kind and (not one.flags & _PORTS or one.flags & port)
            )
        return found

    @staticmethod
    def session_of(connection: HttpConnection) -> Session:
        """The session of a connection, made at the first question."""
        found: Session | None = connection.state.get(STATE)
        if found is None:
            found = connection.state[STATE] = Session()
        return found

    def _tell(self, kind: int, connection: HttpConnection, exchange: Exchange | None, data: Any) -> Verdict:
        """Let every filter hear it until one has the last word."""
        session = self.session_of(connection)
        for one in self._for(kind, connection.tls is not None):
            if session.disabled.get(one.name, 0) & kind:
                continue
            try:
                status = one.notify(session, connection, exchange, kind, data)
            except (Exception, SystemExit):
                log.exception("filter %s failed", one.name)
                return Verdict.ERROR
            if status == c.SF_STATUS_REQ_NEXT_NOTIFICATION:
                continue
            if status == c.SF_STATUS_REQ_HANDLED_NOTIFICATION:
                return Verdict.PROCEED
            return _VERDICTS.get(status, Verdict.ERROR)
        return Verdict.PROCEED

    # The stages of a request ------------------------------------------------------------------------------

    def on_preproc_headers(self, exchange: Exchange) -> tuple[Verdict, RequestHead | None]:
        """The head was read, nothing was decided. Returns another head where one was made: route by that."""
        if not self.wanted & c.SF_NOTIFY_PREPROC_HEADERS:
            return Verdict.PROCEED, None
        head = exchange.head
        data = PreprocHeaders(head.method, head.target, head.version, list(head.headers))
        verdict = self._tell(c.SF_NOTIFY_PREPROC_HEADERS, exchange.connection, exchange, data)
        if verdict is not Verdict.PROCEED:
            return verdict, None
        if data.method == head.method and data.url == head.target and data.headers == head.headers:
            return verdict, None
        try:
            return verdict, RequestHead(data.method, data.url, head.version, data.headers)
        except BadRequest:
            log.warning("a filter made a head that is none")
            return Verdict.ERROR, None

    def on_url_map(self, exchange: Exchange, url: str, physical: str) -> tuple[Verdict, str]:
        """A URL was mapped to a path; returns the path to use."""
        if not self.wanted & c.SF_NOTIFY_URL_MAP:
            return Verdict.PROCEED, physical
        data = UrlMap(url, physical)
        return self._tell(c.SF_NOTIFY_URL_MAP, exchange.connection, exchange, data), data.physical

    def on_authentication(self, exchange: Exchange, user: str, password: str) -> tuple[Verdict, str, str]:
        """Somebody says who they are (Basic), or nobody does; returns what to check instead."""
        if not self.wanted & c.SF_NOTIFY_AUTHENTICATION:
            return Verdict.PROCEED, user, password
        data = Authentication(user, password)
        verdict = self._tell(c.SF_NOTIFY_AUTHENTICATION, exchange.connection, exchange, data)
        return verdict, data.user, data.password

    def on_auth_complete(self, exchange: Exchange) -> Verdict:
        """It is known who asks."""
        if not self.wanted & c.SF_NOTIFY_AUTH_COMPLETE:
            return Verdict.PROCEED
        return self._tell(c.SF_NOTIFY_AUTH_COMPLETE, exchange.connection, exchange, None)

    def on_access_denied(self, exchange: Exchange, reason: int = 0) -> Verdict:
        """401 is about to be sent."""
        if not self.wanted & c.SF_NOTIFY_ACCESS_DENIED:
            return Verdict.PROCEED
        data = AccessDenied(exchange.path, str(exchange.physical or ""), reason)
        return self._tell(c.SF_NOTIFY_ACCESS_DENIED, exchange.connection, exchange, data)

    def on_send_response(
        self, exchange: Exchange, status: int, headers: list[tuple[bytes, bytes]]
    ) -> tuple[Verdict, int, list[tuple[bytes, bytes]]]:
        """A head is about to go out; returns status and headers to send."""
        session: Session | None = exchange.connection.state.get(STATE)
        if session is not None and session.added:
            headers = headers + session.added
            session.added = []
        if session is not None and session.denial and status == 401:
            headers = headers + session.denial
            session.denial = []
        if not self.wanted & c.SF_NOTIFY_SEND_RESPONSE:
            return Verdict.PROCEED, status, headers
        data = SendResponse(status, headers)
        verdict = self._tell(c.SF_NOTIFY_SEND_RESPONSE, exchange.connection, exchange, data)
        return verdict, data.status, data.headers

    def on_log(self, exchange: Exchange, record: LogRecord) -> None:
        """A line is about to be logged; the record may be changed."""
        if self.wanted & c.SF_NOTIFY_LOG:
            self._tell(c.SF_NOTIFY_LOG, exchange.connection, exchange, record)

    def on_end_of_request(self, exchange: Exchange) -> None:
        """The request is over, before its connection is kept or closed."""
        if self.wanted & c.SF_NOTIFY_END_OF_REQUEST:
            self._tell(c.SF_NOTIFY_END_OF_REQUEST, exchange.connection, exchange, None)
        session: Session | None = exchange.connection.state.get(STATE)
        if session is not None:
            session.disabled.clear()
            session.added.clear()
            session.denial.clear()

    # The connection ---------------------------------------------------------------------------------------

    def on_read_raw_data(self, connection: HttpConnection, data: bytes) -> tuple[Verdict, bytes]:
        """Bytes came from the client; returns what to take for them."""
        if not self.wanted & c.SF_NOTIFY_READ_RAW_DATA:
            return Verdict.PROCEED, data
        raw = RawData(data)
        return self._tell(c.SF_NOTIFY_READ_RAW_DATA, connection, connection.exchange, raw), raw.data

    def on_send_raw_data(self, connection: HttpConnection, data: bytes) -> tuple[Verdict, bytes]:
        """Bytes are about to go to the client; returns what to send."""
        if not self.wanted & c.SF_NOTIFY_SEND_RAW_DATA:
            return Verdict.PROCEED, data
        raw = RawData(data)
        return self._tell(c.SF_NOTIFY_SEND_RAW_DATA, connection, connection.exchange, raw), raw.data

    def on_end_of_net_session(self, connection: HttpConnection) -> None:
        """The connection is gone: its filters hear it once, and their contexts end. IS-50"""
        if not self.filters:
            return
        session = self.session_of(connection)
        if session.ended:
            return
        session.ended = True
        session.disabled.clear()
        self._tell(c.SF_NOTIFY_END_OF_NET_SESSION, connection, None, None)
        contexts, session.contexts = session.contexts, {}
        for one in self.filters:
            if one.name in contexts:
                self._end_context(one, contexts.pop(one.name))

    @staticmethod
    def _end_context(one: Filter, context: Any) -> None:
        try:
            one.session_ended(context)
        except Exception:
            log.exception("filter %s failed", one.name)

    def __repr__(self) -> str:
        return f"<FilterChain {', '.join(one.name for one in self.filters) or 'empty'}>"


NO_FILTERS: Final = FilterChain()
"""What a server without filters asks."""
