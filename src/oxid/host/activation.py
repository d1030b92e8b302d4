"""Activation in a host: who may, and which exporter makes the object. [MS-DCOM] 3.1.2.5.2.3

A class is served by an exporter of the host's own process, or by a local server that runs, or by one that is started
now. Permissions are judged before anything is started.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any, Final
from uuid import UUID

from oxid.com.activation_properties import ActivationOut
from oxid.com.object_server import ObjectServer
from oxid.com.permissions import AccessList, MachinePermissions, Subject
from oxid.errors import StatusError, TransportError, error_for
from oxid.rpcss.activator import ActivationRequest, Caller
from oxid.rpcss.class_registry import AppSettings, ClassRegistry
from oxid.rpcss.launcher import Launcher
from oxid.rpcss.machine_service import MachineService
from oxid.rpcss.session import Session
from oxid.values import status as s
from oxid.values.status import HResult

log = logging.getLogger("oxid.host")

ATTEMPTS: Final = 5
"""Servers that may end under one activation before it fails."""


class HostActivator:
    """Routes activations. `registry` is replaced when the configuration is read again."""

    def __init__(self, service: MachineService, launcher: Launcher, registry: ClassRegistry) -> None:
        self._service = service
        self._launcher = launcher
        self.registry = registry
        self.permissions: MachinePermissions = registry.permissions
        self.objects: dict[UUID, ObjectServer] = {}
        """Classes that exporters of this process serve."""
        self.refused = 0

    def activate(self, request: ActivationRequest) -> ActivationOut | Coroutine[Any, Any, ActivationOut]:
        clsid = request.clsid
        app = self.registry.app_of(clsid)
        here = self.objects.get(clsid)
        if here is None:
            return self._activate_elsewhere(request, app)
        self._check(request, app, launch=False)
        return here.activate(clsid, request.iids, class_object=request.class_object)

    async def _activate_elsewhere(self, request: ActivationRequest, app: AppSettings | None) -> ActivationOut:
        clsid = request.clsid
        for _ in range(ATTEMPTS):
            session = await self._provider(request, app)
            try:
                return await session.activate(request)
            except StatusError as error:
                if error.status.code != s.CO_E_SERVER_STOPPING:
                    raise
            except TransportError:
                log.info("%s ended under an activation of %s", session.name, clsid)
        raise error_for(HResult(s.CO_E_SERVER_EXEC_FAILURE), f"servers of class {{{clsid}}} end at once")

    async def _provider(self, request: ActivationRequest, app: AppSettings | None) -> Session:
        """Who serves the class: started where nobody does."""
        clsid = request.clsid
        runs = self._service.classes.offers(clsid)
        if app is None or not app.command:
            # A process may offer a class that nobody configured; nobody can start it then.
            if not self._service.classes.offers(clsid, by_itself) or clsid in self.registry.classes:
                raise error_for(HResult(s.REGDB_E_CLASSNOTREG), f"class {{{clsid}}} is not served here")
            self._check(request, app, launch=False)
            found: Session | None = self._service.classes.take(clsid)
            assert found is not None  # it was there just now
            return found
        self._check(request, app, launch=not runs)
        return await self._launcher.provider_for(clsid, app)

    def _check(self, request: ActivationRequest, app: AppSettings | None, *, launch: bool) -> None:
        """Raises AccessDenied, having said in the log who may not do what."""
        permissions, who = self.permissions, subject(request.caller)
        wanted: list[tuple[str, AccessList, AccessList]] = [
            ("activate", permissions.limit_activate, _of(app, "activate") or permissions.activate)
        ]
        if launch:
            wanted.append(("launch", permissions.limit_launch, _of(app, "launch") or permissions.launch))
        for what, bound, own in wanted:
            for whose, allowed in (("this machine", bound), ("its application", own)):
                if not allowed.admits(who):
                    self.refused += 1
                    name = who.name or "anonymous"
                    log.warning(
                        "%s from %s may not %s class %s: %s lets in %s",
                        name,
                        request.caller.peer,
                        what,
                        request.clsid,
                        whose,
                        allowed,
                    )
                    raise error_for(HResult(s.E_ACCESSDENIED), f"{name} may not {what} this class")


def by_itself(session: Session) -> bool:
    """Whether a process runs for reasons of its own: what we started serves what is configured."""
    return not session.launch


def _of(app: AppSettings | None, what: str) -> AccessList | None:
    found: AccessList | None = None if app is None else getattr(app, what)
    return found


def subject(caller: Caller) -> Subject:
    """A caller, as permissions see it."""
    return Subject(caller.principal, caller.admin, caller.local)
