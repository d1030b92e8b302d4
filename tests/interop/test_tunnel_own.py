"""Our own client, as a user of the command line has it, through our proxy: every way in, and what refusals say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from tests.support.gateway import ACCOUNT, ECHO, PLAIN, Gateway, Started, all_started
from tests.support.host import environment, oxid_command
from tests.support.netns import NetworkNamespace

pytestmark = [pytest.mark.peer("unshare")]

HTTP = "http://localhost/rpc/rpcproxy.dll"
HTTPS = "https://localhost/rpc/rpcproxy.dll"
CERTIFIED = "https://localhost/rpcwithcert/rpcproxy.dll"
SERVER = f"{ACCOUNT}@127.0.0.1"
CALCULATOR = "b81bb948-688d-436a-9eba-5f37813e2375"
ADD = ("Oxid.Calculator", "Add", "20", "3")
BIG = ("Oxid.Calculator", "Echo", '"hex:' + "5a" * 20000 + '"')  # many records of TLS
CA, CLIENT = "{ca}", "{client}"  # files of the gateway

WAYS: dict[str, tuple[str, ...]] = {
    "plain basic": ("--proxy", HTTP, "--proxy-auth", "basic"),
    "tls ntlm": ("--proxy", HTTPS, "--proxy-ca", CA, "--proxy-auth", "ntlm"),
    "tls negotiate": ("--proxy", HTTPS, "--proxy-ca", CA, "--proxy-auth", "negotiate"),
    "a client certificate": ("--proxy", CERTIFIED, "--proxy-ca", CA, "--proxy-cert", CLIENT),
    "version 1": ("--proxy", HTTP, "--proxy-version", "1", "--proxy-auth", "basic"),
    "direct": ("--proxy", "direct"),
    "direct, version 1": ("--proxy", "direct", "--proxy-version", "1"),
}
COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "ping, any certificate": (("ping", "--proxy", HTTPS, "--proxy-any-cert", SERVER), "alive, DCOM 5.7"),
    "much": (("call", *WAYS["tls ntlm"], SERVER, *BIG), "5a" * 20000),
    "much, version 1": (("call", *WAYS["version 1"], SERVER, *BIG), "5a" * 20000),
    "activate": (("activate", *WAYS["plain basic"], SERVER, CALCULATOR), ""),
    "epm map": (("epm", "map", *WAYS["tls ntlm"], SERVER, f"{ECHO}/1.0"), "ncacn_http:"),
    "epm list": (("epm", "list", *WAYS["version 1"], SERVER), "endpoint mapper"),
}
REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "wrong password": (("--proxy", HTTP, "--proxy-user", "admin%wrong", SERVER), "401 Unauthorized; check user"),
    "port": (("--proxy", HTTP, f"{ACCOUNT}@127.0.0.1:22"), "ERROR_ACCESS_DENIED (0x00000005): the RPC proxy refused"),
    "port, version 1": (
        ("--proxy", HTTP, "--proxy-version", "1", f"{ACCOUNT}@127.0.0.1:22"),
        "ERROR_ACCESS_DENIED (0x00000005): the RPC proxy refused",
    ),
    "server": (("--proxy", HTTP, f"{ACCOUNT}@elsewhere.example"), "the RPC proxy refused"),
    "no such gateway": (("--proxy", "http://gateway.invalid", SERVER), "cannot connect to gateway.invalid:80"),
    "nothing listens": (("--proxy", "http://localhost:81", SERVER), "cannot connect to localhost:81"),
    "untrusted": (("--proxy", HTTPS, SERVER), "CERTIFICATE_VERIFY_FAILED; check the proxy's"),
    "another name": (("--proxy", "https://127.0.0.1", "--proxy-ca", CA, SERVER), "CERTIFICATE_VERIFY_FAILED; check"),
    "no certificate": (("--proxy", CERTIFIED, "--proxy-ca", CA, SERVER), "403 Forbidden"),
    "nobody": (("--proxy", HTTP, "--proxy-auth", "none", SERVER), "401 Unauthorized"),
    "no proxy there": (("--proxy", "http://localhost/nothing/here.dll", SERVER), "the web server answered 40"),
}  # fmt: skip


@pytest.fixture(scope="module")
def gateway(namespace: NetworkNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(namespace, tmp_path_factory.mktemp("gateway"), config=PLAIN) as started:
        yield started


def command(gateway: Gateway, *words: str) -> list[str]:
    files = {CA: str(gateway.ca), CLIENT: str(gateway.client_certificate)}
    return [*oxid_command(), *(files.get(word, word) for word in words)]


@pytest.fixture(scope="module")
def runs(gateway: Gateway) -> Iterator[Mapping[str, Started]]:
    """Every run that has to succeed, all started together."""
    assert gateway.namespace is not None
    wanted = {name: command(gateway, "call", *way, SERVER, *ADD) for name, way in WAYS.items()}
    wanted |= {name: command(gateway, *words) for name, (words, _) in COMMANDS.items()}
    with all_started(wanted, gateway.namespace, **environment()) as started:
        yield started


@pytest.mark.req("RH-1", "RH-3", "RH-10", "RH-26", "RH-27")
@pytest.mark.parametrize("way", WAYS)
def test_a_call_comes_through(runs: Mapping[str, Started], way: str) -> None:
    done = runs[way].result()
    assert done.stdout.splitlines()[-1] == "sum = 23"  # a slow one says before what it does
    assert done.returncode == 0


@pytest.mark.req("RH-2", "RH-70")
@pytest.mark.parametrize("name", COMMANDS)
def test_the_other_commands_do_too(runs: Mapping[str, Started], name: str) -> None:
    done = runs[name].result()
    assert done.returncode == 0, done.stdout
    assert COMMANDS[name][1] in done.stdout


def test_all_of_them_leave_the_host_at_rest(gateway: Gateway, runs: Mapping[str, Started]) -> None:
    for run in runs.values():
        run.result()
    gateway.at_rest()


@pytest.mark.req("RH-24", "RH-25", "RH-27", "RH-30")
def test_refusals_say_why(gateway: Gateway) -> None:
    assert gateway.namespace is not None
    wanted = {name: command(gateway, "ping", *words) for name, (words, _) in REFUSED.items()}
    with all_started(wanted, gateway.namespace, **environment()) as started:
        for name, run in started.items():
            done = run.result()
            assert REFUSED[name][1] in done.stdout, f"{name}: {done.stdout}"
            assert done.returncode == 1
            assert len(done.stdout.splitlines()) <= 2, (
                done.stdout
            )  # what it does, where that is slow; no traceback
    gateway.at_rest()


@pytest.mark.req("RH-27")
def test_without_tls_nobody_comes_in_unless_the_host_says_so(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with (
        NetworkNamespace() as namespace,
        Gateway(namespace, tmp_path_factory.mktemp("strict"), config="") as strict,
    ):
        wanted = {
            "plain": command(strict, "ping", "--proxy", HTTP, SERVER),
            "version 1": command(strict, "ping", "--proxy", HTTP, "--proxy-version", "1", SERVER),
            "tls": command(strict, "ping", "--proxy", HTTPS, "--proxy-ca", CA, SERVER),
        }
        with all_started(wanted, namespace, **environment()) as started:
            assert "alive" in started["tls"].result().stdout
            for name in ("plain", "version 1"):
                assert "403 Forbidden" in started[name].result().stdout
                assert "may want TLS (https)" in started[name].result().stdout
        strict.at_rest()
