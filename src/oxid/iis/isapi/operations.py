"""The parts of I/O from threads: operations with their callbacks, answers that threads wait for, pieces of files."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from oxid.iis.isapi import constants as c
from oxid.iis.isapi.failures import IsapiError

if TYPE_CHECKING:
    from oxid.iis.isapi.blocking import BlockingControlBlock

Completion = Callable[[Any, Any, int, int], object]
"""Called with the control block, the context, the bytes moved and the Windows error."""
Element = bytes | tuple[int, int, int]
"""Of VectorSend: memory, or descriptor, offset and size (0: to the end) of a file."""


class OpenRange(io.RawIOBase):
    """A descriptor of our own, as `send_file` wants it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = os.dup(descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


class Operation:
    """One asynchronous operation from its start to its callback."""

    __slots__ = ("block", "callback", "cancel", "context", "ended")

    def __init__(self, block: BlockingControlBlock, callback: Completion | None, context: Any) -> None:
        self.block = block
        self.callback = callback
        self.context = context
        self.cancel: Callable[[], object] | None = None
        """How to stop what goes on; None where `end` is enough."""
        self.ended = False

    def end(self, count: int, error: int = 0) -> None:
        """It is over; the second time does nothing. On the loop's thread."""
        if self.ended:
            return
        self.ended = True
        self.cancel = None
        block = self.block
        block.operation = None
        block.application.run(self._call, count, error)

    def _call(self, count: int, error: int) -> None:
        """Run the callback; what it raises ends the request as ERROR (S14)."""
        block, callback, context = self.block, self.callback, self.context
        self.callback = self.context = None
        failed = False
        if callback is not None:
            try:
                callback(block.face(), context, count, error)
            except (Exception, SystemExit) as raised:
                block.application.fault(raised)
                failed = True
        block.io_ended(failed)
        if block.application.inline:
            block.send_held()


class Answer:
    """One value from the loop for a thread that waits."""

    __slots__ = ("_error", "_ready", "_value")

    def __init__(self) -> None:
        self._ready = threading.Lock()
        self._ready.acquire()
        self._value: Any = None
        self._error: Exception | None = None

    def take(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            self._value = work(*arguments)
        except Exception as error:
            self._error = error
        self._ready.release()

    def give(self, value: Any) -> None:
        if self._ready.locked():
            self._value = value
            self._ready.release()

    def wait(self) -> Any:
        self._ready.acquire()
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error
        return self._value


def with_line_ends(headers: bytes) -> bytes:
    """The same lines, each ended with CR LF."""
    return headers.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def open_range(descriptor: int, offset: int, count: int, function: str) -> tuple[OpenRange, int]:
    """A duplicate of the descriptor, and how many bytes to send; 0 stands for all to the end."""
    try:
        size = os.fstat(descriptor).st_size
    except OSError:
        raise IsapiError(c.ERROR_INVALID_HANDLE, function) from None
    if offset > size or count > size - offset:
        raise IsapiError(c.WSAEINVAL, function)
    return OpenRange(descriptor), count or size - offset


def close_all(parts: list[Any]) -> None:
    for part in parts:
        if isinstance(part, tuple):
            part[0].close()
