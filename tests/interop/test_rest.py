"""Live counts come back to rest: after ten thousand orderly rounds, after a thousand clients that vanish."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.host import ADMIN, PASSWORD, OxidHost

import oxid
from oxid.auth.credentials import Password
from oxid.com.options import ClientOptions
from oxid.errors import OxidError
from oxid.samples.calculator import ICalculator

CLSID = "B81BB948-688D-436A-9EBA-5F37813E2375"
VANISH = Path(__file__).parent / "scripts" / "vanish.py"
ROUNDS = 10_000
AT_ONCE = 16


@pytest.fixture(scope="module")
def host() -> Iterator[OxidHost]:
    with OxidHost(ping_period=1.0) as started:
        yield started


@pytest.mark.req("ACT-2")
@pytest.mark.limit(180)
def test_ten_thousand_rounds_of_activate_call_release(host: OxidHost) -> None:
    async def rounds(machine: oxid.Machine, number: int) -> None:
        for n in range(number):
            async with machine.activate(CLSID, ICalculator) as calculator:
                assert await calculator.add(n, 1) == n + 1

    async def story() -> None:
        options = ClientOptions(port=host.port, ping_period=host.ping_period)
        async with oxid.connect("127.0.0.1", Password(ADMIN, PASSWORD), options=options) as machine:
            await asyncio.gather(*(rounds(machine, ROUNDS // AT_ONCE) for _ in range(AT_ONCE)))

    asyncio.run(story())
    assert host.status()["total"]["object"] >= ROUNDS
    host.wait_for_rest()


class Vanishing:
    """Clients of the script, waiting in their calls."""

    def __init__(self, host: OxidHost, clients: int, *more: str) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                str(VANISH),
                *("--port", str(host.port), "--password", PASSWORD, "--clients", str(clients)),
                *("--ping-period", str(host.ping_period), *more),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OXID_PING_PERIOD": str(host.ping_period)},
        )

    def wait(self) -> list[int]:
        """The ids of the processes that the clients are in."""
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split()
        self._children = [int(word) for word in words[1:]]
        assert words[:1] == ["waits"]
        return self._children

    def kill(self) -> None:
        """SIGKILL to every process of clients, by its id; the parent only waits for them."""
        for child in self._children:
            os.kill(child, signal.SIGKILL)
        self.wait_for_end()

    def wait_for_end(self) -> None:
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.mark.limit(180)
def test_a_thousand_clients_vanish_in_mid_call_a_hundred_of_them_as_whole_processes(host: OxidHost) -> None:
    for _ in range(5):
        groups = [Vanishing(host, 180), Vanishing(host, 20, "--processes")]
        processes = [group.wait() for group in groups]
        assert list(map(len, processes)) == [1, 20]
        until = time.monotonic() + 10
        while (calls := host.live().get("rpc_call", 0)) < 200 and time.monotonic() < until:
            time.sleep(0.05)
        assert calls == 200
        for group in groups:
            group.kill()
    host.wait_for_rest()


def test_an_object_that_is_only_held_lives_on_pings_and_goes_with_its_holder() -> None:
    """Nobody calls it for more than two set time-outs."""

    async def story(host: OxidHost) -> None:
        options = ClientOptions(port=host.port, ping_period=host.ping_period)
        async with oxid.connect("127.0.0.1", Password(ADMIN, PASSWORD), options=options) as machine:
            async with machine.activate(CLSID, ICalculator) as calculator:
                await asyncio.sleep(8 * host.ping_period)
                assert await calculator.add(20, 22) == 42
                assert host.live()["pinged_oid"] == 1

    with OxidHost(ping_period=0.3) as held:
        asyncio.run(story(held))
        held.wait_for_rest()


def test_a_host_told_to_stop_cuts_the_calls_in_flight_and_leaves_nothing() -> None:
    with OxidHost(ping_period=0.5) as stopping:
        clients = Vanishing(stopping, 20)
        clients.wait()
        before = time.monotonic()
        stopping.stop()  # checks `stopped live=0` and exit code 0
        assert time.monotonic() - before < 10
        clients.wait_for_end()  # they have noticed


def test_a_host_that_is_killed_is_noticed_at_once_by_whoever_waits_for_it() -> None:
    async def story(host: OxidHost) -> None:
        options = ClientOptions(port=host.port, call_timeout=60.0)
        async with (
            oxid.connect("127.0.0.1", Password(ADMIN, PASSWORD), options=options) as machine,
            machine.activate(CLSID, ICalculator) as calculator,
        ):
            call = asyncio.ensure_future(calculator.sleep(60_000))
            await asyncio.sleep(0.2)
            host.kill()
            before = time.monotonic()
            with pytest.raises(OxidError):
                await call
            with pytest.raises(OxidError):
                await calculator.add(1, 1)
        assert time.monotonic() - before < 5

    asyncio.run(story(OxidHost(ping_period=0.5)))
