"""Heads that go with a whole body: most answers are a head, one write of what it declares, and the end.

Such an answer is held until the request ends, or somebody would notice, and then sent as one. What a head means is
remembered: extensions send the same few again and again.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, NamedTuple

MOST: Final = 512
"""Heads remembered."""
LARGEST: Final = 64 * 1024
"""Bytes of a body that is held."""

_OWN: Final = frozenset((b"connection", b"transfer-encoding", b"server", b"date", b"content-length"))
_LINES: Final = {b"%d %s" % (one.value, one.phrase.encode()): one.value for one in HTTPStatus}
_heads: dict[tuple[bytes, bytes], WholeHead | None] = {}


class WholeHead(NamedTuple):
    """A head with a Content-Length and nothing that asks for special treatment."""

    status: int
    length: int
    lines: bytes
    """The headers without Content-Length."""


def whole_head(status: bytes, headers: bytes) -> WholeHead | None:
    """What a status and headers with their empty line mean; None where they are to be sent as they are."""
    key = status, headers
    if key in _heads:
        return _heads[key]
    found = _read(status, headers)
    if len(headers) <= 1024:
        if len(_heads) >= MOST:
            _heads.clear()
        _heads[key] = found
    return found


def _read(status: bytes, headers: bytes) -> WholeHead | None:
    code = _LINES.get(status)
    if code is None or code < 200 or code in (204, 304) or not headers.endswith(b"\r\n\r\n"):
        return None
    length = None
    kept: list[bytes] = []
    for line in headers[:-4].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        low = name.lower()
        if not colon or name != name.strip() or not line or b"\n" in line or b"\r" in line:
            return None  # also content behind an empty line
        if low == b"content-length" and length is None and value.strip().isdigit():
            length = int(value)
        elif low in _OWN:
            return None
        else:
            kept.append(line + b"\r\n")
    if length is None or length > LARGEST:
        return None
    return WholeHead(code, length, b"".join(kept))
