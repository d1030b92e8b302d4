"""How a proxy reaches its servers: those of its own process without a socket, all others with one."""

from __future__ import annotations

import asyncio

import pytest

from oxid.iis.rpc_proxy.connector import BANNER, ServerLink, connect_to
from oxid.runtime.near import NearTransport
from oxid.runtime.server import RpcServer
from oxid.world import World


class Leg:
    """What a proxy's machine would hear."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended = False

    def receive(self, data: bytes) -> None:
        self.heard += data

    def closed(self, error: Exception | None = None) -> None:
        self.ended = True

    def writable(self, flag: bool) -> None:
        """Little is written here."""


async def banner_through(link: ServerLink) -> None:
    leg = Leg()
    link.attach(leg)
    async with asyncio.timeout(10):
        while leg.heard != BANNER:
            await asyncio.sleep(0)
    link.close()
    await link.closed_waiter
    assert leg.ended


@pytest.mark.parametrize("near", [True, False])
def test_a_server_of_this_process_is_reached_without_a_socket_unless_that_is_not_wanted(near: bool) -> None:
    async def story() -> None:
        server = RpcServer(World.real())
        endpoint = await server.listen("127.0.0.1", 0, protseq="ncacn_http")
        try:
            link = await connect_to("127.0.0.1", endpoint.port, 10, near=near)
            assert isinstance(link.transport, NearTransport) is near
            await banner_through(link)
        finally:
            await server.aclose()
        with pytest.raises(OSError):  # noqa: PT011 - whatever the system says of a port where nobody listens
            await connect_to("127.0.0.1", endpoint.port, 10, near=near)

    asyncio.run(story())


def test_the_end_of_a_server_ends_the_links_to_it() -> None:
    async def story() -> None:
        server = RpcServer(World.real())
        endpoint = await server.listen("127.0.0.1", 0, protseq="ncacn_http")
        link, leg = await connect_to("127.0.0.1", endpoint.port, 10), Leg()
        link.attach(leg)
        await server.aclose()
        async with asyncio.timeout(10):
            await link.closed_waiter
        assert leg.ended

    asyncio.run(story())


def test_a_listener_for_tcp_is_not_offered_to_proxies() -> None:
    async def story() -> None:
        server = RpcServer(World.real())
        endpoint = await server.listen("127.0.0.1", 0)
        link = await connect_to("127.0.0.1", endpoint.port, 10)
        assert not isinstance(link.transport, NearTransport)
        link.close()
        await link.closed_waiter
        await server.aclose()

    asyncio.run(story())
