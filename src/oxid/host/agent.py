"""The machine's agent without a host: resolver, ping agent and local channel, and nothing that activates.

It is started by the first process that needs it, and ends when no process is connected and no resolver has to be told
of anything any more.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from oxid.auth import Authenticator, FailureLimiter, Keytab, ServerNames
from oxid.com.connections import Connections
from oxid.com.local_messages import credentials_of
from oxid.com.object_server import security_bindings
from oxid.com.options import ClientOptions
from oxid.com.ping_agent import PingAgent
from oxid.com.pinging import Pinger
from oxid.config import Address
from oxid.host.calls import caller
from oxid.host.host import IDLE_S, computer_name
from oxid.rpcss.machine_service import MachineService
from oxid.rpcss.oid_table import PingPolicy
from oxid.runtime.local_channel import open_listener
from oxid.runtime.server import Endpoint, RpcServer
from oxid.world import World

log = logging.getLogger("oxid.agent")

LINGER_PERIODS: Final = 1 / 24
"""How long an agent that was started on demand stays when nobody needs it: a program may follow another at once."""


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How an agent runs."""

    socket: Path
    """Where processes of this machine find it."""
    rpc: tuple[Address, ...] = ()
    """Where its resolver listens; more are opened where callbacks need them."""
    advertise: tuple[str, ...] = ()
    """Names for string bindings; empty for the addresses listened on."""
    on_demand: bool = False
    """End when nobody needs it."""


class MachineAgent:
    """An agent, from `async with` on."""

    def __init__(self, options: AgentOptions, world: World, period: float) -> None:
        self.options = options
        self.world = world
        self._period = period
        self._stack = AsyncExitStack()
        self.unneeded = asyncio.Event()
        self._leaving: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> MachineAgent:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._stay()
        await self._stack.aclose()

    async def _start(self) -> None:
        world, options = self.world, self.options
        pool = Connections(world, ClientOptions(idle_timeout=IDLE_S))
        self._stack.push_async_callback(pool.aclose)
        self.pings = PingAgent(world, Pinger(pool).send)
        self._stack.push_async_callback(self.pings.aclose)
        self.service = MachineService(
            world,
            PingPolicy(self._period),
            self.pings,
            caller=caller,
            security=lambda: security_bindings(self.authenticator),
            names=lambda endpoint: options.advertise or (endpoint.host,),
            listen=self._listen,
        )
        # A socket that is still there is that of an agent that died; its processes live on.
        self.service.resolver.started(world.clock.now(), survivors=options.socket.exists())
        self._stack.push_async_callback(self.service.aclose)
        # Whom the processes of this machine let call their objects may ping them here.
        self.authenticator = Authenticator(
            self.service,
            world=world,
            names=ServerNames(computer=computer_name()),
            limiter=FailureLimiter(),
        )
        self.rpc_server = RpcServer(world, authenticator=self.authenticator)
        self._stack.push_async_callback(self.rpc_server.aclose)
        self.service.register(self.rpc_server)
        for address in options.rpc:
            self.service.listens(await self.rpc_server.listen(address.host, address.port))
        await self._stack.enter_async_context(open_listener(options.socket, self.service.accept))
        if options.on_demand:
            self.service.on_idle = self._leave_soon
            self.pings.on_idle = self.service.check_idle
            self._leave_soon()

    async def _listen(self, host: str, port: int, keytab: Any) -> Endpoint:
        """A process wants servers to find it where this resolver does not listen yet."""
        found = credentials_of(keytab)
        if isinstance(found, Keytab) and self.authenticator.keytab is None:
            self.authenticator.keytab = found
        return await self.rpc_server.listen(host, port)

    def _leave_soon(self) -> None:
        if self._leaving is None:
            self.world.ledger.timer.enter()
            linger = max(self._period * LINGER_PERIODS, 0.2)
            self._leaving = asyncio.get_running_loop().call_later(linger, self._leave)

    def _leave(self) -> None:
        self._leaving = None
        self.world.ledger.timer.leave()
        if not self.service.sessions and self.pings.idle:
            self.unneeded.set()

    def _stay(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
            self.world.ledger.timer.leave()

    def __repr__(self) -> str:
        return f"<MachineAgent {self.service!r}>"


async def run_agent(options: AgentOptions, ready: Callable[[], None], world: World | None = None) -> None:
    """Run an agent until SIGTERM or SIGINT, or until nobody needs it. Raises ConfigurationError."""
    period = ClientOptions.from_environment().ping_period
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with MachineAgent(options, world or World.real(), period) as agent:
        ready()
        waiting = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(agent.unneeded.wait())]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
