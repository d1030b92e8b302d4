"""Activation as a client asks for it, and finding exporters. [MS-DCOM] 3.2.4.1.1, 3.2.4.1.2

What a Machine asks of the other machine's resolver; the Machine says where that is and who asks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from uuid import UUID

from oxid.com.activation_properties import (
    ActivationIn,
    ActivationOut,
    InterfaceResult,
    encode_activation_in,
)
from oxid.com.options import UNAUTHENTICATED, Blanket, ClientOptions
from oxid.com.orpc import ComVersion, negotiate
from oxid.com.references import ExporterAddress, RemoteExporter, addresses_of
from oxid.errors import (
    AccessDenied,
    AuthenticationError,
    NoSuchInterface,
    NotImplementedByPeer,
    Origin,
    OxidError,
    RemoteProtocolError,
    StatusError,
    TransportError,
    error_for,
)
from oxid.interfaces.activation import (
    MODE_GET_CLASS_OBJECT,
    ActivatorReply,
    IActivation,
    IRemoteSCMActivator,
    RemoteActivationReply,
)
from oxid.interfaces.dcom_types import ComVersionIdl, OrpcThisIdl
from oxid.interfaces.object_exporter import IObjectExporter, ResolveOxid2Reply, ResolveOxidReply
from oxid.ndr import Syntax
from oxid.rpc.interface import spec_of
from oxid.values import status as s
from oxid.values.bindings import EMPTY_BINDINGS, DualStringArray
from oxid.values.status import HResult, Win32

if TYPE_CHECKING:
    from oxid.com.machine import Machine
    from oxid.runtime.client import RpcConnection

log = logging.getLogger("oxid.com.activation")

INTEGRITY: Final = 5

_ACTIVATOR: Final = spec_of(IRemoteSCMActivator)
_GET_CLASS_OBJECT: Final = 3, _ACTIVATOR.operations[3].codec(Syntax.NDR20_LE)
_CREATE_INSTANCE: Final = 4, _ACTIVATOR.operations[4].codec(Syntax.NDR20_LE)
_CAUSALITY_AT: Final = 24 + 12
"""Behind the header, and version, flags and reserved field of ORPCTHIS."""
_CAUSALITY_END: Final = _CAUSALITY_AT + 16


async def activate(
    machine: Machine, blanket: Blanket, clsid: UUID, iids: Sequence[UUID], *, class_object: bool
) -> ActivationOut:
    """Ask for an object, or a class object, in the newest way that the other machine knows."""
    if not machine.old_activation:
        try:
            async with machine.connections.use(machine.host, machine.port, blanket) as connection:
                return await _by_properties(machine, connection, clsid, iids, class_object)
        except NoSuchInterface as error:
            if error.origin not in (Origin.BIND, Origin.FAULT):
                raise
            machine.old_activation = True  # a peer before DCOM 5.6
    work = _by_parameters(machine, blanket, clsid, iids, class_object)
    return await machine.to_the_end(work, machine.discard)


async def _by_properties(
    machine: Machine, connection: RpcConnection, clsid: UUID, iids: Sequence[UUID], class_object: bool
) -> ActivationOut:
    context = await connection.context(_ACTIVATOR)
    opnum, codec = _GET_CLASS_OBJECT if class_object else _CREATE_INSTANCE
    out = bytearray(
        _request(
            clsid,
            tuple(iids),
            machine.version,
            machine.activation_flags,
            class_object,
            machine.options.tower_id,
        )
    )
    out[_CAUSALITY_AT:_CAUSALITY_END] = machine.causality.next()

    def result(stub: bytes) -> ActivationOut:
        reply: ActivatorReply = codec.decode_reply(stub, 0, None)
        if reply.hresult >= 0x8000_0000:
            what = "class object" if class_object else "class"
            raise machine.error(reply.hresult, f"{what} {{{clsid}}} on {machine.host}")
        if reply.properties is None:
            raise machine.error(s.E_UNEXPECTED, "the activation succeeded without a result")
        return machine.replies.read(reply.properties)

    def late(stub: bytes) -> None:
        try:
            machine.discard(result(stub))
        except OxidError as error:
            log.debug("an activation that nobody waits for any more failed: %s", error)

    return result(await connection.call_to_the_end(context, opnum, out, late))


@lru_cache(maxsize=256)
def _request(
    clsid: UUID,
    iids: tuple[UUID, ...],
    version: ComVersion,
    flags: int,
    class_object: bool,
    tower_id: int,
) -> bytes:
    """A whole request, with room for its header in front; all that changes is the causality identifier."""
    out = bytearray(24)
    this = OrpcThisIdl(ComVersionIdl(*version), 0, 0, UUID(int=0))
    wanted = encode_activation_in(
        ActivationIn(clsid, iids, client_version=version, actv_flags=flags, protseqs=(tower_id,))
    )
    if class_object:
        _GET_CLASS_OBJECT[1].encode_request(out, None, this, wanted)
    else:
        _CREATE_INSTANCE[1].encode_request(out, None, this, None, wanted)
    return bytes(out)


async def _by_parameters(
    machine: Machine, blanket: Blanket, clsid: UUID, iids: Sequence[UUID], class_object: bool
) -> ActivationOut:
    async with machine.connections.use(machine.host, machine.port, blanket) as connection:
        return await _remote_activation(machine, connection, blanket, clsid, iids, class_object)


async def _remote_activation(
    machine: Machine,
    connection: RpcConnection,
    blanket: Blanket,
    clsid: UUID,
    iids: Sequence[UUID],
    class_object: bool,
) -> ActivationOut:
    activation: IActivation = await connection.proxy(IActivation)
    mode = MODE_GET_CLASS_OBJECT if class_object else 0
    reply: RemoteActivationReply = await activation.remote_activation(
        _orpcthis(machine),
        clsid,
        None,
        None,
        int(blanket.impersonation),
        mode,
        list(iids),
        [machine.options.tower_id],
    )
    if reply.status or reply.hresult >= 0x8000_0000:
        code = reply.hresult if reply.hresult >= 0x8000_0000 else Win32(reply.status).as_hresult().code
        raise machine.error(code, f"class {{{clsid}}} on {machine.host}")
    if not len(iids) == len(reply.results) == len(reply.interface_data):
        raise RemoteProtocolError(
            f"RemoteActivation answered {len(reply.results)} results and {len(reply.interface_data)} "
            f"references for {len(iids)} interfaces"
        )
    version = ComVersion(reply.server_version.major, reply.server_version.minor)
    results = zip(iids, reply.results, reply.interface_data, strict=True)
    return ActivationOut(
        reply.oxid,
        reply.bindings.bindings() if reply.bindings is not None else EMPTY_BINDINGS,
        reply.ipid_rem_unknown,
        reply.authn_hint,
        negotiate(version),
        tuple(InterfaceResult(iid, code, objref) for iid, code, objref in results),
    )


def _orpcthis(machine: Machine) -> OrpcThisIdl:
    cid = UUID(bytes_le=machine.causality.next())
    return OrpcThisIdl(ComVersionIdl(*machine.version), 0, 0, cid)


async def server_alive(machine: Machine) -> tuple[ComVersion, DualStringArray]:
    """See `Machine.server_alive`."""
    async with machine.connections.use(machine.host, machine.port, UNAUTHENTICATED) as connection:
        resolver: IObjectExporter = await connection.proxy(IObjectExporter)
        try:
            reply = await resolver.server_alive2()
        except NotImplementedByPeer:
            return ComVersion(5, 1), EMPTY_BINDINGS
    if reply.status:
        raise error_for(Win32(reply.status), "ServerAlive2")
    bindings = reply.bindings.bindings() if reply.bindings is not None else EMPTY_BINDINGS
    return ComVersion(reply.version.major, reply.version.minor), bindings


async def resolve_exporter(machine: Machine, exporter: RemoteExporter) -> ExporterAddress:
    """Resolve through the resolvers that the exporter's own references name, or the machine's."""
    places = resolver_addresses(exporter.resolver, machine.options)
    for remote in exporter.objects.values():
        places += resolver_addresses(remote.resolver, machine.options)
    places += machine.own_place()
    failure: Exception | None = None
    for host, port in dict.fromkeys(places):
        try:
            return await resolve_at(machine, host, port, exporter.oxid)
        except (TransportError, TimeoutError, OSError, StatusError, UnicodeError) as error:
            failure = error
    raise failure or machine.error(s.RPC_E_INVALID_OBJREF, f"no resolver is named for {exporter!r}")


async def resolve_at(machine: Machine, host: str, port: int, oxid: int) -> ExporterAddress:
    """Ask one resolver, as ourselves, or as nobody where it does not know us. Raises ObjectGone for an unknown OXID.

    Resolvers answer anyone; one that knows the accounts of its exporters only in part refuses a handshake all the
    same.
    """
    try:
        return await _resolve_as(machine, host, port, oxid, machine.call_blanket(INTEGRITY))
    except (AccessDenied, AuthenticationError):
        return await _resolve_as(machine, host, port, oxid, UNAUTHENTICATED)


async def _resolve_as(machine: Machine, host: str, port: int, oxid: int, blanket: Blanket) -> ExporterAddress:
    async with machine.connections.use(host, port, blanket) as connection:
        resolver: IObjectExporter = await connection.proxy(IObjectExporter)
        version = machine.version
        reply: ResolveOxidReply | ResolveOxid2Reply
        try:
            reply = await resolver.resolve_oxid2(oxid, [machine.options.tower_id])
            version = negotiate((reply.version.major, reply.version.minor), version)
        except NotImplementedByPeer:  # DCOM 5.1
            reply = await resolver.resolve_oxid(oxid, [machine.options.tower_id])
    if reply.status or reply.bindings is None:
        raise error_for(Win32(reply.status or s.OR_INVALID_OXID), f"OXID {oxid:016x} at {host}")
    return ExporterAddress(
        reply.bindings.bindings(), reply.ipid_rem_unknown.bytes_le, reply.authn_hint, version
    )


def resolver_addresses(bindings: DualStringArray, options: ClientOptions) -> list[tuple[str, int]]:
    """Where the resolver of these bindings listens: on the well-known port unless a binding says otherwise."""
    usual = options.usual_port
    return [
        (host, usual if port is None else port) for host, port in addresses_of(bindings, options.tower_id)
    ]


def machine_error(code: int, context: str) -> StatusError:
    """The exception for an HRESULT that another machine answered with."""
    return error_for(HResult(code), context)
