"""A whole tunnel in memory: it opens, carries, stops carrying, pings, and is limited."""

from __future__ import annotations

import pytest
from tests.support.tunnel_world import TunnelWorld, pdu

from oxid.tunnel import rts as r
from oxid.tunnel.in_proxy import scoped_group
from oxid.tunnel.options import TunnelOptions
from oxid.tunnel.rts import Destination

OPEN = {"virtual_connection": 4, "tunnel_channel": 6}
"""Client, in-proxy, out-proxy and server each count one; each connection counts at both of its ends' machines."""


@pytest.fixture
def world():
    world = TunnelWorld(options=TunnelOptions(receive_window=8 << 10), recording=True)
    yield world
    world.close()


# Opening --------------------------------------------------------------------------------------------------


@pytest.mark.req("RH-50", "RH-51")
@pytest.mark.parametrize("seed", range(8))
def test_a_tunnel_opens_however_its_halves_race(seed):
    world = TunnelWorld(seed=seed)
    clients = [world.open(settle=False) for _ in range(3)]
    world.settle()
    assert all(client.is_open for client in clients)
    assert world.live() == {kind: 3 * count for kind, count in OPEN.items()}
    for client, server in (
        (c, s) for c in clients for s in world.servers if s.duplex.cookie == c.tunnel.cookie
    ):
        server.echo = True
        client.send(b"hello")
        world.settle()
        assert client.got == [b"hello"]
    world.close()


def test_both_halves_may_take_different_proxies():
    world = TunnelWorld(proxies=2)
    world.turn[False] = 1
    client = world.open()
    assert client.is_open
    world.servers[0].echo = True
    client.send(b"x" * 5000)
    world.settle()
    assert client.got == [b"x" * 5000]
    world.close()


def test_what_is_on_the_wire_while_a_tunnel_opens(world):
    client = world.open()
    ((leg_in, end_in, shell_in),) = client.requests_in()
    ((leg_out, end_out, shell_out),) = client.requests_out()
    cookie = client.tunnel.cookie
    options = world.options
    assert bytes(end_out.written) == r.conn_a1(cookie, leg_out.cookie, 8192)
    assert bytes(end_in.written) == r.conn_b1(
        cookie, leg_in.cookie, 1 << 30, 300_000, client.tunnel.association_group
    )
    assert bytes(shell_out.end.written) == r.conn_a3(120_000) + r.conn_c(8192, 120_000)
    assert bytes(shell_out.server_end.written) == r.conn_a2(cookie, leg_out.cookie, 1 << 30, 8192)
    assert bytes(shell_out.server_end.other.written) == r.BANNER + r.conn_c(8192, 120_000)
    assert bytes(shell_in.server_end.other.written) == r.BANNER + r.conn_b3(8192)
    assert shell_in.events == ["connect", ("keep_alive", 300.0)]
    assert shell_out.events == ["connect", ("head", options.channel_lifetime)]
    heard = world.servers[0].duplex.association_group
    assert heard == scoped_group("alice", client.tunnel.association_group)


@pytest.mark.req("RH-112", "AB-12")
def test_an_association_group_is_one_for_each_identity_that_names_it_and_the_same_from_every_proxy():
    named = bytes(range(16))
    assert scoped_group("alice", named) == scoped_group("alice", named)
    assert len(scoped_group("alice", named)) == 16
    assert scoped_group("mallory", named) != scoped_group("alice", named)
    assert scoped_group("alice", bytes(16)) != scoped_group("alice", named)


@pytest.mark.req("RH-32")
def test_a_proxy_may_be_told_to_wait_for_the_banner():
    world = TunnelWorld(options=TunnelOptions(require_banner=True), recording=True)
    client = world.open()
    assert client.is_open
    world.close()


@pytest.mark.req("RH-25")
def test_a_server_that_is_not_there_is_said_before_the_head(world):
    """T7"""
    world.connect_fails = True
    client = world.open()
    assert "6ba" in str(client.failures[0])
    assert not world.live()
    events = [shell.events for shell in client.shells(is_in=True) + client.shells(is_in=False)]
    assert any(("refuse", 1722) in found for found in events)


# Flow control ---------------------------------------------------------------------------------------------


@pytest.mark.req("RH-74", "RH-73", "AB-3")
def test_a_client_that_does_not_read_stops_the_server_and_nobody_keeps_more_than_a_window(world):
    client = world.open()
    server = world.servers[0]
    client.tunnel.pause_reading()
    sent = 0
    while server.may_write:
        server.send(b"%04d" % sent * 200)
        sent += 1
        world.settle()
    assert server.duplex.get_write_buffer_size() > 64 << 10
    outbound = next(iter(world.tables[0].outbound.values()))
    assert outbound.default.out.queued <= 8 << 10
    assert max(end.most_waiting for end in world.ends) <= 9 << 10
    assert not client.got
    client.tunnel.resume_reading()
    world.settle()
    assert client.got == [b"%04d" % at * 200 for at in range(sent)]
    assert server.may_write


@pytest.mark.req("RH-74")
def test_a_server_that_does_not_read_stops_the_client_but_not_the_other_direction(world):
    client = world.open()
    server = world.servers[0]
    server.duplex.pause_reading()
    sent = 0
    while client.may_write:
        client.send(bytes(1000))
        sent += 1
        world.settle()
    for at in range(100):
        server.send(b"%d" % at * 500)  # needs acknowledgments, which travel behind the client's data
        world.settle()
    assert len(client.got) == 100
    server.duplex.resume_reading()
    world.settle()
    assert len(server.got) == sent


@pytest.mark.req("RH-73", "AB-5")
def test_a_client_that_overruns_the_window_is_cut_off(world):
    client = world.open()
    world.servers[0].duplex.pause_reading()
    leg, end, _ = client.requests_in()[0]
    leg.sending.cookie = b""  # acknowledgments shall not surprise it
    for _ in range(60):
        end.write(pdu(bytes(4000)))
    world.settle()
    assert client.lost
    assert not world.live()
    assert world.tables[0].statistics()["end_protocol_error"] == 1


@pytest.mark.req("RH-72", "AB-6")
@pytest.mark.parametrize(("received", "window"), [(0, 0xFFFF_FFFF), (10_000_000, 8192)])
def test_a_forged_acknowledgment_ends_the_tunnel(world, received, window):
    client = world.open()
    leg = client.requests_out()[0][0]
    _, end, _ = client.requests_in()[0]
    end.write(r.ack_forwarded(Destination.OUT_PROXY, received, window, leg.cookie))
    world.settle()
    assert len(client.lost) == 1
    assert not world.live()


@pytest.mark.req("RH-60", "RH-72")
def test_an_acknowledgment_of_an_unknown_channel_is_discarded(world):
    client = world.open()
    _, end, _ = client.requests_in()[0]
    end.write(r.ack_forwarded(Destination.OUT_PROXY, 5, 5, b"?" * 16))
    end.write(r.ack_forwarded(Destination.OUT_PROXY, 5, 0xFFFF_FFFF, b"?" * 16))
    world.settle()
    assert not client.lost


@pytest.mark.req("RH-75")
def test_a_client_that_never_reads_again_is_let_go():
    """T12"""
    options = TunnelOptions(receive_window=8 << 10)
    world = TunnelWorld(options=options)
    client = world.open()
    client.tunnel.pause_reading()
    for _ in range(40):
        world.servers[0].send(bytes(1000))
    world.advance(100)
    assert world.live() == OPEN
    world.advance(25)
    assert not world.live()
    assert world.tables[0].statistics()["end_stalled"] == 1
    world.close()


def test_a_close_waits_until_what_was_written_is_sent(world):
    client = world.open()
    server = world.servers[0]
    for at in range(60):
        server.send(b"%d" % at * 1000)
    server.duplex.close()
    assert not server.duplex.is_closing()
    world.settle()
    assert len(client.got) > 50  # the rest was at the proxies, which close with the server
    assert len(client.lost) == 1
    assert server.lost == [None]
    assert not world.live()


def test_a_flood_of_forwarded_pdus_stops_the_reading_of_where_it_comes_from(world):
    client = world.open()
    shell = client.shells(is_in=False)[0]
    shell.machine.writable(False)
    assert shell.server_end.paused
    shell.machine.writable(True)
    assert not shell.server_end.paused


# Time -----------------------------------------------------------------------------------------------------


@pytest.mark.req("RH-90", "RH-91")
@pytest.mark.parametrize("period", [120.0, 1.0])
def test_an_idle_tunnel_lives_on_pings(period):
    world = TunnelWorld(options=TunnelOptions(period=period), recording=True)
    client = world.open()
    _, end_in, _ = client.requests_in()[0]
    _, end_out, shell = client.requests_out()[0]
    before_in, before_out = len(end_in.written), len(end_out.other.written)
    world.advance(3 * period)
    assert world.live() == OPEN
    pings_in, pings_out = bytes(end_in.written[before_in:]), bytes(end_out.other.written[before_out:])
    assert pings_in == r.PING * (len(pings_in) // 20)
    assert 4 <= len(pings_in) // 20 <= 7
    assert pings_out == r.PING * (len(pings_out) // 20)
    assert 9 <= len(pings_out) // 20 <= 13
    assert len(shell.server_end.written) == 84  # nothing but A2: too few pings to tell of
    world.close()


@pytest.mark.req("RH-90")
def test_the_server_hears_of_pings_when_they_are_many():
    world = TunnelWorld(recording=True)
    client = world.open()
    shell = client.shells(is_in=False)[0]
    spent = world.servers[0].duplex._channel.spent
    world.advance(53 * 30 + 10)
    assert bytes(shell.server_end.written).endswith(r.ping_notify(1040))
    assert world.servers[0].duplex._channel.spent == spent + 1040
    world.close()


def test_a_tunnel_in_use_is_not_pinged():
    world = TunnelWorld(recording=True)
    client = world.open()
    world.servers[0].echo = True
    for _ in range(30):
        client.send(b"x")
        world.advance(20)
    written = client.ends(is_in=True)[0].written + client.ends(is_in=False)[0].other.written
    assert r.PING not in written
    world.close()


@pytest.mark.req("RH-91")
def test_a_client_that_vanished_is_missed():
    """T11: the in-proxy hears no ping."""
    world = TunnelWorld()
    client = world.open()
    for end in (*client.ends(is_in=True), *client.ends(is_in=False)):
        end.leg = None  # its host is gone: nothing is read
    world.deadlines.drop(client.tunnel)  # nor sent
    world.advance(245)
    assert world.tables[0].statistics()["end_idle"] == 1
    assert not len(world.tables[0].inbound) + len(world.tables[0].outbound)
    assert not world.server.connections
    for leg, _, _ in client.requests:
        leg.closed(None)
    world.close()


def test_a_client_misses_an_out_proxy_that_vanished():
    world = TunnelWorld()
    client = world.open()
    shell = client.shells(is_in=False)[0]
    world.tables[0].deadlines.drop(shell.machine)
    world.advance(245)
    assert len(client.lost) == 1
    assert "nothing came" in str(client.lost[0])
    world.close()


@pytest.mark.req("AB-2")
@pytest.mark.parametrize("is_in", [True, False])
def test_a_request_without_its_first_pdu_is_let_go(world, is_in):
    client = world.open()
    stray = client.request_of("alice", is_in=is_in)
    stray.first(r.conn_b1(b"v" * 16, b"c" * 16, 1 << 30, 300_000, b"g" * 16)[:60])
    world.advance(29)
    assert not stray.gone
    world.advance(3)
    assert len(stray.gone) == 1
    assert ("finished", "idle") in stray.shell.events


@pytest.mark.req("AB-2")
def test_the_rest_of_a_pdu_must_come_in_time(world):
    client = world.open()
    end = client.ends(is_in=True)[0]
    world.deadlines.drop(client.tunnel)
    end.write(pdu(bytes(500))[:100])
    world.advance(100)
    assert world.live() == OPEN
    for _ in range(15):  # a byte every ten seconds does not help
        end.write(b"\0")
        world.advance(10)
    assert world.tables[0].statistics()["end_idle"] == 1
    assert not world.live()


@pytest.mark.req("RH-50")
@pytest.mark.parametrize("is_in", [True, False])
def test_half_a_virtual_connection_is_freed_after_the_setup_time(is_in):
    """T15"""
    world = TunnelWorld(options=TunnelOptions(connection_timeout=14_400))
    client = world.open()
    half = client.request_of("alice", is_in=is_in)
    half.first(
        r.conn_b1(b"v" * 16, b"c" * 16, 1 << 30, 300_000, b"g" * 16)
        if is_in
        else r.conn_a1(b"v" * 16, b"c" * 16, 65536)
    )
    world.settle()
    assert world.server.half_open == 1
    world.advance(890)
    assert world.server.half_open == 1
    world.advance(15)
    assert world.server.half_open == 0
    assert world.server.statistics()["end_setup"] + world.tables[0].statistics()["end_setup"] >= 1
    assert world.live() == OPEN
    world.close()


# Who may ---------------------------------------------------------------------------------------------------


@pytest.mark.req("RH-110", "AB-11")
@pytest.mark.parametrize("is_in", [True, False])
@pytest.mark.parametrize(("identity", "target"), [("mallory", "server:593"), ("alice", "other:593")])
def test_the_other_half_needs_the_same_identity_and_target(world, is_in, identity, target):
    client = world.open()
    vc = b"v" * 16
    halves = {
        True: r.conn_b1(vc, b"c" * 16, 1 << 30, 300_000, b"g" * 16),
        False: r.conn_a1(vc, b"d" * 16, 65536),
    }
    first = client.request_of("alice", is_in=not is_in)
    first.first(halves[not is_in])
    world.settle()
    other = client.request_of(identity, is_in=is_in, target=target)
    other.first(halves[is_in])
    world.settle()
    assert other.shell.events == [("refuse", 5), ("finished", "refused")]
    assert not first.gone
    right = client.request_of("alice", is_in=is_in)
    right.first(halves[is_in])
    world.settle()
    assert len(world.servers) == 2


@pytest.mark.req("RH-52")
@pytest.mark.parametrize("is_in", [True, False])
def test_a_second_first_half_is_the_newcomers_error_alone(world, is_in):
    client = world.open()
    again = client.request_of("alice", is_in=is_in)
    again.first(
        r.conn_b1(client.tunnel.cookie, b"c" * 16, 1 << 30, 300_000, b"g" * 16)
        if is_in
        else r.conn_a1(client.tunnel.cookie, b"c" * 16, 65536)
    )
    world.settle()
    assert len(again.gone) == 1
    assert again.shell.events == [("finished", "protocol_error")]
    assert not client.lost


@pytest.mark.req("RH-52")
def test_the_same_at_the_server(world):
    client = world.open()
    mine, server = world.pipe()
    server.leg = world.server.accept(server)
    mine.write(r.conn_a2(client.tunnel.cookie, b"c" * 16, 1 << 30, 65536))
    world.settle()
    assert mine.other.ended
    assert not client.lost


@pytest.mark.req("RH-111")
@pytest.mark.parametrize("is_in", [True, False])
def test_the_cookie_of_zeros_is_nobodys(world, is_in):
    client = world.open()
    nil = client.request_of("alice", is_in=is_in)
    nil.first(
        r.conn_b1(bytes(16), b"c" * 16, 1 << 30, 300_000, b"g" * 16)
        if is_in
        else r.conn_a1(bytes(16), b"c" * 16, 65536)
    )
    world.settle()
    assert nil.shell.events == [("finished", "protocol_error")]


@pytest.mark.req("RH-115", "AB-29")
def test_half_open_ones_of_one_identity_are_limited():
    world = TunnelWorld(options=TunnelOptions(max_half_open_per_identity=3, max_connections_per_identity=5))
    client = world.open()
    requests = []
    for at in range(5):
        request = client.request_of("mallory", is_in=True)
        request.first(r.conn_b1(bytes([at + 1]) * 16, b"c" * 16, 1 << 30, 300_000, b"g" * 16))
        world.settle()
        requests.append(request)
    assert [("refuse", 1723) in request.shell.events for request in requests] == [False] * 3 + [True] * 2
    assert world.open("bob").is_open
    requests[0].mine.close()
    world.settle()
    assert world.tables[0].statistics()["inbound_half_open"] == 2
    world.close()


@pytest.mark.req("RH-115")
def test_virtual_connections_of_one_identity_are_limited_and_come_back():
    world = TunnelWorld(options=TunnelOptions(max_connections_per_identity=2))
    first, _ = world.open(), world.open()
    refused = world.open()
    assert "6bb" in str(refused.failures[0])
    assert world.open("bob").is_open
    first.tunnel.close()
    world.settle()
    assert world.open().is_open
    world.close()
