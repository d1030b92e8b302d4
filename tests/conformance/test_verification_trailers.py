"""Verification trailers in signed requests, as raw bytes. [MS-RPCE] 2.2.2.13"""

from __future__ import annotations

import struct

import pytest
from tests.conformance.security import Security
from tests.conformance.wire import (
    ACCESS_DENIED,
    DID_NOT_EXECUTE,
    FIRST,
    HEADER_SIGN,
    INTEGRITY,
    LAST,
    NDR20,
    NTLM,
    PRIVACY,
    PROBE,
    WHOLE,
    arena,
    check_fault,
    element,
    story,
)

DNE = WHOLE | DID_NOT_EXECUTE
PLAIN = element(0, PROBE, NDR20)


# -- Verification trailer ------------------------------------------------------------------------------------


MAGIC = bytes.fromhex("8ae3137102f43671")
BITMASK, PCONTEXT, HEADER2, END, MUST = 1, 2, 3, 0x4000, 0x8000


def command(kind: int, value: bytes) -> bytes:
    return struct.pack("<HH", kind, len(value)) + value


def header2(call_id: int, context_id: int = 0, opnum: int = 0, drep: int = 0x10) -> bytes:
    """packet type, three reserved bytes, data representation, call id, context id, opnum"""
    return struct.pack("<B3xIIHH", 0, drep, call_id, context_id, opnum)


GOOD = {
    "bitmask": command(BITMASK | END, bytes.fromhex("00000000")),
    "pcontext": command(PCONTEXT | END, PROBE + NDR20),
    "header2": command(HEADER2 | END, header2(4)),
    "all": command(BITMASK, bytes(4)) + command(PCONTEXT, PROBE + NDR20) + command(HEADER2 | END, header2(4)),
    "unknown-that-may-be-skipped": command(0x3F, b"what") + command(PCONTEXT | END, PROBE + NDR20),
    "must-process-and-known": command(PCONTEXT | MUST | END, PROBE + NDR20),
}
BAD = {
    "another-interface": command(PCONTEXT | END, b"\0" + PROBE[1:] + NDR20),
    "another-transfer-syntax": command(PCONTEXT | END, PROBE + NDR20[:-4] + bytes(4)),
    "pcontext-too-short": command(PCONTEXT | END, PROBE),
    "another-call": command(HEADER2 | END, header2(5)),
    "another-context": command(HEADER2 | END, header2(4, context_id=1)),
    "another-operation": command(HEADER2 | END, header2(4, opnum=1)),
    "header2-too-short": command(HEADER2 | END, header2(4)[:8]),
    "must-process-and-unknown": command(0x3F | MUST | END, b"what"),
    "header-signing-was-taken-away": command(BITMASK | END, bytes.fromhex("01000000")),
}


@pytest.mark.req("SEC-10")
@pytest.mark.parametrize("level", [INTEGRITY, PRIVACY])
@pytest.mark.parametrize("commands", GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("stub", [b"", b"1234", b"12345"])
def test_a_verification_trailer_is_checked_and_cut_off(level: int, commands: bytes, stub: bytes) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, level)
            await security.join(wire, PLAIN)
            padded = stub + bytes(-len(stub) % 4)
            answer = await wire.ask(security.request(padded + MAGIC + commands, call_id=4))
            # padding between the stub and the trailer stays: decoders ignore what is behind their arguments
            assert security.open(answer) == padded

    story(told)


@pytest.mark.req("SEC-10")
@pytest.mark.parametrize("commands", BAD.values(), ids=BAD)
def test_a_verification_trailer_that_contradicts_its_request(commands: bytes) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, INTEGRITY)
            await security.join(wire, PLAIN)
            answer = await wire.ask(security.request(b"1234" + MAGIC + commands, call_id=4))
            check_fault(answer, ACCESS_DENIED, 4, flags=DNE)
            assert there.probe.calls == []

    story(told)


@pytest.mark.req("SEC-10", "SEC-4")
def test_a_verification_trailer_may_be_cut_by_fragments() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, INTEGRITY)
            await security.join(wire, PLAIN)
            stub = b"12345678" + MAGIC + GOOD["all"]
            await wire.send(
                security.request(stub[:12], flags=FIRST, call_id=4),
                security.request(stub[12:40], flags=0, call_id=4),
                security.request(stub[40:], flags=LAST, call_id=4),
            )
            assert security.open(await wire.pdu()) == b"12345678"

    story(told)


@pytest.mark.req("SEC-10", "SEC-5")
def test_the_bitmask_may_promise_header_signing_where_it_was_agreed() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, INTEGRITY)
            await security.join(wire, PLAIN, flags=WHOLE | HEADER_SIGN)
            stub = b"1234" + MAGIC + command(BITMASK | END, bytes.fromhex("01000000"))
            assert security.open(await wire.ask(security.request(stub, call_id=4))) == b"1234"

    story(told)


@pytest.mark.req("SEC-10")
def test_what_only_looks_like_a_verification_trailer_is_stub() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            security = Security(there, NTLM, INTEGRITY)
            await security.join(wire, PLAIN)
            for number, stub in enumerate(
                (MAGIC, MAGIC + b"\1\0", b"ab" + MAGIC + GOOD["bitmask"], MAGIC[:-1]), 4
            ):
                assert security.open(await wire.ask(security.request(stub, call_id=number))) == stub

    story(told)
