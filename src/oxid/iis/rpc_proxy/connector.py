"""A proxy's connection to an RPC server. RH-30: a name is looked up once, and only what was found is connected to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final

from oxid.runtime import forks
from oxid.runtime.near import connect_near
from oxid.runtime.tcp import connect, face_of, look_for_the_vanished
from oxid.runtime.transport_port import TransportPort, deaf
from oxid.tunnel.ports import Leg

BANNER: Final = b"ncacn_http/1.0"
LONGEST_KEEP_ALIVE_S: Final = 32767
"""What the kernel takes for TCP_KEEPIDLE; clients may ask for fifty days."""


class TooBusy(Exception):
    """A server is connected to too often."""


class ServerLink(TransportPort):
    """One connection to a server: a Port of the tunnel's machine, which hears of it through a Leg."""

    __slots__ = (
        "_descriptor",
        "_early",
        "_leg",
        "_over",
        "closed_waiter",
        "data_received",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._leg: Leg | None = None
        self._early: list[bytes] = []
        self._over = False
        self._descriptor = -1
        self.data_received: Callable[[bytes], None] = self._early.append
        self.closed_waiter: asyncio.Future[None] = loop.create_future()

    def attach(self, leg: Leg) -> None:
        """From now on `leg` hears what comes; what came already first."""
        self._leg = leg
        self.data_received = leg.receive
        if self.transport is not None and not self._over:
            self.transport.set_protocol(face_of(self, self.loop))  # which looks up the method anew
        early, self._early = self._early, []
        for piece in early:
            leg.receive(piece)
        if self._over:
            leg.closed(None)

    # What the loop calls ----------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        link = transport.get_extra_info("socket")
        if link is not None:
            self._descriptor = link.fileno()
            forks.watch(self)

    def pause_writing(self) -> None:
        if self._leg is not None:
            self._leg.writable(False)

    def resume_writing(self) -> None:
        if self._leg is not None:
            self._leg.writable(True)

    def connection_lost(self, error: Exception | None) -> None:
        self._over = True
        self.transport = None
        forks.forget(self)
        leg, self._leg = self._leg, None
        self.data_received = deaf
        if leg is not None:
            leg.closed(error)
        if not self.closed_waiter.done():
            self.closed_waiter.set_result(None)

    def descriptors(self) -> tuple[int, ...]:
        return (self._descriptor,)

    def after_fork(self) -> None:
        """Nobody is served in a child."""

    def keep_alive(self, seconds: float) -> None:
        """Let the kernel ask whether the server is there after so much silence; 0 for never. [MS-RPCH] 3.2.3.2.1"""
        link = None if self.transport is None else self.transport.get_extra_info("socket")
        seconds = min(seconds, LONGEST_KEEP_ALIVE_S)
        if seconds:
            look_for_the_vanished(link, seconds, times=4, unacknowledged=2 * seconds)
        elif link is not None:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)


async def connect_to(host: str, port: int, timeout: float, *, near: bool = True) -> ServerLink:
    """Connect to a server; whoever called closes it. Raises OSError, TimeoutError.

    `near`: a server of this process is reached without a socket.
    """
    loop = asyncio.get_running_loop()
    link = ServerLink(loop)
    failure: OSError | None = None
    try:
        async with asyncio.timeout(timeout):
            for address in await _addresses(loop, host):
                if near and connect_near(loop, address, port, link) is not None:
                    return link
                try:
                    await connect(link, address, port)
                    return link
                except OSError as error:
                    failure = error
    except BaseException:
        link.abort()
        raise
    raise failure or OSError(f"{host} has no address")


async def _addresses(loop: asyncio.AbstractEventLoop, host: str) -> list[str]:
    """Every address of a server, each once."""
    try:
        return [str(ip_address(host))]
    except ValueError:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
