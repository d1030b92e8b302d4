"""One process of a round: `python -m oxid.bench.process JSON`.

A server prints {"port": N} and serves until its standard input ends; a client prints its report. Both end when
the bench ends, however that happens: their standard input is its end of a pipe.
"""

from __future__ import annotations

import asyncio
import cProfile
import importlib
import io
import json
import os
import pstats
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

PROFILE_LINES: Final = 28


def main(words: list[str]) -> None:
    """Play the part that the JSON describes."""
    part = json.loads(words[0])
    if part.get("core") is not None:
        os.sched_setaffinity(0, {part["core"]})
    profile = cProfile.Profile() if part.get("profile") else None
    if part["kind"].startswith("peer:"):
        peer(part)
    elif part["role"] == "server":
        say(run(serve(part["kind"]), profile))
    else:
        say(run(measure(part), profile))


def say(data: dict[str, Any]) -> None:
    if data:
        print(json.dumps(data), flush=True)


def run(story: Coroutine[Any, Any, dict[str, Any]], profile: cProfile.Profile | None) -> dict[str, Any]:
    try:
        import uvloop

        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        loop_factory = None
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        if profile is None:
            return runner.run(story)
        said = profile.runcall(runner.run, story)
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(PROFILE_LINES)
    return {**said, "profile": text.getvalue()}


async def serve(kind: str) -> dict[str, Any]:
    """Serve until standard input ends."""
    from oxid.bench.servers import SERVERS

    loop, over = asyncio.get_running_loop(), asyncio.Event()
    at_end_of_input(lambda: loop.call_soon_threadsafe(over.set))
    async with SERVERS[kind]() as port:
        say({"port": port})
        await over.wait()
    return {}


async def measure(part: dict[str, Any]) -> dict[str, Any]:
    """Make the load and report it."""
    from oxid.bench.clients import CLIENTS

    if part["kind"] != "hold":
        at_end_of_input(leave)
    return await CLIENTS[part["kind"]](part["port"], part["seconds"], **part["options"])


def peer(part: dict[str, Any]) -> None:
    """A library of other people; its threads do not have to be waited for."""
    at_end_of_input(leave)
    module = importlib.import_module(f"oxid.bench.peers.{part['kind'].removeprefix('peer:')}")
    if part["role"] == "server":
        module.serve(lambda port: say({"port": port}), **part["options"])
    else:
        say(module.load(part["port"], part["seconds"], **part["options"]))
        leave()


def leave() -> None:
    sys.stdout.flush()
    os._exit(0)


def at_end_of_input(then: Callable[[], object]) -> None:
    """Call `then` from a thread when the bench lets go of us."""

    def wait() -> None:
        os.read(0, 1)
        then()

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1:])
