"""What a full resolver needs and how long it keeps its loop: measured by one process about itself.

The tables are filled with the calls that the product makes: exporters have a DirectLink, references leave, clients
of different accounts take a hundred objects each into a ping set.
"""

from __future__ import annotations

import asyncio
import gc
from array import array
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

from oxid.auth import Authenticator, MemoryAccountStore
from oxid.bench.meter import UNMEASURED, Measured, clock, cpu_seconds, private_bytes, thread_seconds
from oxid.bench.talk import at_end_of_input, leave, say
from oxid.com.connections import Connections
from oxid.com.exporter import MARSHAL_REFS
from oxid.com.object_server import ObjectServer
from oxid.com.options import ClientOptions
from oxid.com.ping_agent import PingAgent
from oxid.com.pinging import Pinger
from oxid.host.calls import caller
from oxid.rpc.interface import spec_of
from oxid.rpcss.direct_link import DirectLink
from oxid.rpcss.machine_service import MachineService
from oxid.rpcss.oid_table import PingPolicy
from oxid.rpcss.ping_sets import PingCaller
from oxid.samples.calculator import Calculator, ICalculator
from oxid.values.bindings import NCACN_IP_TCP, DcomBinding, DualStringArray
from oxid.world import SystemEntropy, World

MEMBERS: Final = 100
"""Objects of one ping set."""
STEP: Final = 100_000
"""Objects between two words about how far it is."""
STILL_S: Final = 0.001
"""A shorter stretch is not looked at more closely."""


# What it weighs ---------------------------------------------------------------------------------------


async def memory(*, objects: int, exporters: int, measured: Measured = UNMEASURED) -> dict[str, Any]:
    """Memory of a resolver's process, less what it had without objects, for each object."""
    at_end_of_input(leave)
    async with machine_service(World.real()) as service:
        await _fill(service, _linked(service, exporters), MEMBERS * exporters)  # modules, names, first pages
        gc.collect()
        before, began = private_bytes(), clock()
        with measured:
            await _fill(service, _linked(service, exporters), objects)
        elapsed = clock() - began
        gc.collect()
        grown = private_bytes() - before
        sets = service.resolver.statistics()["sets"] - exporters
    return {
        "bytes": grown / objects,
        "mib": grown / (1 << 20),
        "objects": objects,
        "sets": sets,
        "fill_us": elapsed / objects * 1e6,
    }


def _linked(service: MachineService, exporters: int) -> list[Callable[[str], int]]:
    """Makers of new objects, one for each exporter; the objects themselves would be in other processes."""
    return [_maker(service, f"server ({number})") for number in range(exporters)]


def _maker(service: MachineService, name: str) -> Callable[[str], int]:
    bindings = DualStringArray((DcomBinding(NCACN_IP_TCP, "192.0.2.7", "49152"),), ())
    oxid = service.resolver.add_exporter(bindings, UUID(int=1), name=name).oxid
    link = DirectLink(service.world, service.resolver, service.reclaimer, oxid, service.bindings)

    def make(who: str) -> int:
        oid = link.new_oid()
        link.marshalled(oid, who, MARSHAL_REFS)
        return oid

    return make


# How long it keeps the loop -----------------------------------------------------------------------------


async def expiry(*, objects: int, exporters: int, measured: Measured = UNMEASURED) -> dict[str, Any]:
    """All clients have been silent for too long, all at once: sets end, exporters are asked, objects go."""
    at_end_of_input(leave)
    ahead = _Ahead()
    async with machine_service(World(ahead, SystemEntropy())) as service:
        full = _exporters(service, min(exporters, objects // MEMBERS))
        filling, pauses, ticker = _Pauses(), _Pauses(), Ticker()
        with filling:
            await _fill(service, [each.make for each in full], objects)
        sets = service.resolver.statistics()["sets"]
        await service.reclaimer.aclose()  # its timer knows nothing of clocks that jump
        ahead.seconds += 2 * service.policy.timeout
        with measured, pauses:
            cpu = cpu_seconds()
            ticker.start()
            service.reclaimer.watch()
            await asyncio.gather(*(each.empty.wait() for each in full))
            elapsed = ticker.stop()
            cpu = cpu_seconds() - cpu
        left = service.resolver.statistics()
        for each in full:
            await each.server.aclose()
    if left["oids"] or left["sets"]:
        raise RuntimeError(f"the resolver still has {left['oids']} objects and {left['sets']} sets")
    return {
        **ticker.report(),
        "objects": objects,
        "sets": sets,
        "total_s": elapsed,
        "rate": sets / elapsed,
        "client_cpu_us": cpu / sets * 1e6,
        "collections": pauses.count,
        "collection_ms": pauses.longest * 1e3,
        "filling_collection_ms": filling.longest * 1e3,
    }


class _Ahead:
    """A clock that can be put forward."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._real = World.real().clock

    def now(self) -> float:
        return self._real.now() + self.seconds

    def utc(self) -> float:
        return self._real.utc() + self.seconds


class _Exporter:
    """An exporter of this process, with real objects in a real reference table."""

    def __init__(self, service: MachineService, name: str, authenticator: Authenticator) -> None:
        oxid = service.world.new_id()
        self.empty = asyncio.Event()
        link = DirectLink(service.world, service.resolver, service.reclaimer, oxid, service.bindings)
        self.server = ObjectServer(service.world, link, authenticator, oxid=oxid, on_empty=self.empty.set)
        service.resolver.add_exporter(
            DualStringArray(), UUID(int=1), owner=self.server.exporter.table, oxid=oxid, name=name
        )

    def make(self, who: str) -> int:
        exporter = self.server.exporter
        pointer = exporter.pointer_to(Calculator(), spec_of(ICalculator))
        exporter.objref(pointer)
        return pointer.exported.oid


def _exporters(service: MachineService, count: int) -> list[_Exporter]:
    authenticator = Authenticator(MemoryAccountStore({}), world=service.world)
    return [_Exporter(service, f"application {number}", authenticator) for number in range(count)]


class Ticker:
    """How long the loop is away at a stretch: a callback that always asks to be called again.

    Between two calls of it, a loop calls everything else that is due, once.
    """

    def __init__(self) -> None:
        self.longest = self.longest_cpu = 0.0
        self.stretches = array("d")
        self._running = True

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._left = clock()
        self._left_cpu = thread_seconds()
        self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        away = clock() - self._left
        if away > STILL_S:
            self.stretches.append(away)
            self.longest = max(self.longest, away)
            self.longest_cpu = max(self.longest_cpu, thread_seconds() - self._left_cpu)
        if self._running:
            self._loop.call_soon(self._tick)
            self._left_cpu = thread_seconds()
            self._left = clock()

    def stop(self) -> float:
        """Seconds since the start."""
        self._running = False
        return clock() - self._began

    def report(self) -> dict[str, Any]:
        if not self.stretches:
            return {"longest_ms": 0.0, "longest_cpu_ms": 0.0, "stretches": 0}
        ordered = sorted(self.stretches)
        return {
            "longest_ms": self.longest * 1e3,
            "longest_cpu_ms": self.longest_cpu * 1e3,
            "stretches": len(ordered),
            "p50_us": ordered[len(ordered) // 2] * 1e6,
            "p99_us": ordered[int(len(ordered) * 0.99)] * 1e6,
        }


class _Pauses:
    """What the interpreter's collector takes."""

    def __init__(self) -> None:
        self.count, self.longest, self._began = 0, 0.0, 0.0

    def __enter__(self) -> None:
        gc.callbacks.append(self._heard)

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._heard)

    def _heard(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = clock()
        else:
            self.count += 1
            self.longest = max(self.longest, clock() - self._began)


# A resolver with objects ----------------------------------------------------------------------------------


@asynccontextmanager
async def machine_service(world: World, policy: PingPolicy | None = None) -> AsyncIterator[MachineService]:
    """What `oxid serve` and `oxid agent` have for their machine."""
    pool = Connections(world, ClientOptions())
    agent = PingAgent(world, Pinger(pool).send)
    service = MachineService(world, policy or PingPolicy(), agent, caller=caller, security=tuple)
    try:
        yield service
    finally:
        await service.aclose()
        await agent.aclose()
        await pool.aclose()


async def _fill(service: MachineService, makers: list[Callable[[str], int]], objects: int) -> None:
    """Make objects, and let a client for each hundred of them take them into a set."""
    made = array("Q")  # no Python objects of ours: the memory is the resolver's alone
    for number in range(0, objects, MEMBERS):
        who = f"LAB\\user{number // MEMBERS}"
        make = makers[number // MEMBERS % len(makers)]
        made = array("Q", (make(who) for _ in range(min(MEMBERS, objects - number))))
        _ping(service, who, made)
        if number % STEP == 0 and number:
            say({"progress": f"{number} of {objects} objects"})
            await asyncio.sleep(0)


def _ping(service: MachineService, who: str, oids: Iterable[int]) -> None:
    address = f"192.0.2.{len(who)}"
    result = service.resolver.complex_ping(0, 1, list(oids), (), PingCaller(who, address), service.now())
    if result.status:
        raise RuntimeError(f"a ComplexPing was answered with {result.status}")
