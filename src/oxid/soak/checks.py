"""What must hold: how often each of it was looked at, and where it did not hold.

    checks.held("live")                   looked at, and so it was
    checks.broken("live", "client 7 …")   it was not

A rule that is broken once is broken; the first places are kept in words, the others counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

RULES: Final = {
    "activate": "every activation of the static endpoint's class succeeds",
    "port": "it is always served from the same port",
    "row": "the endpoint mapper has one row of it while it serves, none afterwards",
    "exit": "its server ends when its last object is gone, and only then",
    "crash": "a call to a killed server fails, and soon",
    "live": "what a live client holds, it can call",
    "sound": "a call is answered by the right object, events come in order",
    "calls": "no call fails without a cause",
    "gone": "what nobody holds any more is gone in time",
    "bounded": "the host's live counts stay bounded",
    "clients": "clients live until the soak ends them",
    "host": "the host and its agents live until the soak ends them",
    "counts": "at the end the host's live counts are those of its start",
    "system": "so are its descriptors, threads and children",
    "rows": "so are the rows of its endpoint mapper",
    "log": "its log has no error",
    "end": "it stops with nothing live, and no process is left",
    "memory": "its memory does not grow with the cycles",
}
"""Of `oxid soak rpcss`. Name -> what it says; the order is that of the report."""

KEPT: Final = 10
"""Places of one rule that are told in words."""


@dataclass(slots=True)
class Rule:
    """What became of one rule."""

    held: int = 0
    broken: int = 0
    places: list[str] = field(default_factory=list)
    note: str = ""
    """A figure that belongs to it, or why it was not judged."""


class Checks:
    """Of one soak. Times are seconds since its beginning."""

    def __init__(self, rules: Mapping[str, str] = RULES) -> None:
        self._texts = rules
        self.rules = {name: Rule() for name in rules}
        self._began = time.monotonic()

    def held(self, name: str, times: int = 1) -> None:
        self.rules[name].held += times

    def broken(self, name: str, what: str) -> None:
        rule = self.rules[name]
        rule.broken += 1
        if len(rule.places) < KEPT:
            rule.places.append(f"{what} (at {time.monotonic() - self._began:.1f} s)")

    def check(self, name: str, wrong: Iterable[str]) -> bool:
        """Held where nothing is wrong, else broken in each of these ways; whether it held."""
        found = list(wrong)
        for what in found:
            self.broken(name, what)
        if not found:
            self.held(name)
        return not found

    def note(self, name: str, text: str) -> None:
        self.rules[name].note = text

    @property
    def sound(self) -> bool:
        return not any(rule.broken for rule in self.rules.values())

    def data(self) -> dict[str, Any]:
        """For the report."""
        return {
            name: {
                "rule": self._texts[name],
                "held": rule.held,
                "broken": rule.broken,
                "places": rule.places,
                "note": rule.note,
            }
            for name, rule in self.rules.items()
        }
