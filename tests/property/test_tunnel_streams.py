"""RTS PDUs and their streams: round trip, any split, garbage. RH-40, AB-7"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.tunnel_world import RawRequest, TunnelWorld, pdu

from oxid.errors import RemoteProtocolError
from oxid.tunnel import rts as r
from oxid.tunnel.options import TunnelOptions
from oxid.tunnel.pdus import PduStream
from oxid.tunnel.rts import Destination

COOKIES = st.binary(min_size=16, max_size=16)
WINDOWS = st.integers(r.MIN_WINDOW, r.MAX_WINDOW)
LIFETIMES = st.integers(r.MIN_LIFETIME, r.MAX_LIFETIME)
TIMEOUTS = st.integers(r.MIN_TIMEOUT_MS, r.MAX_TIMEOUT_MS)
VERSIONS = st.integers(0, 0xFFFF_FFFF)


@pytest.mark.req("RH-40")
@given(COOKIES, COOKIES, COOKIES, LIFETIMES, WINDOWS, TIMEOUTS, VERSIONS)
def test_what_is_written_is_read(vc, one, two, lifetime, window, timeout, version):
    found = r.parse(r.out_r1_a4(vc, one, two, lifetime, window, timeout, version))
    assert found.cookies == [vc, one, two]
    assert (found.lifetime, found.window, found.timeout, found.version) == (
        lifetime,
        window,
        timeout,
        version,
    )
    found = r.parse(r.conn_b2(vc, one, window, timeout, two, r.client_address("::1"), version))
    assert (found.cookies, found.group, found.window, found.timeout) == ([vc, one], two, window, timeout)


@given(st.sampled_from(Destination), st.integers(0, 0xFFFF_FFFF), st.integers(0, 0xFFFF_FFFF), COOKIES)
def test_acknowledgments_are_read_back(destination, received, window, cookie):
    found = r.parse(r.ack_forwarded(destination, received, window, cookie))
    assert (found.destination, found.ack) == (destination, (received, window, cookie))
    assert r.parse(r.ack(received, window, cookie)).ack == (received, window, cookie)


@pytest.mark.req("AB-7")
@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 0x7F), st.integers(0, 12))
def test_garbage_is_read_or_refused(body, flags, count):
    head = bytes((5, 0, 20, 3, 16, 0, 0, 0)) + (20 + len(body)).to_bytes(2, "little") + bytes(6)
    for data in (head + bytes((flags, 0, count, 0)) + body, body):
        try:
            r.parse(data)
        except RemoteProtocolError:
            pass


class Listener(PduStream):
    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.heard: list[tuple[str, bytes]] = []
        self.broken: list[Exception] = []

    def on_rpc(self, data: Any, size: int) -> None:
        assert len(data) == size
        if self.heard and self.heard[-1][0] == "rpc":
            data = self.heard.pop()[1] + bytes(data)
        self.heard.append(("rpc", bytes(data)))

    def on_rts(self, found: Any) -> None:
        self.heard.append(("rts", bytes(found)))

    def on_broken(self, error: RemoteProtocolError) -> None:
        self.broken.append(error)
        self.silence()


class Flowing(Listener):
    flowing = True


class Whole(Listener):
    flowing = False


STREAM = [
    r.conn_a1(b"v" * 16, b"c" * 16, 65536),
    pdu(b""),
    pdu(b"x" * 300),
    r.PING,
    r.PING,
    pdu(b"y" * 70),
    r.ack_forwarded(Destination.CLIENT, 1, 2, b"c" * 16),
    pdu(b"z" * 900),
    pdu(b"big-endian")[:4] + bytes(4) + b"\x00\x1a" + pdu(b"big-endian")[10:],
    r.one_cookie(b"s" * 16),
]


@pytest.mark.req("RH-40")
@settings(max_examples=200)
@given(
    cuts=st.lists(st.integers(0, sum(map(len, STREAM))), max_size=15),
    kind=st.sampled_from([Flowing, Whole]),
)
def test_any_split_gives_the_same_pdus(cuts, kind):
    data = b"".join(STREAM)
    expected, listener = kind(), kind()
    expected.receive(data)
    for a, b in pairwise([0, *sorted(cuts), len(data)]):
        listener.receive(data[a:b])
    assert not listener.broken
    assert not listener.incomplete
    assert listener.heard == expected.heard
    assert b"".join(found for _, found in listener.heard) == data


@pytest.mark.req("AB-7")
@settings(max_examples=200)
@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
def test_a_stream_of_garbage_ends_once(data, cuts):
    for kind in (Flowing, Whole):
        listener = kind()
        for a, b in pairwise([0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]):
            listener.receive(data[a:b])
        assert len(listener.broken) <= 1


@pytest.mark.req("AB-7", "AB-30")
@settings(max_examples=150)
@given(
    first=st.sampled_from(["none", "b1", "a1"]),
    at=st.integers(0, 120),
    value=st.integers(0, 255),
    tail=st.binary(max_size=120),
)
def test_a_mutated_request_leaves_nothing_at_a_proxy(first, at, value, tail):
    world = TunnelWorld(options=TunnelOptions(), pieces="whole")
    beginnings = {
        "none": b"",
        "b1": r.conn_b1(b"v" * 16, b"c" * 16, 1 << 30, 300_000, b"g" * 16),
        "a1": r.conn_a1(b"v" * 16, b"c" * 16, 65536),
    }
    data = bytearray(beginnings[first])
    if data:
        data[at % len(data)] = value
    for is_in in (True, False):
        request = RawRequest(world, "mallory", "server:593", is_in=is_in)
        request.first(bytes(data) + tail)
        world.settle()
    world.close()
