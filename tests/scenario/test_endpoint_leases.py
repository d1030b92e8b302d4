"""Q292041: who owns an endpoint's registration, and what may end it. A4, A6, A7, A13, A14, A16, A17, and I6's pools"""

import asyncio
import copy
import gc
import os
import socket
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from tests.support.endpoints import dynamic, foreign_program, free_port, is_taken, static
from tests.support.lifetimes import CLSID_PROBE, USER, IProbe, P, Probe, S, T, play, until
from tests.support.loop_servers import APP, FIRST, SECOND, scene

import oxid
from oxid.com.local_messages import VERSION
from oxid.com.options import UNAUTHENTICATED
from oxid.config import PortRange
from oxid.interfaces.endpoint_map import IEndpointMap, TowerIdl
from oxid.interfaces.remote_unknown import IRemUnknown
from oxid.ndr.types import NULL_HANDLE
from oxid.rpc.interface import spec_of
from oxid.rpc.tower import Floor, Tower
from oxid.rpcss import launcher
from oxid.rpcss.class_registry import AppSettings, ClassRegistry, ClassSettings, EndpointSetting
from oxid.rpcss.endpoint_mapper import Snapshot
from oxid.rpcss.ping_sets import PingCaller
from oxid.runtime.local_channel import dial

FOREVER = 1e6
EPT_S_CANT_PERFORM_OP = 0x6D8


def registry_of(*endpoints, clsid=CLSID_PROBE):
    """One class of this host's own, whose application has these endpoints."""
    app = AppSettings(APP, endpoints=tuple(EndpointSetting.parse(text, "here") for text in endpoints))
    return ClassRegistry({APP: app}, {UUID(clsid): ClassSettings(UUID(clsid), app=APP)})


def rows_of(host):
    """(port, static) of every row of the application."""
    return [(int(r.endpoint), r.static) for r in host.mapper if r.object == APP]


# -- settings, and what is made of them ----------------------------------------------------------------------


@pytest.mark.req("A4", "I2", "I4")
def test_the_collector_never_touches_an_endpoint_or_its_settings(tmp_path):
    """Static and dynamic endpoints of one application; clients come, vanish, and the collector works for a day."""
    port = free_port()
    registry = registry_of(static(port), dynamic())
    before, app = copy.deepcopy(registry.to_raw()), registry.apps[APP]

    async def story(server, client):
        host = server.host
        rows = rows_of(host)
        assert [is_static for _, is_static in rows] == [True, False]
        assert rows[0][0] == port
        for _ in range(8):
            async with client.process(server, USER) as machine:
                for _ in range(5):  # whose references reach nobody
                    await machine.activate_raw(UUID(CLSID_PROBE), [spec_of(IProbe).uuid])
                async with machine.activate(CLSID_PROBE, IProbe) as probe:
                    assert await probe.whoami() == "alice at 6"
            await until(lambda: not Probe.alive(), T + P + 2 * S, step=S)
            await asyncio.sleep(3 * 3600)  # sweeps without anybody
            assert rows_of(host) == rows
            assert all(is_taken(number) for number, _ in rows)
            assert host.launcher.registry.apps[APP] is app
            assert host.applications._settings[APP] is app
        assert registry.to_raw() == before
        assert Probe.made == 8 * 6

    play(tmp_path, story, registry=registry)


@pytest.mark.req("A4", "I2")
def test_a_local_server_listens_at_every_endpoint_of_its_application(tmp_path):
    """Not only at the static ones."""

    async def run():
        port = free_port()
        async with scene(tmp_path, [static(port), dynamic()]) as stage:
            begun = asyncio.create_task(stage.activate())
            server = await stage.next_server()
            held = await begun
            assert [is_static for _, is_static in rows_of(stage.host)] == [True, False]
            assert stage.rows()[0] == port
            assert all(map(is_taken, stage.rows()))
            taken = stage.rows()
            held.release()
            await server.gone()
            stage.check_gone(*taken)

    asyncio.run(run())


@asynccontextmanager
async def three_ports():
    """The first of three ports in a row that are free."""
    while True:
        first = free_port()
        if not any(map(is_taken, range(first, first + 3))):
            yield first
            return


@pytest.mark.req("I6")
def test_a_configured_port_is_never_taken_for_a_dynamic_endpoint(tmp_path):
    """Static and dynamic ports are two pools, also where one lies inside the range of the other."""

    async def run():
        async with three_ports() as first:
            ports = PortRange(first, first + 2)
            async with scene(tmp_path, [static(first + 1)], split=True, exporter_ports=ports) as stage:
                main = {endpoint.port for endpoint in stage.host.applications.main.endpoints}
                assert main == {first}
                stage.serve_all()
                plain = await stage.activate(SECOND)
                (dynamic_port,) = [endpoint.port for endpoint in plain.server.local.objects.endpoints]
                assert dynamic_port == first + 2
                held = await stage.activate(FIRST)
                assert stage.rows() == [first + 2, first + 1]
                held.release()
                plain.release()
                await stage.until(lambda: not stage.host.launcher._servers)
                stage.check_gone(first + 1, first + 2)
                again = await stage.activate(SECOND)  # what was given back is given out again
                assert stage.rows() == [first + 2]
                again.release()
                await stage.until(lambda: not stage.host.launcher._servers)

    asyncio.run(run())


# -- two classes, two processes ------------------------------------------------------------------------------


@pytest.mark.req("A6", "I3")
def test_the_row_of_two_classes_in_one_process_ends_with_the_second(tmp_path):
    async def run():
        port = free_port()
        async with scene(tmp_path, [static(port)]) as stage:
            begun = [asyncio.create_task(stage.activate(clsid)) for clsid in (FIRST, SECOND)]
            server = await stage.next_server()
            one, two = [await task for task in begun]
            assert one.server is two.server is server
            endpoints = stage.world.ledger.endpoint
            live = endpoints.live
            stage.check_serving(port)
            (lease,) = stage.leases()
            await server.local.revoke(FIRST)
            await server.local.revoke(FIRST)
            stage.check_serving(port)
            assert stage.leases() == [lease]
            again = await stage.activate(SECOND)
            assert again.server is server
            await server.local.revoke(SECOND)
            assert stage.rows() == []
            assert lease.closed
            assert endpoints.live == live - 1
            assert lease.close() is False  # it was closed once
            stage.check()
            assert one.alive
            assert two.alive
            for held in (one, two, again):
                held.release()
            await server.gone()
            stage.check_gone(port)

    asyncio.run(run())


@pytest.mark.req("A6", "A12")
def test_a_class_that_was_revoked_stays_revoked_when_the_host_comes_back(tmp_path):
    async def run():
        port = free_port()
        async with scene(tmp_path, [static(port)]) as stage:
            begun = asyncio.create_task(stage.activate(FIRST))
            server = await stage.next_server()
            held = await begun
            await server.local.revoke(FIRST)
            await stage.crash_host()
            await stage.start_host()
            server.may_attach.set()
            await stage.until(lambda: server.serving)
            await stage.settle()
            stage.check_serving(port)
            assert stage.host.service.classes.offers(SECOND)
            assert not stage.host.service.classes.offers(FIRST)
            held.release()
            await server.gone()
            stage.check_gone(port)

    asyncio.run(run())


@pytest.mark.req("A7", "I1", "I3")
def test_the_second_process_on_one_static_port_fails_and_the_first_does_not_notice(tmp_path, monkeypatch):
    """Two clients activate a class for single use at the same moment: each needs a process, and there is one port."""
    monkeypatch.setattr(launcher, "STOP_S", 0.2)

    async def run():
        port = free_port()
        async with scene(tmp_path, [static(port)]) as stage:
            stage.serve_all(single_use=True)
            (await stage.activate()).release()  # from here on it is known to be for single use
            await stage.until(lambda: not stage.host.launcher._servers)
            both = await asyncio.gather(stage.activate(), stage.activate(), return_exceptions=True)
            await asyncio.sleep(2 * launcher.STOP_S)
            (failed,) = [found for found in both if isinstance(found, oxid.OxidError)]
            (held,) = [found for found in both if found is not failed]
            assert failed.status.code == 0x8008_0005
            assert str(port) in str(failed)
            assert stage.is_child(held.server.pid), "the first process was ended for the second one's sake"
            assert held.alive
            stage.check_serving(port)
            held.release()
            await stage.until(lambda: not stage.host.launcher._servers)
            stage.check_gone(port)

    asyncio.run(run())


@pytest.mark.req("A8", "I3")
def test_a_port_that_somebody_else_has_fails_the_activation_and_nothing_is_left_of_it(tmp_path):
    async def run():
        port = free_port()
        async with scene(tmp_path, [static(port)]) as stage:
            stage.serve_all()
            rest = stage.world.ledger.live()
            with foreign_program(port):
                failures = await asyncio.gather(
                    *(stage.activate() for _ in range(20)), return_exceptions=True
                )
                failures += await asyncio.gather(
                    *(stage.activate() for _ in range(20)), return_exceptions=True
                )
                assert {error.status.code for error in failures} == {0x8008_0005}
                assert all(f"127.0.0.1:{port}" in str(error) for error in failures)
                assert len(stage.servers) == 1  # forty activations, and one start
                await stage.until(lambda: not stage.host.launcher._servers)
                stage.check_gone()
                assert stage.world.ledger.live() == rest
            stage.clock.ahead += launcher.REST_AFTER_FAILURE_S
            held = await stage.activate()
            stage.check_serving(port)
            held.release()
            await stage.until(lambda: not stage.host.launcher._servers)
            stage.check_gone(port)

    asyncio.run(run())


# -- the workarounds of the article --------------------------------------------------------------------------


async def lives(tmp_path, endpoints, *, permanent=False):
    """What an observer sees of some lives of a server: the counts at each step, less what is always there."""
    seen = []
    async with scene(tmp_path, endpoints) as stage:
        stage.serve_all()
        host, keeper = stage.host, await stage.activate() if permanent else None
        pings = PingCaller("admin")
        if keeper is not None:
            await stage.settle()
            kept = host.resolver.complex_ping(0, 1, [keeper.oid], [], pings, stage.clock.now()).set_id
        base = stage.world.ledger.live()

        async def look(*, ended=False):
            if keeper is not None:
                assert keeper.alive
                assert host.resolver.simple_ping(kept, pings, stage.clock.now()) == 0
            elif ended:
                await stage.until(lambda: not host.launcher._servers)
            await stage.settle()
            stage.check()
            assert len(stage.rows()) == (keeper is not None or not ended)
            now = stage.world.ledger.live()
            seen.append({kind: now[kind] - base[kind] for kind in now if now[kind] != base[kind]})

        for clsid in (FIRST, SECOND, FIRST):
            held = await stage.activate(clsid)
            await look()
            held.release()
            await look(ended=True)
            silent = await stage.activate(clsid)  # whose client vanishes
            stage.pass_time(T - P)
            await look()
            assert stage.pass_time(P + 2 * S, until_asked=True)
            await stage.until(lambda held=silent: not held.alive)
            await look(ended=True)
            if keeper is None:
                crashed = await stage.activate(clsid)
                await look()
                await crashed.server.crash()
                await look(ended=True)
        if keeper is not None:
            assert len(stage.servers) == 1
            keeper.release()
            await stage.until(lambda: not host.launcher._servers)
        stage.check_gone()
    return seen


@pytest.mark.req("A13", "A1", "A2", "A3", "I1", "I3")
def test_a_static_endpoint_is_not_special_in_any_way_that_can_be_seen(tmp_path):
    """Neither of the article's workarounds is needed, and both do what they ever did."""

    async def run():
        a_static = await lives(tmp_path / "static", [static(free_port())])
        a_dynamic = await lives(tmp_path / "dynamic", [dynamic()])
        unsaid = await lives(tmp_path / "unsaid", [])
        assert a_static == a_dynamic == unsaid
        assert a_static.count({}) == 9  # three times three ends
        kept = await lives(tmp_path / "kept", [static(free_port())], permanent=True)
        assert kept[1::2] == [{}] * 6

    asyncio.run(run())


# -- interfaces that come and go -----------------------------------------------------------------------------


@oxid.interface("5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6c11")
class ISlow(oxid.IUnknown):
    @oxid.operation(3)
    async def rest(self, milliseconds: oxid.U32) -> None:
        raise NotImplementedError


@oxid.interface("5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6c12")
class IQuick(oxid.IUnknown):
    @oxid.operation(3, out="number")
    async def number(self) -> oxid.U32:
        raise NotImplementedError


CLSID_MANY = "5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6c13"


@oxid.coclass(CLSID_MANY, implements=[IProbe, ISlow, IQuick])
class Many(Probe):
    async def rest(self, milliseconds):
        await asyncio.sleep(milliseconds / 1000)

    def number(self):
        return 7


@pytest.mark.req("A14", "dcom§6.1.3")
def test_interfaces_that_come_and_go_are_counted_exactly_and_calls_of_them_end(tmp_path):
    """RemQueryInterface makes interface pointers on an object of a static endpoint, RemRelease ends them."""
    port = free_port()

    async def story(server, client):
        pointers = server.world.ledger.interface_pointer
        server_core = server.host.applications.all[-1].server.core
        async with client.process(server, USER) as machine:
            probe = await machine.activate(CLSID_MANY, IProbe)
            base, served = pointers.live, len(server_core.registry)
            for turn in range(50):
                quick, slow = await probe.query(IQuick), await probe.query(ISlow)
                assert pointers.live == base + 2
                same = await quick.query(IQuick)  # one IID has one IPID, however often it is asked for
                assert same.ipid == quick.ipid
                assert pointers.live == base + 2
                long_call = asyncio.create_task(slow.rest(5000))
                await asyncio.sleep(0.1)
                await slow.release()  # while a call through it is under way
                assert pointers.live == base + 1
                assert await quick.number() == 7
                await quick.release()
                assert await same.number() == 7
                await same.release()
                assert pointers.live == base
                await long_call
                assert await probe.whoami() == "alice at 6"
                if turn == 0:
                    served = len(server_core.registry)
                assert len(server_core.registry) == served
                assert rows_of(server.host) == [(port, True)]
            await probe.release()
        assert len(Many.ends) == 1

    Many.begin()
    play(tmp_path, story, classes=(Many,), registry=registry_of(static(port), clsid=CLSID_MANY))


# -- the mapper's own interface ------------------------------------------------------------------------------


@asynccontextmanager
async def talker(host, ports):
    """A process with rows for these ports."""
    channel = await dial(host.options.local_channel, {}, lambda: None, of_user=os.getuid())
    link = f"{ports[0]}"
    await channel.ask("hello", version=VERSION, period=P, program="talker", launch="", link=link)
    spec = spec_of(IRemUnknown)
    for port in ports:
        await channel.ask(
            "endpoint",
            interface=str(spec.uuid),
            version=spec.version,
            protseq="ncacn_ip_tcp",
            endpoint=str(port),
            object=str(APP),
            static=True,
        )
    try:
        yield channel
    finally:
        await channel.aclose()


@asynccontextmanager
async def mapper_of(stage, **options):
    """A client of the host's endpoint mapper."""
    host = stage.host.rpc_server.endpoints[0]
    chosen = oxid.ClientOptions(port=host.port, agent="own", **options)
    async with oxid.connect("127.0.0.1", None, options=chosen, probe=False) as machine:
        async with machine.connections.use(host.host, host.port, UNAUTHENTICATED) as connection:
            yield await connection.proxy(IEndpointMap), connection


def seen_in(reply):
    return [int(Tower.decode(entry.tower.octets).endpoint) for entry in reply.entries if entry.object == APP]


def snapshots():
    gc.collect()
    return sum(isinstance(found, Snapshot) for found in gc.get_objects())


@pytest.mark.req("A16", "EPM-2", "I3")
def test_a_look_up_that_is_open_while_rows_go_skips_none_that_stays_and_ends_with_its_client(tmp_path):
    """Another client abandons its look-up: its handle goes with its connection, the snapshot with the handle."""
    leaving, staying = list(range(2000, 2040)), list(range(3000, 3040))

    async def run():
        before = snapshots()
        async with scene(tmp_path) as stage, talker(stage.host, staying):
            handles = stage.world.ledger.context_handle
            async with mapper_of(stage) as (mapper, _), mapper_of(stage) as (abandoned, _):
                async with talker(stage.host, leaving):
                    first = await mapper.lookup(0, None, None, 1, NULL_HANDLE, 10)
                    (await abandoned.lookup(0, None, None, 1, NULL_HANDLE, 10))
                    assert handles.live == 2
                    assert snapshots() == before + 2
                await stage.settle()
                assert stage.rows() == staying
                found, handle = seen_in(first), first.entry_handle
                while handle != NULL_HANDLE:
                    reply = await mapper.lookup(0, None, None, 1, handle, 7)
                    found, handle = found + seen_in(reply), reply.entry_handle
                assert len(found) == len(set(found))
                assert set(staying) <= set(found) <= {*staying, *leaving}
                assert handles.live == 1  # the abandoned one
            await stage.until(lambda: handles.live == 0)
            assert snapshots() == before
            stage.check()

    asyncio.run(run())


@pytest.mark.req("A17", "EPM-3", "rpce§6.insert", "rpce§6.tower", "I1")
def test_nothing_that_comes_over_the_network_changes_the_registry(tmp_path):
    """ept_insert, ept_delete, and towers with too many floors, lying lengths and no end."""
    spec = spec_of(IRemUnknown)
    good = Tower.of(spec.uuid, spec.version).encode()
    floors = Tower.of(spec.uuid, spec.version).floors
    hostile = [
        b"",
        b"\x07\0" + good[2:],
        Tower((*floors, *floors)).encode(),
        Tower((*floors, Floor(0x09, right=bytes(4)), Floor(0x09))).encode(),
        b"\xff\xff" + good[2:],
        good[:-3],
        b"\x05\0\xff\xff" + good[4:],
        b"\x05\0\0\0\0\0" * 200,
        good[:2] + b"\x13\0\x0d" + bytes(1900),
        bytes(2000),
    ]

    async def run():
        async with scene(tmp_path) as stage, talker(stage.host, [5020, 5021]):
            before = list(stage.host.mapper)
            for method in ("insert", "delete", "inq_object", "mgmt_delete"):
                async with mapper_of(stage) as (mapper, _):
                    with pytest.raises(oxid.StatusError) as caught:
                        await getattr(mapper, method)()
                    assert caught.value.status.code == EPT_S_CANT_PERFORM_OP
            for octets in hostile:
                async with mapper_of(stage) as (mapper, _):
                    with pytest.raises(oxid.OxidError):
                        await mapper.map(None, TowerIdl(octets), NULL_HANDLE, 4)
                    reply = await mapper.map(APP, TowerIdl(good), NULL_HANDLE, 4)
                    assert len(reply.towers) == 2
                assert list(stage.host.mapper) == before
            with socket.create_connection(("127.0.0.1", stage.host.rpc_server.endpoints[0].port)) as link:
                link.sendall(bytes(64))  # no PDU at all
                await stage.settle()
            assert list(stage.host.mapper) == before
            stage.check()

    asyncio.run(run())
