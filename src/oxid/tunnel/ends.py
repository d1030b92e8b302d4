"""Why a virtual connection or a channel ended, and ports and shells for what has ended. RH-101, RH-103"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from oxid.tunnel.ports import Buffer


class End(Enum):
    """The events of the teardown matrix, as they are counted."""

    CLIENT_CLOSED = "client_closed"
    """T1 to T4, T17: the client's connection ended, or its declared body."""
    SERVER_CLOSED = "server_closed"
    """T5, T6"""
    PROXY_CLOSED = "proxy_closed"
    """The same, seen by a client or a server."""
    CONNECT_FAILED = "connect_failed"
    """T7"""
    PROTOCOL_ERROR = "protocol_error"
    """T8 to T10"""
    IDLE = "idle"
    """T11: nothing came, not even a ping."""
    STALLED = "stalled"
    """T12: the window stayed closed."""
    RECYCLED = "recycled"
    """T13: a successor has taken over."""
    SETUP = "setup"
    """T15: the other half, or the next step of a recycling, never came."""
    SHUT_DOWN = "shut_down"
    """T16"""
    REFUSED = "refused"
    """Another identity or target, or too many: RH-110, RH-115."""
    CLOSED = "closed"
    """The RPC runtime above closed it."""


class _NoPort:
    """Where machines write that have ended."""

    __slots__ = ()

    def write(self, data: Buffer, /) -> None: ...

    def write_all(self, buffers: list[Any], /) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class _NoShell:
    """Whom machines ask that have ended."""

    __slots__ = ()

    def connect(self) -> None: ...

    def cancel_connect(self) -> None: ...

    def keep_alive(self, seconds: float) -> None: ...

    def refuse(self, status: int) -> None: ...

    def send_response_head(self, content_length: int) -> None: ...

    def finished(self, end: str) -> None: ...


NO_PORT: Final = _NoPort()
NO_SHELL: Final = _NoShell()
