"""The applications of a host: which exporter serves each class of its own process, and what local servers are told.

Classes without settings share the host's main exporter. An application with endpoints, permissions or a level of its
own has an exporter of its own, on its own ports. With `isolate`, and where the registry has a command, its classes
run in another process.
"""

from __future__ import annotations

import logging
import os
import pwd
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from oxid.auth import Credentials, Keytab
from oxid.com.coclass import CoClass
from oxid.com.local_messages import credentials_to_json
from oxid.com.machine import Machine
from oxid.com.object_server import ObjectServer
from oxid.com.permissions import ALL_ACCOUNTS, ANYBODY, AccessCheck, AccessList
from oxid.config import credentials_file
from oxid.errors import ConfigurationError
from oxid.interfaces.remote_unknown import IRemUnknown
from oxid.rpc.interface import spec_of
from oxid.rpcss.class_registry import AppSettings, ClassRegistry, ClassSettings
from oxid.rpcss.direct_link import DirectLink
from oxid.rpcss.endpoint_mapper import EndpointLease, Registration
from oxid.values.bindings import DualStringArray

if TYPE_CHECKING:
    from oxid.host.host import Host

log = logging.getLogger("oxid.host")

INTEGRITY: Final = 5


class Applications:
    """Owns the exporters of the host's own process."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._leases: dict[ObjectServer, list[EndpointLease]] = {}
        self._settings: dict[UUID, AppSettings] = {}
        self._of_app: dict[UUID, ObjectServer] = {}
        self._draining: dict[ObjectServer, UUID] = {}
        """Exporters that end with their last object, and their applications."""
        self._importer: Machine | None = None
        self.main = self._exporter(None)

    @property
    def all(self) -> list[ObjectServer]:
        """Every exporter of this process."""
        return [self.main, *self._of_app.values(), *self._draining]

    # Opening ------------------------------------------------------------------------------------------

    def _exporter(self, app: AppSettings | None) -> ObjectServer:
        host, options = self._host, self._host.options
        oxid = host.world.new_id()
        link = DirectLink(
            host.world, host.service.resolver, host.service.reclaimer, oxid, host.service.bindings
        )
        anonymous = options.insecure_anonymous
        made = ObjectServer(
            host.world,
            link,
            host.authenticator,
            oxid=oxid,
            allow_anonymous=anonymous,
            minimum_level=(app.authentication if app is not None else None) or INTEGRITY,
            access=self._access_check(app),
            advertise=options.advertise,
            on_empty=self._look_for_drained,
            tunnel_options=host.tunnel_options,
        )
        host.service.resolver.add_exporter(
            DualStringArray(),
            UUID(bytes_le=made.remote_unknown.pointer.ipid),
            authn_hint=made.exporter.minimum_level,
            owner=made.exporter.table,
            oxid=oxid,
            name=f"application {app.name or app.id}" if app is not None else "this host",
        )
        self._leases[made] = []
        return made

    def _access_check(self, app: AppSettings | None) -> AccessCheck | None:
        """What judges the callers of an exporter; None where every account may call."""
        permissions = self._host.permissions
        own = app.access if app is not None and app.access is not None else permissions.access
        if permissions.limit_access == ANYBODY and own in (ALL_ACCOUNTS, ANYBODY):
            return None
        return AccessCheck(permissions.limit_access, own)

    async def open(self, importer: Machine) -> None:
        """Listen. Raises ConfigurationError for an address or port that cannot be bound."""
        self._importer = importer
        host, options = self._host, self._host.options
        ports = options.exporter_ports
        wanted = (ports.low, ports.high) if ports is not None else 0
        for address in host.hosts:
            endpoint = await self.main.listen(address, wanted, avoid=static_ports(options.registry))
            self.main.rename(endpoint, await host.look_up_names(endpoint.host))
        await self._listen_for_proxies(self.main)
        self.main.exporter.importer = importer
        for offered in host.interfaces:
            self.main.serve_plain(offered.spec, offered.implementation, anonymous=options.insecure_anonymous)
        self._published(self.main)
        await self.reload(options.registry, starting=True)

    async def _listen_for_proxies(self, objects: ObjectServer) -> None:
        """Each exporter has a port of its own for clients that come through an RPC proxy."""
        if self._host.options.ncacn_http is None:
            return
        ports = self._host.options.exporter_ports
        wanted = (ports.low, ports.high) if ports is not None else 0
        avoid = static_ports(self._host.options.registry)
        for address in self._host.hosts:
            endpoint = await objects.listen(address, wanted, avoid=avoid, protseq="ncacn_http")
            objects.rename(endpoint, await self._host.look_up_names(endpoint.host))

    def _published(self, objects: ObjectServer) -> None:
        self._host.service.resolver.update_bindings(objects.exporter.oxid, objects.bindings())

    async def _open_app(self, app: AppSettings) -> ObjectServer:
        """An exporter for one application, on its endpoints. Raises ConfigurationError."""
        objects = self._exporter(app)
        ports = self._host.options.exporter_ports
        dynamic = (ports.low, ports.high) if ports is not None else 0
        try:
            for address in self._host.hosts:
                for endpoint in app.endpoints or (None,):
                    static = endpoint is not None and endpoint.static
                    port = endpoint.port if endpoint is not None and static else dynamic
                    avoid = () if static else static_ports(self._host.launcher.registry)
                    bound = await objects.listen(address, port, avoid=avoid)
                    objects.rename(bound, await self._host.look_up_names(bound.host))
                    row = Registration(
                        spec_of(IRemUnknown).uuid,
                        (0, 0),
                        bound.protseq,
                        str(bound.port),
                        app.id,
                        f"application {app.name or app.id}"[:63],
                        static,
                    )
                    lease = self._host.mapper.register(row, owner=objects.exporter.oxid)
                    self._leases[objects].append(lease)
            await self._listen_for_proxies(objects)
        except BaseException:
            await self._close(objects)
            raise
        objects.exporter.importer = self._importer
        self._published(objects)
        return objects

    # Configuration ------------------------------------------------------------------------------------

    async def reload(self, registry: ClassRegistry, *, starting: bool = False) -> None:
        """Take over settings. What lives keeps its endpoints until it ends; what is made from now on uses the new
        ones. An application whose settings cannot be used keeps its old ones, or is not served where it is new, and
        the log says so; a host that is `starting` raises ConfigurationError instead."""
        host = self._host
        effective = self._effective(registry)
        effective.check()
        host.activator.registry = host.launcher.registry = effective
        host.activator.permissions = (
            registry.permissions.open_to_anybody()
            if host.options.insecure_anonymous
            else registry.permissions
        )
        await self._free_ports(effective)
        routes: dict[UUID, ObjectServer] = {}
        wanted: set[UUID] = set()
        for described in host.classes:
            app = effective.app_of(described.clsid)
            if app is not None and app.command:
                continue
            objects = self.main
            if app is not None and app.of_its_own:
                wanted.add(app.id)
                try:
                    objects = await self._of_settings(app)
                except ConfigurationError as error:
                    if starting:
                        raise
                    old = self._of_app.get(app.id)
                    does = "is not served" if old is None else "keeps its old settings"
                    log.error("application %s %s: %s", app.name or app.id, does, error)
                    if old is None:
                        continue
                    objects = old
            objects.classes.add(described)
            routes[described.clsid] = objects
        host.activator.objects = routes
        apartment = effective.in_apartment()
        for objects in (self.main, *self._of_app.values()):
            objects.use_apartment(apartment)
        for app_id in [known for known in self._of_app if known not in wanted]:
            self._drain(app_id)
        self._permit(effective)

    async def _free_ports(self, registry: ClassRegistry) -> None:
        """Close the exporters without objects that hold a port which the new settings give to another exporter."""
        changed = [
            app_id
            for app_id, old in self._settings.items()
            if (app := registry.apps.get(app_id)) is None or app.endpoints != old.endpoints
        ]
        needed = {
            endpoint.port
            for app_id, app in registry.apps.items()
            if app_id in changed or app_id not in self._settings
            for endpoint in app.endpoints
            if endpoint.static
        }
        for app_id in changed:
            objects = self._of_app[app_id]
            held = {endpoint.port for endpoint in self._settings[app_id].endpoints if endpoint.static}
            if held & needed and objects.exporter.table.empty:
                for clsid in [c for c, o in self._host.activator.objects.items() if o is objects]:
                    del self._host.activator.objects[clsid]
                del self._of_app[app_id], self._settings[app_id]
                await self._close(objects)

    def _permit(self, registry: ClassRegistry) -> None:
        """Access permissions and levels hold at once: for what lives, what drains, and local servers too."""
        self.main.exporter.access = self._access_check(None)
        of_apps = {objects: app_id for app_id, objects in self._of_app.items()} | self._draining
        for objects, app_id in of_apps.items():
            app = registry.apps.get(app_id)
            objects.exporter.access = self._access_check(app)
            level = (app.authentication if app is not None else None) or INTEGRITY
            if objects.exporter.minimum_level != level:
                objects.exporter.minimum_level = level
                unknown = UUID(bytes_le=objects.remote_unknown.pointer.ipid)
                self._host.service.resolver.update_exporter(
                    objects.exporter.oxid, objects.bindings(), unknown, level
                )
        self._host.launcher.tell_permissions(registry, self._permissions_of)

    def _permissions_of(self, app: AppSettings) -> Mapping[str, Any]:
        """Who may call a local server, and how well protected."""
        permissions = self._host.permissions
        own = app.access if app.access is not None else permissions.access
        everybody = permissions.limit_access == ANYBODY and own in (ALL_ACCOUNTS, ANYBODY)
        return {
            "level": app.authentication or INTEGRITY,
            "access": None if everybody else [_texts(permissions.limit_access), _texts(own)],
        }

    async def _of_settings(self, app: AppSettings) -> ObjectServer:
        """The exporter for an application's settings: the one it has, or a new one beside it."""
        known = self._settings.get(app.id)
        if known is not None and known.endpoints == app.endpoints:
            self._settings[app.id] = app
            return self._of_app[app.id]
        made = await self._open_app(app)
        if known is not None:
            self._drain(app.id)
        self._of_app[app.id], self._settings[app.id] = made, app
        return made

    def _drain(self, app_id: UUID) -> None:
        """No new objects; the exporter ends with its last one."""
        self._settings.pop(app_id, None)
        self._draining[self._of_app.pop(app_id)] = app_id
        self._look_for_drained()

    def _look_for_drained(self) -> None:
        for objects in list(self._draining):
            if objects.exporter.table.empty:
                del self._draining[objects]
                self._importer_spawn(objects)

    def _importer_spawn(self, objects: ObjectServer) -> None:
        if self._importer is not None and not self._importer.closed:
            self._importer.spawn(self._close(objects))

    def _effective(self, registry: ClassRegistry) -> ClassRegistry:
        """The registry with what the classes of this host say themselves: an application for each, and a process
        for each application where they are isolated."""
        apps, classes = dict(registry.apps), dict(registry.classes)
        for described in self._host.classes:
            found = classes.get(described.clsid)
            app_id = (found.app if found is not None else None) or described.appid or described.clsid
            app = apps.get(app_id) or AppSettings(app_id)
            if self._host.options.isolate and not app.command:
                app = replace(app, command=self._surrogate(app_id))
            apps[app_id] = app
            classes[described.clsid] = replace(
                found or ClassSettings(described.clsid, described.progid or ""), app=app_id
            )
        return replace(registry, apps=apps, classes=classes)

    def _surrogate(self, app_id: UUID) -> tuple[str, ...]:
        """The command that serves the host's own classes of one application in another process."""
        options = self._host.options
        log_options = ["--log-level", options.log_level, *(["--log-json"] if options.log_json else [])]
        return (
            sys.executable,
            "-P",
            "-m",
            "oxid",
            "surrogate",
            *log_options,
            str(app_id),
            *self._host.modules,
        )

    def users(self, *, strict: bool = True) -> set[int]:
        """The users that local servers run as, where that is not ours. ConfigurationError for one there is not,
        unless that is left to whoever starts such a server."""
        found: set[int] = set()
        for app in self._host.activator.registry.apps.values():
            if app.user is not None:
                try:
                    found.add(pwd.getpwnam(app.user).pw_uid)
                except KeyError as error:
                    reason = f"application {app.id}: there is no user {app.user} on this machine"
                    if strict:
                        raise ConfigurationError(reason) from error
                    log.error("%s", reason)
        return found - {os.getuid()}

    # Local servers ------------------------------------------------------------------------------------

    def welcome(self, app: AppSettings) -> Mapping[str, Any]:
        """What a local server must know to serve."""
        host, options = self._host, self._host.options
        identity: Credentials | None = host.credentials
        if app.identity is not None:
            identity = credentials_file(app.identity)
        keytab = Keytab(str(options.keytab)) if options.keytab is not None else None
        ports = options.exporter_ports
        # Whoever it runs as may have what that user may have: neither hashes nor keys of the host.
        elsewhere = app.user is not None and pwd.getpwnam(app.user).pw_uid not in (0, os.getuid())
        return {
            "computer": host.authenticator.names.computer,
            "accounts": None if elsewhere else str(options.accounts_file.absolute()),
            "keytab": credentials_to_json(None if elsewhere else keytab),
            "anonymous": options.insecure_anonymous,
            **self._permissions_of(app),
            "advertise": list(options.advertise),
            "hosts": host.hosts,
            "names": {address: list(host.names_of(address)) for address in host.hosts},
            "ports": [endpoint.port for endpoint in app.endpoints],
            "avoid": sorted(static_ports(host.launcher.registry)),
            "range": [ports.low, ports.high] if ports is not None else None,
            "tunnel_period": None if options.ncacn_http is None else options.tunnel_period,
            "identity": credentials_to_json(identity),
            "apartment": [str(clsid) for clsid in host.activator.registry.in_apartment()],
        }

    # The end ------------------------------------------------------------------------------------------

    async def close_servers(self) -> None:
        """Stop accepting, cut what is open."""
        for objects in self.all:
            await objects.server.aclose()

    def drop(self) -> None:
        """Drop every object; the servers have ended."""
        for objects in self.all:
            self._forget(objects)

    async def _close(self, objects: ObjectServer) -> None:
        await objects.server.aclose()
        self._forget(objects)

    def _forget(self, objects: ObjectServer) -> None:
        for lease in self._leases.pop(objects, []):
            lease.close()
        objects.exporter.close()
        self._host.service.resolver.remove_exporter(
            objects.exporter.oxid, self._host.world.clock.now(), process=os.getpid()
        )

    def find(self, clsid: UUID) -> CoClass | None:
        """A class of this host's own."""
        return self._host.classes.find(clsid)

    def __repr__(self) -> str:
        return f"<Applications {len(self._of_app)} of their own, {len(self._draining)} draining>"


def static_ports(registry: ClassRegistry) -> frozenset[int]:
    """Ports that belong to an application: nothing else takes one of them for want of another."""
    return frozenset(e.port for app in registry.apps.values() for e in app.endpoints if e.static)


def _texts(allowed: AccessList) -> list[str]:
    return allowed.texts()
