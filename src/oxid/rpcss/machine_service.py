"""RPCSS: what one machine has once for all its processes. The resolver, the ping agent, and the local channel.

    service = MachineService(world, policy, agent)
    async with open_listener(path, service.accept): ...       processes connect
    service.register(rpc_server)                              IObjectExporter, for other machines
    await service.aclose()

`oxid serve` adds activation, `oxid agent` is nothing else. A process that connects has a Session here; what it
registered and holds ends with it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol
from uuid import UUID

from oxid.auth import Account, AccountStore
from oxid.com.flight_record import Event, in_order
from oxid.com.ping_agent import PingAgent, PingTarget
from oxid.com.reference_table import Verdict
from oxid.errors import AccessDenied, OxidError
from oxid.interfaces.object_exporter import IObjectExporter
from oxid.rpcss.activator import Caller
from oxid.rpcss.endpoint_mapper import EndpointMapper
from oxid.rpcss.oid_table import PingPolicy
from oxid.rpcss.oxid_resolver import OxidResolver, Question
from oxid.rpcss.ping_sets import PingLimits
from oxid.rpcss.reclaimer import Reclaimer
from oxid.rpcss.running_classes import RunningClasses
from oxid.rpcss.service import ObjectExporterService
from oxid.rpcss.session import Session
from oxid.runtime.local_channel import LocalChannel, Peer
from oxid.runtime.server import Endpoint, RpcServer
from oxid.values.bindings import DcomBinding, DualStringArray, SecurityBinding, tower_id_of
from oxid.values.status import ERROR_ACCESS_DENIED, Win32
from oxid.world import World

log = logging.getLogger("oxid.rpcss")

RESOLVER_PORT: Final = 135
PROXIED_PORT: Final = 593
TCP: Final = "ncacn_ip_tcp"


class LocalExporter(Protocol):
    """An exporter of the resolver's own process, asked without a channel."""

    def reclaim(self, oids: Sequence[int], now: float, grace: float) -> dict[int, Verdict]: ...


class Launches(Protocol):
    """Whoever started processes and waits for them to register; `oxid.rpcss.launcher` in a host."""

    def welcome(self, session: Session) -> Mapping[str, Any]:
        """What a process must know to serve; empty for one that was not started here."""
        ...

    def may_register(self, session: Session, clsid: UUID) -> bool: ...

    def registered(self, clsid: UUID, *, single_use: bool) -> None: ...

    def serves(self, session: Session) -> None: ...

    def failed(self, session: Session, why: str) -> None: ...

    def ended(self, session: Session) -> None: ...


class MachineService:
    """Owned by a host or an agent process, which closes it."""

    def __init__(
        self,
        world: World,
        policy: PingPolicy,
        agent: PingAgent,
        *,
        caller: Callable[[], Caller],
        security: Callable[[], tuple[SecurityBinding, ...]],
        admits_ping: Callable[[Caller], bool] | None = None,
        limits: PingLimits | None = None,
        names: Callable[[Endpoint], tuple[str, ...]] | None = None,
        listen: Callable[[str, int, Any], Awaitable[Endpoint]] | None = None,
        launches: Launches | None = None,
    ) -> None:
        """`caller` says who makes the call that runs; `security` how callers may authenticate; `names` what clients
        are told for an endpoint; `listen(host, port, keytab)` opens one more for callbacks."""
        self.world = world
        self.policy = policy
        self.agent = agent
        agent.listeners.add(self._dead_elsewhere)
        self.resolver = OxidResolver(world.new_id, policy, world.ledger, limits)
        self.reclaimer = Reclaimer(world, self.resolver, self._ask)
        self.mapper = EndpointMapper(world.ledger)
        self.classes: RunningClasses[Any] = RunningClasses()
        self.sessions: set[Session] = set()
        self.endpoints: list[Endpoint] = []
        """Where the resolver listens."""
        self.on_idle: Callable[[], object] | None = None
        self.users = {0, os.getuid()}
        """Whose processes may connect."""
        self.object_exporter = ObjectExporterService(
            self.resolver, self.bindings, caller, world.clock, self.reclaimer, admits_ping
        )
        self.accounts: AccountStore | None = None
        """Who may come, for servers that may not read it themselves; None for nobody."""
        self._security = security
        self._names_of = names or (lambda endpoint: (endpoint.host,))
        self._listen = listen
        self.launches = launches
        self._bindings: DualStringArray | None = None
        self._closed = False

    def now(self) -> float:
        return self.world.clock.now()

    # The resolver's face ------------------------------------------------------------------------------

    def register(self, server: RpcServer) -> None:
        """Answer IObjectExporter on a server."""
        server.register(IObjectExporter, self.object_exporter, ndr64=False)

    def listens(self, endpoint: Endpoint) -> None:
        """The resolver is reachable at one more endpoint."""
        self.endpoints.append(endpoint)
        self._bindings = None

    def bindings(self, names: Mapping[str, tuple[str, ...]] | None = None) -> DualStringArray:
        """Where the resolver is: what goes into OBJREFs. `names` of one exporter: for which endpoints, and what
        is told instead of their addresses."""
        if names:
            return DualStringArray(
                tuple(
                    _binding(name, endpoint)
                    for endpoint in self.endpoints
                    for name in names.get(f"{endpoint.host}:{endpoint.port}", ())
                ),
                self._security(),
            )
        if self._bindings is None:
            self._bindings = DualStringArray(
                tuple(_binding(name, e) for e in self.endpoints for name in self._names_of(e)),
                self._security(),
            )
        return self._bindings

    async def listen(self, host: str, port: int, keytab: Any) -> Endpoint:
        """An endpoint for callbacks at this address, opened where there is none. Raises ConfigurationError."""
        for endpoint in self.endpoints:
            if (endpoint.protseq, endpoint.host) == (TCP, host) and port in (0, endpoint.port):
                return endpoint
        if self._listen is None:
            raise AccessDenied(Win32(ERROR_ACCESS_DENIED), "this resolver listens where it was told to")
        endpoint = await self._listen(host, port, keytab)
        self.listens(endpoint)
        return endpoint

    def _ask(self, question: Question, until: float) -> Any:
        """Put a question to its exporter: at once to one of this process, else over the channel."""
        entry = self.resolver.resolve(question.oxid)
        owner = None if entry is None else entry.owner
        if isinstance(owner, Session):
            return owner.reclaim(question.oxid, question.oids, until)
        if owner is None:
            return [Verdict.DEAD] * len(question.oids)
        verdicts = owner.reclaim(question.oids, self.now(), self.policy.period)  # type: ignore[attr-defined]  # a LocalExporter
        return [verdicts[oid] for oid in question.oids]

    def _dead_elsewhere(self, target: PingTarget, oids: list[int]) -> None:
        for session in list(self.sessions):
            session.dead(target, oids)

    # Processes ----------------------------------------------------------------------------------------

    def accept(self) -> LocalChannel:
        """The protocol object for a process that connects."""
        channel = _Accepted(self)
        session = Session(self, channel)
        channel.session = session
        channel.handlers = session.handlers()
        channel.on_lost = session.run_down
        return channel

    def admits(self, peer: Peer, session: Session) -> bool:
        """Whether a process may speak here: one of this user, of root, or of a user that we started it as."""
        if peer.uid not in self.users:
            log.warning("process %d of user %d may not speak here", peer.pid, peer.uid)
            return False
        self.sessions.add(session)
        return True

    def greet(self, session: Session) -> None:
        """A process has said who it is. One that comes back, before we noticed that its old connection is gone,
        is not served twice."""
        for other in list(self.sessions):
            if other is not session and other.link == session.link:
                other.run_down()
                other.channel.cut()

    def welcome(self, session: Session) -> Mapping[str, Any]:
        more = self.launches.welcome(session) if self.launches is not None else {}
        return {"period": self.policy.period, **more}

    def class_ready(self, session: Session, clsid: UUID, single_use: bool, suspended: bool) -> int:
        if self.launches is not None and not self.launches.may_register(session, clsid):
            raise AccessDenied(Win32(ERROR_ACCESS_DENIED), f"{session.name} may not offer class {clsid}")
        cookie = self.classes.register(clsid, session, single_use=single_use, suspended=suspended)
        if self.launches is not None:
            self.launches.registered(clsid, single_use=single_use)
        return cookie

    def classes_resumed(self, session: Session) -> None:
        if self.launches is not None:
            self.launches.serves(session)

    def launch_failed(self, session: Session, why: str) -> None:
        if self.launches is not None:
            self.launches.failed(session, why)

    def session_ended(self, session: Session) -> None:
        self.sessions.discard(session)
        if self.launches is not None:
            self.launches.ended(session)
        if not self._closed:
            self.reclaimer.watch()
            self.check_idle()

    def check_idle(self) -> None:
        """Tell whoever wants to know when nobody needs this service any more."""
        if self.on_idle is not None and not self.sessions and self.agent.idle:
            self.on_idle()

    # Who may ping -------------------------------------------------------------------------------------

    def find(self, name: str) -> Account | None:
        """An account that a process of this machine accepts for its objects: an AccountStore."""
        wanted = name.casefold()
        for session in self.sessions:
            for known, nt_hash in session.accounts:
                if known.casefold() == wanted:
                    return Account(known, nt_hash)
        return None

    # What it can tell ---------------------------------------------------------------------------------

    async def events_of(self, oid: int) -> list[Event] | None:
        """The flight record of an object, with what its exporter knows while it lives."""
        events = self.resolver.events_of(oid)
        entry = self.resolver.exporter_of(oid)
        if events is not None and entry is not None and isinstance(entry.owner, Session):
            events = in_order([*events, *await entry.owner.record(oid)])
        return events

    async def counts(self) -> dict[str, dict[str, int]]:
        """Live counts of this process and of those that serve for it, added up."""
        ledger = self.world.ledger
        total = {"live": ledger.live(), "peak": ledger.peak(), "total": ledger.total()}
        for session in list(self.sessions):
            if not session.launch:
                continue
            try:
                answer = await session.counts()
            except OxidError:
                continue  # it has just gone
            for part, counts in total.items():
                for kind, count in answer.get(part, {}).items():
                    counts[kind] = counts.get(kind, 0) + int(count)
        return total

    async def aclose(self) -> None:
        """Cut every process off, forget everything. May be called twice."""
        self._closed = True
        self.agent.listeners.discard(self._dead_elsewhere)
        for session in list(self.sessions):
            session.run_down()
            await session.channel.aclose()
        await self.reclaimer.aclose()
        self.mapper.close()
        self.resolver.close(self.now())

    def __repr__(self) -> str:
        return f"<MachineService {len(self.sessions)} processes, {self.resolver!r}, {self.agent!r}>"


class _Accepted(LocalChannel):
    """A channel whose process is looked at before anything it says."""

    session: Session

    def __init__(self, service: MachineService) -> None:
        super().__init__()
        self._service = service

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if not self._service.admits(self.peer, self.session):
            self.handlers = {}
            transport.abort()


def _binding(name: str, endpoint: Endpoint) -> DcomBinding:
    usual = PROXIED_PORT if endpoint.protseq == "ncacn_http" else RESOLVER_PORT
    port = "" if endpoint.port == usual else str(endpoint.port)
    return DcomBinding(tower_id_of(endpoint.protseq), name, port)
