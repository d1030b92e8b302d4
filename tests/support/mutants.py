"""Mistakes that are put back on purpose, one named method of the product each, to see a scenario fail.

    python -m pytest -p tests.support.mutants --mutant NAME --mutant-report FILE NODE

plants one in pytest's own process and in every Python process that a scenario starts, and writes a Report as JSON:
where the method was entered, and how the test failed. `tests/scenario/test_mutants.py` reads it.

A mistake is `wrong(right, *args, **named)`, with the method as it is for `right`. This module is loaded before the
product, whose modules are imported when a mistake is planted.
"""

from __future__ import annotations

import importlib
import json
import linecache
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]
ORDER: Final = "PLANTED_MUTANT"
"""In the environment: which mistake, and the file of its entries. No OXID_* name: processes do not inherit those."""


@dataclass(frozen=True)
class Mutant:
    """One mistake, and the method `module:Class.method` that makes it."""

    method: str
    wrong: Callable[..., Any]


@dataclass
class Report:
    """What became of one test under one mutant."""

    entered: dict[str, int] = field(default_factory=dict)
    """Process id -> how often the method was entered there."""
    tester: str = ""
    """The process id of pytest's own process."""
    outcomes: dict[str, str] = field(default_factory=dict)
    """Phase of the test -> passed, failed or skipped."""
    error: str = ""
    """The type of what the test's call raised."""
    message: str = ""
    file: str = ""
    line: str = ""
    """The line of the test, or of its helper, at which it failed."""
    story: list[str] = field(default_factory=list)
    """The lines of the scenario's own file that led there."""


# -- the mistakes ------------------------------------------------------------------------------------------------


def compares_as_plain_numbers(right: Any, sequence: int, last: int) -> bool:
    return sequence < last


def owes_removals_until_they_are_heard(right: Any, pings: Any, ping: Any) -> None:
    """Let go is only what the other side has said is let go."""
    right(pings, ping)
    for oid in ping.remove:
        if oid not in pings.oids:
            pings.hold(oid)


def gives_every_process_its_own_set(right: Any, session: Any, number: int, **raw: Any) -> None:
    """Two targets are one where they are equal: let no two processes have equal ones."""
    right(session, number, **raw)
    target = session._targets[number]
    session._targets[number] = replace(target, period=target.period + 1e-9 * (id(session) % 100_000))


def pings_as_the_agent_itself(right: Any, group: Any) -> Any:
    """An agent is no user's process: it has no credentials of its own."""
    from oxid.com.options import UNAUTHENTICATED

    return UNAUTHENTICATED


def forgets_calls_in_flight(right: Any, table: Any, exported: Any, now: float, grace: float) -> Any:
    from oxid.com.reference_table import Verdict

    kept = exported.pinned or exported.noping or exported.held
    return Verdict.PINNED if kept else Verdict.DEAD


def ends_whatever_the_endpoint_is_by_now(right: Any, session: Any, number: int) -> Any:
    """The number says which registration is meant; without it the process's newest one is."""
    return right(session, max(session._endpoints, default=number))


def collects_static_rows(right: Any, service: Any, question: Any, until: float) -> Any:
    for lease in [o for o in service.mapper._leases.values() if o.registration.static]:
        lease.close()
    return right(service, question, until)


def waits_for_a_first_ping(right: Any, table: Any, slot: int, now: float) -> None:
    """The time of grace begins when a set lets go, and not before."""
    from oxid.rpcss.oid_table import RESTING

    if table._since[slot] == now:
        table._become(slot, RESTING)
    else:
        right(table, slot, now)


def revives_what_is_still_there(right: Any, sets: Any, set_id: int, now: float) -> Any:
    return sets._sets.get(set_id)


def takes_noping_the_wrong_way_round(right: Any, lifelines: Any, remote: Any) -> None:
    noping, remote.noping = remote.noping, not remote.noping
    try:
        right(lifelines, remote)
    finally:
        remote.noping = noping


def pings_the_exporter_s_number(right: Any, lifelines: Any, remote: Any) -> None:
    oid, remote.oid = remote.oid, remote.exporter.oxid
    try:
        right(lifelines, remote)
    finally:
        remote.oid = oid


def frees_the_static_entry(right: Any, launcher: Any, server: Any, why: str) -> None:
    """Memory of the setting is freed with the server that was started for it."""
    right(launcher, server, why)
    object.__setattr__(server.app, "endpoints", ())


def keeps_the_sets_of_the_dead(right: Any, session: Any) -> None:
    session._held.clear()
    right(session)


def forgets_who_activated(right: Any, lifelines: Any, remote: Any) -> Any:
    activated_as, remote.activated_as = remote.activated_as, None
    try:
        return right(lifelines, remote)
    finally:
        remote.activated_as = activated_as


def never_says_that_it_is_done(right: Any, channel: Any) -> None:
    """The channel is over, and nobody tells the web server (Q241104)."""
    channel._ecb = None


def counts_the_connection_of_success_for_ever(right: Any, connection: Any, keep: bool, abort: bool) -> None:
    """The reference of a request that ends with SUCCESS is not dropped (Q142658)."""
    if not keep:
        connection.references += 1
    right(connection, keep, abort)


MUTANTS: Final = {
    # scenarios-dcom.md §C.6
    "naive sequence numbers": Mutant("oxid.rpcss.ping_sets:PingSets.is_stale", compares_as_plain_numbers),
    "delete only on remote success": Mutant(
        "oxid.com.ping_client:ClientPingSet.lost", owes_removals_until_they_are_heard
    ),
    "set keyed by process": Mutant("oxid.rpcss.session:Session._target", gives_every_process_its_own_set),
    "ping identity is the daemon's": Mutant(
        "oxid.com.ping_agent:PingAgent.identity_of", pings_as_the_agent_itself
    ),
    "reclaim ignores calls in flight": Mutant(
        "oxid.com.reference_table:ReferenceTable.verdict_on", forgets_calls_in_flight
    ),
    "lease closed without generation": Mutant(
        "oxid.rpcss.session:Session._close_endpoint", ends_whatever_the_endpoint_is_by_now
    ),
    "static row freed by the collector": Mutant(
        "oxid.rpcss.machine_service:MachineService._ask", collects_static_rows
    ),
    "never pinged is never reclaimed": Mutant("oxid.rpcss.oid_table:OidTable._rest", waits_for_a_first_ping),
    "a late ping revives its set": Mutant(
        "oxid.rpcss.ping_sets:PingSets._alive", revives_what_is_still_there
    ),
    "NOPING the wrong way round": Mutant(
        "oxid.com.lifelines:Lifelines.hold", takes_noping_the_wrong_way_round
    ),
    "OXID used as OID": Mutant("oxid.com.lifelines:Lifelines.hold", pings_the_exporter_s_number),
    # the articles
    "static entry freed with the instance": Mutant(
        "oxid.rpcss.launcher:Launcher._over", frees_the_static_entry
    ),
    "the machine's agent pings as itself": Mutant(
        "oxid.com.ping_agent:PingAgent.identity_of", pings_as_the_agent_itself
    ),
    "set kept after the client's death": Mutant(
        "oxid.rpcss.session:Session.run_down", keeps_the_sets_of_the_dead
    ),
    "the activator's identity is dropped": Mutant(
        "oxid.com.lifelines:Lifelines.target_of", forgets_who_activated
    ),
    "a proxy that skips DONE": Mutant(
        "oxid.iis.rpc_proxy.channels:ProxyChannel.let_go", never_says_that_it_is_done
    ),
    "a proxy of version 1 that skips DONE": Mutant(
        "oxid.iis.rpc_proxy.mixed:MixedChannel.let_go", never_says_that_it_is_done
    ),
    "a connection that is not given back on SUCCESS": Mutant(
        "oxid.iis.connection:HttpConnection.exchange_finished", counts_the_connection_of_success_for_ever
    ),
}


# -- in any process ----------------------------------------------------------------------------------------------


def plant() -> None:
    """Make the mistake that the environment orders; nothing where it orders none."""
    if not (order := os.environ.get(ORDER)):
        return
    name, _, entries = order.partition("\n")
    mutant = MUTANTS[name]
    module, _, path = mutant.method.partition(":")
    owner_name, _, method_name = path.partition(".")
    owner = getattr(importlib.import_module(module), owner_name)
    right = getattr(owner, method_name)
    log = os.open(entries, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)

    @wraps(right)
    def method(*args: Any, **named: Any) -> Any:
        os.write(log, b"%d\n" % os.getpid())  # at once: the process may be killed
        return mutant.wrong(right, *args, **named)

    static = isinstance(owner.__dict__[method_name], staticmethod)
    setattr(owner, method_name, staticmethod(method) if static else method)


# -- in pytest's -------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mutant", choices=MUTANTS, help="make one mistake of tests/support/mutants.py")
    parser.addoption("--mutant-report", type=Path, help="where to say what came of it")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--mutant"):
        config.pluginmanager.register(_Planted(config), "planted mutant")


class _Planted:
    """Plants the mutant here and in children, sees the test, and writes the report."""

    def __init__(self, config: pytest.Config) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="oxid-mutant-")
        place = Path(self._place.name)
        self._entries = place / "entries"
        self._report = Report(tester=str(os.getpid()))
        self._told: Path = config.getoption("--mutant-report")
        os.environ[ORDER] = f"{config.getoption('--mutant')}\n{self._entries}"
        (place / "sitecustomize.py").write_text("from tests.support import mutants\n\nmutants.plant()\n")
        _start_children_with([str(place), str(ROOT)])
        plant()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        seen = yield
        report = self._report
        report.outcomes[seen.when] = seen.outcome
        if seen.when == "call" and call.excinfo is not None:
            report.error = call.excinfo.typename
            crash = seen.longrepr.reprcrash
            report.message, report.file = crash.message, os.path.relpath(crash.path, ROOT)
            report.line = linecache.getline(crash.path, crash.lineno).strip()
            own = [entry for entry in call.excinfo.traceback if Path(entry.path) == item.path]
            report.story = [linecache.getline(str(item.path), e.lineno + 1).strip() for e in own]
        return seen

    def pytest_sessionfinish(self) -> None:
        if self._entries.exists():
            self._report.entered = dict(Counter(self._entries.read_text().split()))
        self._told.write_text(json.dumps(asdict(self._report)))
        self._place.cleanup()


def _start_children_with(places: list[str]) -> None:
    """Python processes look into these first. Scenarios give their processes environments of their own making,
    so it is not enough to change ours."""
    begin = subprocess.Popen.__init__

    @wraps(begin)
    def wrapped(self: Any, *args: Any, **named: Any) -> None:
        environment = dict(os.environ if named.get("env") is None else named["env"])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [*places, environment.get("PYTHONPATH")]))
        environment[ORDER] = os.environ[ORDER]
        begin(self, *args, **{**named, "env": environment})

    subprocess.Popen.__init__ = wrapped  # type: ignore[method-assign]
