"""A client's connection: heads are found in its bytes, bodies counted off, requests begun one after the other.

Nothing here waits: bytes come in `data_received`, which dispatches before it returns. A request behind another one
(pipelining) stays in the inbox until the former is finished. The connection object counts its references: one of the
transport and one of each live exchange (isapi.md 6); `http_connection` counts it until the last is dropped.
"""

from __future__ import annotations

import logging
import socket
import ssl
from fcntl import ioctl
from math import inf
from struct import pack, unpack
from termios import TIOCOUTQ
from typing import TYPE_CHECKING, Any, Final

from oxid.http.chunked import ChunkedDecoder
from oxid.http.errors import BadRequest
from oxid.http.heads import RequestHead, lone_line_feed
from oxid.iis.tls import TlsInfo
from oxid.runtime.tcp import vector_writer

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange
    from oxid.iis.listener import Listener
    from oxid.iis.login import ConnectionLogin
    from oxid.iis.server import WebServer

log: Final = logging.getLogger("oxid.iis.connection")

END: Final = b"\r\n\r\n"
FOREVER: Final = -1
"""Bytes left of a body that ends with the connection."""
SHORTEST: Final = 26
"""Bytes within which a request line shows what it is, or is none."""


class HttpConnection:
    """One connection of the web server."""

    __slots__ = (
        "_chunks",
        "_closing",
        "_discard",
        "_file_sent",
        "_held",
        "_inbox",
        "_left",
        "_paused",
        "_scanned",
        "_sent_before",
        "_serving",
        "_state",
        "_write",
        "due",
        "exchange",
        "listed",
        "listener",
        "local",
        "login",
        "peer",
        "references",
        "requests",
        "sending_file",
        "server",
        "stalled",
        "tls",
        "transport",
    )

    def __init__(self, server: WebServer, listener: Listener) -> None:
        self.server = server
        self.listener = listener
        self.transport: Any = None
        self.peer: tuple[str, int] = ("", 0)
        self.local: tuple[str, int] = ("", 0)
        self.tls: TlsInfo | None = None
        self.login: ConnectionLogin | None = None
        """Who authenticated on this connection, or is about to."""
        self.exchange: Exchange | None = None
        """The request being answered."""
        self.references = 0
        self.requests = 0
        self.stalled = False
        """The client does not take what it is sent."""
        self.sending_file = False
        self.due = inf
        """When patience ends; inf while nobody is waited for."""
        self.listed = inf
        """When the server looks at this connection again."""
        self._state: dict[str, Any] | None = None
        self._inbox = b""
        self._scanned = 0
        self._left = 0
        """Bytes to come of the request's body, or FOREVER."""
        self._chunks: ChunkedDecoder | None = None
        self._discard = -1
        """Body bytes that may still be read away; -1 while the body is wanted."""
        self._closing = False
        """No further request; what comes is read away."""
        self._serving = False
        self._held = False
        self._paused = False
        self._sent_before = 0
        self._file_sent = 0
        self._write: Any = None

    @property
    def state(self) -> dict[str, Any]:
        """Whatever is to live as long as the connection (filters)."""
        if self._state is None:
            self._state = {}
        return self._state

    # From the transport ------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.references = 1
        self.server.world.ledger.http_connection.enter()
        self._write = vector_writer(transport, self.server.loop)
        self.server.admit(self)

    def tls_found(self, ssl_object: ssl.SSLObject, channel_binding: bytes | None) -> None:
        """Note what was agreed in the handshake."""
        name, protocol, bits = ssl_object.cipher() or ("", "", 0)
        self.tls = TlsInfo(name, protocol, bits, ssl_object.getpeercert(True), channel_binding)

    def connection_lost(self, error: Exception | None) -> None:
        if self.transport is None:
            return
        self.transport = None
        self._write = None
        self._inbox = b""
        self._left = 0
        self._chunks = None
        self._closing = True
        self.due = inf
        self.stalled = False
        self.server.dismiss(self)
        if self.login is not None:
            self.login.close()
            self.login = None
        exchange = self.exchange
        if exchange is not None:
            exchange.client_gone()
        self.release()

    def eof_received(self) -> bool:
        """The client sends no more: that ends a body without length, and any other unfinished business."""
        if self._left == FOREVER and self.exchange is not None and not self._closing:
            self._left = 0
            self.due = inf
            self.exchange.body_complete()
            return self.tls is None and self.transport is not None  # the answer may still go on
        if self.transport is not None:
            self._closing = True
            self._inbox = b""
            self._sent_before = self._taken()
            self.wait(self.server.limits.response_timeout)  # for what is written and may never be taken
            if self.exchange is not None:
                self.exchange.client_gone()
        return False

    def pause_writing(self) -> None:
        self.stalled = True
        if not self.sending_file:
            limits = self.server.limits
            self._sent_before = self._taken()
            self.wait(limits.response_timeout)

    def resume_writing(self) -> None:
        self.stalled = False
        if self._closing:
            self.wait(self.server.limits.response_timeout)
        elif self.exchange is None:
            self._next()
        else:
            self.due = inf
        if self.exchange is not None:
            self.exchange.client_reads()

    def data_received(self, data: bytes) -> None:
        if self._left or self._chunks is not None:
            self._body_received(data)
        elif self._closing:
            return
        elif self.exchange is not None or self._serving or self.stalled:
            self._inbox += data
            if len(self._inbox) > self.server.limits.read_ahead:
                self._pause()
        elif self._inbox:
            self._inbox += data
            self._serve(self._inbox)
        else:
            self._serve(data)

    # Heads ---------------------------------------------------------------------------------------------------

    def _serve(self, data: bytes) -> None:
        """Begin the requests in `data`, as many as are there and finish at once."""
        at = 0
        server = self.server
        self._serving = True
        try:
            while True:
                while data[at : at + 2] == b"\r\n":
                    at += 2  # empty lines before a request are forgiven. RFC 9112 2.2
                end = data.find(END, max(at, self._scanned - 3))
                if end < 0:
                    self._wait_for_head(data[at:] if at else data)
                    return
                end += 4
                raw = data if at == 0 and end == len(data) else data[at:end]
                head = server.heads.get(raw)
                if head is None:
                    head = self._parse(raw)
                    if head is None:
                        return
                self._scanned = 0
                self._inbox = b""
                at = end
                self.requests += 1
                if head.content_length or head.chunked or head.method == "RPC_CONNECT":
                    at = self._begin_with_body(head, data, end)
                else:
                    self.due = inf
                    server.begin(self, head)
                if self._closing:
                    return
                if self.exchange is not None or self._left or self._chunks is not None:
                    self._inbox = data[at:] + self._inbox
                    return
                if self.stalled:
                    # who asks without reading the answers is not asked for more
                    self._inbox = data[at:] + self._inbox
                    self._pause()
                    return
                if at == len(data) and self._inbox:
                    data, at, self._inbox = self._inbox, 0, b""
                if at == len(data):
                    self.wait(server.limits.keep_alive_timeout)
                    return
        finally:
            self._serving = False

    def _parse(self, raw: bytes) -> RequestHead | None:
        """A head that was not seen before; None where it was refused."""
        try:
            return self.server.parse(raw)
        except BadRequest as error:
            self.refuse(error)
            return None

    def _wait_for_head(self, data: bytes) -> None:
        """Keep the beginning of a head, unless it cannot become one."""
        limits = self.server.limits
        if not data:
            self._inbox = b""
            if self.due == inf:
                self.wait(limits.keep_alive_timeout)
            return
        if lone_line_feed(data, max(0, self._scanned - 1)):
            self.refuse(BadRequest("a line that ends without CR"))
            return
        line = data.find(b"\r\n")
        if (len(data) if line < 0 else line) > limits.max_target:
            self.refuse(BadRequest("the request target is too long", 414))
        elif len(data) > limits.max_head:
            self.refuse(BadRequest("the head is too long", 431))
        elif data[0] < 0x21 and data[:2] not in (b"\r", b"\r\n"):
            self.refuse(BadRequest("this is not HTTP"))
        else:
            if not self._inbox:
                self.wait(limits.header_timeout)
            self._inbox = data
            self._scanned = len(data)

    def refuse(self, error: BadRequest) -> None:
        """Answer what cannot be understood, and close."""
        self._inbox = b""
        self._left = 0
        self._chunks = None
        self.server.refuse(self, error)
        self.close(linger=True)

    # Bodies --------------------------------------------------------------------------------------------------

    def _begin_with_body(self, head: RequestHead, data: bytes, at: int) -> int:
        """Begin a request whose body's first bytes may be in `data`; returns where what belongs to others begins."""
        self._discard = -1
        self._held = False
        if head.chunked:
            self._chunks = ChunkedDecoder()
        elif head.content_length is None:
            self._left = FOREVER
        else:
            self._left = head.content_length
        self.due = inf
        begin = self.server.begin
        # What has come is there when the handler is called (IS-27), but may not end the exchange before it began.
        pieces, used, error = self._decode(data[at:]) if at < len(data) else ([], 0, None)
        begin(self, head, pieces, self._left != 0 or self._chunks is not None)
        if error is not None and not self._closing:
            self._break(error)
        return at + used

    def _decode(self, data: bytes) -> tuple[list[bytes], int, BadRequest | None]:
        """The pieces of the body in `data`, and how many bytes they took."""
        if self._chunks is not None:
            try:
                pieces, used = self._chunks.receive(data)
            except BadRequest as error:
                return [], len(data), error
            if self._chunks.ended:
                self._chunks = None
            return pieces, used, None
        if self._left == FOREVER:
            return [data], len(data), None
        if len(data) <= self._left:
            self._left -= len(data)
            return [data], len(data), None
        piece = data[: self._left]
        self._left = 0
        return [piece], len(piece), None

    def _body_received(self, data: bytes) -> None:
        pieces, used, error = self._decode(data)
        exchange = self.exchange
        if used < len(data) and not self._closing:
            self._inbox += data[used:]
        if error is not None:
            self._break(error)
            return
        ended = not self._left and self._chunks is None
        if self._discard >= 0 or exchange is None:
            self._discarded(sum(map(len, pieces)), ended)
            return
        if ended:
            self.due = inf
        elif self.due != inf and not self.stalled and exchange.body_timeout is not None:
            self.due = self.server.world.clock.now() + exchange.body_timeout
        try:
            for piece in pieces:
                exchange.body_arrived(piece)
                if self.exchange is not exchange:
                    return  # it finished on this piece
            if ended:
                exchange.body_complete()
        except Exception:
            self.server.failed(exchange)
            return
        if not ended and exchange.available > self.server.limits.read_ahead:
            self._pause()

    def _break(self, error: BadRequest) -> None:
        """The body's framing is broken: where the next request would begin is unknown."""
        self._left = 0
        self._chunks = None
        log.debug("%s: %s", self.peer[0], error)
        if self.exchange is None:
            self.close(linger=True)
        else:
            self.exchange.give_up(error.code)

    def _discarded(self, count: int, ended: bool) -> None:
        """A body nobody wants is read away; too much of it ends the connection."""
        self._discard -= count
        if self._closing:
            return
        if self._discard < 0:
            self.close(linger=True)
        elif ended:
            self._discard = -1
            self._next()

    def body_wanted(self) -> None:
        """The handler waits for the body: from now on the client has to send."""
        exchange = self.exchange
        if exchange is not None and exchange.body_timeout is not None and self.due == inf:
            self.wait(exchange.body_timeout)

    def body_taken(self) -> None:
        """Room was made in the read-ahead."""
        if self._paused and not self._held:
            self._resume()

    def hold_body(self, held: bool) -> None:
        """Real backpressure: while held, the socket is not read."""
        self._held = held
        if held:
            self.due = inf
            self._pause()
        elif self._paused:
            self._resume()

    def may_keep(self) -> bool:
        """Whether another request could follow: the body is read, or can be read away."""
        if self._closing or self.server.stopping:
            return False
        if self._chunks is not None:
            return True
        return 0 <= self._left <= self.server.limits.drain

    def forget_body(self) -> None:
        """The declared body will not come: what follows is the next request. RH-26

        Only for requests of RPC over HTTP that were refused before a byte of their body came.
        """
        self._left = 0
        self._chunks = None

    # The end of requests -----------------------------------------------------------------------------------

    def exchange_finished(self, keep: bool, abort: bool) -> None:
        """From the exchange: it is over."""
        if self.stalled and self.exchange is not None:
            self._sent_before -= self.exchange.bytes_sent  # counted per exchange, and a new one begins at 0
        self.exchange = None
        if self.transport is not None:
            self._held = False
            if abort:
                self.reset()
            elif not keep or self._closing:
                self.close(linger=bool(self._left or self._inbox) or self._chunks is not None)
            elif self._left or self._chunks is not None:
                self._discard = self.server.limits.drain
                self._resume()
                self.wait(self.server.limits.linger * 5)
            elif not self._serving:
                self._next()
        self.release()

    def _next(self) -> None:
        """Go on with what was sent behind the request that has ended, or wait for it."""
        if self.stalled:
            self.wait(self.server.limits.response_timeout)
            return
        if self._paused:
            self._resume()
        if self._inbox:
            self.server.loop.call_soon(self._serve_inbox)
        else:
            self.wait(self.server.limits.keep_alive_timeout)

    def _serve_inbox(self) -> None:
        if (
            self.transport is not None
            and self.exchange is None
            and self._inbox
            and not self._closing
            and not self._left
            and self._chunks is None
        ):
            self._serve(self._inbox)

    def release(self) -> None:
        """Drop one reference."""
        self.references -= 1
        if self.references == 0:
            if self.server.filters is not None:
                self.server.filters.connection_ended(self)
            self.server.world.ledger.http_connection.leave()

    # Time ------------------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Be patient for so long."""
        due = self.due = self.server.world.clock.now() + seconds
        if due < self.listed:
            self.server.look_at(self, due)

    def timed_out(self, now: float) -> None:
        """From the server: patience has ended."""
        self.due = inf
        transport = self.transport
        if transport is None:
            return
        exchange = self.exchange
        if self.stalled or self.sending_file:
            limits = self.server.limits
            taken = self._taken()
            if taken - self._sent_before >= limits.minimum_rate * limits.response_timeout:
                self._sent_before = taken
                self.wait(limits.response_timeout)
                return
            log.debug("%s takes nothing of its response", self.peer[0])
            self.server.timeouts += 1
            self.reset()
        elif self._closing:
            transport.abort()
        elif exchange is not None:
            self.server.timeouts += 1
            exchange.give_up(408)
        elif self._inbox:
            self.server.timeouts += 1
            self.refuse(BadRequest("the head took too long", 408))
        else:
            self.close()  # idle

    def progress(self, sent: int | None) -> None:
        """From a file being sent past the transport: so much of it went to the kernel; None where it has ended."""
        if sent is None:
            self._file_sent = 0
            self.due = inf
        elif self._file_sent or sent:
            self._file_sent = sent
        else:
            self._sent_before = self._taken()
            self.wait(self.server.limits.response_timeout)

    def _taken(self) -> int:
        """Response bytes that the client's machine has acknowledged."""
        exchange = self.exchange
        transport = self.transport
        held: int = transport.get_write_buffer_size()
        queued = 0
        sock = transport.get_extra_info("socket")
        try:
            if sock is not None:
                (queued,) = unpack("i", ioctl(sock.fileno(), TIOCOUTQ, bytes(4)))
        except (OSError, ValueError):
            pass  # the socket is going
        sent = 0 if exchange is None else exchange.bytes_sent
        return sent + self._file_sent - held - queued

    # Writing and closing -----------------------------------------------------------------------------------

    def write_buffers(self, buffers: list[Any]) -> None:
        if self._write is not None:
            self._write(buffers)

    async def flushed(self) -> None:
        """Wait until everything written is with the kernel, or the client is gone."""
        transport = self.transport
        exchange = self.exchange
        if transport is None or exchange is None or not transport.get_write_buffer_size():
            return
        transport.set_write_buffer_limits(high=0)
        try:
            await exchange.drain()
        finally:
            if self.transport is not None:
                transport.set_write_buffer_limits(high=self.server.limits.write_buffer)

    def _pause(self) -> None:
        if not self._paused and self.transport is not None and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and self.transport is not None:
            self._paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def close(self, *, linger: bool = False) -> None:
        """Close behind what is written. `linger`: the client is still sending, and would lose its answer in a reset."""
        transport = self.transport
        if transport is None or (self._closing and not linger):
            return
        self._closing = True
        self._inbox = b""
        if self._paused:
            self._resume()
        if linger and self.server.limits.linger > 0 and not self.server.stopping:
            if transport.can_write_eof():
                transport.write_eof()
            self.stalled = False
            self.wait(self.server.limits.linger)
        else:
            # what is written but not taken is bounded in time too
            self._sent_before = self._taken()
            self.wait(self.server.limits.response_timeout)
            transport.close()

    def reset(self) -> None:
        """Cut the connection with a reset, so that the client cannot take a torn answer for a whole one."""
        transport = self.transport
        if transport is None:
            return
        self._closing = True
        sock = transport.get_extra_info("socket")
        if sock is not None:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
            except OSError:
                pass  # it is gone already
        transport.abort()

    def __repr__(self) -> str:
        state = "gone" if self.transport is None else "busy" if self.exchange is not None else "idle"
        return f"<HttpConnection {self.peer[0]}:{self.peer[1]} {state}, {self.requests} requests>"
