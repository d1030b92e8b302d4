"""One soak from its start to its verdict.

data = run_soak(Settings(minutes=10), say)
data["sound"]                                everything held
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from time import monotonic
from typing import Any

from oxid.bench.process import run
from oxid.bench.rounds import BenchFailed
from oxid.soak.checks import Checks
from oxid.soak.crew import Crew
from oxid.soak.cycles import Cycles
from oxid.soak.faults import FaultDriver
from oxid.soak.journal import Journal
from oxid.soak.judge import memory
from oxid.soak.relay import Relay, open_relay
from oxid.soak.rest import at_rest, come_to_rest, look_at_logs, stop
from oxid.soak.settings import ALLOWANCE_S, Settings
from oxid.soak.stage import Stage, open_stage
from oxid.soak.watch import Watch

Say = Callable[[str], None]
END_S = 30.0
"""For all clients to end politely."""


def run_soak(settings: Settings, say: Say) -> dict[str, Any]:
    """Run it; what came of it, for `oxid.soak.report`. SIGINT and SIGTERM end the load early, and only that.

    Raises BenchFailed, ConfigurationError where it cannot run. No process of it is left either way.
    """
    say("starting a host and two agents")
    with open_stage(settings) as stage:
        return run(Soak(stage, say).run())


class Soak:
    """The load, and what is looked at around it."""

    def __init__(self, stage: Stage, say: Say) -> None:
        self._stage = stage
        self._say = say
        self._checks = Checks()
        self._journal = Journal(self._checks, stage.times)
        self._until = float("inf")
        self._told = 0
        """Signals to end."""

    async def run(self) -> dict[str, Any]:
        stage, checks, journal = self._stage, self._checks, self._journal
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop_early)
        async with open_relay(stage.relayed, [stage.port, *stage.ports]) as relay:
            with ExitStack() as stack:
                crew = stack.enter_context(Crew(stage))
                crew.listen(journal.hear)
                self._say("one of everything, before it counts")
                await self._warm_up(crew, Cycles(stage, checks, journal, crew))
                before = await at_rest(stage)
                cycles = Cycles(stage, checks, journal, crew)
                watch = Watch(stage, checks, journal, before.live)
                began = monotonic()
                self._until = began + 60 * stage.settings.minutes
                async with asyncio.TaskGroup() as looking:
                    over = asyncio.Event()
                    looking.create_task(watch.run(over.is_set, lambda: cycles.made))
                    try:
                        await self._load(crew, relay, cycles)
                        seconds = monotonic() - began
                        self._say("every client ends")
                        await self._end_clients(crew)
                    finally:
                        over.set()
                await watch.see_to_objects()
            self._say("waiting for the host to come to rest")
            took = await come_to_rest(stage, before, checks)
        self._say("stopping the host")
        await stop(stage, checks)
        warnings = look_at_logs(stage, checks)
        return self._data(cycles, watch, seconds=seconds, took=took, warnings=warnings)

    def _stop_early(self) -> None:
        self._told += 1
        if self._told > 2:
            raise KeyboardInterrupt
        self._until = 0.0
        self._say("told to end: bringing everything to rest first")

    async def _warm_up(self, crew: Crew, cycles: Cycles) -> None:
        """What a host makes at its first use is there when it is looked at: one client, one cycle."""
        client = self._journal.started(0, -1, "life")
        crew.start(0, -1)
        await cycles.run(lambda: cycles.made > 0)
        until = monotonic() + END_S
        while not client.up and not self._journal.over and monotonic() < until:
            await asyncio.sleep(0.05)
        await asyncio.sleep(self._stage.times.period)
        client.doom = "end"
        crew.signal_client(0, signal.SIGTERM)
        while self._journal.clients and not self._journal.over and monotonic() < until + END_S:
            await asyncio.sleep(0.05)
        self._look_at_crew()
        await asyncio.sleep(self._stage.times.rest)

    async def _load(self, crew: Crew, relay: Relay, cycles: Cycles) -> None:
        """Everything at once, until the time is over and the cycles are made."""
        wanted = self._stage.settings.cycles

        def enough() -> bool:
            if self._told or self._journal.over is not None:
                return True
            return monotonic() >= self._until and (wanted is None or cycles.made >= wanted)

        def enough_cycles() -> bool:
            return enough() or (wanted is not None and cycles.made >= wanted)

        faults = FaultDriver(self._stage, crew, self._journal, relay)
        async with asyncio.TaskGroup() as group:
            group.create_task(faults.run(enough))
            group.create_task(cycles.run(enough_cycles))
            group.create_task(self._tell(cycles, enough))
        self._look_at_crew()

    async def _tell(self, cycles: Cycles, enough: Callable[[], bool]) -> None:
        """What is going on."""
        while not enough():
            left = max(0.0, self._until - monotonic())
            broken = sum(rule.broken for rule in self._checks.rules.values())
            done = self._journal.done
            self._say(
                f"{cycles.made} cycles, {len(self._journal.clients)} clients, {done['calls']} calls, "
                f"{sum(done[kind] for kind in ('kill', 'end', 'stop', 'server', 'agent', 'cut'))} faults, "
                f"{broken or 'nothing'} broken, {left:.0f} s to go"
            )
            await asyncio.sleep(0.5)

    async def _end_clients(self, crew: Crew) -> None:
        """All end politely."""
        until = monotonic() + END_S
        for client in list(self._journal.clients.values()):
            client.doom = client.doom or "end"
            crew.signal_client(client.number, signal.SIGTERM)
        while self._journal.clients and self._journal.over is None and monotonic() < until:
            await asyncio.sleep(0.05)
        for client in self._journal.clients.values():
            self._checks.broken(
                "clients", f"client {client.number} was told to end, and did not in {END_S:.0f} s"
            )

    def _look_at_crew(self) -> None:
        if self._journal.over is not None:
            raise BenchFailed(f"the parent of the clients has ended: {self._journal.over}")

    def _data(
        self, cycles: Cycles, watch: Watch, *, seconds: float, took: float, warnings: int
    ) -> dict[str, Any]:
        stage, checks, times = self._stage, self._checks, self._stage.times
        found = memory(watch.memory)
        if found.judged:
            checks.check("memory", found.wrong)
        checks.note("memory", str(found))
        checks.note(
            "gone",
            f"the slowest took {watch.slowest:.1f} s; {times.gone:.1f} s and {ALLOWANCE_S:g} for a busy machine "
            f"are allowed, this one was late by {watch.lag:.1f} s at the most",
        )
        checks.note("counts", f"that took {took:.1f} s; {times.rest:.1f} s and {ALLOWANCE_S:g} are allowed")
        checks.note("log", f"and {warnings} warnings" if warnings else "")
        settings = stage.settings
        return {
            "sound": checks.sound,
            "settings": asdict(settings),
            "seconds": seconds,
            "early": bool(self._told),
            "repeat": settings.command,
            "cycles": {
                "made": cycles.made,
                "activations": cycles.activations,
                "abandoned": cycles.abandoned,
                "killed": cycles.killed,
            },
            "clients": {"done": dict(self._journal.done), "excused": dict(self._journal.excused)},
            "peak": watch.peak,
            "memory": {**asdict(found), "samples": watch.memory},
            "slowest_gone_s": watch.slowest,
            "rest_s": took,
            "lag_s": watch.lag,
            "rules": checks.data(),
            "kept": str(stage.directory) if settings.keep else None,
        }
