"""An RPC server and its clients over real sockets, on uvloop and on stock asyncio."""

from __future__ import annotations

import asyncio
import threading

import pytest
import uvloop

from oxid.auth import Authenticator, AuthType, MemoryAccountStore, Password
from oxid.errors import (
    AccessDenied,
    ConfigurationError,
    LocalProtocolError,
    NoSuchInterface,
    NotImplementedByPeer,
    TransportError,
)
from oxid.interfaces.management import MANAGEMENT_ID, IManagement
from oxid.ndr.syntax import Syntax
from oxid.ndr.types import U32, Octets
from oxid.rpc.interface import count_of, interface, operation
from oxid.rpc.limits import Limits
from oxid.runtime.client import open_connection
from oxid.runtime.dispatch import blocking, current_call
from oxid.runtime.pool import ConnectionPool
from oxid.runtime.server import RpcServer
from oxid.testing.raw_rpc import bind, element, pdus, request
from oxid.world import World

RUNNERS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


@interface("60a15ec5-4de8-11d7-a637-005056a20182", version=(1, 0))
class IEcho:
    @operation(0, out="result")
    async def add_one(self, value: U32) -> U32:
        """One more."""
        raise NotImplementedError

    @operation(1, wire=(count_of("data", U32), "data"), reply=(count_of("data", U32), "data"), out="data")
    async def echo(self, data: Octets) -> Octets:
        """The same again."""
        raise NotImplementedError

    @operation(2, out="result")
    async def wait(self, key: U32) -> U32:
        """Answers when it is let go."""
        raise NotImplementedError

    @operation(3, out="result")
    async def in_thread(self, value: U32) -> U32:
        """One more, from a thread."""
        raise NotImplementedError

    @operation(4)
    async def keep(self) -> None:
        """Opens a context handle."""
        raise NotImplementedError

    @operation(5, out="result")
    async def missing(self) -> U32:
        """Is not implemented."""
        raise NotImplementedError


@interface("60a15ec5-4de8-11d7-a637-005056a20183", version=(1, 0))
class IOther:
    @operation(0, out="result")
    async def two(self) -> U32:
        """Two."""
        raise NotImplementedError


class Echo:
    def __init__(self):
        self.gates: dict[int, asyncio.Event] = {}
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.ran_down = []
        self.callers = []

    def add_one(self, value):
        self.callers.append((current_call().principal, current_call().level))
        return value + 1

    def echo(self, data):
        return data

    async def wait(self, key):
        gate = self.gates.setdefault(key, asyncio.Event())
        self.waiting.set()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return key

    @blocking
    def in_thread(self, value):
        assert threading.current_thread() is not threading.main_thread()
        assert current_call().opnum == 3
        return value + 1

    def keep(self):
        current_call().open_handle("kept", self.ran_down.append)


class Other:
    def two(self):
        return 2


class Place:
    """A world with a server in it."""

    def __init__(self, limits=None, **options):
        self.world = World.real()
        accounts = MemoryAccountStore()
        accounts.add("admin", "secret")
        self.echo = Echo()
        self.server = RpcServer(
            self.world, limits=limits, authenticator=Authenticator(accounts, world=self.world)
        )
        self.server.register(IEcho, self.echo, **options)

    async def __aenter__(self):
        self.endpoint = await self.server.listen("127.0.0.1")
        return self

    async def __aexit__(self, *_):
        await self.server.aclose()
        await self.server.aclose()
        assert not any(self.world.ledger.live().values()), self.world.ledger

    def open(self, **options):
        return open_connection("127.0.0.1", self.endpoint.port, world=self.world, **options)


@RUNNERS
@pytest.mark.req("REQ-5", "REQ-6")
def test_calls_of_every_kind_over_one_connection(run):
    async def story():
        async with Place() as place, place.open() as connection:
            echo = await connection.proxy(IEcho)
            assert await echo.add_one(41) == 42
            assert await echo.add_one(value=1) == 2
            assert await echo.in_thread(5) == 6
            for size in (0, 1, 5000, 70_000, 1 << 20):
                data = bytes(size)
                assert await echo.echo(data) == data
            late = asyncio.create_task(echo.wait(7))
            await place.echo.waiting.wait()
            assert await echo.add_one(1) == 2
            place.echo.gates[7].set()
            assert await late == 7
            with pytest.raises(NotImplementedByPeer):
                await echo.missing()

    run(story())


@RUNNERS
@pytest.mark.req("BND-7", "REQ-6")
@pytest.mark.parametrize("large", [True, False])
def test_large_fragments_are_agreed_between_our_own_ends(run, large):
    async def story():
        async with Place() as place, place.open(large_fragments=large) as connection:
            echo = await connection.proxy(IEcho)
            assert connection._max_send == (65528 if large else 5840)
            data = bytes(range(256)) * 1000
            answers = await asyncio.gather(*[echo.echo(data) for _ in range(5)])
            assert all(answer == data for answer in answers)

    run(story())


@RUNNERS
@pytest.mark.req("SEC-1", "SEC-11")
@pytest.mark.parametrize("level", [2, 4, 5, 6])
@pytest.mark.parametrize("kind", [AuthType.NTLM, AuthType.SPNEGO])
def test_authenticated_calls(run, kind, level):
    async def story():
        options = dict(credentials=Password("admin", "secret"), auth_type=kind, level=level)
        async with Place() as place, place.open(**options) as connection:
            echo = await connection.proxy(IEcho)
            assert await echo.add_one(1) == 2
            data = bytes(range(256)) * 300
            assert await echo.echo(data) == data
            assert place.echo.callers == [("admin", level)]

    run(story())


@RUNNERS
@pytest.mark.req("SEC-2", "SEC-12")
def test_refusals_say_what_is_wrong(run):
    async def story():
        async with Place(min_level=6) as place:
            async with place.open(credentials=Password("admin", "wrong")) as connection:
                with pytest.raises(AccessDenied):
                    await connection.proxy(IEcho)
            async with place.open() as connection:
                echo = await connection.proxy(IEcho)
                with pytest.raises(AccessDenied):
                    await echo.add_one(1)
                with pytest.raises(NoSuchInterface):
                    await connection.context(IOther)
                assert await (await connection.proxy(IManagement)).is_server_listening() == (0, 1)

    run(story())


@pytest.mark.req("BND-2", "REQ-1")
def test_more_interfaces_over_one_connection_and_ndr64():
    async def story():
        async with Place() as place, place.open() as connection:
            place.server.register(IOther, Other())
            ids = [await connection.context(cls) for cls in (IEcho, IOther, IEcho)]
            assert ids[0] == ids[2] != ids[1]
            assert await (await connection.proxy(IOther)).two() == 2
            async with place.open() as second:
                wide = await second.proxy(IEcho, syntaxes=(Syntax.NDR64, Syntax.NDR20_LE))
                assert second.syntax_of(wide._context_id) is Syntax.NDR64
                assert await wide.echo(b"wide") == b"wide"

    uvloop.run(story())


@RUNNERS
@pytest.mark.req("REQ-8")
def test_cancelling_the_caller_cancels_the_call_over_there(run):
    async def story():
        async with Place() as place, place.open() as connection:
            echo = await connection.proxy(IEcho)
            call = asyncio.create_task(echo.wait(1))
            await place.echo.waiting.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await place.echo.cancelled.wait()
            while connection.calls:
                await asyncio.sleep(0)
            assert await echo.add_one(1) == 2

    run(story())


@RUNNERS
@pytest.mark.req("REQ-11")
def test_a_call_times_out_and_the_connection_lives(run):
    async def story():
        async with Place() as place, place.open(call_timeout=0.05) as connection:
            echo = await connection.proxy(IEcho)
            with pytest.raises(TimeoutError, match=r"0\.05 s"):
                await echo.wait(1)
            await place.echo.cancelled.wait()
            assert await echo.add_one(1) == 2

    run(story())


@RUNNERS
def test_hanging_up_cancels_what_the_server_is_doing_for_us_and_runs_handles_down(run):
    async def story():
        async with Place() as place:
            async with place.open() as connection:
                echo = await connection.proxy(IEcho)
                await echo.keep()
                call = asyncio.create_task(echo.wait(1))
                await place.echo.waiting.wait()
                assert place.echo.ran_down == []
            with pytest.raises(TransportError):
                await call
            await place.echo.cancelled.wait()
            while not place.echo.ran_down:
                await asyncio.sleep(0)
            assert place.echo.ran_down == ["kept"]

    run(story())


@RUNNERS
def test_a_server_that_goes_wakes_every_waiter_with_the_same_error(run):
    async def story():
        async with Place() as place, place.open() as connection:
            echo = await connection.proxy(IEcho)
            calls = [asyncio.create_task(echo.wait(i)) for i in range(3)]
            await place.echo.waiting.wait()
            await place.server.aclose()
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(error, TransportError) for error in errors)
            with pytest.raises(TransportError):
                await echo.add_one(1)

    run(story())


@pytest.mark.req("rpce§6.mgmt")
def test_every_endpoint_serves_management():
    async def story():
        async with Place() as place, place.open() as connection:
            echo = await connection.proxy(IEcho)
            await echo.add_one(1)
            mgmt = await connection.proxy(IManagement)
            vector, status = await mgmt.inq_if_ids()
            assert status == 0
            assert MANAGEMENT_ID in [item.uuid for item in vector.ids]
            statistics, status = await mgmt.inq_stats(4)
            assert (len(statistics), status) == (4, 0)
            assert statistics[0] >= 2
            assert await mgmt.stop_server_listening() == 5
            name, status = await mgmt.inq_princ_name(10, 256)
            assert status == 0
            assert name

    uvloop.run(story())


@pytest.mark.req("rpce§8", "SEC-12")
def test_addresses_that_cannot_be_listened_on():
    async def story():
        async with Place() as place:
            port = place.endpoint.port
            with pytest.raises(ConfigurationError, match=str(port)):
                await place.server.listen("127.0.0.1", port)
            taken = await place.server.listen("127.0.0.1", (port, port + 50))
            assert taken.port != port

    uvloop.run(story())


def test_nobody_there_is_one_clear_line():
    async def story():
        async with Place() as place:
            port = place.endpoint.port
        with pytest.raises(TransportError, match=f"cannot connect to 127.0.0.1:{port}") as caught:
            async with open_connection("127.0.0.1", port, world=World.real()):
                pass
        assert caught.value.remedy

    uvloop.run(story())


def test_current_call_is_for_methods_only():
    with pytest.raises(LocalProtocolError):
        current_call()


async def _raw(place, data: bytes):
    reader, writer = await asyncio.open_connection("127.0.0.1", place.endpoint.port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()


@RUNNERS
@pytest.mark.req("rpce§8")
@pytest.mark.parametrize(
    ("data", "limits"),
    [
        (b"", Limits(bind_timeout=0.05)),
        (b"\x05", Limits(bind_timeout=5, fragment_timeout=0.05)),
        (bind(element()) + request()[:20], Limits(fragment_timeout=0.05)),
        (bind(element()) + request(b"12345678", flags=1), Limits(fragment_timeout=0.05)),
        (bind(element()), Limits(idle_timeout=0.1)),
    ],
    ids=["silent", "part of a header", "part of a packet", "part of a request", "idle"],
)
def test_slow_peers_are_cut_off(run, data, limits):
    async def story():
        async with Place(limits) as place, place.open() as connection:
            echo = await connection.proxy(IEcho)
            await _raw(place, data)
            if limits.idle_timeout is None:
                assert await echo.add_one(1) == 2

    run(story())


@RUNNERS
@pytest.mark.req("rpce§8")
def test_connections_are_limited_without_harm_to_those_that_are_there(run):
    async def story():
        async with Place(Limits(max_connections_per_address=1)) as place, place.open() as connection:
            echo = await connection.proxy(IEcho)
            async with place.open() as second:
                with pytest.raises(TransportError):
                    await second.context(IEcho)
            assert await echo.add_one(1) == 2

    run(story())


@RUNNERS
@pytest.mark.req("rpce§8")
def test_a_peer_that_does_not_read_is_not_read_from(run):
    async def story():
        async with Place(Limits(write_buffer=65536)) as place:
            reader, writer = await asyncio.open_connection("127.0.0.1", place.endpoint.port)
            writer.transport.pause_reading()
            writer.write(bind(element()))
            packet = request(len(b"x" * 5000).to_bytes(4, "little") * 2 + b"x" * 5000, opnum=1)
            for _ in range(4000):
                writer.write(packet)
            connection = None
            while connection is None or not connection.stalled:
                await asyncio.sleep(0.01)
                connection = next(iter(place.server.connections), None)
            assert place.server.core.calls_in < 4000
            writer.transport.resume_reading()
            got = 0
            while got < 4000:
                got += (await reader.read(1 << 20)).count(b"\x05\x00\x02\x03\x10\x00\x00\x00")
            writer.close()
            await writer.wait_closed()

    run(story())


@RUNNERS
@pytest.mark.req("PDU-2", "PDU-6")
def test_garbage_on_the_wire_ends_its_connection_and_no_other(run):
    async def story():
        async with Place() as place, place.open() as connection:
            echo = await connection.proxy(IEcho)
            for data in (b"GET / HTTP/1.1\r\n\r\n" * 4, bytes(64), b"\xff" * 64, request()):
                await _raw(place, data)
            (nak,) = pdus(await _raw(place, b"\x09" + bind(element())[1:]))
            assert nak.reason == 4
            assert await echo.add_one(1) == 2
            assert place.server.core.protocol_errors == 5

    run(story())


@RUNNERS
def test_pooled_connections_are_shared_per_identity_and_closed_when_idle(run):
    async def story():
        async with Place() as place:
            pool = ConnectionPool(place.world, idle_s=0.05)
            where = "127.0.0.1", place.endpoint.port
            async with pool.connection(*where) as one, pool.connection(*where) as two:
                assert one is two
                options = dict(credentials=Password("admin", "secret"))
                async with pool.connection(*where, **options) as three:
                    assert three is not one
                    async with pool.connection(*where, **options, level=5) as four:
                        assert four is not three
            async with pool.connection(*where) as again:
                assert again is one
                await again.context(IEcho)
            while pool.statistics()["connections"]:
                await asyncio.sleep(0.01)
            async with pool.connection(*where) as fresh:
                assert fresh is not one
                await fresh.aclose()
            async with pool.connection(*where) as newer:
                assert newer.lost is None
            await pool.aclose()
            with pytest.raises(TransportError):
                async with pool.connection(*where):
                    pass

    run(story())


@pytest.mark.req("rpce§8")
def test_deadlines_need_one_timer_for_hundreds_of_connections():
    async def story():
        async with Place() as place:
            connections = []
            for _ in range(200):
                connections.append(await asyncio.open_connection("127.0.0.1", place.endpoint.port))
            while len(place.server.connections) < 200:
                await asyncio.sleep(0)
            assert place.world.ledger.timer.live == 1
            for _, writer in connections:
                writer.close()
            while place.server.connections:
                await asyncio.sleep(0)

    uvloop.run(story())
