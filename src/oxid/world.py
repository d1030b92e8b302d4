"""Everything oxid takes from outside itself: time, randomness, counts. Tests bring their own.

World.real()                       at the top of a program
World(clock=..., entropy=...)      in a test: virtual time, seeded randomness
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable
from uuid import UUID

from oxid.ledger import Ledger


class Clock(Protocol):
    def now(self) -> float:
        """Seconds on a clock that never goes back; for deadlines."""
        ...

    def utc(self) -> float:
        """Seconds since 1970; for timestamps on the wire and in logs."""
        ...


@runtime_checkable
class SleepingClock(Clock, Protocol):
    """The clock of a machine that can be suspended: `now` and all timers stand still meanwhile."""

    def slept(self) -> float:
        """Seconds for which the machine has been suspended so far."""
        ...


class Entropy(Protocol):
    def token(self, size: int) -> bytes:
        """Return `size` unpredictable bytes."""
        ...


class SystemClock:
    """The operating system's clocks; `now` is read once per call, so nothing stands in front of it."""

    now = staticmethod(time.monotonic)
    utc = staticmethod(time.time)

    @staticmethod
    def slept() -> float:
        """What the clock that runs on has more than the one that stands still."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


class SystemEntropy:
    def token(self, size: int) -> bytes:
        return secrets.token_bytes(size)


@dataclass(frozen=True, slots=True)
class World:
    clock: Clock
    entropy: Entropy
    ledger: Ledger = field(default_factory=Ledger)

    @classmethod
    def real(cls) -> World:
        return cls(clock=SystemClock(), entropy=SystemEntropy())

    def new_uuid(self) -> UUID:
        """A random (version 4) UUID."""
        return UUID(bytes=self.entropy.token(16), version=4)

    def new_id(self) -> int:
        """An unguessable, non-zero 64-bit identifier: OXID, OID or SETID."""
        while True:
            value = int.from_bytes(self.entropy.token(8), "little")
            if value:
                return value
