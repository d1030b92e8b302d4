"""The commands against a real host process: what they print, how they fail, what they leave."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.host import ADMIN, PASSWORD, HostFailed, OxidHost, environment, run_oxid

CALCULATOR = "B81BB948-688D-436A-9EBA-5F37813E2375"
ICALCULATOR = "5859270E-BE58-4CA6-8157-B4CB6B24051B"
ECHO = "60a15ec5-4de8-11d7-a637-005056a20182"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def host() -> Iterator[OxidHost]:
    with OxidHost() as running:
        yield running


@pytest.fixture
def data(host: OxidHost) -> Callable[..., Any]:
    """Run a command as the administrator and read its JSON."""

    def run(command: str, *words: str) -> Any:
        done = host.run(*command.split(), f"{ADMIN}%{PASSWORD}@127.0.0.1:{host.port}", *words, "--json")
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return json.loads(done.stdout)

    return run


def test_ping_says_version_and_bindings(data: Callable[..., Any], host: OxidHost) -> None:
    said = data("ping")
    assert said["version"] == "5.7"
    proxied = host.ready["ncacn_http"].rpartition(":")[2]
    assert said["bindings"] == [
        f"ncacn_ip_tcp:127.0.0.1[{host.port}]",
        f"ncacn_http:127.0.0.1[{proxied}]",
    ]
    assert {entry["authn_service"] for entry in said["security"]} >= {9, 10}


def test_the_endpoint_mapper_lists_and_maps_echo(data: Callable[..., Any]) -> None:
    (binding,) = data("epm map", f"{ECHO}/1.0")
    row = next(row for row in data("epm list") if row["interface"] == ECHO)
    assert (row["version"], row["binding"]) == ("1.0", binding)


@pytest.mark.req("EPM-3")
def test_object_exporters_and_resolver_are_not_found_through_the_mapper(data: Callable[..., Any]) -> None:
    resolver, activator = "99fcfec4-5260-101b-bbcb-00aa0021347a", "000001a0-0000-0000-c000-000000000046"
    unknown = "00000131-0000-0000-c000-000000000046"
    data("activate", CALCULATOR, ICALCULATOR)
    listed = {row["interface"] for row in data("epm list")}
    assert ECHO in listed
    assert not listed & {resolver, activator, unknown, ICALCULATOR.lower()}


def test_activate_shows_identifiers_and_resolve_finds_them(data: Callable[..., Any], host: OxidHost) -> None:
    made = data("activate", CALCULATOR, ICALCULATOR, "00000000-0000-0000-c000-000000000099")
    assert [row["hresult"] for row in made["interfaces"]] == [0, 0x80004002]
    assert made["oid"] == made["interfaces"][0]["oid"]
    found = data("resolve", made["oxid"])
    assert found["bindings"] == made["bindings"]
    assert data("resolve", f"0x{made['oxid']}") == found
    host.wait_for_rest()


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["Add", "2", "-3"], {"sum": -1}),
        (["Divide", "1", "4"], {"quotient": 0.25}),
        (["Echo", "3", "hex:0102ff"], {"echoed": "hex:0102ff"}),
        (["Sum", "[1, 2147483647]"], {"sum": 2147483648}),
        (["Greet", "Wörld"], {"greeting": "Hello, Wörld"}),
        (["Sleep", "1"], {}),
    ],
)
def test_call_by_progid(data: Callable[..., Any], words: list[str], out: dict[str, Any]) -> None:
    assert data("call", "Oxid.Calculator", *words) == {"hresult": 0, "out": out}


def test_call_by_identifiers_returns_an_object(data: Callable[..., Any], host: OxidHost) -> None:
    made = data("call", CALCULATOR, ICALCULATOR, "Clone")["out"]["copy"]
    assert set(made) == {"oxid", "oid", "ipid"}
    host.wait_for_rest()


def test_a_failing_method_is_exit_code_1_with_its_hresult(host: OxidHost) -> None:
    target = f"{ADMIN}%{PASSWORD}@127.0.0.1:{host.port}"
    done = host.run("call", target, "Oxid.Calculator", "Divide", "1", "0", "--json")
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert (said["hresult"], said["out"], said["error"]["source"]) == (0x80020012, {}, "Oxid.Calculator")
    assert "0x80020012" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("target", "words", "said"),
    [
        (f"{ADMIN}%wrong@127.0.0.1:PORT", [CALCULATOR], "check user name and password"),
        ("nobody%x@127.0.0.1:PORT", [CALCULATOR], "check user name and password"),
        (f"{ADMIN}%{PASSWORD}@127.0.0.1:PORT", [ECHO], "REGDB_E_CLASSNOTREG"),
        (f"{ADMIN}%{PASSWORD}@127.0.0.1:1", [CALCULATOR], "check host, port and firewall"),
        (f"{ADMIN}%{PASSWORD}@no-such-host.invalid", [CALCULATOR], "no-such-host.invalid"),
        ("127.0.0.1:PORT", [CALCULATOR, "--anonymous"], "E_ACCESSDENIED"),
    ],
)
def test_what_goes_wrong_is_one_line_with_its_remedy(
    host: OxidHost, target: str, words: list[str], said: str
) -> None:
    done = host.run("activate", target.replace("PORT", str(host.port)), *words)
    assert done.returncode == 1
    assert done.stdout == ""
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "; " in done.stderr


def test_the_password_may_come_from_standard_input(host: OxidHost) -> None:
    words = ["call", f"{ADMIN}@127.0.0.1:{host.port}", "Oxid.Calculator", "Add", "1", "2", "--password-stdin"]
    assert host.run(*words, stdin=PASSWORD + "\n").stdout == "sum = 3\n"


@pytest.mark.parametrize("level", ["integrity", "privacy"])
def test_calls_work_at_each_level_that_objects_admit(host: OxidHost, level: str) -> None:
    target = f"{ADMIN}%{PASSWORD}@127.0.0.1:{host.port}"
    assert host.run("call", target, "Oxid.Calculator", "Add", "1", "2", "--level", level).returncode == 0


def test_a_time_out_and_a_slow_call_say_what_they_wait_for(host: OxidHost) -> None:
    target = f"{ADMIN}%{PASSWORD}@127.0.0.1:{host.port}"
    late = host.run("call", target, "Oxid.Calculator", "Sleep", "60000", "--timeout", "1.2")
    assert late.returncode == 1
    progress, failure = late.stderr.splitlines()
    assert progress == "oxid: calling Sleep …"
    assert "no answer from 127.0.0.1" in failure
    assert "--timeout" in failure


def test_a_new_account_is_seen_at_once(host: OxidHost) -> None:
    target = f"late%secret@127.0.0.1:{host.port}"
    assert host.run("activate", target, CALCULATOR).returncode == 1
    host.add_user("late", "secret")
    assert host.run("activate", target, CALCULATOR).returncode == 0


def test_sighup_keeps_the_host_running(host: OxidHost) -> None:
    os.kill(host.process.pid, signal.SIGHUP)
    assert host.run("ping", f"127.0.0.1:{host.port}").returncode == 0


def test_an_application_is_served_and_called(tmp_path: Path) -> None:
    app = tmp_path / "greeter.py"
    blocks = (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1:]
    app.write_text(next(block.split("```")[0] for block in blocks if "@coclass" in block))
    with OxidHost(app) as host:
        target = f"{ADMIN}%{PASSWORD}@127.0.0.1:{host.port}"
        done = host.run("call", target, "Example.Greeter", "Greet", "you", "--interfaces", str(app))
        assert done.stdout == 'greeting = "Hello, you"\n', done.stderr
        assert host.run("call", target, "Oxid.Calculator", "Add", "1", "2").returncode == 1
    assert host.stopped == "stopped live=0"


STUCK = """
import time
from oxid import U32, blocking, coclass, interface, operation
from oxid.interfaces.unknown import IUnknown

@interface("6a9b0a0e-5d3a-4f4e-8a55-4f0b5fd0c201")
class IStuck(IUnknown):
    @operation(3, out="n")
    async def wait(self) -> U32:
        raise NotImplementedError

@coclass("6a9b0a0e-5d3a-4f4e-8a55-4f0b5fd0c202", implements=[IStuck], progid="Example.Stuck")
class Stuck:
    @blocking
    def wait(self) -> int:
        time.sleep(3600)
"""


def test_a_method_that_never_ends_does_not_keep_the_host(tmp_path: Path) -> None:
    app = tmp_path / "stuck.py"
    app.write_text(STUCK)
    code = "import oxid.cli.serve as s; s.STOP_WITHIN_S = 1.5; from oxid.cli import main; main()"
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
            "serve",
            str(app),
            "--rpc",
            "127.0.0.1:0",
            "--state",
            str(tmp_path / "state"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(OXID_ADMIN_PASSWORD=PASSWORD),
    )
    with process:
        assert process.stdout is not None
        port = re.search(r"rpc=127.0.0.1:(\d+)", process.stdout.readline())
        assert port is not None
        target = f"{ADMIN}%{PASSWORD}@127.0.0.1:{port[1]}"
        called = run_oxid("call", target, "Example.Stuck", "Wait", "--interfaces", str(app), "--timeout", "1")
        assert called.returncode == 1
        process.terminate()
        said, complaint = process.communicate(timeout=10)
    assert process.returncode == 1
    assert said.startswith("stopped live=")
    assert "a handler does not end" in complaint


def test_an_address_that_is_taken_is_one_line_and_exit_code_1(host: OxidHost, tmp_path: Path) -> None:
    done = run_oxid("serve", "--rpc", f"127.0.0.1:{host.port}", "--state", str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"127.0.0.1:{host.port}" in done.stderr.splitlines()[-1]


def test_two_hosts_do_not_share_a_state_directory(host: OxidHost) -> None:
    done = run_oxid("serve", "--rpc", "127.0.0.1:0", "--state", str(host.state))
    assert done.returncode == 1
    assert "another host serves" in done.stderr


@pytest.mark.req("dcom§3.order")
def test_addresses_that_lead_nowhere_do_not_keep_a_client_from_those_that_do() -> None:
    with OxidHost(options=["--advertise", "nowhere.invalid", "--advertise", "192.0.2.1"]) as host:
        target = f"{ADMIN}%{PASSWORD}@127.0.0.1:{host.port}"
        told = json.loads(host.run("ping", target, "--json").stdout)["bindings"]
        assert [binding.partition("[")[0] for binding in told] == [
            "ncacn_ip_tcp:nowhere.invalid",
            "ncacn_ip_tcp:192.0.2.1",
            "ncacn_http:nowhere.invalid",
            "ncacn_http:192.0.2.1",
        ]
        assert host.run("call", target, "Oxid.Calculator", "Add", "1", "2").stdout == "sum = 3\n"


def test_an_ipv6_listener_is_written_in_brackets() -> None:
    try:
        with OxidHost(rpc="[::1]:0") as host:
            assert host.ready["rpc"].startswith("[::1]:")
            assert host.run("ping", f"[::1]:{host.port}").returncode == 0
    except HostFailed as error:
        if "Cannot assign requested address" not in str(error):
            raise
