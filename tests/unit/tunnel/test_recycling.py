"""Channels are replaced while data flows: nothing is lost, doubled or reordered. [MS-RPCH] 3.2.1.5.3"""

from __future__ import annotations

import random

import pytest
from tests.support.tunnel_world import ClientEnd, RawRequest, RpcEnd, TunnelWorld, pdu

from oxid.tunnel import rts as r
from oxid.tunnel.options import TunnelOptions

SMALL = TunnelOptions(channel_lifetime=128 << 10, receive_window=8 << 10)
LARGE = TunnelOptions(channel_lifetime=256 << 10, receive_window=128 << 10)


def run_both_ways(
    world: TunnelWorld, client: ClientEnd, server: RpcEnd, count: int, *, largest: int = 5000
) -> None:
    """Send `count` PDUs in each direction while everything moves, and compare them."""
    rng = random.Random(world.random.random())
    ways = [
        (end, iter([rng.randbytes(rng.randint(0, largest)) for _ in range(count)]), peer, [])
        for end, peer in ((client, server), (server, client))
    ]
    left = [0, 1]
    while left:
        moved = world.step()
        for at in list(left):
            end, payloads, _, sent = ways[at]
            if not end.may_write or rng.random() > 0.4:
                continue
            payload = next(payloads, None)
            if payload is None:
                left.remove(at)
                continue
            end.send(payload)
            sent.append(payload)
            moved = True
        assert moved or any(ways[at][0].may_write for at in left), "nothing moves, and nobody may write"
    world.settle()
    assert not client.lost, client.lost
    for _, _, peer, sent in ways:
        assert peer.got == sent


@pytest.mark.req("RH-80", "RH-81", "RH-82", "RH-84")
@pytest.mark.parametrize("proxies", [1, 2], ids=["IN_R2 and OUT_R2", "IN_R1 and OUT_R1"])
def test_fifty_recyclings_of_both_channels_lose_nothing(proxies):
    world = TunnelWorld(seed=7, proxies=proxies, options=SMALL)
    client = world.open()
    run_both_ways(world, client, world.servers[0], 2200)
    ins, outs = client.shells(is_in=True), client.shells(is_in=False)
    assert len(ins) > 50
    assert len(outs) > 50
    assert client.tunnel.recycled == len(ins) + len(outs) - 2
    assert world.live() == {"virtual_connection": 4, "tunnel_channel": 6}
    world.close()


@pytest.mark.req("RH-81")
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("options", [SMALL, LARGE], ids=["small windows", "large windows"])
def test_any_order_of_events_gives_the_same_streams(seed, options):
    """Three proxies in turn for IN, two for OUT: R1 and R2 in all mixtures."""
    world = TunnelWorld(seed=seed, proxies=1 + seed % 3, options=options)
    if seed % 2:
        of = world.table_for
        world.table_for = lambda is_in: of(is_in) if world.random.random() < 0.5 else world.tables[0]
    client = world.open()
    run_both_ways(world, client, world.servers[0], 300, largest=8000 if options is SMALL else 60_000)
    assert client.tunnel.recycled > 4
    world.close()


@pytest.mark.req("RH-81")
def test_crumbs_change_nothing():
    world = TunnelWorld(seed=2, proxies=2, options=SMALL, pieces="crumbs")
    client = world.open()
    run_both_ways(world, client, world.servers[0], 60)
    assert client.tunnel.recycled
    world.close()


@pytest.mark.req("RH-23")
@pytest.mark.parametrize("proxies", [1, 2])
def test_no_channel_carries_more_than_it_declared(proxies):
    world = TunnelWorld(seed=5, proxies=proxies, options=SMALL, recording=True)
    client = world.open()
    run_both_ways(world, client, world.servers[0], 400)
    for end in client.ends(is_in=True):
        assert 0 < len(end.written) <= 128 << 10
    for end in client.ends(is_in=False):
        assert len(end.written) in (76, 120)
        assert len(end.other.written) <= 128 << 10
    world.close()


@pytest.mark.req("RH-80")
def test_the_head_of_a_successor_follows_the_last_bytes_of_its_predecessor():
    """OUT_R2: B3 is the predecessor's last PDU; OUT_R1: A10 is. Then the successor's 200."""
    for proxies, last in ((1, r.OUT_R2_B3), (2, r.OUT_R1_A9)):
        world = TunnelWorld(seed=3, proxies=proxies, options=SMALL, recording=True)
        client = world.open()
        run_both_ways(world, client, world.servers[0], 60)
        first, *_ = client.ends(is_in=False)
        assert bytes(first.other.written).endswith(last)
        heads = [shell.events for shell in client.shells(is_in=False)]
        assert all(events.count(("head", 128 << 10)) == 1 for events in heads[:-1])
        assert ("finished", "recycled") in heads[0]
        world.close()


@pytest.mark.req("RH-82")
def test_the_last_pdu_on_a_predecessor_in_channel_is_a5():
    world = TunnelWorld(seed=3, options=SMALL, recording=True)
    client = world.open()
    run_both_ways(world, client, world.servers[0], 60)
    first, second, *_ = client.requests_in()
    assert bytes(first[1].written).endswith(r.one_cookie(second[0].cookie))
    world.close()


@pytest.mark.req("RH-83", "AB-9")
@pytest.mark.parametrize("is_in", [True, False])
def test_another_identity_cannot_succeed_a_channel(is_in):
    world = TunnelWorld(options=SMALL)
    client = world.open("alice")
    thief = client.request_of("mallory", is_in=is_in)
    leg = client.requests_in()[0][0] if is_in else client.requests_out()[0][0]
    thief.first(
        r.in_a1(client.tunnel.cookie, leg.cookie, b"n" * 16)
        if is_in
        else r.out_a3(client.tunnel.cookie, leg.cookie, b"n" * 16, 65536)
    )
    world.settle()
    assert thief.shell.events == [("refuse", 5), ("finished", "refused")]
    run_both_ways(world, client, world.servers[0], 20)
    world.close()


@pytest.mark.req("RH-83", "RH-82")
@pytest.mark.parametrize("is_in", [True, False])
def test_a_wrong_predecessor_of_the_same_identity_ends_the_virtual_connection_once(is_in):
    world = TunnelWorld(options=SMALL)
    client = world.open("alice")
    again = client.request_of("alice", is_in=is_in)
    again.first(
        r.in_a1(client.tunnel.cookie, b"w" * 16, b"n" * 16)
        if is_in
        else r.out_a3(client.tunnel.cookie, b"w" * 16, b"n" * 16, 65536)
    )
    world.settle()
    assert len(client.lost) == 1
    assert not world.live()
    assert world.tables[0].statistics()["end_protocol_error"] == 1
    world.close()


@pytest.mark.req("AB-8")
def test_a_recycling_of_a_virtual_connection_that_is_unknown_ends_at_the_server():
    world = TunnelWorld()
    client = world.open()
    stray = client.request_of("alice", is_in=True)
    stray.first(r.in_a1(b"u" * 16, b"w" * 16, b"n" * 16))
    world.settle()
    assert ("finished", "server_closed") in stray.shell.events
    assert not client.lost
    world.close()


@pytest.mark.req("RH-60", "RH-84")
def test_a7_may_come_on_a_successor_whose_predecessor_still_drains():
    """Both directions recycle at once through other proxies; seeds that met it are here for good."""
    for seed in (1, 3, 5, 7, 9, 11):
        world = TunnelWorld(seed=seed, proxies=2, options=SMALL)
        client = world.open()
        run_both_ways(world, client, world.servers[0], 400)
        world.close()


@pytest.mark.req("T14")
def test_a_successor_that_never_comes_ends_everything_in_time():
    """T14, and the second use of the connection setup timer. [MS-RPCH] 3.2.5.5.5"""
    world = TunnelWorld(options=SMALL, proxies=2)
    client = world.open()
    stray = client.request_of("alice", is_in=True, table=1)
    leg = client.requests_in()[0][0]
    stray.first(r.in_a1(client.tunnel.cookie, leg.cookie, b"n" * 16))
    world.settle()
    # the client did not ask for this: A4 is a protocol error there
    assert len(client.lost) == 1
    assert not world.live()
    world.close()


@pytest.mark.req("RH-51")
def test_a5_with_a_wrong_cookie_closes_the_successor_alone():
    """IN_R2. [MS-RPCH] 3.2.3.5.8: back to opened, on the predecessor."""
    world = TunnelWorld(options=SMALL)
    world.no_server = True
    vc, one, two = b"v" * 16, b"1" * 16, b"2" * 16
    requests = [RawRequest(world, "alice", "server:593", is_in=True) for _ in range(3)]
    requests[0].first(r.conn_b1(vc, one, 1 << 30, 300_000, b"g" * 16))
    world.settle()
    server = requests[0].shell.server_end.other
    server.write(r.conn_b3(65536))
    world.settle()
    requests[1].first(r.in_a1(vc, one, two) + pdu(b"never sent"))
    world.settle()
    requests[0].mine.write(r.one_cookie(b"?" * 16) + pdu(b"goes on"))
    world.settle()
    assert len(requests[1].gone) == 1
    assert not requests[0].gone
    inbound = world.tables[0].inbound[vc]
    assert inbound.state_name == "opened"
    assert inbound.to_server.sent == 16 + len(b"goes on")
    requests[2].first(r.in_a1(vc, one, two))  # and it can be recycled again
    world.settle()
    assert inbound.state_name == "A5W"
    requests[2].mine.write(pdu(b"after"))
    requests[0].mine.write(pdu(b"before") + r.one_cookie(two))
    world.settle()
    assert inbound.state_name == "opened"
    assert inbound.to_server.sent == 3 * 16 + len(b"goes on" + b"before" + b"after")
    assert requests[0].shell.events[-1] == ("finished", "recycled")
    world.close()


@pytest.mark.req("RH-81")
def test_an_old_in_proxy_sends_what_waits_after_its_client_has_gone():
    """IN_R1/A5: A6, the queue as the server's window allows, B1; then it closes both sides. [MS-RPCH] 3.2.3.5.6"""
    world = TunnelWorld(options=SMALL, recording=True, pieces="whole")
    world.no_server = True
    vc, one = b"v" * 16, b"1" * 16
    request = RawRequest(world, "alice", "server:593", is_in=True)
    request.first(r.conn_b1(vc, one, 1 << 30, 300_000, b"g" * 16))
    world.settle()
    mine = request.shell.server_end
    mine.other.write(r.conn_b3(8192))
    world.settle()
    greeting = len(mine.written)
    request.mine.write(pdu(bytes(5000)) + pdu(bytes(5001)) + r.one_cookie(b"2" * 16))
    request.mine.close()
    world.settle()
    sent = bytes(mine.written[greeting:])
    assert sent.startswith(pdu(bytes(5000)))
    assert sent.endswith(r.one_cookie(b"2" * 16))
    assert not mine.ended
    mine.other.write(r.ack(5016, 8192, one))
    world.settle()
    assert bytes(mine.written[greeting:]).endswith(pdu(bytes(5001)) + r.IN_R1_B1)
    assert mine.ended
    assert request.shell.events[-1] == ("finished", "recycled")
    world.close()


@pytest.mark.req("RH-81", "RH-75")
def test_an_old_out_proxy_that_cannot_send_what_waits_is_let_go():
    """OUT_R1/A9 at a client that does not read: A10 never comes, and the stall is noticed."""
    world = TunnelWorld(options=SMALL, pieces="whole")
    world.no_server = True
    request = RawRequest(world, "alice", "server:593", is_in=False)
    request.first(r.conn_a1(b"v" * 16, b"1" * 16, 8192))
    world.settle()
    server = request.shell.server_end.other
    server.write(r.conn_c(65536, 120_000) + pdu(bytes(5000)) * 3 + r.OUT_R1_A9)
    world.settle()
    assert world.tables[0].outbound
    assert r.OUT_R1_A9 not in request.data
    world.advance(160)
    assert not world.tables[0].outbound
    assert world.tables[0].statistics()["end_stalled"] == 1
    world.close()


@pytest.mark.req("RH-73", "RH-74")
def test_recycling_again_and_again_does_not_make_a_proxy_keep_more():
    """Every new channel has a new window: what the server has not taken must not add up."""
    window = 64 << 10
    world = TunnelWorld(
        options=TunnelOptions(channel_lifetime=128 << 10, receive_window=window, recycle_at=100 << 10)
    )
    client = world.open()
    world.servers[0].duplex.pause_reading()
    for at in range(400):
        client.send(b"%d" % at * 1000)
        world.settle()
        inbound = next(iter(world.tables[0].inbound.values()))
        assert inbound.to_server.queued <= 2 * window
    world.servers[0].duplex.resume_reading()
    world.settle()
    assert world.servers[0].got == [b"%d" % at * 1000 for at in range(400)]
    world.close()


@pytest.mark.req("RH-81")
@pytest.mark.parametrize("seed", [103, 106, 107, 115, 127, 155, 183, 255, 363])
def test_recyclings_that_follow_at_once_do_not_meet_a_proxy_unprepared(seed):
    """Lifetimes shorter than a window: the next recycling begins before all have heard of the last."""
    window = (64 << 10) if seed % 4 == 2 else (256 << 10)
    world = TunnelWorld(
        seed=seed,
        proxies=1 + seed % 3,
        options=TunnelOptions(channel_lifetime=128 << 10, receive_window=window),
    )
    if seed % 2:
        of = world.table_for
        world.table_for = lambda is_in: of(is_in) if world.random.random() < 0.5 else world.tables[0]
    client = world.open()
    run_both_ways(world, client, world.servers[0], 200, largest=60_000)
    world.close()
