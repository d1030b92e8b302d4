"""The threads that extensions run on: bounded, made when needed, ended by `close`. isapi.md §1

pool = WorkerThreads(25, "oxid-isapi")
pool.run(proc, block)          sooner or later, on one of its threads
left = pool.close(5.0)         how many did not end in that time
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

log: Final = logging.getLogger("oxid.iis.isapi")

Job = tuple[Callable[..., Any], tuple[Any, ...]]


class WorkerThreads:
    """A queue and at most `most` threads. What a job raises is logged; jobs see to their own errors."""

    def __init__(self, most: int, name: str) -> None:
        self.most = most
        self.name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle: list[None] = []
        """As many as threads wait; append and pop are one step each."""
        self._lock = threading.Lock()
        self._closed = False

    def run(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Queue a job; a thread is started where none is free and there may be more. Any thread."""
        self._jobs.put((function, arguments))
        try:
            self._idle.pop()
        except IndexError:
            if len(self._threads) < self.most:
                self._start()

    def _start(self) -> None:
        with self._lock:
            if self._closed or len(self._threads) >= self.most:
                return
            thread = threading.Thread(
                target=self._work, name=f"{self.name}-{len(self._threads) + 1}", daemon=True
            )
            self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        get, free = self._jobs.get, self._idle.append
        while True:
            job = get()
            if job is None:
                return
            function, arguments = job
            try:
                function(*arguments)
            except Exception:
                log.exception("a job of %s failed", self.name)
            del function, arguments, job  # an idle thread holds nothing
            free(None)

    def close(self, limit: float) -> int:
        """Let the threads end, at most `limit` seconds; return how many still run. They are daemons then."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
        for _ in threads:
            self._jobs.put(None)
        deadline = time.monotonic() + limit
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        return sum(thread.is_alive() for thread in threads)

    def __repr__(self) -> str:
        return f"<WorkerThreads {self.name}, {len(self._threads)} of {self.most}>"
