"""A load balancer in front of web servers: each connection goes to the next of them, bytes as they are.

async with Balancer([port_a, port_b]) as balancer:
    balancer.port
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Self


class _End(asyncio.Protocol):
    """One end of a connection that passes; the other end is its `peer`."""

    def __init__(self, balancer: Balancer, peer: _End | None = None) -> None:
        self.balancer = balancer
        self.peer = peer
        self.transport: Any = None
        self.early: list[bytes] = []
        self.over = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.balancer.ends.add(self)
        if self.peer is None:
            self.peer = _End(self.balancer, self)
            self.balancer.connect(self.peer)
        else:
            for data in self.peer.early:
                transport.write(data)
            if self.peer.over:
                transport.close()

    def data_received(self, data: bytes) -> None:
        assert self.peer is not None
        if self.peer.transport is None:
            self.early.append(data)
        else:
            self.peer.transport.write(data)

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None and not self.peer.over:
            self.peer.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.over = True
        self.balancer.ends.discard(self)
        peer = self.peer
        if peer is not None and peer.transport is not None:
            (peer.transport.abort if error else peer.transport.close)()


class Balancer:
    """Connections in turn to several ports of this machine."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = list(ports)
        self.made = 0
        """Connections so far."""
        self.ends: set[_End] = set()
        self._server: asyncio.Server | None = None
        self._connecting: set[asyncio.Task[Any]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def connect(self, end: _End) -> None:
        """Connect to the next port."""
        loop = asyncio.get_running_loop()
        port = self.ports[self.made % len(self.ports)]
        self.made += 1
        task = loop.create_task(loop.create_connection(lambda: end, "127.0.0.1", port))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _End(self), "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for end in list(self.ends):
            end.transport.abort()
        while self.ends:
            await asyncio.sleep(0)
        await self._server.wait_closed()
