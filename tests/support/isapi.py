"""A web server with the extensions of `isapi_extensions/`, and a client that reads what really comes.

async with isapi_server("python", isolated=0) as place:
    async with place.client() as client:
        response = await client.ask("keep")
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from oxid.auth import Authenticator, MemoryAccountStore
from oxid.iis.isapi.application import Application, ApplicationSettings
from oxid.iis.isapi.host import IsapiHost
from oxid.iis.isapi.native_layout import HEADER
from oxid.iis.server import WebServer
from oxid.iis.settings import (
    DirectorySettings,
    HandlerSettings,
    ScriptMap,
    ServerSettings,
    SiteSettings,
    TlsSettings,
)
from oxid.world import World

EXTENSIONS = Path(__file__).parent / "isapi_extensions"


class Response(NamedTuple):
    """A response as it came; `status` 0: the connection ended before there was one."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool
    """The body was as long as declared."""


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, file: Path) -> None:
        self.reader = reader
        self.writer = writer
        self.file = file

    def send(
        self, mode: str, *, method: str = "GET", path: str = "/x", headers: str = "", body: bytes = b""
    ) -> None:
        if body:
            headers += f"Content-Length: {len(body)}\r\n"
        query = f"?{mode}&{self.file}" if mode else ""
        self.writer.write(f"{method} {path}{query} HTTP/1.1\r\nHost: h\r\n{headers}\r\n".encode() + body)

    async def receive(self) -> Response:
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return Response(0, {}, b"", False)
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1])
        headers = {
            name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:] if line)
        }
        if status < 200:
            return await self.receive()
        length = headers.get("content-length")
        try:
            if length is not None:
                return Response(status, headers, await self.reader.readexactly(int(length)), True)
            return Response(status, headers, await self.reader.read(), True)
        except asyncio.IncompleteReadError as error:
            return Response(status, headers, error.partial, False)
        except ConnectionError:
            return Response(status, headers, b"", False)

    async def ask(self, mode: str, **how: Any) -> Response:
        self.send(mode, **how)
        return await self.receive()

    async def closed(self) -> bool:
        """Waits for the server's end of the connection."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    def notes(self) -> list[str]:
        """What the extension learned."""
        return self.file.read_text().splitlines() if self.file.exists() else []

    async def noted(self, line: str) -> list[str]:
        """Waits for a line."""
        while line not in self.notes():
            await asyncio.sleep(0.001)
        return self.notes()

    async def all_noted(self, count: int) -> list[str]:
        """Waits for so many lines."""
        while len(self.notes()) < count:
            await asyncio.sleep(0.001)
        return self.notes()


class Place:
    """Server, host, and how to reach them."""

    def __init__(self, world: World, server: WebServer, host: IsapiHost, port: int, files: Path) -> None:
        self.world = world
        self.server = server
        self.host = host
        self.port = port
        self.files = files
        self._made = 0

    @asynccontextmanager
    async def client(self, context: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context, server_hostname="localhost" if context else None
        )
        self._made += 1
        try:
            yield Client(reader, writer, self.files / f"notes{self._made}")
        finally:
            writer.close()
            try:
                await writer.wait_closed()
            except ConnectionError:
                pass

    @property
    def application(self) -> Application:
        """The one that was loaded last."""
        return self.host.applications()[-1]

    def live(self) -> dict[str, int]:
        """What is counted of requests and connections now."""
        kinds = ("ecb", "isapi_io", "http_request", "http_connection")
        return {kind: self.world.ledger.counter(kind).live for kind in kinds}

    async def rest(self) -> None:
        """Waits until nothing of a request or connection is left."""
        async with asyncio.timeout(20):
            while any(self.live().values()):
                await asyncio.sleep(0.001)

    async def idle(self) -> None:
        """Waits until no request is left; connections may be."""
        async with asyncio.timeout(20):
            while self.live()["ecb"] or self.live()["http_request"] or self.live()["isapi_io"]:
                await asyncio.sleep(0.001)


def compile_extension(source: str, target: Path) -> Path:
    """Compile a file of `isapi_extensions/` with gcc."""
    library = target / f"{Path(source).stem}.so"
    subprocess.run(
        [
            "gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-format-truncation", "-O1", "-shared", "-fPIC",
            "-pthread", f"-I{HEADER.parent}", "-o", str(library), str(EXTENSIONS / source),
        ],
        check=True,
    )  # fmt: skip
    return library


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for notes, with a short name."""
    with tempfile.TemporaryDirectory(prefix="isapi") as name:
        yield Path(name)


@asynccontextmanager
async def serving(
    source: str | Path,
    *,
    isolated: int = 0,
    settings: ApplicationSettings | None = None,
    directories: tuple[DirectorySettings, ...] = (),
    passwords: dict[str, str] | None = None,
    tls: TlsSettings | None = None,
    **directory: Any,
) -> AsyncIterator[Place]:
    """A server whose root is one extension, and whatever other directories are given."""
    maps = (ScriptMap("*", HandlerSettings("isapi", str(source))),)
    root = DirectorySettings(script_maps=maps, isolated=isolated, **directory)
    world = World.real()
    authenticator = None
    if passwords is not None:
        authenticator = Authenticator(MemoryAccountStore(passwords), world=world)
    site = SiteSettings(directories=(root, *directories))
    server = WebServer(world, ServerSettings(sites=(site,)), authenticator=authenticator)
    host = IsapiHost(server, settings or ApplicationSettings(shutdown_limit=2.0))
    host.install()
    endpoint = await server.listen("127.0.0.1", 0, tls=tls)
    with scratch() as files:
        try:
            yield Place(world, server, host, endpoint.port, files)
        finally:
            await host.aclose()
            await server.aclose()
