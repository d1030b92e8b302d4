"""What one client owes one resolver: the set of objects it holds there, told in deltas. [MS-DCOM] 3.2.6.1

Pure: the agent asks for the next ping, sends it, and reports how it went.
    hold(oid) / let_go(oid)     purely local; they never wait for the network
    next_ping()                 -> Ping, or None where nothing is owed
    answered(ping, status, id)  / lost(ping)
At most one ping is under way per set. A lost ComplexPing is sent again as it was, under its own sequence number;
what changed meanwhile waits for the next one, so no change is ever thought to be applied when it was not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from oxid.values.status import OR_INVALID_OID, OR_INVALID_SET

MAX_CHANGES: Final = 0xFFFF
"""cAddToSet and cDelFromSet are 16 bits wide: larger deltas take several pings."""


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
        self._under_way: Ping | None = None
        self._unknown: set[int] = set()

    def hold(self, oid: int) -> None:
        """Count one more holder of `oid`; the first one makes it part of the set at the next ping. Whoever has
        a new reference knows that the object lives, whatever an earlier call found."""
        self._unknown.discard(oid)
        self._held[oid] = self._held.get(oid, 0) + 1

    def let_go(self, oid: int) -> None:
        """Count one holder less; the last one takes it out at the next ping. Unknown OIDs are ignored."""
        count = self._held.get(oid, 0)
        if count > 1:
            self._held[oid] = count - 1
        elif count:
            del self._held[oid]
            self._unknown.discard(oid)

    @property
    def oids(self) -> frozenset[int]:
        return frozenset(self._held)

    @property
    def finished(self) -> bool:
        """Nothing is held and the resolver has nothing to be told: the set may be forgotten."""
        return not self._held and not self._told and self._under_way is None

    @property
    def changed(self) -> bool:
        """Whether the resolver has yet to hear of an addition or removal."""
        return self._under_way is not None or bool(self._added() or self._told - self._held.keys())

    def next_ping(self) -> Ping | None:
        """The ping owed now: the unanswered one again, a delta, or a plain sign of life."""
        if self._under_way is not None:
            return self._under_way
        add = self._added()
        remove = self._told - self._held.keys()
        if add or remove:
            self._sequence = (self._sequence % 0xFFFF) + 1 if self.set_id else 1
            self._under_way = Ping(
                self.set_id,
                self._sequence,
                tuple(sorted(add)[:MAX_CHANGES]),
                tuple(sorted(remove)[:MAX_CHANGES]),
            )
            return self._under_way
        return Ping(self.set_id) if self.set_id and self._held else None

    def answered(self, ping: Ping, status: int, set_id: int) -> bool:
        """Take in the resolver's answer; True where another ping is owed at once.

        OR_INVALID_SET makes the next ping found a new set with all that is held. OR_INVALID_OID keeps the set:
        every addition the resolver knows was made, and the holders of the others learn it from their calls.
        """
        if status == OR_INVALID_SET:
            self._under_way = None
            self.set_id = 0
            self._told.clear()
            return bool(self._held)
        if ping.simple:
            return False
        self._under_way = None
        if status not in (0, OR_INVALID_OID):
            # The resolver refused the change as a whole; the same delta is owed again at the next tick.
            return False
        self.set_id = set_id or self.set_id
        self._told.update(ping.add)
        self._told.difference_update(ping.remove)
        if not self._held and not self._told:
            self.set_id = 0
        return self.changed

    def lost(self, ping: Ping) -> None:
        """No answer came; the same ping is owed again at the next tick."""

    def object_gone(self, oid: int) -> None:
        """A call found the object dead: stop naming it, whoever still holds a proxy."""
        if oid in self._held:
            self._unknown.add(oid)

    def _added(self) -> set[int]:
        return self._held.keys() - self._told - self._unknown

    def __repr__(self) -> str:
        return f"<ClientPingSet {self.set_id:016x} {len(self._held)} held, {len(self._told)} told>"
