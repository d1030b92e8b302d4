"""The chunked transfer coding, decoded strictly. RFC 9112 7.1; AB-17, AB-18

    decoder = ChunkedDecoder()
    pieces, used = decoder.receive(data)        what it means, and how many bytes of `data` belong to this body
    decoder.ended

h11's decoder takes line feeds without CR in trailers, which others in front of us may read differently: this one
refuses everything that is not exactly the grammar. Extensions and trailers are skipped, and bounded.
"""

from __future__ import annotations

import re
from typing import Final

from oxid.http.errors import BadRequest

MAX_SIZE_LINE: Final = 256
"""Bytes of a chunk's size line with its extensions; nobody known sends extensions at all."""
MAX_TRAILERS: Final = 8192
"""Bytes of all trailer lines, which are not given to anybody."""

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")

_IN_SIZE, _IN_DATA, _BEHIND_DATA, _IN_TRAILERS, _ENDED = range(5)


class ChunkedDecoder:
    """Takes the bytes of one body in any pieces."""

    __slots__ = ("_left", "_line", "_state", "_trailers")

    def __init__(self) -> None:
        self._state = _IN_SIZE
        self._left = 0
        self._line = bytearray()
        self._trailers = 0

    @property
    def ended(self) -> bool:
        return self._state == _ENDED

    def receive(self, data: bytes) -> tuple[list[bytes], int]:
        """Decode; returns the pieces of content and how many bytes were used. Raises BadRequest."""
        pieces: list[bytes] = []
        at = 0
        size = len(data)
        while at < size and self._state != _ENDED:
            if self._state == _IN_DATA:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _BEHIND_DATA
                continue
            at = self._take_line(data, at)
        return pieces, at

    def _take_line(self, data: bytes, at: int) -> int:
        """Go on with a line; when it is whole, act on it. Returns where the next byte is."""
        end = data.find(b"\n", at)
        stop = len(data) if end < 0 else end + 1
        self._line += data[at:stop]
        if len(self._line) > (MAX_TRAILERS if self._state == _IN_TRAILERS else MAX_SIZE_LINE):
            raise BadRequest("a line of the chunked coding is too long")
        if end < 0:
            if b"\r" in self._line[:-1]:
                raise BadRequest("a lone CR in the chunked coding")
            return stop
        if not self._line.endswith(b"\r\n"):
            raise BadRequest("a line of the chunked coding ends without CR")
        line = bytes(self._line[:-2])
        self._line.clear()
        self._act(line)
        return stop

    def _act(self, line: bytes) -> None:
        if self._state == _BEHIND_DATA:
            if line:
                raise BadRequest("a chunk is longer than it said")
            self._state = _IN_SIZE
        elif self._state == _IN_SIZE:
            match = _SIZE.fullmatch(line)
            if match is None:
                raise BadRequest("a malformed chunk size")
            self._left = int(match[1], 16)
            self._state = _IN_DATA if self._left else _IN_TRAILERS
        elif not line:
            self._state = _ENDED
        else:
            self._trailers += len(line)
            if self._trailers > MAX_TRAILERS or not _TRAILER.fullmatch(line):
                raise BadRequest("malformed or too many trailers")

    def __repr__(self) -> str:
        return f"<ChunkedDecoder {'ended' if self.ended else f'{self._left} bytes left of a chunk'}>"
