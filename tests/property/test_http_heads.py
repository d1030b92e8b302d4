"""Both parsers judge alike, any split of the bytes means the same, garbage is understood or refused. AB-17, AB-18"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oxid.http.chunked import ChunkedDecoder
from oxid.http.errors import BadRequest
from oxid.http.heads import RequestHead, parse_request, read_with_h11, read_with_llhttp

METHODS = st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT", b"RPC_IN_DATA", b"Get", b"G ET"])
TARGETS = st.one_of(
    st.sampled_from(
        [b"/", b"/a?b", b"*", b"http://h/x", b"a:1", b"//x", b"/%zz", b"/a#b", b'/"<>{}|^`[]', b"/\\"]
    ),
    st.binary(min_size=1, max_size=12).map(lambda raw: b"/" + raw),
)
NAMES = st.sampled_from(
    [
        b"Host",
        b"Content-Length",
        b"Transfer-Encoding",
        b"Connection",
        b"Upgrade",
        b"Expect",
        b"X",
        b"X Y",
        b"",
        b"H\xe4",
    ]
)
VALUES = st.one_of(
    st.sampled_from(
        [b"h", b"5", b"5, 5", b"+5", b"chunked", b"Chunked ", b"close", b"keep-alive, upgrade", b"\ta\t"]
    ),
    st.binary(max_size=10),
)
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r\n "])


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2"]))
    out = draw(METHODS) + b" " + draw(TARGETS) + b" " + version + draw(ENDS) + b"Host: here\r\n"
    for name, value, end in draw(st.lists(st.tuples(NAMES, VALUES, ENDS), max_size=4)):
        out += name + b": " + value + end
    return out + b"\r\n"


def judged(raw: bytes) -> RequestHead | int:
    """The head, or the status it is refused with."""
    try:
        return parse_request(raw)
    except BadRequest as error:
        return error.code


def seen(head: RequestHead) -> tuple[object, ...]:
    return (
        head.target, head.version, head.headers, head.content_length, head.chunked, head.keep_alive, head.marks
    )  # fmt: skip


@pytest.mark.req("AB-17", "AB-18")
@given(heads())
@example(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n\r\n")
@example(b"PUT / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
def test_llhttp_and_h11_give_the_same_verdict_on_the_same_head(raw: bytes) -> None:
    """A method that only h11 takes, with the same head behind it, is the same request or the same refusal."""
    read = judged(raw)
    other = judged(b"X-" + raw)
    if isinstance(read, int) or isinstance(other, int):
        assert read == other
        return
    assert seen(read) == seen(other)
    assert other.method == "X-" + read.method
    if (fast := read_with_llhttp(raw)) is not None:
        assert fast == read_with_h11(raw)


@given(st.binary(max_size=200))
def test_garbage_is_understood_or_refused(raw: bytes) -> None:
    found = judged(raw + b"\r\n\r\n")
    assert not isinstance(found, int) or 400 <= found < 600


@given(st.binary(max_size=60), st.data())
def test_any_split_of_a_chunked_body_means_the_same(noise: bytes, data: st.DataObject) -> None:
    raw = data.draw(st.sampled_from([b"", b"3\r\nabc\r\n", b"3;x\r\nabc\r\n0\r\nA: b\r\n\r\nGET"])) + noise

    def decode(cuts: list[int]) -> tuple[bytes, int] | str:
        decoder = ChunkedDecoder()
        content, used = b"", 0
        try:
            for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
                pieces, count = decoder.receive(raw[start:end])
                content += b"".join(pieces)
                used += count
                if decoder.ended:
                    break
        except BadRequest:
            return "refused"
        return content, used

    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    assert decode(cuts) == decode([])
