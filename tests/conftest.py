"""What every test has: nothing left behind, a time limit, and a clear word about peers that are missing."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

import hypothesis
import pytest

from oxid.testing.leaks import watch_for_leaks

ROOT = Path(__file__).parents[1]
PEERS_FILE = ROOT / "peers.txt"
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
LIMIT_S = 120
SBIN = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

missing_peers: set[str] = set()

os.environ["PATH"] = SBIN  # Debian keeps krb5kdc, smbd and ip where a plain user's PATH does not look
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("long", max_examples=2000, deadline=None, print_blob=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long forms of fuzz, soak and peer tests")
    parser.addoption("--fuzz-cases", type=int, help="cases of the fuzz tests; usually 200,000")


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("long" if config.getoption("--long") else "suite")


@pytest.fixture
def long_form(request: pytest.FixtureRequest) -> bool:
    """Whether the long form of a test was asked for."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail the test that leaves a count, task, thread, descriptor or child process."""
    with watch_for_leaks() as watch:
        yield
    left = watch.leaks()
    assert not left, "left behind: " + "; ".join(left)


@pytest.fixture(autouse=True)
def no_agent_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes ping for themselves: tests of the machine's agent have one of their own."""
    monkeypatch.setenv("OXID_AGENT", "own")


@pytest.fixture(autouse=True)
def time_limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """End a test that hangs, with the place where it hangs."""
    marker = request.node.get_closest_marker("limit")
    seconds = marker.args[0] if marker else LIMIT_S * (10 if request.config.getoption("--long") else 1)

    def too_long(_signal: int, _frame: FrameType | None) -> None:
        pytest.fail(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# -- peers: programs of other people --------------------------------------------------------------------


def packages() -> dict[str, list[str]]:
    """Debian package -> its commands that the tests use, from peers.txt."""
    lines = (line.split("#")[0].strip() for line in PEERS_FILE.read_text(encoding="utf-8").splitlines())
    split = (line.partition(":") for line in lines if line)
    return {package.strip(): commands.split() for package, _, commands in split}


def is_missing(peer: str) -> bool:
    """A peer is a package of peers.txt, one command, or a Python module."""
    if commands := packages().get(peer):
        return not all(shutil.which(command) for command in commands)
    return shutil.which(peer) is None and find_spec(peer) is None


def pytest_runtest_setup(item: pytest.Item) -> None:
    wanted = [name for marker in item.iter_markers("peer") for name in marker.args]
    missing = [name for name in wanted if is_missing(name)]
    if missing:
        missing_peers.update(missing)
        text = f"peer missing: {', '.join(missing)}"
        if IN_CI:
            pytest.fail(text, pytrace=False)
        pytest.skip(text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if missing_peers:
        of = {command: package for package, commands in packages().items() for command in commands}
        names = sorted({of.get(peer, peer) for peer in missing_peers})
        terminalreporter.write_line(
            f"peers missing, their tests did not run: {' '.join(names)} (as root: ./oxid test installs them)"
        )
