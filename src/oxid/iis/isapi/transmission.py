"""Files and vectors of an extension's response: TRANSMIT_FILE and VECTOR_SEND. IS-26"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from oxid.iis.isapi import constants as c
from oxid.iis.isapi.blocking import BlockingControlBlock
from oxid.iis.isapi.failures import IsapiError
from oxid.iis.isapi.operations import Answer, Completion, Element, Operation, close_all, open_range

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange


class TransmittingControlBlock(BlockingControlBlock):
    """A control block that sends files with flat memory."""

    __slots__ = ()

    def transmit_file(
        self,
        descriptor: int,
        *,
        callback: Completion | None = None,
        context: Any = None,
        status: bytes | None = None,
        count: int = 0,
        offset: int = 0,
        head: bytes | None = None,
        tail: bytes | None = None,
        flags: int = c.IO_ASYNC,
    ) -> None:
        """TRANSMIT_FILE: head, range of the file, tail. The descriptor is duplicated. IS-26

        IsapiError(87): no callback, a head without status; (10022): behind the end of the file; (6): no such file.
        """
        if callback is None:
            callback, context = self.callback, self.context
        name = "TRANSMIT_FILE"
        self.held(name)
        if flags & c.IO_SEND_HEADERS and not status:
            raise IsapiError(c.ERROR_INVALID_PARAMETER, name)
        file = None
        if descriptor > 0:
            file, count = open_range(descriptor, offset, count, name)
        try:
            operation = self._start(name, callback, context)
        except IsapiError:
            if file is not None:
                file.close()
            raise
        parts: list[Any] = []
        if not flags & c.IO_SEND_HEADERS and head:
            parts.append(head)
        if file is not None:
            parts.append((file, offset, count))
        if tail:
            parts.append(tail)
        headers = head or b""
        wanted = (status or b"", headers) if flags & c.IO_SEND_HEADERS else None
        self._do(self._transmit, operation, wanted, parts, bool(flags & c.IO_DISCONNECT_AFTER_SEND))

    def vector_send(
        self,
        elements: Sequence[Element],
        *,
        status: bytes | None = None,
        headers: bytes | None = None,
        flags: int = c.IO_SYNC,
    ) -> None:
        """VECTOR_SEND: memory and pieces of files in one response, sync or async."""
        name = "VECTOR_SEND"
        self.held(name)
        if bool(flags & c.IO_SYNC) == bool(flags & c.IO_ASYNC):
            raise IsapiError(c.ERROR_INVALID_PARAMETER, name)
        if flags & c.IO_SEND_HEADERS and not status:
            raise IsapiError(c.ERROR_INVALID_PARAMETER, name)
        parts: list[Any] = []
        try:
            for element in elements:
                if isinstance(element, tuple):
                    descriptor, offset, size = element
                    file, size = open_range(descriptor, offset, size, name)
                    parts.append((file, offset, size))
                else:
                    parts.append(element)
            answer: Answer | None = None
            if flags & c.IO_SYNC:
                if self.application.on_loop():
                    if any(isinstance(part, tuple) for part in parts):
                        raise IsapiError(c.ERROR_IO_PENDING, name)
                    operation = None
                else:
                    answer = Answer()
                    operation = self._start(name, None, None, need=False)
            else:
                operation = self._start(name, self.callback, self.context)
        except IsapiError:
            close_all(parts)
            raise
        wanted = (status or b"", headers or b"") if flags & c.IO_SEND_HEADERS else None
        close = bool(flags & c.IO_DISCONNECT_AFTER_SEND)
        if operation is None:
            if wanted:
                self._send_headers(*wanted, self.keep_conn and not close)
            for part in parts:
                self._write(part)
            return
        self._do(self._transmit, operation, wanted, parts, close, answer)
        if answer is not None and (error := answer.wait()):
            raise IsapiError(error, name)

    def _transmit(
        self,
        operation: Operation,
        headers: tuple[bytes, bytes] | None,
        parts: list[Any],
        close: bool,
        answer: Answer | None = None,
    ) -> None:
        """Begin to send; the parts are ours to close."""
        if self.exchange is None or operation.ended:
            close_all(parts)
            operation.end(0, c.ERROR_OPERATION_ABORTED)
            if answer is not None:
                answer.give(c.ERROR_OPERATION_ABORTED)
            return
        if headers is not None:
            self._send_headers(*headers, self.keep_conn and not close)
        self.send_held()
        if close:
            self.keep_conn = False
        application = self.application
        application.world.ledger.task.enter()
        task = application.loop.create_task(
            self._send_parts(self.exchange, operation, parts, answer), name="oxid isapi transmit"
        )
        application.keep(task)
        operation.cancel = task.cancel

    async def _send_parts(
        self, exchange: Exchange, operation: Operation, parts: list[Any], answer: Answer | None
    ) -> None:
        sent = 0
        error = 0
        try:
            for part in parts:
                if exchange.lost:
                    break
                if isinstance(part, tuple):
                    moved = await exchange.send_file(*part)
                    sent += moved
                    if (
                        moved < part[2]
                    ):  # the client is gone, and the exchange may not have heard; or a shorter file
                        error = c.ERROR_OPERATION_ABORTED
                        break
                else:
                    self._write(part)
                    sent += len(part)
                if not exchange.writable:
                    await exchange.drain()
            error = self._broken(exchange) or error
        except asyncio.CancelledError:
            error = c.ERROR_OPERATION_ABORTED
        except OSError:
            error = c.ERROR_OPERATION_ABORTED
        finally:
            self.application.world.ledger.task.leave()
            close_all(parts)
            if answer is not None:
                answer.give(error)
            operation.end(0 if error else sent, error)
