"""Which class objects are ready: the oldest first, for one client or for many, suspended, revoked."""

from uuid import UUID

import pytest

from oxid.errors import LocalProtocolError
from oxid.rpcss.running_classes import RunningClasses

A, B = UUID(int=1), UUID(int=2)


class Provider:
    """A process; two of them are never the same."""

    def __eq__(self, other):
        return True

    __hash__ = None


@pytest.fixture
def classes():
    return RunningClasses()


def test_the_oldest_registration_serves_until_it_is_revoked(classes):
    one, two = Provider(), Provider()
    first = classes.register(A, one)
    second = classes.register(A, two)
    assert first != second
    assert classes.take(A) is one
    assert classes.take(A) is one
    assert classes.take(B) is None
    classes.revoke(first, one)
    assert classes.take(A) is two
    classes.revoke(second, two)
    assert classes.take(A) is None
    assert (len(classes), classes.offers(A)) == (0, False)


@pytest.mark.req("ACT-6")
def test_a_registration_for_single_use_is_taken_once(classes):
    one, two = Provider(), Provider()
    used = classes.register(A, one, single_use=True)
    classes.register(A, two, single_use=True)
    assert [classes.take(A), classes.take(A)] == [one, two]
    assert classes.take(A) is None
    classes.revoke(used, one)  # used up already: nothing
    assert len(classes) == 0


@pytest.mark.req("ACT-6", "ACT-7")
def test_a_suspended_class_is_passed_over_until_it_is_resumed(classes):
    one, two = Provider(), Provider()
    classes.register(A, one, suspended=True)
    classes.register(B, one)
    assert classes.take(A) is None
    classes.register(A, two)
    assert classes.take(A) is two
    classes.suspend(one, False)
    assert classes.take(A) is one
    classes.suspend(one, True)
    assert classes.take(A) is two
    assert not classes.offers(B)
    assert classes.take(B) is None
    assert len(classes) == 3


def test_a_single_use_that_is_suspended_is_not_used_up(classes):
    one = Provider()
    classes.register(A, one, single_use=True, suspended=True)
    assert classes.take(A) is None
    classes.suspend(one, False)
    assert classes.take(A) is one
    assert classes.take(A) is None


def test_nobody_revokes_what_is_another_processs(classes):
    one, two = Provider(), Provider()
    cookie = classes.register(A, one)
    with pytest.raises(LocalProtocolError, match=f"registration {cookie} is another process's"):
        classes.revoke(cookie, two)
    assert classes.take(A) is one
    classes.revoke(cookie + 1, two)  # never given: nothing


def test_a_process_that_ends_takes_all_its_classes_along_and_no_cookie_is_given_twice(classes):
    one, two = Provider(), Provider()
    gone = [classes.register(clsid, one) for clsid in (A, B, A)]
    kept = classes.register(A, two)
    assert repr(classes) == "<RunningClasses 4 registrations of 2 classes>"
    assert classes.revoke_all(one) == 3
    assert classes.revoke_all(one) == 0
    assert (classes.take(A), classes.take(B)) == (two, None)
    assert classes.register(B, one) not in {*gone, kept}


def test_who_is_offered_may_be_judged(classes):
    one, two = Provider(), Provider()
    classes.register(A, one)
    classes.register(A, two, suspended=True)
    assert classes.offers(A, lambda provider: provider is one)
    assert not classes.offers(A, lambda provider: provider is two)
    assert not classes.offers(B)
