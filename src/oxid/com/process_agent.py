"""Who pings for this process: its machine's agent, or the process itself where there is none.

    async with process_agent(world, options) as agent:      shared by all Machines of a loop
        agent.hold(target, oid) / agent.let_go(target, oid)

A process begins by itself. When the first ping is due and something is still held, the machine's agent takes over:
one that runs, or one that is started then. So commands that live for a moment never start one, and two processes
of a machine that hold for longer share one set and one ping. An object moves only after the agent has told the
resolver of it: there is no moment in which nobody holds it. When the agent dies the process pings again by itself
until another one is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

from oxid.com.agent_process import agent_socket, start_agent
from oxid.com.callback_exporter import CallbackExporter
from oxid.com.channel_link import ChannelLinks
from oxid.com.connections import Connections
from oxid.com.exporter import Exporter
from oxid.com.local_messages import blanket_to_json, target_to_json
from oxid.com.options import Blanket, CallbackOptions, ClientOptions
from oxid.com.ping_agent import Listener, PingAgent, PingTarget
from oxid.com.pinging import Pinger
from oxid.com.service_link import ServiceLink
from oxid.errors import ConfigurationError, NotSupported, OxidError, TransportError
from oxid.runtime.local_channel import Handler, LocalChannel
from oxid.world import SystemClock, World

log = logging.getLogger("oxid.com.agent")


class ProcessAgent:
    """What the Machines of one loop hold elsewhere, and who keeps it alive."""

    def __init__(self, world: World, options: ClientOptions) -> None:
        self._world = world
        self._options = options
        self._pool = Connections(world, options)
        self._own = PingAgent(world, Pinger(self._pool).send)
        self._own.listeners.add(self._dead)
        self.listeners: set[Listener] = set()
        self._held: dict[PingTarget, dict[int, int]] = {}
        self._held_here: dict[PingTarget, set[int]] = {}
        """What this process itself has in its ping sets."""
        self._learned: dict[PingTarget, list[Blanket]] = {}
        self._numbers: dict[PingTarget, int] = {}
        self._targets: dict[int, PingTarget] = {}
        self._next_number = 1
        self._channel: LocalChannel | None = None
        self._link: ServiceLink | None = None
        self._owns_link = True
        self._joining: asyncio.Task[None] | None = None
        self._handing_over: asyncio.Task[None] | None = None
        self._exporters: dict[CallbackOptions, CallbackExporter] = {}
        self._links: ChannelLinks | None = None
        self._closed = False

    # What is held -------------------------------------------------------------------------------------

    def hold(self, target: PingTarget, oid: int) -> None:
        """Keep an object alive until as many `let_go`. Never waits."""
        if self._closed:
            return
        oids = self._held.setdefault(target, {})
        oids[oid] = oids.get(oid, 0) + 1
        # Told again for one that is held: whoever has a new reference knows that the object lives.
        if self._channel is None:
            self._hold_here(target, oid)
            if self._joining is None and self._may_join:
                self._join_later()
        else:
            self._channel.tell("hold", target=self._number(target, self._channel), oids=[oid])

    def let_go(self, target: PingTarget, oid: int) -> None:
        """End one `hold`."""
        oids = self._held.get(target)
        count = 0 if oids is None else oids.get(oid, 0)
        if oids is None or not count:
            return
        if count > 1:
            oids[oid] = count - 1
            return
        del oids[oid]
        self._let_go_here(target, oid)
        if self._channel is not None:
            self._channel.tell("let_go", target=self._number(target, self._channel), oids=[oid])
        if not oids:
            del self._held[target]
            self._learned.pop(target, None)
            number = self._numbers.pop(target, None)
            if number is not None:
                del self._targets[number]
                if self._channel is not None:
                    self._channel.tell("forget", target=number)

    def _hold_here(self, target: PingTarget, oid: int) -> None:
        mine = self._held_here.setdefault(target, set())
        self._own.hold(target, oid)
        if oid in mine:
            self._own.let_go(target, oid)
        mine.add(oid)

    def _let_go_here(self, target: PingTarget, oid: int) -> None:
        mine = self._held_here.get(target)
        if mine is not None and oid in mine:
            mine.discard(oid)
            self._own.let_go(target, oid)
            if not mine:
                del self._held_here[target]

    def object_gone(self, target: PingTarget, oid: int) -> None:
        """A call found an object dead."""
        if self._channel is None:
            self._own.object_gone(target, oid)
        elif target in self._numbers:
            self._channel.tell("gone", target=self._numbers[target], oids=[oid])

    def suspect(self, target: PingTarget, oids: Iterable[int]) -> None:
        """The exporter of these may be gone."""
        if self._channel is None:
            self._own.suspect(target, oids)
        elif target in self._numbers:
            self._channel.tell("suspect", target=self._numbers[target], oids=list(oids))

    def learn(self, target: PingTarget, identity: Blanket) -> None:
        """An identity with which calls to these objects were accepted."""
        learned = self._learned.setdefault(target, [])
        if identity in learned or target not in self._held:
            return
        learned.append(identity)
        if self._channel is None:
            self._own.learn(target, identity)
        elif target in self._numbers:
            self._channel.tell("learn", target=self._numbers[target], identity=blanket_to_json(identity))

    async def say_goodbye(self, target: PingTarget, limit: float) -> None:
        """Tell a resolver at once what was let go, where this process does that itself.

        The machine's agent does it at its next tick: nobody has to wait for it.
        """
        await self._own.say_goodbye(target, limit)

    def _dead(self, target: PingTarget, oids: list[int]) -> None:
        for listener in list(self.listeners):
            listener(target, oids)

    # The machine's agent ------------------------------------------------------------------------------

    @property
    def _may_join(self) -> bool:
        # Invented time is known to nobody outside, unless somebody sees to that.
        agent = self._options.agent
        if self._options.proxy is not None:
            return False  # the way through a proxy, and who we are to it, are ours
        return agent == "machine" or (agent == "auto" and isinstance(self._world.clock, SystemClock))

    def _join_later(self) -> None:
        self._world.ledger.task.enter()
        self._joining = asyncio.create_task(self._join(), name="oxid agent")
        self._joining.add_done_callback(self._joined)

    def _joined(self, task: asyncio.Task[None]) -> None:
        self._world.ledger.task.leave()
        self._joining = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("joining the machine's agent failed", exc_info=error)

    async def _join(self) -> None:
        """Wait until something has been held for a while, then let the machine's agent hold it."""
        if self._options.agent == "auto":
            # Before the own agent's first tick, wherever in the period that comes.
            await asyncio.sleep(min(self._options.ping_period / 60, 2.0))
        if not self._held:
            return
        try:
            await self.link()
        except (ConfigurationError, TransportError, OSError, TimeoutError) as error:
            log.info("no agent on this machine, this process pings for itself: %s", error)
            await asyncio.sleep(self._options.ping_period)

    async def link(self) -> ServiceLink:
        """The link to the machine's agent, which is started where none runs.

        Raises ConfigurationError, TransportError where there can be none.
        """
        link = self._link
        if link is None:
            told = self._options.agent_socket
            path = Path(told) if told else agent_socket()
            # An agent of its own accord lives in real time.
            starts = isinstance(self._world.clock, SystemClock)
            link = ServiceLink(
                self._world,
                path,
                period=self._options.ping_period,
                start=(lambda: start_agent(path, self._options.ping_period)) if starts else None,
            )
            link.add(self)
            self._link = link
            try:
                await link.open()
            except BaseException:
                self._link = None
                await link.aclose()
                raise
        await link.when_attached()
        return link

    async def use(self, link: ServiceLink) -> None:
        """Let the resolver behind a link that is open already hold everything. Raises OxidError."""
        self._link, self._owns_link = link, False
        link.add(self)
        await self.attach(await link.when_attached(), link.welcome)

    def handlers(self) -> Mapping[str, Handler]:
        return {"dead": self._hear_of_dead}

    async def attach(self, channel: LocalChannel, welcome: Mapping[str, Any]) -> None:
        """Tell an agent what is held. The own sets go on until the agent has told the resolvers."""
        self._numbers.clear()
        self._targets.clear()
        moving = {target: list(oids) for target, oids in self._held.items()}
        for target, oids in moving.items():
            number = self._number(target, channel)
            channel.tell("hold", target=number, oids=oids)
            for identity in self._learned.get(target, ()):
                channel.tell("learn", target=number, identity=blanket_to_json(identity))
        self._channel = channel
        self._world.ledger.task.enter()
        task = asyncio.create_task(self._hand_over(channel, moving), name="oxid agent")
        task.add_done_callback(lambda _: self._world.ledger.task.leave())
        self._handing_over = task

    async def _hand_over(self, channel: LocalChannel, moving: dict[PingTarget, list[int]]) -> None:
        """Let go here what the agent holds now; until then both do."""
        for target, oids in moving.items():
            while True:
                try:
                    answer = await channel.ask("told", target=self._numbers.get(target, 0))
                except OxidError:
                    return  # this agent is gone; `detach` has taken everything back
                if answer.get("told"):
                    break
                await asyncio.sleep(self._options.ping_period / 4)
            for oid in oids:
                self._let_go_here(target, oid)

    def detach(self) -> None:
        """The agent is gone: ping by ourselves, beginning now."""
        if self._channel is None:
            return
        self._channel = None
        if self._handing_over is not None:
            self._handing_over.cancel()
            self._handing_over = None
        if self._closed:
            return
        for target, held in self._held.items():
            for oid in held:
                self._hold_here(target, oid)
            for identity in self._learned.get(target, ()):
                self._own.learn(target, identity)

    def _number(self, target: PingTarget, channel: LocalChannel) -> int:
        number = self._numbers.get(target)
        if number is None:
            number = self._numbers[target] = self._next_number
            self._next_number += 1
            self._targets[number] = target
            channel.tell("target", number=number, **target_to_json(target))
        return number

    def _hear_of_dead(self, target: int, oids: list[int]) -> None:
        found = self._targets.get(target)
        if found is not None:
            self._dead(found, oids)

    # The end ------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Stop; what is still held is let go by the machine's agent, or forgotten."""
        self._closed = True
        tasks = [task for task in (self._joining, self._handing_over) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for exporter in self._exporters.values():
            await exporter.aclose()
        self._exporters.clear()
        if self._link is not None and self._owns_link:
            await self._link.aclose()
        elif self._link is not None:
            self._link.remove(self)
            self._tell_all_let_go()
        await self._own.aclose()
        await self._pool.aclose()
        self._held.clear()

    def _tell_all_let_go(self) -> None:
        """The link lives on: what this agent held ends here."""
        if self._channel is not None:
            for number in self._targets:
                self._channel.tell("forget", target=number)
            self._channel = None

    # Objects of this process --------------------------------------------------------------------------

    async def open_exporter(self, callbacks: CallbackOptions, address: str) -> Exporter:
        """The exporter of this process for callbacks, reachable at one of our addresses. Raises OxidError."""
        found = self._exporters.get(callbacks)
        if found is None:
            if self._options.proxy is not None:
                raise NotSupported(
                    "servers cannot call back through an RPC proxy: pass objects over a connection without one"
                )
            if not self._may_join:
                raise NotSupported(
                    "objects of this process can be passed to servers through the machine's agent, which this "
                    "process does not use (agent='own'), or with host.connect() of an oxid.Host"
                )
            link = await self.link()
            if self._links is None:
                self._links = ChannelLinks(link)
                link.add(self._links)
            found = CallbackExporter(self._world, callbacks, link, self._links)
            self._exporters[callbacks] = found
        return (await found.open(address)).exporter

    def callback_exporter(self, callbacks: CallbackOptions) -> CallbackExporter | None:
        """The exporter, where one is open: for whoever wants to know why nobody calls."""
        return self._exporters.get(callbacks)

    def __repr__(self) -> str:
        who = "the machine's agent" if self._channel is not None else "this process"
        return f"<ProcessAgent {sum(map(len, self._held.values()))} objects, pinged by {who}>"


class _Shared:
    __slots__ = ("agent", "users")

    def __init__(self, agent: ProcessAgent) -> None:
        self.agent = agent
        self.users = 0


_agents: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, _Shared]]] = WeakKeyDictionary()


@asynccontextmanager
async def process_agent(world: World, options: ClientOptions) -> AsyncIterator[ProcessAgent]:
    """The agent of the running loop, started by its first user and ended with its last."""
    of_loop = _agents.setdefault(asyncio.get_running_loop(), {})
    key = world, options.ping_period, options.agent, options.agent_socket, options.proxy
    shared = of_loop.get(key)
    if shared is None:
        shared = of_loop[key] = _Shared(ProcessAgent(world, options))
    shared.users += 1
    try:
        yield shared.agent
    finally:
        shared.users -= 1
        if not shared.users:
            del of_loop[key]
            await shared.agent.aclose()
