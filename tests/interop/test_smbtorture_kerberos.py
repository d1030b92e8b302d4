"""Samba's Kerberos client (Heimdal) against a real host: unlike impacket, it verifies every reply."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.kdc import LocalKdc
from tests.support.host import OxidHost
from tests.support.samba import write_configuration
from tests.support.torture import Torture

pytestmark = [pytest.mark.peer("smbtorture", "krb5kdc", "kadmin.local", "kinit")]

NAME = "server.oxid.test"
ECHO = "60a15ec5-4de8-11d7-a637-005056a20182/1.0"
OPERATIONS = [
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
]
BINDINGS = [
    *(
        f"{mechanism},{level}"
        for mechanism in ("krb5", "spnego")
        for level in ("connect", "packet", "sign", "seal")
    ),
    "krb5,seal,bigendian",
    "krb5,seal,ndr64",
]


@pytest.fixture(scope="module")
def kdc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKdc]:
    with LocalKdc(tmp_path_factory.mktemp("realm")) as realm:
        realm.add_user("alice", "Secret-9")
        yield realm


@pytest.fixture(scope="module")
def host(kdc: LocalKdc) -> Iterator[OxidHost]:
    keytab = kdc.keytab(f"host/{NAME}")
    with OxidHost(options=("--keytab", str(keytab)), more_environment=kdc.env) as started:
        yield started


@pytest.fixture(scope="module")
def runs(
    host: OxidHost, kdc: LocalKdc, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Torture]]:
    """One run per binding, all started together."""
    configuration = write_configuration(tmp_path_factory.mktemp("samba"), realm=kdc.realm)
    mapped = host.run("epm", "map", f"127.0.0.1:{host.port}", ECHO).stdout
    port = mapped.rpartition("[")[2].partition("]")[0]
    cache = kdc.ticket("alice", "Secret-9")
    started = {
        binding: Torture(
            None,
            "rpc.echo",
            f"127.0.0.1[{port},{binding},target_hostname={NAME}]",
            user=f"alice@{kdc.realm}",
            password="Secret-9",
            configuration=configuration,
            options=(f"--use-krb5-ccache={cache}",),
            kerberos=kdc.env,
        )
        for binding in BINDINGS
    }
    yield started
    for run in started.values():
        run.close()


@pytest.mark.req("SEC-1", "SEC-9")
@pytest.mark.parametrize("binding", BINDINGS)
def test_all_ten_operations_of_echo_with_kerberos(runs: dict[str, Torture], binding: str) -> None:
    run = runs[binding]
    assert run.verdicts() == {f"echo.{name}": "success" for name in OPERATIONS}, run.output()[-4000:]


def test_the_caller_was_the_ticket_s_owner_and_the_host_is_at_rest(
    host: OxidHost, kdc: LocalKdc, runs: dict[str, Torture]
) -> None:
    for run in runs.values():
        run.output()
    assert f"authenticated as alice@{kdc.realm}" in host.log()
    host.wait_for_rest()
