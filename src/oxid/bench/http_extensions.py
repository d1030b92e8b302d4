"""What the web server of the bench runs: a hundred bytes from every kind of extension.

`oxid.bench.http_servers` writes files that name these classes, and the server loads them as it loads anybody's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from oxid.iis.isapi.constants import HSE_STATUS_SUCCESS_AND_KEEP_CONN

BODY: Final = b"x" * 100
HEADERS: Final = "Content-Type: text/plain\r\nContent-Length: 100\r\n\r\n"


class Threaded:
    """The interface of pywin32's `isapi` package, on the threads of a pool."""

    NonBlocking = False

    def GetExtensionVersion(self, version: Any) -> None:
        if version is not None:
            version.ExtensionDesc = "a hundred bytes"

    def HttpExtensionProc(self, control_block: Any) -> int:
        control_block.SendResponseHeaders("200 OK", HEADERS, True)
        control_block.WriteClient(BODY)
        return HSE_STATUS_SUCCESS_AND_KEEP_CONN

    def TerminateExtension(self, status: int) -> None:
        """Nothing is held."""


class NonBlocking(Threaded):
    """The same, declared never to wait: it runs on the loop."""

    NonBlocking = True


class Begin:
    """The asynchronous interface, in its fast form."""

    def begin(self, ecb: Any) -> int:
        ecb.respond(200, BODY, b"Content-Type: text/plain\r\n")
        return HSE_STATUS_SUCCESS_AND_KEEP_CONN


async def asgi(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """The same answer as an ASGI application: for our bridge, and for uvicorn."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain"), (b"content-length", b"100")],
        }
    )
    await send({"type": "http.response.body", "body": BODY})
