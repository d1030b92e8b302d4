"""The layout of native extensions: the header says the same to C and C++ as our structures to ctypes. IS-71"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

from oxid.iis.isapi import native_layout as layout
from oxid.iis.isapi.constants import Request


@pytest.mark.req("IS-71")
@pytest.mark.peer("gcc", "g++")
@pytest.mark.parametrize(
    "compiler",
    [["gcc", "-std=c11"], ["gcc", "-std=c99", "-pedantic"], ["g++", "-std=c++11"], ["g++", "-std=c++20"]],
    ids=" ".join,
)
def test_the_header_compiles_and_asserts_every_offset(compiler: list[str], tmp_path: Path) -> None:
    source = tmp_path / ("use.cpp" if compiler[0] == "g++" else "use.c")
    source.write_text('#include "oxid_isapi.h"\n#include "oxid_isapi.h"\n')
    command = [
        *compiler, "-Wall", "-Wextra", "-Werror", f"-I{layout.HEADER.parent}", "-c", str(source),
        "-o", str(tmp_path / "use.o"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.req("IS-71")
@pytest.mark.peer("gcc")
def test_a_field_that_moves_does_not_compile(tmp_path: Path) -> None:
    moved = layout.HEADER.read_text().replace(
        "    DWORD dwHttpStatusCode;\n", "    uint64_t dwHttpStatusCode;\n"
    )
    (tmp_path / "oxid_isapi.h").write_text(moved)
    (tmp_path / "use.c").write_text('#include "oxid_isapi.h"\n')
    command = ["gcc", "-std=c11", "-c", str(tmp_path / "use.c"), "-o", str(tmp_path / "use.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "has moved" in done.stderr


@pytest.mark.parametrize(
    ("struct", "size"),
    [
        (layout.ControlBlockStruct, 192),
        (layout.VersionInfoStruct, 260),
        (layout.TransmitStruct, 72),
        (layout.HeaderStruct, 32),
        (layout.ExecStruct, 48),
        (layout.EntityStruct, 16),
        (layout.ExecStatusStruct, 8),
        (layout.CustomErrorStruct, 16),
        (layout.ElementStruct, 32),
        (layout.VectorStruct, 40),
        (layout.MapStruct, 280),
        (layout.WideMapStruct, 532),
        (layout.TraceStruct, 28),
        (layout.CertificateStruct, 48),
    ],
)
def test_sizes(struct: type[ctypes.Structure], size: int) -> None:
    assert ctypes.sizeof(struct) == size


def test_offsets_of_the_control_block() -> None:
    wanted = {
        "size": 0, "version": 4, "conn_id": 8, "status": 16, "log_data": 20, "method": 104, "query": 112,
        "path_info": 120, "path_translated": 128, "total_bytes": 136, "available": 140, "data": 144,
        "content_type": 152, "get_variable": 160, "write_client": 168, "read_client": 176, "support": 184,
    }  # fmt: skip
    block = layout.ControlBlockStruct
    assert {name: getattr(block, name).offset for name in wanted} == wanted


def test_every_request_of_the_header_is_one_of_ours() -> None:
    lines = [
        line.split() for line in layout.HEADER.read_text().splitlines() if line.startswith("#define HSE_")
    ]
    requests = {
        int(line[2]) for line in lines if line[1].startswith("HSE_REQ_") or line[1].startswith("HSE_APPEND")
    }
    assert requests == {int(request) for request in Request}


def test_wide_text_ends_at_its_nul() -> None:
    data = ctypes.create_string_buffer("/ä€x".encode("utf-16-le") + b"\0\0" + b"more")
    assert layout.wide_at(ctypes.addressof(data)) == "/ä€x"
    assert layout.wide_at(0) is None
