"""RPyC with its threaded server."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from oxid.bench.meter import threaded


def serve(say_port: Callable[[int], None]) -> None:
    rpyc: Any = importlib.import_module("rpyc")
    threaded_server: Any = importlib.import_module("rpyc.utils.server").ThreadedServer

    class Served(rpyc.Service):  # type: ignore[misc] # the library has no types
        def exposed_null(self) -> None:
            return None

        def exposed_echo(self, data: bytes) -> bytes:
            return data

    server = threaded_server(Served, hostname="127.0.0.1", port=0, backlog=256)
    say_port(server.port)
    server.start()


def load(port: int, seconds: float, *, operation: str, connections: int = 1) -> dict[str, Any]:
    rpyc: Any = importlib.import_module("rpyc")
    data = bytes(100)
    kept = []

    def make_call() -> Callable[[], object]:
        connection = rpyc.connect("127.0.0.1", port)
        kept.append(connection)  # it closes when it is collected
        if operation == "null":
            null: Callable[[], object] = connection.root.null
            return null
        echo = connection.root.echo
        return lambda: echo(data)

    return threaded(make_call, connections, seconds)
