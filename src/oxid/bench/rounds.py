"""Alternating rounds: in each, every case runs once with fresh processes, forwards and then backwards.

What else the machine does changes over seconds; a case is therefore only ever compared with its base of the
same round, and the median of those ratios is the result.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from oxid.bench.cases import Case
from oxid.errors import OxidError

START_S: Final = 30.0
"""A child that has not said its word after this long never will."""
HOLD_S: Final = 120.0
"""To bind the connections of one client process."""
ALONE_S: Final = 120.0
"""Between two words of a process that measures itself."""
SPARE_DESCRIPTORS: Final = 200
HOLDER_CONNECTIONS: Final = 5000
"""Connections of one client process of a memory case."""

Say = Callable[[str], None]


class BenchFailed(OxidError):
    """A process of the bench ended early, or the machine does not allow the measurement."""


@dataclass
class Results:
    """What came out: per case one report for each round; None where it failed."""

    cases: list[Case]
    rounds: int
    seconds: float
    reports: dict[str, list[dict[str, Any] | None]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


class Program:
    """A process that the bench started; leaving the block ends it."""

    def __init__(self, words: list[str], environment: dict[str, str] | None = None) -> None:
        # A pipe that nobody reads would stop it.
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed with our own block
        self._process = subprocess.Popen(
            [sys.executable, "-P", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=environment,
        )
        self._received = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def line(self, within: float = START_S) -> str:
        """The next line it prints. Raises BenchFailed where it ended instead, or took too long."""
        assert self._process.stdout is not None
        until = time.monotonic() + within
        while b"\n" not in self._received:
            if not select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                raise BenchFailed(f"a process said nothing for {within:g} s{self._complaint(' but ')}")
            more = os.read(self._process.stdout.fileno(), 1 << 16)
            if not more:
                raise BenchFailed(self._complaint() or f"a process ended with {self._process.wait()}")
            self._received += more
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    def _complaint(self, before: str = "") -> str:
        """The last line of its error output, behind `before`; empty without one."""
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return f"{before}{lines[-1]}" if lines else ""

    def go_on(self) -> None:
        """Tell it to do what it is ready for."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ends(self, within: float = START_S) -> int:
        """Wait for its end, its exit code. Raises BenchFailed where it took too long."""
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired as error:
            raise BenchFailed(f"a process did not end in {within:g} s") from error

    def let_go(self) -> None:
        """End its standard input: it stops serving or holding."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        process.kill()
        process.wait()
        self._complaints.close()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass


class Child(Program):
    """A process that plays a part of `oxid.bench.process`."""

    def __init__(self, part: dict[str, Any]) -> None:
        super().__init__(["-m", "oxid.bench.process", json.dumps(part)])

    def hear(self, within: float = START_S) -> dict[str, Any]:
        """The next thing it says. Raises BenchFailed where it ended instead, or took too long."""
        heard: dict[str, Any] = json.loads(self.line(within))
        return heard


@contextmanager
def server_of(case: Case, *, core: int | None, profile: bool = False) -> Iterator[tuple[Child | None, int]]:
    """The server of a case and its port."""
    if case.server is None:
        yield None, case.options["port"]
        return
    part = {
        "role": "server",
        "kind": case.server,
        "options": case.server_options,
        "core": core,
        "profile": profile,
    }
    with Child(part) as server:
        yield server, server.hear()["port"]


def client_part(case: Case, port: int, seconds: float, core: int | None, **more: Any) -> dict[str, Any]:
    options = {name: value for name, value in case.options.items() if name != "port"}
    return {
        "role": "client",
        "kind": case.client,
        "port": port,
        "seconds": seconds,
        "core": core,
        "options": {**options, **more},
    }


def cores_of(case: Case) -> tuple[int | None, int | None]:
    """Where server and client run."""
    cores = sorted(os.sched_getaffinity(0))
    match case.cores:
        case "one":
            return cores[-1], cores[-1]
        case "two":
            return cores[-1], cores[0]
    return None, None


def run_case(case: Case, seconds: float, connections: int, say: Say) -> dict[str, Any]:
    """One case of one round."""
    match case.how:
        case "hold":
            return hold_connections(case, connections, say)
        case "alone":
            return hear_out(case, say)
        case "fleet":
            from oxid.bench.fleet import run_fleet

            return run_fleet(say=say, **case.options)
        case "tunnels":
            from oxid.bench.http_hold import hold_tunnels

            return hold_tunnels(say=say, **case.options)
    return make_load(case, seconds)


def make_load(case: Case, seconds: float) -> dict[str, Any]:
    """A server, and the client that calls it."""
    there, here = cores_of(case)
    with server_of(case, core=there) as (server, port):
        before, weight = processor_seconds(server), resident_bytes(server)
        with Child(client_part(case, port, seconds, here)) as client:
            report = client.hear(START_S + seconds)
            if "prepared" in report:  # what that took does not count
                before, weight = processor_seconds(server), resident_bytes(server)
                report = client.hear(START_S + seconds)
        if server is not None:
            report["server_cpu_us"] = (processor_seconds(server) - before) / report["calls"] * 1e6
            report["served"] = 1e6 / max(report["server_cpu_us"], 1e-3)
            report["grown_mib"] = (resident_bytes(server) - weight) / (1 << 20)
    if case.adds:
        report["adds"] = report["rate"] * case.adds
        report["adds_per_cpu_s"] = 1e6 * case.adds / report["server_cpu_us"]
    return report


def hear_out(case: Case, say: Say, *, profile: bool = False) -> dict[str, Any]:
    """One process that measures itself."""
    with Child({"role": "alone", "kind": case.client, "options": case.options, "profile": profile}) as child:
        while "progress" in (heard := child.hear(ALONE_S)):
            say(f"{case.name}: {heard['progress']}")
        return heard


def processor_seconds(child: Program | None) -> float:
    """Processor time of a process so far."""
    if child is None:
        return 0.0
    process = Path(f"/proc/{child.pid}")
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    ticks = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    running = sum(int(task.read_text().split()[0]) for task in process.glob("task/*/schedstat")) / 1e9
    return max(ticks, running)  # the finer figure forgets threads that ended


def hold_connections(case: Case, connections: int, say: Say) -> dict[str, Any]:
    """Memory of a server with many idle connections, less without them, for each."""
    most = raise_descriptor_limit() - SPARE_DESCRIPTORS
    connections = min(connections, most)
    if connections < 1:
        raise BenchFailed("too few descriptors: raise the limit with ulimit -n")
    with ExitStack() as stack:
        server, port = stack.enter_context(server_of(case, core=None))
        assert server is not None
        with Child(client_part(case, port, 0, None, connections=min(50, connections))) as first:
            first.hear()  # modules are imported, tables made
        before = resident_bytes(server)
        bound = 0
        began = time.monotonic()
        while bound < connections:
            part = client_part(case, port, 0, None, connections=min(HOLDER_CONNECTIONS, connections - bound))
            holder = stack.enter_context(Child(part))
            bound += holder.hear(HOLD_S)["bound"]
            say(f"{case.name}: {bound} of {connections} connections")
        elapsed = time.monotonic() - began
        grown = resident_bytes(server) - before
    return {"bytes": grown / connections, "connections": connections, "rate": connections / elapsed}


def resident_bytes(child: Program | None) -> int:
    """Resident memory of a process."""
    if child is None:
        return 0
    for line in Path(f"/proc/{child.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise BenchFailed("the kernel does not tell a process's memory")


def raise_descriptor_limit() -> int:
    """Allow this process and its children as many descriptors as they may have; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


def run_rounds(cases: list[Case], *, rounds: int, seconds: float, connections: int, say: Say) -> Results:
    """Run every case in every round; a case that fails is noted and the others go on."""
    results = Results(cases, rounds, seconds, {case.name: [] for case in cases})
    for number in range(rounds):
        order = cases if number % 2 == 0 else list(reversed(cases))
        for at, case in enumerate(order, 1):
            if case.once and number:
                continue
            say(f"round {number + 1} of {rounds}: {case.name} ({at} of {len(order)})")
            report: dict[str, Any] | None = None
            try:
                report = run_case(case, seconds, connections, say)
            except (BenchFailed, OSError, ValueError, KeyError) as error:
                results.errors[case.name] = str(error) or type(error).__name__
            results.reports[case.name].append(report)
    return results


def profile_case(case: Case, seconds: float, say: Say) -> dict[str, str]:
    """The processes of a case under cProfile: {"client": text, "server": text}."""
    if case.how == "alone":
        return {"process": hear_out(case, say, profile=True)["profile"]}
    if case.how == "fleet":
        from oxid.bench.fleet import run_fleet

        return {"agent": run_fleet(say=say, profile=True, **case.options)["profile"]}
    there, here = cores_of(case)
    texts: dict[str, str] = {}
    with server_of(case, core=there, profile=True) as (server, port):
        with Child({**client_part(case, port, seconds, here), "profile": True}) as client:
            while "profile" not in (heard := client.hear(START_S + seconds)):
                pass
            texts["client"] = heard["profile"]
        if server is not None:
            server.let_go()
            texts["server"] = server.hear()["profile"]
    return texts
