"""TLS: versions, names, what is no TLS, and other people's clients."""

from __future__ import annotations

import asyncio
import http.client
import ssl
import subprocess
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.web import RUNNERS, Client, certificate, everything, hello, trusting, web_server

from oxid.errors import ConfigurationError
from oxid.iis.exchange import Exchange
from oxid.iis.server import WebServer
from oxid.iis.settings import Binding, ServerSettings, SiteSettings, TlsSettings
from oxid.world import World

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return RUNNERS[request.param]


def test_a_handler_sees_the_connection(run: Run, tmp_path: Path) -> None:
    seen: list[Any] = []

    def look(exchange: Exchange) -> None:
        seen.append(exchange.connection.tls)
        hello(exchange)

    async def story() -> None:
        tls = certificate(tmp_path)
        async with web_server(everything("x"), handlers={"x": look}, tls=tls) as (_, endpoint):
            assert endpoint.protseq == "https"
            async with await Client.connect(endpoint, trusting(tls)) as client:
                for _ in range(2):
                    assert (await client.get()).body == b"hello"

    run(story())
    info = seen[0]
    assert info.bits >= 128
    assert info.protocol in ("TLSv1.3", "TLSv1.2")
    assert info.peer_certificate is None
    assert len(info.channel_binding) == 16


@pytest.mark.parametrize(
    "raw", [b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"\x16\x03\x01\x00\x05xxxxx", b"\0" * 50]
)
def test_what_is_no_tls_is_closed(run: Run, tmp_path: Path, raw: bytes) -> None:
    async def story() -> None:
        async with web_server(tls=certificate(tmp_path)) as (server, endpoint):
            async with await Client.connect(endpoint) as client:
                client.send(raw)
                assert b"200" not in await client.rest()
            assert server.requests == 0

    run(story())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_are_refused(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        tls = certificate(tmp_path)
        async with web_server(tls=tls) as (_, endpoint):
            context = trusting(tls)
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await Client.connect(endpoint, context)

    run(story())


def test_a_client_without_its_certificate_is_refused_in_the_handshake(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        own, theirs = certificate(tmp_path), certificate(tmp_path, "alice")
        tls = TlsSettings(own.cert, own.key, "required", theirs.cert)
        async with web_server(tls=tls) as (_, endpoint):
            context = trusting(own)
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                async with await Client.connect(endpoint, context) as client:
                    await client.get()
            context.load_cert_chain(theirs.cert, theirs.key)
            async with await Client.connect(endpoint, context) as client:
                assert (await client.get()).status == 200

    run(story())


def test_the_name_chooses_certificate_and_site(run: Run, tmp_path: Path) -> None:
    def name(exchange: Exchange) -> None:
        exchange.respond(200, exchange.site.name.encode())

    async def story() -> None:
        files = {host: certificate(tmp_path, host) for host in ("one.example", "two.example")}
        sites = tuple(
            SiteSettings(n, host, (Binding("", 0, host, True),), (everything("x"),), tls=files[host])
            for n, host in enumerate(files, 1)
        )
        server = WebServer(World.real(), ServerSettings(sites))
        server.register_handler("x", lambda *_: name)
        endpoint = await server.listen("127.0.0.1", 0, secure=True)
        for host, tls in files.items():
            reader, writer = await asyncio.open_connection(
                endpoint.host, endpoint.port, ssl=trusting(tls), server_hostname=host
            )
            async with Client(reader, writer) as client:
                answer = await client.ask(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert answer.body == host.encode()
        # another certificate from the next handshake on, on the same listener
        (tmp_path / "new").mkdir()
        new = certificate(tmp_path / "new", "two.example")
        server.apply(ServerSettings((sites[0], replace(sites[1], tls=new))))
        reader, writer = await asyncio.open_connection(
            endpoint.host, endpoint.port, ssl=trusting(new), server_hostname="two.example"
        )
        async with Client(reader, writer) as client:
            assert (await client.ask(b"GET / HTTP/1.1\r\nHost: two.example\r\n\r\n")).body == b"two.example"
        await server.aclose()

    run(story())


def test_a_renewed_certificate_is_shown_from_the_next_handshake_on(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        old = certificate(tmp_path)
        (tmp_path / "new").mkdir()
        new = certificate(tmp_path / "new")
        site = SiteSettings(bindings=(Binding(tls=True),), directories=(everything("hello"),), tls=old)
        server = WebServer(World.real(), ServerSettings((site,)))
        server.register_handler("hello", lambda *_: hello)
        endpoint = await server.listen("127.0.0.1", 0, secure=True)
        async with await Client.connect(endpoint, trusting(old)) as client:
            assert (await client.get()).status == 200
            server.apply(ServerSettings((replace(site, tls=new),)))
            assert (await client.get()).status == 200
        async with await Client.connect(endpoint, trusting(new)) as client:
            assert (await client.get()).status == 200
        with pytest.raises(ssl.SSLError):
            await Client.connect(endpoint, trusting(old))
        with pytest.raises(ConfigurationError):
            server.apply(ServerSettings((replace(site, tls=TlsSettings(tmp_path / "none.pem")),)))
        async with await Client.connect(endpoint, trusting(new)) as client:
            assert (await client.get()).status == 200
        await server.aclose()

    run(story())


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    async def story() -> None:
        server = WebServer(World.real())
        bad = tmp_path / "bad.pem"
        bad.write_text("nothing")
        with pytest.raises(ConfigurationError, match=r"bad\.pem"):
            await server.listen("127.0.0.1", 0, tls=TlsSettings(bad))
        with pytest.raises(ConfigurationError, match="needs a certificate"):
            await server.listen("127.0.0.1", 0, secure=True)
        await server.aclose()

    asyncio.run(story())


def test_bindings_with_ports_are_listened_to(run: Run) -> None:
    async def story() -> None:
        world = World.real()
        probe = WebServer(world)
        free = (await probe.listen("127.0.0.1", 0)).port
        await probe.aclose()
        sites = tuple(
            SiteSettings(n, bindings=(Binding("127.0.0.1", free, host),), directories=(everything("hello"),))
            for n, host in enumerate(("a", "b"), 1)
        )
        server = WebServer(world, ServerSettings(sites))
        server.register_handler("hello", lambda *_: hello)
        assert [one.port for one in await server.listen_all()] == [free]
        assert await server.listen_all() == []
        with pytest.raises(ConfigurationError, match="cannot listen"):
            await server.listen("127.0.0.1", free)
        await server.aclose()

    run(story())


def test_pythons_own_client(run: Run) -> None:
    def talk(port: int) -> list[bytes]:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        found = []
        for method, body in (
            ("GET", None),
            ("POST", b"x" * 100_000),
            ("POST", iter([b"a", b"b"])),
            ("GET", None),
        ):
            client.request(method, "/", body, encode_chunked=body is not None and not isinstance(body, bytes))
            found.append(client.getresponse().read())
        client.close()
        return found

    async def handle(exchange: Exchange) -> None:
        size = 0
        while piece := await exchange.read():
            size += len(piece)
        exchange.respond(200, b"%d" % size)

    async def story() -> None:
        async with web_server(everything("x")) as (server, endpoint):
            server.register_handler("x", lambda *_: lambda exchange: server.spawn(exchange, handle(exchange)))
            assert await asyncio.to_thread(talk, endpoint.port) == [b"0", b"100000", b"2", b"0"]
            assert server.world.ledger.http_connection.total <= 4
        await asyncio.get_running_loop().shutdown_default_executor()

    run(story())


@pytest.mark.peer("curl")
def test_curl_over_tls(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        tls = certificate(tmp_path)
        async with web_server(tls=tls) as (_, endpoint):
            place = f"localhost:{endpoint.port}:127.0.0.1"
            process = await asyncio.create_subprocess_exec(
                "curl", "-sS", "-m", "20", "--cacert", str(tls.cert), "--resolve", place,
                f"https://localhost:{endpoint.port}/", f"https://localhost:{endpoint.port}/again",
                stdout=subprocess.PIPE,
            )  # fmt: skip
            out, _ = await process.communicate()
            assert out == b"hellohello"

    run(story())
