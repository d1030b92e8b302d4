"""Q224837: a client machine does not ping for what none of its programs holds. Scenarios B20 to B27, B31 to B33"""

import asyncio
import socket
from contextlib import aclosing
from itertools import pairwise

import pytest
from tests.support.interleavings import explore
from tests.support.lifetimes import (
    CLSID_PROBE,
    OTHER,
    USER,
    IProbe,
    P,
    Probe,
    S,
    T,
    client_machine,
    now,
    settle,
    until,
)
from tests.support.pings import (
    ENDED,
    FAULTS,
    KILLED,
    RELEASED,
    SILENCE,
    Holder,
    R,
    ShortWire,
    pinged,
    play,
    unreachable,
)

import oxid
from oxid.com import client_activation

BY_USER = oxid.AuthInfo(USER)


@pytest.mark.req("B20", "B22", "J7")
@pytest.mark.parametrize("how", [RELEASED, ENDED, KILLED])
@pytest.mark.parametrize("phase", [0.01, 0.5, 0.99])
def test_the_end_is_told_at_the_next_tick_and_then_there_is_silence(tmp_path, how, phase):
    async def story(server, client):
        async with Holder(server, client) as holder:
            first = await pinged(client)
            await asyncio.sleep(first.at + (1 + phase) * P - now())
            over = await holder.let_go(how)
            await settle()
            assert Probe.alive() == (how == KILLED)  # what can still speak says so at once
            await asyncio.sleep(P + R)
            (last,) = client.pings_since(over)
            assert last.ping.remove == first.ping.add
            assert last.status == 0
            assert last.at == pytest.approx(first.at + 2 * P, abs=1)
            assert client.at_rest
            await asyncio.sleep(2)  # connections that nothing uses are closed after one second
            assert client.world.ledger.live()["rpc_connection"] == 0
            await asyncio.sleep(10 * P)
            assert client.pings_since(over) == [last]
            assert server.world.ledger.live()["rpc_connection"] == 0

    play(tmp_path, story)


@pytest.mark.req("B20", "PNG-3")
def test_a_set_lives_until_the_last_of_its_objects_is_let_go(tmp_path):
    async def story(server, client):
        async with client.process(server, USER) as machine:
            probes = [await machine.activate(CLSID_PROBE, IProbe) for _ in range(3)]
            await pinged(client, probes[2].oid)
            for left, probe in zip((2, 1, 0), probes, strict=True):
                released, oid = now(), probe.oid
                await probe.release()
                await asyncio.sleep(P + R)
                assert client.pings_since(released)[0].ping.remove == (oid,)
                assert sum(len(sets) for sets in server.tables.objects.values()) == left
            await asyncio.sleep(10 * P)
            assert len(client.pings_since(released)) == 1

    play(tmp_path, story)


@pytest.mark.req("B21", "B22", "J6", "J7")
@pytest.mark.parametrize("how", [RELEASED, KILLED])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("since", ["now", "ever"])
def test_a_last_ping_that_does_not_get_through_is_tried_once_more(tmp_path, since, fault, how):
    """Also where none has ever got through: nothing of this set was told, and all of it ends."""

    async def story(server, client):
        if since == "ever":
            client.wire = FAULTS[fault]
        async with Holder(server, client) as holder:
            if since == "ever":
                await until(lambda: len(client.pings) >= 2, 3 * P, P / 20)
            else:
                await pinged(client)
            await asyncio.sleep(R + 1)
            client.wire = FAULTS[fault]
            over = await holder.let_go(how)
            await until(lambda: client.at_rest, SILENCE, P / 20)
            assert len(client.pings_since(over)) == 2 or since == "ever"
            quiet = len(client.pings)
            await asyncio.sleep(20 * P)
            assert len(client.pings) == quiet
            client.wire = None

    play(tmp_path, story)


@pytest.mark.req("B21", "J6")
@pytest.mark.parametrize("fate", ["refused by the resolver", "applied, and the answer lost"])
def test_a_last_ping_is_over_however_it_failed(tmp_path, fate):
    async def story(server, client):
        async with Holder(server, client) as holder:
            await pinged(client)
            if fate == "refused by the resolver":
                server.host.service.object_exporter._admits = lambda who: False
            else:
                client.answers = unreachable
            over = await holder.let_go(RELEASED)
            await until(lambda: client.at_rest, SILENCE, P / 20)
            seen = server.pings_since(over)
            assert [ping.status for ping in seen] == ([5, 5] if fate == "refused by the resolver" else [0, 0])
            assert {ping.remove for ping in seen} == {(holder.oid,)}
            await asyncio.sleep(20 * P)
            assert server.pings_since(over) == seen

    play(tmp_path, story)


@pytest.mark.req("B21", "B22", "BLK-3", "J7", "J8")
@pytest.mark.parametrize("how", [RELEASED, ENDED, KILLED])
def test_the_unauthenticated_client_of_the_article_leaves_nobody_who_pings_for_it(tmp_path, how):
    """Activation as somebody, one secured proxy, nobody's own identity, and a server that takes none of nobody."""

    async def story(server, client):
        async with Holder(server, client, credentials=None, may_be=(USER,)) as holder:
            await holder.probe.release()
            holder.probe = await holder.machine.activate(CLSID_PROBE, IProbe, auth_info=BY_USER)
            await holder.probe.set_blanket(credentials=USER)
            assert await holder.probe.whoami() == "alice at 6"
            await asyncio.sleep(2 * T)
            assert Probe.alive() == 1
            server.host.service.object_exporter._admits = lambda who: who.principal is not None
            over = await holder.let_go(how)
            await asyncio.sleep(SILENCE)
            assert client.at_rest
            quiet = len(client.pings)
            assert len(client.pings_since(over)) <= 2
            await asyncio.sleep(24 * 3600)
            assert len(client.pings) == quiet

    play(tmp_path, story, insecure_anonymous=True)


@pytest.mark.req("B23", "PNG-6", "PNG-7")
@pytest.mark.parametrize("answer", [0, 0x777, 0x778])
def test_whatever_the_resolver_says_to_the_last_ping_ends_the_set(tmp_path, answer):
    async def story(server, client):
        send = client.agent.pings._send

        async def answered(places, identity, ping):
            status, set_id = await send(places, identity, ping)
            return (answer if ping.remove else status), set_id

        client.agent.pings._send = answered
        async with Holder(server, client) as holder:
            await pinged(client)
            over = await holder.let_go(KILLED)
            await until(lambda: client.at_rest, P + R, P / 20)
            assert len(client.pings_since(over)) == 1

    play(tmp_path, story)


@pytest.mark.req("B23", "PNG-5")
@pytest.mark.parametrize("gone", ["its set", "its exporter"])
def test_a_resolver_that_knows_nothing_any_more_does_not_keep_a_set_alive(tmp_path, gone):
    async def story(server, client):
        async with Holder(server, client) as holder:
            await pinged(client)
            if gone == "its set":
                sets = server.host.resolver._sets
                for found in list(sets._sets.values()):
                    found.last_ping = now() - T
                    assert sets.simple_ping(found.set_id, found.owner, now()) == 0x778
            else:
                await exporter_dies(server)
            over = await holder.let_go(KILLED)
            await until(lambda: client.at_rest, P + R, P / 20)
            assert len(client.pings_since(over)) == 1

    play(tmp_path, story)


async def exporter_dies(server):
    """As a process that is killed: its connections end, and the resolver runs down what it had."""
    objects = server.host.objects
    await objects.server.aclose()
    server.host.resolver.remove_exporter(objects.exporter.oxid, now())
    objects.exporter.table.clear("killed")


@pytest.mark.req("B25", "J7")
def test_an_agent_that_was_killed_is_told_everything_again_before_anybody_notices(tmp_path):
    async def story(server, client):
        async with client.process(server, USER) as machine:
            probes = [await machine.activate(CLSID_PROBE, IProbe) for _ in range(3)]
            await pinged(client, probes[2].oid)
            for alone in (0.0, 2 * P):
                killed = now()
                await client.agent.__aexit__(None, None, None)
                await asyncio.sleep(alone)
                async with client_machine(client.agent.options.socket.parent, client.world) as second:
                    await until(lambda second=second: second.pings, P + 2, P / 20)
                    await settle()
                    assert set(second.pings[0].ping.add) == {probe.oid for probe in probes}
                    await asyncio.sleep(2 * T)
                    assert Probe.alive() == 3
                    heard = [ping.at for ping in server.pings if ping.at >= killed - P]
                    gaps = [b - a for a, b in pairwise(heard)]
                    assert max(gaps) <= 2 * P + 1  # and a set lives for three
                    client.agent = second.agent
            for probe in probes:
                await probe.release()

    play(tmp_path, story)


@pytest.mark.req("B25", "J7")
def test_an_agent_that_was_killed_with_its_client_remembers_nothing(tmp_path):
    async def story(server, client):
        async with Holder(server, client) as holder:
            await pinged(client)
            await client.agent.__aexit__(None, None, None)
            over = await holder.let_go(KILLED)
            async with client_machine(client.agent.options.socket.parent, client.world) as second:
                await until(lambda: Probe.ends, T + P + S, P / 20)
                await asyncio.sleep(10 * P)
                assert second.pings == []
                assert server.pings_since(over) == []

    play(tmp_path, story)


@pytest.mark.req("B26", "dcom§6.3.bounds")
def test_a_client_machine_that_vanishes_is_gone_within_the_bound(tmp_path):
    """No connection ends: the cable is cut."""

    async def story(server, client):
        async with client.process(server, USER) as machine:
            probes = [await machine.activate(CLSID_PROBE, IProbe) for _ in range(3)]
            await pinged(client, probes[2].oid)
            await probes[0].whoami()
            await asyncio.sleep(P / 2)
            client.wire = FAULTS["swallowed"]
            cut, heard = now(), server.pings[-1].at
            await until(lambda: len(Probe.ends) == 3, T + P + S, S / 4)
            assert all(T < end - heard <= T + P + S for end in Probe.ends)
            assert server.pings_since(cut) == []
            assert server.at_rest
            client.wire = None

    play(tmp_path, story)


@pytest.mark.req("B26")
def test_the_connections_of_a_client_machine_that_vanishes_are_found_by_keepalive(tmp_path):
    """What a machine that says nothing leaves behind are sockets: the kernel has to find that nobody is there."""

    async def story(server, client):
        async with client.process(server, USER) as machine:
            async with machine.activate(CLSID_PROBE, IProbe) as probe:
                await probe.whoami()
                servers = (server.host.rpc_server, server.host.object_server)
                accepted = [connection for each in servers for connection in each.connections]
                assert len(accepted) >= 2
                for connection in accepted:
                    link = connection.transport.get_extra_info("socket")
                    assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                    wait = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                    every = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
                    probes = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
                    assert wait + every * probes <= 15 * 60

    play(tmp_path, story)


@pytest.mark.req("B27", "PNG-6")
@pytest.mark.parametrize("resolver", ["knows", "is out of reach for a moment"])
def test_an_exporter_that_dies_in_the_middle_of_things_is_soon_pinged_no_more(
    tmp_path, monkeypatch, resolver
):
    """The lost connection makes the client ask, at once or with its next ping: its resolver knows nothing of it."""

    async def busy(*_):
        raise oxid.TransportError("not just now")

    async def story(server, client):
        async with client.process(server, USER) as machine:
            probes = [await machine.activate(CLSID_PROBE, IProbe) for _ in range(5)]
            await pinged(client, probes[4].oid)
            await probes[0].whoami()
            told = []
            for number, probe in enumerate(probes):
                probe.on_gone(lambda number=number: told.append(number))
            if resolver != "knows":
                monkeypatch.setattr(client_activation, "resolve_exporter", busy)
            died = now()
            await exporter_dies(server)
            await until(lambda: len(told) == 5, P + R, P / 20)
            await asyncio.sleep(P + R)
            seen = server.pings_since(died)
            if resolver == "knows":
                assert [len(ping.remove) for ping in seen] == [5]
            else:
                assert {ping.status for ping in seen} == {0x777}
            await asyncio.sleep(20 * P)
            assert server.pings_since(died) == seen
            with pytest.raises(oxid.OxidError):
                await probes[0].whoami()
            await asyncio.sleep(20 * P)
            assert server.pings_since(died) == seen
            assert sorted(told) == [0, 1, 2, 3, 4]  # each of them once
            for probe in probes:
                await probe.release()

    play(tmp_path, story)


@pytest.mark.req("B27")
@pytest.mark.parametrize("how", [RELEASED, KILLED, "called"])
def test_an_exporter_that_died_unnoticed_is_pinged_until_somebody_notices(tmp_path, how):
    """Without a connection to it only the resolver knows, and a SimplePing does not ask."""

    async def story(server, client):
        async with Holder(server, client) as holder:
            await pinged(client)
            told = []
            holder.probe.on_gone(lambda: told.append(now()))
            await exporter_dies(server)
            await asyncio.sleep(3 * P)
            assert told == []
            noticed = now()
            if how == "called":
                with pytest.raises(oxid.OxidError):
                    await holder.probe.whoami()
                await until(lambda: told, P + R, P / 20)
            else:
                await holder.let_go(how)
            await asyncio.sleep(SILENCE)
            assert len(client.pings_since(noticed)) <= 2
            quiet = len(client.pings)
            await asyncio.sleep(20 * P)
            assert len(client.pings) == quiet

    play(tmp_path, story)


@pytest.mark.req("B27", "PNG-6", "J5")
def test_the_dead_leave_the_living_in_peace(tmp_path):
    """One of four is gone; a call finds out, and the other three are pinged as before."""

    async def story(server, client):
        async with client.process(server, USER) as machine:
            probes = [await machine.activate(CLSID_PROBE, IProbe) for _ in range(4)]
            await pinged(client, probes[3].oid)
            table, dead = server.host.exporter.table, probes[1].oid
            table.disconnect(table.object(dead).target, "CoDisconnectObject")
            with pytest.raises(oxid.ObjectGone):
                await probes[1].whoami()
            await asyncio.sleep(2 * T)
            assert Probe.alive() == 3
            assert set(server.tables.objects) == {p.oid for p in probes} - {dead}
            late = client.pings_since(now() - T)
            assert all(sent.ping.simple for sent in late)
            for probe in probes:
                await probe.release()

    play(tmp_path, story)


# -- releases that meet the tick -------------------------------------------------------------------------


@pytest.mark.req("B31", "B32", "PNG-3")
@pytest.mark.parametrize("again", [False, True], ids=["let go", "let go and taken again"])
def test_a_release_in_any_moment_of_a_tick_is_told_at_the_next_one_at_the_latest(again):
    """Every turn of the loop in which it can happen, and everything that can become of the pings meanwhile."""

    async def race(choice):
        async with aclosing(ShortWire(4)) as wire:
            await race_on(choice, wire)

    async def race_on(choice, wire):
        kept, mine, new, later = wire.oids
        wire.hold(kept), wire.hold(mine)
        must_stay = set()
        if choice.of(("an old set", "a new set")) == "an old set":
            await wire.agent.tick()
            assert wire.known == {kept, mine}
            must_stay.add(kept)

        def nobody_is_forgotten():
            assert must_stay <= wire.known

        def take():
            wire.hold(mine)
            if mine in wire.known and not any(mine in ping.remove for ping in wire.sent):
                must_stay.add(mine)

        wire.on_change = nobody_is_forgotten
        wire.hold(new)
        wire.fate = lambda: choice.of((wire.ARRIVES, wire.LOST, wire.ANSWER_LOST))
        steps = [("let go", lambda: wire.let_go(mine)), *([("take", take)] if again else [])]
        tick = asyncio.create_task(wire.agent.tick())
        while not tick.done():
            if steps and choice.of(("wait", steps[0][0])) != "wait":
                steps.pop(0)[1]()
            else:
                await asyncio.sleep(0)
        for _, step in steps:
            step()
        wire.hold(later)
        wire.fate = lambda: wire.ARRIVES
        await wire.agent.tick()
        assert wire.known == {kept, new, later} | ({mine} if again else set())
        before = len(wire.sent)
        for oid in (kept, new, later, *([mine] if again else [])):
            wire.let_go(oid)
        must_stay.clear()
        await wire.agent.tick()
        assert wire.known == set()
        assert wire.agent.idle
        assert len(wire.sent) == before + 1

    ways = asyncio.run(explore(race, depth=14))
    assert ways >= 40


@pytest.mark.req("B31")
@pytest.mark.parametrize("moment", ["while it is sent", "while it is answered"])
def test_a_release_during_a_ping_is_told_by_the_next_one(tmp_path, moment):
    """The same between two machines: the client lets go while its machine's ping is on its way, or its answer is."""

    async def story(server, client):
        async with client.process(server, USER) as machine:
            probes = [await machine.activate(CLSID_PROBE, IProbe) for _ in range(2)]
            await pinged(client, probes[1].oid)
            released = []

            async def release(places, identity, ping):
                if not released and not ping.simple:
                    released.append(now())
                    await probes[0].release()
                    await asyncio.sleep(1)

            setattr(client, "wire" if moment == "while it is sent" else "answers", release)
            probes.append(await machine.activate(CLSID_PROBE, IProbe))
            await until(lambda: released, P + 1, P / 20)
            await asyncio.sleep(P + R)
            removed = [ping for ping in server.pings if probes[0].oid in ping.remove]
            assert [ping.at - released[0] <= P + 1 for ping in removed] == [True]
            assert set(server.tables.objects) == {probe.oid for probe in probes[1:]}
            for probe in probes:
                await probe.release()

    play(tmp_path, story)


@pytest.mark.req("B32", "PNG-3")
@pytest.mark.parametrize("who", ["the same program", "another program"])
def test_what_is_let_go_and_taken_again_before_the_tick_is_nobodys_business(tmp_path, who):
    async def story(server, client):
        async with client.process(server, USER) as one, client.process(server, USER) as two:
            probe = await one.activate(CLSID_PROBE, IProbe)
            oid = probe.oid
            first = await pinged(client, oid)
            await asyncio.sleep(first.at + 1.5 * P - now())
            before = now()
            for _ in range(3):
                taker = one if who == "the same program" else two
                parcel = one.marshal(probe, hand_over=True)
                await probe.release()
                await settle()  # the agent hears of the end before it hears of the new beginning
                again = taker.proxy(parcel, IProbe)
                await taker.adopt([again])
                probe, one, two = again, taker, one
            await asyncio.sleep(2 * P)
            assert [sent.ping.simple for sent in client.pings_since(before)] == [True, True]
            kinds = [event.kind.name for event in await server.host.service.events_of(oid)]
            assert kinds.count("JOINED") == 1
            assert "LEFT" not in kinds
            assert await probe.whoami() == "alice at 6"
            await probe.release()

    play(tmp_path, story)


# -- identities that change ------------------------------------------------------------------------------


def sets_in_use(server):
    return {s for s, state in server.tables.sets.items() if state.oids}


@pytest.mark.req("B33", "BLK-1", "J6", "J8")
def test_a_blanket_that_changes_when_the_other_proxies_are_gone_moves_nothing(tmp_path):
    async def story(server, client):
        async with client.process(server, may_be=(USER, OTHER)) as machine:
            one = await machine.activate(CLSID_PROBE, IProbe, auth_info=BY_USER)
            await one.set_blanket(credentials=USER)
            assert await one.whoami() == "alice at 6"
            two, three = one.copy(), one.copy()
            await pinged(client, one.oid)
            used = sets_in_use(server)
            await two.release()
            await three.release()
            changed = now()
            await one.set_blanket(credentials=OTHER)
            assert await one.whoami() == "bob at 6"
            await asyncio.sleep(2 * T)
            assert all(sent.ping.simple and sent.user == "alice" for sent in client.pings_since(changed))
            assert sets_in_use(server) == used

            other = await machine.activate(CLSID_PROBE, IProbe, auth_info=BY_USER)
            await other.set_blanket(credentials=OTHER)
            assert await other.whoami() == "bob at 6"
            await asyncio.sleep(P)
            await other.release()
            await asyncio.sleep(P + R)
            assert sets_in_use(server) == used  # whoever pinged for the other does so no more
            assert client.agent.pings.statistics() == {"sets": 1, "oids": 1}
            await one.release()

    play(tmp_path, story)


@pytest.mark.req("B33", "PNG-9", "J6", "J8")
def test_a_set_whose_identity_is_no_longer_welcome_is_left_and_drained(tmp_path):
    async def story(server, client):
        async with client.process(server, may_be=(USER, OTHER)) as machine:
            one = await machine.activate(CLSID_PROBE, IProbe, auth_info=BY_USER)
            await one.set_blanket(credentials=USER)
            assert await one.whoami() == "alice at 6"
            two = one.copy()
            await pinged(client, one.oid)
            await two.release()
            await one.set_blanket(credentials=OTHER)
            assert await one.whoami() == "bob at 6"
            changed = now()
            server.host.service.object_exporter._admits = lambda who: who.principal != "alice"
            await asyncio.sleep(T + S)
            (left,) = sets_in_use(server)
            assert server.tables.sets[left].owner.principal == "bob"
            by_alice = [sent for sent in client.pings_since(changed) if sent.user == "alice"]
            assert 1 <= len(by_alice) <= 3  # the refused one, and two attempts to say goodbye
            assert client.agent.pings.statistics() == {"sets": 1, "oids": 1}
            await asyncio.sleep(2 * T)
            assert Probe.alive() == 1
            assert [s.user for s in client.pings_since(changed) if s.user == "alice"] == ["alice"] * len(
                by_alice
            )
            await one.release()

    play(tmp_path, story)
