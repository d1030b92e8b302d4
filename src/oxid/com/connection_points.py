"""Events: the object's side of connection points.

    class Ticker(EventSource):
        events = (ITickerSink,)
        ...
        self.point(ITickerSink).fire("on_tick", n, date)

Calls to one sink come in the order in which they were fired, one at a time; a slow one has a bounded queue, and loses
the oldest events beyond it; one that is dead, or whose machine is, is dropped and its reference given back. Firing
never waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final
from uuid import UUID

from oxid.com.exporter import Exporter
from oxid.com.local_proxy import implementation_of
from oxid.com.way_back import reason_of, said
from oxid.errors import (
    AccessDenied,
    NoSuchInterface,
    ObjectGone,
    OxidError,
    ServerUnavailable,
    StatusError,
    TransportError,
    hresult,
)
from oxid.interfaces.connection_point import (
    ConnectData,
    ConnectionPointsReply,
    ConnectionsReply,
    IConnectionPoint,
    IConnectionPointContainer,
    IEnumConnectionPoints,
    IEnumConnections,
)
from oxid.ledger import Counter, Ledger
from oxid.rpc.interface import spec_of
from oxid.runtime.dispatch import current_call_or_none
from oxid.values import status as s

log = logging.getLogger("oxid.com.events")

MAX_PENDING: Final = 1_000
"""Events that wait for one sink."""
MAX_SINKS: Final = 10_000
"""Sinks of one connection point."""
CALL_S: Final = 30.0
"""For one sink to answer one event; after that it counts as dead."""
MAX_PIECE: Final = 1_000
"""Entries that an enumerator gives at once, whatever it is asked for."""


class Sink:
    """One client that hears the events of one connection point."""

    __slots__ = ("_closed", "_point", "_pump", "cookie", "discarded", "pending", "proxy")

    def __init__(self, point: ConnectionPoint, cookie: int, proxy: Any) -> None:
        self._point = point
        self.cookie = cookie
        self.proxy = proxy
        self.pending: deque[tuple[str, tuple[Any, ...]]] = deque()
        self.discarded = 0
        """Events that it was too slow for."""
        self._pump: asyncio.Task[None] | None = None
        self._closed = False

    def put(self, method: str, arguments: tuple[Any, ...]) -> None:
        """Queue an event, and see that it is sent."""
        if self._closed:
            return
        if len(self.pending) >= self._point.max_pending:
            self.pending.popleft()
            if not self.discarded:
                log.warning("sink %d is too slow for its events: the oldest are discarded", self.cookie)
            self.discarded += 1
        self.pending.append((method, arguments))
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._send_all(), name="oxid events")
            self._point.counted.task.enter()
            self._pump.add_done_callback(self._paused)

    def _paused(self, task: asyncio.Task[None]) -> None:
        self._point.counted.task.leave()
        self._pump = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("sending events failed", exc_info=error)
        if self.pending and not self._closed:
            method, arguments = self.pending.popleft()
            self.put(method, arguments)
            self.pending.rotate(1)

    async def _send_all(self) -> None:
        while self.pending and not self._closed:
            method, arguments = self.pending.popleft()
            try:
                async with asyncio.timeout(CALL_S):
                    await getattr(self.proxy, method)(*arguments)
            except (
                ObjectGone,
                ServerUnavailable,
                TransportError,
                AccessDenied,
                TimeoutError,
                OSError,
            ) as error:
                self._point.drop(self, str(error) or "it does not answer")
            except StatusError as error:
                log.debug("sink %d answered an event with %s", self.cookie, error)  # it is alive
            except OxidError as error:
                self._point.drop(self, str(error))

    def close(self) -> None:
        """Send nothing any more, and give the reference back. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self.pending.clear()
        self._point.counted.sink.leave()
        if self._pump is not None and asyncio.current_task() is not self._pump:
            self._pump.cancel()
        self.proxy.release_soon()


class ConnectionPoint(IConnectionPoint):
    """One kind of events of one object. Made by `EventSource.point`."""

    def __init__(self, container: EventSource, interface: type[Any]) -> None:
        self._container = container
        self._interface = interface
        self.iid = spec_of(interface).uuid
        self.max_pending = MAX_PENDING
        self.max_sinks = MAX_SINKS
        self.sinks: dict[int, Sink] = {}
        self._dropped: dict[str, int] = {}
        """Why sinks were dropped in this turn of the loop, and how many."""
        self._cookies = 0
        self._exporter: Exporter | None = None
        self.counted: _Counted = _Counted()

    def fire(self, method: str, *arguments: Any) -> None:
        """Tell every sink. `method` is the name of a method of the sink interface."""
        for sink in list(self.sinks.values()):
            sink.put(method, arguments)

    # -- IConnectionPoint ----------------------------------------------------------------------------------

    def get_connection_interface(self) -> UUID:  # type: ignore[override]  # plain: nothing in it waits
        return self.iid

    def get_connection_point_container(self) -> EventSource:  # type: ignore[override]  # as above
        return self._container

    async def advise(self, sink: Any) -> int:
        """Take a sink in, once its interface is there. The way back is tried now: an event could not say so."""
        if sink is None:
            raise hresult(s.E_POINTER, "a sink was expected")
        if len(self.sinks) >= self.max_sinks:
            raise hresult(s.CONNECT_E_ADVISELIMIT, f"{self.max_sinks} sinks are connected")
        try:
            found = await sink.query(self._interface)
        except NoSuchInterface as error:
            name = spec_of(self._interface).name
            raise hresult(s.CONNECT_E_CANNOTCONNECT, f"the sink does not have {name}") from error
        except (OxidError, OSError, TimeoutError, UnicodeError) as error:
            raise self._no_way_back(error) from error
        if implementation_of(found) is None:
            found.keep()
        self._cookies += 1
        made = self.sinks[self._cookies] = Sink(self, self._cookies, found)
        self.counted.of_call()
        self.counted.sink.enter()
        found.on_gone(lambda: self.drop(made, "its machine says that it is gone"))
        return made.cookie

    def _no_way_back(self, error: Exception) -> Exception:
        reason = reason_of(error)
        if reason is None:
            return error if isinstance(error, StatusError) else hresult(s.CONNECT_E_CANNOTCONNECT, str(error))
        code = s.E_ACCESSDENIED if reason == "permission" else 0x8007_0000 | s.RPC_S_SERVER_UNAVAILABLE
        detail = str(error) or type(error).__name__
        log.info("a sink cannot be reached (%s): %s", reason, detail)
        return hresult(code, said(reason, detail), source="oxid", iid=spec_of(IConnectionPoint).uuid)

    def unadvise(self, cookie: int) -> None:  # type: ignore[override]  # plain: nothing in it waits
        sink = self.sinks.pop(cookie, None)
        if sink is None:
            raise hresult(s.CONNECT_E_NOCONNECTION, f"no sink has cookie {cookie}")
        sink.close()

    def enum_connections(self) -> EnumConnections:  # type: ignore[override]  # as above
        return EnumConnections([(sink.proxy, cookie) for cookie, sink in self.sinks.items()])

    # -- life ----------------------------------------------------------------------------------------------

    def drop(self, sink: Sink, why: str) -> None:
        """A sink is dead: it is unadvised as if its client had done it."""
        if self.sinks.pop(sink.cookie, None) is not None:
            if not self._dropped:
                asyncio.get_running_loop().call_soon(self._tell_dropped)
            self._dropped[why] = self._dropped.get(why, 0) + 1
        sink.close()

    def _tell_dropped(self) -> None:
        """One line for all that a dead machine takes with it."""
        for why, sinks in self._dropped.items():
            log.info("%d sinks of %s dropped: %s", sinks, spec_of(self._interface).name, why)
        self._dropped.clear()

    def __oxid_exported__(self, exporter: Exporter) -> None:
        """A client gets a reference to it: its container stays as long as that."""
        self._exporter = exporter
        exporter.hold(self._container)

    def final_release(self) -> None:
        """No client has the connection point itself any more; sinks stay with the container."""
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            exporter.unhold(self._container)

    def close(self) -> None:
        """The container is gone, and with it every sink."""
        sinks, self.sinks = self.sinks, {}
        for sink in sinks.values():
            sink.close()

    def statistics(self) -> dict[str, int]:
        return {
            "sinks": len(self.sinks),
            "pending": sum(len(sink.pending) for sink in self.sinks.values()),
            "discarded": sum(sink.discarded for sink in self.sinks.values()),
        }

    def __repr__(self) -> str:
        return f"<ConnectionPoint {spec_of(self._interface).name} {len(self.sinks)} sinks>"


class _Counted:
    """The counters of the process, known once a client calls."""

    __slots__ = ("_known", "sink", "task")

    def __init__(self) -> None:
        self._known = False
        self.sink = Counter()
        self.task = Counter()

    def of_call(self) -> None:
        call = current_call_or_none()
        if not self._known and call is not None:
            ledger: Ledger = call.connection.core.world.ledger
            self._known, self.sink, self.task = True, ledger.sink, ledger.task


class EventSource(IConnectionPointContainer):
    """Base of classes that have events: `events` names the interfaces of their sinks.

    List IConnectionPointContainer among the interfaces that the class implements.
    """

    events: ClassVar[Sequence[type[Any]]] = ()

    def point(self, interface: type[Any]) -> ConnectionPoint:
        """The connection point for one of `events`. KeyError for another interface."""
        return self._points()[spec_of(interface).uuid]

    def _points(self) -> dict[UUID, ConnectionPoint]:
        points: dict[UUID, ConnectionPoint] | None = self.__dict__.get("_connection_points")
        if points is None:
            points = {spec_of(interface).uuid: ConnectionPoint(self, interface) for interface in self.events}
            self.__dict__["_connection_points"] = points
        return points

    def enum_connection_points(self) -> EnumConnectionPoints:  # type: ignore[override]  # plain: nothing in it waits
        return EnumConnectionPoints(list(self._points().values()))

    def find_connection_point(self, iid: UUID) -> ConnectionPoint:  # type: ignore[override]  # as above
        point = self._points().get(iid)
        if point is None:
            raise hresult(s.CONNECT_E_NOCONNECTION, f"there are no events for sinks of {iid}")
        return point

    def final_release(self) -> None:
        """The last client is gone: so are the sinks."""
        for point in self._points().values():
            point.close()


class _Enumerator:
    """What both enumerators do: a list that is read in pieces."""

    def __init__(self, entries: Sequence[Any], at: int = 0) -> None:
        self._entries = entries
        self._at = at

    def _take(self, most: int) -> tuple[list[Any], int]:
        wanted = min(most, MAX_PIECE)
        piece = list(self._entries[self._at : self._at + wanted])
        self._at += len(piece)
        return piece, s.S_OK if len(piece) == most else s.S_FALSE

    def skip(self, count: int) -> int:
        left = len(self._entries) - self._at
        self._at += min(count, left)
        return s.S_OK if count <= left else s.S_FALSE

    def reset(self) -> None:
        self._at = 0

    def __iter__(self) -> Iterator[Any]:
        return iter(self._entries)


class EnumConnectionPoints(_Enumerator, IEnumConnectionPoints):  # type: ignore[misc]  # plain methods
    """The connection points of an object at one moment."""

    def next(self, most: int) -> ConnectionPointsReply:  # type: ignore[override]  # plain: nothing in it waits
        return ConnectionPointsReply(*self._take(most))

    def clone(self) -> EnumConnectionPoints:  # type: ignore[override]  # as above
        return EnumConnectionPoints(self._entries, self._at)


class EnumConnections(_Enumerator, IEnumConnections):  # type: ignore[misc]  # as above
    """The sinks of a connection point at one moment."""

    def next(self, most: int) -> ConnectionsReply:  # type: ignore[override]  # plain: nothing in it waits
        piece, code = self._take(most)
        return ConnectionsReply([ConnectData(sink, cookie) for sink, cookie in piece], code)

    def clone(self) -> EnumConnections:  # type: ignore[override]  # as above
        return EnumConnections(self._entries, self._at)
