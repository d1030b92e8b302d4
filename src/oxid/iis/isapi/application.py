"""An extension that is loaded: its control blocks, its threads, and how it comes and goes. isapi.md §1, IS-1, IS-2

    application = AsyncApplication(settings, MyExtension(), world, services)
    await application.start()
    application.begin(exchange)             the web server's handler
    await application.stop()                cancels what is outstanding, waits its grace, then forces (S19)

Subclasses say what runs: `asynchronous.py`'s interface here, pywin32's in `classic.py`, shared objects in `native.py`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import traceback
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from oxid.errors import LocalProtocolError
from oxid.iis.isapi.asynchronous import AsyncControlBlock, AsyncExtension
from oxid.iis.isapi.constants import (
    HSE_STATUS_ERROR,
    HSE_STATUS_PENDING,
    HSE_STATUS_SUCCESS_AND_KEEP_CONN,
    IN_PROCESS,
)
from oxid.iis.isapi.control_block import ControlBlock
from oxid.iis.isapi.references import ControlBlocks
from oxid.iis.isapi.services import PlainServices, ServerServices
from oxid.runtime.deadlines import DeadlineDriver
from oxid.world import World

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange

log: Final = logging.getLogger("oxid.iis.isapi")

TIMES: Final = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 300.0)
"""Seconds from the beginning of a request to its end, as statistics count them. IS-32"""
_TRANSITIONS: Final = threading.Lock()
"""Under which references change: one of the process, because ledgers are shared between hosts."""


@dataclass(frozen=True, slots=True)
class ApplicationSettings:
    """How an extension is hosted."""

    name: str = "extension"
    version: tuple[int, int] = (6, 0)
    """Major and minor version of the server that the extension is told. IS-2"""
    software: str = "Microsoft-IIS/6.0"
    pool_id: str = "DefaultAppPool"
    isolation: int = IN_PROCESS
    """What IS_IN_PROCESS answers: 0, 1 (own process) or 2 (pooled)."""
    threads: int = 25
    """The most threads of a pool. IIS: 25 a processor and more under load."""
    shutdown_limit: float = 10.0
    """Seconds that requests have to end when the application stops; then they are forced."""
    pending_timeout: float | None = None
    """Seconds after which a pending request is ended by force; None: never (S10)."""
    pending_warning: float = 300.0
    """Seconds after which a pending request is logged, once."""


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request that its extension has not let go, for people. S10"""

    conn_id: int
    age: float
    outstanding: int


class Application:
    """One loaded extension. All on the loop's thread, except `post` and `on_loop`."""

    def __init__(
        self, settings: ApplicationSettings, world: World, services: ServerServices | None = None
    ) -> None:
        self.settings = settings
        self.world = world
        self.services: ServerServices = services or PlainServices()
        self.blocks = ControlBlocks(world.ledger, _TRANSITIONS)
        self.pool_id: str = settings.pool_id
        self.software: str = settings.software
        self.now: Callable[[], float] = world.clock.now
        self.unhealthy: str | None = None
        """What the extension last reported with REPORT_UNHEALTHY; the owner recycles it."""
        self.when_unhealthy: Callable[[], None] | None = None
        self.times = [0] * (len(TIMES) + 1)
        """How many requests ended within each of TIMES, and after the last."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._empty: asyncio.Event | None = None
        self._warned: set[int] = set()
        self._watch: DeadlineDriver | None = None

    # Coming and going -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load it. Raises ConfigurationError where it refuses; every request is then a 500."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._watch = DeadlineDriver(self._loop, self.world, self._look)

    async def stop(self) -> None:
        """Unload it: cancel what is outstanding, wait for requests to end, force those that do not. S19"""
        limit = self.settings.shutdown_limit
        for block in self.blocks.handles:
            assert isinstance(block, ControlBlock)
            self.ask_to_end(block)
        if len(self.blocks.handles):
            self._empty = asyncio.Event()
            try:
                async with asyncio.timeout(limit):
                    await self._empty.wait()
            except TimeoutError:
                for held in list(self.blocks.handles):
                    log.warning("%s: %r is ended by force", self.settings.name, held)
                    held.force()
        if self._watch is not None:
            self._watch.close()

    def ask_to_end(self, block: ControlBlock) -> None:
        """The application stops: see that this request can end soon."""

    def begin(self, exchange: Exchange) -> None:
        """Answer a request: the web server's handler."""
        raise NotImplementedError

    # For control blocks -----------------------------------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise LocalProtocolError(f"{self.settings.name} is not started")
        return self._loop

    def on_loop(self) -> bool:
        """Whether this is the loop's thread."""
        return threading.get_ident() == self._thread

    def post(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Call it on the loop's thread, soon; any thread. False where the loop has ended."""
        try:
            self.loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return False
        return True

    def gone(self, block: ControlBlock) -> None:
        """A control block is freed."""
        self.times[bisect_left(TIMES, self.now() - block.began)] += 1
        if self._warned:
            self._warned.discard(block.conn_id)
        if not len(self.blocks.handles):
            if self._empty is not None:
                self._empty.set()
            if self._watch is not None:
                self._watch.close()  # nothing is pending: at rest there is no timer

    def pended(self, block: ControlBlock) -> None:
        """A proc returned PENDING: watch how long it takes."""
        watch, settings = self._watch, self.settings
        patience = min(settings.pending_warning, settings.pending_timeout or math.inf)
        if watch is not None and watch.due is None and patience < math.inf:
            watch.want(self.now() + patience)

    def report_unhealthy(self, reason: str) -> None:
        """REPORT_UNHEALTHY: the owner of the application is to recycle it."""
        self.unhealthy = reason
        log.warning("%s says it is unhealthy: %s", self.settings.name, reason)
        self.services.unhealthy(self.settings.name, reason)
        if self.when_unhealthy is not None:
            self.when_unhealthy()

    def fault(self, error: BaseException) -> None:
        """An extension raised. Its frames are not kept: they hold the request. S13"""
        self.blocks.faults += 1
        # as text: a record with the exception would keep the frames for as long as somebody keeps the record
        said = "".join(traceback.format_exception(error)).rstrip()
        clear_frames(error)
        log.error("%s failed\n%s", self.settings.name, said)

    # Pending requests -------------------------------------------------------------------------------------

    def pending(self) -> list[PendingRequest]:
        """The requests that are pending, the oldest first."""
        now = self.now()
        found = [
            PendingRequest(block.conn_id, now - block.began, block.outstanding)
            for block in self.blocks.pending()
            if isinstance(block, ControlBlock)
        ]
        return sorted(found, key=lambda pending: -pending.age)

    def _look(self, now: float) -> float | None:
        """Warn of pending requests that are old, and end those that are too old."""
        settings = self.settings
        following = None
        for block in self.blocks.pending():
            assert isinstance(block, ControlBlock)
            if settings.pending_timeout is not None and now >= block.began + settings.pending_timeout:
                log.warning("%s: %r is pending too long and ended", settings.name, block)
                block.force()
                continue
            due = block.began + settings.pending_warning
            if due <= now:
                if block.conn_id not in self._warned:
                    self._warned.add(block.conn_id)
                    log.warning(
                        "%s: %r is pending for %.0f s; DONE_WITH_SESSION is missing",
                        settings.name,
                        block,
                        now - block.began,
                    )
                due = None  # type: ignore[assignment]
            for candidate in (due, settings.pending_timeout and block.began + settings.pending_timeout):
                if candidate is not None and (following is None or candidate < following):
                    following = candidate
        return following

    def statistics(self) -> dict[str, float]:
        pending = self.pending()
        return {
            **self.blocks.statistics(),
            "pending_oldest_seconds": pending[0].age if pending else 0.0,
            **{f"ended_within_{limit:g}_s": count for limit, count in zip(TIMES, self.times, strict=False)},
            "ended_later": self.times[-1],
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.settings.name}, {len(self.blocks.handles)} requests>"


class AsyncApplication(Application):
    """An extension of the asynchronous interface."""

    def __init__(
        self,
        settings: ApplicationSettings,
        extension: AsyncExtension,
        world: World,
        services: ServerServices | None = None,
    ) -> None:
        super().__init__(settings, world, services)
        self.extension: Any = extension
        self._tasks: dict[AsyncControlBlock, asyncio.Task[None]] = {}
        self._plain = hasattr(extension, "begin")
        if not self._plain and not hasattr(extension, "handle"):
            raise TypeError("an asynchronous extension has begin() or handle()")

    async def start(self) -> None:
        await super().start()
        started = getattr(self.extension, "start", None)
        if started is not None:
            result = started(self)
            if asyncio.iscoroutine(result):
                await result

    async def stop(self) -> None:
        stopping = getattr(self.extension, "stop", None)
        if stopping is not None:
            result = stopping()
            if asyncio.iscoroutine(result):
                await result
        await super().stop()
        while self._tasks:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.wait(self._tasks.values())
            await asyncio.sleep(0)

    def ask_to_end(self, block: ControlBlock) -> None:
        task = self._tasks.get(block)  # type: ignore[call-overload]
        if task is not None:
            task.cancel()

    def begin(self, exchange: Exchange) -> None:
        if not self._plain:
            self._begin_task(exchange)
            return
        block = AsyncControlBlock(self, exchange)
        try:
            status = self.extension.begin(block)
        except (Exception, SystemExit) as error:
            self.fault(error)
            status = HSE_STATUS_ERROR
        block.returned(status)
        if status == HSE_STATUS_PENDING:
            self.pended(block)

    def _begin_task(self, exchange: Exchange) -> None:
        block = AsyncControlBlock(self, exchange)
        self.world.ledger.task.enter()
        task = self.loop.create_task(self._run(block), name="oxid isapi request")
        self._tasks[block] = task
        task.add_done_callback(partial(self._ran, block))

    def _ran(self, block: AsyncControlBlock, task: asyncio.Task[None]) -> None:
        self.world.ledger.task.leave()
        self._tasks.pop(block, None)
        if task.cancelled():
            block.returned(HSE_STATUS_ERROR)  # before its first step, or while it ran

    async def _run(self, block: AsyncControlBlock) -> None:
        try:
            status = await self.extension.handle(block)
        except (Exception, SystemExit) as error:
            self.fault(error)
            status = HSE_STATUS_ERROR
        block.returned(HSE_STATUS_SUCCESS_AND_KEEP_CONN if status is None else status)
        if status == HSE_STATUS_PENDING:
            self.pended(block)


def clear_frames(error: BaseException | None) -> None:
    """Let go of what the frames of an exception, and of those behind it, hold."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                clear_frames(inner)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
