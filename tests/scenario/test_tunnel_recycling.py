"""Channels that are used up while calls travel on them: nothing is lost, doubled or out of order. RH-81, SC-8

Proxies are processes; where there are two, a load balancer sends each new channel to the other one, so that successors
never meet their predecessors (IN_R1, OUT_R1). Lives are the shortest that the specification allows, 128 KiB.
"""

import asyncio
import hashlib
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from tests.support.balancer import Balancer
from tests.support.host import ADMIN, PASSWORD, OxidHost

import oxid
from oxid.runtime.client import open_connection
from oxid.runtime.proxy_route import ProxyRoute
from oxid.runtime.server import RpcServer
from oxid.samples.echo import Echo, IEcho

LIFE = 128 * 1024
PIECE = 20_000


def proxy_process(directory, port):
    directory.mkdir()
    file = directory / "oxid.toml"
    file.write_text(
        f'[rpc_proxy]\nallow_plain = true\nout_lifetime = {LIFE}\nvalid_ports = "127.0.0.1:{port}"\n'
    )
    return OxidHost(options=["--config", str(file)])


@asynccontextmanager
async def stage(tmp_path, proxies):
    """A server in this process, proxies as processes before it, and a way to them."""
    world = oxid.World.real()
    server = RpcServer(world)
    server.register(IEcho, Echo(), min_level=0)
    endpoint = await server.listen("127.0.0.1", 0, protseq="ncacn_http")
    hosts = [
        await asyncio.to_thread(proxy_process, tmp_path / f"proxy{number}", endpoint.port)
        for number in range(proxies)
    ]
    try:
        ports = [int(host.ready["http"].rpartition(":")[2]) for host in hosts]
        async with Balancer(ports) as balancer:
            way = ProxyRoute(
                f"http://127.0.0.1:{balancer.port}",
                oxid.Password(ADMIN, PASSWORD),
                auth="basic",
                in_lifetime=LIFE,
            )
            yield server, endpoint.port, way, world
        for host in hosts:
            await asyncio.to_thread(host.wait_for_rest, 5.0)
            assert "Traceback" not in host.log(), host.log()[-4000:]
    except BaseException:
        for host in hosts:
            host.kill()
        raise
    finally:
        await server.aclose()
    for host in hosts:
        await asyncio.to_thread(host.stop)


async def talk(connection, calls, at_once=3):
    """Echo pieces, several at a time, each with a content of its own."""
    echo = await connection.proxy(IEcho)
    numbers = iter(range(calls))

    async def work():
        for number in numbers:
            data = hashlib.sha256(b"%d" % number).digest() * (PIECE // 32)
            answered = await echo.echo_data(data)
            assert bytes(answered) == data, f"call {number} came back changed"

    await asyncio.gather(*(work() for _ in range(at_once)))


@pytest.mark.req("RH-81", "RH-84", "RH-1", "RH-23", "T13", "SC-8")
@pytest.mark.parametrize("proxies", [1, 2], ids=["IN_R2 and OUT_R2", "IN_R1 and OUT_R1"])
@pytest.mark.parametrize("large", [True, False], ids=["large fragments", "5840 bytes"])
def test_fifty_recyclings_of_both_channels_with_calls_in_flight_change_no_byte(tmp_path, proxies, large):
    async def run():
        async with stage(tmp_path, proxies) as (server, port, way, world):
            async with open_connection(
                "127.0.0.1", port, world=world, proxy=way, large_fragments=large
            ) as connection:
                await talk(connection, 360)
                assert connection.transport.recycled >= 100
            assert server._proxied.virtual.recycled >= 100

    asyncio.run(run())


@pytest.mark.req("SC-8", "RH-82")
def test_a_storm_of_recycling_on_many_tunnels_leaves_nothing(tmp_path):
    async def run():
        async with stage(tmp_path, 2) as (server, port, way, world):
            async with AsyncExitStack() as stack:
                connections = [
                    await stack.enter_async_context(
                        open_connection("127.0.0.1", port, world=world, proxy=way)
                    )
                    for _ in range(6)
                ]
                await asyncio.gather(*(talk(connection, 60) for connection in connections))
            assert server._proxied.virtual.recycled >= 6 * 16
            async with asyncio.timeout(5):
                while server._proxied.virtual.connections:  # which hears of the end through the proxies
                    await asyncio.sleep(0.02)

    asyncio.run(run())
