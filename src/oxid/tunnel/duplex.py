"""The tunnel as the RPC runtime sees it: the part of asyncio's transport that it uses.

    duplex.upper = protocol; protocol.connection_made(duplex)      by the shell, once the connection stands
    duplex.write(pdus), duplex.writelines(buffers)                 RPC PDUs, whole
    duplex.pause_reading(), resume_reading()                       what comes meanwhile waits in the receive window
    protocol.pause_writing(), resume_writing()                     the send window is closed, and open again
    duplex.close(), abort(); protocol.connection_lost(error)

Reading stops by not consuming: the window runs out and the sender waits. The connections themselves are read on,
because acknowledgments and recyclings travel behind the data.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from oxid.errors import RemoteProtocolError
from oxid.tunnel.channel import SendingChannel, when_drained
from oxid.tunnel.ends import End
from oxid.tunnel.ports import Buffer, Upper
from oxid.tunnel.windows import ReceiveWindow

HIGH: Final = 64 << 10
"""Bytes that wait for the window before the RPC runtime is told to stop writing."""
NEVER: Final = -(1 << 62)


def at_once(what: Callable[[], None]) -> None:
    what()


class Duplex:
    """One end of a virtual connection."""

    __slots__ = (
        "_channel",
        "_high",
        "_low",
        "_paused",
        "_reading",
        "_recycle_below",
        "_soon",
        "_waiting",
        "extra",
        "over",
        "upper",
    )

    def __init__(self, soon: Callable[[Callable[[], None]], object] = at_once) -> None:
        """`soon` runs something later on this thread: the upper layer hears of its own close as from asyncio."""
        self.upper: Upper | None = None
        self.extra: dict[str, Any] = {}
        """What `get_extra_info` answers; the shell's."""
        self.over = False
        self._soon = soon
        self._channel: SendingChannel | None = None
        """Where RPC PDUs are sent; None before the connection stands, and afterwards."""
        self._recycle_below = NEVER
        self._waiting: deque[tuple[bytes, int, ReceiveWindow]] = deque()
        self._reading = True
        self._paused = False
        self._high = HIGH
        self._low = HIGH // 4

    # What a machine does ----------------------------------------------------------------------------------

    def _recycle(self) -> None:
        """The lifetime of the channel runs out."""
        raise NotImplementedError

    def end(self, end: End, error: Exception | None = None, *, abort: bool = False) -> None:
        """Everything ends, once."""
        raise NotImplementedError

    # Writing ----------------------------------------------------------------------------------------------

    def write(self, data: Buffer) -> None:
        """Send RPC PDUs, whole ones, that lie in one buffer."""
        channel = self._channel
        if channel is None:
            return
        try:
            channel.send(data, len(data))
        except RemoteProtocolError as error:
            self.end(End.PROTOCOL_ERROR, error)
            return
        if channel.queue or channel.room < self._recycle_below:
            self._strained(channel)

    def writelines(self, buffers: list[Any]) -> None:
        """Send RPC PDUs: one may lie in several buffers, one buffer may hold several."""
        channel = self._channel
        if channel is None:
            return
        try:
            channel.send_all(buffers)
        except RemoteProtocolError as error:
            self.end(End.PROTOCOL_ERROR, error)
            return
        if channel.queue or channel.room < self._recycle_below:
            self._strained(channel)

    def _strained(self, channel: SendingChannel) -> None:
        """Window or lifetime come to their end, or have room again."""
        if channel.room < self._recycle_below:
            self._recycle_below = NEVER
            self._recycle()
        if self.upper is None:
            return
        if self._paused:
            if channel.queued <= self._low:
                self._paused = False
                self.upper.resume_writing()
        elif channel.queued > self._high:
            self._paused = True
            self.upper.pause_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """How much may wait, in bytes; as asyncio's transports."""
        self._high = HIGH if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return 0 if self._channel is None else self._channel.queued

    # Reading ----------------------------------------------------------------------------------------------

    def _deliver(self, data: Buffer, size: int, window: ReceiveWindow) -> None:
        """Give RPC data to the upper layer, or keep it while that does not read."""
        whole = data if type(data) is bytes else bytes(data)
        if self._reading and not self._waiting and self.upper is not None:
            self.upper.data_received(whole)
            window.passed(size)
        else:
            window.arrive(size)
            self._waiting.append((whole, size, window))

    def pause_reading(self) -> None:
        """Consume nothing until `resume_reading`."""
        self._reading = False

    def resume_reading(self) -> None:
        """Consume what waits, and what comes."""
        self._reading = True
        waiting = self._waiting
        while waiting and self._reading and self.upper is not None:
            data, size, window = waiting.popleft()
            self.upper.data_received(data)
            window.release(size)

    # End --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the virtual connection once everything written is sent. May be called again."""
        channel = self._channel
        if self.over:
            return
        if channel is None:
            self._closed()
        elif channel.queue:
            self._closing()
            when_drained(channel, self._closed)
        else:
            self._closed()

    def _closing(self) -> None:
        """What is written still waits: a machine limits the time for it."""

    def _closed(self) -> None:
        self.end(End.CLOSED)

    def abort(self) -> None:
        """End the virtual connection now."""
        self.end(End.CLOSED, abort=True)

    def is_closing(self) -> bool:
        return self.over

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.extra.get(name, default)

    def _let_go(self, error: Exception | None) -> None:
        """The last a machine does: the upper layer hears of the end, nothing is kept."""
        self._channel = None
        self._waiting.clear()
        upper, self.upper = self.upper, None
        if upper is not None:
            self._soon(lambda: upper.connection_lost(error))
