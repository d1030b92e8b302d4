"""What the soak thinks of failures, counts and memory: no fault excuses what it cannot have caused."""

from random import Random

import pytest

from oxid.soak.judge import Failure, Faults, differences, excuse, memory, unbounded
from oxid.soak.settings import Times

TIMES = Times.of(1.0)


def failure(error="ObjectGone", **more):
    wanted = {"began": 100.0, "at": 100.1, "since": 90.0, "born": 89.0, "oid": 7}
    report = {"n": 3, "act": "call", "error": error, "text": "", **wanted, **more}
    return Failure.of(report)


def test_nothing_excuses_a_failure_where_nothing_was_done():
    assert excuse(failure(), Faults(), "near", TIMES) is None
    assert excuse(failure("TransportError"), Faults(), "near", TIMES) is None


def test_a_killed_server_excuses_its_own_objects_only():
    faults = Faults(servers={41: 95.0})
    assert excuse(failure(server=41), faults, "near", TIMES) == "its server was killed"
    assert excuse(failure(server=42), faults, "near", TIMES) is None
    assert excuse(failure(server=41, born=97.0, since=97.5), faults, "near", TIMES) is None


def test_a_first_call_may_come_long_after_the_server_was_killed():
    assert excuse(failure(kind="resident"), Faults(servers={41: 95.0}), "near", TIMES)
    assert excuse(failure(kind="resident"), Faults(servers={41: 80.0}), "near", TIMES) is None


def test_a_partition_explains_a_bad_way_and_no_dead_object():
    faults = Faults(cuts=[(99.5, 101.0)])
    assert excuse(failure("TransportError"), faults, "far", TIMES) == "the network was cut"
    assert excuse(failure(), faults, "far", TIMES) is None


def test_a_killed_agent_explains_that_sinks_are_not_found_and_nothing_else():
    faults = Faults(agents={"near": [98.0]})
    assert excuse(failure("CallbackFailed", act="subscribe"), faults, "near", TIMES)
    assert excuse(failure("CallbackFailed", act="subscribe"), faults, "far", TIMES) is None
    assert (
        excuse(failure("CallbackFailed", act="subscribe", began=102.0, at=102.1), faults, "near", TIMES)
        is None
    )
    assert excuse(failure("TransportError"), faults, "near", TIMES) is None
    assert excuse(failure(), faults, "near", TIMES) is None


@pytest.mark.parametrize(
    ("stopped", "agents", "excused"),
    [
        ((93.0, 99.0), [], False),  # the machine's agent pinged on
        ((93.0, 99.0), [94.0], True),
        ((93.0, 95.0), [94.0], False),  # shorter than the time-out
        ((90.5, 99.0), [], True),  # too new for the agent
    ],
)
def test_a_stopped_client_loses_an_object_only_where_nobody_pinged_for_it(stopped, agents, excused):
    faults = Faults(stops={3: [stopped]}, agents={"near": agents})
    assert bool(excuse(failure(), faults, "near", TIMES)) is excused


def test_counts_are_bounded_by_the_clients_there_are():
    assert not unbounded({"object": 64 + 16 * 10}, {}, 10)
    assert unbounded({"object": 65 + 16 * 10}, {}, 10)
    assert unbounded({"something new": 65}, {}, 10_000)


def test_differences_are_told_by_kind_and_place():
    assert differences("row", {"a": 1}, {"a": 1}) == []
    assert differences("row", {"a": 1}, {"b": 2}) == [
        "row a: 1 at the start, 0 at the end",
        "row b: 0 at the start, 2 at the end",
    ]


def samples(bytes_a_cycle, cycles=130_000):
    noise = Random(1)
    return [
        (n, 50_000_000 + int(n * bytes_a_cycle) + noise.randrange(4096)) for n in range(0, cycles + 1, 1000)
    ]


def test_memory_that_grows_with_the_cycles_is_seen_and_noise_is_not():
    assert not memory(samples(0)).wrong
    leak = memory(samples(2))
    assert leak.judged
    assert leak.wrong
    assert leak.slope == pytest.approx(2, abs=0.1)


def test_few_cycles_are_told_and_not_judged():
    found = memory(samples(100, cycles=5_000))
    assert not found.judged
    assert not found.wrong
    assert "not judged" in str(found)
    assert memory([]).slope is None
