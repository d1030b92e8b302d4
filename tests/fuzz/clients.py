"""The client's side for the fuzz tests: our real client on a network of lists, and what it says there.

    session = record(story, host)                 the story once, against live servers
    outcome = play(story, answers)                the same story against other answers

A story is a coroutine on a loop that is turned by hand: where all of it waits, the next answer is fed to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tests.fuzz.live import OBJECT_PORT, PASSWORD, RPC_PORT, USER, FuzzClock, LiveHost, Replayable, Shell

from oxid.auth import AuthLevel, AuthType, Credentials, Password, initiator
from oxid.com.connections import Using
from oxid.com.endpoints import list_endpoints, map_interface
from oxid.com.machine import Machine
from oxid.com.options import Blanket, ClientOptions
from oxid.com.proxy import Proxy
from oxid.errors import (
    AuthenticationError,
    NotSupported,
    OxidError,
    ProtocolError,
    StatusError,
    TransportError,
)
from oxid.interfaces.management import IManagement
from oxid.interfaces.object_exporter import IObjectExporter
from oxid.interfaces.unknown import IUnknown
from oxid.ndr.syntax import Syntax
from oxid.rpc.interface import spec_of
from oxid.rpc.limits import Limits
from oxid.rpc.pdu import PacketType
from oxid.rpc.security import SecurityEntry
from oxid.runtime.client import RpcConnection
from oxid.runtime.dispatch import Threads
from oxid.runtime.pool import Pooled
from oxid.samples.calculator import CLSID_CALCULATOR, ICalculator
from oxid.samples.echo import EnumChoice, EnumPair, IEcho, Surrounding
from oxid.world import World

MAX_TURNS: Final = 5_000
"""How often a story may be turned; one that is turned more often hangs."""
CORES: Final = {RPC_PORT: "rpc", OBJECT_PORT: "object"}
_THREADS: Final = Threads(1)
LOST: Final[list[Any]] = []
"""Interface pointers of proxies that nobody released."""


class HandLoop(asyncio.AbstractEventLoop):
    """An event loop that is turned by hand: what is ready runs, timers never come, sockets there are none."""

    def __init__(self) -> None:
        self._ready: deque[asyncio.Handle] = deque()
        self._turns = 0
        self.complaints: list[str] = []

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return asyncio.TimerHandle(delay, callback, args, self, context)

    call_at = call_later

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        return None

    def time(self) -> float:
        return 0.0

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if "never retrieved" not in context["message"]:
            self.complaints.append(f"{context['message']}: {context.get('exception')!r}")

    def turn(self) -> None:
        """Run everything that is ready, and what becomes ready by it."""
        ready = self._ready
        while ready:
            self._turns += 1
            assert self._turns < MAX_TURNS, "the story does not come to an end"
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()  # what every event loop does with its handles


@contextmanager
def turned_by_hand() -> Iterator[HandLoop]:
    """A hand-turned loop in place of the running one."""
    outer = asyncio._get_running_loop()
    loop = HandLoop()
    asyncio._set_running_loop(loop)
    try:
        yield loop
    finally:
        asyncio._set_running_loop(outer)


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closing = False

    def write(self, data: Any) -> None:
        if not self.closing:
            self.written.append(bytes(data))

    def writelines(self, buffers: Any) -> None:
        self.write(b"".join(buffers))

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str) -> Any:
        return {"peername": ("127.0.0.1", 135), "sockname": ("127.0.0.1", 135)}.get(name)

    def set_write_buffer_limits(self, high: int) -> None:
        return None


class Link:
    """One client connection of a story."""

    def __init__(self, connection: RpcConnection, wire: Wire, core: str) -> None:
        self.connection = connection
        self.wire = wire
        self.core = core
        self.ended = False

    def give(self, data: bytes) -> None:
        if self.ended:
            return
        self.connection.data_received(data)
        tail = self.connection._tail
        assert tail is None or len(tail) <= 1 << 17, f"{len(tail)} bytes are kept of a PDU"
        if self.wire.closing:
            self.end()

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self.connection.connection_lost(None)


class Client:
    """What a story has: connections, and a machine whose connections are ours."""

    def __init__(self, loop: HandLoop, anonymous: bool = True) -> None:
        self.loop = loop
        self.world = World(FuzzClock(), Replayable(3))
        self.links: list[Link] = []
        self.over = False
        self.limits = Limits()
        self.proxies: list[Proxy] = []
        credentials = None if anonymous else Password(USER, PASSWORD)
        options = ClientOptions(call_timeout=None)
        self.machine = Machine("127.0.0.1", Blanket.of(credentials, options), options, self.world, None)
        self.machine.connections = self  # type: ignore[assignment]  # the one seam to the network
        self.machine.later = self.lost  # type: ignore[method-assign]
        self._made: dict[tuple[int, Blanket], Pooled] = {}

    def use(self, host: str, port: int, blanket: Blanket) -> Using:
        """In place of the machine's connections: the ones of this story."""
        return Using(self, host, port, blanket)  # type: ignore[arg-type]

    async def lease(self, host: str, port: int, blanket: Blanket) -> Pooled:
        found = self._made.get((port, blanket))
        if found is None or found.connection.lost is not None:
            if self.over:
                raise TransportError("nobody listens any more")
            assert len(self.links) < 50, "the story connects for ever"
            connection = self.connect(port, blanket.credentials, blanket.level, blanket.auth_type or 0)
            found = self._made[port, blanket] = Pooled((port, blanket), connection)
        return found

    def give_back(self, leased: Pooled) -> None:
        """They live as long as their story."""

    def lost(self, function: Callable[..., None], *arguments: Any) -> None:
        """A proxy was dropped without release; stories hold all of theirs, so the client itself did."""
        LOST.append(arguments)

    def connect(
        self, port: int, credentials: Credentials | None = None, level: int = 1, auth_type: int = 0
    ) -> RpcConnection:
        security = None
        if credentials is not None:
            context = initiator(credentials, auth_type, level, world=self.world, target="host/fuzz")
            security = SecurityEntry(1, auth_type, level, context)
        connection = RpcConnection(
            self.world,
            self.limits,
            security,
            large_fragments=True,
            call_timeout=None,
            group_id=0,
            threads=_THREADS,
        )
        wire = Wire()
        connection.connection_made(wire)
        self.links.append(Link(connection, wire, CORES.get(port, "rpc")))
        return connection

    def held(self, proxy: Any) -> Any:
        """Remember a proxy, so that one that a story loses is not mistaken for one that the client lost."""
        if proxy is None:
            raise NotSupported("a NULL pointer came, there is nothing to call")
        self.proxies.append(proxy)
        return proxy

    def finish(self) -> None:
        """End the connections and let go of proxies; nothing may be live afterwards."""
        self.over = True
        for link in self.links:
            link.end()
        self.loop.turn()
        for proxy in self.proxies:
            if not proxy._released:
                proxy._let_go()
        self.machine._closed = True
        self.loop.turn()
        live = {kind: count for kind, count in self.world.ledger.live().items() if count}
        assert not live, f"left in the client: {live}"
        assert not self.loop.complaints, self.loop.complaints


# -- stories --------------------------------------------------------------------------------------------------

Story = Callable[[Client], Coroutine[Any, Any, Any]]


def echo_story(level: int, auth_type: int, *syntaxes: Syntax) -> Story:
    async def story(client: Client) -> None:
        credentials = Password(USER, PASSWORD) if level > 1 else None
        connection = client.connect(OBJECT_PORT, credentials, level, auth_type)
        echo: Any = await connection.proxy(IEcho, syntaxes=syntaxes or (Syntax.NDR20_LE,))
        await echo.add_one(41)
        await echo.echo_data(b"payload of an echo")
        await echo.test_call("a string")
        await echo.test_enum(1, EnumPair(1, 2), EnumChoice(1, 1))
        await echo.test_surrounding(Surrounding([1, 2, 3]))
        await echo.test_double_pointer(7)
        for info in range(1, 8):
            await echo.test_call2(info)
        await echo.source_data(6000)  # two fragments

    return story


def short_story(level: int, auth_type: int) -> Story:
    async def story(client: Client) -> None:
        connection = client.connect(OBJECT_PORT, Password(USER, PASSWORD), level, auth_type)
        echo: Any = await connection.proxy(IEcho)
        await echo.echo_data(b"payload of an echo")
        await echo.test_call("a string")

    return story


async def resolver_story(client: Client) -> None:
    connection = client.connect(RPC_PORT)
    resolver: Any = await connection.proxy(IObjectExporter)
    await resolver.server_alive()
    await resolver.server_alive2()
    await resolver.resolve_oxid(1, [7, 15])
    await resolver.resolve_oxid2(0x1234_5678_9ABC, [7])
    reply = await resolver.complex_ping(0, 1, [1, 2, 3], None)
    await resolver.complex_ping(reply.set_id, 2, [4], [1])
    await resolver.simple_ping(reply.set_id)
    management: Any = await connection.proxy(IManagement)
    await management.inq_if_ids()
    await management.inq_stats(4)
    await management.inq_princ_name(10, 64)


async def endpoint_story(client: Client) -> None:
    await list_endpoints(client.machine)
    await map_interface(client.machine, spec_of(IEcho).uuid, (1, 0))


async def alive_story(client: Client) -> None:
    await client.machine.server_alive()


async def activation_story(client: Client) -> None:
    calculator: Any = client.held(await client.machine.activate(CLSID_CALCULATOR, ICalculator))
    await use(client, calculator)
    await calculator.release()


async def old_activation_story(client: Client) -> None:
    client.machine.old_activation = True
    calculator: Any = client.held(await client.machine.activate(CLSID_CALCULATOR, ICalculator))
    await calculator.add(1, 2)
    await calculator.release()


async def class_object_story(client: Client) -> None:
    factory: Any = client.held(await client.machine.get_class_object(CLSID_CALCULATOR))
    await factory.lock_server(True)
    calculator: Any = client.held(await client.machine.create_instance(factory, ICalculator))
    await calculator.echo(b"12345678")
    await calculator.release()
    await factory.release()


def object_story(reference: bytes) -> Story:
    """Calls on the object that is there in every host, through its reference."""

    async def story(client: Client) -> None:
        calculator: Any = client.held(client.machine.proxy(reference, ICalculator))
        await client.machine.adopt([calculator])
        await use(client, calculator)

    return story


async def use(client: Client, calculator: Any) -> None:
    await calculator.add(2, 3)
    await calculator.echo(b"hello")
    await calculator.sum([1, 2, 3])
    await calculator.greet("World")
    copy: Any = client.held(await calculator.clone())
    await copy.divide(1.0, 4.0)
    try:
        await calculator.divide(1.0, 0.0)
    except StatusError:
        pass
    unknown: Any = client.held(await calculator.query(IUnknown))
    await unknown.release()
    await copy.release()


# -- recording and playing ------------------------------------------------------------------------------------


class Step(NamedTuple):
    """Bytes of one connection in one go."""

    link: int
    data: bytes


@dataclass
class Session:
    """What was said in one story."""

    name: str
    story: Story
    anonymous: bool
    answers: list[Step] = field(default_factory=list)
    """Everything the servers sent, in order."""
    requests: dict[int, tuple[str, list[bytes]]] = field(default_factory=dict)
    """For each connection which core it went to and what the client sent, in order."""


def record(name: str, story: Story, host: LiveHost, *, anonymous: bool = True) -> Session:
    """Play a story against a live host, and keep what both sides said."""
    session = Session(name, story, anonymous)
    shells: list[Shell] = []
    with turned_by_hand() as loop:
        client = Client(loop, anonymous)

        def feed() -> bool:
            moved = False
            for number, link in enumerate(client.links):
                if number == len(shells):
                    shell = host.connection(link.core)
                    shell.keep = True
                    shells.append(shell)
                    session.requests[number] = (link.core, [])
                written, link.wire.written = link.wire.written, []
                for data in written:
                    session.requests[number][1].append(data)
                    shells[number].take(data)
                shells[number].settle()
                sent, shells[number].sent = shells[number].sent, []
                if sent:
                    moved = True
                    session.answers.append(Step(number, b"".join(sent)))
                    link.give(b"".join(sent))
            return moved

        try:
            task = loop.create_task(story(client))
            loop.turn()
            while not task.done():
                assert feed(), f"{name}: the story waits for ever"
                loop.turn()
            task.result()
            feed()
        finally:
            client.finish()
            for shell in shells:
                shell.end()
    return session


def play(session: Session, answers: Sequence[Step]) -> tuple[str, str]:
    """Tell the story's client these answers; returns the outcome and what the story met."""
    waiting = deque(answers)
    with turned_by_hand() as loop:
        client = Client(loop, session.anonymous)

        def feed() -> None:
            while waiting:
                step = waiting.popleft()
                if step.link < len(client.links):
                    client.links[step.link].give(step.data)
                    return
            # nothing more will come
            client.over = True
            for link in client.links:
                link.end()

        try:
            task = loop.create_task(session.story(client))
            loop.turn()
            while waiting or not task.done():
                ended = client.over
                feed()
                loop.turn()
                assert task.done() or not ended, "the story waits for ever"
            outcome, met = _outcome(client, task.exception())
            del task
        finally:
            client.finish()
    return outcome, met


def _outcome(client: Client, error: BaseException | None) -> tuple[str, str]:
    met = repr(error)
    match error:
        case None:
            return ("closed" if _broken(client) else "answered"), met
        case StatusError():
            return ("nak" if error.origin.value == "bind" else "fault"), met
        case ProtocolError() | AuthenticationError():
            return "closed", met
        case TransportError():
            return ("closed" if _broken(client) else "ignored"), met
        case OxidError():
            return "fault", met
        case TimeoutError():
            return "ignored", met
    raise error


def _broken(client: Client) -> bool:
    """Whether a connection was ended for what the server sent."""
    return any(
        isinstance(link.connection.lost, ProtocolError | AuthenticationError | StatusError)
        for link in client.links
    )


def stories(host: LiveHost) -> list[tuple[str, Story, bool]]:
    """(name, story, whether without credentials), for a host that lets anybody in where that is wanted."""
    ntlm, spnego = AuthType.NTLM, AuthType.SPNEGO
    level = AuthLevel
    return [
        ("echo", echo_story(1, 0), True),
        ("echo ndr64", echo_story(1, 0, Syntax.NDR64), True),
        ("echo both", echo_story(1, 0, Syntax.NDR64, Syntax.NDR20_LE), True),
        ("resolver", resolver_story, True),
        ("endpoints", endpoint_story, True),
        ("alive", alive_story, True),
        ("activation", activation_story, True),
        ("old activation", old_activation_story, True),
        ("class object", class_object_story, True),
        ("object", object_story(host.reference), True),
        ("ntlm connect", echo_story(level.CONNECT, ntlm), False),
        ("ntlm packet", short_story(level.PKT, ntlm), False),
        ("ntlm integrity", short_story(level.PKT_INTEGRITY, ntlm), False),
        ("ntlm privacy", short_story(level.PKT_PRIVACY, ntlm), False),
        ("spnego connect", short_story(level.CONNECT, spnego), False),
        ("spnego privacy", short_story(level.PKT_PRIVACY, spnego), False),
        ("activation privacy", activation_story, False),
    ]


PACKET_NAMES: Final = {kind.value: kind.name.lower() for kind in PacketType}
