"""A host and its local servers in one loop, with the real launcher and real processes: those only stand in.

    async with scene(tmp_path, [static(port)]) as stage:
        held = asyncio.create_task(stage.activate())
        server = await stage.next_server()         the launcher started a process: serve in its place
        ...
        await stage.end(held.result()); await server.gone()

What the launcher starts is a shell that writes down its launch token and waits. The local server itself runs here, so
that a test can stop each of its steps. With `gated`, the messages between it and the host wait until they are let
through, one by one.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from tests.support.endpoints import is_taken
from tests.support.lifetimes import IProbe, Probe

import oxid
from oxid.com.activation_properties import ActivationOut
from oxid.com.local_server import LocalServer
from oxid.com.orpc import COM_VERSION
from oxid.com.reference_table import InterfacePointer, ReferenceTable
from oxid.interfaces.remote_unknown import IRemUnknown
from oxid.rpc.interface import spec_of
from oxid.rpcss.activator import ActivationRequest
from oxid.rpcss.class_registry import AppSettings, ClassRegistry, ClassSettings, EndpointSetting
from oxid.rpcss.machine_service import MachineService
from oxid.rpcss.session import Session

APP = UUID("5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6c00")
OTHER_APP = UUID("5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6c0f")
FIRST = UUID("5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6c01")
SECOND = UUID("5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6c02")
IID = spec_of(IProbe).uuid
LIMIT_S = 20.0
STAND_IN = 'echo "$OXID_LAUNCH" > "$0/.$$" && mv "$0/.$$" "$0/$$" && exec sleep 600'


@oxid.coclass(str(FIRST), implements=[IProbe])
class First(Probe):
    """Served by local servers here."""


@oxid.coclass(str(SECOND), implements=[IProbe])
class Second(Probe):
    """Of the same application."""


class HandClock:
    """A clock that is moved by hand, on top of the real time that passes."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead

    def utc(self) -> float:
        return 1_700_000_000.0 + self.ahead


@dataclass(frozen=True)
class Somebody:
    """Who activates."""

    principal: str = "admin"
    anonymous: bool = False
    admin: bool = True
    local: bool = True
    level: int = 6
    peer: str = "127.0.0.1:1"


@dataclass(frozen=True)
class Held:
    """An object that a client holds: a pointer with its references; None where it is gone already."""

    server: Server
    own: tuple[InterfacePointer, int] | None

    @property
    def oid(self) -> int:
        assert self.own is not None
        return self.own[0].exported.oid

    @property
    def alive(self) -> bool:
        return self.own is not None and self.server.table.object(self.oid) is self.own[0].exported

    def release(self) -> None:
        """The client gives its references back: what RemRelease does in the server."""
        if self.own is not None and self.alive:
            self.server.table.release_refs(*self.own)


class Server:
    """A local server that runs here, in the place of a process."""

    def __init__(self, stage: Stage, pid: int, token: str, gated: bool, **options: Any) -> None:
        self.stage = stage
        self.pid = pid
        self.token = token
        launched, registry = stage.host.launcher._by_token[token], stage.host.launcher.registry
        described = [oxid.coclass_of(First), oxid.coclass_of(Second)]
        self.local = LocalServer(
            [found for found in described if registry.app_of(found.clsid) == launched.app],
            world=oxid.World(stage.world.clock, stage.world.entropy),
            channel=stage.host.options.local_channel,
            launch=token,
            period=stage.host.options.ping_period,
            **options,
        )
        self.may_attach = asyncio.Event()
        self.may_close = asyncio.Event()
        if not gated:
            self.may_close.set()
        self.closing = False
        close = self.local._aclose

        async def aclose() -> None:
            self.closing = True
            await self.may_close.wait()
            await close()

        self.local._aclose = aclose  # type: ignore[method-assign]
        self.exited = False
        self.task = asyncio.create_task(self._run())
        self.to_host: deque[Callable[[], object]] = deque()
        self.to_server: deque[Callable[[], object]] = deque()
        self._gated: tuple[Any, ...] = ()

    async def _run(self) -> BaseException | None:
        try:
            await self.local.run()
        except oxid.OxidError as error:
            return error
        return None

    @property
    def table(self) -> ReferenceTable:
        return self.local.objects.exporter.table  # type: ignore[union-attr,no-any-return]

    @property
    def failure(self) -> BaseException | None:
        return self.task.result() if self.task.done() else None

    @property
    def session(self) -> Session | None:
        found = [s for s in self.stage.host.service.sessions if s.launch == self.token]
        return found[0] if found else None

    @property
    def serving(self) -> bool:
        """Its classes may be taken."""
        return self.session is not None and not self.session.stopping and bool(self.local._cookies)

    def gate(self) -> None:
        """From here on nothing passes between it and the host by itself."""
        session, link = self.session, self.local._link.channel
        assert session is not None
        assert link is not None
        host_end, own_end = session.channel, link
        _gate(host_end, self.to_host)
        _gate(own_end, self.to_server)
        # That the process is gone comes behind everything that it said.
        lost = host_end.connection_lost
        host_end.connection_lost = lambda error: self.to_host.append(lambda: lost(error))
        self._gated = (host_end, own_end)

    def open(self) -> None:
        """Let everything through again, and what is on its way at once."""
        for channel in self._gated:
            vars(channel).pop("_take", None)
            vars(channel).pop("connection_lost", None)
        self._gated = ()
        for queue in (self.to_server, self.to_host):
            while queue:
                queue.popleft()()

    def decide(self) -> None:
        """Its idle time is over."""
        assert self.local._idle is not None
        self.local._idle.cancel()
        self.local._end_if_unused()

    async def die(self) -> None:
        """The server's part of a kill -9: whatever it had is closed, without a word."""
        self.may_attach.set()
        self.may_close.set()
        if not self.closing:
            self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def crash(self) -> None:
        """It dies, with the process in whose place it ran; everybody hears of it."""
        self.open()
        await self.die()
        await self.exit()

    async def exit(self) -> None:
        """The process in whose place it ran ends; the launcher notices."""
        self.exited = True
        self.stage.end_process(self.pid)
        await self.stage.until(lambda: not self.stage.is_child(self.pid))

    def survive(self) -> None:
        """Its host is about to crash: nobody tells it to end, and it finds no other host before it may."""
        link = self.local._link
        assert link.channel is not None
        link.channel.handlers = {**link.channel.handlers, "stop": lambda: None}
        self.may_attach.clear()
        connect = link._connect

        async def when_it_may() -> None:
            await self.may_attach.wait()
            link._connect = connect  # type: ignore[method-assign]
            await connect()

        link._connect = when_it_may  # type: ignore[method-assign]

    async def gone(self) -> None:
        """It ends by itself, and its process with it."""
        async with asyncio.timeout(LIMIT_S):
            await self.task
        await self.exit()


def _gate(channel: Any, queue: deque[Callable[[], object]]) -> None:
    take = channel._take
    channel._take = lambda body: queue.append(lambda: take(body))


def pass_time(service: MachineService, clock: Any, seconds: float, *, until_asked: bool = False) -> bool:
    """Let time pass for the collector, which is woken whenever it wants to be, and for nobody else.

    `until_asked`: only until it has asked some server what may go; whether it has. `clock.ahead` is moved by hand.
    """
    timer, end = service.reclaimer._timer, clock.now() + seconds
    while timer._handle is not None and timer._due <= end:
        clock.ahead += max(0.0, timer._due - clock.now())
        timer._handle.cancel()
        timer._fire()
        if until_asked and service.resolver._open:
            return True
    clock.ahead += max(0.0, end - clock.now())
    return False


@dataclass
class Stage:
    """One host, and what happens on it."""

    host: oxid.Host
    world: oxid.World
    clock: HandClock
    directory: Path
    servers: list[Server] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    serving: asyncio.Task[None] | None = None

    # Activations --------------------------------------------------------------------------------------

    async def activate(self, clsid: UUID = FIRST) -> Held:
        """What the network's part of an activation asks the host for."""
        request = ActivationRequest(clsid, (IID,), Somebody(), uuid4(), COM_VERSION)
        made = self.host.activator.activate(request)
        out = made if isinstance(made, ActivationOut) else await made
        server = next(
            s for s in self.servers if s.local.objects and s.local.objects.exporter.oxid == out.oxid
        )
        try:
            own = server.local.objects.exporter.local(out.interfaces[0].objref)  # type: ignore[union-attr,arg-type]
        except oxid.ObjectGone:
            own = None
        return Held(server, own)

    # Servers ------------------------------------------------------------------------------------------

    async def new_process(self) -> tuple[int, str]:
        """The next process that the launcher starts: its id and launch token."""

        def fresh() -> list[int]:
            return [int(n) for n in os.listdir(self.directory) if n.isdigit() and int(n) not in self.seen]

        found = await self.until(fresh)
        self.seen.add(found[0])
        return found[0], (self.directory / str(found[0])).read_text().strip()

    async def next_server(self, *, gated: bool = False, **options: Any) -> Server:
        """Serve in the place of the next process."""
        return self.server(*await self.new_process(), gated=gated, **options)

    def server(self, pid: int, token: str, *, gated: bool = False, **options: Any) -> Server:
        """Serve in the place of a process."""
        made = Server(self, pid, token, gated, **options)
        self.servers.append(made)
        return made

    def serve_all(self, **options: Any) -> None:
        """From here on every process that is started is one that serves, and ends when it may."""

        async def serve() -> None:
            while True:
                server = await self.next_server(**options)
                server.task.add_done_callback(lambda _, pid=server.pid: self.end_process(pid))

        self.serving = asyncio.create_task(serve())

    def end_process(self, pid: int) -> None:
        """Let a process that only stood in end; one that was ended before has its number no more."""
        if pid not in self.ended and self.is_child(pid):
            os.kill(pid, signal.SIGTERM)
        self.ended.add(pid)

    def is_child(self, pid: int) -> bool:
        return any(s.child is not None and s.child.pid == pid for s in self.host.launcher._servers)

    async def until(self, true: Callable[[], Any], within: float = LIMIT_S) -> Any:
        end = asyncio.get_running_loop().time() + within
        while not (found := true()):
            assert asyncio.get_running_loop().time() < end, f"not so after {within:g} s: {self}"
            await asyncio.sleep(0.001)
        return found

    async def settle(self) -> None:
        """Let everything happen that can happen without time and without other processes."""
        for _ in range(30):
            await asyncio.sleep(0)

    def pass_time(self, seconds: float, *, until_asked: bool = False) -> bool:
        """Let time pass for the collector; see `pass_time`."""
        return pass_time(self.host.service, self.clock, seconds, until_asked=until_asked)

    # Looking ------------------------------------------------------------------------------------------

    def leases(self) -> list[Any]:
        """The rows of the application, with their owners."""
        wanted = spec_of(IRemUnknown).uuid
        return [
            lease for lease in self.host.mapper._leases.values() if lease.registration.interface == wanted
        ]

    def rows(self) -> list[int]:
        return [int(lease.registration.endpoint) for lease in self.leases()]

    def check(self) -> None:
        """I1, I3 and I5 hold at every moment; and never two rows for one endpoint."""
        host = self.host
        rows = self.leases()
        assert len({(r.registration.key, r.owner) for r in rows}) == len(rows)
        for lease in rows:
            assert not lease.closed
            if isinstance(lease.owner, Session):
                assert lease.owner in host.service.sessions, f"I1: {lease} has no living owner"
                assert not lease.owner.ended
        ledger = self.world.ledger.endpoint
        listeners = sum(len(o.server.endpoints) for o in host.applications.all) + len(
            host.rpc_server.endpoints
        )
        assert ledger.live == len(host.mapper) + listeners, f"I3: {ledger} for {len(host.mapper)} rows"
        for oxid_, entry in host.resolver._exporters.items():
            if isinstance(entry.owner, Session):
                assert entry.owner in host.service.sessions, f"I5: {oxid_:016x} has no living process"
                assert oxid_ in entry.owner._oxids
        for session in host.service.sessions:
            for oxid_ in session._oxids:
                assert host.resolver.resolve(oxid_) is not None, f"I5: {session} lost {oxid_:016x}"

    def check_serving(self, port: int) -> None:
        """I1, I2: one server, one row, one socket."""
        self.check()
        assert self.rows() == [port]
        assert is_taken(port)

    def check_gone(self, *ports: int) -> None:
        """Nothing of any local server is left."""
        self.check()
        host = self.host
        assert self.rows() == []
        assert len(host.service.classes) == 0
        assert not [session for session in host.service.sessions if session.launch]
        assert host.launcher.statistics() == {"servers": 0, "launching": 0}
        assert not host.launcher._by_token
        assert not host.launcher._adopted
        assert self.world.ledger.local_server.live == 0
        assert not host.resolver.tables().objects
        for port in ports:
            assert not is_taken(port)

    # Hosts --------------------------------------------------------------------------------------------

    async def crash_host(self) -> None:
        """The host dies; its local servers live on, and wait until they may look for the next one."""
        for server in self.servers:
            server.survive()
        for pid in [s.child.pid for s in self.host.launcher._servers if s.child is not None]:
            self.end_process(pid)  # who only stands in need not survive
        await self.host.__aexit__(None, None, None)

    async def start_host(self) -> None:
        """The next host at the same state directory."""
        self.host = oxid.Host(self.host.options, self.world)
        await self.host.__aenter__()


@asynccontextmanager
async def scene(
    tmp_path: Path, endpoints: Sequence[str] = (), *, split: bool = False, **options: Any
) -> AsyncIterator[Stage]:
    """A host that starts processes which stand in for local servers. It ends with nothing left of them.

    Both classes belong to the application with these endpoints; `split` gives the second one an application of its
    own, without any. `options` are the host's.
    """
    directory = tmp_path / "processes"
    directory.mkdir(parents=True)
    command = ("/bin/sh", "-c", STAND_IN, str(directory))
    lines = tuple(EndpointSetting.parse(text, "here") for text in endpoints)
    # By the clock that is moved by hand no start may be too slow.
    app = AppSettings(APP, command, start_timeout=3600.0, endpoints=lines)
    other = AppSettings(OTHER_APP, command, start_timeout=3600.0)
    second = ClassSettings(SECOND, app=OTHER_APP if split else APP)
    registry = ClassRegistry(
        {APP: app, OTHER_APP: other}, {FIRST: ClassSettings(FIRST, app=APP), SECOND: second}
    )
    clock = HandClock()
    world = oxid.World(clock, oxid.World.real().entropy)
    chosen = oxid.HostOptions(
        state=tmp_path / "state", rpc=(oxid.Address("127.0.0.1", 0),), registry=registry, **options
    )
    chosen.state.mkdir()
    First.begin()
    Second.begin()
    stage = Stage(oxid.Host(chosen, world), world, clock, directory)
    await stage.host.__aenter__()
    try:
        yield stage
    finally:
        if stage.serving is not None:
            stage.serving.cancel()
            await asyncio.gather(stage.serving, return_exceptions=True)
        for server in stage.servers:
            await server.crash()
        for child in [s.child for s in stage.host.launcher._servers if s.child is not None]:
            child.send(signal.SIGTERM)
        await stage.host.__aexit__(None, None, None)
