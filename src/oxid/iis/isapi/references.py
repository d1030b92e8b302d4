"""Who holds a control block, and when it ends: the reference model of ISAPI. isapi.md §6, KB Q142658, Q241104

A control block E is held by up to three:

    host    while HttpExtensionProc runs
    ext     the extension's right to use it; it ends with DONE_WITH_SESSION, or with a return that is not PENDING
    io      asynchronous operations, each from its start until its completion callback has returned

When nobody holds it any more it is freed, once; being freed drops E's one reference on its client connection, and
only then is decided whether that connection is kept. The states are named after who holds:

    RUNNING          host ext           RUNNING_DONE        host            PENDING       ext
    RUNNING_IO       host ext io        RUNNING_DONE_IO     host io         PENDING_IO    ext io
    RETURNED_IO      ext io: returned without PENDING while an operation ran; the host ends it when the last
                     callback has returned without DONE (S8)
    DONE_IO          io                 FREED

Transitions are one table, turned under one lock, because DONE and completions come from any thread. The lock is
held for the transition only, never across a callback (IS-23). No clocks, no sockets: `freed` says it to the owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from enum import IntEnum
from typing import Any, Final, Generic, TypeVar

from oxid.iis.isapi.constants import HSE_STATUS_ERROR, HSE_STATUS_PENDING, HSE_STATUS_SUCCESS
from oxid.ledger import Ledger


class State(IntEnum):
    """Who holds a control block; see the module's text."""

    RUNNING = 0
    RUNNING_IO = 1
    RUNNING_DONE = 2
    RUNNING_DONE_IO = 3
    PENDING = 4
    PENDING_IO = 5
    RETURNED_IO = 6
    DONE_IO = 7
    FREED = 8


class Event(IntEnum):
    """What happens to a control block."""

    RETURNED = 0
    """The proc returned a final status, or raised (S1, S7, S8, S13)."""
    PENDED = 1
    """The proc returned PENDING (S5, S6)."""
    DONE = 2
    """DONE_WITH_SESSION (S5 to S9, S17)."""
    STARTED = 3
    """An asynchronous operation was started."""
    COMPLETED = 4
    """The last completion callback returned: nothing is outstanding."""
    FORCED = 5
    """The application is unloaded and its time of grace is over (S10, S19)."""


_S, _E = State, Event
TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    _S.RUNNING: {
        _E.RETURNED: _S.FREED,
        _E.PENDED: _S.PENDING,
        _E.DONE: _S.RUNNING_DONE,
        _E.STARTED: _S.RUNNING_IO,
        _E.FORCED: _S.RUNNING_DONE,
    },
    _S.RUNNING_IO: {
        _E.RETURNED: _S.RETURNED_IO,
        _E.PENDED: _S.PENDING_IO,
        _E.DONE: _S.RUNNING_DONE_IO,
        _E.STARTED: _S.RUNNING_IO,
        _E.COMPLETED: _S.RUNNING,
        _E.FORCED: _S.RUNNING_DONE_IO,
    },
    _S.RUNNING_DONE: {_E.RETURNED: _S.FREED, _E.PENDED: _S.FREED, _E.FORCED: _S.RUNNING_DONE},
    _S.RUNNING_DONE_IO: {
        _E.RETURNED: _S.DONE_IO,
        _E.PENDED: _S.DONE_IO,
        _E.COMPLETED: _S.RUNNING_DONE,
        _E.FORCED: _S.RUNNING_DONE_IO,
    },
    _S.PENDING: {_E.DONE: _S.FREED, _E.STARTED: _S.PENDING_IO, _E.FORCED: _S.FREED},
    _S.PENDING_IO: {
        _E.DONE: _S.DONE_IO,
        _E.STARTED: _S.PENDING_IO,
        _E.COMPLETED: _S.PENDING,
        _E.FORCED: _S.FREED,
    },
    _S.RETURNED_IO: {
        _E.DONE: _S.DONE_IO,
        _E.STARTED: _S.RETURNED_IO,
        _E.COMPLETED: _S.FREED,
        _E.FORCED: _S.FREED,
    },
    _S.DONE_IO: {_E.COMPLETED: _S.FREED, _E.FORCED: _S.FREED},
    _S.FREED: {},
}
"""State -> event -> next state. An event that is not there is refused and changes nothing."""

# The same table as rows of a list: two subscripts in the path of every request.
_ROWS: Final[list[list[int]]] = [[TRANSITIONS[state].get(event, -1) for event in Event] for state in State]
_RETURNED, _PENDED, _DONE, _STARTED, _COMPLETED, _FORCED = (int(event) for event in Event)
_FREED: Final = int(State.FREED)
_HOLDS_EXT: Final = tuple(
    state in (_S.RUNNING, _S.RUNNING_IO, _S.PENDING, _S.PENDING_IO, _S.RETURNED_IO) for state in State
)

T = TypeVar("T")


class HandleTable(Generic[T]):
    """Handles that a stale caller can make nobody follow: slot and generation. IS-11

    A handle is an integer of at most 63 bits, never 0; a slot that is used again has a new generation.
    """

    __slots__ = ("_free", "_generations", "_items")

    def __init__(self) -> None:
        self._items: list[T | None] = []
        self._generations: list[int] = []
        self._free: list[int] = []

    def put(self, item: T) -> int:
        """A new handle for the item."""
        if self._free:
            slot = self._free.pop()
            self._items[slot] = item
        else:
            slot = len(self._items)
            self._generations.append(1)
            self._items.append(item)
        return (self._generations[slot] << 32) | (slot + 1)

    def get(self, handle: int) -> T | None:
        """What the handle stands for; None for a stale or invented one."""
        slot = (handle & 0xFFFF_FFFF) - 1
        if 0 <= slot < len(self._items) and self._generations[slot] == handle >> 32:
            return self._items[slot]
        return None

    def drop(self, handle: int) -> None:
        """The handle stands for nothing from now on. Dropping a stale one does nothing."""
        slot = (handle & 0xFFFF_FFFF) - 1
        if 0 <= slot < len(self._items) and self._generations[slot] == handle >> 32:
            self._items[slot] = None
            self._generations[slot] = (self._generations[slot] % 0x7FFF_FFFF) + 1
            self._free.append(slot)

    def __len__(self) -> int:
        return len(self._items) - len(self._free)

    def __iter__(self) -> Iterator[T]:
        return iter([item for item in self._items if item is not None])

    def __repr__(self) -> str:
        return f"<HandleTable {len(self)} of {len(self._items)}>"


class ControlBlocks:
    """The live control blocks of one host, their lock and their counts. IS-32"""

    __slots__ = ("double_done", "ecb", "faults", "forced", "handles", "io", "lock", "stale")

    def __init__(self, ledger: Ledger, lock: AbstractContextManager[Any]) -> None:
        """`lock`: what every transition is made under; one for all hosts that share the ledger."""
        self.lock = lock
        self.ecb = ledger.ecb
        self.io = ledger.isapi_io
        self.handles: HandleTable[References] = HandleTable()
        self.double_done = 0
        """How often DONE_WITH_SESSION came for a request that was done (`isapi_double_done_total`)."""
        self.stale = 0
        """How often a function was called with a control block that is done, or was never one."""
        self.faults = 0
        """Extensions that raised, or returned what is no status."""
        self.forced = 0
        """Requests that were ended because their application was unloaded."""

    def find(self, handle: int) -> References | None:
        """The control block of a connection handle (ConnID); counts stale ones."""
        found = self.handles.get(handle)
        if found is None:
            self.stale += 1
        return found

    def pending(self) -> list[References]:
        """The requests whose proc has returned and that are not done. S10"""
        wanted = (State.PENDING, State.PENDING_IO, State.RETURNED_IO)
        return [held for held in self.handles if held.state in wanted]

    def statistics(self) -> dict[str, int]:
        return {
            "live": len(self.handles),
            "pending": len(self.pending()),
            "io": self.io.live,
            "double_done": self.double_done,
            "stale": self.stale,
            "faults": self.faults,
            "forced": self.forced,
        }

    def __repr__(self) -> str:
        return f"<ControlBlocks {len(self.handles)} live, {len(self.pending())} pending>"


class References:
    """The references of one control block. Subclasses act in `freed`, which is called exactly once."""

    __slots__ = ("_io", "_state", "blocks", "conn_id", "final")

    def __init__(self, blocks: ControlBlocks) -> None:
        """It begins as RUNNING: the host and the extension hold it."""
        self.blocks = blocks
        self._state = 0
        self._io = 0
        self.final = 0
        """The status that it ends with; 0 while there is none."""
        with blocks.lock:
            self.conn_id = blocks.handles.put(self)
            counter = blocks.ecb
            counter.total += 1
            live = counter.live = counter.live + 1
            if live > counter.peak:
                counter.peak = live

    # What happens ---------------------------------------------------------------------------------------

    def returned(self, status: object) -> None:
        """The proc returned `status`, or raised: HSE_STATUS_ERROR. What is no status counts as ERROR (IS-60)."""
        blocks = self.blocks
        with blocks.lock:
            if status == HSE_STATUS_PENDING:
                event = _PENDED
            else:
                event = _RETURNED
                if not self.final:
                    self.final = status if status in (1, 2, 4) else HSE_STATUS_ERROR
            if not self._turn(event):
                return
        self.freed()

    def mark_done(self, status: int = HSE_STATUS_SUCCESS) -> bool:
        """DONE_WITH_SESSION; False where it was done before (S9): then nothing changes. Any thread."""
        blocks = self.blocks
        with blocks.lock:
            if not _HOLDS_EXT[self._state]:
                blocks.double_done += 1
                return False
            self.final = status if status in (1, 2, 4) else HSE_STATUS_ERROR
            if not self._turn(_DONE):
                return True
        self.freed()
        return True

    def io_started(self) -> bool:
        """An asynchronous operation begins; False where the extension has no right to one any more."""
        blocks = self.blocks
        with blocks.lock:
            if not _HOLDS_EXT[self._state]:
                blocks.stale += 1
                return False
            self._io += 1
            blocks.io.enter()
            self._turn(_STARTED)
            return True

    def io_ended(self, failed: bool = False) -> None:
        """A completion callback returned, or raised (`failed`, S14: the request ends as ERROR). Any thread."""
        blocks = self.blocks
        with blocks.lock:
            if self._state == _FREED or not self._io:
                return  # forced: the operation was given back then
            if failed and _HOLDS_EXT[self._state]:
                self.final = HSE_STATUS_ERROR
                self._turn(_DONE)
            self._io -= 1
            blocks.io.leave()
            if self._io or not self._turn(_COMPLETED):
                return
        self.freed()

    def force(self) -> None:
        """End it although it was not done; one whose proc still runs ends when that returns. S10, S19"""
        blocks = self.blocks
        with blocks.lock:
            if self._state == _FREED:
                return
            if _HOLDS_EXT[self._state]:
                blocks.forced += 1
                self.final = HSE_STATUS_ERROR
            if not self._turn(_FORCED):
                return
        self.freed()

    def freed(self) -> None:
        """Nobody holds it any more. Called once, without the lock, on the thread that let go last."""
        raise NotImplementedError

    # The one place where references are dropped -----------------------------------------------------------

    def _turn(self, event: int) -> bool:
        """One step of the table, under the lock; True where it freed the control block."""
        following = _ROWS[self._state][event]
        if following < 0:
            return False
        self._state = following
        if following != _FREED:
            return False
        self._drop()
        return True

    def _drop(self) -> None:
        """Give the handle and the counts back. Only `_turn` calls this, once."""
        blocks = self.blocks
        blocks.handles.drop(self.conn_id)
        while self._io:
            self._io -= 1
            blocks.io.leave()
        blocks.ecb.live -= 1

    # What is so -----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return State(self._state)

    @property
    def usable(self) -> bool:
        """Whether the extension may still use it (IS-25)."""
        return _HOLDS_EXT[self._state]

    @property
    def outstanding(self) -> int:
        """Asynchronous operations whose callback has not returned."""
        return self._io

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.conn_id:#x} {self.state.name.lower()}>"
