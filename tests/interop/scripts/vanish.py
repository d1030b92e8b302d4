"""Clients that will vanish: each activates a Calculator and calls Sleep for an hour.

Prints one line with the process ids of the children, `waits PID PID ...`, when every call is on its way, and
then waits to be killed. With --processes each client is a process of its own, forked after the imports;
without, all are in one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress

import oxid
from oxid.auth.credentials import Password
from oxid.com.options import ClientOptions
from oxid.errors import OxidError
from oxid.samples.calculator import ICalculator

CLSID = "B81BB948-688D-436A-9EBA-5F37813E2375"
HOUR_MS = 3_600_000


async def wait_in_calls(options: argparse.Namespace, clients: int, called: int) -> None:
    """Start so many clients, write one octet to `called` when all are in their call, and stay there."""
    client = ClientOptions(port=options.port, call_timeout=None, ping_period=options.ping_period)
    async with AsyncExitStack() as stack:
        sleeping: list[asyncio.Task[None]] = []
        for _ in range(clients):
            machine = await stack.enter_async_context(
                oxid.connect("127.0.0.1", Password("admin", options.password), options=client, probe=False)
            )
            calculator = await machine.activate(CLSID, ICalculator)
            assert await calculator.add(1, 1) == 2
            sleeping.append(asyncio.ensure_future(calculator.sleep(HOUR_MS)))
        await asyncio.sleep(0)
        os.write(called, b"x")
        await asyncio.gather(*sleeping)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--password", required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--ping-period", type=float, required=True)
    parser.add_argument("--processes", action="store_true")
    options = parser.parse_args()
    each, number = (1, options.clients) if options.processes else (options.clients, 1)
    reader, writer = os.pipe()
    children = []
    for _ in range(number):
        child = os.fork()
        if not child:
            signal.alarm(100)  # should nobody kill us
            with suppress(OxidError):  # the host has gone first
                asyncio.run(wait_in_calls(options, each, writer))
            os._exit(1)
        children.append(child)
    os.close(writer)
    waiting = 0
    while waiting < number and (octets := os.read(reader, number)):
        waiting += len(octets)
    print("waits" if waiting == number else "failed", *children)
    sys.stdout.flush()
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
