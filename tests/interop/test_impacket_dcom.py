"""impacket's DCOM client against a real host: every activation path, level and method."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.host import PASSWORD, OxidHost
from tests.support.netns import NetworkNamespace

pytestmark = [pytest.mark.peer("impacket", "unshare")]

HERE = Path(__file__).parent
SCRIPT = HERE / "scripts" / "impacket_dcom.py"
REFEREE = HERE / "apps" / "referee.py"


@pytest.fixture(scope="module")
def host(namespace: NetworkNamespace) -> Iterator[OxidHost]:
    with OxidHost("oxid.samples", REFEREE, namespace=namespace, ping_period=0.5) as started:
        yield started


def impacket(host: OxidHost, *arguments: str, password: str = PASSWORD) -> dict[str, Any]:
    """Run one of the script's stories and return what it saw."""
    assert host.namespace is not None
    done = subprocess.run(
        [*host.namespace.prefix, sys.executable, str(SCRIPT), *arguments, "--password", password],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n--- host\n{host.log()[-4000:]}"
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


@pytest.mark.req("ACT-1", "ACT-2", "ORPC-1", "ORPC-5", "dcom§3.STDOBJREF", "NDR-10")
@pytest.mark.parametrize("level", ["integrity", "privacy"])
@pytest.mark.parametrize("activation", ["scm", "classobj", "remact"])
def test_impacket_activates_queries_calls_clones_and_releases(
    host: OxidHost, activation: str, level: str
) -> None:
    seen = impacket(host, "life", "--activation", activation, "--level", level)
    assert seen.pop("public_refs") > 0
    methods = seen.pop("methods")
    assert methods.pop("error_info_says_source") >= 0
    assert "bad_stub_data" in methods.pop("size_unlike_array")
    assert methods == {
        "add": 42,
        "divide": 0.125,
        "divide_by_zero": 0x8002_0012,
        "overflow": 0x8002_000A,
        "echo": True,
        "echo_nothing": 0,
        "sum": 2 * (2**31 - 1) - 5,
        "greet": "Hello, Grüße, 世界\0",
        "sleep": 0,
    }
    assert seen.pop("no_such_interface") == 0x8000_4002
    assert seen.pop("clone_is_gone")
    assert seen == {
        "queried_another_ipid": True,
        "queried_same_ipid": True,
        "add_ref": [0],
        "clone_is_another_object": True,
        "clone_adds": 23,
        "still_there": 2,
    }
    host.wait_for_rest()


@pytest.mark.req("dcom§3.unmarshal-own")
@pytest.mark.parametrize("level", ["integrity", "privacy"])
def test_impacket_passes_interface_pointers_as_parameters_and_gets_them_back(
    host: OxidHost, level: str
) -> None:
    seen = impacket(host, "pointers", "--level", level)
    assert seen == {
        "add_through": 111,
        "null_pointer": 0x8000_4003,
        "keep": 0,
        "same_object": True,
        "kept_adds": 13,
    }
    host.wait_for_rest()


@pytest.mark.req("dcom§4.ComplexPing", "dcom§4.SimplePing")
def test_an_object_lives_while_impacket_pings_and_goes_when_it_stops(host: OxidHost) -> None:
    seen = impacket(host, "pings", "--seconds", "2.5", "--ping-period", str(host.ping_period))
    assert len(seen["adds"]) >= 6
    assert set(seen["adds"]) == {2}
    host.wait_for_rest()


@pytest.mark.req("dcom§5.anonymous")
@pytest.mark.parametrize("level", ["none", "privacy"])
def test_anonymous_callers_are_let_in_only_where_a_lab_says_so(
    host: OxidHost, namespace: NetworkNamespace, level: str
) -> None:
    anonymous = [*namespace.prefix, sys.executable, str(SCRIPT), "life", "--user", "", "--level", level]
    refused = subprocess.run(anonymous, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert "E_ACCESSDENIED" in refused.stderr
    host.wait_for_rest()
    with (
        NetworkNamespace() as lab,
        OxidHost(namespace=lab, ping_period=0.5, options=["--insecure-anonymous"]) as open_to_all,
    ):
        seen = impacket(open_to_all, "life", "--user", "", "--level", level, password="")
        assert seen["methods"]["add"] == 42
        open_to_all.wait_for_rest()
