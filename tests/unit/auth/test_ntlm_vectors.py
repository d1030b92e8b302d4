"""NTLM against the numbers that [MS-NLMP] 4.2.4 and RFC 1320 print."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oxid.auth.credentials import Password, nt_hash
from oxid.auth.md4 import md4
from oxid.auth.ntlm import messages as m
from oxid.auth.ntlm.initiator import InitiatorHandshake
from oxid.auth.ntlm.keys import hmac_md5, ntowf_v2, rc4k, sealing_key, signing_key, uppercase
from oxid.auth.ntlm.session import NtlmContext, Outcome
from oxid.world import World

SERVER_CHALLENGE = bytes.fromhex("0123456789abcdef")
CLIENT_CHALLENGE = b"\xaa" * 8
RANDOM_SESSION_KEY = b"\x55" * 16
FLAGS = 0xE28A_8233

TARGET_INFO = bytes.fromhex(
    "0200 0c00 44006f006d00610069006e00"  # NetBIOS domain name "Domain"
    "0100 0c00 530065007200760065007200"  # NetBIOS computer name "Server"
    "0000 0000"  # end of list
)
CHALLENGE = (
    bytes.fromhex(
        "4e544c4d53535000 02000000 0c000c0038000000 33828ae2 0123456789abcdef 0000000000000000"
        "2400240044000000 060070170000000f"  # target info field, version 6.0.6000
        "530065007200760065007200"  # target name "Server"
    )
    + TARGET_INFO
)
AUTHENTICATE = bytes.fromhex(
    "4e544c4d53535000 03000000 180018006c000000 5400540084000000 0c000c0048000000 0800080054000000"
    "100010005c000000 10001000d8000000 358288e2 0501280a0000000f"  # flags, version 5.1.2600
    "44006f006d00610069006e00"  # domain
    "5500730065007200"  # user
    "43004f004d0050005500540045005200"  # workstation
    "86c35097ac9cec102554764a57cccc19 aaaaaaaaaaaaaaaa"  # LMv2 response
    "68cd0ab851e51c96aabc927bebef6a1c"  # NTProofStr
    "0101000000000000 0000000000000000 aaaaaaaaaaaaaaaa 00000000"  # temp
    "02000c0044006f006d00610069006e00 01000c00530065007200760065007200 00000000 00000000"
    "c5dad2544fc9799094ce1ce90bc9d03e"  # encrypted random session key
)


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("", "31d6cfe0d16ae931b73c59d7e0c089c0"),
        ("abc", "a448017aaf21d8525fc10ae87aa6729d"),
        ("message digest", "d9130a8164549fe818874806e1c7014b"),
        ("1234567890" * 8, "e33b4ddc9c38f2199c3e7b164fcc0536"),
    ],
)
def test_md4_gives_the_digests_of_rfc_1320(text, digest):
    assert md4(text.encode()).hex() == digest


def test_the_nt_hash_of_a_password():
    assert nt_hash("Password").hex() == "a4f49c406510bdcab6824ee7c30fd852"


def test_response_key_proof_and_session_base_key():
    key = ntowf_v2(nt_hash("Password"), "User", "Domain")
    assert key.hex() == "0c868a403bfd7a93a3001ef22ef02e3f"
    blob = m.encode_blob(0, CLIENT_CHALLENGE, TARGET_INFO)
    proof = hmac_md5(key, SERVER_CHALLENGE + blob)
    assert proof.hex() == "68cd0ab851e51c96aabc927bebef6a1c"
    assert hmac_md5(key, proof).hex() == "8de40ccadbc14a82f15cb0ad0de95ca3"
    assert rc4k(hmac_md5(key, proof), RANDOM_SESSION_KEY).hex() == "c5dad2544fc9799094ce1ce90bc9d03e"


def test_upper_case_never_changes_a_names_length():
    assert uppercase("strauß") == "STRAUß"
    assert uppercase("éa") == "ÉA"


def test_the_challenge_message_of_the_document_both_ways():
    decoded = m.Challenge.decode(CHALLENGE)
    assert decoded == m.Challenge(FLAGS, SERVER_CHALLENGE, "Server", TARGET_INFO)
    assert replace(decoded, version=CHALLENGE[48:56]).encode() == CHALLENGE


def test_the_authenticate_message_of_the_document_both_ways():
    decoded = m.Authenticate.decode(AUTHENTICATE)
    assert (decoded.domain, decoded.user, decoded.workstation) == ("Domain", "User", "COMPUTER")
    assert replace(decoded, version=AUTHENTICATE[64:72]).encode(with_mic=False) == AUTHENTICATE


def test_a_whole_exchange_is_the_documents_bytes(world: World):
    """No timestamp in the challenge: LMv2 response, no MIC, as Windows XP sent it."""
    world.clock.utc_now = -11_644_473_600.0  # the document's time is 0 as a FILETIME
    world.entropy.script = [CLIENT_CHALLENGE, RANDOM_SESSION_KEY]
    handshake = InitiatorHandshake(
        Password("User", "Password", "Domain"), level=6, world=world, workstation="COMPUTER"
    )
    handshake.step(b"")
    token, outcome = handshake.step(CHALLENGE)
    assert outcome is not None
    assert outcome.session_key == RANDOM_SESSION_KEY
    # REQUEST_TARGET is for challenges; the document's client sets it unasked.
    ours = m.Authenticate.decode(token)
    assert (
        replace(ours, flags=0xE288_8235, version=AUTHENTICATE[64:72]).encode(with_mic=False) == AUTHENTICATE
    )


def test_signing_and_sealing_keys():
    assert sealing_key(FLAGS, RANDOM_SESSION_KEY, of_client=True).hex() == "59f600973cc4960a25480a7c196e4c58"
    assert signing_key(RANDOM_SESSION_KEY, of_client=True).hex() == "4788dc861b4782f35d43fd98fe1a2d39"


@pytest.mark.req("SEC-8")
def test_a_sealed_message_has_the_documents_bytes():
    """4.2.4.4; a PDU of body alone, whose last 8 bytes stand where a trailer would be."""

    class Done:
        of_client = True

        def step(self, token: bytes) -> tuple[None, Outcome]:
            return None, Outcome(FLAGS | m.SIGN | m.SEAL, RANDOM_SESSION_KEY)

    context = NtlmContext(Done(), 6)
    context.step(b"")
    plain = "Plaintext".encode("utf-16-le")
    # MAC over header + body + trailer: the document has neither, so the trailer is part of its text.
    out = bytearray(plain)
    token = context.seal(out, 0, 0, len(plain))
    assert out.hex() == "54e50165bf1936dc996020c1811b0f06fb5f"
    assert token.hex() == "01000000" + "7fb38ec5c55d4976" + "00000000"


def test_with_the_same_entropy_and_clock_an_exchange_is_the_same_bytes(bench):
    def exchange():
        bench.world.entropy.given = 0
        client, server = (
            bench.client(Password("admin", "secret"), 10, 6),
            bench.authenticator.acceptor(10, 6),
        )
        offer = client.step(b"")
        challenge = server.step(offer)
        proof = client.step(challenge)
        server.step(proof)
        pdu = bytearray(64)
        return offer, challenge, proof, client.seal(pdu, 0, 24, 56), bytes(pdu)

    assert exchange() == exchange()
