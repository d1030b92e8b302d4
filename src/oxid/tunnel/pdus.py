"""PDUs out of a channel's byte stream; RPC PDUs stay opaque.

    class Something(PduStream):              a leg of a machine
        def on_rpc(self, data, size)         one or more RPC PDUs in one buffer, `size` bytes
        def on_rts(self, pdu)                one whole RTS PDU
        def on_broken(self, error)           the stream is no stream of PDUs, or a handler raised
    something.receive(data)

Proxies get whole PDUs only, because they put their own between them. Where the stream ends (`flowing`), RPC data is
handed up as it comes: the RPC runtime above joins its own fragments. In the common case a piece is handed on as it
came, after one look at one header.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

from oxid.errors import RemoteProtocolError
from oxid.tunnel.ports import Buffer
from oxid.tunnel.rts import MAX_RTS, RTS_TYPE

HEADER: Final = Struct("<BxBxBxxxH")
"""rpc_vers, PTYPE, the byte of drep that says the byte order, frag_length."""
COMMON_HEADER: Final = 16
_unpack: Final = HEADER.unpack_from


def pdu_length(data: Buffer, at: int) -> int:
    """frag_length of the PDU at `at`, of which the header is there. Raises RemoteProtocolError."""
    version, ptype, drep, length = _unpack(data, at)
    if not drep & 0x10:
        length = (length & 0xFF) << 8 | length >> 8
    if version != 5 or length < COMMON_HEADER:
        raise RemoteProtocolError(f"no PDU: version {version}, type {ptype}, {length} bytes")
    return int(length)


class PduStream:
    """The receiving half of a leg."""

    __slots__ = ("_left", "_need", "_tail", "began", "deaf", "now")

    flowing = False
    """Whether RPC data is handed on before its PDU is complete."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.deaf = False
        """What still comes is thrown away: the leg has ended."""
        self.began: float | None = None
        """Since when the rest of a PDU is missing."""
        self._tail: bytearray | None = None
        self._need = 0
        self._left = 0
        """Bytes of the RPC PDU that is flowing."""

    def on_rpc(self, data: Buffer, size: int) -> None:
        """Take RPC PDUs. Raises RemoteProtocolError."""
        raise NotImplementedError

    def on_rts(self, pdu: Buffer) -> None:
        """Take an RTS PDU. Raises RemoteProtocolError."""
        raise NotImplementedError

    def on_broken(self, error: RemoteProtocolError) -> None:
        """The peer broke the rules."""
        raise NotImplementedError

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer."""
        size = len(data)
        try:
            if size >= COMMON_HEADER and self._tail is None and not self._left:
                version, ptype, drep, length = _unpack(data)
                if length == size and drep & 0x10 and version == 5 and ptype != RTS_TYPE and not self.deaf:
                    self.on_rpc(data, size)
                    return
            if not self.deaf:
                self._walk(data, size)
        except RemoteProtocolError as error:
            self.on_broken(error)

    def _walk(self, data: bytes, size: int) -> None:
        at = 0
        if self._tail is not None:
            at = self._continue(data, size)
        start = at
        if self._left and at < size:
            flows = min(size - at, self._left)
            self._left -= flows
            at += flows
        rts = False
        while not self.deaf:
            end = at
            while size - at >= COMMON_HEADER:
                version, ptype, drep, length = _unpack(data, at)
                if version != 5 or not drep & 0x10 or length < COMMON_HEADER:
                    length = pdu_length(data, at)
                end = at + length
                rts = ptype == RTS_TYPE
                if rts or end > size:
                    break
                at = end
            if self.flowing and not rts and end > size:
                self._left = end - size
                at = size
            if at > start:
                if at - start == size:
                    self.on_rpc(data, size)
                else:
                    self.on_rpc(memoryview(data)[start:at], at - start)
                start = at
                if self.deaf:
                    return
            if not rts:
                break
            rts = False
            if end - at > MAX_RTS:
                raise RemoteProtocolError(f"RTS PDU of {end - at} bytes, at most {MAX_RTS}")
            if end > size:
                break
            self.on_rts(data[at:end])
            start = at = end
        if at < size and not self.deaf:
            self._keep(data, at)

    def _keep(self, data: bytes, at: int) -> None:
        """Remember the beginning of a PDU."""
        self._tail = bytearray(memoryview(data)[at:])
        self._need = pdu_length(self._tail, 0) if len(self._tail) >= COMMON_HEADER else 0
        self.began = self.now()

    def _continue(self, data: bytes, size: int) -> int:
        """Complete the PDU that earlier bytes began; returns where in `data` the next one starts."""
        tail = self._tail
        assert tail is not None
        at = 0
        if not self._need:
            at = min(size, COMMON_HEADER - len(tail))
            tail += data[:at]
            if len(tail) < COMMON_HEADER:
                return at
            self._need = pdu_length(tail, 0)
            if tail[2] == RTS_TYPE and self._need > MAX_RTS:
                raise RemoteProtocolError(f"RTS PDU of {self._need} bytes, at most {MAX_RTS}")
            if self.flowing and tail[2] != RTS_TYPE:
                self._tail = self.began = None
                self._left = self._need - COMMON_HEADER
                self.on_rpc(bytes(tail), COMMON_HEADER)
                return at
        missing = self._need - len(tail)
        if size - at < missing:
            tail += memoryview(data)[at:]
            return size
        tail += memoryview(data)[at : at + missing]
        self._tail = self.began = None
        if tail[2] == RTS_TYPE:
            self.on_rts(tail)
        else:
            self.on_rpc(tail, len(tail))
        return at + missing

    def silence(self) -> None:
        """Hear nothing more."""
        self.deaf = True
        self._tail = self.began = None
        self._left = 0

    @property
    def incomplete(self) -> bool:
        """Whether the stream would end in the middle of a PDU if it ended now."""
        return self._tail is not None or self._left > 0
