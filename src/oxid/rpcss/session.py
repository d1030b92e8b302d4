"""One process of this machine as its resolver sees it: what it registered, what it holds, and the end of both.

The channel is the process's proof of life. However it ends (exit, crash, `kill -9`), its exporters and objects, its
class registrations and endpoints, and the objects that it held at other machines are gone at once, exactly once, and
by one path: `run_down`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from oxid.auth import check_proof
from oxid.com.activation_properties import ActivationOut
from oxid.com.flight_record import Kind, event_of
from oxid.com.local_messages import (
    VERSION,
    activation_of,
    bindings_of,
    bindings_to_json,
    blanket_of,
    target_of,
)
from oxid.com.ping_agent import PingTarget
from oxid.com.reference_table import RECLAIMED, Verdict
from oxid.errors import LocalProtocolError, OxidError, TransportError
from oxid.rpcss.endpoint_mapper import EndpointLease, Registration
from oxid.runtime.local_channel import Handler, LocalChannel
from oxid.values.bindings import DualStringArray

if TYPE_CHECKING:
    from oxid.rpcss.activator import ActivationRequest
    from oxid.rpcss.machine_service import MachineService

log = logging.getLogger("oxid.rpcss.session")

RESERVE: Final = 256
MOST_RESERVED: Final = 4096


class Session:
    """What one process has here. Owned by the service, ended by `run_down`."""

    def __init__(self, service: MachineService, channel: LocalChannel) -> None:
        self.service = service
        self.channel = channel
        self.program = ""
        self.link = ""
        self.launch = ""
        self.period = service.policy.period
        self.ended = False
        self.stopping = False
        """It has said that it takes no more activations."""
        self._targets: dict[int, PingTarget] = {}
        self._held: dict[int, set[int]] = {}
        self._oxids: set[int] = set()
        self._names: dict[int, dict[str, tuple[str, ...]]] = {}
        self._endpoints: dict[int, EndpointLease] = {}
        self._endpoint_numbers = 0
        self.accounts: list[tuple[str, bytes]] = []
        """Accounts that may call this process's objects, and so ping them."""

    @property
    def pid(self) -> int:
        return self.channel.peer.pid

    @property
    def name(self) -> str:
        return f"{self.program or 'process'} ({self.pid})"

    def handlers(self) -> dict[str, Handler]:
        """What a process may say before it has said who it is: only that."""
        return {"hello": self._hello}

    def _all_handlers(self) -> dict[str, Handler]:
        return {
            "target": self._target,
            "hold": self._hold,
            "let_go": self._let_go,
            "forget": self._forget,
            "gone": self._gone,
            "suspect": self._suspect,
            "learn": self._learn,
            "told": self._told,
            "export": self._export,
            "publish": self._publish,
            "reserve": self._reserve,
            "objects": self._objects,
            "withdraw": self._withdraw,
            "endpoint": self._endpoint,
            "close_endpoint": self._close_endpoint,
            "register": self._register,
            "revoke": self._revoke,
            "suspend": self._suspend,
            "failed": self._failed,
            "listen": self._listen,
            "logon": self._logon,
        }

    def _hello(self, version: int, period: float, program: str, launch: str, link: str) -> Mapping[str, Any]:
        if version != VERSION:
            raise LocalProtocolError(f"this process speaks version {version}, its resolver version {VERSION}")
        self.program, self.launch, self.link, self.period = str(program)[:200], launch, link, float(period)
        self.service.greet(self)
        self.channel.handlers = self._all_handlers()
        return self.service.welcome(self)

    # Objects elsewhere --------------------------------------------------------------------------------

    def _target(self, number: int, **raw: Any) -> None:
        self._targets[int(number)] = target_of(raw)

    def _target_of(self, number: int) -> PingTarget:
        found = self._targets.get(number)
        if found is None:
            raise LocalProtocolError(f"target {number} was not described")
        return found

    def _hold(self, target: int, oids: Sequence[int]) -> None:
        found, held, agent = self._target_of(target), self._held.setdefault(target, set()), self.service.agent
        for oid in oids:
            # Told again: whoever has a new reference knows that the object lives.
            agent.hold(found, oid)
            if oid in held:
                agent.let_go(found, oid)
            held.add(oid)

    def _let_go(self, target: int, oids: Sequence[int]) -> None:
        found, held = self._target_of(target), self._held.get(target, set())
        for oid in oids:
            if oid in held:
                held.discard(oid)
                self.service.agent.let_go(found, oid)

    def _forget(self, target: int) -> None:
        found = self._targets.pop(target, None)
        for oid in self._held.pop(target, ()):
            if found is not None:
                self.service.agent.let_go(found, oid)

    def _gone(self, target: int, oids: Sequence[int]) -> None:
        for oid in oids:
            self.service.agent.object_gone(self._target_of(target), oid)

    def _suspect(self, target: int, oids: Sequence[int]) -> None:
        self.service.agent.suspect(self._target_of(target), oids)

    def _learn(self, target: int, identity: Any) -> None:
        self.service.agent.learn(self._target_of(target), blanket_of(identity))

    async def _told(self, target: int) -> Mapping[str, Any]:
        """Tell a resolver now what this process holds there; whether it has heard."""
        found = self._targets.get(target)
        return {"told": True if found is None else await self.service.agent.tell(found)}

    def dead(self, target: PingTarget, oids: Sequence[int]) -> None:
        """Objects at another machine are gone: tell the process what of it concerns it."""
        for number, found in self._targets.items():
            if found == target:
                mine = [oid for oid in oids if oid in self._held.get(number, ())]
                if mine:
                    self.channel.tell("dead", target=number, oids=mine)

    # Exporters and objects ----------------------------------------------------------------------------

    def _export(
        self,
        oxid: int,
        name: str = "",
        unknown: str = "",
        bindings: Any = None,
        hint: int = 5,
        oids: Sequence[Any] = (),
        resolver: Any = None,
    ) -> Mapping[str, Any]:
        """An exporter begins, or asserts itself again with everything it has."""
        service, now = self.service, self.service.now()
        label = f"{name} ({self.pid})" if name else self.name
        entry = service.resolver.add_exporter(
            bindings_of(bindings) if bindings is not None else DualStringArray(),
            UUID(unknown) if unknown else UUID(int=0),
            authn_hint=int(hint),
            owner=self,
            oxid=oxid or None,
            name=label,
        )
        self._oxids.add(entry.oxid)
        for oid, noping in oids:
            service.resolver.assert_again(entry.oxid, int(oid), now, noping=bool(noping))
            service.resolver.note(int(oid), now, Kind.ASSERTED, label, self.pid)
        service.reclaimer.watch()
        if oids:
            log.info("%s asserts %d objects again", label, len(oids))
        return {
            "oxid": entry.oxid,
            "oids": service.resolver.reserve(entry.oxid, RESERVE),
            "bindings": bindings_to_json(self.resolver_bindings(entry.oxid)),
        }

    def resolver_bindings(self, oxid: int) -> DualStringArray:
        """Where the resolver is, as references of an exporter say it."""
        return self.service.bindings(self._names.get(oxid))

    def _publish(self, oxid: int, unknown: str, bindings: Any, hint: int) -> Mapping[str, Any]:
        self._check_mine(oxid)
        self.service.resolver.update_exporter(oxid, bindings_of(bindings), UUID(unknown), int(hint))
        return {"bindings": bindings_to_json(self.resolver_bindings(oxid))}

    def _reserve(self, oxid: int, count: int) -> Mapping[str, Any]:
        self._check_mine(oxid)
        return {"oids": self.service.resolver.reserve(oxid, min(int(count), MOST_RESERVED))}

    def _objects(
        self,
        oxid: int,
        new: Sequence[Any] = (),
        out: Sequence[int] = (),
        gone: Sequence[Any] = (),
        unpinned: Sequence[int] = (),
    ) -> None:
        """What happened to an exporter's objects since it last said so."""
        self._check_mine(oxid)
        resolver, now = self.service.resolver, self.service.now()
        for oid, noping in new:
            resolver.announce(oxid, int(oid), now, noping=bool(noping))
        for oid in out:
            if resolver.owns(oxid, int(oid)):
                resolver.marshalled(int(oid), now)
        for oid in unpinned:
            if resolver.owns(oxid, int(oid)):
                resolver.unpinned(int(oid), now)
        for oid, why, events in gone:
            if resolver.owns(oxid, int(oid)):
                resolver.add_to_record(int(oid), [event_of(event) for event in events])
                if why != RECLAIMED:
                    resolver.remove_oid(int(oid), now, str(why)[:200])
                else:  # also where the answer to our question comes too late
                    resolver.settle(int(oid), Verdict.DEAD, now)
        self.service.reclaimer.watch()

    def _withdraw(self, oxid: int) -> Mapping[str, Any]:
        self._check_mine(oxid)
        self._oxids.discard(oxid)
        self._names.pop(oxid, None)
        self.service.resolver.remove_exporter(oxid, self.service.now(), process=self.pid)
        self.service.reclaimer.exporter_gone()
        return {}

    def _check_mine(self, oxid: int) -> None:
        if oxid not in self._oxids:
            raise LocalProtocolError(f"OXID {oxid:016x} is not this process's")

    async def reclaim(self, oxid: int, oids: Sequence[int], until: float) -> list[Verdict]:
        """Ask the process which of these may go. Raises OxidError."""
        answer = await self.channel.ask("reclaim", oxid=oxid, oids=list(oids), until=until)
        return [Verdict(text) for text in answer["verdicts"]]

    # Endpoints of plain interfaces --------------------------------------------------------------------

    def _endpoint(
        self,
        interface: str,
        version: Sequence[int],
        protseq: str,
        endpoint: str,
        annotation: str = "",
        object: str = "",
        static: bool = False,
    ) -> Mapping[str, Any]:
        """A plain interface listens: the endpoint mapper may say so."""
        major, minor = version
        lease = self.service.mapper.register(
            Registration(
                UUID(interface),
                (int(major), int(minor)),
                protseq,
                endpoint,
                UUID(object) if object else UUID(int=0),
                annotation,
                bool(static),
            ),
            owner=self,
        )
        for number, known in self._endpoints.items():
            if known is lease:
                return {"number": number}  # told twice
        self._endpoint_numbers += 1
        self._endpoints[self._endpoint_numbers] = lease
        return {"number": self._endpoint_numbers}

    def _close_endpoint(self, number: int) -> Mapping[str, Any]:
        """End an endpoint; one that has ended already is not closed again, whoever registered it meanwhile."""
        lease = self._endpoints.pop(int(number), None)
        return {"closed": lease is not None and lease.close()}

    # Classes ------------------------------------------------------------------------------------------

    def _register(self, clsid: str, single_use: bool = False, suspended: bool = False) -> Mapping[str, Any]:
        return {"cookie": self.service.class_ready(self, UUID(clsid), single_use, suspended)}

    def _revoke(self, cookie: int) -> Mapping[str, Any]:
        self.service.classes.revoke(int(cookie), self)
        return {}

    def _suspend(self, suspended: bool) -> Mapping[str, Any]:
        """CoSuspendClassObjects, and CoResumeClassObjects: the server has registered everything."""
        self.stopping = bool(suspended)
        self.service.classes.suspend(self, bool(suspended))
        if not suspended:
            self.service.classes_resumed(self)
        return {}

    def _failed(self, why: str) -> None:
        """A local server cannot do what it was started for."""
        self.service.launch_failed(self, str(why)[:500])

    async def activate(self, request: ActivationRequest) -> ActivationOut:
        """Let the process make an object, or name its class object. Raises OxidError: TransportError where it
        went away, StatusError CO_E_SERVER_STOPPING where it is about to."""
        asking = asyncio.ensure_future(
            self.channel.ask(
                "activate",
                clsid=str(request.clsid),
                iids=[str(iid) for iid in request.iids],
                class_object=request.class_object,
                caller=request.caller.principal,
            )
        )
        try:
            return activation_of(await asyncio.shield(asking))
        except asyncio.CancelledError:
            # Whoever wanted the object does not wait any more: it is not left to the time-outs.
            asking.add_done_callback(self._unclaimed)
            raise

    def _unclaimed(self, asking: asyncio.Future[dict[str, Any]]) -> None:
        if not asking.cancelled() and asking.exception() is None:
            objrefs = [objref for _, _, objref in asking.result().get("interfaces", ()) if objref]
            self.channel.tell("unclaimed", objrefs=objrefs)

    # Listening ----------------------------------------------------------------------------------------

    async def _listen(
        self,
        host: str,
        port: int,
        names: Sequence[str],
        oxid: int,
        accounts: Sequence[Any] = (),
        keytab: Any = None,
    ) -> Mapping[str, Any]:
        """Servers elsewhere must reach the resolver where they reach this exporter."""
        self._check_mine(oxid)
        self.accounts = [(str(name), bytes.fromhex(nt_hash)) for name, nt_hash in accounts]
        bound = await self.service.listen(str(host), int(port), keytab)
        self._names.setdefault(oxid, {})[f"{bound.host}:{bound.port}"] = tuple(map(str, names)) or (
            str(host),
        )
        return {"bindings": bindings_to_json(self.resolver_bindings(oxid)), "port": bound.port}

    def _logon(self, domain: str, user: str, challenge: str, response: str) -> Mapping[str, Any] | None:
        """Judge a caller for a server that may not read the accounts."""
        if self.service.accounts is None or not self.launch:
            return None
        found = check_proof(
            self.service.accounts, domain, user, bytes.fromhex(challenge), bytes.fromhex(response)
        )
        if found is None:
            return None
        account, key = found
        return {"name": account.name, "admin": account.admin, "key": key.hex()}

    # The end ------------------------------------------------------------------------------------------

    def run_down(self) -> None:
        """The process is gone: so is everything it had here. Exactly once."""
        if self.ended:
            return
        self.ended = True
        service, now = self.service, self.service.now()
        for number, held in self._held.items():
            for oid in held:
                service.agent.let_go(self._targets[number], oid)
        self._held.clear()
        service.classes.revoke_all(self)
        for lease in self._endpoints.values():
            lease.close()
        self._endpoints.clear()
        for oxid in self._oxids:
            service.resolver.remove_exporter(oxid, now, process=self.pid)
        if self._oxids:
            service.reclaimer.exporter_gone()
        self._oxids.clear()
        service.session_ended(self)

    async def counts(self) -> Mapping[str, Any]:
        """The live counts of the process."""
        return await self.channel.ask("counts")

    async def record(self, oid: int) -> list[Any]:
        """What the process knows of an object of its own; nothing where it does not answer."""
        try:
            async with asyncio.timeout(2.0):
                answer = await self.channel.ask("record", oid=oid)
        except (OxidError, TransportError, TimeoutError):
            return []
        return [event_of(event) for event in answer.get("events", ())]

    def stop(self) -> None:
        """Ask the process to end."""
        self.channel.tell("stop")

    def __repr__(self) -> str:
        held = sum(map(len, self._held.values()))
        return f"<Session {self.name} {len(self._oxids)} exporters, {held} objects held>"
