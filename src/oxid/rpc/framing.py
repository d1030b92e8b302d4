"""PDUs out of a byte stream, for both roles: pieces of any size give the same PDUs.

stream.receive(data)      defined by the roles, whose short paths look at `data` themselves
_take(data, at, size)     handles one whole PDU through `_on_pdu`
_keep(data, at)           remembers the beginning of one
"""

from __future__ import annotations

from typing import Final, TypeAlias

from oxid.errors import RemoteProtocolError
from oxid.rpc.pdu import HEADER_SIZE, Header, PacketType, parse_header

Buffer: TypeAlias = "bytes | bytearray | memoryview"

HELD: Final = -1
"""Input is kept, not looked at, until `release`."""
DEAF: Final = -2
"""Input is thrown away: the connection ends."""

_WITH_TOKENS: Final = frozenset(
    (PacketType.BIND, PacketType.BIND_ACK, PacketType.ALTER_CONTEXT, PacketType.ALTER_CONTEXT_RESP)
)
"""PDUs that are never fragmented, so as long as frag_length can say: a Kerberos ticket of a user in many groups
does not fit into 5,840 bytes. Windows takes them (raw_protocol.py, auth_mid_pad)."""
FULL: Final = -3
"""Input is kept, not looked at: as much as may be is under way, or waits for a peer that does not read."""


class PduStream:
    """The receiving half of a connection."""

    __slots__ = ("_max_receive", "_need", "_tail", "outgoing")

    def __init__(self, max_receive: int) -> None:
        self._max_receive = max_receive
        self._need = 0
        self._tail: bytearray | None = None
        self.outgoing: list[Buffer] | None = None

    # What the roles define ----------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer."""
        raise NotImplementedError

    def _on_pdu(self, pdu: bytes, header: Header) -> None:
        """Act on a whole PDU. Raises RemoteProtocolError."""
        raise NotImplementedError

    def _reject(self, ptype: int, call_id: int, error: RemoteProtocolError) -> None:
        """The peer broke the rules: answer as the role does, then close."""
        raise NotImplementedError

    # What a shell does --------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what is in `outgoing` and clear it."""
        raise NotImplementedError

    def hang_up(self) -> None:
        """Close the transport once everything flushed is sent; `closed` follows."""
        raise NotImplementedError

    def pause(self) -> None:
        """Read no more until `resume`."""

    def resume(self) -> None:
        """Read again."""

    def fragment_began(self) -> None:
        """A PDU or a request is incomplete: a shell may start a deadline."""

    def fragment_done(self) -> None:
        """What was incomplete is complete."""

    # ------------------------------------------------------------------------------------------------

    def _continue(self, data: bytes, held_limit: int = 1 << 20) -> int:
        """Complete the PDU that earlier bytes began; returns where in `data` the next one starts."""
        if self._need == DEAF:
            return len(data)
        tail = self._tail
        assert tail is not None
        if self._need < 0:
            tail += data
            if len(tail) > held_limit:
                self.pause()
            return len(data)
        at = 0
        while True:
            missing = self._need - len(tail)
            if len(data) - at < missing:
                tail += data[at:]
                return len(data)
            tail += data[at : at + missing]
            at += missing
            if self._need == HEADER_SIZE:
                header = self._header_of(tail, 0)
                if header is None:
                    return len(data)
                if header.frag_length > HEADER_SIZE:
                    self._need = header.frag_length
                    continue
            self._tail = None
            self._need = 0
            self.fragment_done()
            self.receive(bytes(tail))  # from here on as if it had come in one piece
            return at

    def _keep(self, data: bytes, at: int) -> None:
        """Remember the beginning of a PDU until the rest comes; all of it while input is held."""
        if self._need == DEAF:
            return
        if self._need < 0:
            self._tail = bytearray(data[at:])
            return
        need = HEADER_SIZE
        if len(data) - at >= HEADER_SIZE:
            header = self._header_of(data, at)
            if header is None:
                return
            need = header.frag_length
        self._tail = bytearray(data[at:])
        self._need = need
        self.fragment_began()

    def _header_of(self, data: bytes | bytearray, at: int) -> Header | None:
        """The header of the PDU at `at`, or None after rejecting one that cannot be."""
        try:
            header = parse_header(data, at)
            if header.frag_length < HEADER_SIZE:
                raise RemoteProtocolError(f"frag_length {header.frag_length}, wanted at least {HEADER_SIZE}")
            if header.frag_length > self._max_receive and header.ptype not in _WITH_TOKENS:
                raise RemoteProtocolError(
                    f"fragment of {header.frag_length} bytes, at most {self._max_receive}"
                )
        except RemoteProtocolError as error:
            call_id = int.from_bytes(data[at + 12 : at + 16], "little" if data[at + 4] & 0xF0 else "big")
            self._reject(data[at + 2], call_id, error)
            return None
        return header

    def _take(self, data: bytes, at: int, size: int) -> int:
        """Handle the one PDU at `at`; returns where it ended, or `at` where it is not complete."""
        if size - at < HEADER_SIZE:
            return at
        header = self._header_of(data, at)
        if header is None:
            return size
        end = at + header.frag_length
        if end > size:
            return at
        self._whole(data[at:end], header)
        return end

    def _whole(self, pdu: bytes, header: Header) -> None:
        try:
            self._on_pdu(pdu, header)
        except RemoteProtocolError as error:
            self._reject(header.ptype, header.call_id, error)

    def _queue(self, buffer: Buffer) -> None:
        out = self.outgoing
        if out is None:
            self.outgoing = [buffer]
        else:
            out.append(buffer)

    def stop(self) -> None:
        """Send what is queued, hear nothing more, hang up."""
        self._need = DEAF
        self._tail = None
        if self.outgoing:
            self.flush()
        self.hang_up()

    def hold(self) -> None:
        """Keep further input until `release`: a handshake step runs elsewhere."""
        self._need = HELD
        if self._tail is None:
            self._tail = bytearray()

    def release(self) -> None:
        """Go on with the input that `hold` kept."""
        if self._need != HELD:
            return
        held, self._tail, self._need = self._tail, None, 0
        self.resume()
        if held:
            self.receive(bytes(held))
