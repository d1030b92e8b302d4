"""Stand-in for pywin32's `win32file`: completion ports, files, and watching a directory."""

from __future__ import annotations

import ctypes
import os
import select
import threading
from collections import deque
from typing import Any

from pywintypes import HANDLE, OVERLAPPED, error

__all__ = [
    "OVERLAPPED",
    "CloseHandle",
    "CreateFile",
    "CreateIoCompletionPort",
    "FindCloseChangeNotification",
    "FindFirstChangeNotification",
    "FindNextChangeNotification",
    "GetQueuedCompletionStatus",
    "PostQueuedCompletionStatus",
    "error",
]

GENERIC_READ = 0x8000_0000
GENERIC_WRITE = 0x4000_0000
_WAIT_TIMEOUT = 258
_ABANDONED = 735


class _Port:
    """A completion port: a queue of (bytes, key, overlapped)."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.posted: deque[tuple[int, int, Any]] = deque()
        self.closed = False


def CreateIoCompletionPort(handle: Any, existing: Any, key: int, threads: int) -> Any:
    """A new port. Files cannot be joined to one here."""
    if handle != -1 or existing is not None:
        raise error(50, "CreateIoCompletionPort", "The request is not supported.")
    return _Port()


def PostQueuedCompletionStatus(port: Any, size: int, key: int, overlapped: Any = None) -> None:
    """Queue a packet."""
    with port.changed:
        if port.closed:
            raise error(6, "PostQueuedCompletionStatus", "The handle is invalid.")
        port.posted.append((size, key, overlapped))
        port.changed.notify()


def GetQueuedCompletionStatus(port: Any, milliseconds: int) -> tuple[int, int, int, Any]:
    """The next packet as (error, bytes, key, overlapped); error 258 after the time, 735 where it is closed."""
    timeout = None if milliseconds < 0 or milliseconds == 0xFFFF_FFFF else milliseconds / 1000
    with port.changed:
        if not port.changed.wait_for(lambda: port.posted or port.closed, timeout):
            return _WAIT_TIMEOUT, 0, 0, None
        if not port.posted:
            return _ABANDONED, 0, 0, None
        size, key, overlapped = port.posted.popleft()
        return 0, size, key, overlapped


def CloseHandle(handle: Any) -> None:
    """Close a port, or anything with Close."""
    if isinstance(handle, _Port):
        with handle.changed:
            handle.closed = True
            handle.posted.clear()
            handle.changed.notify_all()
    else:
        handle.Close()


def CreateFile(
    name: str,
    access: int,
    share: int,
    security: Any,
    disposition: int,
    flags: int,
    template: Any,
) -> HANDLE:
    """Open a file. Raises error with the Windows number."""
    how = os.O_CLOEXEC | (os.O_RDONLY if not access & GENERIC_WRITE else os.O_RDWR)
    how |= {1: os.O_CREAT | os.O_EXCL, 2: os.O_CREAT | os.O_TRUNC, 4: os.O_CREAT, 5: os.O_TRUNC}.get(
        disposition, 0
    )
    try:
        return HANDLE(os.open(name, how, 0o600))
    except FileNotFoundError as failed:
        raise error(2, "CreateFile", "The system cannot find the file specified.") from failed
    except FileExistsError as failed:
        raise error(80, "CreateFile", "The file exists.") from failed
    except OSError as failed:
        raise error(5, "CreateFile", "Access is denied.") from failed


_IN_CHANGES = {  # FILE_NOTIFY_CHANGE_* -> inotify's masks
    0x01: 0x03C0,  # names: created, deleted, moved
    0x02: 0x03C0,
    0x04: 0x0004,  # attributes
    0x08: 0x0002,  # size: modified
    0x10: 0x000E,  # last write: modified, closed after writing, attributes
}


class _Notification:
    """Changes of a directory, by inotify."""

    def __init__(self, path: str, mask: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._inotify < 0 or libc.inotify_add_watch(self._inotify, os.fsencode(path or "."), mask) < 0:
            if self._inotify >= 0:
                os.close(self._inotify)
            raise error(3, "FindFirstChangeNotification", "The system cannot find the path specified.")
        self._lock = threading.Lock()
        self._waiting = 0
        self._closed = False
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def wait(self, timeout: float | None) -> bool:
        with self._lock:
            self._check()
            self._waiting += 1
        try:
            poll = select.poll()
            poll.register(self._inotify, select.POLLIN)
            poll.register(self._woken, select.POLLIN)
            ready = poll.poll(None if timeout is None else timeout * 1000)
        finally:
            with self._lock:
                self._waiting -= 1
                if self._closed and not self._waiting:
                    self._release()
        with self._lock:
            self._check()
            if ready:
                os.read(self._inotify, 65536)
            return bool(ready)

    def _check(self) -> None:
        if self._closed:
            raise error(6, "WaitForSingleObject", "The handle is invalid.")

    def next(self) -> None:
        with self._lock:
            self._check()

    def Close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._waiting:
                os.write(self._wake, b"x")
            else:
                self._release()

    def _release(self) -> None:
        for descriptor in (self._inotify, self._woken, self._wake):
            os.close(descriptor)


def FindFirstChangeNotification(path: str, watch_tree: bool, wanted: int) -> Any:
    """Watch a directory (not what is below it); wait for the handle with WaitForSingleObject."""
    mask = 0
    for flag, changes in _IN_CHANGES.items():
        if wanted & flag:
            mask |= changes
    return _Notification(path, mask or 0x03CE)


def FindNextChangeNotification(handle: Any) -> None:
    """Ask for the next change."""
    handle.next()


def FindCloseChangeNotification(handle: Any) -> None:
    """Watch no more; who waits gets error 6."""
    handle.Close()
