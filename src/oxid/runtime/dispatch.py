"""From an interface declaration and an object to what answers its calls.

    handler = handler_for(spec_of(IEcho), Echo(), threads)      goes into RpcServer.register
    current_call().principal                                    inside a method: who calls

A plain `def` method runs in the data callback, an `async def` one in a task, a plain one marked `@blocking`
(or whose operation is declared so) in a thread.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any, Final, TypeVar

from oxid.errors import LocalProtocolError, fault
from oxid.ndr.syntax import Syntax
from oxid.rpc.calls import ServerCall
from oxid.rpc.interface import InterfaceSpec, OperationSpec
from oxid.values import status as s

F = TypeVar("F", bound=Callable[..., Any])
Handler = Callable[[ServerCall], Any]

_current: ContextVar[ServerCall | None] = ContextVar("oxid_rpc_call", default=None)
_set: Final = _current.set


def current_call() -> ServerCall:
    """The call being answered. Raises LocalProtocolError outside of one."""
    call = _current.get()
    if call is None:
        raise LocalProtocolError("no RPC call is being answered here")
    return call


current_call_or_none: Final = _current.get
"""The call being answered, or None: `current_call_or_none()`."""

set_current_call: Final = _set
"""For handlers that are not made by `handler_for`: what `current_call` returns from now on."""


def blocking(method: F) -> F:
    """Mark a plain method that waits (for disks, databases, other libraries): it runs in a thread."""
    method.__oxid_blocking__ = True  # type: ignore[attr-defined]
    return method


class Threads:
    """The threads of one server for methods that block; made at the first one."""

    __slots__ = ("_most", "_pool")

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[], Any]) -> Any:
        """Run `work` in a thread, in the caller's context. A thread cannot be cancelled: its end is awaited."""
        pool = self._pool
        if pool is None:
            pool = self._pool = ThreadPoolExecutor(self._most, thread_name_prefix="oxid-blocking")
        future = asyncio.get_running_loop().run_in_executor(pool, copy_context().run, work)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait({future})
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None and future.exception() is None:
            raise cancelled
        return future.result()

    def close(self) -> None:
        """Let the threads end; all work must be done."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)


def may_wait(method: F) -> F:
    """Mark a plain method of an RPC interface that mostly answers at once, and returns a coroutine where not."""
    method.__oxid_may_wait__ = True  # type: ignore[attr-defined]
    return method


PLAIN: Final = 0
ASYNC: Final = 1
THREAD: Final = 2
EITHER: Final = 3


def kind_of(method: Any, operation: OperationSpec | None = None) -> int:
    """How a method is run: PLAIN, ASYNC, THREAD, or EITHER of the first two."""
    if inspect.iscoroutinefunction(method):
        return ASYNC
    if getattr(method, "__oxid_may_wait__", False):
        return EITHER
    if getattr(method, "__oxid_blocking__", False) or (operation is not None and operation.blocking):
        return THREAD
    return PLAIN


def positional(method: Any, operation: OperationSpec) -> Callable[..., Any]:
    """The method, callable with its arguments in the order of the declaration."""
    names = tuple(param.name for param in operation.in_params)
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return method  # type: ignore[no-any-return]
    if not any(p.kind is p.KEYWORD_ONLY for p in parameters):
        return method  # type: ignore[no-any-return]
    if inspect.iscoroutinefunction(method):

        async def call_async(*arguments: Any) -> Any:
            return await method(**dict(zip(names, arguments, strict=True)))

        return call_async

    def call(*arguments: Any) -> Any:
        return method(**dict(zip(names, arguments, strict=True)))

    return call


def handler_for(spec: InterfaceSpec, implementation: object, threads: Threads) -> Handler:
    """What answers the calls of an interface with the methods of an object.

    A declared operation that the object does not have is answered like one that does not exist.
    """
    little: dict[int, tuple[Any, Any, Any, int]] = {}
    others: dict[Syntax, dict[int, tuple[Any, Any, Any, int]]] = {}

    def entry_for(call: ServerCall, table: dict[int, tuple[Any, Any, Any, int]]) -> tuple[Any, Any, Any, int]:
        operation = spec.operations.get(call.opnum)
        method = None if operation is None else getattr(implementation, operation.method, None)
        if operation is None or method is None:
            raise fault(s.NCA_S_OP_RNG_ERROR, f"{spec.name} has no operation {call.opnum}", executed=False)
        decode = operation.codec(call.syntax).decode_request
        encode = operation.codec(call.reply_syntax).encode_reply
        entry = decode, encode, positional(method, operation), kind_of(method, operation)
        table[call.opnum] = entry
        return entry

    async def run(call: ServerCall, method: Any, arguments: tuple[Any, ...], encode: Any) -> bytearray:
        _set(call)
        result = await method(*arguments)
        out = bytearray(24)
        encode(out, None, arguments, result)
        return out

    async def finish(call: ServerCall, result: Any, arguments: tuple[Any, ...], encode: Any) -> bytearray:
        _set(call)
        out = bytearray(24)
        encode(out, None, arguments, await result)
        return out

    async def run_in_thread(
        call: ServerCall, method: Any, arguments: tuple[Any, ...], encode: Any
    ) -> bytearray:
        _set(call)
        result = await threads.run(lambda: method(*arguments))
        out = bytearray(24)
        encode(out, None, arguments, result)
        return out

    def handler(call: ServerCall) -> bytearray | Coroutine[Any, Any, bytearray]:
        syntax = call.syntax
        table = little if syntax is Syntax.NDR20_LE else others.setdefault(syntax, {})
        entry = table.get(call.opnum)
        if entry is None:
            entry = entry_for(call, table)
        decode, encode, method, kind = entry
        arguments = decode(call.stub, 0, None)
        if kind == PLAIN:
            _set(call)
            try:
                result = method(*arguments)
            finally:
                _set(None)
            out = bytearray(24)
            encode(out, None, arguments, result)
            return out
        if kind == ASYNC:
            return run(call, method, arguments, encode)
        if kind == EITHER:
            _set(call)
            try:
                result = method(*arguments)
            finally:
                _set(None)
            if inspect.iscoroutine(result):
                return finish(call, result, arguments, encode)
            out = bytearray(24)
            encode(out, None, arguments, result)
            return out
        return run_in_thread(call, method, arguments, encode)

    return handler
