"""Our client against Samba's server: endpoint mapper and management."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from itertools import product
from uuid import UUID

import pytest
from tests.support.absent import absent
from tests.support.host import run_oxid
from tests.support.netns import NetworkNamespace
from tests.support.samba import PASSWORD, USER, SambaServer

from oxid.auth.context import AuthLevel, AuthType
from oxid.auth.credentials import Password
from oxid.errors import AccessDenied, AuthenticationError, OxidError
from oxid.interfaces.endpoint_map import IEndpointMap
from oxid.interfaces.management import IManagement
from oxid.ndr.types import NULL_HANDLE
from oxid.rpc.tower import Tower
from oxid.runtime.client import open_connection
from oxid.world import World

pytestmark = [pytest.mark.peer("samba", "smbpasswd", "unshare")]

ENDPOINT_MAP = UUID("e1af8308-5d1f-11c9-91a4-08002b14a0fa")
MANAGEMENT = UUID("afa8bd80-7d8a-11c9-bef4-08002b102989")
WINREG = UUID("338cd001-2244-31f1-aaaa-900038001003")
NOT_REGISTERED = "60a15ec5-4de8-11d7-a637-005056a20182"  # Debian's Samba has no rpcecho
NO_MORE_ENTRIES = 0x16C9_A0D6

MECHANISMS = (AuthType.NTLM, AuthType.SPNEGO)
LEVELS = (AuthLevel.CONNECT, AuthLevel.PKT, AuthLevel.PKT_INTEGRITY, AuthLevel.PKT_PRIVACY)
SECURITY = [None, *product(MECHANISMS, LEVELS)]


@pytest.fixture(scope="module")
def samba(namespace: NetworkNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SambaServer]:
    if os.geteuid() != 0:
        absent("Samba as a server needs root")
    with SambaServer(namespace, tmp_path_factory.mktemp("samba")) as server:
        yield server


async def towers(mapper: IEndpointMap, at_a_time: int) -> list[Tower]:
    """Everything that is registered."""
    found: list[Tower] = []
    handle = NULL_HANDLE
    while True:
        reply = await mapper.lookup(0, None, None, 1, handle, at_a_time)
        assert reply.status in (0, NO_MORE_ENTRIES)
        found += [Tower.decode(entry.tower.octets) for entry in reply.entries if entry.tower is not None]
        handle = reply.entry_handle
        if handle == NULL_HANDLE:
            return found


async def asked(security: tuple[AuthType, AuthLevel] | None) -> tuple[list[Tower], set[UUID], bool, int]:
    """What Samba's endpoint mapper and management say, over one connection."""
    options = {}
    if security is not None:
        mechanism, level = security
        options = {"credentials": Password(USER, PASSWORD), "auth_type": mechanism, "level": level}
    async with open_connection(
        "127.0.0.1", 135, world=World.real(), call_timeout=10.0, **options
    ) as connection:
        listed = await towers(await connection.proxy(IEndpointMap), 7)
        management = await connection.proxy(IManagement)
        vector, _ = await management.inq_if_ids()
        assert vector is not None
        status, listening = await management.is_server_listening()
        assert status == 0
        stop = await management.stop_server_listening()
        return listed, {each.uuid for each in vector.ids if each is not None}, bool(listening), stop


@pytest.mark.req("rpce§6.ept_lookup", "rpce§6.tower", "rpce§6.mgmt", "SEC-1", "BND-2")
@pytest.mark.parametrize("security", SECURITY, ids=str)
def test_its_endpoint_mapper_and_its_management(
    samba: SambaServer, security: tuple[AuthType, AuthLevel] | None
) -> None:
    listed, interfaces, listening, stop = samba.namespace.call(lambda: asyncio.run(asked(security)))
    assert len(listed) > 20  # so it took several look-ups with a handle
    assert any(t.interface == WINREG and t.protseq == "ncacn_ip_tcp" for t in listed)
    assert any(t.protseq == "ncacn_np" for t in listed)
    assert interfaces == {ENDPOINT_MAP, MANAGEMENT}
    assert listening
    assert stop == 5


def test_a_wrong_password_is_an_error_of_authentication(samba: SambaServer) -> None:
    async def story() -> None:
        async with open_connection(
            "127.0.0.1", 135, world=World.real(), credentials=Password(USER, "wrong"), call_timeout=10.0
        ) as connection:
            await (await connection.proxy(IManagement)).is_server_listening()

    def run() -> OxidError:
        with pytest.raises((AuthenticationError, AccessDenied)) as caught:
            asyncio.run(story())
        return caught.value

    samba.namespace.call(run)


@pytest.mark.parametrize("account", ["", f"{USER}%{PASSWORD}@"])
def test_the_command_line_lists_and_maps(samba: SambaServer, account: str) -> None:
    target = f"{account}127.0.0.1"
    done = run_oxid("epm", "list", target, namespace=samba.namespace)
    assert done.returncode == 0, done.stderr
    assert str(WINREG) in done.stdout.lower()
    done = run_oxid("epm", "map", target, f"{WINREG}/1.0", namespace=samba.namespace)
    assert done.returncode == 0, done.stderr
    assert "[491" in done.stdout
    done = run_oxid("epm", "map", target, f"{NOT_REGISTERED}/1.0", namespace=samba.namespace)
    assert done.returncode == 1
    assert "not registered" in done.stderr.lower() or "16c9a0d6" in done.stderr.lower()
