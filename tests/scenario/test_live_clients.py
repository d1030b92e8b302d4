"""Q224837, Q184278: a live client never loses its object, whoever it is in each of its calls. Scenarios B1 to B12"""

import asyncio

import pytest
from tests.support.lifetimes import CLSID_PROBE, OTHER, USER, IProbe, P, Probe, S, T, now, play, settle, until

import oxid
from oxid.com.permissions import AccessList, MachinePermissions
from oxid.rpcss.class_registry import ClassRegistry

DAY = 24 * 3600.0
BY_USER = oxid.AuthInfo(USER)


async def unauthenticated_holder_of_an_object_made_by_somebody(server, client):
    """B1: activation with credentials of its own, unsecured calls, and nothing else for a day."""
    async with client.process(server) as machine:
        async with machine.activate(CLSID_PROBE, IProbe, auth_info=BY_USER) as probe:
            assert await probe.whoami() == "None at 1"
            await asyncio.sleep(DAY)
            assert await probe.whoami() == "None at 1"
            assert Probe.alive() == 1
            steady = client.pings[1:]
            assert all(sent.ping.simple for sent in steady)
            assert len(steady) == pytest.approx(DAY / P, abs=2)
        assert Probe.alive() == 0


@pytest.mark.req("B1", "BLK-3", "PNG-10")
def test_an_unauthenticated_client_keeps_the_object_that_it_activated_as_somebody(tmp_path):
    play(tmp_path, unauthenticated_holder_of_an_object_made_by_somebody, insecure_anonymous=True)


@pytest.mark.req("B2", "BLK-1", "BLK-2")
def test_one_secured_interface_is_enough_and_the_release_gets_through(tmp_path, long_form):
    """B2: the server takes calls of accounts only; IUnknown's own blanket stays nobody's."""

    async def story(server, client):
        async with client.process(server) as machine:
            probe = await machine.activate(CLSID_PROBE, IProbe, auth_info=BY_USER)
            with pytest.raises(oxid.AccessDenied):
                await probe.whoami()
            await probe.set_blanket(credentials=USER)
            assert await probe.whoami() == "alice at 6"
            await asyncio.sleep(DAY if long_form else DAY / 10)
            assert await probe.whoami() == "alice at 6"
            assert {sent.user for sent in client.pings} == {"alice"}
            await probe.release()
            await settle()
            assert len(Probe.ends) == 1  # though IUnknown's blanket is nobody's

    play(tmp_path, story)


@pytest.mark.req("B3", "BLK-1", "J1")
def test_two_proxies_with_different_blankets_are_one_object_to_the_pings(tmp_path):
    async def story(server, client):
        async with client.process(server) as machine:
            one = await machine.activate(CLSID_PROBE, IProbe, auth_info=BY_USER)
            two = one.copy()
            await one.set_blanket(credentials=USER)
            await two.set_blanket(credentials=OTHER)
            assert await one.whoami() == "alice at 6"
            assert await two.whoami() == "bob at 6"
            await asyncio.sleep(2 * T)
            assert len(server.tables.objects) == 1
            (sets,) = server.tables.objects.values()
            assert len(sets) == 1
            await one.release()
            await asyncio.sleep(2 * T)
            assert await two.whoami() == "bob at 6"
            await two.set_blanket(credentials=USER)
            await asyncio.sleep(2 * T)
            assert await two.whoami() == "alice at 6"
            await two.release()

    play(tmp_path, story)


@pytest.mark.req("B4", "PNG-2", "PNG-10")
def test_two_identities_have_two_sets_and_either_keeps_the_object(tmp_path):
    async def story(server, client):
        async with client.process(server, USER) as first, client.process(server) as second:
            probe = await first.activate(CLSID_PROBE, IProbe)
            again = second.proxy(first.marshal(probe), IProbe)
            await second.adopt([again])
            await asyncio.sleep(T)
            (sets,) = server.tables.objects.values()
            assert {server.tables.sets[s].owner.principal for s in sets} == {"alice", None}
            await probe.release()
            await asyncio.sleep(2 * T)
            assert Probe.alive() == 1
            await again.release()

    play(tmp_path, story, insecure_anonymous=True)


@pytest.mark.req("B5", "PNG-9")
def test_a_resolver_that_refuses_nobodys_pings_gets_somebodys_within_one_tick(tmp_path):
    closed = ClassRegistry(permissions=MachinePermissions(limit_access=AccessList.parse(["Everyone"])))

    async def story(server, client):
        async with client.process(server) as machine:
            probe = await machine.activate(CLSID_PROBE, IProbe, auth_info=BY_USER)
            made = now()
            await probe.set_blanket(credentials=USER)
            machine.lifelines.agent.let_go(probe._pointer.object.pinged_by, probe.oid)
            target = type(probe._pointer.object.pinged_by)(
                probe._pointer.object.pinged_by.resolver,
                (oxid.Blanket(None, 1), *probe._pointer.object.pinged_by.ladder),
                P,
            )
            probe._pointer.object.pinged_by = target
            machine.lifelines.agent.hold(target, probe.oid)  # nobody is the first to try
            await until(lambda: client.pings, P)
            await settle()
            assert [sent.user for sent in client.pings] == ["", "alice"]
            assert [sent.status for sent in client.pings] == [5, 0]
            assert server.pings[-1].add == (probe.oid,)
            assert now() - made < T
            await asyncio.sleep(3 * T)
            assert {sent.user for sent in client.pings[2:]} == {"alice"}
            await probe.release()

    play(tmp_path, story, registry=closed)


@pytest.mark.req("B6", "PNG-9", "PNG-12")
def test_credentials_that_expire_give_way_to_others_and_may_come_back(tmp_path, caplog):
    """Q184278: the domain of the client is unreachable for three hours; the server is not to blame."""

    async def story(server, client):
        gone = set()

        async def wire(places, identity, ping):
            if getattr(identity.credentials, "user", "") in gone:
                raise oxid.AuthenticationError("the domain cannot be reached")

        client.wire = wire
        async with client.process(server, USER) as machine:
            async with machine.activate(CLSID_PROBE, IProbe) as probe:
                await asyncio.sleep(2 * P)
                gone.add("alice")
                lost = now()
                await asyncio.sleep(3 * 3600)
                assert await probe.whoami() == "alice at 6"  # the connection's own security lives on
                assert {sent.user for sent in client.pings_since(lost + 3 * P)} == {""}
                gone.add("")  # and now nobody's pings fail, too
                await asyncio.sleep(2 * P)
                gone.clear()
                await asyncio.sleep(2 * T)
                assert await probe.whoami() == "alice at 6"
                assert Probe.alive() == 1

    play(tmp_path, story)
    assert caplog.text.count("refused with every identity") == 1


@pytest.mark.req("B7", "dcom§6.3.busy")
def test_a_client_that_only_calls_keeps_its_object_while_it_does(tmp_path):
    async def story(server, client):
        async def blocked(places, identity, ping):
            raise oxid.TransportError("nothing gets through")

        client.wire = blocked
        async with client.process(server, USER) as machine:
            probe = await machine.activate(CLSID_PROBE, IProbe)
            for _ in range(100):
                await asyncio.sleep(30)
                await probe.whoami()
            last = now()
            await until(lambda: Probe.ends, T + P + S)
            assert Probe.ends[0] - last <= P + 2 * S
            await probe.release()
            client.wire = None

    play(tmp_path, story)


@pytest.mark.req("B8", "dcom§6.3.busy", "J3")
def test_a_call_of_half_an_hour_ends_before_its_object_does(tmp_path):
    async def story(server, client):
        async def blocked(places, identity, ping):
            raise oxid.TransportError("nothing gets through")

        client.wire = blocked
        async with client.process(server, USER) as machine:
            probe = await machine.activate(CLSID_PROBE, IProbe)
            await probe.wait(30 * 60 * 1000)
            assert Probe.alive() == 1
            await until(lambda: Probe.ends, P + 2 * S)
            with pytest.raises(oxid.ObjectGone):
                await probe.whoami()
            await probe.release()
            client.wire = None

    play(tmp_path, story)


@pytest.mark.req("B9", "dcom§6.1.marshal")
@pytest.mark.parametrize("later", [0.0, P, T - S])
def test_a_reference_that_is_handed_over_just_before_its_holder_lets_go_is_good(tmp_path, later):
    async def story(server, client):
        async with client.process(server, USER) as first, client.process(server, OTHER) as second:
            probe = await first.activate(CLSID_PROBE, IProbe)
            await asyncio.sleep(P)
            parcel = first.marshal(probe)
            await probe.release()
            await asyncio.sleep(later)
            try:
                again = second.proxy(parcel, IProbe)
                await second.adopt([again])
            except oxid.ObjectGone:
                assert Probe.alive() == 0  # cleanly gone, and not another object
                return
            assert await again.whoami() == "bob at 6"
            await asyncio.sleep(2 * T)
            assert await again.whoami() == "bob at 6"
            await again.release()

    play(tmp_path, story)


@oxid.coclass("5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6a03", implements=[IProbe], noping=True)
class Unpinged(Probe):
    """A class whose objects clients do not ping."""


@pytest.mark.req("B10", "dcom§6.3.noping")
def test_an_object_without_pings_lives_until_it_is_released(tmp_path):
    async def story(server, client):
        clsid = oxid.coclass_of(Unpinged).clsid
        async with client.process(server, USER) as machine, client.process(server, USER) as other:
            probe = await machine.activate(clsid, IProbe)
            parcel = machine.marshal(probe)
            again = other.proxy(parcel, IProbe)
            await other.adopt([again])
            assert again._pointer.object.noping  # the flag went along
            await asyncio.sleep(3 * T)
            assert client.pings == []
            assert await again.whoami() == "alice at 6"
            await probe.release()
            assert Probe.ends == Unpinged.ends == []
            await again.release()
            await settle()
            assert len(Unpinged.ends) == 1

    Unpinged.begin()
    play(tmp_path, story, classes=(Probe, Unpinged))


@pytest.mark.req("B12", "PNG-6", "PNG-12")
@pytest.mark.parametrize("length", [2.9 * P, 4 * P + S])
def test_a_partition_costs_nothing_below_the_time_out_and_each_object_once_above(tmp_path, length):
    async def story(server, client):
        cut = False

        async def wire(places, identity, ping):
            if cut:
                raise oxid.TransportError("the network is cut")

        client.wire = wire
        async with client.process(server, USER) as machine:
            probes = [await machine.activate(CLSID_PROBE, IProbe) for _ in range(3)]
            await until(lambda: client.pings, P)
            await settle()
            told = []
            for probe in probes:
                probe.on_gone(lambda: told.append(now()))
            cut = True
            await asyncio.sleep(length)
            cut = False
            await asyncio.sleep(P)
            if length < T:
                assert Probe.alive() == 3
                assert await probes[0].whoami() == "alice at 6"
            else:
                assert len(Probe.ends) == 3
                with pytest.raises(oxid.ObjectGone):
                    await probes[0].whoami()
                await asyncio.sleep(P)
                assert len(told) == 3  # the resolver said so, the call need not
                before = len(client.pings)
                await asyncio.sleep(10 * P)
                assert len(client.pings) == before  # the dead are not pinged
            for probe in probes:
                await probe.release()

    play(tmp_path, story)


@pytest.mark.req("B1", "B5", "PNG-9", "PNG-10")
def test_who_holds_as_nobody_what_somebody_activated_may_ping_as_that_somebody(tmp_path):
    """The article's client: credentials for the activation alone, and a machine that takes nobody's pings."""
    closed = ClassRegistry(permissions=MachinePermissions(limit_access=AccessList.parse(["Everyone"])))

    async def story(server, client):
        async with client.process(server) as machine:
            probe = await machine.activate(CLSID_PROBE, IProbe, auth_info=BY_USER)
            await asyncio.sleep(20 * P)
            assert Probe.alive() == 1
            assert {(sent.user, sent.status) for sent in client.pings} == {("alice", 0)}
            assert {ping.who.principal for ping in server.pings} == {"alice"}
            assert len(server.pings) == pytest.approx(20, abs=1)
            with pytest.raises(oxid.AccessDenied):
                await probe.whoami()  # calls are nobody's as before
            await probe.release()

    play(tmp_path, story, registry=closed)
