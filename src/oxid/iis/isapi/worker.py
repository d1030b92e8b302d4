"""The worker process: extensions outside the web server, so that their crash is not its. AppIsolated 1 and 2; IS-70

    python -m oxid.iis.isapi.worker FRAMES DESCRIPTORS       two inherited sockets; started by `isolated.py`

It ends when its parent does, or lets go of it. SIGTERM is left to the parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any, Final, cast

from oxid.iis.isapi.application import Application, ApplicationSettings
from oxid.iis.isapi.failures import IsapiError
from oxid.iis.isapi.remote_exchange import RemoteExchange
from oxid.iis.isapi.services import ChildRequest, ErrorPage, ExecStatus, PlainServices
from oxid.iis.isapi.worker_wire import Kind, Link, child_to_json
from oxid.runtime.tcp import connect
from oxid.world import World

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange

log: Final = logging.getLogger("oxid.iis.isapi.worker")


class ParentServices(PlainServices):
    """The services of the web server, asked of the parent."""

    def __init__(self, worker: Worker, application: int) -> None:
        self._worker = worker
        self._application = application

    def execute(
        self, exchange: Exchange, child: ChildRequest, done: Callable[[ExecStatus], None]
    ) -> Callable[[], None]:
        remote = cast("RemoteExchange", exchange)
        if remote.executed is not None or remote.lost:
            raise IsapiError(87, "EXEC_URL")
        remote.executed = done
        self._worker.link.send_json(Kind.EXECUTE, remote.number, child_to_json(child))
        return remote.execute_cancelled

    def close_connection(self, exchange: Exchange) -> None:
        cast("RemoteExchange", exchange).close_connection()

    def error_page(self, exchange: Exchange, status: int, substatus: int) -> ErrorPage:
        return super().error_page(exchange, status, substatus)

    def invalidate(self, url: str) -> None:
        self._worker.link.send(Kind.INVALIDATE, 0, url.encode())

    def unhealthy(self, application: str, reason: str) -> None:
        self._worker.link.send(Kind.UNHEALTHY, self._application, reason.encode())


class _WorkerLink(Link):
    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def frame(self, kind: int, stream: int, payload: bytes) -> None:
        self._worker.frame(kind, stream, payload)

    def gone(self) -> None:
        self._worker.ended.set()


class Worker:
    """The applications and requests of one worker process."""

    def __init__(self, world: World, descriptors: socket.socket) -> None:
        self.world = world
        self.link = _WorkerLink(self)
        self.ended = asyncio.Event()
        self._descriptors = descriptors
        self._tags = count(1)
        self._applications: dict[int, Application] = {}
        self._exchanges: dict[int, RemoteExchange] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def pass_descriptor(self, descriptor: int) -> int:
        """Give a copy to the parent; the tag under which it has it."""
        tag = next(self._tags) & 0xFFFF_FFFF
        socket.send_fds(self._descriptors, [struct.pack("<I", tag)], [descriptor])
        return tag

    def forget(self, number: int) -> None:
        self._exchanges.pop(number, None)

    def frame(self, kind: int, stream: int, payload: bytes) -> None:
        """What the parent says."""
        if kind == Kind.OPEN:
            head, _, first = payload.partition(b"\n")
            told = json.loads(head)
            exchange = self._exchanges[stream] = RemoteExchange(self, stream, told, first)
            application = self._applications.get(told["application"])
            if application is None:
                exchange.respond(500, keep=False)
            else:
                application.begin(cast("Exchange", exchange))
            return
        if kind == Kind.LOAD:
            self._spawn(self._load(stream, json.loads(payload)))
            return
        if kind == Kind.UNLOAD:
            self._spawn(self._unload(stream))
            return
        exchange_or_none = self._exchanges.get(stream)
        if exchange_or_none is None:
            return  # it was finished while this was under way
        exchange = exchange_or_none
        if kind == Kind.BODY:
            exchange.body_arrived(payload)
        elif kind == Kind.BODY_END:
            exchange.body_complete()
        elif kind == Kind.LOST:
            exchange.client_gone()
        elif kind == Kind.WRITTEN:
            exchange.written(struct.unpack("<I", payload)[0])
        elif kind == Kind.SENT:
            exchange.file_sent(struct.unpack("<Q", payload)[0])
        elif kind == Kind.EXECUTED:
            done, exchange.executed = exchange.executed, None
            if done is not None:
                exchange.head_sent = True
                done(ExecStatus(*json.loads(payload)))

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, number: int, told: dict[str, Any]) -> None:
        from oxid.iis.isapi.loading import application_for

        settings = ApplicationSettings(**{**told["settings"], "version": tuple(told["settings"]["version"])})
        try:
            application = application_for(told["source"], settings, self.world, ParentServices(self, number))
            await application.start()
        except Exception as error:
            self.link.send_json(Kind.LOADED, number, str(error))
            return
        self._applications[number] = application
        self.link.send_json(Kind.LOADED, number, None)

    async def _unload(self, number: int) -> None:
        application = self._applications.pop(number, None)
        if application is not None:
            await application.stop()
        self.link.send(Kind.UNLOADED, number)

    async def run(self, frames: socket.socket) -> None:
        """Serve until the parent is gone."""
        await connect(self.link, sock=frames)
        await self.ended.wait()


async def _main(frames: int, descriptors: int) -> None:
    os.set_inheritable(frames, False)
    os.set_inheritable(descriptors, False)
    control = socket.socket(fileno=frames)
    control.setblocking(False)
    passing = socket.socket(fileno=descriptors)
    await Worker(World.real(), passing).run(control)


def main() -> None:
    """The process; ends at once when the parent is gone: nobody is left to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    frames, descriptors = int(sys.argv[1]), int(sys.argv[2])
    run: Callable[[Any], None] = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop

        run = uvloop.run
    try:
        run(_main(frames, descriptors))
    finally:
        sys.stdout.flush()
        os._exit(0)  # threads of extensions may hang; they are not waited for


if __name__ == "__main__":
    main()
