"""What a client of `oxid soak http` asks of the web server itself. Q142658; SC-20 to SC-25, SC-28, SC-29, SC-32

Acts as in `oxid.soak.http_tunnels`: they begin and end with nothing, and raise Wrong.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final, NamedTuple

from oxid.soak.http_extension import DECLARED, OFF_BY
from oxid.soak.http_tunnels import END_S, Act
from oxid.soak.http_wire import Place, Wire, Wrong

SMALL: Final = "/hundred.txt"
SMALL_BODY: Final = b"x" * 100
BIG: Final = "/big.bin"
BIG_SIZE: Final = 1 << 20
BIG_PIECE: Final = bytes(range(256)) * 256
EXTENSIONS: Final = ("soak", "threaded")
MOST_KEPT: Final = 12


class Answer(NamedTuple):
    """A response."""

    status: int
    head: bytes
    body: bytes
    whole: bool
    """The body was as long as declared."""


def ask(target: str, *, more: str = "", version: str = "1.1", method: str = "GET") -> bytes:
    return f"{method} {target} HTTP/{version}\r\nHost: soak\r\n{more}\r\n".encode()


async def answer(wire: Wire) -> Answer:
    """The next response. Raises Wrong where there is none."""
    head = await wire.head()
    if not head:
        raise Wrong("the connection ended in the place of a response")
    lines = head.split(b"\r\n")
    length = next((int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")), None)
    if length is not None:
        body = await wire.exactly(length)
        return Answer(int(lines[0].split()[1]), head, body, len(body) == length)
    while await wire.more():
        pass
    body = bytes(wire.received)
    wire.received.clear()
    return Answer(int(lines[0].split()[1]), head, body, True)


async def _is(wire: Wire, body: bytes) -> None:
    found = await answer(wire)
    if found.status != 200 or found.body != body:
        raise Wrong(f"{body[:20]!r} was wanted, and {found.status} {found.body[:20]!r} came")
    wire._place.counts["pages"] += 1


async def _ends(wire: Wire, why: str) -> None:
    try:
        async with asyncio.timeout(END_S):
            await wire.ends()
    except TimeoutError:
        raise Wrong(f"the connection is kept, though {why}") from None


def _page(chance: random.Random) -> tuple[str, bytes]:
    """A request that keeps the connection, and its answer."""
    if chance.random() < 0.3:
        return SMALL, SMALL_BODY
    tag = b"%d" % chance.randrange(10**9)
    which, mode = chance.choice(EXTENSIONS), chance.choice(("keep", "keep", "pending"))
    if which == "soak" and chance.random() < 0.1:
        mode = "twice"
    return f"/app/{which}?{mode}&{tag.decode()}", tag


async def keeps(place: Place, chance: random.Random) -> None:
    """Requests that keep the connection; then one that ends it, or the client goes. SC-20 to SC-22"""
    wire = await place.wire()
    try:
        for _ in range(chance.randrange(MOST_KEPT)):
            target, body = _page(chance)
            wire.send(ask(target))
            await _is(wire, body)
        if chance.random() < 0.7:
            wire.send(ask(f"/app/{chance.choice(EXTENSIONS)}?success&last"))
            await _is(wire, b"last")
            await _ends(wire, "the extension has said SUCCESS")
    finally:
        wire.close()


async def lengths(place: Place, chance: random.Random) -> None:
    """KEEP_CONN with no length or a wrong one ends the connection. SC-23"""
    wire = await place.wire()
    mode = chance.choice(("nolength", "short", "long"))
    try:
        wire.send(ask(f"/app/soak?{mode}&text") + ask("/app/soak?keep&behind"))
        found = await answer(wire)
        wanted = {
            "nolength": b"text",
            "short": b"s" * (DECLARED - OFF_BY),
            "long": b"l" * DECLARED,
        }[mode]
        if found.body != wanted and not (mode == "nolength" and b"chunked" in found.head.lower()):
            raise Wrong(f"{mode}: {found.body[:40]!r} came")
        await _ends(wire, f"the length of its answer was wrong: {mode}")
    finally:
        wire.close()


async def is_old(place: Place, chance: random.Random) -> None:
    """Clients that do not want to keep the connection get their way. SC-24"""
    wire = await place.wire()
    target, body = _page(chance)
    try:
        if chance.random() < 0.5:
            wire.send(ask(target, version="1.0"))
        else:
            wire.send(ask(target, more="Connection: close\r\n"))
        await _is(wire, body)
        await _ends(wire, "the client does not want that")
    finally:
        wire.close()


async def pipelines(place: Place, chance: random.Random) -> None:
    """Ten requests at once, answered in order, up to the one that ends the connection. SC-25"""
    wire = await place.wire()
    last = chance.randrange(3, 14)
    pages = [_page(chance) for _ in range(10)]
    if last < len(pages):
        pages[last] = "/app/soak?success&last", b"last"
    try:
        wire.send(b"".join(ask(target) for target, _ in pages))
        for _, body in pages[: last + 1]:
            await _is(wire, body)
        if last < len(pages):
            await _ends(wire, "the extension has said SUCCESS")
    finally:
        wire.close()


async def aborts(place: Place, chance: random.Random) -> None:
    """The client is gone while its request is pending, with or without a read outstanding. SC-29"""
    wire = await place.wire()
    try:
        if chance.random() < 0.5:
            wire.send(ask("/app/soak?hold"))
        else:
            wire.send(ask("/app/soak?read", method="POST", more="Content-Length: 1000\r\n") + bytes(500))
        await asyncio.sleep(chance.random() * 0.01)
    finally:
        if chance.random() < 0.6:
            wire.reset()
        else:
            wire.close()


async def posts(place: Place, chance: random.Random) -> None:
    """A body, whole or in chunks."""
    wire = await place.wire()
    body = bytes(chance.randrange(1, 100_000))
    try:
        if chance.random() < 0.5:
            wire.send(ask("/app/soak?read", method="POST", more=f"Content-Length: {len(body)}\r\n") + body)
        else:
            wire.send(ask("/app/soak?read", method="POST", more="Transfer-Encoding: chunked\r\n"))
            for at in range(0, len(body), 20_000):
                piece = body[at : at + 20_000]
                wire.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            wire.send(b"0\r\n\r\n")
        await _is(wire, b"%d" % len(body))
    finally:
        wire.close()


async def reads_file_slowly(place: Place, chance: random.Random) -> None:
    """A file to a client that takes its time, and may go in the middle. SC-32"""
    wire = await place.wire()
    stop_at = chance.randrange(2 * BIG_SIZE)
    try:
        wire.send(ask(BIG))
        if b" 200 " not in (await wire.head())[:20]:
            raise Wrong("the file is not there")
        got = 0
        while got < BIG_SIZE:
            piece = await wire.exactly(len(BIG_PIECE))
            if piece != BIG_PIECE:
                raise Wrong(f"a file is broken behind {got} bytes")
            got += len(piece)
            if got >= stop_at:
                wire.reset()
                return
            wire.transport.pause_reading()
            await asyncio.sleep(0.01)
            wire.transport.resume_reading()
        place.counts["pages"] += 1
    finally:
        wire.close()


ACTS: Final[dict[str, tuple[float, Act]]] = {
    "kept connection": (3, keeps),
    "wrong length": (0.7, lengths),
    "connection not kept": (1, is_old),
    "pipelining": (0.7, pipelines),
    "abort": (1.5, aborts),
    "post": (0.7, posts),
    "slow file": (0.2, reads_file_slowly),
}
