"""Every bound of the server over real sockets: what is allowed works, one more does not, and others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from oxid.auth import (
    Authenticator,
    AuthLevel,
    AuthType,
    FailureLimiter,
    MemoryAccountStore,
    Password,
    initiator,
)
from oxid.errors import OxidError, StatusError
from oxid.ndr.types import U32, Octets
from oxid.rpc import pdu as p
from oxid.rpc.interface import count_of, interface, operation
from oxid.rpc.limits import Limits
from oxid.rpc.pdu import PacketType
from oxid.rpc.presentation import (
    NDR20,
    SHARED_TABLES,
    Contexts,
    InterfaceRegistry,
    PresentationContext,
    feature_syntax,
)
from oxid.runtime.client import RpcConnection, open_connection
from oxid.runtime.dispatch import current_call
from oxid.runtime.server import RpcServer
from oxid.testing.raw_rpc import ECHO, Pdu, bind, cancel, echo_registration, element, pdus, request
from oxid.testing.virtual_loop import run_virtual, virtual_world
from oxid.values import status as s
from oxid.world import World

Run = Callable[[Coroutine[Any, Any, None]], None]
RUNNERS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
PATIENCE_S = 60.0


async def in_world(story):
    await story(virtual_world())


@interface("60a15ec5-4de8-11d7-a637-005056a20182", version=(1, 0))
class IWork:
    @operation(0, out="result")
    async def add_one(self, value: U32) -> U32:
        """One more."""
        raise NotImplementedError

    @operation(1, wire=(count_of("data", U32), "data"), out="size")
    async def take(self, data: Octets) -> U32:
        """How much came."""
        raise NotImplementedError

    @operation(2, out="result")
    async def wait(self, key: U32) -> U32:
        """Answers once the gate is open."""
        raise NotImplementedError

    @operation(3, reply=(count_of("data", U32), "data"), out="data")
    async def give(self, size: U32) -> Octets:
        """So much."""
        raise NotImplementedError

    @operation(4)
    async def keep(self) -> None:
        """Opens a context handle."""
        raise NotImplementedError


class Work:
    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.running = 0
        self.peak = 0
        self.gone: list[object] = []

    def add_one(self, value: int) -> int:
        return value + 1

    def take(self, data: bytes) -> int:
        return len(data)

    async def wait(self, key: int) -> int:
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        return key

    def give(self, size: int) -> bytes:
        return bytes(size)

    def keep(self) -> None:
        current_call().open_handle("kept", self.gone.append)


class Place:
    """A server with these limits, and a neighbour whose connection must not notice anything."""

    def __init__(
        self, limits: Limits, world: World | None = None, limiter: FailureLimiter | None = None
    ) -> None:
        self.limits = limits
        self.world = world or World.real()
        accounts = MemoryAccountStore({"admin": "secret"})
        self.authenticator = Authenticator(accounts, world=self.world, limiter=limiter)
        self.work = Work()
        self.begun = self.world.clock.now()
        self.server = RpcServer(self.world, limits=limits, authenticator=self.authenticator)
        self.server.register(IWork, self.work)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Place:
        self._stack.push_async_callback(self.server.aclose)
        self.endpoint = await self.server.listen("127.0.0.1")
        self.neighbour = await self._stack.enter_async_context(self.open())
        self._proxy = await self.neighbour.proxy(IWork)
        assert await self._proxy.add_one(1) == 2
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            if exc_info[0] is None:
                assert await self._proxy.add_one(1) == 2, "the neighbour was disturbed"
        finally:
            self.work.gate.set()
            await self._stack.aclose()
        assert not any(self.world.ledger.live().values()), self.world.ledger

    def open(self, **options: Any) -> contextlib.AbstractAsyncContextManager[RpcConnection]:
        return open_connection("127.0.0.1", self.endpoint.port, world=self.world, **options)

    @contextlib.asynccontextmanager
    async def raw(self) -> AsyncIterator[Raw]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.endpoint.port)
        try:
            yield Raw(reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.001)

    def last(self) -> Any:
        """The server's side of the connection made last."""
        return max(self.server.connections, key=lambda c: c.peer[1] if c is not None else 0)


class Raw:
    """A connection that says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.port = writer.get_extra_info("sockname")[1]

    def send(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    async def next(self) -> Pdu:
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readexactly(16)
            body = await self.reader.readexactly(p.parse_header(head).frag_length - 16)
        return pdus(head + body)[0]

    async def rest(self) -> list[Pdu]:
        """Everything up to the end of the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return pdus(await self.reader.read())
            except ConnectionResetError:
                return []

    async def bound(self) -> None:
        self.send(bind(element()))
        assert (await self.next()).ptype == PacketType.BIND_ACK


def fragments(size: int, each: int, call_id: int = 2) -> bytes:
    """One `take` of a stub of `size` bytes, in fragments of `each`."""
    stub = struct.pack("<II", size - 8, size - 8) + bytes(size - 8)
    parts = [stub[i : i + each] for i in range(0, size, each)]
    return b"".join(
        request(part, opnum=1, call_id=call_id, flags=(i == 0) | (i == len(parts) - 1) << 1, hint=0)
        for i, part in enumerate(parts)
    )


# -- requests -------------------------------------------------------------------------------------------------


@RUNNERS
@pytest.mark.req("rpce§8", "rpce§8.request-size", "REQ-4")
def test_a_request_of_four_mebibytes_and_one_byte_more(run: Run) -> None:
    async def story() -> None:
        async with Place(Limits()) as place, place.raw() as peer:
            await peer.bound()
            peer.send(fragments(0x40_0000, 5816))
            answer = await peer.next()
            assert int.from_bytes(answer.stub[:4], "little") == 0x40_0000 - 8
            peer.send(fragments(0x40_0001, 5816, call_id=3))
            fault, *more = await peer.rest()
            assert (fault.ptype, fault.status, more) == (PacketType.FAULT, s.ERROR_ACCESS_DENIED, [])

    run(story())


@RUNNERS
@pytest.mark.req("rpce§8", "rpce§8.fragments")
def test_as_many_fragments_as_are_allowed_and_one_more(run: Run) -> None:
    async def story() -> None:
        async with Place(Limits(max_fragments=10)) as place, place.raw() as peer:
            await peer.bound()
            peer.send(fragments(80, 8))
            assert (await peer.next()).ptype == PacketType.RESPONSE
            peer.send(fragments(88, 8, call_id=3))
            fault, *more = await peer.rest()
            assert (fault.ptype, fault.status, more) == (PacketType.FAULT, s.ERROR_ACCESS_DENIED, [])

    run(story())


@RUNNERS
@pytest.mark.req("rpce§8", "rpce§8.fragments")
def test_small_fragments_among_much_else_do_not_keep_what_came_with_them(run: Run) -> None:
    async def story() -> None:
        async with Place(Limits()) as place, place.raw() as peer:
            await peer.bound()
            noise = cancel(99) * 8000
            peer.send(request(bytes(8), opnum=1, flags=1))
            for _ in range(20):
                peer.send(noise, request(bytes(8), opnum=1, flags=0))
            peer.send(noise)

            def all_there() -> bool:
                ours = [c for c in place.server.connections if c._partial is not None]
                return bool(ours) and ours[0]._partial.count >= 21

            await place.until(all_there)
            (ours,) = [c for c in place.server.connections if c._partial is not None]
            kept = sum(len(c.obj) if isinstance(c, memoryview) else len(c) for c in ours._partial.chunks)
            assert kept < 10_000

    run(story())


@RUNNERS
@pytest.mark.req("rpce§8", "rpce§8.pending-calls")
@pytest.mark.parametrize("extra", [0, 1, 30])
def test_no_more_calls_run_than_are_allowed_however_many_arrive_at_once(run: Run, extra: int) -> None:
    async def story() -> None:
        async with Place(Limits(max_pending_calls=8)) as place, place.raw() as peer:
            await peer.bound()
            calls = 8 + extra
            peer.send(*(request(struct.pack("<I", i), opnum=2, call_id=i + 2) for i in range(calls)))
            await place.until(lambda: place.work.running == 8)
            for _ in range(20):
                await asyncio.sleep(0)
            assert place.work.running == 8
            assert place.world.ledger.rpc_call.live == 8
            place.work.gate.set()
            answers = [await peer.next() for _ in range(calls)]
            assert sorted(a.call_id for a in answers) == list(range(2, calls + 2))
            assert place.work.peak <= 8
            peer.send(request(struct.pack("<I", 1), call_id=1000))
            assert (await peer.next()).stub[:4] == struct.pack("<I", 2)

    run(story())


@RUNNERS
@pytest.mark.req("rpce§8", "rpce§8.pending-calls")
def test_a_client_without_multiplexing_queues_no_more_than_is_allowed(run: Run) -> None:
    async def story() -> None:
        async with Place(Limits(max_pending_calls=4)) as place, place.raw() as peer:
            peer.send(bind(element(), flags=p.FIRST | p.LAST))
            assert (await peer.next()).ptype == PacketType.BIND_ACK
            peer.send(*(request(struct.pack("<I", i), opnum=2, call_id=i + 2) for i in range(20)))
            await place.until(lambda: place.work.running == 1)
            for _ in range(20):
                await asyncio.sleep(0)
            connection = next(c for c in place.server.connections if c.peer[1] == peer.port)
            assert len(connection._waiting or ()) <= 4
            place.work.gate.set()
            assert [(await peer.next()).call_id for _ in range(20)] == list(range(2, 22))
            assert place.work.peak == 1

    run(story())


@RUNNERS
@pytest.mark.req("rpce§8", "rpce§8.stalled-reader")
@pytest.mark.parametrize("size", [100, 5000, 1 << 20])
def test_a_client_that_asks_for_much_and_reads_nothing(run: Run, size: int) -> None:
    async def story() -> None:
        async with Place(Limits(write_buffer=1 << 16)) as place, place.raw() as peer:
            await peer.bound()
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            calls = 60_000
            peer.send(*(request(struct.pack("<I", size), opnum=3, call_id=i + 2) for i in range(calls)))
            connection = next(c for c in place.server.connections if c.peer[1] == peer.port)
            await place.until(lambda: connection.stalled)
            for _ in range(50):
                await asyncio.sleep(0)
            waiting = connection.transport.get_write_buffer_size()
            # one answer more than the buffer takes, and what gathers before the transport is asked
            assert waiting <= (1 << 16) + size + 65 * min(size + 100, 5840), f"{waiting} bytes wait"
            assert len(connection._tail or b"") <= 1 << 18
            answered = place.server.core.calls_in
            for _ in range(50):
                await asyncio.sleep(0)
            assert place.server.core.calls_in == answered < calls

    run(story())


@RUNNERS
@pytest.mark.req("rpce§8", "rpce§8.stalled-reader")
def test_whoever_reads_again_gets_everything_in_order(run: Run) -> None:
    async def story() -> None:
        async with Place(Limits(write_buffer=1 << 16)) as place, place.raw() as peer:
            await peer.bound()
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            calls = 3000
            peer.send(*(request(struct.pack("<I", 4000), opnum=3, call_id=i + 2) for i in range(calls)))
            connection = next(c for c in place.server.connections if c.peer[1] == peer.port)
            await place.until(lambda: connection.stalled)
            peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert [(await peer.next()).call_id for _ in range(calls)] == list(range(2, calls + 2))

    run(story())


@RUNNERS
@pytest.mark.req("PDU-2", "PDU-6")
def test_nothing_is_looked_at_behind_what_ends_a_connection(run: Run) -> None:
    async def story() -> None:
        async with Place(Limits()) as place, place.raw() as peer:
            await peer.bound()
            before = place.server.core.calls_in
            wrong = request(bytes(8), opnum=1, flags=2, call_id=500)
            peer.send(wrong[:20])
            await asyncio.sleep(0.01)
            peer.send(wrong[20:], request(struct.pack("<I", 1), call_id=3) * 5)
            (fault,) = await peer.rest()
            assert fault.ptype == PacketType.FAULT
            assert place.server.core.calls_in == before

    run(story())


# -- connections ----------------------------------------------------------------------------------------------


@RUNNERS
@pytest.mark.req("rpce§8", "rpce§8.connections")
@pytest.mark.parametrize(
    "limits", [Limits(max_connections=3), Limits(max_connections_per_address=3)], ids=["all", "address"]
)
def test_as_many_connections_as_are_allowed_and_one_more(run: Run, limits: Limits) -> None:
    async def story() -> None:
        async with Place(limits) as place, place.raw() as second, place.raw() as third:
            await second.bound()
            await third.bound()
            async with place.raw() as fourth:
                fourth.send(bind(element()))
                assert await fourth.rest() == []
            second.send(request(struct.pack("<I", 1)))
            assert (await second.next()).ptype == PacketType.RESPONSE
            second.writer.close()
            await place.until(lambda: len(place.server.connections) == 2)
            async with place.raw() as again:
                await again.bound()

    run(story())


@pytest.mark.req("rpce§8", "rpce§8.bind-deadline")
def test_a_connection_without_a_bind_lives_half_a_minute() -> None:
    async def story(world: World) -> None:
        async with Place(Limits(), world) as place, place.raw() as silent, place.raw() as early:
            await asyncio.sleep(29)
            assert len(place.server.connections) == 3
            await early.bound()
            begun = world.clock.now()
            assert await silent.rest() == []
            assert world.clock.now() - begun < 2
            await asyncio.sleep(600)
            early.send(request(struct.pack("<I", 1)))
            assert (await early.next()).ptype == PacketType.RESPONSE

    run_virtual(in_world(story))


@pytest.mark.req("rpce§8", "rpce§8.bind-deadline")
def test_a_handshake_that_is_never_finished_is_no_bind() -> None:
    async def story(world: World) -> None:
        async with Place(Limits(), world) as place, place.raw() as peer:
            context = initiator(
                Password("admin", "secret"), AuthType.NTLM, AuthLevel.PKT, world=world, target=""
            )
            message = bytearray(bind(element()))
            peer.send(p.with_token(message, 10, 4, 1, context.step(b"") or b""))
            assert (await peer.next()).ptype == PacketType.BIND_ACK
            assert await peer.rest() == []
            assert 29 < world.clock.now() - place.begun < 32
            context.close()

    run_virtual(in_world(story))


@pytest.mark.req("rpce§8", "rpce§8.partial-pdu")
@pytest.mark.parametrize("drip", ["a header", "a packet", "a request"])
def test_whoever_sends_byte_by_byte_has_half_a_minute_for_a_request(drip: str) -> None:
    async def story(world: World) -> None:
        async with Place(Limits(), world) as place, place.raw() as peer:
            await peer.bound()
            begun = world.clock.now()
            if drip == "a request":
                peer.send(request(bytes(8), opnum=1, flags=1))
            data = request(bytes(8), opnum=1, flags=0) * 9
            size = {"a header": 16, "a packet": 24, "a request": 1 << 20}[drip]
            at = 0
            with contextlib.suppress(ConnectionError):
                while not peer.reader.at_eof() and world.clock.now() - begun < 100:
                    if at < size - 1:
                        peer.send(data[at % len(data) : at % len(data) + 1])
                        at += 1
                    await asyncio.sleep(1)
            assert 29 <= world.clock.now() - begun < 40

    run_virtual(in_world(story))


@pytest.mark.req("rpce§8", "rpce§8.partial-pdu")
def test_time_in_which_we_do_not_look_is_not_the_peers_fault() -> None:
    async def story(world: World) -> None:
        async with Place(Limits(max_pending_calls=2), world) as place, place.raw() as peer:
            await peer.bound()
            calls = [request(struct.pack("<I", i), opnum=2, call_id=i + 2) for i in range(2)]
            late = fragments(100, 50, call_id=10)
            half = len(late) // 2
            peer.send(*calls, late[:half])
            await asyncio.sleep(300)
            place.work.gate.set()
            assert sorted([(await peer.next()).call_id, (await peer.next()).call_id]) == [2, 3]
            peer.send(late[half:])
            assert (await peer.next()).call_id == 10

    run_virtual(in_world(story))


# -- contexts and handles -------------------------------------------------------------------------------------


@RUNNERS
@pytest.mark.req("rpce§8", "rpce§8.presentation-contexts", "BND-10")
def test_as_many_presentation_contexts_as_are_allowed_and_one_more(run: Run) -> None:
    async def story() -> None:
        async with Place(Limits(max_presentation_contexts=3)) as place, place.raw() as peer:
            await peer.bound()
            for number in (1, 2):
                peer.send(bind(element(number), alter=True, call_id=number + 1))
                (result,) = (await peer.next()).ack.results
                assert result.result == 0
            peer.send(bind(element(3), alter=True, call_id=9))
            (result,) = (await peer.next()).ack.results
            assert (result.result, result.reason) == (2, 3)  # provider rejection, local limit
            peer.send(request(struct.pack("<I", 1), context_id=2))
            assert (await peer.next()).ptype == PacketType.RESPONSE

    run(story())


@pytest.mark.req("rpce§8", "rpce§8.presentation-contexts")
def test_clients_with_ids_of_their_own_making_keep_nobody_from_sharing() -> None:
    registry = InterfaceRegistry()
    registration = echo_registration()
    registry.add(registration)

    def table(*ids: int) -> Contexts:
        return registry.table({i: PresentationContext(i, registration, NDR20) for i in ids})

    assert table(0) is table(0)
    for number in range(3 * SHARED_TABLES):
        table(number, 1 + number)
    assert table(*range(1000)) is not table(*range(1000))
    assert len(registry._tables) <= SHARED_TABLES
    assert table(0) is table(0)


@RUNNERS
@pytest.mark.req("rpce§8", "rpce§8.security-contexts", "SEC-7")
def test_as_many_security_contexts_as_are_allowed_and_one_more(run: Run) -> None:
    async def story() -> None:
        async with Place(Limits(max_security_contexts=3)) as place, place.raw() as peer:
            features = element(1, ECHO, feature_syntax(1))
            begun = [
                initiator(
                    Password("admin", "secret"), AuthType.NTLM, AuthLevel.PKT, world=place.world, target=""
                )
                for _ in range(4)
            ]
            try:
                for number, context in enumerate(begun):
                    elements = [element(), features] if not number else [element()]
                    message = bytearray(bind(*elements, alter=bool(number), call_id=number + 1))
                    peer.send(p.with_token(message, 10, 4, number + 1, context.step(b"") or b""))
                    if number < 3:
                        answer = await peer.next()
                        assert answer.ptype in (PacketType.BIND_ACK, PacketType.ALTER_CONTEXT_RESP)
                        token = answer.raw[-answer.header.auth_length :]
                        last = bytearray(p.common_header(PacketType.AUTH3, 3, 20, number + 1)) + bytes(4)
                        peer.send(p.with_token(last, 10, 4, number + 1, context.step(token) or b""))
                (fault,) = await peer.rest()
                assert fault.status == s.NCA_S_PROTO_ERROR
                assert place.world.ledger.security_context.live == 4, "ours only"
            finally:
                for context in begun:
                    context.close()

    run(story())


@RUNNERS
@pytest.mark.req("rpce§8", "rpce§8.handles")
def test_as_many_handles_as_an_association_may_have_and_one_more(run: Run) -> None:
    async def story() -> None:
        async with Place(Limits(max_handles=5)) as place:
            async with place.open() as connection, place.open() as other:
                work: Any = await connection.proxy(IWork)
                for _ in range(5):
                    await work.keep()
                with pytest.raises(StatusError) as refused:
                    await work.keep()
                assert refused.value.status.code == s.NCA_S_SERVER_TOO_BUSY
                neighbour: Any = await other.proxy(IWork)
                await neighbour.keep()
            await place.until(lambda: len(place.work.gone) == 6)

    run(story())


# -- logons ---------------------------------------------------------------------------------------------------


@pytest.mark.req("rpce§8", "rpce§8.failed-logons")
def test_after_so_many_wrong_passwords_even_the_right_one_has_to_wait() -> None:
    async def story(world: World) -> None:
        limiter = FailureLimiter(limit=3, window_s=60)
        async with Place(Limits(), world, limiter) as place:

            async def logon(password: str) -> int:
                options = {"credentials": Password("admin", password), "auth_type": AuthType.NTLM, "level": 6}
                async with place.open(**options) as connection:
                    work: Any = await connection.proxy(IWork)
                    return int(await work.add_one(1))

            assert await logon("secret") == 2
            for _ in range(3):
                with pytest.raises(OxidError):
                    await logon("wrong")
            with pytest.raises(OxidError):
                await logon("secret")
            await asyncio.sleep(61)
            assert await logon("secret") == 2

    run_virtual(in_world(story))


@RUNNERS
@pytest.mark.req("rpce§8")
def test_a_client_takes_no_answer_above_its_own_limit(run: Run) -> None:
    async def story() -> None:
        async with Place(Limits()) as place:
            async with place.open(limits=Limits(max_response=100_000), large_fragments=False) as connection:
                work: Any = await connection.proxy(IWork)
                assert len(await work.give(90_000)) == 90_000
                with pytest.raises(OxidError):
                    await work.give(100_001)
                assert connection.lost is not None
            async with place.open() as connection:
                work = await connection.proxy(IWork)
                assert len(await work.give(100_001)) == 100_001

    run(story())
