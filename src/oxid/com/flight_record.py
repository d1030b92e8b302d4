"""What happened to one object, in a few bytes: behind `oxid why OID`.

    recorder = FlightRecorder()
    record = recorder.note(record, now, Kind.ADD_REF, "LAB\\\\alice", 5)
    recorder.read(record)                 -> [Event, ...], oldest first

A record is an immutable `bytes`: an object that had three events owns a hundred bytes, and a million objects own
nothing that the interpreter's collector would have to walk. It is bounded: the first events stay, since they say
where the object came from, and the latest, since they say why it went. No ordinary call is an event.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from struct import Struct
from typing import Any, Final

_EVENT: Final = Struct("<dQIB")
_pack: Final = _EVENT.pack
_SIZE: Final = _EVENT.size

FIRST: Final = 4
"""Events at the beginning of a record that are never given up."""
MOST: Final = 32
"""Events of one record."""
MAX_NAMES: Final = 65_536
"""Different names that a recorder keeps apart; whoever comes later is "somebody"."""

_KEPT: Final = FIRST * _SIZE
_FULL: Final = MOST * _SIZE


class Kind(IntEnum):
    """What can happen to an object or a ping set."""

    EXPORTED = 1
    MARSHALLED = 2
    ADD_REF = 3
    RELEASE = 4
    QUERIED = 5
    JOINED = 6
    LEFT = 7
    SET_ENDED = 8
    PING_MISSED = 9
    CANDIDATE = 10
    KEPT_BUSY = 11
    KEPT_PINNED = 12
    RECLAIMED = 13
    RELEASED = 14
    RUNDOWN = 15
    ASSERTED = 16
    SET_MADE = 17
    PIN = 18
    UNPIN = 19
    SET_CLOSED = 20


_TEXTS: Final = {
    Kind.EXPORTED: "exported by {who}",
    Kind.MARSHALLED: "marshalled with {detail} references, for {who}",
    Kind.ADD_REF: "{detail} references added by {who}",
    Kind.RELEASE: "{detail} references released by {who}",
    Kind.QUERIED: "interface queried by {who}, with {detail} references",
    Kind.JOINED: "joined ping set {detail:016x} of {who}",
    Kind.LEFT: "left ping set {detail:016x} of {who}, who let go",
    Kind.SET_ENDED: "left ping set {detail:016x}, which ended: {who} was silent for too long",
    Kind.PING_MISSED: "pings of {who} missed in a row: {detail}",
    Kind.CANDIDATE: "candidate for reclaim: {who}",
    Kind.KEPT_BUSY: "kept: {who}",
    Kind.KEPT_PINNED: "kept: its exporter pins it",
    Kind.RECLAIMED: "reclaimed: {who}",
    Kind.RELEASED: "gone: {who}",
    Kind.RUNDOWN: "run down with {who}, process {detail}",
    Kind.ASSERTED: "asserted again by {who}, process {detail}",
    Kind.SET_MADE: "ping set {detail:016x} made by {who}",
    Kind.PIN: "pinned: it lives without pings",
    Kind.UNPIN: "no longer pinned",
    Kind.SET_CLOSED: "ping set {detail:016x} ended: {who}",
}


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a record. `at` is on the clock that the recorder's callers use."""

    at: float
    kind: Kind
    who: str
    detail: int

    def __str__(self) -> str:
        return _TEXTS[self.kind].format(who=self.who or "nobody", detail=self.detail)

    def to_json(self) -> list[Any]:
        """The form in which a process tells another one."""
        return [self.at, int(self.kind), self.who, self.detail]


class FlightRecorder:
    """Writes and reads records; keeps the names that they mention, each once."""

    __slots__ = ("_names", "_numbers")

    def __init__(self) -> None:
        self._names: list[str] = ["somebody", ""]
        self._numbers: dict[str, int] = {"": 1}

    def name(self, who: str) -> int:
        """The number under which a name is written; for callers that write it often."""
        number = self._numbers.get(who)
        if number is None:
            if len(self._names) >= MAX_NAMES:
                return 0
            number = self._numbers[who] = len(self._names)
            self._names.append(who)
        return number

    def note(self, record: bytes, now: float, kind: Kind, who: str = "", detail: int = 0) -> bytes:
        """The record with one event more."""
        number = self._numbers.get(who)
        if number is None:
            number = self.name(who)
        return appended(record, _pack(now, detail, number, kind))

    def read(self, record: bytes) -> list[Event]:
        """The events of a record, oldest first."""
        return [
            Event(at, Kind(kind), self._names[who], detail)
            for at, detail, who, kind in _EVENT.iter_unpack(record)
        ]

    def write(self, events: list[Event]) -> bytes:
        """A record of these events, the first and last of them where they are too many."""
        record = b""
        for event in events:
            record = self.note(record, event.at, event.kind, event.who, event.detail)
        return record


def in_order(events: Iterable[Event]) -> list[Event]:
    """Events of several records as one story. The resolver hears of an object when its process says so, which may be
    when things have happened to it already: it was exported no later than the first of them."""
    found = sorted(events, key=lambda event: (event.at, event.kind is not Kind.EXPORTED))
    told = next((at for at, event in enumerate(found) if event.kind is Kind.EXPORTED), 0)
    if told:
        found.insert(0, replace(found.pop(told), at=min(event.at for event in found)))
    return found


def appended(record: bytes, event: bytes) -> bytes:
    """A record and one packed event, within the bound."""
    if len(record) < _FULL:
        return record + event
    return record[:_KEPT] + record[_KEPT + _SIZE :] + event


def packed(now: float, kind: Kind, number: int, detail: int = 0) -> bytes:
    """One event, for appending to many records; `number` is of `FlightRecorder.name`."""
    return _pack(now, detail, number, kind)


def ended_at(record: bytes) -> float:
    """When the last event of a record was."""
    found: tuple[float, int, int, int] = _EVENT.unpack_from(record, len(record) - _SIZE)
    return found[0]


def last_kind(record: bytes) -> int:
    """What the last event of a record was."""
    return record[-1]


def event_of(raw: Any) -> Event:
    """Read what `Event.to_json` wrote. ValueError"""
    try:
        at, kind, who, detail = raw
        return Event(float(at), Kind(kind), str(who)[:256], int(detail) & 0xFFFF_FFFF_FFFF_FFFF)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{raw!r} is no event") from error
