"""ASGI 3 applications, mounted in a directory like an extension. https://asgi.readthedocs.io, HTTP 2.4 and lifespan

    applications = AsgiApplications(server)
    server.register_handler("asgi", applications.handler)        script map `*,asgi:module:name,1`
    handler = applications.mount(app)                            or with the application itself
    await applications.startup()
    await applications.aclose()

The mount's path is `root_path`; `path` is whole. One task per request; what is streamed waits for slow clients.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from importlib import import_module
from typing import Any, Final

from oxid.errors import ConfigurationError
from oxid.http.responses import status_line
from oxid.http.targets import split_target
from oxid.iis.exchange import Exchange, Handler
from oxid.iis.server import WebServer
from oxid.iis.settings import DirectorySettings

log: Final = logging.getLogger("oxid.iis.asgi")

PIECE: Final = 64 * 1024
"""Bytes of a request body in one event."""
LIFESPAN_S: Final = 30.0
"""For an application to start, and to stop."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class AsgiApplications:
    """The applications of one web server and their lifespans."""

    def __init__(self, server: WebServer) -> None:
        self._server = server
        self._lives: dict[int, _Lifespan] = {}
        self._by_name: dict[str, Application] = {}
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []

    def handler(self, directory: DirectorySettings, argument: str) -> Handler:
        """The factory of kind `asgi`: `module:name`. Raises ConfigurationError."""
        application = self._by_name.get(argument)
        if application is None:
            application = self._by_name[argument] = load(argument)
        return self.mount(application)

    def mount(self, application: Application) -> Handler:
        """The handler for an application; its lifespan begins with the first `startup` or request."""
        life = self._lives.get(id(application))
        if life is None:
            life = self._lives[id(application)] = _Lifespan(self._server, application)
        return life.handle

    async def startup(self) -> None:
        """Start every application that was mounted. Raises ConfigurationError where one says that it failed."""
        for life in list(self._lives.values()):
            await life.startup()

    async def aclose(self) -> None:
        """Tell every application that it is over; after the server was closed."""
        lives, self._lives = list(self._lives.values()), {}
        for life in lives:
            await life.shutdown()


def load(name: str) -> Application:
    """Import `module:name`. Raises ConfigurationError."""
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ConfigurationError(f"{name!r} is no ASGI application: MODULE:NAME was expected")
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"ASGI application {name}: {error}") from error
    return found  # type: ignore[no-any-return]  # whatever it is, calling it shows


class _Lifespan:
    """One application: its lifespan task and its requests."""

    def __init__(self, server: WebServer, application: Application) -> None:
        self._server = server
        self._application = application
        self._state: dict[str, Any] = {}
        self._task: asyncio.Task[None] | None = None
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._answer: asyncio.Future[Message | None] | None = None

    def handle(self, exchange: Exchange) -> None:
        self._server.spawn(exchange, self._run(exchange))

    async def _run(self, exchange: Exchange) -> None:
        request = _Request(exchange, self._state)
        await self._application(request.scope, request.receive, request.send)
        request.returned()

    async def startup(self) -> None:
        if self._task is not None:
            return
        self._server.world.ledger.task.enter()
        self._task = asyncio.get_running_loop().create_task(self._live(), name="oxid asgi lifespan")
        answer = await self._tell("lifespan.startup")
        if answer is not None and answer["type"] == "lifespan.startup.failed":
            raise ConfigurationError(f"the ASGI application does not start: {answer.get('message', '')}")

    async def shutdown(self) -> None:
        task = self._task
        if task is None:
            return
        if not task.done():
            answer = await self._tell("lifespan.shutdown")
            if answer is not None and answer["type"] == "lifespan.shutdown.failed":
                log.error("an ASGI application did not stop well: %s", answer.get("message", ""))
        if not task.done():
            await asyncio.wait({task}, timeout=LIFESPAN_S)
            task.cancel()
            await asyncio.wait({task})
        self._task = None

    async def _tell(self, kind: str) -> Message | None:
        """Send a lifespan event; what the application answers, None where it knows no lifespan."""
        assert self._task is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._to_app.put_nowait({"type": kind})
        waiting: set[asyncio.Future[Any]] = {self._answer, self._task}
        await asyncio.wait(waiting, timeout=LIFESPAN_S, return_when=asyncio.FIRST_COMPLETED)
        return self._answer.result() if self._answer.done() else None

    async def _live(self) -> None:
        async def send(message: Message) -> None:
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(message)

        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self._application(scope, self._to_app.get, send)
        except Exception as error:
            log.debug("an ASGI application has no lifespan: %r", error)
        finally:
            self._server.world.ledger.task.leave()


class _Request:
    """One exchange in ASGI's words."""

    def __init__(self, exchange: Exchange, state: dict[str, Any]) -> None:
        self._exchange = exchange
        self._over = False
        """The whole response was sent."""
        self._chunked = False
        self._started = False
        self._ended_body = False
        connection = exchange.connection
        root = "" if exchange.directory.path == "/" else exchange.directory.path
        _, raw_path, query = split_target(exchange.target)
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": f"{exchange.version[0]}.{exchange.version[1]}",
            "method": exchange.method,
            "scheme": "http" if connection.tls is None else "https",
            "path": exchange.path,
            "raw_path": raw_path,
            "query_string": query,
            # the client's spelling of the mount, so that it is a prefix of the path
            "root_path": exchange.path[: len(root)],
            "headers": list(exchange.headers),
            "client": connection.peer,
            "server": connection.local,
            "state": state.copy(),
            "oxid.user": exchange.user,
        }

    async def receive(self) -> Message:
        exchange = self._exchange
        if not self._ended_body and not self._over:
            body = await exchange.read(PIECE)
            if not exchange.lost:
                self._ended_body = exchange.body_ended
                return {"type": "http.request", "body": body, "more_body": not self._ended_body}
        if not exchange.lost and not self._over:
            gone = asyncio.get_running_loop().create_future()
            exchange.when_lost(lambda: None if gone.done() else gone.set_result(None))
            await gone
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        exchange = self._exchange
        kind = message["type"]
        if self._over:
            raise RuntimeError(f"{kind} after the end of the response")
        if exchange.lost:
            raise OSError("the client is gone")
        if kind == "http.response.start":
            self._start(message)
        elif kind == "http.response.body":
            if not self._started:
                raise RuntimeError("a body before http.response.start")
            self._body(message.get("body", b""), more=message.get("more_body", False))
            if not exchange.writable:
                await exchange.drain()
        else:
            raise RuntimeError(f"unknown message {kind}")

    def _start(self, message: Message) -> None:
        if self._started:
            raise RuntimeError("a second http.response.start")
        self._started = True
        self._status = int(message["status"])
        self._headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]

    def _body(self, body: bytes, *, more: bool) -> None:
        exchange = self._exchange
        if not exchange.head_sent and self._head(body, more=more):
            return
        if body and exchange.method != "HEAD":
            if self._chunked:
                exchange.write_all([b"%x\r\n" % len(body), body, b"\r\n"])
            else:
                exchange.write(body)
        if not more:
            if self._chunked:
                exchange.write(b"0\r\n\r\n")
            self._finish()

    def _head(self, body: bytes, *, more: bool) -> bool:
        """Send the head; True where the response was whole and went with it."""
        exchange = self._exchange
        names = {name.lower() for name, _ in self._headers}
        headers = self._headers
        empty = self._status in (204, 304)
        if b"content-length" not in names and not empty:
            if not more and b"transfer-encoding" not in names:
                self._over = True
                exchange.respond(self._status, body, headers)
                return True
            if exchange.version >= (1, 1) and b"transfer-encoding" not in names:
                headers = [*headers, (b"Transfer-Encoding", b"chunked")]
                self._chunked = exchange.method != "HEAD"
        exchange.send_head(status_line(self._status), headers, keep=True)
        return False

    def _finish(self) -> None:
        self._over = True
        self._exchange.finish(keep=True)

    def returned(self) -> None:
        """The application returned: it should have said all by now."""
        exchange = self._exchange
        if exchange.finished:
            return
        if not exchange.head_sent and not exchange.lost:
            raise RuntimeError("the ASGI application returned without a response")
        exchange.finish(keep=False, abort=not exchange.lost)
