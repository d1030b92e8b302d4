"""The end of a soak: everything is as it was before, and nothing is left. Scenario Q of the ground rules.

before = await at_rest(stage)
...
await come_to_rest(stage, before, checks)      every client has ended
stop(stage, checks)                            the agents, then the host
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final

from oxid.bench.rounds import BenchFailed
from oxid.errors import OxidError
from oxid.soak import processes
from oxid.soak.checks import Checks
from oxid.soak.judge import differences
from oxid.soak.settings import ALLOWANCE_S
from oxid.soak.stage import MACHINES, Stage

STOP_S: Final = 15.0
"""For a host to stop; it promises ten."""
PATIENCE_S: Final = 0.1
LOOKS: Final = 50
"""At a host before its load, until so many in a row are alike:"""
ALIKE: Final = 4


@dataclass(frozen=True)
class AtRest:
    """A host that nobody uses."""

    live: dict[str, int]
    descriptors: dict[str, int]
    threads: int
    children: list[str]
    rows: list[str]


async def at_rest(stage: Stage) -> AtRest:
    """What the host is like now. Raises OxidError where it does not answer.

    Looked at until it stays the same: our own question about the rows, and what the start of the
    host left open for a moment, are no part of it.
    """
    rows = await stage.rows()
    found, same = await _look(stage), 0
    for _ in range(LOOKS):
        await asyncio.sleep(PATIENCE_S)
        again = await _look(stage)
        same = same + 1 if again == found else 0
        found = again
        if same == ALIKE:
            break
    return replace(found, rows=rows)


async def come_to_rest(stage: Stage, before: AtRest, checks: Checks) -> float:
    """Wait until the host is as it was, and say where it is not; how long it took.

    The bound is T + P + 2S and the allowance.
    """
    began = monotonic()
    until = began + stage.times.rest + ALLOWANCE_S
    wrong: dict[str, list[str]] = {}
    while True:
        try:
            wrong = _apart(before, await _look(stage))
        except OxidError as error:
            checks.broken("host", f"the host does not answer: {error}")
            return monotonic() - began
        if not any(wrong.values()) or monotonic() > until:
            break
        await asyncio.sleep(PATIENCE_S)
    for rule, what in wrong.items():
        checks.check(rule, what)
    checks.check("rows", differences("rows", *map(_counted, (before.rows, await stage.rows()))))
    return monotonic() - began


async def _look(stage: Stage) -> AtRest:
    # the system first: the question about the live counts is a connection of the host too
    pid = stage.host.pid
    descriptors, threads = processes.descriptors(pid), processes.threads(pid)
    children = sorted(processes.children(pid).values())
    return AtRest(stage.status(), descriptors, threads, children, [])


def _apart(before: AtRest, now: AtRest) -> dict[str, list[str]]:
    """By rule: in which ways the host is not as it was."""
    system = differences("descriptors", before.descriptors, now.descriptors)
    system += differences("number of", {"threads": before.threads}, {"threads": now.threads})
    system += differences("child", *map(_counted, (before.children, now.children)))
    return {"counts": differences("live", before.live, now.live), "system": system}


def _counted(lines: list[str]) -> dict[str, int]:
    return {line: lines.count(line) for line in lines}


def look_at_logs(stage: Stage, checks: Checks) -> int:
    """No error is in the host's log, nor on its error output and its servers'; how many warnings there are."""
    log = stage.log.read_text(errors="replace").splitlines() if stage.log.exists() else []
    said = stage.errors.read_text(errors="replace").splitlines()
    wrong = [line for line in log if " ERROR " in line]
    wrong += [
        line
        for line in said
        if line.startswith(("Traceback", "Exception", "Fatal")) or "never retrieved" in line
    ]
    for machine in MACHINES:
        path = stage.directory / f"errors-{machine}"
        if path.exists():
            wrong += [
                f"agent: {line}"
                for line in path.read_text(errors="replace").splitlines()
                if " ERROR " in line
            ]
    checks.check("log", wrong)
    return sum(" WARNING " in line for line in log)


async def stop(stage: Stage, checks: Checks) -> None:
    """End the agents, then the host, politely; nothing may be left of either."""
    wrong: list[str] = []
    for machine in MACHINES:
        pid = processes.served_by(stage.agent(machine))
        first = stage.programs[machine]
        if pid == first.pid:
            first.signal(signal.SIGTERM)
            wrong += await asyncio.to_thread(_ended, f"the {machine} agent", first.ends)
    wrong += await _agents_leave(stage)
    host = stage.host
    host.signal(signal.SIGTERM)
    wrong += await asyncio.to_thread(_stopped, host.line)
    wrong += await asyncio.to_thread(_ended, "the host", host.ends)
    mine = {program.pid for program in stage.programs.values()}
    left = {pid: words for pid, words in processes.of_run(stage.token).items() if pid not in mine}
    wrong += [f"process {pid} is left: {words}" for pid, words in left.items()]
    checks.check("end", wrong)


async def _agents_leave(stage: Stage) -> list[str]:
    """Agents that clients have started end by themselves, once nobody needs them."""
    until = monotonic() + 2 * stage.times.period + ALLOWANCE_S
    while True:
        left = {machine: processes.served_by(stage.agent(machine)) for machine in MACHINES}
        found = [
            f"the agent of the {machine} machine lives on: process {pid}"
            for machine, pid in left.items()
            if pid
        ]
        if not found or monotonic() > until:
            return found
        await asyncio.sleep(PATIENCE_S)


def _ended(what: str, ends: Callable[[float], int]) -> list[str]:
    try:
        code = ends(STOP_S)
    except BenchFailed as error:
        return [f"{what}: {error}"]
    return [f"{what} ended with {code}"] if code else []


def _stopped(line: Callable[[float], str]) -> list[str]:
    try:
        said = line(STOP_S)
    except BenchFailed as error:
        return [f"the host: {error}"]
    return [f"the host says {said!r}"] if said != "stopped live=0" else []
