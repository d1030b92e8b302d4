"""pywin32's ISAPI samples, unmodified, on our host: with its own `isapi` package and with ours. isapi.md §10, IS-61

The samples come from pywin32's Windows wheel on PyPI, and are never committed. Three of them fail under Python 3 on
Windows too (they add bytes to text); here they fail alike.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.absent import absent
from tests.support.isapi import Client, Place, serving

from oxid.iis.isapi import constants as c
from oxid.iis.isapi.filters import FilterChain, Verdict
from oxid.iis.isapi.python_filters import PythonFilter
from oxid.iis.isapi.python_module import PythonModule
from oxid.iis.isapi.shims import PLACE

VERSION = "312"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "oxid-tests"

ELSEWHERE = """
import os, urllib.request
_open = urllib.request.urlopen
def urlopen(url, *args, **named):
    return _open(url.replace("https://www.python.org", os.environ["SAMPLES_ORIGIN"]), *args, **named)
urllib.request.urlopen = urlopen
"""
"""Of the worker's sitecustomize: the samples' proxied site is on this machine, and their source stays as it is."""


@pytest.fixture(scope="session")
def pywin32() -> Path:
    """pywin32's `isapi` package, unpacked."""
    place = CACHE / f"pywin32-{VERSION}"
    if not (place / "isapi" / "simple.py").exists():
        with tempfile.TemporaryDirectory() as scratch:
            command = [
                sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--platform",
                "win_amd64", "--python-version", "3.11", f"pywin32=={VERSION}", "-d", scratch,
            ]  # fmt: skip
            try:
                subprocess.run(command, check=True, capture_output=True, timeout=100)
            except FileNotFoundError:
                absent("pip")
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                absent(f"pywin32's wheel from PyPI: {error}")
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                names = [
                    name for name in wheel.namelist() if name.startswith("isapi/") and ".dll" not in name
                ]
                wheel.extractall(scratch, names)
            place.mkdir(parents=True, exist_ok=True)
            shutil.copytree(Path(scratch) / "isapi", place / "isapi", dirs_exist_ok=True)
    return place


@pytest.fixture(params=["their isapi package", "our isapi package"])
def samples(
    request: pytest.FixtureRequest, pywin32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A directory with copies of the samples, for a worker that finds one of the packages."""
    place = tmp_path / "samples"
    shutil.copytree(pywin32 / "isapi" / "samples", place)
    shutil.copy(pywin32 / "isapi" / "test" / "extension_simple.py", place)
    (place / "sitecustomize.py").write_text(ELSEWHERE)
    first = [str(place)]
    if request.param == "their isapi package":
        site = tmp_path / "site"
        shutil.copytree(pywin32 / "isapi", site / "isapi")
        first.append(str(site))
    monkeypatch.setattr(sys, "path", [*first, *sys.path])
    return place


@asynccontextmanager
async def origin() -> AsyncIterator[str]:
    """What the redirectors fetch from."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = b"origin has " + head.split()[1]
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%s" % (len(body), body)
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


def sample(
    place: Path,
    name: str,
    told: Callable[[Place, Client], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    **how: Any,
) -> None:
    """Run a sample in a worker process of its own and talk to it."""

    async def tell() -> None:
        async with origin() as url:
            monkeypatch.setenv("SAMPLES_ORIGIN", url)
            async with serving(place / name, isolated=1, **how) as server:
                async with asyncio.timeout(60), server.client() as client:
                    await told(server, client)
                await server.rest()

    asyncio.run(tell())


@pytest.mark.req("IS-61")
def test_advanced_answers_and_is_loaded_anew_when_its_file_changes(
    samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def told(place: Place, client: Client) -> None:
        response = await client.ask("", path="/AdvancedPythonSample")
        assert response.status == 200
        assert b"This module has been imported\n0 times" in response.body
        file = samples / "advanced.py"
        os.utime(file, (1, 1))
        while True:  # its watcher has a thread of its own
            async with place.client() as another:
                body = (await another.ask("", path="/AdvancedPythonSample")).body
            if b"1 times" in body:
                break
            assert b"0 times" in body

    sample(samples, "advanced.py", told, monkeypatch)


@pytest.mark.req("IS-61")
def test_advanced_says_it_is_unhealthy_and_is_recycled(
    samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def told(place: Place, client: Client) -> None:
        before = None
        async with place.client() as first:
            await first.ask("", path="/AdvancedPythonSample")
            before = place.application
        assert (await client.ask("", path="/ReportUnhealthy")).status == 200
        assert before.unhealthy == "I'm a little sick"
        async with place.client() as later:
            assert (await later.ask("", path="/AdvancedPythonSample")).status == 200
            assert place.application is not before

    sample(samples, "advanced.py", told, monkeypatch)


@pytest.mark.req("IS-61", "S7", "S8")
def test_test_transmits_its_own_source_and_maps_the_root(
    samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def told(place: Place, client: Client) -> None:
        response = await client.ask("", path="/PyISAPITest/test.py")
        assert response.status == 200
        assert response.body == (samples / "test.py").read_bytes()
        async with place.client() as another:
            response = await another.ask("", path="/PyISAPITest/other")
            assert b"The root of this site is at b'%s'" % bytes(samples) in response.body

    sample(samples, "test.py", told, monkeypatch, physical=samples)


@pytest.mark.req("IS-61")
def test_redirector_fetches_and_lets_the_server_answer_what_it_excludes(
    samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (samples / "iisstart.htm").write_text("welcome")

    async def told(place: Place, client: Client) -> None:
        response = await client.ask("", path="/about/page")
        assert (response.status, response.body) == (200, b"origin has /about/page")
        async with place.client() as another:
            response = await another.ask("", path="/iisstart.htm")
            assert (response.status, response.body) == (200, b"welcome")

    sample(samples, "redirector.py", told, monkeypatch, physical=samples)


@pytest.mark.req("IS-61")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("redirector_asynch.py", b"can only concatenate str (not &quot;bytes&quot;) to str"),
        ("redirector_with_filter.py", b"startswith first arg must be bytes or a tuple of bytes, not str"),
        ("extension_simple.py", b"a bytes-like object is required, not &#x27;str&#x27;"),
    ],
)
def test_samples_that_fail_on_windows_fail_alike(
    samples: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: bytes
) -> None:
    async def told(place: Place, client: Client) -> None:
        response = await client.ask("", path="/pyisapi_test/test1")
        assert response.status == 200  # their own page, with their own traceback
        assert b"TypeError" in response.body
        assert said in response.body

    sample(samples, name, told, monkeypatch)


@pytest.mark.req("IS-61", "IS-50")
def test_the_filter_of_the_redirector_fails_alike(samples: Path) -> None:
    class Connection:
        tls = None
        exchange = None

        def __init__(self) -> None:
            self.state: dict[str, Any] = {}

    class Exchange:
        class head:
            method, target, version, headers = "GET", b"/x", (1, 1), [(b"host", b"h")]

        def __init__(self) -> None:
            self.connection = Connection()

    module = PythonModule(str(samples / "redirector_with_filter.py"))
    try:
        loaded = PythonFilter(module, "PythonRedirector").load()
        assert loaded.flags & c.SF_NOTIFY_PREPROC_HEADERS
        exchange: Any = Exchange()
        chain = FilterChain([loaded])
        assert chain.on_preproc_headers(exchange) == (Verdict.ERROR, None)
    finally:
        module.forget()
        for name in [name for name in sys.modules if name == "isapi" or name.startswith("isapi.")]:
            del sys.modules[name]


@pytest.mark.req("IS-61")
def test_the_command_line_of_a_sample_runs_as_far_as_on_windows(samples: Path) -> None:
    """Its help does; its own word `status` has been calling a handler with too few parameters for years."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path[:2], str(PLACE)])}

    def run(word: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(samples / "advanced.py"), word],
            env={**environment, "SAMPLES_ORIGIN": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    helped = run("--help")
    assert helped.returncode == 0, helped.stderr
    for word in ("install", "remove", "status", "--description", "--server"):
        assert word in helped.stdout
    assert "status_handler() takes 3 positional arguments but 4 were given" in run("status").stderr
