"""Every PDU in every state, from every side: what is not expected ends everything, once. RH-51, AB-4"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.tunnel_world import RawRequest, Silent, TunnelWorld, pdu

from oxid.tunnel import rts as r
from oxid.tunnel.options import TunnelOptions
from oxid.tunnel.rts import Destination

VC, C1, C2, GROUP = b"v" * 16, b"1" * 16, b"2" * 16, b"g" * 16

PDUS: dict[str, bytes] = {
    "RPC": pdu(b"rpc"),
    "CONN/A1": r.conn_a1(VC, C1, 65536),
    "CONN/A2": r.conn_a2(VC, C1, 1 << 30, 65536),
    "CONN/A3": r.conn_a3(120_000),
    "CONN/B1": r.conn_b1(VC, C1, 1 << 30, 300_000, GROUP),
    "CONN/B2": r.conn_b2(VC, C1, 65536, 120_000, GROUP, r.client_address("1.2.3.4")),
    "CONN/B3": r.conn_b3(65536),
    "CONN/C": r.conn_c(65536, 120_000),
    "IN/A1": r.in_a1(VC, C1, C2),
    "IN_R1/A2": r.in_r1_a2(VC, C1, C2, 65536, 120_000),
    "IN_R1/A4": r.in_r1_a3(65536, 120_000),
    "IN_R2/A4": r.IN_R2_A3,
    "cookie": r.one_cookie(C2),
    "IN_R1/B1": r.IN_R1_B1,
    "IN_R1/B2": r.in_r1_b2(65536),
    "OUT/A1": r.OUT_A1,
    "OUT/A3": r.out_a3(VC, C1, C2, 65536),
    "OUT_R1/A4": r.out_r1_a4(VC, C1, C2, 1 << 30, 65536, 120_000),
    "OUT_R1/A6": r.out_r1_a5(120_000),
    "OUT/A8": r.out_r1_a7(C2),
    "OUT_R2/A7": r.out_r2_a7(C2),
    "ANCE": r.OUT_R1_A9,
    "OUT_R2/A6": r.OUT_R2_A5,
    "OUT_R2/B2": r.OUT_R2_B2,
    "OUT_R2/B3": r.OUT_R2_B3,
    "OUT_R2/C1": r.OUT_R2_C1,
    "keep-alive": r.keep_alive(60_000),
    "ping notify": r.ping_notify(1040),
    "echo": r.ECHO,
    "ping": r.PING,
    "ack": r.ack(0, 65536, C1),
    "ack to client": r.ack_forwarded(Destination.CLIENT, 0, 65536, C1),
    "ack to in-proxy": r.ack_forwarded(Destination.IN_PROXY, 0, 65536, C1),
    "ack to out-proxy": r.ack_forwarded(Destination.OUT_PROXY, 0, 65536, C1),
    "ack to server": r.ack_forwarded(Destination.SERVER, 0, 65536, C1),
}


class Bench:
    """One proxy machine between a client and a server that are played by hand."""

    def __init__(self, *, is_in: bool) -> None:
        self.world = TunnelWorld(options=TunnelOptions(receive_window=64 << 10), pieces="whole")
        self.world.no_server = True
        self.table = self.world.tables[0]
        self.is_in = is_in
        self.server: Any = None
        self.client = self.successor = self.request()

    def request(self) -> RawRequest:
        return RawRequest(self.world, "alice", "server:593", is_in=self.is_in)

    def begin(self, first: bytes) -> None:
        self.client.first(first)
        self.world.settle()
        self.server = self.client.shell.server_end.other

    def from_client(self, data: bytes, request: RawRequest | None = None) -> None:
        (request or self.client).mine.write(data)
        self.world.settle()

    def from_server(self, data: bytes) -> None:
        self.server.write(data)
        self.world.settle()

    @property
    def over(self) -> bool:
        return not self.table.inbound and not self.table.outbound


def in_start() -> Bench:
    return Bench(is_in=True)


def in_b3w() -> Bench:
    bench = Bench(is_in=True)
    bench.begin(PDUS["CONN/B1"])
    return bench


def in_opened() -> Bench:
    bench = in_b3w()
    bench.from_server(PDUS["CONN/B3"])
    return bench


def in_b2w() -> Bench:
    bench = Bench(is_in=True)
    bench.begin(PDUS["IN/A1"])
    return bench


def in_a5w() -> Bench:
    bench = in_opened()
    bench.from_client(PDUS["IN/A1"], bench.request())
    return bench


def out_start() -> Bench:
    return Bench(is_in=False)


def out_c1w() -> Bench:
    bench = Bench(is_in=False)
    bench.begin(PDUS["CONN/A1"])
    return bench


def out_opened() -> Bench:
    bench = out_c1w()
    bench.from_server(PDUS["CONN/C"])
    return bench


def out_a11w() -> Bench:
    bench = Bench(is_in=False)
    bench.begin(PDUS["OUT/A3"])
    return bench


def out_b1_or_c1w() -> Bench:
    bench = out_opened()
    bench.successor = bench.request()
    bench.from_client(PDUS["OUT/A3"], bench.successor)
    return bench


def out_b1w() -> Bench:
    bench = out_b1_or_c1w()
    bench.from_client(PDUS["OUT_R2/C1"], bench.successor)
    return bench


def out_r2c1w() -> Bench:
    bench = out_b1_or_c1w()
    bench.from_server(PDUS["ANCE"])
    bench.client = bench.successor
    return bench


FORWARDED = {"ack to server", "ack to out-proxy", "OUT/A8", "OUT_R2/A7"}
ACKS = {"ack", "ack to out-proxy"}
TO_CLIENT = {"ack to client", "IN_R1/A4", "IN_R2/A4"}
IN_CLIENT = FORWARDED | {"ping", "keep-alive", "RPC"}

Allowed = set[str]
STATES: list[tuple[Callable[[], Bench], Allowed, Allowed | None]] = [
    (in_start, {"CONN/B1", "IN/A1"}, None),
    (in_b3w, IN_CLIENT | {"cookie"}, {"CONN/B3"}),  # A5 waits for the answer
    (in_b2w, IN_CLIENT | {"cookie"}, {"IN_R1/B2", "ack", "ack to in-proxy"}),
    (in_opened, IN_CLIENT, {"ack", "ack to in-proxy"}),  # A5 ends it as it should
    (in_a5w, IN_CLIENT | {"cookie"}, {"ack", "ack to in-proxy"}),
    (out_start, {"CONN/A1", "OUT/A3"}, None),
    (out_c1w, set(), ACKS | TO_CLIENT | {"CONN/C"}),
    (out_opened, set(), ACKS | TO_CLIENT | {"RPC", "OUT/A1", "OUT_R1/A6"}),  # A9 ends it as it should
    (out_a11w, {"ANCE"}, ACKS | TO_CLIENT | {"RPC", "OUT/A1"}),
    (out_b1_or_c1w, set(), ACKS | TO_CLIENT | {"RPC", "ANCE", "OUT_R2/A6"}),
    (out_b1w, set(), ACKS | TO_CLIENT | {"RPC", "ANCE", "OUT_R2/B2"}),
    (out_r2c1w, {"OUT_R2/C1"}, ACKS | TO_CLIENT | {"RPC", "OUT/A1"}),
]
ENDS_WELL = {("in_opened", "client", "cookie"), ("out_opened", "server", "ANCE")}


@pytest.mark.req("RH-51", "RH-53", "RH-55", "AB-4")
@pytest.mark.parametrize(("state", "client", "server"), STATES, ids=[state[0].__name__ for state in STATES])
def test_every_pdu_in_a_proxys_state(state, client, server):
    for side, allowed, name in (
        (side, allowed, name)
        for side, allowed in (("client", client), ("server", server))
        if allowed is not None
        for name in PDUS
    ):
        bench = state()
        send = bench.from_client if side == "client" else bench.from_server
        send(PDUS[name])
        if name in allowed:
            assert not bench.table.ends, f"{name} from {side}: {bench.table.statistics()}"
        elif (state.__name__, side, name) in ENDS_WELL:
            assert bench.over
            assert bench.table.statistics()["end_recycled"] == 1
        else:
            assert bench.over, f"{name} from {side}"
            causes = bench.table.statistics()
            if state in (in_start, out_start):
                assert causes["channel_end_protocol_error"] == 1
            else:
                assert causes["end_protocol_error"] == bench.table.ends.total() == 1
                assert not bench.world.world.ledger.virtual_connection.live
        bench.world.close()


# The server -----------------------------------------------------------------------------------------------


class ServerBench:
    """The server's machine between two proxies that are played by hand."""

    def __init__(self) -> None:
        self.world = TunnelWorld(pieces="whole")
        self.table = self.world.server
        self.ends: dict[str, Any] = {}

    def connect(self, name: str, first: bytes) -> None:
        mine, server = self.world.pipe()
        mine.leg = Silent()
        server.leg = self.table.accept(server)
        self.ends[name] = mine
        self.send(name, first)

    def send(self, name: str, data: bytes) -> None:
        self.ends[name].write(data)
        self.world.settle()

    @property
    def connection(self) -> Any:
        return next(iter(self.table.connections.values()))


def a2w() -> ServerBench:
    bench = ServerBench()
    bench.connect("in", PDUS["CONN/B2"])
    return bench


def b2w() -> ServerBench:
    bench = ServerBench()
    bench.connect("out", PDUS["CONN/A2"])
    return bench


def opened() -> ServerBench:
    bench = a2w()
    bench.connect("out", PDUS["CONN/A2"])
    return bench


def a6w() -> ServerBench:
    bench = opened()
    bench.connect("in successor", PDUS["IN_R1/A2"])
    return bench


def b1w() -> ServerBench:
    bench = a6w()
    bench.send("in", PDUS["cookie"])
    return bench


def a4w() -> ServerBench:
    bench = opened()
    bench.connection._recycle()
    return bench


def a8w() -> ServerBench:
    bench = a4w()
    bench.connect("out successor", PDUS["OUT_R1/A4"])
    return bench


def r2a8w() -> ServerBench:
    bench = a4w()
    bench.send("out", PDUS["cookie"])
    return bench


PASSED_ON = {"ack to client", "ack to out-proxy", "IN_R1/A4", "IN_R2/A4", "OUT/A1", "OUT_R1/A6", "OUT_R2/A6"}
SERVER_IN = PASSED_ON | {"RPC"}
SERVER_OUT = {"ack", "ping notify", "ack to in-proxy"}
SERVER_STATES: list[tuple[Callable[[], ServerBench], dict[str, Allowed]]] = [
    (a2w, {"in": set()}),
    (b2w, {"out": {"ack", "ping notify"}}),
    (opened, {"in": SERVER_IN | {"cookie"}, "out": SERVER_OUT}),
    (a6w, {"in": SERVER_IN | {"cookie"}, "out": SERVER_OUT, "in successor": PASSED_ON}),
    (b1w, {"in": SERVER_IN | {"IN_R1/B1"}, "out": SERVER_OUT, "in successor": PASSED_ON}),
    (a4w, {"in": SERVER_IN | {"cookie"}, "out": SERVER_OUT | {"cookie"}}),
    (
        a8w,
        {"in": SERVER_IN | {"cookie", "OUT/A8", "OUT_R2/A7"}, "out": SERVER_OUT, "out successor": set()},
    ),
    (r2a8w, {"in": SERVER_IN | {"cookie", "OUT/A8", "OUT_R2/A7"}, "out": SERVER_OUT}),
]


@pytest.mark.req("RH-51", "RH-53", "AB-4")
@pytest.mark.parametrize(
    ("state", "sides"), SERVER_STATES, ids=[state[0].__name__ for state in SERVER_STATES]
)
def test_every_pdu_in_a_servers_state(state, sides):
    for side, allowed, name in ((side, sides[side], name) for side in sides for name in PDUS):
        bench = state()
        bench.send(side, PDUS[name])
        if name in allowed:
            assert not bench.table.ends, (side, name, bench.table.statistics())
        else:
            assert bench.table.statistics()["end_protocol_error"] == bench.table.ends.total() == 1, (
                side,
                name,
            )
            assert not bench.table.connections
            assert not bench.table.channels
        bench.world.close()


@pytest.mark.req("RH-53")
def test_a_connections_first_pdu_at_the_server():
    for name in PDUS:
        bench = ServerBench()
        bench.connect("new", PDUS[name])
        assert bool(bench.table.channels) is (name in ("CONN/A2", "CONN/B2")), name
        bench.world.close()


# The client -----------------------------------------------------------------------------------------------


CLIENT_STATES: dict[str, set[str]] = {
    "response": {"CONN/A3"},
    "C2W": {"CONN/C"},
    "opened": {"RPC", "OUT/A1"},
    "A6W": {"RPC", "OUT_R1/A6", "OUT_R2/A6"},
}


@pytest.mark.req("RH-51", "RH-60", "AB-4")
@pytest.mark.parametrize("state", CLIENT_STATES)
def test_every_pdu_in_a_clients_state(state):
    for name in PDUS:
        world = TunnelWorld(pieces="whole")
        if state in ("response", "C2W"):
            client = world.open(settle=False)
            while len(client.requests) < 2:
                world.tasks.pop(0)()
            leg = client.requests_out()[0][0]
            leg.responded()
            if state == "C2W":
                leg.receive(PDUS["CONN/A3"])
        else:
            client = world.open()
            leg = client.requests_out()[0][0]
            if state == "A6W":
                leg.receive(PDUS["OUT/A1"])
                world.tasks.pop()()
        leg.receive(PDUS[name])
        fine = name in CLIENT_STATES[state] | {"ping", "ack to client"}
        assert client.tunnel.over is not fine, name
        world.close()


@pytest.mark.req("AB-4")
def test_b3_twice_or_a_late_c2_ends_the_tunnel():
    for name in ("CONN/B3", "CONN/C"):
        world = TunnelWorld()
        client = world.open()
        shell = client.shells(is_in=name == "CONN/B3")[0]
        shell.server_end.other.write(PDUS[name])
        world.settle()
        assert len(client.lost) == 1
        assert not world.live()
        world.close()
