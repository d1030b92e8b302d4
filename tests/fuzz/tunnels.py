"""Sessions of RPC over HTTP as every party hears them: stories told once in memory, kept as events per party.

    for session in record_all():       one for each story and party
        session.party                  "client", "proxy" or "server"
        session.events                 what the party heard, in order; PDUs apart

A proxy is one process with both roles; its events say which link they came on, and so which role heard them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final

from tests.support.tunnel_world import ClientEnd, End, TunnelWorld, pdu

from oxid.tunnel import rts
from oxid.tunnel.client import ChannelLeg
from oxid.tunnel.in_proxy import InProxy
from oxid.tunnel.options import TunnelOptions
from oxid.tunnel.out_proxy import OutProxy
from oxid.tunnel.proxy_channel import ServerLeg
from oxid.tunnel.rts import BANNER
from oxid.tunnel.server import ServerChannel

KIB: Final = 1024
SMALL: Final = TunnelOptions(
    receive_window=16 * KIB, channel_lifetime=128 * KIB, recycle_at=112 * KIB, max_half_open_per_identity=8
)
"""Channels are recycled after some KiB, and windows close early."""
MARK: Final = b"~l00000~"
"""What RPC PDUs are full of; a replay writes there on which link they come."""


def marked(size: int, mark: bytes = MARK) -> bytes:
    """An RPC PDU full of marks."""
    return pdu((mark.ljust(40, b".") * (size // 40 + 1))[:size])


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a party hears."""

    at: float
    """When, on the clock of its world."""
    what: str
    """open, connected, failed, responded, bytes, closed, write, writable, read or wait."""
    link: int = 0
    """Which request or connection of the party; for `write` at a server, which virtual connection."""
    far: bool = False
    """At a proxy: on the connection to the server, not on the request."""
    data: bytes = b""
    extra: tuple[Any, ...] = ()
    """open at a proxy: whether it is an IN channel, the identity, the target. writable, read: the flag."""


@dataclass(slots=True)
class Session:
    """What one party heard in one story."""

    story: str
    party: str
    events: list[Event] = field(default_factory=list)
    tokens: list[bytes] = field(default_factory=list)
    """The entropy that a client drew."""

    @property
    def name(self) -> str:
        return f"{self.story} at a {self.party}"

    def roles(self) -> dict[int, str]:
        """The role that hears each link."""
        if self.party != "proxy":
            return {event.link: self.party for event in self.events}
        return {e.link: "in-proxy" if e.extra[0] else "out-proxy" for e in self.events if e.what == "open"}


class RecordingEnd(End):
    """Notes what its leg hears."""

    world: RecordingWorld

    @property  # type: ignore[override]
    def leg(self) -> Any:
        return self._leg

    @leg.setter
    def leg(self, leg: Any) -> None:
        self._leg = leg
        if leg is not None:
            self.heard_by: tuple[Session, int, bool] | None = self.world.introduce(self, leg)

    def step(self) -> None:
        world, heard_by = self.world, self.heard_by
        assert heard_by is not None
        session, link, far = heard_by
        now = world.clock.time
        if not self.inbox:
            session.events.append(Event(now, "closed", link, far))
        elif not isinstance(self.inbox[0], bytes):
            session.events.append(Event(now, "responded", link, far))
        else:
            for piece in pdus_of(self.inbox[0]):
                session.events.append(Event(now, "bytes", link, far, piece))
        super().step()


class RecordingClient(ClientEnd):
    """Knows its legs by the order in which they were asked for."""

    def __init__(self, world: RecordingWorld, session: Session, *arguments: Any) -> None:
        self.session = session
        self.legs: list[ChannelLeg] = []
        super().__init__(world, *arguments)
        session.tokens += (self.tunnel.cookie, self.tunnel.association_group)

    def open_in(self, leg: ChannelLeg) -> None:
        self.legs.append(leg)
        super().open_in(leg)

    def open_out(self, leg: ChannelLeg) -> None:
        self.legs.append(leg)
        super().open_out(leg)


class RecordingWorld(TunnelWorld):
    """A world in which every party's ears are noted."""

    def __init__(self, story: str, **options: Any) -> None:
        super().__init__(seed=1, pieces="crumbs", **options)
        self.story = story
        self.sessions: list[Session] = []
        self.at_server = self.session("server")
        self.at_tables = [self.session("proxy") for _ in self.tables]
        self._links: dict[int, int] = {}
        self._kept: list[Any] = []
        self._ends: dict[End, int] = {}
        self.at_clients: dict[int, RecordingClient] = {}
        self.counts: dict[int, int] = {}
        self.echo = True

    def session(self, party: str) -> Session:
        found = Session(self.story, party)
        self.sessions.append(found)
        return found

    def cut(self, size: int) -> int:
        return size  # "crumbs" joins nothing, so that PDUs stay as they were written

    def pipe(self) -> tuple[End, End]:
        one, other = RecordingEnd(self), RecordingEnd(self)
        one.other, other.other = other, one
        self.ends += (one, other)
        return one, other

    def open(
        self, identity: Any = "alice", target: str = "server:593", *, settle: bool = True
    ) -> RecordingClient:
        session = self.session("client")
        client = RecordingClient(self, session, self.client_options, identity, target)
        self.clients.append(client)
        self.at_clients[id(client.tunnel)] = client
        if settle:
            self.settle()
        return client

    def introduce(self, end: RecordingEnd, leg: Any) -> tuple[Session, int, bool]:
        """A leg begins to hear: whose it is."""
        now = self.clock.time
        self._kept.append(leg)  # so that identities stay unique
        if isinstance(leg, InProxy | OutProxy):
            session = self.at_tables[self.tables.index(leg.table)]
            link = self._number(session, leg)
            extra = (isinstance(leg, InProxy), leg.identity, leg.target)
            session.events.append(Event(now, "open", link, extra=extra))
            return session, link, False
        if isinstance(leg, ServerLeg):
            assert leg.connection is not None
            channel = leg.connection.default
            session = self.at_tables[self.tables.index(channel.table)]
            link = self._links[id(channel)]
            session.events.append(Event(now, "connected", link))
            return session, link, True
        if isinstance(leg, ServerChannel):
            link = self._number(self.at_server, leg)
            self.at_server.events.append(Event(now, "open", link))
            return self.at_server, link, False
        assert isinstance(leg, ChannelLeg)
        client = next(each for each in self.clients if leg in each.legs)
        session, link = client.session, client.legs.index(leg)
        session.events.append(Event(now, "open", link))
        return session, link, False

    def _number(self, session: Session, leg: Any) -> int:
        number = self._links[id(leg)] = self.counts.get(id(session), 0)
        self.counts[id(session)] = number + 1
        return number

    # What stories do ----------------------------------------------------------------------------------------

    def say(self, client: RecordingClient, size: int) -> None:
        """A client's RPC layer writes a PDU, which the server's sends back."""
        data = marked(size)
        client.session.events.append(Event(self.clock.time, "write", data=data))
        client.duplex.write(data)
        self.settle()

    def push(self, number: int, size: int) -> None:
        """The server's RPC layer writes a PDU of its own accord."""
        data = marked(size)
        self.at_server.events.append(Event(self.clock.time, "write", number, data=data))
        self.servers[number].duplex.write(data)
        self.settle()

    def done(self) -> list[Session]:
        """Close everything; what all heard. Every client's entropy in the order in which it was drawn."""
        for client in self.clients:
            client.session.tokens += [leg.cookie for leg in client.legs]
        for session in self.sessions:
            session.events.append(Event(self.clock.time, "wait"))
        self.close()
        for session in self.sessions:
            # what is heard of the end is no part of the story: a replay ends in its own way
            last = max(i for i, event in enumerate(session.events) if event.what == "wait")
            del session.events[last:]
        return [session for session in self.sessions if session.events]


def pdus_of(data: bytes) -> Iterator[bytes]:
    """The PDUs of a piece, and the banner before them."""
    if data.startswith(BANNER):
        yield BANNER
        data = data[len(BANNER) :]
    while data:
        size = max(int.from_bytes(data[8:10], "little"), 16)
        yield data[:size]
        data = data[size:]


# Stories --------------------------------------------------------------------------------------------------


def talk(world: RecordingWorld) -> None:
    """Two people open tunnels to the same server and talk."""
    alice, bob = world.open("alice"), world.open("bob")
    for size in (40, 3000, 9000):
        world.say(alice, size)
        world.say(bob, size)
    world.push(0, 2000)
    world.push(1, 200)


def open_only(world: RecordingWorld) -> None:
    """Nothing but the establishment."""
    world.open("alice", settle=False)
    world.open("bob")


def silence(world: RecordingWorld) -> None:
    """Nobody says anything for a while: pings."""
    alice, bob = world.open("alice"), world.open("bob")
    world.advance(200)
    world.say(alice, 100)
    world.advance(100)
    alice.tunnel.keep_alive(90)
    world.say(bob, 100)


def recycle(world: RecordingWorld) -> None:
    """Both channels of both are recycled, some of them again."""
    alice, bob = world.open("alice"), world.open("bob")
    for _ in range(4):
        world.say(alice, 5000)
        world.say(bob, 4800)


def recycle_while_waiting(world: RecordingWorld) -> None:
    """The same while clients do not read: windows are closed and queues full."""
    alice, bob = world.open("alice"), world.open("bob")
    for client in (alice, bob):
        client.session.events.append(Event(world.clock.time, "read", extra=(False,)))
        client.duplex.pause_reading()
    for _ in range(4):
        world.say(alice, 9000)
        world.say(bob, 8000)
    for client in (alice, bob):
        client.session.events.append(Event(world.clock.time, "read", extra=(True,)))
        client.duplex.resume_reading()
    world.settle()
    world.say(alice, 100)


def part(world: RecordingWorld) -> None:
    """They talk, and leave one after the other."""
    alice, bob = world.open("alice"), world.open("bob")
    world.say(alice, 2000)
    alice.duplex.close()
    world.settle()
    world.say(bob, 2000)
    world.open("alice")
    bob.duplex.abort()
    world.settle()


STORIES: Final[Sequence[tuple[str, Callable[[RecordingWorld], None], int]]] = (
    ("establishment", open_only, 1),
    ("talk", talk, 1),
    ("silence", silence, 1),
    ("IN_R2 and OUT_R2", recycle, 1),
    ("IN_R1 and OUT_R1", recycle, 3),
    ("recycling with closed windows", recycle_while_waiting, 1),
    ("recycling with closed windows, R1", recycle_while_waiting, 3),
    ("parting", part, 1),
)


@cache
def record_all() -> tuple[Session, ...]:
    """Every story as every party heard it."""
    found: list[Session] = []
    for name, story, proxies in STORIES:
        world = RecordingWorld(name, proxies=proxies, options=SMALL)
        story(world)
        found += world.done()
    found += [made for session in found if (made := hurried(session)) is not None]
    return tuple(found)


def hurried(session: Session) -> Session | None:
    """The same with the successors of IN channels before their predecessors stand, as our client never is.

    None where a session has none of them.
    """
    events = list(session.events)
    changed = False
    for event in session.events:
        if event.what != "bytes" or event.data[2:3] != b"\x14" or len(event.data) < 88:
            continue
        found = rts.parse(event.data)
        if found.kind not in (rts.Kind.IN_A1, rts.Kind.IN_R1_A2):
            continue
        # behind the first that says the predecessor's cookie: its own first PDU, or what it was sent to the server as
        where = next(i for i, other in enumerate(events) if found.cookies[1] in other.data)
        block = [other for other in events[where:] if other.link == event.link][:2]
        if found.kind is rts.Kind.IN_A1:
            link = events[where].link
            where = next((i for i, e in enumerate(events) if e.what == "connected" and e.link == link), where)
        elif rts.parse(events[where].data).kind is not rts.Kind.IN_R1_A2:
            continue  # behind the establishment a server takes none that early
        if block[0].what != "open" or block[1] is not event or events.index(event) < where:
            continue
        for other in block:
            events.remove(other)
        events[where + 1 : where + 1] = [replace(other, at=events[where].at) for other in block]
        changed = True
    return replace(session, story=f"{session.story}, hurried", events=events) if changed else None
