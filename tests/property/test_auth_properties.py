"""Secrets stay out of sight, messages survive encoding, and garbage is refused, nothing else."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oxid.auth import (
    Account,
    Anonymous,
    Authenticator,
    AuthLevel,
    AuthType,
    Keytab,
    MemoryAccountStore,
    NtHash,
    Password,
    Ticket,
    der,
    initiator,
    spnego,
)
from oxid.auth.ntlm import messages as m
from oxid.errors import AuthenticationError
from oxid.world import World

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=40)
SECRET = st.text(st.sampled_from("0123456789"), min_size=12, max_size=30)
GARBAGE = st.binary(max_size=300)


@given(user=TEXT, secret=SECRET, domain=TEXT)
def test_no_secret_is_in_any_repr(user, secret, domain):
    if secret in user or secret in domain:
        return
    world = World.real()
    password = Password(user, secret, domain)
    client = initiator(password, AuthType.NTLM, 6, world=world)
    store = MemoryAccountStore({"admin": secret})
    things = [
        password,
        NtHash(user, password.nt_hash(), domain),
        store,
        Authenticator(store, world=world),
        client,
        {"credentials": password},
    ]
    for thing in things:
        shown = repr(thing) + str(thing)
        assert secret not in shown
        assert password.nt_hash().hex() not in shown
        assert repr(password.nt_hash()) not in shown
    assert repr(password.nt_hash()) not in repr(Account("a", password.nt_hash()))
    client.close()


@given(user=TEXT, secret=SECRET, domain=TEXT)
def test_credentials_are_values(user, secret, domain):
    one, two = Password(user, secret, domain), Password(user, secret, domain)
    assert one == two
    assert hash(one) == hash(two)
    assert one != Password(user, secret + "x", domain)
    assert copy.copy(one) == pickle.loads(pickle.dumps(one)) == one
    keys = {
        one,
        two,
        Anonymous(),
        Anonymous(),
        Ticket(),
        Ticket(),
        Ticket("FILE:x"),
        Keytab("a"),
        Keytab("a", "b"),
    }
    assert len(keys) == 6


@given(st.dictionaries(st.integers(1, 0xFFFF), st.binary(max_size=50), max_size=12))
def test_av_pairs_survive(pairs):
    assert m.decode_av_pairs(m.encode_av_pairs(pairs)) == pairs


@given(
    st.binary(max_size=24), st.binary(max_size=400), st.binary(max_size=16), TEXT, TEXT, TEXT, st.booleans()
)
def test_authenticate_messages_survive(lm, nt, key, user, domain, workstation, with_mic):
    message = m.Authenticate(m.UNICODE | m.VERSION, domain, user, workstation, lm, nt, key)
    assert m.Authenticate.decode(bytes(message.encode(with_mic=with_mic))) == message


@given(st.binary(min_size=8, max_size=8), TEXT, st.binary(max_size=200))
def test_challenges_survive(challenge, name, info):
    message = m.Challenge(m.UNICODE | m.REQUEST_TARGET | m.TARGET_INFO, challenge, name, info)
    assert m.Challenge.decode(message.encode()) == message


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=6))
def test_der_elements_survive(elements):
    assert der.take_all(b"".join(der.tlv(tag, value) for tag, value in elements)) == elements


@given(
    st.none() | st.integers(0, 3),
    st.none() | st.binary(max_size=20),
    st.none() | st.binary(max_size=400),
    st.none() | st.binary(max_size=20),
)
def test_spnego_answers_survive(state, mechanism, token, mic):
    answer = spnego.ResponseToken(state, mechanism, token, mic)
    assert spnego.decode_response(answer.encode()) == answer


@given(
    GARBAGE,
    st.sampled_from(["", "4e544c4d5353500001000000", "4e544c4d5353500002000000", "4e544c4d5353500003000000"]),
)
def test_garbage_is_understood_or_refused(garbage, prefix):
    raw = bytes.fromhex(prefix) + garbage
    for decode in (
        m.Negotiate.decode,
        m.Challenge.decode,
        m.Authenticate.decode,
        m.ClientBlob.decode,
        m.decode_av_pairs,
        spnego.decode_init,
        spnego.decode_response,
        der.take,
        der.take_all,
    ):
        try:
            decode(raw)
        except AuthenticationError:
            pass


@pytest.mark.parametrize("auth_type", [AuthType.NTLM, AuthType.SPNEGO])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_handshake_damaged_anywhere_ends_without_a_context(auth_type, data):
    """One leg is cut, extended or changed: both ends complete never, or one refuses with its own error."""
    world = World.real()
    authenticator = Authenticator(MemoryAccountStore({"admin": "secret"}), world=world)
    client = initiator(Password("admin", "secret"), auth_type, AuthLevel.PKT_PRIVACY, world=world)
    server = authenticator.acceptor(auth_type, AuthLevel.PKT_PRIVACY)
    damaged_leg = data.draw(st.integers(0, 2))

    def damage(leg, token):
        if leg != damaged_leg:
            return token
        kind = data.draw(st.sampled_from(["cut", "flip", "replace"]))
        if kind == "cut":
            return token[: data.draw(st.integers(0, len(token) - 1))]
        if kind == "replace":
            return data.draw(GARBAGE)
        at = data.draw(st.integers(0, len(token) - 1))
        return token[:at] + bytes([token[at] ^ data.draw(st.integers(1, 255))]) + token[at + 1 :]

    try:
        token = client.step(b"")
        for leg in range(4):
            end = client if leg % 2 else server
            reply = end.step(damage(leg, token))
            if reply is None:
                break
            token = reply
    except AuthenticationError:
        pass
    finally:
        client.close()
        server.close()


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=8), st.sampled_from([4, 5, 6]))
def test_any_run_of_messages_arrives_as_it_was_sent(bodies, level):
    world = World.real()
    authenticator = Authenticator(MemoryAccountStore({"admin": "secret"}), world=world)
    client = initiator(Password("admin", "secret"), AuthType.NTLM, level, world=world)
    server = authenticator.acceptor(AuthType.NTLM, level)
    server.step(client.step(server.step(client.step(b""))))
    for body in bodies:
        for sender, receiver in ((client, server), (server, client)):
            pdu = bytearray(bytes(24) + body + bytes(8))
            pdu += sender.seal(pdu, 0, 24, 24 + len(body))
            assert receiver.unseal(pdu, 24, 24 + len(body)) == body
    client.close()
    server.close()
