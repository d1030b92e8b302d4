"""A process's connection to its machine's resolver, for as long as the process lives.

    link = ServiceLink(world, path, period=120.0)
    link.add(part)                      what is told anew after every (re)connection
    await link.open()                   once; from then on it reconnects by itself
    await link.aclose()

The resolver may be killed and started again: the process then tells it everything it has there, and nothing is
lost as long as that happens within the time-out of a ping set.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from oxid.com.local_messages import VERSION
from oxid.errors import OxidError, TransportError
from oxid.runtime.local_channel import Handler, LocalChannel, dial
from oxid.world import World

log = logging.getLogger("oxid.com.link")

FIRST_WAIT_S: Final = 0.02
LONGEST_WAIT_S: Final = 1.0
HELLO_S: Final = 10.0
"""For a resolver to answer a process that connects."""


class Part(Protocol):
    """Something that a process has at its resolver."""

    def handlers(self) -> Mapping[str, Handler]:
        """What the resolver may ask it."""
        ...

    async def attach(self, channel: LocalChannel, welcome: Mapping[str, Any]) -> None:
        """A resolver is there, perhaps a new one: tell it everything. Raises OxidError."""
        ...

    def detach(self) -> None:
        """The resolver is gone."""
        ...


class ServiceLink:
    """One connection, made again whenever it is lost."""

    def __init__(
        self,
        world: World,
        path: Path,
        *,
        period: float,
        program: str = "",
        launch: str = "",
        start: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`period` of pings, in seconds, which paces reconnection, too; `launch` is the token of a process that was
        started by its resolver; `start()` starts a resolver where none serves `path`."""
        self.world = world
        self.path = path
        self.period = period
        self.channel: LocalChannel | None = None
        self.welcome: Mapping[str, Any] = {}
        self._program = program or os.path.basename(sys.argv[0] or "python")
        self._launch = launch
        self._identity = world.entropy.token(16).hex()
        self._start = start
        self._parts: list[Part] = []
        self._task: asyncio.Task[None] | None = None
        self._attached = asyncio.Event()
        self._lost = asyncio.Event()
        self._closed = False
        self.lost_at: float | None = None
        """Since when there has been no resolver."""

    def add(self, part: Part) -> None:
        """Let a part hear what the resolver asks; where a resolver is there already, the caller attaches it."""
        self._parts.append(part)
        if self.channel is not None:
            self.channel.handlers = {**self.channel.handlers, **part.handlers()}

    def remove(self, part: Part) -> None:
        self._parts.remove(part)

    @property
    def attached(self) -> bool:
        return self._attached.is_set()

    async def open(self) -> None:
        """Connect for the first time. Raises TransportError where there is no resolver, OxidError where it refuses."""
        await self._connect()
        self.world.ledger.task.enter()
        self._task = asyncio.create_task(self._stay_connected(), name="oxid link")
        self._task.add_done_callback(lambda _: self.world.ledger.task.leave())

    async def when_attached(self) -> LocalChannel:
        """The channel, as soon as there is one."""
        while self.channel is None or not self.attached:
            if self._closed:
                raise TransportError("the link to the resolver is closed")
            await self._attached.wait()
        return self.channel

    async def _connect(self) -> None:
        handlers: dict[str, Handler] = {}
        for part in self._parts:
            handlers.update(part.handlers())
        try:
            channel = await self._dial(handlers)
        except TransportError:
            if self._start is None:
                raise
            await self._start()
            channel = await self._dial(handlers)
        try:
            async with asyncio.timeout(HELLO_S):
                self.welcome = await channel.ask(
                    "hello",
                    version=VERSION,
                    period=self.period,
                    program=self._program,
                    launch=self._launch,
                    link=self._identity,
                )
                for part in list(self._parts):
                    await part.attach(channel, self.welcome)
        except BaseException:
            self._detach()
            await channel.aclose()
            raise
        if channel.lost:
            self._detach()
            raise TransportError("the resolver went away")
        self.channel = channel
        self.lost_at = None
        self._lost.clear()
        channel.on_lost = self._on_lost
        self._attached.set()

    async def _dial(self, handlers: Mapping[str, Handler]) -> LocalChannel:
        return await dial(self.path, handlers, lambda: None, of_user=os.getuid())

    def _on_lost(self) -> None:
        self.channel = None
        self.lost_at = self.world.clock.now()
        self._attached.clear()
        self._detach()
        self._lost.set()

    def _detach(self) -> None:
        for part in self._parts:
            part.detach()

    async def _stay_connected(self) -> None:
        while not self._closed:
            await self._lost.wait()
            log.info("the resolver at %s is gone; looking for it", self.path)
            wait = FIRST_WAIT_S
            while not self.attached:
                try:
                    await self._connect()
                except (OxidError, OSError, TimeoutError) as error:
                    log.debug("no resolver at %s yet: %s", self.path, error)
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, LONGEST_WAIT_S, self.period / 12)

    async def aclose(self) -> None:
        """End the connection: the resolver runs down what this process has there. May be called twice."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.on_lost = lambda: None
            await channel.aclose()
            self._detach()
        self._attached.set()

    def __repr__(self) -> str:
        return f"<ServiceLink {self.path} {'attached' if self.channel is not None else 'alone'}>"
