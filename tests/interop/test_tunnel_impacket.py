"""impacket's RPC over HTTP through our proxy and to our own port for proxies: calls, DCOM, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import Gateway, Started, all_started
from tests.support.host import ADMIN, PASSWORD
from tests.support.netns import NetworkNamespace

pytestmark = [pytest.mark.peer("impacket", "unshare")]

SCRIPT = Path(__file__).parent / "scripts" / "impacket_tunnel.py"
RPCMAP = Path(sys.executable).parent / "rpcmap.py"
PLAIN = "http://localhost/rpc/rpcproxy.dll"
TLS = "https://localhost/rpc/rpcproxy.dll"
ECHOES = {
    "plain basic privacy": (PLAIN, "basic", "privacy"),
    "plain ntlm integrity": (PLAIN, "ntlm", "integrity"),
    "tls basic connect": (TLS, "basic", "connect"),
    "tls ntlm privacy": (TLS, "ntlm", "privacy"),
    "direct privacy": ("direct", "ntlm", "privacy"),
}
MAPS = {
    "rpcmap plain": "ncacn_http:localhost[593,RpcProxy=localhost:80]",
    "rpcmap tls": "ncacn_http:localhost[593,RpcProxy=localhost:443]",
    "rpcmap, the server's name from the challenge": "ncacn_http:[593,RpcProxy=localhost:443]",
    "rpcmap direct": "ncacn_http:localhost[593]",
}
LIVES = {
    "dcom tls ntlm": (TLS, "ntlm", "scm", "privacy"),
    "dcom plain basic": (PLAIN, "basic", "remact", "integrity"),
}
REFUSED = {
    "wrong password basic": ((PLAIN, "basic"), ("--password", "wrong"), "401 Unauthorized"),
    "wrong password ntlm": ((TLS, "ntlm"), ("--password", "wrong"), "401 Unauthorized"),
    "port not in ValidPorts": ((TLS, "ntlm"), ("--port", "22"), "ERROR_ACCESS_DENIED"),
    "name not in ValidPorts": ((TLS, "basic"), ("--server", "elsewhere.example"), "ERROR_ACCESS_DENIED"),
}


@pytest.fixture(scope="module")
def gateway(namespace: NetworkNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(namespace, tmp_path_factory.mktemp("gateway")) as started:
        yield started


def command(gateway: Gateway, story: str, url: str, http_auth: str, *more: str) -> list[str | Path]:
    known = ["--port", str(gateway.echo_port), "--exporter", "{}={}".format(*gateway.exporter)]
    asked = ["--url", url, "--http-auth", http_auth, "--password", PASSWORD]
    return [sys.executable, SCRIPT, story, *known, *asked, *more]


@pytest.fixture(scope="module")
def runs(gateway: Gateway) -> Iterator[Mapping[str, Started]]:
    """Every well-behaved run, all started together."""
    wanted: dict[str, list[str | Path]] = {}
    for name, (url, auth, level) in ECHOES.items():
        wanted[name] = command(gateway, "echo", url, auth, "--level", level, "--calls", "40")
    wanted["much"] = command(gateway, "echo", PLAIN, "basic", "--bytes", "153600", "--level", "connect")
    for name, (url, auth, activation, level) in LIVES.items():
        more = ("--level", level, "--activation", activation, "--server", "127.0.0.1")
        wanted[name] = command(gateway, "dcom", url, auth, *more)
    account = f"{ADMIN}:{PASSWORD}"
    for name, binding in MAPS.items():
        who = ["-auth-rpc", account, "-auth-transport", account]
        wanted[name] = [sys.executable, "-W", "ignore", RPCMAP, *who, binding]
    assert gateway.namespace is not None
    with all_started(wanted, gateway.namespace) as started:
        yield started


def seen(run: Started) -> Any:
    done = run.result()
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.req("RH-10", "RH-22", "RH-26", "RH-30")
@pytest.mark.parametrize("name", ECHOES)
def test_many_calls_on_one_connection(runs: Mapping[str, Started], name: str) -> None:
    assert seen(runs[name]) == {"calls": 40, "right": 40, "same": True}


@pytest.mark.req("RH-70", "RH-71")
def test_more_bytes_than_a_window_has_go_both_ways(runs: Mapping[str, Started]) -> None:
    assert seen(runs["much"])["same"]


@pytest.mark.req("ACT-1", "ACT-2", "RH-2")
@pytest.mark.parametrize("name", LIVES)
def test_the_whole_life_of_an_object_through_tunnels(
    gateway: Gateway, runs: Mapping[str, Started], name: str
) -> None:
    found = seen(runs[name])
    assert found["tunnels"] == [593, gateway.echo_port]
    life = found["seen"]
    assert life["methods"]["add"] == 42
    assert life["methods"]["echo"]
    assert life["methods"]["greet"] == "Hello, Grüße, 世界\0"
    assert life["methods"]["divide_by_zero"] == 0x8002_0012
    assert (life["clone_adds"], life["still_there"]) == (23, 2)
    assert "RPC_E_DISCONNECTED" in life["clone_is_gone"]


@pytest.mark.req("RH-10", "RH-30")
@pytest.mark.parametrize("name", MAPS)
def test_rpcmap_lists_the_interfaces(runs: Mapping[str, Started], name: str) -> None:
    """impacket's own tool, as it is; without a name it asks for the one in the proxy's NTLM challenge."""
    done = runs[name].result()
    assert "E1AF8308-5D1F-11C9-91A4-08002B14A0FA v3.0" in done.stdout, done.stdout
    assert "000001A0-0000-0000-C000-000000000046 v0.0" in done.stdout, done.stdout
    assert "failed" not in done.stdout


def test_all_of_them_leave_the_host_at_rest(gateway: Gateway, runs: Mapping[str, Started]) -> None:
    for run in runs.values():
        run.result()
    gateway.at_rest()


@pytest.mark.req("RH-24", "RH-26", "RH-30")
def test_who_may_not_is_told_so(gateway: Gateway) -> None:
    """After all others: wrong passwords close an address for a while."""
    assert gateway.namespace is not None
    wanted = {name: command(gateway, "echo", *how, *more) for name, (how, more, _) in sorted(REFUSED.items())}
    with all_started(wanted, gateway.namespace) as started:
        for name, run in started.items():
            done = run.result()
            assert done.returncode == 1, done.stdout
            assert REFUSED[name][2] in done.stdout, f"{name}: {done.stdout}"
    gateway.at_rest()
