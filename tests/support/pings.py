"""What the pings of a client machine must be whatever its programs do, and how programs die.

In invented time, on top of `tests.support.lifetimes`:

    play(tmp_path, story)        as there; a Witness sees every handle and every ping, and judges J6 to J9 at the end
    await die(machine)           what the others see of a program that is killed

With real processes:

    with agent_at(socket): ...   whatever agent serves the socket at the end is ended
    agent_pid(socket)            the process that serves it
    await eventually(true, 5.0)
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from tests.support import lifetimes
from tests.support.host import PASSWORD, OxidHost, environment
from tests.support.lifetimes import CLSID_PROBE, USER, Client, IProbe, P, Sent, Server, until

import oxid
from oxid.com.options import UNAUTHENTICATED
from oxid.com.ping_agent import PingAgent, PingTarget
from oxid.com.ping_client import Ping
from oxid.rpcss.oid_table import PingPolicy
from oxid.rpcss.oxid_resolver import OxidResolver
from oxid.rpcss.ping_sets import PingCaller
from oxid.rpcss.service import PingSeen
from oxid.values.bindings import DualStringArray

R = 0.4 * P
"""All pings of one tick of a set have this long."""
SILENCE = 2 * P + R
"""Behind its last handle a set is not pinged for longer than this, whatever the network does."""


# -- invented time: whose pings are these? ---------------------------------------------------------------


class Program:
    """One program of the client machine: who it may be, and what it has held from when to when."""

    def __init__(self, users: set[str]) -> None:
        self.users = users
        self.spans: list[tuple[int, float, float | None]] = []
        self._open: dict[int, tuple[float, int]] = {}

    def hold(self, oid: int) -> None:
        since, count = self._open.get(oid, (_now(), 0))
        self._open[oid] = since, count + 1

    def let_go(self, oid: int) -> None:
        since, count = self._open.pop(oid, (0.0, 0))
        if count > 1:
            self._open[oid] = since, count - 1
        elif count:
            self.spans.append((oid, since, _now()))

    def end(self) -> None:
        for oid, (since, _) in self._open.items():
            self.spans.append((oid, since, _now()))
        self._open.clear()

    def held(self, begin: float, end: float) -> set[int]:
        """What it held at some time between two moments."""
        closed = {oid for oid, since, to in self.spans if since <= end and (to is None or to >= begin)}
        return closed | {oid for oid, (since, _) in self._open.items() if since <= end}


class Witness:
    """Sees the handles of every program, and judges the pings of their machine."""

    def __init__(self, server: Server, client: Client) -> None:
        self.server = server
        self.client = client
        self.programs: list[Program] = []
        self._process = client.process
        client.process = self.process  # type: ignore[method-assign]

    @asynccontextmanager
    async def process(
        self, server: Server, credentials: Any = None, *, may_be: tuple[Any, ...] = (), **changes: Any
    ) -> AsyncIterator[Any]:
        """A process of the client machine; `may_be` are the other identities that it has. Nobody is free to all."""
        known = [c.user for c in (credentials, *may_be) if c is not None]
        program = Program({"", *known})
        self.programs.append(program)
        async with self._process(server, credentials, **changes) as machine:
            agent = machine.lifelines.agent
            hold, let_go = agent.hold, agent.let_go

            def holds(target: Any, oid: int) -> None:
                program.hold(oid)
                hold(target, oid)

            def lets_go(target: Any, oid: int) -> None:
                program.let_go(oid)
                let_go(target, oid)

            agent.hold, agent.let_go = holds, lets_go
            machine.program = program
            yield machine
        program.end()

    def judge(self) -> None:
        for sent in self.client.pings:
            self._somebody_may(sent)
        self._attempts_are_finite()
        known = {user for program in self.programs for user in program.users}
        for ping in self.server.pings:
            assert (ping.who.principal or "") in known, f"{ping} is by somebody whom no program is"
        changes_are_in_order(self.server.pings)

    def _somebody_may(self, sent: Sent) -> None:
        """J7: somebody holds something, or has until lately. J8: and may be who pings for it."""
        holders = [(p, p.held(sent.at - SILENCE, sent.at)) for p in self.programs]
        assert any(held for _, held in holders), f"a ping at {sent.at:.0f} s, and nobody holds anything"
        mine = [held for program, held in holders if sent.user in program.users]
        assert any(mine), f"a ping as {sent.user!r} at {sent.at:.0f} s, who holds nothing"
        strange = set(sent.ping.add) - set().union(*mine)
        assert not strange, f"{sent.user!r} pings {strange}, which only others hold"

    def _attempts_are_finite(self) -> None:
        """J6: a set that nobody needs any more is told once, and once again."""
        drained: dict[tuple[str, Any], int] = {}
        for sent in self.client.pings:
            held_now = set().union(*(p.held(sent.at, sent.at) for p in self.programs))
            key = sent.user, sent.places
            drained[key] = 0 if held_now else drained.get(key, 0) + 1
            assert drained[key] <= 2, f"attempt {drained[key]} to tell of the end, at {sent.at:.0f} s"


def changes_are_in_order(pings: list[PingSeen]) -> None:
    """J9: sequence numbers grow with every change of a set; the same one says the same again."""
    last: dict[int, PingSeen] = {}
    for ping in pings:
        if ping.sequence is None or ping.status:
            continue
        before = last.get(ping.set_id)
        if before is not None:
            ahead = (ping.sequence - before.sequence) % 0x10000
            assert ahead < 0x8000, f"{ping} came behind {before}"
            assert ahead or (ping.add, ping.remove) == (before.add, before.remove)
        last[ping.set_id] = ping


Story = Callable[[Server, Client], Coroutine[Any, Any, None]]


def play(tmp_path: Path, story: Story, **options: Any) -> None:
    """As `lifetimes.play`, under the eyes of a Witness."""

    async def watched(server: Server, client: Client) -> None:
        witness = Witness(server, client)
        await story(server, client)
        await until(lambda: client.at_rest, SILENCE, P / 20)
        await asyncio.sleep(P)
        witness.judge()

    lifetimes.play(tmp_path, watched, **options)


async def die(machine: Any) -> None:
    """End a process as SIGKILL does: its connections end, its agent sees that, and nobody says a word."""
    machine.program.end()
    agent = machine.lifelines.agent
    agent._closed = True
    await agent._link.aclose()
    await agent._own.aclose()
    await agent._pool.aclose()
    await machine.connections.aclose()


async def pinged(client: Client, oid: int | None = None) -> Sent:
    """Wait until the machine's agent has told of an object, or of anything; the ping that did."""

    def told() -> list[Sent]:
        return [s for s in client.pings if s.status == 0 and (oid is None or oid in s.ping.add)]

    await until(told, P + 1, P / 20)
    return told()[-1]


RELEASED, ENDED, KILLED = "released", "its program ends", "its program is killed"


async def unreachable(places: Any, identity: Any, ping: Any) -> None:
    raise oxid.TransportError("nobody answers")


async def refused(places: Any, identity: Any, ping: Any) -> None:
    raise oxid.AccessDenied(oxid.Win32(5), "not for you")


async def no_credentials(places: Any, identity: Any, ping: Any) -> None:
    raise oxid.AuthenticationError("the domain cannot be reached")


async def swallowed(places: Any, identity: Any, ping: Any) -> None:
    await asyncio.sleep(100 * P)


FAULTS = {
    "refused": refused,
    "without credentials": no_credentials,
    "unreachable": unreachable,
    "swallowed": swallowed,
}
"""For `client.wire`: what may become of a ping."""


class Holder:
    """A program that holds one object, until it is told how to end that."""

    def __init__(self, server: Server, client: Client, **who: Any) -> None:
        self._process = client.process(server, **({"credentials": USER} | who))

    async def __aenter__(self) -> Self:
        self.machine = await self._process.__aenter__()
        self.probe = await self.machine.activate(CLSID_PROBE, IProbe)
        self.oid = self.probe.oid
        self._over = False
        return self

    async def let_go(self, how: str) -> float:
        """End it; when that was."""
        if how == RELEASED:
            await self.probe.release()
        elif how == KILLED:
            await die(self.machine)
        else:
            await self._leave()
        return _now()

    async def _leave(self) -> None:
        if not self._over:
            self._over = True
            await self._process.__aexit__(None, None, None)

    async def __aexit__(self, *exc_info: object) -> None:
        await self._leave()


class ShortWire:
    """An agent, and a resolver that is a few turns of the loop away from it. `fate()` says what becomes of a ping."""

    ARRIVES, LOST, ANSWER_LOST = "arrives", "is lost", "its answer is lost"
    WHO = PingCaller("alice", "10.0.0.9")

    def __init__(self, how_many: int) -> None:
        world = oxid.World.real()
        self._new_id = world.new_id
        self.resolver = OxidResolver(world.new_id, PingPolicy(P))
        exporter = self.resolver.add_exporter(DualStringArray(), UUID(int=1))
        self.oxid = exporter.oxid
        self.oids = [self.resolver.add_oid(exporter.oxid, 0.0) for _ in range(how_many)]
        self.agent = PingAgent(world, self._send)
        self.target = PingTarget((("10.0.0.1", 135),), (UNAUTHENTICATED,), P)
        self.fate: Callable[[], str] = lambda: self.ARRIVES
        self.sent: list[Ping] = []
        self.on_change: Callable[[], object] = lambda: None
        self._set_id = 0

    def another_resolver(self) -> None:
        """The resolver was killed; its successor knows nothing yet, as its exporters have yet to find it."""
        self.resolver.close(0.0)
        self.resolver = OxidResolver(self._new_id, PingPolicy(P))
        self.resolver.started(0.0, survivors=True)

    def exporter_asserts(self) -> None:
        self.resolver.add_exporter(DualStringArray(), UUID(int=1), oxid=self.oxid)
        for oid in self.oids:
            self.resolver.assert_again(self.oxid, oid, 0.0)

    def hold(self, oid: int) -> None:
        self.agent.hold(self.target, oid)

    def let_go(self, oid: int) -> None:
        self.agent.let_go(self.target, oid)

    @property
    def known(self) -> set[int]:
        """What the agent's set holds at the resolver; one that it never heard of ends alone (B44)."""
        objects = self.resolver.tables().objects
        return {oid for oid, sets in objects.items() if self._set_id in sets}

    async def _send(self, places: Any, identity: Any, ping: Ping) -> tuple[int, int]:
        self.sent.append(ping)
        await asyncio.sleep(0)
        fate = self.fate()
        if fate == self.LOST:
            raise oxid.TransportError(fate)
        status, set_id = self._answer(ping)
        self.on_change()
        await asyncio.sleep(0)
        if fate == self.ANSWER_LOST:
            raise oxid.TransportError(fate)
        return status, set_id

    def _answer(self, ping: Ping) -> tuple[int, int]:
        if ping.sequence is None:
            return self.resolver.simple_ping(ping.set_id, self.WHO, 0.0), ping.set_id
        done = self.resolver.complex_ping(ping.set_id, ping.sequence, ping.add, ping.remove, self.WHO, 0.0)
        self._set_id = done.set_id
        return done.status, done.set_id

    async def aclose(self) -> None:
        await self.agent.aclose()
        self.resolver.close(0.0)


def _now() -> float:
    return asyncio.get_running_loop().time()


# -- real processes ----------------------------------------------------------------------------------------


def agent_pid(path: Path) -> int | None:
    """The process that serves an agent's socket; None where nobody does."""
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(str(path))
        except OSError:
            return None
        raw = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(raw[:4], "little")


def is_gone(pid: int) -> bool:
    """Whether a process has ended, if perhaps nobody has waited for it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def end_process(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@contextmanager
def ended_at_last(pids: Callable[[], Iterable[int]], word: str) -> Iterator[None]:
    """Where the block fails, the processes that it has left are ended: those whose command has this word."""
    try:
        yield
    except BaseException:
        for pid in pids():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if word.encode() in command:
                end_process(pid)
        raise


@contextmanager
def agent_at(path: Path) -> Iterator[Path]:
    """Programs may start agents on this socket: whichever is left at the end is ended."""
    try:
        yield path
    finally:
        while (pid := agent_pid(path)) is not None:
            end_process(pid)
            wait_until(lambda ended=pid: is_gone(ended), 10)


async def eventually(true: Callable[[], object], within: float, what: str = "") -> Any:
    """Wait in real time until something is so; what it is then. AssertionError after `within` seconds."""
    began = time.monotonic()
    while not (found := true()):
        assert time.monotonic() - began <= within, f"not so after {within:g} s{what and ': '}{what}"
        await asyncio.sleep(0.02)
    return found


def wait_until(true: Callable[[], object], within: float, what: str = "") -> Any:
    """The same without a loop."""
    began = time.monotonic()
    while not (found := true()):
        assert time.monotonic() - began <= within, f"not so after {within:g} s{what and ': '}{what}"
        time.sleep(0.02)
    return found


@asynccontextmanager
async def real_server(
    directory: Path, period: float, classes: tuple[type, ...] = (lifetimes.Probe,), **options: Any
) -> AsyncIterator[Server]:
    """A host of this process in real time: its `pings` are those of real clients."""
    lifetimes.Probe.begin()
    world = oxid.World.real()
    async with lifetimes.server_machine(directory, classes, world, ping_period=period, **options) as server:
        yield server


class RevivedHost(OxidHost):
    """A host whose resolver process is killed and started again, at the same place and with the same state."""

    _servers: frozenset[int] = frozenset()

    def local_servers(self) -> frozenset[int]:
        """All that there have been."""
        self._servers = self._servers | set(children_of(self.process.pid))
        return self._servers

    def kill_resolver(self) -> None:
        """End `oxid serve` and nothing else: its local servers live on."""
        self._port = self.port
        self.local_servers()
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def again(self) -> None:
        """Start it again; returns when it is ready."""
        command = list(self.process.args)  # type: ignore[arg-type]
        command[command.index("--rpc") + 1] = f"127.0.0.1:{self._port}"
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment(OXID_ADMIN_PASSWORD=PASSWORD, OXID_AGENT_SOCKET=str(self.directory / "agent")),
            start_new_session=True,
        )
        self.ready = {}
        self._read_ready_line()


def children_of(pid: int) -> list[int]:
    """The child processes of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
