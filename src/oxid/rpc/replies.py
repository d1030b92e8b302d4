"""What a client receives beyond the ordinary reply: bind answers, fragments, faults. [MS-RPCE] 3.3.2.5"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from oxid.errors import RemoteProtocolError
from oxid.rpc import pdu as p
from oxid.rpc.faults import error_for_fault
from oxid.rpc.fragments import Partial
from oxid.rpc.pdu import Header
from oxid.rpc.presentation import FEATURE_KEEP_ON_ORPHAN
from oxid.rpc.security import LEVEL_PKT, unprotect

if TYPE_CHECKING:
    from oxid.rpc.client_connection import ClientConnection


class Answer(NamedTuple):
    """A BIND_ACK or ALTER_CONTEXT_RESP with its token."""

    ack: p.BindAck
    flags: int
    token: bytes | None


class BigEndianStub(bytes):
    """The stub of a reply that a big-endian server marshalled: NDR 2.0, the other way round."""


def on_bind_ack(connection: ClientConnection, pdu: bytes, header: Header) -> None:
    if connection._answer is None:
        raise RemoteProtocolError("bind answer without a bind")
    trailer = p.parse_trailer(pdu, header, p.HEADER_SIZE, aligned=False)
    ack = p.parse_bind_ack(pdu, header, len(pdu) if trailer is None else trailer.at)
    token = None if trailer is None else pdu[trailer.at + p.TRAILER_SIZE :]
    waiter, connection._answer = connection._answer, None  # only now: what was wrong above must wake it too
    if not waiter.done():
        waiter.set_result(Answer(ack, header.flags, token))


def on_response(connection: ClientConnection, pdu: bytes, header: Header) -> None:
    call_id = header.call_id
    hint, context_id, _ = p.parse_call(pdu, header)
    if hint > p.MAX_HINT:
        raise RemoteProtocolError(f"alloc_hint {hint} in a response")
    body = opened(connection, pdu, header)
    waiter = connection.calls.get(call_id)
    if waiter is None:
        if connection.features & FEATURE_KEEP_ON_ORPHAN and call_id <= connection._call_id:
            return  # an orphan's answer crossed our ORPHANED
        raise RemoteProtocolError(f"response to call {call_id}, which nobody made")
    if header.big and context_id not in connection.either_order:
        raise RemoteProtocolError("response in big-endian, which nobody reads in this context")
    partials = connection._partials
    partial = partials.get(call_id) if partials else None
    if header.flags & p.FIRST:
        if partial is not None:
            raise RemoteProtocolError(f"response to call {call_id} begins twice")
        if header.flags & p.LAST:
            connection.reply(call_id, BigEndianStub(body) if header.big else body)
            return
        partial = Partial(call_id, None, context_id, None, connection._entry, header.big)
        if partials is None:
            partials = connection._partials = {}
        partials[call_id] = partial
    elif partial is None:
        raise RemoteProtocolError(f"response to call {call_id} without its first fragment")
    elif partial.big != header.big:
        raise RemoteProtocolError(f"byte order changes within the response to call {call_id}")
    partial.add(body, max_size=connection.limits.max_response, max_fragments=1 << 20)
    if header.flags & p.LAST:
        assert partials is not None
        del partials[call_id]
        stub = partial.join()
        connection.reply(call_id, BigEndianStub(stub) if header.big else stub)


def opened(connection: ClientConnection, pdu: bytes, header: Header) -> bytes:
    """The stub of a response fragment, checked as our security context wants it."""
    entry = connection._entry
    trailer = p.parse_trailer(pdu, header, p.REQUEST_SIZE)
    if entry is None or entry.level < LEVEL_PKT:
        return pdu[p.REQUEST_SIZE : len(pdu) if trailer is None else trailer.at - trailer.padding]
    if trailer is None:
        raise RemoteProtocolError("response without its protection")
    if (trailer.auth_type, trailer.level, trailer.context_id) != (
        entry.auth_type,
        entry.level,
        entry.context_id,
    ):
        raise RemoteProtocolError("response under another security context")
    return unprotect(entry, pdu, p.REQUEST_SIZE, trailer)


def on_fault(connection: ClientConnection, pdu: bytes, header: Header) -> None:
    status, _ = p.parse_fault(pdu, header)
    error = error_for_fault(status, executed=not header.flags & p.DID_NOT_EXECUTE)
    if header.auth_length and connection._entry is not None and connection._entry.level >= LEVEL_PKT:
        opened(connection, pdu, header)
    if connection._answer is not None and header.call_id == connection._answer_id:
        waiter, connection._answer = connection._answer, None
        if not waiter.done():
            waiter.set_exception(error)
        return
    waiter = connection.calls.pop(header.call_id, None)
    if connection._partials:
        connection._partials.pop(header.call_id, None)
    if waiter is None:
        if header.call_id <= connection._call_id:
            return  # of a call that was orphaned, or of the connection itself before it closes
        raise RemoteProtocolError(f"fault for call {header.call_id}, which nobody made")
    if connection._cancelled:
        connection._cancelled.pop(header.call_id, None)
    if not waiter.done():
        waiter.set_exception(error)
    connection.next_in_line()
