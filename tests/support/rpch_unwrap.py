"""Take RPC over HTTP out of its HTTP: tshark 4 dissects only the first PDUs of a channel, and with this every one.

sessions = unwrap(path, ports=["80"])      the tunnels of a capture, each with its PDUs in the order they passed
write(sessions, other_path)                the same as a capture of plain DCE/RPC, one TCP connection per tunnel

Only plain HTTP can be read. A tunnel of version 2 is two or more connections that name one virtual connection.
"""

from __future__ import annotations

import struct
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

PORT: Final = 593
"""Where `write` says that the server was."""
RTS: Final = 20
_HEADER: Final = 16
_LINKTYPE_RAW: Final = 101
_CONNECT_COMMANDS: Final = (4, 6)  # commands of CONN/A1 and CONN/B1, which name the virtual connection


class Pdu(NamedTuple):
    """One PDU of a tunnel."""

    to_server: bool
    data: bytes

    @property
    def type(self) -> int:
        return self.data[2]


@dataclass
class Session:
    """One tunnel."""

    methods: set[str] = field(default_factory=set)
    pdus: list[Pdu] = field(default_factory=list)

    def types(self) -> Counter[int]:
        return Counter(pdu.type for pdu in self.pdus)


class _Way:
    """What one end of one TCP connection sent, and how much of it is read."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.skip = 0
        self.method = ""

    def feed(self, data: bytes) -> list[bytes]:
        """The PDUs that are whole now. Heads and bodies of other messages are left out."""
        self.data += data
        found = []
        while self.data:
            if self.skip:
                dropped = min(self.skip, len(self.data))
                del self.data[:dropped]
                self.skip -= dropped
            elif self.data[0] != 5:
                end = self.data.find(b"\r\n\r\n")
                if end < 0:
                    break
                self._head(bytes(self.data[:end]))
                del self.data[: end + 4]
            else:
                length = int.from_bytes(self.data[8:10], "little") if len(self.data) >= _HEADER else 0
                if length < _HEADER or len(self.data) < length:
                    break
                found.append(bytes(self.data[:length]))
                del self.data[:length]
        return found

    def _head(self, head: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        fields = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)
        }
        length = int(fields.get(b"content-length", b"0"))
        start, second, *_ = first.decode("latin-1").split(" ")
        if not start.startswith("HTTP/"):
            self.method = start
            tunnel = start.startswith("RPC_") and not 0 < length <= 16
        else:
            tunnel = second == "200" and length > 32
        self.skip = 0 if tunnel else length


def unwrap(path: Path, *, ports: Sequence[str]) -> list[Session]:
    """The tunnels through web servers on these ports."""
    fields = ("tcp.stream", "tcp.dstport", "tcp.payload")
    done = subprocess.run(
        ["tshark", "-r", str(path), "-Y", "tcp.len > 0 && !tcp.analysis.retransmission", "-T", "fields"]
        + [word for name in fields for word in ("-e", name)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    ways: dict[tuple[str, bool], _Way] = {}
    sessions: dict[bytes | str, Session] = {}
    of_stream: dict[str, bytes | str] = {}
    for line in done.stdout.splitlines():
        stream, port, payload = line.split("\t")
        to_server = port in ports
        way = ways.setdefault((stream, to_server), _Way())
        for data in way.feed(bytes.fromhex(payload.replace(":", ""))):
            if data[2] == RTS and int.from_bytes(data[18:20], "little") in _CONNECT_COMMANDS and to_server:
                of_stream.setdefault(stream, data[32:48])
            session = sessions.setdefault(of_stream.get(stream, stream), Session())
            if request := ways.get((stream, True)):
                session.methods.add(request.method)
            session.pdus.append(Pdu(to_server, data))
    return list(sessions.values())


def write(sessions: Iterable[Session], path: Path, *, rts: bool = True) -> None:
    """Write a capture of one TCP connection per tunnel, with its RTS PDUs or without them."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0x40000, _LINKTYPE_RAW))
        for number, session in enumerate(sessions):
            sequence = {True: 1, False: 1}
            for index, pdu in enumerate(session.pdus):
                if pdu.type == RTS and not rts:
                    continue
                packet = _packet(40000 + number, pdu, sequence)
                file.write(struct.pack("<IIII", index // 1_000_000, index, len(packet), len(packet)) + packet)
                sequence[pdu.to_server] += len(pdu.data)


def _packet(client_port: int, pdu: Pdu, sequence: dict[bool, int]) -> bytes:
    """One segment of TCP over IPv4, without checksums: tshark checks none by default."""
    ends = [(b"\x7f\0\0\1", client_port), (b"\x7f\0\0\2", PORT)]
    source, destination = ends if pdu.to_server else reversed(ends)
    tcp = struct.pack(
        ">HHIIBBHHH",
        source[1],
        destination[1],
        sequence[pdu.to_server],
        sequence[not pdu.to_server],
        0x50,
        0x18,
        0xFFFF,
        0,
        0,
    )
    length = 20 + len(tcp) + len(pdu.data)
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, length, 0, 0, 64, 6, 0, source[0], destination[0])
    return ip + tcp + pdu.data
