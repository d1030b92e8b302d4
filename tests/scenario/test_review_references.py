"""References on the ways that nobody likes to walk: cancelled callers, unused pointers, machines that end."""

import asyncio
import logging
from contextlib import suppress
from uuid import UUID

import pytest
from tests.support.inprocess import served

import oxid
from oxid.com.options import UNAUTHENTICATED
from oxid.com.ping_agent import PingAgent, PingTarget
from oxid.com.ping_client import Ping
from oxid.com.pinging import Pinger
from oxid.com.references import RemoteExporter, addresses_of
from oxid.errors import RemoteProtocolError
from oxid.interfaces.error_info import ISupportErrorInfo
from oxid.interfaces.remote_unknown import IRemUnknown2
from oxid.samples.calculator import CLSID_CALCULATOR, IID_ICALCULATOR, Calculator, ICalculator
from oxid.values.bindings import DcomBinding, DualStringArray


@oxid.interface("7a1c9f0e-7b9c-4a53-9a8e-1f3c5d7e9c01")
class IPostman(oxid.IUnknown):
    @oxid.operation(3, out="heard")
    async def ignore(self, parcel: oxid.InterfacePointer[ICalculator]) -> oxid.I32:
        raise NotImplementedError

    @oxid.operation(4, out="same")
    async def return_to_sender(
        self, parcel: oxid.InterfacePointer[ICalculator]
    ) -> oxid.InterfacePointer[ICalculator]:
        raise NotImplementedError


CLSID_POSTMAN = "7a1c9f0e-7b9c-4a53-9a8e-1f3c5d7e9c02"


@oxid.coclass(CLSID_POSTMAN, implements=[IPostman])
class Postman:
    def ignore(self, parcel):
        return 1

    def return_to_sender(self, parcel):
        return parcel


def story(tmp_path, tell, **options):
    async def run():
        async with served(tmp_path, [Calculator, Postman], **options) as there:
            rest = there.live()
            async with there.connect() as machine:
                await tell(there, machine)
            await there.at_rest(rest)

    asyncio.run(run())


async def cancelled_after(turns, work):
    """Cancel `work` after so many turns of the loop; True where it had ended before."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    done = task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        made = await task
        if isinstance(made, oxid.IUnknown):
            await made.release()
    return done


async def objects_at_rest(there, rest):
    for _ in range(500):
        if there.live("object", "interface_pointer") == rest:
            return
        await asyncio.sleep(0.002)
    assert there.live("object", "interface_pointer") == rest


@pytest.mark.parametrize("what", ["activate", "get_class_object", "activate_raw"])
def test_an_activation_that_is_cancelled_at_any_moment_leaves_no_object(tmp_path, what):
    async def tell(there, machine):
        rest = there.live("object", "interface_pointer")
        if what == "get_class_object":  # the host keeps its class objects, but not their references
            await (await machine.get_class_object(CLSID_CALCULATOR)).release()

        async def activate():
            if what == "activate_raw":
                out = await machine.activate_raw(CLSID_CALCULATOR, [IID_ICALCULATOR])
                machine.use_exporter(out)
                return machine.proxy(out.interfaces[0].objref, ICalculator)
            if what == "activate":
                return await machine.activate(CLSID_CALCULATOR, ICalculator)
            return await machine.get_class_object(CLSID_CALCULATOR)

        turns = 0
        while not await cancelled_after(turns, activate()):
            await objects_at_rest(there, rest)
            turns += 1
        assert turns > 3
        await objects_at_rest(there, rest)

    story(tmp_path, tell)


def test_a_query_that_is_cancelled_at_any_moment_leaves_no_reference(tmp_path):
    async def tell(there, machine):
        async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
            rest = there.live("object", "interface_pointer")
            turns = 0
            while not await cancelled_after(turns, calculator.query(ISupportErrorInfo)):
                await objects_at_rest(there, rest)
                turns += 1
            assert turns > 1
            await objects_at_rest(there, rest)

    story(tmp_path, tell)


def test_a_release_that_is_cancelled_at_any_moment_is_told_nevertheless(tmp_path):
    async def tell(there, machine):
        rest = there.live("object", "interface_pointer")
        for turns in range(1, 9):
            calculator = await machine.activate(CLSID_CALCULATOR, ICalculator)
            await cancelled_after(turns, calculator.release())
            await objects_at_rest(there, rest)

    story(tmp_path, tell)


def test_a_pointer_that_the_method_never_uses_is_given_back_to_the_host_it_came_from(tmp_path):
    async def run():
        async with (
            served(tmp_path / "here", [Calculator]) as here,
            served(tmp_path / "there", [Postman]) as there,
        ):
            rest = here.live("object", "interface_pointer")
            credentials = oxid.Password("admin", "secret")
            there.host.exporter.importer._credentials = credentials
            async with here.host.connect("127.0.0.1", credentials, options=there.options) as machine:
                postman = await machine.activate(CLSID_POSTMAN, IPostman)
                assert await postman.ignore(Calculator()) == 1
                await objects_at_rest(here, rest)
                same = await postman.return_to_sender(mine := Calculator())
                assert oxid.implementation_of(same) is mine
                await objects_at_rest(here, rest)
                await postman.release()

    asyncio.run(run())


def test_a_proxy_with_its_only_reference_is_handed_over_with_it_where_the_call_lets_it_go(tmp_path):
    async def run():
        async with (
            served(tmp_path / "owner", [Calculator]) as owner,
            served(tmp_path / "post", [Postman], credentials=oxid.Password("admin", "secret")) as post,
        ):
            rest = owner.live("object", "interface_pointer")
            async with owner.connect() as first, post.connect() as second:
                calculator = await first.activate(CLSID_CALCULATOR, ICalculator)
                postman = await second.activate(CLSID_POSTMAN, IPostman)
                again = await postman.return_to_sender(calculator)
                await calculator.release()
                assert await again.add(2, 3) == 5  # the object outlived the one who passed it on
                await again.release()
                await postman.release()
                await objects_at_rest(owner, rest)

    asyncio.run(run())


def test_an_interface_that_is_queried_without_references_does_not_keep_its_object(tmp_path):
    async def tell(there, machine):
        rest = there.live("object", "interface_pointer")
        calculator = await machine.activate(CLSID_CALCULATOR, ICalculator)
        channel = machine._channel(calculator.oxid)
        unknown = channel.remote_unknown()
        (result,) = await unknown.rem_query_interface(
            calculator.ipid, 0, [UUID("df0b3d60-548f-101b-8e65-08002b2bd119")]
        )
        assert result.hresult == 0
        await calculator.release()
        await objects_at_rest(there, rest)

    story(tmp_path, tell)


def test_one_interface_that_is_gone_does_not_end_the_pings_of_the_others(tmp_path):
    async def tell(there, machine):
        async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
            other = await calculator.query(ISupportErrorInfo)
            # somebody else gives back more than is his
            there.host.exporter.table.release_refs(there.host.exporter.table.by_ipid[other.ipid.bytes_le], 5)
            with pytest.raises(oxid.ObjectGone):
                await other.interface_supports_error_info(IID_ICALCULATOR)
            (pings,) = machine.lifelines.agent._own._sets.values()
            assert pings.owed.next_ping().add == (calculator.oid,)
            # and the next query asks again instead of giving the dead pointer
            fresh = await calculator.query(ISupportErrorInfo)
            assert await fresh.interface_supports_error_info(IID_ICALCULATOR) == 0
            await fresh.release()
            await other.release()

    story(tmp_path, tell)


def test_an_answer_with_another_number_of_interfaces_is_refused_and_released(tmp_path, monkeypatch):
    async def tell(there, machine):
        rest = there.live("object", "interface_pointer")
        honest = there.host.objects.class_objects.references
        monkeypatch.setattr(
            there.host.objects.class_objects, "references", lambda target, iids, who: 2 * honest(target, iids)
        )
        with pytest.raises(RemoteProtocolError, match="1 interface answered 2"):
            await machine.activate(CLSID_CALCULATOR, ICalculator)
        await objects_at_rest(there, rest)

    story(tmp_path, tell)


def test_a_class_that_lacks_a_method_grants_nothing(tmp_path):
    class Half:
        implements = ICalculator

    Half.__oxid_coclass__ = oxid.CoClass(
        UUID(CLSID_POSTMAN), Half, tuple(oxid.spec_of(i) for i in (ICalculator,))
    )

    async def run():
        async with served(tmp_path, [Half]) as there:
            rest = there.live("object", "interface_pointer")
            async with there.connect() as machine:
                unknown = UUID("00000000-0000-0000-c000-000000000046")
                with pytest.raises(oxid.StatusError):
                    await machine.activate_raw(UUID(CLSID_POSTMAN), [unknown, IID_ICALCULATOR])
                await objects_at_rest(there, rest)

    asyncio.run(run())


def test_too_many_references_to_one_interface_are_said_for_that_one_only(tmp_path):
    async def tell(there, machine):
        async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
            table = there.host.exporter.table
            pointer = table.by_ipid[calculator.ipid.bytes_le]
            table.add_refs(pointer, 0x7FFF_FFFF - 5)
            channel = machine._channel(calculator.oxid)
            await channel.connection()
            from oxid.com.proxy import proxy_class

            unknown = proxy_class(IRemUnknown2)(channel, None, channel.exporter.address.ipid_rem_unknown)
            error_info = oxid.spec_of(ISupportErrorInfo).uuid
            codes, references = await unknown.rem_query_interface2(
                calculator.ipid, [error_info, IID_ICALCULATOR]
            )
            assert codes == [0, 0x8007000E]
            assert references[1] is None
            other = machine.proxy(references[0], ISupportErrorInfo)
            await other.release()
            table.release_refs(pointer, 0x7FFF_FFFF - 5)

    story(tmp_path, tell)


# -- pings ------------------------------------------------------------------------------------------------


def target(name, period=60.0):
    return PingTarget(((name, 135),), (UNAUTHENTICATED,), period)


def agent_story(tell):
    async def run():
        world = oxid.World.real()
        sent = []
        replies = asyncio.Queue()

        async def send(places, blanket, ping):
            sent.append((places[0][0], ping))
            answer = await replies.get() if places[0][0] == "slow" else (0, 7)
            if isinstance(answer, Exception):
                raise answer
            return answer

        agent = PingAgent(world, send)
        await tell(agent, sent, replies)
        await agent.aclose()
        await asyncio.sleep(0)
        live = {kind: count for kind, count in world.ledger.live().items() if count}
        assert not live

    asyncio.run(run())


def test_goodbye_and_tick_never_found_two_sets(tmp_path):
    async def tell(agent, sent, replies):
        agent.hold(target("slow"), 1)
        tick = asyncio.create_task(agent.tick())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        agent.hold(target("slow"), 2)
        goodbye = asyncio.create_task(agent.say_goodbye(target("slow"), 5))
        for _ in range(5):
            await asyncio.sleep(0)
        assert [ping.set_id for _, ping in sent] == [0]  # the goodbye waits for the answer
        replies.put_nowait((0, 7))
        replies.put_nowait((0, 7))
        await asyncio.gather(tick, goodbye)
        assert [ping.set_id for _, ping in sent] == [0, 7]

    agent_story(tell)


def test_an_agent_that_has_ended_holds_nothing_and_starts_nothing():
    async def tell(agent, sent, replies):
        await agent.aclose()
        agent.hold(target("fast"), 1)
        agent.let_go(target("fast"), 1)
        assert agent.statistics() == {"sets": 0, "oids": 0}

    agent_story(tell)


def test_a_set_that_meets_a_fault_does_not_keep_the_others_from_being_pinged(caplog):
    async def tell(agent, sent, replies):
        replies.put_nowait(OverflowError("connect(): port must be 0-65535."))
        agent.hold(target("slow"), 1)
        agent.hold(target("fast"), 2)
        await agent.tick()
        assert {name for name, _ in sent} == {"slow", "fast"}

    with caplog.at_level(logging.ERROR, "oxid.com.ping"):
        agent_story(tell)
    assert "ping of slow:135 as nobody failed" in caplog.text


def test_addresses_that_can_be_none_are_left_out():
    bindings = DualStringArray(
        tuple(
            DcomBinding(tower, host, endpoint)
            for tower, host, endpoint in [
                (7, "one", "²"),
                (7, "two", "99999"),
                (7, "three", "135"),
                (7, "four", ""),
                (7, "", "5"),
                (7, "five", "0"),
                (0x1F, "six", "593"),
            ]
        ),
        (),
    )
    assert addresses_of(bindings) == [("three", 135), ("four", None)]


def test_a_ping_target_without_an_address_has_a_name_for_the_log():
    assert str(PingTarget((), (UNAUTHENTICATED,), 120.0)) == "a resolver without an address"


def test_a_proxy_that_outlives_its_machine_is_released_without_effect(tmp_path):
    async def run():
        async with served(tmp_path, [Calculator]) as there:
            rest = there.live("object", "interface_pointer")
            async with there.connect() as machine:
                one = await machine.activate(CLSID_CALCULATOR, ICalculator)
                two = await one.query(ICalculator)
            await one.release()
            await two.release()
            await objects_at_rest(there, rest)
            with pytest.raises(oxid.LocalProtocolError, match="closed"):
                await machine.activate(CLSID_CALCULATOR, ICalculator)

    asyncio.run(run())


def test_letting_go_more_often_than_taking_is_no_harm():
    gone = []
    exporter = RemoteExporter(1, lambda remote: None, gone.append)
    from oxid.com.objref import StdObjRef
    from oxid.values.bindings import EMPTY_BINDINGS

    pointer = exporter.take(StdObjRef(0, 5, 1, 2, UUID(int=3)), IID_ICALCULATOR, EMPTY_BINDINGS)
    for _ in range(3):
        exporter.let_go(pointer)
    assert len(gone) == 1
    assert exporter.take_unreleased() == [(pointer.ipid, 5, 0, None)]


class Closed:
    """A pool none of whose addresses answers, save one."""

    def __init__(self, answering):
        self.answering = answering
        self.asked = []

    def use(self, host, port, blanket):
        self.asked.append(host)
        if host != self.answering:
            raise oxid.TransportError(f"{host} does not answer")
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc_info):
        pass

    async def proxy(self, interface):
        return self

    async def simple_ping(self, set_id):
        return 0


def test_the_address_that_answered_last_is_pinged_first():
    async def run():
        pool = Closed("c")
        pinger = Pinger(pool)
        places = ("a", 1), ("b", 1), ("c", 1)
        assert await pinger.send(places, UNAUTHENTICATED, Ping(7)) == (0, 7)
        assert await pinger.send(places, UNAUTHENTICATED, Ping(7)) == (0, 7)
        assert pool.asked == ["a", "b", "c", "c"]
        pool.answering = "a"  # it moved back
        assert await pinger.send(places, UNAUTHENTICATED, Ping(7)) == (0, 7)
        assert pool.asked[4:] == ["c", "a"]
        pool.answering = None
        with pytest.raises(oxid.TransportError):
            await pinger.send(places, UNAUTHENTICATED, Ping(7))

    asyncio.run(run())


def test_an_address_that_takes_too_long_is_not_the_first_at_the_next_tick():
    async def run():
        pool = Closed("b")
        pinger = Pinger(pool)
        places = ("a", 1), ("b", 1)
        refuse = pool.use

        def hang(host, port, blanket):
            raise asyncio.CancelledError

        pool.use = hang
        with pytest.raises(asyncio.CancelledError):
            await pinger.send(places, UNAUTHENTICATED, Ping(7))
        pool.use = refuse
        await pinger.send(places, UNAUTHENTICATED, Ping(7))
        assert pool.asked == ["b"]

    asyncio.run(run())
