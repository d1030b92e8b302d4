"""`kill -9` of client, agent, local server and resolver at twenty points each: bounds hold, counts come to rest.

The points are spread over what the victims, or their clients, do at the time: activate, call, query, hold over several
periods, release, and again. Everything else lives on as if nothing had happened: whoever is not killed meets a clean
error at the most, works again afterwards, and keeps what it holds.
"""

import asyncio
import sys
import time
from contextlib import ExitStack, aclosing, asynccontextmanager
from functools import partial

import pytest
from tests.support.client_process import ClientProcess
from tests.support.host import OxidHost
from tests.support.lifetimes import CLSID_PROBE, Probe
from tests.support.local_probe import APPID, CLSID_LOCAL, probe_command
from tests.support.pings import (
    RevivedHost,
    ShortWire,
    agent_at,
    agent_pid,
    changes_are_in_order,
    end_process,
    ended_at_last,
    eventually,
    is_gone,
    real_server,
    wait_until,
)

from oxid.samples.calculator import CLSID_CALCULATOR

PERIOD = 0.4
STEADY = 0.8
"""The period where what is held must live on a busy machine."""
SLACK = 8.0
"""On top of every bound, for a busy machine; the bounds themselves are shown in invented time."""
GONE = (3 + 1 + 1 / 12) * PERIOD + SLACK
HOLD = 2.5 * PERIOD
POINTS = (*(0.004 * n for n in range(10)), *(0.06 + 0.27 * PERIOD * n for n in range(10)))
"""Seconds into a life: ten while it begins, ten in the course of four periods, the first of which is held."""
CALCULATOR = {"clsid": str(CLSID_CALCULATOR), "interface": "oxid.samples.calculator:ICalculator"}


async def do(process, what, **fields):
    return await asyncio.to_thread(process.do, what, **fields)


@asynccontextmanager
async def client(port, agent, period=PERIOD, **who):
    process = await asyncio.to_thread(partial(ClientProcess, port, agent=agent, period=period, **who))
    try:
        yield process
    finally:
        await asyncio.to_thread(process.__exit__, *sys.exc_info())


ALICE = {"user": "alice", "password": "wonder"}
BOB = {"user": "bob", "password": "builder"}


def met_nothing_bad(life, cycles=1):
    assert life["faults"] == []
    assert life["cycles"] >= cycles, life


@pytest.mark.req("B22", "J4", "J6", "J7", "dcom§6.3.bounds")
def test_clients_that_are_killed_at_twenty_points_leave_nothing_and_harm_nobody(tmp_path):
    async def killed_at(server, agent, point, seats):
        async with seats, client(server.port, agent, **ALICE) as victim:
            await do(victim, "live", clsid=CLSID_PROBE, hold=HOLD)
            await asyncio.sleep(point)
            victim.kill()

    async def run():
        with agent_at(tmp_path / "agent") as agent:
            async with real_server(tmp_path / "state", PERIOD) as server:
                async with client(server.port, agent, **BOB) as witness:
                    mine = await do(witness, "activate", clsid=CLSID_PROBE, count=3)
                    await do(witness, "live", clsid=CLSID_PROBE, hold=0.05)
                    seats = asyncio.Semaphore(5)
                    await asyncio.gather(*(killed_at(server, agent, point, seats) for point in POINTS))
                    life = await do(witness, "lived")
                    met_nothing_bad(life, cycles=10)
                    assert life["troubles"] == {}
                    last = server.world.clock.now()
                    await eventually(lambda: set(server.tables.objects) == set(mine), GONE)
                    assert Probe.alive() == 3
                    for oid in mine:
                        assert await do(witness, "call", oid=oid) == "bob at 6"
                    served_by = agent_pid(agent)
                await eventually(lambda: is_gone(served_by), 2.4 * PERIOD + SLACK)
                await eventually(lambda: server.at_rest, GONE)
                assert Probe.alive() == 0
                changes_are_in_order(server.pings)
                late = server.pings_since(last + 2.4 * PERIOD + SLACK)
                assert {ping.who.principal for ping in late} <= {"bob"}

    asyncio.run(run())


@pytest.mark.req("B25", "PNG-2", "J5", "J6")
def test_agents_that_are_killed_at_twenty_points_cost_nobody_anything(tmp_path):
    """Two machines, each of which loses ten agents in a row while its two clients live."""
    killed = []

    async def machine(server, name, points):
        with agent_at(tmp_path / name) as socket:
            async with (
                client(server.port, socket, STEADY, **ALICE) as one,
                client(server.port, socket, STEADY, **BOB) as two,
            ):
                held = {}
                for process in (one, two):
                    held[process] = await do(process, "activate", clsid=CLSID_PROBE, count=2)
                    await do(process, "live", clsid=CLSID_PROBE, hold=0.3 * STEADY)
                for point in points:
                    victim = await eventually(
                        lambda: (pid := agent_pid(socket)) not in (None, *killed) and pid, 30
                    )
                    await asyncio.sleep(point)
                    killed.append(victim)
                    end_process(victim)
                await eventually(lambda: agent_pid(socket) not in (None, *killed), 30)
                for process, oids in held.items():
                    life = await do(process, "lived")
                    met_nothing_bad(life, cycles=5)
                    assert life["troubles"] == {}
                    assert await do(process, "heard_of_the_end") == []
                    for oid in oids:
                        await do(process, "call", oid=oid)
                last = agent_pid(socket)
            await eventually(lambda: is_gone(last), 2.4 * STEADY + SLACK)

    async def run():
        points = [0.05 * STEADY * n for n in range(20)]
        async with real_server(tmp_path / "state", STEADY) as server:
            await asyncio.gather(
                machine(server, "one", points[0::2]),
                machine(server, "two", points[1::2]),
            )
            await eventually(lambda: server.at_rest, (3 + 1 + 1 / 12) * STEADY + SLACK)
            assert Probe.alive() == 0
            assert len(killed) == 20
            assert all(map(is_gone, killed))
            changes_are_in_order(server.pings)

    asyncio.run(run())


SERVER_POINTS = (
    *(("started", 0.1 * n) for n in range(3)),  # while it starts: then its clients wait for a second
    *(("made", 0.025 * n) for n in range(17)),  # from its first object on
)


def written(log, what):
    """The local servers that have written this into their log: process ids, each once."""
    lines = log.read_text().splitlines() if log.exists() else []
    return list(dict.fromkeys(int(line.split()[1]) for line in lines if line.startswith(what)))


@pytest.mark.req("B27", "J4", "ACT-6", "ACT-7")
def test_local_servers_that_are_killed_at_twenty_points_are_replaced_at_the_next_activation(tmp_path):
    """Three clients live on one local server, and hold something of the host itself besides."""
    log = tmp_path / "log"
    with (
        agent_at(tmp_path / "agent") as agent,
        ended_at_last(lambda: written(log, "started"), "local_probe"),
        OxidHost(ping_period=PERIOD) as host,
        ExitStack() as stack,
    ):
        register = ("class", "register", CLSID_LOCAL, "--app", APPID, "--state", str(host.state))
        done = host.run(*register, "--command", " ".join(probe_command(log)))
        assert done.returncode == 0, done.stderr
        clients = [
            stack.enter_context(ClientProcess(host.port, agent=agent, period=PERIOD)) for _ in range(3)
        ]
        mine = [each.do("activate", **CALCULATOR)[0] for each in clients]
        for number, each in enumerate(clients):
            each.do("live", clsid=CLSID_LOCAL, hold=0.05 + 0.1 * number)
        killed = []
        for what, later in SERVER_POINTS:
            victim = wait_until(
                lambda what=what: [pid for pid in written(log, what) if pid not in killed], 30
            )[0]
            time.sleep(later)  # where in its life it is met is the point
            killed.append(victim)
            end_process(victim)
        for each in clients:
            goes_on(each)
        for each, oid in zip(clients, mine, strict=True):
            life = each.do("lived")
            met_nothing_bad(life)
            clean = ("ObjectGone", "ServerUnavailable", "TransportError", "StatusError")
            assert all(text.startswith(clean) for text in life["troubles"]), life
            assert each.do("call", oid=oid, method="add", arguments=(2, 3)) == 5
            each.end()
        host.wait_for_rest(GONE)
        wait_until(lambda: all(map(is_gone, written(log, "started"))), SLACK)
        wait_until(lambda: agent_pid(agent) is None, SLACK)


def goes_on(process):
    """Wait until a life has come around once more."""
    cycles = process.do("lived", end=False)["cycles"]
    wait_until(lambda: process.do("lived", end=False)["cycles"] > cycles + 1, 30, "life goes on")


@pytest.mark.req("B57", "J5", "PNG-5")
@pytest.mark.parametrize("ticks", [0, 1, 2])
def test_a_resolver_that_has_just_started_calls_nothing_dead_that_it_may_yet_hear_of(ticks):
    """Pings arrive before the exporters that have survived: nobody may conclude that their objects are gone."""

    async def run():
        async with aclosing(ShortWire(3)) as wire:
            found_dead = []
            wire.agent.listeners.add(lambda target, oids: found_dead.extend(oids))
            for oid in wire.oids:
                wire.hold(oid)
            await wire.agent.tick()
            wire.another_resolver()
            for _ in range(ticks):
                await wire.agent.tick()
            wire.exporter_asserts()
            await wire.agent.tick()
            assert found_dead == []
            assert wire.known == set(wire.oids)
            for oid in wire.oids:
                wire.let_go(oid)
            await wire.agent.tick()
            assert wire.known == set()
            assert wire.agent.idle

    asyncio.run(run())


@pytest.mark.req("B57", "B24", "J4", "ACT-7")
def test_resolvers_that_are_killed_in_the_middle_of_everything_come_back_to_what_there_was(
    tmp_path, long_form
):
    """Twenty points in the long form, four of them in the suite: each costs the start of a host."""
    period = 1.5  # its local servers and its clients must hold out on a busy machine until it is back
    points = [0.003 * n * n for n in range(20)] if long_form else [0.0, 0.05, 0.3, 0.9]
    with (
        agent_at(tmp_path / "agent") as agent,
        RevivedHost(ping_period=period, options=["--isolate"]) as host,
        ended_at_last(host.local_servers, "surrogate"),
        ExitStack() as stack,
    ):
        clients = [
            stack.enter_context(ClientProcess(host.port, agent=agent, period=period)) for _ in range(2)
        ]
        mine = [each.do("activate", count=2, **CALCULATOR) for each in clients]
        servers = host.local_servers()
        assert servers
        for each in clients:
            each.do("live", hold=0.1 * period, call="add", arguments=(2, 3), **CALCULATOR)
        for point in points:
            time.sleep(point)  # where in the period it is met is the point
            host.kill_resolver()
            for each, oids in zip(clients, mine, strict=True):
                # Nobody else is needed for a call.
                assert each.do("call", oid=oids[0], method="add", arguments=(2, 3)) == 5
            host.again()
            for each in clients:
                goes_on(each)
        wait_until(lambda: host.live().get("pinged_oid", 0) >= 4, period + SLACK, "the sets are there again")
        assert not any(map(is_gone, servers))
        for each, oids in zip(clients, mine, strict=True):
            life = each.do("lived")
            met_nothing_bad(life, cycles=len(points))
            assert each.do("heard_of_the_end") == []
            for oid in oids:
                assert each.do("call", oid=oid, method="add", arguments=(2, 3)) == 5
            each.end()
        wait_until(lambda: agent_pid(agent) is None, 2.4 * period + SLACK)
        host.wait_for_rest(5 * period + SLACK)
        wait_until(lambda: all(map(is_gone, host.local_servers())), SLACK)
