"""Requests as they arrive at a server: fragments joined, security checked. [C706] 12.6.4.9, [MS-RPCE] 3.3.3.5.4

What is wrong with one ends its connection with the fault that Windows sends; the tests of Samba's
raw_protocol.py that showed it are named beside the odd ones. The ordinary request never comes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxid.errors import AuthenticationError, RemoteProtocolError
from oxid.ndr.syntax import Syntax
from oxid.rpc import pdu as p
from oxid.rpc.calls import ServerCall
from oxid.rpc.faults import RPC_S_NO_CALL_ACTIVE, RPC_S_SEC_PKG_ERROR
from oxid.rpc.fragments import Partial
from oxid.rpc.pdu import WORD_OBJECT_REQUEST, WORD_REQUEST, WORD_RESPONSE, Header, PacketType
from oxid.rpc.policy import admit
from oxid.rpc.security import (
    LEVEL_CONNECT,
    LEVEL_PKT,
    TRAILER_SHORT,
    VERIFICATION_MAGIC,
    HandshakeFailed,
    SecurityEntry,
    unprotect,
)
from oxid.values import status as s

if TYPE_CHECKING:
    from oxid.rpc.presentation import PresentationContext
    from oxid.rpc.server_connection import ServerConnection


class Refused(RemoteProtocolError):
    """A request that ends its connection with a fault of its own status."""

    def __init__(
        self,
        message: str,
        status: int,
        call_id: int | None = None,
        context_id: int = 0,
        *,
        executed: bool = True,
    ) -> None:
        super().__init__(message, status)
        self.executed = executed
        self.call_id = call_id
        self.context_id = context_id


class Unfinished(RemoteProtocolError):
    """A request that came too early."""


def on_request(connection: ServerConnection, pdu: bytes, header: Header) -> None:
    _, context_id, opnum = p.parse_call(pdu, header)
    body_at = p.REQUEST_SIZE
    if header.flags & p.OBJECT_UUID:
        body_at = p.OBJECT_REQUEST_SIZE
        if len(pdu) < body_at:
            raise RemoteProtocolError(f"request with object of {len(pdu)} bytes")
    first = header.flags & p.FIRST
    partial = connection._partial
    if partial is not None and (first or partial.call_id != header.call_id):
        # Windows blames the new call where calls may overlap, else the old one
        message = "new request inside another" if first else "fragment of another request"
        if connection.concurrent and partial.call_id != header.call_id:
            raise Refused(message, s.NCA_S_PROTO_ERROR, header.call_id)
        if partial.call_id == header.call_id:  # multi_auth_first1_firstSame2: its signature is judged first
            _secured(connection, pdu, header, body_at, partial, context_id)
        raise Refused(message, s.NCA_S_PROTO_ERROR, partial.call_id, partial.context_id)
    if first:
        if header.flags & p.PENDING_CANCEL:
            raise Refused(
                "first fragment is cancelled already",
                RPC_S_NO_CALL_ACTIVE,
                None,
                context_id,
                executed=False,
            )
        if connection._calls and header.call_id in connection._calls:
            raise RemoteProtocolError(f"call id {header.call_id} is in use")
    elif partial is None:
        if 0 <= connection._last_call_id - header.call_id < 150:
            return  # the rest of a request that was answered with a fault already
        if connection._auths and connection.concurrent:  # auth_MPX_middle_*
            if context_id not in connection.contexts:
                connection.send_fault(header.call_id, 0, s.NCA_S_UNK_IF, executed=False)
                return
            _secured(connection, pdu, header, body_at, None, context_id)
        raise Refused(
            "request without its first fragment",
            s.NCA_S_PROTO_ERROR,
            None,
            context_id if connection.concurrent else 0,
        )
    elif partial.big != header.big:
        raise Refused("byte order changes within a request", s.NCA_S_PROTO_ERROR, None, context_id)
    entry, body = _secured(connection, pdu, header, body_at, partial, context_id)
    if first:
        connection._last_call_id = max(connection._last_call_id, header.call_id)
        context = connection.contexts.get(context_id)
        if context is None:
            connection.send_fault(header.call_id, 0, s.NCA_S_UNK_IF, executed=False)
            return
        object_uuid = None
        if body_at == p.OBJECT_REQUEST_SIZE:
            object_uuid = pdu[24:40]
            if header.big:
                object_uuid = _swapped(object_uuid)
        partial = Partial(header.call_id, context, opnum, object_uuid, entry, header.big)
    assert partial is not None
    limits = connection.core.limits
    if header.flags & p.LAST:
        if first:
            stub = body
        else:
            _add(connection, partial, body)
            if partial.hint > partial.size:  # [MS-RPCE] 2.2.2.6
                raise Refused(
                    f"alloc_hint {partial.hint} of a request of {partial.size} bytes in fragments",
                    s.NCA_S_PROTO_ERROR,
                    None,
                    partial.context_id,
                )
            complete(connection, partial, pdu)
            return
        dispatch(connection, partial, stub, pdu)
        return
    hint = p.parse_call(pdu, header)[0]
    if hint > limits.max_request:
        raise Refused(
            f"alloc_hint {hint} of a fragmented request, at most {limits.max_request}",
            s.ERROR_ACCESS_DENIED,
            None,
            partial.context_id,
        )
    _add(connection, partial, body)
    if first:
        partial.hint = hint
        connection._partial = partial
        connection._settle_plain()
        connection.fragment_began()


def complete(connection: ServerConnection, partial: Partial, pdu: bytes) -> None:
    """All fragments of a request are there; `pdu` is the last one."""
    connection._partial = None
    connection._settle_plain()
    connection.fragment_done()
    dispatch(connection, partial, partial.join(), pdu)


def _add(connection: ServerConnection, partial: Partial, body: bytes) -> None:
    limits = connection.core.limits
    try:
        partial.add(body, max_size=limits.max_request, max_fragments=limits.max_fragments)
    except RemoteProtocolError as error:
        raise Refused(str(error), error.status, None, partial.context_id) from error


def _secured(
    connection: ServerConnection,
    pdu: bytes,
    header: Header,
    body_at: int,
    partial: Partial | None,
    context_id: int,
) -> tuple[SecurityEntry | None, bytes]:
    """`_open`, its refusal carrying the presentation context."""
    try:
        return _open(connection, pdu, header, body_at, partial)
    except RemoteProtocolError as error:
        context_id = context_id if partial is None else partial.context_id
        executed = not isinstance(error, Unfinished)
        context_id = context_id if executed else 0
        raise Refused(str(error), error.status, None, context_id, executed=executed) from error


def _open(
    connection: ServerConnection, pdu: bytes, header: Header, body_at: int, partial: Partial | None
) -> tuple[SecurityEntry | None, bytes]:
    """Check the security of a request fragment, return its security context and plain stub bytes."""
    trailer = p.parse_trailer(pdu, header, body_at)
    auths = connection._auths
    if auths and any(not e.ready and not e.failed for e in auths.values()):
        raise Unfinished("request before the security handshake is finished")
    if trailer is None:
        if not auths:
            return None, pdu[body_at:]
        if partial is not None:
            if partial.entry is not None and partial.entry.level != LEVEL_CONNECT:
                raise RemoteProtocolError("protection ends within a request")
            return partial.entry, pdu[body_at:]
        # The newest context at level connect, until a context is named (lsa_multi_auth_connect*); else nobody,
        # which is not believed where everything was meant to be protected.
        entry = connection._default_auth
        if entry is None and len(auths) == 1:
            (sole,) = auths.values()
            if sole.level != LEVEL_CONNECT:
                raise RemoteProtocolError("request without its protection", s.ERROR_ACCESS_DENIED)
        if entry is not None and entry.failed:
            raise HandshakeFailed("the security handshake failed", s.ERROR_ACCESS_DENIED)
        return entry, pdu[body_at:]
    connection._default_auth = None
    connection._explicit = connection._explicit or trailer.level == LEVEL_CONNECT
    entry = auths.get(trailer.context_id) if auths else None
    if partial is not None:
        # whatever a later trailer says, the first fragment's context must have signed it (multi_auth_first1_last*)
        if partial.entry is None:
            raise RemoteProtocolError("protection begins within a request", s.ERROR_ACCESS_DENIED)
        return partial.entry, _verified(partial.entry, pdu, body_at, trailer)
    if entry is None:
        raise RemoteProtocolError(f"unknown security context {trailer.context_id}", s.ERROR_ACCESS_DENIED)
    if entry.failed:
        raise HandshakeFailed("the security handshake failed", s.ERROR_ACCESS_DENIED)
    if trailer.auth_type != entry.auth_type or _level(trailer.level) != entry.level:
        raise RemoteProtocolError(
            f"request at level {trailer.level}, its security context has {entry.level}",
            s.ERROR_ACCESS_DENIED,
        )
    return entry, _verified(entry, pdu, body_at, trailer)


def _verified(entry: SecurityEntry, pdu: bytes, body_at: int, trailer: p.Trailer) -> bytes:
    try:
        return unprotect(entry, pdu, body_at, trailer)
    except AuthenticationError as error:
        raise RemoteProtocolError(str(error), RPC_S_SEC_PKG_ERROR) from error


def _level(level: int) -> int:
    return LEVEL_PKT if level == 3 else level


def _swapped(raw: bytes) -> bytes:
    """A UUID from big-endian wire order to the little-endian one."""
    return raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]


def protected_call(
    connection: ServerConnection,
    data: bytes,
    at: int,
    end: int,
    word: int,
    auth: int,
    call_id: int,
    context: PresentationContext,
    opnum: int,
) -> bool:
    """The short path of a protected request in one fragment; False where it is anything else."""
    entry = connection._sole
    if word == WORD_REQUEST:
        body_at = 24
    elif word == WORD_OBJECT_REQUEST:
        body_at = 40
    else:
        return False
    trailer_at = end - at - auth - 8
    if entry is None or trailer_at < body_at or trailer_at & 3 or auth != entry.signature_size:
        return False
    kind, padding, auth_id = TRAILER_SHORT(data, at + trailer_at)
    if (
        auth_id != entry.context_id
        or kind != entry.auth_type | entry.level << 8
        or padding > trailer_at - body_at
        or (connection._calls and call_id in connection._calls)
    ):
        return False
    pdu = data if at == 0 and end == len(data) else data[at:end]
    try:
        stub = entry.context.unseal(pdu, body_at, trailer_at)
    except AuthenticationError as error:
        refusal = Refused(str(error), RPC_S_SEC_PKG_ERROR, None, context.context_id)
        connection._reject(PacketType.REQUEST, call_id, refusal)
        return True
    connection._last_call_id = max(connection._last_call_id, call_id)
    if padding:
        stub = stub[:-padding]
    call = ServerCall(
        connection,
        context,
        call_id,
        opnum,
        None if body_at == 24 else pdu[24:40],
        stub,
        entry.context,
        context.syntax,
    )
    call.entry = entry
    try:
        if VERIFICATION_MAGIC in stub:
            call.stub = connection.without_verification(call, 0x10)
        if not context.open:
            admit(call)
        reply = context.handler(call)
    except Exception as error:
        connection._queue(connection._refusal(call, error))
        return True
    if type(reply) is bytearray:
        if len(reply) - 24 <= entry.room(connection._max_send, 24):
            entry.seal_one(reply, 24, WORD_RESPONSE, call_id, context.echoed_id, 0)
            connection._queue(reply)
        else:
            connection._answer(call, reply)
    else:
        connection._begin(call, reply)
    return True


def dispatch(connection: ServerConnection, partial: Partial, stub: bytes, pdu: bytes) -> None:
    """A request is complete: judge it, then run its handler."""
    context, entry = partial.context, partial.entry
    assert context is not None
    call = ServerCall(
        connection,
        context,
        partial.call_id,
        partial.opnum,
        partial.object,
        stub,
        None if entry is None else entry.context,
        Syntax.NDR20_BE if partial.big else context.syntax,
    )
    connection.core.calls_in += 1
    try:
        if entry is not None:
            call.entry = entry
            if entry.level >= LEVEL_PKT:
                call.stub = connection.without_verification(call, int.from_bytes(pdu[4:8], "little"))
        if not context.open:
            admit(call)
    except Exception as error:
        connection._queue(connection._refusal(call, error))
        return
    if connection.concurrent or not connection._calls:
        connection._run(call)
        return
    if connection._waiting is None:
        connection._waiting = []
    connection._waiting.append(call)
    if len(connection._waiting) >= connection.core.limits.max_pending_calls:
        connection._fill()


def on_cancel(connection: ServerConnection, pdu: bytes, header: Header) -> None:
    """CO_CANCEL asks for an end, ORPHANED tells that nobody waits; unknown calls are ignored."""
    if connection.association is None:
        raise RemoteProtocolError("cancel before bind")
    trailer = p.parse_trailer(pdu, header, p.HEADER_SIZE)
    if trailer is not None and connection._auths:
        entry = connection._auths.get(trailer.context_id)
        if entry is not None and entry.ready and not entry.failed:
            try:
                unprotect(entry, pdu, p.HEADER_SIZE, trailer)
            except AuthenticationError as error:
                raise Refused(str(error), RPC_S_SEC_PKG_ERROR) from error
    orphaned = header.ptype == PacketType.ORPHANED
    running = connection._calls.get(header.call_id) if connection._calls else None
    if running is not None:
        if orphaned:
            if connection._orphans is None:
                connection._orphans = set()
            connection._orphans.add(header.call_id)
        connection.cancel_call(running)
    elif connection._waiting and not orphaned:
        for call in connection._waiting:
            if call.call_id == header.call_id:
                connection._waiting.remove(call)
                connection.send_fault(call.call_id, call.context_id, s.NCA_S_FAULT_CANCEL, executed=False)
                break
