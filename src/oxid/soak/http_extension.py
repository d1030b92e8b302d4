"""The extensions of the soak's web server: one on the loop, one on threads; both do what the query says. Q142658

    GET /app/soak?keep&7         a whole answer, HSE_STATUS_SUCCESS_AND_KEEP_CONN; its body is `7`
    GET /app/threaded?pending&7  the same, later and from another thread

`oxid.soak.http_extension:Soak` is the asynchronous interface; `__ExtensionFactory__` makes one with pywin32's.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Final

from oxid.iis.isapi.constants import (
    HSE_STATUS_PENDING,
    HSE_STATUS_SUCCESS,
    HSE_STATUS_SUCCESS_AND_KEEP_CONN,
)
from oxid.iis.isapi.failures import IsapiError

KEEP: Final = HSE_STATUS_SUCCESS_AND_KEEP_CONN
PLAIN: Final = b"Content-Type: text/plain\r\n"
DECLARED: Final = 20
"""Bytes that an answer with a wrong length declares; it sends ten less or ten more."""
OFF_BY: Final = 10
LATER_S: Final = 0.005


class Soak:
    """On the loop."""

    def begin(self, ecb: Any) -> int:
        mode, _, tag = ecb.query.partition(b"&")
        story = getattr(self, f"_{mode.decode('ascii', 'replace')}", None)
        if story is None:
            ecb.respond(404, b"", PLAIN)
            return KEEP
        status: int = story(ecb, tag)
        return status

    def _keep(self, ecb: Any, tag: bytes) -> int:
        ecb.respond(200, tag, PLAIN)
        return KEEP

    def _success(self, ecb: Any, tag: bytes) -> int:
        ecb.respond(200, tag, PLAIN)
        return HSE_STATUS_SUCCESS

    def _pending(self, ecb: Any, tag: bytes) -> int:
        """SC-22"""

        def later() -> None:
            ecb.respond(200, tag, PLAIN)
            ecb.done(KEEP)

        asyncio.get_running_loop().call_later(LATER_S, later)
        return HSE_STATUS_PENDING

    def _twice(self, ecb: Any, tag: bytes) -> int:
        """SC-28: the second DONE is refused."""
        ecb.respond(200, tag, PLAIN)
        ecb.done(KEEP)
        try:
            ecb.done(KEEP)
        except IsapiError:
            return HSE_STATUS_PENDING
        raise AssertionError("DONE was taken twice")

    def _nolength(self, ecb: Any, tag: bytes) -> int:
        """SC-23"""
        ecb.send_head(b"200 OK", PLAIN, keep=True)
        ecb.write(tag)
        return KEEP

    def _short(self, ecb: Any, tag: bytes) -> int:
        ecb.send_head(b"200 OK", PLAIN + b"Content-Length: %d\r\n" % DECLARED, keep=True)
        ecb.write(b"s" * (DECLARED - OFF_BY))
        return KEEP

    def _long(self, ecb: Any, tag: bytes) -> int:
        ecb.send_head(b"200 OK", PLAIN + b"Content-Length: %d\r\n" % DECLARED, keep=True)
        ecb.write(b"l" * (DECLARED + OFF_BY))
        return KEEP

    def _hold(self, ecb: Any, tag: bytes) -> int:
        """SC-29: the client goes; DONE comes some time later."""
        loop = asyncio.get_running_loop()
        ecb.when_lost(lambda: loop.call_later(LATER_S, ecb.done))
        return HSE_STATUS_PENDING

    def _read(self, ecb: Any, tag: bytes) -> int:
        """The body, and its length as the answer; a client that goes in the middle gets none."""
        count = 0

        def more() -> None:
            nonlocal count
            count += len(ecb.take())
            if ecb.body_ended:
                ecb.respond(200, b"%d" % count, PLAIN)
                ecb.done(KEEP)
            elif ecb.lost:
                ecb.done()
            else:
                ecb.when_body(more)

        more()
        return HSE_STATUS_PENDING


class Threaded:
    """On a pool's threads, with the interface of pywin32's `isapi` package."""

    def GetExtensionVersion(self, version: Any) -> None:
        if version is not None:
            version.ExtensionDesc = "soak"

    def HttpExtensionProc(self, ecb: Any) -> int:
        mode, _, tag = ecb.QueryString.partition(b"&")
        if mode == b"pending":
            threading.Timer(LATER_S, self._later, (ecb, tag)).start()
            return HSE_STATUS_PENDING
        self._answer(ecb, tag)
        return HSE_STATUS_SUCCESS if mode == b"success" else KEEP

    def _later(self, ecb: Any, tag: bytes) -> None:
        self._answer(ecb, tag)
        ecb.DoneWithSession(KEEP)

    def _answer(self, ecb: Any, tag: bytes) -> None:
        ecb.SendResponseHeaders(
            "200 OK", f"Content-Type: text/plain\r\nContent-Length: {len(tag)}\r\n\r\n", True
        )
        ecb.WriteClient(tag)

    def TerminateExtension(self, status: int) -> None:
        """Nothing is held."""


def __ExtensionFactory__() -> Threaded:
    return Threaded()
