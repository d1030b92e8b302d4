"""Whether a client needs the whole answer: conditional requests and ranges. RFC 9110 13, 14

verdict = evaluate(method, header, etag, modified)      200, 304 or 412
ranges = ranges_of(value, size)                         [(first, last)], None to ignore it; Unsatisfiable
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from oxid.http.dates import parse_http_date

MAX_RANGES: Final = 16
"""Ranges of one request; more are an attack (CVE-2011-3192), and answered as if none had been asked for."""

_RANGE: Final = re.compile(rb"([0-9]{0,18})-([0-9]{0,18})")
_TAG: Final = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')

Header = Callable[[bytes], bytes | None]


class Unsatisfiable(Exception):
    """No range lies within the content: 416."""


def _names(value: bytes, etag: bytes, *, weak: bool) -> bool:
    """Whether a list of entity tags has this one; weakly compared, W/ does not count."""
    if value.strip() == b"*":
        return True
    for tag in _TAG.findall(value):
        if tag == etag:
            return True
        if weak and tag.removeprefix(b"W/") == etag.removeprefix(b"W/"):
            return True
    return False


def evaluate(method: str, header: Header, etag: bytes, modified: int) -> int:
    """200 to go on, 304 or 412; in the order of RFC 9110 13.2.2. `modified` in seconds since 1970."""
    value = header(b"if-match")
    if value is not None:
        if not _names(value, etag, weak=False):
            return 412
    elif (value := header(b"if-unmodified-since")) is not None:
        since = parse_http_date(value)
        if since is not None and modified > since:
            return 412
    reading = method in ("GET", "HEAD")
    value = header(b"if-none-match")
    if value is not None:
        if _names(value, etag, weak=True):
            return 304 if reading else 412
    elif reading and (value := header(b"if-modified-since")) is not None:
        since = parse_http_date(value)
        if since is not None and modified <= since:
            return 304
    return 200


def range_applies(value: bytes | None, etag: bytes, modified: int) -> bool:
    """If-Range: whether what the client has a part of is still what we have."""
    if value is None:
        return True
    value = value.strip()
    if value[:1] == b'"':
        return value == etag
    return parse_http_date(value) == modified


def ranges_of(value: bytes, size: int) -> list[tuple[int, int]] | None:
    """First and last byte of every range that can be served; None where the header is to be ignored.

    Raises Unsatisfiable where none can.
    """
    unit, equals, rest = value.partition(b"=")
    if not equals or unit.strip().lower() != b"bytes":
        return None
    asked = [part.strip() for part in rest.split(b",") if part.strip()]
    if not asked or len(asked) > MAX_RANGES:
        return None
    found = []
    for part in asked:
        match = _RANGE.fullmatch(part)
        if match is None or part == b"-":
            return None
        first, last = match[1], match[2]
        if not first:
            count = min(int(last), size)
            if count:
                found.append((size - count, size - 1))
            continue
        begin = int(first)
        if last and int(last) < begin:
            return None
        if begin < size:
            found.append((begin, min(int(last), size - 1) if last else size - 1))
    if not found:
        raise Unsatisfiable
    if sum(last - first + 1 for first, last in found) > 2 * size:
        return None  # overlapping on purpose
    return found
