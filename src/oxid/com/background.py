"""What a machine does in the background, and what it finishes although nobody waits for it any more.

work.spawn(coroutine)                    ends with its owner at the latest
await work.to_the_end(coroutine, undo)   a caller that is cancelled leaves no reference behind
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from oxid.errors import TransportError
from oxid.ledger import Ledger

T = TypeVar("T")

log = logging.getLogger("oxid.com.machine")


class BackgroundWork:
    """The tasks of one owner, which ends them with `end_work`."""

    def __init__(self, ledger: Ledger) -> None:
        self._counter = ledger.task
        self._tasks: set[asyncio.Task[Any]] = set()
        self._farewells: set[asyncio.Task[Any]] = set()
        """Releases under way: the end waits for these, while it cancels the other tasks."""

    def spawn(self, work: Coroutine[Any, Any, T], *, farewell: bool = False) -> asyncio.Task[T]:
        """Start work that ends with the machine at the latest: cancelled, or awaited where it is a farewell."""
        task = self._task(work, farewell)
        task.add_done_callback(self._say_what_failed)
        return task

    async def to_the_end(
        self, work: Coroutine[Any, Any, T], give_back: Callable[[T], None], *, farewell: bool = False
    ) -> T:
        """Await work that brings references, or gives them back.

        Where the caller is cancelled the work goes on, and `give_back` gets what came of it: a reply that nobody
        reads would be references that nobody releases. Raises TransportError where the machine ends first.
        """
        task = self._task(work, farewell)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:

            def came_late(late: asyncio.Task[T]) -> None:
                if not late.cancelled() and late.exception() is None:
                    give_back(late.result())

            task.add_done_callback(came_late)
            raise
        if task.cancelled():
            raise TransportError(f"{self!r} was closed")
        return task.result()

    def _task(self, work: Coroutine[Any, Any, T], farewell: bool) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        (self._farewells if farewell else self._tasks).add(task)
        self._counter.enter()
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._farewells.discard(task)
        self._counter.leave()

    def _say_what_failed(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("background work of %s failed", self, exc_info=task.exception())

    def farewells(self) -> list[Awaitable[Any]]:
        """The releases that are under way."""
        return list(self._farewells)

    async def end_work(self) -> None:
        """Cancel whatever still runs, and wait for its end."""
        tasks = [*self._tasks, *self._farewells]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
