"""Idle tunnels by the thousand: what each costs the process that has both the proxy and the server, and its pings.

One virtual connection takes two descriptors there, those of its two HTTP requests, and as many in its client. So how
many one process holds is a matter of `ulimit -n`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from oxid.bench.rounds import (
    HOLD_S,
    SPARE_DESCRIPTORS,
    BenchFailed,
    Child,
    Say,
    processor_seconds,
    raise_descriptor_limit,
    resident_bytes,
)

DESCRIPTORS: Final = 2
"""Of one virtual connection in the process with proxy and server."""
WARM_UP: Final = 50
"""Tunnels that are opened and closed before anything is weighed."""
HOLDER_TUNNELS: Final = 1250
"""Of one client process."""
REST_PERIODS: Final = 0.75
PING: Final = 20
"""Bytes of a ping."""
BESIDES: Final = 8
"""Tasks and timers that a process has whether it holds tunnels or not."""


def hold_tunnels(*, say: Say, connections: int, processes: int, period: float) -> dict[str, Any]:
    """Hold so many tunnels in so many processes of proxy and server; what each costs.

    Raises BenchFailed where there are tasks or timers for them, or nobody is pinged.
    """
    each = connections // processes
    most = (raise_descriptor_limit() - SPARE_DESCRIPTORS) // DESCRIPTORS
    note = ""
    if each > most:
        note = f"; the descriptor limit allows {most} of {each} in one process"
        each = most
    if each < 1:
        raise BenchFailed("too few descriptors: raise the limit with ulimit -n")
    with ExitStack() as stack:
        servers = [stack.enter_context(_server(period)) for _ in range(processes)]
        before = [resident_bytes(server) for server, _ in servers]
        began, held = time.monotonic(), 0
        for _, port in servers:
            here = 0
            while here < each:
                part = _holder(port, min(HOLDER_TUNNELS, each - here), period)
                here += stack.enter_context(Child(part)).hear(HOLD_S)["bound"]
                say(f"tunnels: {held + here} of {each * processes}{note}")
            held += here
        opened = time.monotonic() - began
        grown = sum(resident_bytes(server) for server, _ in servers) - sum(before)
        first = [_counts(server) for server, _ in servers]
        cpu = sum(processor_seconds(server) for server, _ in servers)
        time.sleep(REST_PERIODS * period)
        cpu = sum(processor_seconds(server) for server, _ in servers) - cpu
        after = [_counts(server) for server, _ in servers]
    return {
        "wanted": connections,
        "descriptors": raise_descriptor_limit(),
        **judge(first, after, held, grown),
        "opened_s": opened,
    } | {
        "rate": held / opened,
        "ping_cpu_us": cpu / held * 1e6,
    }


def judge(first: list[dict[str, int]], after: list[dict[str, int]], held: int, grown: int) -> dict[str, Any]:
    """What the counts say. Raises BenchFailed where they are not those of idle tunnels."""
    live = sum(counts["virtual_connections"] for counts in after)
    pings = (sum(c["sent"] for c in after) - sum(c["sent"] for c in first)) / PING
    tasks = max(counts["tasks"] for counts in after)
    timers = max(counts["timers"] for counts in after)
    if live != 3 * held:  # one at the server, and one for each direction at the proxy
        raise BenchFailed(f"{live} of {3 * held} halves of virtual connections are live")
    if tasks > BESIDES or timers > BESIDES:
        raise BenchFailed(f"{tasks} tasks and {timers} timers in one process that only pings")
    if pings < held:
        raise BenchFailed(f"{pings:.0f} pings for {held} idle tunnels")
    return {
        "kib": grown / held / 1024,
        "connections": held,
        "tasks": tasks,
        "timers": timers,
        "pings": pings,
    }


@contextmanager
def _server(period: float) -> Iterator[tuple[Child, Any]]:
    """A process with proxy and server, its modules imported and its tables made."""
    part = {"role": "alone", "kind": "http_servers.watched_tunnel", "options": {"period": period}}
    with Child(part) as server:
        port = server.hear()["port"]
        with Child(_holder(port, WARM_UP, period)) as first:
            first.hear(HOLD_S)
        yield server, port


def _holder(port: Any, connections: int, period: float) -> dict[str, Any]:
    return {
        "role": "client",
        "kind": "http_clients.hold",
        "port": port,
        "seconds": 0,
        "options": {"connections": connections, "period": period},
    }


def _counts(server: Child) -> dict[str, int]:
    server.go_on()
    return server.hear()
