"""impacket's own pings (`oxidResolver=True`) against a real host: what they keep, and what their end ends.

impacket pings every 120 s, by a timer: here that and the host's period are PERIOD. It does not follow the
specification: its sequence number is 0 for ever, it takes an OXID for an OID, it lets go of an object of
which it has references left, it makes a connection for each ping, and pings on when it holds nothing.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
from tests.support.host import OxidHost
from tests.support.netns import NetworkNamespace
from tests.support.pings import wait_until

from oxid.runtime.control import ask

pytestmark = [pytest.mark.peer("impacket", "unshare")]

SCRIPT = Path(__file__).parent / "scripts" / "impacket_lifetimes.py"
ACCOUNTS = {"alice": "Wonder-Land-1", "bob": "Builder-Bob-2"}
PERIOD = 0.5
SLACK = 5.0
"""For a busy machine, beyond what is promised: the exact bounds are shown in invented time."""
GONE = (3 + 1 + 1 / 12) * PERIOD + SLACK
"""Behind its last ping an object goes within T + P + S."""


@pytest.fixture(scope="module")
def host(namespace: NetworkNamespace) -> Iterator[OxidHost]:
    with OxidHost(namespace=namespace, ping_period=PERIOD) as started:
        for name, password in ACCOUNTS.items():
            started.add_user(name, password)
        yield started


class Impacket:
    """One impacket program; leaving the block kills it."""

    def __init__(self, host: OxidHost, user: str, *, pings: bool = True) -> None:
        assert host.namespace is not None
        words = ["--user", user, "--password", ACCOUNTS[user], "--period", str(PERIOD)]
        words += ["--pings", "on" if pings else "off"]
        self._host = host
        self._said = (host.directory / f"impacket-{time.monotonic_ns()}").open("w+")
        self.process = subprocess.Popen(
            [*host.namespace.prefix, sys.executable, str(SCRIPT), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )

    def do(self, what: str, *words: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(what, *words, file=self.process.stdin, flush=True)
        assert select.select([self.process.stdout], [], [], 30)[0], f"{what}: no answer"
        line = self.process.stdout.readline()
        self._said.seek(0)
        answer = json.loads(line or '{"error": "it has ended"}')
        assert "ok" in answer, f"{what}: {answer}\n{self._said.read()}\n--- host\n{self._host.log()[-4000:]}"
        return answer["ok"]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        with ExitStack() as streams:
            for stream in (self.process.stdin, self.process.stdout, self._said):
                streams.callback(stream.close)


def about(host: OxidHost, oid: int) -> dict[str, Any]:
    """What `oxid why OID --json` prints."""
    return ask(host.state / "control", "object", oid=oid)


def sets_of(host: OxidHost, oid: int) -> list[int]:
    """The ping sets that hold an object."""
    return about(host, oid).get("ping_sets", [])


def pinged(host: OxidHost, oid: int) -> int:
    """Wait until an object is in somebody's ping set; which one that is."""
    (set_id,) = wait_until(lambda: sets_of(host, oid), GONE, "it is pinged")
    return set_id


def story_of(host: OxidHost, oid: int) -> list[str]:
    """What `oxid why OID` says has happened, without the times."""
    done = host.run("why", f"{oid:016x}", "--state", str(host.state))
    assert done.returncode == 0, done.stderr
    return [line[25:] for line in done.stdout.splitlines() if line[:2] == "20"]


def through(periods: float, true: Callable[[], object]) -> None:
    """Something is so for so many periods."""
    until = time.monotonic() + periods * PERIOD
    while time.monotonic() < until:
        assert true()
        time.sleep(0.05)


@pytest.mark.req("PNG-1", "PNG-10", "B4", "B22", "B45", "dcom§6.3.bounds")
def test_impacket_keeps_its_objects_for_ten_periods_without_a_call_and_loses_those_of_whom_is_killed(
    host: OxidHost,
) -> None:
    with (
        Impacket(host, "alice") as doomed,
        Impacket(host, "alice") as namesake,
        Impacket(host, "bob") as other,
        Impacket(host, "bob", pings=False) as mute,
    ):
        made = time.monotonic()
        unpinged = mute.do("activate")
        lost, kept, theirs = (each.do("activate") for each in (doomed, namesake, other))
        sets = {pinged(host, oid) for oid in (lost, kept, theirs)}
        assert len(sets) == 3
        for answer in other.do("steal", pinged(host, lost), lost):
            assert "code: 0x5" in answer  # ERROR_ACCESS_DENIED
        assert sets_of(host, lost)

        doomed.kill()
        died = time.monotonic()
        through(1.5, lambda: about(host, lost)["lives"])
        ends: dict[int, float] = {}

        def others_live() -> bool:
            for oid in (lost, unpinged):
                if oid not in ends and not about(host, oid)["lives"]:
                    ends[oid] = time.monotonic()
            return about(host, kept)["lives"] and about(host, theirs)["lives"]

        through(10, others_live)
        assert ends[unpinged] - made <= GONE
        assert ends[lost] - died <= GONE
        live = host.live()
        assert (live["ping_set"], live["pinged_oid"]) == (2, 2)
        for each in (namesake, other):
            assert each.do("add") == 42
            assert each.do("troubles") == []

        story = story_of(host, lost)
        (joined,) = [line for line in story if line.startswith("joined")]
        assert joined.endswith("of alice from 127.0.0.1")
        set_id = joined.split()[3]
        assert "pings of alice from 127.0.0.1 missed in a row: 1" in story
        assert f"left ping set {set_id}, which ended: alice from 127.0.0.1 was silent for too long" in story
        assert story[-1] == "reclaimed: no client pings it"
        assert not any("missed" in line or "ended" in line for line in story_of(host, kept))
        never = story_of(host, unpinged)
        assert not any("joined" in line for line in never)
        assert never[-1] == "reclaimed: no client pings it"
    host.wait_for_rest()


@pytest.mark.req("PNG-3", "PNG-4", "PNG-7", "dcom§6.1.5", "dcom§10")
def test_what_impacket_does_unlike_the_specification_keeps_and_loses_what_it_means_to(host: OxidHost) -> None:
    with Impacket(host, "alice") as program:
        first = program.do("activate")
        set_id = pinged(host, first)
        second = program.do("activate")
        assert pinged(host, second) == set_id  # a change under the sequence number that the set began with

        assert program.do("query")  # and lets go of an OID that is an OXID
        through(1.5, lambda: sets_of(host, first) == sets_of(host, second) == [set_id])

        program.do("release_one")
        wait_until(lambda: not about(host, first)["lives"], GONE + 1.5 * PERIOD, "the first is reclaimed")
        story = story_of(host, first)
        assert "1 references released by alice" in story
        assert f"left ping set {set_id:016x} of alice from 127.0.0.1, who let go" in story
        assert story[-1] == "reclaimed: no client pings it"
        assert sets_of(host, second) == [set_id]

        program.do("release_all")
        wait_until(lambda: not about(host, second)["lives"], SLACK, "the second is released")
        through(1.5, lambda: host.live().get("ping_set") is None)  # pinged as before, and nobody counts it
        assert program.do("troubles") == []
    host.wait_for_rest()
