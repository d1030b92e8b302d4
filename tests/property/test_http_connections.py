"""A connection of the web server, turned by hand: any split of the bytes gives the same answers. AB-17, AB-18, SC-25"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.web import everything, site_of

from oxid.iis.connection import HttpConnection
from oxid.iis.exchange import Exchange
from oxid.iis.listener import Listener
from oxid.iis.server import WebServer
from oxid.iis.settings import ServerSettings
from oxid.world import World

MESSAGES = st.sampled_from(
    [
        b"GET /now HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /later HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /now HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /read HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /read HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n2;x\r\nde\r\n0\r\nA: b\r\n\r\n",
        b"RPC_IN_DATA /read HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n\r\n\r",
        b"POST /now HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"GET /now HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET /now HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"POST /read HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /read HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        b"GET /now HTTP/1.1\nHost: h\n\n",
        b"\r\n",
        b"nonsense\r\n\r\n",
    ]
)


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        if not self.closed:
            self.out += data

    def writelines(self, buffers: list[Any]) -> None:
        for buffer in buffers:
            self.write(buffer)

    def close(self) -> None:
        self.closed = True

    abort = close

    def write_eof(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else None


def answer(exchange: Exchange) -> None:
    if exchange.path == "/now":
        exchange.respond(200, b"now")
    elif exchange.path == "/later":
        asyncio.get_running_loop().call_soon(exchange.respond, 200, b"later")
    else:
        got = bytearray()
        exchange.stream_body(got.extend, lambda: exchange.respond(200, bytes(got)))


async def talk(pieces: list[bytes]) -> bytes:
    """What the server says to these pieces."""
    world = World.real()
    server = WebServer(world, ServerSettings((site_of(everything("x")),)))
    server.register_handler("x", lambda *_: answer)
    connection = HttpConnection(server, Listener(tls=False))
    wire = Wire()
    connection.connection_made(wire)
    for piece in pieces:
        connection.data_received(piece)
        await asyncio.sleep(0)
    for _ in range(40):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    assert world.ledger.http_connection.live == 0
    assert world.ledger.http_request.live == 0
    assert not server.connections
    await server.aclose()
    return re.sub(rb"Date: [^\r]*\r\n", b"", bytes(wire.out))


@pytest.mark.req("AB-17", "AB-18", "SC-25")
@settings(max_examples=150)
@given(st.lists(MESSAGES, min_size=1, max_size=6), st.data())
def test_any_split_of_a_session_is_answered_alike(messages: list[bytes], data: st.DataObject) -> None:
    raw = b"".join(messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True) if start < end]

    async def both() -> tuple[bytes, bytes]:
        return await talk([raw]), await talk(pieces)

    whole, split = asyncio.run(both())
    assert whole == split


@settings(max_examples=150)
@given(st.lists(st.one_of(MESSAGES, st.binary(max_size=40)), max_size=5), st.integers(1, 30))
def test_garbage_never_raises_and_leaves_nothing(messages: list[bytes], size: int) -> None:
    raw = b"".join(messages)
    said = asyncio.run(talk([raw[at : at + size] for at in range(0, len(raw), size)]))
    assert said == b"" or said.startswith(b"HTTP/1.1 ")
    assert b"Traceback" not in said
