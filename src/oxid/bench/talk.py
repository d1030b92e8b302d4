"""How a process of a round talks with the bench: lines of JSON one way, its standard input the other.

A byte on standard input means "go on", its end means "end": so every process ends when the bench ends, however that
happens.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any


def say(data: Mapping[str, Any]) -> None:
    """Tell the bench something."""
    if data:
        print(json.dumps(data), flush=True)


def leave() -> None:
    """End now, whatever still runs."""
    sys.stdout.flush()
    os._exit(0)


def at_end_of_input(then: Callable[[], object], descriptor: int = 0) -> None:
    """Call `then` from a thread when the bench lets go of us."""

    def wait() -> None:
        os.read(descriptor, 1)
        then()

    threading.Thread(target=wait, daemon=True).start()


async def let_go() -> None:
    """Wait until the bench lets go of us."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    at_end_of_input(lambda: loop.call_soon_threadsafe(over.set))
    await over.wait()


async def told(descriptor: int = 0) -> bool:
    """Wait until the bench tells us to go on, or lets go of us: then False."""
    return bool(await asyncio.to_thread(os.read, descriptor, 1))
