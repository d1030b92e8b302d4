"""A connection that is cancelled while it is made: at whatever turn of the loop, nobody is left with half of one."""

import asyncio

import pytest
import uvloop

from oxid.errors import TransportError
from oxid.iis.rpc_proxy.connector import connect_to
from oxid.runtime import client, tcp
from oxid.runtime.local_channel import dial
from oxid.world import World

TURNS = range(12)
LOOPS = pytest.mark.parametrize("loop", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


class Told:
    """What a connection was told."""

    def __init__(self):
        self.said = []
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport
        self.said.append("made")

    def data_received(self, data):
        self.said.append(data)

    def eof_received(self):
        return None

    def connection_lost(self, error):
        self.transport = None
        self.said.append("lost")


class Greeting(asyncio.Protocol):
    """Says something at once, and closes where it is to."""

    def __init__(self, close, there):
        self.close = close
        self.there = there

    def connection_made(self, transport):
        self.transport = transport
        self.there.add(self)
        transport.write(b"hello")
        if self.close:
            transport.close()

    def connection_lost(self, error):
        self.there.discard(self)


async def arrivals():
    """What was accepted last arrives: a server of asyncio that is closed before leaves it lying about."""
    for _ in range(10):
        await asyncio.sleep(0)


def on(loop, story, close=False):
    there = set()

    async def run():
        server = await asyncio.get_running_loop().create_server(
            lambda: Greeting(close, there), "127.0.0.1", 0
        )
        try:
            await story(server.sockets[0].getsockname()[1])
            await arrivals()
        finally:
            server.close()
            await server.wait_closed()
        while there:
            for one in there:
                one.transport.abort()
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


async def cancelled_after(turns, work):
    """Whether work was cancelled; what it returned where it was quicker."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        return False, await task
    except asyncio.CancelledError:
        return True, None


@LOOPS
@pytest.mark.parametrize("turns", TURNS)
def test_whoever_cancels_a_connect_has_told_nobody_of_a_connection(loop, turns):
    async def story(port):
        told = Told()
        cancelled, _ = await cancelled_after(turns, tcp.connect(told, "127.0.0.1", port))
        if cancelled:
            assert told.said == []
        else:
            assert told.said[0] == "made"
            told.transport.abort()
            while told.transport is not None:
                await asyncio.sleep(0)

    on(loop, story)


@LOOPS
def test_what_comes_before_the_connection_is_given_comes_first_and_whole(loop):
    async def story(port):
        told = Told()
        await tcp.connect(told, "127.0.0.1", port)
        async with asyncio.timeout(5):
            while told.said[-1] != "lost":
                await asyncio.sleep(0)
        assert told.said[0] == "made"
        assert b"".join(told.said[1:-1]) == b"hello"

    on(loop, story, close=True)


@LOOPS
@pytest.mark.parametrize("turns", TURNS)
def test_a_client_that_gives_up_connecting_counts_nothing(loop, turns):
    async def story(port):
        world = World.real()
        cancelled, made = await cancelled_after(turns, client.connect("127.0.0.1", port, world=world))
        if not cancelled:
            await made.aclose()
        assert not any(world.ledger.live().values())

    on(loop, story)


@LOOPS
@pytest.mark.parametrize("turns", TURNS)
def test_a_proxy_that_gives_up_connecting_keeps_no_link(loop, turns):
    async def story(port):
        cancelled, link = await cancelled_after(turns, connect_to("127.0.0.1", port, 5.0))
        if not cancelled:
            link.abort()
            await link.closed_waiter

    on(loop, story)


@LOOPS
@pytest.mark.parametrize("turns", TURNS)
def test_a_process_that_gives_up_its_local_channel_counts_nothing(loop, turns, tmp_path):
    async def story(_):
        counter = World.real().ledger.rpc_connection
        path = tmp_path / "socket"
        serving, accepted = asyncio.get_running_loop(), set()
        there = await serving.create_unix_server(lambda: Greeting(True, accepted), str(path))
        cancelled, channel = await cancelled_after(turns, dial(path, {}, lambda: None, counter))
        if not cancelled:
            await channel.aclose()
        assert counter.live == 0
        await arrivals()
        there.close()
        await there.wait_closed()
        assert not accepted

    on(loop, story)


@LOOPS
def test_a_port_where_nobody_listens_is_an_error_and_no_connection(loop):
    async def story(port):
        told = Told()
        with pytest.raises(OSError, match=r"111|refused"):
            await tcp.connect(told, "127.0.0.1", 1)
        assert told.said == []
        with pytest.raises(TransportError):
            await client.connect("127.0.0.1", 1, world=World.real())

    on(loop, story)
