"""Drives a resolver's tables: one timer, pieces of bounded work, and the questions to exporters.

    reclaimer = Reclaimer(world, resolver, ask)
    reclaimer.watch()                    after whatever may have brought an earlier deadline
    await reclaimer.decided(oids)        until the exporters have answered about these
    await reclaimer.aclose()

`ask(question, until)` gives an exporter's verdicts at once, or something to await where the exporter is another
process. Such an answer counts only where it was made before `until`; an exporter that is later says BUSY.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias

from oxid.com.reference_table import Verdict
from oxid.errors import OxidError
from oxid.rpcss.oxid_resolver import OxidResolver, Question
from oxid.runtime.deadlines import DeadlineDriver
from oxid.world import World

log = logging.getLogger("oxid.rpcss.reclaimer")

Ask: TypeAlias = Callable[[Question, float], Sequence[Verdict] | Awaitable[Sequence[Verdict]]]

QUESTIONS_AT_ONCE: Final = 5
"""Answers of exporters of this process that are taken in one go: five hundred objects, a few milliseconds."""
MOST_PATIENCE_S: Final = 5.0
SLEPT: Final = 0.5
"""Periods by which our timer must be late to mean that the machine slept, or this process was stopped."""


class Reclaimer:
    """Lets go of what nobody holds, as fast as its exporters answer and no faster than the loop can bear."""

    def __init__(self, world: World, resolver: OxidResolver, ask: Ask) -> None:
        self._world = world
        self._resolver = resolver
        self._ask = ask
        self._timer = DeadlineDriver(asyncio.get_running_loop(), world, self._work)
        self._asking: set[asyncio.Task[None]] = set()
        self._waiting: list[asyncio.Future[None]] = []
        self._patience = min(resolver.policy.granularity, MOST_PATIENCE_S)

    def watch(self) -> None:
        """See that the next deadline is kept."""
        deadline = self._next()
        if deadline is None:
            self._timer.close()
        else:
            self._want(deadline)

    def _want(self, deadline: float) -> None:
        self._timer.want(max(deadline, self._world.clock.now()))

    def heard(self) -> None:
        """Somebody pings: where our own timer should have run long ago, nothing has run here meanwhile."""
        due = self._timer.due
        if due is not None:
            self._look_for_sleep(due, self._world.clock.now())

    def _look_for_sleep(self, due: float, now: float) -> None:
        if now - due > SLEPT * self._resolver.policy.period:
            log.warning(
                "nothing ran here for %.0f s: every client gets a period for its next ping", now - due
            )
            self._resolver.slept(now)

    def _next(self) -> float | None:
        if self._resolver.has_questions:
            return self._world.clock.now()
        return self._resolver.next_deadline()

    def _work(self, now: float) -> float | None:
        self._look_for_sleep(self._timer.last_due, now)
        self._resolver.expire(now)
        self._put_questions(now)
        deadline = self._next()
        return deadline if deadline is None else max(deadline, now)

    def _put_questions(self, now: float) -> None:
        """Ask what is to be asked, a bounded part of it where exporters of this process answer at once."""
        for question in islice(self._resolver.questions(), QUESTIONS_AT_ONCE):
            answer = self._ask(question, now + self._patience)
            if isinstance(answer, Awaitable):
                self._start(self._hear(question, answer))
            else:
                self._resolver.answered(question, answer, now)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="oxid reclaim")
        self._world.ledger.task.enter()
        self._asking.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        self._world.ledger.task.leave()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("asking an exporter failed", exc_info=error)

    async def _hear(self, question: Question, answer: Awaitable[Sequence[Verdict]]) -> None:
        """Take in another process's answer. One that comes late keeps the objects for another period."""
        verdicts: Sequence[Verdict] | None = None
        try:
            # Twice the time: an answer made in time may still be on its way.
            async with asyncio.timeout(2 * self._patience):
                verdicts = await answer
        except (OxidError, TimeoutError) as error:
            log.warning("exporter %016x did not say what may go: %s", question.oxid, error or "no answer")
        now = self._world.clock.now()
        if verdicts is None or len(verdicts) != len(question.oids):
            self._resolver.unanswered(question, now)
        else:
            self._resolver.answered(question, verdicts, now)
        self._wake()
        self.watch()

    async def decided(self, oids: Iterable[int]) -> None:
        """Wait until no exporter has yet to answer about one of these; bounded by its time to answer."""
        wanted = tuple(oids)
        while self._resolver.undecided(wanted):
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter

    def exporter_gone(self) -> None:
        """Nobody will answer the questions to an exporter that has just been removed."""
        self._wake()
        self.watch()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def aclose(self) -> None:
        """Stop; questions that are under way are given up."""
        self._timer.close()
        for task in list(self._asking):
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        self._wake()

    def __repr__(self) -> str:
        return f"<Reclaimer {len(self._asking)} questions under way>"
