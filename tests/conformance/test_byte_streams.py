"""Bytes that come in pieces, end early, or are no PDUs at all. rpce.md PDU-1, PDU-2, PDU-6"""

from __future__ import annotations

import asyncio
import struct

import pytest
from tests.conformance.wire import (
    BIND_ACK,
    CONC_MPX,
    ECHO,
    FAULT,
    FIRST,
    LAST,
    NDR20,
    NDR64,
    PROBE,
    PROTO_ERROR,
    RESPONSE,
    WHOLE,
    Arena,
    Wire,
    arena,
    bind,
    cancel,
    check_fault,
    element,
    orphaned,
    request,
    story,
    until,
)

MPX = WHOLE | CONC_MPX
OBJECT_ID = bytes.fromhex("00112233445566778899aabbccddeeff")


# -- Bytes that are no PDUs ----------------------------------------------------------------------------------


async def conversation(there: Arena, piece: int) -> list[tuple[int, int, int, bytes]]:
    """A bit of everything, sent in pieces; what was answered without what differs by connection."""
    wire = await there.connect()
    await wire.send(
        bind(element(0, PROBE, NDR64), element(2, ECHO, NDR20), flags=MPX),
        request(b"plain"),
        request(b"object", call_id=3, object=OBJECT_ID),
        request(b"in ", flags=FIRST, call_id=4),
        cancel(4),
        request(b"three ", flags=0, call_id=4),
        request(b"pieces", flags=LAST, call_id=4),
        orphaned(77),
        request(bytes.fromhex("29000000"), call_id=5, context_id=2),
        request(context_id=9, call_id=6),
        request((6000).to_bytes(4, "little"), opnum=5, call_id=7),
        request(opnum=77, call_id=8),
        request(flags=LAST, call_id=999),
        piece=piece,
    )
    heard = []
    while (answer := await wire.pdu()) is not None:
        body = b"" if answer.ptype == BIND_ACK else answer.raw[16:]
        heard.append((answer.ptype, answer.flags, answer.call_id, body))
    return heard


@pytest.mark.req("PDU-6")
@pytest.mark.parametrize("piece", [1, 2, 15, 16, 17, 23, 25, 100])
def test_answers_do_not_depend_on_how_the_bytes_arrive(piece: int) -> None:
    async def told() -> None:
        async with arena() as there:
            whole = await conversation(there, 1 << 20)
            assert await conversation(there, piece) == whole
            assert [(kind, call_id) for kind, _, call_id, _ in whole] == [
                (BIND_ACK, 1),
                (RESPONSE, 2),
                (RESPONSE, 3),
                (RESPONSE, 4),
                (RESPONSE, 5),
                (FAULT, 6),
                (RESPONSE, 7),
                (RESPONSE, 7),
                (FAULT, 8),
                (FAULT, 999),
            ]

    story(told)


@pytest.mark.req("PDU-6")
@pytest.mark.parametrize("kept", [1, 8, 15, 16, 20, 30])
def test_a_peer_that_ends_in_the_middle_of_a_pdu_is_forgotten(kept: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            await wire.send(request(bytes(64))[:kept])
            wire.writer.write_eof()
            await wire.gone()
            await until(lambda: not there.server.connections)
            assert not there.server.fragments

    story(told)


@pytest.mark.req("PDU-1")
def test_a_request_of_another_version_faults_and_closes() -> None:
    async def told() -> None:
        async with arena() as there:
            for version in ("04 00", "05 01"):
                wire = await there.bound()
                await wire.send(bytes.fromhex(version) + request()[2:])
                check_fault(await wire.pdu(), PROTO_ERROR, 2)
                await wire.gone()

    story(told)


@pytest.mark.req("PDU-2")
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param((24, 0xFFFF), id="auth_length-over-everything"),
        pytest.param((24, 8), id="no-room-for-the-trailer"),
        pytest.param((23, 0), id="shorter-than-a-request"),
        pytest.param((16, 0), id="only-a-header"),
        pytest.param((15, 0), id="shorter-than-a-header"),
        pytest.param((0, 0), id="no-length"),
        pytest.param((5841, 0), id="longer-than-the-transport-takes"),
        pytest.param((0xFFFF, 0), id="as-long-as-it-gets"),
    ],
)
def test_wrong_lengths_fault_and_close(fields: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.bound()
            message = bytearray(request())
            struct.pack_into("<HH", message, 8, *fields)
            await wire.send(bytes(message))
            check_fault(await wire.pdu(), PROTO_ERROR, 2)
            await wire.gone()
            assert not [record for record in caplog.records if record.exc_info]

    story(told)


@pytest.mark.req("PDU-2", "PDU-6")
@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        bytes(64),
        b"\xff" * 64,
        bytes.fromhex("16030100a5010000a10303"),  # a TLS ClientHello begins so
    ],
    ids=["http", "zeros", "ones", "tls"],
)
@pytest.mark.parametrize("bound", [False, True])
def test_noise_ends_its_own_connection_and_no_other(
    noise: bytes, bound: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def told() -> None:
        async with arena() as there:
            other = await there.bound()
            wire = await (there.bound() if bound else there.connect())
            await wire.send(noise)
            wire.writer.write_eof()
            async with asyncio.timeout(5):
                while await drained(wire):
                    pass
            await other.echoes()
            assert not [record for record in caplog.records if record.exc_info]

    story(told)


async def drained(wire: Wire) -> bytes:
    try:
        return await wire.reader.read(1 << 16)
    except ConnectionResetError:
        return b""


@pytest.mark.req("rpce§1.2", "REQ-5")
def test_the_context_id_of_a_response_is_cut_to_a_byte() -> None:
    """Windows does so (raw_protocol.py, orphaned_no_request); faults carry all of it."""

    async def told() -> None:
        async with arena() as there:
            wire = await there.bound(element(0x1234, PROBE, NDR20))
            assert (await wire.ask(request(context_id=0x1234))).context_id == 0x34
            check_fault(await wire.ask(request(b"\1\0\0\0", opnum=4, context_id=0x1234)), 1, 2, 0x1234)

    story(told)
