"""The bench: its options, its arithmetic, and one very short round with real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from oxid.bench.cases import Bar, Case, cases, chosen
from oxid.bench.cli import bench
from oxid.bench.interfaces import MEDIUM, Bench, IBench
from oxid.bench.report import rows, table
from oxid.bench.rounds import BenchFailed, Child, Results
from oxid.ndr.syntax import Syntax
from oxid.rpc.interface import spec_of

BARS = {
    "null": ">= 0.65",
    "echo-100": ">= 0.58",
    "medium": ">= 0.38",
    "add": ">= 0.5",
    "add-async": ">= 0.45",
    "null-x64": ">= 0.55",
    "null-16deep": ">= 1.2",
    "echo-100-ntlm": ">= 0.38",
    "echo-64k": ">= 0.2",
    "echo-64k-large": ">= 0.3",
    "bind-ntlm": "<= 1.5 ms",
    "memory": "<= 2048 bytes",
    "memory-ntlm": "<= 6144 bytes",
}


def run(*words: str) -> tuple[int, str, str]:
    ended = CliRunner().invoke(bench, ["rpc", *words])
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return ended.exit_code, ended.stdout, ended.stderr


def test_every_bar_is_listed() -> None:
    code, said, _ = run("--list")
    assert code == 0
    listed = {line.split()[0]: line for line in said.splitlines()}
    for name, bar in BARS.items():
        assert bar in listed[name]


def test_the_medium_structure_is_544_bytes_of_stub() -> None:
    out = bytearray(24)
    spec_of(IBench).operations[2].codec(Syntax.NDR20_LE).encode_request(out, None, MEDIUM)
    assert len(out) - 24 == 544
    assert Bench().medium(MEDIUM) is MEDIUM


def test_a_case_brings_what_it_is_compared_with() -> None:
    known = cases(peers=True, peer_server=("127.0.0.1", 135))
    assert [case.name for case in chosen(known, {"echo-64k"})] == ["raw-64k", "echo-64k"]
    assert {case.name for case in chosen(known, {"mgmt-x64"})} == {"raw-x64", "mgmt-x64", "mgmt-x64-peer"}


def test_ratios_are_taken_within_a_round() -> None:
    base = Case("base", "", "raw", "raw")
    ours = Case("ours", "", "rpc", "calls", base="base", bars=(Bar(0.5), Bar(2, "times", "peer")))
    peer = Case("peer", "", "raw", "raw")
    results = Results(
        [base, ours, peer],
        rounds=3,
        seconds=1,
        reports={
            "base": [{"rate": 100.0}, {"rate": 10.0}, None],
            "ours": [{"rate": 60.0}, {"rate": 5.0}, {"rate": 50.0}],
            "peer": [{"rate": 20.0}, {"rate": 5.0}, {"rate": 25.0}],
        },
    )
    for report in (r for reports in results.reports.values() for r in reports if r):
        report |= {"client_cpu_us": 5.0, "server_cpu_us": 5.0}
    row = rows(results)[1]
    assert row["ratio"] == {"median": 0.55, "min": 0.5, "max": 0.6}
    assert [bar["met"] for bar in row["bars"]] == [True, True]
    assert any("0.550 (0.50..0.60)" in line for line in table(results))


def test_a_bar_that_is_missed_says_so() -> None:
    assert not Bar(0.65).met(0.6)
    assert not Bar(2048, "bytes").met(2049)
    assert Bar(1.5, "mean_ms").met(0.7)


def test_an_unknown_case_is_refused() -> None:
    with pytest.raises(Exception, match="no case matches nonsense"):
        run("--case", "nonsense")
    with pytest.raises(Exception, match="no case memory to profile"):
        run("--profile", "memory")


def test_a_short_round() -> None:
    code, said, progress = run(
        "--rounds", "1", "--seconds", "0.05", "--case", "null", "--case", "add", "--json"
    )
    assert code == 0
    measured = {row["case"]: row for row in json.loads(said)["cases"]}
    assert list(measured) == ["raw", "null", "add"]
    for row in measured.values():
        assert "error" not in row
        assert row["rate"] > 0
        assert row["p50_us"] <= row["p99_us"]
    assert measured["null"]["ratio"]["median"] > 0
    assert "round 1 of 1: null (2 of 3)" in progress


def test_memory_of_a_few_connections() -> None:
    code, said, _ = run("--case", "memory", "--connections", "60", "--rounds", "1")
    assert code == 0
    assert "bytes" in said


def test_a_profile_shows_both_ends() -> None:
    code, said, _ = run("--profile", "null", "--seconds", "0.05")
    assert code == 0
    assert "--- null, client ---" in said
    assert "--- null, server ---" in said


def test_a_process_ends_with_its_block() -> None:
    with Child({"role": "server", "kind": "raw", "options": {}}) as server:
        assert server.hear()["port"] > 0
        pid = server.pid
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()


def test_a_process_that_fails_says_why() -> None:
    part = {"role": "client", "kind": "calls", "port": 1, "seconds": 0.1, "options": {"operation": "null"}}
    with Child(part) as client, pytest.raises(BenchFailed, match="cannot connect"):
        client.hear()
