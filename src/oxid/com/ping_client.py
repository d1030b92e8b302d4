"""What one client owes one resolver: the set of objects it holds there, told in deltas. [MS-DCOM] 3.2.6.1

Pure: the agent asks for the next ping, sends it, and reports how it went.
    hold(oid) / let_go(oid)     purely local; they never wait for the network
    suspect(oids)               their exporter may be gone: ask the resolver about each
    next_ping()                 -> Ping, or None where nothing is owed
    answered(ping, status, id)  / lost(ping) / refused(ping)
    take_dead()                 -> the objects that the resolver does not know any more
At most one ping is under way per set. A lost ComplexPing is sent again as it was, under its own sequence number;
what changed meanwhile waits for the next one, so no change is ever thought to be applied when it was not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from oxid.values.status import OR_INVALID_OID, OR_INVALID_SET

MAX_CHANGES: Final = 10_000
"""Additions, and removals, of one ping. The wire allows 65,535 of each; a resolver that is busy with so many keeps
its other clients waiting."""
FAREWELLS: Final = 2
"""Attempts to tell a resolver that nothing is held any more; after that its own time-out does it."""


@dataclass(frozen=True, slots=True)
class Ping:
    """One ping to send: a SimplePing where `sequence` is None, else a ComplexPing."""

    set_id: int
    sequence: int | None = None
    add: tuple[int, ...] = ()
    remove: tuple[int, ...] = ()

    @property
    def simple(self) -> bool:
        return self.sequence is None


class ClientPingSet:
    """The objects held at one resolver under one identity."""

    def __init__(self) -> None:
        self.set_id = 0
        self._sequence = 0
        self._held: dict[int, int] = {}
        self._told: set[int] = set()
        self._to_add: dict[int, None] = {}
        self._to_remove: dict[int, None] = {}
        self._probes: deque[tuple[int, ...]] = deque()
        """Objects to be named again, to learn which of them the resolver still knows."""
        self._under_way: Ping | None = None
        self._probing = False
        """The ping under way is one of `_probes`."""
        self._dead: set[int] = set()
        """Held, but the resolver does not know them."""
        self._news: list[int] = []
        self._farewells = 0
        self._rebuilding = False
        """The resolver forgot the set: some of its objects may be gone as well."""

    def hold(self, oid: int) -> None:
        """Count one more holder of `oid`; the first one makes it part of the set at the next ping. Whoever has
        a new reference knows that the object lives, whatever was found earlier."""
        count = self._held.get(oid, 0)
        self._held[oid] = count + 1
        self._farewells = 0
        if oid in self._dead:
            self._dead.discard(oid)
        elif count:
            return
        self._to_remove.pop(oid, None)
        if oid not in self._told:
            self._to_add[oid] = None

    def let_go(self, oid: int) -> None:
        """Count one holder less; the last one takes it out at the next ping. Unknown OIDs are ignored."""
        count = self._held.get(oid, 0)
        if count > 1:
            self._held[oid] = count - 1
        elif count:
            del self._held[oid]
            self._dead.discard(oid)
            self._to_add.pop(oid, None)
            if oid in self._told:
                self._to_remove[oid] = None

    def object_gone(self, oid: int) -> None:
        """A call found the object dead: stop naming it, whoever still holds a proxy."""
        if oid in self._held:
            self._dead.add(oid)
            self._to_add.pop(oid, None)
            if oid in self._told:
                self._to_remove[oid] = None

    def suspect(self, oids: Iterable[int]) -> None:
        """The exporter of these may be gone: the next pings name them again, and so learn what is left."""
        wanted = tuple(oid for oid in oids if oid in self._told and oid not in self._dead)
        for at in range(0, len(wanted), MAX_CHANGES):
            self._probes.append(wanted[at : at + MAX_CHANGES])

    @property
    def oids(self) -> frozenset[int]:
        return frozenset(self._held)

    @property
    def empty(self) -> bool:
        return not self._held

    @property
    def finished(self) -> bool:
        """Nothing is held, and the resolver has nothing to be told, or did not listen: the set may be forgotten."""
        if self._held:
            return False
        return self._farewells >= FAREWELLS or not (self._told or self._under_way)

    @property
    def changed(self) -> bool:
        """Whether the resolver has yet to hear of an addition or removal, or to answer about one."""
        return bool(self._under_way or self._to_add or self._to_remove or self._probes)

    def next_ping(self) -> Ping | None:
        """The ping owed now: the unanswered one again, a delta, a question, or a plain sign of life."""
        if not self._held and (self._told or self._under_way):
            self._farewells += 1
        if self._under_way is not None:
            return self._under_way
        add = tuple(islice(self._to_add, MAX_CHANGES))
        remove = tuple(islice(self._to_remove, MAX_CHANGES)) if self.set_id else ()
        if not add and not remove and self.set_id:
            while self._probes and not add:
                add = tuple(oid for oid in self._probes.popleft() if oid in self._told)
            self._probing = bool(add)
        if add or remove:
            self._sequence = (self._sequence % 0xFFFF) + 1 if self.set_id else 1
            self._under_way = Ping(self.set_id, self._sequence, add, remove)
            return self._under_way
        return Ping(self.set_id) if self.set_id and len(self._held) > len(self._dead) else None

    def answered(self, ping: Ping, status: int, set_id: int) -> bool:
        """Take in the resolver's answer; True where another ping is owed at once.

        OR_INVALID_SET makes the next pings found a new set with all that is held, and ask whether that is still
        there. OR_INVALID_OID keeps the set: its objects are named again in ever smaller groups, until the dead
        ones are known. Other failures leave the same changes owed.
        """
        if status == OR_INVALID_SET:
            self._set_is_gone()
            return bool(self._held)
        if ping.simple:
            return False
        probing, self._under_way, self._probing = self._probing, None, False
        if status == OR_INVALID_OID and ping.add:
            self._some_are_dead(ping)
            return self.changed
        if status == OR_INVALID_OID:
            status = 0  # there was nothing to add: what was to be let go is not known, which is as good
        if status:
            if probing:
                self._probes.append(ping.add)
            elif not ping.set_id:
                self._rebuilding = True  # a resolver that has just started, perhaps: some may not come back
            return False
        founded = not ping.set_id
        self.set_id = set_id or self.set_id
        self._told_of(ping)
        if founded and self._rebuilding:
            self._rebuilding = False
            self.suspect(ping.add)  # a new set skips unknown objects without a word
        if not self._held and not self._told:
            self.set_id = 0
        return self.changed

    def _set_is_gone(self) -> None:
        self._under_way, self._probing, self.set_id = None, False, 0
        self._told.clear()
        self._to_remove.clear()
        self._probes.clear()
        self._to_add = dict.fromkeys(oid for oid in self._held if oid not in self._dead)
        self._rebuilding = True

    def _told_of(self, ping: Ping) -> None:
        for oid in ping.add:
            self._to_add.pop(oid, None)
            self._told.add(oid)
            if oid not in self._held or oid in self._dead:
                self._to_remove[oid] = None  # let go while the ping was under way
        for oid in ping.remove:
            self._told.discard(oid)
            self._to_remove.pop(oid, None)
            if oid in self._held and oid not in self._dead:
                self._to_add[oid] = None  # taken again while the ping was under way

    def _some_are_dead(self, ping: Ping) -> None:
        """The resolver does not know all of a ping's additions; which ones, it does not say. The rest it has obeyed,
        perhaps: what we changed our mind about while the ping was under way is told again."""
        for oid in ping.remove:
            if oid in self._held and oid not in self._dead:
                self._told.discard(oid)
                self._to_add[oid] = None
        for oid in ping.add:
            if oid not in self._held:
                self._told.add(oid)
                self._to_remove[oid] = None
        if len(ping.add) == 1:
            self._found_dead(ping.add[0])
            return
        half = len(ping.add) // 2
        for part in (ping.add[:half], ping.add[half:]):
            wanted = tuple(oid for oid in part if oid in self._held)
            for oid in wanted:
                self._to_add.pop(oid, None)
                self._told.add(oid)  # perhaps; the probe tells
            if wanted:
                self._probes.append(wanted)

    def _found_dead(self, oid: int) -> None:
        self._told.discard(oid)
        self._to_add.pop(oid, None)
        self._to_remove.pop(oid, None)
        if oid in self._held and oid not in self._dead:
            self._dead.add(oid)
            self._news.append(oid)

    def lost(self, ping: Ping) -> None:
        """No answer came; the same ping is owed again at the next tick."""

    def refused(self, ping: Ping) -> None:
        """The resolver does not take us, so it has not heard the ping: what it was to say is owed as a whole."""
        if self._under_way is ping:
            if self._probing:
                self._probes.append(ping.add)
            self._under_way, self._probing = None, False

    def take_dead(self) -> list[int]:
        """The held objects that turned out to be dead since the last call."""
        news, self._news = self._news, []
        return news

    def __repr__(self) -> str:
        return f"<ClientPingSet {self.set_id:016x} {len(self._held)} held, {len(self._told)} told>"
