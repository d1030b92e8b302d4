"""Slow and greedy clients, in invented time: every wait ends, and others are served meanwhile. AB-1, AB-3, AB-19"""

from __future__ import annotations

import asyncio

import pytest
from tests.support.web import Client, everything, hello, web_server

from oxid.iis.exchange import Exchange
from oxid.iis.limits import HttpLimits
from oxid.iis.server import WebServer
from oxid.testing.virtual_loop import run_virtual

GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n"
LIMITS = HttpLimits(
    header_timeout=10, keep_alive_timeout=60, body_timeout=20, response_timeout=30, write_buffer=1 << 16
)


def now() -> float:
    return asyncio.get_running_loop().time()


async def gone(server: WebServer) -> float:
    """When the last connection is gone."""
    while server.connections:
        await asyncio.sleep(0.4)
    return now()


def test_a_connection_that_says_nothing_is_closed() -> None:
    async def story() -> None:
        async with web_server(limits=LIMITS) as (server, endpoint), await Client.connect(endpoint) as client:
            assert await client.rest() == b""
            assert 10 <= now() <= 10.2
            await gone(server)

    run_virtual(story())


@pytest.mark.req("AB-1")
def test_heads_that_drip_in_end_with_408_and_others_are_served() -> None:
    async def story() -> None:
        async with web_server(limits=LIMITS) as (server, endpoint):
            slow = [await Client.connect(endpoint) for _ in range(200)]
            answered = 0
            for byte in GET[:9]:
                for client in slow:
                    client.send(bytes([byte]))
                await asyncio.sleep(1)
                async with await Client.connect(endpoint) as client:
                    begun = now()
                    answered += (await client.ask(GET)).status == 200
                    assert now() - begun < 0.5
            assert answered == 9
            assert len(server.connections) >= 200
            for client in slow:
                assert (await client.rest()).startswith(b"HTTP/1.1 408")
                await client.close()
            assert await gone(server) <= 13.5
            assert server.timeouts == 200
            assert server.world.ledger.timer.live <= 1

    run_virtual(story())


@pytest.mark.req("AB-1")
def test_a_later_head_has_no_more_time_than_the_first() -> None:
    async def story() -> None:
        async with web_server(limits=LIMITS) as (_, endpoint), await Client.connect(endpoint) as client:
            assert (await client.ask(GET)).status == 200
            await asyncio.sleep(30)
            begun = now()
            client.send(GET[:5])
            assert (await client.rest()).startswith(b"HTTP/1.1 408")
            assert 10 <= now() - begun <= 10.2

    run_virtual(story())


def test_an_idle_connection_is_closed_without_a_word() -> None:
    async def story() -> None:
        async with web_server(limits=LIMITS) as (server, endpoint), await Client.connect(endpoint) as client:
            for _ in range(3):
                await client.ask(GET)
                await asyncio.sleep(50)
            begun = now()
            assert await client.rest() == b""
            assert now() - begun <= 10.2
            assert server.timeouts == 0

    run_virtual(story())


@pytest.mark.req("AB-19", "AB-2")
def test_a_body_that_stops_ends_with_408_but_only_while_somebody_waits_for_it() -> None:
    held: list[Exchange] = []

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": held.append}, limits=LIMITS) as (
            server,
            endpoint,
        ):
            async with await Client.connect(endpoint) as client:
                client.send(POST)
                while not held:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(100)  # the handler takes its time: not the client's fault
                exchange = held[0]
                assert not exchange.lost
                reading = asyncio.ensure_future(exchange.read())
                client.send(b"x")
                assert await reading == b"x"
                begun = now()
                reading = asyncio.ensure_future(exchange.read())
                assert (await client.rest()).startswith(b"HTTP/1.1 408")
                assert 19 <= now() - begun <= 20.2
                assert await reading == b""
                assert exchange.finished
            await gone(server)

    run_virtual(story())


@pytest.mark.req("AB-19")
def test_a_client_that_waits_for_nothing_after_100_continue_is_given_up() -> None:
    held: list[Exchange] = []

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": held.append}, limits=LIMITS) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                client.send(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
                while not held:
                    await asyncio.sleep(0.01)
                reading = asyncio.ensure_future(held[0].read())
                assert (await client.response()).status == 100
                assert (await client.response()).status == 408
                assert await reading == b""

    run_virtual(story())


def test_a_stream_may_be_silent_as_long_as_its_handler_likes() -> None:
    held: list[Exchange] = []

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": held.append}, limits=LIMITS) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                client.send(POST)
                while not held:
                    await asyncio.sleep(0.01)
                exchange = held[0]
                got = bytearray()
                exchange.stream_body(got.extend, lambda: None)
                await asyncio.sleep(5000)
                client.send(b"late")
                while got != b"late":
                    await asyncio.sleep(0.01)
                exchange.finish(keep=False)

    run_virtual(story())


@pytest.mark.req("AB-3")
@pytest.mark.parametrize("finished", [False, True])
def test_a_client_that_never_reads_is_cut_off(finished: bool) -> None:
    held: list[Exchange] = []

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": held.append}, limits=LIMITS) as (
            server,
            endpoint,
        ):
            client = await Client.connect(endpoint)
            client.writer.transport.pause_reading()
            client.send(GET)
            while not held:
                await asyncio.sleep(0.01)
            exchange = held[0]
            exchange.send_head(b"200 OK", [(b"Content-Length", b"%d" % (64 << 20))], keep=True)
            while exchange.writable:
                exchange.write(b"x" * 65536)
            lost: list[float] = []
            exchange.when_lost(lambda: lost.append(now()))
            if finished:
                exchange.finish(keep=False)
            begun = now()
            ended = await gone(server)
            exchange.finish(keep=False)
            await client.close()
            assert lost or finished
            # what loopback still carries when invented time begins to run counts as taken
            assert ended - begun <= 95

    run_virtual(story())


def test_who_asks_and_asks_but_never_reads_is_not_asked_for_more() -> None:
    def big(exchange: Exchange) -> None:
        exchange.respond(200, bytes(20_000))

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": big}, limits=LIMITS) as (server, endpoint):
            client = await Client.connect(endpoint)
            client.writer.transport.pause_reading()
            sent = 1500
            client.send(GET * sent)
            await asyncio.sleep(1)
            (connection,) = server.connections
            assert connection.transport.get_write_buffer_size() < 1 << 20
            assert server.requests < sent
            # and when it reads after all, it gets every answer
            client.writer.transport.resume_reading()
            for _ in range(sent):
                assert (await client.response()).body == bytes(20_000)
            assert server.requests == sent
            await client.close()

    run_virtual(story())


def test_a_client_that_reads_slowly_but_reads_may_go_on() -> None:
    held: list[Exchange] = []

    async def story() -> None:
        async with web_server(everything("x"), handlers={"x": held.append}, limits=LIMITS) as (
            server,
            endpoint,
        ):
            async with await Client.connect(endpoint) as client:
                client.send(GET)
                while not held:
                    await asyncio.sleep(0.01)
                exchange = held[0]
                size = 16 << 20
                exchange.send_head(b"200 OK", [(b"Content-Length", b"%d" % size)], keep=True)
                exchange.write(bytes(size))
                exchange.finish(keep=True)
                await client.reader.readuntil(b"\r\n\r\n")
                read = 0
                while read < size:
                    read += len(await client.reader.read(1 << 18))
                    await asyncio.sleep(5)
                assert now() > 200
                assert server.timeouts == 0

    run_virtual(story())


def test_connections_are_bounded_in_all_and_per_address() -> None:
    async def story() -> None:
        for limits in (HttpLimits(max_connections=3), HttpLimits(max_connections_per_address=3)):
            async with web_server(limits=limits) as (server, endpoint):
                clients = [await Client.connect(endpoint) for _ in range(3)]
                for client in clients:
                    assert (await client.ask(GET)).status == 200
                refused = await Client.connect(endpoint)
                assert await refused.rest() == b""
                await refused.close()
                assert server.refused == 1
                await clients[0].close()
                while len(server.connections) > 2:
                    await asyncio.sleep(0.01)
                async with await Client.connect(endpoint) as again:
                    assert (await again.ask(GET)).status == 200
                for client in clients:
                    await client.close()

    run_virtual(story())


def test_the_end_waits_for_answers_but_not_for_ever() -> None:
    held: list[Exchange] = []

    async def story() -> None:
        limits = HttpLimits(shutdown_timeout=3)
        async with web_server(everything("x"), handlers={"x": held.append}, limits=limits) as (
            server,
            endpoint,
        ):
            quick, stuck, idle = [await Client.connect(endpoint) for _ in range(3)]
            quick.send(GET)
            stuck.send(GET)
            while len(held) < 2:
                await asyncio.sleep(0.01)
            begun = now()
            closing = asyncio.ensure_future(server.aclose())
            await asyncio.sleep(1)
            held[0].respond(200, b"last")
            got = await quick.rest()
            assert b"last" in got
            assert b"Connection: close" in got
            assert await idle.rest() == b""
            lost: list[float] = []
            held[1].when_lost(lambda: (lost.append(now()), held[1].finish(keep=False))[1])
            await closing
            assert 3 <= now() - begun <= 3.5
            assert lost
            for client in (quick, stuck, idle):
                await client.close()
            await server.aclose()

    run_virtual(story())


def test_a_refused_client_can_read_its_answer_while_it_still_sends() -> None:
    async def story() -> None:
        async with web_server(limits=HttpLimits(linger=2)) as (server, endpoint):
            async with await Client.connect(endpoint) as client:
                client.send(b"GET / HTTP/1.1\nbad\r\n\r\n" + b"x" * 300_000)
                await asyncio.sleep(0.5)
                client.send(b"x" * 300_000)
                assert (await client.rest()).startswith(b"HTTP/1.1 400")
                assert await gone(server) <= 3.5

    run_virtual(story())


def test_no_timer_or_task_per_connection_or_request() -> None:
    async def story() -> None:
        async with web_server(limits=LIMITS, handlers={"x": hello}) as (server, endpoint):
            clients = [await Client.connect(endpoint) for _ in range(100)]
            tasks = len(asyncio.all_tasks())
            for client in clients:
                await client.ask(GET)
            assert server.world.ledger.timer.live == 1
            assert server.world.ledger.task.total == 0
            assert len(asyncio.all_tasks()) == tasks
            for client in clients:
                await client.close()

    run_virtual(story())
