"""Launch, activation and access permissions, of the machine and of each application. ACT-9"""

import asyncio
import os
import signal

import pytest
from tests.support.endpoints import EndpointHost, wait_for
from tests.support.host import PASSWORD, run_oxid
from tests.support.lifetimes import CLSID_PROBE, OTHER, USER, IProbe, Probe, T, play, settle
from tests.support.local_probe import APPID, CLSID_LOCAL, probe_command

import oxid
from oxid.com.coclass import coclass_of
from oxid.com.permissions import AccessList, MachinePermissions
from oxid.rpcss.class_registry import AppSettings, ClassRegistry, ClassSettings

CLSID = coclass_of(Probe).clsid


def only(*names):
    return AccessList.parse(names)


def registry(**of_app):
    permissions = of_app.pop("permissions", MachinePermissions())
    app = AppSettings(CLSID, **of_app)
    return ClassRegistry({CLSID: app}, {CLSID: ClassSettings(CLSID, app=CLSID)}, permissions)


async def answers(server, client, *credentials):
    """What each of these meets who activates and calls."""
    found = []
    for who in credentials:
        async with client.process(server, who) as machine:
            try:
                async with machine.activate(CLSID_PROBE, IProbe) as probe:
                    try:
                        found.append(await probe.whoami())
                    except oxid.AccessDenied:
                        found.append("no call")
            except oxid.AccessDenied:
                found.append("no activation")
    return found


@pytest.mark.req("ACT-9")
@pytest.mark.parametrize(
    ("settings", "alice", "bob"),
    [
        ({}, "alice at 6", "bob at 6"),
        ({"activate": only("alice")}, "alice at 6", "no activation"),
        ({"activate": only("Everyone", "!bob")}, "alice at 6", "no activation"),
        ({"activate": only("Everyone", "!bob:local")}, "alice at 6", "no activation"),
        ({"activate": only("Everyone", "!bob:remote")}, "alice at 6", "bob at 6"),
        ({"activate": only("Administrators")}, "no activation", "no activation"),
        ({"access": only("alice")}, "alice at 6", "no call"),
        ({"access": only("Everyone", "!bob")}, "alice at 6", "no call"),
        ({"permissions": MachinePermissions(limit_activate=only("alice"))}, "alice at 6", "no activation"),
        ({"permissions": MachinePermissions(limit_access=only("alice"))}, "alice at 6", "no call"),
        ({"permissions": MachinePermissions(access=only("bob"))}, "no call", "bob at 6"),
        ({"permissions": MachinePermissions(activate=only("bob"))}, "no activation", "bob at 6"),
        # An application says otherwise than the default, and never more than the bound.
        (
            {"access": only("alice"), "permissions": MachinePermissions(access=only("bob"))},
            "alice at 6",
            "no call",
        ),
        (
            {"access": only("bob"), "permissions": MachinePermissions(limit_access=only("alice"))},
            "no call",
            "no call",
        ),
    ],
)
def test_the_bound_of_the_machine_and_the_list_of_the_application_both_have_to_admit(
    tmp_path, settings, alice, bob
):
    async def story(server, client):
        assert await answers(server, client, USER, OTHER) == [alice, bob]

    play(tmp_path, story, registry=registry(**settings))


@pytest.mark.req("ACT-9")
def test_nobody_is_let_in_where_the_list_says_so(tmp_path):
    async def story(server, client):
        assert await answers(server, client, None) == ["no activation"]

    play(tmp_path, story, registry=registry())

    async def with_nobody(server, client):
        assert await answers(server, client, None) == ["None at 1"]

    open_to_all = MachinePermissions().open_to_anybody()
    play(tmp_path, with_nobody, registry=registry(permissions=open_to_all), insecure_anonymous=True)


@pytest.mark.req("ACT-9", "BLK-8")
def test_permissions_that_are_taken_away_hold_for_what_lives_and_releases_still_pass(tmp_path):
    async def story(server, client):
        async with client.process(server, OTHER) as machine:
            probe = await machine.activate(CLSID_PROBE, IProbe)
            assert await probe.whoami() == "bob at 6"
            await server.host.applications.reload(registry(access=only("alice")))
            with pytest.raises(oxid.AccessDenied):
                await probe.whoami()
            await server.host.applications.reload(registry(access=only("alice", "bob")))
            assert await probe.whoami() == "bob at 6"
            await asyncio.sleep(2 * T)
            assert await probe.whoami() == "bob at 6"
            await probe.release()
            await settle()

    play(tmp_path, story, registry=registry(access=only("bob")))


@pytest.mark.req("ACT-9", "BLK-4")
def test_a_level_that_is_raised_holds_for_what_lives_and_is_told_to_whoever_comes(tmp_path):
    async def story(server, client):
        async with client.process(server, OTHER) as machine:
            probe = await machine.activate(CLSID_PROBE, IProbe)
            await probe.set_blanket(level=oxid.AuthLevel.PKT_INTEGRITY)
            assert await probe.whoami() == "bob at 5"
            await server.host.applications.reload(registry(access=only("bob"), authentication=6))
            with pytest.raises(oxid.AccessDenied):
                await probe.whoami()
            await probe.set_blanket(level=oxid.AuthLevel.PKT_PRIVACY)
            assert await probe.whoami() == "bob at 6"
            assert server.host.service.resolver.resolve(probe.oxid).authn_hint == 6
            await server.host.applications.reload(registry(access=only("bob")))
            assert server.host.service.resolver.resolve(probe.oxid).authn_hint == 5
            await probe.release()
            await settle()

    play(tmp_path, story, registry=registry(access=only("bob")))


# -- real processes ------------------------------------------------------------------------------------------


async def _activate(host, who=None):
    options = oxid.ClientOptions(port=host.port, agent="own", ping_period=1.0)
    async with oxid.connect("127.0.0.1", who or oxid.Password("admin", PASSWORD), options=options) as machine:
        async with machine.activate(CLSID_LOCAL, IProbe) as probe:
            return await probe.whoami()


@pytest.mark.req("ACT-9", "ACT-6")
def test_whoever_may_not_launch_starts_no_process_and_may_use_one_that_runs(tmp_path):
    more = '[permissions]\nlaunch = ["carol"]\n'
    with EndpointHost(tmp_path, [], more=more) as host:
        carol = oxid.Password("carol", "singer")
        host.add_user("carol", "singer")
        with pytest.raises(oxid.AccessDenied):
            asyncio.run(_activate(host))
        assert host.probe.count("started") == 0
        assert asyncio.run(_activate(host, carol)) == "carol at 6"
        wait_for(lambda: not host.probe.running, "the server ends")

        async def both():
            options = oxid.ClientOptions(port=host.port, agent="own", ping_period=1.0)
            async with oxid.connect("127.0.0.1", carol, options=options) as machine:
                async with machine.activate(CLSID_LOCAL, IProbe):
                    assert await _activate(host) == "admin at 6"  # it runs already: nothing is launched

        asyncio.run(both())
        assert host.probe.count("started") == 2
        host.configure([], more='[permissions]\nlimit-launch = ["!carol", "Everyone"]\n')
        host.reload()
        wait_for(lambda: not host.probe.running, "the server ends")
        with pytest.raises(oxid.AccessDenied):
            asyncio.run(_activate(host, carol))
        assert asyncio.run(_activate(host)) == "admin at 6"
        wait_for(lambda: not host.probe.running, "the server ends")
        host.wait_for_rest()


@pytest.mark.req("ACT-9", "BLK-4")
@pytest.mark.parametrize("after_a_crash", [False, True])
def test_a_local_server_that_runs_hears_of_new_permissions(tmp_path, after_a_crash):
    """Also one that has survived the host which started it."""

    async def story(host):
        options = oxid.ClientOptions(port=host.port, agent="own", ping_period=1.0, call_timeout=10.0)
        admin = oxid.Password("admin", PASSWORD)
        async with oxid.connect("127.0.0.1", admin, options=options) as machine:
            async with machine.activate(CLSID_LOCAL, IProbe) as probe:
                assert await probe.whoami() == "admin at 6"
                if after_a_crash:
                    await asyncio.to_thread(host.crash)
                    await asyncio.to_thread(host.start_again)
                    await asyncio.to_thread(wait_for, host.ports, "its row is there again")

                async def denied():
                    try:
                        await probe.whoami()
                    except oxid.AccessDenied:
                        return True
                    return False

                async def comes(wanted):
                    async with asyncio.timeout(10.0):
                        while await denied() is not wanted:
                            await asyncio.sleep(0.02)

                host.configure([], more='[permissions]\naccess = ["carol"]\n')
                host.reload()
                await comes(True)
                host.configure([])
                host.reload()
                await comes(False)
                await probe.set_blanket(level=oxid.AuthLevel.PKT_INTEGRITY)
                assert await probe.whoami() == "admin at 5"
                text = host.config.read_text()
                host.config.write_text(text.replace("[[app]]\n", '[[app]]\nauthentication = "privacy"\n'))
                host.reload()
                await comes(True)
                await probe.set_blanket(level=oxid.AuthLevel.PKT_PRIVACY)
                assert await probe.whoami() == "admin at 6"

    with EndpointHost(tmp_path, []) as host:
        asyncio.run(story(host))
        wait_for(lambda: not host.probe.running, "the server ends")
        host.wait_for_rest()


@pytest.mark.req("ACT-9")
def test_oxid_class_permit_changes_lists_of_a_running_host(tmp_path):
    with EndpointHost(tmp_path, []) as host:
        state = ("--state", str(host.state))
        command = " ".join(probe_command(host.probe.path))

        def permit(*words, code=0):
            done = host.run("class", "permit", *words, *state)
            assert done.returncode == code, done.stderr
            return done.stderr

        host.configure(None)
        registered = host.run("class", "register", CLSID_LOCAL, "--app", APPID, "--command", command, *state)
        assert registered.returncode == 0, registered.stderr
        host.reload()
        permit(CLSID_LOCAL, "activate", "!admin")
        with pytest.raises(oxid.AccessDenied):
            asyncio.run(_activate(host))
        permit(APPID, "activate", "!admin", "--remove")
        assert asyncio.run(_activate(host)) == "admin at 6"
        permit(CLSID_LOCAL, "access", "carol", "--only")
        listed = host.run("class", "list", *state).stdout
        assert "activate: Everyone" in listed
        assert "access: carol" in listed
        wait_for(lambda: not host.probe.running, "the server ends")
        with pytest.raises(oxid.AccessDenied):
            asyncio.run(_activate(host))
        assert "is not in the list" in permit(CLSID_LOCAL, "access", "dave", "--remove", code=1)
        assert "behind the colon" in permit(CLSID_LOCAL, "access", "dave:near", code=1)
        wait_for(lambda: not host.probe.running, "the server ends")
        host.wait_for_rest()


def test_a_configuration_with_wrong_permissions_does_not_replace_the_old_one(tmp_path):
    with EndpointHost(tmp_path, []) as host:
        host.configure([], more='[permissions]\nlunch = ["Everyone"]\n')
        os.kill(host.pid, signal.SIGHUP)
        wait_for(lambda: "the old configuration stays" in host.log(), "it is said")
        assert "unknown key 'lunch'" in host.log()
        assert asyncio.run(_activate(host)) == "admin at 6"
        wait_for(lambda: not host.probe.running, "the server ends")


def test_a_host_does_not_start_with_permissions_that_it_cannot_read(tmp_path):
    config = tmp_path / "oxid.toml"
    config.write_text('[permissions]\naccess = "Everyone"\n')

    run = run_oxid(
        "serve", "--config", str(config), "--state", str(tmp_path / "state"), "--rpc", "127.0.0.1:0"
    )
    assert run.returncode == 1
    assert "a list of accounts and groups was wanted" in run.stderr
