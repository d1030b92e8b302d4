"""Searches of the endpoint mapper that clients began and did not finish: forgotten once they are idle.

    lookups.begun(key, close)     a handle was given out; `close` takes it back
    lookups.used(key)             its client asked for more; False where it is forgotten already
    lookups.ended(key)            finished, freed, or the client is gone

Nothing here runs by itself: whoever begins a search pays for the idle ones of everybody. How many one client may
have at once is the association's bound on context handles.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from oxid.world import Clock

IDLE_S = 300.0
"""How long a search may rest; a client that reads on does so at once, a person at a console within minutes."""


class OpenLookups:
    """The unfinished searches, the one idle for longest first."""

    def __init__(self, clock: Clock, *, idle_s: float = IDLE_S) -> None:
        self._clock = clock
        self._idle_s = idle_s
        self._open: OrderedDict[bytes, tuple[float, Callable[[], object]]] = OrderedDict()

    def begun(self, key: bytes, close: Callable[[], object]) -> None:
        now = self._clock.now()
        self._open[key] = now, close
        self._expire(now)

    def used(self, key: bytes) -> bool:
        now = self._clock.now()
        self._expire(now)
        found = self._open.get(key)
        if found is None:
            return False
        self._open[key] = now, found[1]
        self._open.move_to_end(key)
        return True

    def ended(self, key: bytes) -> None:
        self._open.pop(key, None)

    def _expire(self, now: float) -> None:
        while self._open:
            key, (last, close) = next(iter(self._open.items()))
            if last + self._idle_s > now:
                break
            del self._open[key]
            close()

    def __len__(self) -> int:
        return len(self._open)

    def __repr__(self) -> str:
        return f"<OpenLookups {len(self._open)} open>"
