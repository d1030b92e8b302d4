"""A client for Windows, with the stubs of an IDL compiler, over Wine's RPC over HTTP through our proxy.

Wine's port of the proxy is built in (80), so everything is in a namespace. It takes the window that the proxy tells it
for its own: with more than 64 KiB it would acknowledge too late and wait for good. It knows no level packet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.support.gateway import Gateway, Started, all_started
from tests.support.host import ADMIN, PASSWORD
from tests.support.netns import NetworkNamespace
from tests.support.wine import PEERS, Wine, compile_client

pytestmark = [pytest.mark.peer(*PEERS, "unshare")]

APPS = Path(__file__).parent / "apps"
LEVELS = {"connect": "2", "integrity": "5", "privacy": "6"}
SCHEMES = ("basic", "ntlm", "negotiate")
RUNS = [f"{scheme} {level}" for scheme in SCHEMES for level in LEVELS]
PROXY = "RpcProxy=localhost"


@pytest.fixture(scope="module")
def gateway(namespace: NetworkNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(namespace, tmp_path_factory.mktemp("gateway")) as started:
        yield started


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("client")
    return compile_client(directory, idl=APPS / "echo.idl", source=APPS / "echo_client.c")


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wine]:
    with Wine(tmp_path_factory.mktemp("wine")) as made:
        yield made


@pytest.fixture(scope="module")
def runs(gateway: Gateway, client: Path, wine: Wine) -> Iterator[Mapping[str, Started]]:
    """Every well-behaved run, all started together."""
    assert gateway.namespace is not None
    port = str(gateway.echo_port)
    wanted = {
        run: wine.command(
            client,
            "localhost",
            port,
            PROXY,
            ADMIN,
            PASSWORD,
            run.split()[0],
            LEVELS[run.split()[1]],
            "20",
            "10000",
        )
        for run in RUNS
    }
    wanted["much"] = wine.command(
        client, "localhost", port, PROXY, ADMIN, PASSWORD, "ntlm", LEVELS["privacy"], "200", "300000"
    )
    wanted["no proxy named"] = wine.command(
        client, "localhost", port, "-", ADMIN, PASSWORD, "basic", LEVELS["privacy"], "1", "100"
    )
    with all_started(wanted, gateway.namespace, **wine.environment) as started:
        yield started


@pytest.mark.req("RH-22", "RH-26", "NDR-1", "SEC-1")
@pytest.mark.parametrize("run", RUNS)
def test_compiled_stubs_call_through_the_tunnel(runs: Mapping[str, Started], run: str) -> None:
    assert "calls=20 bytes=10000" in runs[run].result().stdout


@pytest.mark.req("RH-70", "RH-71")
def test_more_than_its_window_goes_both_ways(runs: Mapping[str, Started]) -> None:
    assert "calls=200 bytes=300000" in runs["much"].result(20).stdout


def test_the_server_is_its_own_proxy_where_none_is_named(runs: Mapping[str, Started]) -> None:
    assert "calls=1 bytes=100" in runs["no proxy named"].result().stdout


def test_all_of_them_leave_the_host_at_rest(gateway: Gateway, runs: Mapping[str, Started]) -> None:
    for run in runs.values():
        run.result()
    gateway.at_rest()


@pytest.mark.req("RH-24", "RH-25", "RH-26", "RH-30")
@pytest.mark.parametrize(
    ("password", "port", "exception"),
    [("wrong", None, "0x5"), (PASSWORD, "22", "0x6ba")],
    ids=["a wrong password", "a port not in ValidPorts"],
)
def test_who_may_not_gets_an_exception(
    gateway: Gateway, client: Path, wine: Wine, password: str, port: str | None, exception: str
) -> None:
    assert gateway.namespace is not None
    arguments = (
        "localhost",
        port or str(gateway.echo_port),
        PROXY,
        ADMIN,
        password,
        "basic",
        "6",
        "1",
        "100",
    )
    with all_started(
        {"it": wine.command(client, *arguments)}, gateway.namespace, **wine.environment
    ) as started:
        assert started["it"].result(20).stdout.strip() == f"exception={exception}"
    gateway.at_rest()
