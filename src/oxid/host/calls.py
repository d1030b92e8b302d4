"""The call that runs, as the rooms below want to see it: who makes it, and its context handles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oxid.com.permissions import is_local
from oxid.rpcss.activator import Caller
from oxid.runtime.dispatch import current_call


class CallerOfCall:
    """The caller of the call that runs now, as rpcss judges it."""

    __slots__ = ("_call",)

    def __init__(self, call: Any) -> None:
        self._call = call

    @property
    def principal(self) -> str | None:
        found: str | None = self._call.principal
        return found

    @property
    def anonymous(self) -> bool:
        return self._call.principal is None

    @property
    def admin(self) -> bool:
        security = self._call.security
        return self._call.principal is not None and bool(security.admin)

    @property
    def local(self) -> bool:
        return is_local(self._call)

    @property
    def level(self) -> int:
        return int(self._call.level)

    @property
    def peer(self) -> str:
        peer = self._call.peer
        return str(peer[0]) if isinstance(peer, tuple) else str(peer)


class Handles:
    """Context handles of the client whose call runs now."""

    def open(self, value: Any, rundown: Callable[[Any], object] | None = None) -> bytes:
        call = current_call()
        return call.association.open_handle(
            value, owner=call.principal, interface=call.interface.uuid, rundown=rundown
        )

    def find(self, handle: bytes) -> Any:
        call = current_call()
        return call.association.handle(handle, owner=call.principal, interface=call.interface.uuid).value

    def close(self, handle: bytes) -> Any:
        call = current_call()
        return call.association.close_handle(handle, owner=call.principal, interface=call.interface.uuid)

    def closer(self, handle: bytes) -> Callable[[], object]:
        call = current_call()
        association, owner, uuid = call.association, call.principal, call.interface.uuid
        return lambda: association.close_handle(handle, owner=owner, interface=uuid)


def caller() -> Caller:
    return CallerOfCall(current_call())


def handles() -> Handles:
    return Handles()


def local_address() -> str:
    """Our own address that the running call came in on."""
    transport = getattr(current_call().connection, "transport", None)
    name = transport.get_extra_info("sockname") if transport is not None else None
    return str(name[0]) if isinstance(name, tuple) else "0.0.0.0"
