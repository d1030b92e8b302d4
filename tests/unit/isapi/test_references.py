"""The reference model by hand: every sequence of isapi.md §6, and all of them at random."""

from __future__ import annotations

import itertools
import random
import threading

import pytest

from oxid.iis.isapi.constants import (
    HSE_STATUS_ERROR,
    HSE_STATUS_PENDING,
    HSE_STATUS_SUCCESS,
    HSE_STATUS_SUCCESS_AND_KEEP_CONN,
)
from oxid.iis.isapi.references import (
    TRANSITIONS,
    ControlBlocks,
    Event,
    HandleTable,
    References,
    State,
)
from oxid.ledger import Ledger

SUCCESS, KEEP, PENDING, ERROR = (
    HSE_STATUS_SUCCESS,
    HSE_STATUS_SUCCESS_AND_KEEP_CONN,
    HSE_STATUS_PENDING,
    HSE_STATUS_ERROR,
)


class Held(References):
    """A control block that only counts how often it was freed."""

    __slots__ = ("times",)

    def __init__(self, blocks: ControlBlocks) -> None:
        self.times = 0
        super().__init__(blocks)

    def freed(self) -> None:
        self.times += 1


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def blocks(ledger: Ledger) -> ControlBlocks:
    return ControlBlocks(ledger, threading.Lock())


def at_rest(blocks: ControlBlocks) -> bool:
    return blocks.ecb.live == 0 and blocks.io.live == 0 and len(blocks.handles) == 0


# What is done in order, what is freed by the last step and not before, and the final status.
STORIES = {
    "S1 success": ([("returned", SUCCESS)], SUCCESS),
    "S2 keep": ([("returned", KEEP)], KEEP),
    "S5 pending, done": ([("returned", PENDING), ("mark_done", KEEP)], KEEP),
    "S6 done, pending": ([("mark_done", KEEP), ("returned", PENDING)], KEEP),
    "S7 done, success": ([("mark_done", KEEP), ("returned", SUCCESS)], KEEP),
    "S8 started, success, done in the callback": (
        [("io_started",), ("returned", SUCCESS), ("mark_done", KEEP), ("io_ended",)],
        KEEP,
    ),
    "S8 started, success, callback without done": (
        [("io_started",), ("returned", SUCCESS), ("io_ended",)],
        SUCCESS,
    ),
    "S8 callback before the return": ([("io_started",), ("io_ended",), ("returned", SUCCESS)], SUCCESS),
    "S10 forced": ([("returned", PENDING), ("force",)], ERROR),
    "S11 aborted read": (
        [("io_started",), ("returned", PENDING), ("mark_done", SUCCESS), ("io_ended",)],
        SUCCESS,
    ),
    "S13 raised": ([("returned", None)], ERROR),
    "S13 no status": ([("returned", 77)], ERROR),
    "S13 raised with an operation outstanding": (
        [("io_started",), ("returned", ERROR), ("io_ended",)],
        ERROR,
    ),
    "S14 callback raised": ([("io_started",), ("returned", PENDING), ("io_ended", True)], ERROR),
    "S14 callback raised before the return": (
        [("io_started",), ("io_ended", True), ("returned", PENDING)],
        ERROR,
    ),
    "S14 callback raised after done": (
        [("io_started",), ("returned", PENDING), ("mark_done", KEEP), ("io_ended", True)],
        KEEP,
    ),
    "S17 done while a write is outstanding": (
        [("io_started",), ("mark_done", KEEP), ("returned", PENDING), ("io_ended",)],
        KEEP,
    ),
    "S17 and the callback first": (
        [("io_started",), ("mark_done", KEEP), ("io_ended",), ("returned", PENDING)],
        KEEP,
    ),
    "a callback starts the next operation": (
        [("io_started",), ("returned", PENDING), ("io_started",), ("io_ended",), ("mark_done", SUCCESS), ("io_ended",)],
        SUCCESS,
    ),
    "S19 forced with an operation outstanding": ([("io_started",), ("returned", PENDING), ("force",)], ERROR),
    "S19 forced while the proc runs": ([("force",), ("returned", SUCCESS)], ERROR),
}  # fmt: skip


@pytest.mark.req("S1", "S5", "S6", "S7", "S8", "S10", "S11", "S13", "S14", "S17", "S19")
@pytest.mark.parametrize("name", STORIES)
def test_each_sequence_frees_once_and_at_its_last_step(name: str, blocks: ControlBlocks) -> None:
    steps, final = STORIES[name]
    held = Held(blocks)
    for step, *arguments in steps:
        assert held.times == 0
        getattr(held, step)(*arguments)
    assert held.times == 1
    assert held.final == final
    assert held.state is State.FREED
    assert at_rest(blocks)


@pytest.mark.req("S9", "SC-28")
def test_a_second_done_is_counted_and_does_not_touch_who_has_the_slot_now(blocks: ControlBlocks) -> None:
    first = Held(blocks)
    first.returned(PENDING)
    assert first.mark_done(KEEP)
    second = Held(blocks)
    second.returned(PENDING)
    assert second.conn_id & 0xFFFFFFFF == first.conn_id & 0xFFFFFFFF  # the same slot
    assert not first.mark_done(SUCCESS)
    assert blocks.double_done == 1
    assert blocks.find(first.conn_id) is None
    assert second.state is State.PENDING
    second.mark_done()
    assert (first.times, second.times) == (1, 1)
    assert at_rest(blocks)


@pytest.mark.req("IS-25", "IS-21")
def test_nothing_starts_after_done(blocks: ControlBlocks) -> None:
    held = Held(blocks)
    held.mark_done()
    assert not held.io_started()
    assert blocks.stale == 1
    held.returned(PENDING)
    assert not held.io_started()
    held.io_ended()
    assert held.times == 1
    assert at_rest(blocks)


@pytest.mark.req("S19")
def test_a_callback_that_comes_after_force_changes_nothing(blocks: ControlBlocks) -> None:
    held = Held(blocks)
    held.io_started()
    held.returned(PENDING)
    held.force()
    held.io_ended()
    held.io_ended(True)
    held.force()
    assert not held.mark_done()
    assert held.times == 1
    assert blocks.forced == 1
    assert at_rest(blocks)


def test_every_state_is_reached_and_every_state_comes_to_its_end() -> None:
    reached = {State.RUNNING}
    while more := {to for state in reached for to in TRANSITIONS[state].values()} - reached:
        reached |= more
    assert reached == set(State)
    ends = {State.FREED}
    while more := {state for state in State if ends & set(TRANSITIONS[state].values())} - ends:
        ends |= more
    assert ends == set(State)


def test_a_freed_block_hears_nothing() -> None:
    assert TRANSITIONS[State.FREED] == {}


def test_done_is_possible_exactly_while_the_extension_holds_it(blocks: ControlBlocks) -> None:
    for state in State:
        assert (Event.DONE in TRANSITIONS[state]) == (Event.STARTED in TRANSITIONS[state])


@pytest.mark.req("SC-26", "SC-27")
@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_events_frees_once_and_leaves_nothing(seed: int, blocks: ControlBlocks) -> None:
    coin = random.Random(seed)
    for _ in range(200):
        held = Held(blocks)
        returned = False
        running = 0
        while held.state is not State.FREED:
            choice = coin.randrange(5)
            if choice == 0 and not returned:
                returned = True
                held.returned(coin.choice((SUCCESS, KEEP, PENDING, ERROR, 99)))
            elif choice == 1:
                held.mark_done(coin.choice((SUCCESS, KEEP, ERROR)))
            elif choice == 2 and held.io_started():
                running += 1
            elif choice == 3 and running:
                running -= 1
                held.io_ended(coin.random() < 0.2)
            elif choice == 4 and coin.random() < 0.05:
                held.force()
        assert held.times == 1
    assert at_rest(blocks)


@pytest.mark.req("SC-27")
def test_done_and_return_from_two_threads_free_once(blocks: ControlBlocks) -> None:
    waiting: list[Held] = []
    start, stop = threading.Barrier(2), threading.Barrier(2)

    def finish() -> None:
        for _ in range(300):
            start.wait()
            waiting[-1].mark_done(KEEP)
            stop.wait()

    other = threading.Thread(target=finish)
    other.start()
    for _ in range(300):
        waiting.append(Held(blocks))
        start.wait()
        waiting[-1].returned(PENDING)
        stop.wait()
    other.join()
    assert [held.times for held in waiting] == [1] * 300
    assert at_rest(blocks)


@pytest.mark.req("SC-28")
def test_a_handle_is_good_until_it_is_dropped_and_never_again() -> None:
    table: HandleTable[str] = HandleTable()
    seen = set()
    for _ in range(5):
        handle = table.put("x")
        assert handle not in seen
        assert 0 < handle < 2**63
        seen.add(handle)
        assert table.get(handle) == "x"
        table.drop(handle)
        table.drop(handle)
        assert table.get(handle) is None
    assert len(table) == 0


@pytest.mark.parametrize("handle", [0, 1, -1, 2**63, 0xFFFFFFFF, 1 << 32, (1 << 32) | 2])
def test_an_invented_handle_is_nothing(handle: int) -> None:
    table: HandleTable[str] = HandleTable()
    table.drop(table.put("x"))
    assert table.get(handle) is None
    table.drop(handle)
    kept = table.put("y")
    assert table.get(kept) == "y"


@pytest.mark.req("IS-32", "S10")
def test_the_blocks_tell_who_is_pending(blocks: ControlBlocks) -> None:
    running, pending = Held(blocks), Held(blocks)
    pending.returned(PENDING)
    assert blocks.pending() == [pending]
    assert "1 pending" in repr(blocks)
    assert blocks.statistics()["live"] == 2
    for held in itertools.chain((running, pending)):
        held.force()
    running.returned(SUCCESS)
    assert at_rest(blocks)
