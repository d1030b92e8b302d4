"""One party of a tunnel alone, told what somebody else says, and what must hold there whatever comes.

    bench = bench_for(session, world)
    for event in events:
        bench.hear(event, piece_sizes)
    outcome = bench.finish(rng)            closes everything and raises `Broken` for whatever stayed

Every RPC PDU is marked with the link it came on just before it is heard. A mark that leaves on a link of another
owner is a leak: at proxies links belong to an identity and its target, at a server to the cookie of its first PDU.
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Final

from tests.fuzz.tunnels import SMALL, Event, Session
from tests.support.tunnel_world import HandClock

from oxid.errors import ProtocolError, TransportError
from oxid.tunnel.channel import MAX_RTS_WAITING, SendingChannel
from oxid.tunnel.duplex import HIGH, Duplex
from oxid.tunnel.ends import End
from oxid.tunnel.windows import MAX_FRAGMENT, ReceiveWindow
from oxid.world import World

MOST_HELD: Final = SMALL.receive_window + MAX_FRAGMENT
"""Bytes of RPC that may wait behind one window. RH-73"""
LARGEST_READ: Final = 64 * 1024
"""Bytes that a socket gives at once: what an RPC layer answers within one piece cannot be stopped in between."""
MOST_STEPS: Final = 20_000
"""Deadlines that may fall due in one case: a machine that asks for more is not going to stop."""
MARKS: Final = re.compile(rb"~l\d{5}~")
COOKIE: Final = slice(32, 48)
"""Of the first PDU of every connection to a server: the virtual connection's, behind header and version."""
WORST: Final = (
    End.PROTOCOL_ERROR,
    End.REFUSED,
    End.STALLED,
    End.IDLE,
    End.SETUP,
    End.CONNECT_FAILED,
    End.SERVER_CLOSED,
    End.PROXY_CLOSED,
    End.CLIENT_CLOSED,
)
OUTCOMES: Final = ("went on", *(end.value for end in WORST))


class Broken(AssertionError):
    """A case that did what none may."""


class Tokens:
    """The entropy that a client drew when its story was told, so that its cookies are those of the recording."""

    def __init__(self) -> None:
        self.tokens: list[bytes] = []
        self.random = random.Random(1)

    def token(self, size: int) -> bytes:
        return self.tokens.pop(0) if self.tokens else self.random.randbytes(size)


class FuzzWorld:
    """Clock, entropy and ledger, the same for thousands of cases: what one leaves, the next one finds."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.tokens = Tokens()
        self.world = World(clock=self.clock, entropy=self.tokens)

    def live(self) -> dict[str, int]:
        return {kind: count for kind, count in self.world.ledger.live().items() if count}


class FuzzPort:
    """What a machine does to one connection."""

    def __init__(self, bench: Bench, link: int, far: bool) -> None:
        self.bench = bench
        self.link, self.far = link, far
        self.ended = self.paused = False
        self.gone = False
        """Ended by the other side."""
        self.size = 0
        """Bytes written."""
        self.out: bytearray | None = bytearray() if bench.keep else None
        self.backlog: deque[Event] = deque()
        self.fed = b""

    def write(self, data: Any, /) -> None:
        if self.ended:
            return
        assert len(data), "nothing is written"
        self.size += len(data)
        if self.out is not None:
            self.out += data
        for mark in set(MARKS.findall(data)):
            self.bench.mark_left(mark, self)

    def write_all(self, buffers: list[Any], /) -> None:
        self.write(b"".join(buffers))

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


class Bench:
    """A party with all its links."""

    def __init__(self, session: Session, fuzz: FuzzWorld, *, keep: bool = False) -> None:
        self.keep = keep
        self.fuzz = fuzz
        self.world = fuzz.world
        self.clock = fuzz.clock
        self.clock.time = 1000.0
        fuzz.tokens.tokens = list(session.tokens)
        fuzz.tokens.random.seed(1)
        self.ports: dict[tuple[int, bool], FuzzPort] = {}
        self.legs: dict[tuple[int, bool], Any] = {}
        self.late = 0.0
        """By how much everything happens later than it was recorded."""
        self.tasks: deque[Callable[[], None]] = deque()
        self.uppers: list[FuzzUpper] = []
        self.marks: dict[bytes, tuple[int, bool]] = {}

    # What a party is ----------------------------------------------------------------------------------------

    def expire(self, now: float) -> float | None:
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        raise NotImplementedError

    def open(self, event: Event) -> None:
        raise NotImplementedError

    def connected(self, event: Event, *, failed: bool) -> None: ...

    def responded(self, link: int) -> None: ...

    def write(self, event: Event) -> None: ...

    def owner(self, link: int, far: bool) -> Hashable:
        raise NotImplementedError

    def check(self) -> None:
        """Invariants that hold between any two events."""
        raise NotImplementedError

    def shut_down(self) -> None:
        raise NotImplementedError

    def at_rest(self) -> None:
        """Nothing may be left in any table."""
        raise NotImplementedError

    def worst(self) -> str:
        raise NotImplementedError

    # Hearing ------------------------------------------------------------------------------------------------

    def hear(self, event: Event, cuts: Callable[[int], int] | None = None) -> None:
        """Let one thing happen. `cuts` says into which pieces bytes are cut: how long the next one is."""
        at = max(event.at + self.late, self.clock.time)
        if event.what == "wait":
            at += event.extra[0]
            self.late += event.extra[0]
        self.pass_until(at)
        key = event.link, event.far
        what = event.what
        if what == "open":
            self.open(event)
        elif what in ("connected", "failed"):
            self.connected(event, failed=what == "failed")
        elif what == "responded":
            self.responded(event.link)
        elif what == "write":
            self.write(event)
        elif what == "read":
            for upper in self.uppers:
                upper.read(event.extra[0])
        elif key in self.legs:
            port = self.ports[key]
            if what == "writable":
                self.legs[key].writable(event.extra[0])
            elif port.paused or port.backlog:
                port.backlog.append(event)  # whoever does not read hears nothing, not even the end
            else:
                self._feed(port, event, cuts)
        self.turn(cuts)
        self.check()

    def _feed(self, port: FuzzPort, event: Event, cuts: Callable[[int], int] | None) -> None:
        key = event.link, event.far
        leg = self.legs[key]
        if event.what == "closed":
            port.ended = port.gone = True
            leg.closed(event.extra[0] if event.extra else None)
            return
        data = self.remarked(event.data, key)
        if len(port.fed) < COOKIE.stop:
            port.fed += data[: COOKIE.stop]
        while data:
            size = min(len(data) if cuts is None else max(1, cuts(len(data))), LARGEST_READ)
            piece, data = data[:size], data[size:]
            leg.receive(piece)
            self.turn_tasks()
            if port.paused and data:
                port.backlog.append(Event(event.at, "bytes", event.link, event.far, data))
                return

    def remarked(self, data: bytes, key: tuple[int, bool]) -> bytes:
        """The data with marks that say where it comes from."""
        if b"~l" not in data:
            return data
        mark = b"~l%05d~" % (2 * key[0] + key[1] + 1)
        self.marks[mark] = key
        return MARKS.sub(mark, data)

    def mark_left(self, mark: bytes, port: FuzzPort) -> None:
        """A mark was written to a port."""
        came = self.marks.get(mark)
        if came is None:
            return  # of our own RPC layer
        if self.owner(*came) != self.owner(port.link, port.far):
            raise Broken(f"what came on link {came} left on {port.link, port.far}, which is somebody else's")

    def turn_tasks(self) -> None:
        while self.tasks:
            self.tasks.popleft()()

    def turn(self, cuts: Callable[[int], int] | None = None) -> None:
        """What was put off happens, and what waited for a paused connection."""
        again = True
        while again:
            self.turn_tasks()
            again = False
            for port in list(self.ports.values()):
                while port.backlog and not port.paused:
                    self._feed(port, port.backlog.popleft(), cuts)
                    again = True

    def pass_until(self, until: float) -> None:
        """Time passes; what is due happens."""
        steps = 0
        while (due := self.next_deadline()) is not None and due <= until:
            self.clock.time = max(self.clock.time, due)
            self.expire(self.clock.time)
            self.turn()
            steps += 1
            if steps > MOST_STEPS:
                raise Broken(f"{steps} deadlines until {until}")
        self.clock.time = max(self.clock.time, until)

    # The end ------------------------------------------------------------------------------------------------

    def finish(self, rng: random.Random) -> str:
        """Everything ends: by the others, or by ourselves. Returns what became of the case."""
        outcome = self.worst()
        if rng.random() < 0.5:
            for key in rng.sample(list(self.legs), len(self.legs)):
                self.ports[key].backlog.clear()
                self.ports[key].ended = self.ports[key].gone = True
                self.legs[key].closed(rng.choice((None, TransportError("reset"))))
                self.turn_tasks()
                self.check()
        if rng.random() < 0.5:
            self.shut_down()
            self.turn_tasks()
        elif self.fuzz.live():
            self.last_close()
        self.turn_tasks()
        if live := self.fuzz.live():
            self.shut_down()
            self.turn_tasks()
            raise Broken(f"left behind: {live}")
        self.at_rest()
        for upper in self.uppers:
            assert upper.lost == 1, f"the upper layer heard of the end {upper.lost} times"
        return outcome

    def last_close(self) -> None:
        """The others go, one connection after the other."""
        for key, leg in list(self.legs.items()):
            self.ports[key].ended = self.ports[key].gone = True
            leg.closed(None)
            self.turn_tasks()


class FuzzUpper:
    """The RPC layer: counts, sends back what comes, and stops reading while it may not write."""

    def __init__(self, duplex: Duplex, *, echo: bool) -> None:
        self.duplex = duplex
        self.echo = echo
        self.data = bytearray()
        self.lost = 0
        self.error: Exception | None = None
        self.may_write = self.wants_to_read = True
        self.got = 0
        self.out: bytearray = bytearray()

    def data_received(self, data: bytes, /) -> None:
        assert type(data) is bytes
        assert data, "nothing was received"
        assert not self.lost
        self.got += len(data)
        self.out += data
        if not self.echo:
            return
        self.data += data
        while len(self.data) >= 16:
            size = int.from_bytes(self.data[8:10], "little" if self.data[4] & 0x10 else "big")
            assert size >= 16, "no PDU"
            if len(self.data) < size:
                break
            whole = bytes(self.data[:size])
            del self.data[:size]
            self.duplex.write(whole)

    def read(self, flag: bool) -> None:
        self.wants_to_read = flag
        self._set()

    def pause_writing(self) -> None:
        assert self.may_write
        assert not self.lost
        self.may_write = False
        self._set()

    def resume_writing(self) -> None:
        assert not self.may_write
        assert not self.lost
        self.may_write = True
        self._set()

    def _set(self) -> None:
        if self.wants_to_read and self.may_write:
            self.duplex.resume_reading()
        else:
            self.duplex.pause_reading()

    def connection_lost(self, error: Exception | None, /) -> None:
        assert error is None or isinstance(error, ProtocolError | TransportError), error
        self.lost += 1
        self.error = error


def check_duplex(duplex: Duplex, own: int) -> None:
    """What waits for the upper layer, and for the other side's window. `own`: the most that was written at once."""
    waiting = sum(size for _, size, _ in duplex._waiting)
    if waiting > 2 * MOST_HELD:
        raise Broken(f"{waiting} bytes wait for the upper layer")
    check_channel(duplex._channel, HIGH + 2 * MOST_HELD + own)
    windows: dict[int, tuple[ReceiveWindow, int]] = {}
    for _, size, window in duplex._waiting:
        windows[id(window)] = window, windows.get(id(window), (window, 0))[1] + size
    for window, size in windows.values():
        assert window.held == size, f"{window} holds {size}"


def check_channel(channel: SendingChannel | None, most: int = MOST_HELD) -> int:
    """The sums of a sender; returns what waits there."""
    if channel is None:
        return 0
    queued = sum(size for _, size, _ in channel.queue)
    assert queued == channel.queued, f"{channel} has {queued}"
    assert all(len(data) == size for data, size, _ in channel.queue)
    assert 0 <= channel.available <= channel.size, f"{channel}, {channel.available} of {channel.size}"
    assert channel.acked <= channel.sent
    if len(channel.rts_queue) > MAX_RTS_WAITING:
        raise Broken(f"{len(channel.rts_queue)} RTS PDUs wait")
    if queued > most:
        raise Broken(f"{queued} bytes wait, {most} at most")
    return queued
