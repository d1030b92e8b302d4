"""Which site, directory and handler a URL means. IS-40, IS-41, AB-23"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.support.web import Client, everything, hello, web_server

from oxid.iis.exchange import Exchange
from oxid.iis.routes import find_directory, find_place, find_site
from oxid.iis.server import WebServer
from oxid.iis.settings import (
    Access,
    Auth,
    Binding,
    DirectorySettings,
    HandlerSettings,
    MapFlags,
    Module,
    ScriptMap,
    ServerSettings,
    SiteSettings,
)
from oxid.runtime.server import Endpoint
from oxid.world import World

Run = Callable[[Coroutine[Any, Any, None]], None]
PROXY = Module("rpcproxy.dll", HandlerSettings("rpcproxy"))
RPC = DirectorySettings("/rpc", access=Access.EXECUTE, modules=(PROXY,), auth=Auth.ANONYMOUS)


@pytest.fixture
def site(tmp_path: Path) -> SiteSettings:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "a.py").touch()
    (tmp_path / "scripts" / "ext.dll").touch()
    scripts = DirectorySettings(
        "/Scripts",
        tmp_path / "scripts",
        access=Access.SCRIPT | Access.EXECUTE,
        script_maps=(
            ScriptMap(
                ".py",
                HandlerSettings("isapi", "py"),
                MapFlags.SCRIPT | MapFlags.CHECK_FILE,
                frozenset(["GET"]),
            ),
            ScriptMap(".idc", HandlerSettings("isapi", "idc"), MapFlags.NONE),
        ),
        executables={".dll": HandlerSettings("isapi")},
    )
    return SiteSettings(
        directories=(DirectorySettings("/", tmp_path), scripts, DirectorySettings("/scripts/Inner"), RPC)
    )


@pytest.mark.parametrize(
    ("path", "directory"),
    [
        ("/", "/"),
        ("/x/y", "/"),
        ("/scriptsx", "/"),
        ("/SCRIPTS", "/Scripts"),
        ("/scripts/a", "/Scripts"),
        ("/scripts/inner/x", "/scripts/Inner"),
        ("/scripts/inners", "/Scripts"),
    ],
)
def test_the_longest_directory_wins_whatever_the_case(site: SiteSettings, path: str, directory: str) -> None:
    found = find_directory(site, path)
    assert found is not None
    assert found.path == directory


@pytest.mark.req("IS-41")
@pytest.mark.parametrize(
    ("path", "script", "info", "handler"),
    [
        ("/scripts/a.py", "/Scripts/a.py", "", "py"),
        ("/scripts/a.py/x/y", "/Scripts/a.py", "/x/y", "py"),
        ("/scripts/a.py/", "/Scripts/a.py", "/", "py"),
        ("/scripts/A.PY/x", "/scripts/A.PY/x", "", None),
        ("/scripts/b.py", "/Scripts/b.py", "", "py"),
        ("/scripts/q.idc", "/Scripts/q.idc", "", "idc"),
        ("/scripts/no.idc/x", "/scripts/no.idc/x", "", None),
        ("/scripts/plain", "/scripts/plain", "", None),
    ],
)
def test_script_name_and_path_info(
    site: SiteSettings, path: str, script: str, info: str, handler: str | None
) -> None:
    place = find_place(site, path)
    assert place.script_name.lower() == script.lower()
    assert place.path_info == info
    assert (None if place.handler is None else place.handler.argument) == handler
    assert place.missing == (path == "/scripts/b.py")


def test_an_executable_that_is_there_runs_itself(site: SiteSettings, tmp_path: Path) -> None:
    place = find_place(site, "/scripts/ext.dll/more")
    assert place.handler == HandlerSettings("isapi", str(tmp_path / "scripts" / "ext.dll"))
    assert place.path_info == "/more"
    assert place.needs is Access.EXECUTE
    assert not place.certain
    assert find_place(site, "/scripts/none.dll").handler is None


@pytest.mark.req("AB-23")
@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/RPC/rpcproxy.dll", True),
        ("/rpc/RpcProxy.DLL", True),
        ("/rpc/rpcproxy.dll/extra", False),
        ("/rpc/rpcproxy.dll/", False),
        ("/rpc/rpcproxy.dll;a", False),
        ("/rpc/x/rpcproxy.dll", False),
        ("/rpcproxy.dll", False),
    ],
)
def test_a_module_is_found_by_its_name_alone(site: SiteSettings, path: str, found: bool) -> None:
    assert (find_place(site, path).handler is not None) == found


@pytest.mark.parametrize(
    ("address", "port", "host", "name"),
    [
        ("10.0.0.1", 80, b"www.a.example", "named"),
        ("10.0.0.1", 80, b"WWW.A.EXAMPLE:80", "named"),
        ("10.0.0.1", 80, b"www.a.example.", "named"),
        ("10.0.0.1", 80, b"other", "address"),
        ("10.0.0.2", 80, b"other", "any"),
        ("10.0.0.2", 81, b"other", None),
        ("10.0.0.1", 80, b"[::1]:80", "address"),
    ],
)
def test_the_best_binding_wins(address: str, port: int, host: bytes, name: str | None) -> None:
    sites = [
        SiteSettings(1, "any", (Binding("", 80),)),
        SiteSettings(2, "address", (Binding("10.0.0.1", 80),)),
        SiteSettings(3, "named", (Binding("", 80, "www.a.example"), Binding("", 443, "x", tls=True))),
    ]
    found = find_site(sites, address, port, False, host)
    assert (None if found is None else found.name) == name


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


@pytest.mark.req("AB-23")
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/RPC/rpcproxy.dll?x", 200),
        ("/rpc/./rpcproxy.dll", 404),
        ("/rpc/%2e/rpcproxy.dll", 404),
        ("/x/../rpc/rpcproxy.dll", 404),
        ("/rpc/rpcproxy.dll/extra?x", 404),
        ("/rpc/rpcproxy.dll;a?", 404),
        ("/rpc/rpcproxy.dll::$DATA", 404),
        ("/rpc%5crpcproxy.dll", 404),
        ("/rpc/rpcproxy.dll%00", 400),
        ("/rpc/rpcproxy%2edll", 200),
        ("//rpc//rpcproxy.dll", 200),
    ],
)
def test_url_tricks_reach_the_proxy_only_through_its_directory(path: str, status: int) -> None:
    guarded = DirectorySettings(
        "/rpc", access=Access.EXECUTE, modules=(PROXY,), auth=Auth.BASIC, allow_plain_basic=True
    )

    async def story() -> None:
        for directory, granted in ((RPC, status), (guarded, 401 if status == 200 else status)):
            async with web_server(
                DirectorySettings(), directory, handlers={"rpcproxy": hello}, passwords={"a": "b"}
            ) as (_, endpoint):
                async with await Client.connect(endpoint) as client:
                    answer = await client.get(path, method="RPC_IN_DATA")
                    # the directory's authentication comes before anything else is told
                    assert answer.status == granted or (directory is guarded and answer.status == 401)

    run(story())


@pytest.mark.req("IS-40")
def test_permissions_and_verbs_of_what_runs() -> None:
    def place(exchange: Exchange) -> None:
        exchange.respond(200, f"{exchange.script_name}|{exchange.path_info}".encode())

    def directory(access: Access, flags: MapFlags, verbs: frozenset[str] | None = None) -> DirectorySettings:
        return DirectorySettings(
            script_maps=(ScriptMap(".x", HandlerSettings("x"), flags, verbs),), access=access
        )

    async def ask(directory: DirectorySettings, path: str = "/a.x", method: str = "GET") -> bytes:
        async with web_server(directory, handlers={"x": place}) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                answer = await client.get(path, method=method)
                return b"%d " % answer.status + answer.body

    async def story() -> None:
        assert (await ask(directory(Access.SCRIPT, MapFlags.SCRIPT))) == b"200 /a.x|"
        assert b"403.1" in await ask(directory(Access.SCRIPT, MapFlags.NONE))
        assert (await ask(directory(Access.EXECUTE, MapFlags.NONE))).startswith(b"200")
        assert b"403.1" in await ask(directory(Access.READ, MapFlags.SCRIPT))
        only = directory(Access.SCRIPT, MapFlags.SCRIPT, frozenset(["POST"]))
        assert (await ask(only)).startswith(b"405")
        assert (await ask(only, method="POST")).startswith(b"200")
        checked = directory(Access.SCRIPT, MapFlags.SCRIPT | MapFlags.CHECK_FILE)
        assert (await ask(checked)).startswith(b"404")
        assert (await ask(everything("x"), "/any/thing")).startswith(b"200 /any/thing|/any/thing")

    run(story())


def test_a_handler_that_cannot_be_made_is_500_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with web_server(everything("nobody")) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                for _ in range(3):
                    assert (await client.get()).status == 500

    run(story())
    assert caplog.text.count("nobody answers requests of kind 'nobody'") == 1


def test_sites_by_host_on_one_listener() -> None:
    async def story() -> None:
        sites = tuple(
            SiteSettings(
                n, bindings=(Binding(host=name),), directories=(everything("hello"),) if n < 3 else ()
            )
            for n, name in enumerate(("one", "two", "three"), 1)
        )
        async with web_server(settings=ServerSettings(sites)) as (server, endpoint):
            async with await Client.connect(endpoint) as client:
                for host, status in ((b"one", 200), (b"TWO:80", 200), (b"three", 404), (b"four", 404)):
                    assert (
                        await client.ask(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
                    ).status == status
                absolute = b"GET http://one/x HTTP/1.1\r\nHost: three\r\n\r\n"
                assert (await client.ask(absolute)).status == 200
            assert "WebServer" in repr(server)

    run(story())


def test_sites_by_address_on_one_listener() -> None:
    def name(exchange: Exchange) -> None:
        exchange.respond(200, exchange.site.name.encode())

    async def story() -> None:
        sites = tuple(
            SiteSettings(n, address, (Binding(address),), (everything("x"),))
            for n, address in enumerate(("127.0.0.1", "127.0.0.2"), 1)
        )
        server = WebServer(World.real(), ServerSettings(sites))
        server.register_handler("x", lambda *_: name)
        port = (await server.listen("0.0.0.0", 0)).port
        for _ in range(2):
            for site in sites:
                async with await Client.connect(Endpoint(site.name, port)) as client:
                    assert (await client.get()).body == site.name.encode()
        await server.aclose()

    run(story())
