"""`oxid soak rpcss` in short: everything of it happens and holds, also where it is interrupted; nothing is left."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SOAK = [sys.executable, "-m", "oxid", "soak", "rpcss", "--json"]
SOON = ["--clients", "6", "--seed", "3", "--ping-period", "0.5"]


@pytest.fixture
def temporary():
    """A directory of our own for temporary files, with a short name: there are sockets in it."""
    with tempfile.TemporaryDirectory(prefix="sk") as name:
        yield Path(name)


@pytest.mark.req("A1", "A5", "I1", "I3")
def test_a_soak_that_is_interrupted_comes_to_rest_is_judged_and_leaves_neither_process_nor_file(temporary):
    soak = subprocess.Popen(
        [*SOAK, "--minutes", "60", *SOON],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    try:
        for line in soak.stderr:
            if "to go" in line:
                break
        with pytest.raises(subprocess.TimeoutExpired):
            soak.wait(4.0)  # of load
        soak.send_signal(signal.SIGINT)
        said, _ = soak.communicate()
    finally:
        soak.kill()
        soak.wait()
    data = json.loads(said)
    assert not {name: rule["places"] for name, rule in data["rules"].items() if rule["broken"]}
    assert data["early"]
    assert data["sound"]
    assert soak.returncode == 0
    assert data["cycles"]["made"] > 0
    assert data["clients"]["done"]["calls"] > 0
    for rule in ("activate", "port", "exit", "live", "gone", "counts", "system", "rows", "log", "end"):
        assert data["rules"][rule]["held"], rule
    assert not list(temporary.iterdir())
