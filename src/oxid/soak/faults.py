"""What happens to the clients, their agents and the local servers: kills, stops, partitions, ends and restarts.

One fault after the other, at random moments; those that last (a stop, a partition) go on beside the next ones. The
journal hears of each before it happens.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Final

from oxid.soak import processes
from oxid.soak.crew import Crew
from oxid.soak.journal import Client, Journal
from oxid.soak.relay import Relay
from oxid.soak.stage import MACHINES, Stage

START_PAUSE_S: Final = 0.02
"""Between the starts of two clients: each is a fork, a connection and a first activation."""
KINDS: Final = {"kill": 34, "end": 24, "stop": 18, "server": 10, "agent": 7, "cut": 7}
"""What happens, and how often of a hundred times."""


class FaultDriver:
    """Starts the clients, keeps their number, and does them harm."""

    def __init__(self, stage: Stage, crew: Crew, journal: Journal, relay: Relay) -> None:
        self._stage = stage
        self._crew = crew
        self._journal = journal
        self._relay = relay
        self._chance = random.Random(f"{stage.settings.seed} faults")
        self._over = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._far_is_weak_until = 0.0
        """The far machine has lost its agent, or cannot be reached: one of it at a time."""

    @property
    def pause(self) -> float:
        """Seconds between two faults, on average: a client meets one every thirty periods or so, and more often
        where there are few of them."""
        return self._stage.times.period * max(0.4, 20 / self._stage.settings.clients)

    async def run(self, enough: Callable[[], bool]) -> None:
        """Start all clients, and go on until `enough()`. At the end everything runs, and nothing is cut."""
        self._journal.on_death = self._died
        async with self._tasks:
            for number in range(self._stage.settings.clients):
                self._start(number, 0)
                await asyncio.sleep(START_PAUSE_S)
            try:
                while not enough():
                    await self._wait(self._chance.expovariate(1 / self.pause), enough)
                    if not enough():
                        self._happen()
            finally:
                self._over.set()  # what lasts, ends now

    def _happen(self) -> None:
        client = self._somebody()
        kind = self._chance.choices(list(KINDS), weights=list(KINDS.values()))[0]
        match kind:
            case "kill" if client is not None:
                self._end(client, "kill", signal.SIGKILL)
            case "end" if client is not None:
                self._end(client, "end", signal.SIGTERM)
            case "stop" if client is not None:
                self._beside(self._stop(client))
            case "server":
                self._kill_server()
            case "agent":
                self._kill_agent(self._chance.choice(MACHINES))
            case "cut":
                self._beside(self._cut(self._chance.random()))
            case _:
                return  # nobody is there to suffer it

    def _somebody(self) -> Client | None:
        """A client that is there to suffer."""
        clients = (client for client in self._journal.clients.values() if client.role == "life")
        found = [client for client in clients if client.up and not client.doom and not client.stopped]
        return self._chance.choice(found) if found else None

    # Clients ------------------------------------------------------------------------------------------

    def _start(self, number: int, generation: int) -> None:
        self._journal.started(number, generation, "life")
        self._crew.start(number, generation)

    def _died(self, client: Client) -> None:
        if client.role == "life" and not self._over.is_set():
            self._beside(self._replace(client))

    async def _replace(self, client: Client) -> None:
        await self._wait(self._chance.uniform(0, 2 * self._stage.times.period))
        if not self._over.is_set():
            self._start(client.number, client.generation + 1)

    def _end(self, client: Client, doom: str, number: signal.Signals) -> None:
        self._journal.doomed(client, doom)
        self._crew.signal_client(client.number, number)

    async def _stop(self, client: Client) -> None:
        """Longer than the time-out: its machine's agent pings on for it."""
        seconds = self._stage.times.timeout * self._chance.uniform(1.05, 1.5)
        self._journal.stop_began(client, seconds)
        self._crew.signal_client(client.number, signal.SIGSTOP)
        await self._wait(seconds)
        self._crew.signal_client(client.number, signal.SIGCONT)
        self._journal.stop_ended(client)

    # The others ---------------------------------------------------------------------------------------

    def _kill_server(self) -> None:
        """kill -9 of the local server in which clients have objects."""
        running = self._stage.servers("dynamic")
        if running:
            pid = self._chance.choice(running)
            self._journal.server_killed(pid)
            processes.end(pid, self._stage.token, 0.0)

    def _kill_agent(self, machine: str) -> None:
        """kill -9 of a machine's agent: its clients ping for themselves, and start another one."""
        if machine == "far" and monotonic() < self._far_is_weak_until:
            return
        pid = processes.served_by(self._stage.agent(machine))
        if pid is not None:
            if machine == "far":
                self._far_is_weak_until = monotonic() + 3 * self._stage.times.period
            self._journal.agent_killed(machine)
            processes.end(pid, self._stage.token, 0.0)

    async def _cut(self, part: float) -> None:
        """A partition: calls wait, and the far machine's pings do not arrive. `part`: of the longest there may be."""
        period = self._stage.times.period
        if monotonic() < self._far_is_weak_until:
            return
        seconds = part * self._stage.times.longest_cut(self._relay.longest_silence(period))
        self._far_is_weak_until = monotonic() + seconds + 3 * period
        self._journal.cut_began(seconds)
        self._relay.cut()
        await self._wait(seconds)
        self._relay.mend()
        self._journal.cut_ended()

    # Time ---------------------------------------------------------------------------------------------

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something go on beside what comes next."""
        self._tasks.create_task(work)

    async def _wait(self, seconds: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Until then, or until the faults are over."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0 and not self._over.is_set() and not enough():
            try:
                async with asyncio.timeout(min(left, 0.2)):
                    await self._over.wait()
            except TimeoutError:
                pass
