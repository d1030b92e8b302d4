"""A web server for one story, and a client that sends exactly the bytes it is told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from oxid.auth import Authenticator, FailureLimiter, MemoryAccountStore
from oxid.iis.exchange import Exchange, Handler
from oxid.iis.limits import HttpLimits
from oxid.iis.server import WebServer
from oxid.iis.settings import (
    DirectorySettings,
    HandlerSettings,
    MapFlags,
    ScriptMap,
    ServerSettings,
    SiteSettings,
    TlsSettings,
)
from oxid.runtime.server import Endpoint
from oxid.testing.virtual_loop import run_virtual, virtual_world
from oxid.world import World

Story = Callable[[], Coroutine[Any, Any, None]]


def run_asyncio(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def run_uvloop(story: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story)


RUNNERS = {"asyncio": run_asyncio, "uvloop": run_uvloop, "virtual": run_virtual}


def hello(exchange: Exchange) -> None:
    exchange.respond(200, b"hello", [(b"Content-Type", b"text/plain")])


def everything(kind: str, **options: Any) -> DirectorySettings:
    """A root directory of which every request goes to one handler."""
    return DirectorySettings(script_maps=(ScriptMap("*", HandlerSettings(kind), MapFlags.SCRIPT),), **options)


def site_of(*directories: DirectorySettings, **options: Any) -> SiteSettings:
    return SiteSettings(directories=directories, **options)


@asynccontextmanager
async def web_server(
    *directories: DirectorySettings,
    handlers: Mapping[str, Handler] | None = None,
    settings: ServerSettings | None = None,
    limits: HttpLimits | None = None,
    passwords: dict[str, str] | None = None,
    tls: TlsSettings | None = None,
    world: World | None = None,
    log: Any = None,
    **site: Any,
) -> AsyncIterator[tuple[WebServer, Endpoint]]:
    """A server on loopback with one site; nothing of it is left behind the block."""
    if world is None:
        try:
            world = virtual_world()
        except AssertionError:
            world = World.real()
    if settings is None:
        settings = ServerSettings((site_of(*(directories or (everything("hello"),)), log=log, **site),))
    if limits is not None:
        settings = replace(settings, limits=limits)
    authenticator = None
    if passwords is not None:
        authenticator = Authenticator(
            MemoryAccountStore(passwords, admins={"admin"}), world=world, limiter=FailureLimiter()
        )
    server = WebServer(world, settings, authenticator=authenticator)
    server.register_handler("hello", lambda directory, argument: hello)
    for kind, handler in (handlers or {}).items():
        server.register_handler(kind, lambda directory, argument, handler=handler: handler)
    endpoint = await server.listen("127.0.0.1", 0, tls=tls)
    try:
        yield server, endpoint
    finally:
        await server.aclose()
        assert world.ledger.http_connection.live == 0
        assert world.ledger.http_request.live == 0


class Response(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    body: bytes
    every: list[tuple[bytes, bytes]]


class Client:
    """One connection; reads responses by their Content-Length or chunks, as HTTP says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, endpoint: Endpoint, context: ssl.SSLContext | None = None) -> Self:
        return cls(
            *await asyncio.open_connection(
                endpoint.host, endpoint.port, ssl=context, server_hostname="localhost" if context else None
            )
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (OSError, ssl.SSLError):
            pass

    def send(self, raw: bytes) -> None:
        self.writer.write(raw)

    async def ask(self, raw: bytes, method: str = "GET") -> Response:
        self.send(raw)
        return await self.response(method)

    async def get(self, path: str = "/", headers: bytes = b"", method: str = "GET") -> Response:
        return await self.ask(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + headers + b"\r\n", method
        )

    async def response(self, method: str = "GET") -> Response:
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head[:-4].split(b"\r\n")
        every = [
            (name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines[1:])
        ]
        headers = dict(every)
        status = int(lines[0].split()[1])
        if 100 <= status < 200 or status in (204, 304) or method == "HEAD":
            return Response(status, headers, b"", every)
        if b"content-length" in headers:
            return Response(
                status, headers, await self.reader.readexactly(int(headers[b"content-length"])), every
            )
        if headers.get(b"transfer-encoding") == b"chunked":
            body = b""
            while size := int((await self.reader.readuntil(b"\r\n"))[:-2], 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
            return Response(status, headers, body, every)
        return Response(status, headers, await self.reader.read(), every)

    async def rest(self) -> bytes:
        """Everything until the server closes, or resets."""
        found = b""
        try:
            while piece := await self.reader.read(65536):
                found += piece
        except ConnectionError:
            pass
        return found


def certificate(directory: Path, name: str = "localhost") -> TlsSettings:
    """A self-signed certificate with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = TlsSettings(directory / f"{name}.pem", directory / f"{name}.key")
    files.cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    assert files.key is not None
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


def trusting(settings: TlsSettings) -> ssl.SSLContext:
    """A client's context that trusts one certificate."""
    return ssl.create_default_context(cafile=str(settings.cert))
