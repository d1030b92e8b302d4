"""The asynchronous interface for extensions in Python: no thread, and no task unless wanted. IS-20 to IS-27

    class Hello:                                     class Slow:
        def begin(self, ecb):                            async def handle(self, ecb):
            ecb.respond(200, b"hello")                       await asyncio.sleep(1)
            return HSE_STATUS_SUCCESS_AND_KEEP_CONN          ecb.respond(200, b"hello")

An extension has `begin` (a plain function on the loop, the fast form) or `handle` (a coroutine, in a task). `begin`
returns a status; HSE_STATUS_PENDING means that the request ends with `ecb.done(status)`, once, sooner or later.
`handle` ends the request when it returns: with the status it returns, or HSE_STATUS_SUCCESS_AND_KEEP_CONN for None;
HSE_STATUS_PENDING leaves it to `done`. An exception ends the request as HSE_STATUS_ERROR: 500 where nothing was sent.

Everything is called on the thread of the event loop. After `done` every function raises IsapiError(6); the object may
be kept, it holds nothing then (IS-31). Callbacks given to `when_*` and `stream_body` are called at most until `done`.
A client that goes away does not end the request: `when_lost` tells it, and `done` is still owed (S11, S12).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from oxid.iis.isapi.constants import (
    ERROR_INVALID_HANDLE,
    ERROR_INVALID_PARAMETER,
    HSE_STATUS_SUCCESS,
)
from oxid.iis.isapi.control_block import ControlBlock
from oxid.iis.isapi.failures import IsapiError
from oxid.iis.isapi.variables import server_variable

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange

Buffer = bytes | bytearray | memoryview


class PlainExtension(Protocol):
    """An extension that answers on the loop."""

    def begin(self, ecb: AsyncControlBlock) -> int:
        """Answer now, or return HSE_STATUS_PENDING and call `ecb.done` later."""
        ...


class TaskExtension(Protocol):
    """An extension whose answer takes awaiting; each request is a task."""

    async def handle(self, ecb: AsyncControlBlock) -> int | None:
        """Answer; the request ends when this returns."""
        ...


AsyncExtension = PlainExtension | TaskExtension
"""Either may have `start(host)` and `async def stop()`, called when it is loaded and unloaded."""


class AsyncControlBlock(ControlBlock):
    """One request, as an asynchronous extension sees it."""

    __slots__ = ()

    def _use(self) -> Exchange:
        """The exchange, while the extension may use it."""
        exchange = self._open
        if exchange is None:
            self.blocks.stale += 1
            raise IsapiError(ERROR_INVALID_HANDLE)
        return exchange

    # What came ------------------------------------------------------------------------------------------

    @property
    def method(self) -> str:
        return self._use().method

    @property
    def path(self) -> str:
        """The decoded, normalised path."""
        return self._use().path

    @property
    def query(self) -> bytes:
        """What follows the '?', raw."""
        return self._use().query

    @property
    def target(self) -> bytes:
        """The target of the request line, raw."""
        return self._use().target

    @property
    def version(self) -> tuple[int, int]:
        """The client's version of HTTP."""
        return self._use().version

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names in lower case and values, in order of arrival."""
        return self._use().headers

    def header(self, name: bytes) -> bytes | None:
        """A header by its name in lower case; several are joined with a comma."""
        return self._use().header(name)

    @property
    def content_length(self) -> int | None:
        """None for a chunked body, or one that lasts until the end of the connection."""
        return self._use().content_length

    @property
    def wants_keep_alive(self) -> bool:
        return self._use().wants_keep_alive

    @property
    def user(self) -> Any:
        """Who was authenticated (`HttpUser`), or None."""
        return self._use().user

    @property
    def script_name(self) -> str:
        """The part of the path that names the extension."""
        return self._use().script_name

    @property
    def path_info(self) -> str:
        """The part of the path behind it."""
        return self._use().path_info

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port of the client."""
        return self._use().connection.peer

    @property
    def local(self) -> tuple[str, int]:
        """Our address and port that the client came to."""
        return self._use().connection.local

    @property
    def tls(self) -> Any:
        """What is known of the TLS session (`TlsInfo`), or None."""
        return self._use().connection.tls

    @property
    def connection_state(self) -> dict[Any, Any]:
        """What is kept with the client's connection until it ends."""
        return self._use().connection.state

    def server_variable(self, name: str) -> bytes | str:
        """A server variable: bytes, or text for names that begin with UNICODE_. IsapiError(1413): unknown."""
        return server_variable(self, self._use(), name)

    # The body -------------------------------------------------------------------------------------------

    @property
    def available(self) -> int:
        """Bytes of the body that are here and not taken."""
        return self._use().available

    @property
    def body_ended(self) -> bool:
        """All of the body has arrived and was taken."""
        return self._use().body_ended

    def take(self, limit: int | None = None) -> bytes:
        """What has arrived, at most `limit` bytes; empty where nothing is there now."""
        return self._use().take(limit)

    def when_body(self, wake: Callable[[], None]) -> None:
        """Call `wake` once: when there is something to take, the body ended, or the client is gone."""
        self._use().when_body(wake)

    async def read(self, limit: int = 65536) -> bytes:
        """The next bytes of the body; empty at its end, and when the client is gone."""
        exchange = self._use()
        self._begin_operation()
        try:
            return await exchange.read(limit)
        finally:
            self._end_operation()

    def stream_body(self, receive: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        """From now on give every piece to `receive` at once, without task or copy; `ended` after the last."""
        self._use().stream_body(receive, ended)

    def pause_body(self) -> None:
        """Read nothing from the client until `resume_body`: real backpressure."""
        self._use().pause_body()

    def resume_body(self) -> None:
        self._use().resume_body()

    # The response ---------------------------------------------------------------------------------------

    def send_head(
        self,
        status: bytes = b"200 OK",
        headers: bytes | Sequence[tuple[bytes, bytes]] = (),
        *,
        keep: bool = True,
    ) -> None:
        """Send status line and headers. `keep`: the connection may be kept where the response is delimited."""
        exchange = self._use()
        self.keep_conn = keep
        exchange.send_head(status, headers, keep=keep)

    def write(self, data: Buffer) -> None:
        """Send bytes as they are, behind the head or instead of one; never waits. See `writable`."""
        exchange = self._open
        if exchange is None:
            self.blocks.stale += 1
            raise IsapiError(ERROR_INVALID_HANDLE, "WriteClient")
        exchange.write(data)

    def write_all(self, buffers: list[Buffer]) -> None:
        """Send several buffers in order."""
        self._use().write_all(buffers)

    def send_continue(self) -> None:
        """100 Continue, where the client waits for it and has not had it."""
        self._use().send_continue()

    @property
    def writable(self) -> bool:
        """Whether the client takes what is written as fast as it comes."""
        return self._use().writable

    def when_writable(self, wake: Callable[[], None]) -> None:
        """Call `wake` once, when more may be written, or the client is gone."""
        self._use().when_writable(wake)

    async def drain(self) -> None:
        """Wait until more may be written, or the client is gone."""
        exchange = self._use()
        self._begin_operation()
        try:
            await exchange.drain()
        finally:
            self._end_operation()

    async def send_file(self, file: BinaryIO, offset: int, count: int) -> int:
        """Send bytes of an open file with flat memory; return how many went. The caller closes the file."""
        exchange = self._use()
        self._begin_operation()
        try:
            return await exchange.send_file(file, offset, count)
        finally:
            self._end_operation()

    def respond(
        self,
        status: int,
        body: bytes = b"",
        headers: bytes | Sequence[tuple[bytes, bytes]] = (),
        *,
        keep: bool = True,
    ) -> None:
        """Answer with a whole small response, sent with its Content-Length when the request ends.

        `done`, or the return, is still owed. Not after `send_head`.
        """
        if self._open is None:
            self._use()
        self._response = (status, body, headers, keep)

    # The client, and the end ----------------------------------------------------------------------------

    @property
    def lost(self) -> bool:
        """The client is gone. True also after `done`: there is nobody to write to."""
        exchange = self._open
        return exchange is None or exchange.lost

    def when_lost(self, hear: Callable[[], None]) -> None:
        """Call `hear` once, when the client is gone."""
        self._use().when_lost(hear)

    @property
    def http_status(self) -> int:
        """The status for the log; the head sets it."""
        return self._use().status

    @http_status.setter
    def http_status(self, status: int) -> None:
        self._use().status = status

    def append_log(self, text: str) -> None:
        """Add text to the query's field of the access log."""
        self._use().log_query_extra += text

    def close_connection(self) -> None:
        """Close the client's socket now; `done` is still owed. HSE_REQ_CLOSE_CONNECTION"""
        self._use()
        self.close_now()

    def abort_at_end(self) -> None:
        """Let the connection end with a reset. HSE_REQ_ABORTIVE_CLOSE"""
        self._use()
        self.abortive = True

    def done(self, status: int = HSE_STATUS_SUCCESS) -> None:
        """The extension lets go of the request. IsapiError(87) where it did before (S9)."""
        if not self.mark_done(status):
            raise IsapiError(ERROR_INVALID_PARAMETER, "DONE_WITH_SESSION")

    def _begin_operation(self) -> None:
        if not self.io_started():
            raise IsapiError(ERROR_INVALID_HANDLE)

    def _end_operation(self) -> None:
        self.io_ended()
