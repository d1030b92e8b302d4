"""Samba's test programs against a real host: its marshalling and its cryptography judge ours.

smbtorture finds Echo through the endpoint mapper on port 135, so host and peers share a namespace. All runs
of rpc.echo are started together when the module begins (TestSleep sleeps 3 s in each), judged one by one.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.host import ADMIN, PASSWORD, OxidHost
from tests.support.netns import NetworkNamespace
from tests.support.samba import write_configuration
from tests.support.torture import Torture

pytestmark = [pytest.mark.peer("smbtorture", "rpcclient", "unshare")]

OPERATIONS = {
    "addone",
    "sinkdata",
    "echodata",
    "sourcedata",
    "testcall",
    "testcall2",
    "enum",
    "surrounding",
    "doublepointer",
    "sleep",
}
LEVELS = ("connect", "packet", "sign", "seal")
BINDINGS = [
    *(f"{mechanism},{level}" for mechanism in ("ntlm", "spnego") for level in LEVELS),
    "ntlm,sign,bigendian",
    "ntlm,seal,bigendian",
    "ntlm,sign,ndr64",
    "spnego,seal,ndr64",
]


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_configuration(tmp_path_factory.mktemp("samba"))


@pytest.fixture(scope="module")
def host(namespace: NetworkNamespace) -> Iterator[OxidHost]:
    with OxidHost(namespace=namespace) as started:
        yield started


@pytest.fixture(scope="module")
def echo_runs(host: OxidHost, configuration: Path) -> Iterator[dict[str, Torture]]:
    """One run per binding, all started together."""
    assert host.namespace is not None
    runs = {
        binding: Torture(
            host.namespace,
            "rpc.echo",
            f"127.0.0.1[{binding}]",
            user=ADMIN,
            password=PASSWORD,
            configuration=configuration,
        )
        for binding in BINDINGS
    }
    yield runs
    for run in runs.values():
        run.close()


@pytest.mark.req("SEC-1", "SEC-3", "SEC-8", "SEC-10", "REQ-6", "BND-9", "NDR-1", "NDR-15")
@pytest.mark.parametrize("binding", BINDINGS)
def test_all_ten_operations_of_echo(echo_runs: dict[str, Torture], binding: str) -> None:
    run = echo_runs[binding]
    assert run.verdicts() == {f"echo.{name}": "success" for name in OPERATIONS}, run.output()[-4000:]
    assert "unread bytes" not in run.output()


def test_the_host_is_at_rest_after_all_runs_of_echo(host: OxidHost, echo_runs: dict[str, Torture]) -> None:
    for run in echo_runs.values():
        run.output()
    host.wait_for_rest()


def torture(host: OxidHost, configuration: Path, suite: str, binding: str, *options: str) -> Torture:
    assert host.namespace is not None
    return Torture(
        host.namespace,
        suite,
        binding,
        user=ADMIN,
        password=PASSWORD,
        configuration=configuration,
        options=options,
    )


@pytest.mark.req("rpce§6.mgmt")
@pytest.mark.parametrize("level", ["connect", "sign", "seal"])
def test_management_of_every_mapped_interface(host: OxidHost, configuration: Path, level: str) -> None:
    run = torture(host, configuration, "rpc.mgmt", f"127.0.0.1[{level}]")
    assert run.verdicts() == {"mgmt": "success"}, run.output()[-4000:]
    output = run.output()
    assert "server is listening" in output
    assert "server refused to stop listening" in output
    assert "60a15ec5-4de8-11d7-a637-005056a20182" in output


@pytest.mark.req("rpce§6.ept_lookup", "rpce§6.ept_map", "rpce§6.lookup_handle_free", "rpce§6.insert")
@pytest.mark.parametrize("options", ["", ",ntlm,seal", ",spnego,sign", ",bigendian"])
def test_the_endpoint_mapper(host: OxidHost, configuration: Path, options: str) -> None:
    """Two of its five tests register an endpoint from afar: refused, as Windows does."""
    run = torture(host, configuration, "rpc.epmapper", f"127.0.0.1[135{options}]")
    assert run.verdicts() == {
        "epmapper.Map_simple": "success",
        "epmapper.Map_full": "failure",
        "epmapper.Lookup_simple": "success",
        "epmapper.Lookup_terminate_search": "success",
        "epmapper.Insert_noreplace": "failure",
    }, run.output()[-4000:]
    assert "test_Insert failed" in run.output()
    assert "epm_Insert failed" in run.output()


@pytest.mark.req("rpce§6.ept_map")
@pytest.mark.parametrize("level", ["connect", "sign", "seal"])
@pytest.mark.parametrize("mechanism", ["ntlm", "spnego"])
def test_rpcclient_asks_the_endpoint_mapper(
    host: OxidHost, configuration: Path, mechanism: str, level: str
) -> None:
    """It asks for LSA, which is not here."""
    assert host.namespace is not None
    done = subprocess.run(
        [
            *host.namespace.prefix,
            "rpcclient",
            "-s",
            str(configuration),
            f"-U{ADMIN}%{PASSWORD}",
            f"ncacn_ip_tcp:127.0.0.1[135,{mechanism},{level}]",
            "-c",
            "epmmap",
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "0x16C9A0D6" in done.stdout + done.stderr


def test_a_wrong_password_is_refused(host: OxidHost, configuration: Path) -> None:
    assert host.namespace is not None
    run = Torture(
        host.namespace,
        "rpc.echo",
        "127.0.0.1[ntlm,seal]",
        user=ADMIN,
        password="wrong",
        configuration=configuration,
        options=("--option=torture:quick=yes",),
    )
    assert "success" not in run.verdicts().values()
    assert "LOGON_FAILURE" in run.output() or "ACCESS_DENIED" in run.output()
