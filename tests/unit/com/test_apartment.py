"""One chain of calls at a time, and nobody waits for himself."""

import asyncio

import pytest
from tests.support.lifetimes import USER, Probe, play

import oxid
from oxid.com.apartment import Apartment
from oxid.com.coclass import coclass_of
from oxid.rpcss.class_registry import ClassRegistry, ClassSettings


def run(story):
    async def whole():
        apartment = Apartment()
        log = []

        async def call(chain, seconds=0.0, inner=None):
            async with apartment.turn(chain):
                log.append(("in", chain))
                try:
                    await asyncio.sleep(seconds)
                    if inner is not None:
                        await inner()
                finally:
                    log.append(("out", chain))

        await story(apartment, call, log)
        async with asyncio.timeout(1), apartment.turn(b"last"):
            pass  # it is free

    asyncio.run(whole())


def alternates(log):
    """Never two chains in at once."""
    inside = []
    for what, chain in log:
        if what == "in":
            assert set(inside) <= {chain}
            inside.append(chain)
        else:
            inside.remove(chain)


@pytest.mark.req("ORPC-4")
def test_chains_come_one_after_the_other_in_order_of_arrival():
    async def story(apartment, call, log):
        await asyncio.gather(*[call(bytes([number]), 0.001) for number in range(20)])
        assert [chain[0] for what, chain in log if what == "in"] == list(range(20))
        alternates(log)

    run(story)


@pytest.mark.req("ORPC-4")
def test_a_call_that_comes_back_is_let_in_at_once():
    async def story(apartment, call, log):
        await asyncio.gather(
            call(b"a", 0.005, inner=lambda: call(b"a", 0.005, inner=lambda: call(b"a"))),
            call(b"b"),
            call(b"a"),
        )
        alternates(log)
        assert log[-1] == ("out", b"b")

    run(story)


@pytest.mark.req("ORPC-4")
def test_a_waiting_call_of_the_chain_that_is_let_in_comes_with_it():
    async def story(apartment, call, log):
        first = asyncio.create_task(call(b"x", 0.005))
        await asyncio.sleep(0)
        second = asyncio.Event()

        async def needs_second():
            await second.wait()

        async def tells():
            second.set()

        await asyncio.gather(first, call(b"y", inner=needs_second), call(b"z"), call(b"y", inner=tells))
        alternates(log)

    run(story)


def test_cancelled_callers_lose_nobodys_turn():
    async def story(apartment, call, log):
        running = asyncio.create_task(call(b"a", 0.01))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(call(bytes([number]))) for number in range(10)]
        await asyncio.sleep(0)
        for task in waiting[::2]:
            task.cancel()
        await running
        waiting[1].cancel()  # perhaps let in already
        await asyncio.gather(*waiting, return_exceptions=True)
        assert [chain[0] for what, chain in log if what == "in" and chain != b"a"] in (
            [3, 5, 7, 9],
            [1, 3, 5, 7, 9],
        )
        alternates(log)

    run(story)


# -- through real calls --------------------------------------------------------------------------------------


@oxid.interface("5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6a31")
class ITurn(oxid.IUnknown):
    @oxid.operation(3, out="most")
    async def work(self, milliseconds: oxid.U32) -> oxid.U32:
        raise NotImplementedError

    @oxid.operation(4, out="depth")
    async def bounce(self, other: oxid.InterfacePointer["ITurn"], depth: oxid.U32) -> oxid.U32:
        raise NotImplementedError


CLSID_TURN = "5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6a32"


@oxid.coclass(CLSID_TURN, implements=[ITurn])
class Turn:
    inside = 0
    most = 0

    async def work(self, milliseconds):
        cls = type(self)
        cls.inside += 1
        cls.most = max(cls.most, cls.inside)
        await asyncio.sleep(milliseconds / 1000)
        cls.inside -= 1
        return cls.most

    async def bounce(self, other, depth):
        return await other.bounce(other, depth - 1) if depth else 7


@pytest.mark.req("ORPC-4")
@pytest.mark.parametrize(("threading", "most"), [("apartment", 1), ("free", 8), ("both", 8)])
def test_objects_of_an_apartment_are_called_one_at_a_time(tmp_path, threading, most):
    clsid = coclass_of(Turn).clsid
    registry = ClassRegistry({}, {clsid: ClassSettings(clsid, threading=threading)})

    async def story(server, client):
        Turn.inside = Turn.most = 0
        async with client.process(server, USER) as machine:
            turns = [await machine.activate(CLSID_TURN, ITurn) for _ in range(2)]
            await asyncio.gather(*[turns[number % 2].work(50) for number in range(8)])
            assert Turn.most == most
            # The second object lives in the same apartment: A calls B, B calls A, within one chain.
            assert await turns[0].bounce(turns[1], 3) == 7
            for turn in turns:
                await turn.release()

    play(tmp_path, story, classes=(Turn, Probe), registry=registry)
