"""Asking another machine's endpoint mapper. [C706] appendix O, [MS-RPCE] 3.3.2.1.1"""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from oxid.com.options import UNAUTHENTICATED
from oxid.com.references import tcp_port
from oxid.errors import LocalProtocolError, RemoteProtocolError, ServerUnavailable, StatusError, error_for
from oxid.interfaces.endpoint_map import IEndpointMap, TowerIdl
from oxid.ndr.types import NULL_HANDLE
from oxid.rpc.interface import InterfaceSpec
from oxid.rpc.tower import Tower
from oxid.values import status as s
from oxid.values.bindings import StringBinding, protseq_of
from oxid.values.status import RpcStatus, Win32

if TYPE_CHECKING:
    from oxid.com.machine import Machine
    from oxid.runtime.client import RpcConnection

log = logging.getLogger("oxid.com.endpoints")

_NIL = UUID(int=0)
_PIECE = 500
_VERSION_ALL = 1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One registration of an endpoint mapper."""

    interface: UUID
    version: tuple[int, int]
    binding: StringBinding
    object: UUID
    annotation: str


async def list_endpoints(machine: Machine) -> list[Endpoint]:
    """Every registration, in the mapper's order. Raises StatusError, TransportError, TimeoutError."""
    found: list[Endpoint] = []
    handle = NULL_HANDLE
    async with _connection(machine) as connection:
        mapper: IEndpointMap = await connection.proxy(IEndpointMap)
        while True:
            reply = await mapper.lookup(0, None, None, _VERSION_ALL, handle, _PIECE)
            for entry in reply.entries:
                tower = _read(machine, entry.tower)
                if tower is not None:
                    where = tower.binding()
                    found.append(
                        Endpoint(tower.interface, tower.version, where, entry.object, entry.annotation)
                    )
            handle = reply.entry_handle
            if reply.status not in (0, s.EPT_S_NOT_REGISTERED_DCE):
                raise error_for(RpcStatus(reply.status), "ept_lookup")
            if handle == NULL_HANDLE:
                return found


async def map_interface(machine: Machine, uuid: UUID, version: tuple[int, int]) -> list[StringBinding]:
    """Where an interface listens, over the protocol by which the machine is reached; empty where the mapper knows no
    such interface."""
    wanted = TowerIdl(Tower.of(uuid, version, protseq=protseq_of(machine.options.tower_id)).encode())
    async with _connection(machine) as connection:
        mapper: IEndpointMap = await connection.proxy(IEndpointMap)
        reply = await mapper.map(_NIL, wanted, NULL_HANDLE, 16)
        if reply.entry_handle != NULL_HANDLE:
            await mapper.lookup_handle_free(reply.entry_handle)
    if reply.status == s.EPT_S_NOT_REGISTERED_DCE:
        return []
    if reply.status:
        raise error_for(RpcStatus(reply.status), "ept_map")
    found = (_read(machine, tower) for tower in reply.towers)
    return [tower.binding() for tower in found if tower is not None]


async def map_endpoint(machine: Machine, spec: InterfaceSpec) -> list[int]:
    """The ports of an interface, at least one. Raises StatusError EPT_S_NOT_REGISTERED.

    A machine may listen on one port for each of its addresses: not every port is reached at every address.
    """
    bindings = await map_interface(machine, spec.uuid, spec.version)
    found = (tcp_port(b.endpoint) for b in bindings if b.protseq == protseq_of(machine.options.tower_id))
    ports = list(dict.fromkeys(port for port in found if port is not None))
    if not ports:
        error: StatusError = ServerUnavailable(
            Win32(s.EPT_S_NOT_REGISTERED), f"{spec.name} {spec.uuid} is not registered on {machine.host}"
        )
        error.remedy = "check that the server offering this interface runs there (`oxid epm list`)"
        raise error
    return ports


def _read(machine: Machine, tower: TowerIdl | None) -> Tower | None:
    """A tower that names a binding; None, and a line in the log, for one that cannot be read."""
    if tower is None:
        return None
    try:
        found = Tower.decode(tower.octets)
        found.binding()
    except (RemoteProtocolError, LocalProtocolError) as error:
        log.warning("%s: a registration that cannot be read: %s", machine.host, error)
        return None
    return found


def _connection(machine: Machine) -> AbstractAsyncContextManager[RpcConnection]:
    return machine.connections.use(machine.host, machine.options.port, UNAUTHENTICATED)
