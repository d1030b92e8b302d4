"""The machine's agent as a process: where it is found, and how it is started where none runs.

Its socket is `OXID_AGENT_SOCKET`, else `oxid/agent` under the user's runtime directory: two sockets are two
machines. A lock file beside the socket sees to it that there is one agent, whoever starts it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from oxid.errors import ConfigurationError, TransportError
from oxid.runtime.local_channel import check_path, is_served, private_directory
from oxid.runtime.processes import start_process

START_S: Final = 20.0
"""For an agent to come up on a busy machine."""
BUSY_EXIT: Final = 3
"""The exit code of an agent that found another one."""


class AnotherAgent(ConfigurationError):
    """An agent serves the socket already."""


def agent_socket(environ: Mapping[str, str] | None = None) -> Path:
    """Where this machine's agent listens. The directory is made where it is ours to make. ConfigurationError"""
    environ = os.environ if environ is None else environ
    if told := environ.get("OXID_AGENT_SOCKET"):
        path = Path(told)
        check_path(path)
        return path
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        path = Path(runtime) / "oxid" / "agent"
    else:
        path = Path(tempfile.gettempdir()) / f"oxid-{os.getuid()}" / "agent"
    private_directory(path.parent)
    check_path(path)
    return path


@contextmanager
def agent_lock(path: Path) -> Iterator[None]:
    """Be the one agent of a socket. Raises AnotherAgent, and ConfigurationError where there cannot be one."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"cannot make {path}.lock: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AnotherAgent(f"another agent serves {path}") from error
        yield
    finally:
        os.close(descriptor)


async def start_agent(path: Path, period: float) -> None:
    """Start an agent that ends when nobody needs it any more; returns when it listens, or another one does.

    Many processes may want one at the same moment: one of them starts it, the others wait for that.
    Raises TransportError where it does not come up, with what it said.
    """
    try:
        async with asyncio.timeout(START_S):
            async with _alone(path):
                if not is_served(path):
                    await _start(path, period)
    except TimeoutError as error:
        raise TransportError(f"the agent for {path} did not come up in {START_S:g} s") from error


@asynccontextmanager
async def _alone(path: Path) -> AsyncIterator[None]:
    """Be the only process that starts an agent for a socket."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(f"{path}.starting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                break
        yield
    finally:
        os.close(descriptor)


async def _start(path: Path, period: float) -> None:
    command = [sys.executable, "-P", "-m", "oxid", "agent", "--socket", str(path), "--detach"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OXID_")}
    environment["OXID_PING_PERIOD"] = f"{period:g}"
    with tempfile.TemporaryFile() as said:
        child = start_process(command, environment=environment, output=said.fileno())
        try:
            code = await child.wait()
        finally:
            await child.end()
        if code not in (0, BUSY_EXIT):
            said.seek(0)
            text = said.read(2000).decode(errors="replace").strip() or f"exit code {code}"
            raise TransportError(f"the agent for {path} did not come up: {text.splitlines()[-1]}")
