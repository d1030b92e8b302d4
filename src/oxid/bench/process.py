"""One process of a round: `python -m oxid.bench.process JSON`.

A server prints {"port": N} and serves until its standard input ends; a client prints its report; what runs alone
prints whatever the bench waits for. All end when the bench ends: see `oxid.bench.talk`.
"""

from __future__ import annotations

import asyncio
import cProfile
import importlib
import inspect
import io
import json
import os
import pstats
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

from oxid.bench.meter import UNMEASURED, Measured
from oxid.bench.talk import at_end_of_input, leave, let_go, say

PROFILE_LINES: Final = 28


def main(words: list[str]) -> None:
    """Play the part that the JSON describes."""
    part = json.loads(words[0])
    if part.get("core") is not None:
        os.sched_setaffinity(0, {part["core"]})
    if part["kind"].startswith("peer:"):
        peer(part)
        return
    profile = cProfile.Profile() if part.get("profile") else None
    said = ROLES[part["role"]](part, profile or UNMEASURED)
    if profile is not None:
        said["profile"] = profile_text(profile)
    say(said)


def run(story: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """On the loop of the product."""
    try:
        import uvloop

        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        loop_factory = None
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(story)


def profile_text(source: Any) -> str:
    """The functions in which the time went; `source` is a Profile, or a file of one."""
    text = io.StringIO()
    pstats.Stats(source, stream=text).sort_stats("tottime").print_stats(PROFILE_LINES)
    return text.getvalue()


def function_of(kind: str, module: str) -> Callable[..., Any]:
    """A function of a module of the bench; `kind` may name another module: `pings.simple`."""
    other, _, name = kind.rpartition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(f"oxid.bench.{other or module}"), name)
    return found


async def serve(part: dict[str, Any], measured: Measured) -> dict[str, Any]:
    """Serve until standard input ends."""
    async with function_of(part["kind"], "servers")(**part["options"]) as port:
        with measured:
            say({"port": port})
            await let_go()
    return {}


async def measure(part: dict[str, Any], measured: Measured) -> dict[str, Any]:
    """Make the load and report it."""
    if part["kind"] != "hold":
        at_end_of_input(leave)
    load = function_of(part["kind"], "clients")
    with measured:
        report: dict[str, Any] = await load(part["port"], part["seconds"], **part["options"])
    return report


def alone(part: dict[str, Any], measured: Measured) -> dict[str, Any]:
    """What needs nobody else, or talks with the bench by itself. A plain function has no loop; one that can be
    profiled says itself which part of it is of interest."""
    function, options = function_of(part["kind"], "alone"), part["options"]
    if measured is not UNMEASURED:
        options["measured"] = measured
    made = function(**options)
    return run(made) if inspect.iscoroutine(made) else made


def peer(part: dict[str, Any]) -> None:
    """A library of other people; its threads do not have to be waited for."""
    at_end_of_input(leave)
    module = importlib.import_module(f"oxid.bench.peers.{part['kind'].removeprefix('peer:')}")
    if part["role"] == "server":
        module.serve(lambda port: say({"port": port}), **part["options"])
    else:
        say(module.load(part["port"], part["seconds"], **part["options"]))
        leave()


ROLES: Final[dict[str, Callable[[dict[str, Any], Measured], dict[str, Any]]]] = {
    "server": lambda part, measured: run(serve(part, measured)),
    "client": lambda part, measured: run(measure(part, measured)),
    "alone": alone,
}


if __name__ == "__main__":
    main(sys.argv[1:])
