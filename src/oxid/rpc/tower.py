"""Protocol towers: interface, transfer syntax, protocols and address, as the endpoint mapper keeps them.

    Tower.of(uuid, version=(1, 0), endpoint="49152").encode()
    Tower.decode(data).endpoint

A tower is a packed list of floors, each a left part (which protocol) and a right part (its data).
[C706] appendix L, [MS-RPCE] 2.2.1.2.1
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import pack
from typing import Final
from uuid import UUID

from oxid.errors import LocalProtocolError, RemoteProtocolError
from oxid.values.bindings import StringBinding
from oxid.values.cursor import Cursor

NDR20_UUID: Final = UUID("8a885d04-1ceb-11c9-9fe8-08002b104860")

MAX_FLOORS: Final = 6
"""More are refused. [MS-RPCE] 2.2.1.2.1"""
MAX_TOWER_SIZE: Final = 2000
"""The range of tower_length. [MS-RPCE] 2.2.1.2.2"""

# Floor protocol identifiers. [C706] appendix I
_UUID: Final = 0x0D
_NCADG, _NCACN, _LRPC = 0x0A, 0x0B, 0x0C
_TCP, _UDP, _IP, _NAMED_PIPE, _PIPE_LRPC, _NETBIOS, _HTTP = 0x07, 0x08, 0x09, 0x0F, 0x10, 0x11, 0x1F

# protseq -> (RPC protocol, endpoint's floor, address' floor or None)
_SHAPES: Final = {
    "ncacn_ip_tcp": (_NCACN, _TCP, _IP),
    "ncadg_ip_udp": (_NCADG, _UDP, _IP),
    "ncacn_http": (_NCACN, _HTTP, _IP),
    "ncacn_np": (_NCACN, _NAMED_PIPE, _NETBIOS),
    "ncalrpc": (_LRPC, _PIPE_LRPC, None),
}
_PROTSEQS: Final = {(rpc, endpoint): name for name, (rpc, endpoint, _) in _SHAPES.items()}
_PORTS: Final = frozenset({_TCP, _UDP, _HTTP})


@dataclass(frozen=True, slots=True)
class Floor:
    """One layer: a protocol identifier with the rest of the left part, and the right part."""

    protocol: int
    rest: bytes = b""
    right: bytes = b""


@dataclass(frozen=True, slots=True)
class Tower:
    floors: tuple[Floor, ...]

    @classmethod
    def of(
        cls,
        interface: UUID,
        version: tuple[int, int] = (1, 0),
        *,
        protseq: str = "ncacn_ip_tcp",
        endpoint: str = "0",
        host: str = "0.0.0.0",
        transfer: UUID = NDR20_UUID,
        transfer_version: tuple[int, int] = (2, 0),
    ) -> Tower:
        """Build the usual floors. An address that is not IPv4 becomes 0.0.0.0, which every reader ignores."""
        shape = _SHAPES.get(protseq)
        if shape is None:
            raise LocalProtocolError(f"no towers for {protseq}; known: {', '.join(_SHAPES)}")
        rpc, endpoint_floor, address_floor = shape
        floors = [
            _uuid_floor(interface, version),
            _uuid_floor(transfer, transfer_version),
            Floor(rpc, right=pack("<H", 0)),
            Floor(endpoint_floor, right=_endpoint_bytes(endpoint_floor, endpoint)),
        ]
        if address_floor == _IP:
            floors.append(Floor(_IP, right=_ipv4(host)))
        elif address_floor is not None:
            floors.append(Floor(address_floor, right=host.encode("ascii", "replace") + b"\0"))
        return cls(tuple(floors))

    def encode(self) -> bytes:
        out = bytearray(pack("<H", len(self.floors)))
        for floor in self.floors:
            out += pack("<HB", 1 + len(floor.rest), floor.protocol) + floor.rest
            out += pack("<H", len(floor.right)) + floor.right
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes) -> Tower:
        """Read a tower. Raises RemoteProtocolError for one that is too long, too high or cut short."""
        if len(data) > MAX_TOWER_SIZE:
            raise RemoteProtocolError(f"a tower of {len(data)} bytes; at most {MAX_TOWER_SIZE} are allowed")
        cursor = Cursor(data, wrong=RemoteProtocolError)
        count = cursor.u16()
        if not 1 <= count <= MAX_FLOORS:
            raise RemoteProtocolError(f"a tower of {count} floors; 1 to {MAX_FLOORS} are allowed")
        return cls(tuple(_floor(cursor) for _ in range(count)))

    @property
    def interface(self) -> UUID:
        return self._syntax(0)[0]

    @property
    def version(self) -> tuple[int, int]:
        return self._syntax(0)[1]

    @property
    def transfer(self) -> UUID:
        return self._syntax(1)[0]

    @property
    def transfer_version(self) -> tuple[int, int]:
        return self._syntax(1)[1]

    @property
    def protseq(self) -> str:
        """The protocol sequence's name, or the floors' numbers where the combination has none."""
        rpc, endpoint = self._floor(2).protocol, self._floor(3).protocol
        return _PROTSEQS.get((rpc, endpoint), f"tower_{rpc:#x}_{endpoint:#x}")

    @property
    def endpoint(self) -> str:
        """A port number in decimal, or a name."""
        floor = self._floor(3)
        if floor.protocol in _PORTS:
            if len(floor.right) != 2:
                raise RemoteProtocolError(f"a port of {len(floor.right)} bytes in a tower")
            return str(int.from_bytes(floor.right, "big"))
        return _name(floor.right)

    @property
    def host(self) -> str:
        """The address, or nothing where the tower does not tell one."""
        if len(self.floors) < 5:
            return ""
        floor = self.floors[4]
        if floor.protocol == _IP:
            if len(floor.right) != 4:
                raise RemoteProtocolError(f"an IPv4 address of {len(floor.right)} bytes in a tower")
            return ".".join(str(byte) for byte in floor.right)
        return _name(floor.right)

    def binding(self) -> StringBinding:
        return StringBinding(self.protseq, self.host, self.endpoint)

    def _floor(self, index: int) -> Floor:
        if index >= len(self.floors):
            raise RemoteProtocolError(f"a tower of {len(self.floors)} floors has no floor {index + 1}")
        return self.floors[index]

    def _syntax(self, index: int) -> tuple[UUID, tuple[int, int]]:
        floor = self._floor(index)
        if floor.protocol != _UUID or len(floor.rest) != 18 or len(floor.right) != 2:
            raise RemoteProtocolError(f"floor {index + 1} of a tower is not an interface identifier")
        major = int.from_bytes(floor.rest[16:18], "little")
        return UUID(bytes_le=floor.rest[:16]), (major, int.from_bytes(floor.right, "little"))


def _floor(cursor: Cursor) -> Floor:
    left = cursor.take(cursor.u16())
    if not left:
        raise RemoteProtocolError("a tower's floor without a protocol identifier")
    return Floor(left[0], left[1:], cursor.take(cursor.u16()))


def _uuid_floor(uuid: UUID, version: tuple[int, int]) -> Floor:
    return Floor(_UUID, uuid.bytes_le + pack("<H", version[0]), pack("<H", version[1]))


def _endpoint_bytes(floor: int, endpoint: str) -> bytes:
    if floor not in _PORTS:
        try:
            return endpoint.encode("ascii") + b"\0"
        except UnicodeEncodeError as error:
            raise LocalProtocolError(f"endpoint {endpoint!r} is not ASCII") from error
    if not (endpoint.isascii() and endpoint.isdigit() and int(endpoint) <= 0xFFFF):
        raise LocalProtocolError(f"endpoint {endpoint!r} is not a port number")
    return pack(">H", int(endpoint))


def _ipv4(host: str) -> bytes:
    parts = host.split(".")
    if len(parts) == 4 and all(p.isascii() and p.isdigit() and len(p) <= 3 and int(p) < 256 for p in parts):
        return bytes(int(part) for part in parts)
    return bytes(4)


def _name(right: bytes) -> str:
    return right.rstrip(b"\0").decode("ascii", "replace")
