"""The `machine` case: many processes, their machine's agent, and the resolvers that it pings.

The agent is a real `oxid agent`, looked at from outside: what reaches the resolvers, and what it costs. Then it is
stopped for longer than a period, so that every set is due when it goes on: that is the longest tick there can be.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from oxid.bench.meter import private_bytes
from oxid.bench.process import profile_text
from oxid.bench.rounds import BenchFailed, Child, Program, Say, processor_seconds

RESOLVERS_OF_A_PROCESS: Final = 25
FIRST_PERIODS: Final = 1.5
"""A set's first ping comes within a period, and a tick is to take less than half of one."""
REST_PERIODS: Final = 3
STOP_PERIODS: Final = 1.25


class Heard(NamedTuple):
    """A ping, as a resolver notes it."""

    at: float
    resolver: int
    who: str
    set_id: int
    added: int
    removed: int


class Moments(NamedTuple):
    """When what began: `time.monotonic`, the same in all processes."""

    began: float
    rest: float
    rested: float
    continued: float


def run_fleet(
    *, say: Say, processes: int, held: int, resolvers: int, period: float, profile: bool = False
) -> dict[str, Any]:
    """Run the whole machine; what its agent did and took."""
    each = held // resolvers
    objects = each * resolvers * processes
    if not each:
        raise BenchFailed(f"{held} objects of a process are too few for {resolvers} resolvers")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="oxid-bench-")))
        say("machine: starting")
        servers = _start_resolvers(stack, resolvers, each * processes, objects, period)
        ports = [port for server in servers for port in server.hear()["ports"]]
        written = directory / "profile" if profile else None
        agent = stack.enter_context(_agent(directory / "agent", period, written))
        options = {
            "ports": ports,
            "processes": processes,
            "held": held,
            "period": period,
            "socket": str(directory / "agent"),
        }
        clients = stack.enter_context(_part("fleet_parts.clients", options))
        clients.hear()
        figures, moments = _watch(agent, clients, period, say)
        heard = [ping for server in servers for ping in _let_go(server)]
        clients.let_go()
        clients.ends()
        figures |= judge(heard, moments, period, objects)
        if written is None:
            return figures
        agent.signal(signal.SIGTERM)
        agent.ends()
        return {**figures, "profile": profile_text(str(written))}


def _start_resolvers(
    stack: ExitStack, resolvers: int, objects: int, all_objects: int, period: float
) -> list[Child]:
    """Processes with the resolvers; so many objects in each resolver."""
    return [
        stack.enter_context(
            _part(
                "fleet_parts.resolvers",
                {
                    "first": first,
                    "count": min(RESOLVERS_OF_A_PROCESS, resolvers - first),
                    "objects": objects,
                    "all_objects": all_objects,
                    "period": period,
                },
            )
        )
        for first in range(0, resolvers, RESOLVERS_OF_A_PROCESS)
    ]


def _part(kind: str, options: dict[str, Any]) -> Child:
    return Child({"role": "alone", "kind": kind, "options": options})


@contextmanager
def _agent(socket: Path, period: float, profile: Path | None) -> Iterator[Program]:
    """`oxid agent`, ready."""
    words = ["-m", "oxid", "agent", "--socket", str(socket), "--log-level", "error"]
    if profile is not None:
        words = ["-m", "cProfile", "-o", str(profile), *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OXID_")}
    environment["OXID_PING_PERIOD"] = f"{period:g}"
    with Program(words, environment) as agent:
        agent.line()
        yield agent


def _watch(agent: Program, clients: Child, period: float, say: Say) -> tuple[dict[str, float], Moments]:
    """Let it run: everything is told, then some periods at rest, then a tick of all sets at once."""
    cpu: list[float] = []

    def after(seconds: float) -> float:
        time.sleep(seconds)
        cpu.append(processor_seconds(agent))
        return time.monotonic()

    say("machine: the processes hold")
    began = after(0)
    clients.go_on()
    rest = after(FIRST_PERIODS * period)
    say("machine: at rest")
    rested = after(REST_PERIODS * period)
    memory = private_bytes(agent.pid)
    say("machine: the agent sleeps")
    agent.signal(signal.SIGSTOP)
    continued = after(STOP_PERIODS * period)
    agent.signal(signal.SIGCONT)
    after(period / 2)
    time.sleep(period / 2)  # late ones are to be noted, too
    start, told, at_rest, before_tick, after_tick = cpu
    figures = {
        "first_cpu_s": told - start,
        "rest_cpu_ms": (at_rest - told) / REST_PERIODS * 1e3,
        "tick_cpu_ms": (after_tick - before_tick) * 1e3,
        "agent_mib": memory / (1 << 20),
    }
    return figures, Moments(began, rest, rested, continued)


def _let_go(server: Child) -> list[Heard]:
    server.let_go()
    return [Heard(*ping) for ping in server.hear()["heard"]]


def judge(heard: list[Heard], moments: Moments, period: float, objects: int) -> dict[str, float]:
    """What the resolvers heard, in figures. Raises BenchFailed where they did not hear what they must."""
    first = [ping for ping in heard if ping.at < moments.rest and ping.added]
    if (told := sum(ping.added for ping in first)) != objects:
        raise BenchFailed(f"{told} of {objects} objects were told within {FIRST_PERIODS:g} periods")
    at_rest = [ping for ping in heard if moments.rest <= ping.at < moments.rested]
    after = [ping for ping in heard if ping.at >= moments.continued]
    sets = {ping.set_id for ping in at_rest}
    keys = {(ping.resolver, ping.who) for ping in at_rest}
    ticks = {ping.set_id: ping.at - moments.continued for ping in reversed(after)}
    if not sets or len(sets) != len(keys):
        raise BenchFailed(f"{len(sets)} sets were pinged at rest, {len(keys)} were wanted")
    if set(ticks) != sets:
        raise BenchFailed(f"{len(ticks)} of {len(sets)} sets were pinged when the agent went on")
    rates = [_per_period([ping.at for ping in at_rest if ping.set_id == each], period) for each in sets]
    tick, told_after = max(ticks.values()), max(ping.at for ping in first) - moments.began
    return {
        "objects": objects,
        "sets": len(sets),
        "period_s": period,
        "first": told_after / period,
        "first_pings": len(first),
        "pings": max(rates),
        "pings_least": min(rates),
        "changes": sum(bool(ping.added or ping.removed) for ping in at_rest),
        "rate": len(at_rest) / (moments.rested - moments.rest),
        "tick_s": tick,
        "tick": tick / period,
    }


def _per_period(times: list[float], period: float) -> float:
    """Pings in a period, from the time between them."""
    gaps = [later - earlier for earlier, later in pairwise(times)]
    if not gaps:
        raise BenchFailed("a set was not pinged twice")
    return period * len(gaps) / sum(gaps)
