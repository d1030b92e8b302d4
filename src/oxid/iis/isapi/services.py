"""What the ISAPI host asks of the web server around it, beyond the exchange itself. isapi.md §4, §7

`ServerServices` is the contract; `PlainServices` answers it from the exchange's own site. A worker process answers
the same questions by asking its parent.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

from oxid.iis.isapi import constants as c
from oxid.iis.isapi.failures import IsapiError

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange


@dataclass(frozen=True, slots=True)
class UrlMapping:
    """Where a URL leads. HSE_URL_MAPEX_INFO"""

    physical: str
    flags: int = c.URL_READ
    """What may be done there, c.URL_*."""
    matching_path: int = 0
    """Characters of `physical` that belong to the virtual directory."""
    matching_url: int = 0
    """Characters of the URL that do."""


@dataclass(frozen=True, slots=True)
class ChildRequest:
    """A URL to be executed in place of the request that asks for it. HSE_EXEC_URL_INFO"""

    url: str | None = None
    """None: the URL of the request itself."""
    method: str | None = None
    headers: bytes | None = None
    """Lines that replace the client's headers."""
    entity: bytes | None = None
    flags: int = 0


@dataclass(frozen=True, slots=True)
class ExecStatus:
    """How a child request ended. HSE_EXEC_URL_STATUS"""

    status: int = 0
    substatus: int = 0
    win32: int = 0


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """What the server sends for an error."""

    status: bytes
    headers: bytes
    body: bytes = field(repr=False)


class ServerServices(Protocol):
    """What a host of extensions needs of its web server. All on the loop's thread, except `map_url`."""

    def map_url(self, exchange: Exchange, url: str) -> UrlMapping:
        """Where a URL of the exchange's site leads; any thread. Raises IsapiError."""
        ...

    def execute(
        self, exchange: Exchange, child: ChildRequest, done: Callable[[ExecStatus], None]
    ) -> Callable[[], None]:
        """Let the server answer the exchange with another URL; `done` once, later. Returns how to cancel it.

        Raises IsapiError where it cannot begin.
        """
        ...

    def error_page(self, exchange: Exchange, status: int, substatus: int) -> ErrorPage:
        """The page of the site for an error."""
        ...

    def close_connection(self, exchange: Exchange) -> None:
        """Close the client's socket now."""
        ...

    def invalidate(self, url: str) -> None:
        """Forget what is cached of a URL."""
        ...

    def unhealthy(self, application: str, reason: str) -> None:
        """An extension said that it should be recycled."""
        ...


class PlainServices:
    """The services as far as one exchange tells them."""

    def map_url(self, exchange: Exchange, url: str) -> UrlMapping:
        path = normalize(url)
        best = None
        for directory in exchange.site.directories:
            prefix = directory.path.rstrip("/")
            if (path.lower() + "/").startswith(prefix.lower() + "/") and (
                best is None or len(prefix) > len(best.path.rstrip("/"))
            ):
                best = directory
        if best is None or best.physical is None:
            raise IsapiError(c.ERROR_PATH_NOT_FOUND, "MAP_URL_TO_PATH")
        matched = len(best.path.rstrip("/"))
        root = str(best.physical)
        rest = path[matched:].lstrip("/")
        physical = posixpath.join(root, rest) if rest else root
        return UrlMapping(physical, int(best.access), len(root), matched)

    def execute(
        self, exchange: Exchange, child: ChildRequest, done: Callable[[ExecStatus], None]
    ) -> Callable[[], None]:
        raise IsapiError(c.ERROR_NOT_SUPPORTED, "EXEC_URL")

    def error_page(self, exchange: Exchange, status: int, substatus: int) -> ErrorPage:
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Error"
        body = f"<html><head><title>{phrase}</title></head><body><h1>{phrase}</h1></body></html>".encode()
        headers = b"Content-Type: text/html\r\nContent-Length: %d\r\n" % len(body)
        return ErrorPage(f"{status} {phrase}".encode(), headers, body)

    def close_connection(self, exchange: Exchange) -> None:
        transport = exchange.connection.transport
        if transport is not None:
            transport.close()

    def invalidate(self, url: str) -> None:
        return

    def unhealthy(self, application: str, reason: str) -> None:
        return


def normalize(url: str) -> str:
    """A URL's path, decoded once, without `.` and `..`. NORMALIZE_URL. Raises IsapiError for one that leads out."""
    path = url.split("?", 1)[0]
    if "://" in path:
        path = "/" + path.split("://", 1)[1].partition("/")[2]
    try:
        path = unquote(path, errors="strict").replace("\\", "/")
    except UnicodeDecodeError:
        raise IsapiError(c.ERROR_INVALID_DATA, "NORMALIZE_URL") from None
    if "\0" in path:
        raise IsapiError(c.ERROR_INVALID_DATA, "NORMALIZE_URL")
    out: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            if not out:
                raise IsapiError(c.ERROR_INVALID_DATA, "NORMALIZE_URL")
            out.pop()
        else:
            out.append(part)
    return "/" + "/".join(out) + ("/" if out and path.endswith("/") else "")
