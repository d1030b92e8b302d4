"""Results as rows, a table and JSON: rates, ratios to the base of the same round, latencies, bars."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from oxid.bench.cases import Bar, Case
from oxid.bench.rounds import Results


def rows(results: Results) -> list[dict[str, Any]]:
    """One dict per case: medians over the rounds, ratios, and for each bar what was reached."""
    return [_row(case, results) for case in results.cases]


def _row(case: Case, results: Results) -> dict[str, Any]:
    reports = [report for report in results.reports[case.name] if report]
    row: dict[str, Any] = {"case": case.name, "what": case.what, "rounds": len(reports)}
    if case.name in results.errors:
        row["error"] = results.errors[case.name]
    for measure in dict.fromkeys(name for report in reports for name in report):
        row[measure] = statistics.median(report[measure] for report in reports if measure in report)
    if case.base is not None and (ratios := per_round(case.name, case.base, results)):
        row["base"] = case.base
        row["ratio"] = spread(ratios)
        if cpu_ratios := per_round(case.name, case.base, results, _per_processor_second):
            row["cpu_ratio"] = spread(cpu_ratios)
    bars = [_bar(case, bar, row, results) for bar in case.bars if applies(bar, results)]
    if bars and reports:
        row["bars"] = bars
    return row


def per_round(
    name: str, base: str, results: Results, of: Callable[[dict[str, Any]], float] = lambda r: r["rate"]
) -> list[float]:
    """Rates of one case over those of another, where both ran in the same round."""
    pairs = zip(results.reports[name], results.reports.get(base, ()), strict=False)
    return [of(one) / of(other) for one, other in pairs if one and other]


def _per_processor_second(report: dict[str, Any]) -> float:
    """Calls per second of processor time of both ends: what the rate were if nobody else used the machine."""
    used: float = report["client_cpu_us"] + report.get("server_cpu_us", 0.0)
    return 1e6 / used


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def applies(bar: Bar, results: Results) -> bool:
    """A bar against a peer needs the peer."""
    return bar.against is None or any(results.reports.get(bar.against, ()))


def _bar(case: Case, bar: Bar, row: dict[str, Any], results: Results) -> dict[str, Any]:
    measured: float | None
    if bar.of == "ratio":
        measured = row["ratio"]["median"] if "ratio" in row else None
    elif bar.of == "times":
        assert bar.against is not None
        ratios = per_round(case.name, bar.against, results)
        measured = statistics.median(ratios) if ratios else None
    else:
        measured = row.get(bar.of)
    return {
        "bar": str(bar),
        "measured": measured,
        "met": measured is not None and bar.met(measured),
    }


def data_of(results: Results) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "machine": machine(),
        "rounds": results.rounds,
        "seconds": results.seconds,
        "cases": rows(results),
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    try:
        loop = f"uvloop {version('uvloop')}"
    except PackageNotFoundError:
        loop = "asyncio"
    return {
        "python": platform.python_version(),
        "loop": loop,
        "platform": platform.platform(),
        "processors": len(os.sched_getaffinity(0)),
        "busy": [round(load, 2) for load in os.getloadavg()],
        "executable": sys.executable,
    }


HEADINGS = ("case", "per second", "ratio (min..max)", "by cpu", "p50 us", "p99 us", "cpu us c+s", "bar", "")


def table(results: Results) -> list[str]:
    """The same as lines of text, with what some cases tell besides below."""
    lines: list[tuple[str, ...]] = [HEADINGS]
    below: list[str] = []
    for case, row in zip(results.cases, rows(results), strict=True):
        lines += _cells(case, row)
        if case.tells and row["rounds"]:
            below.append(f"{case.name}: {case.tells.format_map(row)}")
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    left = {0, 7, 8}
    aligned = [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return [*aligned, *below]


def _cells(case: Case, row: dict[str, Any]) -> list[tuple[str, ...]]:
    """A line for the case with its first bar, further ones below it."""
    bars = [_verdict(bar) for bar in row.get("bars", ())] or [("", "")]
    if "error" in row and not row["rounds"]:
        return [(row["case"], "failed", "", "", "", "", "", row["error"][:60], "")]
    figure = case.figure.format_map(row) if row["rounds"] else ""
    ratio = ""
    if found := row.get("ratio"):
        ratio = f"{found['median']:.3f} ({found['min']:.2f}..{found['max']:.2f})"
    by_cpu = f"{row['cpu_ratio']['median']:.3f}" if "cpu_ratio" in row else ""
    cpu = ""
    if "client_cpu_us" in row:
        cpu = f"{row['client_cpu_us']:.1f}+{row.get('server_cpu_us', 0):.1f}"
    latencies = _number(row, "p50_us"), _number(row, "p99_us")
    first = (row["case"], figure, ratio, by_cpu, *latencies, cpu, *bars[0])
    return [first, *(("", "", "", "", "", "", "", *bar) for bar in bars[1:])]


def _number(row: dict[str, Any], measure: str) -> str:
    return f"{row[measure]:.0f}" if measure in row else ""


def _verdict(bar: dict[str, Any]) -> tuple[str, str]:
    if bar["measured"] is None:
        return bar["bar"], "not measured"
    return bar["bar"], f"{'met' if bar['met'] else 'MISSED'} {bar['measured']:.4g}"
