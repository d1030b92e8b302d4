"""Control blocks for extensions that call from threads: sync and async I/O over the loop. IS-20 to IS-27

What a thread wants to send is queued in order and taken by the loop; a thread waits only when the client does not
take what it sends, and for what it reads. On the loop's thread itself (extensions that are declared non-blocking)
everything is done at once, and what would have to wait is refused with ERROR_IO_PENDING (997).

One asynchronous operation is outstanding at most (IS-20). Each that was started has exactly one callback (IS-21),
which runs on a thread of the application with no lock held (IS-23); the slot is free by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from oxid.iis.isapi import constants as c
from oxid.iis.isapi.control_block import ControlBlock
from oxid.iis.isapi.failures import IsapiError
from oxid.iis.isapi.operations import (
    Answer,
    Completion,
    Operation,
    with_line_ends,
)
from oxid.iis.isapi.references import _FREED, _HOLDS_EXT, _STARTED
from oxid.iis.isapi.services import ChildRequest, ExecStatus
from oxid.iis.isapi.whole_heads import WholeHead, whole_head

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange
    from oxid.iis.isapi.blocking_application import BlockingApplication

KEEP: Final = c.HSE_STATUS_SUCCESS_AND_KEEP_CONN
UNSENT: Final = 64 * 1024
"""Bytes that a thread may have queued before it waits for the loop, and so for the client."""
MAX_OPEN_HEAD: Final = 64 * 1024
"""Bytes of headers that are collected until the extension sends their empty line."""


class BlockingControlBlock(ControlBlock):
    """One request of an extension that calls from any thread."""

    __slots__ = (
        "_closed_by_us",
        "_held",
        "_held_body",
        "_open_head",
        "_queue",
        "_queued",
        "_scheduled",
        "_waiting",
        "available_data",
        "callback",
        "context",
        "exec_status",
        "flush",
        "http_status",
        "log_data",
        "operation",
    )
    application: BlockingApplication

    def __init__(self, application: BlockingApplication, exchange: Exchange) -> None:
        ControlBlock.__init__(self, application, exchange)
        self.available_data = exchange.take(c.READ_AHEAD) if exchange.available else b""
        """The first bytes of the body, given with the request (lpbData). IS-27"""
        self.http_status = 200
        self.log_data = ""
        self.callback: Completion | None = None
        self.context: Any = None
        self.operation: Operation | None = None
        self.exec_status = ExecStatus()
        self.flush = False
        self._queue: deque[tuple[Any, ...]] = deque()
        self._queued = 0
        self._scheduled = False
        self._waiting: Answer | None = None
        """A thread that waits for the client."""
        self._open_head: tuple[bytes, bytearray] | None = None
        self._closed_by_us = False
        self._held: tuple[WholeHead, bytes, bytes] | None = None
        """A head that is not sent yet: what it means, and its status and lines."""
        self._held_body: bytes | None = None

    def face(self) -> Any:
        """What callbacks get to see of this."""
        return self

    @property
    def total_bytes(self) -> int:
        """cbTotalBytes: the declared length, or 0xFFFFFFFF where it is unknown or longer."""
        length = self.held().content_length
        return c.UNKNOWN_LENGTH if length is None or length >= c.UNKNOWN_LENGTH else length

    def held(self, function: str = "") -> Exchange:
        """The exchange, while the extension may use it. IsapiError(6) when it is done (IS-25)."""
        exchange = self._open
        if exchange is None:
            self.blocks.stale += 1
            raise IsapiError(c.ERROR_INVALID_HANDLE, function)
        return exchange

    # Work on the loop's thread, in order -------------------------------------------------------------------

    def cut(self) -> None:
        ControlBlock.cut(self)
        self.abort_io(c.ERROR_OPERATION_ABORTED)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.give(None)

    def _do(self, work: Callable[..., object], *arguments: Any) -> None:
        """Do it on the loop's thread, behind everything that was asked before; do not wait."""
        application = self.application
        if application.on_loop():
            if self._queue:
                self._work_off()
            work(*arguments)
            return
        self._queue.append((work, arguments))
        if not self._scheduled:
            self._scheduled = True
            application.post(self._work_off)

    def _work_off(self) -> None:
        self._scheduled = False
        queue = self._queue
        while queue:
            work, arguments = queue.popleft()
            try:
                work(*arguments)
            except Exception as error:
                self.application.fault(error)
        if self._held is not None and self._state != _FREED:
            self.send_held()

    def _ask(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do it on the loop's thread and wait for what it returns or raises."""
        if self.application.on_loop():
            if self._queue:
                self._work_off()
            return work(*arguments)
        answer = Answer()
        self._do(answer.take, work, arguments)
        return answer.wait()

    def freed(self) -> None:
        self._open = None
        self._do(self.let_go)  # behind what it still sends, and mostly in the same turn of the loop

    def let_go(self) -> None:
        if self._queue:
            self._work_off()
        if self._open_head is not None:
            self._end_open_head()
        exchange = self.exchange
        if self._held is not None and exchange is not None:
            head, body = self._held[0], self._held_body
            if (
                body is not None
                and self.keep_conn
                and self.final == KEEP
                and not self.abortive
                and self.http_status == 200
            ):
                self._held = self._held_body = None
                self._response = head.status, body, head.lines, True
            else:
                self.send_held()
        if exchange is not None:
            if self.http_status != 200 or not exchange.status:
                exchange.status = self.http_status
            if self.log_data:
                exchange.log_data = self.log_data[:79]
        operation, self.operation = self.operation, None
        if operation is not None:  # forced: its callback is not called any more
            operation.ended = True
            if operation.cancel is not None:
                operation.cancel()
        self.callback = self.context = None
        self.available_data = b""
        ControlBlock.let_go(self)

    # Writing ------------------------------------------------------------------------------------------------

    def send_headers(self, status: bytes, headers: bytes, keep: bool) -> None:
        """SEND_RESPONSE_HEADER(_EX): what follows the empty line is content; none: the head stays open."""
        exchange = self.held("SEND_RESPONSE_HEADER_EX")
        if exchange.lost:
            raise IsapiError(self._gone_error(), "SEND_RESPONSE_HEADER_EX")
        self._do(self._send_headers, status, headers, keep)

    def _send_headers(self, status: bytes, headers: bytes, keep: bool) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        self.keep_conn = keep
        if headers and b"\r\n\r\n" not in headers and not headers.startswith(b"\r\n"):
            fixed = with_line_ends(headers)
            if b"\r\n\r\n" not in fixed:
                self._open_head = (status, bytearray(fixed))
                return
            headers = fixed
        status = status or b"200 OK"
        if self._held is not None:
            self.send_held()
        elif keep and not exchange.head_sent and (head := whole_head(status, headers)) is not None:
            self._held = head, status, headers
            return
        exchange.send_head(status, headers, keep=keep)

    def send_held(self) -> None:
        """Send the head, and the body, that were held back. On the loop's thread."""
        held, self._held = self._held, None
        body, self._held_body = self._held_body, None
        exchange = self.exchange
        if held is not None and exchange is not None:
            exchange.send_head(held[1], held[2], keep=self.keep_conn)
            if body:
                exchange.write(body)

    def _continue_head(self, data: bytes) -> None:
        """Bytes for a head whose empty line has not come."""
        assert self._open_head is not None
        status, lines = self._open_head
        lines += data
        if b"\r\n\r\n" in lines or lines.startswith(b"\r\n") or len(lines) > MAX_OPEN_HEAD:
            self._open_head = None
            if self.exchange is not None:
                self.exchange.send_head(status or b"200 OK", bytes(lines), keep=self.keep_conn)

    def _end_open_head(self) -> None:
        assert self._open_head is not None
        self._continue_head(b"" if self._open_head[1].endswith(b"\r\n") else b"\r\n")
        if self._open_head is not None:
            self._continue_head(b"\r\n")

    def write_client(self, data: bytes | bytearray | memoryview) -> int:
        """WriteClient, synchronous: everything or an error. Waits while the client does not read. IS-24"""
        exchange = self.held("WriteClient")
        if exchange.lost:
            raise IsapiError(self._gone_error(), "WriteClient")
        size = len(data)
        application = self.application
        if application.on_loop():
            if self._queue:
                self._work_off()
            self._write(data)
            return size
        self._do(self._write, data if type(data) is bytes else bytes(data))
        self._queued += size
        if self._queued >= UNSENT or self.flush:
            self._queued = 0
            answer = Answer()
            self._do(self._tell_when_writable, answer)
            answer.wait()
            if exchange.lost:
                raise IsapiError(self._gone_error(), "WriteClient")
        return size

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        if self._held is not None:
            if self._held_body is None and len(data) == self._held[0].length:
                self._held_body = data if type(data) is bytes else bytes(data)
                return
            self.send_held()
        if self._open_head is not None:
            self._continue_head(bytes(data))
        else:
            exchange.write(data)

    def _tell_when_writable(self, answer: Answer) -> None:
        self.send_held()
        exchange = self.exchange
        if exchange is None or exchange.finished:
            answer.give(None)
        else:
            self._waiting = answer
            exchange.when_writable(lambda: answer.give(None))

    def _gone_error(self) -> int:
        return c.ERROR_NETNAME_DELETED if self._closed_by_us else c.WSAECONNRESET

    # Reading ------------------------------------------------------------------------------------------------

    def read_client(self, limit: int) -> bytes:
        """ReadClient: what is there, at most `limit`; waits only where nothing is. Empty at the end. IS-24"""
        exchange = self.held("ReadClient")
        if limit <= 0 or exchange.body_ended:
            return b""
        application = self.application
        if application.on_loop():
            if not exchange.available and not exchange.lost:
                raise IsapiError(c.ERROR_IO_PENDING, "ReadClient")
            return exchange.take(limit)
        answer = Answer()
        self._do(self._read_when_there, limit, answer)
        data: bytes = answer.wait() or b""
        if not data and exchange.lost:
            raise IsapiError(self._gone_error(), "ReadClient")
        return data

    def _read_when_there(self, limit: int, answer: Answer) -> None:
        exchange = self.exchange
        if exchange is None or exchange.finished:
            answer.give(b"")
        else:
            self._waiting = answer
            exchange.when_body(lambda: answer.give(exchange.take(limit)))

    # Asynchronous operations ----------------------------------------------------------------------------------

    def io_completion(self, callback: Completion | None, context: Any = None) -> None:
        """IO_COMPLETION: what later operations call; None for none."""
        self.held("IO_COMPLETION")
        self.callback, self.context = callback, context

    def _start(
        self, function: str, callback: Completion | None, context: Any, need: bool = True
    ) -> Operation:
        """Take the one slot. IsapiError(87): no callback, or one is outstanding; (6): done."""
        self.held(function)
        if callback is None and need:
            raise IsapiError(c.ERROR_INVALID_PARAMETER, function)
        operation = Operation(self, callback, context)
        blocks = self.blocks
        with blocks.lock:
            if not _HOLDS_EXT[self._state]:
                blocks.stale += 1
                raise IsapiError(c.ERROR_INVALID_HANDLE, function)
            if self.operation is not None:
                raise IsapiError(c.ERROR_INVALID_PARAMETER, function)
            self.operation = operation
            self._io += 1
            blocks.io.enter()
            self._turn(_STARTED)
        return operation

    def _broken(self, exchange: Exchange | None) -> int:
        """The error of an operation that ends while the client is gone. IS-22"""
        if exchange is None or not exchange.lost:
            return 0
        return c.ERROR_NETNAME_DELETED if self._closed_by_us else c.ERROR_OPERATION_ABORTED

    def write_async(self, data: bytes) -> None:
        """WriteClient, asynchronous: the callback comes when the client takes more."""
        operation = self._start("WriteClient", self.callback, self.context)
        self._do(self._write_async, operation, bytes(data))

    def _write_async(self, operation: Operation, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None or operation.ended:
            return operation.end(0, c.ERROR_OPERATION_ABORTED)
        self._write(data)
        self.send_held()

        def written() -> None:
            error = self._broken(exchange)
            operation.end(0 if error else len(data), error)

        return exchange.when_writable(written)

    def read_async(self, limit: int, deliver: Callable[[bytes], None]) -> None:
        """ASYNC_READ_CLIENT: `deliver` gets the bytes before the callback is called."""
        if limit <= 0:
            raise IsapiError(c.ERROR_INVALID_PARAMETER, "ASYNC_READ_CLIENT")
        operation = self._start("ASYNC_READ_CLIENT", self.callback, self.context)
        self._do(self._read_async, operation, limit, deliver)

    def _read_async(self, operation: Operation, limit: int, deliver: Callable[[bytes], None]) -> None:
        exchange = self.exchange
        if exchange is None or operation.ended:
            return operation.end(0, c.ERROR_OPERATION_ABORTED)

        def there() -> None:
            if operation.ended:
                return
            data = exchange.take(limit)
            if data:
                deliver(data)
            operation.end(len(data), 0 if data else self._broken(exchange))

        return exchange.when_body(there)

    def cancel_io(self) -> None:
        """CANCEL_IO: the outstanding operation ends with 995. IsapiError(87) where none is."""
        self.held("CANCEL_IO")
        if self.operation is None:
            raise IsapiError(c.ERROR_INVALID_PARAMETER, "CANCEL_IO")
        self._do(self.abort_io, c.ERROR_OPERATION_ABORTED)

    def abort_io(self, error: int) -> None:
        """End what is outstanding with this error; on the loop's thread."""
        operation = self.operation
        if operation is None:
            return
        cancel, operation.cancel = operation.cancel, None
        operation.end(0, error)
        if cancel is not None:
            cancel()

    # Child requests -------------------------------------------------------------------------------------------

    def exec_url(self, child: ChildRequest, *, silent: bool = False) -> None:
        """EXEC_URL: the server answers with another URL; asynchronous. `silent`: SEND_URL, which has no callback."""
        operation = self._start("EXEC_URL", None if silent else self.callback, self.context, need=not silent)
        try:
            self._ask(self._exec, operation, child)
        except IsapiError:
            self.operation = None
            operation.ended = True
            self.io_ended()
            raise

    def _exec(self, operation: Operation, child: ChildRequest) -> None:
        self.send_held()
        exchange = self.exchange
        if exchange is None:
            raise IsapiError(c.ERROR_INVALID_HANDLE, "EXEC_URL")

        def done(status: ExecStatus) -> None:
            self.exec_status = status
            self.http_status = status.status or self.http_status
            operation.end(0, status.win32)

        operation.cancel = self.application.services.execute(exchange, child, done)

    def custom_error(self, status: int, substatus: int, *, asynchronous: bool = False) -> None:
        """SEND_CUSTOM_ERROR: the server's page for an error; `asynchronous` with a callback."""
        function = "SEND_CUSTOM_ERROR"
        if not 100 <= status <= 599:
            raise IsapiError(c.ERROR_INVALID_PARAMETER, function)
        exchange = self.held(function)
        operation = self._start(function, self.callback, self.context) if asynchronous else None
        if exchange.lost and operation is None:
            raise IsapiError(self._gone_error(), function)
        self._do(self._custom_error, operation, status, substatus)

    def _custom_error(self, operation: Operation | None, status: int, substatus: int) -> None:
        exchange = self.exchange
        sent = 0
        if exchange is not None and not exchange.lost:
            page = self.application.services.error_page(exchange, status, substatus)
            exchange.substatus = substatus
            self._send_headers(page.status, page.headers + b"\r\n", True)
            self._write(page.body)
            sent = len(page.body)
        if operation is not None:
            error = self._broken(exchange)
            operation.end(0 if error else sent, error)

    # Others ---------------------------------------------------------------------------------------------------

    def redirect(self, url: str) -> None:
        """SEND_URL_REDIRECT_RESP: 302 with this location. IsapiError(87) for an empty one, or with line ends."""
        if not url or "\r" in url or "\n" in url or "\0" in url:
            raise IsapiError(c.ERROR_INVALID_PARAMETER, "SEND_URL_REDIRECT_RESP")
        location = url.encode("utf-8")
        body = b"<head><title>Object moved</title></head><body><h1>Object Moved</h1></body>"
        headers = b"Location: %s\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n"
        self.send_headers(b"302 Object Moved", headers % (location, len(body)), True)
        self.write_client(body)

    def close_connection(self) -> None:
        """CLOSE_CONNECTION: the socket closes now; callbacks get 64, DONE is still owed. S16"""
        self.held("CLOSE_CONNECTION")
        self._closed_by_us = True
        self._do(self._close_connection)

    def _close_connection(self) -> None:
        self.send_held()
        self.close_now()
        self.abort_io(c.ERROR_NETNAME_DELETED)

    def append_log(self, text: str) -> None:
        """APPEND_LOG_PARAMETER."""
        self.held("APPEND_LOG_PARAMETER").log_query_extra += text
