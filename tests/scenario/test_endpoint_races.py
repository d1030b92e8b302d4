"""Q292041: activations, ends, crashes and the collector in every order, with the real launcher. A5, A9, A10, A12"""

import asyncio
import os
from itertools import permutations

import pytest
from tests.support.endpoints import free_port, listening, static
from tests.support.interleavings import Choice, explore, merges
from tests.support.lifetimes import P, S, T
from tests.support.loop_servers import APP, FIRST, First, scene

from oxid.com.local_messages import VERSION
from oxid.interfaces.remote_unknown import IRemUnknown
from oxid.rpc.interface import spec_of
from oxid.runtime.local_channel import dial

FOREVER = 1e6


class Race:
    """One play: a server with its last object, and somebody who activates its class just now."""

    def __init__(self, stage, choice, port):
        self.stage, self.choice, self.port = stage, choice, port
        self.crashes = self.survivor = False
        self.released = self.swept = self.crashed = False
        self.activation = None

    async def play(self, *, survivor=False, crashes=False):
        """`survivor`: the server is one that outlived its host; `crashes`: it may end by itself at any moment."""
        stage = self.stage
        begun = asyncio.create_task(stage.activate())
        self.first = await stage.next_server(gated=True, idle_s=FOREVER)
        self.held = await begun
        self.crashes, self.survivor = crashes, survivor
        if survivor:
            await stage.crash_host()
            await stage.start_host()
            self.first.may_attach.set()
            await stage.until(lambda: self.first.serving)
        self.made = First.made
        await stage.settle()
        self.first.gate()
        await self.run()
        held = await self.activation
        if self.crashed and held.server is self.first:  # it was served, and then its server died
            self.activate()
            await self.run()
            held = await self.activation
        assert held.alive
        stage.check_serving(self.port)
        held.release()
        await self.run()
        for server in stage.servers:
            if server is not self.first:
                server.decide()
                await server.gone()
        stage.servers.clear()
        self.collected = self.swept and not self.released and not self.crashed
        stage.check_gone(self.port)

    async def run(self):
        await self.stage.settle()
        while events := self.possible():
            done = events[self.choice.of(list(events))]()
            if asyncio.iscoroutine(done):
                await done
            await self.stage.settle()
            self.check()

    def possible(self):
        """What may happen next, and how. What comes first is what happens when nobody chooses."""
        stage, first = self.stage, self.first
        known = {server.pid for server in stage.servers}
        fresh = [s for s in stage.host.launcher._servers if s.child is not None and s.child.pid not in known]
        lives = not first.task.done()
        held = lives and self.held.alive
        events = {
            "to host": (first.to_host, lambda: first.to_host.popleft()()),
            "to server": (lives and first.to_server, lambda: first.to_server.popleft()()),
            "start": (fresh, self.start),
            "activate": (self.activation is None, self.activate),
            "decide": (lives and first.local._idle is not None, first.decide),
            "close": (first.closing and not first.may_close.is_set(), self.close),
            "exit": (first.task.done() and not first.exited, first.exit),
            "release": (held, self.release),
            "sweep": (held and not self.swept and First.made == self.made, self.sweep),
            "crash": (self.crashes and lives, self.crash),
        }
        return {name: act for name, (may, act) in events.items() if may}

    def activate(self):
        self.activation = asyncio.create_task(self.stage.activate())

    def release(self):
        self.released = True
        self.held.release()

    def sweep(self):
        """The client has been silent for too long; the collector looks now."""
        self.swept = True
        self.stage.pass_time(T + P + S, until_asked=True)

    async def close(self):
        self.first.may_close.set()
        await self.first.task

    async def start(self):
        server = await self.stage.next_server(idle_s=FOREVER)
        await self.stage.until(lambda: server.serving or server.task.done())
        if server.task.done():
            await server.exit()  # it could not serve

    async def crash(self):
        self.crashed = True
        await self.first.die()

    def check(self):
        """Never two rows; never a class on offer without a row."""
        self.stage.check()
        rows = self.stage.leases()
        assert len(rows) <= 1
        if self.stage.host.service.classes.offers(FIRST):
            (row,) = rows
            assert row.owner is self.stage.host.service.classes.take(FIRST)


def played(tmp_path, depth, **how):
    """Play every race whose first choices differ; how many there are, and in how many the collector came first."""

    async def run():
        port, collected = free_port(), []
        async with scene(tmp_path, [static(port)]) as stage:

            async def one(choice: Choice) -> None:
                race = Race(stage, choice, port)
                await race.play(**how)
                collected.append(race.collected)

            return await explore(one, depth), sum(collected)

    return asyncio.run(run())


@pytest.mark.req("A5", "I1", "I2", "I3", "I5")
def test_in_every_order_an_activation_meets_one_server_with_one_row_whatever_ends_meanwhile(
    tmp_path, long_form
):
    plays, collected = played(tmp_path, 6 if long_form else 5)
    assert plays > 100
    assert collected > 20


@pytest.mark.req("A3", "A5", "I1", "I3", "I5")
def test_in_every_order_an_activation_survives_the_crash_of_the_server_that_it_meets(tmp_path, long_form):
    plays, _ = played(tmp_path, 5 if long_form else 3, crashes=True)
    assert plays > 20


@pytest.mark.req("A5", "A12", "I1", "I5")
def test_in_every_order_an_activation_meets_a_server_that_outlived_its_host_and_ends(tmp_path, long_form):
    plays, collected = played(tmp_path, 5 if long_form else 3, survivor=True)
    assert plays > 15
    assert collected


@pytest.mark.req("A12", "A5")
def test_an_activation_that_comes_before_the_survivors_of_a_crash_is_served_by_them(tmp_path):
    """The new host knows of no server yet and starts one, which finds the port taken: nobody hears of that."""

    async def run():
        port = free_port()
        async with scene(tmp_path, [static(port)]) as stage:
            begun = asyncio.create_task(stage.activate())
            survivor = await stage.next_server(idle_s=FOREVER)
            held = await begun
            await stage.crash_host()
            (socket_before,) = listening(port)
            await stage.start_host()
            early = asyncio.create_task(stage.activate())
            pid, token = await stage.new_process()
            survivor.may_attach.set()
            await stage.until(lambda: survivor.serving)
            late = stage.server(pid, token)
            await stage.until(late.task.done)
            assert str(port) in str(late.failure)
            await late.exit()
            again = await early
            assert again.server is survivor
            assert again.alive
            assert held.alive
            assert listening(port) == [socket_before]
            stage.check_serving(port)
            again.release()
            held.release()
            survivor.decide()
            await survivor.gone()
            stage.check_gone(port)

    asyncio.run(run())


# -- messages on the local channel --------------------------------------------------------------------------


class Talker:
    """A process that says what it is told over the real local channel, and an oracle of what then holds."""

    def __init__(self, channel, port):
        self.channel, self.port = channel, port
        self.row, self.numbers = None, 0
        self.cookies, self.given = set(), {}

    @classmethod
    async def dial(cls, stage, port, link):
        channel = await dial(stage.host.options.local_channel, {}, lambda: None, of_user=os.getuid())
        await channel.ask("hello", version=VERSION, period=P, program="talker", launch="", link=link)
        return cls(channel, port)

    async def say(self, word):
        """`row`: register the endpoint; `end 2`: close what the second registration gave; and so with classes."""
        what, _, number = word.partition(" ")
        await getattr(self, f"_{what}")(*([int(number)] if number else []))

    async def _row(self):
        answer = await self.channel.ask(
            "endpoint",
            interface=str(spec_of(IRemUnknown).uuid),
            version=[0, 0],
            protseq="ncacn_ip_tcp",
            endpoint=str(self.port),
            object=str(APP),
            static=True,
        )
        if self.row is None:
            self.numbers += 1
            self.row = self.numbers
        assert answer["number"] == self.row

    async def _end(self, number):
        answer = await self.channel.ask("close_endpoint", number=number)
        assert answer["closed"] == (number == self.row)
        if number == self.row:
            self.row = None

    async def _class(self):
        answer = await self.channel.ask("register", clsid=str(FIRST))
        number = len(self.given) + 1
        self.given[number] = answer["cookie"]
        self.cookies.add(number)

    async def _revoke(self, number):
        await self.channel.ask("revoke", cookie=self.given.get(number, 0))
        self.cookies.discard(number)


async def agrees(stage, *talkers):
    """The mapper and the class table hold what the oracles say."""
    stage.check()
    assert stage.rows() == [t.port for t in talkers if t.row is not None] or len(talkers) > 1
    assert len(stage.rows()) == sum(t.row is not None for t in talkers)
    assert len(stage.host.service.classes) == sum(len(t.cookies) for t in talkers)


@pytest.mark.req("A9", "A10", "I1", "I3")
def test_registrations_doubled_late_or_in_any_order_leave_what_the_last_of_them_said(tmp_path):
    """A close that comes late is of an old generation: what was registered since then stays."""

    async def run():
        async with scene(tmp_path) as stage:
            orders = set(permutations(["row", "row", "end 1", "end 1", "end 2"]))
            orders |= set(permutations(["class", "class", "revoke 1", "revoke 1", "revoke 2"]))
            for number, order in enumerate(sorted(orders)):
                talker = await Talker.dial(stage, 5020, f"link {number}")
                for word in order:
                    await talker.say(word)
                    await agrees(stage, talker)
                await talker.channel.aclose()
                await stage.settle()
                stage.check_gone()

    asyncio.run(run())


@pytest.mark.req("A9", "A10", "A7", "I1")
def test_two_processes_with_one_endpoint_never_end_each_other_s_registration(tmp_path):
    async def run():
        async with scene(tmp_path) as stage:
            for number, order in enumerate(
                merges(
                    [(0, "row"), (0, "end 1"), (0, "row"), (0, "end 1")],
                    [(1, "row"), (1, "class"), (1, "gone")],
                )
            ):
                talkers = [await Talker.dial(stage, 5020, f"{number} {side}") for side in range(2)]
                for side, word in order:
                    if word == "gone":
                        await talkers[side].channel.aclose()
                        talkers[side].row = None
                        talkers[side].cookies.clear()
                        await stage.settle()
                    else:
                        await talkers[side].say(word)
                    await agrees(stage, *talkers)
                assert stage.rows() == [5020]  # the last word of the first one
                await talkers[0].channel.aclose()
                await stage.settle()
                stage.check_gone()

    asyncio.run(run())


@pytest.mark.req("A10", "I1", "I5")
def test_a_process_that_comes_back_before_its_old_connection_is_noticed_is_there_once(tmp_path):
    async def run():
        async with scene(tmp_path) as stage:
            old = await Talker.dial(stage, 5020, "the same")
            exported = await old.channel.ask("export", oxid=0, name="talker")
            for word in ("row", "class"):
                await old.say(word)
            new = await Talker.dial(stage, 5020, "the same")
            old.row = None
            old.cookies.clear()
            await agrees(stage, old, new)
            asserted = await new.channel.ask(
                "export", oxid=exported["oxid"], name="talker", oids=[[77, False]]
            )
            assert asserted["oxid"] == exported["oxid"]
            for word in ("row", "class"):
                await new.say(word)
            old.channel.tell("close_endpoint", number=1)  # a late word of the connection that is gone
            await stage.settle()
            await agrees(stage, new)
            assert len(stage.host.service.sessions) == 1
            assert list(stage.host.resolver.tables().objects) == [77]
            await old.channel.aclose()
            await stage.settle()
            await agrees(stage, new)
            await new.channel.aclose()
            await stage.settle()
            stage.check_gone()

    asyncio.run(run())
