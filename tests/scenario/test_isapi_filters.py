"""A filter in a real server: it sees every stage, may change what it sees, and its contexts end with connections.
isapi.md §9; IS-50, IS-51"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support.isapi import EXTENSIONS, Client, Place, serving

from oxid.iis.isapi.filter_stages import install_filters
from oxid.iis.isapi.filters import FilterChain
from oxid.iis.isapi.python_filters import PythonFilter
from oxid.iis.isapi.python_module import PythonModule
from oxid.iis.settings import Auth, DirectorySettings


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    file = tmp_path / "notes"
    file.touch()
    monkeypatch.setenv("FILTER_NOTES", str(file))
    return lambda: file.read_text().splitlines()


@asynccontextmanager
async def filtered(tmp_path: Path) -> AsyncIterator[Place]:
    (tmp_path / "page.txt").write_text("file content")
    directories = (
        DirectorySettings(path="/files", physical=tmp_path),
        DirectorySettings(path="/locked", physical=tmp_path, auth=Auth.BASIC, allow_plain_basic=True),
    )
    module = PythonModule(str(EXTENSIONS / "filter.py"))
    loaded = PythonFilter(module, "marks").load()
    async with serving(
        EXTENSIONS / "story.py", directories=directories, passwords={"ann": "secret"}
    ) as place:
        install_filters(place.server, FilterChain([loaded]))
        yield place
        await place.rest()
    loaded.terminate()
    module.forget()


def story(tmp_path: Path, told: Callable[[Place, Client], Awaitable[None]]) -> None:
    async def tell() -> None:
        async with filtered(tmp_path) as place, asyncio.timeout(30):
            async with place.client() as client:
                await told(place, client)

    asyncio.run(tell())


@pytest.mark.req("IS-50", "IS-51")
def test_a_filter_hears_every_stage_once_and_keeps_its_context_for_the_connection(
    tmp_path: Path, notes: Callable[[], list[str]]
) -> None:
    async def told(place: Place, client: Client) -> None:
        for count in (1, 2):
            response = await client.ask("", path="/files/page.txt")
            assert response.body == b"file content"
            assert response.headers["x-count"] == str(count)
            assert response.headers["x-added"] == "by filter"

    story(tmp_path, told)
    stages = ["PREPROC_HEADERS", "AUTHENTICATION", "URL_MAP", "SEND_RESPONSE", "LOG", "END_OF_REQUEST"]
    first = [f"{stages[0]} None", *(f"{stage} 1" for stage in stages[1:])]
    second = [f"{stages[0]} 1", *(f"{stage} 2" for stage in stages[1:])]
    assert notes() == [*first, *second, "END_OF_NET_SESSION 2"]


@pytest.mark.req("IS-51")
def test_a_filter_sends_requests_elsewhere(tmp_path: Path, notes: Callable[[], list[str]]) -> None:
    async def told(place: Place, client: Client) -> None:
        assert (await client.ask("", path="/old/page.txt")).body == b"file content"
        assert (await client.ask("", path="/files/other.txt")).body == b"file content"
        assert (await client.ask("keep", path="/x")).body == b"hello"

    story(tmp_path, told)


def test_a_filter_answers_itself_or_fails(tmp_path: Path, notes: Callable[[], list[str]]) -> None:
    async def told(place: Place, client: Client) -> None:
        response = await client.ask("", path="/answer")
        assert (response.status, response.body) == (200, b"filter")
        response = await client.ask("", path="/broken")
        assert response.status == 500
        assert b"Traceback" not in response.body
        assert await client.closed()

    story(tmp_path, told)


def test_a_filter_hears_of_denied_access(tmp_path: Path, notes: Callable[[], list[str]]) -> None:
    async def told(place: Place, client: Client) -> None:
        assert (await client.ask("", path="/locked/page.txt")).status == 401

    story(tmp_path, told)
    assert "ACCESS_DENIED 1" in notes()


@pytest.mark.req("IS-50")
def test_every_connection_ends_once_also_those_that_never_asked(
    tmp_path: Path, notes: Callable[[], list[str]]
) -> None:
    async def told(place: Place, client: Client) -> None:
        for kind in range(10):
            async with place.client() as another:
                if kind % 3 == 0:
                    await another.ask("", path="/files/page.txt")
                elif kind % 3 == 1:
                    another.writer.write(b"nonsense\r\n\r\n")
                    await another.closed()

    story(tmp_path, told)
    assert Counter(line.split()[0] for line in notes())["END_OF_NET_SESSION"] == 11


@pytest.mark.req("IS-50")
def test_a_filter_changes_raw_bytes_both_ways(
    tmp_path: Path, notes: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FILTER_RAW", "1")

    async def told(place: Place, client: Client) -> None:
        response = await client.ask("", path="/secret/page.txt")
        assert response.body == b"FILE CONTENT"

    story(tmp_path, told)
