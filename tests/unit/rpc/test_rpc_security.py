"""Security of a connection: handshakes, protected PDUs, verification trailers. [MS-RPCE] 2.2.2.11, rpce.md §5"""

from __future__ import annotations

import pytest

from oxid.auth import Authenticator, AuthType, MemoryAccountStore, Password, initiator
from oxid.errors import AuthenticationError, RemoteProtocolError, TransportError
from oxid.rpc import pdu as p
from oxid.rpc.limits import Limits
from oxid.rpc.pdu import PacketType
from oxid.rpc.presentation import NDR20
from oxid.rpc.security import (
    VERIFICATION_MAGIC,
    SecurityEntry,
    check_verification,
    header2_of,
    parse_verification,
    verification_trailer,
)
from oxid.testing.raw_rpc import (
    ECHO,
    TurnedClient,
    TurnedServer,
    bind,
    echo_registration,
    element,
    pdus,
    request,
)
from oxid.world import World

PROTECTED = [(kind, level) for kind in (AuthType.NTLM, AuthType.SPNEGO) for level in (4, 5, 6)]


class Pair:
    """A client and a server that authenticated each other."""

    def __init__(self, kind=AuthType.NTLM, level=6, password="secret", signing=True, **options):
        self.world = World.real()
        accounts = MemoryAccountStore()
        accounts.add("admin", "secret")
        self.server_side = TurnedServer(
            world=self.world, acceptors=Authenticator(accounts, world=self.world), **options
        )
        self.server = self.server_side.connect()
        self.client = TurnedClient()
        context = initiator(Password("admin", password), kind, level, world=self.world, target="host/x")
        self.entry = SecurityEntry(5, kind, level, context)
        self.signing = signing

    def bind(self):
        context, client = self.entry.context, self.client
        token, kind, signing = context.step(b""), PacketType.BIND, None
        while True:
            waiter = client.exchange(kind, [element()], self.entry, token)
            if not self.signing:
                client.sent[3] &= ~p.SUPPORT_HEADER_SIGN
            self.move()
            if waiter.error is not None:
                context.close()
                client.closed()
                raise waiter.error
            answer = waiter.result
            if signing is None:
                signing = bool(answer.flags & p.SUPPORT_HEADER_SIGN)
                client.agree(answer, large=False)
            kind = PacketType.ALTER_CONTEXT
            if context.complete and not answer.token:
                break
            token = context.step(answer.token)
            if not token:
                break
            if context.complete and context.odd_legs:
                client.send_auth3(self.entry, token)
                break
        client.use_security(self.entry, header_signing=signing)
        client.add_context(0, ECHO, NDR20)
        self.move()
        return self

    def move(self):
        for _ in range(4):
            answered = self.server.take(self.client.taken())
            for pdu in answered:
                self.client.receive(pdu.raw)

    def call(self, stub=b"stubstub", opnum=0):
        return self.client.submit(0, opnum, bytearray(24) + stub)

    def close(self):
        self.client.closed(TransportError("over"))
        self.entry.context.close()


@pytest.fixture
def pair_of():
    made = []

    def make(*arguments, **options):
        made.append(Pair(*arguments, **options))
        return made[-1]

    yield make
    for pair in made:
        pair.close()


@pytest.mark.req("SEC-1", "SEC-6", "SEC-8")
@pytest.mark.parametrize(("kind", "level"), [(AuthType.NTLM, 2), (AuthType.SPNEGO, 2), *PROTECTED])
def test_a_call_at_every_level(pair_of, kind, level):
    pair = pair_of(kind, level).bind()
    waiter = pair.call(b"secretsecret")
    sent = bytes(pair.client.sent)
    assert (b"secretsecret" in sent) == (level < 6)
    assert (pdus(sent)[0].header.auth_length > 0) == (level > 2)
    pair.move()
    assert waiter.result == b"secretsecret"


@pytest.mark.req("SEC-1")
def test_ntlm_ends_with_an_auth3_and_spnego_with_an_alter_context(pair_of):
    for kind, last in ((AuthType.NTLM, PacketType.AUTH3), (AuthType.SPNEGO, PacketType.ALTER_CONTEXT)):
        pair = pair_of(kind)
        seen = []
        take = pair.server.take
        pair.server_take = take

        def spy(data, seen=seen, take=take):
            seen.extend(pdu.ptype for pdu in pdus(data))
            return take(data)

        pair.move = lambda pair=pair, spy=spy: [
            [pair.client.receive(pdu.raw) for pdu in spy(pair.client.taken())] for _ in range(4)
        ]
        pair.bind()
        assert seen[0] == PacketType.BIND
        assert seen[-1] == last


@pytest.mark.req("SEC-2")
def test_a_wrong_password_in_the_last_leg_of_spnego_is_a_fault_and_the_end(pair_of):
    from oxid.errors import AccessDenied

    pair = pair_of(AuthType.SPNEGO, password="wrong")
    with pytest.raises(AccessDenied):
        pair.bind()
    assert pair.server.hung_up


@pytest.mark.req("SEC-2")
def test_a_wrong_password_in_an_auth3_shows_at_the_first_request(pair_of):
    from oxid.errors import AccessDenied

    pair = pair_of(AuthType.NTLM, password="wrong").bind()
    waiter = pair.call()
    pair.move()
    assert isinstance(waiter.error, AccessDenied)
    assert pair.server.hung_up


def authenticated_bind(kind: int, level: int, token: bytes = b"x" * 8, **options) -> bytes:
    made = bytearray(bind(element(), **options))
    return bytes(p.with_token(made, kind, level, 1, token))


@pytest.mark.req("SEC-2", "PDU-4")
@pytest.mark.parametrize(
    ("kind", "level", "reason"),
    [(10, 0, 0), (10, 1, 0), (10, 7, 0), (10, 255, 0), (99, 6, 8), (10, 6, 9), (9, 6, 9)],
)
def test_refused_handshakes(pair_of, kind, level, reason):
    pair = pair_of()
    (answer,) = pair.server.take(authenticated_bind(kind, level))
    assert (answer.ptype, answer.reason) == (PacketType.BIND_NAK, reason)
    assert pair.server.hung_up


@pytest.mark.req("SEC-2")
def test_level_call_is_packet_or_refused_as_configured(pair_of):
    token = pair_of().entry.context.step(b"")
    (answer,) = pair_of().server.take(authenticated_bind(10, 3, token))
    assert answer.ptype == PacketType.BIND_ACK
    strict = pair_of(limits=Limits(strict_call_level=True))
    (answer,) = strict.server.take(authenticated_bind(10, 3, token))
    assert (answer.ptype, answer.reason) == (PacketType.BIND_NAK, 9)


@pytest.mark.req("SEC-2")
def test_a_server_without_accounts_knows_no_authentication():
    (answer,) = TurnedServer().connect().take(authenticated_bind(10, 6))
    assert (answer.ptype, answer.reason) == (PacketType.BIND_NAK, 8)


@pytest.mark.req("SEC-2")
def test_a_request_before_the_handshake_is_finished(pair_of):
    pair = pair_of()
    token = pair.entry.context.step(b"")
    pair.server.take(authenticated_bind(10, 6, token))
    (answer,) = pair.server.take(request())
    assert (answer.status, pair.server.hung_up) == (0x1C01000B, True)


@pytest.mark.req("SEC-3")
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 15, 16, 17])
@pytest.mark.parametrize("head", [24, 40])
def test_the_trailer_is_aligned_to_the_body(pair_of, size, head):
    pair = pair_of().bind()
    warm = pair.call()  # takes the verification trailer with it
    pair.move()
    assert warm.result is not None
    waiter = pair.client.submit(0, 0, bytearray(head) + bytes(size), bytes(16) if head == 40 else None)
    (pdu,) = pdus(bytes(pair.client.sent))
    trailer = p.parse_trailer(pdu.raw, pdu.header, head)
    assert (trailer.at - head) % 16 == 0
    assert trailer.padding == -size % 16
    pair.move()
    assert waiter.result == bytes(size)


@pytest.mark.req("SEC-3", "PDU-2")
def test_a_trailer_at_an_odd_place_is_an_error(pair_of):
    pair = pair_of().bind()
    pair.call()
    raw = bytearray(pair.client.taken())
    raw[8:10] = (len(raw) - 2).to_bytes(2, "little")
    (answer,) = pair.server.take(bytes(raw[:-2]))
    assert (answer.status, pair.server.hung_up) == (0x1C01000B, True)


@pytest.mark.req("SEC-3")
def test_more_padding_than_body_is_an_error(pair_of):
    pair = pair_of().bind()
    pair.call()
    raw = bytearray(pair.client.taken())
    raw[len(raw) - 16 - 8 + 2] = 255
    (answer,) = pair.server.take(bytes(raw))
    assert (answer.status, pair.server.hung_up) == (0x1C01000B, True)


@pytest.mark.req("SEC-3", "rpce§8")
def test_an_ntlm_token_has_at_most_2888_bytes(pair_of):
    pair = pair_of()
    (answer,) = pair.server.take(authenticated_bind(10, 6, bytes(2889)))
    assert (answer.ptype, answer.reason) == (PacketType.BIND_NAK, 9)


@pytest.mark.req("SEC-4", "SEC-8")
@pytest.mark.parametrize(("kind", "level"), PROTECTED)
def test_every_fragment_is_protected_on_its_own(pair_of, kind, level):
    pair = pair_of(kind, level).bind()
    stub = bytes(range(256)) * 80
    waiter = pair.call(stub)
    sent = pdus(bytes(pair.client.sent))
    assert len(sent) == 4
    assert all(pdu.header.auth_length == 16 for pdu in sent)
    pair.move()
    assert waiter.result == stub


@pytest.mark.req("SEC-4")
@pytest.mark.parametrize(("kind", "level"), PROTECTED)
@pytest.mark.parametrize("change", ["flip", "replay", "reorder", "strip"])
def test_a_tampered_request_is_refused(pair_of, kind, level, change):
    pair = pair_of(kind, level).bind()
    pair.call(b"firstfirst")
    one = pair.client.taken()
    pair.call(b"secondsecond")
    two = pair.client.taken()
    if change == "flip":
        data = one[:30] + bytes([one[30] ^ 1]) + one[31:]
    elif change == "replay":
        data = one + one
    elif change == "reorder":
        data = two
    else:
        data = request(b"firstfirst", call_id=2)
    answers = pair.server.take(data)
    assert answers[-1].ptype == PacketType.FAULT
    assert answers[-1].status in (5, 0x721)
    assert pair.server.hung_up


@pytest.mark.req("SEC-4")
@pytest.mark.parametrize(("kind", "level"), PROTECTED)
@pytest.mark.parametrize("change", ["flip", "replay", "reorder", "strip"])
def test_a_tampered_reply_is_refused(pair_of, kind, level, change):
    pair = pair_of(kind, level).bind()
    waiters = [pair.call(b"firstfirst"), pair.call(b"secondsecond"), pair.call(opnum=1)]
    one, two = (pdu.raw for pdu in pair.server.take(pair.client.taken()))
    if change == "flip":
        data = one[:30] + bytes([one[30] ^ 1]) + one[31:]
    elif change == "replay":
        data = one + one[:12] + two[12:16] + one[16:]
    elif change == "reorder":
        data = two
    else:
        data = p.REQUEST.pack(p.WORD_RESPONSE, 0x10, 24, 0, pdus(one)[0].call_id, 0, 0, 0)
    pair.client.receive(data)
    assert pair.client.hung_up
    assert isinstance(waiters[-1].error, AuthenticationError | RemoteProtocolError)


@pytest.mark.req("SEC-5")
def test_header_signing_is_agreed_per_connection(pair_of):
    assert pair_of().bind().server.header_signing
    quiet = pair_of(signing=False).bind()
    assert not quiet.server.header_signing
    (answer,) = quiet.server.take(bind(element(), alter=True, call_id=50, flags=7))
    assert answer.flags & p.SUPPORT_HEADER_SIGN
    assert quiet.server.header_signing


@pytest.mark.req("SEC-6")
def test_connect_level_takes_plain_requests_where_there_is_one_context(pair_of):
    pair = pair_of(level=2).bind()
    (answer,) = pair.server.take(request(b"plain..."))
    assert answer.stub == b"plain..."
    assert answer.header.auth_length == 0


@pytest.mark.req("SEC-6")
def test_a_request_may_not_change_its_level(pair_of):
    pair = pair_of(level=6).bind()
    (answer,) = pair.server.take(request(b"plain..."))
    assert (answer.status, pair.server.hung_up) == (5, True)
    pair = pair_of(level=5).bind()
    pair.call()
    raw = bytearray(pair.client.taken())
    raw[len(raw) - 16 - 8 + 1] = 6
    (answer,) = pair.server.take(bytes(raw))
    assert (answer.status, pair.server.hung_up) == (5, True)


@pytest.mark.req("SEC-7", "rpce§8")
def test_security_contexts_are_limited(pair_of):
    pair = pair_of(limits=Limits(max_security_contexts=1)).bind()
    made = bytearray(bind(element(), alter=True, call_id=60))
    (answer,) = pair.server.take(bytes(p.with_token(made, 10, 6, 77, b"x" * 8)))
    assert (answer.status, pair.server.hung_up) == (0x1C01000B, True)


@pytest.mark.req("SEC-7")
def test_a_security_context_is_established_once(pair_of):
    pair = pair_of().bind()
    made = bytearray(bind(element(), alter=True, call_id=60))
    (answer,) = pair.server.take(bytes(p.with_token(made, 10, 6, 5, b"x" * 8)))
    assert (answer.status, pair.server.hung_up) == (5, True)


@pytest.mark.req("SEC-10")
def test_verification_trailer_bytes():
    made = verification_trailer(bitmask=1, pcontext=(ECHO, NDR20))
    assert made.hex() == (
        "8ae3137102f43671"
        "01000400" "01000000"
        "02402800" + ECHO.encode().hex() + NDR20.encode().hex()
    )  # fmt: skip
    at, commands = parse_verification(b"stub" + made + bytes(12))
    assert (at, [c for c, _ in commands]) == (4, [1, 0x4002])


def checked(stub: bytes, **changes) -> bytes:
    options = dict(
        header_signing=True, abstract=ECHO, transfer=NDR20, drep=0x10, call_id=3, context_id=1, opnum=4
    )
    return check_verification(stub, **{**options, **changes})


@pytest.mark.req("SEC-10")
def test_a_verification_trailer_is_checked_and_cut_off():
    header2 = header2_of(0x10, 3, 1, 4)
    good = b"stubstub" + verification_trailer(bitmask=1, pcontext=(ECHO, NDR20), header2=header2)
    assert checked(good) == b"stubstub"
    for changes in (
        {"header_signing": False},
        {"transfer": ECHO},
        {"opnum": 5},
        {"call_id": 4},
        {"drep": 0},
    ):
        with pytest.raises(AuthenticationError):
            checked(good, **changes)


@pytest.mark.req("SEC-10")
def test_unknown_commands_matter_only_where_they_must_be_processed():
    def trailer(command):
        return b"stub" + VERIFICATION_MAGIC + (command | 0x4000).to_bytes(2, "little") + b"\0\0"

    assert checked(trailer(99)) == b"stub"
    with pytest.raises(AuthenticationError):
        checked(trailer(99 | 0x8000))


@pytest.mark.req("SEC-10")
@pytest.mark.parametrize(
    "stub",
    [
        b"stub" + VERIFICATION_MAGIC,
        b"stub" + VERIFICATION_MAGIC + b"\x01\x00\x04\x00",
        b"stub" + VERIFICATION_MAGIC + b"\x01\x40\x03\x00abc",
        b"odd" + VERIFICATION_MAGIC + b"\x01\x40\x00\x00",
        b"stub" + VERIFICATION_MAGIC + b"\x63\x40\x00\x00" + bytes(16),
    ],
)
def test_what_only_looks_like_a_verification_trailer_is_stub_data(stub):
    assert checked(stub) == stub


@pytest.mark.req("SEC-10")
def test_our_client_sends_it_once(pair_of):
    seen = []

    def handler(call):
        seen.append(call.stub)
        return bytearray(24)

    pair = pair_of(level=5, registration=echo_registration(handler)).bind()
    pair.call()
    assert VERIFICATION_MAGIC in pair.client.sent
    pair.move()
    pair.call()
    assert VERIFICATION_MAGIC not in pair.client.sent
    pair.move()
    assert seen == [b"stubstub", b"stubstub"]


@pytest.mark.req("SEC-11")
def test_who_calls_is_known_per_call(pair_of):
    seen = []

    def handler(call):
        seen.append((call.principal, call.level, call.auth_type))
        return bytearray(24)

    pair = pair_of(level=6, registration=echo_registration(handler)).bind()
    pair.call()
    pair.move()
    (answer,) = TurnedServer(registration=echo_registration(handler)).bound().take(request())
    assert answer.ptype == PacketType.RESPONSE
    assert seen == [("admin", 6, 10), (None, 1, 0)]


@pytest.mark.req("SEC-12")
@pytest.mark.parametrize(
    ("options", "level", "admitted"),
    [
        ({"min_level": 6}, 6, True),
        ({"min_level": 6}, 5, False),
        ({"min_level": 2}, None, False),
        ({"min_level": 0}, None, True),
        ({"min_level": 0, "allow_anonymous": False}, None, False),
        ({"access": lambda call: call.principal == "admin"}, 4, True),
        ({"access": lambda call: call.principal == "other"}, 4, False),
    ],
)
def test_the_interface_judges_before_anything_is_unmarshalled(pair_of, options, level, admitted):
    seen = []

    def handler(call):
        seen.append(call)
        return bytearray(24)

    registration = echo_registration(handler, **options)
    if level is None:
        connection = TurnedServer(registration=registration).bound()
        (answer,) = connection.take(request())
        status = 0 if answer.ptype == PacketType.RESPONSE else answer.status
    else:
        pair = pair_of(level=level, registration=registration).bind()
        waiter = pair.call()
        pair.move()
        connection = pair.server
        status = 0 if waiter.error is None else waiter.error.status.code
    assert (status, len(seen)) == ((0, 1) if admitted else (5, 0))
    assert not connection.hung_up


def test_the_ledger_counts_security_contexts_back(pair_of):
    pair = pair_of().bind()
    assert pair.world.ledger.security_context.live == 2
    pair.server.closed()
    pair.close()
    assert pair.world.ledger.security_context.live == 0
