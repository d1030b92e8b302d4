"""The chunked coding, decoded strictly and in any pieces. AB-17, AB-18"""

from __future__ import annotations

import pytest

from oxid.http.chunked import ChunkedDecoder
from oxid.http.errors import BadRequest

BODY = b"5\r\nhello\r\nA;name=value\r\n0123456789\r\n000\r\nTrailer: x\r\n\r\n"


@pytest.mark.parametrize("piece", [1, 2, 7, 1000])
def test_a_body_in_any_pieces(piece: int) -> None:
    decoder = ChunkedDecoder()
    content = b""
    data = BODY + b"GET / HTTP/1.1"
    at = 0
    while not decoder.ended:
        pieces, used = decoder.receive(data[at : at + piece])
        content += b"".join(pieces)
        at += used
    assert content == b"hello0123456789"
    assert data[at:] == b"GET / HTTP/1.1"
    assert decoder.receive(b"more") == ([], 0)


@pytest.mark.req("AB-18")
@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhelloX\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"\r\nhello\r\n",
        b"FFFFFFFFFFFFFFFF\r\n",
        b"5 \0\r\nhello\r\n",
        b"5\rhello\r\n",
        b"0\r\nTrailer\r\n\r\n",
        b"0\r\n folded: x\r\n\r\n",
        b"0\r\nfoo: bar\n\nGET / HTTP/1.1\r\n",
        b"5;" + b"x" * 300,
        b"0\r\n" + b"X: y\r\n" * 3000,
    ],
)
@pytest.mark.parametrize("piece", [1, 10_000])
def test_whatever_is_not_the_grammar_is_refused(body: bytes, piece: int) -> None:
    def decode() -> None:
        decoder = ChunkedDecoder()
        for at in range(0, len(body), piece):
            decoder.receive(body[at : at + piece])

    with pytest.raises(BadRequest):
        decode()
