"""Association groups and the context handles that live in them. [MS-RPCE] 3.3.1.1, 3.3.3.4.2, [C706] 5.1.6

    groups = AssociationTable(entropy, ledger)
    group = groups.join(0, ("tcp", "10.0.0.7"))       a new one, for a connection that bound with 0
    wire = group.open_handle(value, owner=..., interface=..., rundown=...)      20 bytes
    value = group.handle(wire, ...).value
    groups.leave(group)                               the last connection ends it
    rundowns = group.settle()                         handles left over, once no call runs any more

A handle belongs to the group, not to a connection, and to the identity that opened it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias
from uuid import UUID

from oxid.errors import fault
from oxid.values import status as s
from oxid.world import World

NULL_HANDLE: Final = bytes(20)
"""A context handle on the wire: attributes (0) and a UUID; all zero is NULL. [C706] 14.3.11"""

Rundown: TypeAlias = Callable[[Any], object]


class ContextHandle:
    """State of one client that a server keeps between calls."""

    __slots__ = ("interface", "owner", "rundown", "value")

    def __init__(self, value: Any, owner: str | None, interface: UUID, rundown: Rundown | None) -> None:
        self.value = value
        self.owner = owner
        self.interface = interface
        self.rundown = rundown


class Association:
    """The connections of one client that share context handles."""

    __slots__ = ("_handles", "connections", "group_id", "identity", "pending", "table")

    def __init__(self, table: AssociationTable, group_id: int, identity: object) -> None:
        self.table = table
        self.group_id = group_id
        self.identity = identity
        self.connections = 0
        self.pending = 0
        """Calls of the group that are running; handles are run down only when it is 0."""
        self._handles: dict[bytes, ContextHandle] | None = None

    @property
    def ended(self) -> bool:
        return self.connections == 0

    def open_handle(
        self, value: Any, *, owner: str | None, interface: UUID, rundown: Rundown | None = None
    ) -> bytes:
        """Keep `value` for the client, return the handle's 20 bytes.

        `rundown(value)` is called exactly once where the client goes away without closing the handle.
        Raises StatusError (a fault) above the limit.
        """
        handles = self._handles
        if handles is None:
            handles = self._handles = {}
        if len(handles) >= self.table.max_handles:
            raise fault(s.NCA_S_SERVER_TOO_BUSY, f"{len(handles)} context handles open")
        wire = bytes(4) + self.table.world.new_uuid().bytes_le
        handles[wire] = ContextHandle(value, owner, interface, rundown)
        self.table.ledger.context_handle.enter()
        return wire

    def handle(self, wire: bytes, *, owner: str | None, interface: UUID | None) -> ContextHandle:
        """The handle a client sent; one that is unknown, or another's, is a fault. `interface` None: any."""
        found = self._handles.get(wire) if self._handles else None
        if found is None or found.owner != owner or (interface is not None and found.interface != interface):
            raise fault(s.NCA_S_FAULT_CONTEXT_MISMATCH, "context handle mismatch")
        return found

    def close_handle(self, wire: bytes, *, owner: str | None, interface: UUID | None) -> Any:
        """Forget a handle without running it down, return its value; the reply then carries NULL_HANDLE."""
        found = self.handle(wire, owner=owner, interface=interface)
        assert self._handles is not None
        del self._handles[wire]
        self.table.ledger.context_handle.leave()
        return found.value

    @property
    def handle_count(self) -> int:
        return len(self._handles) if self._handles else 0

    def settle(self) -> list[ContextHandle]:
        """The handles to run down now: none while a connection or call is left, each handle once."""
        if self.connections or self.pending or not self._handles:
            return []
        left, self._handles = list(self._handles.values()), None
        for _ in left:
            self.table.ledger.context_handle.leave()
        return left

    def __repr__(self) -> str:
        return (
            f"<Association 0x{self.group_id:08x} {self.connections} connections, "
            f"{self.pending} calls, {self.handle_count} handles>"
        )


class AssociationTable:
    """The association groups of one server instance."""

    __slots__ = ("_groups", "ledger", "max_handles", "world")

    def __init__(self, world: World, *, max_handles: int = 4096) -> None:
        self.world = world
        self.ledger = world.ledger
        self.max_handles = max_handles
        self._groups: dict[int, Association] = {}

    def join(self, group_id: int, identity: object) -> Association | None:
        """The group a connection asks for, a new one for 0, None where it does not exist for this client."""
        if group_id:
            group = self._groups.get(group_id)
            if group is None or group.identity != identity:
                return None
        else:
            group = Association(self, self._fresh_id(), identity)
            self._groups[group.group_id] = group
            self.ledger.rpc_association.enter()
        group.connections += 1
        return group

    def leave(self, group: Association) -> None:
        """A connection of the group ended; the last one takes the group's id with it."""
        group.connections -= 1
        if group.connections == 0:
            del self._groups[group.group_id]
            self.ledger.rpc_association.leave()

    def _fresh_id(self) -> int:
        while True:
            group_id = int.from_bytes(self.world.entropy.token(4), "little")
            if group_id and group_id not in self._groups:
                return group_id

    def __len__(self) -> int:
        return len(self._groups)

    def __repr__(self) -> str:
        return f"<AssociationTable {len(self._groups)} groups>"
