"""How the way through an RPC proxy is written, and what the web server's answers mean to a caller."""

import pytest

from oxid.auth import Anonymous, NtHash, Password
from oxid.com.options import ClientOptions
from oxid.errors import AccessDenied, ConfigurationError, NotSupported, ServerUnavailable, TransportError
from oxid.http.client import ClientExchange, Reply
from oxid.runtime.http_auth import HttpLogin
from oxid.runtime.http_channel import refusal
from oxid.runtime.proxy_route import ProxyRoute, tunnel_period
from oxid.values.bindings import NCACN_HTTP, NCACN_IP_TCP
from oxid.world import World


@pytest.mark.parametrize(
    ("url", "secure", "host", "port", "target"),
    [
        ("http://gateway", False, "gateway", 80, "/rpc/rpcproxy.dll?server:593"),
        ("https://gateway/", True, "gateway", 443, "/rpc/rpcproxy.dll?server:593"),
        ("gateway:8080", False, "gateway", 8080, "/rpc/rpcproxy.dll?server:593"),
        (
            "https://gw:8443/rpcwithcert/rpcproxy.dll",
            True,
            "gw",
            8443,
            "/rpcwithcert/rpcproxy.dll?server:593",
        ),
        ("http://[::1]:81", False, "::1", 81, "/rpc/rpcproxy.dll?server:593"),
    ],
)
def test_a_route_is_the_address_of_a_web_server(url, secure, host, port, target):
    route = ProxyRoute(url)
    assert (route.secure, route.host, route.port) == (secure, host, port)
    assert route.target("server", 593) == target


@pytest.mark.parametrize(
    "url",
    ["", "ftp://gateway", "http://", "http://user@gateway", "http://gateway/?x", "http://gateway:99999"],
)
def test_what_is_no_address_of_a_web_server_is_said(url):
    with pytest.raises(ConfigurationError, match="no address of an RPC proxy"):
        ProxyRoute(url)


def test_direct_is_no_proxy_at_all():
    assert ProxyRoute("direct").direct
    assert not ProxyRoute("http://direct").direct


@pytest.mark.parametrize(("change", "said"), [({"auth": "digest"}, "digest"), ({"version": 3}, "version 3")])
def test_a_route_says_what_it_cannot_be(change, said):
    with pytest.raises(ConfigurationError, match=said):
        ProxyRoute("http://gateway", **change)


def test_passwords_of_a_route_are_in_no_text():
    assert "secret" not in repr(ProxyRoute("http://gateway", Password("admin", "secret")))


@pytest.mark.req("RH-2")
def test_with_a_proxy_servers_are_found_by_tower_1f_and_port_593():
    plain, proxied = ClientOptions(), ClientOptions(proxy=ProxyRoute("http://gateway"))
    assert (plain.tower_id, plain.port, plain.usual_port) == (NCACN_IP_TCP, 135, 135)
    assert (proxied.tower_id, proxied.port, proxied.usual_port) == (NCACN_HTTP, 593, 593)
    assert ClientOptions(port=10593, proxy=ProxyRoute("http://gateway")).port == 10593


def test_the_period_of_tunnels_comes_from_the_environment_or_is_the_wires():
    assert tunnel_period({}) == 120
    assert tunnel_period({"OXID_TUNNEL_PERIOD": "1.5"}) == 1.5
    with pytest.raises(ConfigurationError, match="OXID_TUNNEL_PERIOD"):
        tunnel_period({"OXID_TUNNEL_PERIOD": "soon"})


# What a web server answers ---------------------------------------------------------------------------------


def reply(status, reason, *headers):
    return Reply(status, reason, list(headers), b"", True)


@pytest.mark.req("RH-24", "RH-25")
@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (reply(503, "RPC Error: 6ba"), ServerUnavailable, "0x000006BA"),
        (reply(503, "RPC Error: 5, EEInfo: AAAA"), AccessDenied, "0x00000005"),
        (reply(401, "Unauthorized"), AccessDenied, "401 Unauthorized"),
        (reply(403, "Forbidden"), AccessDenied, "403 Forbidden"),
        (reply(404, "Not Found"), TransportError, "404 Not Found"),
        (reply(502, "Bad Gateway"), TransportError, "502 Bad Gateway"),
    ],
)
def test_refusals_become_exceptions_with_the_code_of_the_proxy(answer, kind, said):
    error = refusal(answer)
    assert isinstance(error, kind)
    assert said in str(error)


def test_a_response_may_come_in_any_pieces():
    refused = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\nContent-Length: 3\r\n\r\nabc"
    whole = b"HTTP/1.1 100 Continue\r\n\r\n" + refused
    for size in (1, 7, len(whole)):
        exchange = ClientExchange("RPC_IN_DATA", "/", [("Host", "gateway")], ended=True)
        answers = [exchange.receive(whole[at : at + size]) for at in range(0, len(whole), size)]
        (found,) = [answer for answer in answers if answer is not None]
        assert (found.status, found.body, found.keep_alive) == (401, b"abc", True)
        assert exchange.continued
        assert found.values("www-authenticate") == ["NTLM"]


def test_the_body_of_a_stream_is_not_read():
    exchange = ClientExchange("RPC_OUT_DATA", "/", [("Host", "g"), ("Content-Length", "76")], streams=(200,))
    found = exchange.receive(b"HTTP/1.1 200 Success\r\nContent-Length: 1073741824\r\n\r\nfirst")
    assert (found.status, found.body) == (200, b"first")


def test_what_is_no_http_is_a_protocol_error():
    exchange = ClientExchange("RPC_OUT_DATA", "/", [("Host", "gateway")], ended=True)
    with pytest.raises(Exception, match="no HTTP response"):
        exchange.receive(b"ncacn_http/1.0\r\n\r\n")


# Who we are ------------------------------------------------------------------------------------------------


def login(scheme, who, **more):
    return HttpLogin(scheme, who, host="gateway", world=World.real(), **more)


@pytest.mark.req("RH-26")
def test_basic_is_said_at_once_and_ntlm_asks_first():
    assert login("basic", Password("Aladdin", "open sesame")).first() == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    assert login("basic", Password("u", "p", "LAB")).first() == "Basic TEFCXHU6cA=="
    ntlm = login("ntlm", Password("u", "p"))
    assert ntlm.asks_first
    assert ntlm.first().startswith("NTLM TlRMTVNTUAABAAAA")
    ntlm.close()
    assert login("none", Password("u", "p")).first() is None
    assert login("auto", None).first() is None


def test_basic_cannot_say_everything():
    with pytest.raises(NotSupported, match="password"):
        login("basic", NtHash("u", bytes(16)))
    with pytest.raises(NotSupported, match="colon"):
        login("basic", Password("u:v", "p"))
    with pytest.raises(ConfigurationError, match="digest"):
        login("digest", Anonymous())


def test_auto_falls_back_to_basic_over_tls_and_never_without():
    only_basic = reply(401, "Unauthorized", ("www-authenticate", 'Basic realm="x"'))
    for secure, wanted in ((True, "Basic dTpw"), (False, None)):
        found = login("auto", Password("u", "p"), secure=secure)
        assert found.first().startswith("NTLM ")
        assert found.answer(only_basic) == wanted
        found.close()
