"""Raw bytes over TCP and the answers Windows gives, as Samba's raw_protocol.py asserts them. rpce.md §9"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from oxid.rpc import pdu as p
from oxid.rpc.limits import Limits
from oxid.rpc.pdu import PacketType
from oxid.rpc.presentation import NDR20, NDR64, feature_syntax
from oxid.runtime.server import RpcServer
from oxid.testing.raw_rpc import (
    ECHO,
    OTHER,
    Pdu,
    bind,
    cancel,
    echo_registration,
    element,
    orphaned,
    request,
)
from oxid.world import World

PROTO_ERROR = 0x1C01000B


class Peer:
    """A client that sends bytes and reads PDUs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def pdu(self) -> Pdu | None:
        """The next PDU, None at the end of the connection."""
        try:
            head = await self.reader.readexactly(16)
        except asyncio.IncompleteReadError:
            return None
        header = p.parse_header(head)
        return Pdu(header, head + await self.reader.readexactly(header.frag_length - 16))

    async def ask(self, data: bytes) -> Pdu | None:
        self.writer.write(data)
        return await self.pdu()


def conversation(story: Callable[[Peer], Awaitable[None]], limits: Limits | None = None) -> None:
    """Run a story with a server and one connection to it."""

    async def run() -> None:
        server = RpcServer(World.real(), limits=limits)
        server.core.registry.add(echo_registration())
        endpoint = await server.listen("127.0.0.1")
        reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
        try:
            await story(Peer(reader, writer))
        finally:
            writer.close()
            await server.aclose()
            try:
                await writer.wait_closed()
            except ConnectionError:
                pass

    uvloop.run(run())


FLAGS = [0x00, 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF]


@pytest.mark.req("BND-8", "rpce§9.pfc")
@pytest.mark.parametrize("alter", [False, True])
@pytest.mark.parametrize("flags", FLAGS)
def test_flags_of_bind_and_alter_are_echoed_only_where_they_mean_something(flags, alter):
    async def story(peer):
        if alter:
            await peer.ask(bind(element()))
        answer = await peer.ask(bind(element(), flags=flags, alter=alter, call_id=9))
        echoed = flags & (p.SUPPORT_HEADER_SIGN if alter else p.SUPPORT_HEADER_SIGN | p.CONC_MPX)
        assert answer.flags == p.FIRST | p.LAST | echoed
        answer = await peer.ask(request(b"12345678", call_id=10))
        assert (answer.ptype, answer.stub) == (PacketType.RESPONSE, b"12345678")

    conversation(story)


@pytest.mark.req("BND-3", "BND-5", "rpce§9.useless")
@pytest.mark.parametrize(
    ("first", "second", "ptype"),
    [
        (b"", bind(), PacketType.BIND_NAK),
        (bind(element()), bind(element(), call_id=2), PacketType.BIND_NAK),
        (bind(element()), bind(alter=True, call_id=2), PacketType.FAULT),
        (bind(element()), request(flags=0), PacketType.FAULT),
        (bind(element()), request(flags=p.LAST), PacketType.FAULT),
        (bind(element()), request(flags=p.FIRST | p.PENDING_CANCEL), PacketType.FAULT),
        (bind(element()), request(bytes(5841 - 24)), PacketType.FAULT),
    ],
    ids=["no context", "second bind", "empty alter", "none only", "last only", "first cancel", "too long"],
)
def test_what_ends_a_connection_with_a_word(first, second, ptype):
    async def story(peer):
        if first:
            await peer.ask(first)
        answer = await peer.ask(second)
        assert answer.ptype == ptype
        assert await peer.pdu() is None

    conversation(story)


@pytest.mark.req("BND-2", "BND-3", "BND-4", "rpce§9.presentation")
def test_presentation_contexts_as_windows_negotiates_them():
    async def story(peer):
        await peer.ask(bind(element(1)))
        answer = await peer.ask(bind(element(2), element(2), alter=True, call_id=2))
        assert [(r.result, r.reason) for r in answer.ack.results] == [(0, 0), (2, 2)]
        answer = await peer.ask(bind(element(3, OTHER), alter=True, call_id=3))
        assert [(r.result, r.reason) for r in answer.ack.results] == [(2, 1)]
        for context_id in (2, 1):
            answer = await peer.ask(request(b"12345678", context_id=context_id, call_id=4 + context_id))
            assert answer.ptype == PacketType.RESPONSE
        answer = await peer.ask(bind(element(1, ECHO, NDR64), alter=True, call_id=9))
        assert (answer.status, answer.flags & p.DID_NOT_EXECUTE) == (PROTO_ERROR, p.DID_NOT_EXECUTE)
        assert await peer.pdu() is None

    conversation(story)


@pytest.mark.req("BND-6", "rpce§9.features")
@pytest.mark.parametrize(("asked", "given"), [(0, 0), (1, 1), (2, 2), (3, 3), (0xFF, 3), (1 << 40, 0)])
def test_bind_time_features(asked, given):
    async def story(peer):
        answer = await peer.ask(bind(element(), element(1, OTHER, feature_syntax(asked), NDR20)))
        assert answer.ack.results[1][:2] == (3, given)

    conversation(story)


@pytest.mark.req("REQ-2", "REQ-6", "rpce§9.mix")
@pytest.mark.parametrize(("flags", "blamed"), [(3, 2), (0x13, 3)])
def test_mixed_requests_blame_the_old_call_or_with_multiplexing_the_new(flags, blamed):
    async def story(peer):
        await peer.ask(bind(element(), flags=flags))
        answer = await peer.ask(request(b"12345678", flags=p.FIRST) + request(b"12345678", call_id=3))
        assert (answer.status, answer.call_id) == (PROTO_ERROR, blamed)
        assert await peer.pdu() is None

    conversation(story)


@pytest.mark.req("REQ-4", "rpce§9.fragmented")
def test_four_megabytes_are_a_request_and_a_byte_more_is_not():
    def pieces(total: int) -> bytes:
        out, at = bytearray(), 0
        while at < total:
            size = min(5808, total - at)
            flags = (p.FIRST if at == 0 else 0) | (p.LAST if at + size == total else 0)
            out += request(bytes(size), flags=flags, hint=0)
            at += size
        return bytes(out)

    async def whole(peer):
        await peer.ask(bind(element()))
        peer.writer.write(pieces(0x400000))
        got = 0
        while got < 0x400000:
            answer = await peer.pdu()
            assert answer.ptype == PacketType.RESPONSE
            got += len(answer.stub)

    async def more(peer):
        await peer.ask(bind(element()))
        answer = await peer.ask(pieces(0x400001))
        assert answer.status == 5
        assert await peer.pdu() is None

    conversation(whole)
    conversation(more)


@pytest.mark.req("REQ-7", "rpce§9.cancel")
def test_cancels_and_orphans_of_nobody_are_ignored():
    async def story(peer):
        await peer.ask(bind(element()))
        answer = await peer.ask(
            cancel(7)
            + orphaned(8)
            + request(b"12345678", flags=p.FIRST)
            + orphaned(2)
            + request(b"12345678", flags=p.LAST)
        )
        assert answer.stub == b"1234567812345678"

    conversation(story)


@pytest.mark.req("PDU-6", "rpce§9")
@pytest.mark.parametrize("piece", [1, 7, 65536])
def test_pieces_on_the_wire(piece):
    async def story(peer):
        data = bind(element()) + request(b"12345678") + request(context_id=9, call_id=3)
        for at in range(0, len(data), piece):
            peer.writer.write(data[at : at + piece])
            await asyncio.sleep(0)
        kinds = [(await peer.pdu()).ptype for _ in range(3)]
        assert kinds == [PacketType.BIND_ACK, PacketType.RESPONSE, PacketType.FAULT]

    conversation(story)
