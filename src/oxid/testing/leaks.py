"""Nothing may be left behind: counts, tasks, threads, descriptors and child processes of one piece of work.

    with watch_for_leaks() as watch:
        asyncio.run(story())
    assert not watch.leaks(), watch.leaks()

Ledgers made inside are found by themselves, and every loop that `asyncio.Runner` (so also `asyncio.run` and
`uvloop.run`) drives inside is looked at when its main coroutine returns, before the runner cancels what is
left.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Final

from oxid.ledger import Ledger

GRACE_S: Final = 2.0
"""Threads that run out and children that were told to stop get this long before they count as left."""

_SETTLING_TURNS: Final = 50
"""Loop turns for tasks that are already cancelled or about to return."""

_HARMLESS: Final = ("/dev/urandom", "/dev/random", "/proc/")


class LeakWatch:
    """What there was before, and what is there now that should not be."""

    def __init__(self) -> None:
        self.ledgers: list[Ledger] = []
        self.tasks: list[str] = []
        self._threads = set(threading.enumerate())
        self._descriptors = open_descriptors()
        self._children = child_processes()

    def leaks(self) -> list[str]:
        """One line per thing left behind; empty is the wish. Waits a little for what is just ending."""
        deadline = time.monotonic() + GRACE_S
        found = self._look()
        if found:
            gc.collect()
        while (found := self._look()) and self._may_still_end() and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        return found

    def _look(self) -> list[str]:
        found = [
            f"{kind}: {count} live in the ledger"
            for ledger in self.ledgers
            for kind, count in ledger.live().items()
            if count
        ]
        found += [f"task: {task}" for task in self.tasks]
        found += [f"thread: {thread.name}" for thread in self._new_threads()]
        found += [f"child process: {command} (pid {pid})" for pid, command in self._new_children().items()]
        found += [
            f"descriptor: {fd} -> {target}"
            for fd, target in open_descriptors().items()
            if self._descriptors.get(fd) != target
        ]
        return found

    def _may_still_end(self) -> bool:
        return bool(self._new_threads() or self._new_children())

    def _new_threads(self) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in self._threads]

    def _new_children(self) -> dict[int, str]:
        return {pid: command for pid, command in child_processes().items() if pid not in self._children}


@contextmanager
def watch_for_leaks() -> Iterator[LeakWatch]:
    """Watch what the block leaves behind; ask `.leaks()` behind it. One at a time per process."""
    _open_what_stays_open()
    watch = LeakWatch()
    run: Callable[..., Any] = asyncio.Runner.run
    init: Callable[..., None] = Ledger.__init__

    def init_and_note(ledger: Ledger) -> None:
        init(ledger)
        watch.ledgers.append(ledger)

    def run_and_look(runner: asyncio.Runner, coro: Coroutine[Any, Any, Any], **options: Any) -> Any:
        return run(runner, _look_behind(coro, watch), **options)

    setattr(Ledger, "__init__", init_and_note)  # noqa: B010  (mypy minds the plain form)
    setattr(asyncio.Runner, "run", run_and_look)  # noqa: B010
    try:
        yield watch
    finally:
        setattr(Ledger, "__init__", init)  # noqa: B010
        setattr(asyncio.Runner, "run", run)  # noqa: B010


@cache
def _open_what_stays_open() -> None:
    """libuv opens one pipe for signals with the first loop, and keeps it as long as the process lives."""
    with suppress(ImportError):
        import uvloop

        uvloop.new_event_loop().close()


async def _look_behind(coro: Coroutine[Any, Any, Any], watch: LeakWatch) -> Any:
    before = asyncio.all_tasks()
    result = await coro
    for _ in range(_SETTLING_TURNS):
        left = asyncio.all_tasks() - before
        if not left:
            break
        await asyncio.sleep(0)
    watch.tasks += [repr(task) for task in left]
    return result


def open_descriptors() -> dict[int, str]:
    """Descriptor -> what it leads to, of this process; what libraries keep open for good is left out."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that read the directory
        if not target.startswith(_HARMLESS):
            found[int(name)] = target
    return found


def child_processes() -> dict[int, str]:
    """Process id -> command of the direct children, those that ended but were not waited for included."""
    found = {}
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children", encoding="ascii") as file:
                pids = [int(pid) for pid in file.read().split()]
        except FileNotFoundError:
            continue  # the thread has ended, or this kernel does not say
        for pid in pids:
            try:
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                    found[pid] = file.read().strip()
            except FileNotFoundError:
                continue
    return found
