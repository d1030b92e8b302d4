"""One `oxid soak http` from its start to its verdict.

data = run_http_soak(HttpSettings(minutes=10), say)
data["sound"]                                everything held

Load and rest take turns. At each rest the host must be as it was behind the warm-up, and what memory it has then is
a point of the slope; so nothing that is merely in use counts as lost.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from dataclasses import asdict
from time import monotonic
from typing import Any, Final

from oxid.bench.meter import private_bytes
from oxid.bench.process import run
from oxid.bench.rounds import BenchFailed, Program
from oxid.errors import OxidError
from oxid.soak import processes
from oxid.soak.checks import Checks
from oxid.soak.http_crew import Crew
from oxid.soak.http_rest import (
    AtRest,
    at_rest,
    comes_to_rest,
    look_at_objects,
    look_at_tables,
)
from oxid.soak.http_settings import RULES, SETUP_TIMER, HttpSettings, growth
from oxid.soak.http_stage import HttpStage, find_echo, open_stage, tables
from oxid.soak.judge import differences

Say = Callable[[str], None]

SAMPLE_S: Final = 1.0
TURN_S: Final = 0.05
STOP_S: Final = 15.0
"""For a host to stop; it promises ten."""
LOG_S: Final = 5.0
"""For the last lines of the access log."""


def run_http_soak(settings: HttpSettings, say: Say) -> dict[str, Any]:
    """Run it; what came of it, for `http_report` and `http_plot`. SIGINT and SIGTERM end the load early, and only
    that; a second one also ends the wait for the longest timer.

    Raises BenchFailed, ConfigurationError where it cannot run. No process of it is left either way.
    """
    say("starting a host")
    with open_stage(settings) as stage:
        return run(HttpSoak(stage, say).run())


class HttpSoak:
    """The load, and what is looked at around it."""

    def __init__(self, stage: HttpStage, say: Say) -> None:
        self._stage = stage
        self._say = say
        self._checks = Checks(RULES)
        self._told = 0
        """Signals to end."""
        self._began = monotonic()
        self._servers_before: dict[str, int] = {}
        self.samples: list[dict[str, Any]] = []
        """Of the whole run, once a second, for the plot."""
        self.rests: list[dict[str, Any]] = []
        """Moments of rest: when, after how many sessions, private bytes, and how long it took."""

    async def run(self) -> dict[str, Any]:
        stage, checks, settings = self._stage, self._checks, self._stage.settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop_early)
        await find_echo(stage)
        async with Crew(stage, checks) as crew:
            self._say("one of everything, before it counts")
            if settings.trace:
                await asyncio.to_thread(stage.memory, trace="start")
            await crew.warm_up()
            before = await at_rest(stage)
            self._servers_before = await asyncio.to_thread(_ask_servers, stage.programs["servers"])
            first = await asyncio.to_thread(stage.memory, trim=True)
            self._began = monotonic()
            sampling = asyncio.create_task(self._sample(crew))
            try:
                await self._load(crew, before, tables(first["tables"]))
            finally:
                sampling.cancel()
            seconds = monotonic() - self._began
            await self._look_again(before)
            last = await asyncio.to_thread(stage.memory, trim=True, trace="growth")
            look_at_objects(first["objects"], last["objects"], checks)
            await self._count_requests(crew)
        self._say("stopping the host")
        await self._stop()
        warnings = self._look_at_log()
        return self._data(crew, seconds, warnings, last)

    def _stop_early(self) -> None:
        self._told += 1
        if self._told > 2:
            raise KeyboardInterrupt
        self._say("told to end: bringing everything to rest first")

    # Load and rest ------------------------------------------------------------------------------------

    async def _load(self, crew: Crew, before: AtRest, sizes: dict[str, float]) -> None:
        """In turns, until there is enough of it."""
        settings, checks = self._stage.settings, self._checks
        over = self._began + settings.seconds
        while not self._told and monotonic() < over and crew.counts["sessions"] < settings.wanted:
            sessions, until = settings.load_ends(crew.counts["sessions"], monotonic())
            until = min(until, over)
            crew.go()
            next_word = 0.0
            while not self._told and crew.counts["sessions"] < sessions and monotonic() < until:
                if monotonic() >= next_word:
                    self._tell(crew, over)
                    next_word = monotonic() + SAMPLE_S / 2
                await asyncio.sleep(TURN_S)
                if processes.command(self._stage.host.pid) == "":
                    raise BenchFailed("the host has ended")
            await crew.rest()
            took = await comes_to_rest(self._stage, before, checks)
            await look_at_tables(self._stage, sizes, checks)
            await asyncio.to_thread(self._stage.memory, trim=True)
            self._note_rest(crew, took)

    def _note_rest(self, crew: Crew, took: float) -> None:
        self.rests.append(
            {
                "at": monotonic() - self._began,
                "sessions": crew.counts["sessions"],
                "private": private_bytes(self._stage.host.pid),
                "took": took,
            }
        )

    def _tell(self, crew: Crew, over: float) -> None:
        sessions, wanted = crew.counts["sessions"], self._stage.settings.wanted
        passed = monotonic() - self._began
        broken = sum(rule.broken for rule in self._checks.rules.values())
        left = f"{wanted - sessions:.0f} sessions" if wanted < float("inf") else f"{over - monotonic():.0f} s"
        self._say(
            f"{sessions} sessions, {sessions / max(passed, 0.1):.0f} a second, {crew.counts['pages']} pages, "
            f"{sum(crew.acts.values())} acts, {broken or 'nothing'} broken, {left} to go"
        )

    async def _look_again(self, before: AtRest) -> None:
        """SC: the counts are still those when the longest timer has passed."""
        longest = SETUP_TIMER * self._stage.settings.period
        self._say(f"waiting for the longest timer, {longest:.0f} s")
        until = monotonic() + longest
        while monotonic() < until and self._told < 2:
            await asyncio.sleep(TURN_S)
        if monotonic() >= until:
            await comes_to_rest(self._stage, before, self._checks, "later")
        else:
            self._checks.note("later", "not looked at: there was no time")

    async def _sample(self, crew: Crew) -> None:
        """What the plot shows."""
        pid = self._stage.host.pid
        while True:
            try:
                status = await asyncio.to_thread(self._stage.status)
                self.samples.append(
                    {
                        "at": monotonic() - self._began,
                        "sessions": crew.counts["sessions"],
                        "private": await asyncio.to_thread(private_bytes, pid),
                        "descriptors": sum(processes.descriptors(pid).values()),
                        "live": status["live"],
                    }
                )
                self._checks.held("host")
            except (OxidError, OSError) as error:
                self._checks.broken("host", f"the host does not answer: {error}")
            await asyncio.sleep(SAMPLE_S)

    # The end ------------------------------------------------------------------------------------------

    async def _count_requests(self, crew: Crew) -> None:
        """One line of the access log for each request, and for each that a client was answered."""
        stage, until = self._stage, monotonic() + LOG_S
        status = await asyncio.to_thread(stage.status)
        wanted = int(status["total"]["http_request"])
        while (lines := await asyncio.to_thread(stage.logged_requests)) != wanted and monotonic() < until:
            await asyncio.sleep(TURN_S * 4)
        wrong = [] if lines == wanted else [f"{lines} lines for {wanted} requests"]
        if lines < crew.counts["answers"]:
            wrong.append(f"{lines} lines, and clients have had {crew.counts['answers']} answers")
        self._checks.check("requests", wrong)
        self._checks.note("requests", f"{lines} lines; {crew.counts['answers']} answers were counted by hand")

    async def _stop(self) -> None:
        """End the servers behind the proxy, then the host, politely; nothing may be left of either."""
        stage, checks = self._stage, self._checks
        servers, host = stage.programs["servers"], stage.host
        live = await asyncio.to_thread(_ask_servers, servers)
        checks.check("servers", differences("live", self._servers_before, live))
        servers.let_go()
        wrong = await asyncio.to_thread(_ended, "the servers", servers)
        host.signal(signal.SIGTERM)
        try:
            said = await asyncio.to_thread(host.line, STOP_S)
            wrong += [] if said == "stopped live=0" else [f"the host says {said!r}"]
        except BenchFailed as error:
            wrong.append(f"the host: {error}")
        wrong += await asyncio.to_thread(_ended, "the host", host)
        mine = {program.pid for program in stage.programs.values()}
        left = {pid: words for pid, words in processes.of_run(stage.token).items() if pid not in mine}
        wrong += [f"process {pid} is left: {words}" for pid, words in left.items()]
        checks.check("end", wrong)

    def _look_at_log(self) -> int:
        """No error is in the host's log, nor on its error output; how many warnings there are."""
        stage = self._stage
        log = stage.log.read_text(errors="replace").splitlines() if stage.log.exists() else []
        said = stage.errors.read_text(errors="replace").splitlines() if stage.errors.exists() else []
        wrong = [line for line in log if " ERROR " in line or line.startswith("Traceback")]
        wrong += [line for line in said if line.startswith(("Traceback", "Exception", "Fatal", "ERROR"))]
        self._checks.check("log", wrong)
        warnings = sum(" WARNING " in line for line in log)
        self._checks.note("log", f"and {warnings} warnings" if warnings else "")
        return warnings

    def _data(self, crew: Crew, seconds: float, warnings: int, last: dict[str, Any]) -> dict[str, Any]:
        checks, settings = self._checks, self._stage.settings
        found = growth([(rest["sessions"], rest["private"]) for rest in self.rests])
        if found.judged:
            checks.check("memory", found.wrong)
        checks.note("memory", str(found))
        slowest = max((rest["took"] for rest in self.rests), default=0.0)
        checks.note("counts", f"the slowest rest took {slowest:.2f} s")
        setup = {"p50": crew.setup_below(0.5), "p99": crew.setup_below(0.99)} if sum(crew.setups) else {}
        return {
            "sound": checks.sound,
            "settings": asdict(settings),
            "seconds": seconds,
            "early": bool(self._told),
            "repeat": settings.command,
            "counts": dict(crew.counts),
            "acts": dict(crew.acts),
            "setup": setup,
            "memory": asdict(found),
            "rests": self.rests,
            "samples": self.samples,
            "warnings": warnings,
            "grown": last.get("growth", []),
            "rules": checks.data(),
            "kept": str(self._stage.directory) if settings.keep else None,
        }


def _ask_servers(servers: Program) -> dict[str, int]:
    """What is live in the servers behind the proxy."""
    servers.go_on()
    live: dict[str, int] = json.loads(servers.line())
    return {kind: count for kind, count in live.items() if kind != "timer"}


def _ended(what: str, program: Program) -> list[str]:
    try:
        code = program.ends(STOP_S)
    except BenchFailed as error:
        return [f"{what}: {error}"]
    return [f"{what} ended with {code}"] if code else []
