"""Files as they lie on the disk: ranges, conditions, default documents, listings, and a cache for small ones.

Small files are kept as whole responses; whether one is still what lies on the disk is asked at most once in
`file_check` seconds. Big ones go from the kernel's cache to the socket, see `send_file`.
"""

from __future__ import annotations

import html
import os
import stat
from errno import EACCES, EPERM
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from oxid.http.conditions import Unsatisfiable, evaluate, range_applies, ranges_of
from oxid.http.dates import http_date
from oxid.http.heads import CONDITION
from oxid.http.media_types import media_type
from oxid.iis import error_pages
from oxid.iis.routes import Route, find_place

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange
    from oxid.iis.server import WebServer

SMALL: Final = 64 * 1024
"""Bytes of a file that is read at once and may be cached; IIS caches up to 256 KiB."""
MOST_ENTRIES: Final = 1024
MOST_CACHED: Final = 32 * 1024 * 1024
"""Bytes of all cached responses."""
MOST_LISTED: Final = 10_000
"""Names of a directory that are listed."""

_ALLOW: Final = [(b"Allow", b"OPTIONS, GET, HEAD")]


class _Cached:
    """A small file as a response."""

    __slots__ = ("checked", "content", "headers", "mtime_ns", "path", "response", "second", "size")

    def __init__(self, path: Path, found: os.stat_result, headers: bytes, content: bytes) -> None:
        self.path = path
        self.mtime_ns = found.st_mtime_ns
        self.size = found.st_size
        self.headers = headers
        self.content = content
        self.checked = 0.0
        self.response = b""
        self.second = -1
        """For which second `response` carries the date."""

    def is_current(self) -> bool:
        try:
            found = self.path.stat()
        except OSError:
            return False
        return found.st_mtime_ns == self.mtime_ns and found.st_size == self.size


class StaticFiles:
    """The handler of everything that is a file."""

    def __init__(self, server: WebServer) -> None:
        self._server = server
        self._cache: dict[Route, _Cached] = {}
        self._documents: dict[Route, Route] = {}
        """Directory -> its default document, as it was found last."""
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._cache)

    def clear(self) -> None:
        self._cache.clear()
        self._documents.clear()
        self._bytes = 0

    def serve(self, exchange: Exchange) -> None:
        """Answer with the file that the URL names."""
        route = exchange.route
        cached = self._cache.get(route)
        if cached is None and (document := self._documents.get(route)) is not None:
            cached = self._cache.get(document)
            now = self._server.world.clock.now()
            if cached is not None and now - cached.checked >= self._server.settings.file_check:
                cached = None  # another document may come first by now
        if cached is not None:
            head = exchange.head
            if exchange.method == "GET" and not head.marks & CONDITION and self._answer(exchange, cached):
                return
            if cached.checked == 0.0:
                self._drop(route)
        self._look(exchange, route)

    def _answer(self, exchange: Exchange, cached: _Cached) -> bool:
        """Answer from the cache; False where the file has changed."""
        server = self._server
        now = server.world.clock.now()
        if now - cached.checked >= server.settings.file_check:
            if not cached.is_current():
                cached.checked = 0.0
                return False
            cached.checked = now
        stamp = server.stamp()
        if exchange.head.version == (1, 1) and exchange.keeps and not exchange.added_headers:
            if cached.second != server.second:
                cached.second = server.second
                cached.response = b"HTTP/1.1 200 OK\r\n" + stamp + cached.headers + cached.content
            exchange.respond_prepared(cached.response, 200)
        else:
            exchange.respond(200, cached.content, _without_length(cached.headers))
        return True

    def _drop(self, route: Route) -> None:
        cached = self._cache.pop(route, None)
        if cached is not None:
            self._bytes -= len(cached.content)

    def _look(self, exchange: Exchange, route: Route) -> None:
        """Find what the path names on the disk."""
        method = exchange.method
        if method not in ("GET", "HEAD"):
            if method == "OPTIONS":
                exchange.respond(200, b"", _ALLOW)
            else:
                error_pages.deny(exchange, 405, 0, _ALLOW)
            return
        physical = route.physical
        if physical is None:
            error_pages.deny(exchange, 404)
            return
        try:
            descriptor = os.open(physical, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            denied = getattr(error, "errno", 0) in (EACCES, EPERM)
            error_pages.deny(exchange, 403 if denied else 404, 3 if denied else 0)
            return
        found = os.fstat(descriptor)
        if not self._is_inside(exchange, descriptor):
            os.close(descriptor)
            error_pages.deny(exchange, 404)
        elif stat.S_ISDIR(found.st_mode):
            os.close(descriptor)
            self._directory(exchange, route, physical)
        elif not stat.S_ISREG(found.st_mode) or route.path.endswith("/"):
            os.close(descriptor)
            error_pages.deny(exchange, 404)
        else:
            file = FileIO(descriptor, "r")
            try:
                kept = self._file(exchange, route, physical, file, found)
            except BaseException:
                file.close()
                raise
            if not kept:
                file.close()

    @staticmethod
    def _is_inside(exchange: Exchange, descriptor: int) -> bool:
        """Whether what was opened lies below the directory's root, links resolved."""
        directory = exchange.directory
        if directory.follow_links or directory.physical is None:
            return directory.physical is not None
        real = os.readlink(f"/proc/self/fd/{descriptor}")
        root = os.path.realpath(directory.physical)
        return real == root or real.startswith(root.rstrip("/") + "/")

    def _directory(self, exchange: Exchange, route: Route, physical: Path) -> None:
        """A directory: its default document, its listing, or the way to its slash."""
        if not route.path.endswith("/"):
            query = exchange.query
            location = quote(route.path + "/").encode() + (b"?" + query if query else b"")
            error_pages.deny(exchange, 301, 0, [(b"Location", location)])
            return
        site = exchange.site
        documents = exchange.directory.default_documents
        for name in site.default_documents if documents is None else documents:
            path = route.path + name
            if (physical / name).is_file():
                document = self._documents.get(route)
                if document is None or document.path != path:
                    if document is not None:
                        self._drop(document)
                    document = self._server.route_for(site, path, find_place(site, path))
                    if route.place.certain:
                        self._documents[route] = document
                exchange.route = document
                if exchange.route.place.handler is not None or not exchange.directory.access & 1:
                    exchange.route.handler(exchange)
                else:
                    self._look(exchange, exchange.route)
                return
        if exchange.directory.browse:
            self._listing(exchange, route, physical)
        else:
            error_pages.deny(exchange, 403, 14)

    def _listing(self, exchange: Exchange, route: Route, physical: Path) -> None:
        rows: list[str] = []
        try:
            with os.scandir(physical) as entries:
                for entry in entries:
                    if len(rows) >= MOST_LISTED:
                        break
                    if not entry.name.startswith("."):
                        rows.append(entry.name + ("/" if entry.is_dir() else ""))
        except OSError:
            error_pages.deny(exchange, 403, 14)
            return
        items = "".join(
            f'<li><a href="{quote(name, errors="surrogateescape")}">'
            f"{html.escape(name.encode(errors='surrogateescape').decode(errors='replace'))}</a></li>"
            for name in sorted(rows)
        )
        title = html.escape(route.path)
        up = "" if route.path == "/" else '<li><a href="../">..</a></li>'
        body = (
            f"<!DOCTYPE html><html><head><title>{title}</title></head>"
            f"<body><h1>{title}</h1><ul>{up}{items}</ul></body></html>\n"
        )
        exchange.respond(200, body.encode(), [(b"Content-Type", b"text/html; charset=utf-8")])

    # One file ---------------------------------------------------------------------------------------------

    def _file(
        self, exchange: Exchange, route: Route, physical: Path, file: FileIO, found: os.stat_result
    ) -> bool:
        """Answer with an open file; True where it is still needed."""
        size = found.st_size
        modified = int(found.st_mtime)
        etag = b'"%x-%x"' % (found.st_mtime_ns, size)
        directory = exchange.directory
        kind = media_type(physical.name, directory.mime_types, exchange.site.mime_types)
        common = b"Last-Modified: %s\r\nETag: %s\r\nAccept-Ranges: bytes\r\n" % (http_date(modified), etag)
        if directory.cache_control:
            common += b"Cache-Control: %s\r\n" % directory.cache_control.encode("latin-1")
        typed = b"Content-Type: %s\r\n" % kind
        if exchange.head.marks & CONDITION:
            verdict = evaluate(exchange.method, exchange.header, etag, modified)
            if verdict != 200:
                if verdict == 304:
                    exchange.respond(304, b"", common)
                else:
                    error_pages.deny(exchange, 412)
                return False
            value = exchange.header(b"range")
            if (
                value is not None
                and exchange.method == "GET"
                and range_applies(exchange.header(b"if-range"), etag, modified)
            ):
                try:
                    ranges = ranges_of(value, size)
                except Unsatisfiable:
                    error_pages.deny(exchange, 416, 0, [(b"Content-Range", b"bytes */%d" % size)])
                    return False
                if ranges is not None:
                    return self._ranges(exchange, file, size, ranges, common, kind)
        if exchange.method == "HEAD":
            exchange.send_head(b"200 OK", b"%s%sContent-Length: %d\r\n" % (typed, common, size), keep=True)
            exchange.finish(keep=True)
            return False
        if size <= SMALL:
            content = file.read(size + 1) or b""
            headers = typed + common
            if len(content) == size:
                self._remember(route, physical, found, headers, content)
            exchange.respond(200, content, headers)
            return False
        exchange.send_head(b"200 OK", b"%s%sContent-Length: %d\r\n" % (typed, common, size), keep=True)
        self._server.spawn(exchange, _send(exchange, file, [(b"", 0, size)], b""))
        return True

    def _remember(
        self, route: Route, physical: Path, found: os.stat_result, headers: bytes, content: bytes
    ) -> None:
        if not route.place.certain:
            return
        if self._bytes + len(content) > MOST_CACHED or len(self._cache) >= MOST_ENTRIES:
            self.clear()
        self._drop(route)
        cached = _Cached(physical, found, b"%sContent-Length: %d\r\n\r\n" % (headers, len(content)), content)
        cached.checked = self._server.world.clock.now()
        self._cache[route] = cached
        self._bytes += len(content)

    def _ranges(
        self,
        exchange: Exchange,
        file: FileIO,
        size: int,
        ranges: list[tuple[int, int]],
        common: bytes,
        kind: bytes,
    ) -> bool:
        """206 with one range, or several as multipart/byteranges. RFC 9110 14.6"""
        if len(ranges) == 1:
            first, last = ranges[0]
            count = last - first + 1
            parts = [(b"", first, count)]
            headers = b"Content-Type: %s\r\nContent-Range: bytes %d-%d/%d\r\n" % (kind, first, last, size)
            total = count
            closing = b""
        else:
            boundary = self._server.world.entropy.token(12).hex().encode()
            parts = []
            for first, last in ranges:
                part = b"\r\n--%s\r\nContent-Type: %s\r\nContent-Range: bytes %d-%d/%d\r\n\r\n" % (
                    boundary, kind, first, last, size,
                )  # fmt: skip
                parts.append((part, first, last - first + 1))
            closing = b"\r\n--%s--\r\n" % boundary
            total = sum(len(part) + count for part, _, count in parts) + len(closing)
            headers = b"Content-Type: multipart/byteranges; boundary=%s\r\n" % boundary
        headers += b"%sContent-Length: %d\r\n" % (common, total)
        if total <= SMALL:
            body = b"".join(part + os.pread(file.fileno(), count, first) for part, first, count in parts)
            exchange.send_head(b"206 Partial Content", headers, keep=True)
            exchange.write(body + closing)
            exchange.finish(keep=True)
            return False
        exchange.send_head(b"206 Partial Content", headers, keep=True)
        self._server.spawn(exchange, _send(exchange, file, parts, closing))
        return True


def _without_length(headers: bytes) -> bytes:
    """The cached lines without Content-Length and the empty line, which `respond` writes itself."""
    return headers[: headers.rindex(b"Content-Length: ")]


async def _send(
    exchange: Exchange, file: FileIO, parts: list[tuple[bytes, int, int]], closing: bytes
) -> None:
    """Send parts of a file, and close it whatever happens."""
    try:
        for before, first, count in parts:
            if before:
                exchange.write(before)
            if await exchange.send_file(file, first, count) < count:
                break
        if closing:
            exchange.write(closing)
        exchange.finish(keep=True)
    finally:
        file.close()
