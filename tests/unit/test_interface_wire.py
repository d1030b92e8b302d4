"""What the samples' operations look like on the wire. CONTRACT section 6, Samba's echo.idl"""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.ndr_samples import (
    Enum1,
    Enum1Wide,
    Enum2,
    Enum3,
    Enums,
    ICalculator,
    IEcho,
    Info,
    Info1,
    Info4,
    Info5,
    Info7,
    Surrounding,
)

from oxid.errors import AccessDenied, BadStubData, LocalProtocolError, StatusError
from oxid.ndr import Syntax
from oxid.rpc.interface import spec_of
from oxid.values.status import HResult

LE, BE, WIDE = Syntax.NDR20_LE, Syntax.NDR20_BE, Syntax.NDR64
HEADER = 24


class Table:
    def marshal(self, obj: Any, interface: type[Any] | None) -> bytes:
        assert interface is ICalculator
        return b"MEOW" + obj

    def unmarshal(self, objref: bytes, interface: type[Any] | None) -> Any:
        assert interface is ICalculator
        return objref[4:]


def codec(interface: type[Any], opnum: int, syntax: Syntax = LE) -> Any:
    return spec_of(interface).operations[opnum].codec(syntax)


VECTORS: list[tuple[str, Syntax, type[Any], int, tuple[Any, ...], str, Any, str]] = [
    ("Add", LE, ICalculator, 3, (1, -2), "01000000 feffffff", -1, "ffffffff 00000000"),
    ("Add", BE, ICalculator, 3, (1, -2), "00000001 fffffffe", -1, "ffffffff 00000000"),
    ("Divide", LE, ICalculator, 4, (1.0, 2.0), "000000000000f03f 0000000000000040", 0.5, "000000000000e03f 00000000"),
    # size, max_count, bytes -> max_count, bytes, pad to 4, HRESULT
    ("Echo", LE, ICalculator, 5, (b"abcde",), "05000000 05000000 6162636465",
     b"abcde", "05000000 6162636465 000000 00000000"),
    ("Echo", BE, ICalculator, 5, (b"a",), "00000001 00000001 61", b"a", "00000001 61 000000 00000000"),
    ("Echo nothing", LE, ICalculator, 5, (b"",), "00000000 00000000", b"", "00000000 00000000"),
    # count, max_count, longs -> hyper at 8 (behind ORPCTHAT), HRESULT
    ("Sum", LE, ICalculator, 6, ([1, 2, -4],), "03000000 03000000 01000000 02000000 fcffffff",
     -1, "ffffffffffffffff 00000000"),
    # max, offset, actual, characters -> one referent id, then the same
    ("Greet", LE, ICalculator, 7, ("Bo",), "03000000 00000000 03000000 4200 6f00 0000",
     "Hi", "00000200 03000000 00000000 03000000 4800 6900 0000 0000 00000000"),
    # -> one id, max_count, ulCntData, OBJREF
    ("Clone", LE, ICalculator, 8, (), "", b"x", "00000200 05000000 05000000 4d454f5778 000000 00000000"),
    ("Sleep", LE, ICalculator, 9, (5,), "05000000", None, "00000000"),
    ("AddOne", LE, IEcho, 0, (1,), "01000000", 2, "02000000"),
    ("AddOne", BE, IEcho, 0, (1,), "00000001", 2, "00000002"),
    ("EchoData", LE, IEcho, 1, (b"ab",), "02000000 02000000 6162", b"ab", "02000000 6162"),
    ("EchoData", WIDE, IEcho, 1, (b"ab",), "02000000 00000000 0200000000000000 6162", b"ab", "0200000000000000 6162"),
    ("SinkData", LE, IEcho, 2, (b"ab",), "02000000 02000000 6162", None, ""),
    ("SourceData", LE, IEcho, 3, (3,), "03000000", b"\0\1\2", "03000000 000102"),
    ("TestCall", LE, IEcho, 4, ("i",), "02000000 00000000 02000000 6900 0000",
     "o", "00000200 02000000 00000000 02000000 6f00 0000"),
    ("TestCall of NULL", LE, IEcho, 4, ("",), "01000000 00000000 01000000 0000", None, "00000000"),
    ("TestCall2 level 1", LE, IEcho, 5, (1,), "0100", (Info(1, Info1(10)), 0), "0100 0a 00 00000000"),
    ("TestCall2 level 5", LE, IEcho, 5, (5,), "0500", (Info(5, Info5(20, 30)), 0),
     "0500 000000000000 14 00000000000000 1e00000000000000 00000000"),
    ("TestCall2 level 7", LE, IEcho, 5, (7,), "0700", (Info(7, Info7(10, Info4(11))), 0),
     "0700 000000000000 0a 00000000000000 0b00000000000000 00000000"),
    ("TestSleep", LE, IEcho, 6, (1,), "01000000", 1, "01000000"),
    ("TestEnum 1", LE, IEcho, 7, (Enum1.ENUM1, Enum2(Enum1.ENUM2, Enum1Wide.ENUM1_32), Enum3(1, Enum1.ENUM1)),
     "0100 0000 0200 0000 01000000 0100 0100",
     Enums(Enum1.ENUM1, Enum2(Enum1.ENUM2, Enum1Wide.ENUM1_32), Enum3(1, Enum1.ENUM1)),
     "0100 0000 0200 0000 01000000 0100 0100"),
    ("TestEnum 2 in NDR64", WIDE, IEcho, 7,
     (Enum1.ENUM2, Enum2(Enum1.ENUM1, Enum1Wide.ENUM2_32), Enum3(2, Enum2(Enum1.ENUM1, Enum1Wide.ENUM2_32))),
     "02000000 01000000 02000000 0200 0000 01000000 02000000",
     Enums(Enum1.ENUM2, Enum2(Enum1.ENUM1, Enum1Wide.ENUM2_32), Enum3(2, Enum2(Enum1.ENUM1, Enum1Wide.ENUM2_32))),
     "02000000 01000000 02000000 0200 0000 01000000 02000000"),
    ("TestSurrounding", LE, IEcho, 8, (Surrounding([1, 2]),), "02000000 02000000 0100 0200",
     Surrounding([1, 2, 3, 4]), "04000000 04000000 0100 0200 0300 0400"),
    ("TestDoublePointer", LE, IEcho, 9, (12,), "00000200 04000200 0c00", 12, "0c00"),
    ("TestDoublePointer of NULL", LE, IEcho, 9, (None,), "00000000", 0, "0000"),
]  # fmt: skip


@pytest.mark.req("NDR-1", "NDR-4", "NDR-5", "NDR-7", "NDR-8", "NDR-9", "NDR-10", "NDR-15")
@pytest.mark.parametrize(
    ("syntax", "interface", "opnum", "args", "request_wire", "result", "reply_wire"),
    [vector[1:] for vector in VECTORS],
    ids=[f"{vector[0]} {vector[1].value}" for vector in VECTORS],
)
def test_operations_on_the_wire(
    syntax: Syntax,
    interface: type[Any],
    opnum: int,
    args: tuple[Any, ...],
    request_wire: str,
    result: Any,
    reply_wire: str,
) -> None:
    functions = codec(interface, opnum, syntax)
    out = bytearray(HEADER)
    functions.encode_request(out, Table(), *args)
    assert out[HEADER:].hex() == request_wire.replace(" ", "")
    assert functions.decode_request(bytes(out[HEADER:]), 0, Table()) == args
    out = bytearray(HEADER)
    functions.encode_reply(out, Table(), args, result)
    assert out[HEADER:].hex() == reply_wire.replace(" ", "")
    assert functions.decode_reply(bytes(out[HEADER:]), 0, Table()) == result


@pytest.mark.req("NDR-1")
@pytest.mark.parametrize("start", [8, 12])
def test_a_reply_may_start_behind_a_header_that_is_not_a_multiple_of_eight(start: int) -> None:
    """ORPC extensions may leave the arguments at 4 modulo 8."""
    divide = codec(ICalculator, 4)
    out = bytearray(HEADER + start)
    divide.encode_reply(out, None, (1.0, 2.0), 0.5)
    stub = bytes(out[HEADER:])
    assert stub[16 if start > 8 else 8 :][:8] == bytes.fromhex("000000000000e03f")
    assert divide.decode_reply(stub, start, None) == 0.5


FAILURES = [
    ("Add", ICalculator, 3, (1, 2), "00000000 0a000280"),
    ("Divide", ICalculator, 4, (1.0, 0.0), "0000000000000000 0a000280"),
    ("Echo: zeros of the requested size", ICalculator, 5, (b"abcde",), "05000000 0000000000 000000 0a000280"),
    ("Sum", ICalculator, 6, ([1],), "0000000000000000 0a000280"),
    ("Greet", ICalculator, 7, ("x",), "00000000 0a000280"),
    ("Clone", ICalculator, 8, (), "00000000 0a000280"),
    ("Sleep", ICalculator, 9, (1,), "0a000280"),
    ("TestCall2: the arm that was asked for", IEcho, 5, (5,),
     "0500 000000000000 00 00000000000000 0000000000000000 0a000280"),
]  # fmt: skip


@pytest.mark.req("NDR-8")
@pytest.mark.parametrize(
    ("interface", "opnum", "args", "wire"),
    [failure[1:] for failure in FAILURES],
    ids=[f[0] for f in FAILURES],
)
def test_failing_methods_answer_zeros_and_their_status(
    interface: type[Any], opnum: int, args: tuple[Any, ...], wire: str
) -> None:
    out = bytearray(HEADER)
    codec(interface, opnum).encode_failure(out, args, 0x8002_000A)
    assert out[HEADER:].hex() == wire.replace(" ", "")


def test_a_failure_becomes_the_exception_of_its_status() -> None:
    add = codec(ICalculator, 3)
    with pytest.raises(StatusError, match="Add") as caught:
        add.decode_reply(bytes.fromhex("00000000 0a000280"), 0, None)
    assert caught.value.status == HResult(0x8002_000A)
    with pytest.raises(AccessDenied):
        add.decode_reply(bytes.fromhex("00000000 05000780"), 0, None)
    assert add.decode_reply(bytes.fromhex("07000000 01000000"), 0, None) == 7  # S_FALSE is a success


def test_an_operation_without_a_status_cannot_tell_a_failure() -> None:
    assert not codec(IEcho, 0).can_fail
    assert codec(IEcho, 5).can_fail
    with pytest.raises(LocalProtocolError, match="no status"):
        codec(IEcho, 0).encode_failure(bytearray(24), (1,), 5)


BAD_REQUESTS = [
    ("Echo: count unlike its array", ICalculator, 5, "04000000 05000000 6162636465"),
    ("Sum: count unlike its array", ICalculator, 6, "02000000 03000000 01000000 02000000 fcffffff"),
    ("Add: too short", ICalculator, 3, "01000000 feffff"),
    ("Greet: embedded NUL", ICalculator, 7, "03000000 00000000 03000000 4200 0000 0000"),
    ("TestEnum: switch unlike its tag", IEcho, 7, "0100 0000 0200 0000 01000000 0200 0100 01000000 00000000"),
    ("TestSurrounding: size_is unlike the maximum", IEcho, 8, "03000000 02000000 0100 0200"),
]


@pytest.mark.req("NDR-7", "NDR-12")
@pytest.mark.parametrize(
    ("interface", "opnum", "wire"), [bad[1:] for bad in BAD_REQUESTS], ids=[bad[0] for bad in BAD_REQUESTS]
)
def test_requests_that_contradict_themselves_fault_with_bad_stub_data(
    interface: type[Any], opnum: int, wire: str
) -> None:
    with pytest.raises(BadStubData) as caught:
        codec(interface, opnum).decode_request(bytes.fromhex(wire), 0, None)
    assert caught.value.status == 0x6F7


@pytest.mark.req("NDR-12")
def test_bytes_behind_the_last_argument_are_ignored() -> None:
    assert codec(ICalculator, 3).decode_request(bytes.fromhex("01000000 02000000 ffffffff ff"), 0, None) == (
        1,
        2,
    )
    assert codec(ICalculator, 3).decode_reply(bytes.fromhex("01000000 00000000 ffffffff ff"), 0, None) == 1


def test_arguments_begin_behind_orpcthis() -> None:
    stub = bytes(32) + bytes.fromhex("01000000 02000000")
    assert codec(ICalculator, 3).decode_request(stub, 32, None) == (1, 2)


def test_a_method_that_answers_the_wrong_size_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError, match="echoed"):
        codec(ICalculator, 5).encode_reply(bytearray(24), None, (b"abc",), b"ab")
    with pytest.raises(LocalProtocolError, match="out_data"):
        codec(IEcho, 0).encode_reply(bytearray(24), None, (1,), "x")
    with pytest.raises(LocalProtocolError, match=r"Add: a is 2147483648.*I32"):
        codec(ICalculator, 3).encode_request(bytearray(24), None, 1 << 31, 0)
