"""The driver's hold on the client processes of `oxid soak http`.

async with Crew(stage, checks) as crew:
    await crew.warm_up()          every act once, and what needs many at once
    crew.go()                     all clients act until …
    await crew.rest()             … every one has ended what it was at
"""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections import Counter
from typing import Any, Final, Self

from oxid.bench.rounds import BenchFailed
from oxid.soak.checks import Checks
from oxid.soak.http_client import ACT_S, BOUNDS_MS
from oxid.soak.http_stage import HttpStage, client_words, interpreter

UP_S: Final = 30.0
END_S: Final = 5.0
LINE: Final = 1 << 20


class Crew:
    """Owns the processes; leaving the block ends them."""

    def __init__(self, stage: HttpStage, checks: Checks) -> None:
        self._stage = stage
        self._checks = checks
        self._processes: list[Process] = []
        self._listening: list[asyncio.Task[None]] = []
        self._up = 0
        self._quiet = 0
        self._heard = asyncio.Event()
        self._ending = False
        self.counts: Counter[str] = Counter()
        """sessions, calls, pages, answers, recycled, idled"""
        self.acts: Counter[str] = Counter()
        self.setups = [0] * (len(BOUNDS_MS) + 1)

    async def __aenter__(self) -> Self:
        for part in self._stage.parts():
            process = await asyncio.create_subprocess_exec(
                interpreter(),
                *client_words(part),
                stdin=PIPE,
                stdout=PIPE,
                env=self._stage.environment(),
                limit=LINE,
            )
            self._processes.append(process)
            self._listening.append(asyncio.create_task(self._listen(process, part.number)))
        async with asyncio.timeout(UP_S):
            await self._until(lambda: self._up == len(self._processes))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending = True
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                async with asyncio.timeout(END_S):
                    await process.wait()
            except TimeoutError:
                self._checks.broken("clients", "a client process does not end")
                process.kill()
                await process.wait()
        await asyncio.gather(*self._listening)

    async def warm_up(self) -> None:
        """The first process does each act once. Raises BenchFailed where it takes too long."""
        self._quiet = 0
        self._order("one", self._processes[:1])
        await self._until_quiet(1)

    def go(self) -> None:
        self._order("go", self._processes)

    async def rest(self) -> None:
        """Until no client does anything. Raises BenchFailed where one does not come to an end."""
        self._quiet = 0
        self._order("quiet", self._processes)
        await self._until_quiet(len(self._processes))

    async def _until_quiet(self, count: int) -> None:
        try:
            async with asyncio.timeout(ACT_S + UP_S):
                await self._until(lambda: self._quiet >= count)
        except TimeoutError:
            raise BenchFailed("clients do not come to rest") from None

    async def _until(self, true: Any) -> None:
        while not true():
            self._heard.clear()
            await self._heard.wait()
            if len(self._processes) > sum(p.returncode is None for p in self._processes):
                raise BenchFailed("a client process has ended")

    def _order(self, word: str, processes: list[Process]) -> None:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{word}\n".encode())

    async def _listen(self, process: Process, number: int) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self._hear(json.loads(line))
        code = await process.wait()
        if not self._ending or code:
            self._checks.broken("clients", f"client process {number} ended with {code}")
        else:
            self._checks.held("clients")
        self._heard.set()

    def _hear(self, said: dict[str, Any]) -> None:
        match said["what"]:
            case "did":
                self.counts.update(said["counts"])
                self.acts.update(said["acts"])
                self.setups = [one + other for one, other in zip(self.setups, said["setups"], strict=True)]
                self._checks.held("acts", sum(said["acts"].values()))
            case "failed":
                self._checks.broken("acts", f"{said['act']}: {said['text']}")
            case "up":
                self._up += 1
            case "quiet":
                self._quiet += 1
        self._heard.set()

    def setup_below(self, share: float) -> str:
        """Within how many milliseconds such a share of virtual connections was made."""
        wanted, seen = share * sum(self.setups), 0
        for bound, count in zip(BOUNDS_MS, self.setups, strict=False):
            seen += count
            if seen >= wanted:
                return f"{bound} ms"
        return f"more than {BOUNDS_MS[-1]} ms"
