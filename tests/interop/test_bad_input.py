"""What a user sees who mistypes something: one line with the cause and the remedy, exit code 1."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
from tests.support.host import ADMIN, PASSWORD, OxidHost, run_oxid

import oxid
from oxid import AccessDenied, AuthLevel, ClientOptions, Password
from oxid.samples.calculator import ICalculator

CLSID_CALCULATOR = "B81BB948-688D-436A-9EBA-5F37813E2375"
ICALCULATOR = "5859270E-BE58-4CA6-8157-B4CB6B24051B"
UNKNOWN_CLASS = "DEADBEEF-0000-4000-8000-000000000001"


@pytest.fixture(scope="module")
def host() -> Iterator[OxidHost]:
    with OxidHost(ping_period=0.5) as started:
        yield started


def closed_port() -> int:
    """A port of the loopback on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def refusal(*arguments: str) -> str:
    """The one line on standard error of a command that fails."""
    done = run_oxid(*arguments, OXID_ADMIN_PASSWORD=PASSWORD)
    assert done.returncode == 1, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in lines[0]
    return lines[0]


@pytest.fixture
def target(host: OxidHost) -> str:
    return f"{ADMIN}%{PASSWORD}@127.0.0.1:{host.port}"


def test_a_wrong_password(host: OxidHost) -> None:
    said = refusal("activate", f"{ADMIN}%wrong@127.0.0.1:{host.port}", CLSID_CALCULATOR)
    assert "password" in said.lower()


def test_an_unknown_user(host: OxidHost) -> None:
    said = refusal("activate", f"nobody%wrong@127.0.0.1:{host.port}", CLSID_CALCULATOR)
    assert "password" in said.lower() or "account" in said.lower()


def test_an_unknown_class(host: OxidHost, target: str) -> None:
    said = refusal("activate", target, UNKNOWN_CLASS)
    assert "80040154" in said.upper()
    assert "CLSID" in said


def test_an_interface_the_class_does_not_have(host: OxidHost, target: str) -> None:
    assert "80004002" in refusal("activate", target, CLSID_CALCULATOR, "00000000-1111-2222-3333-444444444444")


@pytest.mark.req("ACT-8")
def test_an_anonymous_caller_and_the_host_says_who_what_and_why(host: OxidHost) -> None:
    said = refusal("activate", "--anonymous", f"127.0.0.1:{host.port}", CLSID_CALCULATOR)
    assert "denied" in said.lower()
    assert "account" in said
    line = host.log().splitlines()[-1]
    assert CLSID_CALCULATOR.lower() in line.lower()
    assert "anonymous" in line.lower()


@pytest.mark.req("ACT-8")
@pytest.mark.parametrize("level", [AuthLevel.CONNECT, AuthLevel.PKT])
def test_a_level_below_integrity_and_the_host_says_who_what_and_why(host: OxidHost, level: AuthLevel) -> None:
    async def story() -> None:
        options = ClientOptions(port=host.port, level=level, raise_level=False)
        async with oxid.connect("127.0.0.1", Password(ADMIN, PASSWORD), options=options) as machine:
            await machine.activate(CLSID_CALCULATOR, ICalculator)

    with pytest.raises(AccessDenied) as caught:
        asyncio.run(story())
    assert "integrity" in (caught.value.remedy or "")
    line = host.log().splitlines()[-1]
    assert CLSID_CALCULATOR.lower() in line.lower()
    assert ADMIN in line
    assert "integrity" in line


def test_nobody_listens() -> None:
    port = closed_port()
    said = refusal("ping", f"127.0.0.1:{port}")
    assert str(port) in said
    assert "host" in said.lower()


def test_a_name_that_does_not_resolve() -> None:
    assert "no-such-host.invalid" in refusal("ping", "no-such-host.invalid")


def test_an_object_method_that_does_not_exist(host: OxidHost, target: str) -> None:
    assert "Subtract" in refusal("call", target, "Oxid.Calculator", "Subtract", "1", "2")


def test_an_address_that_cannot_be_bound(host: OxidHost) -> None:
    said = refusal("serve", "--state", str(host.directory / "second"), "--rpc", f"127.0.0.1:{host.port}")
    assert str(host.port) in said


def test_wrong_usage_is_exit_code_2() -> None:
    assert run_oxid("activate").returncode == 2
    assert run_oxid("frobnicate").returncode == 2


def test_a_failing_method_gives_its_hresult_and_description(host: OxidHost, target: str) -> None:
    said = refusal("call", target, "Oxid.Calculator", "Divide", "1", "0")
    assert "80020012" in said.upper()


def test_what_went_wrong_left_nothing_behind(host: OxidHost) -> None:
    host.wait_for_rest()
