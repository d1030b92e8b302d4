"""Who gets in over NTLM, as whom, and who does not."""

from __future__ import annotations

import pytest

from oxid.auth import (
    Anonymous,
    AuthLevel,
    AuthType,
    FailureLimiter,
    Impersonation,
    MemoryAccountStore,
    NtHash,
    Password,
    Ticket,
    nt_hash,
)
from oxid.auth.ntlm import AcceptorHandshake, NtlmContext, ServerNames
from oxid.auth.ntlm import messages as m
from oxid.auth.ntlm.initiator import InitiatorHandshake
from oxid.errors import AuthenticationError, LocalProtocolError, NotSupported
from oxid.values.status import HResult, NtStatus

NTLM = AuthType.NTLM
PRIVACY = AuthLevel.PKT_PRIVACY


def test_a_password_lets_its_account_in(bench):
    client, server = bench.pair(NTLM, PRIVACY, Password("admin", "secret"))
    assert (server.principal, server.admin, server.anonymous) == ("admin", True, False)
    assert server.impersonation is Impersonation.IMPERSONATE
    assert server.target_name == "host/server"
    assert client.session_key == server.session_key
    assert client.signature_size == server.signature_size == 16


def test_the_hash_of_a_password_is_as_good(bench):
    _, server = bench.pair(NTLM, PRIVACY, NtHash("guest", nt_hash("welcome")))
    assert (server.principal, server.admin) == ("guest", False)


@pytest.mark.parametrize(
    ("credentials", "principal"),
    [
        (Password("ADMIN", "secret"), "admin"),  # names know no case
        (Password("admin", "secret", "WORKGROUP"), "admin"),  # an unknown domain is this host
        (Password("admin", "secret", "LAB"), "admin"),  # there is no LAB\admin
        (Password("ann", "lab", "LAB"), "LAB\\ann"),
        (Password("Ann", "lab", "lab"), "LAB\\ann"),
        (Password("ann@lab", "lab"), "LAB\\ann"),
        (Password("admin@anywhere", "secret"), "admin"),
    ],
)
def test_domains_are_taken_as_the_contract_says(bench, credentials, principal):
    _, server = bench.pair(NTLM, PRIVACY, credentials)
    assert server.principal == principal


@pytest.mark.parametrize(
    "credentials",
    [
        Password("admin", "Secret"),
        Password("admin", ""),
        Password("nobody", "secret"),
        Password("ann", "lab"),  # only LAB\ann exists
        Password("ann", "secret", "LAB"),
        NtHash("admin", bytes(16)),
    ],
)
def test_wrong_credentials_are_a_logon_failure_and_no_more(bench, credentials):
    client = bench.client(credentials, NTLM, PRIVACY)
    server = bench.authenticator.acceptor(NTLM, PRIVACY)
    answer = server.step(client.step(b""))
    proof = client.step(answer)
    with pytest.raises(AuthenticationError) as refusal:
        server.step(proof)
    assert refusal.value.status == NtStatus(0xC000_006D)
    assert not server.complete
    assert server.principal is None
    with pytest.raises(AuthenticationError):
        server.step(proof)
    with pytest.raises(LocalProtocolError):
        server.unseal(bytes(64), 24, 40)


@pytest.mark.req("SEC-8")
def test_anonymous_is_let_in_as_anonymous_not_as_somebody(bench, send, receive):
    client, server = bench.pair(NTLM, PRIVACY, Anonymous())
    assert server.anonymous
    assert server.principal is None
    assert not server.admin
    assert server.impersonation is Impersonation.ANONYMOUS
    assert receive(server, send(client, b"b" * 16)) == b"b" * 16


@pytest.mark.req("SEC-8")
def test_anonymous_without_key_exchange_has_a_session_key_of_zeros(world, bench):
    server = bench.authenticator.acceptor(NTLM, AuthLevel.CONNECT)
    flags = m.UNICODE | m.NTLM | m.EXTENDED_SESSION_SECURITY | m.SIGN
    server.step(m.Negotiate(flags).encode())
    server.step(bytes(m.Authenticate(flags, "", "", "", b"\0", b"").encode(with_mic=False)))
    assert server.anonymous
    assert server.session_key == bytes(16)


def test_anonymous_can_be_refused_altogether(bench, world):
    strict = bench.server(MemoryAccountStore(), allow_anonymous=False)
    client = InitiatorHandshake(Anonymous(), level=6, world=world)
    server = strict.acceptor(NTLM, PRIVACY)
    proof, _ = client.step(server.step(client.step(b"")[0]))
    with pytest.raises(AuthenticationError):
        server.step(proof)


@pytest.mark.req("SEC-11")
def test_identify_travels_as_a_flag_inside_the_tokens(bench):
    _, server = bench.pair(NTLM, PRIVACY, Password("admin", "secret"), identify=True)
    assert server.impersonation is Impersonation.IDENTIFY


def test_every_byte_of_the_handshake_is_covered_by_the_mic(bench):
    client = bench.client(Password("admin", "secret"), NTLM, PRIVACY)
    offer = client.step(b"")
    for at in range(12, len(offer)):  # signature and type are not up for change
        server = bench.authenticator.acceptor(NTLM, PRIVACY)
        bad = bytearray(offer)
        bad[at] ^= 0x10
        fresh = bench.client(Password("admin", "secret"), NTLM, PRIVACY)
        fresh.step(b"")
        with pytest.raises(AuthenticationError):
            server.step(fresh.step(server.step(bytes(bad))))


def test_every_byte_of_the_proof_matters(bench):
    client = bench.client(Password("admin", "secret"), NTLM, PRIVACY)
    offer = client.step(b"")
    server = bench.authenticator.acceptor(NTLM, PRIVACY)
    proof = client.step(server.step(offer))
    server.close()
    for at in range(len(proof)):
        bench.world.entropy.given = 0  # the same nonces again
        client = bench.client(Password("admin", "secret"), NTLM, PRIVACY)
        server = bench.authenticator.acceptor(NTLM, PRIVACY)
        again = client.step(server.step(client.step(b"")))
        bad = bytearray(again)
        bad[at] ^= 1
        with pytest.raises(AuthenticationError):
            server.step(bytes(bad))


def test_a_proof_is_good_for_one_challenge_only(bench):
    client = bench.client(Password("admin", "secret"), NTLM, PRIVACY)
    server = bench.authenticator.acceptor(NTLM, PRIVACY)
    offer = client.step(b"")
    proof = client.step(server.step(offer))
    server.step(proof)
    other = bench.authenticator.acceptor(NTLM, PRIVACY)
    other.step(offer)
    with pytest.raises(AuthenticationError):
        other.step(proof)
    with pytest.raises(AuthenticationError):
        server.step(proof)


def test_ntlm_version_1_is_not_enough(bench):
    server = bench.authenticator.acceptor(NTLM, PRIVACY)
    flags = m.UNICODE | m.NTLM | m.SIGN | m.SEAL | m.EXTENDED_SESSION_SECURITY | m.KEY_128
    server.step(m.Negotiate(flags).encode())
    message = m.Authenticate(flags, "", "admin", "", bytes(24), bytes(24)).encode(with_mic=False)
    with pytest.raises(AuthenticationError, match="NTLMv2"):
        server.step(bytes(message))


@pytest.mark.parametrize("missing", [m.SIGN, m.EXTENDED_SESSION_SECURITY, m.SEAL])
def test_flags_too_weak_for_the_level_end_the_handshake(world, bench, missing):
    handshake = InitiatorHandshake(Password("admin", "secret"), level=6, world=world)
    handshake._flags &= ~missing
    client, server = NtlmContext(handshake, 2), bench.authenticator.acceptor(NTLM, PRIVACY)
    with pytest.raises(AuthenticationError):
        server.step(client.step(server.step(client.step(b""))))


def test_a_server_without_128_bit_keys_is_refused(world):
    client = InitiatorHandshake(Password("a", "b"), level=6, world=world)
    client.step(b"")
    weak = m.Challenge(m.UNICODE | m.NTLM | m.SIGN | m.SEAL | m.EXTENDED_SESSION_SECURITY, bytes(8))
    with pytest.raises(AuthenticationError, match="128-bit"):
        client.step(weak.encode())


def test_oem_names_are_understood(bench, world):
    store = MemoryAccountStore({"jörg": "secret"})
    handshake = InitiatorHandshake(Password("jörg", "secret"), level=6, world=world)
    handshake._flags &= ~m.UNICODE
    client = NtlmContext(handshake, 6)
    server = bench.server(store).acceptor(NTLM, PRIVACY)
    server.step(client.step(server.step(client.step(b""))))
    assert server.principal == "jörg"


def test_a_client_without_any_character_set_is_refused(bench):
    with pytest.raises(AuthenticationError) as refusal:
        bench.authenticator.acceptor(NTLM, 5).step(m.Negotiate(m.NTLM).encode())
    assert refusal.value.status == HResult(0x8009_0308)


def test_some_clients_leave_the_domain_out_of_their_key(world, bench):
    """[MS-NLMP] 3.2.5.1.2: they send it all the same."""
    handshake = InitiatorHandshake(Password("admin", "secret", ""), level=6, world=world)
    server = bench.authenticator.acceptor(NTLM, PRIVACY)
    negotiate, _ = handshake.step(b"")
    challenge = server.step(negotiate)
    decoded = m.Challenge.decode(challenge)
    pairs = {k: v for k, v in m.decode_av_pairs(decoded.target_info).items() if k != m.AV_TIMESTAMP}
    lm, nt, key = handshake._responses(decoded, pairs, with_mic=False)
    flags = (decoded.flags & ~m.KEY_EXCHANGE) | m.SIGN
    server.step(bytes(m.Authenticate(flags, "WORKGROUP", "admin", "", lm, nt).encode(with_mic=False)))
    assert server.principal == "admin"
    assert server.session_key == key


def test_channel_bindings_are_checked_where_the_server_has_some(bench):
    good, bad = b"\x11" * 16, b"\x22" * 16

    def come(bindings):
        client = bench.client(Password("admin", "secret"), NTLM, PRIVACY, channel_bindings=bindings)
        server = bench.authenticator.acceptor(NTLM, PRIVACY, channel_bindings=good)
        server.step(client.step(server.step(client.step(b""))))

    come(good)
    for wrong in (bad, None):
        with pytest.raises(AuthenticationError) as refusal:
            come(wrong)
        assert refusal.value.status == HResult(0x8009_0346)


def test_a_clock_off_by_two_days_is_refused(world, bench):
    handshake = InitiatorHandshake(Password("admin", "secret"), level=6, world=world)
    server = bench.authenticator.acceptor(NTLM, PRIVACY)
    negotiate, _ = handshake.step(b"")
    challenge = server.step(negotiate)
    world.clock.utc_now += 2 * 86_400
    with pytest.raises(AuthenticationError, match="36 hours"):
        server.step(handshake.step(challenge)[0])


def test_who_guesses_too_often_is_not_even_checked(bench, world):
    limiter = FailureLimiter(limit=3, window_s=60)
    store = MemoryAccountStore({"admin": "secret"})
    authenticator = bench.server(store, limiter=limiter)

    def come(password, peer="10.0.0.1"):
        client = NtlmContext(InitiatorHandshake(Password("admin", password), level=5, world=world), 5)
        server = authenticator.acceptor(NTLM, 5, peer=peer)
        server.step(client.step(server.step(client.step(b""))))

    for _ in range(3):
        with pytest.raises(AuthenticationError) as refusal:
            come("guess")
        assert refusal.value.status == NtStatus(0xC000_006D)
    with pytest.raises(AuthenticationError) as refusal:
        come("secret")
    assert refusal.value.status == NtStatus(0xC000_0234)
    come("secret", peer="10.0.0.2")
    world.clock.seconds = 61
    come("secret")
    assert limiter.statistics() == {"peers": 0, "failures": 0}


def test_the_limiter_remembers_a_bounded_number_of_peers():
    limiter = FailureLimiter(most_peers=10)
    for number in range(100):
        limiter.failed(f"peer{number}", 1.0)
    assert limiter.statistics() == {"peers": 10, "failures": 10}


def test_the_challenge_carries_the_servers_names_and_time(world):
    names = ServerNames("BOX", "LAB", "box.lab.example", "lab.example")
    handshake = AcceptorHandshake(MemoryAccountStore(), world=world, names=names)
    reply, outcome = handshake.step(m.Negotiate(m.UNICODE | m.NTLM).encode())
    assert outcome is None
    challenge = m.Challenge.decode(reply)
    pairs = m.decode_av_pairs(challenge.target_info)
    assert challenge.target_name == "BOX"
    assert {kind: value.decode("utf-16-le") for kind, value in pairs.items() if kind < 5} == {
        m.AV_NB_DOMAIN: "LAB",
        m.AV_NB_COMPUTER: "BOX",
        m.AV_DNS_DOMAIN: "lab.example",
        m.AV_DNS_COMPUTER: "box.lab.example",
    }
    assert int.from_bytes(pairs[m.AV_TIMESTAMP], "little") == 116_444_736_000_000_000 + 17_500_000_000_000_000


@pytest.mark.req("SEC-1")
def test_ntlm_has_three_legs_and_says_so(bench):
    client, server = bench.pair(NTLM, PRIVACY)
    assert client.odd_legs
    assert not client.blocking
    assert not server.blocking


def test_unusable_wishes_are_told_apart(bench, world):
    with pytest.raises(NotSupported):
        bench.authenticator.acceptor(68, PRIVACY)
    with pytest.raises(LocalProtocolError):
        bench.authenticator.acceptor(NTLM, 7)
    with pytest.raises(NotSupported):
        bench.client(Ticket(), NTLM, PRIVACY)
    with pytest.raises(LocalProtocolError):
        bench.client(Password("a", "b"), NTLM, 1)
    with pytest.raises(NotSupported):
        bench.client(Password("a", "b"), 68, PRIVACY)


@pytest.mark.req("SEC-12")
def test_a_server_can_insist_on_a_level(bench):
    authenticator = bench.server(MemoryAccountStore(), minimum_level=AuthLevel.PKT_INTEGRITY)
    with pytest.raises(AuthenticationError):
        authenticator.acceptor(NTLM, AuthLevel.CONNECT)
    authenticator.acceptor(NTLM, AuthLevel.PKT_PRIVACY).close()


def test_contexts_are_counted_until_they_are_closed(bench):
    ledger = bench.world.ledger
    before = ledger.security_context.live
    for auth_type in (AuthType.NTLM, AuthType.SPNEGO):
        client, server = bench.pair(auth_type, PRIVACY)
        assert ledger.security_context.live == before + 2
        for _ in range(2):
            client.close()
            server.close()
        assert ledger.security_context.live == before


def test_a_closed_context_protects_nothing(bench, send, receive):
    client, server = bench.pair(NTLM, PRIVACY)
    pdu = send(client, b"b" * 16)
    client.close()
    server.close()
    with pytest.raises(AuthenticationError):
        send(client, b"b" * 16)
    with pytest.raises(AuthenticationError):
        receive(server, pdu)


def test_principal_names_are_told_to_whoever_asks(bench):
    assert bench.authenticator.auth_types == (AuthType.SPNEGO, AuthType.NTLM)
    assert bench.authenticator.principal_name(NTLM) == "OXID\\OXID$"


@pytest.mark.parametrize("auth_type", [AuthType.NTLM, AuthType.SPNEGO])
@pytest.mark.parametrize("level", [2, 3, 4, 5, 6])
def test_anonymous_works_at_every_level(bench, auth_type, level):
    _, server = bench.pair(auth_type, level, Anonymous())
    assert server.anonymous
    assert server.level == level
