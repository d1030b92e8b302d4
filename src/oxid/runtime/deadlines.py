"""One timer for everything of an owner that has a deadline.

    driver = DeadlineDriver(loop, world, expire)       expire(now) acts and returns the next deadline, or None
    driver.want(deadline)                              wake not later than then
    driver.close()

The timer exists only while something is wanted; connections and calls have none of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from oxid.world import World


class DeadlineDriver:
    """Calls `expire(now)` when the earliest wanted deadline is due."""

    __slots__ = ("_due", "_expire", "_handle", "_loop", "_world")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, world: World, expire: Callable[[float], float | None]
    ) -> None:
        self._loop = loop
        self._world = world
        self._expire = expire
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0

    def want(self, deadline: float) -> None:
        """See that `expire` is called by then; an earlier one that is wanted already stays."""
        if self._handle is not None:
            if self._due <= deadline:
                return
            self._handle.cancel()
        else:
            self._world.ledger.timer.enter()
        self._due = deadline
        delay = max(0.0, deadline - self._world.clock.now())
        self._handle = self._loop.call_later(delay, self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._world.ledger.timer.leave()
        following = self._expire(self._world.clock.now())
        if following is not None:
            self.want(following)

    @property
    def last_due(self) -> float:
        """When `expire` was, or is, to be called."""
        return self._due

    @property
    def due(self) -> float | None:
        """When `expire` is to be called next; None while nothing is wanted."""
        return None if self._handle is None else self._due

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
            self._world.ledger.timer.leave()

    def __repr__(self) -> str:
        if self._handle is None:
            return "<DeadlineDriver at rest>"
        return f"<DeadlineDriver due in {self._due - self._world.clock.now():.1f}s>"
