"""A child of a fork has none of its parent's sockets: they end in it at once, and live on in the parent."""

import json
import os
import socket
from contextlib import ExitStack

import pytest

from oxid.runtime import forks


def in_a_child(work):
    """Fork, and give what `work()` says in the child."""
    heard, told = os.pipe()
    child = os.fork()
    if not child:
        try:
            said = json.dumps(work())
        except BaseException as error:
            said = json.dumps(f"failed: {error!r}")
        os.write(told, said.encode())
        os._exit(0)
    os.close(told)
    with os.fdopen(heard) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text)


class Owner:
    def __init__(self, *descriptors):
        self.mine = descriptors
        self.forked = 0

    def descriptors(self):
        return self.mine

    def after_fork(self):
        self.forked += 1


@pytest.fixture
def pair():
    with ExitStack() as stack:
        here, there = socket.socketpair()
        stack.enter_context(here)
        stack.enter_context(there)
        there.settimeout(5)
        yield here, there


@pytest.fixture
def watched(request):
    owners = []

    def watch(owner):
        forks.watch(owner)
        owners.append(owner)
        return owner

    yield watch
    for owner in owners:
        forks.forget(owner)


def tried(here):
    """What becomes of a word over a socket."""
    try:
        return here.send(b"from the child")
    except OSError as error:
        return type(error).__name__


@pytest.mark.req("B29")
def test_a_child_cannot_speak_on_the_sockets_of_its_parent_who_goes_on(pair, watched):
    here, there = pair
    owner = watched(Owner(here.fileno()))
    said = in_a_child(lambda: [tried(here), owner.forked, os.readlink(f"/proc/self/fd/{here.fileno()}")])
    assert said == ["OSError", 1, "/dev/null"]
    assert owner.forked == 0
    here.send(b"from the parent")
    assert there.recv(99) == b"from the parent"


@pytest.mark.req("B29")
def test_a_parent_that_hangs_up_is_gone_though_its_child_lives(pair, watched):
    here, there = pair
    watched(forks.Sockets([here.fileno(), -1]))  # -1: closed already
    release, wait = os.pipe()
    child = os.fork()
    if not child:
        os.close(wait)
        os.read(release, 1)
        os._exit(0)
    os.close(release)
    try:
        here.close()
        assert there.recv(99) == b""
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    finally:
        os.close(wait)
        os.waitpid(child, 0)


def test_whoever_is_not_watched_any_more_keeps_its_sockets(pair, watched):
    here, there = pair
    owner = watched(Owner(here.fileno()))
    forks.forget(owner)
    forks.forget(owner)
    assert in_a_child(lambda: [tried(here), owner.forked]) == [len(b"from the child"), 0]
    assert there.recv(99) == b"from the child"


def test_a_child_may_have_sockets_of_its_own_which_its_own_children_do_not_have(pair, watched):
    here, _ = pair
    owner = watched(Owner(here.fileno()))

    def child():
        mine, other = socket.socketpair()
        forks.watch(forks.Sockets([mine.fileno()]))
        in_grandchild = in_a_child(lambda: [tried(mine), owner.forked])
        return [in_grandchild, tried(mine), len(other.recv(99))]

    word = len(b"from the child")
    assert in_a_child(child) == [["OSError", 1], word, word]


def test_what_a_child_starts_does_not_get_the_number_either(pair, watched):
    here, _ = pair
    watched(Owner(here.fileno()))
    assert in_a_child(lambda: os.get_inheritable(here.fileno())) is False
