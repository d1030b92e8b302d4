"""What a declaration says about itself, and which mistakes in one are found at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from tests.support.ndr_samples import ICalculator, IEcho

from oxid.errors import LocalProtocolError, StatusError
from oxid.interfaces.class_factory import IClassFactory
from oxid.interfaces.error_info import ISupportErrorInfo
from oxid.interfaces.management import IManagement, RpcIfId, RpcIfIdVector
from oxid.interfaces.remote_unknown import IRemUnknown, IRemUnknown2, RemInterfaceRef, RemQiResult, StdObjRef
from oxid.interfaces.unknown import IID_IUNKNOWN, IUnknown
from oxid.ndr import (
    HRESULT,
    I32,
    U8,
    U16,
    U32,
    Conformant,
    ConformantVarying,
    ErrorStatus,
    Ref,
    Str,
    Syntax,
    Unique,
    struct,
)
from oxid.rpc.interface import count_of, interface, is_interface, operation, size_of, spec_of
from oxid.values.status import HResult, Win32

IPIDS = [UUID(int=i) for i in (1, 2)]


def test_a_specification_says_what_a_command_line_needs() -> None:
    spec = spec_of(ICalculator)
    assert (spec.name, spec.is_object, spec.version) == ("ICalculator", True, (0, 0))
    assert spec.uuid == UUID("5859270E-BE58-4CA6-8157-B4CB6B24051B")
    assert spec.doc == "Adds, divides and greets."
    add = spec.operations[3]
    assert (add.opnum, add.method, add.name, add.doc) == (3, "add", "Add", "Add two numbers.")
    assert [param.idl_name for param in add.in_params] == ["a", "b"]
    assert [param.idl_name for param in add.out_params] == ["sum"]
    assert add.status is HResult
    assert spec.operation("ADD") is spec.operation("add") is add
    assert spec_of(ICalculator) is spec
    with pytest.raises(KeyError):
        spec.operation("Subtract")


def test_plain_interfaces_have_no_implicit_status() -> None:
    spec = spec_of(IEcho)
    assert not spec.is_object
    assert spec.version == (1, 0)
    assert list(spec.operations) == list(range(10))
    assert spec.operation("TestCall2").status is None
    assert spec.operation("EchoData").name == "EchoData"


def test_com_interfaces_inherit_operations() -> None:
    assert [op.name for op in spec_of(IRemUnknown2).operations.values()] == [
        "RemQueryInterface",
        "RemAddRef",
        "RemRelease",
        "RemQueryInterface2",
    ]
    assert spec_of(IUnknown).uuid == IID_IUNKNOWN
    assert spec_of(IUnknown).operations == {}
    assert is_interface(IRemUnknown2)
    assert not is_interface(type("Plain", (IRemUnknown2,), {}))
    with pytest.raises(TypeError, match="not an interface"):
        spec_of(int)


@pytest.mark.req("NDR-2", "NDR-10")
def test_query_interface_bytes() -> None:
    """[size_is(,n)] T**: one unique id, the maximum count, elements with hypers eight-aligned."""
    query = spec_of(IRemUnknown).operations[3].codec(Syntax.NDR20_LE)
    out = bytearray(24)
    query.encode_request(out, None, IPIDS[0], 5, IPIDS)
    ipid = "0000000000000000000000000000000"
    assert out[24:].hex() == f"{ipid}1 05000000 0200 0000 02000000 {ipid}1 {ipid}2".replace(" ", "")
    assert query.decode_request(bytes(out[24:]), 0, None) == (IPIDS[0], 5, IPIDS)
    results = [RemQiResult(0, StdObjRef(0, 5, 0xA1, 0xB2, IPIDS[0]))]
    out = bytearray(24)
    query.encode_reply(out, None, (IPIDS[0], 5, IPIDS[:1]), results)
    assert out[24:].hex() == (
        "00000200 01000000 00000000 00000000 00000000 05000000 a100000000000000 b200000000000000"
        f"{ipid}1 00000000"
    ).replace(" ", "")
    assert query.decode_reply(bytes(out[24:]), 0, None) == results


@pytest.mark.req("NDR-4")
def test_add_and_release_references() -> None:
    add, release = (spec_of(IRemUnknown).operations[n].codec(Syntax.NDR20_LE) for n in (4, 5))
    refs = [RemInterfaceRef(IPIDS[0], 3, 0)]
    out = bytearray(24)
    add.encode_request(out, None, refs)
    assert out[24:].hex() == "01000000 01000000 00000000000000000000000000000001 03000000 00000000".replace(
        " ", ""
    )
    assert release.decode_request(bytes(out[24:]), 0, None) == (refs,)
    out = bytearray(24)
    add.encode_reply(out, None, (refs,), [0x8004_01FB])
    assert out[24:].hex() == "01000000 fb010480 00000000".replace(" ", "")
    assert add.decode_reply(bytes(out[24:]), 0, None) == [0x8004_01FB]


def test_class_factory_bytes() -> None:
    spec = spec_of(IClassFactory)
    assert [(op.opnum, op.name) for op in spec.operations.values()] == [
        (3, "RemoteCreateInstance"),
        (4, "RemoteLockServer"),
    ]
    out = bytearray(24)
    spec.operations[4].codec(Syntax.NDR20_LE).encode_request(out, None, True)
    assert out[24:].hex() == "01000000"


def test_success_codes_that_say_something_are_values() -> None:
    supports = spec_of(ISupportErrorInfo).operations[3].codec(Syntax.NDR20_LE)
    out = bytearray(24)
    supports.encode_reply(out, None, (IPIDS[0],), 1)
    assert out[24:].hex() == "01000000"
    assert supports.decode_reply(b"\1\0\0\0", 0, None) == 1
    with pytest.raises(StatusError):
        supports.decode_reply(b"\5\0\x07\x80", 0, None)


@pytest.mark.req("rpce§6.mgmt")
def test_management_bytes() -> None:
    spec = spec_of(IManagement)
    ids, stats, listening, _, princ = (spec.operations[n].codec(Syntax.NDR20_LE) for n in range(5))
    vector = RpcIfIdVector([RpcIfId(IPIDS[0], 1, 2), None])
    out = bytearray(24)
    ids.encode_reply(out, None, (), (vector, 0))
    assert out[24:].hex() == (
        "00000200 02000000 02000000 04000200 00000000 00000000000000000000000000000001 0100 0200 00000000"
    ).replace(" ", "")
    assert ids.decode_reply(bytes(out[24:]), 0, None) == (vector, 0)
    out = bytearray(24)
    stats.encode_reply(out, None, (4,), ([1, 2, 3, 4], 0))
    assert out[24:].hex() == "04000000 04000000 01000000 02000000 03000000 04000000 00000000".replace(" ", "")
    out = bytearray(24)
    listening.encode_reply(out, None, (), (0, 1))
    assert out[24:].hex() == "0000000001000000"
    out = bytearray(24)
    princ.encode_reply(out, None, (10, 6), ("ab", 0))
    assert out[24:].hex() == "06000000 00000000 03000000 616200 00 00000000".replace(" ", "")
    with pytest.raises(LocalProtocolError):
        princ.encode_reply(bytearray(24), None, (10, 2), ("ab", 0))


class Named(NamedTuple):
    first: U16
    second: Unique[Str]


@dataclass
class Recorded:
    first: U16
    items: ConformantVarying[U8]


@struct
class Point:
    x: I32
    y: I32


@interface("00000000-0000-0000-0000-000000000001", version=(2, 1))
class Forms:
    @operation(0, returns=Win32)
    def named(self, value: Ref[Point]) -> Named:
        raise NotImplementedError

    @operation(
        1,
        reply=("first", count_of("items", U32, name="actual"), "items"),
        correlate={"items": "maximum"},
    )
    def recorded(self, maximum: U32) -> Recorded:
        raise NotImplementedError

    @operation(2, out=("point", "status"), returns=Win32)
    def pair(self, value: U32 = 7) -> tuple[Point, ErrorStatus]:
        raise NotImplementedError

    @operation(
        3,
        wire=(size_of("data", U32), count_of("data", U32, name="length"), "data"),
        names={"data": "pData"},
    )
    def varying(self, data: Unique[ConformantVarying[U8]]) -> None:
        raise NotImplementedError

    @operation(4, wire=(count_of("data", U32, loose=True), "data"))
    def loose(self, data: Unique[Conformant[U8]]) -> None:
        raise NotImplementedError


def _round(opnum: int, args: tuple[Any, ...], result: Any) -> tuple[str, str]:
    codec = spec_of(Forms).operations[opnum].codec(Syntax.NDR20_LE)
    request, reply = bytearray(24), bytearray(24)
    codec.encode_request(request, None, *args)
    assert codec.decode_request(bytes(request[24:]), 0, None) == args
    codec.encode_reply(reply, None, args, result)
    read = codec.decode_reply(bytes(reply[24:]), 0, None)
    assert read == result
    assert type(read) is type(result)
    return request[24:].hex(), reply[24:].hex()


def test_results_as_named_tuples_dataclasses_and_tuples() -> None:
    assert _round(0, (Point(1, 2),), Named(3, None)) == (
        "0100000002000000",
        "03000000" + "00000000" + "00000000",
    )
    assert _round(1, (9,), Recorded(1, b"ab"))[1] == (
        "0100 0000 02000000 09000000 00000000 02000000 6162".replace(" ", "")
    )
    assert _round(2, (7,), (Point(1, 2), 0))[1] == "01000000 02000000 00000000".replace(" ", "")
    assert spec_of(Forms).operations[2].in_params[0].default == 7


def test_the_maximum_of_a_varying_reply_is_what_the_request_allows() -> None:
    codec = spec_of(Forms).operations[1].codec(Syntax.NDR20_LE)
    with pytest.raises(LocalProtocolError):
        codec.encode_reply(bytearray(24), None, (1,), Recorded(1, b"ab"))


def test_a_checked_status_raises_by_its_kind() -> None:
    codec = spec_of(Forms).operations[0].codec(Syntax.NDR20_LE)
    with pytest.raises(StatusError) as caught:
        codec.decode_reply(bytes.fromhex("0300 0000 00000000 76070000"), 0, None)
    assert caught.value.status == Win32(0x776)


@pytest.mark.req("NDR-12")
def test_size_is_length_is_and_disabled_checks() -> None:
    assert _round(3, (b"ab",), None)[
        0
    ] == "02000000 02000000 00000200 02000000 00000000 02000000 6162".replace(" ", "")
    codec = spec_of(Forms).operations[4].codec(Syntax.NDR20_LE)
    assert codec.decode_request(bytes.fromhex("05000000 00000000"), 0, None) == (None,)


def _declare(**mistake: Any) -> type[Any]:
    class Wrong:
        @operation(0, **mistake)
        def method(self, a: U32, b: Conformant[U8]) -> U32:
            raise NotImplementedError

    return interface("00000000-0000-0000-0000-000000000002")(Wrong)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ({"wire": ("a",)}, "wire= and the signature differ"),
        ({"wire": ("a", "c", "b")}, "c"),
        ({"wire": ("a", count_of("x", U32), "b")}, "'x'"),
        ({"reply": ("other",)}, "other"),
        ({"correlate": {"z": "a"}}, "'z'"),
        ({"correlate": {"result": "z"}}, "'z'"),
    ],
)
def test_mistakes_of_a_declaration_are_named(mistake: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        spec_of(_declare(**mistake))


@interface("00000000-0000-0000-0000-000000000003")
class NoWire:
    @operation(0)
    def method(self, a: int) -> None:
        raise NotImplementedError


@interface("00000000-0000-0000-0000-000000000004")
class Twice:
    @operation(0)
    def one(self) -> None:
        raise NotImplementedError

    @operation(0)
    def two(self) -> None:
        raise NotImplementedError


@interface("00000000-0000-0000-0000-000000000005")
class TooFew:
    @operation(0, out=("a",))
    def one(self) -> tuple[U32, HRESULT]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("cls", "said"), [(NoWire, "NoWire.Method: .*int"), (Twice, "twice"), (TooFew, "2 values are returned")]
)
def test_more_mistakes_of_a_declaration(cls: type[Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        spec_of(cls)


def test_codecs_are_made_once_and_can_be_read() -> None:
    add = spec_of(ICalculator).operations[3]
    assert add.codec(Syntax.NDR20_LE) is add.codec(Syntax.NDR20_LE)
    assert "def encode_request(out, m, v_a, v_b):" in add.codec(Syntax.NDR20_LE).sources
