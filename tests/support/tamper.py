"""A TCP proxy that does to chosen PDUs what an attacker on the wire would.

    async with TamperProxy(("127.0.0.1", host.port), flip(REQUEST, at=40), towards="server") as proxy:
        connect to proxy.port

A rule gets each complete PDU of its direction and returns the PDUs that go on instead. Rules count, so one
rule object serves one connection's story; everything the rule does not touch passes unchanged.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal, Self

REQUEST: Final = 0
RESPONSE: Final = 2
FAULT: Final = 3

Rule = Callable[[bytes], list[bytes]]
Towards = Literal["server", "client"]


def pdu_type(pdu: bytes) -> int:
    return pdu[2]


def auth_length(pdu: bytes) -> int:
    return int.from_bytes(pdu[10:12], "little")


def flip(kind: int, which: int, where: Callable[[bytes], int]) -> Rule:
    """Turn over one bit of the `which`th PDU of this type (from 1), in the byte `where` finds."""
    seen = 0

    def rule(pdu: bytes) -> list[bytes]:
        nonlocal seen
        if pdu_type(pdu) == kind:
            seen += 1
            if seen == which:
                at = where(pdu)
                return [pdu[:at] + bytes([pdu[at] ^ 0x01]) + pdu[at + 1 :]]
        return [pdu]

    return rule


def in_header(pdu: bytes) -> int:
    """The operation number of a request, or the cancel count of a response."""
    return 22


def in_stub(pdu: bytes) -> int:
    """The first byte behind the request's or response's header."""
    return 24


def in_signature(pdu: bytes) -> int:
    """The last byte of the signature."""
    return len(pdu) - 1


def in_trailer(pdu: bytes) -> int:
    """The context id in the security trailer."""
    return len(pdu) - auth_length(pdu) - 4


def replay(kind: int, which: int) -> Rule:
    """Send the `which`th PDU of this type twice."""
    seen = 0

    def rule(pdu: bytes) -> list[bytes]:
        nonlocal seen
        if pdu_type(pdu) == kind:
            seen += 1
            if seen == which:
                return [pdu, pdu]
        return [pdu]

    return rule


def reorder(kind: int, which: int) -> Rule:
    """Hold the `which`th PDU of this type back until the next one has passed."""
    seen = 0
    held: list[bytes] = []

    def rule(pdu: bytes) -> list[bytes]:
        nonlocal seen
        if pdu_type(pdu) == kind:
            seen += 1
            if seen == which:
                held.append(pdu)
                return []
            if seen == which + 1:
                return [pdu, held.pop()]
        return [pdu]

    return rule


def strip(kind: int, which: int) -> Rule:
    """Cut trailer and signature off the `which`th PDU of this type, as if it had never been protected."""
    seen = 0

    def rule(pdu: bytes) -> list[bytes]:
        nonlocal seen
        if pdu_type(pdu) == kind:
            seen += 1
            if seen == which:
                trailer = len(pdu) - auth_length(pdu) - 8
                padding = pdu[trailer + 2]
                body = pdu[: trailer - padding]
                return [body[:8] + len(body).to_bytes(2, "little") + b"\0\0" + body[12:]]
        return [pdu]

    return rule


class TamperProxy:
    """Listens on `port` of the loopback and forwards to `upstream`, whole PDUs at a time."""

    def __init__(self, upstream: tuple[str, int], rule: Rule, *, towards: Towards) -> None:
        self.upstream = upstream
        self.rule = rule
        self.towards = towards
        self.port = 0
        self.changed = 0
        """How many PDUs the rule altered."""
        self.passed: Counter[tuple[Towards, int]] = Counter()
        """PDUs that came in, by where they were going and their type."""
        self._pumps: set[asyncio.Task[None]] = set()
        self._ends: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for end in self._ends:
            end.transport.abort()  # the pumps see the end of their streams
        await asyncio.gather(*self._pumps)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self.upstream)
        self._ends += [writer, up_writer]
        self._pumps.add(asyncio.create_task(self._pump(reader, up_writer, "server")))
        self._pumps.add(asyncio.create_task(self._pump(up_reader, writer, "client")))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, towards: Towards) -> None:
        try:
            while True:
                head = await source.readexactly(16)
                pdu = head + await source.readexactly(int.from_bytes(head[8:10], "little") - 16)
                self.passed[towards, pdu_type(pdu)] += 1
                onward = self.rule(pdu) if towards == self.towards else [pdu]
                self.changed += onward != [pdu]
                for each in onward:
                    sink.write(each)
                await sink.drain()
        except (asyncio.IncompleteReadError, OSError):
            sink.close()
