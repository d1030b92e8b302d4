"""What `oxid bench rpcss` measures: the machine's resolver and agent under many objects, and how good they have to be.

Pings are compared with the null call of the same round, an activation with the raw echo; what a resolver weighs,
how long it keeps its loop, and what a whole machine sends has bars of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from oxid.bench.cases import OURS, Bar, Case

POOL: Final = 500_000
"""Objects that pings add, once each, in one round: more than any round of a second gets through."""
DEPTH: Final = 8
MANY: Final = 100_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many of everything."""

    objects: int = 1_000_000
    """Of a full resolver, a hundred in each ping set."""
    processes: int = 200
    """Of a machine."""
    resolvers: int = 50
    """That its agent pings."""
    held: int = 500
    """Proxies of each process."""
    period: float = 6.0
    """Between two pings of the agent, in seconds."""


USUAL: Final = Sizes()


def rpcss_cases(sizes: Sizes) -> list[Case]:
    """Everything, in the order of the table."""
    return [*_yardsticks(), *_calls(), *_resolvers(sizes), _machine(sizes)]


def _yardsticks() -> list[Case]:
    """What the others are compared with; their own bars are those of `bench rpc`."""
    by_name = {case.name: case for case in OURS}
    return [replace(by_name[name], bars=()) for name in ("raw", "null")]


def _calls() -> list[Case]:
    return [
        _simple("simple-ping", "SimplePing, a set of 1 object", 1, Bar(0.5)),
        _simple(
            f"simple-ping-{MANY // 1000}k",
            f"SimplePing, a set of {MANY:,} objects",
            MANY,
            Bar(0.5),
            Bar(0.9, "times", "simple-ping"),
        ),
        _adding("complex-ping", "ComplexPing, 100 additions, sequential", 1),
        _adding(f"complex-ping-{DEPTH}deep", f"the same, {DEPTH} at once", DEPTH, Bar(150_000, "adds")),
        Case(
            "activate",
            "activation and release, NTLM privacy",
            "objects",
            "activate",
            base="raw",
            bars=(Bar(0.08),),
        ),
    ]


def _simple(name: str, what: str, members: int, *bars: Bar) -> Case:
    return Case(
        name,
        what,
        "resolver",
        "pings.simple",
        {"members": members},
        {"objects": members},
        base="null",
        bars=bars,
    )


def _adding(name: str, what: str, depth: int, *bars: Bar) -> Case:
    return Case(
        name,
        what,
        "resolver",
        "pings.adding",
        {"objects": POOL, "depth": depth},
        {"objects": POOL},
        bars=bars,
        cores="two",
        adds=100,
        figure="{adds:.0f} adds",
        tells="{adds_per_cpu_s:,.0f} additions in a second of the server's processor time",
    )


def _resolvers(sizes: Sizes) -> list[Case]:
    objects = sizes.objects
    return [
        Case(
            "memory",
            f"resolver memory per object, {objects:,}",
            None,
            "alone.memory",
            {"objects": objects, "exporters": 100},
            bars=(Bar(400, "bytes"),),
            how="alone",
            figure="{bytes:.0f} bytes",
            tells="{mib:.0f} MiB for {objects:,.0f} objects in {sets:,.0f} ping sets, {fill_us:.1f} us for each",
        ),
        _expiry("expiry", "all sets expire at once, 1 exporter", objects, 1),
        _expiry("expiry-exporters", "the same, 100 exporters", objects, 100),
    ]


def _expiry(name: str, what: str, objects: int, exporters: int) -> Case:
    return Case(
        name,
        what,
        None,
        "alone.expiry",
        {"objects": objects, "exporters": exporters},
        bars=(Bar(20, "longest_ms"),),
        how="alone",
        figure="{longest_ms:.1f} ms",
        tells="{sets:,.0f} sets with {objects:,.0f} objects in {total_s:.2f} s, {rate:,.0f} sets/s; longest of "
        "{stretches:.0f} stretches by processor time {longest_cpu_ms:.1f} ms; longest collection {collection_ms:.1f} "
        "ms, and {filling_collection_ms:.0f} ms while the objects were made",
    )


def _machine(sizes: Sizes) -> Case:
    return Case(
        "machine",
        f"{sizes.processes} processes with {sizes.held} proxies, {sizes.resolvers} resolvers",
        None,
        "fleet",
        {
            "processes": sizes.processes,
            "held": sizes.held,
            "resolvers": sizes.resolvers,
            "period": sizes.period,
        },
        bars=(Bar(1.02, "pings"), Bar(0.5, "tick"), Bar(1.5, "first")),
        how="fleet",
        figure="{tick_s:.3f} s a tick",
        tells="{sets:.0f} sets with {objects:,.0f} objects, period {period_s:g} s; {pings_least:.3f} to "
        "{pings:.3f} pings of a set a period, {changes:.0f} ComplexPings among them; the agent's processor time: "
        "{first_cpu_s:.2f} s until all is told with {first_pings:.0f} pings, {rest_cpu_ms:.0f} ms a period at rest, "
        "{tick_cpu_ms:.0f} ms for a tick of all sets at once; {agent_mib:.0f} MiB",
    )
