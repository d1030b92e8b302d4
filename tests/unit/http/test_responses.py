"""Where a response ends, as the client will read it. IS-10, SC-23"""

from __future__ import annotations

import pytest

from oxid.errors import LocalProtocolError
from oxid.http.responses import ResponseFraming, header_lines


def send(framing: ResponseFraming, raw: bytes, piece: int) -> int:
    return sum(framing.sent(raw[at : at + piece]) for at in range(0, len(raw), piece))


@pytest.mark.parametrize("piece", [1, 5, 1000])
def test_a_declared_length_is_watched_whoever_wrote_the_head(piece: int) -> None:
    head = b"HTTP/1.1 201 Made\r\nContent-Length: 5\r\nX: y\r\n\r\n"
    framing = ResponseFraming("GET")
    assert send(framing, head + b"1234", piece) == len(head) + 4
    assert framing.delimited
    assert not framing.complete
    assert framing.status == 201
    assert framing.sent(b"56789") == 1
    assert framing.complete
    assert framing.sent(b"x") == 0


@pytest.mark.parametrize("piece", [1, 5, 1000])
def test_a_chunked_response_ends_with_its_last_chunk(piece: int) -> None:
    framing = ResponseFraming("GET")
    raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    send(framing, raw[:-2], piece)
    assert framing.delimited
    assert not framing.complete
    send(framing, raw[-2:], piece)
    assert framing.complete


@pytest.mark.parametrize(
    ("body", "complete"),
    [
        (b"0\r\n\r\n", True),
        (b"3\r\nabc\r\n0\r\n\r\n", True),
        (b"10\r\n\r\n", False),
        (b"3\r\nabc\r\n20\r\n\r\n", False),
        (b"0\r\n", False),
        (b"", False),
    ],
)
def test_what_only_looks_like_a_last_chunk_is_none(body: bytes, complete: bool) -> None:
    framing = ResponseFraming("GET")
    framing.sent(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for byte in body:
        framing.sent(bytes([byte]))
    assert framing.complete is complete
    framing = ResponseFraming("GET")
    framing.sent(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert framing.complete is complete


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"no head at all\r\n\r\n",
        b"x" * 70_000,
    ],
)
def test_other_responses_end_with_the_connection(head: bytes) -> None:
    framing = ResponseFraming("GET")
    assert framing.sent(head) == len(head)
    assert not framing.delimited
    assert not framing.complete
    assert framing.sent(b"more") == 4


def test_head_and_304_have_no_content() -> None:
    framing = ResponseFraming("HEAD")
    framing.sent(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert framing.complete
    assert framing.sent(b"12345") == 0
    framing = ResponseFraming("GET")
    framing.sent(b"HTTP/1.1 304 Not Modified\r\n\r\n")
    assert framing.complete


def test_an_interim_response_is_not_the_response() -> None:
    framing = ResponseFraming("GET")
    framing.sent(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab")
    assert framing.complete
    assert framing.status == 200


def test_headers_that_would_split_a_response_are_not_sent() -> None:
    with pytest.raises(LocalProtocolError):
        header_lines([(b"X", b"a\r\nSet-Cookie: b")])
    assert header_lines([(b"X", b"a")]) == b"X: a\r\n"
