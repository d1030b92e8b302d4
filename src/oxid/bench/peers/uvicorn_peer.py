"""uvicorn with httptools and uvloop, as fast as it goes: no access log. The load is `oxid.bench.http_clients`'s."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Callable
from typing import Any

from oxid.bench.http_extensions import asgi


def serve(say_port: Callable[[int], None]) -> None:
    uvicorn: Any = importlib.import_module("uvicorn")
    config = uvicorn.Config(
        asgi, http="httptools", loop="uvloop", lifespan="off", access_log=False, log_level="error"
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    say_port(listener.getsockname()[1])
    uvicorn.Server(config).run(sockets=[listener])
