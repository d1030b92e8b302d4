"""tshark dissects what passed through the proxy, ours and impacket's: RTS and RPC, and nothing is malformed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.capture import Capture, Verdict, judge
from tests.support.gateway import TARGET, Gateway
from tests.support.host import PASSWORD, run_oxid
from tests.support.netns import NetworkNamespace
from tests.support.rpch_unwrap import PORT, RTS, Session, unwrap, write

pytestmark = [pytest.mark.peer("tshark", "unshare")]

IMPACKET = Path(__file__).parent / "scripts" / "impacket_tunnel.py"
PROXY = "http://localhost/rpc/rpcproxy.dll"
REQUEST, RESPONSE, BIND, BIND_ACK = "0", "2", "11", "12"


@pytest.fixture(scope="module")
def gateway(namespace: NetworkNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(namespace, tmp_path_factory.mktemp("gateway")) as started:
        assert started.echo_port
        yield started


def judged(path: Path) -> tuple[list[Session], Verdict]:
    """The tunnels of a capture, and tshark's verdict on them: no complaint, and every sealed stub opened.

    Not for impacket at level privacy: it does not pad its sealed stubs, which tshark calls malformed.
    """
    plain = path.with_suffix(".plain.pcap")
    sessions = unwrap(path, ports=["80"])
    write(sessions, plain)
    verdict = judge(plain, ports=[str(PORT)], password=PASSWORD)
    assert verdict.complaints == []
    assert sum(session.types().total() for session in sessions) == verdict.pdus.total()
    assert verdict.pdus[BIND] == verdict.pdus[BIND_ACK] >= 1
    assert verdict.pdus[RESPONSE] == verdict.pdus[REQUEST] >= 1
    assert verdict.decrypted == verdict.sealed
    return sessions, verdict


def ours(namespace: NetworkNamespace, version: str, *words: str) -> None:
    done = run_oxid(
        "call",
        "--proxy",
        PROXY,
        "--proxy-version",
        version,
        TARGET,
        "Oxid.Calculator",
        *words,
        namespace=namespace,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.req("RH-40", "RH-70", "RH-71")
def test_version_2_of_our_client(gateway: Gateway, namespace: NetworkNamespace, tmp_path: Path) -> None:
    with Capture(namespace, tmp_path / "ours.pcapng"):
        ours(namespace, "2", "Echo", '"hex:' + "5a" * 20_000 + '"')
    sessions, verdict = judged(tmp_path / "ours.pcapng")
    assert all(session.methods == {"RPC_IN_DATA", "RPC_OUT_DATA"} for session in sessions)
    for session in sessions:  # A1 and B1, A3 and C2
        assert session.types()[RTS] >= 4
        assert [pdu.type for pdu in session.pdus if not pdu.to_server][:2] == [RTS, RTS]
    assert verdict.pdus[str(RTS)] >= 4 * len(sessions)
    assert verdict.sealed


@pytest.mark.req("RH-3", "RH-11")
def test_version_1_of_our_client(gateway: Gateway, namespace: NetworkNamespace, tmp_path: Path) -> None:
    with Capture(namespace, tmp_path / "ours.pcapng"):
        ours(namespace, "1", "Add", "1", "2")
    sessions, verdict = judged(tmp_path / "ours.pcapng")
    assert all(session.methods == {"RPC_CONNECT"} for session in sessions)
    assert verdict.pdus[str(RTS)] == 0


@pytest.mark.peer("impacket")
@pytest.mark.req("RH-40")
@pytest.mark.parametrize("http_auth", ["basic", "ntlm"])
def test_impacket(gateway: Gateway, namespace: NetworkNamespace, tmp_path: Path, http_auth: str) -> None:
    with Capture(namespace, tmp_path / "impacket.pcapng"):
        subprocess.run(
            [
                *(*namespace.prefix, sys.executable, str(IMPACKET), "echo", "--url", PROXY),
                *("--password", PASSWORD, "--port", str(gateway.echo_port), "--http-auth", http_auth),
                *("--level", "integrity", "--bytes", "51200"),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
    (session,), verdict = judged(tmp_path / "impacket.pcapng")
    assert session.methods == {"RPC_IN_DATA", "RPC_OUT_DATA"}
    assert verdict.pdus[str(RTS)] > 4  # acknowledgements too


def test_captured_or_not_they_leave_the_host_at_rest(gateway: Gateway) -> None:
    gateway.at_rest()
