"""Whose pings a machine sends, to whom and when: the agent against resolvers that only answer."""

import asyncio
import itertools

import pytest

import oxid
from oxid.com.options import UNAUTHENTICATED, Blanket
from oxid.com.ping_agent import NAP, PingAgent, PingTarget
from oxid.errors import AccessDenied, TransportError
from oxid.testing.virtual_loop import run_virtual, virtual_world
from oxid.values.status import ERROR_ACCESS_DENIED, HResult
from oxid.world import World

P = 120.0
ALICE = Blanket(oxid.Password("alice", "wonder"), 6)
BOB = Blanket(oxid.Password("bob", "builder"), 6)
PLANT = (("10.0.0.1", 135),)
OFFICE = (("10.0.0.2", 135),)


class SleepyClock:
    """The loop's clock on a machine that can be suspended."""

    def __init__(self, world):
        self.now, self.utc = world.clock.now, world.clock.utc
        self.seconds = 0.0

    def slept(self):
        return self.seconds


class Resolvers:
    """Answers every ping as told, and remembers it."""

    def __init__(self, world):
        self.world = world
        self.pings = []
        self.refused = set()
        self.silent = set()
        self.founded = 0

    async def __call__(self, places, identity, ping):
        self.pings.append((self.world.clock.now(), places[0], identity, ping))
        if places[0] in self.silent:
            await asyncio.sleep(10 * P)
        if places[0] in self.silent:
            raise TransportError("nothing there")
        if identity in self.refused:
            raise AccessDenied(HResult(0x80070005))
        if ping.set_id == 0:
            self.founded += 1
        return 0, ping.set_id or self.founded

    def to(self, place):
        return [ping for ping in self.pings if ping[1] == place]


def play(story, *, sleepy=False):
    async def run():
        world = virtual_world()
        clock = SleepyClock(world) if sleepy else world.clock
        world = World(clock, world.entropy, world.ledger)
        resolvers = Resolvers(world)
        agent = PingAgent(world, resolvers)
        try:
            await story(agent, resolvers, clock)
        finally:
            await agent.aclose()
        assert not any(world.ledger.live().values())

    run_virtual(run())


def target(*ladder, places=PLANT, period=P):
    return PingTarget(places, ladder or (UNAUTHENTICATED,), period)


@pytest.mark.req("PNG-1", "PNG-2", "PNG-12")
def test_a_set_begins_at_some_moment_of_its_first_period_and_goes_on_from_there():
    async def story(agent, resolvers, clock):
        for number in range(40):
            agent.hold(target(places=((f"10.0.1.{number}", 135),)), 1)
        await asyncio.sleep(10 * P)
        first = [resolvers.to((f"10.0.1.{number}", 135))[0][0] for number in range(40)]
        assert max(first) <= P
        assert len({round(moment / 10) for moment in first}) > 5  # spread over the period
        for number in range(40):
            moments = [ping[0] for ping in resolvers.to((f"10.0.1.{number}", 135))]
            assert len(moments) in (10, 11)
            assert all(later - earlier == pytest.approx(P) for earlier, later in itertools.pairwise(moments))

    play(story)


@pytest.mark.req("PNG-2", "PNG-3")
def test_objects_of_all_processes_with_one_identity_are_one_set():
    async def story(agent, resolvers, clock):
        for oid in range(1, 1001):
            agent.hold(target(ALICE), oid)
            agent.hold(target(ALICE, BOB), oid)  # another ladder, the same identity first
        agent.hold(target(BOB), 5)
        await asyncio.sleep(5 * P)
        assert resolvers.founded == 2
        assert agent.statistics() == {"sets": 2, "oids": 1001}
        complex_ones = [ping for ping in resolvers.pings if not ping[3].simple]
        assert sorted(len(ping[3].add) for ping in complex_ones) == [1, 1000]
        for oid in range(1, 1001):
            agent.let_go(target(ALICE), oid)
        await asyncio.sleep(2 * P)
        assert agent.statistics() == {"sets": 2, "oids": 1001}  # still held through the other ladder
        for oid in range(1, 1001):
            agent.let_go(target(ALICE, BOB), oid)
        agent.let_go(target(BOB), 5)
        await asyncio.sleep(2 * P)
        assert agent.idle
        silent = len(resolvers.pings)
        await asyncio.sleep(20 * P)
        assert len(resolvers.pings) == silent

    play(story)


@pytest.mark.req("PNG-9")
def test_an_identity_that_is_refused_gives_way_to_the_next_within_the_same_tick():
    async def story(agent, resolvers, clock):
        resolvers.refused = {ALICE}
        agent.hold(target(ALICE, BOB, UNAUTHENTICATED), 1)
        await asyncio.sleep(P)
        assert [ping[2] for ping in resolvers.pings[:2]] == [ALICE, BOB]
        assert resolvers.pings[1][0] - resolvers.pings[0][0] < 1
        await asyncio.sleep(10 * P)
        assert {ping[2] for ping in resolvers.pings[1:]} == {BOB}

    play(story)


@pytest.mark.req("PNG-9")
def test_where_all_identities_are_refused_each_tick_tries_each_once_and_warns_once(caplog):
    async def story(agent, resolvers, clock):
        resolvers.refused = {ALICE, UNAUTHENTICATED}
        agent.hold(target(ALICE, UNAUTHENTICATED), 1)
        await asyncio.sleep(10 * P)
        assert 18 <= len(resolvers.pings) <= 22
        assert sum("every identity" in record.message for record in caplog.records) == 1
        resolvers.refused = set()
        await asyncio.sleep(2 * P)
        assert resolvers.founded == 1

    play(story)


@pytest.mark.req("BLK-3", "PNG-9")
def test_an_identity_that_calls_have_proven_comes_first_until_pings_are_accepted():
    async def story(agent, resolvers, clock):
        agent.hold(target(ALICE, UNAUTHENTICATED), 1)
        agent.learn(target(ALICE, UNAUTHENTICATED), BOB)
        await asyncio.sleep(2 * P)
        assert {ping[2] for ping in resolvers.pings} == {BOB}
        agent.learn(target(ALICE, UNAUTHENTICATED), UNAUTHENTICATED)  # too late to move without need
        await asyncio.sleep(2 * P)
        assert {ping[2] for ping in resolvers.pings} == {BOB}
        resolvers.refused = {BOB}
        await asyncio.sleep(2 * P)
        assert [ping[2] for ping in resolvers.pings][-1] == ALICE

    play(story)


@pytest.mark.req("PNG-12")
def test_a_resolver_that_hangs_delays_nobody_else():
    async def story(agent, resolvers, clock):
        resolvers.silent = {PLANT[0]}
        agent.hold(target(), 1)
        agent.hold(target(places=OFFICE), 2)
        await asyncio.sleep(10 * P)
        moments = [ping[0] for ping in resolvers.to(OFFICE[0])]
        assert all(later - earlier <= P * 1.01 for earlier, later in itertools.pairwise(moments))
        assert len(resolvers.to(PLANT[0])) >= 9  # tried in every period

    play(story)


@pytest.mark.req("B50")
@pytest.mark.parametrize("seconds", [2 * P, 3600.0])
def test_a_machine_that_was_suspended_pings_as_soon_as_it_goes_on(seconds):
    """Its own clock stood still, so that no timer tells; the resolvers' clocks did not."""

    async def story(agent, resolvers, clock):
        agent.hold(target(), 1)
        agent.hold(target(places=OFFICE), 2)
        await asyncio.sleep(3 * P)
        moments = {place: resolvers.to(place)[-1][0] for place in (PLANT[0], OFFICE[0])}
        await asyncio.sleep(0.02)
        before = len(resolvers.pings)
        clock.seconds += seconds
        await asyncio.sleep(P * NAP + 1)
        assert {ping[1] for ping in resolvers.pings[before:]} == set(moments)
        assert len(resolvers.pings) == before + 2  # each once
        await asyncio.sleep(10 * P)
        for place in moments:
            assert 9 <= len([ping for ping in resolvers.pings[before:] if ping[1] == place]) <= 12

    play(story, sleepy=True)


@pytest.mark.req("B50")
def test_a_nap_changes_nothing():
    async def story(agent, resolvers, clock):
        agent.hold(target(), 1)
        await asyncio.sleep(P)
        for _ in range(100):
            clock.seconds += P * NAP / 2
            await asyncio.sleep(P * NAP)
        moments = [ping[0] for ping in resolvers.pings]
        assert all(later - earlier == pytest.approx(P) for earlier, later in itertools.pairwise(moments))

    play(story, sleepy=True)


def test_the_systems_clock_can_tell_for_how_long_the_machine_was_suspended():
    from oxid.world import SleepingClock, SystemClock

    clock = SystemClock()
    assert isinstance(clock, SleepingClock)
    assert clock.slept() >= -0.001
    assert abs(clock.slept() - clock.slept()) < 0.01


@pytest.mark.req("PNG-9")
def test_access_denied_as_an_answer_is_a_refusal_too():
    async def story(agent, resolvers, clock):
        async def deny(places, identity, ping):
            resolvers.pings.append((clock.now(), places[0], identity, ping))
            return (ERROR_ACCESS_DENIED, 0) if identity == ALICE else (0, 7)

        agent._send = deny
        agent.hold(target(ALICE, BOB), 1)
        await asyncio.sleep(2 * P)
        assert [ping[2] for ping in resolvers.pings][:2] == [ALICE, BOB]

    play(story)
