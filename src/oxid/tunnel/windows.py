"""Flow control of one channel, seen by its receiver. [MS-RPCH] 3.2.1.1.5, 3.2.1.4.1, 3.2.1.5.1

    window.passed(size)          RPC bytes came and went on at once
    window.arrive(size)          RPC bytes came and wait
    window.release(size)         what waited went on
    window.acknowledge(window)   called when the sender should hear of the room: answer with `window.report()`

The sender's half is part of `channel.SendingChannel`. RTS PDUs are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from oxid.errors import RemoteProtocolError

U32: Final = 0xFFFF_FFFF
MAX_FRAGMENT: Final = 0xFFFF


class ReceiveWindow:
    """How much of our room a sender has used, and what it knows of the rest."""

    __slots__ = ("acknowledge", "advertised", "cookie", "held", "low", "received", "size")

    def __init__(
        self, size: int, cookie: bytes, acknowledge: Callable[[ReceiveWindow], None] | None = None
    ) -> None:
        self.size = size
        self.low = max(size // 2, min(size, MAX_FRAGMENT))
        """Acknowledge below this. Half of the window is what everybody does, but a sender whose next PDU is larger
        than the half that it still has would wait for good: windows under 128 KiB answer earlier."""
        self.cookie = cookie
        self.received = 0
        """BytesReceived of the channel instance."""
        self.held = 0
        """Bytes that wait here."""
        self.advertised = size
        """What the sender may still send as far as it knows."""
        self.acknowledge = acknowledge

    def passed(self, size: int) -> None:
        """Bytes came and are consumed already."""
        self.received += size
        self.advertised -= size
        if self.advertised < self.low:
            self._tell()

    def arrive(self, size: int) -> None:
        """Bytes came and are queued. Raises RemoteProtocolError where they are too many. RH-73"""
        self.received += size
        self.advertised -= size
        self.held += size
        if self.held > self.size + MAX_FRAGMENT:
            raise RemoteProtocolError(f"{self.held} bytes wait, the window has {self.size}")

    def release(self, size: int) -> None:
        """Bytes that were queued are consumed."""
        self.held -= size
        if self.advertised < self.low:
            self._tell()

    def _tell(self) -> None:
        """Say that there is room again, where there is more than the sender knows. RH-71"""
        if self.acknowledge is not None and self.size - self.held > max(self.advertised, 0):
            self.acknowledge(self)

    def report(self) -> tuple[int, int]:
        """BytesReceived and AvailableWindow for an acknowledgment that is sent now."""
        self.advertised = room = max(self.size - self.held, 0)
        return self.received & U32, room

    def retire(self) -> None:
        """The channel is gone: nobody waits for acknowledgments."""
        self.acknowledge = None

    def __repr__(self) -> str:
        return f"<ReceiveWindow {self.held} of {self.size} held, {self.received} received>"
