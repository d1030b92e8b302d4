"""An exporter with its listeners: everything of it that is reached over the network.

    async with ObjectServer(world, link, authenticator, oxid=...) as objects:
        await objects.listen("127.0.0.1", 0)
        objects.bindings()                   what activation and ResolveOxid answer
        objects.activate(clsid, iids, ...)   makes an object, or names the class object
    # nothing of it is left

A host has one for its own classes, and one more for each application that is configured to have endpoints or
permissions of its own; a local server has one; a client that passes objects of its own to servers has one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

from oxid.auth import Authenticator, AuthType
from oxid.com.activation import ClassObjects
from oxid.com.activation_properties import ActivationOut, InterfaceResult
from oxid.com.apartment import Apartment
from oxid.com.coclass import ClassTable, CoClass
from oxid.com.exporter import INTEGRITY, Exporter
from oxid.com.orpc import COM_VERSION
from oxid.com.remote_unknown import RemoteUnknown
from oxid.com.resolver_link import ResolverLink
from oxid.interfaces.remote_unknown import IRemUnknown
from oxid.interfaces.unknown import IUnknown
from oxid.rpc.calls import ServerCall
from oxid.rpc.interface import InterfaceSpec, spec_of
from oxid.runtime.server import Endpoint, RpcServer
from oxid.tunnel.options import TunnelOptions
from oxid.values.bindings import DcomBinding, DualStringArray, SecurityBinding, tower_id_of
from oxid.world import World

log = logging.getLogger("oxid.com.objects")

_CONNECT: Final = 2


class ObjectServer:
    """Serves the objects of one exporter until its block ends."""

    def __init__(
        self,
        world: World,
        link: ResolverLink,
        authenticator: Authenticator,
        *,
        oxid: int,
        classes: Iterable[CoClass] = (),
        allow_anonymous: bool = False,
        minimum_level: int = INTEGRITY,
        access: Callable[[ServerCall], bool] | None = None,
        advertise: tuple[str, ...] = (),
        on_empty: Callable[[], None] | None = None,
        tunnel_options: TunnelOptions | None = None,
    ) -> None:
        """`access` judges callers beyond their level; `advertise` replaces the addresses listened on in what
        clients are told; `on_empty` hears when the last object is gone; `tunnel_options` as of `RpcServer`."""
        self.world = world
        self.advertise = advertise
        self._authenticator = authenticator
        self._bindings: DualStringArray | None = None
        self.server = RpcServer(world, authenticator=authenticator, tunnel_options=tunnel_options)
        self._served: set[UUID] = set()
        self.exporter = Exporter(
            world,
            oxid=oxid,
            link=link,
            on_interface=self._serve_interface,
            on_empty=on_empty,
            allow_anonymous=allow_anonymous,
            minimum_level=minimum_level,
            access=access,
            threads=self.server.threads,
        )
        self.remote_unknown = RemoteUnknown(self.exporter)
        self._ipid_rem_unknown = UUID(bytes_le=self.remote_unknown.pointer.ipid)
        self.classes = ClassTable(classes)
        self.class_objects = ClassObjects(self.exporter, self.classes)
        self.endpoints: list[Endpoint] = []
        self._names: dict[str, tuple[str, ...]] = {}
        for spec in (spec_of(IUnknown), spec_of(IRemUnknown)):
            self._serve_interface(spec)

    def use_apartment(self, clsids: Collection[UUID]) -> None:
        """Run the calls to objects of these classes one at a time, all of them together."""
        # A factory that is no class makes objects that cannot be told apart by theirs.
        wanted: set[type[Any]] = {
            described.factory
            for described in self.classes
            if described.clsid in clsids and isinstance(described.factory, type)
        }
        apartment = self.exporter.apartment or Apartment()
        apartment.classes = wanted
        self.exporter.apartment = apartment if wanted else None

    # What is served -----------------------------------------------------------------------------------

    def _serve_interface(self, spec: InterfaceSpec) -> None:
        if spec.uuid not in self._served:
            self._served.add(spec.uuid)
            self.server.register(spec, handler=self.exporter.handle, ndr64=False)

    def serve_plain(self, spec: InterfaceSpec, implementation: object, *, anonymous: bool = False) -> None:
        """Serve a plain RPC interface on the same endpoints, for any authenticated caller from level connect."""
        self.server.register(spec, implementation, min_level=0 if anonymous else _CONNECT)

    def activate(
        self, clsid: UUID, iids: tuple[UUID, ...], *, class_object: bool = False, who: str | None = None
    ) -> ActivationOut:
        """Make an object of a class, or give its class object, for `who`. Raises ClassNotRegistered.

        Where none of the interfaces is there, the object is not exported and the results say so.
        """
        maker = self.class_objects.class_object if class_object else self.class_objects.instance
        target: Any = maker(clsid)
        results = self.class_objects.references(target, iids, who)
        return ActivationOut(
            self.exporter.oxid,
            self.bindings(),
            self._ipid_rem_unknown,
            self.exporter.minimum_level,
            COM_VERSION,
            tuple(InterfaceResult(iid, code, objref) for iid, code, objref in results),
        )

    # Where --------------------------------------------------------------------------------------------

    async def listen(
        self,
        host: str,
        port: int | tuple[int, int] = 0,
        *,
        names: tuple[str, ...] = (),
        avoid: Collection[int] = (),
        protseq: str = "ncacn_ip_tcp",
    ) -> Endpoint:
        """Listen on an address; `names` are told to clients for it, `avoid` of a range are not taken; `protseq` as
        `RpcServer.listen`. Raises ConfigurationError."""
        endpoint = await self.server.listen(host, port, avoid=avoid, protseq=protseq)
        self.endpoints.append(endpoint)
        self._names[endpoint.host] = names or (host,)
        self._bindings = None
        return endpoint

    def rename(self, endpoint: Endpoint, names: tuple[str, ...]) -> None:
        """What clients are told for an endpoint from now on."""
        self._names[endpoint.host] = names
        self._bindings = None

    def bindings(self) -> DualStringArray:
        """Where the exporter listens: what activation and ResolveOxid answer."""
        if self._bindings is None:
            self._bindings = DualStringArray(
                tuple(
                    DcomBinding(tower_id_of(endpoint.protseq), name, str(endpoint.port))
                    for endpoint in self.endpoints
                    for name in self.advertise or self._names[endpoint.host]
                ),
                security_bindings(self._authenticator),
            )
        return self._bindings

    # Life ---------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop accepting, cut what is open, drop every object. May be called twice."""
        await self.server.aclose()
        self.exporter.close()

    def __repr__(self) -> str:
        return f"<ObjectServer {self.server!r} {self.exporter!r}>"


def security_bindings(authenticator: Authenticator) -> tuple[SecurityBinding, ...]:
    """How callers may authenticate. [MS-DCOM] 2.2.19.4

    A Kerberos principal is told only where it was configured: clients believe it, and a guess is worse than the name
    that they connected to.
    """
    keytab = authenticator.keytab
    kerberos = keytab.principal or "" if keytab is not None else ""
    return tuple(
        SecurityBinding(int(kind), authenticator.principal_name(kind) if kind == AuthType.NTLM else kerberos)
        for kind in authenticator.auth_types
    )
