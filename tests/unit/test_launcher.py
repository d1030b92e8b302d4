"""The launcher script: when it works, what it passes on, how it fails. A real set-up is what runs this."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "oxid"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with an environment that is ready and does nothing."""
    (tmp_path / "locks").mkdir()
    for name in ("runtime", "test", "bench", "plot"):
        (tmp_path / "locks" / f"{name}.lock").write_text(f"{name}==1\n")
    (tmp_path / "peers.txt").write_text("# comment\nshell: sh env\nnonsense: no-such-command sh\n")
    (tmp_path / "oxid").write_bytes(SCRIPT.read_bytes())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    return tmp_path


@pytest.fixture
def launcher(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = SourceFileLoader("launcher", str(checkout / "oxid"))
    spec = spec_from_loader("launcher", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def stamp(launcher: ModuleType, *groups: str) -> None:
    os.makedirs(launcher.STAMPS, exist_ok=True)
    for group in groups:
        Path(launcher.STAMPS, group).write_text(launcher.stamp_for(group))


def start(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(checkout / "oxid"), *words], capture_output=True, text=True, check=False
    )


def test_a_second_start_hands_the_words_over_at_once(launcher: ModuleType, checkout: Path) -> None:
    stamp(launcher, "runtime")
    took = []
    for _ in range(5):
        began = time.perf_counter()
        ended = start(checkout, "epm", "list", "a b")
        took.append(time.perf_counter() - began)
        assert ended.stdout == "-P -m oxid epm list a b\n"
        assert ended.stderr == ""
    assert min(took) < 0.15


def test_an_environment_is_stale_when_its_lock_changes(launcher: ModuleType, checkout: Path) -> None:
    assert not launcher.is_installed("runtime")
    stamp(launcher, "runtime")
    assert launcher.is_installed("runtime")
    (checkout / "locks" / "runtime.lock").write_text("runtime==2\n")
    assert not launcher.is_installed("runtime")


def test_an_environment_is_stale_when_the_checkout_moved(launcher: ModuleType) -> None:
    stamp(launcher, "runtime")
    launcher.ROOT += "-elsewhere"
    with pytest.raises(FileNotFoundError):
        launcher.stamp_for("runtime")
    launcher.lock_path = lambda group: os.path.join(os.path.dirname(launcher.VENV), "locks", f"{group}.lock")
    assert not launcher.is_installed("runtime")


def test_an_environment_is_stale_when_its_interpreter_is_gone(launcher: ModuleType) -> None:
    stamp(launcher, "runtime")
    os.unlink(launcher.PYTHON)
    assert not launcher.is_installed("runtime")


@pytest.mark.parametrize(
    ("words", "groups"),
    [
        (["serve"], ["runtime"]),
        (["setup", "bench"], ["runtime", "bench"]),
        (["test", "-k", "x"], ["runtime", "test"]),
        (["bench", "rpc"], ["runtime"]),
        (["bench", "rpc", "--peers=all"], ["runtime", "bench"]),
        (["soak", "http"], ["runtime", "plot"]),
        (["soak", "http", "--minutes", "3", "--no-plot"], ["runtime"]),
        (["soak", "rpcss"], ["runtime"]),
    ],
)
def test_only_what_a_command_needs_is_installed(
    launcher: ModuleType, words: list[str], groups: list[str]
) -> None:
    asked: list[list[str]] = []

    def set_up(wanted: list[str], missing: list[str]) -> None:
        asked.append(wanted)
        assert missing == wanted
        raise launcher.SetUpFailed("enough")

    launcher.set_up = set_up
    assert launcher.main(words) == 1
    assert asked == [groups]


def test_an_unknown_part_is_wrong_usage(checkout: Path) -> None:
    ended = start(checkout, "setup", "tests")
    assert ended.returncode == 2
    assert ended.stderr == "oxid: no part named tests; there are runtime, test, bench, plot\n"


def test_settings_of_pip_are_passed_to_uv(launcher: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("UV_", "SSL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "mine")
    Path(launcher.PYTHON).write_text(
        "#!/bin/sh\n"
        "echo \"global.cert='/etc/ca.pem'\"\n"
        "echo \"global.index-url='theirs'\"\n"
        "echo \"install.find-links='/a /b'\"\n"
        "echo \":env:.cert='/env/ca.pem'\"\n"
        "echo \"freeze.timeout='3'\"\n"
    )
    assert launcher.uv_settings() == {
        "UV_SYSTEM_CERTS": "1",
        "UV_NO_PROGRESS": "1",
        "SSL_CERT_FILE": "/env/ca.pem",
        "UV_FIND_LINKS": "/a,/b",
    }


def test_a_failing_step_says_why_in_one_line(launcher: ModuleType, checkout: Path) -> None:
    noisy = ["sh", "-c", "echo working; echo 'error: no route' >&2; echo 'Caused by: darkness'; exit 3"]
    with open(checkout / "oxid", "rb") as lock, pytest.raises(launcher.SetUpFailed) as caught:
        launcher.step("fetching", noisy, lock)
    assert str(caught.value).startswith(
        "fetching failed (exit 3): error: no route Caused by: darkness; check"
    )
    with (
        open(checkout / "oxid", "rb") as lock,
        pytest.raises(launcher.SetUpFailed, match="cannot run /no/program"),
    ):
        launcher.step("fetching", ["/no/program"], lock)


def test_missing_peers_are_found_by_their_commands(launcher: ModuleType) -> None:
    assert launcher.missing_peers() == ["nonsense"]


def test_who_may_not_install_peers_goes_on_without(launcher: ModuleType, checkout: Path) -> None:
    stamp(launcher, "runtime", "test")
    launcher.can_install_packages = lambda: False
    became: list[list[str]] = []
    launcher.run = became.append
    before = os.getcwd()
    try:
        launcher.main(["test", "-x"])
    finally:
        os.chdir(before)
    assert became[0] == [launcher.PYTHON, "-m", "pytest", "-q", "--durations=15", "-x"]
