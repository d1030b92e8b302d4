"""impacket with Kerberos tickets of a realm that the test starts.

impacket neither reads MIT's AS-REP nor gets a service ticket from it: kinit and kvno do, and it takes both
from the credential cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kdc import LocalKdc
from tests.support.capture import Capture, judge
from tests.support.host import OxidHost
from tests.support.netns import NetworkNamespace

pytestmark = [pytest.mark.peer("impacket", "unshare", "krb5kdc", "kadmin.local", "kinit", "kvno")]

NAME = "server.oxid.test"
SCRIPT = Path(__file__).parent / "scripts" / "impacket_dcom.py"


@pytest.fixture(scope="module")
def kdc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKdc]:
    with LocalKdc(tmp_path_factory.mktemp("realm")) as realm:
        realm.add_user("alice", "Secret-9")
        yield realm


@pytest.fixture(scope="module")
def tickets(kdc: LocalKdc, host: OxidHost) -> Path:
    """alice's tickets: to get tickets, and for our service, whose key the host has."""
    cache = kdc.ticket("alice", "Secret-9")
    subprocess.run(
        ["kvno", "-c", str(cache), f"host/{NAME}@{kdc.realm}"],
        env=os.environ | kdc.env,
        check=True,
        capture_output=True,
        timeout=30,
    )
    return cache


@pytest.fixture(scope="module")
def keytab(kdc: LocalKdc) -> Path:
    return kdc.keytab(f"host/{NAME}")


@pytest.fixture(scope="module")
def host(namespace: NetworkNamespace, kdc: LocalKdc, keytab: Path) -> Iterator[OxidHost]:
    options = ("--keytab", str(keytab), "--exporter-ports", "49152-49251")
    options += ("--advertise", NAME, "--advertise", "127.0.0.1")
    with OxidHost(namespace=namespace, ping_period=0.5, options=options, more_environment=kdc.env) as started:
        yield started


@pytest.mark.req("SEC-1", "SEC-9")
@pytest.mark.peer("tshark")
@pytest.mark.parametrize("level", ["integrity", "privacy"])
def test_the_calculators_life_with_kerberos_and_tshark_finds_nothing_malformed(
    host: OxidHost,
    namespace: NetworkNamespace,
    kdc: LocalKdc,
    keytab: Path,
    tickets: Path,
    tmp_path: Path,
    level: str,
) -> None:
    path = tmp_path / "kerberos.pcapng"
    with Capture(namespace, path):
        done = subprocess.run(
            [
                *namespace.prefix,
                sys.executable,
                str(SCRIPT),
                "life",
                *("--kerberos", "--user", "alice", "--domain", kdc.realm, "--password", ""),
                *("--target", NAME, "--remote-host", "127.0.0.1", "--level", level),
            ],
            env=os.environ | kdc.env | {"KRB5CCNAME": str(tickets)},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n--- host\n{host.log()[-4000:]}"
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["methods"]["add"] == 42
    assert seen["clone_adds"] == 23
    assert seen["still_there"] == 2
    verdict = judge(path, ports=["135", "49152-49251"], keytab=keytab)
    assert verdict.complaints == []
    assert verdict.sealed  # at integrity impacket seals the calls to the object all the same
    assert verdict.decrypted
    host.wait_for_rest()
