"""Our client and our host with Kerberos tickets: MIT's KDC and its library are the peers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kdc import LocalKdc
from tests.support.host import OxidHost, run_oxid

pytestmark = [pytest.mark.peer("krb5kdc", "kadmin.local", "kinit")]


@pytest.fixture(scope="module")
def kdc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKdc]:
    with LocalKdc(tmp_path_factory.mktemp("realm")) as realm:
        realm.add_user("ann", "Secret-9")
        yield realm


@pytest.fixture(scope="module")
def ticket(kdc: LocalKdc) -> Path:
    return kdc.ticket("ann", "Secret-9")


@pytest.fixture(scope="module")
def host(kdc: LocalKdc) -> Iterator[OxidHost]:
    options = ("--keytab", str(kdc.keytab("host/localhost")), "--advertise", "localhost")
    with OxidHost(ping_period=0.5, options=options, more_environment=kdc.env) as started:
        yield started


@pytest.mark.req("SEC-1", "SEC-9", "SEC-11")
@pytest.mark.parametrize("level", ["integrity", "privacy"])
def test_a_ticket_is_enough_to_activate_and_call(
    host: OxidHost, kdc: LocalKdc, ticket: Path, level: str
) -> None:
    done = run_oxid(
        *("call", "--kerberos", "--level", level, "--json"),
        *(f"localhost:{host.port}", "Oxid.Calculator", "Add", "40", "2"),
        **{**kdc.env, "KRB5CCNAME": f"FILE:{ticket}"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"hresult": 0, "out": {"sum": 42}}
    assert f"authenticated as ann@{kdc.realm}, level {5 if level == 'integrity' else 6}" in host.log()
    host.wait_for_rest()


def test_no_ticket_is_one_line_with_a_remedy(host: OxidHost, kdc: LocalKdc, tmp_path: Path) -> None:
    done = run_oxid(
        *("activate", "--kerberos", f"localhost:{host.port}", "B81BB948-688D-436A-9EBA-5F37813E2375"),
        **{**kdc.env, "KRB5CCNAME": f"FILE:{tmp_path / 'none'}"},
    )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "kinit" in done.stderr


@pytest.mark.req("BLK-8", "SEC-11")
def test_a_server_with_keys_calls_sinks_of_a_client_with_keys_at_privacy(
    kdc: LocalKdc, ticket: Path, tmp_path: Path
) -> None:
    """The host calls back, and pings, as a principal of its own; neither end has a password."""
    identity = tmp_path / "identity"
    identity.touch(mode=0o600)
    identity.write_text(f"username = plant@{kdc.realm}\nkeytab = {kdc.keytab('plant')}\n")
    keys = str(kdc.keytab("host/localhost"))
    options = ("--keytab", keys, "--advertise", "localhost", "--identity", str(identity))
    script = Path(__file__).parent / "scripts" / "kerberos_sink.py"
    with OxidHost(ping_period=0.5, options=options, more_environment=kdc.env) as host:
        done = subprocess.run(
            [sys.executable, str(script), str(host.port), keys],
            env=os.environ
            | kdc.env
            | {
                "KRB5CCNAME": f"FILE:{ticket}",
                "OXID_PING_PERIOD": "0.5",
                "OXID_AGENT_SOCKET": str(tmp_path / "agent"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [f"{n} plant@{kdc.realm} 6" for n in (1, 2, 3)]
        host.wait_for_rest()


@pytest.mark.req("RH-26")
def test_a_ticket_opens_a_tunnel_and_what_is_behind_it(kdc: LocalKdc, ticket: Path, tmp_path: Path) -> None:
    """Negotiate at the web server as HTTP/localhost, Kerberos inside as host/localhost: no password anywhere."""
    keys = kdc.keytab("HTTP/localhost", kdc.keytab("host/localhost"))
    configuration = tmp_path / "oxid.toml"
    configuration.write_text("[rpc_proxy]\nallow_plain = true\n")
    options = ("--keytab", str(keys), "--advertise", "localhost", "--config", str(configuration))
    with OxidHost(options=options, more_environment=kdc.env) as host:
        web, port = (host.ready[name].rpartition(":")[2] for name in ("http", "ncacn_http"))
        for version in ("2", "1"):
            done = run_oxid(
                *("call", "--kerberos", "--proxy", f"http://localhost:{web}", "--proxy-version", version),
                *(f"localhost:{port}", "Oxid.Calculator", "Add", "40", "2"),
                **{**kdc.env, "KRB5CCNAME": f"FILE:{ticket}"},
            )
            assert (done.returncode, done.stdout) == (0, "sum = 42\n"), done.stderr
        host.wait_for_rest()
