"""The server's side of BIND, ALTER_CONTEXT and AUTH3. [MS-RPCE] 3.3.1.5.2, 3.3.1.5.3, 3.3.3.5.5

Presentation contexts, association group and security context are decided here; everything is cold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oxid.errors import AuthenticationError, NotSupported, RemoteProtocolError
from oxid.rpc import pdu as p
from oxid.rpc.faults import RPC_S_SEC_PKG_ERROR
from oxid.rpc.pdu import Header, PacketType, Trailer
from oxid.rpc.presentation import (
    FEATURE_KEEP_ON_ORPHAN,
    FEATURE_LARGE_FRAGMENTS,
    FEATURE_MULTIPLE_SECURITY,
    BadProposal,
    Negotiation,
    asks_large_fragments,
    negotiate,
)
from oxid.rpc.security import AUTH_NTLM, LEVEL_CONNECT, SecurityEntry, check_level
from oxid.rpc.server_core import address_text, log
from oxid.values import status as s
from oxid.values.status import NtStatus

if TYPE_CHECKING:
    from oxid.rpc.server_connection import ServerConnection

SUPPORTED_FEATURES = FEATURE_MULTIPLE_SECURITY | FEATURE_KEEP_ON_ORPHAN | FEATURE_LARGE_FRAGMENTS
SMALLEST_FRAGMENT = 2048
STATUS_INVALID_PARAMETER = 0xC000_000D


def on_bind(connection: ServerConnection, pdu: bytes, header: Header) -> None:
    """Answer a BIND or ALTER_CONTEXT, or begin the handshake step that the answer waits for."""
    alter = header.ptype == PacketType.ALTER_CONTEXT
    if alter == (connection.association is None):
        raise BadProposal("alter_context before bind" if alter else "second bind on a connection", 0)
    trailer = p.parse_trailer(pdu, header, p.HEADER_SIZE, aligned=False)
    if trailer is not None and trailer.at % 4:
        raise BadProposal(f"sec_trailer at {trailer.at}, wanted a multiple of 4", 0)
    bind = p.parse_bind(pdu, header, len(pdu) if trailer is None else trailer.at)
    negotiation = negotiate(
        bind.elements,
        connection.core.registry,
        connection.contexts,
        supported_features=None if alter else SUPPORTED_FEATURES,
        max_contexts=connection.core.limits.max_presentation_contexts,
    )
    if not alter:
        _agree_sizes(connection, bind, negotiation)
        connection.association = connection.core.associations.join(bind.group, connection.identity)
        if connection.association is None:
            raise BadProposal(f"no association group 0x{bind.group:08x} of this client", 0)
        connection.concurrent = bool(header.flags & p.CONC_MPX)
    if trailer is None:
        if header.flags & p.SUPPORT_HEADER_SIGN:
            _sign_headers(connection)
        _acknowledge(connection, header, negotiation, None, b"")
        return
    entry = _entry_for(connection, trailer, header, bind.elements, alter)
    _step(connection, entry, pdu[trailer.at + p.TRAILER_SIZE :], header, negotiation)


def on_auth3(connection: ServerConnection, pdu: bytes, header: Header) -> None:
    """Take the last token of a handshake with an odd number of legs; nothing is answered."""
    trailer = p.parse_trailer(pdu, header, p.HEADER_SIZE)
    if trailer is None or connection.association is None:
        raise RemoteProtocolError("auth3 without a token")
    entry = connection._auths.get(trailer.context_id) if connection._auths else None
    if entry is None or entry.ready or trailer.auth_type != entry.auth_type:
        raise RemoteProtocolError(
            f"auth3 for security context {trailer.context_id}, which does not wait for it"
        )
    _step(connection, entry, pdu[trailer.at + p.TRAILER_SIZE :], header, None)


def _agree_sizes(connection: ServerConnection, bind: p.Bind, negotiation: Negotiation) -> None:
    limits = connection.core.limits
    features = negotiation.features or 0
    connection.features = features & (FEATURE_MULTIPLE_SECURITY | FEATURE_KEEP_ON_ORPHAN)
    most = limits.max_fragment
    if asks_large_fragments(features):
        most = limits.large_fragment
    agreed = max(SMALLEST_FRAGMENT, min(bind.max_xmit, bind.max_recv, most)) & ~7
    connection._max_send = agreed
    connection._max_receive = max(limits.max_fragment, agreed)


def _entry_for(
    connection: ServerConnection,
    trailer: Trailer,
    header: Header,
    elements: tuple[p.ContextElement, ...],
    alter: bool,
) -> SecurityEntry:
    """The security context a token belongs to, a new one where the id is new."""
    core = connection.core
    auths = connection._auths
    entry = auths.get(trailer.context_id) if auths else None
    if entry is not None:
        if entry.ready or entry.failed:
            raise _refused("security context is established already", s.ERROR_ACCESS_DENIED)
        if trailer.auth_type != 0 and any(element not in (entry.elements or ()) for element in elements):
            raise _refused("the context list changes within a handshake", s.NCA_S_PROTO_ERROR)
        if trailer.auth_type != entry.auth_type:
            status = s.ERROR_ACCESS_DENIED if trailer.auth_type == 0 else RPC_S_SEC_PKG_ERROR
            raise _refused("auth_type changes within a handshake", status)
        if trailer.level != entry.level and not (trailer.level == 3 and entry.level == 4):
            raise _refused("authentication level changes within a handshake", s.ERROR_ACCESS_DENIED)
        return entry
    if auths and len(auths) >= core.limits.max_security_contexts:
        raise _refused(
            f"more than {core.limits.max_security_contexts} security contexts", s.NCA_S_PROTO_ERROR
        )
    if alter and header.auth_length == 0:
        raise RemoteProtocolError("empty token")
    try:
        level = check_level(trailer.level, strict_call=core.limits.strict_call_level)
    except RemoteProtocolError as error:
        raise _with_nak(error, 0) from error
    except AuthenticationError as error:
        raise _refused_logon(connection, error) from error
    try:
        if core.acceptors is None:
            raise NotSupported("this server has no accounts")
        context = core.acceptors.acceptor(trailer.auth_type, level, peer=connection.address)
    except NotSupported as error:
        raise _with_nak(RemoteProtocolError(f"auth_type {trailer.auth_type}: {error}"), 8) from error
    except AuthenticationError as error:
        raise _refused_logon(connection, error) from error
    entry = SecurityEntry(trailer.context_id, trailer.auth_type, level, context)
    entry.elements = elements
    if auths is None:
        auths = connection._auths = {}
    auths[trailer.context_id] = entry
    if level == LEVEL_CONNECT and not connection._explicit:
        connection._default_auth = entry
    connection._settle_plain()
    return entry


def _step(
    connection: ServerConnection,
    entry: SecurityEntry,
    token: bytes,
    header: Header,
    negotiation: Negotiation | None,
) -> None:
    """Turn the handshake by one token; a provider that blocks turns in a thread while the input waits."""
    limits = connection.core.limits
    if len(token) > (limits.max_ntlm_token if entry.auth_type == AUTH_NTLM else limits.max_token):
        error = AuthenticationError(f"token of {len(token)} bytes", NtStatus(STATUS_INVALID_PARAMETER))
        _stepped(connection, entry, header, negotiation, None, error)
        return
    context = entry.context
    if header.flags & p.SUPPORT_HEADER_SIGN and negotiation is not None:
        _sign_headers(connection)
    context.header_signing = connection.header_signing
    if context.blocking:

        def then(reply: bytes | None, error: Exception | None) -> None:
            if connection._auths is None or connection._auths.get(entry.context_id) is not entry:
                context.close()
                return
            _guarded(connection, entry, header, negotiation, reply, error)
            connection.release()
            if connection.outgoing:
                connection.flush()

        connection.hold()
        connection.step_elsewhere(lambda: context.step(token), then)
        return
    try:
        reply = context.step(token)
    except AuthenticationError as refused:
        _stepped(connection, entry, header, negotiation, None, refused)
        return
    _stepped(connection, entry, header, negotiation, reply, None)


def _guarded(connection: ServerConnection, entry: SecurityEntry, header: Header, *rest: Any) -> None:
    try:
        _stepped(connection, entry, header, *rest)
    except RemoteProtocolError as error:
        connection._reject(header.ptype, header.call_id, error)


def _stepped(
    connection: ServerConnection,
    entry: SecurityEntry,
    header: Header,
    negotiation: Negotiation | None,
    reply: bytes | None,
    error: Exception | None,
) -> None:
    """A handshake step is done: answer with the token, or refuse."""
    if error is not None and not isinstance(error, AuthenticationError):
        log.error("handshake step failed", exc_info=error)
        error = AuthenticationError("the security package failed")
    if error is not None:
        entry.failed = True
        refusal = _refused_logon(connection, error)
        if negotiation is None:
            return  # an auth3 is not answered: the first request will be
        raise refusal from error
    if negotiation is None and reply:
        # the provider still has something to say, which an auth3 cannot carry (spnego_auth3)
        entry.failed = True
        connection.core.note_refusal(connection.peer, "auth3 before the last leg of a handshake")
        return
    if entry.context.complete:
        entry.establish()
        connection._settle_plain()
        log.info(
            "%s authenticated as %s, level %d",
            address_text(connection.peer),
            entry.context.principal or "anonymous",
            entry.level,
        )
    if negotiation is not None:
        _acknowledge(connection, header, negotiation, entry, reply or b"")


def _acknowledge(
    connection: ServerConnection,
    header: Header,
    negotiation: Negotiation,
    entry: SecurityEntry | None,
    token: bytes,
) -> None:
    """Send the BIND_ACK or ALTER_CONTEXT_RESP; from here on the contexts may be used."""
    association = connection.association
    assert association is not None
    connection.contexts = negotiation.contexts
    alter = header.ptype == PacketType.ALTER_CONTEXT
    flags = p.FIRST | p.LAST | header.flags & p.SUPPORT_HEADER_SIGN
    if not alter:
        flags |= header.flags & p.CONC_MPX
    answer = p.bind_ack(
        PacketType.ALTER_CONTEXT_RESP if alter else PacketType.BIND_ACK,
        flags,
        header.call_id,
        connection._max_send,
        association.group_id,
        b"" if alter else connection.secondary_address,
        negotiation.results,
    )
    if entry is not None:
        level = entry.level
        p.with_token(answer, entry.auth_type, level, entry.context_id, token)
    connection.send_pdu(answer)


def _sign_headers(connection: ServerConnection) -> None:
    """Header signing is agreed for the whole connection, older security contexts included."""
    connection.header_signing = True
    if connection._auths:
        for entry in connection._auths.values():
            entry.context.header_signing = True


def _with_nak(error: RemoteProtocolError, nak: int) -> RemoteProtocolError:
    error.nak = nak  # type: ignore[attr-defined]  # BadProposal's reason, on an error made elsewhere
    return error


def _refused(message: str, status: int) -> RemoteProtocolError:
    return _with_nak(RemoteProtocolError(message, status), 0)


def _refused_logon(connection: ServerConnection, error: Exception) -> RemoteProtocolError:
    connection.core.note_refusal(connection.peer, error)
    status = s.ERROR_ACCESS_DENIED
    if isinstance(error, AuthenticationError) and not isinstance(error.status, NtStatus):
        status = RPC_S_SEC_PKG_ERROR  # not the account, but the conversation is wrong
    return _with_nak(RemoteProtocolError(str(error), status), 9)
