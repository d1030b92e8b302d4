"""Context handles and their rundown. rpce.md §4"""

from __future__ import annotations

import pytest

from oxid.errors import StatusError
from oxid.rpc.association import NULL_HANDLE
from oxid.rpc.limits import Limits
from oxid.testing.raw_rpc import ECHO_ID, TurnedServer, bind, echo_registration, element, request

MISMATCH = 0x1C00001A


class Keeper:
    """Opens, finds and closes handles; operation 3 opens one inside a call that runs on."""

    def __init__(self, **options):
        self.ran_down = []
        self.limits = Limits(**options)
        self.server = TurnedServer(limits=self.limits, registration=echo_registration(self.answer))

    def answer(self, call):
        if call.opnum == 0:
            return bytearray(24) + call.open_handle("state", self.ran_down.append)
        if call.opnum == 1:
            return bytearray(24) + call.handle(call.stub).encode()
        if call.opnum == 2:
            call.close_handle(call.stub)
            return bytearray(24) + NULL_HANDLE

        async def later():
            return bytearray(24)

        return later()


def ask(connection, opnum, stub=b"", call_id=2):
    (answer,) = connection.take(request(stub, opnum=opnum, call_id=call_id))
    return answer


@pytest.mark.req("rpce§4.handle")
def test_a_handle_is_twenty_bytes_that_lead_back_to_the_state():
    keeper = Keeper()
    connection = keeper.server.bound()
    wire = ask(connection, 0).stub
    assert len(wire) == 20
    assert wire[:4] == bytes(4)
    assert ask(connection, 1, wire).stub == b"state"
    assert ask(connection, 2, wire).stub == NULL_HANDLE
    assert ask(connection, 1, wire).status == MISMATCH
    connection.closed()
    assert keeper.ran_down == []


@pytest.mark.req("rpce§4.scope")
def test_handles_belong_to_the_association_not_to_the_connection():
    keeper = Keeper()
    first = keeper.server.bound()
    wire = ask(first, 0).stub
    second = keeper.server.connect()
    second.take(bind(element(), group=first.association.group_id))
    assert ask(second, 1, wire).stub == b"state"
    stranger = keeper.server.bound()
    assert ask(stranger, 1, wire).status == MISMATCH
    first.closed()
    assert keeper.ran_down == []
    second.closed()
    assert keeper.ran_down == ["state"]


@pytest.mark.req("rpce§4.rundown")
def test_rundown_waits_for_the_last_call_and_happens_once(monkeypatch):
    keeper = Keeper()
    connection = keeper.server.bound()
    ask(connection, 0)
    connection.take(request(opnum=3, call_id=3))
    monkeypatch.setattr(type(connection), "cancel_call", lambda self, running: None)
    connection.closed()
    assert keeper.ran_down == []
    connection.run(3)
    assert keeper.ran_down == ["state"]
    assert not any(keeper.server.world.ledger.live().values())


@pytest.mark.req("rpce§4.bound", "rpce§8")
def test_handles_are_limited():
    keeper = Keeper(max_handles=1)
    connection = keeper.server.bound()
    ask(connection, 0)
    assert ask(connection, 0).status == 0x1C010014


@pytest.mark.req("rpce§4.identity")
def test_a_handle_of_another_identity_or_interface_is_refused():
    server = TurnedServer()
    group = server.bound().association
    wire = group.open_handle(1, owner="alice", interface=ECHO_ID)
    assert group.handle(wire, owner="alice", interface=ECHO_ID).value == 1
    assert group.handle(wire, owner="alice", interface=None).value == 1
    for owner, interface in (("bob", ECHO_ID), ("alice", type(ECHO_ID)(int=1))):
        with pytest.raises(StatusError, match="mismatch"):
            group.handle(wire, owner=owner, interface=interface)


def test_a_rundown_that_fails_does_not_keep_the_others_from_running(caplog):
    server = TurnedServer()
    connection = server.bound()
    done = []
    connection.association.open_handle(1, owner=None, interface=ECHO_ID, rundown=lambda value: 1 / 0)
    connection.association.open_handle(2, owner=None, interface=ECHO_ID, rundown=done.append)
    connection.closed()
    assert done == [2]
    assert "rundown" in caplog.text
