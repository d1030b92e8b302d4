"""ASGI applications in our server: one written by hand, and ones that behave as Starlette's do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest
from tests.support.web import RUNNERS, Client, everything, web_server

from oxid.errors import ConfigurationError
from oxid.iis.asgi import AsgiApplications, load
from oxid.iis.limits import HttpLimits
from oxid.iis.settings import DirectorySettings, HandlerSettings, MapFlags, ScriptMap

Run = Callable[[Coroutine[Any, Any, None]], None]
Scope = dict[str, Any]
App = Callable[..., Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return RUNNERS[request.param]


@asynccontextmanager
async def mounted(application: App, path: str = "/"):  # type: ignore[no-untyped-def]
    directory = DirectorySettings(
        path, script_maps=(ScriptMap("*", HandlerSettings("asgi"), MapFlags.SCRIPT),)
    )
    async with web_server(directory) as (server, endpoint):
        applications = AsgiApplications(server)
        server.register_handler("asgi", lambda directory, argument: applications.mount(application))
        applications.mount(application)
        await applications.startup()
        try:
            yield server, endpoint
        finally:
            await applications.aclose()


async def whole(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        body += message["body"]
        if not message["more_body"]:
            return body


def test_the_scope_and_a_plain_answer(run: Run) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        seen.append(scope)
        body = await whole(receive)
        await send(
            {"type": "http.response.start", "status": 201, "headers": [(b"x-length", b"%d" % len(body))]}
        )
        await send({"type": "http.response.body", "body": body.upper()})
        assert (await receive())["type"] == "http.disconnect"

    async def story() -> None:
        async with mounted(app, "/App") as (server, endpoint), await Client.connect(endpoint) as client:
            for _ in range(2):
                answer = await client.ask(
                    b"POST /app/a%20b/%C3%A4?q=%20 HTTP/1.1\r\nHost: h\r\nX-Y: 1\r\nContent-Length: 5\r\n\r\nhello"
                )
                assert (answer.status, answer.body, answer.headers[b"x-length"]) == (201, b"HELLO", b"5")
            assert server.world.ledger.http_connection.total == 1

    run(story())
    scope = seen[0]
    assert (scope["method"], scope["scheme"], scope["http_version"]) == ("POST", "http", "1.1")
    assert (scope["path"], scope["root_path"]) == ("/app/a b/ä", "/app")
    assert (scope["raw_path"], scope["query_string"]) == (b"/app/a%20b/%C3%A4", b"q=%20")
    assert (b"x-y", b"1") in scope["headers"]
    assert scope["client"][0] == scope["server"][0] == "127.0.0.1"


def test_streams_go_both_ways_and_are_chunked_where_no_length_is_said(run: Run) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        await send({"type": "http.response.body"})

    async def story() -> None:
        async with mounted(app) as (_, endpoint), await Client.connect(endpoint) as client:
            for _ in range(2):
                client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nfirst")
                head = await client.reader.readuntil(b"\r\n\r\n")
                assert b"Transfer-Encoding: chunked" in head
                assert await client.reader.readexactly(10) == b"5\r\nfirst\r\n"
                client.send(b"other")
                assert await client.reader.readexactly(15) == b"5\r\nother\r\n0\r\n\r\n"
            answer = await client.ask(b"GET / HTTP/1.0\r\n\r\n")
            assert answer.status == 200
            assert b"transfer-encoding" not in answer.headers

    run(story())


def test_head_and_length_of_its_own(run: Run) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"10")] if scope["path"] == "/length" else []
        await send(
            {
                "type": "http.response.start",
                "status": 204 if scope["path"] == "/none" else 200,
                "headers": headers,
            }
        )
        await send({"type": "http.response.body", "body": b"01234", "more_body": True})
        await send({"type": "http.response.body", "body": b"56789"})

    async def story() -> None:
        async with mounted(app) as (_, endpoint), await Client.connect(endpoint) as client:
            assert (await client.get("/length")).body == b"0123456789"
            assert (await client.get("/length", method="HEAD")).headers[b"content-length"] == b"10"
            assert (await client.get("/chunked")).body == b"0123456789"
            assert (await client.get("/none")).body == b""

    run(story())


@pytest.mark.parametrize("when", ["before", "during", "never"])
def test_an_application_that_fails(run: Run, when: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if when == "during":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
        if when != "never":
            raise ValueError("its own business")

    async def story() -> None:
        async with mounted(app) as (_, endpoint), await Client.connect(endpoint) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            got = await client.rest()
            assert b"business" not in got
            assert (b" 500 " in got) == (when != "during")

    run(story())


@pytest.mark.parametrize("how", ["receive", "send"])
def test_an_application_hears_that_its_client_is_gone(run: Run, how: str) -> None:
    heard: list[object] = []
    begun = asyncio.Event

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await whole(receive)
        started.set()
        if how == "receive":
            heard.append((await receive())["type"])
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        except OSError as error:
            heard.append(type(error).__name__)
            raise

    async def story() -> None:
        async with mounted(app) as (server, endpoint):
            client = await Client.connect(endpoint)
            client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await started.wait()
            if how == "send":
                await asyncio.sleep(0.02)
            await client.close()
            while server.world.ledger.task.live or server.connections:
                await asyncio.sleep(0.001)

    async def begin() -> None:
        nonlocal started
        started = begun()
        await story()

    started: asyncio.Event
    run(begin())
    assert heard == ["http.disconnect" if how == "receive" else "OSError"]


def test_lifespan_as_starlette_lives_it(run: Run) -> None:
    life: list[str] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            assert (await receive())["type"] == "lifespan.startup"
            life.append("up")
            scope["state"]["pool"] = "shared"
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            life.append("down")
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["state"]["pool"].encode()})

    async def story() -> None:
        async with mounted(app) as (_, endpoint), await Client.connect(endpoint) as client:
            assert life == ["up"]
            assert (await client.get()).body == b"shared"
            assert (await client.get()).body == b"shared"

    run(story())
    assert life == ["up", "down"]


def test_a_startup_that_fails_is_said(run: Run) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async def story() -> None:
        async with web_server() as (server, _):
            applications = AsgiApplications(server)
            applications.mount(app)
            with pytest.raises(ConfigurationError, match="no database"):
                await applications.startup()
            await applications.aclose()

    run(story())


def test_an_application_is_found_by_its_name(run: Run) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"found"})

    module = ModuleType("an_asgi_module")
    setattr(module, "app", app)  # noqa: B010
    sys.modules[module.__name__] = module

    async def story() -> None:
        async with web_server(everything("asgi")) as (server, endpoint):
            applications = AsgiApplications(server)
            directory = DirectorySettings()
            handler = applications.handler(directory, "an_asgi_module:app")
            server.register_handler("asgi", lambda *_: handler)
            async with await Client.connect(endpoint) as client:
                assert (await client.get()).body == b"found"

    try:
        run(story())
        for wrong in ("an_asgi_module", "an_asgi_module:nothing", "no_such_module:app", ":app"):
            with pytest.raises(ConfigurationError):
                load(wrong)
    finally:
        del sys.modules[module.__name__]


def test_requests_in_flight_are_cancelled_at_the_end(run: Run) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async def story() -> None:
        async with web_server(everything("asgi"), limits=HttpLimits(shutdown_timeout=0.05)) as (
            server,
            endpoint,
        ):
            applications = AsgiApplications(server)
            server.register_handler("asgi", lambda *_: applications.mount(app))
            client = await Client.connect(endpoint)
            client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            while not server.world.ledger.task.live:
                await asyncio.sleep(0.001)
            await server.aclose()
            assert server.world.ledger.task.live == 0
            await client.close()

    run(story())
