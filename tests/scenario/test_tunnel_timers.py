"""Tunnels and time: what pings keep alive, and what silence ends. SC-4 to SC-6, AB-2, AB-3, T11, T12, T15

Everything is scaled by --tunnel-period: a ConnectionTimeout of 120 s takes 1.2 s here, 15 minutes of set-up 9 s,
a first PDU 0.3 s.
"""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack, suppress

import pytest
from tests.scenario.test_tunnel_sessions import CONFIGURATION, port_of, started
from tests.support.endpoints import resident, wait_for
from tests.support.host import ADMIN, PASSWORD, OxidHost, environment
from tests.support.netns import NetworkNamespace
from tests.support.raw_tunnel import RawTunnel, head

import oxid
from oxid.interfaces.management import IManagement
from oxid.runtime.client import open_connection
from oxid.runtime.proxy_route import ProxyRoute
from oxid.samples.echo import IEcho
from oxid.testing.raw_rpc import bind, element, request
from oxid.tunnel import rts

PERIOD = 1.2
SLACK = 4.0
"""Seconds that a busy machine may need beyond a timer."""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    directory = tmp_path_factory.mktemp("timers")
    with started(directory, "--tunnel-period", str(PERIOD), "--insecure-anonymous") as running:
        yield running


def tunnel_to(running, **more):
    return RawTunnel(port_of(running, "http"), f"127.0.0.1:{port_of(running, 'ncacn_http')}", **more)


def rests(running, within):
    """How long until nothing is left."""
    began = time.monotonic()
    running.wait_for_rest(within)
    return time.monotonic() - began


@pytest.mark.req("SC-6", "RH-90", "RH-91")
def test_idle_tunnels_live_by_their_pings_and_still_serve(host):
    """Our own client, which pings as often as the proxies said, for three ConnectionTimeouts."""

    async def run():
        world = oxid.World.real()
        way = ProxyRoute(
            f"http://127.0.0.1:{port_of(host, 'http')}",
            oxid.Password(ADMIN, PASSWORD),
            auth="basic",
            period=PERIOD,
        )
        async with open_connection(
            "127.0.0.1", port_of(host, "ncacn_http"), world=world, proxy=way
        ) as connection:
            mgmt = await connection.proxy(IManagement)
            await mgmt.is_server_listening()
            lost = connection.closed_waiter
            await asyncio.wait({asyncio.shield(lost)}, timeout=3 * PERIOD)
            assert not lost.done()
            await mgmt.is_server_listening()

    asyncio.run(run())
    host.wait_for_rest(SLACK)


@pytest.mark.req("SC-5", "T11", "RH-91")
def test_a_client_that_falls_silent_is_given_up(host):
    """Its process is stopped: the kernel still acknowledges, nobody pings."""
    script = textwrap.dedent(
        """
        import sys
        from tests.support.raw_tunnel import RawTunnel
        tunnels = [RawTunnel(int(sys.argv[1]), sys.argv[2]).establish() for _ in range(5)]
        print("ready", flush=True)
        sys.stdin.read()
        """
    )
    target = f"127.0.0.1:{port_of(host, 'ncacn_http')}"
    client = subprocess.Popen(
        [sys.executable, "-c", script, str(port_of(host, "http")), target],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(PYTHONPATH=os.getcwd()),
    )
    try:
        assert client.stdout.readline() == b"ready\n"
        assert host.live()["virtual_connection"] >= 5
        client.send_signal(signal.SIGSTOP)
        assert rests(host, 2.5 * PERIOD + SLACK) > PERIOD
    finally:
        client.kill()
        client.wait()
        client.stdin.close()
        client.stdout.close()


@pytest.mark.req("AB-2", "RH-50", "T15", "SC-3")
def test_channels_that_never_say_what_they_are_end_in_time(host):
    with ExitStack() as stack:
        tunnels = [stack.enter_context(tunnel_to(host)) for _ in range(3)]
        tunnels[0].open_in()  # not a byte
        tunnels[1].open_in().send(tunnels[1].b1()[:50])  # half a PDU
        tunnels[2].open_out().send(tunnels[2].a1()[:50])
        assert rests(host, PERIOD + SLACK) < 30 * PERIOD / 120 + SLACK


@pytest.mark.req("RH-50", "T15", "AB-29")
def test_half_a_virtual_connection_is_dropped_at_the_setup_timer(tmp_path):
    period = PERIOD / 4
    with started(tmp_path, "--tunnel-period", str(period)) as host, tunnel_to(host) as tunnel:
        out = tunnel.open_out()
        out.send(tunnel.a1())
        assert out.head()
        wait_for(lambda: host.live().get("virtual_connection"), "half a virtual connection")
        assert rests(host, 900 * period / 120 + SLACK) > 1.0
        assert out.ended(1.0)


@pytest.mark.req("AB-3", "RH-73", "RH-74", "RH-75", "T12")
def test_a_client_that_never_reads_is_bounded_and_given_up(tmp_path):
    """The window closes, the server's answers wait, and nothing grows; then it is over."""
    with started(tmp_path, "--tunnel-period", str(PERIOD), "--insecure-anonymous") as host:
        with tunnel_to(host, window=65536).establish() as tunnel:
            tunnel.send(bind(element(0)))
            before = resident(host.pid)
            # answers of the management interface are small: ask for the endpoint mapper's whole list, often
            tunnel.send(request(b"", opnum=0))
            for number in range(2000):
                try:
                    tunnel.inward.socket.settimeout(0.2)
                    tunnel.send(request(bytes(1000), opnum=0, call_id=3 + number))
                except OSError:
                    break
            assert resident(host.pid) - before < 4 << 20
            assert rests(host, 3 * PERIOD + SLACK) >= 0


@pytest.mark.req("SC-4", "T11", "RH-75")
def test_a_server_that_falls_silent_is_given_up_by_the_client_that_waits(tmp_path):
    """The server's process is stopped in the middle of a call; whoever closes then leaves nothing at the proxy."""
    script = textwrap.dedent(
        """
        import asyncio, sys
        import oxid
        from oxid.runtime.server import RpcServer, tunnel_options
        from oxid.samples.echo import Echo, IEcho
        async def main():
            server = RpcServer(oxid.World.real(), tunnel_options=tunnel_options(1.2))
            server.register(IEcho, Echo(), min_level=0)
            endpoint = await server.listen("127.0.0.1", 0, protseq="ncacn_http")
            print(endpoint.port, flush=True)
            await asyncio.to_thread(sys.stdin.read)
            await server.aclose()
        asyncio.run(main())
        """
    )
    server = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    )
    try:
        port = int(server.stdout.readline())
        ports = f'valid_ports = "127.0.0.1:{port}"\n'
        with started(tmp_path, "--tunnel-period", str(PERIOD), configuration=CONFIGURATION + ports) as host:

            async def run():
                world = oxid.World.real()
                way = ProxyRoute(
                    f"http://127.0.0.1:{port_of(host, 'http')}",
                    oxid.Password(ADMIN, PASSWORD),
                    auth="basic",
                    period=PERIOD,
                )
                async with open_connection("127.0.0.1", port, world=world, proxy=way) as connection:
                    echo = await connection.proxy(IEcho)
                    assert await echo.add_one(1) == 2
                    server.send_signal(signal.SIGSTOP)
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.5):
                            await echo.add_one(2)

            asyncio.run(run())
            host.wait_for_rest(2.5 * PERIOD + SLACK)
    finally:
        server.kill()
        server.wait()
        server.stdin.close()
        server.stdout.close()


@pytest.mark.req("SC-4", "T11")
@pytest.mark.peer("ip", "unshare")
@pytest.mark.parametrize("version", [2, 1])
def test_a_server_whose_machine_is_cut_off_is_noticed_by_keep_alive(tmp_path, version):
    """Its address leads nowhere all at once: no FIN, no RST, no answer. The client pings on and knows nothing."""
    with NetworkNamespace() as space:
        ip = [*space.prefix, "ip"]
        subprocess.run([*ip, "address", "add", "10.9.9.2/32", "dev", "lo"], check=True)
        with OxidHost(
            rpc="10.9.9.2:0",
            namespace=space,
            options=["--ncacn-http", "10.9.9.2:0", "--http", "off"],
            more_environment={"OXID_TUNNEL_PERIOD": "0.4"},
        ) as server:
            target = server.ready["ncacn_http"]
            file = tmp_path / "oxid.toml"
            file.write_text(f'{CONFIGURATION}valid_ports = "{target}"\n')
            options = ["--config", str(file), "--ncacn-http", "off", "--http", "127.0.0.1:0"]
            with OxidHost(
                rpc="127.0.0.1:0",
                namespace=space,
                options=[*options, "--tunnel-period", "0.4"],
            ) as host:
                web = port_of(host, "http")
                made = space.call(lambda: _open(web, target, version))
                subprocess.run(
                    [*ip, "route", "del", "local", "10.9.9.2", "dev", "lo", "table", "local"], check=True
                )
                began = time.monotonic()
                while not made.wires[0].ended(0.05) and time.monotonic() < began + 15:
                    if version == 2:
                        with suppress(OSError):
                            made.send(rts.PING)
                assert time.monotonic() < began + 15
                made.close()
                host.wait_for_rest(SLACK)


def _open(web, target, version):
    made = RawTunnel(web, target)
    if version == 2:
        return made.establish()
    wire = made._wire()
    wire.send(head("RPC_CONNECT", target, None))
    assert wire.head().startswith(b"HTTP/1.1 200 ")
    return made


@pytest.mark.req("RH-90")
def test_a_raw_client_that_pings_is_kept_and_one_that_does_not_is_not(host):
    with tunnel_to(host).establish() as pinging, tunnel_to(host).establish() as silent:
        until = time.monotonic() + 3 * PERIOD
        while time.monotonic() < until:
            pinging.send(rts.PING)
            assert not pinging.outward.ended(PERIOD / 4)
        assert silent.inward.ended(PERIOD)
        pinging.close()
    host.wait_for_rest(SLACK)
