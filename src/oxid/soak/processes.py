"""What /proc says of the soak's processes, and how one of them is ended for certain.

Every process of a soak has its token in the environment, whoever started it. So all are found at the end, those that
nobody knows any more too, and no other process is ever touched.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

TOKEN: Final = "SOAK_RUN"
"""The environment variable. Not OXID_…: those are taken away from local servers and agents."""


def descriptors(pid: int) -> dict[str, int]:
    """How many descriptors of each kind a process has: socket, pipe, eventpoll, file, …"""
    kinds: Counter[str] = Counter()
    for entry in _entries(Path(f"/proc/{pid}/fd")):
        try:
            target = os.readlink(entry)
        except OSError:
            continue  # closed meanwhile
        name = target.removeprefix("anon_inode:").strip("[]").partition(":")[0]
        kinds["file" if name.startswith("/") else name] += 1
    return dict(kinds)


def threads(pid: int) -> int:
    """How many threads a process has."""
    return len(_entries(Path(f"/proc/{pid}/task")))


def children(pid: int) -> dict[int, str]:
    """The children of a process that have not ended, and their commands."""
    found = {}
    for child in _processes():
        state, parent = _state(child)
        if parent == pid and state not in "ZX":
            found[child] = command(child)
    return found


def of_run(token: str) -> dict[int, str]:
    """All processes of one soak that have not ended, but for this one, and their commands."""
    return {pid: command(pid) for pid in _processes() if pid != os.getpid() and belongs(pid, token)}


def belongs(pid: int, token: str) -> bool:
    """Whether a process runs, and is one of this soak."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # it has ended, or is somebody else's
    return f"{TOKEN}={token}".encode() in environment and _state(pid)[0] not in "ZX"


def command(pid: int) -> str:
    """The command line of a process; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def served_by(path: Path) -> int | None:
    """The process that serves a Unix socket; None where nobody does."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(1.0)
        try:
            link.connect(str(path))
            raw = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except OSError:
            return None
    pid: int = struct.unpack("3i", raw)[0]
    return pid


@contextmanager
def watched(pid: int) -> Iterator[int]:
    """A descriptor that names a process, and becomes readable when it ends. Raises ProcessLookupError."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def has_ended(descriptor: int, within: float = 0.0) -> bool:
    """Whether the process of a descriptor of `watched` ends within so many seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(within * 1000))


def end(pid: int, token: str, within: float = 5.0) -> bool:
    """kill -9 one process, if it is one of this soak; whether it was, and has ended."""
    try:
        with watched(pid) as descriptor:
            if not belongs(pid, token):  # the number belongs to somebody else by now
                return False
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            return has_ended(descriptor, within)
    except ProcessLookupError:
        return False


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _state(pid: int) -> tuple[str, int]:
    """State and parent of a process; X for one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return fields[0], int(fields[1])


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []
