"""The processes of the `machine` case, other than its agent: resolvers that note every ping, and many clients.

A client process holds its objects through `oxid.com.process_agent`, as any program does; nothing is activated, so
that what is measured is the pings. All clients are forks of one process, which has imported everything.
"""

from __future__ import annotations

import asyncio
import os
import select
import traceback
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any
from uuid import UUID

from oxid.auth import Authenticator, MemoryAccountStore, Password
from oxid.bench.alone import machine_service
from oxid.bench.process import run
from oxid.bench.servers import PASSWORD, USER, identifiers
from oxid.bench.talk import at_end_of_input, leave, let_go, say
from oxid.com.client_activation import INTEGRITY
from oxid.com.options import UNAUTHENTICATED, Blanket, ClientOptions
from oxid.com.ping_agent import PingTarget
from oxid.com.process_agent import process_agent
from oxid.host.calls import caller
from oxid.interfaces.object_exporter import ComplexPingReply, IObjectExporter
from oxid.rpcss.machine_service import MachineService
from oxid.rpcss.oid_table import PingPolicy
from oxid.rpcss.service import ObjectExporterService
from oxid.runtime.dispatch import may_wait
from oxid.runtime.server import RpcServer
from oxid.values.bindings import DualStringArray
from oxid.world import World

# Resolvers ------------------------------------------------------------------------------------------------


async def resolvers(
    *, first: int, count: int, objects: int, all_objects: int, period: float
) -> dict[str, Any]:
    """So many resolvers, from number `first` on, with so many objects each; what they heard, when let go."""
    oids = identifiers(all_objects)
    heard: list[tuple[Any, ...]] = []
    async with AsyncExitStack() as stack:
        ports = []
        for number in range(first, first + count):
            mine = oids[number * objects : (number + 1) * objects]
            ports.append(await stack.enter_async_context(_resolver(number, mine, period, heard)))
        say({"ports": ports})
        await let_go()
    return {"heard": heard}


@asynccontextmanager
async def _resolver(
    number: int, oids: Sequence[int], period: float, heard: list[tuple[Any, ...]]
) -> AsyncIterator[int]:
    world = World.real()
    authenticator = Authenticator(MemoryAccountStore({USER: PASSWORD}), world=world)
    async with machine_service(world, PingPolicy(period)) as service:
        entry = service.resolver.add_exporter(DualStringArray(), UUID(int=1), name=f"resolver {number}")
        for oid in oids:
            service.resolver.announce(entry.oxid, oid, service.now())
        server = RpcServer(world, authenticator=authenticator)
        server.register(IObjectExporter, _Noting(service, number, heard), ndr64=False)
        try:
            yield (await server.listen("127.0.0.1", 0)).port
        finally:
            await server.aclose()


class _Noting(ObjectExporterService):
    """IObjectExporter that notes every ping: (when, resolver, who, set, objects added, objects removed)."""

    def __init__(self, service: MachineService, number: int, heard: list[tuple[Any, ...]]) -> None:
        super().__init__(service.resolver, service.bindings, caller, service.world.clock, service.reclaimer)
        self._number = number
        self._heard = heard

    def simple_ping(self, set_id: int) -> int:
        status = super().simple_ping(set_id)
        if not status:
            self._note(set_id)
        return status

    @may_wait
    def complex_ping(
        self, set_id: int, sequence: int, add: Sequence[int] | None, remove: Sequence[int] | None
    ) -> ComplexPingReply | Coroutine[Any, Any, ComplexPingReply]:
        reply = super().complex_ping(set_id, sequence, add, remove)
        if isinstance(reply, ComplexPingReply) and not reply.status:
            self._note(reply.set_id, len(add or ()), len(remove or ()))
        return reply

    def _note(self, set_id: int, added: int = 0, removed: int = 0) -> None:
        who = "" if caller().anonymous else caller().principal
        self._heard.append((monotonic(), self._number, who, set_id, added, removed))


# Clients --------------------------------------------------------------------------------------------------


class _Pipes:
    """How the clients hear: a pipe that closes says the same to all of them."""

    def __init__(self) -> None:
        self.go, self._tell_go = os.pipe()
        """Ends when they are to begin."""
        self.live, self._let_live = os.pipe()
        """Ends when they are to end."""
        self.linked, self.tell_linked = os.pipe()
        """Has a byte from each that is ready."""

    def become_client(self) -> None:
        os.close(self._tell_go)
        os.close(self._let_live)

    def begin(self) -> None:
        os.close(self._tell_go)

    def end(self) -> None:
        os.close(self._let_live)

    def wait_for(self, clients: int) -> None:
        """Until all are ready, or the bench has gone."""
        while clients and 0 not in select.select([0, self.linked], [], [])[0]:
            clients -= len(os.read(self.linked, clients))


def clients(*, ports: list[int], processes: int, held: int, period: float, socket: str) -> dict[str, Any]:
    """Fork the clients and say when all are connected to the agent; let them begin when told to, end when let go."""
    os.environ["OXID_AGENT_SOCKET"] = socket
    each = held // len(ports)
    oids = identifiers(processes * each * len(ports))
    pipes = _Pipes()
    children: list[int] = []
    try:
        for number in range(processes):
            mine = {port: oids[(at * processes + number) * each :][:each] for at, port in enumerate(ports)}
            child = os.fork()
            if not child:
                _client(number, mine, period, pipes)
            children.append(child)
        pipes.wait_for(processes)
        say({"started": len(children)})
        os.read(0, 1)
        pipes.begin()
        os.read(0, 1)
    finally:
        pipes.end()
        for child in children:
            os.waitpid(child, 0)
    return {"ended": len(children)}


def _client(number: int, mine: dict[int, list[int]], period: float, pipes: _Pipes) -> None:
    """One client process; never returns."""
    try:
        pipes.become_client()
        at_end_of_input(leave, pipes.live)
        run(_hold(number, mine, period, pipes))
    except Exception:
        traceback.print_exc()
    finally:
        leave()


async def _hold(number: int, mine: dict[int, list[int]], period: float, pipes: _Pipes) -> dict[str, Any]:
    """Find the agent, hold objects when told to, and go on until the process is ended."""
    options = ClientOptions(ping_period=period, agent="machine")
    ladder = _ladder(number, options)
    async with process_agent(World.real(), options) as agent:
        await agent.link()
        os.write(pipes.tell_linked, b".")
        await asyncio.to_thread(os.read, pipes.go, 1)
        for port, oids in mine.items():
            target = PingTarget((("127.0.0.1", port),), ladder, period)
            for oid in oids:
                agent.hold(target, oid)
        await asyncio.Event().wait()
    return {}


def _ladder(number: int, options: ClientOptions) -> tuple[Blanket, ...]:
    """Every other process is somebody."""
    if number % 2:
        return (UNAUTHENTICATED,)
    return Blanket.of(Password(USER, PASSWORD), options, minimum=INTEGRITY), UNAUTHENTICATED
