"""Changes to what a party of a tunnel hears, which know what RTS PDUs look like.

    events, touched = mutate(rng, session)        `touched`: the first event that was changed
    data = made_pdu(rng, cookies)                 any PDU of the table, with cookies that mean something

Cookies are taken from the session: those of both identities, so that swapping them is what an attacker would do.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from tests.fuzz.mutate import WIDE
from tests.fuzz.tunnels import Event, Session, marked

from oxid.tunnel import rts as r
from oxid.tunnel.rts import Command, Destination

Events = list[Event]

WINDOWS: Final = (0, 1, 8191, 8192, 16384, 65535, 65536, 131072, 262144, 262145, 0x7FFF_FFFF, 0xFFFF_FFFF)
LIFETIMES: Final = (0, 1, 4095, 131071, 131072, 1 << 20, 1 << 30, 1 << 31, (1 << 31) + 1, 0xFFFF_FFFF)
TIMEOUTS: Final = (0, 1, 119_999, 120_000, 600_000, 14_400_000, 14_400_001, 0xFFFF_FFFF)
EDGES_OF: Final[dict[int, Sequence[int]]] = {
    Command.RECEIVE_WINDOW_SIZE: WINDOWS,
    Command.CONNECTION_TIMEOUT: TIMEOUTS,
    Command.CHANNEL_LIFETIME: LIFETIMES,
    Command.CLIENT_KEEPALIVE: (0, 1, 59_999, 60_000, 300_000, 0xFFFF_FFFF),
    Command.VERSION: (0, 1, 2, 0xFFFF_FFFF),
    Command.DESTINATION: (0, 1, 2, 3, 4, 0xFFFF_FFFF),
    Command.PING_TRAFFIC_SENT_NOTIFY: (0, 20, 1040, 8192, 8193, 0x7FFF_FFFF, 0xFFFF_FFFF),
    Command.CLIENT_ADDRESS: (0, 1, 2, 0xFFFF_FFFF),
    Command.PADDING: (0, 1, 4, 0xFFFF, 0xFFFF_FFFF),
}
LENGTHS: Final = (0, 1, 9, 10, 15, 16, 17, 19, 20, 24, 28, 4095, 4096, 4097, 16384, 32768, 65534, 65535)
WAITS: Final = (0.001, 1.0, 29.9, 31.0, 61.0, 121.0, 241.0, 905.0, 4000.0)
SIZES: Final = (4, 20, 28, 44, 56, 132)
_WORD: Final = struct.Struct("<I")
_FIXED: Final = {0: 8, 1: 28, 2: 8, 3: 20, 4: 8, 5: 8, 6: 8, 7: 4, 9: 4, 10: 4, 12: 20, 13: 8, 14: 8}


def mutate(rng: random.Random, session: Session) -> tuple[Events, int]:
    """One to four changes; also returns which event the first of them touched."""
    events = list(session.events)
    cookies = cookies_of(session)
    first = len(events)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        at = rng.randrange(len(events))
        rng.choice(CHANGES)(rng, events, at, cookies)
        first = min(first, at)
        if not events:
            return list(session.events), 0
    return events, min(first, len(events) - 1)


def cookies_of(session: Session) -> list[bytes]:
    """Every cookie that appears in a session, and some that do not."""
    found: dict[bytes, None] = dict.fromkeys(session.tokens)
    for event in session.events:
        if is_rts(event.data):
            for command, at in commands_of(event.data):
                if command == Command.COOKIE:
                    found[event.data[at + 4 : at + 20]] = None
                elif command == Command.FLOW_CONTROL_ACK:
                    found[event.data[at + 12 : at + 28]] = None
    return [*found, r.NIL_COOKIE, b"\xa5" * 16]


def is_rts(data: bytes) -> bool:
    return len(data) >= r.HEADER_SIZE and data[0] == 5 and data[2] == r.RTS_TYPE


def commands_of(data: bytes) -> list[tuple[int, int]]:
    """Command and offset, as far as a PDU can be read."""
    found = []
    at = r.HEADER_SIZE
    while at + 4 <= len(data):
        command = _WORD.unpack_from(data, at)[0]
        size = _FIXED.get(command, 0)
        if command == Command.CLIENT_ADDRESS and at + 8 <= len(data):
            size = 36 if data[at + 4] else 24
        if not size or at + size > len(data):
            break
        found.append((command, at))
        at += size
    return found


def made_pdu(rng: random.Random, cookies: Sequence[bytes]) -> bytes:
    """A PDU of the table, or an RPC PDU, or something that claims to be one."""

    def some() -> bytes:
        return rng.choice(cookies)

    window = rng.choice(WINDOWS[3:9]) if rng.random() < 0.8 else rng.choice(WINDOWS)
    timeout = 120_000 if rng.random() < 0.8 else rng.choice(TIMEOUTS)
    lifetime = 1 << 20 if rng.random() < 0.7 else rng.choice(LIFETIMES)
    received = rng.choice((0, 40, 3000, 12_000, rng.randrange(20_000), 0x7FFF_FFFF, 0xFFFF_FFFF))
    makers: tuple[Callable[[], bytes], ...] = (
        lambda: r.conn_a1(some(), some(), window),
        lambda: r.conn_a2(some(), some(), lifetime, window),
        lambda: r.conn_a3(timeout),
        lambda: r.conn_b1(some(), some(), lifetime, 300_000, some()),
        lambda: r.conn_b2(some(), some(), window, timeout, some(), r.client_address("10.0.0.1")),
        lambda: r.conn_b3(window),
        lambda: r.conn_c(window, timeout),
        lambda: r.in_a1(some(), some(), some()),
        lambda: r.in_r1_a2(some(), some(), some(), window, timeout),
        lambda: r.in_r1_a3(window, timeout),
        lambda: r.one_cookie(some()),
        lambda: r.IN_R1_B1,
        lambda: r.in_r1_b2(window),
        lambda: r.IN_R2_A3,
        lambda: r.OUT_A1,
        lambda: r.out_a3(some(), some(), some(), window),
        lambda: r.out_r1_a4(some(), some(), some(), lifetime, window, timeout),
        lambda: r.out_r1_a5(timeout),
        lambda: r.out_r1_a7(some()),
        lambda: r.out_r2_a7(some()),
        lambda: r.OUT_R1_A9,
        lambda: r.OUT_R2_A5,
        lambda: r.OUT_R2_B2,
        lambda: r.OUT_R2_B3,
        lambda: r.OUT_R2_C1,
        lambda: r.keep_alive(rng.choice((0, 60_000, 1))),
        lambda: r.ping_notify(rng.choice((0, 1040, 8192, 0xFFFF_FFFF))),
        lambda: r.ECHO,
        lambda: r.PING,
        lambda: r.ack(received, window, some()),
        lambda: r.ack(received, rng.choice((0, 100, 16384)), some()),
        lambda: r.ack_forwarded(rng.choice(list(Destination)), received, window, some()),
        lambda: r.ack_forwarded(rng.choice(list(Destination)), received, rng.choice((0, 16384)), some()),
        lambda: marked(rng.choice((0, 8, 400, 16_368, 16_384, 65_519))),
        lambda: absurd(rng),
        lambda: composed(rng, cookies),
    )
    return rng.choice(makers)()


def absurd(rng: random.Random) -> bytes:
    """The header of an RPC PDU that promises something else than what follows."""
    length = rng.choice(LENGTHS)
    little = rng.random() < 0.8
    head = bytes((rng.choice((5, 5, 5, 4, 0)), 0, rng.choice((0, 2, 11, 20, 255)), 3, 0x10 if little else 0))
    head += bytes(3) + length.to_bytes(2, "little" if little else "big") + bytes(6)
    follows = rng.choice((0, 0, 4, length, length + 1, max(length - 17, 0)))
    return (head + bytes(follows))[: 16 + 65_535]


def composed(rng: random.Random, cookies: Sequence[bytes]) -> bytes:
    """An RTS PDU of any flags and commands."""
    body = b""
    commands = rng.randrange(8)
    for _ in range(commands):
        command = rng.choice((*range(15), 15, 0xFFFF_FFFF))
        body += _WORD.pack(command)
        if command in (Command.COOKIE, Command.ASSOCIATION_GROUP_ID):
            body += rng.choice(cookies)
        elif command == Command.FLOW_CONTROL_ACK:
            body += struct.pack("<II", rng.choice(WIDE), rng.choice(WIDE)) + rng.choice(cookies)
        elif command == Command.CLIENT_ADDRESS:
            body += _WORD.pack(rng.choice((0, 1))) + bytes(rng.choice((16, 28)))
        elif command == Command.PADDING:
            size = rng.choice((0, 1, 4, 3000))
            body += _WORD.pack(size) + bytes(size)
        elif command in EDGES_OF:
            body += _WORD.pack(rng.choice(EDGES_OF[command]))
    flags = rng.choice((0, 1, 2, 4, 8, 16, 20, 32, 64, 0x7F, 0xFFFF))
    count = commands if rng.random() < 0.9 else rng.choice((0, 1, commands + 1, 0xFFFF))
    head = bytes((5, 0, 20, 3, 16, 0, 0, 0)) + struct.pack("<HHI", 20 + len(body), 0, 0)
    return head + struct.pack("<HH", flags, count) + body


# Changes --------------------------------------------------------------------------------------------------


def change_field(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    """A field of an RTS command gets a value from its edges, within and outside its range."""
    at = _near(rng, events, at, is_rts)
    data = events[at].data
    found = commands_of(data)
    if not found:
        return
    command, where = rng.choice(found)
    if command == Command.COOKIE or command == Command.ASSOCIATION_GROUP_ID:
        changed = data[: where + 4] + rng.choice(cookies) + data[where + 20 :]
    elif command == Command.FLOW_CONTROL_ACK:
        field = where + rng.choice((4, 8))
        old = _WORD.unpack_from(data, field)[0]
        value = rng.choice((*WINDOWS, (old + 1) & 0xFFFF_FFFF, (old - 1) & 0xFFFF_FFFF))
        changed = data[:field] + _WORD.pack(value) + data[field + 4 :]
    elif command in EDGES_OF:
        changed = data[: where + 4] + _WORD.pack(rng.choice(EDGES_OF[command])) + data[where + 8 :]
    else:
        return
    events[at] = replace(events[at], data=changed)


def change_acknowledgment(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    """Less is acknowledged than came, or more, with another room."""

    def is_ack(data: bytes) -> bool:
        return is_rts(data) and any(command == Command.FLOW_CONTROL_ACK for command, _ in commands_of(data))

    at = _near(rng, events, at, is_ack)
    data = events[at].data
    if not is_ack(data):
        return
    where = next(offset for command, offset in commands_of(data) if command == Command.FLOW_CONTROL_ACK)
    received = _WORD.unpack_from(data, where + 4)[0]
    received += rng.choice((0, 1, -1, -40, 40, rng.randrange(-9000, 9000), 1 << 31))
    fields = struct.pack("<II", received & 0xFFFF_FFFF, rng.choice((0, 1, 100, 4000, 16383, 16384, 16385)))
    events[at] = replace(events[at], data=data[: where + 4] + fields + data[where + 12 :])


def change_header(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    """Version, type, fragment flags, byte order, lengths, flags or count of a header lie."""
    at = _near(rng, events, at, bool)
    data = bytearray(events[at].data)
    where, size = rng.choice(
        ((0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (8, 2), (8, 2), (10, 2), (12, 4), (16, 2), (18, 2))
    )
    if where + size > len(data):
        return
    value = (
        rng.choice(LENGTHS)
        if where == 8
        else rng.choice((0, 1, 2, 3, 4, 5, 8, 16, 20, 32, 0x40, 0xFFFF_FFFF))
    )
    data[where : where + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    events[at] = replace(events[at], data=bytes(data))


def drop(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    del events[at : at + rng.choice((1, 1, 1, 2, 5))]


def double(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    """Heard again, at once or later."""
    later = at + 1 if rng.random() < 0.5 else rng.randrange(at, len(events)) + 1
    events[later:later] = [events[at]] * rng.choice((1, 1, 1, 2, 40))


def move(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    event = events.pop(at)
    events.insert(rng.randrange(len(events) + 1), event)


def hurry(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    """A connection comes earlier, or later, than it was expected, with the first that is said on it."""
    at = _near(rng, events, at, lambda data: False, opening=True)
    link = events[at].link
    block = [event for event in events[at:] if event.link == link][: rng.choice((2, 2, 3))]
    for event in block:
        events.remove(event)
    at = max(0, min(len(events), at + rng.choice((-8, -5, -3, -2, -1, 2, 5))))
    events[at:at] = block


def swap_channels(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    """Bytes come on another link than they were meant for, from here on or once."""
    other = rng.choice(events)
    one, two = (events[at].link, events[at].far), (other.link, other.far)
    last = at + 1 if rng.random() < 0.6 else len(events)
    for number in range(at, last):
        event = events[number]
        if event.what == "bytes" and (event.link, event.far) in (one, two):
            link, far = two if (event.link, event.far) == one else one
            events[number] = replace(event, link=link, far=far)


def swap_cookies(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    """One cookie becomes another: of the other identity, of another channel, none. Once, on one link, or for all."""
    at = _near(rng, events, at, is_rts)
    inside = [cookie for cookie in cookies if cookie in events[at].data]
    if not inside:
        return
    old, new = rng.choice(inside), rng.choice(cookies)
    scope = rng.randrange(3)
    link = events[at].link
    for number in range(at, at + 1 if scope == 0 else len(events)):
        event = events[number]
        if old in event.data and (scope != 1 or event.link == link):
            events[number] = replace(event, data=event.data.replace(old, new))


def swap_identities(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    """A request of somebody else, or to elsewhere, or of the other direction, with the same bytes in it."""
    at = _near(rng, events, at, lambda data: False, opening=True)
    event = events[at]
    if event.what != "open" or not event.extra:
        return
    is_in, _, _ = event.extra
    extra = (
        is_in if rng.random() < 0.8 else not is_in,
        rng.choice(("alice", "bob", "carol")),
        rng.choice(("server:593", "server:593", "elsewhere:593")),
    )
    events[at] = replace(event, extra=extra)


def truncate(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    at = _near(rng, events, at, bool)
    data = events[at].data
    data = data[: rng.randrange(len(data) + 1)]
    events[at] = replace(events[at], data=_with_length(data) if rng.random() < 0.4 else data)


def splice(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    """Some bytes more, less, or others."""
    at = _near(rng, events, at, bool)
    data = events[at].data
    where = rng.randrange(len(data) + 1)
    more = rng.choice((b"", b"\0", bytes(4), b"\xff" * 16, rng.choice(cookies), rng.randbytes(8)))
    data = data[:where] + more + data[where + rng.choice((0, 0, 1, 4, 16)) :]
    events[at] = replace(events[at], data=_with_length(data) if rng.random() < 0.6 else data)


def flip(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    at = _near(rng, events, at, bool)
    data = bytearray(events[at].data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[rng.randrange(min(len(data), 140))] ^= rng.choice((1, 2, 4, 8, 16, 32, 64, 128, 255))
    events[at] = replace(events[at], data=bytes(data))


def insert(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    """PDUs of the whole table, on any link."""
    links = {(event.link, event.far) for event in events if event.what == "bytes"}
    here = (events[at].link, events[at].far)
    link, far = here if rng.random() < 0.6 or not links else rng.choice(sorted(links))
    made = [
        Event(events[at].at, "bytes", link, far, made_pdu(rng, cookies))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 6)))
    ]
    events[at + 1 : at + 1] = made


def flood(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    """More than any window takes, or more RTS PDUs than anybody needs."""
    event = events[at]
    what = rng.randrange(4)
    if what == 0:
        data = marked(65_519) * rng.choice((1, 2, 6))
    elif what == 1:
        data = marked(0) * rng.choice((100, 2000))
    elif what == 2:
        data = made_pdu(rng, cookies)[:64] * rng.choice((50, 1100))
    else:
        data = marked(rng.choice((1000, 8000, 16_360))) * rng.choice((3, 9))
    events.insert(at + 1, Event(event.at, "bytes", event.link, event.far, data))


def say(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    """The RPC layer above writes, much perhaps; or reads no more, or again."""
    now = events[at].at
    if rng.random() < 0.4:
        events.insert(at + 1, Event(now, "read", extra=(rng.random() < 0.5,)))
        return
    data = marked(rng.choice((8, 5000, 16_300, 20_000, 65_519))) * rng.choice((1, 1, 5))
    events.insert(at + 1, Event(now, "write", rng.choice((0, 1)), data=data))


def wait(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    events.insert(at, Event(events[at].at, "wait", extra=(rng.choice(WAITS),)))


def close(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    """A connection ends here."""
    event = events[at]
    far = event.far if rng.random() < 0.5 else not event.far
    events.insert(at + rng.randrange(2), Event(event.at, "closed", event.link, far))


def clog(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    """A connection takes no more, and perhaps takes it again later."""
    event = events[at]
    for flag in (False, True) if rng.random() < 0.8 else (rng.random() < 0.5,):
        at = rng.randrange(at, len(events)) + 1
        events.insert(at, Event(event.at, "writable", event.link, event.far, extra=(flag,)))


def fail(rng: random.Random, events: Events, at: int, cookies: Sequence[bytes]) -> None:
    """A server cannot be reached."""
    for number in range(at, len(events)):
        if events[number].what == "connected":
            events[number] = replace(events[number], what="failed")
            return


def _near(
    rng: random.Random,
    events: Events,
    at: int,
    wanted: Callable[[bytes], bool],
    *,
    opening: bool = False,
) -> int:
    """The first event from `at` on, around the end, of which the data is wanted."""
    for number in (*range(at, len(events)), *range(at)):
        event = events[number]
        if (event.what == "bytes" and wanted(event.data)) or (opening and event.what == "open"):
            return number
    return at


def _with_length(data: bytes) -> bytes:
    if len(data) < 10:
        return data
    return data[:8] + (len(data) & 0xFFFF).to_bytes(2, "little") + data[10:]


Change = Callable[[random.Random, Events, int, Sequence[bytes]], None]
CHANGES: Final[tuple[Change, ...]] = (
    *(change_field,) * 4,
    *(change_acknowledgment,) * 2,
    *(change_header,) * 2,
    *(drop,) * 2,
    *(double,) * 2,
    *(move,) * 2,
    *(hurry,) * 2,
    *(swap_channels,) * 2,
    *(swap_cookies,) * 3,
    *(swap_identities,) * 2,
    truncate,
    splice,
    flip,
    *(insert,) * 5,
    flood,
    say,
    *(wait,) * 2,
    close,
    clog,
    fail,
)
