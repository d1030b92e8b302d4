"""Machines in one process and one loop, in real or invented time: what the scenarios of lifetimes play on.

    async with server_machine(tmp_path / "server", [Calculator], world) as server:
        async with client_machine(tmp_path / "client", world) as client:
            async with client.process(server, USER) as machine: ...
            client.pings                 every ping that left, with its answer
            server.pings                 every ping that arrived
    # both end at rest: tables empty, counts at 0

P is 120 s, T three of them, S a twelfth of one, as on a real network.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import oxid
from oxid.com.options import Blanket
from oxid.com.ping_client import Ping
from oxid.host.agent import AgentOptions, MachineAgent
from oxid.rpcss.oxid_resolver import Tables
from oxid.rpcss.service import PingSeen
from oxid.testing.virtual_loop import VirtualLoop, run_virtual, virtual_world

P, T, S = 120.0, 360.0, 10.0
USER = oxid.Password("alice", "wonder")
OTHER = oxid.Password("bob", "builder")
ACCOUNTS = {"alice": "wonder", "bob": "builder"}


@oxid.interface("5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6a01")
class IProbe(oxid.IUnknown):
    """An object whose end can be watched."""

    @oxid.operation(3, out="who")
    async def whoami(self) -> oxid.Str:
        raise NotImplementedError

    @oxid.operation(4)
    async def wait(self, milliseconds: oxid.U32) -> None:
        raise NotImplementedError

    @oxid.operation(5, out="other")
    async def another(self) -> oxid.InterfacePointer[IProbe]:
        raise NotImplementedError

    @oxid.operation(6)
    async def keep(self, held: oxid.InterfacePointer[IProbe]) -> None:
        raise NotImplementedError

    @oxid.operation(7)
    async def let_go(self) -> None:
        raise NotImplementedError


CLSID_PROBE = "5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6a02"


@oxid.coclass(CLSID_PROBE, implements=[IProbe])
class Probe:
    """`ends` lists when each of them was released; an object that is not there once more is the leak."""

    made = 0
    ends: ClassVar[list[float]] = []

    def __init__(self) -> None:
        type(self).made += 1
        self.kept: Any = None

    def whoami(self) -> str:
        call = oxid.current_call()
        return f"{call.principal} at {int(call.level)}"

    async def wait(self, milliseconds: int) -> None:
        await asyncio.sleep(milliseconds / 1000)

    def another(self) -> Probe:
        return Probe()

    def keep(self, held: Any) -> None:
        self.kept = held.keep()

    async def let_go(self) -> None:
        kept, self.kept = self.kept, None
        await kept.release()

    def final_release(self) -> None:
        type(self).ends.append(asyncio.get_running_loop().time())
        if self.kept is not None:
            self.kept.release_soon()

    @classmethod
    def begin(cls) -> None:
        cls.made, cls.ends = 0, []

    @classmethod
    def alive(cls) -> int:
        return cls.made - len(cls.ends)


@dataclass
class Server:
    """A machine that serves."""

    host: oxid.Host
    world: oxid.World
    port: int
    pings: list[PingSeen] = field(default_factory=list)

    @property
    def tables(self) -> Tables:
        return self.host.resolver.tables()

    def pings_since(self, when: float) -> list[PingSeen]:
        return [ping for ping in self.pings if ping.at > when]

    @property
    def at_rest(self) -> bool:
        """Nothing is exported to anybody, and nobody's set holds anything."""
        tables = self.tables
        return not tables.objects and not any(state.oids for state in tables.sets.values())


@asynccontextmanager
async def server_machine(
    directory: Path,
    classes: Sequence[type] = (Probe,),
    world: oxid.World | None = None,
    *,
    credentials: Any = None,
    port: int = 0,
    **options: Any,
) -> AsyncIterator[Server]:
    directory.mkdir(parents=True, exist_ok=True)
    world = world or virtual_world()
    wanted = oxid.HostOptions(state=directory, rpc=(oxid.Address("127.0.0.1", port),), **options)
    host = oxid.Host(wanted, world, classes=[oxid.coclass_of(c) for c in classes], credentials=credentials)
    for name, password in ACCOUNTS.items():
        if host.accounts.find(name) is None:
            host.accounts.add(name, password)
    async with host:
        server = Server(host, world, host.rpc_server.endpoints[0].port)
        host.service.object_exporter.on_ping = server.pings.append
        yield server


@dataclass
class Sent:
    """A ping that left a client's machine."""

    at: float
    places: tuple[Any, ...]
    identity: Blanket
    ping: Ping
    status: int | None
    """The resolver's answer; None where there was none."""

    @property
    def user(self) -> str:
        return getattr(self.identity.credentials, "user", "")


@dataclass
class Client:
    """A machine whose processes are clients; its agent pings for all of them."""

    agent: MachineAgent
    world: oxid.World
    period: float
    pings: list[Sent] = field(default_factory=list)
    wire: Callable[[tuple[Any, ...], Blanket, Ping], Coroutine[Any, Any, None]] | None = None
    """Comes before every ping: may wait, or raise what a network would."""
    answers: Callable[[tuple[Any, ...], Blanket, Ping], Coroutine[Any, Any, None]] | None = None
    """Comes behind every ping, before its answer is heard."""

    def __post_init__(self) -> None:
        send = self.agent.pings._send

        async def watched(places: Any, identity: Blanket, ping: Ping) -> tuple[int, int]:
            sent = Sent(self.world.clock.now(), places, identity, ping, None)
            self.pings.append(sent)
            if self.wire is not None:
                await self.wire(places, identity, ping)
            answer: tuple[int, int] = await send(places, identity, ping)
            if self.answers is not None:
                await self.answers(places, identity, ping)
            sent.status = answer[0]
            return answer

        self.agent.pings._send = watched

    def options(self, server: Server, **changes: Any) -> oxid.ClientOptions:
        chosen: dict[str, Any] = {
            "port": server.port,
            "ping_period": self.period,
            "agent": "machine",
            "agent_socket": str(self.agent.options.socket),
            "call_timeout": None,
            "idle_timeout": 10 * self.period,  # fewer jumps of the virtual clock
        }
        return oxid.ClientOptions(**{**chosen, **changes})

    @asynccontextmanager
    async def process(self, server: Server, credentials: Any = None, **changes: Any) -> AsyncIterator[Any]:
        """A process of this machine that has reached the server. It ends politely; see the kills for the others."""
        world = oxid.World(self.world.clock, self.world.entropy)
        options = self.options(server, **changes)
        async with oxid.connect("127.0.0.1", credentials, options=options, world=world) as machine:
            await machine.lifelines.agent.link()
            yield machine
        live = {kind: count for kind, count in world.ledger.live().items() if count}
        assert not live, f"a client process left {live}"

    def pings_since(self, when: float) -> list[Sent]:
        return [sent for sent in self.pings if sent.at > when]

    @property
    def at_rest(self) -> bool:
        return self.agent.pings.idle


@asynccontextmanager
async def client_machine(
    directory: Path, world: oxid.World | None = None, period: float = P
) -> AsyncIterator[Client]:
    directory.mkdir(parents=True, exist_ok=True)
    world = world or virtual_world()
    async with MachineAgent(AgentOptions(directory / "agent"), world, period) as agent:
        yield Client(agent, world, period)


Story = Callable[[Server, Client], Coroutine[Any, Any, None]]


def play(tmp_path: Path, story: Story, classes: Sequence[type] = (Probe,), **options: Any) -> None:
    """A story between two machines in invented time. At its end both must come to rest within T + P + 2S."""

    async def run() -> None:
        Probe.begin()
        world = virtual_world()
        async with server_machine(tmp_path / "server", classes, virtual_world(), **options) as server:
            async with client_machine(tmp_path / "client", world) as client:
                await story(server, client)
                await until(lambda: client.at_rest, 2 * P + S)
            await until(lambda: server.at_rest, T + P + 2 * S)
            assert Probe.alive() == 0, f"{Probe.alive()} objects live on"
            statistics = server.host.resolver.statistics()
            assert (statistics["oids"], statistics["memberships"]) == (0, 0)

    run_virtual(run())


def now() -> float:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.now()


async def until(true: Callable[[], object], within: float, step: float = 1.0) -> float:
    """Wait until something is so; how long that took. AssertionError after `within` seconds."""
    began = asyncio.get_running_loop().time()
    while not true():
        waited = asyncio.get_running_loop().time() - began
        assert waited <= within, f"not so after {waited:.0f} s"
        await asyncio.sleep(step)
    return asyncio.get_running_loop().time() - began


async def settle() -> None:
    """Let what is on its way arrive."""
    await asyncio.sleep(0.02)
