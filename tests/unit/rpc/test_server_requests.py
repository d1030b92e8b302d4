"""How a server takes requests: fragments, faults, cancels, limits. [C706] 12.6.4.9, rpce.md §1 and §3"""

from __future__ import annotations

import struct

import pytest

from oxid.ndr.syntax import Syntax
from oxid.rpc import pdu as p
from oxid.rpc.limits import Limits
from oxid.rpc.pdu import PacketType
from oxid.testing.raw_rpc import (
    TurnedServer,
    bind,
    cancel,
    echo_registration,
    element,
    orphaned,
    request,
)

MPX = p.FIRST | p.LAST | p.CONC_MPX
PROTO_ERROR = 0x1C01000B


@pytest.mark.req("rpce§1.request", "REQ-9")
def test_request_and_response_bytes():
    connection = TurnedServer().bound()
    raw = bytes.fromhex(
        "05 00 00 83 10 00 00 00"  # 5.0, request, FIRST LAST OBJECT, little-endian
        "2c 00 00 00 02 00 00 00"  # 44 bytes, no token, call 2
        "04 00 00 00 00 00 00 00"  # alloc_hint 4, context 0, operation 0
        "000102030405060708090a0b0c0d0e0f"  # object
        "deadbeef"
    )
    (answer,) = connection.take(raw)
    assert answer.raw.hex(" ") == (
        "05 00 02 03 10 00 00 00 1c 00 00 00 02 00 00 00 04 00 00 00 00 00 00 00 de ad be ef"
    )


@pytest.mark.req("rpce§1.drep", "REQ-3")
def test_a_big_endian_client_is_understood():
    seen = []

    def handler(call):
        seen.append((call.syntax, call.object_uuid, call.opnum, call.stub))
        return bytearray(24)

    connection = TurnedServer(registration=echo_registration(handler)).connect()
    abstract = struct.pack(">IHH", 0x60A15EC5, 0x4DE8, 0x11D7) + bytes.fromhex("a637005056a20182")
    ndr = struct.pack(">IHH", 0x8A885D04, 0x1CEB, 0x11C9) + bytes.fromhex("9fe808002b104860")
    body = struct.pack(">HHIBxxxHBx", 5840, 5840, 0, 1, 0, 1) + abstract + struct.pack(">I", 1)
    body += ndr + struct.pack(">I", 2)
    raw = struct.pack(">BBBBIHHI", 5, 0, 11, 0x13, 0, 16 + len(body), 0, 1) + body
    (answer,) = connection.take(raw)
    assert answer.ptype == PacketType.BIND_ACK
    object_uuid = struct.pack(">IHH", 1, 2, 3) + bytes(8)
    raw = struct.pack(">BBBBIHHIIHH", 5, 0, 0, 0x83, 0, 44, 0, 2, 4, 0, 5) + object_uuid + b"\0\0\0\x07"
    (answer,) = connection.take(raw)
    assert answer.ptype == PacketType.RESPONSE
    ((syntax, uuid, opnum, stub),) = seen
    assert (syntax, opnum, stub) == (Syntax.NDR20_BE, 5, b"\0\0\0\x07")
    assert uuid.hex == "00000001000200030000000000000000"


@pytest.mark.req("REQ-1")
def test_unknown_context_and_operation_are_faults_that_leave_the_connection_alone():
    connection = TurnedServer().bound()
    (answer,) = connection.take(request(context_id=9))
    assert (answer.status, answer.context_id, answer.flags) == (0x1C010003, 0, 3 | p.DID_NOT_EXECUTE)
    (answer,) = connection.take(request(opnum=77, call_id=3))
    assert (answer.status, answer.flags) == (0x1C010002, 3 | p.DID_NOT_EXECUTE)
    assert len(answer.raw) == 32
    assert not connection.hung_up


@pytest.mark.req("REQ-10")
def test_what_a_handler_did_not_mean_is_logged_and_answered_without_details(caplog):
    connection = TurnedServer().bound()
    (answer,) = connection.take(request(opnum=2))
    assert (answer.status, answer.flags) == (0x1C000012, 3)
    assert b"broken" not in answer.raw
    assert "broken" in caplog.text


@pytest.mark.req("REQ-2")
@pytest.mark.parametrize("flags", [0, p.LAST])
def test_a_request_begins_with_its_first_fragment(flags):
    connection = TurnedServer().bound()
    (answer,) = connection.take(request(flags=flags))
    assert (answer.status, answer.flags) == (PROTO_ERROR, 3)
    assert connection.hung_up


@pytest.mark.req("REQ-2", "REQ-6")
@pytest.mark.parametrize(("bind_flags", "blamed"), [(3, 2), (MPX, 3)])
@pytest.mark.parametrize("second", [p.FIRST, p.FIRST | p.LAST, 0, p.LAST])
def test_fragments_of_two_requests_do_not_mix(bind_flags, blamed, second):
    connection = TurnedServer().bound(flags=bind_flags)
    assert connection.take(request(b"12345678", flags=p.FIRST)) == []
    (answer,) = connection.take(request(call_id=3, flags=second))
    assert (answer.status, answer.call_id) == (PROTO_ERROR, blamed)
    assert connection.hung_up


@pytest.mark.req("REQ-2")
def test_a_request_cannot_begin_twice():
    connection = TurnedServer().bound()
    connection.take(request(b"12345678", flags=p.FIRST))
    (answer,) = connection.take(request(flags=p.FIRST))
    assert (answer.status, answer.call_id) == (PROTO_ERROR, 2)


@pytest.mark.req("REQ-3", "REQ-4")
def test_only_the_first_fragment_says_what_is_called():
    connection = TurnedServer().bound()
    data = request(b"abcdefgh", flags=p.FIRST, hint=24)
    data += request(
        b"ijklmnop", flags=p.MAYBE | p.DID_NOT_EXECUTE | 0x08 | p.PENDING_CANCEL, context_id=9, opnum=99
    )
    data += request(b"qrstuvwx", flags=p.LAST | p.PENDING_CANCEL, context_id=8, opnum=98)
    (answer,) = connection.take(data)
    assert answer.stub == b"abcdefghijklmnopqrstuvwx"


@pytest.mark.req("REQ-3")
def test_the_byte_order_may_not_change_within_a_request():
    connection = TurnedServer().bound()
    connection.take(request(b"12345678", flags=p.FIRST))
    raw = struct.pack(">BBBBIHHIIHH", 5, 0, 0, p.LAST, 0, 24, 0, 2, 0, 0, 0)
    (answer,) = connection.take(raw)
    assert answer.status == PROTO_ERROR


@pytest.mark.req("REQ-3")
def test_a_first_fragment_that_is_cancelled_already():
    connection = TurnedServer().bound()
    (answer,) = connection.take(request(flags=p.FIRST | p.PENDING_CANCEL))
    assert answer.status == 0x6BD
    assert connection.hung_up


@pytest.mark.req("REQ-4")
@pytest.mark.parametrize("hint", [0, 1, 0xFFFFFFFF])
def test_alloc_hint_of_a_whole_request_is_only_a_hint(hint):
    connection = TurnedServer().bound()
    (answer,) = connection.take(request(b"12345678", hint=hint))
    assert answer.stub == b"12345678"


@pytest.mark.req("REQ-4", "rpce§8")
def test_too_large_a_hint_or_stub_ends_a_fragmented_request_at_once():
    server = TurnedServer(limits=Limits(max_request=64))
    connection = server.bound()
    (answer,) = connection.take(request(b"12345678", flags=p.FIRST, hint=65))
    assert (answer.status, connection.hung_up) == (5, True)
    connection = server.bound()
    data = request(bytes(40), flags=p.FIRST, hint=64) + request(bytes(40), flags=0, hint=24)
    (answer,) = connection.take(data)
    assert (answer.status, connection.hung_up) == (5, True)


@pytest.mark.req("rpce§8")
def test_too_many_fragments_end_the_connection():
    connection = TurnedServer(limits=Limits(max_fragments=3)).bound()
    data = request(b"1", flags=p.FIRST) + request(b"1", flags=0) * 3
    (answer,) = connection.take(data)
    assert (answer.status, connection.hung_up) == (5, True)


@pytest.mark.req("REQ-5")
def test_the_rest_of_an_answered_request_is_dropped_and_older_ones_are_errors():
    connection = TurnedServer().bound()
    (answer,) = connection.take(request(b"12345678", call_id=500, context_id=9, flags=p.FIRST))
    assert answer.status == 0x1C010003
    assert connection.take(request(call_id=500, flags=0) + request(call_id=500, flags=p.LAST)) == []
    assert connection.take(request(call_id=351, flags=p.LAST)) == []
    assert not connection.hung_up
    (answer,) = connection.take(request(call_id=350, flags=p.LAST))
    assert (answer.status, connection.hung_up) == (PROTO_ERROR, True)


@pytest.mark.req("REQ-5", "REQ-6")
def test_concurrent_calls_end_out_of_order():
    connection = TurnedServer().bound()
    assert connection.take(request(b"slow....", opnum=1, call_id=2)) == []
    (answer,) = connection.take(request(b"quick...", call_id=3))
    assert answer.call_id == 3
    connection.run(2)
    (answer,) = connection.take(b"")
    assert (answer.call_id, answer.stub) == (2, b"slow....")


@pytest.mark.req("REQ-6")
def test_without_concurrent_multiplexing_calls_wait_for_each_other():
    connection = TurnedServer().bound(flags=3)
    data = request(b"slow....", opnum=1, call_id=2) + request(b"quick...", call_id=3)
    assert connection.take(data) == []
    connection.run(2)
    assert [answer.call_id for answer in connection.take(b"")] == [2, 3]


@pytest.mark.req("REQ-5")
def test_a_call_id_in_use_is_an_error():
    connection = TurnedServer().bound()
    connection.take(request(opnum=1, call_id=2))
    (answer,) = connection.take(request(opnum=1, call_id=2))
    assert (answer.status, connection.hung_up) == (PROTO_ERROR, True)
    connection.closed()


@pytest.mark.req("REQ-7")
def test_cancel_and_orphaned_of_unknown_calls_are_ignored():
    connection = TurnedServer().bound()
    assert connection.take(cancel(77) + orphaned(78)) == []
    (answer,) = connection.take(request(b"alive..."))
    assert answer.stub == b"alive..."


@pytest.mark.req("REQ-7")
def test_orphaned_does_not_free_a_request_in_pieces():
    connection = TurnedServer().bound()
    connection.take(request(b"first...", flags=p.FIRST) + orphaned(2))
    (answer,) = connection.take(request(b"last....", flags=p.LAST))
    assert answer.stub == b"first...last...."


@pytest.mark.req("REQ-8")
def test_a_cancelled_call_is_answered_once():
    connection = TurnedServer().bound()
    connection.take(request(opnum=1))
    (answer,) = connection.take(cancel(2))
    assert answer.status == 0x1C00000D
    assert connection.take(cancel(2)) == []


@pytest.mark.req("REQ-7")
def test_an_orphaned_call_is_not_answered():
    connection = TurnedServer().bound()
    connection.take(request(opnum=1))
    assert connection.take(orphaned(2)) == []
    assert connection.idle


@pytest.mark.req("PDU-1")
def test_other_versions_are_refused_as_the_packet_asks():
    connection = TurnedServer().connect()
    (answer,) = connection.take(b"\x04" + bind(element())[1:])
    assert (answer.ptype, answer.reason, connection.hung_up) == (PacketType.BIND_NAK, 4, True)
    connection = TurnedServer().bound()
    raw = request()
    (answer,) = connection.take(raw[:1] + b"\x01" + raw[2:])
    assert (answer.status, connection.hung_up) == (PROTO_ERROR, True)


@pytest.mark.req("PDU-2")
@pytest.mark.parametrize("length", [0, 1, 15])
def test_a_fragment_shorter_than_its_header(length):
    connection = TurnedServer().bound()
    raw = bytearray(request(b"12345678"))
    raw[8:10] = length.to_bytes(2, "little")
    (answer,) = connection.take(bytes(raw))
    assert (answer.status, connection.hung_up) == (PROTO_ERROR, True)


@pytest.mark.req("PDU-2")
@pytest.mark.parametrize("cut", [16, 17, 23])
def test_a_request_without_room_for_its_fields(cut):
    connection = TurnedServer().bound()
    raw = bytearray(request(b"12345678")[:cut])
    raw[8:10] = cut.to_bytes(2, "little")
    (answer,) = connection.take(bytes(raw))
    assert (answer.status, connection.hung_up) == (PROTO_ERROR, True)


@pytest.mark.req("PDU-2", "PDU-4")
def test_a_token_longer_than_its_bind_is_a_nak():
    connection = TurnedServer().connect()
    raw = bytearray(bind(element()))
    raw[10:12] = (len(raw)).to_bytes(2, "little")
    (answer,) = connection.take(bytes(raw))
    assert (answer.ptype, answer.reason) == (PacketType.BIND_NAK, 4)


@pytest.mark.req("PDU-2")
@pytest.mark.parametrize("ptype", [1, 2, 3, 4, 12, 13, 15, 17, 20, 255])
def test_packets_that_no_client_sends_end_the_connection_with_a_count_and_a_line(ptype, caplog):
    server = TurnedServer()
    connection = server.bound()
    raw = bytearray(request())
    raw[2] = ptype
    assert connection.take(bytes(raw)) == []
    assert connection.hung_up
    assert server.core.protocol_errors == 1
    assert len([r for r in caplog.records if "protocol error from 192.0.2.1:5" in r.message]) == 1


@pytest.mark.req("PDU-2")
def test_what_follows_a_broken_packet_is_not_heard():
    connection = TurnedServer().bound()
    (answer,) = connection.take(request(flags=0) + request(b"after..."))
    assert answer.ptype == PacketType.FAULT
    assert connection.take(request(b"after...")) == []


@pytest.mark.req("rpce§8")
def test_too_many_pending_calls_stop_the_reading():
    server = TurnedServer(limits=Limits(max_pending_calls=2))
    connection = server.bound()
    stopped = []
    type(connection).pause, before = lambda self: stopped.append("pause"), type(connection).pause
    type(connection).resume, after = lambda self: stopped.append("resume"), type(connection).resume
    try:
        connection.take(request(opnum=1, call_id=2) + request(opnum=1, call_id=3))
        assert stopped == ["pause"]
        connection.run(2)
        assert stopped == ["pause", "resume"]
        connection.run(3)
    finally:
        type(connection).pause, type(connection).resume = before, after


def test_the_ledger_is_at_rest_after_a_connection():
    server = TurnedServer()
    connection = server.bound()
    connection.take(request(opnum=1))
    live = server.world.ledger.live()
    assert (live["rpc_connection"], live["rpc_association"], live["rpc_call"]) == (1, 1, 1)
    connection.closed()
    assert not any(server.world.ledger.live().values())
    assert server.world.ledger.rpc_call.total == 1
