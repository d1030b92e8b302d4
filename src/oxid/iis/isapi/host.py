"""The host of ISAPI extensions of a web server: each is loaded once per pool, at its first request. IS-1

    host = IsapiHost(server)
    host.install()                         the server's script maps may say kind "isapi" now
    await host.aclose()                    every application is unloaded

What a script map's argument names:

    /srv/app/echo.py       a Python file with `__ExtensionFactory__`
    shop.extension         a Python module with one; `shop.extension:name` for an object of the asynchronous interface
    /srv/app/echo.so       a shared object with `GetExtensionVersion` and `HttpExtensionProc`
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from oxid.errors import ConfigurationError
from oxid.iis import error_pages
from oxid.iis.isapi.application import Application, ApplicationSettings
from oxid.iis.isapi.child import WebServices
from oxid.iis.isapi.constants import IN_PROCESS, POOLED_PROCESS
from oxid.iis.isapi.loading import application_for
from oxid.iis.isapi.services import ServerServices

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange, Handler
    from oxid.iis.server import WebServer
    from oxid.iis.settings import DirectorySettings

log: Final = logging.getLogger("oxid.iis.isapi")

KIND: Final = "isapi"
_VERSION: Final = re.compile(r"/(\d{1,4})\.(\d{1,4})")
RESTART_AFTER_S: Final = 5.0
"""Seconds for which an extension that could not be loaded is not tried again."""


def settings_for(server_header: str) -> ApplicationSettings:
    """Settings of a server that calls itself so: extensions learn the version behind the slash. IS-2"""
    found = _VERSION.search(server_header)
    if found is None:
        return ApplicationSettings(software=server_header)
    return ApplicationSettings(software=server_header, version=(int(found[1]), int(found[2])))


class Loaded:
    """One application of the host, from its first request until it is unloaded or recycled."""

    __slots__ = ("_application", "_failed_at", "_host", "_make", "_starting", "_stopped", "_waiting", "name")

    def __init__(self, host: IsapiHost, name: str, make: Callable[[], Application]) -> None:
        self.name = name
        self._host = host
        self._make = make
        self._application: Application | None = None
        self._starting: asyncio.Task[None] | None = None
        self._waiting: deque[Exchange] = deque()
        self._failed_at: float | None = None
        self._stopped = False

    @property
    def application(self) -> Application | None:
        """The application, while it is loaded."""
        return self._application

    def handle(self, exchange: Exchange) -> None:
        """Give a request to the application; it is loaded first where it is not."""
        application = self._application
        if application is not None:
            application.begin(exchange)
            return
        now = self._host.world.clock.now()
        if self._stopped or (self._failed_at is not None and now < self._failed_at + RESTART_AFTER_S):
            error_pages.deny(exchange, 500, keep=False)
            return
        self._waiting.append(exchange)
        if self._starting is None:
            self._starting = self._host.spawn(self._start())

    async def _start(self) -> None:
        try:
            application = self._make()
            application.when_unhealthy = self._recycle
            await application.start()
        except Exception as error:
            log.error("%s cannot be loaded: %s", self.name, error)
            self._failed_at = self._host.world.clock.now()
        else:
            self._failed_at = None
            self._application = application
        finally:
            self._starting = None
            waiting, self._waiting = self._waiting, deque()
            for exchange in waiting:
                if self._application is None:
                    error_pages.deny(exchange, 500, keep=False)
                else:
                    self._begin(exchange)

    def _begin(self, exchange: Exchange) -> None:
        assert self._application is not None
        try:
            self._application.begin(exchange)
        except Exception:
            self._host.server.failed(exchange)

    def _recycle(self) -> None:
        """The extension is unhealthy: new requests get a new one, the old one ends its own."""
        application, self._application = self._application, None
        if application is not None:
            self._host.spawn(application.stop())

    async def stop(self) -> None:
        """Unload it; requests from now on are 500."""
        self._stopped = True
        if self._starting is not None:
            await asyncio.wait({self._starting})
        application, self._application = self._application, None
        if application is not None:
            await application.stop()


class IsapiHost:
    """The applications of a web server."""

    def __init__(
        self,
        server: WebServer,
        settings: ApplicationSettings | None = None,
        *,
        services: ServerServices | None = None,
    ) -> None:
        """`settings`: what every application has, except name and isolation; by default as the server calls itself."""
        self.server = server
        self.world = server.world
        self.settings = settings or settings_for(server.settings.server_header)
        self.services: ServerServices = services or WebServices(server)
        self._loaded: dict[tuple[str, int], Loaded] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pool: Any = None

    def install(self) -> None:
        """Answer the script maps of kind `isapi`."""
        self.server.register_handler(KIND, self.handler)

    def handler(self, directory: DirectorySettings, argument: str) -> Handler:
        """The handler of a script map. Raises ConfigurationError where the argument names nothing."""
        if not argument:
            raise ConfigurationError(f"{directory.path}: an isapi script map names its extension")
        return self.load(argument, directory.isolated).handle

    def load(self, source: str, isolation: int = IN_PROCESS) -> Loaded:
        """The application of a source in its pool, loaded at its first request."""
        key = source, isolation
        found = self._loaded.get(key)
        if found is None:
            settings = replace(self.settings, name=source.rpartition("/")[2], isolation=isolation)
            found = self._loaded[key] = Loaded(self, source, lambda: self._make(source, settings))
        return found

    def offer(self, name: str, application: Application) -> Handler:
        """A handler for an application that somebody made; the host starts and stops it."""
        found = self._loaded[name, IN_PROCESS] = Loaded(self, name, lambda: application)
        return found.handle

    def _make(self, source: str, settings: ApplicationSettings) -> Application:
        if settings.isolation == IN_PROCESS:
            return application_for(source, settings, self.world, self.services)
        from oxid.iis.isapi.isolated import IsolatedApplication, WorkerPool

        if settings.isolation != POOLED_PROCESS:
            return IsolatedApplication(settings, source, self.world, self.services)
        if self._pool is None:
            self._pool = WorkerPool(self.world)
        return IsolatedApplication(settings, source, self.world, self.services, pool=self._pool)

    def spawn(self, work: Any) -> asyncio.Task[None]:
        """Run what starts or stops an application."""
        self.world.ledger.task.enter()
        task: asyncio.Task[None] = self.server.loop.create_task(work, name="oxid isapi host")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.world.ledger.task.leave()
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an application could not be stopped", exc_info=error)

    def applications(self) -> list[Application]:
        """Those that are loaded."""
        return [one.application for one in self._loaded.values() if one.application is not None]

    async def unload(self, source: str, isolation: int = IN_PROCESS) -> None:
        """Unload one application; its next request loads it again."""
        found = self._loaded.pop((source, isolation), None)
        if found is not None:
            await found.stop()

    async def aclose(self) -> None:
        """Unload every application. S19, S20"""
        loaded, self._loaded = self._loaded, {}
        await asyncio.gather(*(one.stop() for one in loaded.values()))
        while self._tasks:
            await asyncio.wait(self._tasks)
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()

    def statistics(self) -> dict[str, dict[str, float]]:
        return {
            name
            if isolation == IN_PROCESS
            else f"{name} (isolated {isolation})": one.application.statistics()
            for (name, isolation), one in self._loaded.items()
            if one.application is not None
        }

    def __repr__(self) -> str:
        return f"<IsapiHost {len(self.applications())} applications>"
