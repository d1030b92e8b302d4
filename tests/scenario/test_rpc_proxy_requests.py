"""What the RPC proxy says to HTTP requests, tunnels or not, at a real host. [MS-RPCH] 2.1.2; RH-20 to RH-31"""

import asyncio

import pytest
from tests.scenario.test_tunnel_sessions import port_of, started
from tests.support.host import ADMIN, PASSWORD
from tests.support.raw_tunnel import RawTunnel, Wire, head

import oxid
from oxid.com.options import ClientOptions
from oxid.errors import NotSupported
from oxid.runtime.proxy_route import ProxyRoute
from oxid.samples.ticker import CLSID_TICKER, ITicker, ITickerSink
from oxid.testing.raw_rpc import bind, element, request
from oxid.tunnel import rts


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with started(tmp_path_factory.mktemp("proxy")) as running:
        yield running


@pytest.fixture
def wire(host):
    with Wire(port_of(host, "http")) as made:
        yield made


def target(host):
    return f"127.0.0.1:{port_of(host, 'ncacn_http')}"


def body(wire, answer):
    """The body that a response's head declares."""
    length = next(
        int(line.split(b":")[1])
        for line in answer.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    while len(wire.received) < length:
        assert wire.more()
    found, wire.received = wire.received[:length], wire.received[length:]
    return found


@pytest.mark.req("RH-28")
def test_a_browser_sees_an_empty_page_where_it_may_see_anything(host, wire):
    wire.send(b"GET /rpc/rpcproxy.dll HTTP/1.1\r\nHost: gateway\r\n\r\n")
    refused = wire.head()
    assert refused.startswith(b"HTTP/1.1 401 ")
    body(wire, refused)
    wire.send(head("GET", target(host), None))
    answered = wire.head()
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert body(wire, answered) == b""
    for method in ("PUT", "DELETE", "RPC_ECHO_DATA"):
        with Wire(port_of(host, "http")) as other:
            other.send(head(method, target(host), 0))
            assert other.head().startswith((b"HTTP/1.1 501 ", b"HTTP/1.1 405 ", b"HTTP/1.1 403 ")), method


@pytest.mark.req("RH-26", "AB-20")
@pytest.mark.parametrize("method", ["RPC_IN_DATA", "RPC_OUT_DATA"])
@pytest.mark.parametrize("length", [0, 4, 16])
def test_echo_requests_are_answered_to_those_who_may_ask_and_keep_the_connection(host, wire, method, length):
    for _ in range(3):
        wire.send(
            head(method, target(host), length, user=None) + b"\xf8\xe8\x18\x08"[:length].ljust(length, b"x")
        )
        refused = wire.head()
        assert refused.startswith(b"HTTP/1.1 401 "), refused
        body(wire, refused)
    for _ in range(3):
        wire.send(head(method, target(host), length) + bytes(length))
        answered = wire.head()
        assert answered.startswith(b"HTTP/1.1 200 Success\r\n")
        assert b"content-type: application/rpc" in answered.lower()
        assert body(wire, answered) == rts.ECHO


@pytest.mark.req("RH-26", "RH-20", "AB-21")
def test_a_401_to_a_request_of_a_gigabyte_waits_for_none_of_it_and_keeps_the_connection(host, wire):
    wire.send(head("RPC_IN_DATA", target(host), 1 << 30, user=None))
    assert wire.head().startswith(b"HTTP/1.1 401 ")


@pytest.mark.req("RH-22", "AB-19")
def test_100_continue_comes_only_to_those_who_may_go_on(host):
    more = "Expect: 100-continue\r\n"
    for user, place, first in (
        (ADMIN, target(host), b"HTTP/1.1 100 "),
        (None, target(host), b"HTTP/1.1 401 "),
        (ADMIN, "127.0.0.1:1", b"HTTP/1.0 503 RPC Error: 5"),
    ):
        with Wire(port_of(host, "http")) as wire:
            wire.send(head("RPC_IN_DATA", place, 1 << 30, user=user, more=more))
            assert wire.head().startswith(first)
    with Wire(port_of(host, "http")) as wire:
        wire.send(head("RPC_IN_DATA", target(host), 1 << 30, more="Expect: 200-ok\r\n"))
        assert wire.head().startswith(b"HTTP/1.1 417 ")


@pytest.mark.req("RH-21", "AB-18")
@pytest.mark.parametrize(
    ("method", "length", "more"),
    [
        ("RPC_IN_DATA", None, "Transfer-Encoding: chunked\r\n"),
        ("RPC_OUT_DATA", None, "Transfer-Encoding: chunked\r\n"),
        ("RPC_IN_DATA", 1000, ""),
        ("RPC_IN_DATA", (1 << 31) + 1, ""),
        ("RPC_OUT_DATA", 77, ""),
        ("RPC_OUT_DATA", 1 << 30, ""),
        ("RPC_IN_DATA", 1 << 30, "Transfer-Encoding: chunked\r\n"),
    ],
)
def test_bodies_that_no_channel_has_are_refused(host, wire, method, length, more):
    wire.send(head(method, target(host), length, more=more))
    assert wire.head().startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 411 ", b"HTTP/1.1 501 "))
    assert wire.ended(5.0)


@pytest.mark.req("AB-18")
def test_what_follows_the_body_of_an_out_channel_is_never_another_request(host):
    with RawTunnel(port_of(host, "http"), target(host)) as tunnel:
        inward, outward = tunnel.open_in(), tunnel.open_out()
        outward.send(tunnel.a1() + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
        inward.send(tunnel.b1())
        tunnel.await_c2()
        tunnel.send(bind(element()))
        answer = tunnel.rpc()
        assert answer[2] in (12, 13)
        assert not outward.received
    host.wait_for_rest(5.0)


@pytest.mark.req("AB-23", "RH-114")
@pytest.mark.parametrize(
    ("path", "works"),
    [
        ("/RPC/RpcProxy.DLL", True),
        ("/rpc/rpcproxy.dll/extra", False),
        ("/rpc/rpcproxy.dll;a", False),
        ("/rpc/rpcproxy.dll::$DATA", False),
        ("/rpc/rpcproxy.dll%20", False),
        ("/rpc/rpcproxy.dll%00", False),
        ("/rpc%5crpcproxy.dll", False),
        ("/rpcproxy.dll", False),
    ],
)
def test_the_proxy_has_one_name_in_any_case(host, wire, path, works):
    wire.send(head("RPC_OUT_DATA", target(host), 0).replace(b"/rpc/rpcproxy.dll", path.encode()))
    answer = wire.head()
    assert answer.startswith(
        b"HTTP/1.1 200 " if works else (b"HTTP/1.1 400 ", b"HTTP/1.1 404 ", b"HTTP/1.1 405 ")
    ), answer


@pytest.mark.req("RH-27", "RH-3", "AB-22")
def test_without_a_word_of_its_operator_a_proxy_takes_neither_plain_http_nor_strangers(tmp_path):
    with started(tmp_path, configuration="") as host:
        with Wire(port_of(host, "http")) as wire:
            wire.send(head("RPC_IN_DATA", target(host), 1 << 30))
            assert wire.head().startswith(b"HTTP/1.1 403 ")
    with started(tmp_path, "--proxy-insecure", configuration="") as host:
        with RawTunnel(port_of(host, "http"), target(host), user=None).establish() as tunnel:
            tunnel.send(bind(element()))
            assert tunnel.rpc()
        host.wait_for_rest(5.0)


@pytest.mark.req("RH-24")
def test_nothing_of_http_comes_into_a_channel_that_runs(host):
    with RawTunnel(port_of(host, "http"), target(host)).establish() as tunnel:
        tunnel.send(bytes(100))  # no PDU
        rest = b""
        while tunnel.outward.more():
            pass
        rest = tunnel.outward.received
        assert b"HTTP" not in rest
    host.wait_for_rest(5.0)


@pytest.mark.req("RH-4")
def test_callbacks_over_a_proxy_are_refused_with_the_reason(host):
    async def run():
        way = ProxyRoute(f"http://127.0.0.1:{port_of(host, 'http')}", oxid.Password(ADMIN, PASSWORD))
        options = ClientOptions(port=port_of(host, "ncacn_http"), proxy=way, agent="own")
        async with oxid.connect("127.0.0.1", oxid.Password(ADMIN, PASSWORD), options=options) as machine:
            async with machine.activate(CLSID_TICKER, ITicker) as ticker:
                with pytest.raises(NotSupported, match="call back through an RPC proxy"):
                    async with ticker.subscribe(ITickerSink, lambda *_: None):
                        pass

    asyncio.run(run())
    host.wait_for_rest(5.0)


@pytest.mark.req("AB-13", "RH-10")
def test_fragments_beyond_what_was_agreed_end_the_tunnel_and_no_other(host):
    with RawTunnel(port_of(host, "http"), target(host)).establish() as other:
        with RawTunnel(port_of(host, "http"), target(host)).establish() as tunnel:
            tunnel.send(bind(element()))
            assert tunnel.rpc()
            tunnel.send(request(bytes(20000), opnum=0))
            assert not tunnel.rpc() or tunnel.outward.ended(5.0)
        other.send(bind(element()))
        assert other.rpc()
    host.wait_for_rest(5.0)


@pytest.mark.req("AB-10", "RH-110", "RH-113")
def test_a_second_channel_from_another_address_of_the_same_client_is_taken(host):
    """Behind a network that translates addresses the two channels may come from different ones."""
    with RawTunnel(port_of(host, "http"), target(host)) as tunnel:
        inward = tunnel._wire()
        inward.socket.close()
        import socket

        inward.socket = socket.create_connection(
            ("127.0.0.1", port_of(host, "http")), 10, source_address=("127.0.0.2", 0)
        )
        inward.send(head("RPC_IN_DATA", target(host), 1 << 30))
        tunnel.inward = inward
        out = tunnel.open_out()
        out.send(tunnel.a1())
        inward.send(tunnel.b1())
        tunnel.await_c2()
    host.wait_for_rest(5.0)
