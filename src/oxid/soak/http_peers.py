"""The servers behind the proxy of `oxid soak http` that are not the host's own: `python -m oxid.soak.http_peers JSON`

    far_echo   serves Echo to proxies
    closing    the same, and hangs up on everybody again and again: SC-2
    nobody     a port that is taken, and where nobody listens: SC-7
    mute       closes at once
    foreign    has another protocol's banner
    silent     says nothing at all

It prints their ports, and for every line on standard input what is live in it. When its input ends, so does it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from contextlib import AsyncExitStack
from typing import Any, Final

from oxid.bench.process import run
from oxid.runtime.server import RpcServer, tunnel_options
from oxid.samples.echo import Echo, IEcho
from oxid.soak.http_wire import HERE
from oxid.soak.leash import tie
from oxid.world import World

HANG_UP_S: Final = 0.03
BACKLOG: Final = 1024


async def serve(period: float) -> dict[str, Any]:
    """Until standard input ends."""
    world = World.real()
    ports: dict[str, int] = {}
    async with AsyncExitStack() as stack:
        servers = {}
        for name in ("far_echo", "closing"):
            server = servers[name] = RpcServer(world, tunnel_options=tunnel_options(period))
            stack.push_async_callback(server.aclose)
            server.register(IEcho, Echo(), min_level=0)
            ports[name] = (await server.listen(HERE, 0, protseq="ncacn_http")).port
        for name, banner in (("mute", None), ("foreign", b"SSH-2.0-OpenSSH_9.2\r\n"), ("silent", b"")):
            listener = await asyncio.start_server(_answering(banner), HERE, 0, backlog=BACKLOG)
            stack.callback(listener.close)
            ports[name] = listener.sockets[0].getsockname()[1]
        nobody = stack.enter_context(socket.socket())
        nobody.bind((HERE, 0))
        ports["nobody"] = nobody.getsockname()[1]
        hanging_up = asyncio.create_task(_hang_up(servers["closing"]))
        stack.callback(hanging_up.cancel)
        _say(ports)
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(0, "rb"))
        while await reader.readline():
            _say({kind: count for kind, count in world.ledger.live().items() if count})
    return {}


async def _hang_up(server: RpcServer) -> None:
    while True:
        await asyncio.sleep(HANG_UP_S)
        for connection in list(server.connections):
            connection.hang_up()


def _answering(banner: bytes | None) -> Any:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if banner is not None:
                writer.write(banner)
                while await reader.read(4096):
                    pass
        except OSError:
            pass
        finally:
            writer.close()

    return answer


def _say(what: dict[str, int]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def main(words: list[str]) -> None:
    """Serve as the JSON says: `parent`, `period`."""
    told = json.loads(words[0])
    os.setsid()
    tie(told["parent"])
    run(serve(told["period"]))


if __name__ == "__main__":
    main(sys.argv[1:])
