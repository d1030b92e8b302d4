"""Every old defect is put back once, and the scenario that is about it fails: those of the four articles, and the
eleven of the scenarios' §C.6. Scenarios that see no mistake would show nothing.

A mutant changes one method of the product, in every process of its scenario; see `tests.support.mutants`. The test
must get as far as an assertion of its own, in which the defect is seen: this one, and no other.
"""

import json
import subprocess
import sys
from tempfile import TemporaryDirectory

import pytest
from tests.support.mutants import MUTANTS, ROOT, Report

SCENARIOS = {
    "naive sequence numbers": (
        "test_hostile_pings.py::test_peers_that_count_in_other_ways_lose_no_change[around the end]",
        "assert (set(state.oids), state.sequence) == (set(held), number)",
    ),
    "delete only on remote success": (
        "test_pings_end.py::test_a_last_ping_that_does_not_get_through_is_tried_once_more"
        "[now-unreachable-released]",
        "await until(lambda: client.at_rest, SILENCE, P / 20)",
    ),
    "set keyed by process": (
        "test_ping_faults.py"
        "::test_processes_share_one_set_for_each_resolver_and_identity_and_rest_with_simple_pings",
        'assert client.agent.pings.statistics() == {"sets": 6, "oids": 24}',
    ),
    "ping identity is the daemon's": (
        "test_live_clients.py::test_two_identities_have_two_sets_and_either_keeps_the_object",
        'assert {server.tables.sets[s].owner.principal for s in sets} == {"alice", None}',
    ),
    "reclaim ignores calls in flight": (
        "test_live_clients.py::test_a_call_of_half_an_hour_ends_before_its_object_does",
        "assert Probe.alive() == 1",
    ),
    "lease closed without generation": (
        "test_endpoint_races.py"
        "::test_registrations_doubled_late_or_in_any_order_leave_what_the_last_of_them_said",
        'assert answer["closed"] == (number == self.row)',
    ),
    "static row freed by the collector": (
        "test_endpoint_leases.py::test_the_collector_never_touches_an_endpoint_or_its_settings",
        "assert rows_of(host) == rows",
    ),
    "never pinged is never reclaimed": (
        "test_resolver_restarts.py::test_an_object_of_which_its_client_never_heard_goes_after_the_time_out",
        "await until(lambda: Unheard.ends, T + P + S)",
    ),
    "a late ping revives its set": (
        "test_ping_faults.py::test_a_ping_comes_in_time_until_the_very_moment_at_which_it_does_not",
        "assert pings(T, swept=swept) == OR_INVALID_SET",
    ),
    "NOPING the wrong way round": (
        "test_live_clients.py::test_an_object_without_pings_lives_until_it_is_released",
        "assert client.pings == []",
    ),
    "OXID used as OID": (
        "test_live_clients.py::test_two_proxies_with_different_blankets_are_one_object_to_the_pings",
        "assert len(server.tables.objects) == 1",
    ),
    "static entry freed with the instance": (
        "test_static_endpoints.py"
        "::test_a_killed_server_leaves_its_port_free_at_once_and_the_next_activation_has_another",
        "assert found == port",
    ),
    "the machine's agent pings as itself": (
        "test_dead_clients.py::test_a_killed_program_is_noticed_at_once_and_told_of_at_the_next_tick",
        'assert {ping.who.principal for ping in self.server.pings} <= {"alice", "bob"}',
    ),
    "set kept after the client's death": (
        "test_pings_end.py::test_the_end_is_told_at_the_next_tick_and_then_there_is_silence"
        "[0.5-its program is killed]",
        "assert last.ping.remove == first.ping.add",
    ),
    "a proxy that skips DONE": (
        "test_tunnel_sessions.py::test_every_channel_lets_go_of_its_request_when_its_client_is_done[2]",
        'wait_for(lambda: not host.live().get("ecb"), "control blocks that are let go", within=5.0)',
    ),
    "a proxy of version 1 that skips DONE": (
        "test_tunnel_sessions.py::test_every_channel_lets_go_of_its_request_when_its_client_is_done[1]",
        'wait_for(lambda: not host.live().get("ecb"), "control blocks that are let go", within=5.0)',
    ),
    "a connection that is not given back on SUCCESS": (
        "test_web_host.py::test_a_connection_that_was_kept_and_then_ends_with_success_counts_no_more[1]",
        'wait_for(lambda: not host.live().get("http_connection"), "all given back", within=5.0)',
    ),
    "the activator's identity is dropped": (
        "test_live_clients.py::test_who_holds_as_nobody_what_somebody_activated_may_ping_as_that_somebody",
        "assert Probe.alive() == 1",
    ),
}
"""Mutant -> the quickest test that is about it, and the statement of it that fails."""
WITH_PROCESSES = {
    "static entry freed with the instance",
    "the machine's agent pings as itself",
    "a proxy that skips DONE",
    "a proxy of version 1 that skips DONE",
    "a connection that is not given back on SUCCESS",
}
"""Their methods run in processes that the scenario starts."""


def under(mutant, node):
    """Run one test with one mutant planted; what became of it."""
    with TemporaryDirectory(prefix="oxid-") as place:  # short: sockets have names of 108 bytes
        told = f"{place}/report"
        plugins = ["-p", "no:cacheprovider", "-p", "tests.support.mutants"]
        wanted = ["--mutant", mutant, "--mutant-report", told, f"--basetemp={place}/t"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *plugins, *wanted, f"tests/scenario/{node}"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
        with open(told, encoding="utf-8") as report:
            return Report(**json.load(report))


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_defect_that_is_put_back_fails_its_scenario_and_in_its_own_assertion(mutant):
    node, assertion = SCENARIOS[mutant]
    seen = under(mutant, node)
    assert seen.entered, "the mistake was never made, so nothing was shown"
    assert (set(seen.entered) != {seen.tester}) == (mutant in WITH_PROCESSES)
    assert seen.outcomes == {"setup": "passed", "call": "failed", "teardown": "passed"}
    own = seen.error == "AssertionError" or (seen.error == "Failed" and "DID NOT RAISE" in seen.message)
    assert own, f"{seen.error}, and no assertion: {seen.message}"
    assert seen.file.startswith("tests/"), f"{seen.file}: {seen.line}"
    assert assertion in seen.story, f"another assertion than the one that is about this: {seen.message}"
