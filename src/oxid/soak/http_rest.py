"""The host of `oxid soak http` at rest: what it must be like, and whether it is. scenarios-iis §1

before = await at_rest(stage)                     behind the warm-up
await comes_to_rest(stage, before, checks)        nobody does anything any more
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from oxid.errors import OxidError
from oxid.soak import processes
from oxid.soak.checks import Checks
from oxid.soak.http_settings import REST_S
from oxid.soak.http_stage import HttpStage, tables
from oxid.soak.judge import differences

LOOK_S: Final = 0.05
ALIKE: Final = 4
"""So many looks in a row are alike where a host has settled."""
PATIENCE_S: Final = 10.0
SIZES: Final = (
    "connections", "live_requests", "heads", "files", "channels", "inbound", "outbound", "half_open", "live",
    "pending", "io", "links",
)  # fmt: skip
"""Ends of the names of figures that say what is there, among those that count what has been."""
MORE_OBJECTS: Final = 128
"""By which the objects of one class may be more at the end: caches that are still filling."""
EMPTY_SETS: Final = 1024
"""Ping sets without objects stay for as long as they may be used again; they are bounded by rate and period."""
HEADS: Final = 1024
"""Heads and files that the web server remembers; it bounds them by itself."""
_STATES: Final = {"01": "ESTABLISHED", "04": "FIN_WAIT1", "05": "FIN_WAIT2", "08": "CLOSE_WAIT"}
_DEAD: Final = ("FIN_WAIT2", "CLOSE_WAIT")


@dataclass(frozen=True)
class AtRest:
    """A host that nobody uses."""

    live: dict[str, int]
    descriptors: dict[str, int]
    threads: int
    children: dict[str, int]
    sockets: dict[str, int]
    """TCP sockets of the host by state."""


async def look(stage: HttpStage) -> AtRest:
    """What the host is like now. Raises OxidError where it does not answer."""
    # the system first: the question about the live counts is a connection of the host too
    pid = stage.host.pid
    descriptors, threads = processes.descriptors(pid), processes.threads(pid)
    children = dict(Counter(processes.children(pid).values()))
    sockets = tcp_states(pid)
    status = await asyncio.to_thread(stage.status)
    live = {kind: int(count) for kind, count in status["live"].items()}
    return AtRest(live, descriptors, threads, children, sockets)


async def at_rest(stage: HttpStage) -> AtRest:
    """What the host is like once it stays the same. Raises OxidError where it does not answer."""
    found, same, until = await look(stage), 0, monotonic() + PATIENCE_S
    while same < ALIKE and monotonic() < until:
        await asyncio.sleep(LOOK_S)
        again = await look(stage)
        same = same + 1 if again == found else 0
        found = again
    return found


async def comes_to_rest(stage: HttpStage, before: AtRest, checks: Checks, rule: str = "counts") -> float:
    """Look whether the host is as it was, within the time it has for it; how long it took.

    Where it is not, each difference is told, and it has some more time: what is then still there is lost for good.
    """
    began = monotonic()
    wrong: dict[str, list[str]] = {}
    late = False
    while True:
        try:
            wrong = _apart(rule, before, await look(stage))
        except OxidError as error:
            checks.broken("host", f"the host does not answer: {error}")
            return monotonic() - began
        took = monotonic() - began
        if not any(wrong.values()):
            break
        if took > REST_S and not late:
            late = True
            told = wrong
        if took > PATIENCE_S:
            break
        await asyncio.sleep(LOOK_S)
    for name, what in (told if late else wrong).items():
        still = " (and for good)" if any(wrong.values()) else f" (gone after {took:.1f} s)"
        checks.check(name, [text + still for text in what])
    return took


async def look_at_tables(stage: HttpStage, before: dict[str, float], checks: Checks) -> None:
    """The host's tables are as large as they were. Raises OxidError where it does not answer."""
    said = await asyncio.to_thread(stage.memory)
    now = tables(said["tables"])
    wrong = [
        f"{name}: {before.get(name, 0):g} after the warm-up, {size:g} now"
        for name, size in now.items()
        if name.endswith(SIZES) and size > before.get(name, 0) + _allowed(name)
    ]
    checks.check("tables", wrong)


def _allowed(name: str) -> int:
    """Caches of the web server fill up; they are bounded by themselves."""
    return HEADS if name.endswith((".heads", ".files")) else 0


def look_at_objects(before: dict[str, int], after: dict[str, int], checks: Checks) -> None:
    """No class has ever more objects."""
    more = {name: count - before.get(name, 0) for name, count in after.items()}
    wrong = [f"{count} more objects of {name}" for name, count in more.items() if count > _more(name)]
    checks.check("objects", wrong)
    grown = sorted(((count, name) for name, count in more.items() if count > 0), reverse=True)[:3]
    text = ", ".join(f"{count} of {name}" for count, name in grown)
    checks.note("objects", f"{text} more than after the warm-up" if text else "")


def _more(name: str) -> int:
    if name.startswith("oxid.rpcss.ping_sets."):
        return EMPTY_SETS
    return HEADS if name.startswith("oxid.http.heads.") else MORE_OBJECTS


def tcp_states(pid: int) -> dict[str, int]:
    """How many TCP sockets of a process are in each state, but for those that listen."""
    mine = set()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{entry}")
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            mine.add(target[8:-1])
    found: Counter[str] = Counter()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue  # no IPv6 here
        for line in lines:
            fields = line.split()
            if fields[9] in mine and fields[3] != "0A":
                found[_STATES.get(fields[3], fields[3])] += 1
    return dict(found)


def _apart(rule: str, before: AtRest, now: AtRest) -> dict[str, list[str]]:
    """By rule: in which ways the host is not as it was."""
    system = differences("descriptors", before.descriptors, now.descriptors)
    system += differences("number of", {"threads": before.threads}, {"threads": now.threads})
    system += differences("child", before.children, now.children)
    sockets = [f"{count} sockets in {state}" for state, count in now.sockets.items() if state in _DEAD]
    # A timer that nobody needs any more runs out by itself: one fewer than at the start is none that is lost.
    live = {**now.live, "timer": max(now.live["timer"], before.live["timer"])}
    return {rule: differences("live", before.live, live), "system": system, "sockets": sockets}
