"""An exporter's way to a resolver in the same process. See `oxid.com.resolver_link`."""

from __future__ import annotations

from collections.abc import Callable

from oxid.com.flight_record import Kind
from oxid.com.reference_table import RECLAIMED
from oxid.rpcss.oxid_resolver import OxidResolver
from oxid.rpcss.reclaimer import Reclaimer
from oxid.values.bindings import DualStringArray
from oxid.world import World


class DirectLink:
    """Speaks for one exporter of the resolver's own process."""

    __slots__ = ("_bindings", "_clock", "_reclaimer", "_resolver", "oxid")

    def __init__(
        self,
        world: World,
        resolver: OxidResolver,
        reclaimer: Reclaimer,
        oxid: int,
        bindings: Callable[[], DualStringArray],
    ) -> None:
        self._clock = world.clock
        self._resolver = resolver
        self._reclaimer = reclaimer
        self._bindings = bindings
        self.oxid = oxid

    def new_oid(self, *, noping: bool = False) -> int:
        oid = self._resolver.add_oid(self.oxid, self._clock.now(), noping=noping)
        self._reclaimer.watch()
        return oid

    def marshalled(self, oid: int, who: str, refs: int) -> None:
        now = self._clock.now()
        self._resolver.marshalled(oid, now)
        self._resolver.note(oid, now, Kind.MARSHALLED, who, refs)

    def dropped(self, oid: int, why: str) -> None:
        # One that is reclaimed the resolver itself takes out, when it has the exporter's answer.
        if why is not RECLAIMED:
            self._resolver.remove_oid(oid, self._clock.now(), why)
            self._reclaimer.watch()

    def unpinned(self, oid: int) -> None:
        self._resolver.unpinned(oid, self._clock.now())
        self._reclaimer.watch()

    def note(self, oid: int, kind: Kind, who: str, detail: int) -> None:
        self._resolver.note(oid, self._clock.now(), kind, who, detail)

    def bindings(self) -> DualStringArray:
        return self._bindings()
