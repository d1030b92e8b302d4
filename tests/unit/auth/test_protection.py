"""Every change to a protected PDU is noticed, at both ends, for NTLM bare and inside SPNEGO."""

from __future__ import annotations

import pytest

from oxid.auth import AuthLevel, AuthType
from oxid.errors import AuthenticationError, LocalProtocolError

PROVIDERS = pytest.mark.parametrize("auth_type", [AuthType.NTLM, AuthType.SPNEGO])
LEVELS = pytest.mark.parametrize(
    "level", [AuthLevel.CALL, AuthLevel.PKT, AuthLevel.PKT_INTEGRITY, AuthLevel.PKT_PRIVACY]
)
DIRECTIONS = pytest.mark.parametrize("from_client", [True, False])


@pytest.fixture
def ends(bench, auth_type, level, from_client):
    client, server = bench.pair(auth_type, level)
    return (client, server) if from_client else (server, client)


@PROVIDERS
@LEVELS
@DIRECTIONS
@pytest.mark.req("SEC-6", "SEC-4")
def test_what_is_sent_arrives(ends, level, send, receive):
    sender, receiver = ends
    for size in (0, 16, 1008, 5840, 100_000):
        body = bytes(index & 0xFF for index in range(size))
        pdu = send(sender, body)
        encrypted = level == AuthLevel.PKT_PRIVACY and size > 0
        assert (bytes(pdu[24 : 24 + size]) != body) == encrypted
        assert receive(receiver, bytes(pdu)) == body


@PROVIDERS
@LEVELS
@DIRECTIONS
@pytest.mark.req("SEC-3", "SEC-5", "SEC-8")
def test_no_byte_may_change(bench, auth_type, level, from_client, send, receive):
    size = len(send(bench.pair(auth_type, level)[0], b"b" * 32))
    for at in range(size):
        client, server = bench.pair(auth_type, level)
        sender, receiver = (client, server) if from_client else (server, client)
        pdu = send(sender, b"b" * 32)
        pdu[at] ^= 0x01
        with pytest.raises(AuthenticationError):
            receive(receiver, pdu)
        client.close()
        server.close()


@PROVIDERS
@LEVELS
@DIRECTIONS
@pytest.mark.req("SEC-4")
def test_a_repeated_message_is_refused(ends, send, receive):
    sender, receiver = ends
    pdu = bytes(send(sender, b"b" * 32))
    receive(receiver, pdu)
    with pytest.raises(AuthenticationError):
        receive(receiver, pdu)


@PROVIDERS
@LEVELS
@DIRECTIONS
@pytest.mark.req("SEC-4")
def test_messages_out_of_order_are_refused_and_nothing_is_trusted_afterwards(ends, send, receive):
    sender, receiver = ends
    first, second = (bytes(send(sender, bytes([n]) * 32)) for n in (1, 2))
    for pdu in (second, first, second):
        with pytest.raises(AuthenticationError):
            receive(receiver, pdu)


@PROVIDERS
@LEVELS
@DIRECTIONS
def test_a_missing_message_is_noticed(ends, send, receive):
    sender, receiver = ends
    send(sender, b"lost" * 4)
    with pytest.raises(AuthenticationError):
        receive(receiver, send(sender, b"next" * 4))


@PROVIDERS
@LEVELS
@DIRECTIONS
def test_a_message_of_our_own_is_not_taken_back(ends, send, receive):
    sender, _ = ends
    with pytest.raises(AuthenticationError):
        receive(sender, send(sender, b"echo" * 4))


@PROVIDERS
@LEVELS
@DIRECTIONS
@pytest.mark.parametrize("kept", [0, 1, 8, 15])
def test_a_token_cut_short_is_refused(ends, kept, send):
    sender, receiver = ends
    pdu = send(sender, b"b" * 32)
    with pytest.raises(AuthenticationError):
        receiver.unseal(bytes(pdu[: 24 + 32 + 8 + kept]), 24, 24 + 32)


@PROVIDERS
@LEVELS
@DIRECTIONS
def test_a_token_with_more_behind_it_is_refused(ends, send):
    sender, receiver = ends
    pdu = send(sender, b"b" * 32) + b"\0"
    with pytest.raises(AuthenticationError):
        receiver.unseal(bytes(pdu), 24, 24 + 32)


@PROVIDERS
def test_after_a_tampered_message_we_can_still_say_so(bench, auth_type, send, receive):
    client, server = bench.pair(auth_type, AuthLevel.PKT_PRIVACY)
    pdu = send(client, b"b" * 32)
    pdu[30] ^= 1
    with pytest.raises(AuthenticationError):
        receive(server, pdu)
    assert receive(client, send(server, b"fault...")) == b"fault..."


@PROVIDERS
@pytest.mark.req("SEC-6")
def test_level_connect_protects_nothing(bench, auth_type, send, receive):
    client, server = bench.pair(auth_type, AuthLevel.CONNECT)
    assert client.signature_size == server.signature_size == 0
    with pytest.raises(LocalProtocolError):
        send(client, b"b" * 16)
    with pytest.raises(LocalProtocolError):
        receive(server, bytes(100))


@PROVIDERS
def test_nothing_is_protected_before_the_handshake_is_over(bench, auth_type, send, receive):
    server = bench.authenticator.acceptor(auth_type, AuthLevel.PKT_PRIVACY)
    with pytest.raises(LocalProtocolError):
        server.seal(bytearray(64), 0, 24, 40)
    with pytest.raises(LocalProtocolError):
        server.unseal(bytes(64), 24, 40)


def test_two_contexts_do_not_mix(bench, send, receive):
    one, _ = bench.pair(AuthType.NTLM, AuthLevel.PKT_INTEGRITY)
    _, other = bench.pair(AuthType.NTLM, AuthLevel.PKT_INTEGRITY)
    with pytest.raises(AuthenticationError):
        receive(other, send(one, b"b" * 16))
