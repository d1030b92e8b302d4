"""Our client against servers that are scripts: what it sends, byte by byte, and what it makes of answers.

Statuses and their meaning: [MS-RPCE] 3.1.1.5.5; what a client must check: 3.3.2.5.
"""

from __future__ import annotations

import asyncio
import struct
from uuid import UUID

import pytest
from tests.conformance.scripts import SPEC, Script, answers, bound, client, out, tell
from tests.conformance.wire import (
    ALTER,
    ALTER_RESP,
    BIND,
    BIND_NAK,
    CANCELLED,
    CONC_MPX,
    DID_NOT_EXECUTE,
    ECHO,
    FIRST,
    LAST,
    NDR20,
    NDR64,
    OBJECT,
    OP_RANGE,
    PROBE,
    PROTO_ERROR,
    REQUEST,
    UNKNOWN_IF,
    WHOLE,
    ZERO,
    Pdu,
    Wire,
    big_endian,
    bind_ack,
    fault_pdu,
    feature,
    pdu,
    response,
    story,
)

from oxid.errors import (
    AccessDenied,
    NoSuchInterface,
    NotImplementedByPeer,
    Origin,
    OxidError,
    RemoteProtocolError,
    ServerUnavailable,
    StatusError,
    TransportError,
)
from oxid.ndr.syntax import Syntax
from oxid.rpc.faults import win32_of
from oxid.runtime.client import RpcConnection
from oxid.samples.echo import IEcho

# -- What it sends -------------------------------------------------------------------------------------------


@pytest.mark.req("BND-1", "BND-2", "rpce§1.4", "rpce§1.1", "REQ-5", "REQ-9", "BND-6")
def test_our_bind_and_requests_octet_for_octet() -> None:
    heard: list[bytes] = []

    async def script(wire: Wire) -> None:
        asked = await wire.pdu()
        assert asked is not None
        heard.append(asked.raw)
        await wire.send(
            bind_ack((2, 2, ZERO), (0, 0, NDR20), (3, 3, ZERO), call_id=asked.call_id, group=0x53F0)
        )
        for _ in range(2):
            asked = await wire.pdu()
            assert asked is not None
            heard.append(asked.raw)
            await wire.send(response(b"", asked.call_id))
        await wire.pdu()

    async def told() -> None:
        async with client(script, large_fragments=False) as connection:
            context_id = await connection.context(SPEC, syntaxes=(Syntax.NDR64, Syntax.NDR20_LE))
            assert context_id == 1  # the one that was accepted
            assert connection.syntax_of(context_id) is Syntax.NDR20_LE
            await connection.submit(context_id, 7, out(b"stub"))
            await connection.submit(context_id, 8, bytearray(40) + b"stub", bytes(range(16)))

    story(told)
    proposed = bytes.fromhex("d016 d016 00000000 03 00 0000")  # 5840 both ways, a new group, three contexts
    proposed += bytes.fromhex("0000 01 00") + PROBE + NDR64  # every transfer syntax under an id of its own
    proposed += bytes.fromhex("0100 01 00") + PROBE + NDR20
    proposed += bytes.fromhex("0200 01 00") + PROBE + feature(3)
    assert heard == [
        pdu(BIND, proposed, flags=WHOLE | CONC_MPX, call_id=1),
        pdu(REQUEST, bytes.fromhex("04000000 0100 0700") + b"stub", call_id=2),
        pdu(
            REQUEST,
            bytes.fromhex("04000000 0100 0800") + bytes(range(16)) + b"stub",
            flags=WHOLE | OBJECT,
            call_id=3,
        ),
    ]


@pytest.mark.req("SEC-1", "BND-2")
def test_new_interfaces_come_by_alter_context_and_keep_the_group() -> None:
    async def script(wire: Wire) -> None:
        await bound(wire, group=0x1234)
        asked = await wire.pdu()
        assert asked is not None
        assert asked.ptype == ALTER
        assert asked.raw[24] == 1  # no bind-time features here
        assert asked.raw[28:32] == bytes.fromhex("0200 01 00")
        assert asked.raw[32:72] == ECHO + NDR20
        await wire.send(bind_ack((0, 0, NDR20), ptype=ALTER_RESP, call_id=asked.call_id, address=b""))
        asked = await wire.pdu()
        assert asked is not None
        assert asked.context_id == 2
        await wire.send(response(bytes.fromhex("02000000"), asked.call_id))
        await wire.pdu()

    async def play(connection: RpcConnection, _: int) -> None:
        assert connection.group_id == 0x1234
        echo = await connection.proxy(IEcho)
        assert await echo.add_one(1) == 2

    tell(script, play)


@pytest.mark.req("REQ-6", "BND-7")
@pytest.mark.parametrize("size", [2048, 4280, 5840])
def test_long_requests_come_in_fragments_that_the_server_takes(size: int) -> None:
    async def script(wire: Wire) -> None:
        await bound(wire, size=size)
        stub = b""
        while True:
            fragment = await wire.pdu()
            assert fragment is not None
            assert len(fragment.raw) <= size
            assert bool(fragment.flags & FIRST) == (not stub)
            assert fragment.hint == 20_000 - len(stub)  # what is still to come
            stub += fragment.stub
            if fragment.flags & LAST:
                break
        await wire.send(response(stub[::-1][:100], fragment.call_id))
        await wire.pdu()

    async def play(connection: RpcConnection, context_id: int) -> None:
        stub = bytes(range(250)) * 80
        assert await connection.submit(context_id, 0, out(stub)) == stub[::-1][:100]

    tell(script, play)


@pytest.mark.req("REQ-5")
def test_call_ids_grow_and_end_at_their_largest() -> None:
    seen: list[int] = []

    async def script(wire: Wire) -> None:
        await bound(wire)
        while (asked := await wire.pdu()) is not None:
            seen.append(asked.call_id)
            await wire.send(response(b"", asked.call_id))

    async def play(connection: RpcConnection, context_id: int) -> None:
        for _ in range(3):
            await connection.submit(context_id, 0, out())
        connection._call_id = 0x7FFF_FFFE
        await connection.submit(context_id, 0, out())
        with pytest.raises(TransportError, match="open a new one"):
            connection.submit(context_id, 0, out())

    tell(script, play)
    assert seen == [2, 3, 4, 0x7FFF_FFFF]


@pytest.mark.req("REQ-6", "BND-8")
def test_a_server_without_multiplexing_gets_one_call_at_a_time() -> None:
    async def script(wire: Wire) -> None:
        await bound(wire, flags=WHOLE)
        for number in (2, 3, 4):
            asked = await wire.pdu()
            assert asked is not None
            assert asked.call_id == number
            await wire.nothing()
            await wire.send(response(b"%d" % number, number))
        await wire.pdu()

    async def play(connection: RpcConnection, context_id: int) -> None:
        waiting = [connection.submit(context_id, 0, out()) for _ in range(3)]
        assert await asyncio.gather(*waiting) == [b"2", b"3", b"4"]

    tell(script, play)


# -- Faults --------------------------------------------------------------------------------------------------


FORBIDDEN = [
    0x0000_0000, 0x8000_0001, 0x8000_0002, 0x8000_0003, 0xC000_0005, 0xC000_0006, 0xC000_001D, 0xC000_0096,
    0xC000_00AA, 0xC000_00FD, 0xC000_0194, 0xC000_0235, 0xC000_0409, 0xC000_0420,
]  # fmt: skip


@pytest.mark.req("PDU-3")
@pytest.mark.parametrize("status", FORBIDDEN, ids=hex)
def test_statuses_that_no_fault_may_carry_are_protocol_errors(status: int) -> None:
    async def script(wire: Wire) -> None:
        await answers(wire, lambda asked: fault_pdu(status, asked.call_id))

    async def play(connection: RpcConnection, context_id: int) -> None:
        with pytest.raises(RemoteProtocolError) as raised:
            await connection.submit(context_id, 0, out())
        assert win32_of(raised.value.status) == 0x6C0  # RPC_S_PROTOCOL_ERROR

    tell(script, play)


@pytest.mark.req("REQ-1", "rpce§1.3", "REQ-10")
@pytest.mark.parametrize("executed", [True, False])
@pytest.mark.parametrize(
    ("status", "kind", "win32"),
    [
        (OP_RANGE, NotImplementedByPeer, 0x6D1),
        (UNKNOWN_IF, NoSuchInterface, 0x6B5),
        (PROTO_ERROR, StatusError, 0x6C0),
        (0x1C01_0014, ServerUnavailable, 0x6BB),
        (CANCELLED, StatusError, 0x71A),
        (0x1C00_001A, StatusError, 0x6EB),  # RPC_X_SS_CONTEXT_MISMATCH, 1771 - what MS-ERREF has below
        (5, AccessDenied, 5),
        (0x6F7, StatusError, 0x6F7),
        (0x721, StatusError, 0x721),
        (0x8001_0108, OxidError, 0x8001_0108),
    ],
)
def test_faults_become_exceptions_that_keep_their_status(
    status: int, kind: type[StatusError], win32: int, executed: bool
) -> None:
    async def script(wire: Wire) -> None:
        flags = WHOLE if executed else WHOLE | DID_NOT_EXECUTE
        await answers(
            wire,
            lambda asked: fault_pdu(status, asked.call_id, flags=flags),
            lambda a: response(b"ok", a.call_id),
        )

    async def play(connection: RpcConnection, context_id: int) -> None:
        with pytest.raises(kind) as raised:
            await connection.submit(context_id, 0, out())
        error = raised.value
        assert isinstance(error, StatusError)
        assert (error.status.code, error.origin, error.executed) == (status, Origin.FAULT, executed)
        if status != 0x1C00_001A:
            assert win32_of(status) == win32
        assert await connection.submit(context_id, 0, out()) == b"ok"  # the connection lives

    tell(script, play)


@pytest.mark.req("rpce§1.3")
def test_extended_error_information_behind_a_fault_is_no_harm() -> None:
    async def script(wire: Wire) -> None:
        def longer(asked: Pdu) -> bytes:
            body = struct.pack("<IHBBII", 32 + 24, 0, 0, 1, OP_RANGE, 0) + bytes(24)
            return pdu(3, body, call_id=asked.call_id)

        await answers(wire, longer)

    async def play(connection: RpcConnection, context_id: int) -> None:
        with pytest.raises(NotImplementedByPeer):
            await connection.submit(context_id, 0, out())

    tell(script, play)


# -- Answers to a bind ---------------------------------------------------------------------------------------


async def refused(script: Script) -> OxidError:
    async with client(script) as connection:
        with pytest.raises(OxidError) as raised:
            await connection.context(SPEC)
        return raised.value


EERR = UUID("90740320-fad0-11d3-82d7-009027b130ab").bytes_le


@pytest.mark.req("PDU-4", "rpce§1.6")
@pytest.mark.parametrize("extended", [b"", EERR + bytes(30)], ids=["plain", "with-extended-error"])
@pytest.mark.parametrize(
    ("reason", "kind", "status"),
    [
        (0, StatusError, 1727),  # not specified: RPC_S_CALL_FAILED_DNE
        (1, StatusError, 1723),  # congestion, as local limit: RPC_S_SERVER_TOO_BUSY
        (2, StatusError, 1723),
        (4, StatusError, 1728),  # version: RPC_S_PROTOCOL_ERROR
        (8, StatusError, 1747),  # authentication type: RPC_S_UNKNOWN_AUTHN_SERVICE
        (9, AccessDenied, 5),  # security package
        (77, StatusError, 1727),
    ],
)
def test_reasons_of_bind_nak(reason: int, kind: type[StatusError], status: int, extended: bytes) -> None:
    async def script(wire: Wire) -> None:
        asked = await wire.pdu()
        assert asked is not None
        body = struct.pack("<H", reason) + bytes.fromhex("01 0500 000000") + extended
        await wire.send(pdu(BIND_NAK, body, call_id=asked.call_id))
        await wire.pdu()

    async def told() -> None:
        error = await refused(script)
        assert isinstance(error, kind)
        assert (error.status.code, error.origin, error.executed) == (status, Origin.BIND, False)

    story(told)


@pytest.mark.req("PDU-5", "BND-2", "rpce§1.5")
@pytest.mark.parametrize(
    ("results", "kind", "status"),
    [
        pytest.param([(2, 1, ZERO), (3, 3, ZERO)], NoSuchInterface, 1717, id="no-such-interface"),
        pytest.param([(2, 2, ZERO), (3, 3, ZERO)], StatusError, 0x6C2, id="no-transfer-syntax"),
        pytest.param([(1, 0, ZERO), (3, 3, ZERO)], StatusError, 1717, id="user-reject"),
        pytest.param([(2, 3, ZERO), (3, 3, ZERO)], StatusError, 1717, id="local-limit"),
        pytest.param([(0, 0, NDR64), (3, 3, ZERO)], RemoteProtocolError, None, id="a-syntax-nobody-proposed"),
        pytest.param([(0, 0, NDR20)], RemoteProtocolError, None, id="too-few"),
        pytest.param([(0, 0, NDR20)] * 3, RemoteProtocolError, None, id="too-many"),
    ],
)
def test_results_of_contexts(
    results: list[tuple[int, int, bytes]], kind: type[OxidError], status: int | None
) -> None:
    async def script(wire: Wire) -> None:
        asked = await wire.pdu()
        assert asked is not None
        await wire.send(bind_ack(*results, call_id=asked.call_id))
        await wire.pdu()

    async def told() -> None:
        error = await refused(script)
        assert isinstance(error, kind)
        if status is not None:
            assert isinstance(error, StatusError)
            assert error.status.code == status
            assert error.origin is Origin.BIND

    story(told)


@pytest.mark.req("PDU-2", "PDU-6", "PDU-1")
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="http"),
        pytest.param(bytes(64), id="zeros"),
        pytest.param(b"\xff" * 64, id="ones"),
        pytest.param(b"\5\1" + bind_ack((0, 0, NDR20))[2:], id="version-5.1"),
        pytest.param(bind_ack((0, 0, NDR20))[:8] + b"\x11\0" + bind_ack()[10:17], id="cut"),
        pytest.param(pdu(12, bytes(8) + b"\xff\xff" + bytes(20)), id="address-over-the-end"),
        pytest.param(pdu(12, bytes(10) + bytes(2) + b"\xff\0\0\0" + bytes(20)), id="results-over-the-end"),
        pytest.param(pdu(13, b""), id="nak-without-reason"),
        pytest.param(pdu(12, bytes(40), auth_length=999), id="auth-over-the-end"),
        pytest.param(pdu(11, bytes(40)), id="a-bind"),
        pytest.param(response(b"early", 1), id="a-response"),
        pytest.param(fault_pdu(0, 1), id="a-forbidden-fault"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_answers_to_a_bind_that_are_none(answer: bytes) -> None:
    async def script(wire: Wire) -> None:
        assert await wire.pdu() is not None
        await wire.send(answer)

    async def told() -> None:
        error = await refused(script)
        assert isinstance(error, RemoteProtocolError | TransportError)

    story(told)


# -- Servers that are big-endian -----------------------------------------------------------------------------


BIG_ACK_BODY = bytes.fromhex(
    "16d0 16d0 000053f0 0004 31333500 0000"  # 5840, group, secondary address "135", padding
    "02 000000"
    "0000 0000 8a885d04 1ceb 11c9 9fe8 08002b104860 00000002"  # acceptance, NDR 2.0
    "0003 0003" + 40 * "0"  # negotiate_ack
)


def big_header(ptype: int, body: bytes, call_id: int, flags: int = WHOLE) -> bytes:
    return bytes([5, 0, ptype, flags]) + bytes(4) + struct.pack(">HHI", 16 + len(body), 0, call_id) + body


@pytest.mark.req("rpce§1.5", "rpce§1.2", "rpce§1.3", "rpce§1.6")
def test_a_big_endian_server_is_understood() -> None:
    async def script(wire: Wire) -> None:
        asked = await wire.pdu()
        assert asked is not None
        await wire.send(big_header(12, BIG_ACK_BODY, asked.call_id, WHOLE | CONC_MPX))
        asked = await wire.pdu()
        assert asked is not None
        assert asked.raw[4:8] == bytes.fromhex("10000000")  # we write in our own order
        await wire.send(big_endian(response(bytes.fromhex("00000102"), asked.call_id)))
        asked = await wire.pdu()
        assert asked is not None
        await wire.send(
            big_endian(response(bytes.fromhex("0000"), asked.call_id, flags=FIRST)),
            big_endian(response(bytes.fromhex("0203"), asked.call_id, flags=LAST)),
        )
        asked = await wire.pdu()
        assert asked is not None
        fault = struct.pack(">IHBBII", 32, 0, 0, 0, OP_RANGE, 0)
        await wire.send(big_header(3, fault, asked.call_id, WHOLE | DID_NOT_EXECUTE))
        await wire.pdu()

    async def told() -> None:
        async with client(script) as connection:
            echo = await connection.proxy(IEcho)
            assert connection.group_id == 0x53F0
            assert await echo.add_one(0x0101) == 0x0102
            assert await echo.add_one(0x0202) == 0x0203
            with pytest.raises(NotImplementedByPeer):
                await echo.add_one(1)

    story(told)


@pytest.mark.req("rpce§1.2")
def test_big_endian_stubs_are_kept_from_users_who_cannot_read_them() -> None:
    """`submit` gives bytes that its caller decodes as it negotiated; COM does so."""

    async def script(wire: Wire) -> None:
        await answers(wire, lambda asked: big_endian(response(b"stub", asked.call_id)))

    async def play(connection: RpcConnection, context_id: int) -> None:
        with pytest.raises(RemoteProtocolError, match="big-endian"):
            await connection.submit(context_id, 0, out())

    tell(script, play)
