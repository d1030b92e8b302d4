"""A stretch of network that can be cut: carries TCP connections from an address of its own to the host's ports.

    async with open_relay("127.81.2.3", [10135, 20001]) as relay:
        relay.cut()          nothing gets through, in either direction; nobody is told
        relay.mend()         what was on its way arrives

As in a real partition, connections outlive it, and what was sent meanwhile comes late. It sees pings pass, so that
it is known for how long it may be cut without costing a client its objects.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Final

from oxid.errors import ConfigurationError
from oxid.interfaces.object_exporter import IObjectExporter
from oxid.rpc.interface import spec_of

PIECE: Final = 1 << 16
RESOLVER: Final = spec_of(IObjectExporter).uuid.bytes_le
REQUEST: Final = 0  # [C706] 12.6.4.9
HEADER: Final = 24
PINGS: Final = (1, 2)  # SimplePing, ComplexPing


class Relay:
    """Owned by `open_relay`."""

    def __init__(self, host: str) -> None:
        self.host = host
        """Where it carries to."""
        self.carried = 0
        """Connections so far."""
        self._pings: deque[float] = deque(maxlen=10_000)
        """When pings passed."""
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def longest_silence(self, period: float) -> float:
        """For how long no ping of some set has passed: each passes once in a period."""
        now = monotonic()
        return max((now - at for at in self._pings if now - at <= period), default=0.0)

    async def listen(self, address: str, port: int) -> asyncio.Server:
        """Raises OSError."""

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None  # a task of the server
            self._tasks.add(task)
            try:
                await self._carry(reader, writer, port)
            except (OSError, asyncio.CancelledError):
                pass  # one of the ends is gone, or we are
            finally:
                self._tasks.discard(task)
                writer.close()

        return await asyncio.start_server(accepted, address, port)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        await self._whole.wait()
        there, back = await asyncio.open_connection(self.host, port)
        self.carried += 1
        try:
            ways = [
                asyncio.ensure_future(self._pump(reader, back, PingCounter())),
                asyncio.ensure_future(self._pump(there, writer, None)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                await self._whole.wait()  # the end of a connection does not get through either
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            back.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counter: PingCounter | None
    ) -> None:
        while data := await reader.read(PIECE):
            await self._whole.wait()
            if counter is not None:
                self._pings.extend([monotonic()] * counter.count(data))
            writer.write(data)
            await writer.drain()

    async def aclose(self) -> None:
        """Cut every connection off for good."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class PingCounter:
    """Sees pings in what one connection carries. Every piece is taken to begin with a protocol unit: they are small."""

    def __init__(self) -> None:
        self._to_resolver = False

    def count(self, data: bytes) -> int:
        """How many pings begin in a piece."""
        self._to_resolver = self._to_resolver or RESOLVER in data
        found = at = 0
        while self._to_resolver and at + HEADER <= len(data):
            opnum = int.from_bytes(data[at + 22 : at + 24], "little")
            found += data[at + 2] == REQUEST and opnum in PINGS
            at += max(int.from_bytes(data[at + 8 : at + 10], "little"), HEADER)
        return found


@asynccontextmanager
async def open_relay(address: str, ports: Sequence[int], host: str = "127.0.0.1") -> AsyncIterator[Relay]:
    """Carry from these ports of `address` to the same ones of `host`. Raises ConfigurationError."""
    relay = Relay(host)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(relay.aclose)
        for port in ports:
            try:
                server = await relay.listen(address, port)
            except OSError as error:
                raise ConfigurationError(
                    f"cannot listen on {address}:{port}, an address of this machine's loopback: {error.strerror}"
                ) from error
            stack.callback(server.close)
        yield relay
