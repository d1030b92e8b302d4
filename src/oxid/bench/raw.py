"""The yardstick: an echo without any protocol, on the same loop, with callbacks and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

from oxid.bench.meter import Meter, clock


class Echo(asyncio.Protocol):
    """Writes back what it reads."""

    def connection_made(self, transport: Any) -> None:
        self._write = transport.write

    def data_received(self, data: bytes) -> None:
        self._write(data)


class Caller(asyncio.Protocol):
    """Sends a message, waits for as many bytes, sends it again."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._size, self._got = len(message), 0

    def connection_made(self, transport: Any) -> None:
        self._write = transport.write

    def go(self, meter: Meter, over: asyncio.Future[None], running: list[int]) -> None:
        self._meter, self._over, self._running = meter, over, running
        self._since = clock()
        self._write(self._message)

    def data_received(self, data: bytes) -> None:
        self._got += len(data)
        if self._got >= self._size:
            self._got -= self._size
            now = clock()
            self._meter.latencies.append(now - self._since)
            if now < self._meter.end:
                self._since = now
                self._write(self._message)
            else:
                self._running[0] -= 1
                if not self._running[0]:
                    self._over.set_result(None)


async def measure(port: int, size: int, connections: int, seconds: float) -> dict[str, Any]:
    """Echo messages of `size` bytes over so many connections at once."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    message = bytes(size)
    pairs = [
        await loop.create_connection(lambda: Caller(message), "127.0.0.1", port) for _ in range(connections)
    ]
    meter, running = Meter(seconds), [connections]
    loop.call_later(meter.counts_from - clock(), meter.mark)
    for _, caller in pairs:
        caller.go(meter, over, running)
    await over
    report = meter.report()
    for transport, _ in pairs:
        transport.abort()
    return report
