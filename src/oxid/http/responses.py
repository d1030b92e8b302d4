"""The head of a response: written by us, or read from what others wrote. RFC 9112 4, 6.3; IS-10, SC-23

lines = header_lines([(b"Content-Length", b"4")])
framing = ResponseFraming(method="GET")
allowed = framing.sent(data)      raw bytes of a response; how many of them may go out
framing.complete                  nothing more can follow: the connection can be used again
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from oxid.errors import LocalProtocolError

REASONS: Final = {status.value: status.phrase for status in HTTPStatus} | {
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    416: "Requested Range Not Satisfiable",
}
MAX_WATCHED_HEAD: Final = 64 * 1024
"""Bytes of a head that is written raw; a longer one is not understood, and the connection closed behind it."""

_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,19})[ \t]*(?=\r\n)", re.IGNORECASE)
_LENGTHS: Final = re.compile(rb"\r\ncontent-length[ \t]*:", re.IGNORECASE)
_TRANSFER: Final = re.compile(rb"\r\ntransfer-encoding[ \t]*:[ \t]*([^\r]*)", re.IGNORECASE)
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})")
_CONNECTION: Final = re.compile(rb"\r\nconnection[ \t]*:[ \t]*([^\r]*)", re.IGNORECASE)


def status_line(status: int) -> bytes:
    """`404 Not Found`, without version and line end."""
    return b"%d %s" % (status, REASONS.get(status, "Status").encode("ascii"))


def header_lines(headers: bytes | Sequence[tuple[bytes, bytes]]) -> bytes:
    """Headers as lines that each end with CRLF, without the empty line. Raises LocalProtocolError for CR, LF, NUL."""
    if isinstance(headers, bytes | bytearray | memoryview):
        return bytes(headers)
    out = bytearray()
    for name, value in headers:
        if b"\r" in value or b"\n" in value or b"\0" in value or not name or b":" in name or b"\n" in name:
            raise LocalProtocolError(f"header {name!r} cannot be sent")
        out += name
        out += b": "
        out += value
        out += b"\r\n"
    return bytes(out)


class ResponseFraming:
    """Where a response ends, as the client will read it.

    Without a head of ours the raw bytes are watched for one. What goes beyond a declared length is never let out:
    the client would take it for the next response.
    """

    __slots__ = ("_chunked", "_head", "_headless", "_left", "_tail", "closes", "status")

    def __init__(self, method: str) -> None:
        self.status = 0
        """Of the head, once it is known."""
        self.closes = False
        """The head itself says `Connection: close`."""
        self._headless = method == "HEAD"
        self._head: bytearray | None = bytearray()
        self._left: int | None = None
        self._chunked = False
        self._tail = b"\r\n"
        """The last bytes of a chunked body, with the end of the line before it."""

    @property
    def head_known(self) -> bool:
        return self._head is None

    @property
    def delimited(self) -> bool:
        """The client can tell where the response ends without the end of the connection."""
        return self._left is not None or self._chunked

    @property
    def complete(self) -> bool:
        """Everything that was declared has been sent."""
        if self._left is not None:
            return self._left == 0
        return self._chunked and self._tail == _LAST_CHUNK

    def sent(self, data: bytes | bytearray | memoryview) -> int:
        """Take note of raw bytes; returns how many of them belong to this response."""
        if self._head is None:
            return self._body(data, 0)
        return self._watch(data)

    def _watch(self, data: bytes | bytearray | memoryview) -> int:
        head = self._head
        assert head is not None
        before = len(head)
        head += data
        end = head.find(b"\r\n\r\n", max(0, before - 3))
        if end < 0:
            if len(head) > MAX_WATCHED_HEAD:
                self._head = None  # whatever this is, only the end of the connection ends it
            return len(data)
        end += 4
        self.understand(bytes(head[:end]))
        if 100 <= self.status < 200:
            self._head = bytearray()  # an interim response: the real one follows
            return end - before + self.sent(bytes(head[end:]))
        return self._body(data, end - before)

    def understand(self, head: bytes) -> None:
        """Read a whole head, status line and empty line included."""
        self._head = None
        match = _STATUS.match(head)
        if match is None:
            return
        self.status = int(match[1])
        connection = _CONNECTION.search(head)
        self.closes = connection is not None and b"close" in connection[1].lower()
        if self._headless or self.status in (204, 304):
            self._left = 0
            return
        coding = _TRANSFER.search(head)
        lengths = _LENGTHS.findall(head)
        if coding is not None:
            self._chunked = not lengths and coding[1].strip().lower() == b"chunked"
        elif len(lengths) == 1 and (length := _CONTENT_LENGTH.search(head)) is not None:
            self._left = int(length[1])

    def _body(self, data: bytes | bytearray | memoryview, start: int) -> int:
        size = len(data) - start
        left = self._left
        if left is not None:
            if size > left:
                size = left
            self._left = left - size
        elif self._chunked:
            self._tail = (self._tail + bytes(data[-7:] if size > 7 else data[start:]))[-7:]
        return start + size

    def skip(self, count: int) -> int:
        """Take note of `count` bytes of content that do not pass through here (a file); returns how many may go."""
        left = self._left
        if left is not None:
            count = min(count, left)
            self._left = left - count
        return count
