"""How many cases are run, and the summary that says what became of them."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from tests.fuzz.arena import Arena, report

CASES = 200_000
_reports: list[str] = []
_tables: list[tuple[str, list[str]]] = []
_tally: Counter[tuple[str, str, str]] = Counter()


@pytest.fixture(scope="session")
def cases(request: pytest.FixtureRequest) -> int:
    """How many cases the whole run has: `--fuzz-cases`, else 200,000, ten times as many with `--long`."""
    asked: int | None = request.config.getoption("--fuzz-cases")
    return asked or CASES * (10 if request.config.getoption("--long") else 1)


class Account:
    """What one test says to the summary."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = time.perf_counter()

    def close(self, arena: Arena) -> None:
        spent = time.perf_counter() - self._begun
        _reports.append(
            f"{self._name}: {arena.cases:,} cases in {spent:.1f} s, the slowest took {arena.slowest * 1000:.0f} ms"
        )
        _tally.update(arena.tally)


@pytest.fixture
def account(request: pytest.FixtureRequest) -> Account:
    """What a test tells the summary with."""
    return Account(request.node.name)


class Tables:
    """What tests of tunnels say to the summary: lines under a title."""

    def add(self, title: str, lines: list[str]) -> None:
        _tables.append((title, lines))


@pytest.fixture
def tables() -> Tables:
    return Tables()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for title, lines in _tables:
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
    if _reports:
        terminalreporter.section("fuzz: cases per PDU type and outcome")
        for line in (*_reports, *report(_tally)):
            terminalreporter.write_line(line)
