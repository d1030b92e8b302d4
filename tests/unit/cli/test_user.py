"""Accounts from the command line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from oxid.auth.account_file import FileAccountStore
from oxid.cli.program import run


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    def type_in(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))

    return type_in


def test_the_life_of_an_account(tmp_path: Path, typed, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    state = ["--state", str(tmp_path)]
    typed("geheim\n")
    assert run(["user", "add", "bob", "--admin", "--password-stdin", *state]) == 0
    typed("zwei\n")
    assert run(["user", "add", "LAB\\eve", "--password-stdin", *state]) == 0
    assert run(["user", "list", "--json", *state]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "bob", "admin": True},
        {"name": "LAB\\eve", "admin": False},
    ]
    before = FileAccountStore(tmp_path / "accounts.json").find("bob")
    typed("anders\n")
    assert run(["user", "passwd", "bob", "--password-stdin", *state]) == 0
    after = FileAccountStore(tmp_path / "accounts.json").find("bob")
    assert before is not None
    assert after is not None
    assert before.nt_hash != after.nt_hash
    assert after.admin
    assert run(["user", "remove", "BOB", *state]) == 0
    assert run(["user", "list", *state]) == 0
    assert capsys.readouterr().out == "LAB\\eve\n"


@pytest.mark.parametrize("text", ["", "\n"])
def test_no_password_is_wrong_usage(text: str, tmp_path: Path, typed) -> None:  # type: ignore[no-untyped-def]
    typed(text)
    assert run(["user", "add", "bob", "--password-stdin", "--state", str(tmp_path)]) == 2
    typed(text)
    assert run(["user", "add", "bob", "--state", str(tmp_path)]) == 2


def test_an_account_twice_is_a_failure(tmp_path: Path, typed, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    words = ["user", "add", "bob", "--password-stdin", "--state", str(tmp_path)]
    typed("a\n")
    assert run(words) == 0
    typed("a\n")
    assert run(words) == 1
    assert "bob exists already" in capsys.readouterr().err
