"""What has ended and is still remembered, the youngest of it: a bounded map that never does much at once.

    remembered = Remembered(100_000, 32 << 20)
    remembered.put(oid, record)
    remembered.get(oid)                  -> the record, or None
    remembered.take(oid)                 the same, and forget it

It forgets by generations, each a dict of its own: one dict of a hundred thousand would now and then move all of it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

GENERATIONS: Final = 8


class Remembered:
    """Records by 64-bit identifier: at most `most` of them and `most_bytes`, and at least seven eighths of either."""

    __slots__ = ("_most_bytes", "_most_entries", "_old", "_young", "_young_bytes")

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most_entries = max(most // GENERATIONS, 1)
        self._most_bytes = most_bytes // GENERATIONS
        """Of one generation, both."""
        self._young: dict[int, bytes] = {}
        self._young_bytes = 0
        self._old: deque[dict[int, bytes]] = deque()

    def put(self, key: int, record: bytes) -> None:
        """Remember, and forget the oldest where they are too many. What is here already is replaced."""
        self.take(key)
        self._young[key] = record
        self._young_bytes += len(record)
        if len(self._young) >= self._most_entries or self._young_bytes >= self._most_bytes:
            self._old.appendleft(self._young)
            self._young, self._young_bytes = {}, 0
            if len(self._old) >= GENERATIONS:
                self._old.pop()

    def get(self, key: int) -> bytes | None:
        found = self._young.get(key)
        if found is None:
            for generation in self._old:
                found = generation.get(key)
                if found is not None:
                    break
        return found

    def take(self, key: int) -> bytes | None:
        """The record, which is forgotten; None where there is none."""
        record = self._young.pop(key, None)
        if record is not None:
            self._young_bytes -= len(record)
            return record
        for generation in self._old:
            if key in generation:
                return generation.pop(key)
        return None

    def __contains__(self, key: int) -> bool:
        return key in self._young or any(key in generation for generation in self._old)

    def __len__(self) -> int:
        return len(self._young) + sum(map(len, self._old))
