"""Our client against Samba's server: endpoint mapper and management."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.support.host import run_oxid
from tests.support.netns import NetworkNamespace
from tests.support.samba import PASSWORD, USER, SambaServer

pytestmark = [pytest.mark.peer("samba", "smbpasswd", "unshare")]

WINREG = "338cd001-2244-31f1-aaaa-900038001003"
NOT_REGISTERED = "60a15ec5-4de8-11d7-a637-005056a20182"  # Debian's Samba has no rpcecho


@pytest.fixture(scope="module")
def samba(namespace: NetworkNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SambaServer]:
    with SambaServer(namespace, tmp_path_factory.mktemp("samba")) as server:
        yield server


LEVELS = ("connect", "packet", "integrity", "privacy")
CALLERS = [["127.0.0.1"], *(["--level", level, f"{USER}%{PASSWORD}@127.0.0.1"] for level in LEVELS)]


@pytest.mark.parametrize("caller", CALLERS)
def test_the_list_of_its_endpoints(samba: SambaServer, caller: list[str]) -> None:
    done = run_oxid("epm", "list", "--json", *caller, namespace=samba.namespace)
    assert done.returncode == 0, done.stderr
    listing = json.dumps(json.loads(done.stdout)).lower()
    assert WINREG in listing
    assert "ncacn_np" in listing  # it has more than we can reach


@pytest.mark.parametrize("caller", CALLERS)
def test_where_an_interface_is(samba: SambaServer, caller: list[str]) -> None:
    done = run_oxid("epm", "map", "--json", *caller, f"{WINREG}/1.0", namespace=samba.namespace)
    assert done.returncode == 0, done.stderr
    assert "491" in done.stdout


def test_an_interface_that_is_not_registered(samba: SambaServer) -> None:
    done = run_oxid(
        "epm", "map", "--anonymous", "127.0.0.1", f"{NOT_REGISTERED}/1.0", namespace=samba.namespace
    )
    assert done.returncode == 1
    assert "16c9a0d6" in done.stderr.lower()


def test_a_wrong_password_is_an_authentication_error(samba: SambaServer) -> None:
    done = run_oxid("epm", "list", f"{USER}%wrong@127.0.0.1", namespace=samba.namespace)
    assert done.returncode == 1
    assert "password" in done.stderr.lower()
