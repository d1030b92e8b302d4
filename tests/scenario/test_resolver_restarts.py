"""Machines that sleep, clients that die before their first ping, reclaims that meet something, exporters that vanish in
the middle of one, and resolvers that start anew: scenarios B50 and B53 to B57

The exporters of B55 to B57 are local servers: processes of their own as far as anybody can see, on the loop of the
test. P is 120 s, T 360 s, S 10 s.
"""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from uuid import UUID

import pytest
from tests.support import lifetimes
from tests.support.lifetimes import (
    CLSID_PROBE,
    USER,
    IProbe,
    P,
    Probe,
    S,
    T,
    client_machine,
    now,
    server_machine,
    settle,
)

import oxid
from oxid.auth.context import AuthType
from oxid.com.flight_record import Kind
from oxid.com.local_server import LocalServer
from oxid.com.objref import decode_objref
from oxid.interfaces.object_exporter import IObjectExporter
from oxid.runtime.client import open_connection
from oxid.runtime.dispatch import current_call
from oxid.testing.virtual_loop import run_virtual
from oxid.values.status import OR_INVALID_OID, OR_INVALID_SET
from oxid.world import SystemEntropy

CLSID_REMOTE = UUID("5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6a55")
SPEC = oxid.spec_of(IProbe)
ENDS = (Kind.RECLAIMED, Kind.RELEASED, Kind.RUNDOWN)


async def until(true, within, step=5.0):
    """In steps of invented time that cost less real time than those of a second."""
    return await lifetimes.until(true, within, step)


def play(tmp_path, story, **options):
    async def to_the_end(server, client):
        await story(server, client)
        await until(lambda: client.at_rest, 2 * P + S, S)
        await until(lambda: server.at_rest, T + P + 2 * S, S)

    lifetimes.play(tmp_path, to_the_end, **options)


async def lost(places, identity, ping):
    raise oxid.TransportError("nothing gets through")


@asynccontextmanager
async def raw_peer(server):
    """IObjectExporter as somebody else's program calls it."""
    world = oxid.World(server.world.clock, server.world.entropy)
    there = ("127.0.0.1", server.port)
    async with open_connection(*there, world=world, credentials=USER, auth_type=AuthType.NTLM) as connection:
        yield await connection.proxy(IObjectExporter)


# -- machines that sleep ---------------------------------------------------------------------------------


class Watch:
    """The clock of one machine: that of the loop, less what the machine did not live through."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.less = 0.0

    def now(self):
        return self.loop.now() - self.less

    def utc(self):
        return self.loop.utc() - self.less


def sleep_through(seconds, *others):
    """So much time passes in which nothing runs, nothing is sent and no timer fires; for `others` it does not."""
    asyncio.get_running_loop()._jumping.skipped += seconds
    for machine in others:
        machine.world.clock.less += seconds


def play_with_watches(tmp_path, story):
    async def run():
        Probe.begin()
        entropy = SystemEntropy()
        async with server_machine(tmp_path / "server", world=oxid.World(Watch(), entropy)) as server:
            async with client_machine(tmp_path / "client", oxid.World(Watch(), entropy)) as client:
                await story(server, client)
                await until(lambda: client.at_rest, 2 * P + S)
            await until(lambda: server.at_rest and not Probe.alive(), T + P + 2 * S)

    run_virtual(run())


HOUR = 3600.0


@pytest.mark.req("B50", "J5")
@pytest.mark.parametrize("asleep", [HOUR, 1.1 * P])
def test_a_client_whose_clock_jumped_pings_at_once_and_then_as_ever(tmp_path, asleep):
    async def story(server, client):
        async with client.process(server, USER) as machine:
            probe = await machine.activate(CLSID_PROBE, IProbe)
            await asyncio.sleep(2 * P)
            before = len(client.pings)
            sleep_through(asleep, server)
            await settle()
            assert len(client.pings) == before + 1  # and not one for each that was missed
            await asyncio.sleep(10 * P)
            moments = [sent.at for sent in client.pings[before:]]
            assert all(P / 2 <= b - a <= P for a, b in pairwise(moments))
            assert all(sent.ping.simple and sent.status == 0 for sent in client.pings[before:])
            assert await probe.whoami() == "alice at 6"
            await probe.release()

    play_with_watches(tmp_path, story)


@pytest.mark.req("B50", "J5")
@pytest.mark.parametrize("who", ["the server", "everybody"])
@pytest.mark.parametrize("asleep", [HOUR, T])
def test_a_server_whose_clock_jumped_hears_its_clients_before_it_lets_go_of_anything(tmp_path, who, asleep):
    async def story(server, client):
        async with client.process(server, USER) as machine:
            probe = await machine.activate(CLSID_PROBE, IProbe)
            # Of this one nobody ever hears again.
            out = await machine.activate_raw(UUID(CLSID_PROBE), [SPEC.uuid])
            await asyncio.sleep(P + S)
            (set_id,) = server.tables.sets
            await asyncio.sleep(P - 2 * S)
            sleep_through(asleep, *([client] if who == "the server" else []))
            awake = server.world.clock.now()
            await settle()
            assert not Probe.ends
            await until(lambda: server.pings_since(awake), P + 1)
            assert {ping.status for ping in server.pings_since(awake)} == {0}
            assert set(server.tables.sets) == {set_id}
            await until(lambda: Probe.ends, T + P + S)
            assert Probe.ends[0] >= awake + P  # one real period, for whoever has yet to ping
            assert decode_objref(out.interfaces[0].objref).std.oid not in server.tables.objects
            assert await probe.whoami() == "alice at 6"
            await probe.release()

    play_with_watches(tmp_path, story)


@pytest.mark.req("B50", "PNG-11")
def test_a_ping_that_waited_at_a_sleeping_server_was_not_too_late(tmp_path):
    async def story(server, client):
        async with raw_peer(server) as peer:
            reference = decode_objref(server.host.exporter.marshal(Probe(), SPEC))
            founded = await peer.complex_ping(0, 1, [reference.std.oid], None)
            await asyncio.sleep(P)
            waiting = asyncio.ensure_future(peer.simple_ping(founded.set_id))
            await asyncio.sleep(0)  # it is sent; but the server sleeps
            sleep_through(HOUR)
            assert await waiting == 0
            await asyncio.sleep(P / 2)
            assert not Probe.ends
            assert server.tables.objects[reference.std.oid] == (founded.set_id,)

    play_with_watches(tmp_path, story)


# -- objects of which nobody ever pinged -----------------------------------------------------------------


@oxid.coclass("5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6a53", implements=[IProbe])
class Unheard(Probe):
    """An object about whose making its client never hears: the connection breaks under the activation."""

    def __init__(self):
        super().__init__()
        current_call().connection.transport.abort()


@pytest.mark.req("B53", "dcom§6.3.never-pinged", "J4")
def test_an_object_of_which_its_client_never_heard_goes_after_the_time_out(tmp_path):
    async def story(server, client):
        async with client.process(server, USER) as machine:
            with pytest.raises(oxid.TransportError):
                await machine.activate(oxid.coclass_of(Unheard).clsid, IProbe)
            made = now()
            assert Unheard.alive() == 1
            await until(lambda: Unheard.ends, T + P + S)
            assert T <= now() - made <= T + P + S
            assert client.pings == []

    Unheard.begin()
    play(tmp_path, story, classes=(Probe, Unheard))
    assert Unheard.made == len(Unheard.ends) == 1


@pytest.mark.req("B54", "dcom§6.3.never-pinged", "J4")
@pytest.mark.parametrize("what", ["process", "machine"])
def test_an_object_whose_client_died_before_its_first_ping_goes_after_the_time_out(tmp_path, what):
    async def story(server, client):
        dying = client
        async with AsyncExitStack() as stack:
            if what == "machine":
                dying = await stack.enter_async_context(client_machine(tmp_path / "dying", client.world))
            machine = await stack.enter_async_context(dying.process(server, USER))
            probe = await machine.activate(CLSID_PROBE, IProbe)
            made = now()
            await settle()
            assert dying.agent.pings.statistics()["oids"] == 1
            # What its death leaves: no release, no goodbye, and an end of file at the agent where that lives on.
            exporter = probe._channel.exporter
            exporter.objects.clear()
            exporter.unreleased.clear()
            if what == "machine":
                await dying.agent.pings.aclose()
            agent = machine.lifelines.agent
            agent._closed = True
            await agent._link.aclose()
            await machine.connections.aclose()
            await until(lambda: Probe.ends, T + P + S)
            assert T <= now() - made <= T + P + S
            assert server.pings == []

    play(tmp_path, story)


# -- exporters in processes of their own -----------------------------------------------------------------


@oxid.coclass(CLSID_REMOTE, implements=[IProbe])
class Remote(Probe):
    """Served by a process of its own."""


class _Trusting:
    """The host's launcher, which tells a server that nobody launched where the accounts are."""

    def __init__(self, host):
        self._launcher, self._host = host.service.launches, host

    def __getattr__(self, name):
        return getattr(self._launcher, name)

    def welcome(self, session):
        return {**self._launcher.welcome(session), "accounts": str(self._host.options.accounts_file)}


@asynccontextmanager
async def local_server(server):
    """A process that serves Remote, until the end of the block."""
    Remote.begin()
    host = server.host
    host.service.launches = _Trusting(host)
    world = oxid.World(server.world.clock, server.world.entropy)
    classes = [oxid.coclass_of(Remote)]
    local = LocalServer(classes, world=world, channel=host.options.local_channel, idle_s=10 * T)
    running = asyncio.create_task(local.run())
    await until(lambda: host.service.classes.offers(CLSID_REMOTE), 5, 0.02)
    try:
        yield local
    finally:
        local.stop()
        await running
    assert not any(world.ledger.live().values())
    assert Remote.made == len(Remote.ends)  # each of them ended once


class Slowly:
    """Holds a question of the resolver back before the exporter decides, and its answer behind that."""

    def __init__(self, local):
        self.channel = local._link.channel
        self._reclaim = self.channel.handlers["reclaim"]
        self.channel.handlers = {**self.channel.handlers, "reclaim": self._answer}
        self.asked, self.decided = asyncio.Event(), asyncio.Event()
        self.may_decide, self.may_answer = asyncio.Event(), asyncio.Event()

    async def _answer(self, **question):
        self.asked.set()
        await self.may_decide.wait()
        answer = self._reclaim(**question)
        self.decided.set()
        await self.may_answer.wait()
        return answer

    async def decide(self):
        self.may_decide.set()
        await self.decided.wait()

    def cut(self):
        """The channel breaks; what was to be said is lost."""
        self.channel._transport.abort()


@asynccontextmanager
async def a_reclaim_under_way(server, client):
    """(local server, its slowness, a peer, a proxy): the resolver has just asked whether its object may go."""
    async with local_server(server) as local, raw_peer(server) as peer:
        client.wire = lost
        async with client.process(server, USER) as machine:
            probe = await machine.activate(CLSID_REMOTE, IProbe)
            slowly = Slowly(local)
            await asyncio.sleep(T - S)
            await until(slowly.asked.is_set, 3 * S, 1)
            yield local, slowly, peer, probe
            slowly.may_decide.set()
            slowly.may_answer.set()
            await settle()
            await probe.release()
        await until(lambda: not Remote.alive() and not server.tables.objects, T + P + 2 * S)


async def call(local, peer, probe, target):
    try:
        assert await probe.whoami() == "alice at 6"
    except oxid.ObjectGone:
        return False
    return True


async def join(local, peer, probe, target):
    """A set that is there already takes the object in."""
    set_id = (await peer.complex_ping(0, 1, None, None)).set_id
    reply = await peer.complex_ping(set_id, 2, [probe.oid], None)
    assert reply.status in (0, OR_INVALID_OID)
    return reply.status == 0


async def found(local, peer, probe, target):
    """A new set has it from the beginning."""
    reply = await peer.complex_ping(0, 1, [probe.oid], None)
    assert reply.status == 0  # whatever becomes of it


async def marshal(local, peer, probe, target):
    """A reference leaves with the answer of some call."""
    reference = local.objects.exporter.marshal(target, SPEC)
    assert decode_objref(reference).std.oid == probe.oid
    return True


@pytest.mark.req("B55", "J1", "J3", "J4", "dcom§6.3.order")
@pytest.mark.parametrize(
    ("moment", "events", "lives"),
    [
        ("before it decides", [call], True),
        ("before it decides", [marshal], True),
        ("before it decides", [join], False),
        ("before it decides", [found], False),
        ("before it decides", [join, call], True),
        ("before it decides", [found, marshal, join], True),
        ("when it has decided", [call], False),
        ("when it has decided", [join], False),
        ("when it has decided", [found], False),
        ("when it has decided", [call, join, found], False),
    ],
    ids=lambda value: "+".join(e.__name__ for e in value) if isinstance(value, list) else str(value),
)
def test_what_meets_a_reclaim_under_way_finds_the_object_or_the_truth(tmp_path, moment, events, lives):
    async def story(server, client):
        async with a_reclaim_under_way(server, client) as (local, slowly, peer, probe):
            target = local.objects.exporter.table.object(probe.oid).target
            if moment == "when it has decided":
                await slowly.decide()
            under_way = [asyncio.ensure_future(event(local, peer, probe, target)) for event in events]
            await asyncio.sleep(1)
            await slowly.decide()
            await asyncio.sleep(1)
            slowly.may_answer.set()
            outcomes = await asyncio.gather(*under_way)
            await settle()
            assert (Remote.alive() == 1) is lives
            assert (probe.oid in server.tables.objects) is lives
            assert {known for known in outcomes if known is not None} <= {lives}
            held = [state.oids for state in server.tables.sets.values()]
            joining = [event for event in events if event in (join, found)]
            assert held == [(probe.oid,) if lives else ()] * len(joining)
            if lives:
                assert await probe.whoami() == "alice at 6"

    play(tmp_path, story)


@pytest.mark.req("B55", "J1")
@pytest.mark.parametrize("seconds", [6, 12])
@pytest.mark.parametrize("early", [True, False])
def test_an_exporter_that_is_asked_too_late_keeps_what_was_promised_meanwhile(tmp_path, seconds, early):
    """It has 5 s to decide, and the resolver waits for 10."""

    async def story(server, client):
        async with a_reclaim_under_way(server, client) as (local, slowly, peer, probe):
            began = now()
            await asyncio.sleep(1 if early else seconds - 0.5)
            joining = asyncio.ensure_future(join(local, peer, probe, None))
            await asyncio.sleep(began + seconds - now())
            slowly.may_answer.set()
            await slowly.decide()
            assert await joining is True
            assert Remote.alive() == 1
            assert len(server.tables.objects[probe.oid]) == 1
            assert await probe.whoami() == "alice at 6"

    play(tmp_path, story)


@pytest.mark.req("B55", "J1")
def test_an_object_does_not_haunt_the_tables_when_its_exporter_stopped_before_it_could_say_that_it_is_gone(
    tmp_path,
):
    async def story(server, client):
        async with a_reclaim_under_way(server, client) as (local, slowly, peer, probe):
            slowly.channel._flush = lambda: None  # stopped: it decides, and cannot write
            slowly.may_answer.set()
            await slowly.decide()
            assert Remote.alive() == 0
            await asyncio.sleep(12)  # the resolver goes on without an answer
            joined = asyncio.ensure_future(join(local, peer, probe, None))
            await asyncio.sleep(1)
            del slowly.channel._flush
            slowly.channel._flush()
            await joined
            await settle()
            assert probe.oid not in server.tables.objects
            assert not any(state.oids for state in server.tables.sets.values())
            with pytest.raises(oxid.ObjectGone):
                await probe.whoami()

    play(tmp_path, story)


@pytest.mark.req("B56", "J4")
@pytest.mark.parametrize("when", ["before it decided", "when it has decided"])
def test_an_exporter_that_crashes_in_a_reclaim_takes_its_objects_along_once(tmp_path, when):
    async def story(server, client):
        async with a_reclaim_under_way(server, client) as (local, slowly, peer, probe):
            joining = asyncio.ensure_future(join(local, peer, probe, None))
            await asyncio.sleep(1)
            if when == "when it has decided":
                await slowly.decide()
            slowly.cut()
            local.stop()
            assert await joining is False
            await until(lambda: len(Remote.ends) == 1, S)
            assert server.tables.objects == {}
            assert len(server.tables.exporters) == 1  # that of the host itself
            ends = [event.kind for event in server.host.resolver.events_of(probe.oid) if event.kind in ENDS]
            assert len(ends) == 1
            await asyncio.sleep(3 * S)  # whatever was under way has ended
            assert server.tables.objects == {}
            with pytest.raises(oxid.OxidError):
                await probe.whoami()

    play(tmp_path, story)


@pytest.mark.req("B56", "J1", "J4", "J5")
def test_an_exporter_whose_channel_breaks_in_a_reclaim_comes_back_with_all_it_has_and_nothing_else(tmp_path):
    async def story(server, client):
        async with local_server(server) as local, client.process(server, USER) as machine:
            slowly = Slowly(local)
            out = await machine.activate_raw(CLSID_REMOTE, [SPEC.uuid])  # nobody ever pings it
            doomed = decode_objref(out.interfaces[0].objref).std.oid
            kept = await machine.activate(CLSID_REMOTE, IProbe)
            await until(slowly.asked.is_set, T + 2 * S)
            await slowly.decide()
            slowly.cut()
            await settle()
            await asyncio.sleep(1)
            assert Remote.alive() == 1
            assert set(server.tables.objects) == {kept.oid}
            await asyncio.sleep(2 * T)
            assert await kept.whoami() == "alice at 6"
            assert len(server.tables.objects[kept.oid]) == 1
            assert doomed not in server.tables.objects
            await kept.release()

    play(tmp_path, story)


@pytest.mark.req("B56", "B26", "J4")
def test_an_exporter_whose_channel_broke_loses_what_nobody_pings_as_ever(tmp_path):
    async def story(server, client):
        async with local_server(server) as local, client.process(server, USER) as machine:
            await machine.activate_raw(CLSID_REMOTE, [SPEC.uuid])
            await asyncio.sleep(P)
            Slowly(local).cut()
            broke = now()
            await until(lambda: Remote.ends, T + P + S)
            assert now() - broke >= T - P

    play(tmp_path, story)


# -- resolvers that start anew ---------------------------------------------------------------------------


@pytest.mark.req("B57", "PNG-5", "J1", "J5")
@pytest.mark.parametrize("down", [P / 4, 2 * P])
def test_a_resolver_that_starts_anew_loses_no_object_of_a_living_client_and_none_of_a_dead_one(
    tmp_path, down
):
    async def run():
        Probe.begin()
        async with client_machine(tmp_path / "client") as client, AsyncExitStack() as stack:
            async with server_machine(tmp_path / "server") as first:
                local = await stack.enter_async_context(local_server(first))
                machine = await stack.enter_async_context(client.process(first, USER))
                living = [await machine.activate(CLSID_REMOTE, IProbe) for _ in range(3)]
                async with client.process(first, USER) as other:
                    out = await other.activate_raw(CLSID_REMOTE, [SPEC.uuid])
                orphan = decode_objref(out.interfaces[0].objref).std.oid
                async with raw_peer(first) as peer:  # a client that pinged and dies while nobody can notice
                    doomed = decode_objref(local.objects.exporter.marshal(Remote(), SPEC)).std.oid
                    await asyncio.sleep(P + S)
                    assert (await peer.complex_ping(0, 1, [doomed], None)).status == 0
                assert len(first.tables.objects) == 5
                port = first.port
            gone = now()
            for _ in range(3):
                await asyncio.sleep(down / 3)
                assert await living[0].whoami() == "alice at 6"  # calls need no resolver
            async with server_machine(tmp_path / "server", port=port) as second:
                up = now()
                await until(lambda: len(second.tables.objects) == 5, 2)
                await until(lambda: second.pings, P + 1)
                await settle()
                first_word, anew, *_ = second.pings
                assert (first_word.status, first_word.sequence) == (OR_INVALID_SET, None)
                assert (anew.status, anew.sequence, anew.at) == (0, 1, first_word.at)
                assert set(anew.add) == {probe.oid for probe in living}
                await asyncio.sleep(up + T - 1 - now())
                assert Remote.alive() == 5  # grace: who knows who has yet to ping
                assert set(second.tables.objects) == {orphan, doomed, *(probe.oid for probe in living)}
                await until(lambda: len(Remote.ends) == 2, T + P + S)
                assert now() - up <= T + T + P + S
                assert set(second.tables.objects) == {probe.oid for probe in living}
                await asyncio.sleep(2 * T)
                for probe in living:
                    assert await probe.whoami() == "alice at 6"
                again = await machine.activate(CLSID_REMOTE, IProbe)  # the class is offered again, too
                for probe in (*living, again):
                    await probe.release()
                await until(lambda: client.at_rest, P + S)
                assert second.at_rest
                assert gone < up
                await stack.aclose()

    run_virtual(run())


@pytest.mark.req("B57", "J1", "J4")
def test_a_resolver_that_starts_anew_in_the_middle_of_a_reclaim_asks_again_in_its_own_time(tmp_path):
    async def run():
        Probe.begin()
        async with client_machine(tmp_path / "client") as client, AsyncExitStack() as stack:
            async with server_machine(tmp_path / "server") as first:
                local = await stack.enter_async_context(local_server(first))
                async with client.process(first, USER) as machine:
                    out = await machine.activate_raw(CLSID_REMOTE, [SPEC.uuid])
                oid = decode_objref(out.interfaces[0].objref).std.oid
                slowly = Slowly(local)
                await until(slowly.asked.is_set, T + 2 * S)
                port = first.port
            await asyncio.sleep(1)
            async with server_machine(tmp_path / "server", port=port) as second:
                up = now()
                await until(lambda: oid in second.tables.objects, 2)
                slowly.may_decide.set()  # the old question finds nobody who asked it
                await asyncio.sleep(T - S)
                assert Remote.alive() == 1
                await until(lambda: Remote.ends, T + P + S)
                assert T <= now() - up <= T + T + P + S
                assert second.tables.objects == {}
                await stack.aclose()

    run_virtual(run())
