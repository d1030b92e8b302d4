"""An exporter's way to a resolver in another process. See `oxid.com.resolver_link`.

Identifiers come from a reserve, so that making an object waits for nobody, and what happens is told in the order in
which it happens, gathered within one turn of the loop. Flight records of live objects stay here; the resolver gets
them when the object goes, or when somebody asks why it lives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from oxid.com.flight_record import FlightRecorder, Kind
from oxid.com.local_messages import bindings_of, bindings_to_json
from oxid.com.object_server import ObjectServer
from oxid.com.reference_table import Verdict
from oxid.com.service_link import ServiceLink
from oxid.errors import OxidError, TransportError
from oxid.runtime.local_channel import Handler, LocalChannel
from oxid.values.bindings import EMPTY_BINDINGS, DualStringArray
from oxid.world import World

log = logging.getLogger("oxid.com.link")

RESERVE: Final = 256
"""Identifiers asked for at once; half of them left is the time to ask again."""


class ChannelLink:
    """Speaks for one exporter of this process."""

    def __init__(self, world: World, period: float, *, name: str = "") -> None:
        self._world = world
        self._period = period
        self._name = name
        self._recorder = FlightRecorder()
        self._records: dict[int, bytes] = {}
        self._spare: list[int] = []
        self._asking = False
        self._bindings = EMPTY_BINDINGS
        self._channel: LocalChannel | None = None
        self._flush_is_due = False
        self._new: list[list[Any]] = []
        self._out: list[int] = []
        self._gone: list[list[Any]] = []
        self._unpinned: list[int] = []
        self.oxid = 0
        self._listening: list[dict[str, Any]] = []
        """Where the resolver is to be reachable, for this exporter's sake."""
        self._objects: ObjectServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # What the exporter says ---------------------------------------------------------------------------

    def new_oid(self, *, noping: bool = False) -> int:
        # Without a reserve the identifier is our own; the resolver hears of it before any answer leaves.
        oid = self._spare.pop() if self._spare else self._world.new_id()
        if len(self._spare) < RESERVE // 2:
            self._ask_for_more()
        self._new.append([oid, noping])
        self._flush_soon()
        return oid

    def marshalled(self, oid: int, who: str, refs: int) -> None:
        self.note(oid, Kind.MARSHALLED, who, refs)
        self._out.append(oid)
        self._flush_soon()

    def dropped(self, oid: int, why: str) -> None:
        record = self._records.pop(oid, b"")
        self._gone.append([oid, why, [event.to_json() for event in self._recorder.read(record)]])
        self._flush_soon()

    def unpinned(self, oid: int) -> None:
        self.note(oid, Kind.UNPIN, "", 0)
        self._unpinned.append(oid)
        self._flush_soon()

    def note(self, oid: int, kind: Kind, who: str, detail: int) -> None:
        now = self._world.clock.now()
        self._records[oid] = self._recorder.note(self._records.get(oid, b""), now, kind, who, detail)

    def bindings(self) -> DualStringArray:
        return self._bindings

    # Telling ------------------------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Tell what has happened so far."""
        self._flush_is_due = False
        new, out, gone, unpinned = self._new, self._out, self._gone, self._unpinned
        if not (new or out or gone or unpinned):
            return
        self._new, self._out, self._gone, self._unpinned = [], [], [], []
        if self._channel is not None:
            self._channel.tell("objects", oxid=self.oxid, new=new, out=out, gone=gone, unpinned=unpinned)

    def _ask_for_more(self) -> None:
        channel = self._channel
        if channel is None or self._asking:
            return
        self._asking = True
        task = asyncio.get_running_loop().create_task(self._fetch(channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch(self, channel: LocalChannel) -> None:
        try:
            answer = await channel.ask("reserve", oxid=self.oxid, count=RESERVE)
            self._spare += [int(oid) for oid in answer["oids"]]
        except TransportError:
            pass  # the next resolver gives a reserve when it is told of the exporter
        finally:
            self._asking = False

    # The link -----------------------------------------------------------------------------------------

    def serve(self, objects: ObjectServer) -> None:
        """The exporter that this link is for; its OXID is known once the link is attached."""
        self._objects = objects

    async def attach(self, channel: LocalChannel) -> None:
        """Tell a resolver of the exporter and everything it has. Raises OxidError."""
        objects = self._objects
        fields: dict[str, Any] = {"name": self._name}
        if objects is not None:
            self._new, self._out, self._gone, self._unpinned = [], [], [], []
            unknown = UUID(bytes_le=objects.remote_unknown.pointer.ipid)
            fields |= {
                "unknown": str(unknown),
                "bindings": bindings_to_json(objects.bindings()),
                "hint": objects.exporter.minimum_level,
                "oids": objects.exporter.table.live_oids(),
            }
        # From here on what happens is told behind the assertion, in order.
        self._channel = channel
        answer = await channel.ask("export", oxid=self.oxid, **fields)
        self.oxid = int(answer["oxid"])
        self._spare = [int(oid) for oid in answer["oids"]]
        self._bindings = bindings_of(answer["bindings"])
        for request in self._listening:
            await self._ask_to_listen(channel, request)

    def detach(self) -> None:
        self._channel = None
        self._asking = False

    async def listen_at_resolver(
        self, host: str, port: int, names: tuple[str, ...], accounts: list[tuple[str, str]], keytab: Any
    ) -> DualStringArray:
        """Let the resolver be reachable where the exporter is; its bindings. Raises OxidError.

        A resolver that comes after this one is asked for the same port: references that are out name it.
        """
        if self._channel is None:
            raise TransportError("no resolver is there")
        request = {
            "host": host,
            "port": port,
            "names": list(names),
            "accounts": accounts,
            "keytab": keytab,
        }
        await self._ask_to_listen(self._channel, request)
        self._listening.append(request)
        return self._bindings

    async def _ask_to_listen(self, channel: LocalChannel, request: dict[str, Any]) -> None:
        answer = await channel.ask("listen", oxid=self.oxid, **request)
        request["port"] = int(answer["port"])
        self._bindings = bindings_of(answer["bindings"])

    async def publish(self) -> None:
        """Tell the resolver where the exporter listens, now that it does. Raises TransportError."""
        channel, objects = self._channel, self._objects
        if channel is None or objects is None:
            raise TransportError("no resolver is there")
        answer = await channel.ask(
            "publish",
            oxid=self.oxid,
            unknown=str(UUID(bytes_le=objects.remote_unknown.pointer.ipid)),
            bindings=bindings_to_json(objects.bindings()),
            hint=objects.exporter.minimum_level,
        )
        self._bindings = bindings_of(answer["bindings"])

    async def withdraw(self) -> None:
        """The exporter ends: nobody finds it any more."""
        self.flush()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._channel is not None:
            try:
                await self._channel.ask("withdraw", oxid=self.oxid)
            except OxidError as error:
                log.debug("exporter %016x could not be withdrawn: %s", self.oxid, error)

    def reclaim(self, oids: Sequence[int], until: float) -> list[str]:
        """May these go? Nothing is dropped after `until`: the resolver does not wait longer, and pings that come
        then must find what they were promised."""
        now = self._world.clock.now()
        if self._objects is None:
            return [Verdict.DEAD.value] * len(oids)
        if now > until:
            return [Verdict.BUSY.value] * len(oids)
        verdicts = self._objects.exporter.table.reclaim(oids, now, self._period)
        self.flush()
        return [verdicts[oid].value for oid in oids]

    def events_of(self, oid: int) -> list[list[Any]]:
        """The flight record of a live object."""
        return [event.to_json() for event in self._recorder.read(self._records.get(oid, b""))]

    def __repr__(self) -> str:
        return f"<ChannelLink {self.oxid:016x} {len(self._records)} records>"


class ChannelLinks:
    """The exporters of a process, as one Part of its ServiceLink."""

    def __init__(self, link: ServiceLink) -> None:
        self._link = link
        self._links: list[ChannelLink] = []

    async def add(self, link: ChannelLink) -> None:
        """Tell the resolver of one exporter more; its OXID is known afterwards. Raises OxidError."""
        channel = await self._link.when_attached()
        await link.attach(channel)
        self._links.append(link)

    async def remove(self, link: ChannelLink) -> None:
        """The exporter has ended."""
        if link in self._links:
            self._links.remove(link)
        await link.withdraw()

    def handlers(self) -> Mapping[str, Handler]:
        return {"reclaim": self._reclaim, "record": self._record}

    async def attach(self, channel: LocalChannel, welcome: Mapping[str, Any]) -> None:
        for link in self._links:
            await link.attach(channel)

    def detach(self) -> None:
        for link in self._links:
            link.detach()

    def _reclaim(self, oxid: int, oids: Sequence[int], until: float) -> Mapping[str, Any]:
        for link in self._links:
            if link.oxid == oxid:
                return {"verdicts": link.reclaim(oids, until)}
        return {"verdicts": [Verdict.DEAD.value] * len(oids)}

    def _record(self, oid: int) -> Mapping[str, Any]:
        return {"events": [event for link in self._links for event in link.events_of(oid)]}

    def __repr__(self) -> str:
        return f"<ChannelLinks {self._links!r}>"
