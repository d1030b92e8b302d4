"""tshark dissects what passed between each peer and us, at each level: nothing is malformed.

With the password it opens NTLM's sealed stubs and dissects those too.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.capture import Capture, Verdict, judge
from tests.support.host import ADMIN, PASSWORD, OxidHost, run_oxid
from tests.support.netns import NetworkNamespace
from tests.support.samba import write_configuration
from tests.support.torture import Torture

pytestmark = [pytest.mark.peer("tshark", "unshare")]

PORTS = ("135", "49152-49251")
REQUEST, RESPONSE, BIND, BIND_ACK = "0", "2", "11", "12"
IMPACKET = Path(__file__).parent / "scripts" / "impacket_dcom.py"


@pytest.fixture(scope="module")
def host(namespace: NetworkNamespace) -> Iterator[OxidHost]:
    options = ("--exporter-ports", "49152-49251")
    with OxidHost(namespace=namespace, ping_period=0.5, options=options) as started:
        yield started


def judged(path: Path, *, sealed: bool) -> Verdict:
    """tshark's verdict: no complaint, a whole session, and every sealed stub opened."""
    verdict = judge(path, ports=PORTS, password=PASSWORD)
    assert verdict.complaints == []
    assert verdict.pdus[BIND] >= 1
    assert verdict.pdus[BIND_ACK] == verdict.pdus[BIND]
    assert verdict.pdus[REQUEST] >= 1
    assert verdict.pdus[RESPONSE] >= 1
    assert bool(verdict.sealed) == sealed
    assert verdict.decrypted == verdict.sealed
    return verdict


@pytest.mark.peer("impacket")
@pytest.mark.parametrize("level", ["integrity", "privacy"])
def test_impacket(host: OxidHost, namespace: NetworkNamespace, tmp_path: Path, level: str) -> None:
    path = tmp_path / "impacket.pcapng"
    command = [*namespace.prefix, sys.executable, str(IMPACKET), "life", "--level", level]
    with Capture(namespace, path):
        subprocess.run([*command, "--password", PASSWORD], check=True, capture_output=True, timeout=60)
    judged(path, sealed=level == "privacy")


TORTURE = [
    *(
        f"{mechanism},{level}"
        for mechanism in ("ntlm", "spnego")
        for level in ("connect", "packet", "sign", "seal")
    ),
    "ntlm,seal,bigendian",
    "ntlm,seal,ndr64",
]


@pytest.mark.peer("smbtorture")
@pytest.mark.parametrize("binding", TORTURE)
def test_smbtorture(host: OxidHost, namespace: NetworkNamespace, tmp_path: Path, binding: str) -> None:
    path = tmp_path / "smbtorture.pcapng"
    with Capture(namespace, path):
        run = Torture(
            namespace,
            "rpc.echo",
            f"127.0.0.1[{binding}]",
            user=ADMIN,
            password=PASSWORD,
            configuration=write_configuration(tmp_path / "samba"),
            options=("--option=torture:quick=yes",),
        )
        run.output()
    judged(path, sealed="seal" in binding)


@pytest.mark.peer("rpcclient")
@pytest.mark.parametrize("level", ["connect", "sign", "seal"])
def test_rpcclient(host: OxidHost, namespace: NetworkNamespace, tmp_path: Path, level: str) -> None:
    path = tmp_path / "rpcclient.pcapng"
    configuration = write_configuration(tmp_path / "samba")
    with Capture(namespace, path):
        subprocess.run(
            [
                *namespace.prefix,
                "rpcclient",
                "-s",
                str(configuration),
                f"-U{ADMIN}%{PASSWORD}",
                f"ncacn_ip_tcp:127.0.0.1[135,{level}]",
                "-c",
                "epmlookup",
            ],
            check=True,
            capture_output=True,
            timeout=30,
        )
    judged(path, sealed=level == "seal")


@pytest.mark.parametrize("level", ["integrity", "privacy"])
def test_our_own_client(host: OxidHost, namespace: NetworkNamespace, tmp_path: Path, level: str) -> None:
    path = tmp_path / "oxid.pcapng"
    target = f"{ADMIN}%{PASSWORD}@127.0.0.1"
    calls = [("Add", "1", "2"), ("Greet", '"Ada"'), ("Sum", "[1, 2, 3]"), ("Divide", "1", "0"), ("Clone",)]
    with Capture(namespace, path):
        for command in (("epm", "list", target), ("ping", target)):
            assert run_oxid(*command, namespace=namespace).returncode == 0
        for call in calls:
            done = run_oxid("call", "--level", level, target, "Oxid.Calculator", *call, namespace=namespace)
            assert done.returncode == (1 if call[0] == "Divide" else 0), done.stderr
    judged(path, sealed=level == "privacy")
