"""The asynchronous interface over real connections: both forms, streaming both ways, lifetimes. IS-20 to IS-32"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.support.isapi import Client, Place, scratch

from oxid.iis.isapi import (
    HSE_STATUS_ERROR,
    HSE_STATUS_PENDING,
    HSE_STATUS_SUCCESS,
    HSE_STATUS_SUCCESS_AND_KEEP_CONN,
    AsyncControlBlock,
    IsapiError,
)
from oxid.iis.isapi.application import Application, ApplicationSettings, AsyncApplication
from oxid.iis.isapi.host import IsapiHost
from oxid.iis.server import WebServer
from oxid.iis.settings import DirectorySettings, HandlerSettings, ScriptMap, ServerSettings, SiteSettings
from oxid.world import World

Begin = Callable[[AsyncControlBlock], int]
Handle = Callable[[AsyncControlBlock], Awaitable[int | None]]


class Plain:
    def __init__(self, begin: Begin) -> None:
        self.begin = begin


class Task:
    def __init__(self, handle: Handle) -> None:
        self.handle = handle


@asynccontextmanager
async def serving(extension: Any, **settings: Any) -> AsyncIterator[Place]:
    world = World.real()
    maps = (ScriptMap("*", HandlerSettings("mine")),)
    site = SiteSettings(directories=(DirectorySettings(script_maps=maps),))
    server = WebServer(world, ServerSettings(sites=(site,)))
    host = IsapiHost(server)
    application = AsyncApplication(
        ApplicationSettings(name="mine", **{"shutdown_limit": 2.0, **settings}), extension, world
    )
    handler = host.offer("mine", application)
    server.register_handler("mine", lambda directory, argument: handler)
    endpoint = await server.listen("127.0.0.1", 0)
    with scratch() as files:
        try:
            yield Place(world, server, host, endpoint.port, files)
        finally:
            await host.aclose()
            await server.aclose()


def story(extension: Any, told: Callable[[Place, Client], Awaitable[None]], **settings: Any) -> None:
    async def tell() -> None:
        async with serving(extension, **settings) as place:
            async with asyncio.timeout(30), place.client() as client:
                await told(place, client)
            await place.rest()

    asyncio.run(tell())


def test_a_plain_extension_answers_without_a_task() -> None:
    def begin(ecb: AsyncControlBlock) -> int:
        assert len(asyncio.all_tasks()) == tasks
        ecb.respond(200, b"hello", [(b"Content-Type", b"text/plain")])
        return HSE_STATUS_SUCCESS_AND_KEEP_CONN

    tasks = 0

    async def told(place: Place, client: Client) -> None:
        nonlocal tasks
        tasks = len(asyncio.all_tasks()) + 1  # the first request waits for the application to be loaded
        assert (await client.ask("x")).body == b"hello"
        tasks -= 1
        for _ in range(3):
            response = await client.ask("x")
            assert (response.body, response.headers["content-length"]) == (b"hello", "5")
        await place.idle()
        ended = {name: n for name, n in place.application.statistics().items() if name.startswith("ended_")}
        assert sum(ended.values()) == 4

    story(Plain(begin), told)


def test_a_coroutine_answers_and_its_return_is_the_end() -> None:
    async def handle(ecb: AsyncControlBlock) -> int | None:
        body = b""
        while data := await ecb.read(3):
            body += data
        ecb.send_head(b"201 Created", [(b"Content-Length", b"%d" % len(body))])
        ecb.write(body)
        await ecb.drain()
        return None

    async def told(place: Place, client: Client) -> None:
        for _ in range(3):
            response = await client.ask("x", method="POST", body=b"abcdefgh")
            assert (response.status, response.body) == (201, b"abcdefgh")

    story(Task(handle), told)


@pytest.mark.req("S5", "S9", "IS-31")
def test_done_comes_once_and_what_is_kept_after_it_is_harmless() -> None:
    kept: list[AsyncControlBlock] = []
    errors: list[int] = []

    def finish(ecb: AsyncControlBlock) -> None:
        ecb.respond(200, b"later")
        ecb.done(HSE_STATUS_SUCCESS_AND_KEEP_CONN)
        for misuse in (ecb.done, partial(ecb.write, b"x"), ecb.take, ecb.send_head, lambda: ecb.method):
            try:
                misuse()
            except IsapiError as error:
                errors.append(error.errno)

    def begin(ecb: AsyncControlBlock) -> int:
        kept.append(ecb)
        asyncio.get_running_loop().call_soon(finish, ecb)
        return HSE_STATUS_PENDING

    async def told(place: Place, client: Client) -> None:
        for _ in range(2):
            assert (await client.ask("x")).body == b"later"
        assert errors == [87, 6, 6, 6, 6] * 2
        assert place.application.blocks.double_done == 2
        assert all(ecb.exchange is None and ecb.lost for ecb in kept)

    story(Plain(begin), told)


@pytest.mark.req("S6", "S18")
def test_done_inside_begin_ends_at_the_return() -> None:
    order: list[str] = []

    def begin(ecb: AsyncControlBlock) -> int:
        order.append(f"begin {ecb.query.decode()[:1]}")
        ecb.respond(200, b"hello")
        ecb.done(HSE_STATUS_SUCCESS_AND_KEEP_CONN)
        order.append("return")
        return HSE_STATUS_PENDING

    async def told(place: Place, client: Client) -> None:
        client.send("1")
        client.send("2")
        for _ in range(2):
            assert (await client.receive()).body == b"hello"
        assert order == ["begin 1", "return", "begin 2", "return"]

    story(Plain(begin), told)


@pytest.mark.req("S13", "SC-31", "IS-30")
@pytest.mark.parametrize("form", ["plain", "task"])
def test_an_exception_is_500_and_holds_nothing(form: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    def begin(ecb: AsyncControlBlock) -> int:
        raise RuntimeError("on purpose")

    async def handle(ecb: AsyncControlBlock) -> int | None:
        raise RuntimeError("on purpose")

    async def told(place: Place, client: Client) -> None:
        response = await client.ask("x")
        assert (response.status, response.body) == (500, b"")
        await place.idle()
        held = [one for one in gc.get_objects() if type(one) is AsyncControlBlock]
        assert held == []

    gc.collect()
    gc.disable()
    try:
        story(Plain(begin) if form == "plain" else Task(handle), told)
    finally:
        gc.enable()


@pytest.mark.req("S11", "S12", "SC-29")
def test_a_client_that_goes_is_told_and_done_is_still_owed() -> None:
    waiting: list[AsyncControlBlock] = []
    heard = asyncio.Event()

    def begin(ecb: AsyncControlBlock) -> int:
        waiting.append(ecb)
        ecb.when_lost(heard.set)
        return HSE_STATUS_PENDING

    async def told(place: Place, client: Client) -> None:
        client.send("x")
        while not waiting:
            await asyncio.sleep(0.001)
        client.writer.transport.abort()
        await heard.wait()
        ecb = waiting[0]
        assert ecb.lost
        assert place.live()["ecb"] == 1
        ecb.write(b"to nobody")
        assert ecb.take() == b""
        ecb.done()
        assert place.live()["ecb"] == 0

    story(Plain(begin), told)


@pytest.mark.req("RH-20", "RH-74")
def test_bytes_stream_both_ways_at_once_and_a_pause_holds_the_client_back() -> None:
    pieces: list[int] = []
    paused: list[AsyncControlBlock] = []

    def begin(ecb: AsyncControlBlock) -> int:
        length = ecb.content_length
        assert length is not None
        ecb.send_head(b"200 OK", [(b"Content-Length", b"%d" % length)], keep=True)

        def receive(data: bytes) -> None:
            pieces.append(len(data))
            ecb.write(data)
            if sum(pieces) > 100_000 and not paused:
                paused.append(ecb)
                ecb.pause_body()

        ecb.stream_body(receive, lambda: ecb.done(HSE_STATUS_SUCCESS_AND_KEEP_CONN))
        return HSE_STATUS_PENDING

    size = 8_000_000

    async def told(place: Place, client: Client) -> None:
        client.send("", method="POST", headers=f"Content-Length: {size}\r\n")
        body = os.urandom(size)
        client.writer.write(body)
        while not paused:
            await asyncio.sleep(0.001)
        before = sum(pieces)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert sum(pieces) == before  # nothing is given while it is paused
        paused[0].resume_body()
        response = await client.receive()
        assert response.body == body

    story(Plain(begin), told)


def test_a_file_goes_out_with_the_files_own_bytes(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)

    async def handle(ecb: AsyncControlBlock) -> int | None:
        with (tmp_path / "file").open("rb") as file:
            ecb.send_head(b"200 OK", [(b"Content-Length", b"2000000")])
            assert await ecb.send_file(file, 1000, 2_000_000) == 2_000_000
        return HSE_STATUS_SUCCESS_AND_KEEP_CONN

    async def told(place: Place, client: Client) -> None:
        for _ in range(2):
            assert (await client.ask("x")).body == content[1000:2_001_000]

    story(Task(handle), told)


@pytest.mark.req("S10", "S19", "SC-30")
def test_what_is_pending_is_listed_warned_of_and_ended_at_unload(caplog: pytest.LogCaptureFixture) -> None:
    async def told(place: Place, client: Client) -> None:
        client.send("x")
        while not place.host.applications() or not place.application.pending():
            await asyncio.sleep(0.001)
        application: Application = place.application
        while "pending for" not in caplog.text:
            await asyncio.sleep(0.001)
        assert application.pending()[0].age > 0
        assert application.statistics()["pending"] == 1
        await place.host.aclose()
        assert application.blocks.forced == 1
        assert (await client.receive()).status == 500

    story(Plain(lambda ecb: HSE_STATUS_PENDING), told, pending_warning=0.01, shutdown_limit=0.02)


@pytest.mark.req("S19")
def test_tasks_are_cancelled_at_unload() -> None:
    ended: list[str] = []

    async def handle(ecb: AsyncControlBlock) -> int | None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("cancelled")

    async def told(place: Place, client: Client) -> None:
        client.send("x")
        while not place.live()["ecb"]:
            await asyncio.sleep(0.001)
        await place.host.aclose()
        assert ended == ["cancelled"]
        assert (await client.receive()).status == 500

    story(Task(handle), told)


@pytest.mark.parametrize(
    ("status", "keep", "closes"),
    [
        (HSE_STATUS_SUCCESS_AND_KEEP_CONN, True, False),
        (HSE_STATUS_SUCCESS_AND_KEEP_CONN, False, True),
        (HSE_STATUS_SUCCESS, True, True),
    ],
)
@pytest.mark.req("IS-10", "SC-24")
def test_the_connection_is_kept_where_status_and_head_both_say_so(
    status: int, keep: bool, closes: bool
) -> None:
    def begin(ecb: AsyncControlBlock) -> int:
        ecb.send_head(b"200 OK", [(b"Content-Length", b"5")], keep=keep)
        ecb.write(b"hello")
        return status

    async def told(place: Place, client: Client) -> None:
        assert (await client.ask("x")).body == b"hello"
        if closes:
            assert await client.closed()
        else:
            assert (await client.ask("x", headers="Connection: close\r\n")).body == b"hello"
            assert await client.closed()

    story(Plain(begin), told)


def test_error_status_is_500_and_questions_are_answered() -> None:
    seen: dict[str, Any] = {}

    def begin(ecb: AsyncControlBlock) -> int:
        names = "method path query target version wants_keep_alive user tls script_name path_info"
        for name in names.split():
            seen[name] = getattr(ecb, name)
        seen["host"] = ecb.header(b"host")
        seen["variable"] = ecb.server_variable("UNICODE_SERVER_NAME")
        ecb.connection_state["mine"] = 1
        ecb.append_log("extra")
        return HSE_STATUS_ERROR

    async def told(place: Place, client: Client) -> None:
        assert (await client.ask("", path="/a%20b?c=1")).status == 500
        assert seen == {
            "method": "GET", "path": "/a b", "script_name": "/a b", "path_info": "/a b", "query": b"c=1",
            "target": b"/a%20b?c=1", "version": (1, 1), "wants_keep_alive": True, "user": None, "tls": None,
            "host": b"h", "variable": "h",
        }  # fmt: skip

    story(Plain(begin), told)


def test_an_extension_without_either_form_is_refused() -> None:
    with pytest.raises(TypeError, match="begin"):
        AsyncApplication(ApplicationSettings(), object(), World.real())  # type: ignore[arg-type]
