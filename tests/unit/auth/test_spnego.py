"""SPNEGO: the right mechanism is chosen, and nobody bends the choice unnoticed."""

from __future__ import annotations

import pytest

from oxid.auth import AuthLevel, AuthType, Password, der, spnego
from oxid.auth.ntlm import InitiatorHandshake, NtlmContext
from oxid.errors import AuthenticationError, LocalProtocolError, NotSupported

SPNEGO, PRIVACY = AuthType.SPNEGO, AuthLevel.PKT_PRIVACY
NEGOEX_OID = bytes.fromhex(
    "2b06010401823702021e"
)  # 1.3.6.1.4.1.311.2.2.30: Windows offers it, nobody needs it


class NoSuchMechanism:
    """A mechanism whose first token nobody understands."""

    auth_type = 99
    complete = can_sign = header_signing = blocking = False

    def step(self, token):
        return b"hello"

    def close(self):
        pass


@pytest.fixture
def ntlm(bench):
    def make(credentials=Password("admin", "secret")):  # noqa: B008
        return NtlmContext(InitiatorHandshake(credentials, level=6, world=bench.world), 6)

    return make


@pytest.fixture
def server(bench):
    return bench.authenticator.acceptor(SPNEGO, PRIVACY)


def talk(client, server, change=lambda number, token: token):
    """Pass tokens on, each through `change`."""
    number = 0
    token = client.step(b"")
    while token is not None:
        answer = server.step(change(number, token))
        number += 1
        if client.complete:
            return
        token = client.step(change(number, answer))
        number += 1


def works(client, server):
    out = bytearray(b"HEADER--" * 3 + b"body" * 4 + b"trailer.")
    token = client.seal(out, 0, 24, 40)
    return server.unseal(bytes(out + token), 24, 40) == b"body" * 4


@pytest.mark.req("SEC-1", "SEC-9")
def test_ntlm_inside_takes_four_legs(bench, server):
    client = bench.client(Password("admin", "secret"), SPNEGO, PRIVACY)
    offer = client.step(b"")
    assert offer.hex().startswith(
        "60480606" + spnego.SPNEGO_OID.hex() + "a03e303ca00e300c060a" + spnego.NTLM_OID.hex()
    )
    challenge = server.step(offer)
    answer = spnego.decode_response(challenge)
    assert (answer.state, answer.mechanism, answer.mic) == (1, spnego.NTLM_OID, None)
    proof = client.step(challenge)
    assert not client.complete
    assert len(spnego.decode_response(proof).mic) == 16
    farewell = server.step(proof)
    assert server.complete
    done = spnego.decode_response(farewell)
    assert (done.state, done.mechanism, done.token, len(done.mic)) == (0, None, None, 16)
    assert client.step(farewell) is None
    assert client.complete
    assert not client.odd_legs
    assert (client.mechanism, server.principal) == (AuthType.NTLM, "admin")
    assert works(client, server)
    assert works(server, client)


def test_another_first_choice_is_talked_out_of(server, ntlm):
    """The server answers request-mic, and the list of mechanisms is proved on both sides."""
    client = spnego.SpnegoInitiator([(NEGOEX_OID, NoSuchMechanism), (spnego.NTLM_OID, ntlm)], PRIVACY)
    states = []

    def watch(number, token):
        if number % 2:
            states.append(spnego.decode_response(token).state)
        return token

    talk(client, server, watch)
    assert states == [spnego.REQUEST_MIC, spnego.ACCEPT_INCOMPLETE, spnego.ACCEPT_COMPLETED]
    assert client.complete
    assert server.complete
    assert works(client, server)


def _without_mic(token):
    answer = spnego.decode_response(token)
    return spnego.ResponseToken(answer.state, answer.mechanism, answer.token, None).encode()


def test_a_missing_mic_is_tolerated_where_nothing_was_negotiated(bench, server):
    """impacket never sends one, and some servers answer none."""
    client = bench.client(Password("admin", "secret"), SPNEGO, PRIVACY)
    talk(client, server, lambda number, token: _without_mic(token) if number else token)
    assert client.complete
    assert server.complete
    assert server.principal == "admin"


@pytest.mark.parametrize("stripped", [4, 5])
def test_a_missing_mic_is_fatal_after_a_downgrade(server, ntlm, stripped):
    client = spnego.SpnegoInitiator([(NEGOEX_OID, NoSuchMechanism), (spnego.NTLM_OID, ntlm)], PRIVACY)
    with pytest.raises(AuthenticationError, match="mechListMIC"):
        talk(client, server, lambda number, token: _without_mic(token) if number == stripped else token)


def test_an_offer_somebody_shortened_is_noticed(server, ntlm):
    """A stranger removes the first choice: the MIC covers another list than the client offered."""
    client = spnego.SpnegoInitiator([(NEGOEX_OID, NoSuchMechanism), (spnego.NTLM_OID, ntlm)], PRIVACY)
    shortened = spnego.encode_init(spnego.encode_mechanisms([spnego.NTLM_OID]), None)
    with pytest.raises(AuthenticationError):
        talk(client, server, lambda number, token: shortened if number == 0 else token)
    assert not server.complete


@pytest.mark.parametrize("leg", [2, 3])
def test_a_wrong_mic_is_fatal(bench, server, leg):
    client = bench.client(Password("admin", "secret"), SPNEGO, PRIVACY)

    def change(number, token):
        return token[:-1] + bytes([token[-1] ^ 1]) if number == leg else token

    with pytest.raises(AuthenticationError):
        talk(client, server, change)


def test_bare_ntlm_is_taken_as_windows_takes_it(server, ntlm):
    client = ntlm()
    assert server.step(client.step(server.step(client.step(b"")))) is None
    assert server.complete
    assert server.mechanism is AuthType.NTLM
    assert works(client, server)


def test_the_misspelt_kerberos_is_answered_with_its_own_name(bench):
    """Windows 2000 cut 113554 down to 16 bits, and the answer must repeat it. [MS-SPNG] 3.2.5"""

    class Kerberos(NoSuchMechanism):
        auth_type = AuthType.KERBEROS

    server = spnego.SpnegoAcceptor([(spnego.KERBEROS_OID, Kerberos)], PRIVACY)
    offer = spnego.encode_init(spnego.encode_mechanisms([spnego.MS_KERBEROS_OID, spnego.KERBEROS_OID]), b"x")
    answer = spnego.decode_response(server.step(offer))
    assert (answer.mechanism, answer.token) == (spnego.MS_KERBEROS_OID, b"hello")


def test_a_server_asked_without_a_token_offers_its_mechanisms(server, bench):
    """negTokenInit2. [MS-SPNG] 3.2.5.2"""
    offer = server.step(b"")
    assert spnego.decode_init(offer).mechanisms == (spnego.NTLM_OID,)
    assert b"not_defined_in_RFC4178@please_ignore" in offer
    client = bench.client(Password("admin", "secret"), SPNEGO, PRIVACY)
    token = client.step(offer)
    client.step(server.step(client.step(server.step(token))))
    assert client.complete
    assert server.complete


def test_reqflags_are_ignored(server, bench):
    """[MS-SPNG] 3.1.5.3"""
    client = bench.client(Password("admin", "secret"), SPNEGO, PRIVACY)
    token = spnego.decode_init(client.step(b""))
    body = der.tlv(
        0x30,
        der.tlv(0xA0, token.raw_mechanisms),
        der.tlv(0xA1, b"\x03\x02\x01\x06"),
        der.tlv(0xA2, der.tlv(4, token.token)),
    )
    framed = der.tlv(0x60, der.tlv(6, spnego.SPNEGO_OID), der.tlv(0xA0, body))
    client.step(server.step(client.step(server.step(framed))))
    assert client.complete


def test_a_mechanism_named_again_is_ignored(server, bench):
    """[MS-SPNG] 3.3.5: some servers repeat or change supportedMech in later answers."""
    client = bench.client(Password("admin", "secret"), SPNEGO, PRIVACY)

    def change(number, token):
        if number != 3:
            return token
        answer = spnego.decode_response(token)
        return spnego.ResponseToken(answer.state, NEGOEX_OID, answer.token, answer.mic).encode()

    talk(client, server, change)
    assert client.complete


def test_an_empty_last_answer_is_enough(server, bench):
    client = bench.client(Password("admin", "secret"), SPNEGO, PRIVACY)
    server.step(client.step(server.step(client.step(b""))))
    assert client.step(b"") is None
    assert client.complete


@pytest.mark.parametrize(
    "offer",
    [
        [NEGOEX_OID],
        [spnego.KERBEROS_OID],  # this server has no keytab
    ],
)
def test_without_a_common_mechanism_there_is_no_context(server, offer):
    with pytest.raises(AuthenticationError, match="no SPNEGO mechanism"):
        server.step(spnego.encode_init(spnego.encode_mechanisms(offer), b"token"))


def test_a_rejection_is_a_failure(bench):
    client = bench.client(Password("admin", "secret"), SPNEGO, PRIVACY)
    client.step(b"")
    with pytest.raises(AuthenticationError, match="reject"):
        client.step(spnego.ResponseToken(spnego.REJECT).encode())
    with pytest.raises(AuthenticationError):
        client.step(b"")


def test_a_server_may_not_finish_before_the_mechanism(bench):
    client = bench.client(Password("admin", "secret"), SPNEGO, PRIVACY)
    client.step(b"")
    with pytest.raises(AuthenticationError):
        client.step(spnego.ResponseToken(spnego.ACCEPT_COMPLETED, spnego.NTLM_OID).encode())


def test_a_server_may_not_choose_what_was_not_offered(bench):
    client = bench.client(Password("admin", "secret"), SPNEGO, PRIVACY)
    client.step(b"")
    with pytest.raises(AuthenticationError, match="not offered"):
        client.step(spnego.ResponseToken(spnego.ACCEPT_INCOMPLETE, NEGOEX_OID).encode())


@pytest.mark.parametrize(
    "token",
    [
        "",
        "60",
        "6000",
        "6003060100",
        "600806062b0601050502",  # no negTokenInit inside
        "60120606" + "2b0601050502" + "a0083006a0043002" + "0600",
        "a1023000",  # a response before an offer
        "60847fffffff06062b0601050502",
        "6080" + "00" * 30,
        "00" * 40,
    ],
)
def test_garbage_is_no_offer(bench, token):
    server = bench.authenticator.acceptor(SPNEGO, PRIVACY)
    if not token:
        server.step(b"")  # asks for the server's offer
        token = "00"
    with pytest.raises(AuthenticationError):
        server.step(bytes.fromhex(token))
    with pytest.raises(AuthenticationError):
        server.step(bytes.fromhex(token))


def test_too_many_mechanisms_are_refused(server):
    with pytest.raises(AuthenticationError, match="mechanisms"):
        server.step(spnego.encode_init(spnego.encode_mechanisms([NEGOEX_OID] * 17), None))


def test_without_any_usable_mechanism_the_client_says_why():
    client = spnego.SpnegoInitiator([], PRIVACY)
    with pytest.raises(NotSupported):
        client.step(b"")


def test_what_is_not_known_before_a_choice(server):
    assert server.principal is None
    assert server.mechanism is None
    assert not server.anonymous
    assert not server.admin
    assert server.target_name is None
    with pytest.raises(LocalProtocolError):
        _ = server.signature_size


def test_header_signing_reaches_the_mechanism_whenever_it_is_agreed(bench, server):
    client = bench.client(Password("admin", "secret"), SPNEGO, PRIVACY)
    client.header_signing = True
    talk(client, server)
    server.header_signing = True
    assert client.header_signing
    assert client._inner.header_signing
    assert server._inner.header_signing


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65_535, 65_536])
def test_der_lengths_both_ways(size):
    raw = der.tlv(0x04, bytes(size))
    assert der.take(raw, 0, 0x04) == (0x04, bytes(size), len(raw))
    for cut in {1, len(raw) // 2, len(raw) - 1} - {0}:
        with pytest.raises(AuthenticationError):
            der.take(raw[:cut])
