"""`oxid soak http` in short: tunnels, pages and abuse leave nothing, also where it is interrupted. SC-12"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SOAK = [sys.executable, "-m", "oxid", "soak", "http", "--json", "--no-plot"]
SOON = ["--clients", "6", "--seed", "3"]


@pytest.fixture
def temporary():
    """A directory of our own for temporary files, with a short name: there are sockets in it."""
    with tempfile.TemporaryDirectory(prefix="sk") as name:
        yield Path(name)


@pytest.mark.req("SC-1", "SC-3", "SC-7", "SC-12", "SC-20", "SC-25")
def test_a_soak_of_the_web_server_that_is_interrupted_is_judged_and_leaves_neither_process_nor_file(
    temporary,
):
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
            soak.wait(3.0)  # of load
        soak.send_signal(signal.SIGINT)
        for line in soak.stderr:
            if "longest timer" in line:
                break
        soak.send_signal(signal.SIGINT)  # and do not wait for that
        said, _ = soak.communicate()
    finally:
        soak.kill()
        soak.wait()
    data = json.loads(said)
    assert not {name: rule["places"] for name, rule in data["rules"].items() if rule["broken"]}
    assert data["early"]
    assert data["sound"]
    assert soak.returncode == 0
    assert data["counts"]["sessions"] > 0
    assert data["rests"]
    for rule in ("acts", "counts", "system", "sockets", "tables", "requests", "servers", "log", "end"):
        assert data["rules"][rule]["held"], rule
    assert not list(temporary.iterdir())
