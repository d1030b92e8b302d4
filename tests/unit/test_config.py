"""Options from command line, environment and file; addresses and targets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxid.auth import Keytab, Password
from oxid.config import (
    Address,
    HostOptions,
    PortRange,
    Target,
    credentials_file,
    host_options,
    state_directory,
)
from oxid.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:135", "127.0.0.1", 135), ("[::1]:0", "::1", 0), ("server:65535", "server", 65535)],
)
def test_addresses_are_read_and_written_alike(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)
    assert str(Address(host, port)) == text


@pytest.mark.parametrize(
    "text", ["", "host", ":1", "::1:135", "[::1", "[::1]x", "h:", "h:70000", "h:-1", "h:１", "a b:1"]
)
def test_wrong_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("server", Target("server")),
        ("[::1]", Target("::1")),
        ("server:10135", Target("server", 10135)),
        ("user@server", Target("server", 135, "user")),
        ("user%@server", Target("server", 135, "user", "", "")),
        ("LAB\\user%se@cr%et@[::1]:5", Target("::1", 5, "user", "LAB", "se@cr%et")),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert Target.parse(text) == target


@pytest.mark.parametrize(
    "text", ["", "@server", "%pw@server", "user@", "LAB\\@server", "user@::1", "a..b", "u@" + "a" * 64]
)
def test_wrong_targets_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Target.parse(text)


def test_a_password_is_in_no_repr() -> None:
    assert "geheim" not in repr(Target.parse("u%geheim@h"))


@given(st.text())
def test_any_text_is_a_target_or_a_configuration_error(text: str) -> None:
    try:
        Target.parse(text)
    except ConfigurationError:
        return


def test_command_line_wins_over_environment_over_file(tmp_path: Path) -> None:
    file = tmp_path / "oxid.toml"
    file.write_text(
        '[host]\nrpc = ["[::1]:1", "127.0.0.1:2"]\nping-period = 7\nlog_json = true\nlog-level = "debug"\n'
    )
    options = host_options(
        {"log-level": "error", "rpc": None, "advertise": ()},
        environ={
            "OXID_PING_PERIOD": "9.5",
            "OXID_LOG_LEVEL": "warning",
            "HOME": "/h",
            "OXID_ADVERTISE": "a,b",
        },
        file=file,
    )
    assert options == HostOptions(
        state=Path("/h/.local/state/oxid"),
        rpc=(Address("::1", 1), Address("127.0.0.1", 2)),
        ping_period=9.5,
        log_level="error",
        log_json=True,
        advertise=("a", "b"),
        ncacn_http=(),
        http=(),
    )


def test_paths_in_a_file_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "oxid.toml"
    file.write_text('[host]\nstate = "state"\nkeytab = "/etc/key"\n')
    options = host_options({"log-file": "here.log"}, environ={}, file=file)
    assert options.state == tmp_path / "state"
    assert options.keytab == Path("/etc/key")
    assert options.log_file == Path("here.log")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[host]\nping-perod = 3\n", "unknown key 'ping-perod'; did you mean 'ping-period'?"),
        ("[hosts]\n", "unknown key 'hosts'; did you mean 'host'?"),
        ("[host]\nrpc = 'x'\n", "[host] rpc: 'x': no port"),
        ("[host]\nping-period = 'soon'\n", "[host] ping-period: 'soon' is no period"),
        ("[host]\nlog-json = 3\n", "[host] log-json: '3': true or false"),
        ("[host\n", "is no TOML"),
        ("host = 1\n", "'host' is a table"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "oxid.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        host_options({}, environ={}, file=file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*nowhere"):
        host_options({}, environ={}, file=tmp_path / "nowhere")


def test_port_ranges() -> None:
    assert PortRange.parse("5000-5010") == PortRange(5000, 5010)
    for wrong in ("5000", "0-1", "7-6", "a-b", "-"):
        with pytest.raises(ConfigurationError):
            PortRange.parse(wrong)


def test_the_state_directory_follows_the_users_habits() -> None:
    assert state_directory({"XDG_STATE_HOME": "/s", "HOME": "/h"}) == Path("/s/oxid")
    assert state_directory({"OXID_STATE": "/x"}) == Path("/x")


def test_an_account_file_holds_a_password_or_names_a_keytab(tmp_path: Path) -> None:
    file = tmp_path / "account"
    file.touch(mode=0o600)
    file.write_text("# who we are\nusername = PLANT\\line1\npassword = a = b\n")
    assert credentials_file(file) == Password("line1", "a = b", "PLANT")
    file.write_text("username = plant@EXAMPLE.COM\nkeytab = keys/plant.keytab\n")
    assert credentials_file(file) == Keytab(str(tmp_path / "keys/plant.keytab"), "plant@EXAMPLE.COM")
    file.write_text("password = alone\n")
    with pytest.raises(ConfigurationError, match="no line username"):
        credentials_file(file)
    file.chmod(0o640)
    with pytest.raises(ConfigurationError, match="can be read by others"):
        credentials_file(file)
    with pytest.raises(ConfigurationError, match="cannot read"):
        credentials_file(tmp_path / "none")
