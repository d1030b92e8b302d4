"""The shells of RPC over HTTP with a whole host behind them: what strange clients and changed configurations do.

Host and clients are in one process; raw clients are sockets in a thread.
"""

import asyncio
import logging
import socket
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.support.host import run_oxid
from tests.support.inprocess import USER, served
from tests.support.raw_tunnel import RawTunnel

import oxid
from oxid.com.options import ClientOptions
from oxid.errors import ConfigurationError, NotSupported
from oxid.host.web import HostPorts
from oxid.iis.rpc_proxy.valid_ports import PortRule, ValidPorts, parse_target
from oxid.runtime.client import open_connection
from oxid.runtime.proxy_route import ProxyRoute
from oxid.runtime.server import Endpoint
from oxid.samples.calculator import CLSID_CALCULATOR, Calculator, ICalculator
from oxid.testing.raw_rpc import bind, element
from oxid.tunnel import rts

HERE = (oxid.Address("127.0.0.1", 0),)


def gateway(tmp_path, **options):
    """A host with everything of RPC over HTTP, for anybody."""
    return served(
        tmp_path, [Calculator], **{"ncacn_http": HERE, "http": HERE, "proxy_insecure": True} | options
    )


def ports(there):
    """Of the web server, and of the resolver for proxies."""
    return there.host.web.http[0].port, there.host._proxied_endpoints[0].port


async def raw(there, story, **more):
    """Run `story(tunnel)` in a thread with a client by hand; then nothing is live."""
    web, resolver = ports(there)
    rest = there.live()

    def run():
        tunnel = RawTunnel(web, f"127.0.0.1:{resolver}", user=None, **more)
        try:
            return story(tunnel)
        finally:
            for wire in tunnel.wires:
                wire.close()

    found = await asyncio.to_thread(run)
    await there.at_rest(rest)
    return found


# Strange clients ---------------------------------------------------------------------------------------------


@pytest.mark.req("RH-115")
@pytest.mark.parametrize("keepalive_ms", [0, 60_000, 0xFFFF_FFFF])
def test_any_keep_alive_that_the_wire_can_say_makes_a_tunnel(tmp_path, keepalive_ms, caplog):
    def story(tunnel):
        tunnel.b1 = lambda: rts.conn_b1(tunnel.vc, tunnel.in_cookie, 1 << 30, keepalive_ms, bytes(16))
        tunnel.establish()
        tunnel.inward.send(rts.keep_alive(keepalive_ms))
        tunnel.send(bind(element()))
        return tunnel.rpc()

    async def run():
        async with gateway(tmp_path) as there:
            there.host.web.proxy.settings = replace(there.host.web.proxy.settings, nearby=False)
            assert await raw(there, story)

    asyncio.run(run())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("window", [1, 8192, 999_999])
def test_any_window_that_a_client_may_ask_for_makes_a_tunnel(tmp_path, window, caplog):
    def story(tunnel):
        tunnel.who["more"] = f"Pragma: ReceiveWindow={window}\r\n"
        tunnel.establish()
        tunnel.send(bind(element()))
        return tunnel.rpc()

    async def run():
        async with gateway(tmp_path) as there:
            assert await raw(there, story)

    asyncio.run(run())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.req("RH-115")
@pytest.mark.parametrize("version", [2, 1])
@pytest.mark.parametrize("limit", ["max_channels_per_source", "max_connects_per_second"])
def test_one_client_cannot_have_everything_and_is_told_that_it_is_too_much(tmp_path, version, limit):
    async def run():
        async with gateway(tmp_path) as there:
            web, resolver = ports(there)
            proxy = there.host.web.proxy
            proxy.settings = replace(proxy.settings, **{limit: 2 if version == 2 else 1})
            clock = there.world.clock
            way = ProxyRoute(f"http://127.0.0.1:{web}", version=version)
            opened = {"world": there.client_world, "proxy": way}
            rest = there.live()
            with pytest.MonkeyPatch.context() as patch:
                at = clock.now()
                patch.setattr(type(clock), "now", lambda _: at)
                async with open_connection("127.0.0.1", resolver, **opened):
                    with pytest.raises(oxid.StatusError) as refused:
                        async with open_connection("127.0.0.1", resolver, **opened):
                            pass
                    assert refused.value.status.code == 0x6BB
                    assert proxy.statistics()["busy"] >= 1
            await there.at_rest(rest)
            proxy._second -= 1
            async with open_connection("127.0.0.1", resolver, **opened):
                pass
            await there.at_rest(rest)

    asyncio.run(run())


@pytest.mark.req("RH-26", "RH-27")
@pytest.mark.parametrize("auth", ["auto", "ntlm", "negotiate", "basic", "none"])
def test_a_proxy_for_anybody_takes_those_who_say_who_they_are(tmp_path, auth):
    async def run():
        async with gateway(tmp_path) as there:
            web, resolver = ports(there)
            way = ProxyRoute(f"http://127.0.0.1:{web}", USER, auth=auth)
            async with (
                there.connect(port=resolver, proxy=way) as machine,
                machine.activate(CLSID_CALCULATOR, ICalculator) as calculator,
            ):
                assert await calculator.add(2, 3) == 5

    asyncio.run(run())


# Who goes through which proxy --------------------------------------------------------------------------------


@pytest.mark.req("RH-4")
def test_a_host_pings_for_itself_what_it_reached_through_a_proxy_and_passes_no_objects(tmp_path):
    async def run():
        async with gateway(tmp_path / "there") as there, served(tmp_path / "here", [Calculator]) as here:
            web, resolver = ports(there)
            way = ProxyRoute(f"http://127.0.0.1:{web}", USER)
            options = ClientOptions(port=resolver, proxy=way, agent="own")
            async with here.host.connect("127.0.0.1", USER, options=options) as machine:
                assert machine.lifelines.agent is not here.host.agent
                assert machine.exporter is None
                with pytest.raises(NotSupported, match="call back through an RPC proxy"):
                    await machine.open_exporter()

    asyncio.run(run())


@pytest.mark.req("RH-110")
def test_pools_share_no_connection_between_different_proxies(tmp_path):
    from oxid.runtime.pool import ConnectionPool

    async def run():
        async with gateway(tmp_path) as there:
            web, resolver = ports(there)
            ways = [
                None,
                ProxyRoute("direct"),
                ProxyRoute(f"http://127.0.0.1:{web}"),
                ProxyRoute(f"http://localhost:{web}"),
                ProxyRoute(f"http://127.0.0.1:{web}", USER),
                ProxyRoute(f"http://127.0.0.1:{web}", oxid.Password("admin", "secret", "LAB"), auth="basic"),
                ProxyRoute(f"http://127.0.0.1:{web}", version=1),
            ]
            pool = ConnectionPool(there.client_world)
            found = set()
            for way in ways:
                port = resolver if way is not None else there.port
                for _ in range(2):
                    with suppress(oxid.AccessDenied):  # LAB is no domain here
                        async with pool.connection("127.0.0.1", port, proxy=way) as connection:
                            found.add(connection)
            assert len(found) >= len(ways) - 1
            await pool.aclose()

    asyncio.run(run())


# What is configured ------------------------------------------------------------------------------------------


def ports_of(hosts, advertise=(), names=None, exporters=(), **listening):
    """HostPorts of a host that listens for proxies at these addresses: name -> port."""
    endpoints = [Endpoint(host, port, "ncacn_http") for host, port in listening.get("http", ())]
    endpoints.append(Endpoint("127.0.0.1", 135))
    host = SimpleNamespace(
        hosts=list(hosts),
        options=SimpleNamespace(advertise=tuple(advertise)),
        names_of=lambda address: (names or {}).get(address, (address,)),
        service=SimpleNamespace(endpoints=endpoints),
        resolver=SimpleNamespace(all_bindings=list),
    )
    return HostPorts(host)


@pytest.mark.req("RH-30")
@pytest.mark.parametrize(
    ("rpc", "proxied", "asked", "admitted", "place"),
    [
        ("127.0.0.1", "127.0.0.1", b"localhost:593", True, "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", b"LOCALHOST:593", True, "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", b"localhost:135", False, None),
        ("127.0.0.1", "127.0.0.1", b"other:593", False, None),
        ("127.0.0.1", "192.0.2.7", b"192.0.2.7:593", True, "192.0.2.7"),
        ("0.0.0.0", "0.0.0.0", b"192.0.2.9:593", True, "127.0.0.1"),
        ("::1", "::1", b"[::1]:593", True, "::1"),
        ("::1", "::", b"::1:593", True, "::1"),
    ],
)
def test_a_host_that_was_told_nothing_carries_to_its_own_ports_under_its_own_names(
    rpc, proxied, asked, admitted, place
):
    found = ports_of([rpc], names={"0.0.0.0": ("192.0.2.9",)}, http=[(proxied, 593)])
    target = parse_target(asked)
    assert found.admits(target) is admitted
    if admitted:
        assert found.place(target) == place


def test_an_entry_that_no_client_could_ever_ask_for_is_skipped_and_said(caplog):
    assert ValidPorts.parse("[fe80::1%eth0]:593;[fe80::1]:593").rules == (
        PortRule("fe80::1", False, 593, 593),
    )
    assert "fe80::1%eth0" in caplog.text


def test_a_command_that_waits_in_vain_names_the_proxy_and_the_servers_port():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done = run_oxid("ping", "server", "--proxy", f"http://127.0.0.1:{port}", "--timeout", "0.3")
    assert done.returncode
    assert f"127.0.0.1:{port}" in done.stderr
    assert "server:593" in done.stderr


def test_a_configuration_that_cannot_be_used_leaves_the_proxy_as_it_was(tmp_path, monkeypatch):
    async def run():
        async with gateway(tmp_path) as there:
            web = there.host.web
            before = web.proxy.settings, web.server.settings

            def refuse(settings):
                raise ConfigurationError("a certificate cannot be read")

            monkeypatch.setattr(web.server, "apply", refuse)
            with pytest.raises(ConfigurationError):
                await there.host.reload(
                    replace(there.host.options, rpc_proxy={"valid_ports": "", "allow_anonymous": False})
                )
            assert (web.proxy.settings, web.server.settings) == before

    asyncio.run(run())


def test_what_waits_for_a_restart_is_said_and_does_wait(tmp_path, caplog):
    """Lifetimes do: what a server was told of a channel holds for its successors."""

    async def run():
        async with gateway(tmp_path) as there:
            fresh = replace(
                there.host.options,
                proxy_insecure=False,
                rpc_proxy={"out_lifetime": 1 << 20, "enabled": False},
            )
            await there.host.reload(fresh)
            settings = there.host.web.proxy.settings
            assert settings.tunnel.channel_lifetime != 1 << 20
            assert (settings.enabled, settings.allow_anonymous) == (False, False)

    asyncio.run(run())
    said = [record.getMessage() for record in caplog.records if "after a restart" in record.getMessage()]
    assert said == ["[rpc_proxy] out_lifetime takes effect after a restart"]
