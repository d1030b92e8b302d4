"""One call as a server's handler sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from oxid.ndr.syntax import Syntax

if TYPE_CHECKING:
    from oxid.auth.context import SecurityContext
    from oxid.rpc.association import Association, Rundown
    from oxid.rpc.presentation import PresentationContext
    from oxid.rpc.security import SecurityEntry
    from oxid.rpc.server_connection import ServerConnection


class ServerCall:
    """A request in full: what is asked, of which interface, and who asks.

    A handler returns a bytearray whose first 24 bytes are free for the header, or a coroutine that does.
    """

    __slots__ = ("call_id", "connection", "context", "entry", "object", "opnum", "security", "stub", "syntax")

    connection: ServerConnection
    context: PresentationContext
    call_id: int
    opnum: int
    object: bytes | None
    """The object UUID (an IPID in DCOM), 16 bytes little-endian."""
    stub: bytes
    security: SecurityContext | None
    """The caller's security context; None for an unauthenticated call."""
    syntax: Syntax
    """How the request is marshalled; replies are always in `reply_syntax`."""
    entry: SecurityEntry | None
    """What protects the reply."""

    def __init__(
        self,
        connection: ServerConnection,
        context: PresentationContext,
        call_id: int,
        opnum: int,
        object: bytes | None,
        stub: bytes,
        security: SecurityContext | None,
        syntax: Syntax,
    ) -> None:
        self.connection = connection
        self.context = context
        self.call_id = call_id
        self.opnum = opnum
        self.object = object
        self.stub = stub
        self.security = security
        self.syntax = syntax
        self.entry = None

    @property
    def context_id(self) -> int:
        return self.context.context_id

    @property
    def interface(self) -> Any:
        """The InterfaceSpec of the presentation context."""
        return self.context.interface

    @property
    def reply_syntax(self) -> Syntax:
        """What the reply must be marshalled in: the negotiated syntax, little-endian."""
        return self.context.syntax

    @property
    def object_uuid(self) -> UUID | None:
        return None if self.object is None else UUID(bytes_le=self.object)

    @property
    def association(self) -> Association:
        association = self.connection.association
        assert association is not None  # no call without a bind
        return association

    # Context handles: state of the client that lives between its calls --------------------------------

    def open_handle(self, value: Any, rundown: Rundown | None = None) -> bytes:
        """Keep `value` for this caller; returns the handle's 20 bytes.

        `rundown(value)` is called once if the client goes away without closing it, after its last call.
        """
        return self.association.open_handle(
            value, owner=self.principal, interface=self.interface.uuid, rundown=rundown
        )

    def handle(self, wire: bytes) -> Any:
        """What a handle of this caller stands for; a wrong one is a fault, 0x1C00001A."""
        return self.association.handle(wire, owner=self.principal, interface=self._handle_scope).value

    def close_handle(self, wire: bytes) -> Any:
        """Forget a handle without running it down and return its value; reply with the null handle."""
        return self.association.close_handle(wire, owner=self.principal, interface=self._handle_scope)

    @property
    def _handle_scope(self) -> UUID | None:
        """Only a strict interface insists on handles of its own."""
        uuid: UUID = self.interface.uuid
        return uuid if self.context.registration.strict else None

    @property
    def level(self) -> int:
        """The authentication level of this call; 1 for none."""
        return 1 if self.security is None else self.security.level

    @property
    def auth_type(self) -> int:
        return 0 if self.security is None else self.security.auth_type

    @property
    def principal(self) -> str | None:
        """Who calls; None for an unauthenticated or anonymous caller."""
        security = self.security
        return None if security is None or security.anonymous else security.principal

    @property
    def peer(self) -> Any:
        """The caller's transport address."""
        return self.connection.peer

    def __repr__(self) -> str:
        return f"<ServerCall {self.call_id} {self.interface.name}.{self.opnum} by {self.principal or 'anonymous'}>"
