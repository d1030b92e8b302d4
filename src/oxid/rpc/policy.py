"""Who may call an interface: asked before anything is unmarshalled. SEC-12, [MS-RPCE] 3.1.1.1.3"""

from __future__ import annotations

from oxid.errors import fault
from oxid.rpc.calls import ServerCall
from oxid.rpc.security import LEVEL_NONE
from oxid.values import status as s


def admit(call: ServerCall) -> None:
    """The interface's policy, before anything is unmarshalled. Raises StatusError, status 5."""
    registration = call.context.registration
    security = call.security
    if registration.min_level > LEVEL_NONE and (security is None or call.level < registration.min_level):
        call.connection.core.note_refusal(
            call.connection.peer,
            f"{registration.interface.name} wants authentication level {registration.min_level}, "
            f"{call.principal or 'an anonymous caller'} has {call.level}",
        )
        raise fault(s.ERROR_ACCESS_DENIED, "authentication level too low", executed=False)
    if not registration.allow_anonymous and (security is None or security.anonymous):
        call.connection.core.note_refusal(
            call.connection.peer, f"{registration.interface.name} takes no anonymous callers"
        )
        raise fault(s.ERROR_ACCESS_DENIED, "anonymous callers are refused", executed=False)
    if registration.access is not None and not registration.access(call):
        call.connection.core.note_refusal(
            call.connection.peer,
            f"{registration.interface.name} is denied to {call.principal or 'anonymous'}",
        )
        raise fault(s.ERROR_ACCESS_DENIED, "denied by the interface", executed=False)
