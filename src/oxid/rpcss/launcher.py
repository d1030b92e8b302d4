"""Starting local servers when somebody activates their classes. [MS-DCOM] 3.1.2.5.2.3.4, ACT-6, ACT-7

    server = await launcher.provider_for(clsid)      a running one, or one that is started now
    await launcher.aclose()

One launch serves all who wait for it. A server that ends before it has registered its classes, or takes too long,
fails all of them with CO_E_SERVER_EXEC_FAILURE; the next activation may try again, after a moment. A server that has
decided to end while an activation was on its way is replaced, and the client does not see it.

Whoever is started is watched, and ended when the host ends. A server that survived its host and asserts itself at
the next one is known by its channel alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from oxid.com.local_messages import ENVIRONMENT_CHANNEL, ENVIRONMENT_LAUNCH
from oxid.errors import OxidError, StatusError, error_for
from oxid.rpcss.class_registry import AppSettings, ClassRegistry
from oxid.runtime.processes import ChildProcess, start_process
from oxid.values.status import CO_E_SERVER_EXEC_FAILURE, CO_E_SERVER_STOPPING, HResult
from oxid.world import World

if TYPE_CHECKING:
    from oxid.rpcss.machine_service import MachineService
    from oxid.rpcss.session import Session

log = logging.getLogger("oxid.rpcss.launcher")

REST_AFTER_FAILURE_S: Final = 1.0
"""For which activations fail with the reason of the last launch, instead of starting the program again."""
EXPECT_S: Final = 5.0
"""For a server that survived another host to assert itself at this one."""
_LOOK_S: Final = 0.05
STOP_S: Final = 4.0
"""For a server to end when its host does."""


class _Server:
    """One local server, from its start until both its process and its session are gone."""

    __slots__ = ("app", "child", "ended", "failure", "session", "settled", "started_at", "token")

    def __init__(self, app: AppSettings, token: str, now: float) -> None:
        self.app = app
        self.token = token
        self.started_at = now
        self.child: ChildProcess | None = None
        self.session: Session | None = None
        self.failure = ""
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """It serves its classes, or never will."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def leaving(self) -> bool:
        """It will never take an activation again, and its process is still there."""
        served_out = self.session is None or self.session.stopping or self.session.ended
        return self.settled.done() and served_out and not self.ended.done()


class Launcher:
    """The local servers of one host."""

    def __init__(
        self,
        world: World,
        service: MachineService,
        registry: ClassRegistry,
        channel: Path,
        environment: Mapping[str, str],
        *,
        survivors: bool = False,
    ) -> None:
        """`channel` is where servers find the service; `environment` they get, with OXID_RPCSS and OXID_LAUNCH.
        `survivors`: servers of a host before us may live on."""
        self._world = world
        self._service = service
        self.registry = registry
        self._channel = channel
        self._environment = dict(environment)
        self._servers: set[_Server] = set()
        self._by_token: dict[str, _Server] = {}
        self._launching: dict[UUID, _Server] = {}
        """By AppID: the server whose start everybody waits for."""
        self._rest: dict[UUID, tuple[float, StatusError]] = {}
        self._adopted: dict[Session, asyncio.Future[None]] = {}
        """Servers that survived the host which started them, and what is done when they are gone."""
        self._single_use: set[UUID] = set()
        """Classes that were registered for single use: each activation needs a server of its own."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._expecting_until = world.clock.now() + min(service.policy.period, EXPECT_S) * survivors
        self.describe: Callable[[AppSettings], Mapping[str, Any]] = lambda app: {}
        """What a server of an application is told beyond its settings."""

    # For activations ----------------------------------------------------------------------------------

    async def provider_for(self, clsid: UUID, app: AppSettings) -> Session:
        """The session that serves an activation. Raises StatusError CO_E_SERVER_EXEC_FAILURE with the reason."""
        until = self._world.clock.now() + app.start_timeout
        while True:
            found: Session | None = self._service.classes.take(clsid)
            if found is not None:
                return found
            server = None if clsid in self._single_use else self._launching.get(app.id)
            if server is None and self._may_have_survived(app):
                await asyncio.sleep(_LOOK_S)
                continue
            if server is None:
                server = self._launch(app)
            try:
                await self._serving(server)
            except StatusError:
                # One that outlived the host before this one may have come back meanwhile, with the port.
                if self._service.classes.offers(clsid):
                    continue
                raise
            taken_by_others = clsid in self._single_use and self._world.clock.now() < until
            if not self._service.classes.offers(clsid) and not taken_by_others:
                server.failure = server.failure or f"it does not serve class {{{clsid}}}"
                raise self._failure(server)

    def _may_have_survived(self, app: AppSettings) -> bool:
        """Whether a server of the host before us still has a static endpoint: it asserts itself in a moment, and
        another one could not listen there."""
        if self._world.clock.now() >= self._expecting_until:
            return False
        return any(endpoint.static and _is_taken(endpoint.port) for endpoint in app.endpoints)

    async def _serving(self, server: _Server) -> None:
        """Wait until a server says that it serves. Raises StatusError where it does not."""
        left = server.started_at + server.app.start_timeout - self._world.clock.now()
        try:
            async with asyncio.timeout(max(left, 0.0)):
                await asyncio.shield(server.settled)
        except TimeoutError:
            server.failure = f"it did not register its classes in {server.app.start_timeout:g} s"
            self._give_up(server)
        if server.failure:
            raise self._failure(server)

    def _failure(self, server: _Server) -> StatusError:
        name = server.app.name or server.app.id
        error = error_for(
            HResult(CO_E_SERVER_EXEC_FAILURE), f"the server of application {name} failed: {server.failure}"
        )
        error.remedy = f"see the host's log; the command is {' '.join(server.app.command)}"
        return error

    # Starting -----------------------------------------------------------------------------------------

    def _launch(self, app: AppSettings) -> _Server:
        rest = self._rest.get(app.id)
        if rest is not None and rest[0] > self._world.clock.now():
            raise rest[1]
        self._rest.pop(app.id, None)
        if self._closed:
            raise error_for(HResult(CO_E_SERVER_STOPPING), "the host is ending")
        server = _Server(app, self._world.entropy.token(16).hex(), self._world.clock.now())
        self._servers.add(server)
        self._by_token[server.token] = server
        self._launching[app.id] = server
        self._world.ledger.local_server.enter()
        task = asyncio.get_running_loop().create_task(self._run(server), name="oxid local server")
        self._world.ledger.task.enter()
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return server

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._world.ledger.task.leave()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("watching a local server failed", exc_info=error)

    async def _run(self, server: _Server) -> None:
        """Start the process, and see it end."""
        app = server.app
        try:
            await self._make_way(server)
            environment = {
                **self._environment,
                ENVIRONMENT_CHANNEL: str(self._channel),
                ENVIRONMENT_LAUNCH: server.token,
            }
            child = server.child = start_process(app.command, environment=environment, user=app.user)
            log.info("started %s as process %d for application %s", app.command[0], child.pid, app.id)
        except OxidError as error:
            self._over(server, str(error))
            return
        try:
            code = await child.wait()
            how = f"it ended with {code}" if code >= 0 else f"it was ended by signal {-code}"
            if server.session is not None and not server.session.stopping:
                log.info("process %d of application %s: %s", child.pid, app.id, how)
            self._over(server, f"{how} before it registered its classes")
        finally:
            if child.returncode is None:
                # We are being ended ourselves; `aclose` has told it to end.
                await child.end(STOP_S)
                self._over(server, "the host ended")

    async def _make_way(self, server: _Server) -> None:
        """A static endpoint is free once the server that had it is gone; one that said it ends gets the time."""
        if not any(endpoint.static for endpoint in server.app.endpoints):
            return
        for other in list(self._servers):
            if other is server or other.app.id != server.app.id or other.child is None or not other.leaving:
                continue
            try:
                async with asyncio.timeout(STOP_S):
                    await asyncio.shield(other.ended)
            except TimeoutError:
                if other.leaving:
                    log.warning("process %d still holds an endpoint: ended", other.child.pid)
                    await other.child.end(1.0)
        for session, gone in list(self._adopted.items()):
            if session.stopping:
                try:
                    async with asyncio.timeout(STOP_S):
                        await asyncio.shield(gone)
                except TimeoutError:
                    log.warning("process %d may still hold an endpoint", session.pid)

    def _give_up(self, server: _Server) -> None:
        """A server that takes too long is ended; whoever waits for it is told."""
        if server.settled.done():
            return
        if server.child is not None:
            server.child.send(signal.SIGKILL)
        self._rest_after(server)
        self._settle(server)

    def _over(self, server: _Server, why: str) -> None:
        """The process is gone, or never was."""
        if server not in self._servers:
            return
        if not server.settled.done():
            server.failure = server.failure or why
            self._rest_after(server)
        self._settle(server)
        self._servers.discard(server)
        self._by_token.pop(server.token, None)
        self._world.ledger.local_server.leave()
        if not server.ended.done():
            server.ended.set_result(None)

    def _rest_after(self, server: _Server) -> None:
        """A program that cannot be started is not started again at once, however many activations come."""
        log.warning("application %s could not be started: %s", server.app.id, server.failure)
        until = self._world.clock.now() + REST_AFTER_FAILURE_S
        self._rest[server.app.id] = until, self._failure(server)

    def _settle(self, server: _Server) -> None:
        if self._launching.get(server.app.id) is server:
            del self._launching[server.app.id]
        if not server.settled.done():
            server.settled.set_result(None)

    def tell_permissions(
        self, registry: ClassRegistry, permissions_of: Callable[[AppSettings], Mapping[str, Any]]
    ) -> None:
        """Servers that run hear who may call them from now on; of applications that are there no more, nothing."""
        for session in self._service.sessions:
            app = self._app_of(session, registry)
            if app is not None and not session.ended:
                session.channel.tell("permit", **permissions_of(app))

    def _app_of(self, session: Session, registry: ClassRegistry) -> AppSettings | None:
        """What a server was started for; one of a host before us is known by its classes."""
        if not session.launch:
            return None
        server = self._by_token.get(session.launch)
        if server is not None:
            return registry.apps.get(server.app.id)
        return next(
            (
                app
                for clsid in self._service.classes.of(session)
                if (app := registry.app_of(clsid)) is not None
            ),
            None,
        )

    # What sessions say --------------------------------------------------------------------------------

    def welcome(self, session: Session) -> Mapping[str, Any]:
        """A process that carries a launch token is told what it serves."""
        server = self._by_token.get(session.launch)
        if server is None:
            if session.launch:
                # It was started by a host before this one, and has survived it.
                self._adopted[session] = asyncio.get_running_loop().create_future()
                self._world.ledger.local_server.enter()
            return {}
        server.session = session
        return {"app": server.app.to_raw(), **self.describe(server.app)}

    def may_register(self, session: Session, clsid: UUID) -> bool:
        """Whether a process may offer a class: one that we started as somebody else only its own."""
        if session.channel.peer.uid in (0, os.getuid()):
            return True
        server, app = self._by_token.get(session.launch), self.registry.app_of(clsid)
        return server is not None and app is not None and app.id == server.app.id

    def registered(self, clsid: UUID, *, single_use: bool) -> None:
        """A class object is there. One for single use takes one activation: each needs a server of its own."""
        if single_use:
            self._single_use.add(clsid)
        else:
            self._single_use.discard(clsid)

    def serves(self, session: Session) -> None:
        """A server has registered all its classes: everybody who waits for it looks again."""
        server = self._by_token.get(session.launch)
        if server is not None:
            self._settle(server)

    def failed(self, session: Session, why: str) -> None:
        """A server cannot do what it was started for, and says why."""
        server = self._by_token.get(session.launch)
        if server is not None and not server.settled.done():
            server.failure = why

    def ended(self, session: Session) -> None:
        server = self._by_token.get(session.launch)
        if server is not None and server.session is session:
            session.stopping = True
        gone = self._adopted.pop(session, None)
        if gone is not None:
            gone.set_result(None)
            self._world.ledger.local_server.leave()

    # The end ------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Tell every server to end, and see that it does."""
        self._closed = True
        for session in list(self._service.sessions):
            if session.launch:
                session.stop()
        children = [server.child for server in self._servers if server.child is not None]
        if children:
            await asyncio.gather(*(self._end_one(child) for child in children))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in list(self._servers):
            self._over(server, "the host ended")

    async def _end_one(self, child: ChildProcess) -> None:
        try:
            async with asyncio.timeout(STOP_S):
                await child.wait()
        except TimeoutError:
            await child.end(1.0)

    def statistics(self) -> dict[str, int]:
        return {"servers": len(self._servers), "launching": len(self._launching)}

    def __repr__(self) -> str:
        return f"<Launcher {len(self._servers)} local servers>"


def _is_taken(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("", port))
        except OSError:
            return True
    return False


def server_environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """What local servers inherit: everything but the host's own settings and secrets."""
    base = os.environ if base is None else base
    return {name: value for name, value in base.items() if not name.startswith("OXID_")}
