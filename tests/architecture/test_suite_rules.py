"""The suite's own rules, seen at work on a planted test file: missing peers, leftovers, tests that hang."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PLANTED = """
import socket, time
import pytest

@pytest.mark.peer("sh")
def test_with_a_peer_that_is_there(): pass

@pytest.mark.peer("no-such-program", "sh")
def test_with_a_peer_that_is_missing(): pass

def test_that_leaves_a_socket():
    test_that_leaves_a_socket.kept = socket.socket()

@pytest.mark.limit(0.2)
def test_that_hangs():
    while True: time.sleep(0.01)

def test_afterwards(long_form): assert not long_form
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "peers.txt").write_text("some-package: no-such-program\n")
    (tmp_path / "tests" / "test_planted.py").write_text(PLANTED)
    return tmp_path


def run(suite: Path, **environment: str) -> tuple[int, str]:
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore",
            "--rootdir",
            str(suite),
            "tests",
        ],
        cwd=suite,
        env={**{k: v for k, v in os.environ.items() if k != "CI"}, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout


def test_leftovers_and_hangs_fail_and_missing_peers_are_named(suite: Path) -> None:
    code, said = run(suite)
    assert code == 1
    assert "left behind: descriptor:" in said
    assert "took more than 0.2 s" in said
    assert "peers missing, their tests did not run: some-package" in said
    assert "1 failed, 3 passed, 1 skipped, 1 error" in said


def test_in_ci_a_missing_peer_is_a_failure(suite: Path) -> None:
    _, said = run(suite, CI="true")
    assert "peer missing: no-such-program" in said
    assert "skipped" not in said
