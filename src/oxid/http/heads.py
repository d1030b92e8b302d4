"""The head of a request, read strictly. RFC 9112 2, 3, 5, 6; AB-17, AB-18, AB-19

    head = parse_request(data[: end])       `end` is behind the first empty line
    head.method, head.target, head.headers, head.content_length, head.chunked, head.keep_alive

One gate stands before both parsers, so that they judge alike: token names, CR LF line ends and nothing else, no
folded lines, no control characters. llhttp (httptools) reads the methods it knows, h11 any other; what llhttp does
not like, h11 judges again. Framing is then decided here, once: two lengths, a length with a coding, or a coding
other than chunked are refused, because peers in front of us may read them differently.
"""

from __future__ import annotations

import re
from typing import Any, Final

import h11
import httptools

from oxid.http.errors import BadRequest

MAX_LENGTH: Final = 2**63 - 1
"""The greatest Content-Length: what fits a signed 64-bit integer."""

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_HEAD: Final = re.compile(
    rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/(\d)\.(\d)\r\n"
    rb"((?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*)\r\n"
)
_FRAMING: Final = re.compile(
    rb"^(content-length|transfer-encoding):[ \t]*(.*?)[ \t]*\r$", re.IGNORECASE | re.MULTILINE
)
_LENGTH: Final = re.compile(rb"[0-9]{1,19}")
_ABSOLUTE: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*://[^/?]")
_AUTHORITY: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+):[0-9]+")
_TAKES_AUTHORITY: Final = frozenset(("CONNECT", "RPC_CONNECT"))

KNOWN: Final = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH", b"PROPFIND", b"PROPPATCH")
)
"""Methods that go to llhttp; it refuses those of RPC over HTTP."""

CONTINUE: Final = 1
CONDITION: Final = 2
"""A header asks for less than the whole answer: If-*, Range."""
AUTHORIZATION: Final = 4
SECRET: Final = 8
"""The head carries what must not be kept longer than the request."""

_MARKS: Final = {
    b"if-match": CONDITION,
    b"if-none-match": CONDITION,
    b"if-modified-since": CONDITION,
    b"if-unmodified-since": CONDITION,
    b"if-range": CONDITION,
    b"range": CONDITION,
    b"authorization": AUTHORIZATION | SECRET,
    b"proxy-authorization": SECRET,
    b"cookie": SECRET,
}

Headers = list[tuple[bytes, bytes]]


class RequestHead:
    """One request's head. Shared between requests with the same bytes: never change it."""

    __slots__ = (
        "chunked",
        "content_length",
        "headers",
        "host",
        "keep_alive",
        "marks",
        "method",
        "target",
        "version",
    )

    def __init__(self, method: str, target: bytes, version: tuple[int, int], headers: Headers) -> None:
        """Decide persistence; `headers` passed `_check_framing`. Raises BadRequest."""
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.content_length: int | None = None
        """What the head declares; None where it declares no length."""
        self.chunked = False
        self.host = b""
        self.marks = 0
        """CONTINUE, CONDITION, AUTHORIZATION and SECRET."""
        self.keep_alive = version >= (1, 1)
        self._decide()

    def _decide(self) -> None:
        hosts = 0
        connection = b""
        unmet = False
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
                self.host = value
            elif name == b"content-length":
                self.content_length = int(value)
            elif name == b"transfer-encoding":
                self.chunked = True
            elif name == b"connection":
                connection += b"," + value
            elif name == b"expect":
                unmet = unmet or value.lower() != b"100-continue"
                self.marks |= CONTINUE
            elif mark := _MARKS.get(name):
                self.marks |= mark
        if self.version >= (1, 1) and hosts != 1:
            raise BadRequest(f"{hosts} Host headers, wanted one")
        if hosts > 1:
            raise BadRequest("two Host headers")
        if self.chunked and self.version < (1, 1):
            raise BadRequest("Transfer-Encoding in HTTP/1.0")
        if unmet:
            raise BadRequest("an expectation that cannot be met", 417)
        if connection:
            wishes = [wish.strip() for wish in connection.lower().split(b",")]
            if b"close" in wishes:
                self.keep_alive = False
            elif b"keep-alive" in wishes:
                self.keep_alive = True
        _check_target(self.method, self.target)

    def header(self, name: bytes) -> bytes | None:
        """The value of a header, duplicates joined with ", "; `name` in lower case."""
        found = [value for key, value in self.headers if key == name]
        if not found:
            return None
        return found[0] if len(found) == 1 else b", ".join(found)

    def __repr__(self) -> str:
        return f"<RequestHead {self.method} HTTP/{self.version[0]}.{self.version[1]}>"


def parse_request(data: bytes, *, max_headers: int = 100) -> RequestHead:
    """Read a whole head, the empty line included. Raises BadRequest."""
    match = _HEAD.fullmatch(data)
    if match is None:
        raise BadRequest(_what_is_wrong(data))
    if match[3] != b"1" or match[4] not in (b"0", b"1"):
        raise BadRequest("a version other than HTTP/1.0 and HTTP/1.1", 505)
    if match[5].count(b"\r\n") > max_headers:
        raise BadRequest(f"more than {max_headers} headers", 431)
    _check_framing(match[5])
    if match[1] in KNOWN and (read := read_with_llhttp(data)) is not None:
        method, target, version, headers = read
    else:
        method, target, version, headers = read_with_h11(data)
    return RequestHead(method, target, version, headers)


def _check_framing(lines: bytes) -> None:
    """One length or one coding, or neither, as the bytes say it: h11 would join lengths that are alike."""
    found = _FRAMING.findall(lines)
    if not found:
        return
    if len(found) > 1:
        raise BadRequest("more than one Content-Length or Transfer-Encoding")
    name, value = found[0]
    if name[:1] in b"tT":
        if value.lower() != b"chunked":
            raise BadRequest("a transfer coding other than chunked", 501)
    elif not _LENGTH.fullmatch(value) or int(value) > MAX_LENGTH:
        raise BadRequest("Content-Length is no number of bytes")


Read = tuple[str, bytes, tuple[int, int], Headers]


class _Collector:
    """What llhttp calls back."""

    __slots__ = ("headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: Headers = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))


def read_with_llhttp(data: bytes) -> Read | None:
    """Method, target, version and headers as llhttp reads them; None where it refuses. `data` passed the gate."""
    collector = _Collector()
    parser: Any = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # it asks for another protocol; the head has been read, and we stay with HTTP
    except httptools.HttpParserError:
        return None
    version = (1, 1) if parser.get_http_version() == "1.1" else (1, 0)
    return parser.get_method().decode("ascii"), collector.target, version, collector.headers


def read_with_h11(data: bytes) -> Read:
    """The same as h11 reads it. `data` passed the gate. Raises BadRequest."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(data) + 1)
    try:
        connection.receive_data(data)
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise BadRequest(str(error), error.error_status_hint) from error
    if not isinstance(event, h11.Request):
        raise BadRequest("an incomplete head")
    version = (1, 1) if event.http_version == b"1.1" else (1, 0)
    return event.method.decode("ascii"), event.target, version, list(event.headers)


def _check_target(method: str, target: bytes) -> None:
    """The four forms of a target. RFC 9112 3.2; [MS-RPCH] 2.2.2"""
    if b"#" in target:
        raise BadRequest("a fragment in the request target")
    if target[:1] == b"/" or (target == b"*" and method == "OPTIONS") or _ABSOLUTE.match(target):
        return
    if method not in _TAKES_AUTHORITY or not _AUTHORITY.fullmatch(target):
        raise BadRequest("a request target of no known form")


_LONE_LINE_FEED: Final = re.compile(rb"(?<!\r)\n")


def lone_line_feed(data: bytes | bytearray, start: int = 0) -> bool:
    """Whether a line ends without CR from `start` on: no such head can become good."""
    return _LONE_LINE_FEED.search(data, start) is not None


def _what_is_wrong(data: bytes) -> str:
    if lone_line_feed(data):
        return "a line that ends without CR"
    if b"\0" in data:
        return "NUL in the head"
    if b"\r\n " in data or b"\r\n\t" in data:
        return "a folded header line"
    return "a malformed head"
