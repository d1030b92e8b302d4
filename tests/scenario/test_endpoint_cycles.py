"""Q292041, the headline: a static endpoint's registration survives any number of lives that race the collector.

The machine service, its sessions, the resolver, the mapper and the exporters' tables are the product's own; time is
moved by hand, and the processes say over a wire without a socket what processes say. See `test_static_endpoints` for
the same with processes.
"""

import asyncio
import gc
import logging
import sys
from collections import Counter, deque
from pathlib import Path
from random import Random
from uuid import UUID

import pytest
from tests.support.lifetimes import P, S, T
from tests.support.loop_servers import pass_time

import oxid
from oxid.com.local_messages import VERSION
from oxid.com.ping_agent import PingAgent
from oxid.com.reference_table import ReferenceTable
from oxid.errors import TransportError
from oxid.interfaces.remote_unknown import IRemUnknown
from oxid.interfaces.unknown import IUnknown
from oxid.rpc.interface import spec_of
from oxid.rpcss import oid_table, ping_sets, session
from oxid.rpcss.class_registry import AppSettings, EndpointSetting
from oxid.rpcss.machine_service import MachineService
from oxid.rpcss.oid_table import PingPolicy
from oxid.rpcss.ping_sets import PingCaller
from oxid.rpcss.session import Session
from oxid.runtime.local_channel import Peer

APP = UUID("5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6d00")
CLSID = UUID("5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6d01")
PORT = 5020
UNKNOWN, REMOTE_UNKNOWN = spec_of(IUnknown), spec_of(IRemUnknown)
PIDS = 40
"""Process ids come again, as they do on a machine."""


class Clock:
    def __init__(self):
        self.ahead = 0.0

    def now(self):
        return self.ahead

    def utc(self):
        return 1_700_000_000.0 + self.ahead


class Seeded:
    """Entropy that comes again."""

    def __init__(self, random):
        self.token = random.randbytes


class Wire:
    """A session's channel: what its process says is taken at once, what it is asked takes some turns."""

    def __init__(self, process, pid):
        self.process, self.peer, self.handlers, self.lost, self.turns = process, Peer(pid, 0, 0), {}, False, 0

    def tell(self, what, **fields):
        raise AssertionError(f"nobody tells an exporter {what}")

    def cut(self):
        self.lost = True

    async def aclose(self):
        self.lost = True

    async def ask(self, what, **fields):
        assert what == "reclaim"
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if self.lost:
            raise TransportError("the other process is gone")
        return {"verdicts": self.process.reclaim(**fields)}


class Machine:
    """A machine's service, and what its processes have bound."""

    def __init__(self, seed):
        self.random = Random(seed)
        self.clock = Clock()
        self.world = oxid.World(self.clock, Seeded(self.random))

        async def send(places, identity, ping):
            raise TransportError("nothing is held elsewhere")

        self.agent = PingAgent(self.world, send)
        self.service = MachineService(
            self.world, PingPolicy(), self.agent, caller=lambda: None, security=lambda: ()
        )
        self.bound = {}
        """Port -> the process that listens there."""
        self.app = AppSettings(APP, endpoints=(EndpointSetting("ncacn_ip_tcp", 0, str(PORT)),))
        self.destroyed = Counter()
        self.dead = deque(maxlen=5)
        self.started = 0

    def ping(self, set_id, sequence, add, remove, caller):
        """What the resolver's ComplexPing does."""
        result = self.service.resolver.complex_ping(set_id, sequence, add, remove, caller, self.clock.now())
        self.service.reclaimer.watch()
        return result

    async def turns(self, most=3):
        for _ in range(self.random.randrange(most + 1)):
            await asyncio.sleep(0)

    async def settle(self):
        for _ in range(12):
            await asyncio.sleep(0)

    def rows(self):
        return [lease for lease in self.service.mapper._leases.values() if not lease.closed]

    def check(self):
        """I1 to I6, of everything that is there now."""
        service, resolver, ledger = self.service, self.service.resolver, self.world.ledger
        rows = self.rows()
        for lease in rows:
            assert lease.owner in service.sessions, f"I1: {lease} has no living owner"
        assert sorted(int(lease.registration.endpoint) for lease in rows) == sorted(self.bound), "I2"
        assert ledger.endpoint.live == len(rows) == len(service.mapper), "I3"
        assert service.mapper._generation == ledger.endpoint.total, "I3"
        assert self.app == AppSettings(APP, endpoints=(EndpointSetting("ncacn_ip_tcp", 0, str(PORT)),)), "I4"
        present = set(resolver.tables().exporters)
        assert present == {found for s in service.sessions for found in s._oxids}, "I5"
        oids = resolver._oids
        used = set(oids._slots.values())
        assert len(used) == len(oids._slots), "I6"
        assert used.isdisjoint(oids._free), "I6"
        assert len(used) + len(set(oids._free)) == len(oids._oid), "I6"
        assert len(set(oids._free)) == len(oids._free), "I6: a slot is free twice"
        reserved = {oid for mine in resolver._reserves.values() for oid in mine}
        assert reserved == set(resolver._reserved), "I6"
        assert reserved.isdisjoint(oids._slots), "I6"
        assert all(times == 1 for times in self.destroyed.values())


class Process:
    """An exporter: registers itself, its endpoint and its class, as a local server does."""

    def __init__(self, machine):
        self.machine = machine
        machine.started += 1
        self.pid = 1000 + machine.started % PIDS
        self.wire = Wire(self, self.pid)
        self.session = Session(machine.service, self.wire)
        assert machine.service.admits(self.wire.peer, self.session)
        link = f"link {machine.started}"
        self.session.handlers()["hello"](version=VERSION, period=P, program="exporter", launch="", link=link)
        self.table = ReferenceTable(
            machine.world,
            self.new_oid,
            lambda cls, spec: (),
            lambda exported, why: self.dropped(exported, why),
        )
        answer = self.say("export", oxid=0, name="")
        self.oxid, self.spare = answer["oxid"], answer["oids"]
        self.wire.turns = machine.random.randrange(4)

    def say(self, what, **fields):
        return self.wire.handlers[what](**fields)

    def listen(self):
        """Bind, and tell the endpoint mapper; then offer the class."""
        assert PORT not in self.machine.bound, "two processes on one port"
        self.machine.bound[PORT] = self
        self.row = self.enter_row()
        self.cookie = self.say("register", clsid=str(CLSID), suspended=True)["cookie"]
        self.say("suspend", suspended=False)

    def enter_row(self):
        return self.say(
            "endpoint",
            interface=str(REMOTE_UNKNOWN.uuid),
            version=REMOTE_UNKNOWN.version,
            protseq="ncacn_ip_tcp",
            endpoint=str(PORT),
            object=str(APP),
            static=True,
        )["number"]

    def new_oid(self, noping=False):
        oid = self.spare.pop()
        self.say("objects", oxid=self.oxid, new=[[oid, noping]])
        return oid

    def export(self):
        """Make an object, and give a reference away."""
        self.exported = self.table.export(object())
        self.pointer = self.table.pointer(self.exported, UNKNOWN)
        self.table.add_refs(self.pointer, 5)
        self.exported.last_call = self.machine.clock.now()
        self.say("objects", oxid=self.oxid, out=[self.exported.oid])
        return self.exported.oid

    @property
    def holds(self):
        """Whether the object lives."""
        return self.table.object(self.exported.oid) is self.exported

    def dropped(self, exported, why):
        self.machine.destroyed[exported.oid] += 1
        if not self.wire.lost:
            self.say("objects", oxid=self.oxid, gone=[[exported.oid, why, []]])

    def reclaim(self, oxid, oids, until):
        now = self.machine.clock.now()
        if now > until:
            return ["busy"] * len(oids)
        verdicts = self.table.reclaim(oids, now, P)
        return [verdicts[oid].value for oid in oids]

    def end(self, *, politely):
        """The process is gone: the kernel closes what it had. Politely, it has said so before."""
        if politely and self.machine.random.random() < 0.5:
            self.say("suspend", suspended=True)
            if self.machine.random.random() < 0.5:
                self.say("revoke", cookie=self.cookie)
                self.say("close_endpoint", number=self.row)
            self.say("withdraw", oxid=self.oxid)
        del self.machine.bound[PORT]
        self.wire.lost = True
        self.table.clear("the process ended")
        self.session.run_down()
        self.machine.dead.append(self)

    def haunt(self):
        """What it had said twice, or too late, arrives after all; the end of what has ended."""
        self.session.run_down()
        if self.machine.random.random() < 0.5:
            assert self.say("close_endpoint", number=self.row) == {"closed": False}
        assert self.machine.service.classes.revoke(self.cookie, self.session) is None


async def one_life(machine, kept):
    """A process comes, serves one object to one client, and goes; the collector is never far."""
    random, service, clock = machine.random, machine.service, machine.clock
    resolver = service.resolver
    process = Process(machine)
    await machine.turns()
    process.listen()
    if random.random() < 0.1:
        assert process.enter_row() == process.row  # told twice
    if machine.dead and random.random() < 0.3:
        random.choice(machine.dead).haunt()
    assert service.classes.take(CLSID) is process.session
    oid = process.export()
    caller = PingCaller(random.choice(("anna", "boris", None)), "10.0.0.1")
    set_id, sequence = 0, 1
    if random.random() < 0.6:
        set_id = machine.ping(0, sequence, [oid], [], caller).set_id
        for _ in range(random.randrange(4)):
            pass_time(service, clock, P)
            assert resolver.simple_ping(set_id, caller, clock.now()) == 0
            await machine.turns(1)
            assert process.holds, "the client lives"
    how = random.choice(("released", "collected", "crashes", "crashes when asked", "asked and pinged"))
    if how == "released":
        process.table.release_refs(process.pointer, 5)
        assert not process.holds
        if set_id:
            machine.ping(set_id, sequence + 1, [], [oid], caller)
    elif how != "crashes":
        asked = False
        while not asked:
            asked = pass_time(service, clock, T + P + S, until_asked=True)
        if how == "crashes when asked":
            await machine.turns(2)
        elif how == "asked and pinged":
            if random.random() < 0.5 and process.holds:
                process.exported.last_call = clock.now()  # a call comes before the question
            await machine.turns(2)
            late = machine.ping(0, 1, [oid], [], caller)
            await service.reclaimer.decided(late.undecided)
            await machine.settle()
            resolver.add_decided(late.set_id, late.undecided, clock.now())
            state = resolver.state_of(oid) or {"ping_sets": ()}
            # The ping came before the verdict or behind it: the object and its entry agree about that.
            assert process.holds == (late.set_id in state["ping_sets"])
            kept[process.holds] += 1
        else:
            await machine.settle()
            assert not process.holds
    process.end(politely=how not in ("crashes", "crashes when asked"))
    await machine.turns()
    assert not process.holds
    assert machine.destroyed.pop(oid) == 1, "destroyed once"
    assert service.classes.take(CLSID) is None
    return how


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.req("A1", "A2", "A3", "A9", "I1", "I2", "I3", "I4", "I5", "I6")
def test_a_static_endpoint_outlives_ten_thousand_servers_and_the_collector_leaves_no_trace(
    monkeypatch, caplog, long_form
):
    """`--long`: a hundred thousand. What is remembered of the dead on purpose is bounded; here to little."""
    caplog.set_level(logging.ERROR, "oxid")  # what is captured is memory, too
    monkeypatch.setattr(session, "RESERVE", 4)
    monkeypatch.setattr(oid_table, "MAX_REMEMBERED", 200)
    monkeypatch.setattr(ping_sets, "MAX_REMEMBERED_SETS", 100)
    cycles = 100_000 if long_form else 10_000
    seen, kept, blocks, memory = Counter(), Counter(), [], []

    async def run():
        machine = Machine(292041)
        for number in range(1, cycles + 1):
            seen[await one_life(machine, kept)] += 1
            if number % 100 == 0:
                await machine.settle()
                machine.check()
            if number % (cycles // 10) == 0:
                pass_time(machine.service, machine.clock, 10 * T)  # what rests for a while is forgotten
                gc.collect()
                blocks.append(sys.getallocatedblocks())
                memory.append(resident())
        await machine.settle()
        pass_time(machine.service, machine.clock, 10 * T)
        machine.check()
        service = machine.service
        assert (len(service.mapper), len(service.classes), len(service.sessions)) == (0, 0, 0)
        service.resolver.expire(machine.clock.now())  # sets of nothing, which wake nobody by themselves
        statistics = service.resolver.statistics()
        assert (statistics["exporters"], statistics["oids"], statistics["sets"]) == (0, 0, 0)
        assert service.mapper._generation == cycles  # every life had one row, and no more
        await service.aclose()
        await machine.agent.aclose()
        live = {kind: count for kind, count in machine.world.ledger.live().items() if count}
        assert live == {}

    asyncio.run(run())
    assert len(seen) == 5
    assert len(kept) == 2, "pings came before verdicts, and behind them"
    assert not caplog.records
    warm = blocks[1:]  # the first tenth fills what is remembered
    slope = (warm[-1] - warm[0]) / (cycles * 0.8)
    assert slope < 0.01, f"{slope:.4f} blocks of memory for each life: {warm}"
    assert memory[-1] <= memory[1] + (1 << 20), memory
