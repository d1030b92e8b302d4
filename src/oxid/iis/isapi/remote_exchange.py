"""An exchange seen from a worker process: the same interface, over frames. See `worker_wire.py`

What the parent knows of the request came with OPEN; the body follows within a window, and what is written is counted
against another one, so that a client which does not read stops the extension here as it would there.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from oxid.http.responses import header_lines
from oxid.iis.isapi.services import ExecStatus
from oxid.iis.isapi.worker_wire import PIECE, WINDOW, Kind, pack_response

if TYPE_CHECKING:
    from oxid.iis.isapi.worker import Worker


class RemoteExchange:
    """One request of the parent. Attributes and methods are those of `iis.exchange.Exchange`."""

    def __init__(self, worker: Worker, number: int, told: dict[str, Any], first: bytes) -> None:
        self._worker: Worker | None = worker
        self.number = number
        self.method: str = told["method"]
        self.target = told["target"].encode("latin-1")
        self.path: str = told["path"]
        self.query = told["query"].encode("latin-1")
        self.version: tuple[int, int] = (told["version"][0], told["version"][1])
        self.headers: list[tuple[bytes, bytes]] = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in told["headers"]
        ]
        self.content_length: int | None = told["content_length"]
        self.wants_keep_alive: bool = told["wants_keep_alive"]
        self.script_name: str = told["script_name"]
        self.path_info: str = told["path_info"]
        self.physical = _path(told["physical"])
        self.user = None if told["user"] is None else SimpleNamespace(**told["user"], identity=None)
        tls = told["tls"]
        if tls is not None:
            tls = SimpleNamespace(
                cipher=tls["cipher"],
                protocol=tls["protocol"],
                bits=tls["bits"],
                peer_certificate=_binary(tls["peer_certificate"]),
                channel_binding=_binary(tls["channel_binding"]),
            )
        self.connection: Any = SimpleNamespace(
            peer=tuple(told["peer"]), local=tuple(told["local"]), tls=tls, state={}, transport=None
        )
        directories = [
            SimpleNamespace(path=path, physical=_path(physical), access=access)
            for path, physical, access in told["directories"]
        ]
        self.directory = next(one for one in directories if one.path == told["directory"])
        self.site = SimpleNamespace(id=told["site_id"], name=told["site_name"], directories=directories)
        self.status = 0
        self.substatus = 0
        self.bytes_sent = 0
        self.head_sent = False
        self.finished = False
        self.log_data = ""
        self.log_query_extra = ""
        self._pieces = bytearray(first)
        self._body_open: bool = told["body"]
        self._lost = False
        self._held = False
        self._unacknowledged = 0
        self._receive: Callable[[bytes], None] | None = None
        self._ended: Callable[[], None] | None = None
        self._body_wake: Callable[[], None] | None = None
        self._writers: list[Callable[[], None]] = []
        self._hearers: list[Callable[[], None]] = []
        self._file_sent: asyncio.Future[int] | None = None
        self.executed: Callable[[ExecStatus], None] | None = None

    # What came ------------------------------------------------------------------------------------------

    def header(self, name: bytes) -> bytes | None:
        found = [value for key, value in self.headers if key == name]
        return b", ".join(found) if found else None

    @property
    def available(self) -> int:
        return len(self._pieces)

    @property
    def body_ended(self) -> bool:
        return not self._body_open and not self._pieces

    def take(self, limit: int | None = None) -> bytes:
        data = bytes(self._pieces[:limit])
        if data:
            del self._pieces[: len(data)]
            self._say(Kind.TAKEN, struct.pack("<I", len(data)))
        return data

    def when_body(self, wake: Callable[[], None]) -> None:
        if self._pieces or not self._body_open or self._lost:
            wake()
        else:
            self._body_wake = wake
            self._say(Kind.CONTINUE)

    async def read(self, limit: int | None = None) -> bytes:
        if not self._pieces and self._body_open and not self._lost:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.when_body(partial(_wake, waiter))
            await waiter
        return self.take(limit)

    def stream_body(self, receive: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        self._receive, self._ended = receive, ended
        self._say(Kind.CONTINUE)
        self._give()

    def pause_body(self) -> None:
        self._held = True

    def resume_body(self) -> None:
        self._held = False
        self._give()

    def _give(self) -> None:
        if self._receive is not None and not self._held:
            if self._pieces:
                self._receive(self.take())
            if (not self._body_open or self._lost) and not self._pieces:
                ended, self._ended, self._receive = self._ended, None, None
                if ended is not None:
                    ended()
        else:
            wake, self._body_wake = self._body_wake, None
            if wake is not None:
                wake()

    def body_arrived(self, data: bytes) -> None:
        """BODY."""
        self._pieces += data
        self._give()

    def body_complete(self) -> None:
        """BODY_END."""
        self._body_open = False
        self._give()

    # The response ---------------------------------------------------------------------------------------

    def _say(self, kind: Kind, payload: bytes = b"") -> None:
        if self._worker is not None:
            self._worker.link.send(kind, self.number, payload)

    def send_head(
        self, status: bytes, headers: bytes | Sequence[tuple[bytes, bytes]] = (), *, keep: bool
    ) -> None:
        self.head_sent = True
        self.status = int(status[:3]) if status[:3].isdigit() else 200
        self._say(Kind.HEAD, bytes([keep]) + status.replace(b"\0", b" ") + b"\0" + header_lines(headers))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._worker is None or self._lost or not len(data):
            return
        self.head_sent = True
        self.bytes_sent += len(data)
        self._unacknowledged += len(data)
        view = memoryview(data)
        for at in range(0, len(view), PIECE):
            self._say(Kind.DATA, bytes(view[at : at + PIECE]))

    def write_all(self, buffers: list[Any]) -> None:
        for buffer in buffers:
            self.write(buffer)

    def send_continue(self) -> None:
        self._say(Kind.CONTINUE)

    @property
    def writable(self) -> bool:
        return self._unacknowledged < WINDOW

    def when_writable(self, wake: Callable[[], None]) -> None:
        if self.writable or self.lost:
            wake()
        else:
            self._writers.append(wake)

    async def drain(self) -> None:
        if not self.writable and not self.lost:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.when_writable(partial(_wake, waiter))
            await waiter

    def written(self, count: int) -> None:
        """WRITTEN."""
        self._unacknowledged -= count
        if self.writable:
            self._wake_writers()

    def _wake_writers(self) -> None:
        writers, self._writers = self._writers, []
        for wake in writers:
            wake()

    async def send_file(self, file: Any, offset: int, count: int) -> int:
        worker = self._worker
        if worker is None or self.lost or count <= 0:
            return 0
        self.head_sent = True
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._file_sent = waiter
        tag = worker.pass_descriptor(file.fileno())
        self._say(Kind.FILE, struct.pack("<IQQ", tag, offset, count))
        try:
            sent = await waiter
        except asyncio.CancelledError:
            self._say(Kind.CANCEL)
            raise
        finally:
            self._file_sent = None
        self.bytes_sent += sent
        return sent

    def file_sent(self, count: int) -> None:
        """SENT."""
        if self._file_sent is not None and not self._file_sent.done():
            self._file_sent.set_result(count)

    def respond(
        self,
        status: int,
        body: bytes = b"",
        headers: bytes | Sequence[tuple[bytes, bytes]] = (),
        *,
        keep: bool = True,
    ) -> None:
        self.status = status
        if not self.head_sent and not self._lost and len(body) <= PIECE:
            self._say(Kind.RESPOND, pack_response(status, keep, header_lines(headers), body))
        elif not self.head_sent:
            lines = header_lines(headers) + b"Content-Length: %d\r\n\r\n" % len(body)
            self.send_head(b"%d Status" % status, lines, keep=keep)
            self.write(body)
        self.finish(keep=keep)

    # The end --------------------------------------------------------------------------------------------

    @property
    def lost(self) -> bool:
        return self._lost or self.finished

    def when_lost(self, hear: Callable[[], None]) -> None:
        if self._lost:
            hear()
        else:
            self._hearers.append(hear)

    def client_gone(self) -> None:
        """LOST."""
        if self._lost or self.finished:
            return
        self._lost = True
        self._body_open = False
        hearers, self._hearers = self._hearers, []
        for hear in hearers:
            hear()
        self._wake_writers()
        self.file_sent(0)
        self._give()

    def close_connection(self) -> None:
        """Let the parent close the client's connection."""
        self._say(Kind.CLOSE)
        self.client_gone()

    def execute_cancelled(self) -> None:
        self._say(Kind.CANCEL)

    def finish(self, *, keep: bool, abort: bool = False) -> None:
        if self.finished:
            return
        self.finished = True
        worker, self._worker = self._worker, None
        self._hearers.clear()
        self._receive = self._ended = self._body_wake = None
        self._wake_writers()
        if worker is not None:
            told = {
                "keep": keep,
                "abort": abort,
                "status": self.status,
                "substatus": self.substatus,
                "log": self.log_data,
                "query": self.log_query_extra,
            }
            worker.link.send_json(Kind.FINISH, self.number, told)
            worker.forget(self.number)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(os.fsdecode(text.encode("utf-8", "surrogateescape")))


def _binary(text: str | None) -> bytes | None:
    return None if text is None else text.encode("latin-1")
