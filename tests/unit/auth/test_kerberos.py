"""Kerberos in DCE style against a real KDC, with MIT's library at our ends and impacket as a stranger."""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import contextmanager

import pytest
from tests.kdc import LocalKdc

from oxid.auth import (
    AuthLevel,
    AuthType,
    Impersonation,
    Keytab,
    MemoryAccountStore,
    Password,
    Ticket,
    _gssapi,
    kerberos,
    spnego,
)
from oxid.auth.ntlm import InitiatorHandshake, NtlmContext
from oxid.errors import AuthenticationError, LocalProtocolError, NotSupported
from oxid.values.status import HResult

pytestmark = [pytest.mark.peer("krb5kdc", "kdb5_util", "kadmin.local", "kinit"), pytest.mark.req("SEC-9")]

KERBEROS, SPNEGO = AuthType.KERBEROS, AuthType.SPNEGO
SIGNED, SEALED = AuthLevel.PKT_INTEGRITY, AuthLevel.PKT_PRIVACY
HEADER, BODY, TRAILER = b"HEADER--" * 3, b"body" * 8, b"trailer."


@contextmanager
def a_realm(directory, **more):
    """A KDC with its service and its user, and this process as a member of the realm."""
    with LocalKdc(directory, **more) as kdc, pytest.MonkeyPatch.context() as environment:
        kdc.add_user("ann", "secret")
        kdc.add_user("bob", "welcome")
        for name, value in kdc.env.items():
            environment.setenv(name, value)
        kdc.service = kdc.keytab("host/localhost")
        kdc.ccache = kdc.ticket("ann", "secret")
        yield kdc


@pytest.fixture(scope="module")
def realm(tmp_path_factory):
    with a_realm(tmp_path_factory.mktemp("realm")) as kdc:
        yield kdc


@pytest.fixture
def ticket(realm):
    return Ticket(f"FILE:{realm.ccache}")


@pytest.fixture
def server_of(bench, realm):
    """An authenticator that has the service's keytab."""
    store = MemoryAccountStore({"ann": "other", "ann@OXID.TEST": "x"}, admins={"ann@OXID.TEST"})
    return bench.server(store, keytab=Keytab(str(realm.service)))


@pytest.fixture
def meet(bench, server_of, ticket):
    def meet(auth_type, level, credentials=None, *, header_signing=False, **more):
        more.setdefault("target", "host/localhost")
        client = bench.client(credentials or ticket, auth_type, level, **more)
        server = server_of.acceptor(auth_type, level)
        token = client.step(b"")
        while token is not None:
            answer = server.step(token)
            if client.complete:
                break
            token = client.step(answer or b"")
        assert client.complete
        assert server.complete
        client.header_signing = server.header_signing = header_signing
        return client, server

    return meet


PROVIDERS = pytest.mark.parametrize("auth_type", [KERBEROS, SPNEGO])
LEVELS = pytest.mark.parametrize("level", [AuthLevel.PKT, SIGNED, SEALED])
SIGNING = pytest.mark.parametrize("header_signing", [True, False])
DIRECTIONS = pytest.mark.parametrize("from_client", [True, False])


@pytest.fixture
def ends(meet, auth_type, level, header_signing, from_client):
    client, server = meet(auth_type, level, header_signing=header_signing)
    return (client, server) if from_client else (server, client)


def test_three_legs_without_frames(bench, server_of, ticket):
    """AP-REQ 0x6E, AP-REP 0x6F, and the client's own AP-REP; nothing has a GSS frame."""
    client = bench.client(ticket, KERBEROS, SEALED, target="host/localhost")
    server = server_of.acceptor(KERBEROS, SEALED)
    request = client.step(b"")
    reply = server.step(request)
    last = client.step(reply)
    assert [token[0] for token in (request, reply, last)] == [0x6E, 0x6F, 0x6F]
    assert client.complete
    assert not server.complete
    assert server.step(last) is None
    assert server.complete
    assert not client.odd_legs
    assert client.blocking
    assert server.blocking


def test_the_client_is_known_by_its_principal(meet):
    client, server = meet(KERBEROS, SEALED)
    assert server.principal == "ann@OXID.TEST"
    assert server.admin
    assert not server.anonymous
    assert client.session_key == server.session_key
    assert len(client.session_key) == 32


def test_a_realm_can_be_the_local_one(bench, realm, ticket, server_of):
    server_of.accounts = MemoryAccountStore({"ann": "x"}, admins={"ann"})
    server_of.local_realm = "OXID.TEST"
    client = bench.client(ticket, KERBEROS, SIGNED, target="localhost")
    server = server_of.acceptor(KERBEROS, SIGNED)
    server.step(client.step(server.step(client.step(b""))))
    assert (server.principal, server.admin) == ("ann", True)


def test_a_password_gets_its_own_ticket(meet):
    _, server = meet(KERBEROS, SEALED, Password("bob", "welcome"))
    assert (server.principal, server.admin) == ("bob@OXID.TEST", False)


def test_a_keytab_can_be_a_client(meet, realm):
    _, server = meet(KERBEROS, SEALED, Keytab(str(realm.service), "host/localhost@OXID.TEST"))
    assert server.principal == "host/localhost@OXID.TEST"


def test_a_ticket_can_be_chosen_by_its_principal(meet, ticket):
    _, server = meet(KERBEROS, SIGNED, Ticket(ticket.ccache, "ann@OXID.TEST"))
    assert server.principal == "ann@OXID.TEST"


@pytest.mark.req("SEC-11")
def test_identify_travels_as_a_gss_flag(meet):
    assert meet(KERBEROS, SIGNED)[1].impersonation is Impersonation.IMPERSONATE
    assert meet(KERBEROS, SIGNED, identify=True)[1].impersonation is Impersonation.IDENTIFY


@pytest.mark.req("SEC-11")
def test_delegating_sends_a_ticket_of_ours_along(bench, realm, meet):
    forwardable = Ticket(f"FILE:{realm.ticket('ann', 'secret', realm.directory / 'forwardable')}")
    plain, delegating = (
        bench.client(forwardable, KERBEROS, SIGNED, target="host/localhost", delegate=wish).step(b"")
        for wish in (False, True)
    )
    assert len(delegating) > len(plain) + 500
    client, server = meet(KERBEROS, SIGNED, forwardable, delegate=True)
    assert client.impersonation is Impersonation.DELEGATE
    assert server.principal == "ann@OXID.TEST"


@PROVIDERS
@LEVELS
@SIGNING
@DIRECTIONS
def test_what_is_sent_arrives(ends, level, send, receive):
    sender, receiver = ends
    for size in (16, 1008, 5840):
        body = bytes(index & 0xFF for index in range(size))
        pdu = send(sender, body)
        assert (bytes(pdu[24 : 24 + size]) != body) == (level == SEALED)
        assert receive(receiver, bytes(pdu)) == body


@pytest.mark.req("SEC-5")
@PROVIDERS
@LEVELS
@SIGNING
@DIRECTIONS
def test_no_protected_byte_may_change(meet, auth_type, level, header_signing, from_client, send, receive):
    size = 24 + 32 + 8 + (76 if level == SEALED else 28)
    for at in [*range(0, 24, 8), *range(24, 56, 8), *range(56, 64, 3), *range(64, size, 5)]:
        covered = header_signing or not (at < 24 or 56 <= at < 64)
        client, server = meet(auth_type, level, header_signing=header_signing)
        sender, receiver = (client, server) if from_client else (server, client)
        pdu = send(sender, b"b" * 32)
        pdu[at] ^= 0x01
        if covered:
            with pytest.raises(AuthenticationError):
                receive(receiver, pdu)
        else:
            assert receive(receiver, pdu) == b"b" * 32
        client.close()
        server.close()


@pytest.mark.req("SEC-4")
@PROVIDERS
@LEVELS
@SIGNING
@DIRECTIONS
def test_repeated_reordered_and_missing_messages_are_refused(ends, send, receive):
    sender, receiver = ends
    first, second, third = (bytes(send(sender, bytes([n]) * 32)) for n in (1, 2, 3))
    receive(receiver, first)
    with pytest.raises(AuthenticationError):
        receive(receiver, third)
    for pdu in (first, second, third):
        with pytest.raises(AuthenticationError):
            receive(receiver, pdu)


@pytest.mark.req("SEC-4")
@PROVIDERS
@LEVELS
@DIRECTIONS
def test_a_replay_is_refused(meet, auth_type, level, from_client, send, receive):
    client, server = meet(auth_type, level, header_signing=True)
    sender, receiver = (client, server) if from_client else (server, client)
    pdu = bytes(send(sender, b"b" * 32))
    receive(receiver, pdu)
    with pytest.raises(AuthenticationError):
        receive(receiver, pdu)


@LEVELS
@pytest.mark.parametrize("cut", [1, 12, 28, 76])
def test_a_token_cut_short_is_refused(meet, level, cut, send):
    client, server = meet(KERBEROS, level)
    pdu = send(client, b"b" * 32)
    with pytest.raises(AuthenticationError):
        server.unseal(bytes(pdu[: max(64, len(pdu) - cut)]), 24, 56)


def test_a_message_signed_only_is_not_taken_for_a_sealed_one(meet, send):
    client, server = meet(KERBEROS, SEALED)
    client.level = SIGNED
    out = bytearray(HEADER + BODY + TRAILER)
    token = client.seal(out, 0, 24, 56)
    with pytest.raises(AuthenticationError):
        server.unseal(bytes(out + token), 24, 56)


@PROVIDERS
def test_level_connect_carries_no_tokens(meet, auth_type, send):
    client, server = meet(auth_type, AuthLevel.CONNECT)
    assert client.signature_size == server.signature_size == 0
    with pytest.raises(LocalProtocolError):
        send(client, b"b" * 16)


def test_the_size_of_a_token_is_known_before_the_first_message(meet):
    assert meet(KERBEROS, SIGNED)[0].signature_size == 28
    assert meet(KERBEROS, SEALED)[0].signature_size == 76


@pytest.mark.parametrize(
    ("encryption", "signed", "sealed"),
    [
        ("arcfour-hmac", 37, 45),  # all that Windows 2003 and older have
        ("aes128-cts-hmac-sha1-96", 28, 76),
        ("aes256-cts-hmac-sha1-96", 28, 76),
        ("aes256-cts-hmac-sha384-192", 40, 88),
    ],
)
def test_every_type_of_key(bench, tmp_path, send, receive, encryption, signed, sealed):
    with a_realm(tmp_path, encryption=encryption) as kdc:
        authenticator = bench.server(MemoryAccountStore(), keytab=Keytab(str(kdc.service)))
        for level, size in ((SIGNED, signed), (SEALED, sealed)):
            for header_signing in (True, False):
                ccache = Ticket(f"FILE:{kdc.ccache}")
                client = bench.client(ccache, KERBEROS, level, target="host/localhost")
                server = authenticator.acceptor(KERBEROS, level)
                server.step(client.step(server.step(client.step(b""))))
                client.header_signing = server.header_signing = header_signing
                assert client.signature_size == server.signature_size == size
                for number in range(3):
                    for sender, receiver in ((client, server), (server, client)):
                        body = bytes([number]) * 48
                        assert receive(receiver, send(sender, body)) == body


@pytest.mark.parametrize("provider", [KERBEROS, SPNEGO])
def test_a_service_nobody_knows_is_refused_by_the_kdc(bench, ticket, provider):
    client = bench.client(ticket, provider, SEALED, target="host/elsewhere")
    with pytest.raises(AuthenticationError, match="not found"):
        client.step(b"")


def test_a_wrong_password_is_refused(bench, realm):
    client = bench.client(Password("ann", "guess"), KERBEROS, SEALED, target="host/localhost")
    with pytest.raises(AuthenticationError):
        client.step(b"")


def test_a_cache_that_does_not_exist_is_refused(bench, realm, tmp_path):
    client = bench.client(Ticket(f"FILE:{tmp_path}/none"), KERBEROS, SEALED, target="host/localhost")
    with pytest.raises(AuthenticationError):
        client.step(b"")


def test_a_server_with_other_keys_refuses(bench, realm, ticket, tmp_path):
    other = realm.keytab("host/other", tmp_path / "other.keytab")
    server = bench.server(MemoryAccountStore(), keytab=Keytab(str(other))).acceptor(KERBEROS, SEALED)
    client = bench.client(ticket, KERBEROS, SEALED, target="host/localhost")
    with pytest.raises(AuthenticationError):
        server.step(client.step(b""))


@pytest.mark.parametrize("token", [b"", b"\x6e", b"\x60\x03abc", b"\x6e\x82\xff\xff" + bytes(20), bytes(300)])
def test_garbage_is_no_ap_req(server_of, token):
    server = server_of.acceptor(KERBEROS, SEALED)
    with pytest.raises(AuthenticationError):
        server.step(token)
    with pytest.raises(AuthenticationError):
        server.step(token)


def test_a_changed_ap_rep_is_refused_by_the_client(bench, server_of, ticket):
    client = bench.client(ticket, KERBEROS, SEALED, target="host/localhost")
    server = server_of.acceptor(KERBEROS, SEALED)
    reply = bytearray(server.step(client.step(b"")))
    reply[-10] ^= 1
    with pytest.raises(AuthenticationError):
        client.step(bytes(reply))


def test_a_captured_ap_req_is_of_no_use_without_its_key(server_of, bench, ticket):
    client = bench.client(ticket, KERBEROS, SEALED, target="host/localhost")
    request = client.step(b"")
    first = server_of.acceptor(KERBEROS, SEALED)
    answer = client.step(first.step(request))
    first.step(answer)
    second = server_of.acceptor(KERBEROS, SEALED)
    with pytest.raises(AuthenticationError):  # the replay cache says no, or the third leg does not fit
        _both(second, request, answer)


def _both(server, request, answer):
    server.step(request)
    server.step(answer)


def test_spnego_falls_back_to_ntlm_where_the_server_has_no_keytab(bench, realm, ticket):
    """The client prefers Kerberos, the server cannot: NTLM, and both prove the list of mechanisms."""
    client = spnego.SpnegoInitiator(
        [
            (spnego.KERBEROS_OID, lambda: bench.client(ticket, KERBEROS, SEALED, target="host/localhost")),
            (
                spnego.NTLM_OID,
                lambda: NtlmContext(
                    InitiatorHandshake(Password("admin", "secret"), level=6, world=bench.world), 6
                ),
            ),
        ],
        SEALED,
    )
    server = bench.authenticator.acceptor(SPNEGO, SEALED)
    token = client.step(b"")
    while token is not None:
        answer = server.step(token)
        token = client.step(answer) if not client.complete else None
    assert server.complete
    assert client.complete
    assert server.principal == "admin"
    assert client.mechanism is server.mechanism is AuthType.NTLM


def test_a_step_may_run_in_any_thread(meet):
    done = []
    thread = threading.Thread(target=lambda: done.append(meet(KERBEROS, SEALED)))
    thread.start()
    thread.join()
    client, server = done[0]
    out = bytearray(HEADER + BODY + TRAILER)
    token = client.seal(out, 0, 24, 56)
    assert server.unseal(out + token, 24, 56) == BODY


def test_handles_are_released_and_closing_twice_is_fine(meet, send):
    client, server = meet(KERBEROS, SEALED)
    for context in (client, server, client, server):
        context.close()
    assert not client._context
    assert not client._credentials
    with pytest.raises(AuthenticationError):
        send(client, b"b" * 16)


def test_what_the_server_offers(server_of):
    assert server_of.auth_types == (SPNEGO, AuthType.NTLM, KERBEROS)
    assert server_of.principal_name(KERBEROS) == "host/oxid"


def test_without_the_library_there_is_a_remedy(monkeypatch, bench, realm):
    monkeypatch.setattr(_gssapi, "load", lambda: None)
    authenticator = bench.server(MemoryAccountStore(), keytab=Keytab(str(realm.service)))
    assert not kerberos.available()
    assert authenticator.auth_types == (SPNEGO, AuthType.NTLM)
    with pytest.raises(NotSupported) as refusal:
        bench.client(Ticket(), KERBEROS, SEALED, target="host/localhost")
    assert "libgssapi" in refusal.value.remedy
    with pytest.raises(NotSupported):
        authenticator.acceptor(KERBEROS, SEALED)


@pytest.mark.peer("impacket")
@pytest.mark.parametrize("level", [SIGNED, SEALED])
def test_impacket_comes_with_a_ticket(level, realm, server_of, monkeypatch):
    """Its AP-REQ is framed, it sends no mechListMIC, and it knows nothing of header signing."""
    from impacket.krb5 import gssapi as impacket_gssapi
    from impacket.krb5 import kerberosv5

    subprocess.run(
        ["kvno", "-c", f"FILE:{realm.ccache}", "host/localhost"],
        check=True,
        capture_output=True,
        env=os.environ | realm.env,
    )
    monkeypatch.setenv("KRB5CCNAME", str(realm.ccache))
    cipher, key, offer = kerberosv5.getKerberosType1("ann", "", "OXID.TEST", "", "", targetName="localhost")
    server = server_of.acceptor(SPNEGO, level)
    cipher, key, last = kerberosv5.getKerberosType3(cipher, key, server.step(offer))
    server.step(last)
    assert server.complete
    assert server.principal == "ann@OXID.TEST"
    gss = impacket_gssapi.GSSAPI(cipher)
    for number in range(3):
        if level == SEALED:
            body, token = gss.GSS_Wrap(key, BODY, number)
        else:
            body, token = BODY, gss.GSS_GetMIC(key, BODY, number)
        assert server.unseal(HEADER + body + TRAILER + token, 24, 56) == BODY


def test_an_invalid_token_has_its_own_status(server_of):
    with pytest.raises(AuthenticationError) as refusal:
        server_of.acceptor(KERBEROS, SEALED).step(b"\x60\x7f")
    assert refusal.value.status == HResult(0x8009_0308)
