"""gRPC with protobuf's own message types: the blocking API for one client, the asyncio API for many."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from oxid.bench.meter import threaded

_OPTIONS: Final = [("grpc.use_local_subchannel_pool", 1)]


def _types() -> tuple[Any, Any, Any]:
    empty: Any = importlib.import_module("google.protobuf.empty_pb2").Empty
    wrapped: Any = importlib.import_module("google.protobuf.wrappers_pb2").BytesValue
    return importlib.import_module("grpc"), empty, wrapped


def _handler(grpc: Any, empty: Any, wrapped: Any, *, coroutines: bool) -> Any:
    nothing = empty()
    if coroutines:

        async def null(request: Any, context: Any) -> Any:
            return nothing

        async def echo(request: Any, context: Any) -> Any:
            return wrapped(value=request.value)
    else:

        def null(request: Any, context: Any) -> Any:  # type: ignore[misc] # the other kind
            return nothing

        def echo(request: Any, context: Any) -> Any:  # type: ignore[misc]
            return wrapped(value=request.value)

    def row(function: Any, kind: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(function, kind.FromString, kind.SerializeToString)

    return grpc.method_handlers_generic_handler(
        "Bench", {"Null": row(null, empty), "Echo": row(echo, wrapped)}
    )


def serve(say_port: Callable[[int], None], *, coroutines: bool = False) -> None:
    grpc, empty, wrapped = _types()
    handler = _handler(grpc, empty, wrapped, coroutines=coroutines)
    if not coroutines:
        server = grpc.server(ThreadPoolExecutor(8))
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        say_port(port)
        threading.Event().wait()
        return

    async def story() -> None:
        server = importlib.import_module("grpc.aio").server()
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        say_port(port)
        await server.wait_for_termination()

    asyncio.run(story())


def load(
    port: int, seconds: float, *, operation: str, connections: int = 1, coroutines: bool = False
) -> dict[str, Any]:
    grpc, empty, wrapped = _types()
    name, kind = ("Null", empty) if operation == "null" else ("Echo", wrapped)
    request = empty() if operation == "null" else wrapped(value=bytes(100))

    def method(channel: Any) -> Any:
        return channel.unary_unary(f"/Bench/{name}", kind.SerializeToString, kind.FromString)

    if coroutines:
        from oxid.bench.clients import load as load_all

        async def story() -> dict[str, Any]:
            aio: Any = importlib.import_module("grpc.aio")
            made = [aio.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) for _ in range(connections)]
            callables = [method(channel) for channel in made]
            for call in callables:
                await call(request)
            return await load_all([partial(call, request) for call in callables], seconds)

        return asyncio.run(story())

    def make_call() -> Callable[[], object]:
        call = method(grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS))
        call(request)
        return lambda: call(request)

    return threaded(make_call, connections, seconds)
