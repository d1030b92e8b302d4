"""ORPCTHIS, ORPCTHAT, their extensions and the error information in them."""

from __future__ import annotations

from struct import pack, pack_into
from uuid import UUID

import pytest

from oxid.com.objref import CustomObjRef
from oxid.com.orpc import (
    CLSID_ERROR_EXTENSION,
    CLSID_ERROR_OBJECT,
    COM_VERSION,
    EMPTY_ORPCTHAT,
    IID_IERRORINFO,
    ComVersion,
    OrpcExtent,
    check_orpcthis,
    error_extent,
    error_info_of,
    invalid_header,
    negotiate,
    read_orpcthat,
    read_orpcthis,
    write_orpcthat,
    write_orpcthis,
)
from oxid.errors import BadStubData, ErrorInfo, Origin, StatusError
from oxid.values.status import RPC_E_INVALID_HEADER, RPC_E_VERSION_MISMATCH, RpcStatus

CID = UUID("0a0b0c0d-0e0f-1011-1213-141516171819")
THIS = bytes.fromhex(
    "0500 0700"  # DCOM 5.7
    "00000000 00000000"  # flags, reserved
    "0d0c0b0a 0f0e 1110 1213 141516171819"  # causality identifier
    "00000000"  # no extensions
)
EXTENTS = (
    OrpcExtent(UUID(int=1), b"twelve bytes"),
    OrpcExtent(UUID(int=2), b""),
    OrpcExtent(UUID(int=3), bytes(8)),
)


@pytest.mark.req("ORPC-1", "VER-1")
def test_the_usual_header_byte_by_byte():
    out = bytearray()
    write_orpcthis(out, CID.bytes_le)
    assert bytes(out) == THIS
    assert check_orpcthis(THIS + b"arguments") == (32, CID.bytes_le, (5, 7), 0)
    that = bytearray()
    write_orpcthat(that)
    assert bytes(that) == EMPTY_ORPCTHAT
    assert read_orpcthat(EMPTY_ORPCTHAT + b"results") == (8, ())


def test_a_big_endian_peer_is_understood():
    out = bytearray()
    write_orpcthis(out, CID.bytes_le, (5, 4), big_endian=True)
    assert bytes(out[:4]) == b"\0\5\0\4"
    assert bytes(out[12:28]) == CID.bytes
    assert check_orpcthis(bytes(out), True) == (32, CID.bytes_le, (5, 4), 0)


@pytest.mark.req("ORPC-2", "VER-1")
@pytest.mark.parametrize("version", [(4, 7), (6, 0), (5, 8), (5, 0), (5, 3), (5, 5), (0, 0), (5, 0xFFFF)])
def test_a_version_we_do_not_speak_is_a_fault(version):
    with pytest.raises(StatusError) as caught:
        check_orpcthis(pack("<HH", *version) + THIS[4:])
    assert caught.value.status == RpcStatus(RPC_E_VERSION_MISMATCH)
    assert caught.value.origin is Origin.FAULT


@pytest.mark.req("VER-1")
def test_the_lower_minor_version_is_spoken():
    for minor in (1, 2, 4, 6, 7):
        assert check_orpcthis(pack("<HH", 5, minor) + THIS[4:])[2] == (5, minor)
        assert negotiate((5, minor)) == ComVersion(5, minor)
    assert negotiate((5, 9)) == COM_VERSION
    assert negotiate((5, 7), (5, 4)) == (5, 4)
    for wrong in ((5, 3), (5, 5), (5, 0), (4, 7)):
        with pytest.raises(StatusError):
            negotiate(wrong)


@pytest.mark.req("ORPC-2")
def test_flags_are_reported_for_the_check_after_access():
    data = bytearray(THIS)
    pack_into("<I", data, 4, 1)
    assert check_orpcthis(bytes(data))[3] == 1
    assert invalid_header().status == RpcStatus(RPC_E_INVALID_HEADER)
    pack_into("<II", data, 4, 0, 0xFFFFFFFF)  # the reserved field "MUST be ignored on receipt"
    assert check_orpcthis(bytes(data))[3] == 0


@pytest.mark.req("ORPC-5")
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_extensions_round_trip_in_both_directions(count, big_endian):
    out = bytearray()
    write_orpcthis(out, CID.bytes_le, extents=EXTENTS[:count], big_endian=big_endian)
    end = len(out)
    this, at = read_orpcthis(bytes(out) + b"arguments", big_endian)
    assert (this.cid, this.extents, at) == (CID.bytes_le, EXTENTS[:count], end)
    assert check_orpcthis(bytes(out) + b"arguments", big_endian)[0] == end
    that = bytearray()
    write_orpcthat(that, EXTENTS[:count], big_endian)
    assert read_orpcthat(bytes(that) + b"x", big_endian) == (len(that), EXTENTS[:count])


@pytest.mark.req("ORPC-5")
def test_the_extension_array_is_even_and_its_data_a_multiple_of_eight():
    out = bytearray()
    write_orpcthat(out, EXTENTS[:1])
    assert bytes(out[8:]) == bytes.fromhex(
        "01000000 00000000"  # one extension, reserved
        "04000200"  # pointer to the array
        "02000000"  # rounded up to two
        "08000200 00000000"  # the extension, and NULL
        "10000000"  # 16 bytes of data
        "00000000 0000 0000 0000 000000000001"
        "0c000000"  # of which 12 count
    ) + b"twelve bytes" + bytes(4)


@pytest.mark.req("ORPC-5", "ORPC-6")
def test_hostile_extensions_are_bad_stub_data():
    out = bytearray()
    write_orpcthis(out, CID.bytes_le, extents=EXTENTS)
    good = bytes(out)
    for end in range(len(good)):
        with pytest.raises(BadStubData):
            check_orpcthis(good[:end])
    for at, value in [
        (32, 9),
        (32, 0xFFFFFFFF),
        (44, 6),
        (44, 0xFFFFFFFF),
        (40, 0),
        (64, 24),
        (84, 0x11),
        (84, 0xFFFFFFF8),
    ]:
        data = bytearray(good)
        pack_into("<I", data, at, value)
        with pytest.raises(BadStubData):
            check_orpcthis(bytes(data))


def test_an_empty_extension_array_is_no_extension():
    assert read_orpcthat(pack("<IIIII", 0, 1, 0, 0, 0)) == (20, ())


INFO = ErrorInfo("division by zero", "Oxid.Calculator", UUID(int=7), "calc.hlp", 3)


@pytest.mark.req("ORPC-5", "dcom§2.error-info")
@pytest.mark.parametrize(
    "info", [INFO, ErrorInfo(), ErrorInfo("ü 𝄞 \0 x"), ErrorInfo("", "source", help_context=2**32 - 1)]
)
def test_error_information_round_trips(info):
    read = error_info_of((EXTENTS[0], error_extent(info)))
    assert read == ErrorInfo(
        info.description.replace("\0", " "), info.source, info.iid, info.help_file, info.help_context
    )


@pytest.mark.req("ORPC-5")
def test_error_information_byte_by_byte():
    extent = error_extent(ErrorInfo("ab", "", UUID(int=1)))
    assert extent.id == CLSID_ERROR_EXTENSION
    assert (
        extent.data
        == CustomObjRef(
            IID_IERRORINFO,
            CLSID_ERROR_OBJECT,
            bytes.fromhex(
                "00000000 00000000"  # version, help context
                "00000000 0000 0000 0000 000000000001"  # the interface that failed
                "00000000"  # no source
                "ffffffff 03000000 00000000 03000000 6100 6200 0000"  # the description
                "00000000"  # no help file
            ),
        ).encode()
    )


@pytest.mark.req("ORPC-5")
def test_unreadable_error_information_never_fails_the_call():
    good = error_extent(INFO).data
    for data in (
        b"",
        b"MEOW",
        good[:60],
        good.replace(b"\xff" * 4 + b"\x10", b"\xff" * 4 + b"\x0f"),
        bytes(80),
    ):
        assert error_info_of((OrpcExtent(CLSID_ERROR_EXTENSION, data),)) is None
    assert error_info_of((OrpcExtent(UUID(int=5), good),)) is None
    later = bytearray(good)
    pack_into("<I", later, 48, 1)  # a format of the future
    assert error_info_of((OrpcExtent(CLSID_ERROR_EXTENSION, bytes(later)),)) is None
