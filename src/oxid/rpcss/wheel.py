"""Many deadlines, few timers: keys in buckets of time.

    wheel.put(key, wheel.tick(when))    woken at the first boundary that is not before `when`
    wheel.next()                        when the earliest bucket is due, or None
    wheel.take(now, most)               at most so many keys of buckets that are due

A key is never taken out again: whoever takes it looks whether it is really due and puts it back where not. So a
ping costs nothing here, and what expires costs what expires.
"""

from __future__ import annotations

import heapq
from array import array
from math import ceil


class Wheel:
    """Keys are numbers below 2^32. `granularity` in seconds is how late a key may be woken."""

    __slots__ = ("_buckets", "_due", "_granularity", "_ticks")

    def __init__(self, granularity: float) -> None:
        self._granularity = granularity
        self._buckets: dict[int, array[int]] = {}
        self._ticks: list[int] = []
        self._due: array[int] = array("I")
        """Keys of the bucket that is being emptied."""

    def tick(self, when: float) -> int:
        """The bucket of a time, by number."""
        # Rounding of floats must not push a deadline that lies on a boundary to the next one.
        return ceil(when / self._granularity - 1e-9)

    def put(self, key: int, tick: int) -> None:
        """Wake `key` when the bucket `tick` is due."""
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = array("I")
            heapq.heappush(self._ticks, tick)
        bucket.append(key)

    def next(self) -> float | None:
        """When `take` has something to give."""
        if self._due:
            return float("-inf")
        return self._ticks[0] * self._granularity if self._ticks else None

    def take(self, now: float, most: int) -> array[int]:
        """At most `most` keys that are due; empty where there is none."""
        if not self._due:
            # Multiplied as in `next`, so that whoever comes when it says finds something.
            if not self._ticks or self._ticks[0] * self._granularity > now + 1e-9 * self._granularity:
                return array("I")
            self._due = self._buckets.pop(heapq.heappop(self._ticks))
        taken = self._due[-most:]
        del self._due[-most:]
        return taken

    def clear(self) -> None:
        self._buckets.clear()
        self._ticks.clear()
        self._due = array("I")

    def __len__(self) -> int:
        return len(self._due) + sum(map(len, self._buckets.values()))

    def __repr__(self) -> str:
        return f"<Wheel {len(self)} keys in {len(self._buckets)} buckets>"
