"""Why did this object die? `oxid why`, `oxid status --object`, and the bounds of what is remembered."""

import asyncio
import json

import pytest
from tests.support.client_process import ClientProcess
from tests.support.endpoints import wait_for
from tests.support.host import PASSWORD, OxidHost

import oxid
from oxid.com.flight_record import FIRST, MOST, FlightRecorder, Kind
from oxid.samples.calculator import CLSID_CALCULATOR, ICalculator

ADMIN = oxid.Password("admin", PASSWORD)


def why(host, oid, *more):
    return host.run("why", f"{oid:016x}", *more, "--state", str(host.state))


def story_of(host, oid):
    done = why(host, oid)
    assert done.returncode == 0, done.stderr
    return done.stdout


def activated(host):
    """An object's OID, and its life with one client that ends politely."""

    async def work():
        options = oxid.ClientOptions(port=host.port, agent="own", ping_period=host.ping_period)
        async with oxid.connect("127.0.0.1", ADMIN, options=options) as machine:
            async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
                oid = calculator.oid
                await asyncio.sleep(1.5 * host.ping_period)
                living = await asyncio.to_thread(story_of, host, oid)
                assert await calculator.add(2, 3) == 5
        return oid, living

    return asyncio.run(work())


@pytest.mark.parametrize("isolate", [False, True])
def test_an_object_that_was_released_says_by_whom(isolate):
    with OxidHost(ping_period=0.5, options=["--isolate"] if isolate else []) as host:
        oid, living = activated(host)
        assert living.startswith(f"object {oid:016x} lives\n")
        assert "exported by" in living
        assert "marshalled with 5 references, for admin" in living
        assert "joined ping set" in living
        assert "held by ping set" in living
        wait_for(lambda: "is gone" in story_of(host, oid), "it is gone")
        gone = story_of(host, oid)
        assert "references released by admin" in gone
        assert "gone: released" in gone.splitlines()[-1] or "left ping set" in gone.splitlines()[-1]
        raw = json.loads(why(host, oid, "--json").stdout)
        times = [event["at"] for event in raw["events"]]
        assert times == sorted(times)
        assert raw["events"][0]["kind"] == "exported"
        assert not raw["lives"]
        same = host.run("status", "--object", f"{oid:016x}", "--state", str(host.state))
        assert same.stdout == gone


def test_an_object_whose_client_died_says_who_was_silent(tmp_path):
    """The sentence for the operator at 03:12."""
    with OxidHost(ping_period=0.4) as host:
        with ClientProcess(host.port, period=0.4, agent=None) as client:
            (oid,) = client.do(
                "activate", clsid=str(CLSID_CALCULATOR), interface="oxid.samples.calculator:ICalculator"
            )
            wait_for(lambda: "joined ping set" in story_of(host, oid), "it is pinged")
            client.kill()
        wait_for(lambda: "is gone" in story_of(host, oid), "it is reclaimed")
        gone = story_of(host, oid)
        assert "pings of admin from 127.0.0.1 missed in a row" in gone
        assert "which ended: admin from 127.0.0.1 was silent for too long" in gone
        assert gone.splitlines()[-1].endswith("reclaimed: no client pings it")
        host.wait_for_rest()


def test_an_object_that_went_with_its_process_says_which(tmp_path):
    import os
    import signal

    with OxidHost(ping_period=0.5, options=["--isolate"]) as host:

        async def work():
            options = oxid.ClientOptions(port=host.port, agent="own", ping_period=0.5)
            async with oxid.connect("127.0.0.1", ADMIN, options=options) as machine:
                calculator = await machine.activate(CLSID_CALCULATOR, ICalculator)
                (pid,) = {int(line) for line in children(host.pid)}
                os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(0.3)
                oid = calculator.oid
                await calculator.release()
                return oid, pid

        oid, pid = asyncio.run(work())
        wait_for(lambda: "is gone" in story_of(host, oid), "it is gone")
        last = story_of(host, oid).splitlines()[-1]
        assert last.endswith(f"process {pid}")
        assert "run down with" in last


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return file.read().split()


def test_what_nobody_knows_is_said_so():
    with OxidHost() as host:
        for done in (why(host, 0x1234), host.run("status", "--object", "1234", "--state", str(host.state))):
            assert done.returncode == 1
            assert "remembers no object 0000000000001234" in done.stderr
        assert host.run("why", "nonsense", "--state", str(host.state)).returncode == 2
    absent = host.run("why", "1", "--state", "/tmp/no-such-state")
    assert absent.returncode == 1
    assert "oxid serve --state" in absent.stderr


# -- bounds --------------------------------------------------------------------------------------------------


def test_a_record_keeps_how_it_began_and_how_it_ended():
    recorder = FlightRecorder()
    record = b""
    for number in range(1000):
        record = recorder.note(record, float(number), Kind.ADD_REF, f"user {number % 3}", number)
    events = recorder.read(record)
    assert len(events) == MOST
    assert [event.detail for event in events] == [*range(FIRST), *range(1000 - MOST + FIRST, 1000)]
    assert str(events[0]) == "0 references added by user 0"
    assert len(record) < 700


def test_names_beyond_the_bound_are_somebody_and_cost_nothing():
    from oxid.com.flight_record import MAX_NAMES

    recorder = FlightRecorder()
    for number in range(MAX_NAMES + 100):
        recorder.name(f"name {number}")
    record = recorder.note(b"", 1.0, Kind.RELEASE, "yet another", 5)
    assert str(recorder.read(record)[0]) == "5 references released by somebody"
    known = recorder.note(b"", 1.0, Kind.RELEASE, "name 7", 5)
    assert "name 7" in str(recorder.read(known)[0])


@pytest.mark.parametrize("raw", [[], [1.0, 99, "x", 1], [1.0], "text", None, [1.0, "x", "y", "z"]])
def test_another_process_cannot_write_what_is_no_event(raw):
    from oxid.com.flight_record import event_of

    with pytest.raises(ValueError, match="is no event"):
        event_of(raw)
