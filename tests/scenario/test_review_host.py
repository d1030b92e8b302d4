"""A host with several addresses, a new configuration, or clients in the middle of something when it ends."""

import asyncio
import logging
import socket
from dataclasses import replace

import pytest
from tests.support.inprocess import served

import oxid
from oxid.com.flight_record import Kind, packed
from oxid.com.options import ClientOptions
from oxid.rpcss.oid_table import OidTable, PingPolicy
from oxid.rpcss.ping_sets import PingCaller, PingLimits, PingSets
from oxid.samples.calculator import CLSID_CALCULATOR, Calculator, ICalculator
from oxid.samples.echo import Echo, IEcho


@oxid.interface("7a1c9f0e-7b9c-4a53-9a8e-1f3c5d7e9d01")
class IWaiter(oxid.IUnknown):
    @oxid.operation(3)
    async def wait_with(self, tray: oxid.InterfacePointer[ICalculator]) -> None:
        raise NotImplementedError


CLSID_WAITER = "7a1c9f0e-7b9c-4a53-9a8e-1f3c5d7e9d02"


@oxid.coclass(CLSID_WAITER, implements=[IWaiter])
class Waiter:
    waiting: asyncio.Event

    async def wait_with(self, tray):
        assert await tray.add(1, 2) == 3
        Waiter.waiting.set()
        await asyncio.sleep(3600)


def host_at(tmp_path, *addresses, **options):
    wanted = oxid.HostOptions(
        state=tmp_path, rpc=tuple(oxid.Address(address, 0) for address in addresses), **options
    )
    host = oxid.Host(
        wanted, classes=[oxid.coclass_of(Calculator)], interfaces=[oxid.PlainInterface(IEcho, Echo())]
    )
    host.accounts.add("admin", "secret", admin=True)
    return host


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_every_address_of_a_host_leads_to_objects_and_plain_interfaces(tmp_path, address):
    async def run():
        async with host_at(tmp_path, "127.0.0.1", "::1") as host:
            port = next(e.port for e in host.rpc_server.endpoints if e.host == address)
            options = ClientOptions(port=port)
            async with oxid.connect(address, oxid.Password("admin", "secret"), options=options) as machine:
                async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
                    assert await calculator.add(1, 2) == 3
                echo = await machine.bind(IEcho)
                assert await echo.add_one(1) == 2

    asyncio.run(run())


@pytest.mark.parametrize(("wildcard", "loopback"), [("0.0.0.0", "127.0.0.1"), ("::", "::1")])
def test_a_wildcard_listener_tells_names_that_were_looked_up_once(tmp_path, monkeypatch, wildcard, loopback):
    asked = []

    def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
        asked.append((host, family))
        found = {
            socket.AF_INET: ["127.0.1.1", "192.0.2.7"],
            socket.AF_INET6: ["fe80::1%eth0", "2001:db8::7", "::1"],
        }
        return [(family, type, 6, "", (address, port or 0)) for address in found[family]]

    async def run():
        loop = asyncio.get_running_loop()

        async def look_up(host, port, **wanted):
            return getaddrinfo(host, port, **wanted)

        async with host_at(tmp_path, wildcard) as host:
            del asked[:]
            port = host.rpc_server.endpoints[0].port
            async with oxid.connect(
                loopback, oxid.Password("admin", "secret"), options=ClientOptions(port=port)
            ) as machine:
                async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
                    assert await calculator.add(1, 2) == 3
                _, bindings = await machine.server_alive()
            assert asked == []  # nothing was looked up for a reference
        monkeypatch.setattr(loop, "getaddrinfo", look_up)
        from oxid.host.host import _own_addresses

        others = {"0.0.0.0": "192.0.2.7", "::": "2001:db8::7"}
        assert await _own_addresses(wildcard) == (socket.gethostname(), others[wildcard])
        assert bindings.strings[0].host == socket.gethostname()

    asyncio.run(run())


def test_a_new_configuration_says_what_waits_for_a_restart(tmp_path, caplog):
    async def run():
        async with host_at(tmp_path, "127.0.0.1") as host:
            with caplog.at_level(logging.WARNING, "oxid.host"):
                await host.reload(replace(host.options, log_level="debug"))
                assert caplog.messages == []
                await host.reload(replace(host.options, advertise=("elsewhere",), insecure_anonymous=True))
            assert caplog.messages == [
                "--advertise takes effect after a restart",
                "--insecure-anonymous takes effect after a restart",
            ]

    asyncio.run(run())


def test_a_host_that_ends_in_the_middle_of_a_call_gives_back_what_the_call_brought(tmp_path):
    async def run():
        Waiter.waiting = asyncio.Event()
        user = oxid.Password("admin", "secret")
        async with served(tmp_path / "owner", [Calculator]) as owner:
            rest = owner.live("object", "interface_pointer")
            async with owner.connect() as machine:
                async with served(tmp_path / "waiter", [Waiter], credentials=user) as there:
                    async with there.connect() as other:
                        calculator = await machine.activate(CLSID_CALCULATOR, ICalculator)
                        waiter = await other.activate(CLSID_WAITER, IWaiter)
                        call = asyncio.ensure_future(waiter.wait_with(calculator))
                        await Waiter.waiting.wait()
                        await there.host.__aexit__(None, None, None)
                        with pytest.raises(oxid.TransportError):
                            await call
                    assert there.world.ledger.client_set.live == 0
                await calculator.release()
                await owner.at_rest(owner.live() | rest)

    asyncio.run(run())


def test_a_farewell_that_would_have_to_be_awaited_is_refused_at_once():
    with pytest.raises(oxid.ConfigurationError, match="final_release is a plain method"):

        @oxid.coclass("7a1c9f0e-7b9c-4a53-9a8e-1f3c5d7e9d03", implements=[])
        class Late:
            async def final_release(self):
                pass


def test_the_locks_of_clients_that_died_are_gone_with_the_class_object(tmp_path):
    async def run():
        async with served(tmp_path, [Calculator]) as there:
            async with there.connect() as machine:
                factory = await machine.get_class_object(CLSID_CALCULATOR)
                await factory.lock_server(True)
                assert (
                    there.host.objects.class_objects.class_object(oxid.coclass_of(Calculator).clsid).locks
                    == 1
                )
            assert there.host.objects.class_objects.class_object(oxid.coclass_of(Calculator).clsid).locks == 0

    asyncio.run(run())


@pytest.mark.parametrize("period", ["0", "inf", "nan", "x", "1e9"])
def test_a_client_refuses_the_periods_that_a_host_refuses(monkeypatch, period):
    monkeypatch.setenv("OXID_PING_PERIOD", period)
    with pytest.raises(oxid.ConfigurationError, match="OXID_PING_PERIOD"):
        ClientOptions.from_environment()


# -- ping sets: many short sessions of one account ----------------------------------------------------------


def test_sets_that_hold_nothing_any_more_make_room_for_new_ones():
    world = oxid.World.real()
    policy = PingPolicy(120)
    leases = OidTable(policy, world.ledger)
    sets = PingSets(leases, world.new_id, policy, world.ledger, PingLimits(sets_per_identity=3))
    alice, bob = PingCaller("alice"), PingCaller("bob")
    leases.add(1, 9, 0.0)
    held = sets.complex_ping(0, 1, [1], [], alice, 0.0).set_id
    for second in range(10):  # sessions that end: each leaves a set without objects
        leases.add(100 + second, 9, float(second))
        made = sets.complex_ping(0, 1, [100 + second], [], alice, float(second))
        assert made.status == 0
        assert sets.complex_ping(made.set_id, 2, [], [100 + second], alice, float(second)).status == 0
    assert held in sets
    assert len(sets) == 3
    leases.add(2, 9, 10.0)
    for _ in range(2):
        assert sets.complex_ping(0, 1, [2], [], alice, 10.0).status == 0
    assert sets.complex_ping(0, 1, [2], [], alice, 10.0).status == 1721  # three that hold something
    assert sets.complex_ping(0, 1, [], [], bob, 10.0).status == 0
    # those whose time is over make room, too
    assert sets.complex_ping(0, 1, [2], [], alice, 400.0).status == 0
    sets.close(400.0)
    assert world.ledger.ping_set.live == 0
    assert sets.statistics()["identities"] == 0
    for oid in (1, 2, *range(100, 110)):
        leases.remove(leases.find(oid), 400.0, packed(400.0, Kind.RELEASED, 0))
