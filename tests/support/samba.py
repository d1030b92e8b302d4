"""Samba as a server: `samba-dcerpcd`, which offers endpoint mapper and management on port 135 within 0.3 s.

Everything it writes is in a directory of the test's own; it listens on `lo` of a namespace of the test's own.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final, Self

from tests.support.netns import NetworkNamespace

SAMBA_DCERPCD: Final = Path("/usr/libexec/samba/samba-dcerpcd")
USER: Final = "root"  # must be an account of the system too
PASSWORD: Final = "Passw0rd-1"


def write_configuration(directory: Path, *, realm: str = "") -> Path:
    """A smb.conf whose every path is in `directory`; clients use it too, so that the system's is not read."""
    for name in ("private", "lock", "state", "cache", "pid", "ncalrpc", "log"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    path = directory / "smb.conf"
    path.write_text(
        f"""[global]
  workgroup = TESTGROUP
  netbios name = PEER
  realm = {realm}
  server role = standalone server
  interfaces = lo 127.0.0.1/8
  bind interfaces only = yes
  private dir = {directory}/private
  lock directory = {directory}/lock
  state directory = {directory}/state
  cache directory = {directory}/cache
  pid directory = {directory}/pid
  ncalrpc dir = {directory}/ncalrpc
  log file = {directory}/log/%m.log
  passdb backend = tdbsam
  allow dcerpc auth level connect = yes
  rpc start on demand helpers = false
  disable spoolss = yes
  load printers = no
  printing = bsd
"""
    )
    return path


class SambaServer:
    """One samba-dcerpcd with one account."""

    def __init__(self, namespace: NetworkNamespace, directory: Path) -> None:
        self.namespace = namespace
        self.configuration = write_configuration(directory)
        subprocess.run(
            ["smbpasswd", "-c", str(self.configuration), "-s", "-a", USER],
            input=f"{PASSWORD}\n{PASSWORD}\n",
            text=True,
            capture_output=True,
            check=True,
            timeout=30,
        )
        self._process = subprocess.Popen(
            [
                *namespace.prefix,
                str(SAMBA_DCERPCD),
                "--foreground",
                "--no-process-group",
                f"--configfile={self.configuration}",
                "--libexec-rpcds",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            namespace.call(self._wait_for_port)
        except BaseException:
            self.close()
            raise

    def _wait_for_port(self) -> None:
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", 135), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > until or self._process.poll() is not None:
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
