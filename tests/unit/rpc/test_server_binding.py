"""How a server answers BIND and ALTER_CONTEXT. [MS-RPCE] 3.3.1.5.3, rpce.md §2"""

from __future__ import annotations

from uuid import UUID

import pytest

from oxid.rpc import pdu as p
from oxid.rpc.limits import Limits
from oxid.rpc.pdu import NO_SYNTAX, ContextResult, PacketType, SyntaxId
from oxid.rpc.presentation import (
    FEATURE_KEEP_ON_ORPHAN,
    FEATURE_LARGE_FRAGMENTS,
    FEATURE_MULTIPLE_SECURITY,
    NDR20,
    NDR64,
    feature_syntax,
    features_of,
)
from oxid.testing.raw_rpc import ECHO, ECHO_ID, OTHER, TurnedServer, bind, element, request

ACCEPTED = ContextResult(0, 0, NDR20)
NO_ABSTRACT = ContextResult(2, 1, NO_SYNTAX)
NO_TRANSFER = ContextResult(2, 2, NO_SYNTAX)
UNKNOWN = SyntaxId(UUID(int=7), 1)


@pytest.mark.req("BND-1")
def test_the_known_syntaxes_as_bytes():
    assert NDR20.encode().hex() == "045d888aeb1cc9119fe808002b104860" + "02000000"
    assert NDR64.encode().hex() == "33057171babe37498319b5dbef9ccc36" + "01000000"
    assert feature_syntax(3).encode().hex() == "2c1cb76c12984045" + "0300000000000000" + "01000000"
    assert features_of(feature_syntax(3)) == 3
    assert features_of(NDR20) is None


@pytest.mark.req("BND-2", "PDU-5")
def test_each_element_is_answered_in_order_and_one_syntax_accepted_per_interface():
    connection = TurnedServer().connect()
    (answer,) = connection.take(
        bind(
            element(0, ECHO, NDR20),
            element(1, ECHO, NDR64),
            element(2, OTHER, NDR20),
            element(3, ECHO, UNKNOWN),
        )
    )
    assert answer.ack.results == (ACCEPTED, NO_TRANSFER, NO_ABSTRACT, NO_TRANSFER)


@pytest.mark.req("BND-3")
def test_an_element_without_transfer_syntaxes_ends_the_bind():
    connection = TurnedServer().connect()
    raw = bytearray(bind(element()))
    raw[30] = 0  # number of transfer syntaxes
    (answer,) = connection.take(bytes(raw))
    assert (answer.ptype, answer.reason) == (PacketType.BIND_NAK, 0)
    assert connection.hung_up


@pytest.mark.req("BND-3", "PDU-4")
def test_no_elements_at_all_is_a_nak_for_bind_and_a_fault_for_alter():
    connection = TurnedServer().connect()
    (answer,) = connection.take(bind())
    assert (answer.ptype, answer.reason) == (PacketType.BIND_NAK, 4)
    assert answer.raw[18:21] == b"\x01\x05\x00"  # one version: 5.0
    connection = TurnedServer().bound()
    (answer,) = connection.take(bind(alter=True, call_id=2))
    assert (answer.ptype, answer.status) == (PacketType.FAULT, 0x1C01000B)
    assert answer.flags & p.DID_NOT_EXECUTE
    assert connection.hung_up


@pytest.mark.req("BND-4")
def test_a_context_id_keeps_its_syntaxes():
    server = TurnedServer()
    connection = server.bound()
    (answer,) = connection.take(bind(element(0, ECHO, UNKNOWN), alter=True, call_id=2))
    assert answer.ack.results == (NO_TRANSFER,)
    (answer,) = connection.take(request(b"still", call_id=3))
    assert answer.stub == b"still"
    (answer,) = connection.take(bind(element(0, ECHO, NDR64), alter=True, call_id=4))
    assert (answer.ptype, answer.status) == (PacketType.FAULT, 0x1C01000B)
    assert connection.hung_up


@pytest.mark.req("BND-5")
def test_a_second_bind_is_refused_and_ends_the_connection():
    connection = TurnedServer().bound()
    (answer,) = connection.take(bind(element(), call_id=2))
    assert (answer.ptype, answer.reason) == (PacketType.BIND_NAK, 0)
    assert connection.hung_up


@pytest.mark.req("BND-5")
def test_anything_but_a_bind_first_ends_the_connection_without_an_answer():
    connection = TurnedServer().connect()
    assert connection.take(request(b"early")) == []
    assert connection.hung_up


@pytest.mark.req("BND-6")
def test_bind_time_features_are_the_intersection_and_reserved_bits_are_cleared():
    connection = TurnedServer().connect()
    (answer,) = connection.take(bind(element(), element(1, OTHER, feature_syntax(0xFFFF_FFFF_FFFF_FFFF))))
    assert answer.ack.results[1] == ContextResult(3, 3, NO_SYNTAX)
    assert connection.features == FEATURE_MULTIPLE_SECURITY | FEATURE_KEEP_ON_ORPHAN


@pytest.mark.req("BND-6")
def test_the_feature_syntax_counts_only_in_first_place_and_once():
    connection = TurnedServer().connect()
    (answer,) = connection.take(bind(element(), element(1, OTHER, NDR20, feature_syntax(1))))
    assert answer.ack.results[1] == NO_ABSTRACT
    connection = TurnedServer().connect()
    (answer,) = connection.take(
        bind(element(), element(1, OTHER, feature_syntax(1)), element(2, OTHER, feature_syntax(1)))
    )
    assert (answer.ptype, answer.reason) == (PacketType.BIND_NAK, 0)


@pytest.mark.req("BND-6")
def test_features_are_not_negotiated_in_alter_context():
    connection = TurnedServer().bound()
    (answer,) = connection.take(bind(element(1, OTHER, feature_syntax(1)), alter=True, call_id=2))
    assert answer.ack.results == (NO_ABSTRACT,)


@pytest.mark.req("BND-7")
@pytest.mark.parametrize(
    ("xmit", "recv", "agreed"),
    [(0xFFFF, 0xFFFF, 5840), (3199, 0xFFFF, 3192), (0xFFFF, 3199, 3192), (0, 0, 2048), (0, 0xFFFF, 2048)],
)
def test_the_agreed_fragment_size(xmit, recv, agreed):
    connection = TurnedServer().connect()
    (answer,) = connection.take(bind(element(), size=xmit, recv=recv))
    assert (answer.ack.max_xmit, answer.ack.max_recv) == (agreed, agreed)


@pytest.mark.req("BND-7")
def test_a_fragment_may_be_as_long_as_the_transport_allows_and_not_a_byte_more():
    connection = TurnedServer().bound(size=2048)
    (answer, *rest) = connection.take(request(bytes(5840 - 24), call_id=2))
    assert answer.ptype == PacketType.RESPONSE
    assert len(rest) == 2  # the reply keeps to the 2,048 that were agreed
    (answer,) = connection.take(request(bytes(5841 - 24), call_id=3))
    assert (answer.status, answer.context_id, answer.call_id) == (0x1C01000B, 0, 3)
    assert not answer.flags & p.DID_NOT_EXECUTE
    assert connection.hung_up


@pytest.mark.req("BND-7")
def test_large_fragments_are_for_those_who_say_the_word():
    connection = TurnedServer().connect()
    (answer,) = connection.take(
        bind(element(), element(1, ECHO, feature_syntax(FEATURE_LARGE_FRAGMENTS | 3)), size=65528)
    )
    assert answer.ack.max_xmit == 65528
    assert answer.ack.results[1].reason == 0x8003
    (answer,) = connection.take(request(bytes(65000)))
    assert len(answer.stub) == 65000
    connection = TurnedServer().connect()
    (answer,) = connection.take(bind(element(), element(1, ECHO, feature_syntax(3)), size=65528))
    assert answer.ack.max_xmit == 5840


@pytest.mark.req("BND-8")
def test_flags_and_secondary_address_of_the_answers():
    server = TurnedServer()
    connection = server.connect()
    (answer,) = connection.take(bind(element(), flags=0xFF))
    assert answer.flags == p.FIRST | p.LAST | p.CONC_MPX | p.SUPPORT_HEADER_SIGN
    assert answer.ack.secondary_address == b"135"
    assert answer.raw[24:30] == b"\x04\x00135\x00"
    (answer,) = connection.take(bind(element(), flags=0xFF, alter=True, call_id=2))
    assert answer.flags == p.FIRST | p.LAST | p.SUPPORT_HEADER_SIGN
    assert answer.raw[24:26] == b"\x00\x00"
    connection = server.connect()
    (answer,) = connection.take(bind(element(), flags=0))
    assert answer.flags == p.FIRST | p.LAST


@pytest.mark.req("BND-9")
def test_association_groups_are_joined_from_the_same_address_only_and_end_with_their_last_connection():
    server = TurnedServer()
    first = server.connect()
    (answer,) = first.take(bind(element()))
    group = answer.ack.group
    assert group
    second = server.connect()
    (answer,) = second.take(bind(element(), group=group))
    assert answer.ack.group == group
    assert second.association is first.association
    (answer,) = server.connect("192.0.2.99").take(bind(element(), group=group))
    assert (answer.ptype, answer.reason) == (PacketType.BIND_NAK, 0)
    first.closed()
    second.closed()
    (answer,) = server.connect().take(bind(element(), group=group))
    assert answer.ptype == PacketType.BIND_NAK


@pytest.mark.req("BND-9")
def test_presentation_contexts_belong_to_their_connection():
    server = TurnedServer()
    first = server.connect()
    first.take(bind(element(7)))
    second = server.connect()
    second.take(bind(element(0), group=first.association.group_id))
    (answer,) = second.take(request(b"", context_id=7))
    assert (answer.status, answer.context_id) == (0x1C010003, 0)
    assert answer.flags & p.DID_NOT_EXECUTE
    assert not second.hung_up


@pytest.mark.req("BND-10", "rpce§8")
def test_presentation_contexts_are_limited():
    server = TurnedServer(limits=Limits(max_presentation_contexts=2))
    connection = server.bound()
    (answer,) = connection.take(bind(element(1), alter=True, call_id=2))
    assert answer.ack.results == (ACCEPTED,)
    (answer,) = connection.take(bind(element(2), alter=True, call_id=3))
    assert answer.ack.results == (ContextResult(2, 3, NO_SYNTAX),)


@pytest.mark.req("BND-11")
@pytest.mark.parametrize(("version", "accepted"), [(1, True), (2, False), (0, False), (0x1_0001, False)])
def test_the_major_version_must_match_and_the_minor_be_there(version, accepted):
    connection = TurnedServer().connect()
    (answer,) = connection.take(bind(element(0, SyntaxId(ECHO_ID, version))))
    assert answer.ack.results == (ACCEPTED if accepted else NO_ABSTRACT,)


@pytest.mark.req("rpce§1.ptypes")
def test_connections_with_equal_contexts_share_one_table():
    server = TurnedServer()
    assert server.bound().contexts is server.bound().contexts
