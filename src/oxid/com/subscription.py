"""Events: the client's side of connection points.

    async with ticker.subscribe(ITickerSink, handler) as subscription: ...

`handler` is an object with the sink's methods, plain or `async def`, or a function where the sink has one method.
Its calls come one at a time, in the order of the events.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, cast

from oxid.com.way_back import Arrivals, diagnose
from oxid.errors import ConfigurationError, OxidError
from oxid.interfaces.connection_point import IConnectionPoint, IConnectionPointContainer
from oxid.rpc.interface import OperationSpec, spec_of

if TYPE_CHECKING:
    from oxid.com.machine import Machine

log = logging.getLogger("oxid.com.events")


class Subscription:
    """A sink that is connected from `async with` until its end."""

    def __init__(self, proxy: Any, interface: type[Any], handler: Any) -> None:
        self._proxy = proxy
        self._interface = interface
        self.sink = make_sink(interface, handler)
        """The object that the server calls."""
        self.cookie = 0
        """What the server gave for it."""
        self._point: Any = None

    async def __aenter__(self) -> Self:
        """Connect. Raises CallbackFailed where the server cannot call back, with the reason; NoSuchInterface for an
        object without events, StatusError as the server says."""
        machine = self._machine
        container = await self._proxy.query(IConnectionPointContainer)
        try:
            point = await container.find_connection_point(spec_of(self._interface).uuid)
        finally:
            await container.release()
        self._point = cast("IConnectionPoint", point)
        try:
            exporter = before = None
            if machine is not None:
                await machine.open_exporter()
                exporter = machine.callback_exporter()
                before = Arrivals.of(exporter) if exporter is not None else None
            try:
                self.cookie = await self._point.advise(self.sink)
            except OxidError as error:
                found = await diagnose(error, exporter, before)
                if found is error:
                    raise
                raise found from error
        except BaseException:
            self._disconnect()
            await self._point.release()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Tell the server, in bounded time; no event is delivered from here on."""
        self._disconnect()
        try:
            await self._point.unadvise(self.cookie)
        except (OxidError, OSError, TimeoutError) as error:
            log.debug("the server was not told that a sink is gone: %s", error)
        finally:
            await self._point.release()

    @property
    def _machine(self) -> Machine | None:
        """Where the object lives; None for one of this process."""
        channel = getattr(self._proxy, "_channel", None)
        return None if channel is None else channel.machine

    def _disconnect(self) -> None:
        machine = self._machine
        exporter = None if machine is None else machine.exporter
        if exporter is not None:
            exporter.table.disconnect(self.sink, "its subscription ended")

    def __repr__(self) -> str:
        return f"<Subscription {spec_of(self._interface).name} cookie {self.cookie}>"


def make_sink(interface: type[Any], handler: Any) -> Any:
    """An object of a sink interface that passes its calls on to `handler`.

    Raises ConfigurationError where the handler lacks a method of the interface.
    """
    spec = spec_of(interface)
    operations = [operation for opnum, operation in spec.operations.items() if opnum >= 3]
    own = {
        operation.method: _target(handler, operation, alone=len(operations) == 1) for operation in operations
    }
    missing = [name for name, function in own.items() if function is None]
    if missing:
        raise ConfigurationError(f"the handler has no method {', '.join(missing)} of {spec.name}")
    body = {name: _method(cast("Callable[..., Any]", function)) for name, function in own.items()}
    cls: Any = type(f"{spec.name}Sink", (interface,), {**body, "__hash__": object.__hash__})
    return cls()


def _target(handler: Any, operation: OperationSpec, *, alone: bool) -> Callable[..., Any] | None:
    found: Callable[..., Any] | None = getattr(handler, operation.method, None)
    if found is None and alone and callable(handler):
        found = handler
    return found


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        async def call_async(self: Any, *arguments: Any) -> Any:
            return await function(*arguments)

        return call_async

    def call(self: Any, *arguments: Any) -> Any:
        return function(*arguments)

    return call
