"""What keeps a machine's proxies alive: their share of the ping agent. [MS-DCOM] 3.2.6

An object is pinged at the resolver that its reference named, as an identity that may ping it. Where calls to its
exporter fail the resolver is asked at once, so that the end of a server is not a matter of periods.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from oxid.com import client_activation
from oxid.com.client_activation import INTEGRITY, resolver_addresses
from oxid.com.keep_alive import KeepAlive
from oxid.com.options import UNAUTHENTICATED, Blanket
from oxid.com.ping_agent import PingTarget
from oxid.com.references import RemoteExporter, RemoteObject
from oxid.errors import ObjectGone, OxidError

if TYPE_CHECKING:
    from oxid.com.machine import Machine

log = logging.getLogger("oxid.com.lifelines")


class Lifelines:
    """One machine's objects at its agent; its owner calls `aclose`, then `say_goodbye`."""

    def __init__(self, machine: Machine, agent: KeepAlive | None) -> None:
        """`agent` is None where nobody pings for the machine."""
        self._machine = machine
        self.agent = agent
        self._targets: set[PingTarget] = set()
        self._closed = False
        if agent is not None:
            agent.listeners.add(self._found_dead)

    def target_of(self, remote: RemoteObject) -> PingTarget:
        """Which resolver keeps an object alive, and the identities with which it may be pinged: those that its
        exporter has accepted, that of its activation, our own, and nobody. [MS-DCOM] 3.2.6.1"""
        machine, exporter = self._machine, remote.exporter
        made = exporter.target
        if (
            made is not None
            and made[0] is remote.resolver
            and made[1] is remote.activated_as
            and made[2] == exporter.proven
        ):
            found: PingTarget = made[3]  # as for its last object
            return found
        ladder = [*remote.exporter.proven, machine.call_blanket(INTEGRITY), UNAUTHENTICATED]
        if remote.activated_as is not None:
            ladder.insert(len(remote.exporter.proven), remote.activated_as)
        own = tuple(machine.own_place())
        places = tuple(dict.fromkeys(resolver_addresses(remote.resolver, machine.options)))
        identities = tuple(dict.fromkeys(blanket.at_least(INTEGRITY) for blanket in ladder))
        target = PingTarget(places or own, identities, machine.options.ping_period, own)
        exporter.target = remote.resolver, remote.activated_as, list(exporter.proven), target
        return target

    def hold(self, remote: RemoteObject) -> None:
        """A first reference to an object is held."""
        if not remote.noping and self.agent is not None and not self._closed:
            target = remote.pinged_by = self.target_of(remote)
            self._targets.add(target)
            self.agent.hold(target, remote.oid)

    def let_go(self, remote: RemoteObject) -> None:
        """The last reference to an object is given up."""
        target, remote.pinged_by = remote.pinged_by, None
        if target is not None and self.agent is not None:
            self.agent.let_go(target, remote.oid)

    def object_gone(self, remote: RemoteObject) -> None:
        """A call found the object dead: pings stop naming it."""
        if remote.pinged_by is not None and self.agent is not None:
            self.agent.object_gone(remote.pinged_by, remote.oid)
        remote.found_dead()

    def suspect(self, exporter: RemoteExporter) -> None:
        """An exporter does not answer: find out whether it is gone, and its objects with it."""
        if self.agent is not None and exporter.objects and not self._closed and not exporter.suspected:
            exporter.suspected = True
            self._machine.spawn(self._look_for(exporter, self.agent))

    async def _look_for(self, exporter: RemoteExporter, agent: KeepAlive) -> None:
        """Ask the resolver for the exporter; where it is still known, the next tick asks for each object."""
        try:
            await client_activation.resolve_exporter(self._machine, exporter)
        except ObjectGone:
            for remote in list(exporter.objects.values()):
                self.object_gone(remote)
            return
        except (OxidError, OSError, TimeoutError, UnicodeError) as error:
            log.debug("exporter %016x cannot be asked for: %s", exporter.oxid, error)
        finally:
            exporter.suspected = False
        by_target: dict[PingTarget, list[int]] = {}
        for remote in exporter.objects.values():
            if remote.pinged_by is not None:
                by_target.setdefault(remote.pinged_by, []).append(remote.oid)
        for target, oids in by_target.items():
            agent.suspect(target, oids)

    def learn(self, exporter: RemoteExporter, blanket: Blanket) -> None:
        """An exporter has accepted an identity: its objects may be pinged with it."""
        if self.agent is None:
            return
        identity = blanket.at_least(INTEGRITY)
        for target in {r.pinged_by for r in exporter.objects.values() if r.pinged_by is not None}:
            self.agent.learn(target, identity)

    def _found_dead(self, target: PingTarget, oids: list[int]) -> None:
        """A resolver does not know these objects any more."""
        wanted = set(oids)
        for exporter in self._machine.exporters():
            for remote in list(exporter.objects.values()):
                if remote.oid in wanted and remote.pinged_by == target:
                    remote.found_dead()

    def aclose(self) -> None:
        """Nothing is held any more, and nothing will be."""
        self._closed = True
        if self.agent is not None:
            self.agent.listeners.discard(self._found_dead)

    async def say_goodbye(self, limit: float) -> None:
        """Tell the resolvers what was let go, within `limit` seconds."""
        if self.agent is not None:
            await asyncio.gather(*[self.agent.say_goodbye(target, limit) for target in self._targets])
