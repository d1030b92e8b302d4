"""Q292041: the configuration of endpoints changes while servers live on them. A11

Whoever lives keeps the endpoint that it has until it ends; whoever comes then has the new one; no row is left behind.
"""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID

import pytest
from tests.support.client_process import ClientFailed, ClientProcess
from tests.support.endpoints import (
    SAMPLES_APP,
    EndpointHost,
    app_table,
    dynamic,
    foreign_program,
    free_port,
    is_taken,
    static,
    wait_for,
)
from tests.support.inprocess import served
from tests.support.lifetimes import CLSID_PROBE, IProbe, Probe
from tests.support.local_probe import CLSID_LOCAL, CLSID_SECOND

import oxid
from oxid.rpcss.class_registry import AppSettings, ClassRegistry, ClassSettings, EndpointSetting
from oxid.runtime.control import ask
from oxid.samples.calculator import CLSID_CALCULATOR

# -- local servers -------------------------------------------------------------------------------------------


@pytest.mark.req("A11", "I1", "I2", "I4")
def test_a_living_local_server_keeps_its_endpoint_and_the_next_one_has_the_new_one(tmp_path):
    """Static to dynamic, dynamic to another port, gone, and back: each time a client is in the middle of something."""
    first, second = free_port(), free_port()
    with EndpointHost(tmp_path, [static(first)]) as host, ClientProcess(host.port) as client:

        def begin():
            (oid,) = client.do("activate", clsid=CLSID_LOCAL)
            (port,) = host.ports()
            host.audit_serving(port)
            return oid, port

        def change(oid, port, endpoints):
            """The new configuration is there; what lives notices nothing, and ends as ever."""
            server = host.audit_serving(port)
            host.configure(endpoints)
            host.reload()
            assert client.do("call", oid=oid) == "admin at 6"
            assert host.audit_serving(port) == server
            client.do("release", oid=oid)
            host.audit_gone(port)

        oid, port = begin()
        assert port == first
        change(oid, port, [dynamic()])
        oid, port = begin()
        assert port not in (first, second)
        change(oid, port, [static(second)])
        oid, port = begin()
        assert port == second
        change(oid, port, None)
        with pytest.raises(ClientFailed, match="REGDB_E_CLASSNOTREG"):
            begin()
        host.configure([static(first)])
        host.reload()
        oid, port = begin()
        assert port == first
        client.do("release", oid=oid)
        host.audit_gone(port)
        client.end()
        host.wait_for_rest()
        assert host.errors() == []


@pytest.mark.req("A11", "I1")
@pytest.mark.parametrize("how", ["the file", "the command line"])
def test_a_class_that_is_taken_out_is_not_activated_any_more_though_its_server_lives(tmp_path, how):
    port = free_port()
    with EndpointHost(tmp_path, [static(port)] if how == "the file" else None) as host:
        if how == "the command line":
            done = host.run(
                *("class", "register", CLSID_LOCAL, "--state", str(host.state), "--endpoint", static(port)),
                *("--command", " ".join(host.command)),
            )
            assert done.returncode == 0, done.stderr
            host.heard()
        with ClientProcess(host.port) as client:
            (oid,) = client.do("activate", clsid=CLSID_LOCAL)
            if how == "the file":
                host.configure([static(port)], classes=[CLSID_SECOND])
                host.reload()
            else:
                done = host.run("class", "remove", CLSID_LOCAL, "--state", str(host.state))
                assert done.returncode == 0, done.stderr
                host.heard()
            with pytest.raises(ClientFailed, match="REGDB_E_CLASSNOTREG"):
                client.do("activate", clsid=CLSID_LOCAL)
            assert client.do("call", oid=oid) == "admin at 6"
            assert [row.port for row in host.all_rows()] == [port]
            client.do("release", oid=oid)
            wait_for(lambda: not host.all_rows(), "the row goes with its server", says=host.log)
            assert not is_taken(port)


@pytest.mark.req("A11", "A1", "I1", "I2")
@pytest.mark.parametrize("isolated", [False, True])
def test_the_samples_move_to_another_port_when_their_objects_have_gone(tmp_path, isolated):
    """Without `--isolate` in the host's own process, which opens the new port at once; else with the next process."""
    first, second = free_port(), free_port()

    def configure(host, *endpoints):
        host.configure(None, more=app_table(SAMPLES_APP, endpoints) if endpoints else "")
        host.reload()

    table = app_table(SAMPLES_APP, [static(first)])
    options = ["--isolate"] if isolated else []
    with (
        EndpointHost(tmp_path, None, more=table, options=options) as host,
        ClientProcess(host.port) as client,
    ):

        def begin():
            interface = "oxid.samples.calculator:ICalculator"
            (oid,) = client.do("activate", clsid=str(CLSID_CALCULATOR), interface=interface)
            return oid

        def serves(oid):
            return client.do("call", oid=oid, method="add", arguments=[2, 3]) == 5

        def exporter(oid):
            return ask(host.state / "control", "object", oid=oid)["oxid"]

        old = begin()
        assert host.ports(SAMPLES_APP) == [first]
        configure(host, static(second))
        assert serves(old)
        if isolated:
            assert host.ports(SAMPLES_APP) == [first]
        else:
            assert host.ports(SAMPLES_APP) == [first, second]
            new = begin()
            assert exporter(new) != exporter(old)
            client.do("release", oid=new)
        client.do("release", oid=old)
        left = [] if isolated else [second]
        wait_for(lambda: host.ports(SAMPLES_APP) == left, "the old row goes", says=host.log)
        wait_for(lambda: not is_taken(first), "the old port is closed", says=host.log)
        new = begin()
        assert host.ports(SAMPLES_APP) == [second]
        configure(host)
        assert serves(new)
        client.do("release", oid=new)
        wait_for(lambda: not host.ports(SAMPLES_APP), "no row is left", says=host.log)
        wait_for(lambda: not is_taken(second), "no port is left open", says=host.log)
        if not isolated:
            assert serves(begin())  # without settings: on whatever port
            client.do("release_all")
        assert host.errors() == []


# -- applications of the host's own process -------------------------------------------------------------------


ONE, TWO = UUID("5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6e01"), UUID("5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6e02")
CLSID_OTHER = "5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6e03"


@oxid.coclass(CLSID_OTHER, implements=[IProbe])
class Other(Probe):
    """Of another application."""


def registry(one=(), two=()):
    """Both applications with their endpoints, by text."""
    apps = {
        app: AppSettings(app, endpoints=tuple(EndpointSetting.parse(text, "here") for text in endpoints))
        for app, endpoints in ((ONE, one), (TWO, two))
    }
    clsids = {UUID(CLSID_PROBE): ONE, UUID(CLSID_OTHER): TWO}
    return ClassRegistry(apps, {clsid: ClassSettings(clsid, app=app) for clsid, app in clsids.items()})


class Reloads:
    """A host in this process, and its endpoint mapper's rows by application."""

    def __init__(self, there):
        self.there, self.host = there, there.host

    async def reload(self, one=(), two=()):
        await self.host.reload(replace(self.host.options, registry=registry(one, two)))

    def rows(self, app):
        return [(int(r.endpoint), r.static) for r in self.host.mapper if r.object == app]

    def leases(self):
        return [
            lease for lease in self.host.mapper._leases.values() if lease.registration.object in (ONE, TWO)
        ]

    async def becomes(self, app, wanted):
        for _ in range(500):
            if self.rows(app) == wanted:
                return
            await asyncio.sleep(0.01)
        assert self.rows(app) == wanted

    def check(self):
        """I1, I2, I3: rows are those of exporters that are there, each with its socket, each counted."""
        listeners = [*self.host.rpc_server.endpoints]
        owners = {}
        for objects in self.host.applications.all:
            listeners += objects.server.endpoints
            owners[objects.exporter.oxid] = {endpoint.port for endpoint in objects.server.endpoints}
        for lease in self.leases():
            assert int(lease.registration.endpoint) in owners[lease.owner]
            assert is_taken(int(lease.registration.endpoint))
        assert self.host.world.ledger.endpoint.live == len(listeners) + len(self.host.mapper)


@asynccontextmanager
async def reloads(tmp_path, one=(), two=()):
    Probe.begin()
    Other.begin()
    async with served(tmp_path, [Probe, Other], registry=registry(one, two)) as there:
        found = Reloads(there)
        found.check()
        yield found
        found.check()


@pytest.mark.req("A11", "A4", "I4")
def test_a_reload_that_changes_nothing_touches_nothing(tmp_path):
    async def run():
        port = free_port()
        async with reloads(tmp_path, [static(port), dynamic()], [dynamic()]) as found:
            before = found.leases()
            settings = found.host.applications._settings[ONE]
            for _ in range(20):
                await found.reload([static(port), dynamic()], [dynamic()])
                assert all(now is then for now, then in zip(found.leases(), before, strict=True))
                assert found.host.applications._settings[ONE] == settings
                found.check()

    asyncio.run(run())


@pytest.mark.req("A11", "I1", "I2", "I3")
def test_an_application_that_is_changed_again_and_again_drains_every_exporter_that_still_has_objects(
    tmp_path,
):
    """Each configuration has an object when the next one comes: all of them serve on, and go one by one."""

    async def run():
        ports = [free_port() for _ in range(3)]
        async with reloads(tmp_path, [static(ports[0])]) as found, found.there.connect() as machine:
            probes = []
            for endpoints in ([static(ports[1])], [dynamic()], [static(ports[2])], []):
                probes.append(await machine.activate(CLSID_PROBE, IProbe))
                await found.reload(endpoints)
                found.check()
            assert len({probe.oxid for probe in probes}) == 4
            assert [port for port, is_static in found.rows(ONE) if is_static] == ports
            for probe in probes:
                assert await probe.whoami() == "admin at 6"
            rows = found.rows(ONE)
            for probe in reversed(probes):
                await probe.release()
                rows = rows[:-1]
                await found.becomes(ONE, rows)
                found.check()
            assert not any(map(is_taken, ports))
            async with machine.activate(CLSID_PROBE, IProbe) as probe:
                assert probe.oxid == found.host.exporter.oxid  # of the host itself: nothing is configured

    asyncio.run(run())


@pytest.mark.req("A11", "I2")
def test_another_endpoint_beside_the_same_port_takes_effect_when_nothing_lives_there(tmp_path):
    async def run():
        port = free_port()
        async with reloads(tmp_path, [static(port)]) as found, found.there.connect() as machine:
            async with machine.activate(CLSID_PROBE, IProbe) as probe:
                await found.reload([static(port), dynamic()])
                assert await probe.whoami() == "admin at 6"
                assert (port, True) in found.rows(ONE)
                found.check()
            await asyncio.sleep(0.05)
            await found.reload([static(port), dynamic()])
            assert [is_static for _, is_static in found.rows(ONE)] == [True, False]
            assert found.rows(ONE)[0] == (port, True)
            async with machine.activate(CLSID_PROBE, IProbe) as probe:
                assert await probe.whoami() == "admin at 6"
            await found.reload([static(port)])
            await found.becomes(ONE, [(port, True)])

    asyncio.run(run())


@pytest.mark.req("A11", "I2")
def test_two_applications_may_exchange_their_ports(tmp_path):
    async def run():
        first, second = free_port(), free_port()
        async with reloads(tmp_path, [static(first)], [static(second)]) as found:
            await found.reload([static(second)], [static(first)])
            await found.becomes(ONE, [(second, True)])
            await found.becomes(TWO, [(first, True)])
            async with found.there.connect() as machine:
                for clsid in (CLSID_PROBE, CLSID_OTHER):
                    async with machine.activate(clsid, IProbe) as probe:
                        assert await probe.whoami() == "admin at 6"

    asyncio.run(run())


@pytest.mark.req("A11", "A8", "I1", "I3")
def test_a_port_that_is_taken_leaves_the_old_settings_and_the_rest_of_the_change_is_taken_over(
    tmp_path, caplog
):
    async def run():
        port, other, busy = free_port(), free_port(), free_port()
        async with reloads(tmp_path, [static(port)]) as found, found.there.connect() as machine:
            with foreign_program(busy):
                await found.reload([static(busy)], [static(other)])
                assert found.rows(ONE) == [(port, True)]
                assert found.rows(TWO) == [(other, True)]
                async with machine.activate(CLSID_PROBE, IProbe) as probe:
                    assert await probe.whoami() == "admin at 6"
                found.check()
            assert f"127.0.0.1:{busy}" in caplog.text
            await found.reload([static(busy)], [static(other)])  # now it is free
            await found.becomes(ONE, [(busy, True)])
            assert not is_taken(port)

    asyncio.run(run())


@pytest.mark.req("A11", "I4")
def test_two_applications_with_one_port_are_refused_and_the_old_configuration_stays(tmp_path):
    async def run():
        port = free_port()
        async with reloads(tmp_path, [static(port)], [dynamic()]) as found:
            before, leases = found.host.launcher.registry, found.leases()
            with pytest.raises(oxid.ConfigurationError, match=f"both have port {port}"):
                await found.reload([static(port)], [static(port)])
            assert found.host.launcher.registry is before
            assert found.leases() == leases

    asyncio.run(run())
