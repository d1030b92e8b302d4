"""PDUs as hypothesis strategies: raw bytes, binds, requests, answers, references, towers, extensions."""

from __future__ import annotations

import struct

from hypothesis import strategies as st
from tests.fuzz.mutate import TYPES, WIDE, with_length
from tests.fuzz.structured import ACTIVATION, BINDINGS, INTERFACES, TRANSFERS

numbers = st.one_of(st.sampled_from(WIDE), st.integers(0, 0xFFFF_FFFF))
shorts = st.sampled_from((0, 1, 2, 3, 8, 24, 5840, 0x7FFF, 0xFFFF))
blobs = st.binary(max_size=60)
kinds_of_clients = st.sampled_from((0, 0, 0, 11, 11, 14, 16, 18, 19, *TYPES))
kinds_of_servers = st.sampled_from((2, 2, 2, 12, 12, 15, 13, 3, 3, 17, *TYPES))


def _pdu(kind: int, flags: int, order: str, length: int, auth: int, call_id: int, body: bytes) -> bytes:
    """A PDU in either byte order; a length of 0 stands for the right one."""
    size = length or 16 + len(body)
    drep = b"\x10\0\0\0" if order == "<" else bytes(4)
    return bytes((5, 0, kind, flags)) + drep + struct.pack(order + "HHI", size & 0xFFFF, auth, call_id) + body


def _bind_body(order: str, count: int, elements: list[tuple[int, bytes, int, list[bytes]]]) -> bytes:
    body = struct.pack(order + "HHIBxxx", 5840, 5840, 0, (count or len(elements)) & 255)
    for context_id, uuid, version, transfers in elements:
        body += struct.pack(order + "HBx", context_id, len(transfers)) + uuid
        body += struct.pack(order + "I", version) + b"".join(transfers)
    return body


def _call_body(order: str, hint: int, context_id: int, opnum: int, stub: bytes) -> bytes:
    return struct.pack(order + "IHH", hint, context_id, opnum) + stub


orders = st.sampled_from("<<<>")
uuids = st.sampled_from([spec.uuid.bytes_le for spec in INTERFACES] + [bytes(16)])
elements = st.tuples(
    st.integers(0, 3),
    uuids,
    st.sampled_from((0, 1, 3, 0x1_0000)),
    st.lists(st.sampled_from(TRANSFERS), max_size=2),
)
references = st.builds(
    lambda kind, iid, std, rest: b"MEOW" + struct.pack("<I", kind) + iid + std + rest,
    st.sampled_from((1, 2, 4, 8, 3)),
    uuids,
    st.binary(min_size=40, max_size=40),
    st.sampled_from((BINDINGS, BINDINGS[:9], bytes(4), b"\xff" * 8)),
)
orpc_heads = st.builds(
    lambda minor, flags, cid, extent: struct.pack("<HHII", 5, minor, flags, 0) + cid + extent,
    st.sampled_from((7, 1, 0xFFFF)),
    st.sampled_from((0, 0, 0, 1, 0xFFFFFFFF)),
    st.binary(min_size=16, max_size=16),
    st.sampled_from((bytes(4), b"\0\0\2\0" + b"\1\0\0\0" * 6, b"\0\0\2\0" + b"\xff\xff\xff\x7f" * 4)),
)
pointers = st.builds(
    lambda size, data: struct.pack("<III", 2, size or len(data), size or len(data)) + data,
    st.sampled_from((0, 0, 0xFFFFFFFF, 1)),
    st.one_of(references, st.just(ACTIVATION), blobs),
)
stubs = st.one_of(
    blobs, st.builds(lambda head, tail: head + tail, orpc_heads, st.one_of(blobs, pointers)), pointers
)
flags = st.sampled_from((3, 3, 3, 1, 2, 0, 0x83, 0x13, 0xFF))
call_ids = st.sampled_from((1, 1, 2, 3, 0, 0xFFFFFFFF))
lengths = st.sampled_from((0, 0, 0, 0, 15, 16, 17, 24, 5840, 5841, 0xFFFF))

binds = st.builds(
    lambda kind, f, order, length, call_id, count, items: _pdu(
        kind, f, order, length, 0, call_id, _bind_body(order, count, items)
    ),
    st.sampled_from((11, 14)),
    flags,
    orders,
    lengths,
    call_ids,
    st.sampled_from((0, 0, 0, 1, 255)),
    st.lists(elements, max_size=3),
)
calls = st.builds(
    lambda kind, f, order, length, call_id, hint, context_id, opnum, stub: _pdu(
        kind, f, order, length, 0, call_id, _call_body(order, hint, context_id, opnum, stub)
    ),
    st.sampled_from((0, 2)),
    flags,
    orders,
    lengths,
    call_ids,
    shorts,
    st.integers(0, 3),
    st.integers(0, 12),
    stubs,
)
faults = st.builds(
    lambda f, call_id, status: _pdu(3, f, "<", 0, 0, call_id, struct.pack("<IHBBII", 32, 0, 0, 0, status, 0)),
    flags,
    call_ids,
    numbers,
)
others = st.builds(
    _pdu,
    st.sampled_from(TYPES),
    flags,
    orders,
    lengths,
    st.sampled_from((0, 0, 1, 16, 0xFFFF)),
    call_ids,
    blobs,
)
protected = st.builds(
    lambda made, auth_type, level, pad, token: _protected(made, auth_type, level, pad, token),
    st.one_of(binds, calls, others),
    st.sampled_from((9, 10, 16, 0, 68)),
    st.integers(0, 7),
    st.sampled_from((0, 0, 4, 255)),
    blobs,
)


def _protected(made: bytes, auth_type: int, level: int, pad: int, token: bytes) -> bytes:
    data = bytearray(made) + bytes(-len(made) % 4) + bytes((auth_type, level, pad, 0, 1, 0, 0, 0)) + token
    data[10:12] = len(token).to_bytes(2, "little")
    return with_length(bytes(data))


pdus = st.one_of(binds, calls, calls, faults, others, protected, st.binary(max_size=80))
conversations = st.lists(pdus, min_size=1, max_size=3)
