"""The access log, in the W3C extended format as IIS writes it; one line per request. AB-28, scenarios-iis 1

A finished request costs one tuple in a list. Lines are made and written by a thread, together, at most
`LogSettings.delay` later: a slow disk holds nobody up. What a client or extension says becomes one field, whatever it
holds: control characters and non-ASCII are escaped, spaces are `+`, nothing is `-`.
"""

from __future__ import annotations

import logging
import re
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from oxid.errors import ConfigurationError
from oxid.http.targets import split_target
from oxid.iis.settings import LogSettings, ServerSettings
from oxid.runtime.deadlines import DeadlineDriver
from oxid.world import World

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange
    from oxid.iis.server import WebServer

log: Final = logging.getLogger("oxid.iis.log")

MOST_WAITING: Final = 100_000
"""Lines that wait for a disk which does not answer; more are counted and dropped."""
LONGEST_FIELD: Final = 4096
"""Characters of a field that a client fills."""

_UNSAFE: Final = re.compile(r"[^\x21-\x7e]")

_PLAIN_FIELDS: Final = {
    "date", "time", "s-sitename", "s-computername", "s-ip", "cs-method", "cs-uri-stem", "cs-uri-query", "s-port",
    "cs-username", "c-ip", "c-port", "cs-version", "cs-host", "sc-status", "sc-substatus", "sc-win32-status",
    "sc-bytes", "cs-bytes", "time-taken", "x-log-data",
}  # fmt: skip
_HEADER_FIELD: Final = re.compile(r"cs\(([A-Za-z0-9-]+)\)")


def check_fields(fields: tuple[str, ...]) -> None:
    """Raises ConfigurationError for a field that cannot be logged."""
    for field in fields:
        if field not in _PLAIN_FIELDS and not _HEADER_FIELD.fullmatch(field):
            raise ConfigurationError(f"no field {field!r} in an access log")


def safe(text: str) -> str:
    """One field: nothing in it can end the field or the line."""
    if not text:
        return "-"
    text = text[:LONGEST_FIELD].replace(" ", "+")
    return _UNSAFE.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "replace")), text
    )


Record = tuple[Any, ...]
"""utc, seconds taken, peer, local, site, method, target, user, version, head, status, substatus, win32 status,
bytes sent, body bytes received, log data, query extra"""


def line(record: Record, fields: tuple[str, ...], headers: tuple[bytes, ...]) -> str:
    """A record as a line."""
    (utc, taken, peer, local, site, method, target, user, version, head, status, substatus, win32,
     sent, received, data, extra) = record  # fmt: skip
    at = datetime.fromtimestamp(utc, UTC)
    _, path, query = split_target(target)
    if extra:
        query = query + b"+" + extra.encode("utf-8", "replace") if query else extra.encode("utf-8", "replace")
    values: dict[str, str] = {
        "date": f"{at:%Y-%m-%d}",
        "time": f"{at:%H:%M:%S}",
        "s-sitename": f"W3SVC{site}",
        "s-computername": "-",
        "s-ip": local[0] or "-",
        "s-port": str(local[1]),
        "c-ip": peer[0] or "-",
        "c-port": str(peer[1]),
        "cs-method": safe(method),
        "cs-uri-stem": safe(path.decode("latin-1")),
        "cs-uri-query": safe(query.decode("latin-1")),
        "cs-username": safe(user),
        "cs-version": f"HTTP/{version[0]}.{version[1]}",
        "cs-host": safe(head.host.decode("latin-1")),
        "sc-status": str(status),
        "sc-substatus": str(substatus),
        "sc-win32-status": str(win32),
        "sc-bytes": str(sent),
        "cs-bytes": str(received),
        "time-taken": str(int(taken * 1000)),
        "x-log-data": safe(data),
    }
    found = iter(headers)
    out = []
    for field in fields:
        value = values.get(field)
        if value is None:
            value = safe((head.header(next(found)) or b"").decode("latin-1"))
        out.append(value)
    return " ".join(out)


class AccessLog:
    """The log of one site; `note` on the loop, `write` in a thread."""

    def __init__(self, settings: LogSettings) -> None:
        """Raises ConfigurationError for an unknown field."""
        check_fields(settings.fields)
        self.settings = settings
        self.waiting: list[Record] = []
        self.dropped = 0
        self._headers = tuple(
            match[1].lower().encode()
            for field in settings.fields
            if (match := _HEADER_FIELD.fullmatch(field))
        )
        self._file: Any = None
        self._name = ""
        self._part = 0

    def note(self, record: Record) -> None:
        if len(self.waiting) < MOST_WAITING:
            self.waiting.append(record)
        else:
            self.dropped += 1

    def take(self) -> list[Record]:
        waiting, self.waiting = self.waiting, []
        return waiting

    def write(self, records: list[Record]) -> None:
        """Write lines; in a thread. A disk that is full loses them, which is said once a batch."""
        settings = self.settings
        try:
            for record in records:
                name = self._name_for(record[0])
                if name != self._name:
                    self._open(name, record[0])
                self._file.write(line(record, settings.fields, self._headers) + "\n")
            if self._file is not None:
                self._file.flush()
        except OSError as error:
            log.error("cannot write the access log in %s: %s", settings.directory, error.strerror)
            self.close()

    def _name_for(self, utc: float) -> str:
        if self.settings.roll == "daily":
            return f"ex{datetime.fromtimestamp(utc, UTC):%y%m%d}.log"
        if self._part == 0 or (self._file is not None and self._file.tell() >= self.settings.roll_size):
            self._part = self._next_part()
        return f"extend{self._part}.log"

    def _next_part(self) -> int:
        """The part to write: the last that has room, or a new one."""
        part = max(1, self._part)
        while (size := _size(self.settings.directory / f"extend{part}.log")) is not None:
            if size < self.settings.roll_size and self._part == 0:
                break
            part += 1
        return part

    def _open(self, name: str, utc: float) -> None:
        self.close()
        self.settings.directory.mkdir(parents=True, exist_ok=True)
        path = self.settings.directory / name
        fresh = not path.exists()
        self._file = path.open("a", encoding="ascii", errors="replace", newline="\n")
        self._name = name
        at = datetime.fromtimestamp(utc, UTC)
        if fresh or path.stat().st_size == 0:
            self._file.write(
                f"#Software: oxid\n#Version: 1.0\n#Date: {at:%Y-%m-%d %H:%M:%S}\n"
                f"#Fields: {' '.join(self.settings.fields)}\n"
            )

    def close(self) -> None:
        file, self._file, self._name = self._file, None, ""
        if file is not None:
            try:
                file.close()
            except OSError:
                pass  # the error was said when the lines were written

    def __repr__(self) -> str:
        return f"<AccessLog {self.settings.directory}, {len(self.waiting)} waiting>"


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


class AccessLogs:
    """The logs of a server's sites, and the thread that writes them."""

    def __init__(self, world: World, server: WebServer) -> None:
        self._world = world
        self._server = server
        self._logs: dict[int, AccessLog] = {}
        self._retired: list[AccessLog] = []
        self._deadlines: DeadlineDriver | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def apply(self, settings: ServerSettings) -> None:
        """Log as the settings say from now on. Raises ConfigurationError for an unknown field."""
        wanted = {site.id: site.log for site in settings.sites if site.log is not None}
        for site, kept in list(self._logs.items()):
            if wanted.get(site) != kept.settings:
                self._retired.append(self._logs.pop(site))
        for site, options in wanted.items():
            if site not in self._logs:
                self._logs[site] = AccessLog(options)

    def note(self, exchange: Exchange) -> None:
        """A request is over."""
        site = exchange.route.site
        found = self._logs.get(site.id)
        if found is None:
            return
        clock = self._world.clock
        connection = exchange.connection
        head = exchange.head
        user = exchange.user
        found.note(
            (
                clock.utc(),
                clock.now() - exchange.started,
                connection.peer,
                connection.local,
                site.id,
                exchange.method,
                head.target,
                "" if user is None else user.name,
                head.version,
                head,
                exchange.status,
                exchange.substatus,
                exchange.win32_status,
                exchange.bytes_sent,
                exchange.bytes_received,
                exchange.log_data,
                exchange.log_query_extra,
            )
        )
        if self._deadlines is None:
            self._deadlines = DeadlineDriver(self._server.loop, self._world, self._flush)
        if self._deadlines.due is None:
            self._deadlines.want(clock.now() + found.settings.delay)

    def _flush(self, now: float) -> float | None:
        """Hand what waits to the thread, unless it is still busy."""
        if self._writing is not None and not self._writing.done():
            return now + 0.1
        self._start()
        return None

    def _start(self) -> None:
        batches = [(one, one.take()) for one in (*self._retired, *self._logs.values()) if one.waiting]
        retired, self._retired = self._retired, []
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="oxid-access-log")
        self._writing = self._pool.submit(_write, batches, retired)

    async def aclose(self) -> None:
        """Write what waits, and close."""
        if self._deadlines is not None:
            self._deadlines.close()
        if self._pool is not None or any(one.waiting for one in self._logs.values()):
            self._retired += self._logs.values()
            self._logs = {}
            self._start()
            pool, self._pool = self._pool, None
            assert pool is not None
            pool.shutdown(wait=True)


def _write(batches: list[tuple[AccessLog, list[Record]]], retired: list[AccessLog]) -> None:
    for one, records in batches:
        try:
            one.write(records)
        except Exception:
            log.exception("the access log failed")
    for one in retired:
        one.close()
