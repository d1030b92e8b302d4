"""Q224837 with real processes and real signals: whoever dies, nobody pings for the dead. Scenarios B22 to B30

The host is in the test's own process, so that each ping is seen as it arrives; its clients are processes, and their
machine's agent is one that they start when they need it. Times have a slack for a busy machine: the exact bounds are
shown in invented time (`test_pings_end.py`).
"""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID

import pytest
from tests.support.client_process import ROOT, ClientFailed, ClientProcess
from tests.support.host import OxidHost
from tests.support.lifetimes import CLSID_PROBE, Probe
from tests.support.local_probe import APPID, CLSID_LOCAL, probe_command
from tests.support.pings import (
    agent_at,
    agent_pid,
    changes_are_in_order,
    end_process,
    eventually,
    is_gone,
    real_server,
)

from oxid.rpcss.class_registry import AppSettings, ClassRegistry, ClassSettings
from oxid.samples.calculator import CLSID_CALCULATOR

QUICK, STEADY = 0.4, 0.6
"""Periods: of a story that waits for ends, and of one in which something must live on a busy machine."""
SLACK = 5.0


class Scene:
    """A host in this process, a socket for the agent of the clients' machine, and what became of the pings."""

    def __init__(self, server, socket, period):
        self.server = server
        self.socket = socket
        self.period = period
        self.silence = 2.4 * period + SLACK
        self.gone = (3 + 1 + 1 / 12) * period + SLACK

    @asynccontextmanager
    async def client(self, user="alice", password="wonder"):
        made = partial(ClientProcess, user=user, password=password, agent=self.socket, period=self.period)
        process = await asyncio.to_thread(made, self.server.port)
        try:
            yield process
        finally:
            await asyncio.to_thread(process.__exit__, *sys.exc_info())

    async def holding(self, process, count=1, clsid=CLSID_PROBE):
        """Objects of a client, from the moment in which its machine's agent alone pings for them."""
        oids = await asyncio.to_thread(process.do, "activate", clsid=clsid, count=count)
        objects = self.server.host.resolver.tables
        while not await asyncio.to_thread(process.do, "handed_over"):
            await asyncio.sleep(0.02)
        await eventually(lambda: all(len(objects().objects.get(oid, ())) == 1 for oid in oids), self.gone)
        return oids

    def now(self):
        return self.server.world.clock.now()

    def last_words(self, oids, since):
        """The pings that took objects out of a set."""
        pings = self.server.pings_since(since)
        return [ping for ping in pings if set(oids) & set(ping.remove) and ping.status == 0]

    async def agent_ends(self, pid):
        """Nobody needs it: it says goodbye where that is owed, and goes. Then nobody is left who could ping."""
        await eventually(lambda: is_gone(pid), self.silence, "the agent ends")
        await eventually(lambda: agent_pid(self.socket) is None, SLACK)
        seen = len(self.server.pings)
        await eventually(lambda: self.server.at_rest, self.gone, "the host is at rest")
        assert len(self.server.pings) == seen
        assert {ping.who.principal for ping in self.server.pings} <= {"alice", "bob"}
        changes_are_in_order(self.server.pings)


def play(tmp_path, story, period=QUICK, **options):
    async def run():
        with agent_at(tmp_path / "agent") as socket:
            async with real_server(tmp_path / "state", period, **options) as server:
                await story(Scene(server, socket, period))
                assert Probe.alive() == 0

    asyncio.run(run())


async def do(process, what, **fields):
    return await asyncio.to_thread(process.do, what, **fields)


@pytest.mark.req("B22", "J7", "J8")
def test_a_killed_program_is_noticed_at_once_and_told_of_at_the_next_tick(tmp_path):
    async def story(scene):
        async with scene.client() as doomed, scene.client("bob", "builder") as other:
            mine = await scene.holding(doomed, count=3)
            (theirs,) = await scene.holding(other)
            agent = agent_pid(scene.socket)
            died = scene.now()
            doomed.kill()
            await eventually(lambda: scene.last_words(mine, died), scene.silence)
            (said,) = scene.last_words(mine, died)
            assert set(said.remove) == set(mine)
            await eventually(lambda: len(Probe.ends) == 3, scene.gone)
            assert await do(other, "call", oid=theirs) == "bob at 6"
            assert agent_pid(scene.socket) == agent
            other.kill()
            await scene.agent_ends(agent)

    play(tmp_path, story)


@pytest.mark.req("B24", "B21")
def test_an_agent_whose_client_and_whose_server_are_both_gone_comes_to_rest_and_ends(tmp_path):
    """The heart of the article: nobody is left, and somebody would ping for ever."""
    with agent_at(tmp_path / "agent") as socket:
        host = OxidHost(ping_period=QUICK)
        try:
            host.add_user("alice", "wonder")
            with ClientProcess(
                host.port, user="alice", password="wonder", agent=socket, period=QUICK
            ) as client:
                calculator = "oxid.samples.calculator:ICalculator"
                client.do("activate", clsid=str(CLSID_CALCULATOR), interface=calculator)

                async def told():
                    await eventually(lambda: client.do("handed_over"), 30)
                    await eventually(lambda: host.live().get("ping_set") == 1, 30)

                asyncio.run(told())
                agent = agent_pid(socket)
                client.kill()
                host.kill()
        finally:
            host.kill()
        asyncio.run(eventually(lambda: is_gone(agent), 2.4 * QUICK + SLACK, "the agent ends"))


@pytest.mark.req("B25", "PNG-2")
def test_a_killed_agent_is_followed_by_another_and_every_object_lives(tmp_path):
    async def story(scene):
        async with scene.client() as one, scene.client("bob", "builder") as two:
            mine = await scene.holding(one, count=2)
            theirs = await scene.holding(two)
            first = agent_pid(scene.socket)
            end_process(first)
            second = await eventually(
                lambda: (pid := agent_pid(scene.socket)) != first and pid, 20, "another agent is there"
            )
            await asyncio.sleep(3.5 * scene.period)  # what only the first one held would be gone by now
            assert Probe.alive() == 3
            for process, oids in ((one, mine), (two, theirs)):
                assert "the machine's agent" in await do(process, "pinged_by")
                for oid in oids:
                    await do(process, "call", oid=oid)
            assert agent_pid(scene.socket) == second
            await do(one, "release_all")
            await do(two, "release_all")
            assert Probe.alive() == 0
            await asyncio.to_thread(one.end)
            await asyncio.to_thread(two.end)
            await scene.agent_ends(second)

    play(tmp_path, story, STEADY)


@pytest.mark.req("B25", "B22", "dcom§6.3.bounds")
def test_an_agent_that_dies_with_its_client_takes_all_memory_of_it_along(tmp_path):
    async def story(scene):
        async with scene.client() as doomed:
            mine = await scene.holding(doomed, count=2)
            doomed.kill()
            end_process(agent_pid(scene.socket))
        died = scene.now()
        async with scene.client() as other:
            theirs = await scene.holding(other)
            await eventually(lambda: len(Probe.ends) == 2, scene.gone, "what the dead held is gone")
            later = scene.server.pings_since(died + 1.0)
            assert not any(set(mine) & {*ping.add, *ping.remove} for ping in later)
            assert set(scene.server.tables.objects) == set(theirs)
            agent = agent_pid(scene.socket)
        await scene.agent_ends(agent)

    play(tmp_path, story)


def local_class(log):
    """A registry with one class in a local server."""
    clsid, app = UUID(CLSID_LOCAL), UUID(APPID)
    return ClassRegistry(
        apps={app: AppSettings(app, command=tuple(probe_command(log)), name="probes")},
        classes={clsid: ClassSettings(clsid, app=app)},
    )


def servers_of(log):
    """Process ids of the local servers that were started."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith("started ")]


@pytest.mark.req("B27", "B23", "PNG-6")
@pytest.mark.parametrize("then", ["lives on", "is killed"])
def test_a_killed_server_is_pinged_no_more_whatever_its_client_does(tmp_path, then):
    log = tmp_path / "log"

    async def story(scene):
        async with scene.client() as client:
            mine = await scene.holding(client, count=3, clsid=CLSID_LOCAL)
            agent = agent_pid(scene.socket)
            await do(client, "call", oid=mine[0])
            died = scene.now()
            end_process(servers_of(log)[0])
            if then == "is killed":
                client.kill()
            if then == "lives on":
                while len(await do(client, "heard_of_the_end")) < 3:
                    await asyncio.sleep(0.05)
                    assert scene.now() - died < scene.silence
                await asyncio.sleep(2.4 * scene.period)
                seen = len(scene.server.pings)
                await asyncio.sleep(3 * scene.period)
                assert len(scene.server.pings) == seen
                with pytest.raises(ClientFailed, match=r"ObjectGone|ServerUnavailable"):
                    await do(client, "call", oid=mine[0])
                (again,) = await do(client, "activate", clsid=CLSID_LOCAL)
                assert await do(client, "call", oid=again) == "alice at 6"
                await do(client, "release_all")
                await asyncio.to_thread(client.end)
        about = [ping for ping in scene.server.pings_since(died) if set(mine) & {*ping.add, *ping.remove}]
        assert len(about) <= 2 * len(mine)  # at the most it is found out of each that it is gone
        assert all(ping.at - died <= scene.silence for ping in about)
        await scene.agent_ends(agent)
        await eventually(lambda: all(map(is_gone, servers_of(log))), SLACK)

    play(tmp_path, story, registry=local_class(log))


@pytest.mark.req("B28", "B22")
def test_a_stopped_program_is_pinged_for_until_it_is_killed(tmp_path):
    """Who hangs may go on: its machine's agent pings for it. A process that pings for itself would lose everything."""

    async def story(scene):
        async with scene.client() as client:
            (oid,) = await scene.holding(client)
            agent = agent_pid(scene.socket)
            client.kill(signal.SIGSTOP)
            stopped = scene.now()
            await asyncio.sleep(3.5 * scene.period)
            assert Probe.alive() == 1
            assert 2 <= len(scene.server.pings_since(stopped)) <= 5
            client.kill(signal.SIGCONT)
            assert await do(client, "call", oid=oid) == "alice at 6"
            client.kill(signal.SIGSTOP)
            died = scene.now()
            client.kill(signal.SIGKILL)
            await eventually(lambda: scene.last_words([oid], died), scene.silence)
            await scene.agent_ends(agent)

    play(tmp_path, story, STEADY)


@pytest.mark.req("B29", "B22")
@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_a_child_that_lives_on_holds_nothing_of_its_parent(tmp_path, how):
    """A fork has its parent's descriptors, and that must not look as if the parent lived."""

    async def story(scene):
        async with scene.client() as client:
            (oid,) = await scene.holding(client)
            agent = agent_pid(scene.socket)
            child = await do(client, "fork_and_leave")
            died = scene.now()
            try:
                if how == "ends":
                    await asyncio.to_thread(client.end)
                else:
                    client.kill()
                await eventually(lambda: scene.last_words([oid], died), scene.silence, "the set ends")
                await scene.agent_ends(agent)
                assert not is_gone(child)
            finally:
                end_process(child)
        await eventually(lambda: scene.server.at_rest, scene.gone)

    play(tmp_path, story)


@pytest.mark.req("B29")
def test_a_child_that_uses_what_it_inherited_is_told_that_it_cannot(tmp_path):
    """And its parent's connections do not notice."""

    async def story(scene):
        async with scene.client() as client:
            (oid,) = await scene.holding(client)
            agent = agent_pid(scene.socket)
            said = await do(client, "use_in_a_child", oid=oid)
            for _ in range(3):
                assert await do(client, "call", oid=oid) == "alice at 6"
            servers = (scene.server.host.rpc_server, scene.server.host.object_server)
            assert [each.core.protocol_errors for each in servers] == [0, 0]
            assert Probe.alive() == 1
            for what in ("call", "activate"):
                assert said[what].startswith("OxidError: "), said
                assert "fork" in said[what], said
            assert said["release"] == "worked: None"  # as where a server cannot be told
            await do(client, "release_all")
            await asyncio.to_thread(client.end)
            await scene.agent_ends(agent)

    play(tmp_path, story)


FORGETFUL = """
import asyncio, os, sys
sys.path.insert(0, os.environ["OXID_TEST_ROOT"])
import oxid
from tests.support.lifetimes import CLSID_PROBE, IProbe

async def begin():
    global machine, cell
    machine = await manager.__aenter__()
    cell = [await machine.activate(CLSID_PROBE, IProbe)]
    cell.append(cell)
    agent = machine.lifelines.agent
    while agent._channel is None or agent._held_here or not agent._own.idle:
        await asyncio.sleep(0.02)
    print(cell[0].oid, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

options = oxid.ClientOptions.from_environment()
options = __import__("dataclasses").replace(options, port=int(sys.argv[1]))
manager = oxid.connect("127.0.0.1", oxid.Password("alice", "wonder"), options=options)
loop = asyncio.new_event_loop()
loop.run_until_complete(begin())
"""


@pytest.mark.req("B30")
@pytest.mark.parametrize("how", ["its block ends", "os._exit"])
def test_proxies_leaked_in_a_cycle_end_with_their_program(tmp_path, how):
    async def story(scene):
        async with scene.client() as client:
            mine = await scene.holding(client, count=2)
            agent = agent_pid(scene.socket)
            await do(client, "leak", cycle=True)
            died = scene.now()
            if how == "its block ends":
                await asyncio.to_thread(client.end)
                assert Probe.alive() == 0  # a block knows what was leaked in it
            else:
                client.tell("exit_at_once")
                assert await asyncio.to_thread(client.process.wait, 10) == 7
            await eventually(lambda: scene.last_words(mine, died), scene.silence)
            await scene.agent_ends(agent)

    play(tmp_path, story)


@pytest.mark.req("B30")
def test_a_program_that_never_ends_its_block_leaves_it_to_the_end_of_the_interpreter(tmp_path):
    """No block, no loop that is closed, a proxy in a cycle of a module: `__del__` has nobody to talk to."""

    async def story(scene):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OXID_")}
        environment = {
            **kept,
            "OXID_AGENT_SOCKET": str(scene.socket),
            "OXID_AGENT": "machine",
            "OXID_PING_PERIOD": f"{scene.period:g}",
            "OXID_TEST_ROOT": str(ROOT),
        }
        command = [sys.executable, "-P", "-c", FORGETFUL, str(scene.server.port)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        start = partial(
            subprocess.Popen, command, text=True, env=environment, start_new_session=True, **pipes
        )
        process = await asyncio.to_thread(start)
        try:
            oid = int(await asyncio.to_thread(process.stdout.readline))
            agent = agent_pid(scene.socket)
            died = scene.now()
            _, said = await asyncio.to_thread(process.communicate, "end\n", 20)
            assert process.returncode == 0, said
            assert "Traceback" not in said
            await eventually(lambda: scene.last_words([oid], died), scene.silence)
            await scene.agent_ends(agent)
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)

    play(tmp_path, story)
