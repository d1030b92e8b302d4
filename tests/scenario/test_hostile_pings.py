"""Bad input at the resolver and at IRemUnknown, over real sockets: it gets the answers that the specification has for
it, nothing is lost, memory is bounded, and nobody else notices. Scenarios B42, B43, B45 and B52
"""

import asyncio
import gc
import tracemalloc
from contextlib import asynccontextmanager
from itertools import count
from uuid import UUID

import pytest
from tests.support import lifetimes
from tests.support.lifetimes import CLSID_PROBE, OTHER, USER, IProbe, P, Probe, S, T, now, settle

import oxid
from oxid.auth.context import AuthType
from oxid.com.objref import decode_objref
from oxid.com.options import Capabilities
from oxid.interfaces.object_exporter import IObjectExporter
from oxid.interfaces.remote_unknown import RemInterfaceRef
from oxid.rpcss.oxid_resolver import OxidResolver
from oxid.rpcss.ping_sets import RPC_S_OUT_OF_RESOURCES, PingCaller, PingLimits
from oxid.runtime.client import open_connection
from oxid.values.bindings import DualStringArray
from oxid.values.status import (
    CO_E_OBJNOTREG,
    E_ACCESSDENIED,
    ERROR_ACCESS_DENIED,
    OR_INVALID_OID,
    OR_INVALID_SET,
    RPC_X_BAD_STUB_DATA,
)

SPEC = oxid.spec_of(IProbe)
EVERYTHING = 0xFFFF_FFFF
BOGUS = [0xB0_6050_0000_0000 + n for n in range(0xFFFF)]
LIMITS = PingLimits()
ALICE = PingCaller("alice", "10.0.0.1")


async def until(true, within, step=5.0):
    """In steps of invented time that cost less real time than those of a second."""
    return await lifetimes.until(true, within, step)


def play(tmp_path, story, **options):
    async def to_the_end(server, client):
        await story(server, client)
        await until(lambda: client.at_rest, 2 * P + S, S)
        await until(lambda: server.at_rest, T + P + 2 * S, S)

    lifetimes.play(tmp_path, to_the_end, **options)


class Peer:
    """Somebody else's program, which sends what it likes."""

    def __init__(self, connection, resolver, context):
        self.connection, self.resolver, self.context = connection, resolver, context

    async def ping(self, set_id, sequence, add=None, remove=None):
        return await self.resolver.complex_ping(set_id, sequence, add, remove)

    async def found(self, *oids):
        reply = await self.ping(0, 1, list(oids))
        assert reply.status == 0
        return reply.set_id

    async def alive(self, set_id):
        return await self.resolver.simple_ping(set_id)

    async def raw(self, stub):
        """A ComplexPing of exactly these bytes; the status of its fault."""
        with pytest.raises(oxid.StatusError) as caught:
            await self.connection.call(self.context, 2, bytearray(24) + stub)
        assert caught.value.origin is oxid.Origin.FAULT
        return caught.value.status.code


@asynccontextmanager
async def peer(server, credentials=USER):
    world = oxid.World(server.world.clock, server.world.entropy)
    where = {"world": world, "credentials": credentials, "auth_type": AuthType.NTLM}
    async with open_connection("127.0.0.1", server.port, **where) as connection:
        resolver = await connection.proxy(IObjectExporter)
        yield Peer(connection, resolver, await connection.context(IObjectExporter))


def expose(server, how_many):
    """Objects of the server to which references left, of which no client knows: their OIDs."""
    exporter = server.host.exporter
    return [decode_objref(exporter.marshal(Probe(), SPEC)).std.oid for _ in range(how_many)]


def members(server, set_id):
    return set(server.tables.sets[set_id].oids)


class Victim:
    """A client that does nothing wrong, to whom nothing may happen."""

    def __init__(self, server, probe):
        self.server, self.probe, self.told = server, probe, []
        probe.on_gone(lambda: self.told.append(now()))
        ((self.set_id, self.state),) = server.tables.sets.items()
        assert self.state.oids == (probe.oid,)

    def assert_untouched(self):
        assert self.server.tables.sets[self.set_id] == self.state
        assert self.set_id in self.server.tables.objects[self.probe.oid]
        assert not self.told


@asynccontextmanager
async def victim(server, client):
    """Alice, with one object in one set; at the end she still has it, and pings it as before."""
    async with client.process(server, USER) as machine:
        probe = await machine.activate(CLSID_PROBE, IProbe)
        await until(lambda: server.tables.sets, P + S)
        await settle()
        made = Victim(server, probe)
        yield made
        begin = len(client.pings)
        await asyncio.sleep(T + P)
        assert {sent.status for sent in client.pings[begin:]} == {0}
        assert all(sent.ping == client.pings[begin].ping for sent in client.pings[begin:])
        assert await probe.whoami() == "alice at 6"
        assert not made.told
        await probe.release()


# -- numbers ---------------------------------------------------------------------------------------------


@pytest.mark.req("PNG-4", "B43", "J9")
def test_every_sequence_number_is_new_repeated_or_old_and_only_old_ones_change_nothing(tmp_path):
    async def story(server, client):
        async with peer(server) as bob:
            oids = expose(server, 8)
            set_id = await bob.found(oids[0])
            last = 1
            for number, oid in zip((1, 9, 8, 9, 32776, 9, 65535, 0), oids, strict=True):
                before = server.tables.sets[set_id]
                await asyncio.sleep(1)
                reply = await bob.ping(set_id, number, [oid])
                assert (reply.status, reply.set_id, reply.backoff_factor) == (0, set_id, 0)
                if (number - last) % 0x10000 < 0x8000:
                    last = number
                    state = server.tables.sets[set_id]
                    assert (state.sequence, state.deadline) == (number, now() + T)
                    assert oid in state.oids
                else:
                    assert server.tables.sets[set_id] == before
            assert last == 0

    play(tmp_path, story)


@pytest.mark.req("B42", "PNG-4", "J1")
@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param([65534, 65535, 0, 1, 2], id="around the end"),
        pytest.param([0, 1, 2, 3, 4], id="from zero, as j-Interop"),
        pytest.param([0, 0, 0, 0, 0], id="always zero, as impacket"),
        pytest.param([1, 3, 4, 6, 32770], id="with gaps, as Windows"),
    ],
)
def test_peers_that_count_in_other_ways_lose_no_change(tmp_path, numbers):
    async def story(server, client):
        async with peer(server) as theirs:
            oids = expose(server, 6)
            founding, *following = numbers
            reply = await theirs.ping(0, founding, oids[:2], None)
            held = oids[:2]
            for step, number in enumerate(following):
                add, remove = oids[step + 2], held.pop(0)
                answer = await theirs.ping(reply.set_id, number, [add], [remove])
                held.append(add)
                assert answer.status == 0
                state = server.tables.sets[reply.set_id]
                assert (set(state.oids), state.sequence) == (set(held), number)
                assert not server.tables.objects[remove]
            assert (await theirs.ping(reply.set_id, number, None, held)).status == 0
            await until(lambda: len(Probe.ends) == 6, T + P + 2 * S)

    play(tmp_path, story)


@pytest.mark.req("B43", "PNG-4")
@pytest.mark.parametrize("last", [0, 1, 0x7FFF, 0x8000, 0xFFFF])
def test_half_the_circle_ahead_is_new_and_the_other_half_is_old(last):
    ids = count(0x5E71_0000_0000_0001)
    resolver = OxidResolver(lambda: next(ids))
    oid = resolver.add_oid(resolver.add_exporter(DualStringArray(), UUID(int=1)).oxid, 0.0)
    for ahead in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        new = ahead < 0x8000
        set_id = resolver.complex_ping(0, last, (), (), ALICE, 0.0).set_id
        number = (last + ahead) & 0xFFFF
        result = resolver.complex_ping(set_id, number, (oid,), (), ALICE, 100.0)
        assert (result.status, result.set_id) == (0, set_id)  # an old one succeeds, too
        state = resolver.tables().sets[set_id]
        assert state.oids == ((oid,) if new else ())
        assert (state.sequence, state.deadline) == ((number, 100.0 + T) if new else (last, T))
    resolver.close(1e9)


@pytest.mark.req("B43", "PNG-5")
def test_a_peer_that_lost_its_count_is_not_shut_out_for_ever(tmp_path):
    """Its pings are old for the resolver, and no sign of life: the set ends, and it founds another one."""

    async def story(server, client):
        (oid,) = expose(server, 1)
        async with peer(server) as theirs:
            confused = (await theirs.ping(0, 20_000, [oid])).set_id
            for number in count(1):
                await asyncio.sleep(P)
                reply = await theirs.ping(confused, number, None, [oid])
                if reply.status:
                    break
                assert server.tables.objects[oid] == (confused,)
            assert (number, reply.status) == (3, OR_INVALID_SET)
            anew = await theirs.ping(0, 1, [oid])
            assert anew.status == 0
            assert len(server.tables.sets[anew.set_id].oids) == Probe.alive()

    play(tmp_path, story)


# -- sets and objects that are not there -----------------------------------------------------------------


@pytest.mark.req("PNG-5", "B45")
def test_sets_that_were_never_made_are_unknown_whatever_they_look_like(tmp_path):
    async def story(server, client):
        async with victim(server, client) as alice, peer(server) as bob:
            oxids = list(server.tables.exporters)
            forged = [alice.set_id ^ (1 << bit) for bit in range(64)]  # her neighbours
            for set_id in (*forged, 1, 2**64 - 1, alice.probe.oid, *oxids):
                assert await bob.alive(set_id) == OR_INVALID_SET
                reply = await bob.ping(set_id, 2, [alice.probe.oid], [alice.probe.oid])
                assert (reply.status, reply.set_id) == (OR_INVALID_SET, set_id)
            assert await bob.alive(0) == OR_INVALID_SET
            assert len(server.tables.sets) == 1
            alice.assert_untouched()

    play(tmp_path, story)


@pytest.mark.req("PNG-6", "PNG-7", "J1", "J2")
def test_unknown_objects_are_told_of_behind_everything_else_and_only_by_a_set_that_was_there(tmp_path):
    async def story(server, client):
        async with victim(server, client) as alice, peer(server, OTHER) as bob:
            one, two, three = expose(server, 3)
            reply = await bob.ping(0, 1, [BOGUS[0], one, alice.set_id, *server.tables.exporters])
            assert reply.status == 0  # a new set skips them without a word
            assert members(server, reply.set_id) == {one}
            await asyncio.sleep(S)
            again = await bob.ping(reply.set_id, 2, [BOGUS[1], two, BOGUS[2], three], [one, BOGUS[3]])
            assert (again.status, again.set_id) == (OR_INVALID_OID, reply.set_id)
            state = server.tables.sets[reply.set_id]
            assert (set(state.oids), state.sequence, state.deadline) == ({two, three}, 2, now() + T)
            assert await bob.alive(reply.set_id) == 0
            alice.assert_untouched()

    play(tmp_path, story)


@pytest.mark.req("PNG-7", "J1")
def test_what_is_absent_is_deleted_as_often_as_anybody_likes(tmp_path):
    async def story(server, client):
        async with victim(server, client) as alice, peer(server, OTHER) as bob:
            one, two = expose(server, 2)
            set_id = await bob.found(one, one, one, two)  # a member is a member, however often it is named
            assert server.host.resolver.statistics()["memberships"] == 3
            for number in range(2, 6):
                reply = await bob.ping(set_id, number, None, [one, one, alice.probe.oid, *BOGUS[:100]])
                assert reply.status == 0
                assert members(server, set_id) == {two}
            assert (await bob.ping(set_id, 6, [one], [one])).status == 0  # additions come first
            assert members(server, set_id) == {two}
            assert (await bob.ping(set_id, 7, None, [two])).status == 0
            assert await bob.alive(set_id) == 0  # an empty set is no error
            alice.assert_untouched()

    play(tmp_path, story)


# -- other people's sets ---------------------------------------------------------------------------------


@pytest.mark.req("B45", "PNG-10", "J1", "J2")
@pytest.mark.parametrize("who", [OTHER, None], ids=["bob", "nobody"])
def test_a_set_obeys_only_whoever_made_it(tmp_path, who):
    async def story(server, client):
        async with victim(server, client) as alice, peer(server, who) as thief:
            oid, (strange,) = alice.probe.oid, expose(server, 1)
            await asyncio.sleep(S)
            assert await thief.alive(alice.set_id) == ERROR_ACCESS_DENIED
            for number in (0, 1, 2, 0x7FFF, 0xFFFF):
                for add, remove in ((None, [oid]), ([strange], None), ([strange], [oid]), (None, None)):
                    reply = await thief.ping(alice.set_id, number, add, remove)
                    assert (reply.status, reply.set_id) == (ERROR_ACCESS_DENIED, alice.set_id)
            alice.assert_untouched()  # neither what it holds nor how long
            mine = await thief.found(oid)  # to hold her object takes no right but to know it
            assert set(server.tables.objects[oid]) == {alice.set_id, mine}
            assert (await thief.ping(mine, 2, None, [oid])).status == 0
            alice.assert_untouched()

    play(tmp_path, story)


@pytest.mark.req("PNG-10", "B45")
def test_the_key_of_nobodys_set_is_its_number(tmp_path):
    async def story(server, client):
        async with peer(server, None) as nobody, peer(server, None) as nobody_else, peer(server) as alice:
            one, two = expose(server, 2)
            set_id = await nobody.found(one)
            assert await nobody_else.alive(set_id) == await alice.alive(set_id) == 0
            assert (await alice.ping(set_id, 2, [two])).status == 0
            assert members(server, set_id) == {one, two}
            assert server.tables.sets[set_id].owner.principal is None  # it belongs to nobody as before
            assert await nobody_else.alive(set_id ^ 1) == OR_INVALID_SET

    play(tmp_path, story)


# -- bytes -----------------------------------------------------------------------------------------------

MALFORMED = {
    "an addition, but no array": "0100 0000 0000 00000000 00000000",
    "a removal, but no array": "0000 0100 0000 00000000 00000000",
    "more promised than there": "0200 0000 0000 00000200 01000000" + "00" * 12,
    "less promised than there": "0100 0000 0000 00000200 02000000" + "00" * 24,
    "all that a count can say, and no byte": "ffff 0000 0000 00000200 ffff0000",
    "an array of four thousand million": "ffff 0000 0000 00000200 ffffffff" + "00" * 64,
    "both full, and neither there": "ffff ffff 0000 00000200 04000200 ffff0000",
    "the end in the middle of a count": "01",
    "nothing behind the set": "",
}


@pytest.mark.req("B52", "PNG-7", "PNG-13")
@pytest.mark.parametrize("what", MALFORMED)
def test_a_ping_that_contradicts_itself_is_bad_stub_data_and_nothing_else_happens(tmp_path, what):
    async def story(server, client):
        async with victim(server, client) as alice, peer(server) as hers, peer(server, None) as nobodys:
            for sender in (hers, nobodys):
                for set_id in (0, alice.set_id):
                    stub = set_id.to_bytes(8, "little") + bytes.fromhex("0200" + MALFORMED[what])
                    tracemalloc.start()
                    assert await sender.raw(stub) == RPC_X_BAD_STUB_DATA
                    peak = tracemalloc.get_traced_memory()[1]
                    tracemalloc.stop()
                    assert peak < 1 << 20  # what a count says is not believed
                    assert await sender.alive(alice.set_id ^ 1) == OR_INVALID_SET  # the connection lives on
            assert len(server.tables.sets) == 1
            alice.assert_untouched()

    play(tmp_path, story)


@pytest.mark.req("B52", "PNG-13")
def test_nobodys_thousands_of_objects_that_are_none_leave_nothing_behind(tmp_path):
    async def story(server, client):
        async with victim(server, client) as alice, peer(server, None) as nobody:
            reply = await nobody.ping(0, 1, BOGUS)
            assert reply.status == 0
            assert members(server, reply.set_id) == set()
            server.host.service.object_exporter.on_ping = None  # the log of this test is not what is weighed
            server.pings.clear()
            tracemalloc.start()
            try:
                for number in range(2, 5):
                    again = await nobody.ping(reply.set_id, number, BOGUS, BOGUS)
                    assert (again.status, again.set_id) == (OR_INVALID_OID, reply.set_id)
                    del again
                grown = tracemalloc.get_traced_memory()[0]
            finally:
                tracemalloc.stop()
            assert grown < 1 << 20  # one number of eight bytes for each of them would be three times as much
            assert server.host.resolver.statistics()["memberships"] == 1
            alice.assert_untouched()

    play(tmp_path, story)


# -- references ------------------------------------------------------------------------------------------


async def unknown_of(machine, probe):
    channel = probe._channel
    await channel.connection()
    return channel.remote_unknown()


@pytest.mark.req("dcom§6.1.5", "J4")
def test_releases_beyond_what_was_added_end_an_object_once(tmp_path):
    async def story(server, client):
        async with victim(server, client) as alice, client.process(server, OTHER) as machine:
            probe = await machine.activate(CLSID_PROBE, IProbe)
            unknown = await unknown_of(machine, probe)
            whole = RemInterfaceRef(probe.ipid, EVERYTHING, EVERYTHING)
            await unknown.rem_release([whole, whole, RemInterfaceRef(UUID(int=7), 1, 1), whole])
            assert len(Probe.ends) == 1
            await unknown.rem_release([whole])
            assert await unknown.rem_add_ref([RemInterfaceRef(probe.ipid, 1, 0)]) == [CO_E_OBJNOTREG]
            with pytest.raises(oxid.ObjectGone):
                await probe.whoami()
            remote_unknown = UUID(bytes_le=probe._channel.exporter.address.ipid_rem_unknown)
            await unknown.rem_release([RemInterfaceRef(remote_unknown, EVERYTHING, EVERYTHING)])
            again = await machine.activate(CLSID_PROBE, IProbe)  # which the exporter could not do without it
            assert await again.whoami() == "bob at 6"
            await again.release()
            await probe.release()
            assert len(Probe.ends) == 2
            alice.assert_untouched()

    play(tmp_path, story)


@pytest.mark.req("dcom§6.1.4", "dcom§6.1.5", "BLK-5")
def test_references_of_ones_own_are_safe_from_everybody_else(tmp_path):
    async def story(server, client):
        secure = {"capabilities": Capabilities.SECURE_REFS}
        async with (
            client.process(server, USER, **secure) as machine,
            client.process(server, OTHER) as theirs,
            client.process(server) as nobodys,
        ):
            probe = await machine.activate(CLSID_PROBE, IProbe)
            pointer = server.host.exporter.table.by_ipid[probe.ipid.bytes_le]
            await settle()
            mine = dict(pointer.private_refs)
            assert set(mine) == {"alice"}
            for machine_of_others, name in ((theirs, "bob"), (nobodys, "")):
                other = await machine_of_others.activate(CLSID_PROBE, IProbe)
                unknown = await unknown_of(machine_of_others, other)
                flood = [RemInterfaceRef(probe.ipid, EVERYTHING, EVERYTHING)] * 100
                await unknown.rem_release(flood)
                assert pointer.private_refs == mine
                added = await unknown.rem_add_ref([RemInterfaceRef(probe.ipid, 0, 3)])
                assert added == ([0] if name else [E_ACCESSDENIED])
                assert pointer.private_refs == (mine | {"bob": 3} if name else mine)
                await unknown.rem_release([RemInterfaceRef(probe.ipid, 0, 2)])
                await unknown.rem_release(flood)
                assert pointer.private_refs == mine
                await other.release()
            await asyncio.sleep(2 * T)
            assert await probe.whoami() == "alice at 6"
            await probe.release()

    play(tmp_path, story, insecure_anonymous=True)


# -- floods ----------------------------------------------------------------------------------------------


@pytest.mark.req("PNG-13", "J1")
@pytest.mark.parametrize("who", [OTHER, None], ids=["bob", "nobody"])
def test_a_flood_of_sets_takes_its_own_share_and_no_more(tmp_path, who):
    async def story(server, client):
        async with victim(server, client) as alice, peer(server, who) as flooder, peer(server) as hers:
            (oid,) = expose(server, 1)
            made = [await flooder.found(oid) for _ in range(LIMITS.sets_per_identity)]
            assert len(set(made)) == LIMITS.sets_per_identity
            for _ in range(20):
                reply = await flooder.ping(0, 1, [oid])
                assert (reply.status, reply.set_id) == (RPC_S_OUT_OF_RESOURCES, 0)
            assert await flooder.alive(made[0]) == 0  # what it has it keeps
            assert len(server.tables.sets) == LIMITS.sets_per_identity + 1
            more = await hers.found(oid, alice.probe.oid)  # others have room as before
            assert (await hers.ping(more, 2, None, [oid, alice.probe.oid])).status == 0
            alice.assert_untouched()
            await asyncio.sleep(T + S)
            assert len(server.tables.sets) <= 2
            assert (await flooder.ping(0, 1, None)).status == 0  # and when they have ended it has room, too

    play(tmp_path, story)


@pytest.mark.req("PNG-13")
def test_a_flood_of_sets_that_hold_nothing_pushes_out_only_its_own(tmp_path):
    async def story(server, client):
        async with victim(server, client) as alice, peer(server, None) as flooder, peer(server) as hers:
            (oid,) = expose(server, 1)
            empty_of_alice, of_nobody = await hers.found(), await flooder.found(oid)
            first = await flooder.found(BOGUS[0])
            for number in range(LIMITS.sets_per_identity + 200):
                last = await flooder.found(*BOGUS[number : number + 2])
            assert len(server.tables.sets) == LIMITS.sets_per_identity + 2
            assert await flooder.alive(first) == OR_INVALID_SET  # its oldest made room for its latest
            assert await flooder.alive(last) == 0
            assert await flooder.alive(of_nobody) == 0  # one that holds something never does
            assert await hers.alive(empty_of_alice) == 0
            alice.assert_untouched()

    play(tmp_path, story)


@pytest.mark.req("PNG-13")
def test_a_flood_from_everywhere_has_bounded_memory_and_leaves_room_for_accounts():
    """The core alone, by hand: forty thousand sets from as many addresses, and again, and again."""
    ids = count(0x5E71_0000_0000_0001)
    limits = PingLimits(sets=2_000, anonymous_sets=1_500)
    resolver = OxidResolver(lambda: next(ids), limits=limits)
    entry = resolver.add_exporter(DualStringArray(), UUID(int=1))
    oid = resolver.add_oid(entry.oxid, 0.0)
    hers = resolver.complex_ping(0, 1, (oid,), (), ALICE, 0.0).set_id

    def flood(begin):
        refused = 0
        for number in range(begin, begin + 20_000):
            caller = PingCaller(None, f"2001:db8::{number:x}")
            add = (oid,) if number % 2 else (number,)
            refused += resolver.complex_ping(0, 1, add, (), caller, 0.0).status == RPC_S_OUT_OF_RESOURCES
        assert refused
        assert len(resolver.tables().sets) == 1_501

    flood(0)
    tracemalloc.start()
    try:
        flood(20_000)
        gc.collect()
        ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/oxid/*")])
    finally:
        tracemalloc.stop()
    grown = sum(statistic.size for statistic in ours.statistics("filename"))
    assert grown < 1 << 20, "\n".join(map(str, ours.statistics("lineno")[:10]))
    assert resolver.simple_ping(hers, ALICE, 0.0) == 0
    assert resolver.complex_ping(0, 1, (oid,), (), ALICE, 0.0).status == 0
    bob = PingCaller("bob", "10.0.0.2")
    assert resolver.complex_ping(0, 1, (oid,), (), bob, 0.0).status == 0
    resolver.expire(T, 1 << 20)
    assert resolver.statistics()["sets"] == 0
    resolver.close(1e9)
