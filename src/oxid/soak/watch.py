"""What is looked at all along: live counts, objects that must go, the host's memory, and whether it runs at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final, TypeVar

from oxid.bench.meter import private_bytes
from oxid.errors import OxidError
from oxid.soak.checks import Checks
from oxid.soak.journal import Journal
from oxid.soak.judge import unbounded
from oxid.soak.stage import Stage

T = TypeVar("T")

COUNTS_S: Final = 1.0
MEMORY_S: Final = 5.0
TURN_S: Final = 0.1
EVENTS: Final = 6
"""The latest events of an object that did not go, for the report."""


class Watch:
    """Looks until it is told to stop."""

    def __init__(self, stage: Stage, checks: Checks, journal: Journal, rest: dict[str, int]) -> None:
        self._stage = stage
        self._checks = checks
        self._journal = journal
        self._rest = rest
        self.memory: list[tuple[int, int]] = []
        """(cycles so far, private bytes of the host)"""
        self.peak: dict[str, int] = {}
        self.slowest = 0.0
        """Seconds until an object was gone that nobody held any more, at the most."""
        self.lag = 0.0
        """By how much this process's own timers were late: how busy the machine was."""

    async def run(self, enough: Callable[[], bool], cycles: Callable[[], int]) -> None:
        """Until `enough()`, or the host is gone."""

        def memory() -> tuple[int, int]:
            return cycles(), private_bytes(self._stage.host.pid)

        await asyncio.gather(
            self._every(COUNTS_S, self._stage.status, self._judge_counts, enough),
            self._every(MEMORY_S, memory, self.memory.append, enough),
            self._every(self._stage.times.period / 2, self._ask_about_objects, self._judge_objects, enough),
            self._measure_lag(enough),
        )

    async def _every(
        self, seconds: float, ask: Callable[[], T], judge: Callable[[T], object], enough: Callable[[], bool]
    ) -> None:
        """Ask in a thread, since the host may be slow, and judge on the loop."""
        while not enough():
            try:
                judge(await asyncio.to_thread(ask))
            except (OxidError, OSError) as error:
                self._checks.broken("host", f"the host does not answer: {error}")
            until = monotonic() + seconds
            while monotonic() < until and not enough():
                await asyncio.sleep(min(TURN_S, seconds))

    def _judge_counts(self, live: dict[str, int]) -> None:
        for kind, count in live.items():
            self.peak[kind] = max(count, self.peak.get(kind, 0))
        self._checks.check("bounded", unbounded(live, self._rest, self._journal.mortal()))
        self._checks.held("host")

    async def see_to_objects(self) -> None:
        """Wait until everything is gone that must go, or has been told."""
        while self._journal.dying or self._journal.lost:
            self._judge_objects(await asyncio.to_thread(self._ask_about_objects))
            await asyncio.sleep(TURN_S)

    def _ask_about_objects(self) -> dict[int, Mapping[str, Any]]:
        wanted = [*self._journal.dying, *(oid for oid, _ in self._journal.lost)]
        return {oid: self._stage.about(oid) for oid in wanted}

    def _judge_objects(self, said: Mapping[int, Mapping[str, Any]]) -> None:
        """What must be gone and is not, is told once; so is what was lost. Both with what the host knows of them."""
        for oid, about in said.items():
            dying = self._journal.dying.get(oid)
            if dying is None:
                continue  # somebody has it again
            if not about["lives"]:
                self.slowest = max(self.slowest, self._journal.gone(oid))
            elif self._journal.overdue(oid):
                del self._journal.dying[oid]
                waited = monotonic() - dying.since
                text = f"object {oid:016x} lives on {waited:.1f} s after {dying.why}: {_record(about)}"
                self._checks.broken("gone", text)
        lost, self._journal.lost = self._journal.lost, []
        for oid, text in lost:
            if oid in said:
                self._checks.broken("live", f"{text}: {_record(said[oid])}")
            else:
                self._journal.lost.append((oid, text))

    async def _measure_lag(self, enough: Callable[[], bool]) -> None:
        while not enough():
            began = monotonic()
            await asyncio.sleep(TURN_S)
            self.lag = max(self.lag, monotonic() - began - TURN_S)


def _record(about: Mapping[str, Any]) -> str:
    """The latest events of an object's flight record, each with how long ago it was."""
    now = time.time()
    events = [f"{now - event['at']:.1f} s ago {event['text']}" for event in about["events"][-EVENTS:]]
    return "; ".join(events) or "the host does not remember it"
