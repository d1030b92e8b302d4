"""One request and its response, as whoever answers sees them. IS-10, IS-20, RH-20, RH-22

    def hello(exchange: Exchange) -> None:
        exchange.respond(200, b"hello", [(b"Content-Type", b"text/plain")])

    def echo(exchange: Exchange) -> None:                 both directions at once
        exchange.send_head(b"200 OK", [(b"Content-Length", b"1073741824")], keep=False)
        exchange.stream_body(exchange.write, lambda: exchange.finish(keep=False))

All calls come on the event loop's thread. `finish` is called exactly once, by the handler or through `respond`; after
it the exchange holds nothing of the connection, calls on it do nothing, and `lost` is true.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from oxid.http.heads import CONTINUE, RequestHead
from oxid.http.responses import REASONS, ResponseFraming, header_lines
from oxid.http.targets import split_target
from oxid.iis.request_body import RequestBody, settle
from oxid.iis.send_file import send_file

if TYPE_CHECKING:
    from pathlib import Path

    from oxid.iis.connection import HttpConnection
    from oxid.iis.login import HttpUser
    from oxid.iis.routes import Route
    from oxid.iis.settings import DirectorySettings, SiteSettings

log: Final = logging.getLogger("oxid.iis")

JOINED: Final = 64 * 1024
"""Bytes of a body that is copied behind its head for one write; above, two buffers cost less than the copy."""

_STATUS_LINES: Final = {
    code: b"HTTP/1.1 %d %s\r\n" % (code, reason.encode()) for code, reason in REASONS.items()
}

Handler = Callable[["Exchange"], None]
"""Called when the head is there and access was granted; sees to it that the exchange is finished sooner or later."""


class Exchange(RequestBody):
    """One HTTP request. What most requests never use lies in the class and costs an instance nothing."""

    user: HttpUser | None = None
    status: int = 0
    """Of the response, for the log; handlers may set it."""
    substatus: int = 0
    win32_status: int = 0
    bytes_sent: int = 0
    log_data: str = ""
    """What an extension appends to the log line."""
    log_query_extra: str = ""
    added_headers: bytes = b""
    """Lines that go with whatever response is sent: the last leg of a handshake, headers of filters."""
    head_sent: bool = False
    started: float = 0.0
    """World's `now` at the head; 0.0 where nothing logs it."""

    _own_headers: list[tuple[bytes, bytes]] | None = None
    _hearers: list[Callable[[], None]] | None = None
    _writers: list[Callable[[], None]] | None = None
    _framing: ResponseFraming | None = None
    _complete: bool = False
    """`respond` sent a whole response."""
    _continued: bool = False
    _overrun: bool = False

    def __init__(self, connection: HttpConnection, head: RequestHead, route: Route) -> None:
        self.connection = connection
        self.head = head
        self.route = route
        self.method: str = head.method

    # What came ---------------------------------------------------------------------------------------------

    @property
    def target(self) -> bytes:
        """The raw request target."""
        return self.head.target

    @property
    def path(self) -> str:
        """Decoded and checked, as the client wrote its case."""
        return self.route.path

    @property
    def query(self) -> bytes:
        """Raw, without `?`; b"" for none."""
        return split_target(self.head.target)[2]

    @property
    def version(self) -> tuple[int, int]:
        return self.head.version

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names in lower case, in order of arrival. The list is this exchange's own: filters may change it."""
        found = self._own_headers
        if found is None:
            found = self._own_headers = list(self.head.headers)
        return found

    def header(self, name: bytes) -> bytes | None:
        """The value of a header, duplicates joined with ", "; `name` in lower case."""
        if self._own_headers is None:
            return self.head.header(name)
        found = [value for key, value in self._own_headers if key == name]
        return b", ".join(found) if found else None

    @property
    def content_length(self) -> int | None:
        """Declared, or 0 for no body; None for chunked bodies and those until the end of the connection."""
        head = self.head
        if head.content_length is not None or head.chunked or head.method == "RPC_CONNECT":
            return head.content_length
        return 0

    @property
    def wants_keep_alive(self) -> bool:
        return self.head.keep_alive

    @property
    def expects_continue(self) -> bool:
        """The client waits for `100 Continue` before it sends the body."""
        return bool(self.head.marks & CONTINUE) and not self._continued

    @property
    def site(self) -> SiteSettings:
        return self.route.site

    @property
    def directory(self) -> DirectorySettings:
        return self.route.directory

    @property
    def physical(self) -> Path | None:
        """The file or directory that the URL names (or would name)."""
        return self.route.physical

    @property
    def script_name(self) -> str:
        """The part of the path that names what runs."""
        return self.route.script_name

    @property
    def path_info(self) -> str:
        """The part of the path behind it."""
        return self.route.path_info

    # The response ----------------------------------------------------------------------------------------------

    def send_continue(self) -> None:
        """`100 Continue`, where the client waits for it and has sent nothing yet. RH-22"""
        if self._continued or not self.head.marks & CONTINUE or self.head_sent:
            return
        self._continued = True
        transport = self.connection.transport
        if transport is not None and not self.bytes_received and self.head.version >= (1, 1):
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def send_head(
        self, status: bytes, headers: bytes | Sequence[tuple[bytes, bytes]] = (), *, keep: bool
    ) -> None:
        """Send status line and headers; Server, Date and Connection are added where they are not given.

        `status` is like b"200 OK". `headers` as bytes are lines that end with CRLF; an empty line ends them, and what
        comes behind it is content. Raises LocalProtocolError for headers that cannot be sent.
        """
        lines = header_lines(headers)
        content = b""
        if (end := lines.find(b"\r\n\r\n")) >= 0:
            lines, content = lines[: end + 2], lines[end + 4 :]
        elif lines == b"\r\n":
            lines = b""
        status = status.replace(b"\r", b" ").replace(b"\n", b" ")
        lower = b"\r\n" + lines.lower()
        framing = ResponseFraming(self.method)
        framing.understand(b"HTTP/1.1 %s\r\n%s\r\n" % (status, lines))
        out = bytearray(b"HTTP/1.1 ")
        out += status
        out += b"\r\n"
        out += self.connection.server.stamp(
            server=b"\r\nserver:" not in lower, date=b"\r\ndate:" not in lower
        )
        out += lines
        out += self.added_headers
        if b"\r\nconnection:" not in lower:
            # a body that is still coming may be read by then: only the end knows
            if not keep or not framing.delimited or not (self.head.keep_alive and self.route.site.keep_alive):
                out += b"Connection: close\r\n"
                framing.closes = True
            elif self.head.version < (1, 1):
                out += b"Connection: keep-alive\r\n"
        out += b"\r\n"
        self.status = framing.status or 200
        self.head_sent = True
        self._framing = framing
        transport = self.connection.transport
        if transport is not None and not self.finished:
            self.bytes_sent += len(out)
            transport.write(out)
        if content:
            self.write(content)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send raw bytes behind the head, or a response with a head of the caller's own. Never blocks: see `writable`.

        What exceeds a declared length is not sent, and the connection is closed behind this response.
        """
        transport = self.connection.transport
        if transport is None or self.finished or self._lost:
            return
        framing = self._framing
        if framing is None:
            framing = self._framing = ResponseFraming(self.method)
            self.head_sent = True
        allowed = framing.sent(data)
        if self.status == 0:
            self.status = framing.status
        if allowed < len(data):
            self._overrun = True
            data = memoryview(data)[:allowed]
            if not allowed:
                return
        self.bytes_sent += allowed  # before the write, in which the connection may look at it
        transport.write(data)

    def write_all(self, buffers: list[Any]) -> None:
        """Send several buffers with one system call where the loop can."""
        connection = self.connection
        transport = connection.transport
        if transport is None or self.finished or self._lost:
            return
        framing = self._framing
        if framing is None or framing.delimited or not framing.head_known:
            sizes = 0
            allowed = []
            if framing is None:
                framing = self._framing = ResponseFraming(self.method)
                self.head_sent = True
            for buffer in buffers:
                size = framing.sent(buffer)
                if size < len(buffer):
                    self._overrun = True
                    buffer = memoryview(buffer)[:size]
                if size:
                    allowed.append(buffer)
                    sizes += size
            if self.status == 0:
                self.status = framing.status
            buffers = allowed
        else:
            sizes = sum(map(len, buffers))
        if sizes:
            self.bytes_sent += sizes
            connection.write_buffers(buffers)

    @property
    def writable(self) -> bool:
        """The client takes what it is sent; where not, wait with `when_writable` or `drain`."""
        return not self.connection.stalled

    def when_writable(self, wake: Callable[[], None]) -> None:
        """Call `wake` once when the client takes more, or is gone; at once where that is so now."""
        if not self.connection.stalled or self._lost or self.finished:
            wake()
        elif self._writers is None:
            self._writers = [wake]
        else:
            self._writers.append(wake)

    async def drain(self) -> None:
        """Wait until the client takes more, or is gone."""
        if self.connection.stalled and not self._lost:
            waiter = asyncio.get_running_loop().create_future()
            self.when_writable(partial(settle, waiter))
            await waiter

    async def send_file(self, file: BinaryIO, offset: int, count: int) -> int:
        """Send `count` bytes of a file from `offset` as content; returns how many went out.

        They go from the kernel's cache to the socket where there is no TLS. Fewer where the file ends earlier or the
        client is gone: the connection is then closed at `finish`.
        """
        if self._framing is not None:
            wanted, count = count, self._framing.skip(count)
            self._overrun |= count < wanted
        sent = await send_file(self, file, offset, count)
        self.bytes_sent += sent
        if sent < count:
            self._overrun = (
                True  # what was declared is not there: only the end of the connection tells the client
            )
        return sent

    def respond(
        self,
        status: int,
        body: bytes = b"",
        headers: bytes | Sequence[tuple[bytes, bytes]] = (),
        *,
        keep: bool = True,
    ) -> None:
        """Send a whole small response and finish. `headers` as for `send_head`, without the empty line."""
        if self.finished:
            return
        self.status = status
        connection = self.connection
        transport = connection.transport
        if transport is None or self.head_sent:
            self.finish(keep=False)
            return
        if headers:
            headers = header_lines(headers)
        out = (_STATUS_LINES.get(status) or b"HTTP/1.1 %d Status\r\n" % status) + connection.server.stamp()
        if headers:
            out += headers  # type: ignore[operator]  # lines by now
        if self.added_headers:
            out += self.added_headers
        if keep and self._may_keep():
            if self.head.version == (1, 0):
                out += b"Connection: keep-alive\r\n"
        else:
            keep = False
            out += b"Connection: close\r\n"
        if status == 304 or status == 204:
            body = b""
            out += b"\r\n"
        else:
            out += b"Content-Length: %d\r\n\r\n" % len(body)
            if self.method == "HEAD":
                body = b""
        size = len(body)
        self.bytes_sent += len(out) + size
        if size <= JOINED:
            transport.write(out + body)
        else:
            connection.write_buffers([out, body])
        self.head_sent = True
        self._complete = True
        self.finish(keep=keep)

    def respond_prepared(self, response: bytes, status: int) -> None:
        """Send a response that was built before, head and content, and finish; the client keeps the connection."""
        transport = self.connection.transport
        self.status = status
        if transport is None:
            self.finish(keep=False)
            return
        self.bytes_sent = len(response)
        transport.write(response)
        self.head_sent = self._complete = True
        self.finish(keep=True)

    def _may_keep(self) -> bool:
        return self.head.keep_alive and self.route.site.keep_alive and self.connection.may_keep()

    @property
    def keeps(self) -> bool:
        """Whether the connection may go on behind this request, as far as client, site and body say. IS-10"""
        return not self.finished and self._may_keep()

    # The end -----------------------------------------------------------------------------------------------------

    @property
    def lost(self) -> bool:
        """Nobody is there any more to answer."""
        return self._lost or self.finished

    def when_lost(self, hear: Callable[[], None]) -> None:
        """Call `hear` when the client goes before the exchange is finished; at once where it has gone."""
        if self._lost:
            hear()
        elif self._hearers is None:
            self._hearers = [hear]
        else:
            self._hearers.append(hear)

    def client_gone(self) -> None:
        """From the connection: wake everybody who waits for the client."""
        if self._lost or self.finished:
            return
        self._lost = True
        self._body_open = False
        hearers, self._hearers = self._hearers, None
        for hear in hearers or ():
            _call(hear)
        self.client_reads()
        wake, self._body_wake = self._body_wake, None
        if wake is not None:
            _call(wake)
        ended, self._ended = self._ended, None
        self._receive = None
        if ended is not None and not self.finished:
            _call(ended)

    def give_up(self, status: int) -> None:
        """From the connection: the client broke a rule or a time limit; it is answered, and the handler told."""
        hearers, self._hearers = self._hearers, None
        wake, self._body_wake = self._body_wake, None
        ended, self._ended = self._ended, None
        if self.head_sent:
            self.finish(keep=False, abort=True)
        else:
            self.respond(status, keep=False)
        for hear in (*(hearers or ()), wake, ended):
            if hear is not None:
                _call(hear)

    def client_reads(self) -> None:
        """From the connection: it takes more, or is gone."""
        writers, self._writers = self._writers, None
        for wake in writers or ():
            _call(wake)

    def finish(self, *, keep: bool, abort: bool = False) -> None:
        """End the exchange; the second call does nothing.

        The connection goes on only where all of IS-10 holds: `keep`, the client's wish, the site's, a response that
        ends by itself and is whole, a body that is read or can be. `abort`: cut the connection with a reset.
        """
        if self.finished:
            return
        self.finished = True
        connection = self.connection
        if keep:
            framing = self._framing
            keep = (
                not abort
                and (
                    self._complete
                    or (framing is not None and framing.complete and not framing.closes and not self._overrun)
                )
                and self._may_keep()
            )
        from_server = connection.server
        from_server.exchange_finished(self)
        self.connection = from_server.nobody
        if self._pieces is not None:
            self._pieces = None
            self._available = 0
        self._receive = self._ended = self._body_wake = self._hearers = None
        if self._writers is not None:
            self.client_reads()
        connection.exchange_finished(keep, abort)

    def __repr__(self) -> str:
        state = "finished" if self.finished else "lost" if self._lost else "live"
        return f"<Exchange {self.method} {self.path} {state}, status {self.status}, {self.bytes_sent} bytes sent>"


def _call(hear: Callable[[], None]) -> None:
    """Tell somebody; what they raise is theirs, and must not keep others from hearing."""
    try:
        hear()
    except Exception:
        log.exception("a handler failed when its client went")
