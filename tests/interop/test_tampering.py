"""Whoever changes, repeats, reorders or unprotects a message on the wire is found out, on both ends.

Our client talks through a proxy to a real host. For each mechanism, level and attack the attacked end must
refuse: no answer to a request that was tampered with, no result out of a reply that was, and the connection
is of no use afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.kdc import LocalKdc
from tests.support import tamper
from tests.support.host import ADMIN, PASSWORD, OxidHost
from tests.support.tamper import REQUEST, RESPONSE, Rule, TamperProxy, Towards

from oxid.auth.context import AuthLevel, AuthType
from oxid.auth.credentials import Credentials, Password, Ticket
from oxid.errors import OxidError
from oxid.runtime.client import open_connection
from oxid.runtime.dispatch import Threads
from oxid.samples.echo import IEcho
from oxid.world import World

pytestmark = [pytest.mark.peer("krb5kdc", "kadmin.local", "kinit")]

SERVICE = "host/localhost"
LEVELS = {
    "connect": AuthLevel.CONNECT,
    "packet": AuthLevel.PKT,
    "integrity": AuthLevel.PKT_INTEGRITY,
    "privacy": AuthLevel.PKT_PRIVACY,
}
MECHANISMS = {"ntlm": AuthType.NTLM, "spnego": AuthType.SPNEGO, "kerberos": AuthType.KERBEROS}

# The first exchange passes; the second is attacked (reordered: the second and third).
ATTACKS: dict[str, Callable[[int], Rule]] = {
    "flip a header bit": lambda kind: tamper.flip(kind, 2, tamper.in_header),
    "flip a body bit": lambda kind: tamper.flip(kind, 2, tamper.in_stub),
    "flip a trailer bit": lambda kind: tamper.flip(kind, 2, tamper.in_trailer),
    "flip a signature bit": lambda kind: tamper.flip(kind, 2, tamper.in_signature),
    "replay": lambda kind: tamper.replay(kind, 2),
    "reorder": lambda kind: tamper.reorder(kind, 2),
    "strip the trailer": lambda kind: tamper.strip(kind, 2),
}


@pytest.fixture(scope="module")
def kdc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKdc]:
    with LocalKdc(tmp_path_factory.mktemp("realm")) as realm, pytest.MonkeyPatch.context() as patch:
        realm.add_user("ann", "Secret-9")
        for name, value in realm.env.items():
            patch.setenv(name, value)
        yield realm


@pytest.fixture(scope="module")
def ticket(kdc: LocalKdc) -> Path:
    return kdc.ticket("ann", "Secret-9")


@pytest.fixture(scope="module")
def host(kdc: LocalKdc) -> Iterator[OxidHost]:
    keytab = kdc.keytab(SERVICE)
    with OxidHost(ping_period=0.5, options=("--keytab", str(keytab)), more_environment=kdc.env) as started:
        yield started


@pytest.fixture(scope="module")
def echo_port(host: OxidHost) -> int:
    """Where Echo listens, asked of the endpoint mapper."""
    done = host.run(
        "epm", "map", "--json", f"127.0.0.1:{host.port}", "60a15ec5-4de8-11d7-a637-005056a20182/1.0"
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.rpartition("[")[2].partition("]")[0])


def credentials_for(mechanism: str, ticket: Path) -> Credentials:
    return Ticket(str(ticket)) if mechanism == "kerberos" else Password(ADMIN, PASSWORD)


async def attacked(
    echo_port: int, credentials: Credentials, mechanism: str, level: str, rule: Rule, towards: Towards
) -> tuple[TamperProxy, list[object]]:
    """One good call, two together of which the rule attacks the first or both, and one more."""
    threads = Threads(1)  # for Kerberos; the default ones live as long as the process
    async with (
        TamperProxy(("127.0.0.1", echo_port), rule, towards=towards) as proxy,
        open_connection(
            "127.0.0.1",
            proxy.port,
            world=World.real(),
            credentials=credentials,
            level=LEVELS[level],
            auth_type=MECHANISMS[mechanism],
            target=SERVICE,
            call_timeout=10.0,
            threads=threads,
        ) as connection,
    ):
        echo = await connection.proxy(IEcho)
        assert await echo.add_one(1) == 2
        outcomes = await asyncio.gather(echo.add_one(10), echo.add_one(20), return_exceptions=True)
        outcomes += await asyncio.gather(echo.add_one(30), return_exceptions=True)
    threads.close()
    return proxy, list(outcomes)


@pytest.mark.req("SEC-5", "SEC-6", "SEC-8", "SEC-9")
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("towards", ["server", "client"])
@pytest.mark.parametrize("level", [level for level in LEVELS if level != "connect"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_every_attack_is_refused_by_the_end_it_is_aimed_at(
    host: OxidHost,
    echo_port: int,
    ticket: Path,
    mechanism: str,
    level: str,
    towards: Towards,
    attack: str,
) -> None:
    rule = ATTACKS[attack](REQUEST if towards == "server" else RESPONSE)
    proxy, outcomes = asyncio.run(
        attacked(echo_port, credentials_for(mechanism, ticket), mechanism, level, rule, towards)
    )
    assert proxy.changed >= 1
    for right, outcome in zip((11, 21, 31), outcomes, strict=True):
        assert outcome == right or isinstance(outcome, OxidError), outcomes
    survivors = [outcome for outcome in outcomes if not isinstance(outcome, OxidError)]
    # Replayed messages were good the first time; nothing behind an attack gets through.
    assert survivors == ([11] if attack == "replay" else []), outcomes
    if towards == "server":
        answers = proxy.passed["client", RESPONSE]
        assert answers == (2 if attack == "replay" else 1)


@pytest.mark.parametrize("towards", ["server", "client"])
@pytest.mark.parametrize("attack", [name for name in ATTACKS if name != "strip the trailer"])
def test_where_nothing_is_protected_the_same_attacks_do_get_through(
    echo_port: int, towards: Towards, attack: str
) -> None:
    """At level connect; otherwise the tests above could pass because the proxy breaks connections."""
    rule = ATTACKS[attack](REQUEST if towards == "server" else RESPONSE)
    proxy, outcomes = asyncio.run(
        attacked(echo_port, Password(ADMIN, PASSWORD), "ntlm", "connect", rule, towards)
    )
    assert proxy.changed >= 1
    assert outcomes[2] == 31


def test_the_host_is_at_rest_after_all_attacks(host: OxidHost) -> None:
    host.wait_for_rest()
