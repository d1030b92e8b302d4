"""Hours for free: an asyncio loop whose clock jumps to the next timer as soon as no socket has anything to say.

run_virtual(story)         story(world): its World and the loop share the one virtual clock
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any

from oxid.world import SystemEntropy, World

QUIET_S = 0.003
"""Real seconds in which loopback delivers whatever is on its way."""


class _Jumping(selectors.DefaultSelector):
    """Waits for sockets only a little; the rest of the wait is added to the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.jumped = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            return super().select(QUIET_S)
        begun = time.monotonic()
        found = super().select(min(timeout, QUIET_S))
        if not found:
            self.jumped += max(0.0, timeout - (time.monotonic() - begun))
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return super().time() + self._jumping.jumped


class LoopClock:
    """The loop's time as a World's clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return self._loop.time()

    def utc(self) -> float:
        return 1_700_000_000.0 + self._loop.time()


def run_virtual(story: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    """Run a story to its end; timers of any length pass at once."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        world = World(LoopClock(runner.get_loop()), SystemEntropy())
        runner.run(story(world))
