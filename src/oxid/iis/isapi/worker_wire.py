"""What a web server and its worker process say to each other: frames on a socket pair. IS-70

    frame: kind (1 byte), 3 bytes of zero, stream (4), length (4), then the payload; little-endian

A stream is one request; stream 0 is the worker itself. Descriptors of files go over a second pair, each with the tag
that the frame names (SCM_RIGHTS), so that the first stays a plain stream. The parent takes nothing from the worker on
trust: what it says is parsed strictly, and a worker that talks nonsense is ended.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final

from oxid.errors import RemoteProtocolError
from oxid.iis.isapi.services import ChildRequest, ExecStatus

_HEADER: Final = struct.Struct("<B3xII")
_RESPONSE: Final = struct.Struct("<HBxI")
MAX_FRAME: Final = 16 * 1024 * 1024
"""Bytes of one payload; longer writes are cut into several frames."""
PIECE: Final = 1024 * 1024
WINDOW: Final = 256 * 1024
"""Bytes of a body, and of a response, that may be under way between the two processes per request."""


class Kind(IntEnum):
    """What a frame says."""

    # parent to worker
    LOAD = 1
    """JSON: an application; its number is the stream."""
    UNLOAD = 2
    OPEN = 3
    """JSON on one line: a request; then the first bytes of its body."""
    BODY = 4
    BODY_END = 5
    LOST = 6
    """The client is gone."""
    WRITTEN = 7
    """u32: bytes of the response that the client takes."""
    SENT = 8
    """u64: bytes of a file that went out."""
    EXECUTED = 9
    """JSON: how a child request ended, or why it did not begin."""
    PAGE = 10
    """The error page that was asked for: as RESPOND."""
    # worker to parent
    LOADED = 33
    """JSON: null, or why it could not be loaded."""
    UNLOADED = 34
    HEAD = 35
    """keep (1), then status, NUL, headers."""
    DATA = 36
    RESPOND = 37
    """A whole response; FINISH follows."""
    FINISH = 38
    """JSON: keep, abort, and what goes to the log."""
    TAKEN = 39
    """u32: bytes of the body that were taken."""
    FILE = 40
    """u32 tag, u64 offset, u64 count: send a range of the descriptor with this tag."""
    EXECUTE = 41
    """JSON: a child request."""
    CANCEL = 42
    """The child request, or the file."""
    CLOSE = 43
    """Close the client's connection now."""
    CONTINUE = 44
    """Send 100 Continue."""
    UNHEALTHY = 45
    """Text; the stream is the application."""
    INVALIDATE = 46


Frame = tuple[int, int, bytes]


class FrameReader:
    """Finds frames in bytes. Raises RemoteProtocolError for ones that are too long."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now."""
        buffer = self._buffer
        buffer += data
        at = 0
        size = len(buffer)
        found: list[Frame] = []
        while size - at >= 12:
            kind, stream, length = _HEADER.unpack_from(buffer, at)
            if length > MAX_FRAME:
                raise RemoteProtocolError(f"a frame of {length} bytes")
            if size - at - 12 < length:
                break
            found.append((kind, stream, bytes(buffer[at + 12 : at + 12 + length])))
            at += 12 + length
        if at:
            del buffer[:at]
        return iter(found)


class Link(asyncio.Protocol):
    """One end of the stream of frames. Subclasses hear `frame` and `gone`."""

    def __init__(self) -> None:
        self.transport: Any = None
        self._reader = FrameReader()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for kind, stream, payload in self._reader.feed(data):
                self.frame(kind, stream, payload)
        except (RemoteProtocolError, ValueError, KeyError, struct.error, TypeError) as error:
            self.misbehaved(error)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.gone()

    def send(self, kind: Kind, stream: int, payload: bytes | bytearray | memoryview = b"") -> None:
        """Send a frame; nothing where the other side is gone."""
        if self.transport is not None:
            header = _HEADER.pack(kind, stream, len(payload))
            self.transport.write(header + payload if len(payload) < 4096 else header)
            if len(payload) >= 4096:
                self.transport.write(payload)

    def send_json(self, kind: Kind, stream: int, value: Any) -> None:
        self.send(kind, stream, json.dumps(value).encode())

    def frame(self, kind: int, stream: int, payload: bytes) -> None:
        """A frame came."""
        raise NotImplementedError

    def gone(self) -> None:
        """The other side is gone."""
        raise NotImplementedError

    def misbehaved(self, error: Exception) -> None:
        """The other side broke the rules."""
        if self.transport is not None:
            self.transport.abort()


def pack_response(status: int, keep: bool, headers: bytes, body: bytes) -> bytes:
    """A whole response."""
    return _RESPONSE.pack(status, keep, len(headers)) + headers + body


def unpack_response(payload: bytes) -> tuple[int, bool, bytes, bytes]:
    """Status, keep, header lines, body."""
    status, keep, length = _RESPONSE.unpack_from(payload)
    return status, bool(keep), payload[8 : 8 + length], payload[8 + length :]


def child_to_json(child: ChildRequest) -> dict[str, Any]:
    return {
        "url": child.url,
        "method": child.method,
        "headers": None if child.headers is None else child.headers.decode("latin-1"),
        "entity": None if child.entity is None else child.entity.decode("latin-1"),
        "flags": child.flags,
    }


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("no text")
    return value


def child_from_json(value: dict[str, Any]) -> ChildRequest:
    headers, entity = _text(value["headers"]), _text(value["entity"])
    return ChildRequest(
        _text(value["url"]),
        _text(value["method"]),
        None if headers is None else headers.encode("latin-1", "replace"),
        None if entity is None else entity.encode("latin-1"),
        int(value["flags"]),
    )


def status_to_json(status: ExecStatus) -> list[int]:
    return [status.status, status.substatus, status.win32]
