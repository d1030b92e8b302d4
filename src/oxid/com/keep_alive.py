"""What a Machine asks of whoever pings for it: the process's agent, or the host's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from oxid.com.options import Blanket, CallbackOptions
from oxid.com.ping_agent import Listener, PingTarget

if TYPE_CHECKING:
    from oxid.com.callback_exporter import CallbackExporter
    from oxid.com.exporter import Exporter


class KeepAlive(Protocol):
    """Holds objects at other machines. Nothing but the goodbye waits for the network."""

    listeners: set[Listener]
    """`listener(target, oids)` hears of objects that their resolvers do not know any more."""

    def hold(self, target: PingTarget, oid: int) -> None:
        """Keep an object alive until as many `let_go`."""
        ...

    def let_go(self, target: PingTarget, oid: int) -> None: ...

    def object_gone(self, target: PingTarget, oid: int) -> None:
        """A call found an object dead: no ping names it again."""
        ...

    def suspect(self, target: PingTarget, oids: Iterable[int]) -> None:
        """The exporter of these may be gone: ask the resolver."""
        ...

    def learn(self, target: PingTarget, identity: Blanket) -> None:
        """An identity with which calls to these objects were accepted."""
        ...

    async def say_goodbye(self, target: PingTarget, limit: float) -> None:
        """Tell the resolver what was let go, within `limit` seconds."""
        ...

    async def open_exporter(self, callbacks: CallbackOptions, address: str) -> Exporter:
        """The exporter of this process, reachable at one of our addresses. Raises OxidError."""
        ...

    def callback_exporter(self, callbacks: CallbackOptions) -> CallbackExporter | None:
        """The same with what is known of its callers; None where it is a host's."""
        ...
