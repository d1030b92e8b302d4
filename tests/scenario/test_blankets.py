"""How each proxy's calls are secured, and who acts: blankets, cloaking, references of one's own. BLK-1 to BLK-7"""

import asyncio
import subprocess
import sys
import textwrap

import pytest
from tests.support.lifetimes import CLSID_PROBE, OTHER, USER, IProbe, Probe, T, play, settle

import oxid
from oxid.com.options import UNAUTHENTICATED, Blanket
from oxid.com.security import ProcessSecurity, negotiated
from oxid.interfaces.remote_unknown import RemInterfaceRef
from oxid.interfaces.unknown import IUnknown
from oxid.rpc.interface import spec_of
from oxid.values.bindings import DcomBinding, DualStringArray, SecurityBinding
from oxid.values.status import (
    E_INVALIDARG,
    RPC_E_NO_GOOD_SECURITY_PACKAGES,
    RPC_E_TOO_LATE,
    RPC_E_UNSECURE_CALL,
)

BY_USER = oxid.AuthInfo(USER)
INTEGRITY, PRIVACY = oxid.AuthLevel.PKT_INTEGRITY, oxid.AuthLevel.PKT_PRIVACY


@oxid.interface("5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6a21")
class IRelay(oxid.IUnknown):
    """An object that calls another one, as somebody."""

    @oxid.operation(3, out="who")
    async def ask(self, other: oxid.InterfacePointer[IProbe], how: oxid.Str) -> oxid.Str:
        raise NotImplementedError


CLSID_RELAY = "5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6a22"


@oxid.coclass(CLSID_RELAY, implements=[IRelay])
class Relay:
    async def ask(self, other, how):
        if how == "as itself":
            return await other.whoami()
        with oxid.impersonate() as principal:
            if how == "nested":
                with oxid.impersonate() as again:
                    assert again == principal
                assert oxid.current_call().principal == principal
            return f"{principal}: {await other.whoami()}"


# -- what a blanket is ---------------------------------------------------------------------------------------


@pytest.mark.req("BLK-1")
def test_a_blanket_belongs_to_one_proxy_and_a_new_interface_begins_with_the_default(tmp_path):
    async def story(server, client):
        async with client.process(server, USER) as machine, machine.activate(CLSID_PROBE, IProbe) as probe:
            before = await probe.query_blanket()
            assert (before.credentials, before.level, before.impersonation) == (USER, PRIVACY, 3)
            copied = probe.copy()
            queried = await probe.query(IProbe)
            await probe.set_blanket(credentials=OTHER, level=INTEGRITY)
            assert await probe.whoami() == "bob at 5"
            assert await copied.whoami() == "alice at 6"
            assert await queried.whoami() == "alice at 6"
            assert await copied.query_blanket() == before
            later = await probe.query(IProbe)
            assert await later.query_blanket() == before
            copy_of_changed = probe.copy()
            assert await copy_of_changed.whoami() == "bob at 5"
            await copy_of_changed.set_blanket(before)
            assert (await copy_of_changed.whoami(), await probe.whoami()) == ("alice at 6", "bob at 5")
            for proxy in (copied, queried, later, copy_of_changed):
                await proxy.release()
            assert await probe.whoami() == "bob at 5"

    play(tmp_path, story)


@pytest.mark.req("BLK-1", "BLK-6")
def test_connections_are_shared_within_one_blanket_and_never_across(tmp_path):
    async def story(server, client):
        async with client.process(server, USER) as machine, machine.activate(CLSID_PROBE, IProbe) as probe:
            copies = [probe.copy() for _ in range(6)]
            wanted = [
                {},
                {"credentials": OTHER},
                {"level": INTEGRITY},
                {"impersonation": oxid.Impersonation.IDENTIFY},
                {"target_name": "host/somebody"},
                {"credentials": OTHER},
            ]
            for copied, changes in zip(copies, wanted, strict=True):
                await copied.set_blanket(**changes)
            said = await asyncio.gather(*[copied.whoami() for copied in copies])
            assert said == ["alice at 6", "bob at 6", "alice at 5", "alice at 6", "alice at 6", "bob at 6"]
            connections = [id(copied._connection) for copied in copies]
            assert connections[1] == connections[5]
            assert len(set(connections)) == 5
            for copied in copies:
                await copied.release()

    play(tmp_path, story)


@pytest.mark.req("BLK-1")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"level": 6}, "give credentials"),
        ({"credentials": USER, "level": 9}, "level 9"),
        ({"credentials": USER, "level": 5, "auth_type": 14}, "cannot be used with package"),
        ({"credentials": USER, "impersonation": 7}, "impersonation level 7"),
        ({"colour": "red"}, "a blanket has no colour"),
    ],
)
def test_a_blanket_that_no_connection_can_have_is_refused_at_once(tmp_path, changes, says):
    async def story(server, client):
        async with client.process(server) as machine:
            async with machine.activate(CLSID_PROBE, IProbe, auth_info=BY_USER) as probe:
                with pytest.raises(oxid.InvalidArgument, match=says) as caught:
                    await probe.set_blanket(**changes)
                assert caught.value.status.code == E_INVALIDARG
                assert await probe.whoami() == "None at 1"

    play(tmp_path, story, insecure_anonymous=True)


@pytest.mark.req("BLK-2")
def test_unknowns_own_blanket_secures_queries_references_and_releases(tmp_path):
    """A server that takes calls of accounts only, and a client whose default is nobody."""

    async def story(server, client):
        async with client.process(server) as machine:
            probe = await machine.activate(CLSID_PROBE, IProbe, auth_info=BY_USER)
            await probe.set_blanket(credentials=USER)
            with pytest.raises(oxid.AccessDenied):
                await machine._channel(probe.oxid).query(probe._pointer, spec_of(IUnknown).uuid)
            await probe.set_blanket(credentials=USER, unknown=True)
            unknown = await probe.query(IUnknown)
            await machine._channel(probe.oxid).add_refs(unknown._pointer)
            await unknown.release()
            await probe.release()
            await settle()
            assert len(Probe.ends) == 1

    play(tmp_path, story)


@pytest.mark.req("BLK-3")
def test_the_credentials_of_an_activation_secure_that_activation_alone(tmp_path):
    async def story(server, client):
        async with client.process(server, OTHER) as machine:
            async with machine.activate(CLSID_PROBE, IProbe, auth_info=BY_USER) as probe:
                assert await probe.whoami() == "bob at 6"
                assert (await probe.query_blanket()).credentials == OTHER
                async with machine.activate(CLSID_PROBE, IProbe) as second:
                    assert await second.whoami() == "bob at 6"
                await asyncio.sleep(2 * T)
                assert {sent.user for sent in client.pings} == {
                    "bob"
                }  # proven by a call: first on the ladder

    play(tmp_path, story)


# -- negotiation ---------------------------------------------------------------------------------------------


@pytest.mark.req("BLK-4")
def test_the_default_blanket_is_at_least_what_the_server_wants(tmp_path):
    async def story(server, client):
        for asked, raised, got in (
            (INTEGRITY, True, 5),
            (oxid.AuthLevel.CONNECT, True, 5),
            (PRIVACY, True, 6),
        ):
            async with client.process(server, USER, level=asked, raise_level=raised) as machine:
                async with machine.activate(CLSID_PROBE, IProbe) as probe:
                    assert await probe.whoami() == f"alice at {got}"
                    assert (await probe.query_blanket()).level == got
        async with client.process(server, USER, level=oxid.AuthLevel.CONNECT, raise_level=False) as machine:
            with pytest.raises(oxid.AccessDenied):
                await machine.activate(CLSID_PROBE, IProbe)

    play(tmp_path, story)


def offering(*packages, principal=""):
    tcp = DcomBinding(7, "10.0.0.1", "49152")
    return DualStringArray((tcp,), tuple(SecurityBinding(number, principal) for number in packages))


@pytest.mark.req("BLK-4")
@pytest.mark.parametrize(
    ("credentials", "offered", "package"),
    [
        (USER, (9, 10, 16), 10),
        (USER, (9, 16), 9),
        (USER, (16,), 16),
        (oxid.Ticket(), (10, 16, 9), 9),
        (oxid.Ticket(), (10, 16), 16),
        (oxid.Anonymous(), (10,), 10),
        (USER, (), 10),
    ],
)
def test_the_package_is_the_usual_one_that_both_know(credentials, offered, package):
    options = oxid.ClientOptions()
    blanket = negotiated(
        Blanket.of(credentials, options), offering(*offered, principal="host/plant7"), options
    )
    assert int(blanket.auth_type) == package
    assert blanket.target_name == ("host/plant7" if isinstance(credentials, oxid.Ticket) else "")


@pytest.mark.req("BLK-4")
def test_credentials_that_no_package_of_the_server_takes_are_refused_with_both_lists():
    options = oxid.ClientOptions()
    with pytest.raises(oxid.StatusError, match=r"packages 10, 14; Ticket works with SPNEGO \(9\)") as caught:
        negotiated(Blanket.of(oxid.Ticket(), options), offering(10, 14), options)
    assert caught.value.status.code == RPC_E_NO_GOOD_SECURITY_PACKAGES
    assert negotiated(Blanket.of(None, options), offering(10), options) == UNAUTHENTICATED


# -- the process's own choice --------------------------------------------------------------------------------


@pytest.mark.req("BLK-5")
def test_security_is_initialised_once_and_before_the_first_connection():
    security = ProcessSecurity()
    security.initialize(USER, level=INTEGRITY, capabilities=oxid.Capabilities.DYNAMIC_CLOAKING)
    with pytest.raises(oxid.StatusError, match="initialised already") as caught:
        security.initialize(OTHER)
    assert caught.value.status.code == RPC_E_TOO_LATE
    options, credentials = security.settled(None, None)
    assert (options.level, options.capabilities) == (INTEGRITY, oxid.Capabilities.DYNAMIC_CLOAKING)
    assert credentials == USER
    assert security.settled(oxid.ClientOptions(), OTHER) == (oxid.ClientOptions(), OTHER)

    late = ProcessSecurity()
    late.settled(None, None)
    with pytest.raises(oxid.StatusError):
        late.initialize(USER)


@pytest.mark.req("BLK-5")
@pytest.mark.parametrize(
    ("credentials", "capabilities"), [(USER, 0x60), (USER, 0x1), (oxid.Anonymous(), 0x2)]
)
def test_combinations_of_capabilities_that_com_refuses_are_invalid(credentials, capabilities):
    with pytest.raises(oxid.InvalidArgument):
        ProcessSecurity().initialize(credentials, capabilities=oxid.Capabilities(capabilities))


@pytest.mark.req("BLK-5")
def test_a_process_initialises_its_security_and_calls_as_that(tmp_path):
    """In a real process, since it is the process's own state."""
    from tests.support.host import OxidHost

    with OxidHost() as host:
        host.add_user("carol", "singer")
        source = f"""
            import asyncio, oxid
            from oxid.samples.calculator import CLSID_CALCULATOR, ICalculator
            oxid.initialize_security(oxid.Password("carol", "singer"), level=oxid.AuthLevel.PKT_INTEGRITY)

            async def main():
                async with oxid.connect("127.0.0.1:{host.port}") as machine:
                    async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
                        blanket = await calculator.query_blanket()
                        print(await calculator.add(2, 3), blanket)
                try:
                    oxid.initialize_security()
                except oxid.StatusError as error:
                    print(error.status.name)
            asyncio.run(main())
        """
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, timeout=60
        )
        assert run.stdout.splitlines() == ["5 carol at level 5", "RPC_E_TOO_LATE"], run.stderr
        host.wait_for_rest()


# -- who acts ------------------------------------------------------------------------------------------------


@pytest.mark.req("BLK-6")
def test_without_cloaking_it_is_always_the_machines_own_identity(tmp_path):
    async def story(server, client):
        async with client.process(server, USER) as machine, machine.activate(CLSID_PROBE, IProbe) as probe:
            with oxid.acting_as(OTHER):
                assert await probe.whoami() == "alice at 6"

    play(tmp_path, story)


@pytest.mark.req("BLK-6")
def test_static_cloaking_keeps_the_identity_of_the_first_call(tmp_path):
    async def story(server, client):
        static = oxid.Capabilities.STATIC_CLOAKING
        async with client.process(server, USER, capabilities=static) as machine:
            probe = await machine.activate(CLSID_PROBE, IProbe)
            with oxid.acting_as(OTHER):
                assert await probe.whoami() == "bob at 6"
            assert await probe.whoami() == "bob at 6"
            second = await probe.query(IProbe)
            assert await second.whoami() == "alice at 6"
            with oxid.acting_as(OTHER):
                assert await second.whoami() == "alice at 6"
                await second.set_blanket(credentials=OTHER)  # setting it captures the identity anew
            assert await second.whoami() == "bob at 6"
            await probe.release()
            await second.release()

    play(tmp_path, story)


@pytest.mark.req("BLK-6")
def test_dynamic_cloaking_asks_who_acts_at_each_call_in_each_task(tmp_path):
    async def story(server, client):
        dynamic = oxid.Capabilities.DYNAMIC_CLOAKING
        async with client.process(server, USER, capabilities=dynamic) as machine:
            async with machine.activate(CLSID_PROBE, IProbe) as probe:

                async def ask(who):
                    with oxid.acting_as(who):
                        await asyncio.sleep(0.1)
                        return await probe.whoami()

                said = await asyncio.gather(*[ask(who) for who in (USER, OTHER) * 20])
                assert said == ["alice at 6", "bob at 6"] * 20
                with oxid.acting_as(OTHER), oxid.acting_as(USER):
                    assert await probe.whoami() == "alice at 6"
                with oxid.acting_as(None), pytest.raises(oxid.AccessDenied):
                    await probe.whoami()
                assert await probe.whoami() == "alice at 6"

    play(tmp_path, story)


@pytest.mark.req("BLK-6")
def test_a_cloaked_activation_is_made_by_the_identity_that_acts(tmp_path):
    async def story(server, client):
        dynamic = oxid.Capabilities.DYNAMIC_CLOAKING
        async with client.process(
            server, oxid.Password("nobody-knows", "him"), capabilities=dynamic
        ) as machine:
            with pytest.raises((oxid.AccessDenied, oxid.AuthenticationError)):
                await machine.activate(CLSID_PROBE, IProbe)
            with oxid.acting_as(USER):
                probe = await machine.activate(CLSID_PROBE, IProbe)
                assert await probe.whoami() == "alice at 6"
                await asyncio.sleep(3 * T)
                assert await probe.whoami() == "alice at 6"
                await probe.release()

    play(tmp_path, story)


# -- references of one's own ---------------------------------------------------------------------------------


@pytest.mark.req("BLK-5")
def test_secure_references_cannot_be_released_by_another_account(tmp_path):
    async def story(server, client):
        secure = oxid.Capabilities.SECURE_REFS
        async with (
            client.process(server, USER, capabilities=secure) as owner,
            client.process(server, OTHER) as thief,
        ):
            probe = await owner.activate(CLSID_PROBE, IProbe)
            pointer = probe._pointer
            assert (pointer.refs, pointer.private_refs) == (0, 5)
            await settle()
            channel = thief._channel(probe.oxid)
            await channel.connection()
            stolen = [RemInterfaceRef(probe.ipid, 1000, 1000)]
            await channel.remote_unknown().rem_release(stolen)
            assert await probe.whoami() == "alice at 6"
            with pytest.raises(oxid.InvalidArgument, match="own account"):
                await probe.set_blanket(credentials=OTHER, unknown=True)
            await probe.release()
            await settle()
            assert Probe.alive() == 0
            channel._rest_if_idle()

    play(tmp_path, story)


@pytest.mark.req("BLK-5")
def test_plain_references_can_be_stolen_which_is_why_there_are_secure_ones(tmp_path):
    """What Windows does, too: public references belong to whoever knows the IPID."""

    async def story(server, client):
        async with client.process(server, USER) as owner, client.process(server, OTHER) as thief:
            probe = await owner.activate(CLSID_PROBE, IProbe)
            channel = thief._channel(probe.oxid)
            await channel.connection()
            await channel.remote_unknown().rem_release([RemInterfaceRef(probe.ipid, 1000, 0)])
            with pytest.raises(oxid.ObjectGone):
                await probe.whoami()
            await probe.release()
            channel._rest_if_idle()

    play(tmp_path, story)


# -- on the server -------------------------------------------------------------------------------------------


@pytest.mark.req("BLK-7")
def test_a_method_acts_as_its_caller_within_a_block_and_as_itself_again_behind_it(tmp_path):
    """The caller hands over nothing that would prove him to a third: whom the relay calls sees nobody. A relay that
    is not cloaked calls as its host always."""

    async def story(server, client):
        async with client.process(server, OTHER) as machine:
            async with (
                machine.activate(CLSID_PROBE, IProbe) as probe,
                machine.activate(CLSID_RELAY, IRelay) as relay,
            ):
                own = await relay.ask(probe, "as itself")
                assert await relay.ask(probe, "impersonating") == f"bob: {own}"
                assert await relay.ask(probe, "nested") == f"bob: {own}"

    play(tmp_path, story, classes=(Probe, Relay))


@pytest.mark.req("BLK-7")
def test_a_caller_who_allows_no_impersonation_is_not_impersonated(tmp_path):
    async def story(server, client):
        async with client.process(server) as machine:
            async with (
                machine.activate(CLSID_PROBE, IProbe, auth_info=BY_USER) as probe,
                machine.activate(CLSID_RELAY, IRelay, auth_info=BY_USER) as relay,
            ):
                with pytest.raises(oxid.StatusError) as caught:
                    await relay.ask(probe, "impersonating")
                assert caught.value.status.code == RPC_E_UNSECURE_CALL
                await relay.set_blanket(credentials=USER, impersonation=oxid.Impersonation.IDENTIFY)
                with pytest.raises(oxid.StatusError) as caught:
                    await relay.ask(probe, "impersonating")
                assert caught.value.status.code == RPC_E_UNSECURE_CALL
                await relay.set_blanket(impersonation=oxid.Impersonation.IMPERSONATE)
                assert (await relay.ask(probe, "impersonating")).startswith("alice: ")

    play(tmp_path, story, classes=(Probe, Relay), insecure_anonymous=True)
