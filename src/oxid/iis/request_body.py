"""The request's body, as it arrives: taken, waited for, or streamed. RH-20, RH-22, IS-24, IS-27

exchange.take(4096); await exchange.read(4096)         at the reader's pace
exchange.stream_body(receive, ended)                   at the client's, with real backpressure
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oxid.iis.connection import HttpConnection


class RequestBody:
    """The half of an exchange that receives. What most requests never use lies in the class."""

    connection: HttpConnection
    finished: bool = False
    bytes_received: int = 0
    """Of the body."""
    body_timeout: float | None = None
    """Seconds without a byte while somebody waits for the body; set from the limits, None for streams."""

    _pieces: list[bytes] | None = None
    _available: int = 0
    _body_open: bool = False
    """More of the body will come."""
    _receive: Callable[[bytes], None] | None = None
    _ended: Callable[[], None] | None = None
    _body_wake: Callable[[], None] | None = None
    _held: bool = False
    """The handler asked that the body be held back."""
    _lost: bool = False

    def send_continue(self) -> None:
        """Tell a client that waits for it to send the body."""
        raise NotImplementedError

    # The request's body --------------------------------------------------------------------------------------

    @property
    def available(self) -> int:
        """Bytes that `take` would give now."""
        return self._available

    @property
    def body_ended(self) -> bool:
        """All of the body has arrived and been taken."""
        return not self._body_open and not self._available

    def take(self, limit: int | None = None) -> bytes:
        """What has arrived, at most `limit` bytes; b"" where nothing is there now."""
        pieces = self._pieces
        if not pieces:
            return b""
        if limit is None or limit >= self._available:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
        else:
            whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            data = whole[:limit]
            pieces[:] = [whole[limit:]]
        self._available -= len(data)
        self.connection.body_taken()
        return data

    def when_body(self, wake: Callable[[], None]) -> None:
        """Call `wake` once when there is something to take, the body has ended, or the client is gone."""
        if self._available or not self._body_open or self._lost:
            wake()
            return
        self._body_wake = wake
        self._wish_body()

    async def read(self, limit: int | None = None) -> bytes:
        """Wait for some of the body; b"" at its end, or when the client is gone."""
        if not self._available and self._body_open and not self._lost:
            waiter = asyncio.get_running_loop().create_future()
            self.when_body(partial(settle, waiter))
            try:
                await waiter
            finally:
                self._body_wake = None
        return self.take(limit)

    def stream_body(self, receive: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        """Give every piece at once from now on, without task or copy; then `ended`, also when the client is gone.

        What is here already is given before this returns. `pause_body` inside `receive` is heeded from the next piece.
        """
        self.body_timeout = None
        self._receive = receive
        self._ended = ended
        self._give()
        if self._body_open:
            self._wish_body()

    def pause_body(self) -> None:
        """Let the client wait: the socket is read no more once the read-ahead is full."""
        self._held = True
        self.connection.hold_body(True)

    def resume_body(self) -> None:
        self._held = False
        if self._receive is not None:
            self._give()
        if not self._held:
            self.connection.hold_body(False)

    def _wish_body(self) -> None:
        """Somebody waits for the body: the client may have to be told, and must not take for ever."""
        self.send_continue()
        self.connection.body_wanted()

    def _give(self) -> None:
        """Pass on what waits, and the end."""
        pieces = self._pieces
        while pieces and not self._held:
            receive = self._receive
            assert receive is not None
            piece = pieces.pop(0)
            self._available -= len(piece)
            receive(piece)
        if self.finished:
            return
        if not self._body_open and not self._held and not self._available:
            self._receive = None
            ended, self._ended = self._ended, None
            if ended is not None:
                ended()
        else:
            self.connection.body_taken()

    def begin_body(self, pieces: list[bytes], more: bool) -> None:
        """From the server: what has come of the body before anybody was told, and whether more will."""
        self._pieces = pieces
        self._available = self.bytes_received = sum(map(len, pieces))
        self._body_open = more

    def forget_body(self) -> None:
        """The body that was declared is not waited for. RH-26"""
        self._body_open = False
        self.connection.forget_body()

    def body_arrived(self, piece: bytes) -> None:
        """From the connection: a piece of the body."""
        self.bytes_received += len(piece)
        receive = self._receive
        if receive is not None and not self._held and not self._available:
            receive(piece)
            return
        if self._pieces is None:
            self._pieces = [piece]
        else:
            self._pieces.append(piece)
        self._available += len(piece)
        self._wake_body()

    def body_complete(self) -> None:
        """From the connection: the body ended as declared."""
        self._body_open = False
        if self._receive is not None:
            self._give()
        else:
            self._wake_body()

    def _wake_body(self) -> None:
        wake, self._body_wake = self._body_wake, None
        if wake is not None:
            wake()


def settle(waiter: asyncio.Future[None]) -> None:
    """Wake who waits, unless they have left."""
    if not waiter.done():
        waiter.set_result(None)
