"""Pyro5 with its fastest serializer, msgpack."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from oxid.bench.meter import threaded


def serve(say_port: Callable[[int], None]) -> None:
    api: Any = importlib.import_module("Pyro5.api")
    api.config.SERVERTYPE = "thread"
    api.config.THREADPOOL_SIZE = 100

    @api.expose
    class Served:
        def null(self) -> None:
            return None

        def echo(self, data: bytes) -> bytes:
            return data

    daemon = api.Daemon(host="127.0.0.1", port=0)
    daemon.register(Served(), "bench")
    say_port(daemon.sock.getsockname()[1])
    daemon.requestLoop()


def load(port: int, seconds: float, *, operation: str, connections: int = 1) -> dict[str, Any]:
    api: Any = importlib.import_module("Pyro5.api")
    api.config.SERIALIZER = "msgpack"
    data = bytes(100)

    def make_call() -> Callable[[], object]:
        proxy = api.Proxy(f"PYRO:bench@127.0.0.1:{port}")
        proxy._pyroBind()
        if operation == "null":
            null: Callable[[], object] = proxy.null
            return null
        return lambda: proxy.echo(data)

    return threaded(make_call, connections, seconds)
