"""Heads of requests to an RPC proxy, composed from a grammar with hostile choices.

raw = head(rng, kind, user)        of a kind of KINDS; nobody's credentials but this user's, or none that are good
"""

from __future__ import annotations

import base64
import random
from typing import Final

PASSWORDS: Final = {"alice": "secret-a", "bob": "secret-b"}
TARGET: Final = "127.0.0.1:593"
GIB: Final = 1 << 30

KINDS: Final = ("in", "out", "next out", "echo", "v1", "get", "post", "chunked")
TARGETS: Final = (
    *("127.0.0.1:593",) * 3,
    *("127.0.0.1:594", "127.0.0.1", ":593", "127.0.0.1:0593", "127.0.0.1:66129", "HOST.:593", "[::1]:593"),
    *("127.0.0.1:593 ", "127.0.0.1:+593", "2130706433:593", "%31:593", "a" * 2000 + ":593", "", "x:y:z"),
)
PATHS: Final = (
    *("/rpc/rpcproxy.dll",) * 4,
    *(
        "/RPC/RpcProxy.dll",
        "/rpc/./rpcproxy.dll",
        "/rpc/%2e/rpcproxy.dll",
        "/rpc/rpcproxy.dll/extra",
        "//rpc//x",
    ),
    *(
        "/rpc/rpcproxy.dll;a",
        "/rpc/rpcproxy.dll::$DATA",
        "/rpc\\rpcproxy.dll",
        "/rpc",
        "/",
        "*",
        "/%",
        "/%00",
    ),
    *("/" + "a" * 17_000, "http://gateway/rpc/rpcproxy.dll", "gateway:593", "/rpc/rpcproxy.dll#x", "/\xff"),
)
LENGTHS: Final = (
    *(
        "0",
        "4",
        "16",
        "17",
        "75",
        "76",
        "77",
        "120",
        "131071",
        "131072",
        "1073741824",
        "2147483648",
        "2147483649",
    ),
    *("+76", "-1", "76, 76", "0x4c", "18446744073709551616", "9223372036854775808", "", " 76", "76 ", "7 6"),
)
MORE: Final = (
    *("Transfer-Encoding: chunked", "Transfer-Encoding: xchunked", "Transfer-Encoding: chunked, chunked"),
    *(
        "Content-Length: 76",
        "Content-Length: 0",
        "Expect: 100-continue",
        "Expect: 200-ok",
        "Connection: close",
    ),
    *(
        "Connection: keep-alive",
        "Connection: upgrade",
        "Upgrade: h2c",
        "Host: other",
        "Pragma: MinConnTimeout=1",
    ),
    *("Pragma: ReceiveWindow=1", "Pragma: ReceiveWindow=999999", "Pragma: MinConnTimeout=999999, x", "X: \0"),
    *(
        "X: a\r\n folded",
        "No colon",
        ": empty",
        "Sp ace: x",
        "X:\x7f",
        "X: \xe4",
        "Cookie: a=b",
        "Range: bytes=0-",
    ),
    *("X-Long: " + "y" * 9000, "X: y\nContent-Length: 3", "X: y\rZ: a", "Content-length : 76", "Accept: */*"),
)
METHODS: Final = (
    *(
        "RPC_IN_DATA",
        "RPC_OUT_DATA",
        "RPC_CONNECT",
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "OPTIONS",
        "TRACE",
        "CONNECT",
    ),
    *("rpc_in_data", "RPC_IN_DATA ", "R\0", "PROPFIND", "M" * 300, "", "RPC_IN_DATA\t", "{}"),
)
VERSIONS: Final = (
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/1.2",
    "HTTP/2.0",
    "HTTP/0.9",
    "http/1.1",
    "HTTP/1.1 ",
    "HTTP/11",
    "",
)
USUAL: Final = {
    "in": ("RPC_IN_DATA", str(GIB)),
    "out": ("RPC_OUT_DATA", "76"),
    "next out": ("RPC_OUT_DATA", "120"),
    "echo": ("RPC_IN_DATA", "4"),
    "v1": ("RPC_CONNECT", None),
    "get": ("GET", None),
    "post": ("POST", "5"),
    "chunked": ("POST", None),
}


def authorization(rng: random.Random, user: str, hostile: bool) -> str | None:
    """Credentials of this user and nobody else, or none that are any."""
    good = base64.b64encode(f"{user}:{PASSWORDS[user]}".encode()).decode()
    if not hostile:
        return f"Authorization: Basic {good}"
    wrong = base64.b64encode(f"{user}:wrong".encode()).decode()
    return rng.choice(
        (
            None,
            f"Authorization: Basic {wrong}",
            f"Authorization: basic   {good}",
            f"Authorization: Basic {good}=",
            "Authorization: Basic !!!!",
            "Authorization: Basic",
            "Authorization: NTLM TlRMTVNTUAABAAAAB4IIogAAAAAAAAAAAAAAAAAAAAAKAGFKAAAADw==",
            "Authorization: NTLM TlRMTVNTUAADAAAA",
            "Authorization: Negotiate YIIBhgYGKwYBBQUCoIIBejCCAXag",
            f"Authorization: Basic {good}\r\nAuthorization: Basic {wrong}",
            "Authorization: Digest x",
        )
    )


def head(rng: random.Random, kind: str, user: str, *, hostile: float = 0.4) -> bytes:
    """A request's head; with `hostile` probability something about it is not as it should be."""
    method, length = USUAL[kind]
    path, target, version = "/rpc/rpcproxy.dll", TARGET, "HTTP/1.1"
    hosts = ["Host: gateway"]
    more: list[str] = ["Transfer-Encoding: chunked"] if kind == "chunked" else []
    bad_login = False
    end = "\r\n"
    if rng.random() < hostile:
        for _ in range(rng.choice((1, 1, 2, 4))):
            choice = rng.randrange(10)
            if choice == 0:
                method = rng.choice(METHODS)
            elif choice == 1:
                path = rng.choice(PATHS)
            elif choice == 2:
                target = rng.choice(TARGETS)
            elif choice == 3:
                version = rng.choice(VERSIONS)
            elif choice == 4:
                length = rng.choice((*LENGTHS, None))
            elif choice in (5, 6):
                more += rng.choices(MORE, k=rng.choice((1, 1, 2, 150)))
            elif choice == 7:
                hosts = rng.choice(([], ["Host: a", "Host: b"], ["Host:"], ["host: \xff"], ["Host: a b"]))
            elif choice == 8:
                bad_login = True
            else:
                end = rng.choice(("\r\n", "\n", "\r", "\r\n\r\n", "\r\r\n"))
    lines = [f"{method} {path}?{target} {version}" if target else f"{method} {path} {version}", *hosts]
    login = authorization(rng, user, bad_login)
    if login is not None:
        lines.append(login)
    if length is not None:
        lines.append(f"Content-Length: {length}")
    if more:
        rng.shuffle(more)
        lines += more
    raw = (end.join(lines) + end + end).encode("latin-1")
    if rng.random() < hostile / 8:
        data = bytearray(raw)
        for _ in range(rng.choice((1, 3))):
            data[rng.randrange(len(data))] = rng.choice((0, 9, 10, 13, 32, 58, 255))
        raw = bytes(data)
    return raw
