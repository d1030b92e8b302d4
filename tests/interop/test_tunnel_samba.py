"""Samba's RPC over HTTP: `smbtorture rpc.echo` through our proxy, whose login takes three legs over HTTP/1.0.

Samba 4.17 as a client of RPC over HTTP
- stops reading at the first RTS PDU after the connection stands, so what it sends has to stay below half of a window,
  after which it is acknowledged: `validate` with `torture:quick` makes its arrays small, and leaves TestSleep out;
- hangs where session tickets of TLS 1.3 come: it is told to use TLS 1.2;
- always takes a proxy, and version 2: where no RpcProxy is named, the server is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from tests.support.gateway import Gateway, Started, all_started
from tests.support.host import ADMIN, PASSWORD
from tests.support.netns import NetworkNamespace
from tests.support.samba import write_configuration

pytestmark = [pytest.mark.peer("smbtorture", "unshare")]

OPERATIONS = (
    "addone",
    "doublepointer",
    "echodata",
    "enum",
    "sinkdata",
    "sourcedata",
    "surrounding",
    "testcall",
)
PLAIN, TLS = "HttpUseTls=false,RpcProxy=127.0.0.1:80", "HttpUseTls=true,RpcProxy=127.0.0.1:443"
BINDINGS = [
    *(f"{PLAIN},HttpAuthOption=basic,ntlm,{level}" for level in ("connect", "packet", "sign", "seal")),
    f"{PLAIN},HttpAuthOption=ntlm,ntlm,seal",
    f"{PLAIN},HttpAuthOption=ntlm,spnego,sign",
    f"{PLAIN},HttpAuthOption=ntlm,spnego,seal,bigendian",
    f"{TLS},HttpAuthOption=basic,spnego,seal",
    f"{TLS},HttpAuthOption=basic,ntlm,sign",
    f"{TLS},HttpAuthOption=ntlm,ntlm,connect",
    f"{TLS},HttpAuthOption=ntlm,spnego,seal",
    "HttpUseTls=false,HttpAuthOption=ntlm,ntlm,seal",
]


@pytest.fixture(scope="module")
def gateway(namespace: NetworkNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(namespace, tmp_path_factory.mktemp("gateway")) as started:
        yield started


@pytest.fixture(scope="module")
def configuration(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_configuration(tmp_path_factory.mktemp("samba"))
    with path.open("a") as file:
        file.write(f"  tls cafile = {gateway.ca}\n  tls verify peer = ca_only\n")
        file.write("  tls priority = NORMAL:-VERS-TLS1.3\n")
    return path


def torture(
    gateway: Gateway, configuration: Path, binding: str, suite: str = "rpc.echo", password: str = PASSWORD
) -> Sequence[str | Path]:
    return [
        "smbtorture",
        f"--configfile={configuration}",
        f"--basedir={configuration.parent}",
        "--use-kerberos=off",
        f"-U{ADMIN}%{password}",
        f"ncacn_http:127.0.0.1[{gateway.echo_port},{binding}]",
        suite,
    ]


@pytest.fixture(scope="module")
def runs(gateway: Gateway, configuration: Path) -> Iterator[Mapping[str, Started]]:
    """One run of each binding, all started together."""
    assert gateway.namespace is not None
    wanted = {
        binding: [*torture(gateway, configuration, f"{binding},validate"), "--option=torture:quick=yes"]
        for binding in BINDINGS
    }
    with all_started(wanted, gateway.namespace) as started:
        yield started


@pytest.mark.req("RH-10", "RH-22", "RH-26", "SEC-1", "SEC-3")
@pytest.mark.parametrize("binding", BINDINGS)
def test_the_operations_of_echo_through_a_tunnel(runs: Mapping[str, Started], binding: str) -> None:
    done = runs[binding].result()
    for operation in OPERATIONS:
        assert f"success: echo.{operation}\n" in done.stdout, done.stdout[-4000:]
    for bad in ("failure:", "error:", "unread bytes"):
        assert bad not in done.stdout, done.stdout[-4000:]


def test_all_of_them_leave_the_host_at_rest(gateway: Gateway, runs: Mapping[str, Started]) -> None:
    for run in runs.values():
        run.result()
    gateway.at_rest()


@pytest.mark.req("RH-24", "RH-26", "RH-30")
@pytest.mark.parametrize(
    ("binding", "password", "word"),
    [
        (f"{PLAIN},HttpAuthOption=basic", "wrong", "LOGON_FAILURE|ACCESS_DENIED"),
        (f"{TLS},HttpAuthOption=ntlm", "wrong", "LOGON_FAILURE|ACCESS_DENIED"),
    ],
)
def test_a_wrong_password_is_refused(
    gateway: Gateway, configuration: Path, binding: str, password: str, word: str
) -> None:
    assert gateway.namespace is not None
    with all_started(
        {"it": torture(gateway, configuration, binding, password=password)}, gateway.namespace
    ) as run:
        done = run["it"].result(20)
    assert "success:" not in done.stdout
    assert any(each in done.stdout for each in word.split("|")), done.stdout[-3000:]
    gateway.at_rest()
