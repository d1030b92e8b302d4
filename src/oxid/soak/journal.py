"""Who holds what, as the clients report it, and what must come of that.

The journal hears every report, judges every failure at once, and knows of every object that nobody holds any more
by when it must be gone. What the soak does to the clients is noted here first, and then done.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from oxid.soak.checks import Checks
from oxid.soak.judge import Failure, Faults, excuse, overlaps
from oxid.soak.settings import ALLOWANCE_S, Times
from oxid.soak.stage import machine_of

HANDING_ON: Final = 3.0
"""Periods for which an object may be on its way from one client to another."""
STORY: Final = 2_000
TOLD: Final = 6
"""Of what was done to a client, this much is told with what it lost."""


@dataclass
class Client:
    """One client process."""

    number: int
    generation: int
    role: str
    born: float
    up: float = 0.0
    """When it had reached the host; 0 while it has not."""
    doom: str = ""
    """What the soak has done to end it."""
    stopped: bool = False
    failed: bool = False
    """One of its calls has failed."""
    held: Counter[int] = field(default_factory=Counter)
    server: int = 0
    """Of one that abandons: the local server that it has an object in."""


@dataclass(slots=True)
class Dying:
    """An object that nobody holds."""

    since: float
    until: float
    """By then it must be gone."""
    why: str


class Journal:
    """Hears, remembers and judges."""

    def __init__(self, checks: Checks, times: Times) -> None:
        self.checks = checks
        self.times = times
        self.faults = Faults()
        self.clients: dict[int, Client] = {}
        """Those that live."""
        self.dying: dict[int, Dying] = {}
        self.excused: Counter[str] = Counter()
        """Failures that the soak has caused, by cause."""
        self.done: Counter[str] = Counter()
        """Of each kind of event: how many."""
        self.on_death: Callable[[Client], object] = lambda client: None
        self.over: str | None = None
        """The nursery has ended, and why."""
        self.lost: list[tuple[int, str]] = []
        """Objects that live clients have lost, and how they noticed; the host is still to be asked what it knows."""
        self.story: deque[tuple[float, str, str]] = deque(maxlen=STORY)
        """What the soak has done of late: when, to whom, and what."""
        self._holders: dict[int, Counter[int]] = {}
        self._offered: dict[int, float] = {}
        self._deaths: list[float] = []

    # What the soak does -------------------------------------------------------------------------------

    def started(self, number: int, generation: int, role: str) -> Client:
        client = self.clients[number] = Client(number, generation, role, monotonic())
        self.done["starts"] += 1
        return client

    def doomed(self, client: Client, how: str) -> None:
        """It is killed, or told to end."""
        client.doom = how
        self._note(how, f"client {client.number}")

    def server_killed(self, pid: int) -> None:
        self.faults.servers[pid] = monotonic()
        self._note("server", f"server {pid}")

    def agent_killed(self, machine: str) -> None:
        self.faults.agents.setdefault(machine, []).append(monotonic())
        self._note("agent", machine)

    def cut_began(self, seconds: float) -> None:
        self.faults.cuts.append((monotonic(), float("inf")))
        self._note("cut", "far", f" for {seconds:.2f} s")

    def cut_ended(self) -> None:
        began, _ = self.faults.cuts.pop()
        self.faults.cuts.append((began, monotonic()))

    def stop_began(self, client: Client, seconds: float) -> None:
        client.stopped = True
        self.faults.stops.setdefault(client.number, []).append((monotonic(), float("inf")))
        self._note("stop", f"client {client.number}", f" for {seconds:.2f} s")

    def _note(self, kind: str, whom: str, more: str = "") -> None:
        self.done[kind] += 1
        self.story.append((monotonic(), whom, f"{kind} {whom}{more}"))

    def story_of(self, client: int, since: float) -> str:
        """What was done to a client and its machine, with how long ago that was."""
        now, whom = monotonic(), (f"client {client}", machine_of(client))
        told = [f"{now - at:.1f} s ago {what}" for at, who, what in self.story if who in whom and at >= since]
        return "; ".join(told[-TOLD:]) or "nothing was done to it"

    def stop_ended(self, client: Client) -> None:
        """Also where it ended by a kill."""
        if client.stopped:
            client.stopped = False
            spans = self.faults.stops[client.number]
            spans.append((spans.pop()[0], monotonic()))

    # What they say ------------------------------------------------------------------------------------

    def hear(self, report: Mapping[str, Any]) -> None:
        """One report of a client or the nursery."""
        what = report["what"]
        if what == "over":
            self.over = str(report["text"])
            return
        client = self.clients.get(report["n"])
        if client is None or client.generation != report["g"]:
            return  # its end was heard of before
        match what:
            case "up":
                client.up = report["at"]
            case "hold":
                self._hold(client, report)
            case "let_go":
                self._let_go(client, int(report["oid"]), report["at"], "it was released")
            case "offer":
                self._offered[int(report["oid"])] = report["at"]
            case "server":
                client.server = int(report["server"])
            case "did":
                self.checks.held("live", int(report["calls"]))
                self.checks.held("sound", int(report["calls"]))
                self.done["calls"] += int(report["calls"])
            case "failed":
                self._judge(client, Failure.of(report))
            case "wrong":
                self.checks.broken("sound", f"client {client.number}: {report['text']}")
            case "fault":
                self.checks.broken("clients", f"client {client.number}: {report['text']}")
            case "died":
                self._died(client, report)

    def _hold(self, client: Client, report: Mapping[str, Any]) -> None:
        oid = int(report["oid"])
        client.held[oid] += 1
        self._holders.setdefault(oid, Counter())[client.number] += 1
        self.dying.pop(oid, None)
        self.done["handed on" if report["why"] == "offer" else "activations"] += 1

    def _let_go(self, client: Client, oid: int, at: float, why: str) -> None:
        client.held[oid] -= 1
        if not client.held[oid]:
            del client.held[oid]
        holders = self._holders.get(oid)
        if holders is None:
            return
        holders[client.number] -= 1
        if not holders[client.number]:
            del holders[client.number]
        if not holders:
            del self._holders[oid]
            offered = self._offered.pop(oid, None)
            alone = at if offered is None else max(at, offered + HANDING_ON * self.times.period)
            self.dying[oid] = Dying(at, alone + self.times.gone + ALLOWANCE_S, why)

    def _died(self, client: Client, report: Mapping[str, Any]) -> None:
        self.stop_ended(client)
        at, code = float(report["at"]), int(report["code"])
        if not client.doom:
            self.checks.broken("clients", f"client {client.number} ended by itself with {code}")
        elif client.doom == "end" and code:
            self.checks.broken("clients", f"client {client.number} was told to end and did so with {code}")
        else:
            self.checks.held("clients")
        for oid, times in list(client.held.items()):
            for _ in range(times):
                self._let_go(client, oid, at, f"client {client.number} is dead")
        del self.clients[client.number]
        self._deaths.append(at)
        self.on_death(client)

    def _judge(self, client: Client, failure: Failure) -> None:
        client.failed = True
        why = excuse(failure, self.faults, machine_of(client.number), self.times)
        if why is None and failure.act == "adopt" and not self._held_by_another(failure, client):
            why = "it was let go before it had been handed on"
        if why is not None:
            self.excused[why] += 1
        else:
            story = self.story_of(client.number, failure.since - 2 * self.times.gone)
            text = f"{failure} [{story}]"
            if failure.says_gone:
                self.lost.append((failure.oid, text))
            else:
                self.checks.broken("calls", text)

    def _held_by_another(self, failure: Failure, client: Client) -> bool:
        """Whether somebody held an object all the time, so that it cannot have been gone."""
        return any(number != client.number for number in self._holders.get(failure.oid, ()))

    # What must come of it -----------------------------------------------------------------------------

    def held_up(self, oid: int) -> float:
        """Seconds for which a partition has held up the word that nobody needs a dying object."""
        dying = self.dying[oid]
        cuts = [cut for cut in self.faults.cuts if overlaps(cut, (dying.since, dying.until))]
        return sum(min(ended, monotonic()) - began for began, ended in cuts)

    def overdue(self, oid: int) -> bool:
        """Whether a dying object must be gone by now."""
        return monotonic() > self.dying[oid].until + self.held_up(oid)

    def gone(self, oid: int) -> float:
        """A dying object is gone; how long that took, without what held it up."""
        self.checks.held("gone")
        waited = monotonic() - self.dying[oid].since - self.held_up(oid)
        del self.dying[oid]
        return waited

    def mortal(self) -> int:
        """Clients that may have something at the host: those that live, and those whose objects may yet live."""
        since = monotonic() - self.times.gone - ALLOWANCE_S
        self._deaths = [at for at in self._deaths if at >= since]
        return len(self.clients) + len(self._deaths)
