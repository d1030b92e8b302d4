"""`oxid agent`: its command line, and how programs start one when they need it."""

import select
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from tests.support.client_process import ClientProcess
from tests.support.host import OxidHost, environment, oxid_command, run_oxid
from tests.support.pings import agent_at, agent_pid, is_gone, wait_until

from oxid.samples.calculator import CLSID_CALCULATOR

PERIOD = 0.3
SLACK = 10.0


@contextmanager
def agent(path, *words):
    """An agent that is no daemon; its `ready` line."""
    process = subprocess.Popen(
        [*oxid_command(), "agent", "--socket", str(path), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(OXID_PING_PERIOD=str(PERIOD)),
    )
    try:
        assert select.select([process.stdout], [], [], 30)[0]
        process.ready = process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def test_it_says_when_it_is_ready_and_ends_without_a_word(tmp_path):
    path = tmp_path / "agent"
    with agent(path) as process:
        assert process.ready == f"ready agent={path}\n"
        assert agent_pid(path) == process.pid
        assert path.stat().st_mode & 0o777 == 0o600
        process.terminate()
        output, errors = process.communicate(timeout=SLACK)
        assert (process.returncode, output, errors) == (0, "", "")
    assert not path.exists()


def test_there_is_one_agent_for_a_socket_and_the_next_one_when_it_has_ended(tmp_path):
    path = tmp_path / "agent"
    with agent(path) as first:
        commands = [("agent", "--socket", str(path)), ("agent", "--socket", str(path), "--detach")]
        with ThreadPoolExecutor() as threads:
            for done in threads.map(lambda words: run_oxid(*words), commands):
                assert (done.returncode, done.stdout) == (3, "")
                assert done.stderr == f"oxid: another agent serves {path}\n"
        assert agent_pid(path) == first.pid
        first.kill()
        first.wait()
        assert path.exists()  # nobody tidied up
        with agent(path) as second:
            assert second.ready == f"ready agent={path}\n"
            assert agent_pid(path) == second.pid


def test_a_host_is_the_agent_of_its_machine():
    with OxidHost(ping_period=PERIOD) as host:
        socket_of_the_machine = host.directory / "agent"
        done = run_oxid("agent", OXID_AGENT_SOCKET=str(socket_of_the_machine))
        assert done.returncode == 3
        assert f"another agent serves {socket_of_the_machine}" in done.stderr


def test_what_it_cannot_do_is_one_sentence_and_not_another_agent(tmp_path):
    (tmp_path / "file").write_text("mine\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wrong = {
            ("--socket", f"{tmp_path}/{'x' * 120}"): (1, "107 are allowed"),
            ("--socket", f"{tmp_path}/file/agent"): (1, f"cannot make {tmp_path}/file/agent.lock"),
            ("--socket", f"{tmp_path}/file"): (1, f"{tmp_path}/file is there already, and is no socket"),
            ("--socket", f"{tmp_path}/a", "--rpc", f"127.0.0.1:{port}"): (
                1,
                f"cannot listen on 127.0.0.1:{port}",
            ),
            ("--socket", f"{tmp_path}/b", "--rpc", f"127.0.0.1:{port}", "--detach"): (1, "cannot listen on"),
            ("--rpc", "127.0.0.1"): (2, "Invalid value for '--rpc'"),
        }

        def tried(words):
            return run_oxid("agent", *words, OXID_AGENT_SOCKET=f"{tmp_path}/other")

        with ThreadPoolExecutor(2) as threads:
            for (code, said), done in zip(wrong.values(), threads.map(tried, wrong), strict=True):
                assert (done.returncode, done.stdout) == (code, ""), done.stderr
                assert said in done.stderr
                assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "mine\n"
    assert not any(each.is_socket() for each in tmp_path.iterdir())


def test_a_detached_one_returns_when_it_listens_and_ends_when_nobody_comes(tmp_path):
    with agent_at(tmp_path / "agent") as path:
        done = run_oxid("agent", "--socket", str(path), "--detach", OXID_PING_PERIOD="24")  # stays for 1 s
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        pid = agent_pid(path)
        assert pid is not None
        wait_until(lambda: is_gone(pid), SLACK, "it ends")
        assert not path.exists()


@pytest.mark.req("PNG-2", "B24")
def test_programs_that_need_an_agent_at_the_same_moment_start_one_which_ends_after_them(tmp_path):
    calculator = {"clsid": str(CLSID_CALCULATOR), "interface": "oxid.samples.calculator:ICalculator"}
    with agent_at(tmp_path / "agent") as path, OxidHost(ping_period=PERIOD) as host:

        def client(**more):
            return ClientProcess(host.port, period=PERIOD, **{"agent": path, **more})

        with client() as one, client() as two, client(agent=None) as alone:
            assert agent_pid(path) is None  # nobody holds anything
            oids = [each.do("activate", **calculator)[0] for each in (one, two, alone)]
            wait_until(lambda: one.do("handed_over") and two.do("handed_over"), 30)
            pid = agent_pid(path)
            assert "the machine's agent" not in alone.do("pinged_by")
            # Two programs that ping through it share one set; the third has its own.
            wait_until(lambda: host.live().get("ping_set") == 2, SLACK, "there are two sets")
            assert host.live()["pinged_oid"] == 3
            one.kill()
            wait_until(lambda: host.live().get("pinged_oid") == 2, SLACK, "what it held is let go")
            assert agent_pid(path) == pid
            assert two.do("call", oid=oids[1], method="add", arguments=(40, 2)) == 42
            two.end()
            wait_until(lambda: is_gone(pid), SLACK, "the agent ends")
            assert alone.do("call", oid=oids[2], method="add", arguments=(40, 2)) == 42
        assert agent_pid(path) is None
        host.wait_for_rest()


def test_a_command_that_holds_something_for_a_moment_starts_no_agent(tmp_path):
    path = tmp_path / "agent"
    with OxidHost(ping_period=5.0) as host:
        target = f"admin%Correct-Horse-9@127.0.0.1:{host.port}"
        told = {"OXID_AGENT": "auto", "OXID_AGENT_SOCKET": str(path)}
        done = run_oxid("call", target, "Oxid.Calculator", "add", "40", "2", **told)
        assert done.returncode == 0, done.stderr
        assert "42" in done.stdout
        assert not list(tmp_path.glob("agent*"))
        wrong = run_oxid(
            "call", target, "Oxid.Calculator", "add", "1", "2", **{**told, "OXID_AGENT": "perhaps"}
        )
        assert wrong.returncode == 1
        assert "perhaps" in wrong.stderr
        host.wait_for_rest(seconds=5)
