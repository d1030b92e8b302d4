"""Echo on the wire, octet for octet as Samba's own marshalling (samba.ndr of python3-samba) writes it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from oxid.errors import StatusError
from oxid.ndr.syntax import Syntax
from oxid.rpc.interface import spec_of
from oxid.samples.echo import (
    Echo,
    EnumChoice,
    EnumPair,
    IEcho,
    Info,
    Info1,
    Info2,
    Info3,
    Info4,
    Info5,
    Info6,
    Info7,
    Surrounding,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "echo_samba.json").read_text())

# operation in the vectors -> its number, arguments and result
CALLS: dict[str, tuple[int, tuple[Any, ...], Any]] = {
    "AddOne": (0, (0x01020304,), 0x01020305),
    "EchoData": (1, (b"\1\2\3",), b"\1\2\3"),
    "SinkData": (2, (b"\1\2\3\4\5",), None),
    "SourceData": (3, (5,), b"\0\1\2\3\4"),
    "TestCall": (4, ("input",), "input"),
    "TestCall2_1": (5, (1,), (Info(1, Info1(10)), 0)),
    "TestCall2_2": (5, (2,), (Info(2, Info2(20)), 0)),
    "TestCall2_3": (5, (3,), (Info(3, Info3(30)), 0)),
    "TestCall2_4": (5, (4,), (Info(4, Info4(40)), 0)),
    "TestCall2_5": (5, (5,), (Info(5, Info5(50, 60)), 0)),
    "TestCall2_6": (5, (6,), (Info(6, Info6(70, Info1(80))), 0)),
    "TestCall2_7": (5, (7,), (Info(7, Info7(80, Info4(90))), 0)),
    "TestSleep": (6, (0,), 0),
    "TestEnum": (
        7,
        (1, EnumPair(76, 1), EnumChoice(1, 2)),
        (1, EnumPair(2, 1), EnumChoice(1, 2)),
    ),
    "TestSurrounding": (8, (Surrounding([7, 8, 9]),), Surrounding([0] * 6)),
}


def answered(opnum: int, arguments: tuple[Any, ...]) -> Any:
    """What the sample's method returns."""
    result = getattr(Echo(), spec_of(IEcho).operations[opnum].method)(*arguments)
    return asyncio.run(result) if asyncio.iscoroutine(result) else result


@pytest.mark.req("NDR-1", "NDR-3", "NDR-7", "NDR-8", "NDR-15")
@pytest.mark.parametrize("syntax", Syntax)
@pytest.mark.parametrize("call", CALLS)
def test_every_operation_is_written_and_read_as_samba_does(call: str, syntax: Syntax) -> None:
    opnum, arguments, result = CALLS[call]
    request, reply = map(bytes.fromhex, VECTORS[f"{call} {syntax.value}"])
    codec = spec_of(IEcho).operations[opnum].codec(syntax)

    written = bytearray()
    codec.encode_request(written, None, *arguments)
    assert written.hex() == request.hex()
    assert codec.decode_request(request, 0, None) == arguments

    assert answered(opnum, arguments) == result
    written = bytearray()
    codec.encode_reply(written, None, arguments, result)
    assert written.hex() == reply.hex()
    assert codec.decode_reply(reply, 0, None) == result


def test_pointers_to_pointers() -> None:
    codec = spec_of(IEcho).operations[9].codec(Syntax.NDR20_LE)
    assert codec.decode_request(bytes.fromhex("00000200 04000200 0c00"), 0, None) == (12,)
    assert answered(9, (12,)) == 12
    assert codec.decode_request(bytes.fromhex("00000200 00000000"), 0, None) == (None,)
    assert answered(9, (None,)) == 0


def test_add_one_is_modulo_2_to_the_32() -> None:
    assert answered(0, (0xFFFF_FFFF,)) == 0


@pytest.mark.parametrize(
    ("opnum", "argument", "status"), [(5, 8, 0x1C00_0006), (3, 0xFFFF_FFFF, 0x1C00_0007)]
)
def test_what_cannot_be_answered_faults(opnum: int, argument: int, status: int) -> None:
    with pytest.raises(StatusError) as caught:
        answered(opnum, (argument,))
    assert caught.value.status.code == status
