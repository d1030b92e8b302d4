"""Keeps objects at other machines alive: one set per resolver and identity, one ping per set and period.
[MS-DCOM] 3.2.6.1

    agent = PingAgent(world, send)
    agent.hold(target, oid) / agent.let_go(target, oid)     local, immediate, never waits for the network
    await agent.aclose()

`send(place, blanket, ping)` performs one SimplePing or ComplexPing and returns (status, SETID). A target has a
ladder of identities: the first with which pings are accepted is kept; when it is refused, the next one takes over
within the same tick, in a set of its own. Nobody pings as somebody who is not on his ladder.

Every set has its own phase within the period, its own time limit, and at most one ping under way: a hung resolver
delays nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from oxid.com.options import UNAUTHENTICATED, Blanket
from oxid.com.ping_client import ClientPingSet, Ping
from oxid.errors import AccessDenied, AuthenticationError, NotSupported, OxidError
from oxid.runtime.deadlines import DeadlineDriver
from oxid.values.status import ERROR_ACCESS_DENIED
from oxid.world import SleepingClock, World

log = logging.getLogger("oxid.com.ping")

ROUNDS: Final = 4_096
"""Pings of one set in one tick: a rebuilt set, a delta that needs several, and the search for dead objects. The time
limit of a tick ends them earlier where they are slow."""
PATIENCE: Final = 0.4
"""Periods that all pings of one tick of a set may take together."""
NAP: Final = 1 / 12
"""Periods for which a machine may be suspended without its resolvers being pinged as soon as it goes on."""

Place: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class PingTarget:
    """A resolver, and who we are to it."""

    resolver: tuple[Place, ...]
    """Its addresses, in the order in which its references name them."""
    ladder: tuple[Blanket, ...]
    """Identities to ping as, the best first."""
    period: float
    """Seconds between two pings."""
    fallback: tuple[Place, ...] = field(default=(), compare=False)
    """Where it was reached, too: behind NAT the addresses above may lead nowhere."""
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.resolver, self.ladder, self.period)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(dict.fromkeys([*self.resolver, *self.fallback]))

    def __str__(self) -> str:
        return " ".join(f"{host}:{port}" for host, port in self.places[:1]) or "a resolver without an address"


Send: TypeAlias = Callable[[tuple[Place, ...], Blanket, Ping], Awaitable[tuple[int, int]]]
Listener: TypeAlias = Callable[[PingTarget, list[int]], object]


class _Group:
    """What is held for one target: the same objects may be held for others, too."""

    __slots__ = ("ladder", "oids", "rung", "set", "target", "tried", "warned")

    def __init__(self, target: PingTarget) -> None:
        self.target = target
        self.ladder = list(target.ladder) or [UNAUTHENTICATED]
        self.rung = 0
        self.tried = 0
        """Identities refused in a row."""
        self.warned = False
        """It was said that all of them are."""
        self.oids: dict[int, int] = {}
        self.set: _Set | None = None

    @property
    def identity(self) -> Blanket:
        return self.ladder[self.rung]


class _Set:
    """One ping set and its schedule."""

    __slots__ = ("busy", "due", "groups", "identity", "key", "owed", "period", "places")

    def __init__(self, key: tuple[object, ...], group: _Group, due: float) -> None:
        self.key = key
        self.places = group.target.places
        self.identity = group.identity
        self.period = group.target.period
        self.owed = ClientPingSet()
        self.groups: set[_Group] = set()
        self.due = due
        self.busy: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        host, port = self.places[0] if self.places else ("a resolver without an address", 0)
        return f"{host}:{port} as {self.identity}"


class PingAgent:
    """All ping sets of one process, or of one machine."""

    def __init__(self, world: World, send: Send) -> None:
        """`send` as in the module's docstring."""
        self._world = world
        self._send = send
        self.listeners: set[Listener] = set()
        """`listener(target, oids)` hears of objects that resolvers do not know any more."""
        self._groups: dict[PingTarget, _Group] = {}
        self._sets: dict[tuple[object, ...], _Set] = {}
        self._timer = DeadlineDriver(asyncio.get_running_loop(), world, self._tick)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._slept = world.clock.slept if isinstance(world.clock, SleepingClock) else None
        self._slept_before = self._slept() if self._slept is not None else 0.0
        self.pings_sent = 0
        self.on_idle: Callable[[], object] = lambda: None
        """Hears when nothing is held any more, and no resolver has to be told of it."""

    # What is held -------------------------------------------------------------------------------------

    def hold(self, target: PingTarget, oid: int) -> None:
        """Keep `oid` alive until as many `let_go`; its first ping comes within a period."""
        if self._closed:
            return
        group = self._groups.get(target)
        if group is None:
            group = self._groups[target] = _Group(target)
        count = group.oids.get(oid, 0)
        group.oids[oid] = count + 1
        found = group.set or self._join(group)
        if not count:
            found.owed.hold(oid)
        else:
            found.owed.hold(oid)  # whoever has a new reference knows that the object lives
            found.owed.let_go(oid)

    def let_go(self, target: PingTarget, oid: int) -> None:
        """End one `hold`; the resolver hears of it at the next tick."""
        group = self._groups.get(target)
        count = 0 if group is None else group.oids.get(oid, 0)
        if group is None or not count:
            return
        if count > 1:
            group.oids[oid] = count - 1
            return
        del group.oids[oid]
        if group.set is not None:
            group.set.owed.let_go(oid)
        if not group.oids:
            del self._groups[target]
            if group.set is not None:
                self._leave(group)

    def object_gone(self, target: PingTarget, oid: int) -> None:
        """A call found the object dead: no ping names it again."""
        group = self._groups.get(target)
        if group is not None and group.set is not None:
            group.set.owed.object_gone(oid)

    def suspect(self, target: PingTarget, oids: Iterable[int]) -> None:
        """The exporter of these objects may be gone: the next tick asks the resolver."""
        group = self._groups.get(target)
        if group is not None and group.set is not None:
            group.set.owed.suspect(oids)

    def learn(self, target: PingTarget, identity: Blanket) -> None:
        """Calls to the objects of this target were accepted with an identity: pings may use it, too.

        Where pings are accepted already, nothing changes: an object does not move between sets without need.
        """
        group = self._groups.get(target)
        if group is None or group.set is None:
            return
        if group.rung == 0 and not group.set.owed.set_id:
            if group.ladder[0] != identity:
                group.ladder = [identity, *[other for other in group.ladder if other != identity]]
                self._move(group)
        elif identity not in group.ladder:
            group.ladder.insert(group.rung + 1, identity)

    async def tell(self, target: PingTarget) -> bool:
        """Tell the resolver at once what it has not heard yet, within the time of one tick; whether it has heard."""
        group = self._groups.get(target)
        if group is not None and group.set is not None and group.set.owed.changed:
            await self._now(group.set)
        return group is None or group.set is None or not group.set.owed.changed

    async def tick(self) -> None:
        """Ping every set now, whatever its phase, and wait for the answers."""
        for found in list(self._sets.values()):
            if found.busy is None:
                self._start(found)
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def say_goodbye(self, target: PingTarget, limit: float) -> None:
        """Tell the resolver at once what was let go, within `limit` seconds; its own time-out is the backstop."""
        keys = [key for key in self._sets if key[0] == (target.resolver or target.fallback)]
        try:
            async with asyncio.timeout(limit):
                for key in keys:
                    found = self._sets.get(key)
                    if found is not None and found.owed.changed:
                        await self._now(found)
        except TimeoutError:
            log.debug("no answer to the last ping of %s within %.1f s", target, limit)
        for key in keys:
            found = self._sets.get(key)
            if found is not None and found.owed.empty:
                self._forget(found)

    def statistics(self) -> dict[str, int]:
        return {"sets": len(self._sets), "oids": sum(len(s.owed.oids) for s in self._sets.values())}

    @property
    def idle(self) -> bool:
        """Nothing is held, and no resolver has to be told of it any more."""
        return not self._sets

    async def aclose(self) -> None:
        """Stop at once. Sets still known are forgotten; their resolvers notice by themselves."""
        self._closed = True
        self._timer.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for found in list(self._sets.values()):
            self._forget(found)
        self._groups.clear()

    # Sets ---------------------------------------------------------------------------------------------

    @staticmethod
    def key_of(target: PingTarget, identity: Blanket) -> tuple[object, ...]:
        """What makes two objects members of one set: their resolver and the identity, whichever process asks."""
        return target.resolver or target.fallback, identity, target.period

    @staticmethod
    def identity_of(group: _Group) -> Blanket:
        """Who pings for a group."""
        return group.identity

    def _join(self, group: _Group) -> _Set:
        identity = self.identity_of(group)
        key = self.key_of(group.target, identity)
        found = self._sets.get(key)
        if found is None:
            # The first ping comes at a random moment of the first period, so that sets and clients spread.
            phase = int.from_bytes(self._world.entropy.token(2), "little") / 0x1_0000
            now = self._world.clock.now()
            found = self._sets[key] = _Set(key, group, now + group.target.period * phase)
            found.identity = identity
            self._world.ledger.client_set.enter()
            self._timer.want(self._next(now) or now)
        found.groups.add(group)
        group.set = found
        return found

    def _leave(self, group: _Group) -> None:
        found, group.set = group.set, None
        if found is not None:
            found.groups.discard(group)
            self._forget_if_finished(found)

    def _move(self, group: _Group) -> None:
        """The group's objects go over to the set of its present identity; what the old one held it lets go.

        Pings of the old identity are refused, or were never made: there is no moment without a holder that
        waiting could avoid.
        """
        old = group.set
        if old is None or old.identity == group.identity:
            return
        group.set = None
        new = self._join(group)
        new.due = min(new.due, self._world.clock.now())
        for oid in group.oids:
            new.owed.hold(oid)
            old.owed.let_go(oid)
        old.groups.discard(group)
        self._forget_if_finished(old)

    def _forget_if_finished(self, found: _Set) -> None:
        if found.owed.finished and not found.groups and found.busy is None:
            self._forget(found)

    def _forget(self, found: _Set) -> None:
        if self._sets.get(found.key) is found:
            del self._sets[found.key]
            self._world.ledger.client_set.leave()
            for group in found.groups:
                group.set = None
        if not self._sets:
            self._timer.close()
            if not self._closed:
                self.on_idle()

    # Time ---------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> float | None:
        """Start the pings that are due; when to look again."""
        slept = self._has_slept()
        for found in list(self._sets.values()):
            if found.due <= now or slept > found.period * NAP:
                # Whoever slept has missed ticks: one ping now, and the next half a period later or more.
                found.due = max(found.due + found.period, now + found.period * 0.5)
                if found.busy is None:
                    self._start(found)
        return self._next(now)

    def _has_slept(self) -> float:
        """For how long the machine was suspended since the last tick: its timers stood still, resolvers did not."""
        if self._slept is None:
            return 0.0
        before, self._slept_before = self._slept_before, self._slept()
        return self._slept_before - before

    def _next(self, now: float) -> float | None:
        """When the next ping is due; where the machine may be suspended, soon enough to notice it."""
        due = min((found.due for found in self._sets.values()), default=None)
        if due is None or self._slept is None:
            return due
        return min(due, now + NAP * min(found.period for found in self._sets.values()))

    async def _now(self, found: _Set) -> None:
        """Bring a set up to date now, behind the tick that may be doing so."""
        while found.busy is not None:
            await asyncio.wait({found.busy})
        if found.owed.changed and self._sets.get(found.key) is found and not self._closed:
            await asyncio.wait({self._start(found)})

    def _start(self, found: _Set) -> asyncio.Task[None]:
        self._world.ledger.task.enter()
        task = asyncio.get_running_loop().create_task(self._bring_up_to_date(found), name="oxid ping")
        found.busy = task
        self._tasks.add(task)
        task.add_done_callback(lambda ended: self._ended(found, ended))
        return task

    def _ended(self, found: _Set, task: asyncio.Task[None]) -> None:
        found.busy = None
        self._tasks.discard(task)
        self._world.ledger.task.leave()
        if not task.cancelled() and (error := task.exception()) is not None:
            # A fault that one set meets must not keep the others from being pinged.
            log.error("ping of %s failed", found, exc_info=error)
        dead = found.owed.take_dead()
        if dead:
            for group in list(found.groups):
                mine = [oid for oid in dead if oid in group.oids]
                if mine:
                    for listener in list(self.listeners):
                        listener(group.target, mine)
        self._forget_if_finished(found)
        due = self._next(self._world.clock.now())
        if due is not None and not self._closed:
            self._timer.want(due)

    async def _bring_up_to_date(self, found: _Set) -> None:
        owed = found.owed
        try:
            async with asyncio.timeout(found.period * PATIENCE):
                for _ in range(ROUNDS):
                    ping = owed.next_ping()
                    if ping is None:
                        break
                    try:
                        self.pings_sent += 1
                        status, set_id = await self._send(found.places, found.identity, ping)
                    except (AccessDenied, AuthenticationError, NotSupported) as error:
                        owed.refused(ping)
                        self._refused(found, str(error) or type(error).__name__)
                        break
                    except (OxidError, OSError, TimeoutError, UnicodeError) as error:
                        owed.lost(ping)
                        log.warning("ping of %s failed: %s", found, error)
                        break
                    again = owed.answered(ping, status, set_id)
                    if status == ERROR_ACCESS_DENIED:
                        self._refused(found, "access denied")
                        break
                    for group in found.groups:
                        group.tried, group.warned = 0, False
                    if not again:
                        break
        except TimeoutError:
            log.warning("ping of %s had no answer in %.1f s", found, found.period * PATIENCE)

    def _refused(self, found: _Set, why: str) -> None:
        """The resolver does not take this identity: the groups that have another one use it, at once."""
        for group in list(found.groups):
            group.tried += 1
            if len(group.ladder) > 1 and group.tried < len(group.ladder):
                group.rung = (group.rung + 1) % len(group.ladder)
                log.info("pings of %s are refused (%s): going on as %s", found, why, group.identity)
                self._move(group)
                self._timer.want(self._world.clock.now())
                continue
            # All were refused: the next tick begins with the best one again, should its credentials be back.
            group.tried = 0
            if not group.warned:
                group.warned = True
                log.warning("pings of %s are refused with every identity there is: %s", found, why)
            if group.rung:
                group.rung = 0
                due = found.due
                self._move(group)
                if group.set is not None:
                    group.set.due = max(group.set.due, due)

    def __repr__(self) -> str:
        return f"<PingAgent {len(self._sets)} sets>"
