"""A file to a client, with flat memory: from the kernel's cache where the bytes need no TLS. IS-26

uvloop has no sendfile, and watches no descriptor of its transports for others: a duplicate of the socket is watched
instead. What the transport still holds goes out first.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange

PIECE: Final = 256 * 1024
"""Bytes read at once where they pass through us."""
AT_ONCE: Final = 4 * 1024 * 1024
"""Bytes after which other connections have their turn."""


async def send_file(exchange: Exchange, file: BinaryIO, offset: int, count: int) -> int:
    """Send a range of a file; returns the bytes that went out, fewer where it is short or the client is gone."""
    connection = exchange.connection
    transport = connection.transport
    if count <= 0 or transport is None or exchange.finished:
        return 0
    if connection.tls is not None or count <= PIECE:
        return await _by_pieces(exchange, file.fileno(), offset, count)
    return await _by_kernel(exchange, file.fileno(), offset, count)


async def _by_pieces(exchange: Exchange, source: int, offset: int, count: int) -> int:
    sent = 0
    while sent < count and not exchange.lost:
        piece = os.pread(source, min(PIECE, count - sent), offset + sent)
        transport = exchange.connection.transport
        if not piece or transport is None:
            break
        transport.write(piece)
        sent += len(piece)
        if not exchange.writable:
            await exchange.drain()
        elif sent % AT_ONCE == 0:
            await asyncio.sleep(0)
    return sent


async def _by_kernel(exchange: Exchange, source: int, offset: int, count: int) -> int:
    connection = exchange.connection
    transport = connection.transport
    assert transport is not None
    loop = asyncio.get_running_loop()
    await connection.flushed()
    if exchange.lost or connection.transport is None:
        return 0
    target = os.dup(transport.get_extra_info("socket").fileno())
    sent = 0
    waiter: asyncio.Future[None] | None = None

    def ready() -> None:
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    exchange.when_lost(ready)
    connection.sending_file = True
    connection.progress(0)
    try:
        turn = 0
        while sent < count and not exchange.lost:
            try:
                moved = os.sendfile(target, source, offset + sent, min(count - sent, AT_ONCE))
            except BlockingIOError:
                moved = -1
            except OSError:
                break  # the client is gone; the transport hears it too
            if moved == 0:
                break  # the file has become shorter
            if moved > 0:
                sent += moved
                turn += moved
                connection.progress(sent)
                if turn < AT_ONCE:
                    continue
                turn = 0
                await asyncio.sleep(0)
                continue
            waiter = loop.create_future()
            loop.add_writer(target, ready)
            try:
                await waiter
            finally:
                loop.remove_writer(target)
    finally:
        connection.sending_file = False
        connection.progress(None)
        os.close(target)
    return sent
