"""An exporter's conversation with the resolver of its machine. [MS-DCOM] 3.1.1.3, 3.1.1.5.1

The resolver is in the same process (`oxid.rpcss.direct_link`) or in another one, behind a local channel
(`oxid.com.channel_link`). Nothing here waits: identifiers are at hand, and what is told is told in order.
"""

from __future__ import annotations

from typing import Protocol

from oxid.com.flight_record import Kind
from oxid.values.bindings import DualStringArray


class ResolverLink(Protocol):
    """What an exporter asks of its resolver, and tells it."""

    def new_oid(self, *, noping: bool = False) -> int:
        """The identifier of a new object: known to the resolver before any client can know it."""
        ...

    def marshalled(self, oid: int, who: str, refs: int) -> None:
        """A reference to the object is about to leave."""
        ...

    def dropped(self, oid: int, why: str) -> None:
        """The object is gone from the exporter; told once per object."""
        ...

    def unpinned(self, oid: int) -> None:
        """The object was kept for its process's own sake, and is not any more."""
        ...

    def note(self, oid: int, kind: Kind, who: str, detail: int) -> None:
        """Something for the object's flight record."""
        ...

    def bindings(self) -> DualStringArray:
        """Where the resolver listens: what goes into every OBJREF."""
        ...
