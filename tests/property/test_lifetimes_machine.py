"""Who lives, who dies, and when: everything that keeps objects alive, driven together in invented time.

One resolver, up to three exporters, and four clients with a ping set for each identity; the world they live in is
`tests.support.lifetimes_model`. Here is what may happen to them (`LifetimesMachine`), and what must hold whatever
happens (`Truth`). Laws are named as in the scenarios: J1 to J9, P1 to P4, and B for the stories.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.support.lifetimes_model import (
    ALWAYS,
    DELAY,
    FINE,
    MARSHALLED,
    MEMORY,
    NEVER,
    PERIOD,
    SWEEP,
    TIMEOUT,
    WEATHERS,
    Answer,
    ClientSet,
    Fate,
    Heard,
    Life,
    Ping,
    Weather,
    World,
    broken,
)

from oxid.ledger import Ledger
from oxid.rpcss.oxid_resolver import OxidResolver
from oxid.values.status import OR_INVALID_OID, RPC_S_SERVER_TOO_BUSY

# -- the laws ------------------------------------------------------------------------------------------------


class Truth:
    """Who lives, who holds what, and since when each set has been silent."""

    def __init__(self) -> None:
        self.now = 1000
        self.lives: dict[int, Life] = {}
        self.sets: dict[int, Heard] = {}
        self.spared_until = NEVER
        self.expecting_until = NEVER
        self.deaf_until = NEVER

    def alive(self, set_id: int) -> bool:
        return set_id in self.sets and self.now < self.sets[set_id].ends

    def covers(self, oid: int) -> Iterator[int]:
        """The sets that keep an object alive."""
        return (set_id for set_id, s in self.sets.items() if oid in s.members and self.alive(set_id))

    def living(self) -> list[Life]:
        return [life for life in self.lives.values() if not life.ended]

    def take_out(self, set_id: int, oids: Iterable[int]) -> None:
        """A client let go; from now on nothing of it keeps these."""
        members = self.sets[set_id].members
        self.sets[set_id].awaited -= set(oids)
        for oid in members & set(oids):
            members.discard(oid)
            self.lives[oid].handed_on = self.now

    def must_not_live_for_ever(self, life: Life) -> float:
        """P3: until when an object may live at the most, everybody being silent from now on."""
        if life.noping or life.held or life.calls or not life.exporter.attached:
            return ALWAYS
        pinged = max((s.ends for s in self.sets.values() if life.oid in s.members), default=NEVER)
        due = max(life.marshalled, life.listed_at, life.handed_on) + TIMEOUT
        due = max(due, pinged, life.freed, self.spared_until, self.deaf_until)
        busy = max(life.called + PERIOD, life.kept + PERIOD)
        if busy <= due:
            return due + SWEEP + DELAY
        # Its exporter is asked again a period after it kept the object; a call that came just behind the
        # first question is a reason to keep it once more.
        return max(due, busy) + PERIOD + 2 * (SWEEP + DELAY)

    def may_be_reclaimed(self, life: Life, holders: list[ClientSet]) -> None:
        """P4, J3: no silence justifies the end of what somebody uses."""
        now, name = self.now, f"object {life.oid}"
        if life.noping or life.held:
            broken("B10", f"{name} needs no pings")
        if life.calls:
            broken("J3", f"{name} has {life.calls} calls in flight")
        if now - life.called < PERIOD:
            broken("J3", f"{name} was called {now - life.called} s ago")
        if now - life.marshalled < TIMEOUT:
            broken("B53", f"{name} left {now - life.marshalled} s ago; its holder has time to ping")
        if now - life.handed_on < TIMEOUT:
            broken("B9", f"{name} was let go {now - life.handed_on} s ago, and may have been handed over")
        if now < max(life.listed_at + TIMEOUT, self.spared_until):
            broken("B57", f"{name} is new to this resolver, which has to wait for pings")
        for set_id in self.covers(life.oid):
            broken("P4", f"{name} is in set {set_id}, last pinged {now - self.sets[set_id].last} s ago")
        for one in holders:
            if life.oid in one.safe and now - one.heard < TIMEOUT:
                broken("P1", f"{name} is held by {one}, whose pings came through {now - one.heard} s ago")

    def check_bounds(self) -> None:
        for life in self.lives.values():
            if not life.ended and self.now > (last := self.must_not_live_for_ever(life)):
                broken("P3", f"object {life.oid} lives at {self.now}, and should be gone since {last}")

    def check_tables(self, resolver: OxidResolver, ledger: Ledger) -> None:
        """J1, J2: the resolver's tables say what the pings that arrived said."""
        tables, now = resolver.tables(), self.now
        deadline = resolver.next_deadline()
        settled = deadline is None or deadline > now
        for life in self.lives.values():
            if life.listed and life.oid not in tables.objects:
                broken("J1", f"the resolver does not know object {life.oid}")
        for oid, holders in tables.objects.items():
            if self.lives[oid].listed is None:
                broken("J1", f"object {oid} is gone, and the resolver was told")
            told = {set_id: s for set_id, s in self.sets.items() if oid in s.members}
            must = {set_id for set_id, s in told.items() if now < s.ends}
            may = {set_id for set_id, s in told.items() if now < s.ends + SWEEP}
            if not must <= set(holders) or (settled and not set(holders) <= may):
                broken("J1", f"object {oid} is held by sets {holders}, and should be by {must}")
        for set_id, state in tables.sets.items():
            heard = self.sets.get(set_id)
            if heard is None and (state.oids or state.deadline > now):
                broken("J2", f"set {set_id} should be over: {state}")
            if heard is not None and state.deadline != heard.last + TIMEOUT:
                broken("J2", f"set {set_id} ends at {state.deadline}, its last ping came at {heard.last}")
            if settled and any(set_id not in tables.objects[oid] for oid in state.oids):
                broken("J1", f"set {set_id} holds {state.oids}, who do not know it")
        for set_id in self.sets:
            if self.alive(set_id) and set_id not in tables.sets:
                broken("J2", f"set {set_id} was forgotten before its time")
        counts = resolver.statistics()
        held = [len(holders) for holders in tables.objects.values() if holders]
        members = [len(s.oids) for s in tables.sets.values() if s.oids]
        if settled and not (
            sum(held) == sum(members) == counts["memberships"] and len(held) == counts["pinged"]
        ):
            broken("J1", f"holders {held} and members {members} do not add up with {counts}")
        if settled and (ledger.pinged_oid.live, ledger.ping_set.live) != (len(held), len(members)):
            broken("J1", f"holders {held} and members {members} do not add up with {ledger}")

    def forgives(self, life: Life, resolver: OxidResolver) -> bool:
        """Whether a late ping for a released object is no error."""
        by, when = life.forgiven
        return by is resolver and self.now < when + MEMORY

    def answers_to(self, ping: Ping, known: set[int], resolver: OxidResolver) -> set[int]:
        """What may be said to a ping that adds objects of which only some are known."""
        unknown = [self.lives[oid] for oid in ping.add if oid not in known]
        if not ping.set_id or all(self.forgives(life, resolver) for life in unknown):
            return {0}
        # A resolver that has just started does not know yet who lives.
        unsure = {RPC_S_SERVER_TOO_BUSY} if self.now < self.expecting_until else set()
        return {OR_INVALID_OID} | unsure | {0 for life in unknown if life.listed is False}

    def prune(self) -> None:
        """Sets that are long over hold nobody."""
        for set_id in [set_id for set_id, s in self.sets.items() if self.now > s.ends + PERIOD]:
            gone = self.sets.pop(set_id)
            for oid in gone.members:
                self.lives[oid].freed = max(self.lives[oid].freed, gone.ends)

    def spare_all(self, set_ids: Iterable[int], until: float) -> None:
        """The resolver could not hear anybody for a while."""
        self.deaf_until = max(self.deaf_until, until)
        for set_id in self.sets.keys() & set(set_ids):
            self.sets[set_id].spared_until = until


# -- what may happen ---------------------------------------------------------------------------------------

PICK, CLIENT, IDENTITY = st.integers(0, 9), st.integers(0, 3), st.integers(0, 2)
INTERFACE = st.integers(0, 1)
WEATHER = st.sampled_from([FINE, FINE, *WEATHERS])
ARRIVES, TRAVELS, IS_LOST = "arrives", "travels", "is lost"
JOURNEY = st.sampled_from([ARRIVES, ARRIVES, ARRIVES, TRAVELS, TRAVELS, IS_LOST])
MOST_LIVING = 9


def when(condition):
    return precondition(lambda machine: condition(machine.world))


someone_holds = when(lambda world: any(client.holdings for client in world.clients.values()))
someone_lives = when(lambda world: any(not life.ended for life in world.truth.lives.values()))
nobody_pings_something = when(
    lambda world: any(
        not any(world.truth.covers(oid)) for oid, life in world.truth.lives.items() if not life.ended
    )
)
someone_pings = when(lambda world: any(client.sets for client in world.clients.values()))


class LifetimesMachine(RuleBasedStateMachine):
    """Each rule is something that happens to one of them; to whom, `pick` says."""

    steps: ClassVar[int] = 0

    def __init__(self):
        super().__init__()
        self.truth = Truth()
        self.world = World(self.truth)
        self.under_way = False

    @initialize(servers=st.lists(st.integers(0, 2), max_size=4), clients=st.integers(1, 3), identity=IDENTITY)
    def some_are_there(self, servers, clients, identity):
        for server in servers:
            exporter = self.world.exporter(server)
            life = exporter.export()
            for client in range(clients):
                self.travel(exporter.marshal(life), client, identity, ARRIVES)

    def step(self):
        LifetimesMachine.steps += 1
        self.under_way = True

    @invariant()
    def the_laws_hold(self):
        self.world.check()
        self.under_way = False

    def teardown(self):
        try:
            if not self.under_way:
                self.world.wind_up()
        finally:
            self.world.close()

    # Who.

    def holding(self, pick, *, reachable=False):
        """Some client and one thing that it holds."""
        world = self.world
        found = [
            (client, holding)
            for client in world.clients.values()
            if not world.hangs(client) and not (reachable and world.is_cut(client))
            for holding in client.holdings.values()
        ]
        return found[pick % len(found)] if found else (None, None)

    def life(self, pick):
        found = self.truth.living()
        return found[pick % len(found)]

    def set_of(self, pick):
        """Some ping set; one that holds what its exporter is deciding about, where there is such a one."""
        every = self.world.client_sets()
        found = [one for one in every if pick & 1 and one.holders.keys() & self.world.in_question()] or every
        return found[pick // 2 % len(found)]

    def travel(self, ref, number, identity, journey):
        client = self.world.client(number)
        if journey == ARRIVES and not self.world.hangs(client):
            self.world.arrive(ref, client, identity)
        elif journey != IS_LOST:
            self.world.transit.append((ref, identity))

    # References come and go.

    @rule(pick=PICK, client=CLIENT, identity=IDENTITY, new=st.booleans(), journey=JOURNEY)
    def a_server_gives_a_reference(self, pick, client, identity, new, journey):
        """To a new object, or to one that it has given away before."""
        living, up = self.truth.living(), self.world.up
        if up and (not living or (new and len(living) < MOST_LIVING)):
            self.step()
            exporter = self.world.exporter(pick % 3)
            if exporter.ready:
                self.travel(exporter.marshal(exporter.export(noping=pick == 9)), client, identity, journey)
        elif living:
            self.step()
            life = self.life(pick)
            self.travel(life.exporter.marshal(life, pick & 1), client, identity, journey)

    @someone_holds
    @rule(pick=PICK, to=CLIENT, identity=IDENTITY, journey=JOURNEY, pings=st.booleans(), leaves=st.booleans())
    def hand_over(self, pick, to, identity, journey, pings, leaves):
        """One client gives another one a reference, which may ping at once, and may let go itself."""
        client, holding = self.holding(pick)
        if client is None:
            return
        self.step()
        self.travel(self.world.hand_over(client, holding), to, identity, journey)
        if pings:
            self.ping_now(self.world.client(to), holding.life)
        if leaves and holding.life.oid in client.holdings:
            self.world.release(client, holding, heard=True)

    @when(lambda world: world.transit)
    @rule(pick=PICK, to=CLIENT, pings=st.booleans())
    def a_journey_ends(self, pick, to, pings):
        self.step()
        ref, identity = self.world.transit.pop(pick % len(self.world.transit))
        self.travel(ref, to, identity, ARRIVES)
        if pings:
            self.ping_now(self.world.client(to), ref.life)

    def ping_now(self, client, life, weather=FINE):
        holding = client.holdings.get(life.oid)
        one = None if holding is None else client.sets.get(holding.identity)
        if one is not None:
            self.world.weather = Weather(*weather)
            self.world.tick(one)

    @when(lambda world: world.in_question())
    @rule(pick=PICK, to=CLIENT, pings=st.booleans())
    def someone_takes_what_is_about_to_go(self, pick, to, pings):
        """Its exporter is being asked: a reference from somebody who is silent arrives in the last moment."""
        world = self.world
        found = [ref for ref, _ in world.transit if ref.life.oid in world.in_question()]
        if not found:
            holdings = [(c, h) for c in world.clients.values() for h in c.holdings.values()]
            holdings = [(c, h) for c, h in holdings if h.life.oid in world.in_question()]
            if not holdings:
                return
            found = [world.hand_over(*holdings[pick % len(holdings)])]
        self.step()
        ref = found[pick % len(found)]
        world.transit = [(other, identity) for other, identity in world.transit if other is not ref]
        self.travel(ref, to, pick % 3, ARRIVES)
        if pings:
            self.ping_now(world.client(to), ref.life)

    @someone_holds
    @rule(pick=PICK, heard=st.integers(0, 3))
    def release(self, pick, heard):
        client, holding = self.holding(pick)
        if client is not None:
            self.step()
            self.world.release(client, holding, heard=bool(heard))

    @someone_holds
    @rule(pick=PICK, first=WEATHER, then=WEATHER, back=st.booleans())
    def a_client_changes_its_mind(self, pick, first, then, back):
        """Lets go and takes again, or the other way round, with pings under way in between."""
        client, holding = self.holding(pick)
        if client is None or not holding.pinged:
            return
        self.step()
        identity, ref = holding.identity, self.world.hand_over(client, holding)
        for weather, letting_go in ((first, back), (then, not back)):
            self.world.weather = Weather(*weather)
            if letting_go:
                self.world.release(client, client.holdings[holding.life.oid], heard=False)
            else:
                self.world.arrive(ref, client, identity)
            if identity in client.sets:
                self.world.tick(client.sets[identity])

    @someone_lives
    @rule(pick=PICK, to=CLIENT, identity=IDENTITY, first=WEATHER, then=WEATHER, silent=st.booleans())
    def a_client_holds_for_a_moment(self, pick, to, identity, first, then, silent):
        """Perhaps its first ping is lost, and it is heard no more."""
        self.step()
        life, client = self.life(pick), self.world.client(to)
        self.world.arrive(life.exporter.marshal(life), client, identity)
        self.ping_now(client, life, first)
        if silent:
            client.silenced_until = self.truth.now + 3 * PERIOD
        self.world.release(client, client.holdings[life.oid], heard=not silent)
        for one in list(client.sets.values()):
            self.world.weather = Weather(*then)
            self.world.tick(one)

    # Calls.

    @someone_holds
    @rule(pick=PICK, what=st.sampled_from(["short", "long", "query"]), interface=INTERFACE)
    def call(self, pick, what, interface):
        client, holding = self.holding(pick, reachable=True)
        if client is None:
            return
        self.step()
        life, exporter = holding.life, holding.life.exporter
        if life.ended:
            self.world.met_the_end(client, holding)
        elif what == "query":
            holding.pointers[exporter.query(life, interface).ipid] += MARSHALLED
        else:
            call = exporter.begin_call(life)
            if what == "short":
                self.world.calls.remove(call)
                exporter.end_call(call)

    @someone_holds
    @rule(pick=PICK, times=st.integers(2, 6), seconds=st.sampled_from([PERIOD - 20, PERIOD - 1, PERIOD]))
    def a_client_calls_and_is_not_heard_to_ping(self, pick, times, seconds):
        client, holding = self.holding(pick, reachable=True)
        if client is None:
            return
        self.step()
        client.silenced_until = max(client.silenced_until, self.truth.now + times * seconds)
        for _ in range(times):
            if not holding.life.ended:
                call = holding.life.exporter.begin_call(holding.life)
                self.world.calls.remove(call)
                call.life.exporter.end_call(call)
            self.world.advance(seconds, Weather(*FINE))

    @when(lambda world: world.calls)
    @rule(pick=PICK)
    def end_call(self, pick):
        self.step()
        call = self.world.calls.pop(pick % len(self.world.calls))
        call.life.exporter.end_call(call)

    # The server's own wishes.

    @someone_lives
    @rule(pick=PICK, wish=st.sampled_from(["hold", "unhold", "noping", "disconnect"]))
    def its_own_process_wishes(self, pick, wish):
        self.step()
        life = self.life(pick)
        if wish == "hold":
            life.exporter.hold(life)
        elif wish == "noping":
            life.exporter.change_noping(life)
        elif wish == "disconnect" and pick > 6:
            life.exporter.disconnect(life)
        elif life.held:
            life.exporter.unhold(life)

    # Misfortunes.

    @when(lambda world: world.clients)
    @rule(
        pick=CLIENT,
        what=st.sampled_from(["killed", "hangs", "is cut off", "is silenced"]),
        part=st.integers(1, 29),
    )
    def something_happens_to_a_client(self, pick, what, part):
        """What does not kill it takes less than three periods."""
        client, until = self.world.clients.get(pick), self.truth.now + part * PERIOD // 10
        if client is None:
            return
        self.step()
        if what == "killed":
            for holding in list(client.holdings.values())[: part % 2]:  # it had just handed something over
                self.world.transit.append((self.world.hand_over(client, holding), pick % 3))
            del self.world.clients[pick]
        elif what == "hangs":
            client.hangs_until = until
        elif what == "is cut off":
            client.cut_until = until
        else:
            client.silenced_until = until

    @when(lambda world: world.exporters)
    @rule(pick=PICK, killed=st.booleans(), noticed=st.booleans())
    def an_exporter_ends(self, pick, killed, noticed):
        exporter = self.world.exporters.get(pick)
        if exporter is None:
            return
        self.step()
        exporter.end(killed=killed)
        for client in self.world.clients.values():
            if noticed and not self.world.hangs(client):
                self.world.suspect(client, exporter)

    @when(lambda world: world.up)
    @rule(what=st.integers(0, 7), seconds=st.sampled_from([0, 1, SWEEP, PERIOD, TIMEOUT + 1]))
    def something_happens_to_the_resolver(self, what, seconds):
        """It refuses an identity for a while, is started anew, loses an exporter, or does not run for a while."""
        if what < 3:
            self.step()
            self.world.refused[what] = self.truth.now + 2 * seconds
        elif what == 3:
            self.step()
            self.world.resolver_stops(self.truth.now + seconds)
            if not seconds:
                self.world.resolver_starts(asserted_after=1)
        elif what == 4:
            self.step()
            self.world.resolver_is_stopped(seconds)
        elif what < 7 and what - 4 in self.world.exporters:
            self.step()
            self.world.exporters[what - 4].lose_channel(seconds)

    # Pings.

    @someone_pings
    @rule(pick=PICK, weather=WEATHER)
    def tick(self, pick, weather):
        self.step()
        self.world.weather = Weather(*weather)
        self.world.tick(self.set_of(pick))

    @someone_pings
    @rule(pick=PICK)
    def a_ping_comes_from_elsewhere(self, pick):
        """One that was delayed, or a stranger's who knows a set."""
        self.step()
        strays = self.world.strays
        if strays:
            self.world.stray_arrives(*strays.pop(pick % len(strays)))
        else:
            self.world.stranger_pings(self.set_of(pick))

    # Time.

    @rule(
        seconds=st.sampled_from([1, SWEEP, PERIOD // 2, PERIOD, TIMEOUT]),
        weather=WEATHER,
        order=st.booleans(),
    )
    def time_passes(self, seconds, weather, order):
        self.step()
        self.world.advance(seconds, Weather(*weather), ticks_first=order)

    @rule(weather=WEATHER, order=st.booleans())
    def until_the_next_event(self, weather, order):
        self.step()
        seconds = int(min(self.world.next_event() - self.truth.now, TIMEOUT))
        self.world.advance(seconds, Weather(*weather), ticks_first=order)

    @nobody_pings_something
    @rule(
        fates=st.sampled_from([FINE[0], (Fate.LOST,)]),
        answers=st.sampled_from(list(Answer)[1:]),
        aloud=st.booleans(),
    )
    def until_an_exporter_is_asked(self, fates, answers, aloud):
        self.step()
        self.world.until_asked(Weather(fates, (answers,)), TIMEOUT, aloud=aloud)

    @rule(seconds=st.integers(1, 2 * PERIOD), order=st.booleans())
    def some_time_passes(self, seconds, order):
        self.step()
        self.world.advance(seconds, Weather(*FINE), ticks_first=order)

    @rule(seconds=st.integers(1, PERIOD), weather=WEATHER, order=st.booleans())
    def a_little_time_passes(self, seconds, weather, order):
        self.step()
        self.world.advance(seconds, Weather(*weather), ticks_first=order)


def run(examples, steps=100, **more):
    """Let the machine run; how many steps it made."""
    LifetimesMachine.steps = 0
    wanted = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )
    run_state_machine_as_test(LifetimesMachine, settings=wanted)
    return LifetimesMachine.steps


@pytest.mark.req("P1", "P2", "P3", "P4", "J1", "J2", "J3", "J4", "J5", "J6", "J9")
@pytest.mark.limit(600)  # a failure is made short before it is shown
def test_whoever_is_held_lives_and_whoever_is_not_goes_whatever_happens(long_form):
    steps = run(20_000 if long_form else 850)
    print(f"{steps} steps")
    assert steps >= 50_000
