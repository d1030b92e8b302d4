"""Where connections come to: an address, its certificates, and what is known of its URLs."""

from __future__ import annotations

import asyncio

from oxid.iis.routes import Route
from oxid.iis.tls import Contexts
from oxid.runtime.server import Endpoint
from oxid.runtime.tcp import SharedBufferFace


class Listener:
    """One address that connections come to."""

    __slots__ = ("contexts", "endpoint", "routes", "server_socket", "tls")

    def __init__(self, tls: bool) -> None:
        self.tls = tls
        self.endpoint = Endpoint("", 0, "http")
        self.server_socket: asyncio.Server | None = None
        self.contexts: Contexts | None = None
        self.routes: dict[tuple[str, bytes, bytes], Route] = {}
        """Our address, Host and raw path -> where that leads."""


class Face(SharedBufferFace):
    """Stock asyncio's half; the end of what a client sends matters here, unlike to RPC."""

    def eof_received(self) -> bool:  # type: ignore[override]  # transports take a bool
        return bool(self.connection.eof_received())
