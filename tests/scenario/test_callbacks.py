"""Callbacks: sinks of clients that servers call back, in one process and in several. BLK-8, B11"""

import asyncio
import json
import logging
import socket
from contextlib import asynccontextmanager

import pytest
from tests.support.client_process import ClientProcess
from tests.support.host import OxidHost
from tests.support.lifetimes import P, S, T, client_machine, server_machine, until
from tests.support.pings import wait_until

import oxid
from oxid.com.connection_points import ConnectionPoint, EventSource
from oxid.interfaces.connection_point import IConnectionPoint, IConnectionPointContainer
from oxid.samples.ticker import CLSID_TICKER, IID_ITICKERSINK, ITicker, ITickerSink, Ticker
from oxid.testing.virtual_loop import run_virtual, virtual_world

SERVER = oxid.Password("server", "its own secret")
ALICE = oxid.Password("alice", "wonder")
KNOWN = {"server": "its own secret"}


def callbacks(**options):
    return oxid.CallbackOptions(accounts=oxid.MemoryAccountStore(KNOWN), **options)


@asynccontextmanager
async def stage(tmp_path, *, credentials=SERVER, options=None, user=ALICE):
    """A server with the Ticker, and a client's machine with one process that has activated it."""
    async with server_machine(
        tmp_path / "server", [Ticker], virtual_world(), credentials=credentials
    ) as server:
        async with client_machine(tmp_path / "client", virtual_world()) as client:
            async with client.process(server, user, callbacks=options or callbacks()) as machine:
                async with machine.activate(CLSID_TICKER, ITicker) as ticker:
                    yield server, client, ticker
            await until(lambda: client.at_rest, 3 * P)
        await until(lambda: server.at_rest, T + P + 2 * S)
        assert server.world.ledger.sink.live == 0


def play(tmp_path, story, **options):
    async def run():
        async with stage(tmp_path, **options) as (server, client, ticker):
            await story(server, client, ticker)

    run_virtual(run())


@pytest.mark.req("BLK-8")
def test_ticks_come_in_order_until_the_subscription_ends(tmp_path):
    async def story(server, client, ticker):
        heard = []
        async with ticker.subscribe(ITickerSink, lambda n, date: heard.append((n, date))) as subscription:
            assert subscription.cookie == 1
            began = server.world.clock.utc()
            await ticker.start(1000, 5)
            await asyncio.sleep(10)
            assert [n for n, _ in heard] == [1, 2, 3, 4, 5]
            for n, date in heard:
                assert (date - 25569) * 86400 == pytest.approx(began + n, abs=0.01)
            await ticker.start(500, 0)
            await asyncio.sleep(2.7)
            assert [n for n, _ in heard[5:]] == [1, 2, 3, 4, 5]  # it began anew
            await ticker.stop()
            await ticker.stop()
            await asyncio.sleep(5)
            assert len(heard) == 10
            await ticker.start(100, 0)
        ended = len(heard)
        await asyncio.sleep(5)
        assert len(heard) == ended

    play(tmp_path, story)


@pytest.mark.req("BLK-8")
def test_the_server_calls_back_at_privacy_as_itself(tmp_path):
    class Sink:
        def __init__(self):
            self.callers = []

        async def on_tick(self, n, date):
            call = oxid.current_call()
            self.callers.append((call.principal, int(call.level)))

    async def story(server, client, ticker):
        sink = Sink()
        async with ticker.subscribe(ITickerSink, sink):
            await ticker.start(100, 3)
            await asyncio.sleep(1)
        assert sink.callers == [("server", 6)] * 3

    play(tmp_path, story)


@pytest.mark.req("B11", "BLK-8")
def test_a_sink_that_nobody_calls_for_a_day_is_still_there(tmp_path, long_form):
    """B1 with the roles swapped: the server pings the client's resolver."""

    async def story(server, client, ticker):
        heard = []
        async with ticker.subscribe(ITickerSink, lambda n, date: heard.append(n)):
            await asyncio.sleep(P)
            resolver = client.agent.service.resolver
            (sets,) = resolver.tables().objects.values()
            assert [resolver.tables().sets[s].owner.principal for s in sets] == ["server"]
            await asyncio.sleep(24 * 3600 if long_form else 3600)
            await ticker.start(1000, 2)
            await asyncio.sleep(5)
            assert heard == [1, 2]

    play(tmp_path, story)


@pytest.mark.req("B11", "PNG-9")
def test_a_server_that_is_nobody_calls_and_pings_as_nobody_where_it_may(tmp_path):
    async def story(server, client, ticker):
        heard = []
        async with ticker.subscribe(ITickerSink, lambda n, date: heard.append(n)):
            await asyncio.sleep(3 * T)
            await ticker.start(1000, 2)
            await asyncio.sleep(5)
            assert heard == [1, 2]

    play(tmp_path, story, credentials=None, options=oxid.CallbackOptions(allow_anonymous=True))


def test_connection_points_are_found_listed_and_counted(tmp_path):
    async def story(server, client, ticker):
        container = await ticker.query(IConnectionPointContainer)
        listing = await container.enum_connection_points()
        found = await listing.next(5)
        assert (len(found.points), found.hresult) == (1, 1)
        (point,) = found.points
        assert await point.get_connection_interface() == IID_ITICKERSINK
        again = await point.get_connection_point_container()
        assert again.oid == ticker.oid
        await listing.reset()
        assert await listing.skip(1) == 0
        assert await listing.skip(1) == 1
        copy = await listing.clone()
        assert (await copy.next(1)).points == []
        same = await container.find_connection_point(IID_ITICKERSINK)
        assert same.oid == point.oid
        with pytest.raises(oxid.StatusError, match="0x80040200"):
            await container.find_connection_point(oxid.spec_of(ITicker).uuid)
        async with (
            ticker.subscribe(ITickerSink, lambda n, date: None) as one,
            ticker.subscribe(ITickerSink, lambda n, date: None) as two,
        ):
            connections = await point.enum_connections()
            listed = await connections.next(10)
            assert {entry.cookie for entry in listed.connections} == {one.cookie, two.cookie}
            assert {oxid.implementation_of(entry.sink) for entry in listed.connections} == {
                one.sink,
                two.sink,
            }
            await connections.release()
            with pytest.raises(oxid.StatusError, match="0x80040200"):
                await point.unadvise(99)
        for proxy in (container, listing, point, again, copy, same):
            await proxy.release()

    play(tmp_path, story)


def test_a_wrong_sink_is_refused(tmp_path):
    class NoSink(oxid.IClassFactory):
        pass

    async def story(server, client, ticker):
        container = await ticker.query(IConnectionPointContainer)
        point = await container.find_connection_point(IID_ITICKERSINK)
        await ticker._channel.machine.open_exporter()
        with pytest.raises(oxid.StatusError, match="0x80040202"):
            await point.advise(NoSink())
        with pytest.raises(oxid.StatusError, match="E_POINTER"):
            await point.advise(None)
        await point.release()
        await container.release()

    play(tmp_path, story)


def test_an_interval_of_nothing_is_an_invalid_argument(tmp_path):
    async def story(server, client, ticker):
        with pytest.raises(oxid.InvalidArgument, match="millisecond"):
            await ticker.start(0, 1)

    play(tmp_path, story)


def test_the_connection_point_keeps_its_object_and_the_object_goes_with_its_clients(tmp_path):
    async def story(server, client, ticker):
        heard = []
        container = await ticker.query(IConnectionPointContainer)
        point = await container.find_connection_point(IID_ITICKERSINK)
        await container.release()
        async with ticker.subscribe(ITickerSink, lambda n, date: heard.append(n)):
            await ticker.start(1000, 0)
            await ticker.release()
            await asyncio.sleep(3 * T)
            assert len(heard) == pytest.approx(3 * T, abs=2)  # held through its connection point
        await point.release()
        await asyncio.sleep(1)
        assert server.at_rest

    play(tmp_path, story)


def test_a_slow_sink_loses_the_oldest_events_and_others_lose_none(tmp_path, caplog):
    async def story(server, client, ticker):
        quick, slow = [], []

        async def dawdle(n, date):
            slow.append(n)
            await asyncio.sleep(1)

        async with (
            ticker.subscribe(ITickerSink, lambda n, date: quick.append(n)),
            ticker.subscribe(ITickerSink, dawdle),
        ):
            (exported,) = [o for o in server.host.exporter.table._by_oid.values() if type(o.target) is Ticker]
            point = exported.target.point(ITickerSink)
            point.max_pending = 10
            await ticker.start(100, 200)
            await asyncio.sleep(40)
            assert quick == list(range(1, 201))
            assert slow == sorted(slow)
            assert 20 <= len(slow) < 60
            assert slow[-1] == 200
            assert point.statistics()["discarded"] == 200 - len(slow)

    with caplog.at_level(logging.WARNING, "oxid.com.events"):
        play(tmp_path, story)
    assert caplog.text.count("too slow") == 1


def test_a_handler_must_have_the_methods_of_the_sink(tmp_path):
    async def story(server, client, ticker):
        with pytest.raises(oxid.ConfigurationError, match="on_tick"):
            ticker.subscribe(ITickerSink, object())

    play(tmp_path, story)


def test_a_handler_that_fails_is_its_own_affair(tmp_path, caplog):
    async def story(server, client, ticker):
        heard = []

        def fail(n, date):
            heard.append(n)
            raise ZeroDivisionError("mine")

        async with ticker.subscribe(ITickerSink, fail):
            await ticker.start(1000, 3)
            await asyncio.sleep(5)
            assert heard == [1, 2, 3]

    play(tmp_path, story)
    assert "ZeroDivisionError: mine" in caplog.text


# -- no way back ------------------------------------------------------------------------------------------


async def refused(ticker, reason):
    with pytest.raises(oxid.CallbackFailed) as caught:
        async with ticker.subscribe(ITickerSink, lambda n, date: None):
            raise AssertionError("there is a way back")
    assert caught.value.reason == reason, str(caught.value)
    return caught.value


@pytest.mark.req("BLK-8")
def test_the_error_says_that_the_name_cannot_be_looked_up(tmp_path):
    async def story(server, client, ticker):
        error = await refused(ticker, "name")
        assert "no-such-name.invalid" in str(error)
        assert "advertise" in error.remedy

    play(tmp_path, story, options=callbacks(advertise=("no-such-name.invalid",)))


@pytest.mark.req("BLK-8")
def test_the_error_says_that_nothing_listens_at_the_port(tmp_path):
    async def story(server, client, ticker):
        exporter = await ticker._channel.machine.open_exporter()
        # a forwarded port that leads nowhere: what is told to the server is not where we listen
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            nowhere = free.getsockname()[1]
        place = ticker._channel.machine.callback_exporter().objects
        place.endpoints[0] = place.endpoints[0]._replace(port=nowhere)
        place._bindings = None
        await exporter.link.publish()
        error = await refused(ticker, "port")
        assert str(nowhere) in str(error)

    play(tmp_path, story)


@pytest.mark.req("BLK-8")
@pytest.mark.parametrize(("credentials", "who"), [(ALICE, "alice"), (None, "anonymous")])
def test_the_error_says_that_the_server_may_not_call(tmp_path, credentials, who):
    async def story(server, client, ticker):
        error = await refused(ticker, "permission")
        assert "allow_anonymous" in error.remedy

    play(tmp_path, story, credentials=credentials)


@pytest.mark.req("BLK-8")
def test_the_error_says_that_something_in_between_drops_the_connections(tmp_path, monkeypatch):
    """A firewall that answers nothing: the server's connections to the client's ports time out."""

    async def story(server, client, ticker):
        from oxid.com import connections

        use = connections.Connections.use
        importer = server.host.importer.connections

        def dropped(self, host, port, blanket):
            if self is importer:
                raise oxid.TransportError(f"cannot connect to {host}:{port}: timed out") from TimeoutError()
            return use(self, host, port, blanket)

        monkeypatch.setattr(connections.Connections, "use", dropped)
        error = await refused(ticker, "firewall")
        assert "CallbackOptions.ports" in error.remedy
        monkeypatch.undo()

    play(tmp_path, story)


@pytest.mark.req("BLK-8")
def test_callbacks_come_on_the_port_and_under_the_name_that_were_chosen(tmp_path):
    with socket.socket() as one, socket.socket() as two:
        for free in (one, two):
            free.bind(("127.0.0.1", 0))
        port, resolver = one.getsockname()[1], two.getsockname()[1]

    async def story(server, client, ticker):
        heard = []
        async with ticker.subscribe(ITickerSink, lambda n, date: heard.append(n)):
            exporter = ticker._channel.machine.callback_exporter()
            assert [str(b) for b in exporter.objects.bindings().strings] == [
                f"ncacn_ip_tcp:localhost[{port}]"
            ]
            assert [str(b) for b in exporter.resolver_bindings.strings] == [
                f"ncacn_ip_tcp:localhost[{resolver}]"
            ]
            await ticker.start(1000, 2)
            await asyncio.sleep(5)
        assert heard == [1, 2]

    options = callbacks(ports=(port, port), resolver_port=resolver, advertise=("localhost",))
    play(tmp_path, story, options=options)


def test_a_port_that_is_taken_is_said_at_once(tmp_path):
    async def story(server, client, ticker):
        with pytest.raises(oxid.ConfigurationError, match=f"{taken}"):
            async with ticker.subscribe(ITickerSink, lambda n, date: None):
                pass

    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        taken = foreign.getsockname()[1]
        play(tmp_path, story, options=callbacks(ports=taken))


# -- objects that fire ------------------------------------------------------------------------------------


def test_events_of_an_object_of_this_process_need_no_network():
    async def run():
        from oxid.com.local_proxy import local_proxy
        from oxid.runtime.dispatch import Threads

        ticker = Ticker()
        heard = []
        proxy = local_proxy(ticker, ITicker, Threads())
        async with proxy.subscribe(ITickerSink, lambda n, date: heard.append(n)):
            ticker.point(ITickerSink).fire("on_tick", 7, 0.0)
            await asyncio.sleep(0.01)
        ticker.point(ITickerSink).fire("on_tick", 8, 0.0)
        await asyncio.sleep(0.01)
        assert heard == [7]
        assert isinstance(ticker.point(ITickerSink), ConnectionPoint)
        assert isinstance(ticker, EventSource)
        with pytest.raises(KeyError):
            ticker.point(IConnectionPoint)

    asyncio.run(run())


# -- real processes ---------------------------------------------------------------------------------------


def identity_file(tmp_path):
    path = tmp_path / "identity"
    path.write_text("username = server\npassword = its own secret\n")
    path.chmod(0o600)
    return path


def test_a_thousand_sinks_hear_every_tick_in_order_and_a_killed_process_is_dropped(tmp_path):
    period = 1.0
    options = ["--identity", str(identity_file(tmp_path))]
    with OxidHost(ping_period=period, options=options) as host:
        agent = host.directory / "agent"
        with ClientProcess(
            host.port, period=period, agent=agent, accounts=KNOWN, call_timeout=None
        ) as client:
            interface = "oxid.samples.ticker:ITicker"
            (oid,) = client.do("activate", clsid=str(CLSID_TICKER), interface=interface)
            assert client.do("subscribe_many", oid=oid, count=1000) == 1000
            assert host.live()["sink"] == 1000
            before = client.do("sinks_heard")["memory"]
            client.do("call", oid=oid, method="start", arguments=[200, 20])

            def done():
                heard = client.do("sinks_heard")
                return heard if heard["least"] >= 20 else None

            heard = wait_until(done, 60)
            assert (heard["least"], heard["most"], heard["out_of_order"]) == (20, 20, 0)
            assert heard["memory"] - before < 32 << 20
            client.do("call", oid=oid, method="start", arguments=[200, 0])
            client.kill()
        host.wait_for_rest(30)


def test_the_ticker_of_another_process_is_subscribed_to_with_its_host_isolating_it(tmp_path):
    period = 1.0
    options = ["--isolate", "--identity", str(identity_file(tmp_path))]
    with OxidHost(ping_period=period, options=options) as host:
        agent = tmp_path / "agent"  # another machine than the host's
        with ClientProcess(host.port, period=period, agent=agent, accounts=KNOWN) as client:
            (oid,) = client.do("activate", clsid=str(CLSID_TICKER), interface="oxid.samples.ticker:ITicker")
            client.do("subscribe", oid=oid)
            client.do("call", oid=oid, method="start", arguments=[100, 5])
            wait_until(lambda: len(client.do("heard")) == 5, 20)
            assert [n for n, _ in client.do("heard")] == [1, 2, 3, 4, 5]
            client.do("unsubscribe")
            client.do("release_all")
        host.wait_for_rest(20)
        assert json.dumps(host.live()) == json.dumps(host.rest)
