"""Counting calls: a warm-up that does not count, then latencies, rate and CPU time of the counted part."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, TypeAlias

WARM_UP_S: Final = 0.3
"""Long enough for caches, the clock of the processor and the connection's slow start."""

Measured: TypeAlias = AbstractContextManager[Any]
UNMEASURED: Final[Measured] = nullcontext()
"""In the place of a profile of the interesting part."""

clock: Final = time.perf_counter
thread_seconds: Final = time.thread_time


def cpu_seconds() -> float:
    """Processor time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def private_bytes(process: int | str = "self") -> int:
    """Resident memory that a process shares with nobody."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


class Meter:
    """Latencies of one run; `mark` ends the warm-up, `report` says what came after it."""

    def __init__(self, seconds: float) -> None:
        self.latencies: list[float] = []
        self.restart(seconds)

    def restart(self, seconds: float) -> None:
        """The warm-up begins now."""
        self.counts_from = clock() + WARM_UP_S
        self.end = self.counts_from + seconds
        self.mark()

    def mark(self) -> None:
        """What follows counts."""
        self._first = len(self.latencies)
        self._cpu = cpu_seconds()
        self._time = clock()

    def report(self) -> dict[str, Any]:
        """Rate per second, percentiles and client CPU in microseconds, and all calls made."""
        elapsed, cpu = clock() - self._time, cpu_seconds() - self._cpu
        counted = sorted(self.latencies[self._first :])
        if not counted:
            raise RuntimeError("no call ended within the time; give --seconds more")
        n = len(counted)
        return {
            "rate": n / elapsed,
            "p50_us": counted[n // 2] * 1e6,
            "p99_us": counted[int(n * 0.99)] * 1e6,
            "mean_ms": elapsed / n * 1e3,
            "client_cpu_us": cpu / n * 1e6,
            "calls": len(self.latencies),
        }


def sequential(call: Callable[[], object], meter: Meter) -> None:
    """Call until the meter's time is over."""
    note, end, counts_from, marked = meter.latencies.append, meter.end, meter.counts_from, False
    before = clock()
    while before < end:
        if not marked and before >= counts_from:
            marked = True
            meter.mark()
        call()
        now = clock()
        note(now - before)
        before = now


def threaded(
    make_call: Callable[[], Callable[[], object]], connections: int, seconds: float
) -> dict[str, Any]:
    """A thread per connection, for libraries that block; one connection needs none."""
    if connections == 1:
        call = make_call()
        meter = Meter(seconds)
        sequential(call, meter)
        return meter.report()
    ready = threading.Barrier(connections + 1, timeout=30)
    meter = Meter(seconds)

    def work() -> None:
        call = make_call()  # some libraries tie a connection to the thread that made it
        ready.wait()
        ready.wait()
        note, end = meter.latencies.append, meter.end
        before = clock()
        while before < end:
            call()
            now = clock()
            note(now - before)
            before = now

    threads = [threading.Thread(target=work, daemon=True) for _ in range(connections)]
    for thread in threads:
        thread.start()
    ready.wait()
    meter.restart(seconds)
    ready.wait()
    time.sleep(max(0.0, meter.counts_from - clock()))
    meter.mark()
    for thread in threads:
        thread.join()
    return meter.report()
