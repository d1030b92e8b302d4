"""impacket's own programs, as they come: rpcdump.py lists the endpoint mapper, rpcmap.py asks mgmt."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.host import ADMIN, PASSWORD, OxidHost
from tests.support.netns import NetworkNamespace

pytestmark = [pytest.mark.peer("impacket", "unshare")]

ECHO = "60A15EC5-4DE8-11D7-A637-005056A20182"


@pytest.fixture(scope="module")
def host(namespace: NetworkNamespace) -> Iterator[OxidHost]:
    with OxidHost(namespace=namespace) as started:
        yield started


def tool(host: OxidHost, program: str, *arguments: str) -> str:
    """The output of one of impacket's installed programs."""
    assert host.namespace is not None
    path = Path(sysconfig.get_path("scripts")) / program
    done = subprocess.run(
        [*host.namespace.prefix, sys.executable, "-W", "ignore", str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.req("rpce§6.ept_lookup", "rpce§6.tower", "rpce§6.entry")
def test_rpcdump_lists_what_is_registered(host: OxidHost) -> None:
    listing = tool(host, "rpcdump.py", "127.0.0.1")
    assert ECHO in listing
    assert "ncacn_ip_tcp:127.0.0.1[" in listing
    assert "Protocol failed" not in listing


@pytest.mark.req("rpce§6.mgmt")
@pytest.mark.parametrize("level", ["1", "2", "5", "6"])
def test_rpcmap_learns_the_interfaces_from_mgmt(host: OxidHost, level: str) -> None:
    listing = tool(
        host,
        "rpcmap.py",
        "-auth-level",
        level,
        *(["-auth-rpc", f"{ADMIN}:{PASSWORD}"] if level != "1" else []),
        "ncacn_ip_tcp:127.0.0.1[135]",
    )
    for interface in (
        "E1AF8308-5D1F-11C9-91A4-08002B14A0FA",  # endpoint mapper
        "99FCFEC4-5260-101B-BBCB-00AA0021347A",  # IObjectExporter
        "4D9F4AB8-7D1C-11CF-861E-0020AF6E7C57",  # IActivation
        "000001A0-0000-0000-C000-000000000046",  # IRemoteSCMActivator
    ):
        assert interface in listing
    assert "Protocol failed" not in listing


def test_rpcmap_tries_operations_of_a_known_interface_and_the_host_survives(host: OxidHost) -> None:
    listing = tool(
        host,
        "rpcmap.py",
        "-brute-opnums",
        "-opnum-max",
        "12",
        "-auth-level",
        "6",
        "-auth-rpc",
        f"{ADMIN}:{PASSWORD}",
        "ncacn_ip_tcp:127.0.0.1[135]",
    )
    assert "nca_s_op_rng_error" in listing or "rpc_x_bad_stub_data" in listing
    host.wait_for_rest()
