"""What `oxid soak http` is told, what must hold in it, and how memory is judged. scenarios-iis §1"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from oxid.soak.judge import BETWEEN_POINTS, MARGIN, POINTS, SLOPE, WARM_UP, slope_of

MINUTES: Final = 10.0
PERIOD_S: Final = 4.0
"""In the place of the 120 s of a wire ConnectionTimeout; a busy machine still pings in time."""
RESTS: Final = 12
"""In a soak that is given minutes."""
SHORTEST_LOAD_S: Final = 5.0
SETUP_TIMER: Final = 900 / 120
"""The longest timer of a tunnel, in periods. [MS-RPCH] 3.2.5.2.1"""
REST_S: Final = 2.0
"""For live counts to be those of the start once nobody does anything."""

RULES: Final = {
    "acts": "every session, request and abuse ends as it must",
    "counts": "at every rest live counts are those after the warm-up, within 2 s",
    "later": "and again when the longest timer has passed",
    "system": "so are descriptors of every type, threads and children",
    "sockets": "no socket is left in CLOSE_WAIT or FIN_WAIT2",
    "tables": "tables of connections, channels and sessions are as large as then",
    "objects": "of no class of ours there are ever more objects",
    "requests": "the access log has one line for each request",
    "servers": "servers behind the proxy have nothing live either",
    "clients": "client processes live until the soak ends them",
    "host": "the host lives and answers until the soak ends it",
    "log": "its log has no error",
    "memory": "its memory does not grow with the sessions",
    "end": "it stops with nothing live, and no process is left",
}
"""Name -> what it says; the order is that of the report."""


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """The options of `oxid soak http`."""

    minutes: float | None = None
    """How long the load lasts at most; None for ten, or for as long as the sessions take."""
    sessions: int | None = None
    """Tunnelled sessions behind the warm-up after which it ends; None for what the minutes allow."""
    clients: int = 48
    """At a time."""
    seed: int = 0
    period: float = PERIOD_S
    """Seconds of a wire ConnectionTimeout of 120 s."""
    trace: bool = False
    """Have the host remember where it allocates memory, and tell what has grown; it is slow then."""
    keep: bool = False

    @property
    def seconds(self) -> float:
        """How long the load lasts at most."""
        if self.minutes is not None:
            return 60 * self.minutes
        return float("inf") if self.sessions is not None else 60 * MINUTES

    @property
    def warm_up(self) -> int:
        """Sessions that come before those that were asked for."""
        return 0 if self.sessions is None else min(WARM_UP, self.sessions // 5)

    @property
    def wanted(self) -> float:
        """Sessions in all."""
        return float("inf") if self.sessions is None else self.sessions + self.warm_up

    def load_ends(self, sessions: int, began: float) -> tuple[float, float]:
        """Until how many sessions in all, or when, the load that begins now lasts; then there is a rest."""
        if self.sessions is not None:
            between = min(BETWEEN_POINTS, max(200, self.sessions // POINTS))
            return min(self.wanted, (sessions // between + 1) * between), float("inf")
        return float("inf"), began + max(SHORTEST_LOAD_S, self.seconds / RESTS)

    @property
    def command(self) -> str:
        """How to repeat it."""
        words = ["oxid soak http"]
        if self.minutes is not None:
            words.append(f"--minutes {self.minutes:g}")
        if self.sessions is not None:
            words.append(f"--sessions {self.sessions}")
        words += [f"--clients {self.clients}", f"--seed {self.seed}", f"--tunnel-period {self.period:g}"]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Growth:
    """Private memory of the host over the sessions, and what is to be thought of it."""

    slope: float | None
    """Bytes for each session, by least squares; None where there are too few points."""
    growth: int
    """From the first point to the last."""
    points: int
    first: int
    """Sessions at the first point."""
    judged: bool
    wrong: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.slope is None:
            return "not judged: too few rests for a slope"
        text = (
            f"{self.slope * 100_000 / 1024:+.0f} KiB for 100,000 sessions over {self.points} points, "
            f"{self.growth / 1024:+.0f} KiB in all"
        )
        wanted = POINTS * BETWEEN_POINTS
        return text if self.judged else f"not judged below {wanted:,} sessions behind the warm-up; {text}"


def growth(samples: Sequence[tuple[int, int]]) -> Growth:
    """Judge samples of (sessions so far, private bytes) of moments of rest.

    The first 20,000 sessions are warm-up, or the first fifth of fewer. It is judged where 100,000 came behind it.
    """
    last = samples[-1][0] if samples else 0
    judged = last >= WARM_UP + POINTS * BETWEEN_POINTS
    warm_up = WARM_UP if judged else last // 5
    points = [sample for sample in samples if sample[0] >= warm_up]
    found = slope_of(points)
    grown = points[-1][1] - points[0][1] if points else 0
    wrong = []
    if judged and found is not None and found > SLOPE:
        most = SLOPE * 100_000 / 1024
        wrong.append(
            f"{found * 100_000 / 1024:.0f} KiB are lost in 100,000 sessions, {most:.0f} are the most"
        )
    if judged and grown > MARGIN:
        wrong.append(f"{grown / (1 << 20):.1f} MiB more than after the warm-up, one is the most")
    return Growth(found, grown, len(points), points[0][0] if points else 0, judged, tuple(wrong))
