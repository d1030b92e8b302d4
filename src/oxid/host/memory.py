"""What a host's memory is made of, for who looks for a leak: `ask(state / "control", "memory", …)`.

    {"command": "memory"}                      tables, and how many objects of oxid's classes there are
    {"command": "memory", "trim": true}        collect and give free memory back first, so that /proc tells what is used
    {"command": "memory", "trace": "start"}    remember from now on where memory is allocated (slow: a debugging aid)
    {"command": "memory", "trace": "growth"}   the lines whose memory has grown most since then

It answers on the loop and may hold it up for as long as the heap is large: it is asked when nothing else is done.
"""

from __future__ import annotations

import ctypes
import gc
import tracemalloc
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

LINES: Final = 15
"""Of the growth that is told."""
FRAMES: Final = 6


class MemoryWatch:
    """Owned by the host. `tables` says how large what is looked up by key is."""

    def __init__(self, tables: Callable[[], Mapping[str, Any]]) -> None:
        self._tables = tables
        self._before: tracemalloc.Snapshot | None = None

    def answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The handler of the control socket's command."""
        said: dict[str, Any] = {}
        if request.get("trim"):
            said["collected"] = gc.collect()
            said["trimmed"] = trim()
        match request.get("trace"):
            case "start":
                tracemalloc.start(FRAMES)
                self._before = _snapshot()
            case "growth" if self._before is not None:
                said["growth"] = _growth(self._before)
        return {**said, "tables": dict(self._tables()), "objects": objects()}


def objects() -> dict[str, int]:
    """How many objects there are of each of oxid's classes, as far as the collector knows them."""
    found = Counter(map(type, gc.get_objects()))
    return {
        f"{kind.__module__}.{kind.__qualname__}": count
        for kind, count in found.items()
        if str(kind.__module__).partition(".")[0] == "oxid"
    }


def trim() -> bool:
    """Give what the C library holds of freed memory back to the system; whether it could be asked to."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return False  # another C library than glibc
    return True


def _snapshot() -> tracemalloc.Snapshot:
    gc.collect()
    ours = (tracemalloc.Filter(False, tracemalloc.__file__), tracemalloc.Filter(False, "<frozen importlib*>"))
    return tracemalloc.take_snapshot().filter_traces(ours)


def _growth(before: tracemalloc.Snapshot) -> list[dict[str, Any]]:
    now = _snapshot()
    found = now.compare_to(before, "lineno")
    traces = {change.traceback: change for change in now.compare_to(before, "traceback")}
    told = []
    for change in found[:LINES]:
        frame = change.traceback[0]
        way = next(
            (trace for trace, more in traces.items() if trace[-1] == frame and more.size_diff > 0), None
        )
        told.append(
            {
                "line": str(frame),
                "bytes": change.size_diff,
                "blocks": change.count_diff,
                "way": [] if way is None else [str(step) for step in way],
            }
        )
    return told
