"""Requests over real sockets: keep-alive, pipelining, any method, and what ends a connection. SC-20 to SC-25, IS-10"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.support.web import RUNNERS, Client, everything, hello, web_server

from oxid.iis.exchange import Exchange

Run = Callable[[Coroutine[Any, Any, None]], None]
GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return RUNNERS[request.param]


def raw(exchange: Exchange) -> None:
    """Writes what the query says, as an extension with a head of its own would."""
    head, _, wanted = exchange.query.decode().partition("|")
    exchange.write(b"HTTP/1.1 200 OK\r\n" + (f"{head}\r\n" if head else "").encode() + b"\r\nhello")
    exchange.finish(keep=wanted != "close")


def test_a_connection_serves_many_requests(run: Run) -> None:
    async def story() -> None:
        async with web_server() as (server, endpoint), await Client.connect(endpoint) as client:
            for _ in range(20):
                answer = await client.ask(GET)
                assert answer.status == 200
                assert answer.body == b"hello"
                assert b"connection" not in answer.headers
            assert server.world.ledger.http_connection.live == 1
            assert server.world.ledger.http_request.live == 0
            assert server.world.ledger.http_request.total == 20
            assert server.statistics()["requests"] == 20

    run(story())


@pytest.mark.parametrize("method", ["RPC_IN_DATA", "RPC_OUT_DATA", "PROPFIND", "X-ANY", "DELETE"])
def test_any_method_comes_through_with_its_name(run: Run, method: str) -> None:
    seen: list[str] = []

    def note(exchange: Exchange) -> None:
        seen.append(exchange.method)
        hello(exchange)

    async def story() -> None:
        async with web_server(everything("note"), handlers={"note": note}) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                for _ in range(2):
                    assert (await client.get("/x?y", method=method)).status == 200
        assert seen == [method, method]

    run(story())


@pytest.mark.req("SC-20", "IS-10")
@pytest.mark.parametrize("k", [1, 2, 3, 1000])
def test_the_connection_ends_with_the_request_that_does_not_keep_it(run: Run, k: int) -> None:
    left = [k]

    def last_closes(exchange: Exchange) -> None:
        left[0] -= 1
        exchange.send_head(b"200 OK", [(b"Content-Length", b"2")], keep=left[0] > 0)
        exchange.write(b"ok")
        exchange.finish(keep=left[0] > 0)

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": last_closes}) as (server, endpoint):
            gc.disable()
            try:
                async with await Client.connect(endpoint) as client:
                    for _ in range(k):
                        assert (await client.ask(GET)).body == b"ok"
                    assert await client.rest() == b""
                while server.connections:
                    await asyncio.sleep(0)
                assert server.world.ledger.http_connection.live == 0
            finally:
                gc.enable()

    run(story())


@pytest.mark.req("SC-21")
def test_a_client_that_goes_after_a_kept_request_leaves_nothing(run: Run) -> None:
    async def story() -> None:
        async with web_server() as (server, endpoint):
            async with await Client.connect(endpoint) as client:
                await client.ask(GET)
            while server.connections:
                await asyncio.sleep(0)
            assert server.world.ledger.http_connection.live == 0

    run(story())


@pytest.mark.req("SC-22")
def test_answers_at_once_and_later_alternate_on_one_connection(run: Run) -> None:
    turn = [0]

    def alternate(exchange: Exchange) -> None:
        turn[0] += 1
        if turn[0] % 2:
            hello(exchange)
        else:
            asyncio.get_running_loop().call_soon(hello, exchange)

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": alternate}) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                for _ in range(10):
                    assert (await client.ask(GET)).body == b"hello"

    run(story())


@pytest.mark.req("SC-23", "IS-10")
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", b"hello"),
        ("Content-Length:9", b"hello"),
        ("Content-Length:2", b"he"),
        ("Content-Length:5|close", b"hello"),
        ("Content-Length:5%0d%0aConnection:close", b"hello"),
    ],
    ids=["none", "short", "long", "not wished", "said in the head"],
)
def test_a_response_that_does_not_end_where_it_says_ends_the_connection(
    run: Run, query: str, said: bytes
) -> None:
    def decoded(exchange: Exchange) -> None:
        head, _, wanted = exchange.query.decode().replace("%0d%0a", "\r\n").partition("|")
        exchange.write(b"HTTP/1.1 200 OK\r\n" + (f"{head}\r\n" if head else "").encode() + b"\r\n")
        exchange.write(b"hello")
        exchange.finish(keep=wanted != "close")

    async def story() -> None:
        async with web_server(everything("raw"), handlers={"raw": decoded}) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                client.send(f"GET /?{query} HTTP/1.1\r\nHost: here\r\n\r\n".encode() + GET)
                got = await client.rest()
                assert got.partition(b"\r\n\r\n")[2] == said
                assert got.count(b"HTTP/1.1") == 1

    run(story())


def test_a_response_with_a_head_of_its_own_can_keep_the_connection(run: Run) -> None:
    async def story() -> None:
        async with web_server(everything("raw"), handlers={"raw": raw}) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                for _ in range(3):
                    assert (await client.get("/?Content-Length:5")).body == b"hello"

    run(story())


@pytest.mark.req("SC-24", "IS-10")
@pytest.mark.parametrize(
    ("head", "keep_alive", "kept"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", True, False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True, True),
        (b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n", True, False),
        (GET, False, False),
        (GET, True, True),
    ],
)
@pytest.mark.parametrize("how", ["respond", "send_head"])
def test_client_and_site_have_a_word_in_keeping_the_connection(
    run: Run, head: bytes, keep_alive: bool, kept: bool, how: str
) -> None:
    def reply(exchange: Exchange) -> None:
        if how == "respond":
            hello(exchange)
        else:
            exchange.send_head(b"200 OK", b"Content-Length: 5\r\n\r\nhello", keep=True)
            exchange.finish(keep=True)

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": reply}, keep_alive=keep_alive) as (
            _,
            endpoint,
        ):
            async with await Client.connect(endpoint) as client:
                answer = await client.ask(head)
                assert answer.body == b"hello"
                if kept:
                    wanted = b"keep-alive" if b"1.0" in head else None
                    assert answer.headers.get(b"connection") == wanted
                    assert (await client.ask(GET)).status == 200
                else:
                    assert answer.headers[b"connection"] == b"close"
                    assert await client.rest() == b""

    run(story())


@pytest.mark.req("SC-25")
@pytest.mark.parametrize("piece", [1, 13, 10_000])
def test_pipelined_requests_are_answered_in_order_until_one_closes(run: Run, piece: int) -> None:
    waiting: list[Exchange] = []
    most = [0]
    first: list[Exchange] = []

    def later(exchange: Exchange) -> None:
        number = int(exchange.query)
        if number == 0:
            first.append(exchange)  # is answered when everything was sent
        elif number % 2:
            waiting.append(exchange)
            most[0] = max(most[0], len(waiting))
            asyncio.get_running_loop().call_later(0.001, answer)
        else:
            exchange.respond(200, exchange.query, keep=number != 6)

    def answer() -> None:
        exchange = waiting.pop()
        exchange.respond(201, exchange.query + exchange.take())

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": later}) as (server, endpoint):
            async with await Client.connect(endpoint) as client:
                everything_sent = b"".join(
                    b"POST /?%d HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\n\r\nabc" % n for n in range(10)
                )
                for at in range(0, len(everything_sent), piece):
                    client.send(everything_sent[at : at + piece])
                    if piece < 100:
                        await asyncio.sleep(0)
                while not first or server.connections.copy().pop()._inbox.count(b"POST") < 9:
                    await asyncio.sleep(0.001)
                first[0].respond(200, b"0")
                got = await client.rest()
            bodies = [part.partition(b"\r\n\r\n")[2] for part in got.split(b"HTTP/1.1 ")[1:]]
            assert bodies == [b"0", b"1abc", b"2", b"3abc", b"4", b"5abc", b"6"]
            assert most[0] == 1
            assert server.requests == 7

    run(story())


def test_a_handler_that_raises_answers_500_without_a_word_of_why(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def raises(exchange: Exchange) -> None:
        if exchange.query:
            exchange.send_head(b"200 OK", [(b"Content-Length", b"100")], keep=True)
        raise RuntimeError("secret reason")

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": raises}) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                client.send(GET)
                got = await client.rest()
                assert b" 500 " in got
                assert b"secret" not in got
                assert b"Traceback" not in got
            async with await Client.connect(endpoint) as client:
                client.send(b"GET /?x HTTP/1.1\r\nHost: here\r\n\r\n")
                assert b" 500 " not in await client.rest()

    run(story())
    assert "secret reason" in caplog.text


def test_an_exchange_holds_nothing_after_its_end(run: Run) -> None:
    kept: list[Exchange] = []

    def keeps(exchange: Exchange) -> None:
        kept.append(exchange)
        hello(exchange)

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": keeps}) as (server, endpoint):
            async with await Client.connect(endpoint) as client:
                await client.ask(GET)
                exchange = kept[0]
                assert exchange.connection is server.nobody
                assert exchange.lost
                exchange.write(b"more")
                exchange.respond(200, b"again")
                exchange.finish(keep=True)
                exchange.when_lost(lambda: None)
                assert exchange.take() == b""
                assert (await client.ask(GET)).body == b"hello"
                assert server.world.ledger.http_request.live == 0

    run(story())


def test_settings_are_swapped_under_a_live_connection(run: Run) -> None:
    held: list[Exchange] = []

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": held.append}) as (server, endpoint):
            async with await Client.connect(endpoint) as client:
                client.send(GET)
                while not held:
                    await asyncio.sleep(0.001)
                other = everything("hello")
                settings = server.settings
                server.apply(type(settings)((type(settings.sites[0])(directories=(other,)),)))
                held[0].respond(200, b"old")
                assert (await client.response()).body == b"old"
                assert (await client.ask(GET)).body == b"hello"

    run(story())


@pytest.mark.req("AB-17")
@pytest.mark.parametrize(
    ("raw_request", "status"),
    [
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000, 431),
        (b"GET /" + b"a" * 20_000, 414),
        (b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n\r\n", 501),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(
    run: Run, raw_request: bytes, status: int
) -> None:
    held: list[Exchange] = []

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": held.append}) as (server, endpoint):
            async with await Client.connect(endpoint) as client:
                client.send(raw_request)
                got = await client.rest()
                assert got.startswith(b"HTTP/1.1 %d " % status)
                assert b"Connection: close" in got
                assert b"Date: " in got
            while server.connections:
                await asyncio.sleep(0.001)
        assert len(held) == (1 if b"zz" in raw_request else 0)

    run(story())


def test_empty_lines_before_a_request_are_forgiven(run: Run) -> None:
    async def story() -> None:
        async with web_server() as (_, endpoint), await Client.connect(endpoint) as client:
            assert (await client.ask(b"\r\n\r\n" + GET)).status == 200
            client.send(b"\r")
            await asyncio.sleep(0)
            assert (await client.ask(b"\n" + GET)).status == 200

    run(story())
