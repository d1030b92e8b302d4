"""Words to commands, failures to one line and an exit code."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import oxid._version
from oxid.cli import program as cli
from oxid.cli.program import explain, run
from oxid.errors import AccessDenied, ConfigurationError, TransportError
from oxid.values.status import HResult


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    log = logging.getLogger("oxid")
    before = log.handlers[:], log.level
    yield
    log.handlers[:], log.level = before


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    said = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert f"\n  {name} " in said


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help_and_takes_v(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert f"Usage: oxid {name}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["frob"], ["status", "--frob"], ["user", "add"], ["serve", "--rpc", "x"]])
def test_wrong_usage_is_one_line_and_exit_code_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "--help" in said.err


def test_a_failure_is_one_line_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--state", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert str(tmp_path) in said.err
    assert "oxid serve" in said.err


@pytest.mark.parametrize("words", [["-vv", "status"], ["status", "-vv"], ["-v", "status", "-vv"]])
def test_a_traceback_only_with_vv(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "--state", str(tmp_path)]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigurationError("rpc is wrong"), "rpc is wrong"),
        (AccessDenied(HResult(0x80070005)), "check user name and password"),
        (TimeoutError(), "no answer in time; check host and port"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (ExceptionGroup("tasks", [TransportError("lost")]), "lost"),
        (
            ZeroDivisionError("division by zero"),
            "ZeroDivisionError: division by zero; this is a fault in oxid",
        ),
    ],
)
def test_errors_say_cause_and_remedy(error: BaseException, said: str) -> None:
    assert said in explain(error)


def test_a_reader_that_goes_away_is_no_fault() -> None:
    command = f"{sys.executable} -P -m oxid --help | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert ended.stderr == ""


def test_help_imports_no_heavy_module() -> None:
    code = (
        "import sys, types; package = types.ModuleType('oxid'); "  # what the package itself imports is not the CLI's
        f"package.__path__ = [{str(Path(oxid._version.__file__).parent)!r}]; sys.modules['oxid'] = package; "
        "from oxid.cli.program import run; run(['--help']); "
        "print([m for m in ('asyncio', 'cryptography', 'rich', 'uvloop', 'oxid.ndr') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
