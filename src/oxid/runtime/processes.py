"""Child processes on a loop: started, watched through a pidfd, and ended for certain.

    child = start_process(["program", "argument"], environment={...})
    code = await child.wait()
    await child.end(grace_s=2.0)         SIGTERM, then SIGKILL; whoever starts one ends it

A pidfd names the process itself, not its number: it becomes readable when the process ends, on any event loop and
without threads or signal handlers.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Final

from oxid.errors import ConfigurationError, TransportError
from oxid.ledger import Counter

ERR_TO_STDERR: Final = 2


class ChildProcess:
    """One child. `counter` counts it while it lives."""

    def __init__(self, process: subprocess.Popen[bytes], counter: Counter | None = None) -> None:
        self._process = process
        self._counter = counter
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._on_end)
        if counter is not None:
            counter.enter()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    def _on_end(self) -> None:
        if self._pidfd < 0:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        code = self._process.wait()  # it has ended: this does not wait, it reaps
        if self._counter is not None:
            self._counter.leave()
        if not self._ended.done():
            self._ended.set_result(code)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it, not to another process that got its number later."""
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                pass  # it has ended, and we are about to hear of it

    async def wait(self) -> int:
        """Its exit code, when it has ended. A caller that is cancelled leaves it running."""
        return await asyncio.shield(self._ended)

    async def end(self, grace_s: float = 2.0) -> int:
        """See that it ends: politely, then for certain. May be called twice."""
        if not self._ended.done():
            self.send(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace_s):
                    return await self.wait()
            except TimeoutError:
                pass
            finally:
                self.send(signal.SIGKILL)
        return await self.wait()

    def abandon(self) -> None:
        """Watch it no more; it lives on, as nobody's child once we have ended."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
            self._process.returncode = 0  # or Popen would warn that it was not waited for
            if self._counter is not None:
                self._counter.leave()

    def __repr__(self) -> str:
        state = "runs" if self.returncode is None else f"ended with {self.returncode}"
        return f"<ChildProcess {self.pid} {state}>"


def start_process(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    user: str | None = None,
    counter: Counter | None = None,
    output: int | None = None,
) -> ChildProcess:
    """Start a program in a session of its own, with nothing on its input and its output on our error output.

    `user` needs the right to change to it. Raises ConfigurationError for a user or program that there is not,
    TransportError where it cannot be started.
    """
    identity: dict[str, Any] = {}
    if user is not None:
        try:
            entry = pwd.getpwnam(user)
        except KeyError as error:
            raise ConfigurationError(f"there is no user {user} on this machine") from error
        if entry.pw_uid != os.geteuid():
            groups = os.getgrouplist(user, entry.pw_gid)
            identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=ERR_TO_STDERR if output is None else output,
            start_new_session=True,
            env=dict(environment),
            **identity,
        )
    except FileNotFoundError as error:
        raise ConfigurationError(f"there is no program {command[0]}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise TransportError(f"cannot start {command[0]}: {error}") from error
    return ChildProcess(process, counter)
