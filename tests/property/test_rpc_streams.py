"""Any split of the bytes gives the same answers; garbage is understood or refused. PDU-6"""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxid.rpc import pdu as p
from oxid.rpc.pdu import PacketType
from oxid.testing.raw_rpc import (
    TurnedClient,
    TurnedServer,
    bind,
    cancel,
    close_turned,
    element,
    orphaned,
    request,
)

SESSION = [
    bind(element()),
    request(b"one", call_id=2),
    request(b"fragments", call_id=3, flags=p.FIRST),
    request(b"-join-", call_id=3, flags=0),
    request(b"here", call_id=3, flags=p.LAST),
    request(b"object", call_id=4, object=bytes(16)),
    cancel(77),
    orphaned(78),
    bind(element(1), alter=True, call_id=5),
    request(context_id=9, call_id=6),
    request(bytes(5000), call_id=7),
    request(opnum=10, call_id=8),
]


@pytest.fixture(autouse=True)
def turned_connections_end():
    yield
    close_turned()


def answers(pieces: list[bytes]) -> tuple[list[tuple[int, int, bytes]], bool]:
    connection = TurnedServer().connect()
    found = []
    for piece in pieces:
        for pdu in connection.take(piece):
            raw = pdu.raw
            if pdu.ptype in (PacketType.BIND_ACK, PacketType.ALTER_CONTEXT_RESP):
                raw = raw[:20] + bytes(4) + raw[24:]  # the association group is random
            found.append((pdu.ptype, pdu.call_id, raw))
    hung_up = connection.hung_up
    connection.closed()
    return found, hung_up


@pytest.mark.req("PDU-6")
@pytest.mark.parametrize("size", [1, 7, 65536])
def test_pieces_of_any_size_give_the_same_answers(size):
    data = b"".join(SESSION)
    expected = answers(SESSION)
    assert len(expected[0]) == 8
    assert answers([data[at : at + size] for at in range(0, len(data), size)]) == expected


@pytest.mark.req("PDU-6")
@settings(max_examples=60)
@given(cuts=st.lists(st.integers(0, sum(map(len, SESSION))), max_size=12))
def test_any_cuts_give_the_same_answers(cuts):
    data = b"".join(SESSION)
    edges = [0, *sorted(cuts), len(data)]
    assert answers([data[a:b] for a, b in pairwise(edges)]) == answers(SESSION)
    close_turned()


@pytest.mark.req("PDU-6", "PDU-2")
@settings(max_examples=300)
@given(data=st.binary(max_size=400), bound=st.booleans())
def test_garbage_never_raises_from_a_server(data, bound):
    connection = TurnedServer().bound() if bound else TurnedServer().connect()
    connection.take(data)
    connection.take(b"\0" * 8)
    close_turned()


@pytest.mark.req("PDU-6", "PDU-2")
@settings(max_examples=300)
@given(data=st.binary(max_size=400))
def test_garbage_never_raises_from_a_client(data):
    client = TurnedClient()
    client.exchange(PacketType.BIND, [element()])
    client.receive(data)
    client.receive(b"\0" * 8)


@pytest.mark.req("PDU-6", "PDU-2")
@pytest.mark.parametrize("seed", range(8))
def test_sessions_with_changed_bytes_never_raise(seed):
    coin = random.Random(seed)
    for _ in range(150):
        connection = TurnedServer().connect()
        for pdu in SESSION:
            raw = bytearray(pdu)
            if coin.random() < 0.4:
                for _ in range(coin.randint(1, 4)):
                    raw[coin.randrange(min(len(raw), 60))] = coin.choice((0, 1, 3, 16, 0x7F, 0xFF))
            connection.take(bytes(raw), coin.choice((1 << 20, 11)))
        hung_up = connection.hung_up
        connection.closed()
        assert not any(connection.core.world.ledger.live().values()), hung_up
    close_turned()
