"""The servers of `oxid bench http`: a web server, an RPC server with its proxy, and a bare sendfile to compare with.

All are coroutine contexts that yield what the client needs: a port, or several.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from oxid.bench.http_extensions import BODY
from oxid.bench.servers import PASSWORD, USER
from oxid.bench.talk import say, told

if TYPE_CHECKING:
    from oxid.iis.rpc_proxy.extension import RpcProxy
    from oxid.world import World

FILE: Final = "big.bin"
RPC_PATH: Final = "/rpc/rpcproxy.dll"
PIECE: Final = 4 << 20
"""Bytes of one `os.sendfile`."""

_EXTENSION: Final = "from oxid.bench.http_extensions import {name} as __ExtensionFactory__\n"


# The web server -----------------------------------------------------------------------------------------


@asynccontextmanager
async def web(file_bytes: int = 0) -> AsyncIterator[int]:
    """A site with every kind of extension, a file of 100 bytes and a big one."""
    from oxid.iis.asgi import AsgiApplications
    from oxid.iis.isapi.host import IsapiHost
    from oxid.iis.server import WebServer
    from oxid.iis.settings import (
        Access,
        DirectorySettings,
        HandlerSettings,
        Module,
        ServerSettings,
        SiteSettings,
    )
    from oxid.world import World

    with tempfile.TemporaryDirectory(prefix="oxid-bench-") as place:
        root = Path(place)
        (root / "hundred.txt").write_bytes(BODY)
        _big_file(root / FILE, file_bytes)
        modules = []
        for name in ("NonBlocking", "Threaded"):
            source = root / f"{name.lower()}.py"
            source.write_text(_EXTENSION.format(name=name))
            modules.append(Module(f"{name.lower()}.dll", HandlerSettings("isapi", str(source))))
        modules.append(Module("begin.dll", HandlerSettings("isapi", "oxid.bench.http_extensions:Begin")))
        modules.append(Module("asgi", HandlerSettings("asgi", "oxid.bench.http_extensions:asgi")))
        directory = DirectorySettings(
            physical=root, access=Access.READ | Access.EXECUTE, modules=tuple(modules)
        )
        settings = ServerSettings(sites=(SiteSettings(directories=(directory,)),))
        server = WebServer(World.real(), settings)
        extensions, applications = IsapiHost(server), AsgiApplications(server)
        extensions.install()
        server.register_handler("asgi", applications.handler)
        endpoint = await server.listen("127.0.0.1", 0)
        try:
            yield endpoint.port
        finally:
            await server.aclose()
            await extensions.aclose()
            await applications.aclose()


def _big_file(path: Path, size: int) -> None:
    """A file that takes no room on the disk; its pages come into the cache when they are first read."""
    with path.open("wb") as file:
        file.truncate(size)


@asynccontextmanager
async def bare_file(file_bytes: int) -> AsyncIterator[int]:
    """What a file can be sent with: a thread per connection, a head, `os.sendfile`, and nothing else."""
    with tempfile.TemporaryDirectory(prefix="oxid-bench-") as place:
        path = Path(place) / FILE
        _big_file(path, file_bytes)
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=_accept_bare, args=(listener, path, file_bytes), daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.close()


def _accept_bare(listener: socket.socket, path: Path, size: int) -> None:
    while True:
        try:
            link, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve_bare, args=(link, path, size), daemon=True).start()


def _serve_bare(link: socket.socket, path: Path, size: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    room = select.poll()
    room.register(link, select.POLLOUT)
    with link, path.open("rb") as file:
        while link.recv(65536):
            link.sendall(head)
            link.setblocking(False)  # a blocking one is woken for every little room, and slower
            at = 0
            while at < size:
                try:
                    at += os.sendfile(link.fileno(), file.fileno(), at, min(PIECE, size - at))
                except BlockingIOError:
                    room.poll()
            link.setblocking(True)


# RPC over HTTP ------------------------------------------------------------------------------------------


class Ports(NamedTuple):
    """Where one process listens."""

    tcp: int
    """RPC over TCP."""
    proxied: int
    """RPC for proxies."""
    web: int
    """The web server with the proxy."""


@asynccontextmanager
async def tunnel(near: bool = True) -> AsyncIterator[Ports]:
    """IBench over TCP and behind an RPC proxy, all in one process as `oxid serve` has it. Without `near` the proxy
    connects as it would to another process."""
    from oxid.world import World

    async with _tunnel(World.real(), near=near) as (ports, _):
        yield ports


@asynccontextmanager
async def tunnel_tcp() -> AsyncIterator[int]:
    """The same process, for calls over TCP."""
    async with tunnel() as ports:
        yield ports.tcp


@asynccontextmanager
async def _tunnel(
    world: World, *, period: float = 120.0, near: bool = True
) -> AsyncIterator[tuple[Ports, RpcProxy]]:
    from oxid.auth import Authenticator, MemoryAccountStore
    from oxid.bench.interfaces import Bench, IBench
    from oxid.iis.isapi.application import ApplicationSettings, AsyncApplication
    from oxid.iis.rpc_proxy.extension import RpcProxy
    from oxid.iis.rpc_proxy.settings import ProxySettings
    from oxid.iis.rpc_proxy.valid_ports import ValidPorts
    from oxid.iis.server import WebServer
    from oxid.iis.settings import (
        Access,
        Auth,
        DirectorySettings,
        HandlerSettings,
        Module,
        ServerSettings,
        SiteSettings,
    )
    from oxid.runtime.server import RpcServer, tunnel_options

    authenticator = Authenticator(MemoryAccountStore({USER: PASSWORD}), world=world)
    async with AsyncExitStack() as stack:
        rpc = RpcServer(world, authenticator=authenticator, tunnel_options=tunnel_options(period))
        stack.push_async_callback(rpc.aclose)
        rpc.register(IBench, Bench())
        tcp = await rpc.listen("127.0.0.1", 0)
        proxied = await rpc.listen("127.0.0.1", 0, protseq="ncacn_http")
        ports = ValidPorts.parse(f"127.0.0.1:{proxied.port}")
        wanted = ProxySettings(valid_ports=ports, allow_plain=True, nearby=near)
        proxy = RpcProxy(world, wanted.scaled(period))
        application = AsyncApplication(
            ApplicationSettings("rpcproxy.dll", pending_warning=float("inf")), proxy, world
        )
        await application.start()
        stack.push_async_callback(application.stop)
        directory = DirectorySettings(
            "/rpc",
            access=Access.EXECUTE,
            auth=Auth.BASIC,
            allow_plain_basic=True,
            modules=(Module("rpcproxy.dll", HandlerSettings("rpcproxy")),),
        )
        settings = ServerSettings(sites=(SiteSettings(directories=(DirectorySettings(), directory)),))
        server = WebServer(world, settings, authenticator=authenticator)
        stack.push_async_callback(server.aclose)
        server.register_handler("rpcproxy", lambda directory, argument: application.begin)
        endpoint = await server.listen("127.0.0.1", 0)
        yield Ports(tcp.port, proxied.port, endpoint.port), proxy


async def watched_tunnel(*, period: float) -> dict[str, Any]:
    """The same for `oxid.bench.http_hold`: every byte on standard input asks what there is now."""
    from oxid.world import World

    world = World.real()
    async with _tunnel(world, period=period) as (ports, proxy):
        say({"port": ports})
        while await told():
            say(_counts(world, proxy))
    return {}


def _counts(world: World, proxy: RpcProxy) -> dict[str, int]:
    live = world.ledger.live()
    return {
        "virtual_connections": live["virtual_connection"],
        "tunnel_channels": live["tunnel_channel"],
        "timers": live["timer"],
        "tasks": len(asyncio.all_tasks()),
        "sent": sum(row["sent"] for row in proxy.sessions() if row["direction"] == "outbound"),  # type: ignore[misc]
    }
