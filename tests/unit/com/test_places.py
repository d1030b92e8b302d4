"""What may stand for a machine in `connect`: HOST, HOST:PORT, [IPV6]:PORT, an IPv6 address alone."""

import asyncio

import pytest
from tests.support.inprocess import served

import oxid
from oxid.com.machine import _place
from oxid.com.options import ClientOptions


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [
        ("plant7", "plant7", 4135),
        ("plant7:1", "plant7", 1),
        ("127.0.0.1:65535", "127.0.0.1", 65535),
        ("[::1]", "::1", 4135),
        ("[::1]:10135", "::1", 10135),
        ("[fe80::1%eth0]:135", "fe80::1%eth0", 135),
        ("::1", "::1", 4135),
        ("fe80::1%eth0", "fe80::1%eth0", 4135),
        ("[plant7]:5", "plant7", 5),
    ],
)
def test_a_target_may_name_the_port(target, host, port):
    found, options = _place(target, ClientOptions(port=4135, ping_period=7.0))
    assert (found, options.port, options.ping_period) == (host, port, 7.0)


WRONG = ["h:", "h:0", "h:65536", "h:x", "h:-1", "h:１", "h:1\n", "h:" + "9" * 5000]
WRONG += [
    ":5",
    "[]",
    "[]:5",
    "[::1",
    "[::1:5",
    "[::1]:",
    "[::1]5",
    "[::1]x:5",
    "[::1]:0",
    "h]:5",
    "[[::1]]:5",
]


@pytest.mark.parametrize("target", WRONG, ids=lambda target: repr(target[:12]))
def test_a_target_that_is_none_is_said_before_anybody_is_asked(target):
    async def run():
        with pytest.raises(oxid.ConfigurationError, match=r"HOST, HOST:PORT or \[IPV6\]:PORT was expected"):
            async with oxid.connect(target):
                pass

    asyncio.run(run())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_port_in_the_target_wins_over_that_of_the_options(tmp_path, host):
    async def run():
        async with served(tmp_path, []) as there:
            port = there.port
            if host == "[::1]":
                port = (await there.host.rpc_server.listen("::1", 0)).port
            async with oxid.connect(f"{host}:{port}", options=ClientOptions(port=1)) as machine:
                assert machine.version == (5, 7)
                assert machine.host == host.strip("[]")

    asyncio.run(run())


def test_options_without_a_word_about_the_period_have_that_of_the_environment(monkeypatch):
    """Whoever names a port only must not ping at another pace than the host that is scaled down."""
    assert oxid.ClientOptions(port=1).ping_period == 120.0
    monkeypatch.setenv("OXID_PING_PERIOD", "0.5")
    assert oxid.ClientOptions(port=1).ping_period == 0.5
    assert oxid.ClientOptions(port=1, ping_period=3.0).ping_period == 3.0
    monkeypatch.setenv("OXID_PING_PERIOD", "soon")
    with pytest.raises(oxid.ConfigurationError, match="'soon' is no period"):
        oxid.ClientOptions(port=1)
