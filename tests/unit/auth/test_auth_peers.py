"""Other people's NTLM and SPNEGO clients against our acceptor: pyspnego and impacket."""

from __future__ import annotations

import pytest
import spnego
from impacket import ntlm as impacket_ntlm
from spnego.iov import BufferType

from oxid.auth import AuthLevel, AuthType, Password
from oxid.auth.ntlm import messages as m
from oxid.auth.ntlm.keys import arc4, sealing_key, signing_key
from oxid.errors import AuthenticationError

HEADER, BODY, TRAILER = b"HEADER--" * 3, b"body" * 8, b"trailer."
INTEGRITY = spnego.ContextReq.integrity | spnego.ContextReq.replay_detect | spnego.ContextReq.sequence_detect
PRIVACY = INTEGRITY | spnego.ContextReq.confidentiality

OPTIONS = {"ntlm": spnego.NegotiateOptions.use_ntlm, "negotiate": spnego.NegotiateOptions.use_negotiate}


def pyspnego_client(protocol, level, password="secret"):
    return spnego.client(
        "WORKGROUP\\admin",
        password,
        hostname="server",
        protocol=protocol,
        context_req=PRIVACY if level == 6 else INTEGRITY,
        options=OPTIONS[protocol],
    )


def let_in(client, server):
    token = client.step()
    while token is not None:
        answer = server.step(token)
        token = client.step(answer) if answer is not None else None
    assert client.complete
    assert server.complete


@pytest.fixture(params=["ntlm", "negotiate"])
def protocol(request):
    return request.param


@pytest.mark.peer("spnego")
@pytest.mark.req("SEC-1", "SEC-8", "SEC-9")
def test_pyspnego_seals_and_opens_with_us(protocol, bench):
    client = pyspnego_client(protocol, 6)
    auth_type = AuthType.NTLM if protocol == "ntlm" else AuthType.SPNEGO
    server = bench.authenticator.acceptor(auth_type, AuthLevel.PKT_PRIVACY)
    let_in(client, server)
    assert server.principal == "admin"
    assert server.target_name == "host/server"
    for _ in range(3):
        sealed = client.wrap_iov(
            [BufferType.header, (BufferType.sign_only, HEADER), BODY, (BufferType.sign_only, TRAILER)]
        )
        token, _, body, _ = (buffer.data for buffer in sealed.buffers)
        assert server.unseal(HEADER + body + TRAILER + token, 24, 24 + 32) == BODY

        out = bytearray(HEADER + BODY + TRAILER)
        token = server.seal(out, 0, 24, 24 + 32)
        opened = client.unwrap_iov(
            [
                (BufferType.header, token),
                (BufferType.sign_only, HEADER),
                bytes(out[24:56]),
                (BufferType.sign_only, TRAILER),
            ]
        )
        assert opened.buffers[2].data == BODY


@pytest.mark.peer("spnego")
@pytest.mark.req("SEC-8")
def test_pyspnego_signs_and_checks_with_us(protocol, bench):
    client = pyspnego_client(protocol, 5)
    auth_type = AuthType.NTLM if protocol == "ntlm" else AuthType.SPNEGO
    server = bench.authenticator.acceptor(auth_type, AuthLevel.PKT_INTEGRITY)
    let_in(client, server)
    for _ in range(3):
        token = client.sign(HEADER + BODY + TRAILER)
        assert server.unseal(HEADER + BODY + TRAILER + token, 24, 24 + 32) == BODY
        token = server.seal(bytearray(HEADER + BODY + TRAILER), 0, 24, 24 + 32)
        client.verify(HEADER + BODY + TRAILER, token)


@pytest.mark.peer("spnego")
def test_pyspnego_with_a_wrong_password_stays_out(protocol, bench):
    client = pyspnego_client(protocol, 6, "guess")
    auth_type = AuthType.NTLM if protocol == "ntlm" else AuthType.SPNEGO
    server = bench.authenticator.acceptor(auth_type, AuthLevel.PKT_PRIVACY)
    with pytest.raises(AuthenticationError):
        let_in(client, server)


@pytest.mark.peer("spnego")
def test_we_come_to_pyspnego(protocol, bench, tmp_path, monkeypatch):
    """Its acceptor re-encodes the response blob, which works for ours as we keep its form."""
    users = tmp_path / "users"
    users.write_text("LAB:admin:secret\n")
    monkeypatch.setenv("NTLM_USER_FILE", str(users))
    server = spnego.server(
        protocol=protocol, options=OPTIONS[protocol], context_req=PRIVACY, hostname="server"
    )
    auth_type = AuthType.NTLM if protocol == "ntlm" else AuthType.SPNEGO
    client = bench.client(Password("admin", "secret", "LAB"), auth_type, AuthLevel.PKT_PRIVACY)
    token = client.step(b"")
    while token is not None:
        answer = server.step(token)
        token = client.step(answer) if answer is not None and not client.complete else None
    assert client.complete
    assert server.complete
    for _ in range(2):
        out = bytearray(HEADER + BODY + TRAILER)
        token = client.seal(out, 0, 24, 24 + 32)
        opened = server.unwrap_iov(
            [
                (BufferType.header, token),
                (BufferType.sign_only, HEADER),
                bytes(out[24:56]),
                (BufferType.sign_only, TRAILER),
            ]
        )
        assert opened.buffers[2].data == BODY


class ImpacketClient:
    """What impacket's RPC client does with its NTLM functions."""

    def __init__(self, server, user="admin", password="secret", domain="ANY"):
        first = impacket_ntlm.getNTLMSSPType1("", "", signingRequired=True)
        challenge = server.step(first.getData())
        third, key = impacket_ntlm.getNTLMSSPType3(first, challenge, user, password, domain)
        server.step(third.getData())
        self.flags = flags = third["flags"]
        self.signing = {mode: impacket_ntlm.SIGNKEY(flags, key, mode) for mode in ("Client", "Server")}
        self.sealing = {mode: impacket_ntlm.SEALKEY(flags, key, mode) for mode in ("Client", "Server")}
        self.handle = {mode: self._cipher(key) for mode, key in self.sealing.items()}

    @staticmethod
    def _cipher(key):
        stream = arc4(key)
        return stream.update

    def seal(self, number):
        body, token = impacket_ntlm.SEAL(
            self.flags,
            self.signing["Client"],
            self.sealing["Client"],
            HEADER + BODY + TRAILER,
            BODY,
            number,
            self.handle["Client"],
        )
        return HEADER + body + TRAILER + token.getData()

    def sign(self, number, mode="Client"):
        data = HEADER + BODY + TRAILER
        token = impacket_ntlm.SIGN(self.flags, self.signing[mode], data, number, self.handle[mode])
        return data + token.getData()


@pytest.mark.peer("impacket")
@pytest.mark.req("SEC-8")
def test_impacket_seals_for_us(bench):
    server = bench.authenticator.acceptor(AuthType.NTLM, AuthLevel.PKT_PRIVACY)
    client = ImpacketClient(server)
    assert server.principal == "admin"
    for number in range(3):
        assert server.unseal(client.seal(number), 24, 24 + 32) == BODY


@pytest.mark.peer("impacket")
@pytest.mark.req("SEC-8")
def test_impacket_signs_for_us_and_we_for_it(bench):
    server = bench.authenticator.acceptor(AuthType.NTLM, AuthLevel.PKT_INTEGRITY)
    client = ImpacketClient(server)
    for number in range(3):
        assert server.unseal(client.sign(number), 24, 24 + 32) == BODY
        out = bytearray(HEADER + BODY + TRAILER)
        assert out + server.seal(out, 0, 24, 24 + 32) == client.sign(number, "Server")


@pytest.mark.peer("impacket")
def test_impacket_without_a_name_is_anonymous(bench):
    server = bench.authenticator.acceptor(AuthType.NTLM, AuthLevel.PKT_INTEGRITY)
    client = ImpacketClient(server, "", "", "")
    assert server.anonymous
    assert server.unseal(client.sign(0), 24, 24 + 32) == BODY


@pytest.mark.peer("impacket")
def test_impacket_with_a_wrong_password_stays_out(bench):
    server = bench.authenticator.acceptor(AuthType.NTLM, AuthLevel.PKT_INTEGRITY)
    with pytest.raises(AuthenticationError):
        ImpacketClient(server, password="guess")


@pytest.mark.peer("impacket")
@pytest.mark.parametrize("strength", [m.KEY_128, m.KEY_56, 0])
def test_impacket_derives_the_same_keys_of_every_strength(strength):
    flags, key = m.EXTENDED_SESSION_SECURITY | strength, bytes(range(16))
    for mode, of_client in (("Client", True), ("Server", False)):
        assert sealing_key(flags, key, of_client=of_client) == impacket_ntlm.SEALKEY(flags, key, mode)
        assert signing_key(key, of_client=of_client) == impacket_ntlm.SIGNKEY(flags, key, mode)
