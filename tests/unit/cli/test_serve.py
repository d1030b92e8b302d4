"""The parts of `oxid serve` that need no sockets."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxid.auth.account_file import FileAccountStore
from oxid.cli.logs import start_logging
from oxid.cli.serve import prepare_state, stopped_line
from oxid.config import HostOptions
from oxid.errors import ConfigurationError
from oxid.ledger import Ledger


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    log = logging.getLogger("oxid")
    before = log.handlers[:], log.propagate, log.level
    yield
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
    log.handlers[:], log.propagate, log.level = before


def test_the_first_start_makes_an_administrator_and_says_the_password_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OXID_ADMIN_PASSWORD", raising=False)
    options = HostOptions(state=tmp_path / "a" / "b")
    prepare_state(options)
    assert "account admin with password" in capsys.readouterr().err
    account = FileAccountStore(options.accounts_file).find("admin")
    assert account is not None
    assert account.admin
    prepare_state(options)
    assert capsys.readouterr().err == ""


def test_the_first_password_may_come_from_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OXID_ADMIN_PASSWORD", "geheim")
    prepare_state(HostOptions(state=tmp_path))
    assert capsys.readouterr().err == ""


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="name another with --state"):
        prepare_state(HostOptions(state=tmp_path / "file" / "state"))


def test_the_stopped_line_names_what_is_left() -> None:
    ledger = Ledger()
    assert stopped_line(ledger) == "stopped live=0"
    ledger.object.enter()
    ledger.object.enter()
    ledger.timer.enter()
    assert stopped_line(ledger) == "stopped live=3 object=2 timer=1"
    for counter in (ledger.object, ledger.object, ledger.timer):
        counter.leave()


def test_logs_are_lines_or_json_and_survive_rotation(tmp_path: Path) -> None:
    file = tmp_path / "log"
    start_logging(HostOptions(state=tmp_path, log_file=file, log_json=True))
    log = logging.getLogger("oxid.test")
    log.info("hello %s", "world")
    log.debug("not said")
    entry = json.loads(file.read_text())
    assert (entry["message"], entry["level"], entry["logger"]) == ("hello world", "info", "oxid.test")
    file.rename(tmp_path / "old")
    log.warning("again")
    assert json.loads(file.read_text())["message"] == "again"


def test_a_log_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot log to"):
        start_logging(HostOptions(state=tmp_path, log_file=tmp_path / "no" / "log"))
