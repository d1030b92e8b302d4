"""The web server of a host, with the RPC proxy mounted at `/rpc/rpcproxy.dll`. CONTRACT section 2

web = WebPart(host)
await web.start()          listens; without `[[site]]` tables there is one site, which has the proxy and a greeting
await web.aclose()
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from oxid.config import DEFAULT_HTTP_PORT, HostOptions
from oxid.errors import ConfigurationError
from oxid.iis.asgi import AsgiApplications
from oxid.iis.exchange import Exchange
from oxid.iis.isapi.application import ApplicationSettings, AsyncApplication
from oxid.iis.isapi.filter_stages import install_filters
from oxid.iis.isapi.filters import FilterChain
from oxid.iis.isapi.host import IsapiHost
from oxid.iis.isapi.python_filters import PythonFilter
from oxid.iis.isapi.python_module import PythonModule
from oxid.iis.rpc_proxy.extension import RpcProxy
from oxid.iis.rpc_proxy.settings import ProxySettings, proxy_settings
from oxid.iis.rpc_proxy.valid_ports import Target
from oxid.iis.server import WebServer
from oxid.iis.settings import (
    Access,
    Auth,
    DirectorySettings,
    HandlerSettings,
    Module,
    ScriptMap,
    ServerSettings,
    SiteSettings,
    TlsSettings,
)
from oxid.runtime.server import Endpoint
from oxid.values.bindings import NCACN_HTTP

if TYPE_CHECKING:
    from oxid.host.host import Host

log: Final = logging.getLogger("oxid.host")

RPC_PATH: Final = "/rpc"
RPC_WITH_CERT_PATH: Final = "/rpcwithcert"
"""The same for clients with a certificate. [MS-RPCH] 2.2.2"""
PROXY_NAME: Final = "rpcproxy.dll"
SHUTDOWN_S: Final = 3.0
"""For requests that extensions have kept, when the host stops; it has ten seconds for all."""
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_GREETING: Final = b"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>oxid</title></head>
<body style="font-family: sans-serif; max-width: 40em; margin: 4em auto; line-height: 1.5">
<h1>oxid is running</h1>
<p>This web server has no site of its own yet: name one with <code>[[site]]</code> in the configuration file.</p>
<p>The RPC proxy is at <code>/rpc/rpcproxy.dll</code>.</p>
</body></html>
"""


class HostPorts:
    """What the proxy of a host carries to that was told nothing else: the host's own ports for proxies."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def admits(self, target: Target) -> bool:
        """Whether this is a port of ours, under a name of ours."""
        ports = self._ports()
        return target.port in ports and target.host.lower() in self._names(ports.values())

    def place(self, target: Target) -> str:
        """The address on which the host listens, whatever the client called it."""
        host = self._ports().get(target.port, target.host)
        return _WILDCARDS.get(host, host)

    def _names(self, listening: Iterable[str]) -> set[str]:
        host = self._host
        names = {socket.gethostname(), *host.options.advertise}
        for address in {*host.hosts, *listening}:
            names |= {address, *host.names_of(address)}
            if address in _WILDCARDS or address.startswith("127.") or address in _LOOPBACK:
                names |= set(_LOOPBACK)
        return {name.lower() for name in names}

    def _ports(self) -> dict[int, str]:
        """Port -> the address it listens on."""
        host = self._host
        found = {e.port: e.host for e in host.service.endpoints if e.protseq == "ncacn_http"}
        for bindings in host.resolver.all_bindings():
            for binding in bindings.strings:
                if binding.tower_id == NCACN_HTTP and binding.endpoint.isdigit():
                    found.setdefault(int(binding.endpoint), host.hosts[0])
        return found

    def __str__(self) -> str:
        return f"{len(self._ports())} ports of this host"


class WebPart:
    """The web server of one host, its extensions, and the proxy among them."""

    def __init__(self, host: Host) -> None:
        self._host = host
        options = host.options
        self.proxy = RpcProxy(host.world, self._proxy_settings(options))
        self.server = WebServer(host.world, self._settings(options), authenticator=host.authenticator)
        self.isapi = IsapiHost(self.server, ApplicationSettings(shutdown_limit=SHUTDOWN_S))
        self._filters: list[PythonFilter] = []
        self.isapi.install()
        # a tunnel is a request that is pending for as long as its client wants
        settings = ApplicationSettings(PROXY_NAME, pending_warning=float("inf"))
        tunnels = self.isapi.offer(PROXY_NAME, AsyncApplication(settings, self.proxy, host.world))
        self.asgi = AsgiApplications(self.server)
        self.server.register_handler("rpcproxy", lambda directory, argument: tunnels)
        self.server.register_handler("asgi", self.asgi.handler)
        self.server.register_handler("greeting", lambda directory, argument: greet)
        self.http: list[Endpoint] = []
        self.https: list[Endpoint] = []

    # Life -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen. Raises ConfigurationError for what cannot be bound, or a certificate that cannot be used."""
        options = self._host.options
        self._load_filters(self.server.settings.filters)
        await self._start_applications(self.server.settings)
        for address in options.http or ():
            self.http.append(await self.server.listen(address.host, address.port))
        tls = self.server.settings.sites[0].tls
        for address in options.https:
            self.https.append(await self.server.listen(address.host, address.port, tls=tls))
        for endpoint in await self.server.listen_all():
            (self.https if endpoint.protseq == "https" else self.http).append(endpoint)
        if options.http == () and not self.http and not self.https:
            self.http.append(await self._listen_by_default())

    def _load_filters(self, names: tuple[str, ...]) -> None:
        """Raises ConfigurationError for one that cannot be loaded."""
        for name in names:
            self._filters.append(PythonFilter(PythonModule(name), Path(name).name).load())
        if self._filters:
            install_filters(self.server, FilterChain(self._filters))

    async def _start_applications(self, settings: ServerSettings) -> None:
        """Load the ASGI applications of the configuration, and tell them that the server starts. Raises
        ConfigurationError for one that is not there or says no."""
        for site in settings.sites:
            for directory in site.directories:
                handlers = [one.handler for one in directory.script_maps]
                for handler in (*handlers, *(one.handler for one in directory.modules)):
                    if handler.kind == "asgi":
                        self.asgi.handler(directory, handler.argument)
        await self.asgi.startup()

    async def _listen_by_default(self) -> Endpoint:
        host = self._host.hosts[0]
        try:
            return await self.server.listen(host, DEFAULT_HTTP_PORT)
        except ConfigurationError as error:
            log.warning("%s; the web server listens on another port", error)
            return await self.server.listen(host, 0)

    async def aclose(self) -> None:
        """End every tunnel and request. May be called twice."""
        await asyncio.gather(self.server.aclose(), self.isapi.aclose())
        await self.asgi.aclose()
        filters, self._filters = self._filters, []
        for one in filters:
            one.terminate()

    async def apply(self, options: HostOptions) -> None:
        """Serve by a new configuration from the next request on. Raises ConfigurationError."""
        settings = self._settings(options)
        await self._start_applications(settings)
        if settings.filters != self.server.settings.filters:
            log.warning("filters take effect after a restart")
        proxy = self._proxy_settings(options)
        self.server.apply(settings)  # raises before anything has changed
        self.proxy.apply(proxy)
        for endpoint in await self.server.listen_all():
            (self.https if endpoint.protseq == "https" else self.http).append(endpoint)

    # Configuration ----------------------------------------------------------------------------------------

    def _proxy_settings(self, options: HostOptions) -> ProxySettings:
        insecure = options.proxy_insecure
        base = ProxySettings(
            valid_ports=HostPorts(self._host), allow_anonymous=insecure, allow_plain=insecure
        ).scaled(options.tunnel_period)
        return proxy_settings(options.rpc_proxy, "[rpc_proxy]", base)

    def _settings(self, options: HostOptions) -> ServerSettings:
        """The configured sites, or one with a greeting; the first one carries the proxy."""
        found = options.sites
        if found is None or not found.sites:
            greeting = HandlerSettings("greeting")
            root = DirectorySettings(
                script_maps=(ScriptMap("*", greeting, verbs=frozenset({"GET", "HEAD"})),)
            )
            found = ServerSettings(sites=(SiteSettings(directories=(root,)),))
        first, *others = found.sites
        taken = {directory.path.lower() for directory in first.directories}
        mounted = [made for made in self._proxy_directories(options) if made.path not in taken]
        tls = first.tls or _tls(options)
        if tls is None and options.https:
            raise ConfigurationError("--https needs a certificate: --cert FILE, and --key FILE")
        first = replace(first, directories=(*first.directories, *mounted), tls=tls)
        return replace(found, sites=(first, *others))

    def _proxy_directories(self, options: HostOptions) -> list[DirectorySettings]:
        settings = self._proxy_settings(options)
        auth = Auth.BASIC | Auth.NTLM | Auth.NEGOTIATE
        if settings.allow_anonymous:
            auth |= Auth.ANONYMOUS
        access = Access.EXECUTE if settings.allow_plain else Access.EXECUTE | Access.SSL
        plain = DirectorySettings(
            RPC_PATH,
            access=access,
            auth=auth,
            modules=(Module(PROXY_NAME, HandlerSettings("rpcproxy")),),
            allow_plain_basic=settings.allow_plain,
        )
        certified = replace(
            plain,
            path=RPC_WITH_CERT_PATH,
            access=access | Access.SSL | Access.REQUIRE_CERTIFICATE | Access.MAP_CERTIFICATE,
        )
        return [plain, certified]

    def tunnels(self) -> dict[str, Any]:
        """The virtual connections of the proxy, what became of former ones, and requests that extensions keep."""
        pending = [
            {"extension": application.settings.name, "request": f"{one.conn_id:#x}", "age": one.age}
            for application in self.isapi.applications()
            if application.settings.name != PROXY_NAME
            for one in application.pending()
        ]
        return {"sessions": self.proxy.sessions(), "proxy": self.proxy.statistics(), "pending": pending}

    # What can be told -------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, Any]:
        return {
            "web": self.server.statistics(),
            "rpc_proxy": self.proxy.statistics(),
            "isapi": self.isapi.statistics(),
        }


def greet(exchange: Exchange) -> None:
    """The page of a server that has nothing to show."""
    if exchange.path == "/":
        exchange.respond(200, _GREETING, [(b"Content-Type", b"text/html; charset=utf-8")])
    else:
        exchange.respond(404)


def _tls(options: HostOptions) -> TlsSettings | None:
    """The certificate of the command line."""
    if options.cert is None:
        return None
    return TlsSettings(options.cert, options.key, client_certificates="optional")
