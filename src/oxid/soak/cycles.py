"""Q292041, again and again: activate what serves on a static endpoint, call it, let go, and see its process end.

A cycle is one process of the local server, from its start to its end. Most end because their last object is
released. Every so often the object is abandoned instead, so that the collector frees it, and every so often the server
is killed while its object lives. The next activation comes at a random moment around the end of the process: it
meets a server that is just ending, one that the collector is about to free, or none.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic
from typing import Any, Final

from oxid.com.machine import Machine, connect
from oxid.com.references import addresses_of
from oxid.errors import OxidError
from oxid.rpc.interface import spec_of
from oxid.soak import processes
from oxid.soak.checks import Checks
from oxid.soak.crew import Crew
from oxid.soak.journal import Journal
from oxid.soak.resident import APP_STATIC, CLSID_STATIC, IResident
from oxid.soak.settings import ALLOWANCE_S
from oxid.soak.stage import HERE, USER, Stage

ABANDON_EVERY: Final = 20
KILL_EVERY: Final = 25
ROWS_EVERY: Final = 100
AT_ONCE: Final = 0.4
"""How often the next activation does not wait for the end of the server."""
ACTIVATION_S: Final = 30.0
"""An activation with the start of a process, on a busy machine."""
CRASH_S: Final = 10.0
"""For a call to a server that was killed to fail."""
EXIT_S: Final = 10.0
"""For a server without objects to be gone, on a busy machine."""


class Cycles:
    """Makes cycles until it is told to stop; `made` says how many there were."""

    def __init__(self, stage: Stage, checks: Checks, journal: Journal, crew: Crew) -> None:
        self._stage = stage
        self._checks = checks
        self._journal = journal
        self._crew = crew
        self._chance = random.Random(f"{stage.settings.seed} cycles")
        self.made = 0
        """Processes of the local server that have ended."""
        self.activations = 0
        self.abandoned = 0
        self.killed = 0
        self._abandoner = stage.settings.clients
        """The number of the clients that abandon."""
        self._collected_by = 0.0
        """By then nothing is left of what was abandoned last."""
        self._server = ExitStack()
        self._running: tuple[int, int] | None = None
        """The server that was last heard of: process, and the descriptor that names it."""

    async def run(self, enough: Callable[[], bool]) -> None:
        """Go on until `enough()`; the last server has ended then."""
        try:
            while not enough():
                number = self.activations + 1
                if number % ABANDON_EVERY == 0:
                    await self._abandon()
                elif number % KILL_EVERY == 0:
                    await self._crash()
                else:
                    await self._cycle()
            await self._see_it_end()
        finally:
            self._server.close()

    # Three ways to end --------------------------------------------------------------------------------

    async def _cycle(self) -> None:
        """The usual one."""
        async with self._machine() as machine:
            proxy = await self._activate(machine)
            if proxy is None:
                return
            if self.activations % ROWS_EVERY in (1, 2):  # the first of a process, or soon behind it
                await self._look_at_rows(1)
            await proxy.release()
        if self._chance.random() < AT_ONCE:
            await asyncio.sleep(self._chance.uniform(0, 0.06))
        elif await self._see_it_end() and self.made % ROWS_EVERY < 2:
            await self._look_at_rows(0)

    async def _crash(self) -> None:
        """A3: kill -9 while the object lives. The next activation gets another server, at the same port."""
        async with self._machine() as machine:
            proxy = await self._activate(machine)
            if proxy is None or self._running is None:
                return
            signal.pidfd_send_signal(self._running[1], signal.SIGKILL)
            self.killed += 1
            began = monotonic()
            try:
                async with asyncio.timeout(CRASH_S):
                    await proxy.process()
                self._checks.broken("crash", "a call to a server that was killed has succeeded")
            except OxidError:
                self._checks.held("crash")
            except TimeoutError:
                waited = monotonic() - began
                self._checks.broken("crash", f"a call to a server that was killed hung for {waited:.1f} s")
            await proxy.release()
        await self._see_it_end()

    async def _abandon(self) -> None:
        """A2: nobody releases the object. Its client never pinged, or pinged until it was killed."""
        self.abandoned += 1
        if self._chance.random() < 0.5:
            await self._abandon_unpinged()
        else:
            await self._abandon_pinged()
        times = self._stage.times
        if self._chance.random() < 0.5:
            await self._see_it_end()
        else:  # come just when the collector does
            await asyncio.sleep(self._chance.uniform(times.timeout - times.period, times.gone))

    async def _abandon_unpinged(self) -> None:
        """Activate, and forget what came: its references are nobody's, its connection is closed."""
        async with self._machine() as machine:
            try:
                async with asyncio.timeout(ACTIVATION_S):
                    await machine.activate_raw(CLSID_STATIC, [spec_of(IResident).uuid])
            except (OxidError, TimeoutError) as error:
                await self._failed(error)
                return
            self._collected_by = monotonic() + self._stage.times.gone + ALLOWANCE_S
            proxy = await self._activate(machine)  # says which process it is
            if proxy is not None:
                await proxy.release()

    async def _abandon_pinged(self) -> None:
        """A client process holds an object, pings for it itself, and is killed."""
        client = self._journal.started(self._abandoner, self.abandoned, "abandon")
        self._crew.start(client.number, client.generation, client.role)
        until = monotonic() + ACTIVATION_S
        while not client.server and not client.failed and monotonic() < until:
            await asyncio.sleep(0.02)
        if client.server:
            self.activations += 1
            await self._serves(client.server)
        await asyncio.sleep(self._chance.uniform(0, 2 * self._stage.times.period))
        self._collected_by = monotonic() + self._stage.times.gone + ALLOWANCE_S
        self._journal.doomed(client, "kill")
        self._crew.signal_client(client.number, signal.SIGKILL)

    # What is looked at --------------------------------------------------------------------------------

    def _machine(self) -> Any:
        """A client of its own for each cycle: no connection is kept open, and none is found open."""
        who = USER if self._chance.random() < 0.5 else None
        return connect(HERE, who, options=self._stage.options(agent="own"), probe=False)

    async def _activate(self, machine: Machine) -> Any:
        """Activate, call, and look at what serves; None where that failed, which is told."""
        try:
            async with asyncio.timeout(ACTIVATION_S):
                proxy: Any = await machine.activate(CLSID_STATIC, IResident)
                pid = await proxy.process()
        except (OxidError, OSError, TimeoutError) as error:
            await self._failed(error)
            return None
        self.activations += 1
        self._checks.held("activate")
        addresses = [e.address for e in machine.exporters() if e.oxid == proxy.oxid and e.address is not None]
        ports = {port for address in addresses for _, port in addresses_of(address.bindings)}
        self._checks.check(
            "port", [f"it is served from {ports}"] if ports != {self._stage.static_port} else []
        )
        await self._serves(pid)
        return proxy

    async def _failed(self, error: Exception) -> None:
        self._checks.broken("activate", f"activation {self.activations + 1}: {type(error).__name__}: {error}")
        await asyncio.sleep(1.0)

    async def _serves(self, pid: int) -> None:
        """An object lives in this process: any that was there before must have ended."""
        if (
            self._running is not None
            and self._running[0] == pid
            and not processes.has_ended(self._running[1])
        ):
            return
        await self._see_it_end()
        try:
            self._running = pid, self._server.enter_context(processes.watched(pid))
        except ProcessLookupError:
            self._checks.broken("exit", f"server {pid} has ended, and its object was not released")

    async def _see_it_end(self) -> bool:
        """Wait until the server is gone; whether there was one, and it is."""
        if self._running is None:
            return False
        pid, descriptor = self._running
        within = max(self._collected_by - monotonic(), 0.0) + EXIT_S
        ended = await asyncio.to_thread(processes.has_ended, descriptor, within)
        self._running = None
        self._server.close()
        if ended:
            self.made += 1
            self._checks.held("exit")
        else:
            self._checks.broken(
                "exit", f"server {pid} has nothing to serve, and lives on after {within:.0f} s"
            )
        return ended

    async def _look_at_rows(self, wanted: int) -> None:
        """While it serves there is one row, with the static port; where it has ended, none, once that is heard of."""
        expected = [str(self._stage.static_port)] * wanted
        until = monotonic() + (0.0 if wanted else ALLOWANCE_S)
        while (rows := await self._stage.rows(APP_STATIC)) != expected and monotonic() < until:
            if len(rows) > 1:
                break
            await asyncio.sleep(0.05)
        self._checks.check("row", [f"{rows} where {expected} was expected"] if rows != expected else [])
