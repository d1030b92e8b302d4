"""A connection as the tunnel's machines write to it: `tunnel.ports.Port` over a transport of the loop.

A shell derives from TransportPort and is the transport's protocol as well: it sets `transport` in `connection_made`
and takes it away in `connection_lost`. Behind that everything here does nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

from oxid.runtime.tcp import vector_writer


class TransportPort:
    """Bytes out, closing, and whether it is read."""

    __slots__ = ("loop", "transport")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.transport: Any = None

    def write(self, data: Any) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def write_all(self, buffers: list[Any]) -> None:
        """Send several buffers at once."""
        if self.transport is not None:
            vector_writer(self.transport, self.loop)(buffers)

    def close(self) -> None:
        """Send what waits, then close."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abort()

    def pause(self) -> None:
        """Read nothing until `resume`."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def eof_received(self) -> None:
        return None  # what is half closed carries no tunnel: close it


def deaf(data: bytes) -> None:
    """Whoever is gone hears nothing."""
