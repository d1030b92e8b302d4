"""Q292041 with real processes: servers on a static port come, are killed, and go. A1 to A3, A5, A7, A8, A12, A13, A15

"Memory is freed when a server with a static endpoint is activated or deactivated": so the port, the endpoint mapper's
row and the host's counts, descriptors and memory are looked at around every such life.
"""

import os
import re
import signal
import socket
import time
from contextlib import ExitStack
from random import Random

import pytest
from tests.support.client_process import ClientFailed, ClientProcess
from tests.support.endpoints import (
    EndpointHost,
    descriptors,
    dynamic,
    foreign_program,
    free_port,
    is_running,
    is_taken,
    kinds_of_descriptors,
    listening,
    resident,
    static,
    wait_for,
)
from tests.support.local_probe import APPID, CLSID_LOCAL, CLSID_SECOND

from oxid.runtime.control import ask

QUICK = 0.3
"""A ping period for scenarios that wait for the collector: T is three of them."""
GONE = "RPC_S_SERVER_UNAVAILABLE|RPC_S_CALL_FAILED|RPC_E_DISCONNECTED|TransportError"
"""What callers of a dead server hear."""
SOON_S = 10.0
"""What must come at once gets this long on a busy machine."""


def port_of(host):
    """Where the one server of the application listens."""
    (row,) = host.rows()
    return row.port


def released_life(host, client, clsid=CLSID_LOCAL):
    """A1: activate, call, release; the server ends."""
    (oid,) = client.do("activate", clsid=clsid)
    assert client.do("call", oid=oid) == "admin at 6"
    port = port_of(host)
    server = host.audit_serving(port)
    client.do("release", oid=oid)
    return port, server


def silent_life(host, period):
    """A2: the client is killed; the collector ends what it held."""
    with ClientProcess(host.port, period=period) as client:
        (oid,) = client.do("activate", clsid=CLSID_LOCAL)
        assert client.do("call", oid=oid) == "admin at 6"
        port = port_of(host)
        server = host.audit_serving(port)
        client.kill()
    return port, server


def killed_life(host, client):
    """A3: the server is killed under a call."""
    (oid,) = client.do("activate", clsid=CLSID_LOCAL)
    port = port_of(host)
    server = host.audit_serving(port)
    client.tell("call", oid=oid, method="wait", arguments=[60_000])
    wait_for(lambda: host.live().get("rpc_call", 0) >= 1, "the call is under way", says=host.log)
    os.kill(server, signal.SIGKILL)
    answer = client.hear(SOON_S)
    assert re.search(f"TransportError|{GONE}", answer["error"])
    with pytest.raises(ClientFailed, match=GONE):
        client.do("call", oid=oid)
    return port, server, oid


@pytest.mark.req("A1", "I1", "I2", "I3")
def test_server_after_server_has_the_same_port_and_one_row_and_costs_the_host_nothing(tmp_path, long_form):
    lives = 500 if long_form else 8
    port = free_port()
    memory = []
    with EndpointHost(tmp_path, [static(port)]) as host:
        with ClientProcess(host.port) as client:
            released_life(host, client)
        host.wait_for_rest()
        before, files = host.live(), kinds_of_descriptors(host.pid)
        with ClientProcess(host.port) as client:
            servers = set()
            for number in range(lives):
                found, server = released_life(host, client)
                assert found == port
                host.audit_gone(port)
                servers.add(server)
                host.wait_for_kinds("endpoint", "exporter", "local_server", "object", "interface_pointer")
                if number % 50 == 0:
                    memory.append(resident(host.pid))
        host.wait_for_rest()
        assert host.live() == before
        assert kinds_of_descriptors(host.pid) == files
        assert len(servers) == lives
        assert host.probe.count("made") == host.probe.count("ended") == lives + 1
        assert host.errors() == []
        if long_form:
            assert memory[-1] - memory[1] <= 1 << 20, memory


@pytest.mark.req("A2", "I1", "I2", "I3")
def test_a_server_whose_client_was_killed_is_collected_with_its_row_and_its_port(tmp_path, long_form):
    port = free_port()
    with EndpointHost(tmp_path, [static(port)], period=QUICK) as host:
        silent_life(host, QUICK)
        host.audit_gone(port)
        host.wait_for_rest()
        files = kinds_of_descriptors(host.pid)
        for _ in range(50 if long_form else 2):
            assert silent_life(host, QUICK)[0] == port
            host.audit_gone(port)
        host.wait_for_rest()
        assert kinds_of_descriptors(host.pid) == files
        assert host.probe.count("made") == host.probe.count("ended") == host.probe.count("stopped")
        assert host.errors() == []


@pytest.mark.req("A3", "I1", "I2", "I3")
def test_a_killed_server_leaves_its_port_free_at_once_and_the_next_activation_has_another(
    tmp_path, long_form
):
    port = free_port()
    with EndpointHost(tmp_path, [static(port)]) as host:
        with ClientProcess(host.port) as client:
            servers, files = set(), None
            for _ in range(50 if long_form else 3):
                found, server, oid = killed_life(host, client)
                assert found == port
                host.audit_gone(port)
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
                    probe.listen()
                host.wait_for_kinds("endpoint", "exporter", "local_server", "object", "interface_pointer")
                client.do("release", oid=oid)  # of what is gone: neither an error nor a wait
                assert server not in servers
                servers.add(server)
                files = files or kinds_of_descriptors(host.pid)
            assert released_life(host, client)[0] == port
            host.audit_gone(port)
        host.wait_for_rest()
        assert host.errors() == []


@pytest.mark.req("A5", "I1", "I2")
def test_whoever_activates_while_the_server_ends_gets_the_old_or_a_new_one_and_no_error(tmp_path, long_form):
    """The next server needs the port of the one that is just ending."""
    port = free_port()
    with EndpointHost(tmp_path, [static(port)]) as host:
        with ClientProcess(host.port) as client:
            (oid,) = client.do("activate", clsid=CLSID_LOCAL)
            for number in range(100 if long_form else 5):
                client.do("release", oid=oid)
                time.sleep(0.002 * (number % 5))  # somewhere in its end
                (oid,) = client.do("activate", clsid=(CLSID_LOCAL, CLSID_SECOND)[number % 2])
                assert client.do("call", oid=oid) == "admin at 6"
                assert host.ports() == [port]
            client.do("release", oid=oid)
            host.audit_gone(port)
        host.wait_for_rest()
        assert "could not be started" not in host.log()


@pytest.mark.req("A7", "I1", "I2")
def test_a_second_process_on_the_port_fails_with_its_name_and_the_first_serves_on(tmp_path):
    """A class for single use: each activation needs a process, and they would have one port."""
    port = free_port()
    with EndpointHost(tmp_path, [static(port)], "--single") as host:
        with ClientProcess(host.port) as first, ClientProcess(host.port) as second:
            (oid,) = first.do("activate", clsid=CLSID_LOCAL)
            server = host.audit_serving(port)
            with pytest.raises(ClientFailed, match=r"CO_E_SERVER_EXEC_FAILURE \(0x80080005\)"):
                second.do("activate", clsid=CLSID_LOCAL)
            wait_for(lambda: host.probe.running == [server], "the second process ends", says=host.log)
            assert re.search(rf"could not be started: cannot listen on 127.0.0.1:{port}\b", host.log())
            assert host.audit_serving(port) == server
            assert first.do("call", oid=oid) == "admin at 6"
            first.do("release", oid=oid)
            host.audit_gone(port)

            def served():
                try:
                    return second.do("activate", clsid=CLSID_LOCAL)
                except ClientFailed:
                    return None

            (oid,) = wait_for(served, "the port is free, and the class is served", says=host.log)
            second.do("release", oid=oid)
            host.audit_gone(port)
        host.wait_for_rest()


@pytest.mark.req("A8", "I1", "I3")
def test_a_foreign_program_on_the_port_is_named_once_in_a_while_and_forgotten_when_it_is_gone(tmp_path):
    port = free_port()
    with EndpointHost(tmp_path, [static(port)]) as host, ExitStack() as open_clients:
        clients = [open_clients.enter_context(ClientProcess(host.port)) for _ in range(4)]
        with foreign_program(port):
            began = time.monotonic()
            for client in clients * 5:  # a burst of twenty
                client.tell("activate", clsid=CLSID_LOCAL)
            for client in clients * 5:
                assert "CO_E_SERVER_EXEC_FAILURE (0x80080005)" in client.hear()["error"]
            took = time.monotonic() - began
            assert 1 <= host.probe.count("started") <= 1 + took  # not more than one a second
            assert f"cannot listen on 127.0.0.1:{port}" in host.log()
            assert host.rows() == []
            (inode,) = listening(port)
            assert f"socket:[{inode}]" in descriptors(os.getpid())
        wait_for(lambda: not host.probe.running, "nobody is left of the attempts")

        def served():
            try:
                return clients[0].do("activate", clsid=CLSID_LOCAL)
            except ClientFailed:
                return None

        (oid,) = wait_for(served, "the port is free, and the class is served", SOON_S, host.log)
        host.audit_serving(port)
        clients[0].do("release", oid=oid)
        host.audit_gone(port)
        open_clients.close()
        host.wait_for_rest()


@pytest.mark.req("A12", "I1", "I2", "I5")
def test_a_server_outlives_the_host_on_its_port_and_is_there_again_within_a_period(tmp_path):
    """Clients that are connected notice nothing; who looks for the exporter finds it again."""
    port, period = free_port(), 3.0
    with EndpointHost(tmp_path, [static(port)], period=period) as host:
        with ClientProcess(host.port, period=period) as client:
            (oid,) = client.do("activate", clsid=CLSID_LOCAL)
            server = host.audit_serving(port)
            sockets = listening(port)
            exporter = ask(host.state / "control", "object", oid=oid)["oxid"]
            for _ in range(2):
                host.crash()
                for _ in range(5):
                    assert client.do("call", oid=oid) == "admin at 6"
                assert listening(port) == sockets
                host.start_again()
                began = time.monotonic()
                wait_for(lambda: host.ports() == [port], "its row is there again", SOON_S, host.log)
                assert time.monotonic() - began < period
                assert client.do("call", oid=oid) == "admin at 6"
                assert listening(port) == sockets  # the same socket, and not one like it
                assert host.audit_serving(port) == server
                found = host.run("resolve", f"127.0.0.1:{host.port}", f"{exporter:016x}")
                assert found.returncode == 0, found.stderr
                assert f"[{port}]" in found.stdout
            (again,) = client.do("activate", clsid=CLSID_SECOND)
            assert host.probe.running == [server]  # whom the new host knows
            for held in (oid, again):
                assert client.do("call", oid=held) == "admin at 6"
                client.do("release", oid=held)
            host.audit_gone(port)
            assert released_life(host, client)[0] == port
            host.audit_gone(port)
        host.wait_for_rest()
        assert host.errors() == []


@pytest.mark.req("A13", "A1", "A2", "A3", "I1", "I2", "I3")
@pytest.mark.parametrize("around", ["dynamic endpoints", "a client that stays"])
def test_the_workarounds_of_the_article_change_nothing(tmp_path, around):
    """The same lives, the same looks: nothing needs them, nothing depends on them."""
    port, stays = free_port(), around == "a client that stays"
    with EndpointHost(tmp_path, [static(port) if stays else dynamic()], period=QUICK) as host:
        with ExitStack() as open_clients:
            client = open_clients.enter_context(ClientProcess(host.port, period=QUICK))
            keeper, kept = None, None
            if stays:
                keeper = open_clients.enter_context(ClientProcess(host.port, period=QUICK))
                (kept,) = keeper.do("activate", clsid=CLSID_LOCAL)
                rest = {**host.live()}

            def audit(found):
                if not stays:
                    host.audit_gone(found)
                    host.wait_for_kinds("endpoint", "exporter", "local_server", "object", "interface_pointer")
                    return
                assert found == port
                for kind in ("endpoint", "exporter", "local_server", "object", "interface_pointer"):
                    wait_for(lambda kind=kind: host.live().get(kind) == rest.get(kind), kind, says=host.log)
                host.audit_serving(port)
                assert keeper.do("call", oid=kept) == "admin at 6"

            for clsid in (CLSID_LOCAL, CLSID_SECOND, CLSID_LOCAL):
                audit(released_life(host, client, clsid)[0])
            audit(silent_life(host, QUICK)[0])
            found, _, dead = killed_life(host, client)
            if keeper is not None:
                with pytest.raises(ClientFailed):
                    keeper.do("call", oid=kept)
                (kept,) = keeper.do("activate", clsid=CLSID_LOCAL)
            audit(found)
            client.do("release", oid=dead)
            audit(released_life(host, client)[0])
            if keeper is not None:
                keeper.do("release_all")
                host.audit_gone(port)
        host.wait_for_rest()
        assert host.errors() == []


@pytest.mark.req("A1", "A11")
def test_a_class_with_an_endpoint_is_registered_from_the_command_line_while_the_host_runs(tmp_path):
    port = free_port()
    with EndpointHost(tmp_path, None) as host, ClientProcess(host.port) as client:
        with pytest.raises(ClientFailed, match="REGDB_E_CLASSNOTREG"):
            client.do("activate", clsid=CLSID_LOCAL)
        done = host.run(
            *("class", "register", CLSID_LOCAL, "--app", APPID, "--state", str(host.state)),
            *("--command", " ".join(host.command), "--endpoint", static(port)),
        )
        assert done.returncode == 0, done.stderr
        host.heard()
        assert released_life(host, client)[0] == port
        host.audit_gone(port)


# -- many at once --------------------------------------------------------------------------------------------


class Storm:
    """Clients that activate, call and release as they like, and somebody who kills them and their server."""

    def __init__(self, host, port, seed, clients=8):
        self.host, self.port, self.random = host, port, Random(seed)
        self.clients = [ClientProcess(host.port) for _ in range(clients)]
        self.held = [[] for _ in self.clients]
        self.doubtful = [set() for _ in self.clients]
        """Objects whose server may be dead."""
        self.killed_at = float("-inf")

    def round(self):
        asked = [self.ask(number) for number in range(len(self.clients))]
        killed = self.kill()
        for number, (what, oid) in enumerate(asked):
            if number != killed:
                self.hear(number, what, oid)
        if killed is not None:
            self.clients[killed].close()
            self.clients[killed] = ClientProcess(self.host.port)
            self.held[killed], self.doubtful[killed] = [], set()
        self.audit()

    def ask(self, number):
        held = self.held[number]
        what = self.random.choice(("activate", "activate", "call", "release") if held else ("activate",))
        oid = self.random.choice(held) if what != "activate" else None
        if what == "activate":
            clsid = self.random.choice((CLSID_LOCAL, CLSID_SECOND))
            self.clients[number].tell("activate", clsid=clsid)
        else:
            self.clients[number].tell(what, oid=oid)
        return what, oid

    def kill(self):
        """Nobody, the server, or a client, whose number is given."""
        what = self.random.choice(("nobody", "server", "client"))
        if what == "server" and (running := self.host.probe.running):
            os.kill(running[-1], signal.SIGKILL)
            self.killed_at = time.monotonic()
            for held, doubtful in zip(self.held, self.doubtful, strict=True):
                doubtful.update(held)
        if what == "client":
            number = self.random.randrange(len(self.clients))
            self.clients[number].kill()
            return number
        return None

    def hear(self, number, what, oid):
        answer = self.clients[number].hear()
        error = answer.get("error")
        # What is started anew after a kill may have been what was killed, and rests for a second then.
        lenient = time.monotonic() - self.killed_at < 5 or oid in self.doubtful[number]
        assert error is None or (self.killed_at > 0 and lenient), (
            f"{what}: {error}\n{self.host.log()[-3000:]}"
        )
        if what == "activate" and error is None:
            self.held[number] += answer["ok"]
        if what == "release" or (what == "call" and error is not None):
            self.held[number].remove(oid)
            self.doubtful[number].discard(oid)

    def audit(self):
        """I1, I2, I5 as soon as everybody has heard; never two rows, at no moment."""

        def consistent():
            rows, running = self.host.ports(), self.host.probe.running
            assert len(rows) <= 1
            if rows == [self.port]:
                return len(listening(self.port)) == 1 and len(running) == 1
            return not is_taken(self.port) and not running

        wait_for(consistent, "rows, sockets and servers agree", says=self.host.log)

    def end(self):
        """Everybody gives back what they hold, or ends without a word."""
        for number, client in enumerate(self.clients):
            if number % 2:
                client.do("release_all")
                client.end()
            client.close()


@pytest.mark.req("A15", "I1", "I2", "I3", "I5")
def test_many_activators_killed_and_killing_leave_one_row_or_none_and_nothing_at_the_end(tmp_path, long_form):
    port = free_port()
    with EndpointHost(tmp_path, [static(port)], period=0.5) as host:
        for seed in range(10 if long_form else 1):
            storm = Storm(host, port, seed)
            try:
                for _ in range(50 if long_form else 5):
                    storm.round()
                storm.end()
            finally:
                for client in storm.clients:
                    client.close()
            host.audit_gone(port)
            host.wait_for_rest()
        assert not any(is_running(pid) for pid in host.probe.pids("started"))
        assert "ERROR" not in host.log()
