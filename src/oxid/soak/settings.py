"""What a soak is told, and the times by which everything in it is judged. [MS-DCOM] 3.1.2.2"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from oxid.rpcss.oid_table import PingPolicy

ALLOWANCE_S: Final = 5.0
"""Seconds on top of every bound, for a machine that is busy with everything that the soak itself does."""


CLIENTS_A_SECOND: Final = 25
"""For as many client processes a processor can do everything that the end of their agent brings, in a second."""


def bearable_period(clients: int) -> float:
    """The shortest period in which this machine does what so many clients have to do within one."""
    return max(1.0, round(clients / CLIENTS_A_SECOND / len(os.sched_getaffinity(0)), 1))


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of `oxid soak rpcss`."""

    minutes: float = 10.0
    """How long the load lasts; preparation and the end come on top."""
    clients: int = 200
    """Client processes at a time."""
    seed: int = 0
    """Of every random choice."""
    period: float = 1.0
    """Seconds between two pings; all bounds scale with it."""
    cycles: int | None = None
    """Cycles of the static endpoint that are to be made, however long they take; None for what the minutes allow."""
    keep: bool = False
    """Leave the state directory and the logs."""

    @property
    def command(self) -> str:
        """How to repeat it."""
        words = ["oxid soak rpcss", f"--minutes {self.minutes:g}", f"--clients {self.clients}"]
        words += [f"--seed {self.seed}", f"--ping-period {self.period:g}"]
        if self.cycles is not None:
            words.append(f"--cycles {self.cycles}")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Times:
    """P, T and S of the scenarios, in seconds, and the bounds that are made of them."""

    period: float
    timeout: float
    """After which a silent client counts as gone: T."""
    sweep: float
    """How late that is seen to: S."""

    @classmethod
    def of(cls, period: float) -> Times:
        policy = PingPolicy(period)
        return cls(period, policy.timeout, policy.granularity)

    @property
    def gone(self) -> float:
        """From the end of its last holder to the end of an object: T + P + S."""
        return self.timeout + self.period + self.sweep

    @property
    def rest(self) -> float:
        """From the end of the last client until the host is as at its start: T + P + 2S."""
        return self.gone + self.sweep

    def longest_cut(self, silence: float) -> float:
        """The longest partition that costs no client anything, where the last ping of some set was `silence` ago.

        What is pinged again within a quarter of a period after it was not silent for T. It is never longer than
        2.9 periods.
        """
        return min(2.9 * self.period, self.timeout - silence - 0.25 * self.period)
