"""Many deadlines, one driver: machines in buckets of time.

    deadlines = Deadlines(granularity, driver.want)
    deadlines.put(thing, when)       thing.expire(now) is called at the first boundary not before `when`
    deadlines.drop(thing)            it ended
    deadlines.next()                 when the earliest bucket is due, or None
    deadlines.expire(now)            the same afterwards: the form of `runtime.deadlines.DeadlineDriver`

A thing that is looked at earlier than wanted stays where it is: what it hears meanwhile costs nothing here. It
answers `expire` with when it wants to be looked at again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import ceil
from typing import Protocol


class Timed(Protocol):
    """Something with deadlines."""

    bucket: int | None
    """Where it is; belongs to `Deadlines`, None at first."""

    def expire(self, now: float) -> float | None:
        """Act on what is due; returns the next deadline, or None. May end the thing."""


class Deadlines:
    """Buckets of things, by the boundary at which they are looked at."""

    __slots__ = ("_buckets", "_granularity", "_ticks", "_want")

    def __init__(self, granularity: float, want: Callable[[float], None] | None = None) -> None:
        """`granularity` in seconds; `want` hears of deadlines that are earlier than all before."""
        self._granularity = granularity
        self._want = want
        self._buckets: dict[int, dict[Timed, None]] = {}
        self._ticks: list[int] = []

    def put(self, thing: Timed, when: float) -> None:
        """Look at a thing not later than the first boundary at or after `when`."""
        tick = ceil(when / self._granularity - 1e-9)
        if thing.bucket is not None:
            if thing.bucket <= tick:
                return
            del self._buckets[thing.bucket][thing]
        thing.bucket = tick
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
            heapq.heappush(self._ticks, tick)
            if self._want is not None and self._ticks[0] == tick:
                self._want(tick * self._granularity)
        bucket[thing] = None

    def drop(self, thing: Timed) -> None:
        """Forget a thing; nothing happens where it is not here."""
        if thing.bucket is not None:
            del self._buckets[thing.bucket][thing]
            thing.bucket = None

    def next(self) -> float | None:
        """When `expire` has something to do."""
        while self._ticks and not self._buckets[self._ticks[0]]:
            del self._buckets[heapq.heappop(self._ticks)]
        return self._ticks[0] * self._granularity if self._ticks else None

    def expire(self, now: float) -> float | None:
        """Look at everything that is due; returns when there is more."""
        soon = now + 1e-9 * self._granularity
        while (due := self.next()) is not None and due <= soon:
            bucket = self._buckets[self._ticks[0]]
            thing = next(iter(bucket))
            del bucket[thing]
            thing.bucket = None
            following = thing.expire(now)
            if following is not None:
                # a thing that is early by a rounding must not be looked at again in this loop
                self.put(thing, max(following, now + self._granularity / 2))
        return self.next()

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def __repr__(self) -> str:
        return f"<Deadlines {len(self)} things in {len(self._buckets)} buckets>"
