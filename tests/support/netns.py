"""A network namespace of the test's own, for peers whose ports are built in (135, 88).

    with NetworkNamespace() as namespace:
        process = subprocess.Popen([*namespace.prefix, "rpcclient", ...])
        answer = namespace.call(lambda: socket.create_connection(("127.0.0.1", 135)))

Only `lo` is up inside. The namespace lives as long as its holder, a process that reads a pipe from us: when
we die, however we die, it goes too. Root needs nothing else; other users get a user namespace where the
kernel lets them.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x4000_0000


class NetworkNamespace:
    """One namespace with a loopback interface; `prefix` is what a command line inside it starts with."""

    def __init__(self) -> None:
        ways = ([] if os.geteuid() == 0 else ["--user", "--map-root-user"]) + ["--net"]
        self._holder = subprocess.Popen(
            ["unshare", *ways, "sh", "-c", "ip link set lo up && echo up && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline().strip() != "up":
            _, complaint = self._holder.communicate()
            raise PermissionError(f"no network namespace: {complaint.strip()}")
        into = ["--target", str(self._holder.pid), "--net"]
        if os.geteuid() != 0:
            into += ["--user", "--preserve-credentials"]
        self.prefix: list[str] = ["nsenter", *into, "--"]

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` in a thread whose network is this namespace (root only); its sockets stay inside."""

        def inside() -> T:
            descriptor = os.open(f"/proc/{self._holder.pid}/ns/net", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(descriptor)
            return function()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(inside).result()

    def close(self) -> None:
        for pipe in (self._holder.stdin, self._holder.stdout, self._holder.stderr):
            if pipe is not None:
                pipe.close()
        self._holder.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
