"""The bench of the machine's resolver and agent: every case once, with few of everything."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from click.testing import CliRunner

from oxid.bench.alone import Ticker
from oxid.bench.cases import Bar
from oxid.bench.cli import bench
from oxid.bench.fleet import Heard, Moments, judge
from oxid.bench.report import table
from oxid.bench.rounds import BenchFailed, Results
from oxid.bench.rpcss_cases import Sizes, rpcss_cases

BARS = {
    "simple-ping": ">= 0.5",
    "simple-ping-100k": ">= 0.9 x simple-ping",
    "complex-ping-8deep": ">= 150000 adds/s",
    "activate": ">= 0.08",
    "memory": "<= 400 bytes",
    "expiry": "<= 20 ms at a stretch",
    "expiry-exporters": "<= 20 ms at a stretch",
    "machine": "<= 1.02 pings of a set a period, <= 0.5 periods for a tick",
}
FEW = ("--objects", "2000", "--processes", "4", "--resolvers", "2", "--proxies", "10", "--period", "0.8")


def run(*words: str) -> str:
    ended = CliRunner().invoke(bench, ["rpcss", *words])
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    assert ended.exit_code == 0
    return ended.stdout


def measured(*names: str) -> dict[str, dict[str, Any]]:
    patterns = [word for name in names for word in ("--case", name)]
    said = run("--rounds", "1", "--seconds", "0.05", *FEW, *patterns, "--json")
    rows = {row["case"]: row for row in json.loads(said)["cases"]}
    for row in rows.values():
        assert "error" not in row
    return rows


def test_every_bar_is_listed() -> None:
    listed = {line.split()[0]: line for line in run("--list").splitlines()}
    for name, bar in BARS.items():
        assert bar in listed[name]


def test_a_short_round_of_calls() -> None:
    rows = measured("simple-ping", "complex-ping", "activate")
    assert list(rows) == ["raw", "null", "simple-ping", "complex-ping", "activate"]
    assert rows["simple-ping"]["ratio"]["median"] > 0
    assert rows["complex-ping"]["adds"] == pytest.approx(100 * rows["complex-ping"]["rate"])
    assert rows["complex-ping"]["adds_per_cpu_s"] > 0
    assert rows["activate"]["base"] == "raw"


def test_a_resolver_with_a_few_objects() -> None:
    rows = measured("memory", "expiry*")
    assert rows["memory"]["bytes"] > 0
    assert rows["memory"]["sets"] == 20
    assert rows["expiry"]["sets"] == rows["expiry-exporters"]["sets"] == 20
    assert rows["expiry"]["longest_ms"] < 1e3 * rows["expiry"]["total_s"] + 1


def test_a_machine_with_a_few_processes() -> None:
    row = measured("machine")["machine"]
    assert row["sets"] == 4  # two resolvers, two identities
    assert row["objects"] == 40
    assert {bar["bar"].split()[-1] for bar in row["bars"]} == {"period", "tick", "all"}


def test_the_part_that_matters_is_profiled() -> None:
    said = run("--profile", "expiry", *FEW)
    assert "--- expiry, process ---" in said
    assert "reclaim" in said


def heard(*times: float, set_id: int = 7, added: int = 0) -> list[Heard]:
    return [Heard(at, 0, "", set_id, added, 0) for at in times]


def test_pings_are_counted_for_each_set_and_period() -> None:
    moments = Moments(began=0, rest=15, rested=45, continued=60)
    pings = [*heard(4, added=5), *heard(14, 24, 34, 44, 61, 66)]
    figures = judge(pings, moments, period=10, objects=5)
    assert figures["pings"] == figures["pings_least"] == 1
    assert figures["first"] == 0.4
    assert figures["tick"] == 0.1


def test_what_was_not_told_is_no_result() -> None:
    moments = Moments(began=0, rest=15, rested=45, continued=60)
    with pytest.raises(BenchFailed, match="3 of 5 objects were told"):
        judge(heard(4, added=3), moments, period=10, objects=5)
    with pytest.raises(BenchFailed, match="2 sets were pinged at rest, 1 were wanted"):
        judge([*heard(4, 24, 34, added=5)[:1], *heard(24, 34), *heard(25, 35, set_id=8)], moments, 10, 5)


def test_the_ticker_sees_how_long_the_loop_is_away() -> None:
    async def story() -> dict[str, Any]:
        ticker = Ticker()
        ticker.start()
        await asyncio.sleep(0.01)
        time.sleep(0.03)  # noqa: ASYNC251 - that is the point
        await asyncio.sleep(0.01)
        ticker.stop()
        await asyncio.sleep(0)
        return ticker.report()

    assert 29 < asyncio.run(story())["longest_ms"] < 300


def test_a_line_below_the_table_tells_more() -> None:
    case = next(case for case in rpcss_cases(Sizes()) if case.name == "memory")
    report = {"bytes": 380.4, "mib": 363.0, "objects": 1e6, "sets": 1e4, "fill_us": 9.0}
    lines = table(Results([case], 1, 1.0, {"memory": [report]}))
    assert "380 bytes" in lines[1]
    assert "met 380.4" in lines[1]
    assert lines[2].startswith("memory: 363 MiB for 1,000,000 objects in 10,000 ping sets")


def test_bars_say_what_they_are_of() -> None:
    assert str(Bar(150_000, "adds")) == ">= 150000 adds/s"
    assert str(Bar(20, "longest_ms")) == "<= 20 ms at a stretch"
    assert not Bar(20, "longest_ms").met(20.1)
    assert Bar(150_000, "adds").met(150_001)
