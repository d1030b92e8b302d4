import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oxid.com.ping_client import MAX_CHANGES, ClientPingSet, Ping
from oxid.values.status import OR_INVALID_OID, OR_INVALID_SET, RPC_S_SERVER_TOO_BUSY


@pytest.fixture
def pings():
    return ClientPingSet()


def accept(pings, set_id=7):
    ping = pings.next_ping()
    pings.answered(ping, 0, set_id)
    return ping


@pytest.mark.req("PNG-3")
def test_the_first_ping_makes_the_set_and_later_ones_tell_only_what_changed(pings):
    pings.hold(1)
    pings.hold(2)
    assert accept(pings) == Ping(0, 1, (1, 2), ())
    assert pings.next_ping() == Ping(7)
    pings.hold(3)
    pings.let_go(1)
    assert accept(pings) == Ping(7, 2, (3,), (1,))
    assert pings.next_ping() == Ping(7)


@pytest.mark.req("PNG-3")
def test_taken_and_let_go_within_a_period_is_never_told(pings):
    pings.hold(1)
    pings.let_go(1)
    assert pings.next_ping() is None
    assert pings.finished


def test_let_go_and_taken_again_before_the_tick_stays_in_the_set(pings):
    pings.hold(1)
    accept(pings)
    pings.let_go(1)
    pings.hold(1)
    assert pings.next_ping() == Ping(7)


def test_two_holders_are_one_member(pings):
    pings.hold(1)
    pings.hold(1)
    accept(pings)
    pings.let_go(1)
    assert pings.next_ping() == Ping(7)
    pings.let_go(1)
    assert accept(pings) == Ping(7, 2, (), (1,))
    assert pings.finished


@pytest.mark.req("PNG-4")
def test_a_lost_ping_is_sent_again_as_it_was_and_changes_wait(pings):
    pings.hold(1)
    lost = pings.next_ping()
    pings.lost(lost)
    pings.hold(2)
    assert pings.next_ping() == lost
    assert pings.answered(lost, 0, 7)
    assert pings.next_ping() == Ping(7, 2, (2,), ())


@pytest.mark.req("PNG-5")
def test_an_unknown_set_is_founded_anew_with_everything_at_once(pings):
    pings.hold(1)
    pings.hold(2)
    accept(pings)
    assert pings.answered(pings.next_ping(), OR_INVALID_SET, 0)
    assert pings.next_ping() == Ping(0, 1, (1, 2), ())


@pytest.mark.req("PNG-6")
def test_an_unknown_object_costs_the_others_nothing(pings):
    pings.hold(1)
    pings.hold(2)
    accept(pings)
    pings.hold(3)
    pings.answered(pings.next_ping(), OR_INVALID_OID, 7)
    assert pings.next_ping() == Ping(7)
    assert pings.oids == {1, 2, 3}


@pytest.mark.req("PNG-6", "J5")
def test_a_ping_of_which_one_object_is_unknown_was_obeyed_in_the_rest(pings):
    pings.hold(1)
    accept(pings)
    pings.let_go(1)
    pings.hold(2)
    pings.hold(3)
    ping = pings.next_ping()
    assert (ping.add, ping.remove) == ((2, 3), (1,))
    pings.let_go(2)  # while it is under way: it is in the set by now
    pings.hold(1)  # and this one is not any more
    pings.answered(ping, OR_INVALID_OID, 7)
    again = pings.next_ping()
    assert (again.add, again.remove) == ((1,), (2,))


@pytest.mark.req("PNG-6", "PNG-14")
def test_a_resolver_that_has_just_started_is_asked_again_about_everything_in_a_new_set(pings):
    pings.hold(1)
    pings.hold(2)
    assert not pings.answered(pings.next_ping(), RPC_S_SERVER_TOO_BUSY, 0)
    assert pings.next_ping() == Ping(0, 1, (1, 2))
    assert pings.answered(pings.next_ping(), 0, 7)
    assert pings.next_ping() == Ping(7, 2, (1, 2))  # a new set skips the unknown without a word


@pytest.mark.req("PNG-7")
def test_an_emptied_set_is_forgotten_after_its_last_ping(pings):
    pings.hold(1)
    accept(pings)
    pings.let_go(1)
    assert not pings.finished
    accept(pings)
    assert pings.finished
    assert pings.next_ping() is None


def test_an_object_that_a_call_found_dead_is_not_added_again(pings):
    pings.hold(1)
    pings.object_gone(1)
    assert pings.next_ping() is None


@pytest.mark.req("PNG-4")
def test_sequence_numbers_go_round_without_passing_zero(pings):
    pings.hold(1)
    accept(pings)
    pings._sequence = 0xFFFF
    pings.hold(2)
    assert pings.next_ping().sequence == 1


def test_more_changes_than_one_ping_can_say_take_several(pings):
    for oid in range(1, MAX_CHANGES + 4_001):
        pings.hold(oid)
    first = pings.next_ping()
    assert len(first.add) == MAX_CHANGES <= 0xFFFF
    assert pings.answered(first, 0, 7)
    assert len(pings.next_ping().add) == 4_000


class AgainstAResolver(RuleBasedStateMachine):
    """Whatever is lost or forgotten, an undisturbed round ends with the resolver knowing what is held."""

    def __init__(self):
        super().__init__()
        self.pings, self.held, self.server, self.next_id = ClientPingSet(), [], {}, 1

    def deliver(self, ping):
        if ping.simple:
            return (0, ping.set_id) if ping.set_id in self.server else (OR_INVALID_SET, 0)
        set_id = ping.set_id
        if set_id == 0:
            set_id, self.next_id = self.next_id, self.next_id + 1
            self.server[set_id] = set()
        elif set_id not in self.server:
            return OR_INVALID_SET, 0
        self.server[set_id] |= set(ping.add)
        self.server[set_id] -= set(ping.remove)
        return 0, set_id

    @rule(oid=st.integers(1, 4))
    def hold(self, oid):
        self.pings.hold(oid)
        self.held.append(oid)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def let_go(self, data):
        oid = data.draw(st.sampled_from(self.held))
        self.pings.let_go(oid)
        self.held.remove(oid)

    @rule(request_lost=st.booleans())
    def a_ping_without_answer(self, request_lost):
        ping = self.pings.next_ping()
        if ping is not None:
            if not request_lost:
                self.deliver(ping)
            self.pings.lost(ping)

    @rule()
    def the_resolver_forgets(self):
        self.server.clear()

    @rule()
    def a_round(self):
        for _ in range(4):
            ping = self.pings.next_ping()
            if ping is None or not self.pings.answered(ping, *self.deliver(ping)):
                break
        if self.held:
            assert self.server[self.pings.set_id] == set(self.held)
        else:
            assert self.pings.finished

    @invariant()
    def it_holds_what_is_held(self):
        assert self.pings.oids == set(self.held)


TestAgainstAResolver = AgainstAResolver.TestCase
