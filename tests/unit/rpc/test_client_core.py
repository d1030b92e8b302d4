"""The client's side of a connection, turned by hand. [MS-RPCE] 3.3.2, rpce.md §1 to §3"""

from __future__ import annotations

import pytest

from oxid.errors import (
    AccessDenied,
    LocalProtocolError,
    NotImplementedByPeer,
    RemoteProtocolError,
    StatusError,
    TransportError,
)
from oxid.rpc import pdu as p
from oxid.rpc.limits import Limits
from oxid.rpc.pdu import MAX_CALL_ID, PacketType
from oxid.rpc.presentation import FEATURE_KEEP_ON_ORPHAN, NDR20
from oxid.rpc.replies import Answer
from oxid.testing.raw_rpc import ECHO, TurnedClient, TurnedServer, element, pdus
from oxid.values.status import RpcStatus


def connected(piece: int = 1 << 20, flags: int | None = None, limits: Limits | None = None):
    """A client and a server core with a presentation context, and what moves bytes between them."""
    client, server = TurnedClient(limits), TurnedServer().connect()

    def move() -> None:
        for _ in range(4):
            data = client.taken()
            answered = b"".join(pdu.raw for pdu in server.take(data, piece))
            for at in range(0, len(answered), piece):
                client.receive(answered[at : at + piece])

    waiter = client.exchange(PacketType.BIND, [element()])
    if flags is not None:
        client.sent[3] = flags
    move()
    assert isinstance(waiter.result, Answer)
    client.agree(waiter.result, large=False)
    client.add_context(0, ECHO, NDR20)
    return client, server, move


def call(client, stub: bytes = b"", opnum: int = 0):
    return client.submit(0, opnum, bytearray(24) + stub)


@pytest.mark.req("REQ-5", "rpce§1.request")
def test_calls_are_numbered_upwards_and_answered_by_number():
    client, _, move = connected()
    waiters = [call(client, b"%08d" % i) for i in range(5)]
    ids = [pdu.call_id for pdu in pdus(bytes(client.sent))]
    assert ids == sorted(set(ids))
    move()
    assert [w.result for w in waiters] == [b"%08d" % i for i in range(5)]
    assert not client.calls


@pytest.mark.req("REQ-5")
def test_call_ids_do_not_wrap():
    client, _, _ = connected()
    client._call_id = MAX_CALL_ID - 1
    call(client)
    with pytest.raises(TransportError, match="used up"):
        call(client)


@pytest.mark.req("REQ-9")
def test_a_call_with_an_object_carries_it():
    client, _, move = connected()
    waiter = client.submit(0, 3, bytearray(40) + b"stub", bytes(range(16)))
    (pdu,) = pdus(bytes(client.sent))
    assert pdu.flags & p.OBJECT_UUID
    assert pdu.raw[24:40] == bytes(range(16))
    move()
    assert waiter.result == b"stub"


@pytest.mark.req("REQ-6", "REQ-9")
@pytest.mark.parametrize("head", [24, 40])
def test_large_calls_travel_in_fragments_both_ways(head):
    client, _, move = connected()
    stub = bytes(range(256)) * 100
    waiter = client.submit(0, 0, bytearray(head) + stub, bytes(16) if head == 40 else None)
    sent = pdus(bytes(client.sent))
    assert len(sent) == 5
    assert [pdu.flags & 3 for pdu in sent] == [1, 0, 0, 0, 2]
    hints = [p.parse_call(pdu.raw, pdu.header)[0] for pdu in sent]
    assert hints == [len(stub) - i * (5840 - head & ~7) for i in range(5)]
    assert all((len(pdu.raw) - head) % 8 == 0 for pdu in sent[:-1])
    move()
    assert waiter.result == stub


@pytest.mark.req("REQ-6")
def test_a_server_without_multiplexing_gets_one_call_at_a_time():
    client, _, move = connected(flags=p.FIRST | p.LAST)
    assert not client.concurrent
    waiters = [call(client, b"%08d" % i) for i in range(3)]
    assert len(pdus(bytes(client.sent))) == 1
    move()
    assert [w.result for w in waiters] == [b"%08d" % i for i in range(3)]


@pytest.mark.req("REQ-1", "REQ-10")
def test_faults_become_exceptions_that_know_where_they_come_from():
    client, _, move = connected()
    missing, broken = call(client, opnum=10), call(client, opnum=2)
    move()
    assert isinstance(missing.error, NotImplementedByPeer)
    assert (missing.error.status, missing.error.executed) == (RpcStatus(0x1C010002), False)
    assert isinstance(broken.error, StatusError)
    assert broken.error.executed


@pytest.mark.req("PDU-3")
@pytest.mark.parametrize("status", [0, 0x80000001, 0xC0000005, 0xC0000420])
def test_a_fault_that_no_server_may_send_is_a_protocol_error_of_the_call(status):
    client, _, _ = connected()
    waiter = call(client)
    client.receive(bytes(p.fault_pdu(client.last_call_id, 0, status, executed=True)))
    assert isinstance(waiter.error, RemoteProtocolError)


@pytest.mark.req("PDU-4")
@pytest.mark.parametrize(
    ("reason", "kind"), [(0, StatusError), (2, StatusError), (8, StatusError), (9, AccessDenied)]
)
def test_a_refused_bind(reason, kind):
    client = TurnedClient()
    waiter = client.exchange(PacketType.BIND, [element()])
    client.receive(bytes(p.bind_nak(1, reason)))
    assert isinstance(waiter.error, kind)


@pytest.mark.req("REQ-8")
def test_a_forsaken_call_is_cancelled_then_orphaned():
    client, server, move = connected()
    client.features = FEATURE_KEEP_ON_ORPHAN
    waiter = call(client, b"slow....", opnum=1)
    server.take(client.taken())
    client.abandon(waiter, 100.0, 5.0)
    client.abandon(waiter, 101.0, 5.0)
    (pdu,) = pdus(client.taken())
    assert (pdu.ptype, pdu.call_id) == (PacketType.CO_CANCEL, client.last_call_id)
    assert client.expire_cancelled(104.0) == 105.0
    assert client.expire_cancelled(105.0) is None
    (pdu,) = pdus(client.taken())
    assert pdu.ptype == PacketType.ORPHANED
    assert not client.calls
    alive = call(client, b"alive...")
    move()
    assert alive.result == b"alive..."


@pytest.mark.req("REQ-8", "REQ-7")
def test_without_the_feature_an_unheeded_cancel_ends_the_connection():
    client, _, _ = connected()
    waiter = call(client, opnum=1)
    other = call(client, opnum=1)
    client.abandon(waiter, 100.0, 5.0)
    client.expire_cancelled(105.0)
    assert client.hung_up
    assert isinstance(other.error, TransportError)


@pytest.mark.req("REQ-8")
def test_a_heeded_cancel_is_the_end_of_it():
    client, server, move = connected()
    waiter = call(client, opnum=1)
    server.take(client.taken())
    waiter.set_exception(TimeoutError())
    client.abandon(waiter, 100.0, 5.0)
    move()
    assert not client.calls
    assert client.expire_cancelled(200.0) is None
    assert not client.hung_up


def test_what_ends_a_connection_wakes_everybody_with_the_same_error():
    client, _, _ = connected()
    waiters = [call(client, opnum=1) for _ in range(3)]
    client.closed(TransportError("gone"))
    assert len({id(w.error) for w in waiters}) == 1
    with pytest.raises(TransportError, match="gone"):
        call(client)


def test_only_one_bind_at_a_time():
    client = TurnedClient()
    client.exchange(PacketType.BIND, [element()])
    with pytest.raises(LocalProtocolError):
        client.exchange(PacketType.BIND, [element()])


def response(call_id: int, stub: bytes = b"", flags: int = 3, hint: int = 0, ptype: int = 2) -> bytes:
    word = p.VERSION | ptype << 16 | flags << 24
    return p.REQUEST.pack(word, 0x10, 24 + len(stub), 0, call_id, hint, 0, 0) + stub


@pytest.mark.req("PDU-2", "REQ-4", "REQ-5")
@pytest.mark.parametrize(
    "data",
    [
        response(99),
        response(2, flags=0),
        response(2, flags=1) + response(2, flags=1),
        response(2, hint=0x8000_0000, flags=1),
        response(2, ptype=0),
        response(2, ptype=11),
        response(2, ptype=12),
        response(2, ptype=13),
        b"\x04" + response(2)[1:],
        response(2)[:8] + b"\x08\x00" + response(2)[10:],
        response(2)[:10] + b"\xff\x00" + response(2)[12:],
    ],
)
def test_a_server_that_breaks_the_rules_loses_the_connection(data):
    client, _, _ = connected()
    waiter = call(client, opnum=1)
    client.receive(data)
    assert client.hung_up
    assert isinstance(waiter.error, RemoteProtocolError)


@pytest.mark.req("REQ-4", "rpce§8")
def test_a_response_is_limited():
    client, _, _ = connected(limits=Limits(max_response=64))
    waiter = call(client, opnum=1)
    for flags in (1, 0, 0):
        client.receive(response(client.last_call_id, bytes(32), flags))
    assert isinstance(waiter.error, RemoteProtocolError)


@pytest.mark.req("rpce§1.shutdown")
def test_a_shutdown_pdu_is_tolerated():
    client, _, move = connected()
    client.receive(bytes(p.header_only(PacketType.SHUTDOWN, 0)))
    waiter = call(client, b"alive...")
    move()
    assert waiter.result == b"alive..."


@pytest.mark.req("REQ-6", "REQ-5")
def test_response_fragments_of_different_calls_may_interleave():
    client, _, _ = connected()
    one, two = call(client), call(client)
    last = client.last_call_id
    client.receive(response(last - 1, b"one-one.", 1) + response(last, b"two-one.", 1))
    client.receive(response(last - 1, b"-middle.", 0) + response(last, b"two-two.", 2))
    client.receive(response(last - 1, b"one-two.", 2))
    assert (one.result, two.result) == (b"one-one.-middle.one-two.", b"two-one.two-two.")


@pytest.mark.req("PDU-6")
@pytest.mark.parametrize("piece", [1, 7, 65536])
def test_any_split_of_the_bytes_gives_the_same_answers(piece):
    client, _, move = connected(piece)
    stub = bytes(range(256)) * 60
    waiters = [call(client, stub), call(client, b"small..."), call(client, opnum=10)]
    move()
    assert waiters[0].result == stub
    assert waiters[1].result == b"small..."
    assert isinstance(waiters[2].error, NotImplementedByPeer)
