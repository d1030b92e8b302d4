"""The guard that every test runs under is seen to fail."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading

import pytest
import uvloop

from oxid.ledger import Ledger
from oxid.testing import leaks
from oxid.testing.leaks import watch_for_leaks


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """These tests watch by themselves, and clean up what they planted."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "GRACE_S", 0.05)


def test_a_clean_story_leaves_nothing() -> None:
    async def story() -> None:
        server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
        server.close()
        await asyncio.to_thread(int)

    with watch_for_leaks() as watch:
        asyncio.run(story())
        uvloop.run(story())
    assert watch.leaks() == []


def test_a_count_that_stays_is_named() -> None:
    with watch_for_leaks() as watch:
        ledger = Ledger()
        ledger.object.enter()
    assert watch.leaks() == ["object: 1 live in the ledger"]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_task_that_the_runner_would_cancel_is_named(run) -> None:  # type: ignore[no-untyped-def]
    async def forgotten() -> None:
        await asyncio.Event().wait()

    async def story() -> None:
        story.task = asyncio.create_task(forgotten())  # type: ignore[attr-defined]

    with watch_for_leaks() as watch:
        run(story())
    assert "forgotten" in watch.leaks()[0]


def test_a_descriptor_that_stays_is_named() -> None:
    with watch_for_leaks() as watch:
        left = socket.socket()
    assert "socket:" in watch.leaks()[0]
    left.close()
    assert watch.leaks() == []


def test_a_thread_that_stays_is_named() -> None:
    over = threading.Event()
    with watch_for_leaks() as watch:
        thread = threading.Thread(target=over.wait, name="stayer")
        thread.start()
    assert watch.leaks() == ["thread: stayer"]
    over.set()
    thread.join()


def test_a_child_process_that_stays_is_named() -> None:
    with watch_for_leaks() as watch:
        child = subprocess.Popen(["sleep", "60"])
    assert watch.leaks() == [f"child process: sleep (pid {child.pid})"]
    child.kill()
    child.wait()


def test_the_hooks_are_gone_afterwards() -> None:
    before = asyncio.Runner.run, Ledger.__init__
    with watch_for_leaks():
        pass
    assert (asyncio.Runner.run, Ledger.__init__) == before
