"""The virtual connections that one proxy process knows, and who may have them.

    table = ProxyTable(world, options, want=driver.want)
    table.expire(now) -> next deadline, or None          the form of runtime.deadlines.DeadlineDriver
    table.shut_down()                                    every machine ends (T16)
    table.statistics(), table.sessions()

In- and out-proxies of one process share a table: the cookie tells a recycling through the same proxy (R2) from one
through another (R1), and both halves of a virtual connection have one identity and one target. RH-110, RH-115
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from oxid.tunnel.deadlines import Deadlines
from oxid.tunnel.ends import End
from oxid.tunnel.options import TunnelOptions
from oxid.world import World

if TYPE_CHECKING:
    from oxid.tunnel.in_proxy import Inbound
    from oxid.tunnel.out_proxy import Outbound
    from oxid.tunnel.proxy_channel import ProxyChannel

ACCESS_DENIED: Final = 5
SERVER_UNAVAILABLE: Final = 1722
SERVER_TOO_BUSY: Final = 1723


def short(cookie: bytes) -> str:
    """A name for a cookie that does not give it away: cookies are keys. RH-111"""
    return sha256(cookie).hexdigest()[:8]


class Quota:
    """How many virtual connections there are, half-open ones too, altogether and of each identity."""

    __slots__ = ("_half", "_options", "_total", "half_open", "total")

    def __init__(self, options: TunnelOptions) -> None:
        self._options = options
        self.total = 0
        self.half_open = 0
        self._total: Counter[Hashable] = Counter()
        self._half: Counter[Hashable] = Counter()

    def has_room(self, identity: Hashable) -> bool:
        options = self._options
        return (
            self.total < options.max_connections
            and self.half_open < options.max_half_open
            and self._total[identity] < options.max_connections_per_identity
            and self._half[identity] < options.max_half_open_per_identity
        )

    def enter(self, identity: Hashable) -> None:
        """A half-open one."""
        self.total += 1
        self.half_open += 1
        self._total[identity] += 1
        self._half[identity] += 1

    def established(self, identity: Hashable) -> None:
        """A half-open one is established, or ended."""
        self.half_open -= 1
        self._less(self._half, identity)

    def leave(self, identity: Hashable) -> None:
        """One that is not half-open any more has ended."""
        self.total -= 1
        self._less(self._total, identity)

    @staticmethod
    def _less(counts: Counter[Hashable], identity: Hashable) -> None:
        counts[identity] -= 1
        if not counts[identity]:
            del counts[identity]


class ProxyTable:
    """All tunnels of one proxy process."""

    def __init__(
        self,
        world: World,
        options: TunnelOptions | None = None,
        *,
        want: Callable[[float], None] | None = None,
    ) -> None:
        """`want(deadline)` asks that `expire` be called by then."""
        self.world = world
        self.options = options or TunnelOptions()
        self.deadlines = Deadlines(self.options.tick, want)
        self.inbound: dict[bytes, Inbound] = {}
        self.outbound: dict[bytes, Outbound] = {}
        self.channels: dict[ProxyChannel, None] = {}
        self.inbound_quota = Quota(self.options)
        self.outbound_quota = Quota(self.options)
        self.opened = 0
        """Virtual connections that were established here, counted once for each direction."""
        self.ends: Counter[End] = Counter()
        """How virtual connections ended, counted likewise."""
        self.channel_ends: Counter[End] = Counter()

    def is_stranger(self, vc: bytes, identity: Hashable, target: str) -> bool:
        """Whether a virtual connection of this cookie belongs to somebody else, or leads elsewhere. RH-110"""
        return any(
            found is not None and (found.identity != identity or found.target != target)
            for found in (self.inbound.get(vc), self.outbound.get(vc))
        )

    def next_deadline(self) -> float | None:
        return self.deadlines.next()

    def expire(self, now: float) -> float | None:
        """Send pings that are due, end what is silent; returns the next deadline."""
        return self.deadlines.expire(now)

    def shut_down(self) -> None:
        """The proxy stops: every tunnel ends (T16)."""
        for connection in (*self.inbound.values(), *self.outbound.values()):
            connection.end(End.SHUT_DOWN)
        for channel in list(self.channels):
            channel.let_go(End.SHUT_DOWN)

    def statistics(self) -> dict[str, int]:
        """Counts by name; ends with their cause (T1 to T20)."""
        found = {
            "inbound": len(self.inbound),
            "outbound": len(self.outbound),
            "inbound_half_open": self.inbound_quota.half_open,
            "outbound_half_open": self.outbound_quota.half_open,
            "channels": len(self.channels),
            "opened": self.opened,
        }
        found |= {f"end_{end.value}": self.ends[end] for end in End}
        return found | {f"channel_end_{end.value}": self.channel_ends[end] for end in End}

    def sessions(self) -> list[dict[str, Any]]:
        """One row for each virtual connection and direction. RH-103"""
        return [
            connection.describe()
            for connections in (self.inbound, self.outbound)
            for connection in connections.values()
        ]

    def __repr__(self) -> str:
        return f"<ProxyTable {len(self.inbound)} in, {len(self.outbound)} out, {len(self.channels)} channels>"
