"""A local server: a process of its own that serves classes, started by its host when somebody activates one.
[MS-DCOM] 1.3.1, CoRegisterClassObject of the Windows SDK

    from oxid import run_local_server
    run_local_server([Calculator])            in the program that the class registry names

It registers its classes at the resolver that started it (`OXID_RPCSS`), listens where its application is configured
to, serves, and ends when its last object is gone and nobody locks it. From the moment in which it decides that, it
refuses activations: the host starts another process, and the client does not notice. When the host dies the server
goes on, asserts itself at the next one, and ends by itself where none comes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from oxid.auth import AccountStore, Authenticator, Credentials, FailureLimiter, Keytab, ServerNames
from oxid.auth.account_file import FileAccountStore
from oxid.com.channel_link import ChannelLink, ChannelLinks
from oxid.com.coclass import CoClass, coclass_of
from oxid.com.exporter import INTEGRITY, Exporter
from oxid.com.local_messages import (
    ENVIRONMENT_CHANNEL,
    ENVIRONMENT_LAUNCH,
    activation_to_json,
    credentials_of,
)
from oxid.com.machine import Machine, connect
from oxid.com.object_server import ObjectServer
from oxid.com.options import ClientOptions
from oxid.com.permissions import AccessCheck, AccessList
from oxid.com.process_agent import ProcessAgent
from oxid.com.remote_accounts import RemoteAccounts
from oxid.com.service_link import ServiceLink
from oxid.errors import ConfigurationError, OxidError, TransportError, hresult
from oxid.interfaces.remote_unknown import IRemUnknown
from oxid.rpc.interface import spec_of
from oxid.runtime.local_channel import Handler, LocalChannel
from oxid.runtime.proxy_route import TUNNEL_PERIOD
from oxid.runtime.server import tunnel_options
from oxid.values.status import CO_E_SERVER_STOPPING
from oxid.world import World

log = logging.getLogger("oxid.com.local_server")

ALONE_PERIODS: Final = 3
"""Ping periods for which a server goes on without a resolver."""
UNWANTED_S: Final = 60.0
"""For which a server waits for the activation that it was started for."""


class LocalServer:
    """Serves classes in this process until it may end."""

    def __init__(
        self,
        classes: Sequence[CoClass],
        *,
        world: World | None = None,
        channel: Path,
        launch: str = "",
        period: float = 120.0,
        single_use: bool = False,
        idle_s: float = 0.0,
    ) -> None:
        """`channel` is the resolver's; `single_use` makes an object for one client only (REGCLS_SINGLEUSE);
        `idle_s` is how long it stays after its last object is gone."""
        self.world = world or World.real()
        self.period = period
        self._classes = list(classes)
        self._single_use = single_use
        self._idle_s = idle_s
        self._unwanted_s = UNWANTED_S
        self._link = ServiceLink(self.world, channel, period=period, launch=launch)
        self._links = ChannelLinks(self._link)
        self._stack = AsyncExitStack()
        self._stopping = False
        self._cookies: dict[UUID, int] = {}
        self._revoked: set[UUID] = set()
        """Classes that are not offered any more, to no resolver."""
        self._rows: list[int] = []
        self._app: Mapping[str, Any] = {}
        self._permissions: Mapping[str, Any] = {}
        self._exporter_link: ChannelLink | None = None
        """Once the resolver has been told of the exporter."""
        self._ports: list[int] = [0]
        """Where its application listens; 0 for a port that is free."""
        self._over = asyncio.Event()
        self._idle: asyncio.TimerHandle | None = None
        self._served = False
        """Somebody has activated a class: from now on it ends when nothing is left."""
        self._registering: asyncio.Task[None] | None = None
        self.objects: ObjectServer | None = None

    # Serving ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Register, serve, and return when the server may end. Raises OxidError where it cannot serve."""
        try:
            await self._start()
            await self._over.wait()
        finally:
            await self._aclose()

    async def _start(self) -> None:
        link, world = self._link, self.world
        link.add(self)
        link.add(self._links)
        await link.open()
        welcome = link.welcome
        self.period = float(welcome["period"])
        self._unwanted_s = min(UNWANTED_S, ALONE_PERIODS * self.period)
        try:
            await self._open(welcome)
        except OxidError as error:
            if link.channel is not None:
                link.channel.tell("failed", why=str(error))
            raise
        world.ledger.task.enter()
        watching = asyncio.create_task(self._end_where_alone(), name="oxid local server")
        watching.add_done_callback(lambda _: world.ledger.task.leave())
        self._stack.push_async_callback(_cancel, watching)

    async def _open(self, welcome: Mapping[str, Any]) -> None:
        app = self._app = welcome.get("app") or {}
        self._permissions = self._permissions or welcome
        self._ports = [int(port) for port in welcome.get("ports") or (0,)]
        exporter_link = ChannelLink(self.world, self.period, name=str(app.get("name") or app.get("id") or ""))
        await self._links.add(exporter_link)
        authenticator = Authenticator(
            self._accounts(welcome),
            world=self.world,
            names=ServerNames(computer=str(welcome.get("computer") or "OXID")),
            keytab=_keytab(welcome),
            limiter=FailureLimiter(),
        )
        objects = self.objects = ObjectServer(
            self.world,
            exporter_link,
            authenticator,
            oxid=exporter_link.oxid,
            classes=self._classes,
            allow_anonymous=bool(welcome.get("anonymous")),
            advertise=tuple(welcome.get("advertise") or ()),
            on_empty=self._look_whether_to_end,
            tunnel_options=tunnel_options(float(welcome.get("tunnel_period") or TUNNEL_PERIOD)),
        )
        self._stack.push_async_callback(objects.aclose)
        self._admit(objects.exporter)
        objects.use_apartment({UUID(clsid) for clsid in welcome.get("apartment") or ()})
        objects.class_objects.on_unlocked = self._look_whether_to_end
        await self._connect_outwards(welcome, objects)
        for host in welcome.get("hosts") or ["127.0.0.1"]:
            await self._listen(objects, host, welcome)
        exporter_link.serve(objects)
        await exporter_link.publish()
        self._exporter_link = exporter_link
        await self._register(await self._link.when_attached())

    def _accounts(self, welcome: Mapping[str, Any]) -> AccountStore:
        """The host's accounts: its file where we may read it, else its word for each caller."""
        path = welcome.get("accounts")
        if path is None:
            return RemoteAccounts(asyncio.get_running_loop(), lambda: self._link.channel)
        return FileAccountStore(str(path))

    async def _connect_outwards(self, welcome: Mapping[str, Any], objects: ObjectServer) -> None:
        """What its objects hold elsewhere, they hold through the same resolver."""
        options = ClientOptions(ping_period=self.period)
        agent = ProcessAgent(self.world, options)
        self._stack.push_async_callback(agent.aclose)
        await agent.use(self._link)
        identity: Credentials | None = credentials_of(welcome.get("identity"))
        following = connect(
            "",
            identity,
            options=options,
            world=self.world,
            exporter=objects.exporter,
            agent=agent,
            probe=False,
        )
        self.machine: Machine = await self._stack.enter_async_context(following)
        objects.exporter.importer = self.machine

    async def _listen(self, objects: ObjectServer, host: str, welcome: Mapping[str, Any]) -> None:
        names = tuple((welcome.get("names") or {}).get(host, ()))
        dynamic = tuple(welcome.get("range") or ()) or 0
        avoid = {int(port) for port in welcome.get("avoid") or ()}
        for port in self._ports:
            if port:
                await objects.listen(host, port, names=names)
            else:
                await objects.listen(host, dynamic, names=names, avoid=avoid)
        if welcome.get("tunnel_period"):
            await objects.listen(host, dynamic, names=names, avoid=avoid, protseq="ncacn_http")

    # The link -----------------------------------------------------------------------------------------

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "activate": self._activate,
            "unclaimed": self._unclaimed,
            "counts": self._counts,
            "permit": self._permit,
            "stop": self._stop,
        }

    async def attach(self, channel: LocalChannel, welcome: Mapping[str, Any]) -> None:
        """A resolver is there; behind the first one the exporter asserts itself, then its classes."""
        if self.objects is not None:
            asyncio.get_running_loop().call_soon(self._register_again, channel)

    def detach(self) -> None:
        self._cookies.clear()

    def _register_again(self, channel: LocalChannel) -> None:
        self._registering = asyncio.get_running_loop().create_task(self._register(channel))

    async def _register(self, channel: LocalChannel) -> None:
        """Offer the classes: all of them suspended, then all at once."""
        if self._stopping:
            return
        assert self.objects is not None
        offered = [described for described in self.objects.classes if described.clsid not in self._revoked]
        if not offered:
            return
        try:
            self._rows = [
                int((await channel.ask("endpoint", **row))["number"]) for row in self._endpoint_rows()
            ]
            for described in offered:
                answer = await channel.ask(
                    "register", clsid=str(described.clsid), single_use=self._single_use, suspended=True
                )
                self._cookies[described.clsid] = int(answer["cookie"])
            await channel.ask("suspend", suspended=False)
        except TransportError:
            pass  # this resolver is gone again; the next one is told

    def _endpoint_rows(self) -> list[dict[str, Any]]:
        """What the endpoint mapper says of this server: one row for each of its endpoints."""
        assert self.objects is not None
        unknown, app = spec_of(IRemUnknown), self._app
        name = app.get("name") or app.get("id")
        return [
            {
                "interface": str(unknown.uuid),
                "version": unknown.version,
                "protseq": endpoint.protseq,
                "endpoint": str(endpoint.port),
                "annotation": f"application {name}"[:63] if name else "local server",
                "object": app.get("id", ""),
                "static": endpoint.port in self._ports,
            }
            for endpoint in self.objects.endpoints
        ]

    async def revoke(self, clsid: UUID) -> None:
        """Offer a class no more. With the last one the endpoints are taken out of the mapper; objects live on."""
        self._revoked.add(clsid)
        cookie = self._cookies.pop(clsid, None)
        channel = self._link.channel
        if cookie is None or channel is None:
            return
        await channel.ask("revoke", cookie=cookie)
        if not self._cookies:
            for number in self._rows:
                await channel.ask("close_endpoint", number=number)
            self._rows.clear()

    def _activate(
        self, clsid: str, iids: Sequence[str], class_object: bool, caller: str | None
    ) -> Mapping[str, Any]:
        if self._stopping:
            raise hresult(CO_E_SERVER_STOPPING, "the server is ending")
        assert self.objects is not None
        self._served = True
        self._stay()
        wanted = tuple(UUID(iid) for iid in iids)
        out = self.objects.activate(UUID(clsid), wanted, class_object=class_object, who=caller or "")
        if all(interface.failed for interface in out.interfaces):
            self._look_whether_to_end()
        return activation_to_json(out)

    def _unclaimed(self, objrefs: Sequence[str]) -> None:
        """Nobody waits for these references any more."""
        assert self.objects is not None
        for text in objrefs:
            try:
                own = self.objects.exporter.local(bytes.fromhex(text))
            except OxidError:
                continue
            if own is not None:
                pointer, refs = own
                self.objects.exporter.table.release_refs(pointer, refs)

    def _counts(self) -> Mapping[str, Any]:
        ledger = self.world.ledger
        return {"live": ledger.live(), "peak": ledger.peak(), "total": ledger.total()}

    def _permit(self, **permissions: Any) -> None:
        """The permissions of the application have changed."""
        self._permissions = permissions
        if self.objects is not None:
            self._admit(self.objects.exporter)

    def _admit(self, exporter: Exporter) -> None:
        raw, level = self._permissions.get("access"), int(self._permissions.get("level") or INTEGRITY)
        # None where every account may call.
        exporter.access = None if raw is None else AccessCheck(*map(AccessList.parse, raw))
        changed, exporter.minimum_level = exporter.minimum_level != level, level
        if changed and self._exporter_link is not None:
            self.machine.spawn(self._exporter_link.publish())

    def _stop(self) -> None:
        log.info("told to end")
        self.stop()

    # The end ------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End now, whatever lives."""
        self._stopping = True
        self._over.set()

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
            self.world.ledger.timer.leave()

    def _look_whether_to_end(self) -> None:
        """The last object has gone, or the last lock: CoReleaseServerProcess."""
        if self._stopping or self._idle is not None or not self._unused:
            return
        self.world.ledger.timer.enter()
        self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._end_if_unused)

    @property
    def _unused(self) -> bool:
        objects = self.objects
        return (
            self._served
            and objects is not None
            and objects.exporter.table.empty
            and not objects.class_objects.locked
        )

    def _end_if_unused(self) -> None:
        """Decide, in one step with refusing activations, that the process ends."""
        self._idle = None
        self.world.ledger.timer.leave()
        if self._unused and not self._stopping:
            self._stopping = True
            if self._link.channel is not None:
                self._link.channel.tell("suspend", suspended=True)
            self._over.set()

    async def _end_where_alone(self) -> None:
        """Without a resolver nobody can ping: after the time-out of a ping set no client can be left."""
        started, limit = self.world.clock.now(), ALONE_PERIODS * self.period
        assert self.objects is not None
        table = self.objects.exporter.table
        while True:
            await asyncio.sleep(self.period / 4)
            now, lost_at = self.world.clock.now(), self._link.lost_at
            if not self._served and now - started > self._unwanted_s:
                log.info("nobody has activated a class for %.0f s: ending", self._unwanted_s)
                self.stop()
                return
            if lost_at is not None and now - lost_at > limit and not table.called_since(now - self.period):
                log.warning("no resolver for %.0f s: ending", now - lost_at)
                self.stop()
                return

    async def _aclose(self) -> None:
        self._stopping = True
        self._stay()
        await self._stack.aclose()
        if self._registering is not None:
            await asyncio.gather(self._registering, return_exceptions=True)
        await self._link.aclose()

    def __repr__(self) -> str:
        return f"<LocalServer {len(self._classes)} classes, {self.objects!r}>"


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _keytab(welcome: Mapping[str, Any]) -> Keytab | None:
    found = credentials_of(welcome.get("keytab"))
    return found if isinstance(found, Keytab) else None


def run_local_server(
    classes: Sequence[type[Any] | CoClass],
    *,
    single_use: bool = False,
    idle_s: float = 0.0,
) -> None:
    """Serve classes in this process until nothing is left of them: the `main` of a local server.

    The process must have been started by its host, which says where it is in the environment.
    Raises ConfigurationError where it was not, OxidError where it cannot serve.
    """
    asyncio.run(serve_local(classes, single_use=single_use, idle_s=idle_s))


async def serve_local(
    classes: Sequence[type[Any] | CoClass],
    *,
    single_use: bool = False,
    idle_s: float = 0.0,
) -> None:
    """The same on a loop that runs already. SIGTERM and SIGINT end it."""
    channel = os.environ.get(ENVIRONMENT_CHANNEL)
    if not channel:
        raise ConfigurationError(
            f"{ENVIRONMENT_CHANNEL} is not set: a local server is started by its host when a class of it is "
            "activated (`oxid class register --command …`)"
        )
    described = [c if isinstance(c, CoClass) else coclass_of(c) for c in classes]
    server = LocalServer(
        described,
        channel=Path(channel),
        launch=os.environ.get(ENVIRONMENT_LAUNCH, ""),
        single_use=single_use,
        idle_s=idle_s,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    try:
        await server.run()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
