"""Files over real sockets: conditions, ranges, listings, the cache, and nothing outside the root. IS-41"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.web import RUNNERS, Client, certificate, trusting, web_server

from oxid.iis.exchange import Exchange
from oxid.iis.limits import HttpLimits
from oxid.iis.server import WebServer
from oxid.iis.settings import Access, DirectorySettings, HandlerSettings, LogSettings, ScriptMap
from oxid.testing.virtual_loop import run_virtual

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return RUNNERS[request.param]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / "sub").mkdir(parents=True)
    (made / "a.txt").write_bytes(b"0123456789")
    (made / "big.bin").write_bytes(os.urandom(1 << 20) * 3)
    (made / "empty.html").write_bytes(b"")
    (made / "sub" / "index.htm").write_bytes(b"<p>index")
    (made / "sub" / "with space & <x>.md").write_bytes(b"md")
    (tmp_path / "secret").write_bytes(b"secret")
    (made / "out").symlink_to(tmp_path / "secret")
    (made / "up").symlink_to(tmp_path)
    (made / "in").symlink_to("a.txt")
    return made


@asynccontextmanager
async def files(root: Path, **options: Any) -> AsyncIterator[Client]:
    async with web_server(DirectorySettings(physical=root, **options)) as (_, endpoint):
        async with await Client.connect(endpoint) as client:
            yield client


def test_a_small_file_and_what_is_said_of_it(run: Run, root: Path) -> None:
    async def story() -> None:
        async with files(root, cache_control="max-age=60") as client:
            for _ in range(3):  # from the disk, then from the cache
                answer = await client.get("/a.txt")
                assert answer.status == 200
                assert answer.body == b"0123456789"
                assert answer.headers[b"content-type"] == b"text/plain"
                assert answer.headers[b"accept-ranges"] == b"bytes"
                assert answer.headers[b"cache-control"] == b"max-age=60"
                assert b"last-modified" in answer.headers
            answer = await client.get("/a.txt", method="HEAD")
            assert answer.headers[b"content-length"] == b"10"
            assert (await client.get("/empty.html")).body == b""
            assert (await client.get("/in")).body == b"0123456789"
            assert (await client.get("/a.txt", b"Connection: close\r\n")).headers[b"connection"] == b"close"
            assert await client.rest() == b""

    run(story())


@pytest.mark.parametrize(
    "path", ["/nothing", "/a.txt/", "/a.txt/x", "/A.TXT", "/sub/nothing/x", "/" + "x" * 300]
)
def test_what_is_not_there(run: Run, root: Path, path: str) -> None:
    async def story() -> None:
        async with files(root) as client:
            for _ in range(2):
                assert (await client.get(path)).status == 404

    run(story())


@pytest.mark.req("IS-41")
@pytest.mark.parametrize(
    "path", ["/out", "/up/secret", "/up/", "/../secret", "/%2e%2e/secret", "/sub/..%5c..%5csecret"]
)
def test_nothing_outside_the_root_is_served(run: Run, root: Path, path: str) -> None:
    async def story() -> None:
        async with files(root) as client:
            answer = await client.get(path)
            assert answer.status == 404
            assert b"secret" not in answer.body
        async with files(root, follow_links=True) as client:
            assert (await client.get("/out")).body == b"secret"

    run(story())


def test_no_device_or_pipe_is_read(run: Run, root: Path) -> None:
    os.mkfifo(root / "pipe")

    async def story() -> None:
        async with files(root) as client:
            assert (await client.get("/pipe")).status == 404

    run(story())


def test_methods_other_than_reading_are_refused(run: Run, root: Path) -> None:
    async def story() -> None:
        async with files(root) as client:
            for method in ("POST", "PUT", "DELETE", "RPC_IN_DATA"):
                answer = await client.get("/a.txt", method=method)
                assert answer.status == 405
                assert b"GET" in answer.headers[b"allow"]
            assert (await client.get("/a.txt", method="OPTIONS")).status == 200
            assert (await client.get("*", method="OPTIONS")).status == 200
        async with files(root, access=Access.SCRIPT) as client:
            assert b"403.2" in (await client.get("/a.txt")).body

    run(story())


@pytest.mark.parametrize("cached", [False, True])
def test_conditions(run: Run, root: Path, cached: bool) -> None:
    async def story() -> None:
        async with files(root) as client:
            first = await client.get("/a.txt", method="GET" if cached else "HEAD")
            tag, date = first.headers[b"etag"], first.headers[b"last-modified"]
            for header, status in (
                (b"If-None-Match: " + tag, 304),
                (b'If-None-Match: "other"', 200),
                (b"If-Modified-Since: " + date, 304),
                (b"If-Match: " + tag, 200),
                (b'If-Match: "other"', 412),
                (b"If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT", 412),
            ):
                answer = await client.get("/a.txt", header + b"\r\n")
                assert answer.status == status
                if status == 304:
                    assert answer.headers[b"etag"] == tag

    run(story())


@pytest.mark.parametrize("name", ["a.txt", "big.bin"])
def test_ranges(run: Run, root: Path, name: str) -> None:
    whole = (root / name).read_bytes()
    size = len(whole)

    async def story() -> None:
        async with files(root) as client:
            tag = (await client.get(f"/{name}")).headers[b"etag"]

            async def ask(value: str, extra: bytes = b"") -> tuple[int, bytes, bytes]:
                answer = await client.get(f"/{name}", f"Range: bytes={value}\r\n".encode() + extra)
                return answer.status, answer.body, answer.headers.get(b"content-range", b"")

            assert await ask("2-5") == (206, whole[2:6], b"bytes 2-5/%d" % size)
            assert await ask("5-") == (206, whole[5:], b"bytes 5-%d/%d" % (size - 1, size))
            assert await ask("-3") == (206, whole[-3:], b"bytes %d-%d/%d" % (size - 3, size - 1, size))
            status, _, said = await ask(f"{size}-")
            assert (status, said) == (416, b"bytes */%d" % size)
            assert (await ask("x-y"))[0] == 200
            assert (await ask("2-5", b"If-Range: " + tag + b"\r\n"))[0] == 206
            assert (await ask("2-5", b'If-Range: "old"\r\n'))[1] == whole

            answer = await client.get(f"/{name}", b"Range: bytes=0-1, 5-8\r\n")
            assert answer.status == 206
            boundary = answer.headers[b"content-type"].partition(b"boundary=")[2]
            parts = answer.body.split(b"\r\n--" + boundary)
            assert parts[-1] == b"--\r\n"
            assert [part.partition(b"\r\n\r\n")[2] for part in parts[1:-1]] == [whole[0:2], whole[5:9]]
            assert b"Content-Range: bytes 5-8/%d" % size in parts[2]
            if size > 1 << 20:
                answer = await client.get(f"/{name}", b"Range: bytes=0-999999, 2000000-2999999\r\n")
                parts = answer.body.split(
                    b"\r\n--" + answer.headers[b"content-type"].partition(b"boundary=")[2]
                )
                assert [part.partition(b"\r\n\r\n")[2] for part in parts[1:-1]] == [
                    whole[:1000000],
                    whole[2000000:3000000],
                ]
            assert (await client.get(f"/{name}")).body == whole

    run(story())


@pytest.mark.parametrize("over_tls", [False, True])
def test_a_big_file_goes_out_whole_and_the_connection_stays(
    run: Run, root: Path, tmp_path: Path, over_tls: bool
) -> None:
    wanted = hashlib.sha256((root / "big.bin").read_bytes()).digest()

    async def story() -> None:
        tls = certificate(tmp_path) if over_tls else None
        async with web_server(DirectorySettings(physical=root), tls=tls) as (server, endpoint):
            async with await Client.connect(endpoint, trusting(tls) if tls else None) as client:
                for _ in range(3):
                    answer = await client.get("/big.bin")
                    assert hashlib.sha256(answer.body).digest() == wanted
                assert server.world.ledger.http_connection.total == 1

    run(story())


@pytest.mark.parametrize("over_tls", [False, True])
def test_a_client_that_stops_reading_a_big_file_and_goes_leaves_nothing(
    run: Run, root: Path, tmp_path: Path, over_tls: bool
) -> None:
    with (root / "big.bin").open("r+b") as file:
        file.truncate(64 << 20)

    async def story() -> None:
        tls = certificate(tmp_path) if over_tls else None
        async with web_server(DirectorySettings(physical=root), tls=tls) as (server, endpoint):
            client = await Client.connect(endpoint, trusting(tls) if tls else None)
            client.send(b"GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.05)
            (connection,) = server.connections
            assert connection.exchange is not None
            client.writer.transport.abort()
            while server.connections or server.world.ledger.task.live:
                await asyncio.sleep(0.001)
            await client.close()

    run(story())


@pytest.mark.req("SC-32")
def test_a_client_that_takes_nothing_of_a_big_file_is_cut_off(root: Path) -> None:
    with (root / "big.bin").open("r+b") as file:
        file.truncate(64 << 20)

    async def story() -> None:
        limits = HttpLimits(response_timeout=30)
        async with web_server(DirectorySettings(physical=root), limits=limits) as (server, endpoint):
            client = await Client.connect(endpoint)
            client.writer.transport.pause_reading()
            client.send(b"GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n")
            begun = asyncio.get_running_loop().time()
            await asyncio.sleep(1)
            assert server.connections
            while server.connections:
                await asyncio.sleep(0.5)
            await client.close()
            # what loopback still carries when invented time begins to run counts as taken
            assert asyncio.get_running_loop().time() - begun < 125

    run_virtual(story())


def test_a_client_that_takes_a_big_file_slowly_gets_it_all(root: Path) -> None:
    with (root / "big.bin").open("r+b") as file:
        file.truncate(16 << 20)

    async def story() -> None:
        limits = HttpLimits(response_timeout=30, minimum_rate=1000)
        async with web_server(DirectorySettings(physical=root), limits=limits) as (server, endpoint):
            async with await Client.connect(endpoint) as client:
                client.send(b"GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n")
                await client.reader.readuntil(b"\r\n\r\n")
                read = 0
                while read < 16 << 20:
                    read += len(await client.reader.read(1 << 17))
                    await asyncio.sleep(10)
                assert asyncio.get_running_loop().time() > 1000
                assert server.timeouts == 0

    run_virtual(story())


def test_a_file_that_shrinks_while_it_is_sent_ends_the_connection(run: Run, root: Path) -> None:
    with (root / "big.bin").open("r+b") as file:
        file.truncate(64 << 20)

    async def story() -> None:
        async with files(root) as client:
            client.send(b"GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.reader.readuntil(b"\r\n\r\n")
            os.truncate(root / "big.bin", 1000)
            assert len(await client.rest()) < 64 << 20

    run(story())


def test_directories_have_slashes_documents_and_listings(run: Run, root: Path) -> None:
    async def story() -> None:
        async with files(root, browse=True) as client:
            answer = await client.get("/sub?x=y")
            assert (answer.status, answer.headers[b"location"]) == (301, b"/sub/?x=y")
            assert (await client.get("//sub")).headers[b"location"] == b"/sub/"
            assert (await client.get("/sub/")).body == b"<p>index"
        (root / "sub" / "index.htm").unlink()
        async with files(root, browse=True) as client:
            answer = await client.get("/sub/")
            assert b'href="with%20space%20%26%20%3Cx%3E.md"' in answer.body
            assert b"with space &amp; &lt;x&gt;.md" in answer.body
            assert (await client.get("/sub/with%20space%20&%20%3Cx%3E.md")).body == b"md"
        async with files(root) as client:
            assert b"403.14" in (await client.get("/sub/")).body
        async with files(root, default_documents=("a.txt",)) as client:
            assert (await client.get("/")).body == b"0123456789"

    run(story())


def test_a_default_document_with_a_script_map_runs(run: Run, root: Path) -> None:
    (root / "sub" / "default.htm").write_bytes(b"not this")

    def script(exchange: Exchange) -> None:
        exchange.respond(200, f"{exchange.script_name} {exchange.path_info}".encode())

    async def story() -> None:
        directory = DirectorySettings(physical=root, script_maps=(ScriptMap(".htm", HandlerSettings("x")),))
        async with web_server(directory, handlers={"x": script}) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                assert (await client.get("/sub/")).body == b"/sub/default.htm "
                assert (await client.get("/sub/default.htm/more/")).body == b"/sub/default.htm /more/"

    run(story())


def test_the_cache_sees_changes_after_its_interval(root: Path) -> None:
    async def story() -> None:
        async with files(root) as client:
            assert (await client.get("/a.txt")).body == b"0123456789"
            (root / "a.txt").write_bytes(b"changed")
            await asyncio.sleep(0.6)
            assert (await client.get("/a.txt")).body == b"changed"
            (root / "a.txt").unlink()
            await asyncio.sleep(0.6)
            assert (await client.get("/a.txt")).status == 404
            (root / "a.txt").write_bytes(b"back")
            assert (await client.get("/a.txt")).body == b"back"
            dates = set()
            for _ in range(3):
                dates.add((await client.get("/a.txt")).headers[b"date"])
                await asyncio.sleep(1)
            assert len(dates) == 3

    run_virtual(story())


def test_a_default_document_is_cached_until_another_comes_first(root: Path) -> None:
    async def story() -> None:
        async with web_server(DirectorySettings(physical=root)) as (server, endpoint):
            async with await Client.connect(endpoint) as client:
                for _ in range(5):
                    assert (await client.get("/sub/")).body == b"<p>index"
                assert len(server.files) == 1
                (root / "sub" / "default.htm").write_bytes(b"first")
                await asyncio.sleep(0.6)
                assert (await client.get("/sub/")).body == b"first"
                (root / "sub" / "default.htm").unlink()
                await asyncio.sleep(0.6)
                for _ in range(2):
                    assert (await client.get("/sub/")).body == b"<p>index"
                assert len(server.files) <= 2

    run_virtual(story())


def test_the_cache_is_bounded(run: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oxid.iis.static_files.MOST_ENTRIES", 10)
    for n in range(40):
        (root / f"{n}.txt").write_bytes(b"%d" % n)

    async def story() -> None:
        async with web_server(DirectorySettings(physical=root)) as (server, endpoint):
            async with await Client.connect(endpoint) as client:
                for n in (*range(40), *range(40)):
                    assert (await client.get(f"/{n}.txt")).body == b"%d" % n
                    assert len(server.files) <= 10

    run(story())


def test_own_error_pages(run: Run, root: Path) -> None:
    async def story() -> None:
        pages = {"404": root / "sub" / "index.htm", "403.14": root / "not there"}
        async with web_server(DirectorySettings(physical=root), error_pages=pages) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                answer = await client.get("/nothing")
                assert (answer.status, answer.body) == (404, b"<p>index")
                assert b"403.14" in (await client.get("/")).body

    run(story())


# The log ------------------------------------------------------------------------------------------------------


def logged(directory: Path) -> list[dict[str, str]]:
    (file,) = directory.iterdir()
    lines = file.read_text(encoding="ascii").splitlines()
    assert lines[1] == "#Version: 1.0"
    names = lines[3].removeprefix("#Fields: ").split(" ")
    found = [line.split(" ") for line in lines[4:] if not line.startswith("#")]
    assert all(len(fields) == len(names) for fields in found)
    return [dict(zip(names, fields, strict=True)) for fields in found]


@pytest.mark.req("AB-28")
def test_one_line_per_request_and_nobody_writes_another(run: Run, root: Path, tmp_path: Path) -> None:
    def script(exchange: Exchange) -> None:
        exchange.log_data = "extension\r\nsays # this\x1b[31m"
        exchange.log_query_extra = "more\nlines"
        exchange.respond(202, b"body")

    async def story() -> None:
        directory = DirectorySettings(physical=root, script_maps=(ScriptMap(".dll", HandlerSettings("x")),))
        log = LogSettings(tmp_path / "logs", (*LogSettings(tmp_path).fields, "x-log-data", "cs(Referer)"))
        async with web_server(directory, handlers={"x": script}, log=log) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                await client.get("/a.txt?a=%0d%0a+b", b"User-Agent: Mozilla 5 \xe4\xf6\tx\r\n")
                await client.get("/x.dll?q", b"Referer: http://there/\r\n")
                await client.get("/nothing")
                await client.get("/a.txt", b"Range: bytes=0-1\r\n")

    run(story())
    first, second, third, fourth = logged(tmp_path / "logs")
    assert (first["cs-uri-stem"], first["cs-uri-query"]) == ("/a.txt", "a=%0d%0a+b")
    assert first["cs(User-Agent)"] == "Mozilla+5+%C3%A4%C3%B6%09x"
    assert first["sc-status"] == "200"
    assert int(first["sc-bytes"]) > 100
    assert (first["s-sitename"], first["c-ip"], first["cs-method"]) == ("W3SVC1", "127.0.0.1", "GET")
    assert second["x-log-data"] == "extension%0D%0Asays+#+this%1B[31m"
    assert second["cs-uri-query"] == "q+more%0Alines"
    assert second["cs(Referer)"] == "http://there/"
    assert (second["sc-status"], third["sc-status"], fourth["sc-status"]) == ("202", "404", "206")
    assert all(line["time-taken"].isdigit() for line in (first, second, third, fourth))


def test_the_log_is_written_soon_and_rolls(root: Path, tmp_path: Path) -> None:
    async def ask(server: WebServer, client: Client, times: int) -> None:
        for _ in range(times):
            await client.get("/a.txt")
        await asyncio.sleep(1.1)
        # the writer is a thread, which needs real time
        writing = server.logs._writing
        assert writing is not None
        writing.result(10)

    async def story() -> None:
        for roll in ("size", "daily"):
            logs = tmp_path / roll
            log = LogSettings(logs, roll=roll, roll_size=4000)
            async with web_server(DirectorySettings(physical=root), log=log) as (server, endpoint):
                async with await Client.connect(endpoint) as client:
                    await ask(server, client, 10)
                    assert len(list(logs.iterdir())) == 1
                    await ask(server, client, 100)
                    if roll == "daily":
                        await asyncio.sleep(86400)
                        await client.close()
                        async with await Client.connect(endpoint) as again:
                            await ask(server, again, 1)
                found = sorted(path.name for path in logs.iterdir())
                if roll == "size":
                    assert len(found) >= 3
                    assert all(path.stat().st_size < 5000 for path in logs.iterdir())
                else:
                    assert found == ["ex231114.log", "ex231115.log"]

    run_virtual(story())


def test_a_disk_that_refuses_is_said_and_nobody_waits(
    run: Run, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_bytes(b"a file, not a directory")

    async def story() -> None:
        async with web_server(DirectorySettings(physical=root), log=LogSettings(tmp_path / "logs")) as (
            _,
            endpoint,
        ):
            async with await Client.connect(endpoint) as client:
                assert (await client.get("/a.txt")).status == 200

    run(story())
    assert "cannot write the access log" in caplog.text
