"""Paths are decoded once, and refused where they would have to be repaired. AB-23, IS-41"""

from __future__ import annotations

import pytest

from oxid.http.errors import BadRequest
from oxid.http.targets import decode_path, split_target


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/", "/"),
        (b"/a/b.txt", "/a/b.txt"),
        (b"/RPC/rpcproxy.dll", "/RPC/rpcproxy.dll"),
        (b"/a%20b", "/a b"),
        (b"/%C3%A4", "/ä"),
        (b"//a///b/", "/a/b/"),
        (b"/.well-known/x", "/.well-known/x"),
        (b"/a..b", "/a..b"),
        (b"/category:foo", "/category:foo"),
        (b"/100%25", "/100%"),
        (b"/%2541", "/%41"),
    ],
)
def test_paths_as_they_are_meant(raw: bytes, path: str) -> None:
    assert decode_path(raw) == path


@pytest.mark.req("AB-23", "IS-41")
@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"/a/../b", 404),
        (b"/./a", 404),
        (b"/..", 404),
        (b"/a/%2e%2e/b", 404),
        (b"/a/.%2E/b", 404),
        (b"/%2e", 404),
        (b"/a%5c..%5cb", 404),
        (b"/a\\b", 404),
        (b"/a%2fb", 404),
        (b"/rpc/rpcproxy.dll::$DATA", 404),
        (b"/rpc/rpcproxy.dll%3a%3a$DATA", 404),
        (b"/a:$i30:x", 404),
        (b"/file.", 404),
        (b"/file%20", 404),
        (b"/.../a", 404),
        (b"/a%00", 400),
        (b"/a%0d%0a", 400),
        (b"/a%7f", 400),
        (b"/a%c0%ae", 400),
        (b"/a%c0%af..", 400),
        (b"/%e0%80%af", 400),
        (b"/%ed%a0%80", 400),
        (b"/a%", 400),
        (b"/a%4", 400),
        (b"/a%zz", 400),
        (b"/%u0041", 400),
    ],
)
def test_tricks_are_refused(raw: bytes, code: int) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_path(raw)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (b"/a?b?c", (b"", b"/a", b"b?c")),
        (b"/a", (b"", b"/a", b"")),
        (b"http://Host:80/a?b", (b"Host:80", b"/a", b"b")),
        (b"http://Host?b", (b"Host", b"/", b"b")),
        (b"*", (b"", b"*", b"")),
        (b"server:593", (b"server:593", b"/", b"")),
    ],
)
def test_the_parts_of_a_target(target: bytes, parts: tuple[bytes, bytes, bytes]) -> None:
    assert split_target(target) == parts
