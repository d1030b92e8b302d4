"""The shells of RPC over HTTP against gateways that misbehave: what a client acquires ends, and it is told why.

A gateway here is a function on one connection: it reads heads, and answers what it likes.
"""

import asyncio
import gc
import os
import socket
import weakref
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
import uvloop
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from tests.support.web import certificate

from oxid import World
from oxid.auth import Anonymous, Password
from oxid.com.machine import connect as connect_machine
from oxid.com.options import ClientOptions
from oxid.errors import ConfigurationError, OxidError, ServerUnavailable, StatusError, TransportError
from oxid.http.client import ClientExchange
from oxid.iis.rpc_proxy.connector import connect_to
from oxid.rpc.limits import Limits
from oxid.runtime import forks
from oxid.runtime.client import open_connection
from oxid.runtime.dispatch import Threads
from oxid.runtime.proxy_route import ProxyRoute
from oxid.runtime.server import RpcServer
from oxid.runtime.tunnel_client import open_tunnel
from oxid.samples.echo import Echo, IEcho
from oxid.testing.raw_rpc import bind, element, request
from oxid.tunnel import rts

LOOPS = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
HEAD_200 = b"HTTP/1.1 200 Success\r\nContent-Type: application/rpc\r\nContent-Length: 1073741824\r\n\r\n"
PATIENCE_S = 5.0


def run(story, loop=uvloop.new_event_loop):
    """Run a story within a time that nothing here should need; complaints of the loop fail it."""
    complaints = []

    async def bounded():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(PATIENCE_S):
            return await story()

    with asyncio.Runner(loop_factory=loop) as runner:
        found = runner.run(bounded())
    assert not complaints
    return found


@asynccontextmanager
async def gateway(answer, listening=None, **options):
    """Whatever connects is given to `answer(reader, writer)`; yields the port."""
    tasks = []

    async def serve(reader, writer):
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await answer(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def accept(reader, writer):
        tasks.append(asyncio.get_running_loop().create_task(serve(reader, writer)))

    listening = listening or socket.create_server(("127.0.0.1", 0))
    server = await asyncio.start_server(accept, sock=listening, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def head(reader):
    return await reader.readuntil(b"\r\n\r\n")


def says(*answers, stay=True):
    """A gateway that gives the same answers to the requests of each connection."""

    async def answer(reader, writer):
        for text in answers:
            await head(reader)
            writer.write(text)
        if stay:
            await reader.read()

    return answer


async def stands(reader, writer, *, window=65536):
    """A gateway whose tunnels stand at once; what is called comes to nothing."""
    if (await head(reader)).startswith(b"RPC_OUT_DATA"):
        writer.write(HEAD_200 + rts.conn_a3(120_000) + rts.conn_c(window, 120_000))
    while await reader.read(1 << 16):
        pass


def route(port, **more):
    return ProxyRoute(f"http://127.0.0.1:{port}", **more)


async def error_of(port, timeout=PATIENCE_S, **more):
    """What a client is told that cannot connect."""
    with pytest.raises(OxidError) as raised:
        async with open_connection(
            "server", 593, world=World.real(), proxy=route(port, **more), timeout=timeout
        ):
            pass
    return raised.value


# What a route can be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["http://" + "a" * 70, "http://gateway..lab", "http://g\u00e4teway/rp\u00e7/x", "http://g/a b"]
)
def test_a_proxy_that_cannot_be_asked_for_is_said_at_once(url):
    with pytest.raises(ConfigurationError, match="no address of an RPC proxy"):
        ProxyRoute(url)


@pytest.mark.req("RH-111")
def test_a_password_in_a_proxys_address_is_not_repeated():
    with pytest.raises(ConfigurationError) as raised:
        ProxyRoute("http://admin:secret@gateway")
    assert "secret" not in str(raised.value)


def test_what_a_request_cannot_carry_is_the_callers_error():
    with pytest.raises(OxidError):
        ClientExchange("RPC_OUT_DATA", "/rpc/rpcproxy.dll?b\u00fccher:593", [("Host", "gateway")])


def test_nobody_has_no_credentials_for_a_proxy_either():
    """As on the command line: a null session is no account of a web server."""
    seen = []

    async def story():
        async def answer(reader, writer):
            seen.append(await head(reader))

        async with gateway(answer) as port:
            options = ClientOptions(agent="own")
            with pytest.raises(OxidError):
                async with connect_machine(
                    "server", Anonymous(), options=options, proxy=f"http://127.0.0.1:{port}"
                ):
                    pass

    run(story)
    assert seen
    assert not any(b"authorization" in text.lower() for text in seen)


def test_the_settings_of_tls_are_read_once_and_anew_when_a_file_changes(tmp_path):
    tls = certificate(tmp_path)
    way = ProxyRoute("https://gateway", cafile=str(tls.cert))
    first = way.tls()
    assert way.tls() is first
    assert ProxyRoute("https://gateway", cafile=str(tls.cert), insecure=True).tls() is not first
    os.utime(tls.cert, ns=(1, 1))
    assert way.tls() is not first


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(tmp_path):
    tls = certificate(tmp_path)
    locked = tmp_path / "locked.pem"
    key = load_pem_private_key(tls.key.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    with pytest.raises(ConfigurationError, match="encrypted"):
        ProxyRoute("https://gateway", certificate=str(tls.cert), key=str(locked)).tls()


# What is said to the caller ----------------------------------------------------------------------------------


def test_an_error_that_nobody_foresaw_is_told_and_not_waited_for():
    """A password that is no UTF-8 cannot be said to a web server."""

    async def story():
        async with gateway(says()) as port:
            return await error_of(port, credentials=Password("u", "\ud800"), auth="basic")

    assert "timed out" not in str(run(story))


@pytest.mark.req("RH-24")
def test_a_refusal_is_told_before_the_web_server_has_sent_its_page():
    async def story():
        async with gateway(says(b"HTTP/1.0 503 RPC Error: 6ba\r\nContent-Length: 500\r\n\r\n<html>")) as port:
            return await error_of(port)

    assert isinstance(run(story), ServerUnavailable)


@pytest.mark.parametrize("method", ["none", "ntlm"])
def test_a_refusal_with_a_giant_page_is_told_as_what_it_is(method):
    page = b"HTTP/1.1 404 Not Found\r\nContent-Length: 400000\r\n\r\n" + b"x" * 400_000

    async def story():
        async with gateway(says(page)) as port:
            return await error_of(port, credentials=Password("u", "p"), auth=method)

    assert "404 Not Found" in str(run(story))


@pytest.mark.parametrize("code", [b"0", b"ffffffff", b"123456789"])
def test_a_refusal_with_any_code_is_a_refusal(code):
    async def story():
        async with gateway(says(b"HTTP/1.0 503 RPC Error: %s\r\n\r\n" % code, stay=False)) as port:
            return await error_of(port)

    assert "timed out" not in str(run(story))


def test_a_reason_of_a_web_server_is_cut():
    async def story():
        async with gateway(says(b"HTTP/1.0 500 %s\r\n\r\n" % (b"x" * 60_000), stay=False)) as port:
            return await error_of(port)

    assert len(str(run(story))) < 1000


def test_a_body_in_chunks_is_told_as_what_it_is():
    async def story():
        chunked = b"HTTP/1.1 200 Success\r\nTransfer-Encoding: chunked\r\n\r\n1c\r\n" + rts.conn_a3(120_000)
        async with gateway(says(chunked)) as port:
            return await error_of(port)

    assert "chunk" in str(run(story))


@LOOPS
@pytest.mark.parametrize("version", [2, 1])
def test_a_gateway_that_does_not_answer_is_named_in_the_error(loop, version):
    async def story():
        async with gateway(says()) as port:
            return port, await error_of(port, timeout=0.2, version=version)

    port, error = run(story, loop)
    assert f"127.0.0.1:{port}" in str(error)
    assert "timed out" in str(error)


@LOOPS
def test_a_gateway_that_does_not_accept_tls_is_named_in_the_error(loop):
    async def story():
        async with gateway(says()) as port:
            with pytest.raises(OxidError) as raised:
                async with open_connection(
                    "server",
                    593,
                    world=World.real(),
                    proxy=ProxyRoute(f"https://127.0.0.1:{port}", insecure=True),
                    timeout=0.2,
                ):
                    pass
            return port, raised.value

    port, error = run(story, loop)
    assert f"127.0.0.1:{port}" in str(error)


@LOOPS
def test_a_port_that_is_none_for_proxies_is_told_as_such(loop):
    async def story():
        async with gateway(says()) as port:
            with pytest.raises(TransportError, match=r"ncacn_http/1\.0"):
                async with open_connection(
                    "127.0.0.1", port, world=World.real(), proxy=ProxyRoute("direct"), timeout=0.2
                ):
                    pass

    run(story, loop)


@pytest.mark.req("RH-26")
def test_a_proxy_that_takes_anybody_is_entered_without_a_second_leg():
    """It answers the first leg as the echo that an empty body asks for."""

    async def answer(reader, writer):
        first = await head(reader)
        if b"Content-Length: 0\r\n" in first:
            writer.write(b"HTTP/1.1 200 Success\r\nContent-Length: 20\r\n\r\n" + rts.ECHO)
            first = await head(reader)
        if first.startswith(b"RPC_OUT_DATA"):
            writer.write(HEAD_200 + rts.conn_a3(120_000) + rts.conn_c(65536, 120_000))
        await reader.read()

    async def story():
        async with (
            gateway(answer) as port,
            open_connection(
                "server", 593, world=World.real(), proxy=route(port, credentials=Password("u", "p"))
            ),
        ):
            pass

    run(story)


# Hostile gateways ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flood",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 2000,
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\n\r\n" * 9,
    ],
    ids=["continues", "a head without end", "answers"],
)
@pytest.mark.parametrize("method", ["none", "ntlm"])
def test_a_gateway_that_floods_ends_with_an_error(flood, method):
    async def answer(reader, writer):
        await head(reader)
        with suppress(ConnectionError):
            while True:
                writer.write(flood)
                await writer.drain()

    async def story():
        async with gateway(answer) as port:
            return await error_of(port, timeout=1.0, credentials=Password("u", "p"), auth=method)

    run(story)


@LOOPS
def test_a_gateway_that_answers_before_it_is_asked_is_refused(loop):
    async def answer(reader, writer):
        writer.write(HEAD_200 + rts.conn_a3(120_000))
        await reader.read()

    async def story():
        async with gateway(answer) as port:
            await error_of(port, timeout=1.0, credentials=Password("u", "p"), auth="ntlm")

    run(story, loop)


# What ends ----------------------------------------------------------------------------------------------------


class Caller:
    """An RPC layer that only watches."""

    def __init__(self, made=lambda: None):
        self.made = made
        self.transport = None
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.made()

    def data_received(self, data):
        pass

    def eof_received(self):
        return None

    def pause_writing(self):
        pass

    def resume_writing(self):
        pass

    def connection_lost(self, error):
        self.lost.set_result(error)


@LOOPS
@pytest.mark.parametrize("version", [2, 1, "direct"])
def test_a_caller_that_gives_up_while_the_connection_comes_to_stand_has_none(loop, version):
    async def answer(reader, writer):
        if version == "direct":
            writer.write(b"ncacn_http/1.0")
        elif version == 1:
            await head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            await stands(reader, writer)
        await reader.read()

    async def story():
        async with gateway(answer) as port:
            direct = version == "direct"
            way = ProxyRoute("direct") if direct else route(port, version=version)
            caller = Caller(lambda: asyncio.get_running_loop().call_soon(opening.cancel))
            opening = asyncio.create_task(
                open_tunnel(
                    way, "127.0.0.1", port, caller, world=World.real(), threads=Threads(1), timeout=PATIENCE_S
                )
            )
            with pytest.raises(asyncio.CancelledError):
                await opening
            async with asyncio.timeout(1):
                await caller.lost

    run(story, loop)


@LOOPS
def test_whoever_closes_does_not_wait_for_a_gateway_that_does_not_read(loop):
    """First the polite end, which waits for the gateway; then at once, which must not."""

    async def answer(reader, writer):
        if (await head(reader)).startswith(b"RPC_OUT_DATA"):
            writer.write(HEAD_200 + rts.conn_a3(120_000) + rts.conn_c(1 << 18, 120_000))
            await reader.read()
        else:
            writer.transport.pause_reading()
            await asyncio.Event().wait()

    async def story():
        small = socket.create_server(("127.0.0.1", 0))
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with gateway(answer, small, limit=1024) as port:
            caller = Caller()
            await open_tunnel(
                route(port), "server", 593, caller, world=World.real(), threads=Threads(1), timeout=2
            )
            link = caller.transport._in.port.transport.get_extra_info("socket")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            pdu = b"\x05\x00\x00\x03\x10\x00\x00\x00" + (60_000).to_bytes(2, "little") + bytes(59_990)
            for _ in range(4):
                caller.transport.write(pdu)
            caller.transport.close()
            for _ in range(5):
                await asyncio.sleep(0)
            assert not caller.lost.done()
            caller.transport.abort()
            async with asyncio.timeout(1):
                await caller.lost

    run(story, loop)


@LOOPS
@pytest.mark.parametrize("reply", [b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b""])
def test_when_a_caller_is_told_of_the_failure_the_connections_are_closed(loop, reply):
    async def story():
        async with gateway(says(reply)) as port:
            for version in (2, 1):
                await error_of(
                    port, timeout=0.2, credentials=Password("u", "p"), auth="ntlm", version=version
                )
                assert not forks._owners

    run(story, loop)


@LOOPS
def test_a_loop_that_had_tunnels_is_not_kept(loop):
    seen = []

    async def story():
        seen.append(weakref.ref(asyncio.get_running_loop()))
        async with (
            gateway(stands) as port,
            open_connection("server", 593, world=World.real(), proxy=route(port)),
        ):
            pass

    run(story, loop)
    gc.collect()
    assert seen[0]() is None


@LOOPS
@pytest.mark.parametrize("version", [2, 1, "direct"])
def test_a_tunnel_that_ended_is_freed_without_the_garbage_collector(loop, version):
    from oxid.runtime import http_channel, tunnel_client

    made = []

    async def answer(reader, writer):
        if version == "direct":
            writer.write(b"ncacn_http/1.0")
            await reader.read()
        elif version == 1:
            await head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await reader.read()
        else:
            await stands(reader, writer)

    async def story():
        def watched(kind):
            class Watched(kind):
                __slots__ = ("__weakref__",) if not hasattr(kind, "__weakref__") else ()

                def __init__(self, *given, **more):
                    super().__init__(*given, **more)
                    made.append(weakref.ref(self))

            return Watched

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(http_channel, "HttpChannel", watched(http_channel.HttpChannel))
            for name in ("_Tunnel", "_Receiver", "_Version1", "_Banner"):
                patch.setattr(tunnel_client, name, watched(getattr(tunnel_client, name)))
            async with gateway(answer) as port:
                direct = version == "direct"
                way = ProxyRoute("direct") if direct else route(port, version=version)
                async with open_connection("127.0.0.1", port, world=World.real(), proxy=way):
                    pass
                for _ in range(10):
                    await asyncio.sleep(0)
                assert made
                return [found for ref in made if (found := ref()) is not None]

    gc.collect()
    gc.disable()
    try:
        kept = run(story, loop)
    finally:
        gc.enable()
    assert not kept


# The server's port for proxies ----------------------------------------------------------------------------------


@LOOPS
@pytest.mark.req("RH-10")
def test_a_connection_above_the_limit_is_not_served_and_nothing_complains(loop):
    async def story():
        calls = []

        class Counting(Echo):
            def add_one(self, value):
                calls.append(value)
                return value + 1

        server = RpcServer(World.real(), limits=replace(Limits(), max_connections=1))
        server.register(IEcho, Counting(), min_level=0)
        there = await server.listen("127.0.0.1", 0, protseq="ncacn_http")
        greeting = bind(element()) + request(bytes(4))
        first = await asyncio.open_connection(there.host, there.port)
        await first[0].readexactly(14)
        first[1].write(greeting)
        await first[0].read(1)
        reader, writer = await asyncio.open_connection(there.host, there.port)
        await reader.readexactly(14)
        writer.write(greeting)
        with suppress(ConnectionError):
            assert await reader.read() == b""
        assert calls == [0]
        for each in (first[1], writer):
            each.close()
            with suppress(ConnectionError):
                await each.wait_closed()
        await server.aclose()

    run(story, loop)


@pytest.mark.req("RH-115")
def test_connections_that_do_not_say_what_they_are_are_bounded_for_each_address():
    async def story():
        server = RpcServer(World.real(), limits=replace(Limits(), max_connections_per_address=2))
        there = await server.listen("127.0.0.1", 0, protseq="ncacn_http")
        many = [await asyncio.open_connection(there.host, there.port) for _ in range(3)]
        greeted = 0
        for reader, _ in many:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                greeted += await reader.readexactly(14) == b"ncacn_http/1.0"
        refused = server.core.refusals
        for _, writer in many:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        await server.aclose()
        return greeted, refused

    assert run(story) == (2, 1)


@LOOPS
def test_a_connection_without_a_proxy_is_freed_without_the_garbage_collector(loop):
    from oxid.runtime import proxied_server

    made = []

    class Watched(proxied_server.TunnelTcp):
        __slots__ = ("__weakref__",)

        def __init__(self, *given):
            super().__init__(*given)
            made.append(weakref.ref(self))

    async def story():
        server = RpcServer(World.real())
        server.register(IEcho, Echo(), min_level=0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(proxied_server, "TunnelTcp", Watched)
            there = await server.listen("127.0.0.1", 0, protseq="ncacn_http")
            async with open_connection(
                there.host, there.port, world=World.real(), proxy=ProxyRoute("direct")
            ) as connection:
                echo = await connection.proxy(IEcho)
                assert await echo.add_one(1) == 2
                kept = [ref() for ref in made]
            await server.aclose()
        return kept

    gc.disable()
    try:
        kept = run(story, loop)
    finally:
        gc.enable()
    assert kept == [None]


# The proxy's connections to servers --------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, 60.0, 0xFFFF_FFFF / 1000])
def test_any_keep_alive_that_a_client_may_ask_for_is_set(seconds):
    async def story():
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        link = await connect_to("127.0.0.1", server.sockets[0].getsockname()[1], 2.0, near=False)
        link.keep_alive(seconds)
        found = link.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        link.abort()
        await link.closed_waiter
        server.close()
        await server.wait_closed()
        return bool(found)

    assert run(story) == bool(seconds)


def test_a_child_of_a_proxy_does_not_keep_its_connections_to_servers():
    async def story():
        over = asyncio.get_running_loop().create_future()

        async def answer(reader, writer):
            await reader.read()
            over.set_result(None)

        async with gateway(answer) as port:
            link = await connect_to("127.0.0.1", port, 2.0, near=False)
            stop, told = os.pipe()
            child = os.fork()
            if not child:
                os.close(told)
                os.read(stop, 1)  # until the parent is done
                os._exit(0)
            link.close()
            try:
                async with asyncio.timeout(1):
                    await over
            finally:
                os.close(told)
                os.close(stop)
                await asyncio.to_thread(os.waitpid, child, 0)
            await link.closed_waiter
        assert not forks._owners

    run(story)


def test_the_code_of_a_refusal_is_kept_whole():
    async def story():
        async with gateway(says(b"HTTP/1.0 503 RPC Error: 6bb\r\n\r\n", stay=False)) as port:
            return await error_of(port)

    error = run(story)
    assert isinstance(error, StatusError)
    assert error.status.code == 0x6BB
