"""The machines of a soak: a host with its local servers, and two client machines, which are an agent each.

    with open_stage(settings) as stage:
        stage.status()           the host's live counts
        await stage.rows()       its endpoint mapper's rows of an application
    # whatever happened, no process of the soak is left

Everything is on this machine's loopback. The host tells clients one address, at which the soak's relay listens; so
calls and pings can be held up. Clients of the near machine know another way as well, those of the far one do not.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from oxid.auth import Credentials, Password
from oxid.auth.account_file import FileAccountStore
from oxid.bench.rounds import Program, raise_descriptor_limit
from oxid.com.endpoints import list_endpoints
from oxid.com.machine import connect
from oxid.com.options import ClientOptions
from oxid.errors import ConfigurationError
from oxid.interfaces.remote_unknown import IRemUnknown
from oxid.rpc.interface import spec_of
from oxid.runtime.control import ask
from oxid.soak import processes
from oxid.soak.processes import TOKEN
from oxid.soak.resident import APP_DYNAMIC, APP_STATIC, CLSID_DYNAMIC, CLSID_STATIC
from oxid.soak.settings import Settings, Times

HERE: Final = "127.0.0.1"
MACHINES: Final = ("near", "far")
EXPORTER_PORTS: Final = 16
"""For the host's own objects and for local servers on dynamic endpoints; few are used at a time."""
USER: Final = Password("soak", "of clients")
HOST_USER: Final = Password("host", "of callbacks")
"""As whom the host calls its clients' sinks."""
CALL_S: Final = 20.0
"""A call that takes longer than this hangs."""


@dataclass
class Stage:
    """What runs, and where. Made by `open_stage`."""

    settings: Settings
    times: Times
    directory: Path
    token: str
    ports: tuple[int, ...]
    """Dynamic endpoints of the host and its servers: a range."""
    static_port: int
    relayed: str
    """The address that clients are told."""
    port: int = 0
    """Of the host's resolver."""
    programs: dict[str, Program] = field(default_factory=dict)
    """`host`, and the first agent of each machine."""

    @property
    def host(self) -> Program:
        return self.programs["host"]

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def errors(self) -> Path:
        """What the host and its local servers write to their error output."""
        return self.directory / "errors"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def agent(self, machine: str) -> Path:
        """The socket of a client machine's agent."""
        return self.directory / machine

    def environment(self, machine: str = "") -> dict[str, str]:
        """Of a process on one of the machines; the host's own for none."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OXID_")}
        kept |= {TOKEN: self.token, "MALLOC_ARENA_MAX": "2", "OXID_PING_PERIOD": f"{self.times.period:g}"}
        return {**kept, "OXID_AGENT_SOCKET": str(self.agent(machine or "server"))}

    # What the host says -------------------------------------------------------------------------------

    def status(self) -> dict[str, int]:
        """Live counts. Raises TransportError where the host does not answer."""
        return {kind: int(count) for kind, count in ask(self.state / "control", "status")["live"].items()}

    def about(self, oid: int) -> Mapping[str, Any]:
        """What the host knows of an object: `lives`, and its flight record under `events`. Raises TransportError."""
        return ask(self.state / "control", "object", oid=oid)

    async def rows(self, app: UUID | None = None) -> list[str]:
        """The endpoint mapper's rows of an application, or all; ports of an application's, else whole rows."""
        async with connect(HERE, None, options=self.options(agent="own")) as machine:
            found = await list_endpoints(machine)
        if app is None:
            return sorted(f"{e.interface} {e.object} {e.binding.endpoint} {e.annotation}" for e in found)
        return [
            e.binding.endpoint for e in found if e.object == app and e.interface == spec_of(IRemUnknown).uuid
        ]

    def options(self, **more: Any) -> ClientOptions:
        """For a client of the host."""
        return ClientOptions(port=self.port, ping_period=self.times.period, call_timeout=CALL_S, **more)

    def servers(self, which: str) -> list[int]:
        """The local servers that run: `static` or `dynamic`."""
        found = processes.children(self.host.pid)
        return [pid for pid, words in found.items() if words.endswith(f"oxid.soak.server {which}")]


@contextmanager
def open_stage(settings: Settings) -> Iterator[Stage]:
    """Start the host and the agents. Raises BenchFailed, ConfigurationError where that cannot be."""
    raise_descriptor_limit()
    directory = Path(tempfile.mkdtemp(prefix="oxid-soak-"))
    chance = random.Random(
        secrets.randbits(64)
    )  # ports and addresses are this machine's affair, not the seed's
    ports = _free_range(EXPORTER_PORTS, chance)
    stage = Stage(
        settings,
        Times.of(settings.period),
        directory,
        secrets.token_hex(8),
        ports,
        _free_port(chance, ports),
        f"127.{chance.randrange(64, 250)}.{chance.randrange(250)}.{chance.randrange(2, 250)}",
    )
    with ExitStack() as stack:
        if not settings.keep:
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
        stack.callback(end_all, stage)
        _prepare(stage)
        stage.programs["host"] = host = stack.enter_context(_host(stage))
        stage.port = int(host.line().split()[1].rpartition(":")[2])
        for machine in MACHINES:
            words = ["agent", "--socket", str(stage.agent(machine)), "--log-level", "warning"]
            started = Program(_leashed(stage, f"errors-{machine}", words), stage.environment(machine))
            stage.programs[machine] = agent = stack.enter_context(started)
            agent.line()
        yield stage


def end_all(stage: Stage) -> list[str]:
    """kill -9 whatever process of the soak is left; the commands of those that were."""
    left = processes.of_run(stage.token)
    return [f"{words} ({pid})" for pid, words in left.items() if processes.end(pid, stage.token)]


def identity_of(number: int) -> Credentials | None:
    """Who a client is: every other one is nobody."""
    return USER if number % 2 == 0 else None


def machine_of(number: int) -> str:
    """On which machine a client is: every third one is on the far one."""
    return "far" if number % 3 == 0 else "near"


def _prepare(stage: Stage) -> None:
    """Accounts, the host's own identity, and its configuration."""
    stage.state.mkdir(mode=0o700)
    accounts = FileAccountStore(stage.state / "accounts.json")
    accounts.add(USER.user, USER.password)
    identity = stage.directory / "identity"
    identity.touch(mode=0o600)
    identity.write_text(f"username = {HOST_USER.user}\npassword = {HOST_USER.password}\n")
    text = ""
    for which, app, clsid, port in (
        ("static", APP_STATIC, CLSID_STATIC, str(stage.static_port)),
        ("dynamic", APP_DYNAMIC, CLSID_DYNAMIC, ""),
    ):
        command = [sys.executable, "-P", "-m", "oxid.soak.server", which]
        text += f'[[app]]\nid = "{app}"\nname = "soak {which}"\ncommand = {json.dumps(command)}\n'
        text += f'endpoints = ["ncacn_ip_tcp,0,{port}"]\n[[class]]\nclsid = "{clsid}"\napp = "{app}"\n'
    (stage.directory / "oxid.toml").write_text(text)


def _host(stage: Stage) -> Program:
    words = ["serve", "--state", str(stage.state), "--config", str(stage.directory / "oxid.toml")]
    words += ["--rpc", f"{HERE}:0", "--advertise", stage.relayed, "--ping-period", f"{stage.times.period:g}"]
    words += ["--exporter-ports", f"{stage.ports[0]}-{stage.ports[-1]}", "--log-file", str(stage.log)]
    words += ["--ncacn-http", "off", "--http", "off"]
    words += ["--identity", str(stage.directory / "identity"), "--insecure-anonymous"]
    return Program(_leashed(stage, stage.errors.name, words), stage.environment())


def _leashed(stage: Stage, errors: str, words: list[str]) -> list[str]:
    return ["-m", "oxid.soak.leash", str(os.getpid()), str(stage.directory / errors), *words]


def _free_range(count: int, chance: random.Random) -> tuple[int, ...]:
    """So many ports in a row that nobody has, below those that the system gives to connections."""
    for _ in range(1000):
        low = chance.randrange(10_000, 32_000 - count)
        ports = tuple(range(low, low + count))
        if all(map(_is_free, ports)):
            return ports
    raise ConfigurationError(f"this machine has no {count} free ports in a row between 10000 and 32000")


def _free_port(chance: random.Random, taken: tuple[int, ...]) -> int:
    while (port := _free_range(1, chance)[0]) in taken:
        pass
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
