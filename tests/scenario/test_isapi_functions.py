"""What extensions may ask of the server, in a real process of C and over real connections: every support function,
server variables, child requests, misuse, crashes. isapi.md §4, §8; AB-27, IS-70"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.support.isapi import EXTENSIONS, Client, Place, compile_extension, serving

from oxid.iis.isapi import isolated
from oxid.iis.isapi.application import ApplicationSettings
from oxid.iis.settings import DirectorySettings

pytestmark = pytest.mark.peer("gcc")


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_extension("functions.c", tmp_path_factory.mktemp("functions"))


@pytest.fixture(scope="module")
def story_so(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_extension("story.c", tmp_path_factory.mktemp("story"))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "page.txt").write_text("file content")
    return tmp_path


def told_of(source: Path, files: Path, story: Callable[[Place, Client], Awaitable[None]], mode: int) -> None:
    async def tell() -> None:
        settings = ApplicationSettings(shutdown_limit=2.0)
        also = (DirectorySettings(path="/files", physical=files),)
        async with serving(
            source, isolated=mode, settings=settings, directories=also, physical=files
        ) as place:
            async with asyncio.timeout(60), place.client() as client:
                await story(place, client)
            await place.rest()

    asyncio.run(tell())


PROCESSES = pytest.mark.parametrize("mode", [0, 1], ids=["in process", "own process"])


@PROCESSES
@pytest.mark.req("IS-25", "IS-2")
def test_every_function_answers_or_fails_with_its_error(functions: Path, files: Path, mode: int) -> None:
    async def story(place: Place, client: Client) -> None:
        response = await client.ask("questions")
        assert response.body.decode().splitlines() == [
            "1001 ok", "path /file.txt 1", "1001 error 122", "needed 1", "1001 error 87",
            "1012 ok", "flags 513 url 0", "1012 error 87", "1023 ok", "1024 ok",
            "1002 error 1008",
            "1003 ok", "1007 ok", "1008 ok", "keep 1", "1008 error 87", "1018 ok", "connected 1",
            "1030 ok", f"isolation {mode}", "1011 ok", "1011 ok", "token 1 same 1", "1038 ok", "1041 ok",
            "1033 ok", "normal /a/cA", "1033 error 13", "1042 ok", "traced 0", "1044 ok", "1045 ok",
            "1043 ok", "1043 ok", "1040 ok", "invalidated 0", "1049 error 87", "1050 error 50",
            "1010 error 87", "1026 error 87", "1006 error 87", "1037 error 87", "1028 error 87",
            "1046 error 50", "1047 error 50",
            "5 error 87", "1004 error 87", "1009 error 87", "1013 error 87", "1019 error 87", "1029 error 87",
        ]  # fmt: skip
        assert (await client.ask("fields")).status == 200  # fKeepConn 7 kept the connection. IS-10

    told_of(functions, files, story, mode)


@PROCESSES
@pytest.mark.req("IS-45")
def test_server_variables_of_the_c_interface(functions: Path, files: Path, mode: int) -> None:
    async def story(place: Place, client: Client) -> None:
        response = await client.ask("variables", headers="X-Thing: one\r\nX_Thing: two\r\n")
        assert response.body.decode().splitlines() == [
            "REQUEST_METHOD=GET|4", "REQUEST_METHOD error 122 4", "REQUEST_METHOD error 122 4",
            "HTTP_X_THING=one|4", "HEADER_X-Thing=one|4", "HTTP_ABSENT error 1413 100",
            "NO_SUCH_THING error 1413 100", "null error 87",
        ]  # fmt: skip

    told_of(functions, files, story, mode)


@PROCESSES
@pytest.mark.req("AB-27", "SC-28")
def test_misuse_is_answered_with_an_error_and_harms_nothing(functions: Path, files: Path, mode: int) -> None:
    async def story(place: Place, client: Client) -> None:
        response = await client.ask("misuse")
        assert response.body.decode().splitlines() == [
            "0 87", "0 87", "0 87", "0 87", "1", "0 6", "0 6", "0 6",
        ]  # fmt: skip
        assert (await client.ask("fields")).status == 200

    told_of(functions, files, story, mode)


@PROCESSES
@pytest.mark.req("IS-2", "IS-27")
def test_the_control_block_tells_the_request(functions: Path, files: Path, mode: int) -> None:
    async def story(place: Place, client: Client) -> None:
        response = await client.ask(
            "fields", method="PUT", body=b"abc", headers="Content-Type: text/x\r\n", path="/x"
        )
        method = f"192 60000 200 PUT|fields&{client.file}|/x|path|3|3|abc|text/x\n"
        assert response.body.decode() == method

    told_of(functions, files, story, mode)


@PROCESSES
@pytest.mark.parametrize(
    ("query", "status", "body"),
    [
        ("header", 202, b"body"),
        ("raw", 203, b"mine"),
        ("vector", 200, b"hello"),
        ("exec", 200, b"file content"),
        ("sendurl", 200, b"file content"),
    ],
)
def test_ways_to_answer(
    functions: Path, files: Path, mode: int, query: str, status: int, body: bytes
) -> None:
    async def story(place: Place, client: Client) -> None:
        response = await client.ask(query)
        assert (response.status, response.body, response.complete) == (status, body, True)
        if query == "header":  # function 3 never keeps the connection
            assert response.headers["connection"] == "close"
            assert await client.closed()
        else:
            assert (await client.ask(query)).body == body

    told_of(functions, files, story, mode)


@PROCESSES
def test_a_redirect_and_an_error_page(functions: Path, files: Path, mode: int) -> None:
    async def story(place: Place, client: Client) -> None:
        response = await client.ask("redirect")
        assert (response.status, response.headers["location"]) == (302, "/elsewhere")
        response = await client.ask("customerror")
        assert response.status == 404
        assert response.complete
        assert b"Not Found" in response.body

    told_of(functions, files, story, mode)


@PROCESSES
def test_an_abortive_close_resets_the_connection(functions: Path, files: Path, mode: int) -> None:
    async def story(place: Place, client: Client) -> None:
        await client.ask("abortive")
        assert await client.closed()

    told_of(functions, files, story, mode)


@PROCESSES
def test_an_unhealthy_extension_is_recycled(functions: Path, files: Path, mode: int) -> None:
    async def story(place: Place, client: Client) -> None:
        assert (await client.ask("fields")).status == 200
        before = place.application
        assert (await client.ask("unhealthy")).body == b"said\n"
        async with place.client() as another:
            while before in place.host.applications():
                await asyncio.sleep(0.001)
            assert (await another.ask("fields")).status == 200
            assert place.application is not before
        assert before.unhealthy == "tired"

    told_of(functions, files, story, mode)


@pytest.mark.req("IS-70", "SC-10")
@pytest.mark.parametrize("mode", [1, 2], ids=["own process", "pooled"])
def test_a_crash_ends_its_requests_and_nothing_else(story_so: Path, files: Path, mode: int) -> None:
    async def story(place: Place, client: Client) -> None:
        assert (await client.ask("keep")).body == b"hello"
        async with place.client() as waiting, place.client() as late:
            waiting.send("never")
            await waiting.noted("pending")
            late.send("crashlate")
            response = await late.receive()
            assert (response.status, response.body, response.complete) == (200, b"hello", False)
            assert (await waiting.receive()).status == 500
        await place.idle()
        # its connection was idle meanwhile, and there is a new worker
        assert (await client.ask("keep")).body == b"hello"
        await place.idle()  # the answer was there before its request had ended
        async with place.client() as crashing:
            assert (await crashing.ask("crash")).status == 500
        response = await client.ask("keep")
        assert (response.status, response.body) == (200, b"hello")

    told_of(story_so, files, story, mode)


@pytest.mark.req("IS-70")
@pytest.mark.parametrize(
    "nonsense",
    [
        b"\xff" * 12,
        b"\x26\0\0\0" + b"\1\0\0\0" + b"\2\0\0\0" + b"{}",
        b"\x7f" + bytes(3) + b"\1\0\0\0" + bytes(4),
    ],
)
def test_a_worker_that_talks_nonsense_is_ended(story_so: Path, files: Path, nonsense: bytes) -> None:
    async def story(place: Place, client: Client) -> None:
        client.send("never")  # stream 1
        await client.noted("pending")
        application = place.application
        assert isinstance(application, isolated.IsolatedApplication)
        assert application._process is not None
        application._process.link.data_received(nonsense)
        assert (await client.receive()).status == 500
        async with place.client() as another:
            assert (await another.ask("keep")).body == b"hello"

    told_of(story_so, files, story, 1)


@pytest.mark.req("IS-70")
def test_workers_that_die_again_and_again_have_to_rest(story_so: Path, files: Path) -> None:
    async def story(place: Place, client: Client) -> None:
        for _ in range(isolated.RESTARTS):
            async with place.client() as crashing:
                assert (await crashing.ask("crash")).status == 500
        async with place.client() as refused:
            assert (await refused.ask("keep")).status == 503

    told_of(story_so, files, story, 1)


@PROCESSES
def test_an_extension_that_refuses_to_load_answers_500(
    functions: Path, files: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUNCTIONS_REFUSE", "1")

    async def story(place: Place, client: Client) -> None:
        assert (await client.ask("fields")).status == 500

    async def tell() -> None:
        async with serving(functions, isolated=1) as place, asyncio.timeout(30), place.client() as client:
            await story(place, client)

    asyncio.run(tell())


@pytest.mark.parametrize("name", ["no_such_file.so", "no_such_file.py", "no_such_module", "os:no_such_thing"])
def test_an_extension_that_is_not_there_answers_500(name: str) -> None:
    async def tell() -> None:
        async with serving(EXTENSIONS / name if "." in name else name) as place, place.client() as client:
            assert (await client.ask("x")).status == 500

    asyncio.run(tell())
