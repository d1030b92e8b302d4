"""Request heads: what is read, and that nothing ambiguous is. RFC 9112; AB-17 to AB-19"""

from __future__ import annotations

import pytest

from oxid.http.errors import BadRequest
from oxid.http.heads import AUTHORIZATION, CONDITION, CONTINUE, SECRET, parse_request


def head(lines: bytes, start: bytes = b"GET /a?b HTTP/1.1\r\nHost: here\r\n") -> bytes:
    return start + lines + b"\r\n"


def refused(raw: bytes) -> int:
    with pytest.raises(BadRequest) as caught:
        parse_request(raw)
    return caught.value.code


@pytest.mark.parametrize("method", [b"GET", b"RPC_IN_DATA", b"RPC_OUT_DATA", b"MKACTIVITY", b"x-any.token"])
def test_any_method_is_read(method: bytes) -> None:
    read = parse_request(
        method + b" /rpc/rpcproxy.dll?srv:593 HTTP/1.1\r\nHost:  here \r\nX-Y: 1\r\nX-y:2\r\n\r\n"
    )
    assert read.method == method.decode()
    assert read.target == b"/rpc/rpcproxy.dll?srv:593"
    assert read.headers == [(b"host", b"here"), (b"x-y", b"1"), (b"x-y", b"2")]
    assert read.header(b"x-y") == b"1, 2"
    assert read.header(b"none") is None
    assert read.keep_alive
    assert read.content_length is None


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: X, CLOSE\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"RPC_OUT_DATA"])
def test_who_wants_the_connection_kept(method: bytes, version: bytes, connection: bytes, kept: bool) -> None:
    raw = method + b" / HTTP/" + version + b"\r\nHost: here\r\n" + connection + b"\r\n"
    assert parse_request(raw).keep_alive is kept


@pytest.mark.req("AB-17", "AB-18")
@pytest.mark.parametrize("method", [b"POST", b"RPC_IN_DATA"])
@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (b"Content-Length: +76\r\n", 400),
        (b"Content-Length: 76, 76\r\n", 400),
        (b"Content-Length: 76\r\nContent-Length: 76\r\n", 400),
        (b"Content-Length: -1\r\n", 400),
        (b"Content-Length: 0x10\r\n", 400),
        (b"Content-Length: 1_0\r\n", 400),
        (b"Content-Length:\r\n", 400),
        (b"Content-Length: 18446744073709551616\r\n", 400),
        (b"Content-Length: 9223372036854775808\r\n", 400),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
        (b"Transfer-Encoding: xchunked\r\n", 501),
        (b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding : chunked\r\n", 400),
        (b"X: a\r\n b\r\n", 400),
        (b"X: a\r\n\tb\r\n", 400),
        (b"X: a\nY: b\r\n", 400),
        (b"X: a\rb\r\n", 400),
        (b"X: a\0b\r\n", 400),
        (b"X\0: a\r\n", 400),
        (b"X Y: a\r\n", 400),
        (b": a\r\n", 400),
        (b"X\r\n", 400),
        (b" X: a\r\n", 400),
        (b"X\xe4: a\r\n", 400),
        (b"Host: two\r\n", 400),
        (b"Expect: 200-ok\r\n", 417),
        (b"".join(b"X-%d: 1\r\n" % n for n in range(101)), 431),
    ],
)
def test_ambiguous_heads_are_refused(method: bytes, lines: bytes, code: int) -> None:
    assert refused(head(lines, method + b" / HTTP/1.1\r\nHost: here\r\n")) == code


@pytest.mark.req("AB-17")
@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"GET  / HTTP/1.1", 400),
        (b"GET / HTTP/1.1 ", 400),
        (b" GET / HTTP/1.1", 400),
        (b"GET /\tx HTTP/1.1", 400),
        (b"GET / x HTTP/1.1", 400),
        (b"GET /\0 HTTP/1.1", 400),
        (b"GET /\xff HTTP/1.1", 400),
        (b"GET /a#b HTTP/1.1", 400),
        (b"GET a HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 400),
        (b"G(T / HTTP/1.1", 400),
        (b"GET / HTTP/1.2", 505),
        (b"GET / HTTP/2.0", 505),
        (b"GET / HTTP/1.11", 400),
        (b"GET / http/1.1", 400),
        (b"GET /", 400),
        (b"GET server:80 HTTP/1.1", 400),
    ],
)
def test_request_lines_that_are_none(line: bytes, code: int) -> None:
    assert refused(line + b"\r\nHost: here\r\n\r\n") == code


def test_a_request_of_http_1_1_names_its_host() -> None:
    assert refused(b"GET / HTTP/1.1\r\n\r\n") == 400
    assert parse_request(b"GET / HTTP/1.0\r\n\r\n").host == b""


@pytest.mark.parametrize(
    "target", [b"server:593", b"[::1]:593", b"http://server:593/", b"/rpc/rpcproxy.dll?server:593"]
)
def test_rpc_connect_takes_all_three_forms(target: bytes) -> None:
    read = parse_request(b"RPC_CONNECT " + target + b" HTTP/1.1\r\nHost: proxy\r\n\r\n")
    assert read.target == target


def test_marks_say_what_a_head_asks_for() -> None:
    assert parse_request(head(b"")).marks == 0
    assert parse_request(head(b"Expect: 100-Continue\r\n")).marks == CONTINUE
    assert parse_request(head(b"Range: bytes=0-\r\nIf-Match: *\r\n")).marks == CONDITION
    assert parse_request(head(b"Authorization: x\r\n")).marks == AUTHORIZATION | SECRET
    assert parse_request(head(b"Cookie: x\r\n")).marks == SECRET


def test_an_upgrade_is_not_taken() -> None:
    read = parse_request(head(b"Connection: Upgrade\r\nUpgrade: websocket\r\n"))
    assert read.header(b"upgrade") == b"websocket"
    assert read.method == "GET"
