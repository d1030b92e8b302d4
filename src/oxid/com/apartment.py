"""A single-threaded apartment: the calls of its objects run one at a time. ORPC-4

    async with apartment.turn(causality_id): ...

A call that comes back from where our own call went (it carries the same causality id) is let in at once: A calls B,
B calls A, and nobody waits for himself. Others come in the order of their arrival.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


class Apartment:
    """Of one exporter; `classes` are those whose objects live in it."""

    __slots__ = ("_depth", "_running", "_waiting", "classes")

    def __init__(self) -> None:
        self.classes: set[type[Any]] = set()
        self._running: bytes | None = None
        self._depth = 0
        self._waiting: deque[tuple[bytes, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def turn(self, causality_id: bytes) -> AsyncIterator[None]:
        """Wait until no other chain of calls runs."""
        if self._running is None or self._running == causality_id:
            self._running = causality_id
            self._depth += 1
        else:
            await self._wait(causality_id)
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, causality_id: bytes) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (causality_id, mine)
        self._waiting.append(entry)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._leave()  # it was our turn, and we do not take it
            else:
                self._waiting.remove(entry)
            raise

    def _leave(self) -> None:
        """A call has ended; behind the last one of its chain the next chain is let in. It counts as running from
        here on, though its tasks have yet to wake."""
        self._depth -= 1
        if self._depth:
            return
        self._running = None
        still_waiting: deque[tuple[bytes, asyncio.Future[None]]] = deque()
        for causality_id, waiter in self._waiting:
            if self._running in (None, causality_id) and not waiter.done():
                self._running = causality_id
                self._depth += 1
                waiter.set_result(None)
            else:
                still_waiting.append((causality_id, waiter))
        self._waiting = still_waiting

    def __repr__(self) -> str:
        return (
            f"<Apartment {'busy' if self._running is not None else 'free'}, {len(self._waiting)} calls wait>"
        )
