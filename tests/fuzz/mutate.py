"""Changes to recorded sessions that know what a PDU looks like.

changed, kind = mutate(rng, pieces, strangers)     pieces: what one side sent, PDU by PDU
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import Final

Pieces = list[bytes]

EDGES: Final = (0, 1, 2, 3, 4, 7, 8, 15, 16, 23, 24, 0x7F, 0x80, 0xFF)
WIDE: Final = (
    *EDGES,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x1_0000,
    0x00FF_FFFF,
    0x3FFF_FFFF,
    0x4000_0000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFF8,
    0xFFFF_FFFF,
)
FIELDS: Final = {
    # what a PDU of any kind has, then what each kind has, by offset and size
    None: ((0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (8, 2), (10, 2), (12, 4)),
    0: ((16, 4), (20, 2), (22, 2), (24, 4), (28, 4)),
    2: ((16, 4), (20, 2), (22, 1), (24, 4), (28, 4), (32, 4)),
    3: ((16, 4), (20, 2), (22, 1), (23, 1), (24, 4)),
    11: ((16, 2), (18, 2), (20, 4), (24, 1), (28, 2), (30, 1), (32, 4), (52, 4), (68, 4)),
    12: ((16, 2), (18, 2), (20, 4), (24, 2), (26, 4), (32, 1), (36, 2), (38, 2), (40, 4)),
    13: ((16, 2), (18, 1)),
}
"""Known offsets; 14 is as 11 and 15 as 12."""
TYPES: Final = (0, 2, 3, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 1, 255)


def mutate(rng: random.Random, pieces: Sequence[bytes], strangers: Sequence[bytes]) -> tuple[Pieces, int]:
    """One to three changes; also returns which piece the first of them touched."""
    changed = list(pieces)
    first = len(changed)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not changed:
            break
        at = rng.randrange(len(changed))
        rng.choice(CHANGES)(rng, changed, at, strangers)
        first = min(first, at)
    if rng.random() < 0.15:
        rechunk(rng, changed, first)
    return changed, first


def flip(rng: random.Random, pieces: Pieces, at: int, strangers: Sequence[bytes]) -> None:
    data = bytearray(pieces[at])
    if not data:
        return
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= rng.choice((1, 2, 4, 8, 16, 32, 64, 128, 255))
    pieces[at] = bytes(data)


def set_field(rng: random.Random, pieces: Pieces, at: int, strangers: Sequence[bytes]) -> None:
    """A field at a known offset gets a value from the edges."""
    data = bytearray(pieces[at])
    if len(data) < 16:
        return
    kind = {14: 11, 15: 12}.get(data[2], data[2])
    fields = FIELDS[None] if rng.random() < 0.4 else FIELDS.get(kind, FIELDS[None])
    offset, size = rng.choice(fields)
    if offset + size > len(data):
        return
    value = rng.choice(TYPES) if offset == 2 else rng.choice(WIDE)
    data[offset : offset + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    pieces[at] = bytes(data)


def set_count(rng: random.Random, pieces: Pieces, at: int, strangers: Sequence[bytes]) -> None:
    """Something that looks like a count, a length or a referent becomes huge, or nothing."""
    data = bytearray(pieces[at])
    if len(data) < 28:
        return
    spots = [i for i in range(24, len(data) - 3, 4) if data[i + 2] == data[i + 3] == 0 and data[i]]
    spot = rng.choice(spots) if spots else rng.randrange(24, len(data) - 3) & ~3
    data[spot : spot + 4] = rng.choice(WIDE).to_bytes(4, "little")
    pieces[at] = bytes(data)


def set_anywhere(rng: random.Random, pieces: Pieces, at: int, strangers: Sequence[bytes]) -> None:
    data = bytearray(pieces[at])
    size = rng.choice((1, 2, 4, 8))
    if len(data) < size:
        return
    spot = rng.randrange(len(data) - size + 1)
    data[spot : spot + size] = (rng.choice(WIDE) & (1 << 8 * size) - 1).to_bytes(size, "little")
    pieces[at] = bytes(data)


def truncate(rng: random.Random, pieces: Pieces, at: int, strangers: Sequence[bytes]) -> None:
    data = pieces[at][: rng.randrange(len(pieces[at]) + 1)]
    pieces[at] = with_length(data) if rng.random() < 0.6 else data


def extend(rng: random.Random, pieces: Pieces, at: int, strangers: Sequence[bytes]) -> None:
    data = pieces[at] + rng.choice((bytes(8), b"\xff" * 16, rng.randbytes(rng.randrange(1, 64))))
    pieces[at] = with_length(data) if rng.random() < 0.6 else data


def cut_out(rng: random.Random, pieces: Pieces, at: int, strangers: Sequence[bytes]) -> None:
    """Some bytes less, or twice, in the middle."""
    data = pieces[at]
    if len(data) < 20:
        return
    start = rng.randrange(16, len(data))
    size = rng.choice((1, 2, 4, 8, 16))
    if rng.random() < 0.5:
        data = data[:start] + data[start + size :]
    else:
        data = data[:start] + data[start : start + size] + data[start:]
    pieces[at] = with_length(data) if rng.random() < 0.8 else data


def duplicate(rng: random.Random, pieces: Pieces, at: int, strangers: Sequence[bytes]) -> None:
    pieces.insert(rng.randrange(at, len(pieces)) + 1, pieces[at])


def drop(rng: random.Random, pieces: Pieces, at: int, strangers: Sequence[bytes]) -> None:
    if len(pieces) > 1:
        del pieces[at]


def reorder(rng: random.Random, pieces: Pieces, at: int, strangers: Sequence[bytes]) -> None:
    other = rng.randrange(len(pieces))
    pieces[at], pieces[other] = pieces[other], pieces[at]


def splice(rng: random.Random, pieces: Pieces, at: int, strangers: Sequence[bytes]) -> None:
    """A PDU of another session, or the body of one under our header."""
    other = rng.choice(strangers)
    mine = pieces[at]
    if rng.random() < 0.5 and len(mine) >= 24 and len(other) >= 24:
        other = with_length(mine[:24] + other[24:])
    if rng.random() < 0.5:
        pieces[at] = other
    else:
        pieces.insert(at, other)


def turn_around(rng: random.Random, pieces: Pieces, at: int, strangers: Sequence[bytes]) -> None:
    """The other byte order: said only, or in the header too."""
    data = bytearray(pieces[at])
    if len(data) < 24:
        return
    data[4] ^= 0x10
    if rng.random() < 0.7:
        length, auth, call_id = struct.unpack_from("<HHI", data, 8)
        struct.pack_into(">HHI", data, 8, length, auth, call_id)
        if data[2] in (0, 2, 3):
            hint, context, opnum = struct.unpack_from("<IHH", data, 16)
            struct.pack_into(">IHH", data, 16, hint, context, opnum)
    pieces[at] = bytes(data)


def fragment(rng: random.Random, pieces: Pieces, at: int, strangers: Sequence[bytes]) -> None:
    """One request or response in several fragments, sometimes one of them lost or turned."""
    data = pieces[at]
    if len(data) < 32 or data[2] not in (0, 2) or data[3] & 3 != 3 or data[10] or data[11]:
        return
    header = 40 if data[3] & 0x80 else 24
    body = data[header:]
    step = max(1, len(body) // rng.choice((2, 3, 5)))
    parts = [body[i : i + step] for i in range(0, len(body), step)] or [b""]
    made = []
    for number, part in enumerate(parts):
        head = bytearray(data[:header])
        head[3] = head[3] & ~3 | (number == 0) | (number == len(parts) - 1) << 1
        made.append(with_length(bytes(head) + part))
    if rng.random() < 0.3:
        del made[rng.randrange(len(made))]
    if rng.random() < 0.2:
        rng.shuffle(made)
    pieces[at : at + 1] = made or [data]


def trailer(rng: random.Random, pieces: Pieces, at: int, strangers: Sequence[bytes]) -> None:
    """The authentication trailer changed, taken away, or put where there was none."""
    data = bytearray(pieces[at])
    if len(data) < 24:
        return
    auth = data[10] | data[11] << 8
    if not auth:
        token = rng.randbytes(rng.choice((0, 1, 16, 40)))
        level, kind = rng.choice((0, 1, 2, 4, 5, 6, 7)), rng.choice((0, 9, 10, 16, 68))
        data += bytes(-len(data) % 4) + bytes((kind, level, rng.choice(EDGES), 0)) + bytes(4) + token
        data[10:12] = len(token).to_bytes(2, "little")
    elif rng.random() < 0.2:
        del data[max(16, len(data) - auth - 8) :]
        data[10:12] = bytes(2)
    else:
        spot = len(data) - auth - 8 + rng.choice((0, 1, 2, 3, 4, 8, 9, 12, 16, 20, 24, 28))
        if not 0 <= spot < len(data):
            return
        data[spot] = rng.choice(EDGES)
    pieces[at] = with_length(bytes(data))


def interrupt(rng: random.Random, pieces: Pieces, at: int, strangers: Sequence[bytes]) -> None:
    """CO_CANCEL, ORPHANED, SHUTDOWN, an empty AUTH3 between the others."""
    call_id = pieces[at][12:16] if rng.random() < 0.8 and len(pieces[at]) >= 16 else b"\x99\0\0\0"
    kind = rng.choice((18, 18, 19, 19, 17, 16))
    head = bytes((5, 0, kind, 3, 16, 0, 0, 0, 16, 0, 0, 0)) + call_id.ljust(4, b"\0")
    pieces.insert(at + rng.randrange(2), head)


def rechunk(rng: random.Random, pieces: Pieces, first: int) -> None:
    """The same bytes from `first` on in other pieces: all at once, or torn."""
    data = b"".join(pieces[first:])
    if rng.random() < 0.5 or len(data) > 4000:
        pieces[first:] = [data]
        return
    torn, at = [], 0
    while at < len(data):
        size = rng.choice((1, 3, 7, 16, 23, 60, 200))
        torn.append(data[at : at + size])
        at += size
    pieces[first:] = torn


def with_length(data: bytes) -> bytes:
    """The PDU with the frag_length it has."""
    if len(data) < 16:
        return data
    order = "little" if data[4] & 0xF0 else "big"
    return data[:8] + (len(data) & 0xFFFF).to_bytes(2, order) + data[10:]  # type: ignore[arg-type]


Change = Callable[[random.Random, Pieces, int, Sequence[bytes]], None]
CHANGES: Final[tuple[Change, ...]] = (
    flip,
    flip,
    set_field,
    set_field,
    set_field,
    set_count,
    set_count,
    set_count,
    set_count,
    set_anywhere,
    set_anywhere,
    truncate,
    extend,
    cut_out,
    duplicate,
    drop,
    reorder,
    splice,
    splice,
    turn_around,
    fragment,
    trailer,
    interrupt,
)
