"""An extension whose requests are answered by threads of its own: proc queues them and returns PENDING."""

from __future__ import annotations

import html
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from pywintypes import OVERLAPPED
from win32event import INFINITE
from win32file import (
    CloseHandle,
    CreateIoCompletionPort,
    GetQueuedCompletionStatus,
    PostQueuedCompletionStatus,
)
from win32security import SetThreadToken

from isapi import ExtensionError, isapicon
from isapi.simple import SimpleExtension

ISAPI_REQUEST = 1
ISAPI_SHUTDOWN = 2


class WorkerThread(threading.Thread):
    """Takes what is posted to the port, until it is told to stop."""

    def __init__(self, extension: ThreadPoolExtension, io_req_port: Any) -> None:
        super().__init__(daemon=True)
        self.running = False
        self.io_req_port = io_req_port
        self.extension = extension

    def run(self) -> None:
        self.running = True
        while self.running:
            error, size, key, overlapped = GetQueuedCompletionStatus(self.io_req_port, INFINITE)
            if key == ISAPI_SHUTDOWN and overlapped is None:
                return
            handler = self.extension.dispatch_map.get(key)
            if handler is None:
                raise RuntimeError(f"Bad request '{key}'")
            handler(error, size, key, overlapped)
            del overlapped, handler  # a waiting thread holds no request

    def call_handler(self, cblock: Any) -> None:
        self.extension.Dispatch(cblock)


class ThreadPoolExtension(SimpleExtension):
    """Base of an extension with a pool: override Dispatch, which may block."""

    max_workers = 20
    worker_shutdown_wait = 15000
    """Milliseconds that threads have to end."""

    def __init__(self) -> None:
        super().__init__()
        self.workers: list[WorkerThread] = []
        self.io_req_port: Any = None
        self.dispatch_map: dict[int, Callable[..., Any]] = {ISAPI_REQUEST: self.DispatchConnection}

    def GetExtensionVersion(self, vi: Any) -> None:
        super().GetExtensionVersion(vi)
        self.io_req_port = CreateIoCompletionPort(-1, None, 0, 0)
        self.workers = [WorkerThread(self, self.io_req_port) for _ in range(self.max_workers)]
        for worker in self.workers:
            worker.start()

    def HttpExtensionProc(self, control_block: Any) -> int:
        request = OVERLAPPED()
        request.object = control_block
        PostQueuedCompletionStatus(self.io_req_port, 0, ISAPI_REQUEST, request)
        return isapicon.HSE_STATUS_PENDING

    def TerminateExtension(self, status: int) -> None:
        for worker in self.workers:
            worker.running = False
            PostQueuedCompletionStatus(self.io_req_port, 0, ISAPI_SHUTDOWN, None)
        deadline = time.monotonic() + self.worker_shutdown_wait / 1000
        for worker in self.workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        self.workers = []
        self.dispatch_map = {}
        CloseHandle(self.io_req_port)

    def DispatchConnection(self, error: int, size: int, key: int, overlapped: Any) -> None:
        """Answer one request as its user."""
        control_block = overlapped.object
        SetThreadToken(None, control_block.GetImpersonationToken())
        try:
            self.Dispatch(control_block)
        except BaseException:
            self.HandleDispatchError(control_block)
        finally:
            SetThreadToken(None, None)

    def Dispatch(self, ecb: Any) -> Any:
        """Answer one request, and end it with DoneWithSession."""
        raise NotImplementedError("a thread pool extension has a Dispatch of its own")

    def HandleDispatchError(self, ecb: Any) -> None:
        """Show what went wrong, and end the request. Override it where clients are strangers."""
        kind, error, trace = sys.exc_info()
        try:
            ecb.HttpStatusCode = isapicon.HSE_STATUS_ERROR
            lines = traceback.format_tb(trace) + traceback.format_exception_only(kind, error)
            said = lines.pop()
            ecb.SendResponseHeaders("200 OK", "Content-type: text/html\r\n\r\n", False)
            ecb.write("<H3>Traceback (most recent call last):</H3>\n")
            ecb.write(f"<PRE>{html.escape(''.join(lines))}<B>{html.escape(said)}</B></PRE>\n")
        except ExtensionError:
            pass  # the client is gone, or the request is done
        finally:
            del trace, error
            ecb.DoneWithSession()
