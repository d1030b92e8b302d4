"""An event loop whose hours pass in no time: it jumps to the next timer when nothing is ready.

    result = run_virtual(story())
    World(clock=loop, ...)            the loop is a Clock: `now` and `utc` follow its time

Sockets within the same process work: before each jump the loop waits `QUIET_S` of real time for what is on its
way, and time stands still while the default executor works, which looks names up. Other threads and processes do
not work, as they need real time of their own.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack

from oxid.world import SystemEntropy, World

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


QUIET_S: Final = 0.003
"""Real seconds in which loopback delivers whatever is on its way, also on a busy machine."""


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0
        self.held = 0
        """Jobs that need real time."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        ready = super().select(min(timeout, QUIET_S))
        if not ready and not self.held:
            self.skipped += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that is also the clock of what runs on it."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        if executor is None:
            self._jumping.held += 1
            future.add_done_callback(self._job_done)
        return future

    def _job_done(self, _: object) -> None:
        self._jumping.held -= 1

    def time(self) -> float:
        return self._jumping.skipped

    def now(self) -> float:
        """Seconds since the loop was made, in its own time."""
        return self._jumping.skipped

    def utc(self) -> float:
        """A fixed date plus the loop's time."""
        return 1_700_000_000.0 + self._jumping.skipped


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on a VirtualLoop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def virtual_world() -> World:
    """A world whose clock is the running VirtualLoop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "run the story with run_virtual"
    return World(clock=loop, entropy=SystemEntropy())
