"""Applications in worker processes: the parent's side. AppIsolated 1 (own) and 2 (pooled); IS-1, IS-70

    application = IsolatedApplication(settings, "/srv/app/echo.so", world, services)

Each request is a stream of the worker's link and a control block here, so that it counts like any other. A worker
that dies ends its requests, 500 where nothing was sent and a cut where something was, and nothing else; the next
request starts another one, at most RESTARTS times in RESTART_WINDOW_S, then 503 until that has passed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
import subprocess
import sys
from collections import deque
from dataclasses import asdict, replace
from itertools import count
from typing import TYPE_CHECKING, Final

from oxid.errors import ConfigurationError
from oxid.iis import error_pages
from oxid.iis.isapi import constants as c
from oxid.iis.isapi.application import Application, ApplicationSettings
from oxid.iis.isapi.isolated_request import IsolatedControlBlock
from oxid.iis.isapi.services import ServerServices
from oxid.iis.isapi.worker_wire import Kind, Link
from oxid.runtime.processes import ChildProcess
from oxid.runtime.tcp import connect
from oxid.world import World

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange

log: Final = logging.getLogger("oxid.iis.isapi")

RESTARTS: Final = 5
"""Deaths of workers of one application within the window before it has to rest. IIS: 5."""
RESTART_WINDOW_S: Final = 300.0
"""IIS: five minutes."""
START_LIMIT_S: Final = 30.0
END_GRACE_S: Final = 2.0


class _ParentLink(Link):
    def __init__(self, process: WorkerProcess) -> None:
        super().__init__()
        self._process = process

    def frame(self, kind: int, stream: int, payload: bytes) -> None:
        self._process.frame(kind, stream, payload)

    def gone(self) -> None:
        self._process.gone()

    def misbehaved(self, error: Exception) -> None:
        log.error("a worker talks nonsense and is ended: %s", error)
        super().misbehaved(error)


class WorkerProcess:
    """One worker process, its link, and the requests that it answers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.link = _ParentLink(self)
        self.files: set[asyncio.Task[None]] = set()
        self.child: ChildProcess | None = None
        self.alive = False
        self.applications: dict[int, IsolatedApplication] = {}
        self._streams: dict[int, IsolatedControlBlock] = {}
        self._numbers = count(1)
        self._loading: dict[int, asyncio.Future[str | None]] = {}
        self._unloading: dict[int, asyncio.Future[None]] = {}
        self._passed: dict[int, int] = {}
        self._descriptors: socket.socket | None = None

    async def start(self) -> None:
        """Start the process. Raises ConfigurationError."""
        ours, theirs = socket.socketpair()
        ours_fd, theirs_fd = socket.socketpair(type=socket.SOCK_DGRAM)
        try:
            process = subprocess.Popen(  # noqa: ASYNC220  # it returns when the child runs
                [
                    sys.executable,
                    "-m",
                    "oxid.iis.isapi.worker",
                    str(theirs.fileno()),
                    str(theirs_fd.fileno()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=(theirs.fileno(), theirs_fd.fileno()),
                start_new_session=True,
                env=_environment(),
            )
        except OSError as error:
            for one in (ours, ours_fd):
                one.close()
            raise ConfigurationError(f"cannot start a worker: {error}") from error
        finally:
            theirs.close()
            theirs_fd.close()
        self.child = ChildProcess(process)
        loop = asyncio.get_running_loop()
        ours.setblocking(False)
        ours_fd.setblocking(False)
        self._descriptors = ours_fd
        loop.add_reader(ours_fd.fileno(), self._receive_descriptors)
        await connect(self.link, sock=ours)
        self.alive = True

    async def load(self, application: IsolatedApplication, source: str) -> None:
        """Let it load an application. Raises ConfigurationError where that fails."""
        waiter = asyncio.get_running_loop().create_future()
        self._loading[application.number] = waiter
        self.applications[application.number] = application
        settings = asdict(replace(application.settings, pending_timeout=None))
        self.link.send_json(Kind.LOAD, application.number, {"source": source, "settings": settings})
        try:
            async with asyncio.timeout(START_LIMIT_S):
                reason = await waiter
        except TimeoutError:
            reason = "it takes too long"
        finally:
            self._loading.pop(application.number, None)
        if reason is not None:
            self.applications.pop(application.number, None)
            raise ConfigurationError(reason)

    async def unload(self, application: IsolatedApplication, limit: float) -> None:
        """Let it unload an application."""
        self.applications.pop(application.number, None)
        if not self.alive:
            return
        waiter = self._unloading[application.number] = asyncio.get_running_loop().create_future()
        self.link.send(Kind.UNLOAD, application.number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await waiter
        self._unloading.pop(application.number, None)

    def join(self, block: IsolatedControlBlock) -> int:
        """A stream for a request."""
        number = next(self._numbers) & 0xFFFF_FFFF
        self._streams[number] = block
        return number

    def leave(self, number: int) -> None:
        self._streams.pop(number, None)

    def frame(self, kind: int, stream: int, payload: bytes) -> None:
        """What the worker says."""
        if kind == Kind.LOADED:
            waiter = self._loading.get(stream)
            if waiter is not None and not waiter.done():
                waiter.set_result(json.loads(payload))
        elif kind == Kind.UNLOADED:
            unloading = self._unloading.get(stream)
            if unloading is not None and not unloading.done():
                unloading.set_result(None)
        elif kind == Kind.UNHEALTHY:
            application = self.applications.get(stream)
            if application is not None:
                application.report_unhealthy(payload.decode("utf-8", "replace"))
        elif kind == Kind.INVALIDATE:
            for application in self.applications.values():
                application.services.invalidate(payload.decode("utf-8", "replace"))
                break
        else:
            block = self._streams.get(stream)
            if block is not None:
                block.frame(kind, payload)

    def _receive_descriptors(self) -> None:
        passing = self._descriptors
        while passing is not None:
            try:
                data, descriptors, _, _ = socket.recv_fds(passing, 4, 4)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, descriptors = b"", []
            if len(data) != 4 or len(descriptors) != 1:
                for one in descriptors:
                    os.close(one)
                if not data:
                    return
                continue
            self._passed[struct.unpack("<I", data)[0]] = descriptors[0]

    def descriptor(self, tag: int) -> int:
        """The descriptor that the worker passed under this tag; ours to close. Raises KeyError."""
        if tag not in self._passed:
            self._receive_descriptors()
        return self._passed.pop(tag)

    def gone(self) -> None:
        """The process has ended, or is to: so do its requests."""
        self.alive = False
        passing, self._descriptors = self._descriptors, None
        if passing is not None:
            asyncio.get_running_loop().remove_reader(passing.fileno())
            passing.close()
        for descriptor in self._passed.values():
            os.close(descriptor)
        self._passed.clear()
        for waiter in self._loading.values():
            if not waiter.done():
                waiter.set_result("its worker process died")
        for unloading in self._unloading.values():
            if not unloading.done():
                unloading.set_result(None)
        applications, self.applications = self.applications, {}
        streams, self._streams = self._streams, {}
        for block in streams.values():
            block.process = None
            block.mark_done(c.HSE_STATUS_ERROR)
        for application in applications.values():
            application.worker_died(self)

    async def end(self) -> None:
        """End the process; its requests are over."""
        if self.link.transport is not None:
            self.link.transport.close()
        if self.child is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_GRACE_S):
                    await self.child.wait()
            await self.child.end(END_GRACE_S)
        for file in list(self.files):
            file.cancel()
        while self.files:
            await asyncio.wait(self.files)

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.child}, {len(self._streams)} requests>"


def _environment() -> dict[str, str]:
    """The worker finds the same modules as we do."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return environment


class WorkerPool:
    """The one worker that pooled applications share."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._process: WorkerProcess | None = None
        self._starting = asyncio.Lock()

    async def process(self) -> WorkerProcess:
        """The running worker, started where there is none."""
        async with self._starting:
            if self._process is None or not self._process.alive:
                if self._process is not None:
                    await self._process.end()
                self._process = WorkerProcess(self._world)
                await self._process.start()
            return self._process

    async def aclose(self) -> None:
        """End it; its applications have been stopped."""
        process, self._process = self._process, None
        if process is not None:
            await process.end()


class IsolatedApplication(Application):
    """An extension in a worker process."""

    _numbers = count(1)

    def __init__(
        self,
        settings: ApplicationSettings,
        source: str,
        world: World,
        services: ServerServices | None = None,
        *,
        pool: WorkerPool | None = None,
    ) -> None:
        super().__init__(settings, world, services)
        self.source = source
        self.number = next(self._numbers)
        self._pool = pool
        self._process: WorkerProcess | None = None
        self._starting: asyncio.Task[None] | None = None
        self._waiting: deque[Exchange] = deque()
        self._deaths: deque[float] = deque(maxlen=RESTARTS)
        self._ending: set[asyncio.Task[None]] = set()
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """The worker's process id, while it runs."""
        process = self._process
        return None if process is None or process.child is None else process.child.pid

    async def start(self) -> None:
        """Start a worker and load the extension there. Raises ConfigurationError."""
        await super().start()
        await self._start_worker()

    async def _start_worker(self) -> None:
        if self._pool is not None:
            process = await self._pool.process()
        else:
            process = WorkerProcess(self.world)
            await process.start()
        try:
            await process.load(self, self.source)
        except BaseException:
            if self._pool is None:
                await process.end()
            raise
        self._process = process

    def begin(self, exchange: Exchange) -> None:
        process = self._process
        if process is None:
            self._begin_later(exchange)
            return
        block = IsolatedControlBlock(self, exchange, process)
        block.begin()
        block.returned(c.HSE_STATUS_PENDING)
        self.pended(block)

    def _begin_later(self, exchange: Exchange) -> None:
        """Start another worker, where there were not too many."""
        now = self.now()
        if self._stopping or (len(self._deaths) == RESTARTS and now < self._deaths[0] + RESTART_WINDOW_S):
            error_pages.deny(exchange, 503, keep=False)
            return
        self._waiting.append(exchange)
        if self._starting is None:
            self.world.ledger.task.enter()
            self._starting = self.loop.create_task(self._restart(), name="oxid isapi worker")

    async def _restart(self) -> None:
        try:
            await self._start_worker()
        except ConfigurationError as error:
            log.error("%s: no worker: %s", self.settings.name, error)
            self._deaths.append(self.now())
        finally:
            self.world.ledger.task.leave()
            self._starting = None
            waiting, self._waiting = self._waiting, deque()
            for exchange in waiting:
                if self._process is None:
                    error_pages.deny(exchange, 500, keep=False)
                else:
                    self.begin(exchange)

    def worker_died(self, process: WorkerProcess) -> None:
        """The worker is gone: its requests have been ended."""
        if self._process is not process:
            return
        self._process = None
        if self._stopping:
            return
        self._deaths.append(self.now())
        self.blocks.faults += 1
        log.error("%s: its worker process died", self.settings.name)
        if self._pool is None:
            self.world.ledger.task.enter()
            task = self.loop.create_task(process.end(), name="oxid isapi worker end")
            self._ending.add(task)
            task.add_done_callback(self._reaped)

    def _reaped(self, task: asyncio.Task[None]) -> None:
        self.world.ledger.task.leave()
        self._ending.discard(task)

    async def stop(self) -> None:
        """Unload it in the worker, which waits for its requests; end the worker where it is ours."""
        if self._starting is not None:
            await asyncio.wait({self._starting})
        self._stopping = True
        process, self._process = self._process, None
        if process is not None:
            await process.unload(self, self.settings.shutdown_limit + END_GRACE_S)
            if self._pool is None:
                await process.end()
        if self._ending:
            await asyncio.wait(self._ending)
        await super().stop()
