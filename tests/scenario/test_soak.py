"""`oxid soak rpcss` in short: everything of it happens, holds, and leaves nothing."""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SOAK = [sys.executable, "-m", "oxid", "soak", "rpcss", "--json"]


def directories():
    return set(Path(tempfile.gettempdir()).glob("oxid-soak-*"))


@pytest.mark.req("A1", "A5", "I1", "I3")
def test_a_soak_of_seconds_holds_and_leaves_neither_process_nor_file():
    before = directories()
    done = subprocess.run(
        [*SOAK, "--minutes", "0.1", "--clients", "8", "--seed", "3", "--ping-period", "0.5"],
        capture_output=True,
        text=True,
        check=False,
    )
    data = json.loads(done.stdout)
    broken = {name: rule["places"] for name, rule in data["rules"].items() if rule["broken"]}
    assert not broken
    assert data["sound"]
    assert done.returncode == 0, done.stderr
    assert data["cycles"]["made"] > 0
    assert data["clients"]["done"]["calls"] > 0
    for rule in ("activate", "port", "exit", "live", "gone", "counts", "system", "rows", "log", "end"):
        assert data["rules"][rule]["held"], rule
    assert directories() <= before


def test_a_soak_that_is_interrupted_comes_to_rest_and_is_judged_all_the_same():
    soak = subprocess.Popen(
        [*SOAK, "--minutes", "60", "--clients", "4", "--seed", "4", "--ping-period", "0.5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in soak.stderr:
            if "to go" in line:
                break
        soak.send_signal(signal.SIGINT)
        said, _ = soak.communicate()
    finally:
        soak.kill()
        soak.wait()
    data = json.loads(said)
    assert data["early"]
    assert data["sound"], data["rules"]
    assert soak.returncode == 0
