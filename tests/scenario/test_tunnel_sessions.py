"""Q241104 with real processes: whatever ends a session through the RPC proxy, all of it is given back. SC-1 to SC-11

One host with web server, proxy and DCOM server; its clients are sockets, or our own client in this process.
"""

import asyncio
import json
import re
import socket
import threading
from pathlib import Path

import pytest
from tests.support.endpoints import wait_for
from tests.support.host import ADMIN, PASSWORD, OxidHost, run_oxid
from tests.support.raw_tunnel import RawTunnel, Wire, head

import oxid
from oxid.com.options import ClientOptions
from oxid.runtime.proxy_route import ProxyRoute
from oxid.samples.calculator import CLSID_CALCULATOR, ICalculator
from oxid.testing.raw_rpc import ECHO_ID, bind, element, request
from oxid.tunnel import rts

CONFIGURATION = "[rpc_proxy]\nallow_plain = true\n"
SETTLED_S = 5.0


def started(directory, *options, configuration=CONFIGURATION):
    file = directory / "oxid.toml"
    file.write_text(configuration)
    return OxidHost(options=["--config", str(file), *options])


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with started(tmp_path_factory.mktemp("tunnel"), "--insecure-anonymous") as running:
        there = f"127.0.0.1:{port_of(running, 'ncacn_http')}"
        found = run_oxid("epm", "map", there, f"{ECHO_ID}/1.0", "--proxy", "direct").stdout
        port = re.search(r"ncacn_http:127.0.0.1.(\d+)", found)[1]
        running.echo = f"127.0.0.1:{port}"
        yield running


@pytest.fixture(autouse=True)
def _nothing_is_left(request):
    """Every story ends where it began."""
    yield
    if "host" in request.fixturenames:
        running = request.getfixturevalue("host")
        running.wait_for_rest(SETTLED_S)
        assert "Traceback" not in running.log(), running.log()[-4000:]


def port_of(running, key):
    return int(running.ready[key].rpartition(":")[2])


def tunnel_to(running, **more):
    """To Echo, or to the resolver of a host that keeps anonymous callers from Echo."""
    target = getattr(running, "echo", f"127.0.0.1:{port_of(running, 'ncacn_http')}")
    return RawTunnel(port_of(running, "http"), target, **more)


def route(running, **more):
    return ProxyRoute(f"http://127.0.0.1:{port_of(running, 'http')}", oxid.Password(ADMIN, PASSWORD), **more)


def machine(running, **more):
    options = ClientOptions(port=port_of(running, "ncacn_http"), proxy=route(running, **more), agent="own")
    return oxid.connect("127.0.0.1", oxid.Password(ADMIN, PASSWORD), options=options)


# SC-1, SC-2 ------------------------------------------------------------------------------------------------


@pytest.mark.req("SC-1", "T3", "T19", "RH-102")
@pytest.mark.parametrize("version", [2, 1])
def test_sessions_that_resolve_activate_call_and_release_leave_nothing(host, version):
    sessions, at_once = (120, 12) if version == 2 else (60, 12)
    before = host.status()["total"]

    async def session():
        async with machine(host, version=version, auth="basic") as there:
            async with there.activate(CLSID_CALCULATOR, ICalculator) as calculator:
                assert (await calculator.add(2, 3)) == 5

    async def run():
        turn = asyncio.Semaphore(at_once)

        async def one():
            async with turn:
                await session()

        await asyncio.gather(*(one() for _ in range(sessions)))

    asyncio.run(run())
    host.wait_for_rest(SETTLED_S)
    after = host.status()["total"]
    made = {kind: after[kind] - before[kind] for kind in after}
    channels = made["tunnel_channel"]
    assert made["ecb"] >= sessions * (2 if version == 2 else 1)
    assert made["virtual_connection"] >= sessions
    assert channels >= made["ecb"]


@pytest.mark.req("SC-2", "T5", "T6")
def test_when_the_server_closes_first_the_client_sees_the_end_and_nothing_is_left(tmp_path):
    """The host's proxy, and a server in this process that hangs up on whoever has bound."""

    async def run():
        world = oxid.World.real()
        from oxid.runtime.client import open_connection
        from oxid.runtime.server import RpcServer
        from oxid.samples.echo import Echo, IEcho

        server = RpcServer(world)
        server.register(IEcho, Echo(), min_level=0)
        endpoint = await server.listen("127.0.0.1", 0, protseq="ncacn_http")
        ports = f'valid_ports = "127.0.0.1:{endpoint.port}"\n'
        running = await asyncio.to_thread(started, tmp_path, configuration=CONFIGURATION + ports)
        try:
            for version in (2, 1):
                for _ in range(10):
                    way = route(running, version=version, auth="basic")
                    async with open_connection("127.0.0.1", endpoint.port, world=world, proxy=way) as there:
                        echo = await there.proxy(IEcho)
                        assert await echo.add_one(1) == 2
                        for connection in list(server.connections):
                            connection.hang_up()
                        async with asyncio.timeout(5):
                            await asyncio.shield(there.closed_waiter)
            await server.aclose()
            # ... and one that is there no more
            with pytest.raises(oxid.StatusError) as refused:
                async with open_connection("127.0.0.1", endpoint.port, world=world, proxy=way):
                    pass
            assert refused.value.status.code == 0x6BA
            await asyncio.to_thread(running.wait_for_rest, SETTLED_S)
        except BaseException:
            running.kill()
            raise
        await asyncio.to_thread(running.stop)

    asyncio.run(run())


@pytest.mark.req("SC-1", "T3", "T19")
@pytest.mark.parametrize("version", [2, 1])
def test_every_channel_lets_go_of_its_request_when_its_client_is_done(tmp_path, version):
    """Q241104 to the letter: the proxy tells the web server that it is done."""
    with started(tmp_path) as host:
        for _ in range(5):
            if version == 2:
                tunnel_to(host).establish().close()
            else:
                with Wire(port_of(host, "http")) as wire:
                    wire.send(head("RPC_CONNECT", f"127.0.0.1:{port_of(host, 'ncacn_http')}", None))
                    assert wire.head().startswith(b"HTTP/1.1 200 ")
        wait_for(lambda: not host.live().get("ecb"), "control blocks that are let go", within=5.0)


# SC-3: a client that vanishes wherever it may be ---------------------------------------------------------------


def _before_headers(tunnel):
    tunnel._wire().send(b"RPC_IN_DA")


def _after_headers(tunnel):
    tunnel.open_in(), tunnel.open_out()


def _mid_a1(tunnel):
    tunnel.open_in()
    tunnel.open_out().send(tunnel.a1()[:40])


def _after_a1(tunnel):
    tunnel.open_in()
    out = tunnel.open_out()
    out.send(tunnel.a1())
    assert out.head()


def _after_b1_only(tunnel):
    tunnel.open_in().send(tunnel.b1())


def _after_a1_only(tunnel):
    out = tunnel.open_out()
    out.send(tunnel.a1())
    assert out.head()


def _after_c2(tunnel):
    tunnel.establish()


def _mid_bind(tunnel):
    tunnel.establish()
    tunnel.send(bind(element())[:30])


def _mid_request_fragment(tunnel):
    tunnel.establish()
    tunnel.send(bind(element()))
    assert tunnel.rpc()
    tunnel.send(request(bytes(4000), opnum=1, flags=1)[:2000])


def _mid_response(tunnel):
    tunnel.establish()
    tunnel.send(bind(element()))
    assert tunnel.rpc()
    tunnel.send(request((60000).to_bytes(4, "little"), opnum=3))  # SourceData: more than the window takes
    assert tunnel.outward.more()


def _during_in_recycle(tunnel):
    tunnel.establish()
    successor = tunnel._wire()
    successor.send(head("RPC_IN_DATA", tunnel.target, tunnel.in_length))
    successor.send(rts.in_a1(tunnel.vc, tunnel.in_cookie, b"s" * 16))
    while (pdu := tunnel.outward.pdu()) and rts.parse(pdu).kind is not rts.Kind.IN_R2_A4:
        pass


def _during_out_recycle(tunnel):
    tunnel.establish()
    successor = tunnel._wire()
    successor.send(head("RPC_OUT_DATA", tunnel.target, 120))
    successor.send(rts.out_a3(tunnel.vc, tunnel.out_cookie, b"s" * 16, 65536)[:50])


POINTS = [
    _before_headers,
    _after_headers,
    _mid_a1,
    _after_a1,
    _after_b1_only,
    _after_a1_only,
    _after_c2,
    _mid_bind,
    _mid_request_fragment,
    _mid_response,
    _during_in_recycle,
    _during_out_recycle,
]


@pytest.mark.req("SC-3", "T1", "T2", "T20", "RH-101")
@pytest.mark.parametrize("ending", ["reset", "close"])
@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.__name__.strip("_"))
def test_a_client_that_vanishes_anywhere_leaves_nothing(host, point, ending):
    for _ in range(12):
        tunnel = tunnel_to(host)
        point(tunnel)
        getattr(tunnel, ending)()


@pytest.mark.req("T1", "T2", "SC-3")
@pytest.mark.parametrize("side", ["inward", "outward"])
def test_when_a_client_closes_one_channel_the_other_ends_too(host, side):
    with tunnel_to(host).establish() as tunnel:
        getattr(tunnel, side).close()
        other = tunnel.outward if side == "inward" else tunnel.inward
        assert other.ended(5.0)


# SC-7 ------------------------------------------------------------------------------------------------------------


class Answering:
    """A server that is none: says `first`, then nothing, or closes at once."""

    def __init__(self, first, *, close=False):
        self.first, self.close = first, close
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.heard = b""
        self.links = []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            self.links.append(link)
            link.sendall(self.first)
            if self.close:
                link.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)  # which accept() notices
        self.listener.close()
        for link in self.links:
            link.close()
        self.thread.join(2)


@pytest.mark.req("SC-7", "T7", "RH-25", "RH-11")
def test_servers_that_are_not_there_or_are_none_are_refused_and_everything_is_closed(tmp_path):
    nowhere = Answering(b"")
    nowhere.__exit__()
    with Answering(b"SSH-2.0-OpenSSH_9.2\r\n") as other, Answering(b"", close=True) as mute:
        ports = ";".join(f"127.0.0.1:{port}" for port in (nowhere.port, other.port, mute.port))
        with started(tmp_path, configuration=f'{CONFIGURATION}valid_ports = "{ports}"\n') as host:
            web = port_of(host, "http")
            for port in (nowhere.port, other.port, mute.port):
                for _ in range(5):
                    with Wire(web) as wire:  # version 1: the banner is awaited
                        wire.send(head("RPC_CONNECT", f"127.0.0.1:{port}", None))
                        assert wire.head().startswith(b"HTTP/1.0 503 RPC Error: 6ba")
                        assert wire.ended(5.0)
            for _ in range(5):
                with RawTunnel(web, f"127.0.0.1:{nowhere.port}") as tunnel:
                    inward, outward = tunnel.open_in(), tunnel.open_out()
                    outward.send(tunnel.a1())
                    inward.send(tunnel.b1())
                    assert inward.head().startswith(b"HTTP/1.0 503 RPC Error: 6ba")
                    assert outward.head().startswith(b"HTTP/1.0 503 RPC Error: 6ba")
            host.wait_for_rest(SETTLED_S)


@pytest.mark.req("RH-30", "RH-110", "AB-14", "AB-15", "SC-7")
def test_ports_that_are_not_listed_get_no_packet(tmp_path):
    with Answering(b"ncacn_http/1.0") as secret, started(tmp_path) as host:
        web = port_of(host, "http")
        for target in (
            f"127.0.0.1:{secret.port}",
            f"127.0.0.1:{port_of(host, 'http')}",
            f"127.0.0.1:{port_of(host, 'rpc')}",
            "169.254.169.254:80",
            f"0x7f.1:{port_of(host, 'ncacn_http')}",
            f"127.0.0.1:0{port_of(host, 'ncacn_http')}",
        ):
            for method, length in (("RPC_IN_DATA", 1 << 30), ("RPC_OUT_DATA", 76), ("RPC_CONNECT", None)):
                with Wire(web) as wire:
                    wire.send(head(method, target, length))
                    assert wire.head().startswith(b"HTTP/1.0 503 RPC Error: 5"), (method, target)
        assert not secret.links


# SC-9, SC-11 -------------------------------------------------------------------------------------------------------


@pytest.mark.req("SC-9", "T16")
def test_a_host_that_stops_ends_every_tunnel_and_says_that_nothing_is_left(tmp_path):
    with started(tmp_path) as host:
        tunnels = [tunnel_to(host).establish() for _ in range(60)]
        assert host.live()["virtual_connection"] >= 60
        host.stop()
        assert host.stopped == "stopped live=0"
        for tunnel in tunnels:
            assert tunnel.outward.ended(5.0)
            assert tunnel.inward.ended(5.0)
            tunnel.close()


@pytest.mark.req("SC-11")
def test_hundreds_of_tunnels_need_no_threads(host):
    def threads():
        status = Path(f"/proc/{host.pid}/status").read_text()
        return int(re.search(r"Threads:\s+(\d+)", status)[1])

    before = threads()
    tunnels = [tunnel_to(host).establish() for _ in range(150)]
    assert threads() <= before
    assert host.live().get("task", 0) == host.rest.get("task", 0)
    for tunnel in tunnels:
        tunnel.send(rts.PING)
        tunnel.send(bind(element()))
        assert tunnel.rpc()
    for tunnel in tunnels:
        tunnel.close()


@pytest.mark.req("RH-103", "RH-111")
def test_what_goes_through_the_proxy_can_be_seen_and_no_cookie_whole(host):
    def seen(*more):
        done = run_oxid("tunnels", "--state", str(host.state), *more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with tunnel_to(host).establish() as tunnel:
        rows = json.loads(seen("--json"))["sessions"]
        assert {row["direction"] for row in rows} == {"inbound", "outbound"}
        assert {(row["identity"], row["target"]) for row in rows} == {("admin", tunnel.target)}
        assert tunnel.target in seen()
        assert tunnel.vc.hex() not in seen("--json")
    host.wait_for_rest(SETTLED_S)
    assert "no tunnel stands" in seen()
    assert "client closed" in seen()
