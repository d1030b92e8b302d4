"""Was a failure caused by what the soak did, are these counts bounded, is this growth? Nothing here looks at anything.

Times are those of `time.monotonic`, which is the same in all processes of a machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, Final

from oxid.soak.settings import Times

Span = tuple[float, float]

START_REST_S: Final = 1.0
"""Activations fail for so long after a server that was killed while it started: `oxid.rpcss.launcher`."""
WARM_UP: Final = 20_000
"""Cycles after which memory counts."""
POINTS: Final = 10
BETWEEN_POINTS: Final = 10_000
"""Cycles between two points: scenarios-iis §1 wants ten points at each ten thousand."""
SLOPE: Final = 65_536 / 100_000
"""Bytes that a cycle may cost for ever."""
MARGIN: Final = 1 << 20
"""By which the last point may lie above the first."""

PER_CLIENT: Final = {
    "rpc_connection": 12,
    "rpc_association": 12,
    "rpc_call": 12,
    "security_context": 12,
    "context_handle": 2,
    "object": 16,
    "interface_pointer": 48,
    "ping_set": 4,
    "pinged_oid": 16,
    "client_set": 2,
    "sink": 2,
    "timer": 16,
    "task": 16,
}
"""What one client may cost the host: six objects with copies and a subscription, twice for what is on its way."""
AROUND: Final = 64
"""What may be live of any kind beside the clients: of the static endpoint's cycles, and of local servers."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that failed, as its client told it."""

    client: int
    act: str
    """activate, adopt, call, connect, subscribe, ticks."""
    error: str
    """The exception's name."""
    text: str
    began: float
    at: float
    since: float
    """From when on the client held the object; when the call began, where it held none yet."""
    born: float
    """When somebody activated the object."""
    kind: str = ""
    oid: int = 0
    server: int = 0
    """The local server that it lives in, where that is known."""

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Failure:
        began = float(report["began"])
        return cls(
            int(report["n"]),
            str(report["act"]),
            str(report["error"]),
            str(report["text"]),
            began,
            float(report["at"]),
            float(report.get("since", began)),
            float(report.get("born", began)),
            str(report.get("kind", "")),
            int(report.get("oid", 0)),
            int(report.get("server", 0)),
        )

    @property
    def says_gone(self) -> bool:
        """It says that the object is dead, not that the way to it is bad."""
        return self.error == "ObjectGone"

    def __str__(self) -> str:
        what = f"{self.act} of {self.kind or 'the host'}{f' {self.oid:016x}' if self.oid else ''}"
        held = f", held for {self.at - self.since:.1f} s" if self.oid else ""
        return f"client {self.client}: {what}{held}: {self.error}: {self.text}"


@dataclass
class Faults:
    """What the soak has done, and when."""

    servers: dict[int, float] = field(default_factory=dict)
    """Local servers by process: killed when."""
    agents: dict[str, list[float]] = field(default_factory=dict)
    """Machines: when their agents were killed."""
    cuts: list[Span] = field(default_factory=list)
    """When nothing got through the relay; a partition that lasts has no end yet."""
    stops: dict[int, list[Span]] = field(default_factory=dict)
    """Clients: when they were stopped."""


def excuse(failure: Failure, faults: Faults, machine: str, times: Times) -> str | None:
    """What the soak did that explains a failure of a client of a machine; None where nothing does.

    Every cause explains only what it must cause: a partition no dead object, and a stop neither, as long as the
    machine's agent went on.
    """
    f = failure
    if _server_killed(f, faults, times):
        return "its server was killed"
    stops = [stop for stop in faults.stops.get(f.client, ()) if overlaps(stop, (f.since, f.at))]
    if f.says_gone:
        for began, ended in stops:
            long = min(ended, f.at) - began > times.timeout
            if long and not _agent_had_it(f, began, ended, faults.agents.get(machine, ()), times):
                return "it was stopped for longer than the time-out, and nobody pinged for it"
        return None
    if any(overlaps(stop, (f.began - 1.0, f.at)) for stop in stops):
        return "it was stopped"
    if any(overlaps(cut, (f.began - 1.0, f.at)) for cut in faults.cuts):
        return "the network was cut"
    # Servers find sinks through the agent; until the next one is there they do not.
    agents = faults.agents.get(machine, ())
    if f.act == "subscribe" and any(f.began - times.period - 2.0 <= when <= f.at for when in agents):
        return "its machine's agent was killed"
    return None


def _server_killed(f: Failure, faults: Faults, times: Times) -> bool:
    if f.server:
        # Not before it was made: that was another process, with the same number.
        return f.born - 1.0 <= faults.servers.get(f.server, 0.0) <= f.at
    if f.kind != "resident":
        return False
    # An activation, or the first call behind one: its server is whichever was killed since.
    since = min(f.began - START_REST_S, f.born) - 1.0
    return any(since <= when <= f.at for when in faults.servers.values())


def _agent_had_it(f: Failure, began: float, ended: float, killed: Iterable[float], times: Times) -> bool:
    """Whether the machine's agent held an object all the time for which its client was stopped."""
    in_time = began - f.since > 2 * times.period
    return in_time and not any(began - 3 * times.period <= when <= ended for when in killed)


def overlaps(one: Span, other: Span) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def unbounded(live: Mapping[str, int], rest: Mapping[str, int], clients: int) -> list[str]:
    """Kinds of which more is live than so many clients can account for, those that died of late among them."""
    found = []
    for kind, count in live.items():
        bound = rest.get(kind, 0) + AROUND + PER_CLIENT.get(kind, 0) * clients
        if count > bound:
            found.append(f"{count} of {kind} are live, {bound} is the most for {clients} clients")
    return found


def differences(what: str, before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Where two counts of the same things differ."""
    kinds = sorted({*before, *after})
    return [
        f"{what} {kind}: {before.get(kind, 0)} at the start, {after.get(kind, 0)} at the end"
        for kind in kinds
        if before.get(kind, 0) != after.get(kind, 0)
    ]


@dataclass(frozen=True, slots=True)
class Memory:
    """Private memory of the host over the cycles, and what is to be thought of it."""

    slope: float | None
    """Bytes for each cycle, by least squares; None where there are too few points."""
    growth: int
    """From the first point to the last."""
    points: int
    warm_up: int
    """Cycles before the first point."""
    judged: bool
    wrong: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.slope is None:
            return "not judged: too few cycles for a slope"
        text = f"{self.slope:+.0f} bytes a cycle over {self.points} points, {self.growth / (1 << 20):+.1f} MiB in all"
        wanted = WARM_UP + POINTS * BETWEEN_POINTS
        return text if self.judged else f"not judged below {wanted:,} cycles; {text}"


def memory(samples: Sequence[tuple[int, int]]) -> Memory:
    """Judge samples of (cycles so far, private bytes). scenarios-iis §1

    It is judged after 20,000 cycles, from ten points at each ten thousand on. What there is of fewer cycles is told
    without a judgement: the first fifth of it counts as warm-up.
    """
    last = samples[-1][0] if samples else 0
    judged = last >= WARM_UP + POINTS * BETWEEN_POINTS
    warm_up = WARM_UP if judged else last // 5
    points = [sample for sample in samples if sample[0] >= warm_up]
    found = slope_of(points)
    growth = points[-1][1] - points[0][1] if points else 0
    wrong = []
    if judged and found is not None and found > SLOPE:
        wrong.append(f"{found:.2f} bytes are lost in each cycle, {SLOPE:.2f} is the most")
    if judged and growth > MARGIN:
        wrong.append(f"{growth / (1 << 20):.1f} MiB more than after the warm-up, one is the most")
    return Memory(found, growth, len(points), warm_up, judged, tuple(wrong))


def slope_of(points: Sequence[tuple[int, int]]) -> float | None:
    """Least squares; None for fewer than three points, or where all are at one place."""
    if len(points) < 3:
        return None
    x0, y0 = mean(x for x, _ in points), mean(y for _, y in points)
    spread = sum((x - x0) ** 2 for x, _ in points)
    return sum((x - x0) * (y - y0) for x, y in points) / spread if spread else None
