"""How long objects live, in virtual time: hours pass in milliseconds. P is 120 s, the time-out 360 s."""

import asyncio

import pytest
from tests.support.inprocess import served

from oxid.samples.calculator import CLSID_CALCULATOR, Calculator, ICalculator
from oxid.testing.virtual_loop import run_virtual, virtual_world

P = 120.0


def virtually(tmp_path, tell):
    async def run():
        async with served(
            tmp_path, [Calculator], world=virtual_world(), client_world=virtual_world()
        ) as there:
            await tell(there, there.live())

    run_virtual(run())


@pytest.mark.req("PNG-1", "PNG-2", "PNG-3")
def test_a_client_that_only_holds_keeps_its_object_for_hours(tmp_path):
    async def tell(there, rest):
        async with there.connect(call_timeout=None) as machine:
            async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
                calls = there.world.ledger.rpc_call.total
                await asyncio.sleep(100 * P)
                pings = there.world.ledger.rpc_call.total - calls
                assert 99 <= pings <= 101  # one ComplexPing, then a SimplePing per period
                assert there.live("ping_set", "pinged_oid") == {"ping_set": 1, "pinged_oid": 1}
                assert await calculator.add(2, 3) == 5
        await asyncio.sleep(20)  # pooled connections close when they were idle for ten seconds
        await there.at_rest(rest)

    virtually(tmp_path, tell)


@pytest.mark.req("dcom§6.3.never-pinged")
def test_an_object_whose_client_died_before_its_first_ping_goes_after_the_time_out(tmp_path):
    async def tell(there, rest):
        loop = asyncio.get_running_loop()
        async with there.connect() as machine:
            agent, machine.lifelines.agent = machine.lifelines.agent, None  # nobody pings
            await machine.activate_raw(CLSID_CALCULATOR, [ICalculator.__rpc_interface__[0]])
            made = loop.time()
            assert there.live("object")["object"] == rest["object"] + 1
            await asyncio.sleep(3 * P - 1)
            assert there.live("object")["object"] == rest["object"] + 1
            while there.live("object")["object"] > rest["object"]:
                await asyncio.sleep(1)
            assert 3 * P <= loop.time() - made <= 4 * P + P / 12
            machine.lifelines.agent = agent

    virtually(tmp_path, tell)


@pytest.mark.req("PNG-1", "dcom§6.3.bounds")
def test_an_object_whose_client_went_silent_goes_within_the_bound(tmp_path):
    async def tell(there, rest):
        loop = asyncio.get_running_loop()
        async with there.connect() as machine:
            calculator = await machine.activate(CLSID_CALCULATOR, ICalculator)
            await asyncio.sleep(2 * P)
            assert there.live("ping_set") == {"ping_set": 1}
            await machine.lifelines.agent._own.aclose()  # the client hangs: no ping, no goodbye
            silent = loop.time()
            while there.live("object")["object"] > rest["object"]:
                await asyncio.sleep(1)
            assert 2 * P < loop.time() - silent <= 4 * P + P / 12
            assert there.live("ping_set", "pinged_oid") == {"ping_set": 0, "pinged_oid": 0}
            with pytest.raises(Exception, match="RPC_E_DISCONNECTED"):
                await calculator.add(1, 1)
            await calculator.release()

    virtually(tmp_path, tell)


@pytest.mark.req("dcom§6.3.busy")
def test_an_object_with_a_call_in_flight_is_not_reclaimed_whatever_happens_to_its_pings(tmp_path):
    async def tell(there, rest):
        async with there.connect(call_timeout=None) as machine:
            calculator = await machine.activate(CLSID_CALCULATOR, ICalculator)
            machine.lifelines.let_go(calculator._pointer.object)
            long_call = asyncio.create_task(calculator.sleep(int(30 * P * 1000)))
            await asyncio.sleep(29 * P)
            assert there.live("object")["object"] == rest["object"] + 1
            await long_call
            await asyncio.sleep(2 * P)
            assert there.live("object")["object"] == rest["object"]
            await calculator.release()

    virtually(tmp_path, tell)


@pytest.mark.req("dcom§6.3.busy")
def test_an_object_that_is_called_now_and_then_is_not_reclaimed(tmp_path):
    async def tell(there, rest):
        async with there.connect(call_timeout=None) as machine:
            calculator = await machine.activate(CLSID_CALCULATOR, ICalculator)
            machine.lifelines.let_go(calculator._pointer.object)
            for _ in range(60):
                await asyncio.sleep(P / 2)
                assert await calculator.add(1, 1) == 2
            await asyncio.sleep(5 * P)
            assert there.live("object")["object"] == rest["object"]
            await calculator.release()

    virtually(tmp_path, tell)


@pytest.mark.req("PNG-5")
def test_a_resolver_that_forgot_the_set_is_told_everything_again_in_the_same_tick(tmp_path):
    async def tell(there, rest):
        async with there.connect() as machine:
            async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
                await asyncio.sleep(2 * P)
                sets = there.host.resolver._sets
                now = asyncio.get_running_loop().time()
                for set_id in list(sets._sets):
                    sets._sets[set_id].last_ping = now - 3 * P
                    assert sets.simple_ping(set_id, sets._sets[set_id].owner, now) == 0x778
                await asyncio.sleep(P)
                assert there.live("ping_set", "pinged_oid") == {"ping_set": 1, "pinged_oid": 1}
                await asyncio.sleep(20 * P)
                assert await calculator.add(1, 1) == 2

    virtually(tmp_path, tell)


@pytest.mark.req("PNG-7")
def test_released_objects_are_gone_at_once_and_their_set_after_the_next_tick(tmp_path):
    async def tell(there, rest):
        async with there.connect() as machine:
            async with machine.activate(CLSID_CALCULATOR, ICalculator):
                await asyncio.sleep(2 * P)
            assert there.live("object") == {"object": rest["object"]}
            calls = there.world.ledger.rpc_call.total
            await asyncio.sleep(2 * P)
            assert there.world.ledger.rpc_call.total == calls + 1  # the final ComplexPing
            await asyncio.sleep(20 * P)
            assert there.world.ledger.rpc_call.total == calls + 1

    virtually(tmp_path, tell)


@pytest.mark.req("PNG-2")
def test_two_machines_of_a_process_share_one_set_and_one_ping(tmp_path):
    async def tell(there, rest):
        async with there.connect() as one, there.connect() as two:
            async with (
                one.activate(CLSID_CALCULATOR, ICalculator),
                two.activate(CLSID_CALCULATOR, ICalculator),
            ):
                await asyncio.sleep(2 * P)
                calls = there.world.ledger.rpc_call.total
                await asyncio.sleep(10 * P)
                assert there.world.ledger.rpc_call.total - calls == 10
                assert there.live("ping_set", "pinged_oid") == {"ping_set": 1, "pinged_oid": 2}

    virtually(tmp_path, tell)
