"""Bodies over real sockets: both ways at once, take-over, 100-continue, backpressure. RH-20, RH-22, AB-18, AB-19"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.support.web import RUNNERS, Client, everything, web_server

from oxid.iis.exchange import Exchange
from oxid.iis.limits import HttpLimits

Run = Callable[[Coroutine[Any, Any, None]], None]
GIB = 1 << 30


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return RUNNERS[request.param]


def head(method: bytes = b"POST", lines: bytes = b"", target: bytes = b"/") -> bytes:
    return method + b" " + target + b" HTTP/1.1\r\nHost: here\r\n" + lines + b"\r\n"


def echo_stream(exchange: Exchange) -> None:
    """What comes goes back at once; the response is as long as the request."""
    length = exchange.content_length
    headers = [] if length is None else [(b"Content-Length", b"%d" % length)]
    exchange.send_head(b"200 OK", headers, keep=True)
    exchange.stream_body(exchange.write, lambda: exchange.finish(keep=True))


async def settle(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@pytest.mark.req("RH-20", "RH-21")
@pytest.mark.parametrize("method", [b"POST", b"RPC_IN_DATA"])
def test_both_directions_flow_at_once_while_a_gigabyte_is_declared(run: Run, method: bytes) -> None:
    async def story() -> None:
        async with web_server(everything("echo"), handlers={"echo": echo_stream}) as (server, endpoint):
            async with await Client.connect(endpoint) as client:
                tracemalloc.start()
                client.send(head(method, b"Content-Length: %d\r\n" % GIB) + b"first")
                got = await client.reader.readuntil(b"\r\n\r\n")
                assert b"Content-Length: 1073741824" in got
                assert await client.reader.readexactly(5) == b"first"
                for n in range(50):
                    client.send(b"%05d" % n)
                    assert await client.reader.readexactly(5) == b"%05d" % n
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                assert peak < 8 << 20
            await settle(lambda: not server.connections)
            assert server.world.ledger.http_connection.live == 0

    run(story())


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_a_whole_body_goes_round_and_the_connection_stays(run: Run, size: int) -> None:
    async def story() -> None:
        async with web_server(everything("echo"), handlers={"echo": echo_stream}) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                for _ in range(2):
                    answer = await client.ask(head(lines=b"Content-Length: %d\r\n" % size) + b"x" * size)
                    assert answer.body == b"x" * size

    run(story())


@pytest.mark.parametrize("piece", [1, 9, 5000])
def test_chunked_requests_are_decoded_whatever_the_pieces(run: Run, piece: int) -> None:
    async def handle(exchange: Exchange) -> None:
        body = b""
        while data := await exchange.read(4):
            body += data
        assert exchange.content_length is None
        assert exchange.body_ended
        exchange.respond(200, body)

    async def story() -> None:
        async with web_server(everything("x")) as (server, endpoint):
            server.register_handler("x", lambda *_: lambda exchange: server.spawn(exchange, handle(exchange)))
            async with await Client.connect(endpoint) as client:
                raw = (
                    head(lines=b"Transfer-Encoding: chunked\r\n")
                    + b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nT: x\r\n\r\n"
                )
                for _ in range(2):
                    for at in range(0, len(raw), piece):
                        client.send(raw[at : at + piece])
                        await asyncio.sleep(0)
                    assert (await client.response()).body == b"hello world"

    run(story())


@pytest.mark.req("RH-22", "AB-19")
@pytest.mark.parametrize("how", ["send_continue", "read", "stream"])
def test_continue_is_said_when_the_body_is_wanted_and_not_before(run: Run, how: str) -> None:
    held: list[Exchange] = []

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": held.append}) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                client.send(head(lines=b"Content-Length: 4\r\nExpect: 100-continue\r\n"))
                await settle(lambda: bool(held))
                exchange = held.pop()
                assert exchange.expects_continue
                nothing = asyncio.ensure_future(client.reader.read(1))
                await asyncio.sleep(0.01)
                assert not nothing.done()
                got = bytearray()
                if how == "send_continue":
                    exchange.send_continue()
                elif how == "read":
                    exchange.when_body(lambda: None)
                else:
                    exchange.stream_body(got.extend, lambda: None)
                assert (
                    await nothing + await client.reader.readuntil(b"\r\n\r\n")
                    == b"HTTP/1.1 100 Continue\r\n\r\n"
                )
                client.send(b"body")
                await settle(lambda: exchange.available == 4 or got == b"body")
                exchange.send_continue()
                exchange.respond(200, b"done")
                assert (await client.response()).body == b"done"

    run(story())


@pytest.mark.req("RH-22", "AB-19")
def test_a_refusal_comes_without_100_and_without_the_body(run: Run) -> None:
    def refuse(exchange: Exchange) -> None:
        exchange.respond(503, b"no")

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": refuse}) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                client.send(head(lines=b"Content-Length: %d\r\nExpect: 100-continue\r\n" % GIB))
                assert (await client.rest()).startswith(b"HTTP/1.1 503")
            async with await Client.connect(endpoint) as client:
                client.send(head(lines=b"Content-Length: 4\r\nExpect: 200-maybe\r\n"))
                assert (await client.rest()).startswith(b"HTTP/1.1 417")

    run(story())


def test_a_body_nobody_wanted_is_read_away_up_to_a_bound(run: Run) -> None:
    def ignore(exchange: Exchange) -> None:
        exchange.respond(200, b"ok")

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": ignore}) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                for _ in range(3):
                    assert (
                        await client.ask(head(lines=b"Content-Length: 60000\r\n") + b"x" * 60000)
                    ).body == b"ok"
                chunk = b"fff\r\n" + b"x" * 4095 + b"\r\n"
                raw = head(lines=b"Transfer-Encoding: chunked\r\n") + chunk * 3 + b"0\r\n\r\n"
                assert (await client.ask(raw)).body == b"ok"
                raw = head(lines=b"Content-Length: 70000\r\n")
                answer = await client.ask(raw)
                assert answer.headers[b"connection"] == b"close"
                client.send(b"x" * 70000)
                assert await client.rest() == b""

    run(story())


@pytest.mark.req("AB-18")
def test_a_long_chunked_body_nobody_wanted_ends_the_connection(run: Run) -> None:
    async def story() -> None:
        async with web_server() as (server, endpoint), await Client.connect(endpoint) as client:
            client.send(head(lines=b"Transfer-Encoding: chunked\r\n"))
            assert (await client.response()).body == b"hello"
            chunk = b"ffff\r\n" + b"x" * 65535 + b"\r\n"
            client.send(chunk + chunk)
            assert await client.rest() == b""
            assert server.requests == 1

    run(story())


def test_a_connection_is_taken_over_until_its_end(run: Run) -> None:
    """RPC_CONNECT: no length either way. [MS-RPCH] 2.1.1.1.1"""

    def relay(exchange: Exchange) -> None:
        assert exchange.content_length is None
        exchange.send_head(b"200 Success", keep=False)
        exchange.stream_body(exchange.write, lambda: (exchange.write(b"bye"), exchange.finish(keep=True))[1])

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": relay}) as (server, endpoint):
            async with await Client.connect(endpoint) as client:
                client.send(b"RPC_CONNECT server:593 HTTP/1.1\r\nHost: p\r\n\r\nearly")
                await client.reader.readuntil(b"\r\n\r\n")
                assert await client.reader.readexactly(5) == b"early"
                client.send(b"GET / HTTP/1.1\r\n\r\n")
                assert await client.reader.readexactly(18) == b"GET / HTTP/1.1\r\n\r\n"
                client.writer.write_eof()
                assert await client.rest() == b"bye"
            assert server.requests == 1

    run(story())


def test_a_handler_that_holds_back_stops_the_client(run: Run) -> None:
    held: list[Exchange] = []
    got = [0]

    def receive(piece: bytes) -> None:
        got[0] += len(piece)

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": held.append}) as (server, endpoint):
            async with await Client.connect(endpoint) as client:
                client.writer.transport.set_write_buffer_limits(high=1)
                client.send(head(lines=b"Content-Length: %d\r\n" % GIB))
                await settle(lambda: bool(held))
                exchange = held[0]
                ended: list[bool] = []
                exchange.stream_body(receive, lambda: ended.append(True))
                exchange.pause_body()
                block = b"x" * 65536
                sent = 0
                while True:  # until the kernel's buffers and ours are full
                    client.send(block)
                    sent += len(block)
                    try:
                        await asyncio.wait_for(client.writer.drain(), 0.05)
                    except TimeoutError:
                        break
                    assert sent < 64 << 20
                assert got[0] == 0
                assert exchange.available < (1 << 20)
                exchange.resume_body()
                await client.writer.drain()
                await settle(lambda: got[0] == sent)
                assert exchange.available == 0
                client.writer.transport.abort()
                await settle(lambda: bool(ended))
                assert exchange.lost
                exchange.finish(keep=False)
            await settle(lambda: not server.connections)

    run(story())


def test_a_body_that_waits_unread_is_bounded(run: Run) -> None:
    held: list[Exchange] = []

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": held.append}) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                client.writer.transport.set_write_buffer_limits(high=1)
                client.send(head(lines=b"Content-Length: %d\r\n" % GIB))
                await settle(lambda: bool(held))
                exchange = held[0]
                sent = 0
                while True:
                    client.send(b"x" * 65536)
                    sent += 65536
                    try:
                        await asyncio.wait_for(client.writer.drain(), 0.05)
                    except TimeoutError:
                        break
                assert exchange.available < (1 << 20)
                taken = 0
                while taken < sent:
                    piece = exchange.take(10_000)
                    taken += len(piece)
                    if not piece:
                        await asyncio.sleep(0)
                assert exchange.available == 0
                exchange.finish(keep=False)

    run(story())


def test_a_client_that_does_not_read_makes_the_handler_wait(run: Run) -> None:
    held: list[Exchange] = []

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": held.append}) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                client.send(head())
                await settle(lambda: bool(held))
                exchange = held[0]
                exchange.send_head(b"200 OK", keep=False)
                sent = 0
                while exchange.writable:
                    exchange.write(b"x" * 65536)
                    sent += 65536
                    assert sent < 64 << 20
                woken: list[int] = []
                exchange.when_writable(lambda: woken.append(1))
                waiting = asyncio.ensure_future(exchange.drain())
                await asyncio.sleep(0.01)
                assert not woken
                assert not waiting.done()
                got = asyncio.ensure_future(client.rest())
                await waiting
                assert woken == [1]
                exchange.write_all([b"a", b"b"])
                exchange.finish(keep=False)
                assert len((await got).partition(b"\r\n\r\n")[2]) == sent + 2

    run(story())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_everybody_who_waits_hears_that_the_client_is_gone(run: Run, how: str) -> None:
    held: list[Exchange] = []

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": held.append}) as (server, endpoint):
            client = await Client.connect(endpoint)
            client.send(head(lines=b"Content-Length: 100\r\n") + b"part")
            await settle(lambda: bool(held))
            exchange = held[0]
            heard: list[str] = []
            exchange.when_lost(lambda: heard.append("lost"))
            assert await exchange.read(100) == b"part"
            reading = asyncio.ensure_future(exchange.read(100))
            await asyncio.sleep(0)
            if how == "abort":
                client.writer.transport.abort()
            await client.close()
            assert await reading == b""
            assert heard == ["lost"]
            assert exchange.lost
            await settle(lambda: not server.connections)
            exchange.when_lost(lambda: heard.append("at once"))
            assert heard[1:] == ["at once"]
            # the socket is gone, the object lives as long as the exchange: isapi.md 6
            assert server.world.ledger.http_connection.live == 1
            exchange.write(b"nobody hears")
            exchange.finish(keep=True)
            assert server.world.ledger.http_connection.live == 0

    run(story())


def test_an_abort_resets_the_connection(run: Run) -> None:
    def abort(exchange: Exchange) -> None:
        exchange.send_head(b"200 OK", [(b"Content-Length", b"10")], keep=True)
        exchange.finish(keep=False, abort=True)

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": abort}) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                client.send(head())
                with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                    await client.reader.readexactly(1000)

    run(story())


@pytest.mark.req("AB-18")
def test_bytes_behind_a_body_are_no_request_while_it_is_answered(run: Run) -> None:
    held: list[Exchange] = []

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": held.append}) as (server, endpoint):
            async with await Client.connect(endpoint) as client:
                out = head(b"RPC_OUT_DATA", b"Content-Length: 76\r\n")
                client.send(out + b"x" * 76 + b"GET /smuggled HTTP/1.1\r\nHost: here\r\n\r\n")
                await settle(lambda: bool(held) and held[0].available == 76)
                exchange = held[0]
                assert exchange.take() == b"x" * 76
                assert exchange.body_ended
                await asyncio.sleep(0.01)
                assert len(held) == 1
                exchange.send_head(b"200 OK", [(b"Content-Length", b"%d" % GIB)], keep=False)
                exchange.write(b"stream")
                exchange.finish(keep=True)
                await client.rest()
                assert server.requests == 1

    run(story())


def test_pipelined_bytes_are_bounded_while_a_request_is_answered(run: Run) -> None:
    held: list[Exchange] = []

    async def story() -> None:
        limits = HttpLimits(read_ahead=10_000)
        async with web_server(everything("x"), handlers={"x": held.append}, limits=limits) as (
            server,
            endpoint,
        ):
            async with await Client.connect(endpoint) as client:
                client.writer.transport.set_write_buffer_limits(high=1)
                client.send(head())
                await settle(lambda: bool(held))
                for _ in range(200):
                    client.send(head() * 1000)
                    try:
                        await asyncio.wait_for(client.writer.drain(), 0.05)
                    except TimeoutError:
                        break
                else:
                    pytest.fail("the server read it all")
                (connection,) = server.connections
                assert len(connection._inbox) < 600_000
                held[0].respond(200, keep=False)
                await client.rest()

    run(story())


def test_a_receiver_that_raises_ends_its_own_exchange_only(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(exchange: Exchange) -> None:
        def receive(piece: bytes) -> None:
            raise RuntimeError("its own business")

        exchange.stream_body(receive, lambda: None)

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": bad}) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                client.send(head(lines=b"Content-Length: 10\r\n"))
                await asyncio.sleep(0.01)
                client.send(b"x")
                got = await client.rest()
                assert b" 500 " in got
                assert b"business" not in got

    run(story())
    assert "its own business" in caplog.text
