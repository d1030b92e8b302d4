"""Every way in which a tunnel ends: all of it is given back, once. T1 to T20"""

from __future__ import annotations

import gc
import weakref

import pytest
from tests.support.tunnel_world import TunnelWorld, pdu

from oxid.tunnel import rts as r
from oxid.tunnel.ends import End
from oxid.tunnel.options import TunnelOptions

OPEN = {"virtual_connection": 4, "tunnel_channel": 6}


@pytest.fixture
def world():
    world = TunnelWorld(options=TunnelOptions(receive_window=8 << 10), recording=True)
    yield world
    world.close()


def at_rest(world, client):
    assert not world.live(), world.live()
    assert len(client.lost) == 1
    assert len(world.servers[0].lost) == 1
    table = world.tables[0].statistics()
    assert sum(count for name, count in table.items() if name.startswith("end_")) == 2
    assert sum(count for name, count in table.items() if name.startswith("channel_end_")) == 2
    for _, _, shell in client.requests:
        assert [event[0] for event in shell.events if isinstance(event, tuple)].count("finished") == 1


@pytest.mark.req("T1", "T2", "T3", "RH-100", "RH-101", "RH-102")
@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize(
    "which", [(True,), (False,), (True, False)], ids=["T1 IN only", "T2 OUT only", "T3 both"]
)
def test_the_client_closes(world, which, how):
    client = world.open()
    for is_in in which:
        getattr(client.ends(is_in=is_in)[0], how)()
    world.settle()
    at_rest(world, client)


@pytest.mark.req("T4", "T17", "RH-23")
def test_a_body_that_ends_early_is_a_close(world):
    """T4, T17: in the middle of a PDU."""
    client = world.open()
    end = client.ends(is_in=True)[0]
    end.write(pdu(bytes(100))[:50])
    end.close()
    world.settle()
    at_rest(world, client)


@pytest.mark.req("T5", "T6", "RH-100")
@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("is_in", [True, False])
def test_the_server_closes_one_connection(world, is_in, how):
    """T5, T6"""
    client = world.open()
    getattr(client.shells(is_in=is_in)[0].server_end.other, how)()
    world.settle()
    at_rest(world, client)


@pytest.mark.req("T8", "T9", "RH-55", "AB-4")
@pytest.mark.parametrize("at", ["in-proxy from server", "out-proxy from client"])
def test_an_rpc_pdu_from_the_wrong_side_ends_the_tunnel(world, at):
    """T8, T9, RH-55"""
    client = world.open()
    if at == "in-proxy from server":
        client.shells(is_in=True)[0].server_end.other.write(pdu(b"?"))
    else:
        client.ends(is_in=False)[0].write(pdu(b"?"))
    world.settle()
    at_rest(world, client)
    assert world.tables[0].statistics()["end_protocol_error"] == 1


@pytest.mark.req("T10", "AB-4")
@pytest.mark.parametrize("is_in", [True, False])
def test_a_protocol_error_at_the_server_ends_the_tunnel(world, is_in):
    """T10"""
    client = world.open()
    client.shells(is_in=is_in)[0].server_end.write(r.conn_b3(65536))
    world.settle()
    at_rest(world, client)
    assert world.server.statistics()["end_protocol_error"] == 1


@pytest.mark.req("T16")
def test_a_proxy_that_stops_ends_everything(world):
    """T16"""
    client = world.open()
    world.tables[0].shut_down()
    world.settle()
    at_rest(world, client)
    assert world.tables[0].statistics()["end_shut_down"] == 2


def test_a_server_that_stops_ends_everything(world):
    client = world.open()
    world.server.shut_down()
    world.settle()
    at_rest(world, client)


@pytest.mark.req("T18")
def test_a_shell_that_failed_ends_its_virtual_connection_alone(world):
    """T18"""
    client, other = world.open(), world.open()
    client.shells(is_in=True)[0].machine.shut_down()
    world.settle()
    assert len(client.lost) == 1
    assert not other.lost
    assert world.live() == OPEN


@pytest.mark.req("T20")
@pytest.mark.parametrize("steps", range(1, 40))
def test_a_client_that_gives_up_at_any_moment_leaves_nothing(steps):
    """T20"""
    world = TunnelWorld(seed=steps)
    client = world.open(settle=False)
    for _ in range(steps):
        world.step()
    client.tunnel.abort()
    world.settle()
    assert not world.live() or world.server.half_open or world.tables[0].channels
    world.advance(1000)
    assert not world.live()
    assert len(client.failures) + len(client.lost) == 1
    world.close()


@pytest.mark.req("RH-101")
def test_ends_are_heard_once_however_often_they_are_told(world):
    client = world.open()
    leg = client.requests_in()[0][0]
    machine = client.shells(is_in=True)[0].machine
    client.tunnel.abort()
    for _ in range(2):
        leg.closed(None)
        machine.closed(None)
        machine.shut_down()
        machine.connect_failed()
        client.tunnel.close()
        client.tunnel.write(pdu(b"late"))
        client.tunnel.writelines([pdu(b"late")])
    world.settle()
    at_rest(world, client)


@pytest.mark.req("RH-103")
def test_sessions_are_listed_without_their_cookies(world):
    client = world.open()
    rows = world.tables[0].sessions()
    assert {row["direction"] for row in rows} == {"inbound", "outbound"}
    assert all(row["identity"] == "alice" and row["state"] == "opened" for row in rows)
    assert client.tunnel.cookie.hex() not in repr(rows) + repr(client.tunnel) + repr(world.servers[0].duplex)


def test_a_client_may_change_the_keep_alive(world):
    client = world.open()
    client.tunnel.keep_alive(90)
    world.settle()
    assert client.shells(is_in=True)[0].events[-1] == ("keep_alive", 90.0)


def test_more_pings_than_a_proxy_can_have_sent_are_an_error(world):
    """[MS-RPCH] 2.2.3.5.15: eight KiB in four minutes."""
    client = world.open()
    end = client.shells(is_in=False)[0].server_end
    end.write(r.ping_notify(8192))
    world.settle()
    assert not client.lost
    end.write(r.ping_notify(1))
    world.settle()
    at_rest(world, client)


@pytest.mark.req("RH-101", "RH-102")
def test_what_has_ended_is_freed_without_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        world = TunnelWorld(options=TunnelOptions(channel_lifetime=128 << 10), proxies=2)
        client = world.open()
        server = world.servers[0]
        server.echo = True
        for at in range(100):
            client.send(b"%d" % at * 1000)
            world.settle()
        assert client.tunnel.recycled > 2
        things = [
            client.tunnel,
            server.duplex,
            *(leg for leg, _, _ in client.requests),
            *world.server.channels,
            *(channel for table in world.tables for channel in table.channels),
            *(
                entry
                for table in world.tables
                for entry in (*table.inbound.values(), *table.outbound.values())
            ),
        ]
        references = [weakref.ref(thing) for thing in things]
        assert len(references) > 12
        client.tunnel.abort()
        world.settle()
        world.ends.clear()
        world.clients.clear()
        world.servers.clear()
        things.clear()
        del client, server
        assert [reference() for reference in references if reference() is not None] == []
        world.close()
    finally:
        gc.enable()


@pytest.mark.req("RH-101")
def test_an_end_that_is_called_again_changes_no_count(world):
    client = world.open()
    entries = [*world.tables[0].inbound.values(), *world.tables[0].outbound.values()]
    connection = world.servers[0].duplex
    for _ in range(2):
        for entry in entries:
            entry.end(End.SHUT_DOWN)
        connection.end(End.SHUT_DOWN)
        client.tunnel.end(End.CLOSED)
    world.settle()
    at_rest(world, client)
