"""What a network does to pings, and what becomes of the objects: scenarios B40 to B42, B44, B46 to B49 and B51

P is 120 s, T 360 s, S 10 s. `client.wire` comes before a ping, `client.answers` behind it: what raises there is a
request, or an answer, that the network lost.
"""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import count, groupby, pairwise
from uuid import UUID

import pytest
from tests.support import lifetimes
from tests.support.lifetimes import (
    CLSID_PROBE,
    OTHER,
    USER,
    IProbe,
    P,
    Probe,
    S,
    T,
    now,
    server_machine,
    settle,
)
from tests.support.resolver import sweep

import oxid
from oxid.auth.context import AuthType
from oxid.com.objref import decode_objref
from oxid.com.ping_agent import PingTarget
from oxid.com.ping_client import MAX_CHANGES, ClientPingSet
from oxid.com.reference_table import Verdict
from oxid.interfaces.object_exporter import IObjectExporter
from oxid.rpcss.oxid_resolver import OxidResolver
from oxid.rpcss.ping_sets import PingCaller
from oxid.runtime.client import open_connection
from oxid.values.bindings import DualStringArray
from oxid.values.status import OR_INVALID_OID, OR_INVALID_SET

IID = oxid.spec_of(IProbe).uuid
ALICE = PingCaller("alice", "10.0.0.1")
LOST = oxid.TransportError("the network lost it")


async def until(true, within, step=5.0):
    """In steps of invented time that cost less real time than those of a second."""
    return await lifetimes.until(true, within, step)


def play(tmp_path, story, **options):
    async def to_the_end(server, client):
        await story(server, client)
        await until(lambda: client.at_rest, 2 * P + S, S)
        await until(lambda: server.at_rest, T + P + 2 * S, S)

    lifetimes.play(tmp_path, to_the_end, **options)


@asynccontextmanager
async def raw_peer(server, credentials=USER):
    """IObjectExporter as somebody else's program calls it, which sends what it likes."""
    world = oxid.World(server.world.clock, server.world.entropy)
    there = ("127.0.0.1", server.port)
    async with open_connection(
        *there, world=world, credentials=credentials, auth_type=AuthType.NTLM
    ) as connection:
        yield await connection.proxy(IObjectExporter)


def expose(server, how_many=1):
    """Objects of the server to which references left, of which no client knows: their OIDs."""
    exporter = server.host.exporter
    made = [decode_objref(exporter.marshal(Probe(), oxid.spec_of(IProbe))) for _ in range(how_many)]
    return [reference.std.oid for reference in made]


def complex_pings(pings):
    return [ping for ping in pings if ping.sequence is not None]


def holders(server, oid):
    return server.tables.objects[oid]


async def founded(client):
    """Until the first ping has been answered."""
    await until(lambda: client.pings and client.pings[-1].status == 0, P + S)


# -- lost, repeated, late --------------------------------------------------------------------------------


@pytest.mark.req("B40", "PNG-4", "J1", "J9")
@pytest.mark.parametrize(("what", "times"), [("request", 1), ("answer", 2)])
def test_a_change_that_gets_no_answer_is_said_again_as_it_was_until_it_does(tmp_path, what, times):
    async def story(server, client):
        lost = []

        async def lossy(places, identity, ping):
            if ping.add and len(lost) < times:
                lost.append(ping)
                raise LOST

        async with client.process(server, USER) as machine:
            first = await machine.activate(CLSID_PROBE, IProbe)
            await founded(client)
            begin = len(client.pings)
            setattr(client, "wire" if what == "request" else "answers", lossy)
            second = await machine.activate(CLSID_PROBE, IProbe)
            await until(lambda: lost, P + S)
            third = await machine.activate(CLSID_PROBE, IProbe)  # changes wait for the answer
            await first.release()
            await until(lambda: len(client.pings) == begin + times + 2, 2 * P + S)
            await settle()
            said = [sent.ping for sent in client.pings[begin:]]
            *same, last = said
            assert len(set(same)) == 1
            assert (same[0].sequence, same[0].add, same[0].remove) == (2, (second.oid,), ())
            assert (last.sequence, last.add, last.remove) == (3, (third.oid,), (first.oid,))
            heard = [ping.sequence for ping in complex_pings(server.pings)]
            assert heard == ([1, 2, 3] if what == "request" else [1, 2, 2, 2, 3])
            assert {ping.status for ping in server.pings} == {0}
            (state,) = server.tables.sets.values()
            assert set(state.oids) == {second.oid, third.oid}
            assert holders(server, second.oid) == holders(server, third.oid) == (last.set_id,)
            assert server.host.resolver.statistics()["memberships"] == 2
            await second.release()
            await third.release()
            await until(lambda: client.at_rest, P + S)

    play(tmp_path, story)


@pytest.mark.req("B41", "PNG-4", "J9")
def test_never_is_more_than_one_ping_of_a_set_under_way(tmp_path):
    async def story(server, client):
        under_way, most = Counter(), Counter()

        async def slow(places, identity, ping):
            under_way[identity] += 1
            most[identity] = max(most[identity], under_way[identity])
            try:
                await asyncio.sleep(7)
            except asyncio.CancelledError:  # the tick took too long
                under_way[identity] -= 1
                raise

        async def done(places, identity, ping):
            under_way[identity] -= 1

        client.wire, client.answers = slow, done
        async with client.process(server, USER) as mine, client.process(server, OTHER) as theirs:
            probes, impatient = [], []
            for turn in range(12):
                for machine in (mine, theirs):
                    probes.append(await machine.activate(CLSID_PROBE, IProbe))
                    target = probes[-1]._pointer.object.pinged_by
                    impatient.append(asyncio.create_task(client.agent.pings.tell(target)))
                impatient.append(asyncio.create_task(client.agent.pings.tick()))
                await asyncio.sleep(turn)
                if turn % 3 == 2:
                    await probes.pop(0).release()
            await asyncio.gather(*impatient)
            assert set(most.values()) == {1}
            assert len(most) == 2
            for sent in (USER.user, OTHER.user):
                said = [s.ping for s in client.pings if s.user == sent and not s.ping.simple]
                said = [ping for ping, _ in groupby(said)]  # a tick that took too long says it again
                assert [ping.sequence for ping in said] == list(range(1, len(said) + 1))
                assert len(said) > 5
            assert {oid for state in server.tables.sets.values() for oid in state.oids} == {
                probe.oid for probe in probes
            }
            for probe in probes:
                await probe.release()

    play(tmp_path, story)


@pytest.mark.req("B41", "PNG-4")
def test_a_copy_that_the_network_kept_does_not_undo_what_was_said_later(tmp_path):
    async def story(server, client):
        async with client.process(server, USER) as machine, raw_peer(server) as network:
            first = await machine.activate(CLSID_PROBE, IProbe)
            await founded(client)
            second = await machine.activate(CLSID_PROBE, IProbe)
            machine.marshal(
                second
            )  # a parcel that arrives nowhere: its reference keeps the object for a while
            await until(lambda: client.pings[-1].ping.add == (second.oid,), P + S)
            await settle()
            kept = client.pings[-1].ping
            await second.release()
            await until(lambda: client.pings[-1].ping.remove == (second.oid,), P + S)
            await settle()
            before = server.tables.sets[kept.set_id]
            await asyncio.sleep(S)
            reply = await network.complex_ping(kept.set_id, kept.sequence, list(kept.add), None)
            assert (reply.status, reply.set_id) == (0, kept.set_id)
            assert server.tables.sets[kept.set_id] == before  # nor is it a sign of life
            assert before.oids == (first.oid,)
            assert not holders(server, second.oid)
            await until(lambda: len(Probe.ends) == 1, T + P + S)
            await first.release()

    play(tmp_path, story)


@pytest.mark.req("B41", "PNG-5", "J5")
def test_what_the_resolver_may_not_have_heard_before_it_forgot_the_set_is_said_with_all_the_rest(tmp_path):
    async def story(server, client):
        async with client.process(server, USER) as machine:
            first = await machine.activate(CLSID_PROBE, IProbe)
            await founded(client)
            (old,) = server.tables.sets

            async def cut(places, identity, ping):
                raise LOST

            client.answers = cut
            second = await machine.activate(CLSID_PROBE, IProbe)
            await until(lambda: client.pings[-1].ping.add == (second.oid,), P + S)
            client.wire, client.answers = cut, None
            for _ in range(10):  # calls get through: neither object may go
                await asyncio.sleep(P / 2)
                await first.whoami()
                await second.whoami()
            assert old not in server.tables.sets
            client.wire, begin = None, len(client.pings)
            await until(lambda: len(client.pings) >= begin + 3, P + S)
            await settle()
            again, anew, *probes = client.pings[begin:]
            assert (again.ping.set_id, again.ping.sequence, again.status) == (old, 2, OR_INVALID_SET)
            assert (anew.ping.set_id, anew.ping.sequence) == (0, 1)
            assert set(anew.ping.add) == {first.oid, second.oid}
            assert all(sent.status == 0 and sent.at == again.at for sent in (anew, *probes))
            await asyncio.sleep(2 * T)
            assert await first.whoami() == await second.whoami() == "alice at 6"
            await first.release()
            await second.release()

    play(tmp_path, story)


# -- sequence numbers ------------------------------------------------------------------------------------


@pytest.fixture
def resolver():
    ids = count(0x1D00_0000_0000_0000, 0x1111)
    made = OxidResolver(lambda: next(ids))
    yield made
    made.close(1e9)


def objects_of(resolver, how_many, when=0.0):
    entry = resolver.add_exporter(DualStringArray(), UUID(int=1))
    return [resolver.add_oid(entry.oxid, when) for _ in range(how_many)]


@pytest.mark.req("B42", "PNG-4", "J9")
def test_a_client_of_ours_counts_once_around_and_every_change_arrives(resolver):
    a, b = objects_of(resolver, 2)
    ours, numbers = ClientPingSet(), []
    ours.hold(a)
    for turn in range(65_545):
        if turn:
            (ours.hold if turn % 2 else ours.let_go)(b)
        ping = ours.next_ping()
        assert not ping.simple
        numbers.append(ping.sequence)
        result = resolver.complex_ping(ping.set_id, ping.sequence, ping.add, ping.remove, ALICE, 0.0)
        ours.answered(ping, result.status, result.set_id)
        if turn > 65_500 or turn % 1_000 == 0:
            assert set(resolver.tables().sets[ours.set_id].oids) == ours.oids
    assert numbers == [*range(1, 65_536), *range(1, 11)]  # 0 is skipped


# -- sets that are founded twice, and sets that end ------------------------------------------------------


@pytest.mark.req("B44", "PNG-3", "J1", "J2")
def test_a_set_that_was_founded_twice_ends_once_by_itself_and_takes_no_object_along(tmp_path):
    async def story(server, client):
        async with client.process(server, USER) as machine:
            probes = [await machine.activate(CLSID_PROBE, IProbe) for _ in range(3)]

            async def lost(places, identity, ping):
                client.answers = None
                raise LOST

            client.answers = lost
            await until(lambda: server.tables.sets, P + S)
            (orphan,) = server.tables.sets
            await until(lambda: len(server.tables.sets) == 2, P + S)
            (kept,) = server.tables.sets.keys() - {orphan}
            assert client.pings[0].ping == client.pings[1].ping
            assert all(set(holders(server, p.oid)) == {orphan, kept} for p in probes)
            await until(lambda: orphan not in server.tables.sets, T + S)
            founded, again = client.pings[:2]
            assert again.at - founded.at == pytest.approx(P)
            assert T <= now() - founded.at <= T + 2 * S
            assert all(holders(server, p.oid) == (kept,) for p in probes)
            await asyncio.sleep(2 * T)
            assert Probe.ends == []
            for probe in probes:
                assert await probe.whoami() == "alice at 6"
                await probe.release()

    play(tmp_path, story)


@pytest.mark.req("B44", "B21", "J7")
def test_a_client_that_lets_go_before_it_heard_of_its_first_set_falls_silent(tmp_path):
    async def story(server, client):
        async def lost(places, identity, ping):
            raise LOST

        client.answers = lost
        async with client.process(server, USER) as machine:
            probe = await machine.activate(CLSID_PROBE, IProbe)
            await until(lambda: server.tables.sets, P + S)
            await probe.release()
            let_go = now()
            await asyncio.sleep(10 * P)
            assert not client.pings_since(let_go + 2 * P + S)
            assert client.at_rest

    play(tmp_path, story)


@pytest.mark.req("B46", "PNG-11", "J2")
def test_a_ping_comes_in_time_until_the_very_moment_at_which_it_does_not(resolver):
    (oid,) = objects_of(resolver, 1)

    def pings(when, *, swept):
        set_id = resolver.complex_ping(0, 1, (oid,), (), ALICE, 0.0).set_id
        if swept:
            resolver.expire(when)
        status = resolver.simple_ping(set_id, ALICE, when)
        resolver.expire(when)
        assert (set_id in resolver.tables().sets) is (status == 0)
        assert (set_id in resolver.tables().objects[oid]) is (status == 0)
        assert resolver.simple_ping(set_id, ALICE, when) == status  # who won has won
        return status

    for swept in (False, True):
        assert pings(T - 1e-6, swept=swept) == 0
        assert pings(T, swept=swept) == OR_INVALID_SET
        assert pings(T + 1e-6, swept=swept) == OR_INVALID_SET


@pytest.mark.req("B46", "PNG-5", "PNG-11", "J1")
def test_who_founds_the_set_anew_in_the_same_moment_keeps_the_object_until_its_exporter_was_asked(resolver):
    (oid,) = objects_of(resolver, 1)
    late = T + 5.0
    old = resolver.complex_ping(0, 1, (oid,), (), ALICE, 0.0).set_id
    assert resolver.simple_ping(old, ALICE, late) == OR_INVALID_SET
    kept = resolver.complex_ping(0, 1, (oid,), (), ALICE, late)
    assert sweep(resolver, late, lambda oxid, oids: [Verdict.DEAD] * len(oids)) == ()
    assert resolver.tables().objects[oid] == (kept.set_id,)
    later = late + T
    resolver.expire(later)
    (question,) = resolver.questions()
    anew = resolver.complex_ping(0, 1, (oid,), (), ALICE, later)  # while the exporter decides
    assert anew.undecided == (oid,)
    resolver.answered(question, [Verdict.DEAD], later)
    assert resolver.add_decided(anew.set_id, anew.undecided, later) == OR_INVALID_OID
    assert oid not in resolver.tables().objects
    assert resolver.tables().sets[anew.set_id].oids == ()


@pytest.mark.req("B46", "PNG-5", "PNG-6", "PNG-11", "J4")
@pytest.mark.parametrize(
    ("since", "delay", "lives"),
    [
        pytest.param("deadline", -0.01, True, id="just in time"),
        pytest.param("deadline", 0.0, True, id="at the deadline"),
        pytest.param("sweep", -0.01, True, id="just before the sweep"),
        pytest.param("sweep", 0.0, None, id="with the sweep"),
        pytest.param("sweep", 0.01, False, id="just behind the sweep"),
    ],
)
def test_a_late_ping_finds_its_object_or_is_told_the_truth(tmp_path, since, delay, lives):
    async def story(server, client):
        async def wire(places, identity, ping):
            if not server.pings:
                await asyncio.sleep(2 * S)  # so that a later ping can come before the deadline
            else:
                (state,) = server.tables.sets.values()
                if now() < state.deadline - 3 * S:
                    raise LOST
                swept = -(-state.deadline // S) * S
                await asyncio.sleep({"deadline": state.deadline, "sweep": swept}[since] + delay - now())
                client.wire = None

        async with client.process(server, USER) as machine:
            probe = await machine.activate(CLSID_PROBE, IProbe)
            told = []
            probe.on_gone(lambda: told.append(now()))
            client.wire = wire
            await until(lambda: client.wire is None, 2 * P + T + S)
            await settle()
            statuses = [ping.status for ping in server.pings[1:]]
            assert statuses[0] == (0 if delay and since == "deadline" else OR_INVALID_SET)
            assert lives in (None, Probe.alive() == 1)
            if Probe.alive():
                assert set(statuses[1:]) <= {0}
                assert len(holders(server, probe.oid)) == 1
                assert await probe.whoami() == "alice at 6"
                await asyncio.sleep(2 * T)
                assert await probe.whoami() == "alice at 6"
                assert not told
            else:
                assert statuses[1:] == [0, OR_INVALID_OID]
                assert told == [pytest.approx(server.pings[1].at, abs=1)]  # in the same tick
                with pytest.raises(oxid.ObjectGone):
                    await probe.whoami()
                assert server.tables.objects == {}
            await probe.release()

    play(tmp_path, story)


# -- many ------------------------------------------------------------------------------------------------


@pytest.mark.req("B47", "PNG-6")
def test_one_dead_object_among_a_thousand_costs_the_others_nothing(tmp_path):
    async def story(server, client):
        async with client.process(server, USER) as machine:
            out = await machine.activate_raw(UUID(CLSID_PROBE), [IID])
            await until(lambda: Probe.ends, T + P + S)
            anchor = await machine.activate(CLSID_PROBE, IProbe)
            await founded(client)
            dead = machine.proxy(out.interfaces[0].objref, IProbe)
            living = await asyncio.gather(*(anchor.another() for _ in range(999)))
            told = []
            for number, proxy in enumerate([*living, dead]):
                proxy.on_gone(lambda number=number: told.append(number))
            begin = len(client.pings)
            await until(lambda: told, P + S)
            await settle()
            change, *search = client.pings[begin:]
            assert (len(change.ping.add), change.status) == (1_000, OR_INVALID_OID)
            assert {sent.at for sent in search} == {change.at}  # in the same tick
            assert len(search) <= 2 * 10 + 1
            assert told == [999]
            (state,) = server.tables.sets.values()
            assert set(state.oids) == {proxy.oid for proxy in (anchor, *living)}
            begin = len(client.pings)
            await asyncio.sleep(2 * P)
            assert all(sent.ping.simple and sent.status == 0 for sent in client.pings[begin:])
            assert await living[500].whoami() == "alice at 6"
            for proxy in (anchor, dead, *living):
                proxy.release_soon()
            await until(lambda: Probe.alive() == 0, S)

    play(tmp_path, story)


@pytest.mark.req("B48", "PNG-2", "J6")
def test_processes_share_one_set_for_each_resolver_and_identity_and_rest_with_simple_pings(tmp_path):
    async def story(server, client):
        async with AsyncExitStack() as stack:
            more = [
                await stack.enter_async_context(server_machine(tmp_path / name, world=server.world))
                for name in "ab"
            ]
            probes = []
            for there in (server, *more):
                for who in (USER, OTHER):
                    for _ in range(4):
                        machine = await stack.enter_async_context(client.process(there, who))
                        probes.append(await machine.activate(CLSID_PROBE, IProbe))
            await asyncio.sleep(P + S)
            assert client.agent.pings.statistics() == {"sets": 6, "oids": 24}
            for there in (server, *more):
                assert sorted(len(state.oids) for state in there.tables.sets.values()) == [4, 4]
            rest = now()
            await asyncio.sleep(10 * P)
            steady = client.pings_since(rest)
            assert all(sent.ping.simple and sent.status == 0 for sent in steady)
            assert set(Counter((sent.places, sent.user) for sent in steady).values()) == {10}
            for probe in probes:
                await probe.release()

    play(tmp_path, story)


@pytest.mark.req("B48", "PNG-3", "PNG-13", "J9")
def test_many_changes_are_split_and_all_told_in_one_tick(tmp_path):
    async def story(server, client):
        resolver = server.host.resolver
        entry = resolver.add_exporter(DualStringArray(), UUID(int=1))
        oids = [resolver.add_oid(entry.oxid, now()) for _ in range(2 * MAX_CHANGES + 500)]
        target = PingTarget((("127.0.0.1", server.port),), (oxid.Blanket(USER, 5, AuthType.NTLM),), P)
        for change in (client.agent.pings.hold, client.agent.pings.let_go):
            begin = len(client.pings)
            for oid in oids:
                change(target, oid)
            await until(lambda begin=begin: len(client.pings) >= begin + 3, P + S)
            began = now()
            await settle()
            told = [sent.ping for sent in client.pings[begin:]]
            sizes = [len(ping.add) + len(ping.remove) for ping in told]
            assert sizes == [MAX_CHANGES, MAX_CHANGES, 500]
            assert max(sizes) <= 0xFFFF
            assert 8 * max(sizes) < 4 << 20
            assert {sent.status for sent in client.pings[begin:]} == {0}
            assert client.pings[-1].at - client.pings[begin].at <= now() - began + S < P / 2
            held = sum(len(state.oids) for state in server.tables.sets.values())
            assert held == (len(oids) if begin == 0 else 0)
        assert [sent.ping.sequence for sent in client.pings] == [1, 2, 3, 4, 5, 6]
        resolver.remove_exporter(entry.oxid, now())

    play(tmp_path, story)


@pytest.mark.req("B49", "PNG-12")
@pytest.mark.parametrize("hole", ["wire", "socket"])
def test_a_resolver_that_swallows_everything_makes_nobody_else_wait(tmp_path, hole):
    async def story(server, client):
        async def swallow(reader, writer):
            await reader.read()
            writer.close()

        black_hole = await asyncio.start_server(swallow, "127.0.0.1", 0)
        place = ("127.0.0.1", black_hole.sockets[0].getsockname()[1])
        targets = [
            PingTarget((place, ("127.0.0.1", port)), (oxid.Blanket(USER, 5, AuthType.NTLM),), P)
            for port in (1, 2, 3)  # three resolvers, none of which answers
        ]

        async def wire(places, identity, ping):
            if place in places:
                await asyncio.get_running_loop().create_future()

        if hole == "wire":
            client.wire = wire
        async with (
            server_machine(tmp_path / "other", world=server.world) as another,
            client.process(server, USER) as here,
            client.process(another, OTHER) as there,
        ):
            for number, target in enumerate(targets):
                client.agent.pings.hold(target, number + 1)
            probes = [await machine.activate(CLSID_PROBE, IProbe) for machine in (here, there)]
            await asyncio.sleep(20 * P)
            for answering in (server, another):
                arrivals = [ping.at for ping in answering.pings]
                assert len(arrivals) >= 19
                assert max(b - a for a, b in pairwise(arrivals)) < 1.1 * P
            assert len([sent for sent in client.pings if place in sent.places]) >= 3 * 19
            assert Probe.alive() == 2
            for probe in probes:
                await probe.release()
            for number, target in enumerate(targets):
                client.agent.pings.let_go(target, number + 1)
            await until(lambda: client.at_rest, 3 * P)
        black_hole.close()
        await black_hole.wait_closed()

    play(tmp_path, story)


@pytest.mark.req("B51", "PNG-8")
def test_a_resolver_that_asks_for_less_pings_gets_as_many(tmp_path):
    async def story(server, client):
        complex_ping = server.host.resolver.complex_ping
        server.host.resolver.complex_ping = lambda *args: replace(complex_ping(*args), backoff=0xFFFF)
        async with client.process(server, USER) as machine:
            async with machine.activate(CLSID_PROBE, IProbe) as probe:
                await asyncio.sleep(20 * P)
                arrivals = [ping.at for ping in server.pings]
                assert len(arrivals) >= 19
                assert max(b - a for a, b in pairwise(arrivals)) < 1.1 * P
                assert await probe.whoami() == "alice at 6"

    play(tmp_path, story)
