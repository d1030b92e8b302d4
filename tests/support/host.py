"""A real `oxid serve` process of the test's own.

    with OxidHost(ping_period=1) as host:
        host.port                     where endpoint mapper, resolver and activation listen
        host.add_user("alice", "secret")
        host.live()                   {} at rest: the kinds that are live, without those at 0
    # leaving the block ends it with SIGTERM and checks exit code 0 and `stopped live=0`

It listens on ports that nobody fixed, or, given a namespace, on that namespace's port 135.
"""

from __future__ import annotations

import hashlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from tests.support.netns import NetworkNamespace

from oxid.errors import OxidError
from oxid.runtime.control import ask

ROOT: Final = Path(__file__).resolve().parents[2]
ADMIN: Final = "admin"
PASSWORD: Final = "Correct-Horse-9"

_START_TIME = 30.0
_STOP_TIME = 15.0  # the host promises 10 s


def oxid_command() -> list[str]:
    """The words that start oxid here: the launcher, unless it would set up an environment first."""
    if Path(sys.prefix) == ROOT / ".venv" and _is_set_up("runtime"):
        return [str(ROOT / "oxid")]
    return [sys.executable, "-P", "-m", "oxid"]


def _is_set_up(group: str) -> bool:
    """Whether the launcher finds this checkout's environment up to date."""
    stamp = ROOT / ".venv" / "oxid-setup" / group
    lock = ROOT / "locks" / f"{group}.lock"
    if not stamp.exists():
        return False
    return stamp.read_text() == f"{hashlib.sha256(lock.read_bytes()).hexdigest()} {ROOT}\n"


def environment(**more: str) -> dict[str, str]:
    """Our environment without OXID_* settings, and with these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OXID_")}
    return {**kept, "OXID_AGENT": "own", **more}


def run_oxid(
    *arguments: str,
    stdin: str = "",
    namespace: NetworkNamespace | None = None,
    timeout: float = 30,
    **more_environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run one `oxid` command to its end."""
    prefix = namespace.prefix if namespace else []
    return subprocess.run(
        [*prefix, *oxid_command(), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**more_environment),
    )


class HostFailed(AssertionError):
    """The host process did not do what the contract says; the message has its log."""


class OxidHost:
    """A host process: `ready` holds the keys of its ready line, `rest` its live counts before any work."""

    def __init__(
        self,
        *apps: str | Path,
        namespace: NetworkNamespace | None = None,
        ping_period: float = 1.0,
        options: Sequence[str] = (),
        rpc: str | None = None,
        more_environment: Mapping[str, str] | None = None,
    ) -> None:
        self.namespace = namespace
        self.ping_period = ping_period
        self.directory = Path(tempfile.mkdtemp(prefix="oxid-host-"))
        self.state = self.directory / "state"
        self.stopped = ""
        self.ready: dict[str, str] = {}
        address = rpc or ("127.0.0.1:135" if namespace else "127.0.0.1:0")
        self._log = open(self.directory / "stderr", "w+b")  # noqa: SIM115 (closed by stop)
        prefix = namespace.prefix if namespace else []
        self.process = subprocess.Popen(
            [
                *prefix,
                *oxid_command(),
                "serve",
                *map(str, apps),
                "--state",
                str(self.state),
                "--rpc",
                address,
                "--ping-period",
                str(ping_period),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment(
                OXID_ADMIN_PASSWORD=PASSWORD,
                **({} if namespace else {"OXID_NCACN_HTTP": "127.0.0.1:0", "OXID_HTTP": "127.0.0.1:0"}),
                OXID_AGENT_SOCKET=str(self.directory / "agent"),
                **(more_environment or {}),
            ),
            start_new_session=True,
        )
        try:
            self._read_ready_line()
            self.rest = self.live()
        except BaseException:
            self.kill()
            raise

    def _read_ready_line(self) -> None:
        line = self._read_line(_START_TIME)
        if not line.startswith("ready "):
            raise HostFailed(f"no ready line but {line!r}\n{self.log()}")
        words, _, state = line[len("ready ") :].partition(" state=")
        for word in words.split():
            key, _, value = word.partition("=")
            self.ready.setdefault(key, value)
        self.ready["state"] = state

    def _read_line(self, seconds: float) -> str:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        until = time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
                raise HostFailed(f"nothing for {seconds} s after {line!r}\n{self.log()}")
            piece = os.read(descriptor, 1)
            if not piece:
                break
            line += piece
        return line.decode().strip()

    @property
    def port(self) -> int:
        """Where endpoint mapper, resolver and activation listen."""
        return int(self.ready["rpc"].rpartition(":")[2])

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """Everything on its standard error so far."""
        return (self.directory / "stderr").read_text(errors="replace")

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run an `oxid` command in the host's namespace."""
        return run_oxid(*arguments, stdin=stdin, namespace=self.namespace)

    def add_user(self, name: str, password: str, *more: str) -> None:
        done = self.run(
            "user", "add", name, *more, "--password-stdin", "--state", str(self.state), stdin=password + "\n"
        )
        if done.returncode:
            raise HostFailed(f"user add {name}: {done.stderr}")

    def status(self) -> dict[str, Any]:
        """What `oxid status --json` prints, asked without a process for it."""
        try:
            return ask(self.state / "control", "status")
        except OxidError as error:
            raise HostFailed(f"{error}\n{self.log()[-4000:]}") from error

    def live(self) -> dict[str, int]:
        """The live counts that are not 0."""
        return {kind: count for kind, count in self.status()["live"].items() if count}

    def wait_for_rest(self, seconds: float | None = None) -> None:
        """Wait until the live counts are those of the start, by default for 2 s plus the set time-out.

        Raises HostFailed with the difference where they do not come back.
        """
        rest = self.rest
        patience = 2 + 4 * self.ping_period + 3 if seconds is None else seconds
        until = time.monotonic() + patience
        while (now := self.live()) != rest:
            if time.monotonic() > until:
                kinds = sorted({*now, *rest})
                apart = [
                    f"{k} {rest.get(k, 0)} -> {now.get(k, 0)}" for k in kinds if now.get(k) != rest.get(k)
                ]
                raise HostFailed(
                    f"not at rest after {patience:.0f} s: {', '.join(apart)}\n{self.log()[-4000:]}"
                )
            time.sleep(0.1)

    def kill(self) -> None:
        """End it at once, without looking."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self._close()

    def stop(self) -> None:
        """SIGTERM; it must end in time, saying that nothing is live, with exit code 0."""
        if self.process.poll() is not None:
            log = self.log()
            code = self.process.returncode
            self._close()
            raise HostFailed(f"host had ended by itself, exit {code}\n{log[-4000:]}")
        self.process.terminate()
        try:
            self.stopped = self._read_line(_STOP_TIME)
            code = self.process.wait(_STOP_TIME)
        except (HostFailed, subprocess.TimeoutExpired):
            self.kill()
            raise
        log = self.log()
        self._close()
        if self.stopped != "stopped live=0" or code:
            raise HostFailed(f"exit {code}, {self.stopped!r}\n{log[-4000:]}")

    def _close(self) -> None:
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            if not self.stopped:
                self.stop()
        else:
            self.kill()
