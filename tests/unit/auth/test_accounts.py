"""Accounts in memory and in a file that others change too."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

import pytest

from oxid.auth import MemoryAccountStore, find_account, nt_hash
from oxid.auth.account_file import FileAccountStore
from oxid.errors import ConfigurationError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "accounts.json"


@pytest.fixture(params=["memory", "file"])
def store(request, path):
    return MemoryAccountStore() if request.param == "memory" else FileAccountStore(path)


def test_accounts_come_and_go(store):
    assert store.list() == ()
    store.add("Zoe", "z")
    store.add("admin", "secret", admin=True)
    assert [(account.name, account.admin) for account in store.list()] == [("admin", True), ("Zoe", False)]
    assert store.find("ADMIN").nt_hash == nt_hash("secret")
    store.passwd("ADMIN", "other")
    assert store.find("admin").nt_hash == nt_hash("other")
    assert store.find("admin").admin
    store.remove("zoe")
    assert store.find("Zoe") is None
    assert [account.name for account in store.list()] == ["admin"]


def test_mistakes_have_one_line_of_explanation(store):
    store.add("admin", "secret")
    for mistake in (
        lambda: store.add("ADMIN", "x"),
        lambda: store.passwd("nobody", "x"),
        lambda: store.remove("nobody"),
        lambda: store.add("", "x"),
        lambda: store.add(" admin", "x"),
        lambda: store.add("a\\b\\c", "x"),
        lambda: store.add("LAB\\", "x"),
        lambda: store.add("a\nb", "x"),
        lambda: store.add("a" * 300, "x"),
    ):
        with pytest.raises(ConfigurationError) as error:
            mistake()
        assert "\n" not in str(error.value)
    assert len(store.list()) == 1


@pytest.mark.parametrize(
    ("domain", "user", "found"),
    [
        ("", "ann", "ann"),
        ("WORKGROUP", "ann", "ann"),
        ("LAB", "ann", "LAB\\ann"),
        ("lab", "ANN", "LAB\\ann"),
        ("LAB", "bob", "bob"),
        ("", "ann@LAB", "LAB\\ann"),
        ("", "bob@LAB", "bob"),
        ("", "only", None),
        ("OTHER", "only", None),
        ("LAB", "only", "LAB\\only"),
        ("", "", None),
        ("LAB", "", None),
    ],
)
def test_an_unknown_domain_is_the_local_one(domain, user, found):
    store = MemoryAccountStore({"ann": "1", "bob": "2", "LAB\\ann": "3", "LAB\\only": "4"})
    account = find_account(store, domain, user)
    assert (account.name if account else None) == found


def test_the_file_is_for_its_owner_only_and_holds_no_password(path):
    FileAccountStore(path).add("admin", "secret", admin=True)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert json.loads(path.read_text()) == {
        "format": 1,
        "accounts": {"admin": {"nt_hash": nt_hash("secret").hex(), "admin": True}},
    }
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["accounts.json", "accounts.json.lock"]


def test_what_another_process_writes_is_seen(path):
    host, command = FileAccountStore(path), FileAccountStore(path)
    host.add("admin", "secret")
    command.add("guest", "welcome")
    assert host.find("guest") is not None
    command.passwd("admin", "other")
    assert host.find("admin").nt_hash == nt_hash("other")
    host.remove("guest")
    assert [account.name for account in command.list()] == ["admin"]
    path.unlink()
    assert host.find("admin") is None


def test_many_writers_lose_nothing(path):
    script = (
        "import sys; from oxid.auth.account_file import FileAccountStore\n"
        "store = FileAccountStore(sys.argv[1])\n"
        "for n in range(10): store.add(f'{sys.argv[2]}{n}', 'x')\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(FileAccountStore(path).list()) == 30


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 2, "accounts": {}}',
        '{"format": 1}',
        '{"format": 1, "accounts": []}',
        '{"format": 1, "accounts": {"a": {"nt_hash": "zz"}}}',
        '{"format": 1, "accounts": {"a": {"nt_hash": "00"}}}',
        '{"format": 1, "accounts": {"a": {}}}',
        '{"format": 1, "accounts": {"a": null}}',
    ],
)
def test_a_spoilt_file_is_named(path, content):
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"accounts\.json"):
        FileAccountStore(path).find("admin")
    with pytest.raises(ConfigurationError):
        FileAccountStore(path).add("admin", "x")
    assert path.read_text() == content


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    store = FileAccountStore(tmp_path / "file" / "accounts.json")
    with pytest.raises(ConfigurationError):
        store.add("admin", "x")


def test_a_change_that_cannot_be_written_is_not_kept_in_memory(path, monkeypatch):
    store = FileAccountStore(path)
    store.add("admin", "secret")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ConfigurationError, match="No space"):
        store.add("guest", "x")
    monkeypatch.undo()
    assert store.find("guest") is None
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["accounts.json", "accounts.json.lock"]
