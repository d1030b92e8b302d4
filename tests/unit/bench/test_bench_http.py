"""The bench of RPC over HTTP and the web server: every case once, for a moment."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from click.testing import CliRunner

from oxid.bench.cases import Bar
from oxid.bench.cli import bench
from oxid.bench.http_cases import USUAL, http_cases
from oxid.bench.http_clients import Asker
from oxid.bench.http_hold import judge
from oxid.bench.meter import Meter
from oxid.bench.rounds import BenchFailed

BARS = {
    "tunnel-null": ">= 0.45",
    "tunnel-null-x64": ">= 0.5",
    "tunnel-echo-1m": ">= 0.5",
    "set-up": ">= 300 in a second of the server's core",
    "idle": "<= 40 KiB",
    "idle-several": "<= 40 KiB",
    "non-blocking": ">= 1 x uvicorn",
    "threaded": ">= 0.5 x uvicorn",
    "static": ">= 1.2 x uvicorn",
    "non-blocking-x64": ">= 1 x uvicorn-x64",
    "threaded-x64": ">= 0.5 x uvicorn-x64",
    "static-x64": ">= 1.2 x uvicorn-x64",
    "file": ">= 0.9, <= 2 MiB of growth",
}


def run(*words: str) -> str:
    ended = CliRunner().invoke(bench, ["http", *words])
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    assert ended.exit_code == 0
    return ended.stdout


def measured(*names: str) -> dict[str, dict[str, Any]]:
    patterns = [word for name in names for word in ("--case", name)]
    few = ("--tunnels", "8", "--file-mib", "2", "--period", "1.2")
    said = run("--rounds", "1", "--seconds", "0.05", *few, *patterns, "--json")
    rows = {row["case"]: row for row in json.loads(said)["cases"]}
    for row in rows.values():
        assert "error" not in row, row
    return rows


def test_every_bar_is_listed() -> None:
    listed = {line.split()[0]: line for line in run("--list").splitlines()}
    for name, bar in BARS.items():
        assert bar in listed[name]


def test_bars_are_of_what_was_measured_in_the_same_round() -> None:
    cases = {case.name: case for case in http_cases(USUAL)}
    assert cases["tunnel-null"].base == "tcp-null"
    assert cases["file"].base == "bare-file"
    assert cases["static-x64"].bars == (Bar(1.2, "times", "uvicorn-x64"),)
    assert all(case.base is None or case.base in cases for case in cases.values())


def test_a_short_round_of_tunnels() -> None:
    rows = measured("tunnel-null", "tunnel-apart", "tunnel-echo-1m", "set-up")
    assert rows["tunnel-null"]["ratio"]["median"] > 0
    assert rows["tunnel-apart"]["base"] == "tcp-null"
    assert rows["tunnel-echo-1m"]["calls"] > 0
    assert rows["set-up"]["served"] > 0


def test_a_short_round_with_many_connections() -> None:
    rows = measured("tunnel-null-x64", "begin-x64")
    assert set(rows) == {"raw-x64", "tcp-null-x64", "tunnel-null-x64", "begin-x64"}
    assert rows["tunnel-null-x64"]["calls"] >= 64


def test_a_short_round_of_gets() -> None:
    rows = measured("non-blocking", "threaded", "begin", "asgi", "static", "file")
    assert rows["static"]["base"] == "raw"
    assert rows["file"]["base"] == "bare-file"
    assert rows["file"]["mib_s"] > 0
    assert "grown_mib" in rows["file"]


def test_a_few_idle_tunnels() -> None:
    row = measured("idle")["idle"]
    assert row["connections"] == 8
    assert row["pings"] >= 8
    assert row["timers"] <= 8


def counts(held: int, **changed: int) -> list[dict[str, int]]:
    found = {"virtual_connections": 3 * held, "tunnel_channels": 4 * held, "timers": 3, "tasks": 1, "sent": 0}
    return [found | changed]


def test_idle_tunnels_with_tasks_or_without_pings_are_no_result() -> None:
    assert judge(counts(10), counts(10, sent=400), 10, 10 * 2048)["kib"] == 2
    with pytest.raises(BenchFailed, match="20 tasks and 3 timers in one process"):
        judge(counts(10), counts(10, sent=400, tasks=20), 10, 0)
    with pytest.raises(BenchFailed, match="5 pings for 10 idle tunnels"):
        judge(counts(10), counts(10, sent=100), 10, 0)
    with pytest.raises(BenchFailed, match="29 of 30 halves"):
        judge(counts(10), counts(10, sent=400, virtual_connections=29), 10, 0)


def test_the_load_takes_no_other_answer_than_the_first() -> None:
    async def story() -> None:
        asker = Asker("/")
        asker._write = lambda data: None
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
        asker.data_received(head)
        asker.data_received(b"xxxx")
        await asker.first
        asker.go(Meter(0))
        asker.data_received(b"HTTP/1.1 500 Error\r\nContent-Length: 3\r\n\r\nxx")
        with pytest.raises(RuntimeError, match="not like the first"):
            await asker.over

        refused = Asker("/")
        refused.data_received(b"HTTP/1.1 404 Not Found\r\n\r\n")
        with pytest.raises(RuntimeError, match=r"answered HTTP/1\.1 404 Not Found"):
            await refused.first

    asyncio.run(story())
