"""What the scenarios of static endpoints (Q292041) stand on: ports, sockets, rows, and a host that can be reconfigured.

    port = free_port()
    with EndpointHost(tmp_path, [static(port)]) as host:
        host.rows()                          the endpoint mapper's rows of the application
        host.audit_serving(port)             one row, one listening socket, and it is the server's
        host.configure([dynamic()]); host.reload()
        host.crash(); host.start_again()     kill -9, and the same port and state directory again

Counting sockets and descriptors goes through /proc, so that nobody has to be asked who might be wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.support.host import PASSWORD, HostFailed, OxidHost, environment
from tests.support.local_probe import APPID, CLSID_LOCAL, CLSID_SECOND, probe_command

import oxid
from oxid.com.endpoints import list_endpoints
from oxid.interfaces.remote_unknown import IRemUnknown
from oxid.rpc.interface import spec_of
from oxid.runtime.control import ask

SAMPLES_APP = "2891faf8-c90a-45a8-a3c5-372c2948d626"
LIMIT_S = 30.0
"""For whatever must come, however busy the machine is."""


def free_port() -> int:
    """A port that nobody has at the moment, below those that the system gives to connections by itself."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        low = int(file.read().split()[0])
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            number = probe.getsockname()[1]
        wanted = 11_000 + number % 19_000
        if low < 30_000:
            return number
        try:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", wanted))
                return wanted
        except OSError:
            continue


def static(port: int) -> str:
    """A line of an application's endpoints."""
    return f"ncacn_ip_tcp,0,{port}"


def dynamic(number: int = 0) -> str:
    """The same for a port that the system chooses; another `number` is another configuration."""
    return f"ncacn_ip_tcp,{number},"


def wait_for(
    true: Callable[[], Any], what: str, within: float = LIMIT_S, says: Callable[[], str] | None = None
) -> Any:
    """Wait until something is so, and give it; AssertionError with `what` after a generous while."""
    until = time.monotonic() + within
    while not (found := true()):
        assert time.monotonic() < until, f"{what}: not so after {within:g} s\n{says() if says else ''}"
        time.sleep(0.02)
    return found


# -- sockets ----------------------------------------------------------------------------------------------


def listening(port: int) -> list[str]:
    """The inodes of the sockets that listen on a port of this machine."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                lines = file.read().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                found.append(fields[9])
    return found


def is_taken(port: int) -> bool:
    """Whether somebody listens on a port: cheaper than a look at all sockets of the machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def descriptors(pid: int) -> list[str]:
    """What the open descriptors of a process lead to."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue
    return found


def kinds_of_descriptors(pid: int) -> Counter[str]:
    """How many descriptors of each kind a process has open, once that stays the same for a while."""
    seen: list[Counter[str]] = []

    def steady() -> bool:
        seen.append(Counter(re.sub(r"\d+", "N", target) for target in descriptors(pid)))
        return len(seen) > 5 and seen[-1] == seen[-3] == seen[-5]

    wait_for(steady, "descriptors that stay", says=lambda: str(seen[-1]))
    return seen[-1]


def resident(pid: int) -> int:
    """The bytes of memory that a process occupies."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def is_running(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def foreign_program(port: int) -> Iterator[None]:
    """Somebody else listens on the port."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        yield


# -- the local servers' own word ---------------------------------------------------------------------------


class ProbeLog:
    """What local servers of `local_probe` wrote: `started`, `made`, `ended`, `stopped`, each with a process id."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pids(self, word: str) -> list[int]:
        lines = self.path.read_text().split("\n") if self.path.exists() else []
        split = (line.rpartition(" ") for line in lines)
        return [int(pid) for what, _, pid in split if what == word and pid.isdigit()]

    def count(self, word: str) -> int:
        return len(self.pids(word))

    @property
    def running(self) -> list[int]:
        """The servers that have not ended, whatever they say."""
        return [pid for pid in self.pids("started") if is_running(pid)]


# -- the host ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A row of the endpoint mapper that belongs to an application."""

    port: int
    app: str
    annotation: str


class EndpointHost(OxidHost):
    """A host whose configuration file has one application with a local server, and endpoints as told."""

    def __init__(
        self,
        directory: Path,
        endpoints: Sequence[str],
        *probe_options: str,
        period: float = 1.0,
        options: Sequence[str] = (),
        more: str = "",
        start_timeout: float = 30.0,
    ) -> None:
        """`probe_options` of the local server's script; `more` text for the configuration file."""
        self.config = directory / "oxid.toml"
        self.probe = ProbeLog(directory / "probe.log")
        self._probe_options = probe_options
        self._start_timeout = start_timeout
        self.configure(endpoints, more=more)
        # these scenarios count ports: those for proxies are another matter
        off = ("--ncacn-http", "off")
        super().__init__(ping_period=period, options=("--config", str(self.config), *off, *options))

    # Configuration ------------------------------------------------------------------------------------

    @property
    def command(self) -> list[str]:
        """What starts a local server of the application."""
        return probe_command(self.probe.path, *self._probe_options)

    def configure(
        self,
        endpoints: Sequence[str] | None,
        *,
        more: str = "",
        classes: Sequence[str] = (CLSID_LOCAL, CLSID_SECOND),
    ) -> None:
        """Write the configuration; None for one without the application. Nothing is read before `reload`."""
        text = more
        if endpoints is not None:
            text += app_table(APPID, endpoints, command=self.command, start_timeout=self._start_timeout)
            text += "".join(f'[[class]]\nclsid = "{clsid}"\napp = "{APPID}"\n' for clsid in classes)
        fresh = self.config.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.config)

    def reload(self) -> None:
        """SIGHUP, and wait until it has been heard."""
        os.kill(self.pid, signal.SIGHUP)
        self.heard()

    def heard(self) -> None:
        """Wait until the host has acted on what it was told."""
        # Signals come before what is asked later, and are acted on one turn later: two answers are enough.
        for _ in range(3):
            ask(self.state / "control", "status")

    # What is there ------------------------------------------------------------------------------------

    def rows(self, app: str = APPID) -> list[Row]:
        """The endpoint mapper's rows of an application."""
        return [row for row in self.all_rows() if row.app == app]

    def all_rows(self) -> list[Row]:
        """The endpoint mapper's rows of all applications."""

        async def look() -> list[Row]:
            options = oxid.ClientOptions(port=self.port, agent="own", call_timeout=LIMIT_S)
            async with oxid.connect("127.0.0.1", None, options=options) as machine:
                found = await list_endpoints(machine)
            wanted = spec_of(IRemUnknown).uuid
            return [
                Row(int(entry.binding.endpoint), str(entry.object), entry.annotation)
                for entry in found
                if entry.interface == wanted
            ]

        return asyncio.run(look())

    def ports(self, app: str = APPID) -> list[int]:
        return [row.port for row in self.rows(app)]

    def audit_serving(self, port: int, pid: int | None = None) -> int:
        """I1, I2: the server lives with exactly one row and one socket of its own; its process id."""
        assert self.ports() == [port], f"{self.rows()} where one row for {port} was expected"
        (server,) = (
            self.probe.running
            if pid is None
            else [p for p in self.probe.running if p == pid] or self.probe.running
        )
        (inode,) = listening(port)
        assert f"socket:[{inode}]" in descriptors(server), f"port {port} is not process {server}'s"
        return server

    def audit_gone(self, port: int) -> None:
        """I1, I2: no server, no row, no socket. Waits for what is just ending."""
        wait_for(lambda: not self.probe.running, "the local server ends", says=self.log)
        wait_for(lambda: not self.ports(), "its row goes", says=self.log)
        assert not listening(port), f"somebody still listens on {port}"

    def wait_for_kinds(self, *kinds: str) -> None:
        """Wait until the counts of these kinds are what they were at rest; clients may be connected."""

        def apart() -> list[str]:
            live = self.status()["live"]
            return [
                f"{k} {self.rest.get(k, 0)} -> {live[k]}" for k in kinds if live[k] != self.rest.get(k, 0)
            ]

        wait_for(lambda: not apart(), "counts at rest", says=lambda: f"{apart()}\n{self.log()[-4000:]}")

    def errors(self) -> list[str]:
        """Lines of the log that should not be there."""
        return [
            line
            for line in self.log().splitlines()
            if any(word in line for word in ("ERROR", "Traceback", "never retrieved", "Error:"))
        ]

    # Crashes ------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """kill -9 of the host alone; its local servers live on."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def start_again(self) -> None:
        """The same command, now on the port that the first one was given."""
        address = self.ready["rpc"]
        words = [str(word) for word in self.process.args]  # type: ignore[union-attr]
        words[words.index("--rpc") + 1] = address
        self.ready = {}
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment(OXID_ADMIN_PASSWORD=PASSWORD, OXID_AGENT_SOCKET=str(self.directory / "agent")),
            start_new_session=True,
        )
        self._read_ready_line()

    def _end_servers(self) -> None:
        """Whatever became of the test: no local server survives it."""
        for pid in self.probe.running:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            super().__exit__(kind, *rest)
            if kind is None and (left := self.probe.running):
                raise HostFailed(f"local servers {left} outlive their host")
        finally:
            self._end_servers()


def app_table(
    app: str, endpoints: Sequence[str] = (), *, command: Sequence[str] = (), start_timeout: float = 30.0
) -> str:
    """An `[[app]]` table of a configuration file."""
    lines = ["[[app]]", f'id = "{app}"', f"start_timeout = {start_timeout}"]
    if endpoints:
        lines.append(f"endpoints = {json.dumps(list(endpoints))}")
    if command:
        lines.append(f"command = {json.dumps(list(command))}")
    return "\n".join(lines) + "\n"
