"""Keeps the objects a process holds alive: one set per resolver and identity, one tick per period.
[MS-DCOM] 3.2.6.1

    agent = PingAgent(world, period, send)
    agent.hold(target, oid) / agent.let_go(target, oid)     local, immediate, never waits for the network
    await agent.aclose()

`send(target, ping)` performs one SimplePing or ComplexPing and returns (status, SETID); the agent owns the sets, the
ticking task and the time limit of every ping, so that a hung resolver delays nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from oxid.com.ping_client import ClientPingSet, Ping
from oxid.errors import OxidError
from oxid.world import World

T = TypeVar("T", bound=Hashable)
Send = Callable[[T, Ping], Awaitable[tuple[int, int]]]

log = logging.getLogger("oxid.com.ping")

_ROUNDS_PER_TICK = 4
"""A rebuilt set and a delta that needs several pings are told within one tick, but not for ever."""


class PingAgent:
    """All ping sets of one process, and the task that sends their pings."""

    def __init__(self, world: World, period: float, send: Send[T]) -> None:
        """`period` in seconds (120 on a real network, [MS-DCOM] 3.2.2.1); `send` as in the module's docstring."""
        self._world = world
        self._period = period
        self._send: Send[Hashable] = send  # type: ignore[assignment]  # the agent never looks inside a target
        self._sets: dict[Hashable, ClientPingSet] = {}
        self._one_at_a_time: dict[ClientPingSet, asyncio.Lock] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def hold(self, target: Hashable, oid: int) -> None:
        """Keep `oid` alive until as many `let_go`; its first ping comes within a period."""
        if self._closed:
            return
        found = self._sets.get(target)
        if found is None:
            found = self._sets[target] = ClientPingSet()
            self._one_at_a_time[found] = asyncio.Lock()
            self._world.ledger.client_set.enter()
            if self._task is None:
                self._start()
        found.hold(oid)

    def let_go(self, target: Hashable, oid: int) -> None:
        """End one `hold`; the resolver hears of it at the next tick."""
        found = self._sets.get(target)
        if found is not None:
            found.let_go(oid)
            self._forget_if_finished(target, found)

    def object_gone(self, target: Hashable, oid: int) -> None:
        """A call found the object dead: no ping names it again."""
        found = self._sets.get(target)
        if found is not None:
            found.object_gone(oid)

    def statistics(self) -> dict[str, int]:
        return {"sets": len(self._sets), "oids": sum(len(s.oids) for s in self._sets.values())}

    async def tick(self) -> None:
        """Send what every set owes now; each set has less than half a period for it."""
        async with asyncio.TaskGroup() as pings:
            for target, owed in list(self._sets.items()):
                pings.create_task(self._bring_up_to_date(target, owed))
        for target, owed in list(self._sets.items()):
            self._forget_if_finished(target, owed)

    async def say_goodbye(self, target: Hashable, limit: float) -> None:
        """Tell the resolver what was let go, within `limit` seconds; its own time-out is the backstop."""
        found = self._sets.get(target)
        if found is None or not found.changed:
            return
        try:
            async with asyncio.timeout(limit):
                await self._bring_up_to_date(target, found)
        except TimeoutError:
            log.debug("no answer to the last ping of %s within %.1f s", target, limit)
        if not found.oids:
            self._forget(target)

    async def aclose(self) -> None:
        """Stop at once. Sets still known are forgotten; their resolvers notice by themselves."""
        self._closed = True
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for target in list(self._sets):
            self._forget(target)

    def _start(self) -> None:
        # The first tick comes at a random moment of the first period, so that clients spread.
        phase = int.from_bytes(self._world.entropy.token(2), "little") / 0x1_0000
        self._world.ledger.task.enter()
        self._task = asyncio.create_task(self._tick_while_held(phase), name="oxid ping agent")
        self._task.add_done_callback(self._ticking_ended)

    async def _tick_while_held(self, phase: float) -> None:
        await asyncio.sleep(self._period * phase)
        while self._sets:
            began = self._world.clock.now()
            await self.tick()
            await asyncio.sleep(max(0.0, began + self._period - self._world.clock.now()))

    def _ticking_ended(self, task: asyncio.Task[None]) -> None:
        self._world.ledger.task.leave()
        self._task = None
        if not task.cancelled() and task.exception() is not None:
            log.error("the ping agent failed", exc_info=task.exception())
        if self._sets and not self._closed:
            self._start()

    async def _bring_up_to_date(self, target: Hashable, owed: ClientPingSet) -> None:
        turn = self._one_at_a_time.get(owed)
        if turn is None:
            return  # forgotten meanwhile
        try:
            # The goodbye of one user and the tick may want to tell the same set: the same ping twice would found
            # two sets over there.
            async with asyncio.timeout(self._period * 0.4), turn:
                for _ in range(_ROUNDS_PER_TICK):
                    ping = owed.next_ping()
                    if ping is None:
                        break
                    try:
                        status, set_id = await self._send(target, ping)
                    except (OxidError, OSError, TimeoutError, UnicodeError) as error:
                        owed.lost(ping)
                        log.warning("ping of %s failed: %s", target, error)
                        break
                    if not owed.answered(ping, status, set_id):
                        break
        except TimeoutError:
            log.warning("ping of %s had no answer in %.1f s", target, self._period * 0.4)
        except Exception:  # a fault that one set meets must not keep the others from being pinged
            log.exception("ping of %s failed", target)

    def _forget_if_finished(self, target: Hashable, held: ClientPingSet) -> None:
        if held.finished and self._sets.get(target) is held:
            self._forget(target)

    def _forget(self, target: Hashable) -> None:
        found = self._sets.pop(target, None)
        if found is not None:
            del self._one_at_a_time[found]
            self._world.ledger.client_set.leave()
        if not self._sets and self._task is not None:
            self._task.cancel()

    def __repr__(self) -> str:
        return f"<PingAgent {len(self._sets)} sets>"
