"""How much a client of the web server may ask for, and how long it may take. AB-1, AB-2, AB-3"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of one web server; times in seconds, sizes in bytes. None for a time: no limit."""

    header_timeout: float = 30.0
    """From a request's first byte to the end of its head, however the bytes drip in. Apache: 20 to 40; a new
    connection has as long to begin."""
    keep_alive_timeout: float = 120.0
    """Between two requests of a connection. IIS: 120."""
    body_timeout: float | None = 120.0
    """Without a byte of a body that the handler waits for. Handlers that stream set their own rules."""
    response_timeout: float = 120.0
    """For `minimum_rate` * this many bytes to be taken by a client that does not read fast enough."""
    minimum_rate: int = 240
    """Bytes per second below which a response that is stuck counts as stalled. http.sys: 240."""
    max_head: int = 32 * KIB
    """Request line and headers together. IIS 16 KiB, Apache 8 KiB a line; Kerberos tickets need 12 to 20."""
    max_headers: int = 100
    """Headers of a request. Apache: 100."""
    max_target: int = 16 * KIB
    """Request target. http.sys: 16 KiB."""
    read_ahead: int = 64 * KIB
    """Body bytes and pipelined requests held per connection before the socket is read no more; IIS: 48 KiB."""
    drain: int = 64 * KIB
    """Body bytes nobody wanted that are read away to keep a connection. IS-10"""
    write_buffer: int = 256 * KIB
    """Response bytes held for a client before the handler is told to wait."""
    max_connections: int = 20_000
    """Connections of one server; the descriptor limit of the process is often lower."""
    max_connections_per_address: int = 10_000
    """Connections of one address; proxies bring many clients from one."""
    shutdown_timeout: float = 5.0
    """What requests in flight have to end when the server stops."""
    linger: float = 2.0
    """How long what a refused client still sends is read away, so that it can read its answer."""

    def __post_init__(self) -> None:
        for name in ("header_timeout", "keep_alive_timeout", "response_timeout", "max_head", "read_ahead"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} has to be above 0")
