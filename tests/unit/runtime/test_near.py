"""Connections within one process: what one end writes the other gets later, and both hear of the end once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from oxid.runtime.near import NearTransport, connect_near, nearby
from oxid.runtime.tcp import SharedBufferFace

ADDRESS = ("127.0.0.1", 593)


class End:
    """A protocol that notes what it is told."""

    def __init__(self, keep_half: bool = False) -> None:
        self.transport: Any = None
        self.heard: list[Any] = []
        self.keep_half = keep_half

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.heard.append("made")

    def data_received(self, data: bytes) -> None:
        self.heard.append(data)

    def eof_received(self) -> bool:
        self.heard.append("eof")
        return self.keep_half

    def pause_writing(self) -> None:
        self.heard.append("pause")

    def resume_writing(self) -> None:
        self.heard.append("resume")

    def connection_lost(self, error: Exception | None) -> None:
        self.heard.append("lost")
        self.transport = None


async def turns(count: int = 4) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def story(told: Callable[[End, End], Any], server: End | None = None) -> tuple[list[Any], list[Any]]:
    """Both ends are connected, `told` is run with them, and then both are closed."""
    here, there = End(), server or End()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        nearby(loop).offer(*ADDRESS, lambda: there)
        assert connect_near(loop, *ADDRESS, here) is not None
        await told(here, there)
        for end in (here, there):
            if end.transport is not None:
                end.transport.close()
        await turns()
        nearby(loop).withdraw(*ADDRESS)

    asyncio.run(run())
    assert here.heard.count("lost") == there.heard.count("lost") == 1
    return here.heard, there.heard


def test_nobody_is_found_where_nobody_listens() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        assert connect_near(loop, *ADDRESS, End()) is None
        nearby(loop).offer("0.0.0.0", 593, End)
        assert connect_near(loop, "192.0.2.7", 593, End()) is None
        found = connect_near(loop, *ADDRESS, End())
        assert found is not None
        assert found.get_extra_info("peername") == ADDRESS
        assert found.get_extra_info("socket") is None
        found.close()
        await turns()
        nearby(loop).withdraw("0.0.0.0", 593)
        assert connect_near(loop, *ADDRESS, End()) is None

    asyncio.run(run())


def test_what_is_written_comes_in_a_later_turn_and_in_order() -> None:
    async def told(here: End, there: End) -> None:
        here.transport.write(bytearray(b"one "))
        here.transport.writelines([b"two ", memoryview(b"three")])
        assert there.heard == ["made"]
        await turns(1)
        there.transport.write(b"back")
        await turns(1)

    here, there = story(told)
    assert there[:2] == ["made", b"one two three"]
    assert here[:2] == ["made", b"back"]


def test_a_side_that_does_not_read_is_felt() -> None:
    async def told(here: End, there: End) -> None:
        here.transport.set_write_buffer_limits(high=10)
        there.transport.pause_reading()
        here.transport.write(b"0123456789")
        assert here.heard == ["made"]
        here.transport.write(b"x")
        assert here.heard == ["made", "pause"]
        await turns()
        assert here.transport.get_write_buffer_size() == 11
        assert there.heard == ["made"]
        there.transport.resume_reading()
        await turns(1)
        assert here.heard == ["made", "pause", "resume"]
        assert here.transport.get_write_buffer_size() == 0

    assert story(told)[1][:2] == ["made", b"0123456789x"]


def test_close_delivers_what_was_written_and_abort_does_not() -> None:
    async def closes(here: End, there: End) -> None:
        here.transport.write(b"last")
        here.transport.close()
        here.transport.write(b"too late")
        await turns()

    async def aborts(here: End, there: End) -> None:
        here.transport.write(b"last")
        here.transport.abort()
        here.transport.abort()
        await turns()

    assert story(closes) == (["made", "lost"], ["made", b"last", "eof", "lost"])
    assert story(aborts) == (["made", "lost"], ["made", "eof", "lost"])


def test_the_end_waits_for_a_side_that_does_not_read() -> None:
    async def told(here: End, there: End) -> None:
        there.transport.pause_reading()
        here.transport.write(b"last")
        here.transport.close()
        await turns()
        assert there.heard == ["made"]
        there.transport.resume_reading()
        await turns()

    assert story(told)[1] == ["made", b"last", "eof", "lost"]


def test_the_end_alone_waits_too() -> None:
    async def told(here: End, there: End) -> None:
        there.transport.pause_reading()
        here.transport.close()
        await turns()
        assert there.heard == ["made"]
        there.transport.resume_reading()
        await turns()
        assert there.heard == ["made", "eof", "lost"]

    story(told)


def test_a_half_that_is_closed_still_hears() -> None:
    async def told(here: End, there: End) -> None:
        here.transport.write_eof()
        here.transport.write(b"never")
        await turns(1)
        there.transport.write(b"still")
        await turns(1)

    here, there = story(told, End(keep_half=True))
    assert here[:2] == ["made", b"still"]
    assert there[:2] == ["made", "eof"]


def test_another_protocol_takes_over_and_the_face_for_sockets_is_looked_through() -> None:
    successor = End()

    async def told(here: End, there: End) -> None:
        transport: NearTransport = there.transport
        transport.set_protocol(SharedBufferFace(successor, asyncio.get_running_loop()))
        assert transport.get_protocol() is successor
        here.transport.write(b"for the successor")
        await turns(1)
        transport.set_protocol(there)

    assert b"for the successor" not in story(told)[1]
    assert successor.heard == [b"for the successor"]


def test_a_protocol_that_raises_loses_its_connection() -> None:
    class Broken(End):
        def data_received(self, data: bytes) -> None:
            raise RuntimeError("broken")

    complaints: list[Any] = []

    async def told(here: End, there: End) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        here.transport.write(b"data")
        await turns()

    here, there = story(told, Broken())
    assert here == ["made", "eof", "lost"]
    assert there == ["made", "lost"]
    assert isinstance(complaints[0]["exception"], RuntimeError)


@pytest.mark.parametrize("closer", ["here", "there"])
def test_nothing_is_held_after_the_end(closer: str) -> None:
    held: list[NearTransport] = []

    async def told(here: End, there: End) -> None:
        held.extend((here.transport, there.transport))
        (here if closer == "here" else there).transport.close()
        await turns()

    story(told)
    for transport in held:
        assert transport.get_protocol() is None
        assert transport._other is None
        assert transport.is_closing()
