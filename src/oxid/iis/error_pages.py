"""What is told to a client that gets no answer: one short page, with IIS's numbers. IS-40, AB-22

A peer learns the status and what it means, never why in our words.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from oxid.http.responses import REASONS, status_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oxid.iis.exchange import Exchange

TEXTS: Final = {
    (400, 0): "The request cannot be understood.",
    (401, 1): "Unknown user name or wrong password.",
    (401, 2): "You have to say who you are.",
    (403, 1): "Nothing may be executed here.",
    (403, 2): "Nothing may be read here.",
    (403, 4): "This is only given over TLS (https).",
    (403, 6): "Your address may not come here.",
    (403, 7): "This needs a client certificate.",
    (403, 14): "This directory is not listed.",
    (404, 0): "There is nothing of this name.",
    (404, 2): "This extension is not permitted.",
    (405, 0): "This method is not possible here.",
    (413, 0): "The request's body is too large.",
    (500, 0): "The request could not be answered.",
    (503, 0): "The server is stopping or overloaded.",
}
MAX_PAGE: Final = 256 * 1024
"""Bytes of an error page of one's own."""


def page(status: int, substatus: int = 0) -> bytes:
    """The page for a status."""
    reason = REASONS.get(status, "Error")
    text = TEXTS.get((status, substatus)) or TEXTS.get((status, 0)) or f"{reason}."
    number = f"{status}.{substatus}" if substatus else f"{status}"
    return (
        f"<!DOCTYPE html><html><head><title>{number} {reason}</title></head>"
        f"<body><h1>{number} {reason}</h1><p>{text}</p></body></html>\n"
    ).encode()


def line(status: int) -> bytes:
    """`404 Not Found`."""
    return status_line(status)


def deny(
    exchange: Exchange,
    status: int,
    substatus: int = 0,
    headers: Sequence[tuple[bytes, bytes]] = (),
    *,
    keep: bool = True,
) -> None:
    """Answer an exchange with an error page and finish it."""
    exchange.substatus = substatus
    body = None
    pages = exchange.site.error_pages
    if pages:
        own = pages.get(f"{status}.{substatus}") or pages.get(str(status))
        body = None if own is None else _read(own)
    if body is None:
        body = page(status, substatus)
    exchange.respond(status, body, [(b"Content-Type", b"text/html; charset=utf-8"), *headers], keep=keep)


def _read(file: Path) -> bytes | None:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_PAGE)
    except OSError:
        return None
