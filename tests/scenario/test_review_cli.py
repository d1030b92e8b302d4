"""Commands as somebody meets them who does not know them yet: odd arguments, and servers that never answer."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest
from tests.support.host import ADMIN, PASSWORD, OxidHost, run_oxid

from oxid.cli.values import argument
from oxid.errors import ConfigurationError
from oxid.ndr.model import resolve
from oxid.ndr.types import I32, Conformant, Str


@pytest.fixture(scope="module")
def host() -> Iterator[OxidHost]:
    with OxidHost() as running:
        yield running


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["Add", "-1", "2"], {"sum": 1}),
        (["Add", "--", "-1", "-2"], {"sum": -3}),
        (["Divide", "-1.5", "1e-5"], {"quotient": -150000.0}),
        (["Sum", "[-1, 2]"], {"sum": 1}),
        (["Greet", "[1]"], {"greeting": "Hello, [1]"}),
    ],
)
def test_negative_numbers_and_lists_are_arguments(
    host: OxidHost, words: list[str], out: dict[str, object]
) -> None:
    target = f"{ADMIN}%{PASSWORD}@127.0.0.1:{host.port}"
    done = run_oxid("call", "--json", target, "Oxid.Calculator", *words)
    assert json.loads(done.stdout) == {"hresult": 0, "out": out}, done.stderr


def test_json_that_is_cut_short_is_called_that() -> None:
    with pytest.raises(ConfigurationError, match=r"values: \[1,2 is no JSON: .*char"):
        argument(resolve(Conformant[I32]), "[1,2", "values")
    assert argument(resolve(Str), "[1,2", "name") == "[1,2"


@pytest.mark.parametrize(
    "words",
    [
        ["ping", "{}"],
        ["epm", "list", "{}"],
        ["resolve", "{}", "1"],
        ["call", "a%b@{}", "Oxid.Calculator", "Clone"],
    ],
)
def test_a_server_that_never_answers_is_given_up_in_time(silent: int, words: list[str]) -> None:
    began = time.monotonic()
    done = run_oxid(*(word.format(f"127.0.0.1:{silent}") for word in words), "--timeout", "0.5")
    assert time.monotonic() - began < 5
    assert done.returncode == 1
    assert f"no answer from 127.0.0.1:{silent} within 0.5 s; " in done.stderr


def test_a_time_limit_above_ten_seconds_holds_for_connecting_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import asynccontextmanager

    from oxid.cli import session
    from oxid.cli.parameters import Access
    from oxid.com import machine
    from oxid.config import Target

    seen = []

    @asynccontextmanager
    async def connect(host, credentials, *, options, probe):  # type: ignore[no-untyped-def]
        seen.append(options)
        yield None

    async def nothing(_machine: object) -> None:
        pass

    monkeypatch.setattr(machine, "connect", connect)
    for seconds in (60.0, 1.0):
        access = Access(password_stdin=False, anonymous=False, kerberos=False, level=6, timeout_s=seconds)
        session.converse(Target("h"), access, "asking", nothing)
    assert [(o.connect_timeout, o.call_timeout, o.release_timeout) for o in seen] == [(60, 60, 5), (1, 1, 1)]
