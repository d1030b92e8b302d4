"""A process of clients of `oxid soak http`: `python -m oxid.soak.http_client JSON`

Each of its clients does one act after the other, chosen at random. Orders come as lines on standard input, `go`,
`quiet`, `one` (each act once); what it says are lines of JSON:

    {"what": "did", "counts": {…}, "acts": {…}, "setups": […]}     every half second
    {"what": "failed", "act": "session v2", "text": "…"}            an act that went wrong
    {"what": "quiet"}                                                no client does anything
When its input ends, so does it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import traceback
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from oxid.bench.process import run
from oxid.soak import http_pages, http_tunnels
from oxid.soak.http_tunnels import KNOWN, Act
from oxid.soak.http_wire import Place, Ports
from oxid.soak.leash import tie

ACTS: Final[dict[str, tuple[float, Act]]] = {**http_tunnels.ACTS, **http_pages.ACTS}
ACT_S: Final = 60.0
"""An act that takes longer hangs."""
REPORT_S: Final = 0.5
BURST: Final = 40
"""Of what is done on the server's threads, at once: as many threads as there will ever be are then there."""
BOUNDS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)
"""Of the table of set-up times."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a process of clients is told."""

    parent: int
    number: int
    clients: int
    seed: int
    ports: dict[str, int]
    period: float


class Clients:
    """All clients of this process."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._place = Place(Ports(**part.ports), part.period, part.number)
        self._place.quiet.set()
        self._go = asyncio.Event()
        self._busy = 0
        self._resting = asyncio.Event()
        self._acts: Counter[str] = Counter()
        self._told_quiet = True
        self._names = list(ACTS)
        self._weights = list(accumulate(weight for weight, _ in ACTS.values()))

    async def work(self) -> dict[str, Any]:
        """Until standard input ends."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(0, "rb"))
        tasks = [
            asyncio.create_task(self._client(number), name=f"client {number}")
            for number in range(self._part.clients)
        ]
        tasks.append(asyncio.create_task(self._report()))
        say(what="up")
        try:
            while line := await reader.readline():
                await self._obey(line.decode().strip())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return {}

    async def _obey(self, order: str) -> None:
        if order == "go":
            self._told_quiet = False
            self._place.quiet.clear()
            self._go.set()
        elif order == "quiet":
            self._go.clear()
            self._place.quiet.set()
            while self._busy:
                self._resting.clear()
                await self._resting.wait()
            self._tell()
            say(what="quiet")
        elif order == "one":
            await self._one_of_each()
            self._tell()
            say(what="quiet")

    async def _client(self, number: int) -> None:
        chance = random.Random(f"{self._part.seed} {self._part.number} {number}")
        while True:
            await self._go.wait()
            self._busy += 1
            try:
                (name,) = chance.choices(self._names, cum_weights=self._weights)
                await self._do(name, chance)
            finally:
                self._busy -= 1
                if not self._busy:
                    self._resting.set()

    async def _do(self, name: str, chance: random.Random) -> None:
        try:
            async with asyncio.timeout(ACT_S):
                await ACTS[name][1](self._place, chance)
        except KNOWN as error:
            say(what="failed", act=name, text=f"{type(error).__name__}: {error}"[:500])
        except Exception:
            say(what="failed", act=name, text=traceback.format_exc()[-1500:])
        else:
            self._acts[name] += 1

    async def _one_of_each(self) -> None:
        """Everything that a server makes at its first use is there behind it."""
        chance = random.Random(f"{self._part.seed} first")
        for name in ACTS:
            await self._do(name, chance)
        for name in ("kept connection", "slow file", "post", "DCOM v2"):
            await asyncio.gather(*(self._do(name, chance) for _ in range(BURST)))

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            self._tell()

    def _tell(self) -> None:
        place = self._place
        if not self._acts and not place.counts:
            return
        setups = Counter(bisect_left(BOUNDS_MS, seconds * 1000) for seconds in place.setups)
        say(
            what="did",
            counts=dict(place.counts),
            acts=dict(self._acts),
            setups=[setups[bound] for bound in range(len(BOUNDS_MS) + 1)],
        )
        place.counts.clear()
        place.setups.clear()
        self._acts.clear()


def say(**fields: Any) -> None:
    """One line, at once: it has arrived even where this process is killed behind it."""
    os.write(1, json.dumps(fields).encode() + b"\n")


def main(words: list[str]) -> None:
    """Play the part that the JSON describes."""
    part = Part(**json.loads(words[0]))
    os.setsid()
    tie(part.parent)
    run(Clients(part).work())


if __name__ == "__main__":
    main(sys.argv[1:])
