"""The driver's hold on all client processes: orders go to the nursery, reports come back.

with Crew(stage) as crew:
    crew.listen(journal.hear)
    crew.start(7, 0)
    crew.signal_client(7, signal.SIGKILL)
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from oxid.bench.rounds import BenchFailed, Program
from oxid.soak.stage import MACHINES, Stage

FOR_EVER_S: Final = 1e7


class Crew(Program):
    """The nursery as a process; the end of the block ends it, and with it every client."""

    def __init__(self, stage: Stage) -> None:
        told = {
            "parent": os.getpid(),
            "seed": stage.settings.seed,
            "clients": stage.settings.clients,
            "port": stage.port,
            "period": stage.times.period,
            "directory": str(stage.directory),
            "relayed": stage.relayed,
            "agents": {machine: str(stage.agent(machine)) for machine in MACHINES},
        }
        super().__init__(["-m", "oxid.soak.nursery", json.dumps(told)], stage.environment("near"))
        self._listening: threading.Thread | None = None

    def listen(self, hear: Callable[[Mapping[str, Any]], object]) -> None:
        """Have every report heard on the running loop, in order; the end of the nursery as {"what": "over"}."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            heard: Mapping[str, Any] = {}
            try:
                while heard.get("what") != "over":
                    try:
                        heard = json.loads(self.line(FOR_EVER_S))
                    except BenchFailed as error:
                        heard = {"what": "over", "text": str(error)}
                    loop.call_soon_threadsafe(hear, heard)
            except RuntimeError:
                pass  # the loop is closed: nobody listens any more

        self._listening = threading.Thread(target=read, name="soak reports", daemon=True)
        self._listening.start()

    def start(self, number: int, generation: int, role: str = "life") -> None:
        """Fork a client."""
        self._order(do="start", number=number, generation=generation, role=role)

    def signal_client(self, number: int, what: signal.Signals) -> None:
        """Send a signal to a client, if it still runs."""
        self._order(do="signal", number=number, signal=int(what))

    def _order(self, **order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        if self._listening is not None:
            self._listening.join(5.0)  # it reads until the last client is gone
        super().__exit__(*exc_info)
