"""PDUs and what travels in them, built field by field from drawn bytes: mostly right, wrong in places.

    case = server_case(Script(drawn), arena)      what to feed into which server core
    case = client_case(Script(drawn), arena)      what to tell the client of which story

A `Script` reads decisions from bytes that hypothesis drew; short bytes give simple cases, so shrinking works.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from uuid import UUID

from tests.fuzz.clients import Session, Step
from tests.fuzz.mutate import TYPES, WIDE, with_length

from oxid.com.activation_properties import ActivationIn, encode_activation_in
from oxid.interfaces.activation import IActivation, IRemoteSCMActivator
from oxid.interfaces.endpoint_map import IEndpointMap
from oxid.interfaces.management import IManagement
from oxid.interfaces.object_exporter import IObjectExporter
from oxid.interfaces.remote_unknown import IRemUnknown, IRemUnknown2
from oxid.rpc.interface import spec_of
from oxid.rpc.presentation import NDR20, NDR64, feature_syntax
from oxid.rpc.tower import Tower
from oxid.samples.calculator import CLSID_CALCULATOR, IID_ICALCULATOR, ICalculator
from oxid.samples.echo import IEcho
from oxid.values.bindings import NCACN_IP_TCP, DcomBinding, DualStringArray, SecurityBinding

if TYPE_CHECKING:
    from tests.fuzz.arena import Arena

T = TypeVar("T")

INTERFACES: Final = tuple(
    spec_of(cls)
    for cls in (
        IEcho,
        IEndpointMap,
        IObjectExporter,
        IActivation,
        IRemoteSCMActivator,
        IManagement,
        IRemUnknown,
        IRemUnknown2,
        ICalculator,
    )
)
TRANSFERS: Final = (
    NDR20.encode(),
    NDR64.encode(),
    feature_syntax(3).encode(),
    feature_syntax(0xFFFF_FFFF_FFFF_FFFF).encode(),
    bytes(20),
)
ACTIVATION: Final = encode_activation_in(ActivationIn(CLSID_CALCULATOR, (IID_ICALCULATOR,)))
BINDINGS: Final = DualStringArray(
    (DcomBinding(NCACN_IP_TCP, "127.0.0.1", "135"),), (SecurityBinding(10, "FUZZ\\FUZZ$"),)
).encode()
ERROR_INFO: Final = UUID("0000031c-0000-0000-c000-000000000046").bytes_le


class Script:
    """Decisions read from bytes; zeros where they are used up."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        at = self.at
        self.at = at + 1
        return self.data[at] if at < len(self.data) else 0

    def below(self, limit: int) -> int:
        value = self.byte()
        return (value if limit <= 256 else value << 8 | self.byte()) % limit

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def often(self) -> bool:
        """Mostly true: the ordinary way."""
        return self.byte() < 200

    def number(self, usual: int) -> int:
        """The usual value, or one from the edges."""
        return usual if self.often() else self.pick(WIDE)

    def blob(self) -> bytes:
        size = self.byte() & 31
        found = self.data[self.at : self.at + size]
        self.at += size
        return found


class ServerCase(NamedTuple):
    core: str
    pieces: list[bytes]
    intact: int
    """So many pieces in front are as recorded."""
    anonymous: bool


class ClientCase(NamedTuple):
    session: Session
    steps: list[Step]
    intact: int


# -- cases ----------------------------------------------------------------------------------------------------


def server_case(script: Script, arena: Arena) -> ServerCase:
    """Some requests of a recorded session, then made ones."""
    anonymous = script.often()
    _, core, recorded = script.pick(arena.requests)
    intact = script.below(len(recorded)) if script.often() else 0
    following = recorded[intact]
    pieces = list(recorded[:intact])
    for _ in range(1 + script.below(3)):
        pieces.append(request_side(script, following))
    if script.byte() > 220:
        pieces.append(following)
    return ServerCase(core, pieces, intact, anonymous)


def client_case(script: Script, arena: Arena) -> ClientCase:
    """Some answers of a recorded session, then made ones."""
    session = script.pick(arena.sessions)
    intact = script.below(len(session.answers))
    following = session.answers[intact]
    steps = list(session.answers[:intact])
    for _ in range(1 + script.below(2)):
        steps.append(Step(following.link, response_side(script, following.data)))
    if script.byte() > 180:
        steps += session.answers[intact:]
    return ClientCase(session, steps, intact)


def request_side(script: Script, recorded: bytes) -> bytes:
    """One PDU as a client might send it, in place of the recorded one."""
    kind = script.below(10)
    if kind < 3:
        return request(script, recorded)
    if kind == 3:
        return overwritten(script, recorded)
    if kind < 6:
        return bind(script, 11 if script.byte() & 1 else 14, recorded)
    if kind == 6:
        return auth3(script, recorded)
    if kind == 7:
        return pdu(script, script.pick((18, 19)), recorded, script.blob() if script.byte() > 200 else b"")
    if kind == 8:
        return with_trailer(script, request(script, recorded))
    return (
        script.blob() + script.blob()
        if script.byte() & 1
        else pdu(script, script.pick(TYPES), recorded, script.blob())
    )


def response_side(script: Script, recorded: bytes) -> bytes:
    """One PDU as a server might send it, in place of the recorded one."""
    kind = script.below(10)
    if kind < 4:
        return response(script, recorded)
    if kind == 4:
        return overwritten(script, recorded)
    if kind == 5:
        return bind_ack(script, 12 if script.byte() & 1 else 15, recorded)
    if kind == 6:
        status = script.pick((0x1C010003, 5, 0x6F7, 0x1C00001A, 0x80010108, 0, 0xC0000005, 0x721, 0xFFFFFFFF))
        body = struct.pack("<IHBBII", script.number(32), 0, 0, script.byte() & 1, status, 0) + script.blob()
        return pdu(script, 3, recorded, body[: len(body) if script.often() else script.below(20)])
    if kind == 7:
        body = struct.pack("<HBBB", script.pick((0, 1, 2, 4, 8, 9, 77)), script.number(1) & 255, 5, 0)
        return pdu(script, 13, recorded, body[: script.below(6)] if script.byte() > 200 else body + bytes(3))
    if kind == 8:
        return with_trailer(script, response(script, recorded))
    return script.blob() if script.byte() & 1 else pdu(script, script.pick(TYPES), recorded, script.blob())


# -- PDUs -----------------------------------------------------------------------------------------------------


def pdu(script: Script, kind: int, like: bytes, body: bytes) -> bytes:
    """A header in front of a body; call id as in the recorded PDU, everything mostly right."""
    flags = 3 if script.often() else script.byte()
    call_id = like[12:16] if script.often() and len(like) >= 16 else script.pick(WIDE).to_bytes(4, "little")
    drep = 0x10 if script.often() else script.byte()
    length = 16 + len(body)
    if not script.often():
        length = script.pick(WIDE) & 0xFFFF
    head = bytes((5, 0 if script.often() else script.byte(), kind & 255, flags, drep, 0, 0, 0))
    if drep & 0xF0:
        return head + struct.pack("<HH", length & 0xFFFF, 0) + call_id + body
    return head + struct.pack(">HH", length & 0xFFFF, 0) + call_id[::-1] + body


def request(script: Script, recorded: bytes) -> bytes:
    """A request whose stub is the recorded one changed, or made for some operation."""
    if len(recorded) < 24 or recorded[2] != 0:
        context, opnum, object_uuid, stub = 0, script.below(10), b"", b""
    else:
        context, opnum = struct.unpack_from("<HH", recorded, 20)
        header = 40 if recorded[3] & 0x80 else 24
        object_uuid, stub = recorded[24:header], recorded[header:]
    flags = 3
    choice = script.below(8)
    if choice < 3:
        stub = bytes(changed(script, bytearray(stub)))
    elif choice == 3:
        opnum, stub = 4, orpcthis(script) + bytes(4) + interface_pointer(script, activation(script))
    elif choice == 4:
        opnum, stub = 3, tower_argument(script)
    elif choice == 5:
        stub = orpcthis(script) + script.blob()
    elif choice == 6:
        stub = orpcthis(script) + interface_pointer(script, objref(script))
    else:
        stub = script.blob() + script.blob()
    if not script.often():
        opnum = script.below(300)
    if not script.often():
        context = script.below(300)
    if not script.often():
        flags = script.pick((0, 1, 2, 7, 0x13, 0x23, 0x43, 0x83, 0xFF))
    if object_uuid and script.often():
        flags |= 0x80
    elif flags & 0x80:
        object_uuid = script.blob()[:16]
    else:
        object_uuid = b""
    call_id = recorded[12:16] if len(recorded) >= 16 else b"\1\0\0\0"
    head = bytes((5, 0, 0, flags, 16, 0, 0, 0, 0, 0, 0, 0)) + call_id
    body = struct.pack("<IHH", script.number(len(stub)), context & 0xFFFF, opnum)
    return with_length(head + body + object_uuid + stub)


def response(script: Script, recorded: bytes) -> bytes:
    """A response whose stub is the recorded one changed, or made of references, bindings and extensions."""
    stub = recorded[24:] if len(recorded) >= 24 and recorded[2] == 2 else b""
    choice = script.below(7)
    if choice < 3:
        stub = bytes(changed(script, bytearray(stub)))
    elif choice == 3:
        stub = orpcthat(script) + script.blob()
    elif choice == 4:
        stub = orpcthat(script) + interface_pointer(script, objref(script)) + bytes(4)
    elif choice == 5:
        stub = orpcthat(script) + stub[8:]
    else:
        stub = script.blob() + script.blob()
    flags = 3 if script.often() else script.byte()
    call_id = recorded[12:16].ljust(4, b"\0") if script.often() else script.pick(WIDE).to_bytes(4, "little")
    head = bytes((5, 0, 2, flags, 16 if script.often() else script.byte(), 0, 0, 0, 0, 0, 0, 0)) + call_id
    return with_length(head + struct.pack("<IHBB", script.number(len(stub)), 0, 0, 0) + stub)


def bind(script: Script, kind: int, recorded: bytes) -> bytes:
    """A BIND or ALTER_CONTEXT with interfaces that are there, ones that are not, and features."""
    count = script.below(4)
    body = struct.pack(
        "<HHIB3x",
        script.number(5840) & 0xFFFF,
        script.number(5840) & 0xFFFF,
        script.number(0),
        script.number(count) & 255,
    )
    for number in range(count):
        transfers = [script.pick(TRANSFERS) for _ in range(script.below(3))]
        if not transfers and script.often():
            transfers = [TRANSFERS[0]]
        spec = script.pick(INTERFACES)
        uuid = spec.uuid.bytes_le if script.often() else script.blob().ljust(16, b"\7")[:16]
        version = spec.version[0] | spec.version[1] << 16
        body += struct.pack("<HBx", script.number(number) & 0xFFFF, script.number(len(transfers)) & 255)
        body += uuid + struct.pack("<I", script.number(version)) + b"".join(transfers)
    made = pdu(script, kind, recorded, body)
    return with_trailer(script, made) if script.byte() > 170 else made


def bind_ack(script: Script, kind: int, recorded: bytes) -> bytes:
    count = script.below(4)
    address = script.pick((b"", b"135\0", b"1", script.blob()))
    body = struct.pack(
        "<HHIH",
        script.number(5840) & 0xFFFF,
        script.number(5840) & 0xFFFF,
        script.number(77),
        script.number(len(address)) & 0xFFFF,
    )
    body += address
    body += bytes(-(16 + len(body)) % 4) + bytes((script.number(count) & 255, 0, 0, 0))
    for _ in range(count):
        body += struct.pack("<HH", script.below(5), script.below(5)) + script.pick(TRANSFERS)
    made = pdu(script, kind, recorded, body)
    return with_trailer(script, made) if script.byte() > 200 else made


def auth3(script: Script, recorded: bytes) -> bytes:
    return with_trailer(script, pdu(script, 16, recorded, bytes(4)), b"NTLMSSP\0\3\0\0\0" + script.blob())


def with_trailer(script: Script, made: bytes, token: bytes | None = None) -> bytes:
    """An authentication trailer behind a PDU, its lengths mostly right."""
    if len(made) < 16:
        return made
    if token is None:
        token = (
            script.pick(
                (b"", bytes(16), b"NTLMSSP\0\1\0\0\0\7\x82\x08\xa2", b"\x60\x48\6\6", b"\xa1\x81\xff")
            )
            + script.blob()
        )
    padding = -len(made) % 4 if script.often() else script.below(5)
    data = bytearray(made) + bytes(padding)
    data += struct.pack(
        "<BBBBI",
        script.pick((10, 9, 16, 0, 14, 68, 255)),
        script.pick((6, 2, 4, 5, 3, 1, 0, 7)),
        script.number(padding) & 255,
        0,
        script.number(1),
    )
    data += token
    data[10:12] = (script.number(len(token)) & 0xFFFF).to_bytes(2, "little")
    return with_length(bytes(data))


# -- what is in stubs -----------------------------------------------------------------------------------------


def changed(script: Script, data: bytearray) -> bytearray:
    """Some fields on their natural boundaries overwritten, then cut or not."""
    for _ in range(script.below(4)):
        if len(data) < 4:
            break
        at = script.below(len(data) - 3) & ~3
        data[at : at + 4] = script.pick(WIDE).to_bytes(4, "little")
    if not script.often():
        del data[script.below(len(data) + 1) :]
    return data


def overwritten(script: Script, recorded: bytes) -> bytes:
    data = changed(script, bytearray(recorded))
    return with_length(bytes(data)) if script.often() else bytes(data)


def orpcthis(script: Script) -> bytes:
    major, minor = script.pick(((5, 7), (5, 1), (5, 65535), (4, 0), (6, 0)))
    flags = script.number(0)
    return struct.pack("<HHII", major, minor, flags, 0) + bytes(range(16)) + extensions(script)


def orpcthat(script: Script) -> bytes:
    return struct.pack("<I", script.number(0)) + extensions(script)


def extensions(script: Script) -> bytes:
    """ORPC_EXTENT_ARRAY behind its pointer, or NULL."""
    if script.often():
        return bytes(4)
    count = script.below(4)
    slots = (count + 1) & ~1
    out = struct.pack("<IIIIIII", 0x20000, script.number(count), 0, 0x20004, script.number(slots), 0, 0)[:-8]
    out += b"".join(struct.pack("<I", script.number(0x20008) if i < count else 0) for i in range(slots))
    for _ in range(count):
        data = script.blob()
        padded = data + bytes(-len(data) % 8)
        out += struct.pack("<I", script.number(len(padded)))
        out += ERROR_INFO if script.byte() & 1 else script.blob().ljust(16, b"\5")[:16]
        out += struct.pack("<I", script.number(len(data))) + padded
    return out


def interface_pointer(script: Script, data: bytes) -> bytes:
    """MInterfacePointer behind a unique pointer."""
    return (
        struct.pack("<III", script.number(0x20000), script.number(len(data)), script.number(len(data))) + data
    )


def objref(script: Script) -> bytes:
    """An OBJREF of any kind, its parts mostly right."""
    kind = script.pick((1, 2, 4, 8, 0, 3, 0xFFFFFFFF))
    out = b"MEOW" if script.often() else script.blob()[:4]
    out += struct.pack("<I", kind) + script.pick(INTERFACES).uuid.bytes_le
    if kind == 4:
        return out + bytes(16) + struct.pack("<II", script.number(0), script.number(4)) + script.blob()
    out += struct.pack(
        "<IIQQ", script.number(0), script.number(5), script.number(7), script.number(9)
    ) + bytes(16)
    if kind == 2:
        out += bytes(16)
    return out + bindings(script)


def bindings(script: Script) -> bytes:
    """DUALSTRINGARRAY."""
    data = bytearray(BINDINGS)
    for _ in range(script.below(3)):
        at = script.below(len(data) - 1) & ~1
        data[at : at + 2] = (script.pick(WIDE) & 0xFFFF).to_bytes(2, "little")
    return bytes(data)


def activation(script: Script) -> bytes:
    """The properties blob of an activation, changed in places."""
    data = bytearray(ACTIVATION)
    for _ in range(script.below(4)):
        at = script.below(len(data) - 3) & ~3
        data[at : at + 4] = script.pick(WIDE).to_bytes(4, "little")
    return bytes(data) if script.often() else bytes(data[: script.below(len(data))])


def tower_argument(script: Script) -> bytes:
    """The arguments of ept_map: object, tower, handle, how many."""
    tower = bytearray(Tower.of(spec_of(IEcho).uuid, (1, 0)).encode())
    for _ in range(script.below(3)):
        at = script.below(len(tower) - 1)
        tower[at : at + 2] = (script.pick(WIDE) & 0xFFFF).to_bytes(2, "little")
    if not script.often():
        del tower[script.below(len(tower)) :]
    size = len(tower)
    out = struct.pack("<I", 1) + bytes(16) + struct.pack("<III", 2, script.number(size), script.number(size))
    out += tower + bytes(-len(tower) % 4)
    return (
        out
        + (bytes(20) if script.often() else script.blob().ljust(20, b"\1")[:20])
        + struct.pack("<I", script.number(4))
    )
