"""The processes of `oxid soak http`: the host under load, and the servers behind its proxy.

    with open_stage(settings) as stage:
        stage.status()            the host's live counts, and how many there have been
        stage.memory(trim=True)   its tables and objects
    # whatever happened, no process of the soak is left

The host is a real `oxid serve` with web server, extensions, RPC proxy, resolver and the samples' objects.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from oxid.auth.account_file import FileAccountStore
from oxid.bench.rounds import Program, raise_descriptor_limit
from oxid.com.endpoints import list_endpoints
from oxid.com.machine import connect
from oxid.com.options import ClientOptions
from oxid.errors import ConfigurationError
from oxid.runtime.control import ask
from oxid.runtime.proxy_route import ProxyRoute
from oxid.soak import processes
from oxid.soak.http_client import Part
from oxid.soak.http_pages import BIG, BIG_PIECE, BIG_SIZE, SMALL, SMALL_BODY
from oxid.soak.http_settings import HttpSettings
from oxid.soak.http_wire import ECHO, HERE, LIFE, PASSWORD, USER
from oxid.soak.processes import TOKEN

CLIENTS_OF_A_PROCESS: Final = 32
ASK_S: Final = 30.0
"""For an answer of a host that is busy, or compares what it remembers of its memory."""

_CONFIGURATION: Final = """
[rpc_proxy]
allow_plain = true
out_lifetime = {life}
valid_ports = "{here}:1-65535"

[[site]]
root = {root}
access = ["read", "script"]
[site.log]
directory = {log}
delay = 0.2
[[site.dir]]
path = "/app"
access = ["read", "script", "execute"]
modules = ["soak,isapi:oxid.soak.http_extension:Soak", "threaded,isapi:oxid.soak.http_extension"]
"""


@dataclass
class HttpStage:
    """What runs, and where. Made by `open_stage`."""

    settings: HttpSettings
    directory: Path
    token: str
    programs: dict[str, Program] = field(default_factory=dict)
    """`host` and `servers`."""
    ports: dict[str, int] = field(default_factory=dict)
    """As a client wants them."""

    @property
    def host(self) -> Program:
        return self.programs["host"]

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def errors(self) -> Path:
        """What the host writes to its error output."""
        return self.directory / "errors"

    @property
    def access_log(self) -> Path:
        return self.directory / "access"

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OXID_")}
        agent = str(self.directory / "agent")
        return {
            **kept,
            TOKEN: self.token,
            "MALLOC_ARENA_MAX": "2",
            "OXID_AGENT": "own",
            "OXID_AGENT_SOCKET": agent,
        }

    def status(self) -> dict[str, Any]:
        """`live` and `total` by kind. Raises TransportError where the host does not answer."""
        return ask(self.state / "control", "status", timeout_s=ASK_S)

    def memory(self, **wanted: Any) -> dict[str, Any]:
        """What the host says of its memory, as `oxid.host.memory`. Raises TransportError."""
        return ask(self.state / "control", "memory", timeout_s=ASK_S, **wanted)

    def parts(self) -> list[Part]:
        """The client processes: two, or more where there are many clients."""
        clients = self.settings.clients
        count = max(min(2, clients), -(-clients // CLIENTS_OF_A_PROCESS))
        each = [clients // count + (number < clients % count) for number in range(count)]
        return [
            Part(os.getpid(), number, share, self.settings.seed, self.ports, self.settings.period)
            for number, share in enumerate(each)
        ]

    def logged_requests(self) -> int:
        """Lines of the access log so far."""
        count = 0
        for path in self.access_log.glob("*.log"):
            with path.open("rb") as file:
                count += sum(1 for line in file if not line.startswith(b"#"))
        return count


@contextmanager
def open_stage(settings: HttpSettings) -> Iterator[HttpStage]:
    """Start the host and the servers behind it. Raises BenchFailed, ConfigurationError where that cannot be."""
    raise_descriptor_limit()
    directory = Path(tempfile.mkdtemp(prefix="oxid-soak-"))
    stage = HttpStage(settings, directory, secrets.token_hex(8))
    with ExitStack() as stack:
        if not settings.keep:
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
        stack.callback(end_all, stage)
        _prepare(stage)
        stage.programs["host"] = host = stack.enter_context(_host(stage))
        told = {"parent": os.getpid(), "period": settings.period}
        words = ["-m", "oxid.soak.http_peers", json.dumps(told)]
        stage.programs["servers"] = servers = stack.enter_context(Program(words, stage.environment()))
        ready = dict(word.partition("=")[::2] for word in host.line().split()[1:])
        stage.ports["web"] = _port(ready["http"])
        stage.ports["resolver"] = _port(ready["ncacn_http"])
        stage.ports |= json.loads(servers.line())
        yield stage


async def find_echo(stage: HttpStage) -> None:
    """Where the host serves Echo to proxies. Raises OxidError."""
    options = ClientOptions(port=stage.ports["resolver"], proxy=ProxyRoute("direct"), agent="own")
    async with connect(HERE, None, options=options) as machine:
        found = [e for e in await list_endpoints(machine) if e.interface == ECHO]
    wanted = [e for e in found if str(e.binding).startswith("ncacn_http")]
    if not wanted:
        raise ConfigurationError("the host serves Echo to no proxy")
    stage.ports["echo"] = int(wanted[0].binding.endpoint)


def end_all(stage: HttpStage) -> list[str]:
    """kill -9 whatever process of the soak is left; the commands of those that were."""
    left = processes.of_run(stage.token)
    return [f"{words} ({pid})" for pid, words in left.items() if processes.end(pid, stage.token)]


def client_words(part: Part) -> list[str]:
    """The command of a client process, behind the interpreter."""
    return ["-P", "-m", "oxid.soak.http_client", json.dumps(asdict(part))]


def tables(said: Mapping[str, Any], above: str = "") -> dict[str, float]:
    """The host's tables, flat: `web.connections` -> 0."""
    found: dict[str, float] = {}
    for key, value in said.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            found |= tables(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = value
    return found


def _prepare(stage: HttpStage) -> None:
    """Accounts, pages and configuration."""
    stage.state.mkdir(mode=0o700)
    FileAccountStore(stage.state / "accounts.json").add(USER, PASSWORD)
    root = stage.directory / "web"
    root.mkdir()
    (root / SMALL[1:]).write_bytes(SMALL_BODY)
    (root / BIG[1:]).write_bytes(BIG_PIECE * (BIG_SIZE // len(BIG_PIECE)))
    text = _CONFIGURATION.format(
        life=LIFE, here=HERE, root=json.dumps(str(root)), log=json.dumps(str(stage.access_log))
    )
    (stage.directory / "oxid.toml").write_text(text)


def _host(stage: HttpStage) -> Program:
    words = ["serve", "--state", str(stage.state), "--config", str(stage.directory / "oxid.toml")]
    for option in ("--rpc", "--ncacn-http", "--http"):
        words += [option, f"{HERE}:0"]
    words += [
        "--ping-period",
        f"{stage.settings.period:g}",
    ]  # a set without objects is kept for three of them
    words += ["--tunnel-period", f"{stage.settings.period:g}", "--log-file", str(stage.log)]
    words += ["--log-level", "warning", "--insecure-anonymous"]
    leash = ["-m", "oxid.soak.leash", str(os.getpid()), str(stage.errors)]
    return Program([*leash, *words], stage.environment())


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def interpreter() -> str:
    return sys.executable
