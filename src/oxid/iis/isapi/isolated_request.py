"""A request whose extension runs in a worker process: the parent's half. See `isolated.py` and `worker_wire.py`"""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from oxid.iis.isapi import constants as c
from oxid.iis.isapi.control_block import ControlBlock
from oxid.iis.isapi.failures import IsapiError
from oxid.iis.isapi.services import ExecStatus
from oxid.iis.isapi.worker_wire import WINDOW, Kind, child_from_json, status_to_json, unpack_response

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange
    from oxid.iis.isapi.isolated import IsolatedApplication, WorkerProcess


class IsolatedControlBlock(ControlBlock):
    """A request that a worker answers."""

    __slots__ = ("_cancel", "_file", "_sent", "number", "process")
    application: IsolatedApplication

    def __init__(self, application: IsolatedApplication, exchange: Exchange, process: WorkerProcess) -> None:
        ControlBlock.__init__(self, application, exchange)
        self.process: WorkerProcess | None = process
        self.number = process.join(self)
        self._sent = 0
        """Bytes of the body that are under way to the worker."""
        self._cancel: Callable[[], object] | None = None
        self._file: asyncio.Task[None] | None = None

    def begin(self) -> None:
        exchange = self.exchange
        process = self.process
        assert exchange is not None
        assert process is not None
        first = exchange.take(c.READ_AHEAD) if exchange.available else b""
        self._sent = len(first)
        body = not exchange.body_ended
        told = json.dumps(_told(exchange, self.application.number, body)).encode()
        process.link.send(Kind.OPEN, self.number, told + b"\n" + first)
        exchange.when_lost(self._lost)
        if body:
            self._feed()

    def _lost(self) -> None:
        if self.process is not None:
            self.process.link.send(Kind.LOST, self.number)

    def _feed(self) -> None:
        """Give the worker what has come of the body, as far as its window goes."""
        exchange, process = self.exchange, self.process
        if exchange is None or process is None or exchange.finished:
            return
        while self._sent < WINDOW and exchange.available:
            data = exchange.take(WINDOW - self._sent)
            self._sent += len(data)
            process.link.send(Kind.BODY, self.number, data)
        if exchange.body_ended:
            process.link.send(Kind.BODY_END, self.number)
        elif self._sent < WINDOW and not exchange.lost and not exchange.expects_continue:
            exchange.when_body(self._feed)

    def frame(self, kind: int, payload: bytes) -> None:
        """What the worker says of this request."""
        exchange, process = self.exchange, self.process
        if exchange is None or process is None:
            return
        if kind == Kind.DATA:
            exchange.write(payload)
            size = struct.pack("<I", len(payload))
            exchange.when_writable(lambda: process.link.send(Kind.WRITTEN, self.number, size))
        elif kind == Kind.HEAD:
            status, _, headers = payload[1:].partition(b"\0")
            exchange.send_head(status, headers, keep=bool(payload[0]))
        elif kind == Kind.RESPOND:
            self._response = _swapped(unpack_response(payload))
        elif kind == Kind.FINISH:
            self._finished(json.loads(payload))
        elif kind == Kind.TAKEN:
            self._sent -= struct.unpack("<I", payload)[0]
            self._feed()
        elif kind == Kind.CONTINUE:
            exchange.send_continue()
            if self._sent < WINDOW and not exchange.body_ended:
                exchange.when_body(self._feed)
        elif kind == Kind.FILE:
            self._send_file(*struct.unpack("<IQQ", payload))
        elif kind == Kind.EXECUTE:
            self._execute(json.loads(payload))
        elif kind == Kind.CANCEL:
            self._stop_work()
        elif kind == Kind.CLOSE:
            self.close_now()
        else:
            raise ValueError(f"kind {kind}")

    def _finished(self, told: dict[str, Any]) -> None:
        exchange = self.exchange
        assert exchange is not None
        exchange.log_data = str(told["log"])[:79]
        exchange.log_query_extra += str(told["query"])
        if told["status"] and not exchange.status:
            exchange.status = int(told["status"])
        exchange.substatus = int(told["substatus"])
        self.abortive = bool(told["abort"])
        self.keep_conn = bool(told["keep"])
        self.mark_done(c.HSE_STATUS_SUCCESS_AND_KEEP_CONN if told["keep"] else c.HSE_STATUS_SUCCESS)

    def let_go(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.leave(self.number)
            if self.final == c.HSE_STATUS_ERROR:
                process.link.send(Kind.LOST, self.number)  # ended by us: the worker has not let go
        self._stop_work()
        ControlBlock.let_go(self)

    def _stop_work(self) -> None:
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            cancel()
        file, self._file = self._file, None
        if file is not None:
            file.cancel()

    def _execute(self, told: dict[str, Any]) -> None:
        exchange, process = self.exchange, self.process
        assert exchange is not None
        assert process is not None

        def done(status: ExecStatus) -> None:
            self._cancel = None
            process.link.send_json(Kind.EXECUTED, self.number, status_to_json(status))

        try:
            self._cancel = self.application.services.execute(exchange, child_from_json(told), done)
        except IsapiError as error:
            done(ExecStatus(500, 0, error.errno))

    def _send_file(self, tag: int, offset: int, size: int) -> None:
        process = self.process
        assert process is not None
        descriptor = process.descriptor(tag)
        application = self.application
        application.world.ledger.task.enter()
        self._file = application.loop.create_task(
            self._send_range(descriptor, offset, size), name="oxid isapi file"
        )
        process.files.add(self._file)
        self._file.add_done_callback(process.files.discard)

    async def _send_range(self, descriptor: int, offset: int, size: int) -> None:
        sent = 0
        try:
            exchange = self.exchange
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                if exchange is not None:
                    sent = await exchange.send_file(file, offset, size)
        finally:
            self.application.world.ledger.task.leave()
            if self.process is not None:
                self.process.link.send(Kind.SENT, self.number, struct.pack("<Q", sent))


def _swapped(found: tuple[int, bool, bytes, bytes]) -> tuple[int, bytes, Any, bool]:
    status, keep, headers, body = found
    if not 200 <= status <= 599:
        raise ValueError(f"status {status}")
    return status, body, headers, keep


def _told(exchange: Exchange, application: int, body: bool) -> dict[str, Any]:
    """What the worker learns of a request."""
    tls, user = exchange.connection.tls, exchange.user
    return {
        "application": application,
        "body": body,
        "method": exchange.method,
        "target": exchange.target.decode("latin-1"),
        "path": exchange.path,
        "query": exchange.query.decode("latin-1"),
        "version": exchange.version,
        "headers": [(name.decode("latin-1"), value.decode("latin-1")) for name, value in exchange.headers],
        "content_length": exchange.content_length,
        "wants_keep_alive": exchange.wants_keep_alive,
        "script_name": exchange.script_name,
        "path_info": exchange.path_info,
        "physical": None if exchange.physical is None else str(exchange.physical),
        "user": None
        if user is None
        else {"name": user.name, "auth_type": user.auth_type, "password": user.password},
        "tls": None
        if tls is None
        else {
            "cipher": tls.cipher,
            "protocol": tls.protocol,
            "bits": tls.bits,
            "peer_certificate": tls.peer_certificate and tls.peer_certificate.decode("latin-1"),
            "channel_binding": tls.channel_binding and tls.channel_binding.decode("latin-1"),
        },
        "peer": exchange.connection.peer,
        "local": exchange.connection.local,
        "site_id": exchange.site.id,
        "site_name": exchange.site.name,
        "directory": exchange.directory.path,
        "directories": [
            (one.path, None if one.physical is None else str(one.physical), int(one.access))
            for one in exchange.site.directories
        ],
    }
