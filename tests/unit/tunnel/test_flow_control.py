"""Windows, queues and lifetimes of one channel. [MS-RPCH] 3.2.1.4.1, 3.2.1.5.1, 4.2"""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.tunnel_world import pdu

from oxid.errors import RemoteProtocolError
from oxid.tunnel import rts as r
from oxid.tunnel.channel import MAX_RTS_WAITING, RESERVE, SendingChannel, when_drained
from oxid.tunnel.windows import ReceiveWindow

COOKIE = b"c" * 16


class Wire:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: Any, /) -> None:
        self.data += bytes(data)

    def write_all(self, buffers: list[Any], /) -> None:
        self.data += b"".join(buffers)

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


def channel(window: int = 65536, **options: Any) -> tuple[SendingChannel, Wire]:
    wire = Wire()
    return SendingChannel(wire, COOKIE, window, lambda: 5.0, **options), wire


def sized(size: int) -> bytes:
    return pdu(bytes(size - 16))


@pytest.mark.req("RH-70", "RH-71")
def test_the_example_of_the_specification():
    """[MS-RPCH] 4.2: a window of 1,000 bytes."""
    sender, _ = channel(1000)
    window = ReceiveWindow(1000, COOKIE)
    sender.send(sized(250), 250)
    assert (sender.available, sender.sent) == (750, 250)
    window.arrive(250)
    window.release(100)
    first = window.report()
    assert first == (250, 850)
    sender.send(sized(500), 500)
    assert (sender.available, sender.sent) == (250, 750)
    sender.ack(*first)
    assert sender.available == 350
    window.arrive(500)
    window.release(200)
    sender.ack(*window.report())
    assert sender.available == 550
    window.release(450)
    sender.ack(*window.report())
    assert sender.available == 1000


@pytest.mark.req("RH-70")
def test_a_pdu_as_large_as_the_window_is_sent():
    sender, wire = channel(8192)
    sender.send(sized(8192), 8192)
    assert len(wire.data) == 8192
    sender.send(sized(16), 16)
    assert len(wire.data) == 8192
    sender.ack(8192, 8192)
    assert len(wire.data) == 8208


@pytest.mark.req("RH-70")
def test_a_pdu_that_no_window_can_take_is_an_error():
    sender, _ = channel(8192)
    with pytest.raises(RemoteProtocolError, match="8193"):
        sender.send(sized(8193), 8193)


def test_a_buffer_of_many_pdus_is_cut_between_them():
    sender, wire = channel(8192)
    many = sized(3000) + sized(3000) + sized(3000) + sized(100)
    sender.send(many, len(many))
    assert wire.data == many[:6000]
    assert sender.queued == 3100
    sender.ack(3000, 8192)
    assert wire.data == many
    assert sender.open


def test_a_pdu_in_several_buffers_is_sent_as_one():
    sender, wire = channel(8192)
    whole = sized(8000)
    sender.send_all([whole[:24], memoryview(whole)[24:]])
    sender.send_all([whole[:24], memoryview(whole)[24:]])
    assert wire.data == whole
    sender.ack(8000, 8192)
    assert wire.data == whole * 2


@pytest.mark.req("RH-72", "AB-6")
@pytest.mark.parametrize(
    ("received", "window"),
    [(1000, 0xFFFF_FFFF), (1000, 8193), (1001, 8192), (0xFFFF_FFFF, 8192), (0, 999), (500, 499)],
    ids=["all of it", "more than the window", "more than was sent", "far more", "negative", "negative too"],
)
def test_an_acknowledgment_that_cannot_be_is_an_error(received, window):
    sender, _ = channel(8192)
    sender.send(sized(1000), 1000)
    with pytest.raises(RemoteProtocolError):
        sender.ack(received, window)


def test_an_acknowledgment_that_was_overtaken_says_nothing():
    """The client's acknowledgments travel on its IN channel: a recycling can turn two of them round."""
    sender, _ = channel(8192)
    sender.send(sized(8000), 8000)
    sender.ack(8000, 8192)
    sender.send(sized(8000), 8000)
    sender.ack(3000, 8192)
    assert sender.available == 192


@pytest.mark.req("RH-72", "AB-6")
def test_counts_of_a_connection_that_outlives_its_channels_wrap():
    sender, _ = channel(65536)
    total = 0
    while total < (1 << 32) + 65536:
        sender.available -= 65536
        sender.sent += 65536  # as `send` does, without four gigabytes
        total += 65536
        sender.ack(total & 0xFFFF_FFFF, 65536)
        assert sender.available == 65536


@pytest.mark.req("RH-71")
def test_a_receiver_answers_below_half_of_a_large_window_only():
    told = []
    window = ReceiveWindow(256 << 10, COOKIE, lambda window: told.append(window.report()))
    for _ in range(20):
        window.passed(10_000)
    assert told == [(140_000, 256 << 10)]


@pytest.mark.req("RH-70", "RH-71")
def test_a_sender_with_large_pdus_never_waits_for_good():
    """Half a window may be left, and the next PDU larger: a small window must be acknowledged earlier."""
    for size in (8 << 10, 64 << 10, 128 << 10, 256 << 10):
        sender, _ = channel(size)
        window = ReceiveWindow(size, COOKIE, lambda window, sender=sender: sender.ack(*window.report()))
        for length in (100, min(size, 65535), size // 2 - 10, size // 2 + 1, 16, min(size, 65535)):
            length = min(length, 65535)
            before = sender.sent
            sender.send(sized(length), length)
            assert sender.sent == before + length
            window.passed(length)


def test_a_receiver_that_frees_nothing_says_nothing():
    told = []
    window = ReceiveWindow(8192, COOKIE, told.append)
    window.arrive(8192)
    assert not told
    window.release(0)
    assert not told
    window.release(100)
    assert len(told) == 1


@pytest.mark.req("RH-73", "AB-5")
def test_a_sender_that_ignores_the_window_is_an_error():
    window = ReceiveWindow(8192, COOKIE)
    window.arrive(8192)
    window.arrive(65535)
    with pytest.raises(RemoteProtocolError):
        window.arrive(16)


def test_a_receiver_of_a_channel_that_is_gone_says_nothing():
    told = []
    window = ReceiveWindow(8192, COOKIE, told.append)
    window.arrive(8192)
    window.retire()
    window.release(8192)
    assert not told


@pytest.mark.req("RH-61")
def test_rts_pdus_pass_what_waits():
    sender, wire = channel(8192)
    sender.send(sized(8192), 8192)
    sender.send(sized(100), 100)
    sender.send_rts(r.PING)
    assert wire.data[8192:] == r.PING


@pytest.mark.req("RH-80")
def test_a_plugged_channel_sends_nothing_and_then_in_order():
    sender, wire = channel(8192, plugged=True)
    sender.send(sized(100), 100)
    sender.send_rts(r.OUT_A1)
    assert wire.data == b""
    sender.unplug()
    assert wire.data == r.OUT_A1 + sized(100)


def test_rts_pdus_behind_a_plug_are_bounded():
    sender, _ = channel(plugged=True)
    for _ in range(MAX_RTS_WAITING):
        sender.send_rts(r.PING)
    with pytest.raises(RemoteProtocolError):
        sender.send_rts(r.PING)


def test_the_end_of_a_lifetime_is_kept_for_rts_pdus():
    lifetime = 128 << 10
    sender, wire = channel(256 << 10, lifetime=lifetime)
    for _ in range(20):
        sender.send(sized(8000), 8000)
    assert len(wire.data) == (lifetime - RESERVE) // 8000 * 8000
    assert sender.left >= RESERVE
    sender.send_rts(r.one_cookie(COOKIE))
    assert sender.spent == len(wire.data)


def test_what_waits_goes_first_on_the_successor():
    sender, _ = channel(8192)
    drained = []
    sender.send(sized(8000), 8000)
    sender.send(sized(200), 200)
    when_drained(sender, lambda: drained.append(1))
    successor, wire = channel(8192)
    successor.plug()
    successor.send(sized(300), 300)
    sender.hand_over(successor)
    assert not drained
    successor.unplug()
    assert wire.data == sized(200) + sized(300)
    assert drained == [1]
    assert not sender.queued


def test_the_moment_a_window_blocks_is_known():
    sender, _ = channel(8192)
    sender.send(sized(8000), 8000)
    assert sender.blocked_since is None
    sender.send(sized(8000), 8000)
    assert sender.blocked_since == 5.0
    sender.ack(8000, 8192)
    assert sender.blocked_since is None


def test_a_small_pdu_that_waits_does_not_keep_a_large_read():
    sender, _ = channel(plugged=True)
    large = sized(100) + sized(5000)
    sender.send(memoryview(large)[:100], 100)
    sender.send(memoryview(large)[100:], 5000)
    assert [type(data) for data, _, _ in sender.queue] == [bytes, memoryview]
