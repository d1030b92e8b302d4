"""What can be set about tunnels: sizes in bytes, times in seconds as the wire has them."""

from __future__ import annotations

from dataclasses import dataclass

KIB: int = 1024


@dataclass(frozen=True, slots=True)
class TunnelOptions:
    """Options of every role; each uses what concerns it. Times are multiplied by `period / 120`."""

    period: float = 120.0
    """Real seconds that a wire ConnectionTimeout of 120 s takes: tests scale every timer with it."""
    receive_window: int = 128 * KIB
    """The window we advertise: 8 to 256 KiB, and no less than the largest fragment. Windows: 64 KiB. From 128 KiB
    on, half a window holds the largest PDU there is, so acknowledgments can be few (see `windows`)."""
    channel_lifetime: int = 1 << 30
    """Bytes of a channel that we declare as Content-Length: 128 KiB to 2 GiB. Windows: 1 GiB."""
    recycle_at: int | None = None
    """Start recycling when so many bytes of the lifetime are left; None: an eighth, at least 64 KiB.
    Windows clients start at 4 KiB, servers at 8 KiB."""
    connection_timeout: float = 120.0
    """What we advertise as ConnectionTimeout (120 s to 14,400 s): how long a channel may be silent."""
    client_keepalive: float = 300.0
    """TCP keep-alive that a client wishes between in-proxy and server, 0 or at least 60 s."""
    first_pdu_timeout: float = 30.0
    """For the first PDU of a request or connection. The rest of a later PDU may take a connection timeout."""
    setup_timeout: float = 900.0
    """For both halves of a virtual connection to meet, and for each recycling. [MS-RPCH] 3.2.5.2.1"""
    stall_timeout: float | None = None
    """How long a client may leave its window closed; None: the connection timeout. RH-75"""
    silence: float = 2.0
    """Connection timeouts of silence after which a pinged channel counts as dead. RH-91"""
    require_banner: bool = False
    """Whether a proxy waits for `ncacn_http/1.0` before the server gets a byte. RH-32"""
    max_connections: int = 20_000
    """Virtual connections in one table."""
    max_half_open: int = 2_000
    """Those of them that are not established."""
    max_connections_per_identity: int = 5_000
    max_half_open_per_identity: int = 200
    granularity: float | None = None
    """How late a deadline may be noticed, in real seconds; None: what one second of the wire takes."""

    @property
    def scale(self) -> float:
        """Real seconds of one second on the wire."""
        return self.period / 120.0

    @property
    def tick(self) -> float:
        """The granularity of deadlines in real seconds."""
        return self.scale if self.granularity is None else self.granularity

    def threshold(self, lifetime: int) -> int:
        """Bytes left of a lifetime at which recycling starts."""
        if self.recycle_at is not None:
            return self.recycle_at
        return min(max(lifetime // 8, 64 * KIB), lifetime // 2)
