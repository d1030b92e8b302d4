"""What all connections of one RPC server share: interfaces, association groups, bounds, counts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from oxid.rpc.association import AssociationTable
from oxid.rpc.limits import Limits
from oxid.rpc.presentation import InterfaceRegistry
from oxid.rpc.security import HandshakeFailed
from oxid.world import World

if TYPE_CHECKING:
    from oxid.auth.context import SecurityContext

log: Final = logging.getLogger("oxid.rpc.server")


class Acceptors(Protocol):
    """Where a server gets security contexts from; `oxid.auth.Authenticator` is one."""

    def acceptor(self, auth_type: int, level: int, *, peer: str = "") -> SecurityContext:
        """A new context for a client's handshake.

        Raises NotSupported for an unknown auth_type, AuthenticationError for a level it does not want.
        """
        ...


class ServerCore:
    """The shared part of a server; connections hold it, nothing here does I/O."""

    __slots__ = (
        "acceptors",
        "associations",
        "calls_in",
        "limits",
        "on_refusal",
        "packets_in",
        "packets_out",
        "protocol_errors",
        "refusals",
        "registry",
        "rpc_call",
        "serving",
        "task",
        "world",
    )

    def __init__(self, world: World, limits: Limits, acceptors: Acceptors | None = None) -> None:
        self.world = world
        self.limits = limits
        self.acceptors = acceptors
        self.registry = InterfaceRegistry()
        self.associations = AssociationTable(world, max_handles=limits.max_handles)
        self.calls_in = 0
        self.packets_in = 0
        self.packets_out = 0
        self.protocol_errors = 0
        self.refusals = 0
        self.on_refusal: Callable[[str], object] | None = None
        """Hears of every caller who was turned away, in words."""
        self.serving = True
        self.rpc_call = world.ledger.rpc_call
        self.task = world.ledger.task

    @property
    def calls_out(self) -> int:
        """Calls that this server made itself: none, its clients are objects of their own."""
        return 0

    def count_call(self) -> None:
        """One call that is answered within the callback that brought it."""
        self.calls_in += 1
        self.packets_in += 1
        self.packets_out += 1
        counter = self.rpc_call
        counter.total += 1
        if counter.live >= counter.peak:
            counter.peak = counter.live + 1

    def note_protocol_error(self, peer: object, error: BaseException) -> None:
        """One line and one count for a peer that broke the rules."""
        if isinstance(error.__cause__, HandshakeFailed):
            return
        self.protocol_errors += 1
        log.warning("protocol error from %s: %s", address_text(peer), error)

    def note_refusal(self, peer: object, reason: object) -> None:
        """One line and one count for a caller who was turned away."""
        self.refusals += 1
        log.warning("refused %s: %s", address_text(peer), reason)
        if self.on_refusal is not None:
            self.on_refusal(f"{address_text(peer)}: {reason}")

    def statistics(self) -> dict[str, int]:
        return {
            "calls_in": self.calls_in,
            "packets_in": self.packets_in,
            "packets_out": self.packets_out,
            "protocol_errors": self.protocol_errors,
        }

    def __repr__(self) -> str:
        return f"<ServerCore {self.registry!r} {self.associations!r} {self.protocol_errors} protocol errors>"


def address_text(peer: object) -> str:
    """A transport address as people write it."""
    if isinstance(peer, tuple) and len(peer) >= 2:
        host = f"[{peer[0]}]" if ":" in str(peer[0]) else peer[0]
        return f"{host}:{peer[1]}"
    return str(peer) if peer else "local peer"
