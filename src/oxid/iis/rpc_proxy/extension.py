"""The RPC proxy as an extension: which requests become tunnels, and what the others are told. [MS-RPCH] 3.2.3, 3.2.4

    proxy = RpcProxy(world, settings)
    application = AsyncApplication(..., proxy, ...)       rpcproxy.dll of the web server

It uses the public asynchronous interface for extensions and nothing else of the web server.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, Final, NamedTuple

from oxid.iis.isapi.asynchronous import AsyncControlBlock
from oxid.iis.isapi.constants import HSE_STATUS_PENDING, HSE_STATUS_SUCCESS_AND_KEEP_CONN
from oxid.iis.rpc_proxy.channels import ProxyChannel, rpc_error
from oxid.iis.rpc_proxy.connector import ServerLink, TooBusy, connect_to
from oxid.iis.rpc_proxy.mixed import MixedChannel
from oxid.iis.rpc_proxy.settings import ProxySettings
from oxid.iis.rpc_proxy.valid_ports import Refused, Target, parse_target
from oxid.runtime.deadlines import DeadlineDriver
from oxid.tunnel import rts
from oxid.tunnel.in_proxy import InProxy
from oxid.tunnel.out_proxy import OutProxy
from oxid.tunnel.proxy_table import SERVER_TOO_BUSY, ProxyTable
from oxid.world import World

log: Final = logging.getLogger("oxid.iis.rpc_proxy")

ACCESS_DENIED: Final = 5
MAX_ECHO: Final = 0x10
"""Bytes of a request that only asks whether a proxy is here. [MS-RPCH] 2.1.2.1.5"""
MIN_IN: Final = 128 * 1024
MAX_IN: Final = 1 << 31
"""Bytes that an IN channel may declare. [MS-RPCH] 2.1.2.1.1"""
USUAL_WINDOW: Final = 64 * 1024
"""What Windows has, and all that can be said to clients who do not ask for more with `Pragma: ReceiveWindow=BYTES`, as
ours do: Wine takes the window it is told for its own, and would acknowledge too late. [MS-RPCH] 2.2.3.5.1"""
OUT_LENGTHS: Final = (76, 120)
"""Of an OUT channel, and of its successors. [MS-RPCH] 2.1.2.1.2"""
NOBODY: Final = ""


class RpcProxy:
    """Every role of a proxy in one process: version 1, and both of version 2."""

    def __init__(self, world: World, settings: ProxySettings) -> None:
        self.world = world
        self.settings = settings
        self.channels: set[ProxyChannel | MixedChannel] = set()
        self.refused = 0
        self.busy = 0
        """Requests that were refused because there are too many. RH-115"""
        self._of_source: Counter[str] = Counter()
        """How many channels each client address has."""
        self._connects: Counter[Target] = Counter()
        """Connections that were begun within this second."""
        self._second = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: set[ServerLink] = set()
        self._expected: dict[MixedChannel, float] = {}
        self._driver: DeadlineDriver | None = None
        self._table: ProxyTable | None = None
        self._stopping = False

    # Life -------------------------------------------------------------------------------------------------

    def start(self, host: object) -> None:
        """Called when the extension is loaded."""
        self._driver = DeadlineDriver(asyncio.get_running_loop(), self.world, self._expire)
        self._table = ProxyTable(self.world, self.settings.tunnel, want=self._driver.want)
        self._stopping = False

    async def stop(self) -> None:
        """End every tunnel, and wait until its connections are closed. T16"""
        self._stopping = True
        if self._table is not None:
            self._table.shut_down()
        for channel in list(self.channels):
            if isinstance(channel, MixedChannel):
                channel.shut_down()
        for task in list(self._tasks):
            task.cancel()
        waiting = [*self._tasks, *(link.closed_waiter for link in self._links)]
        for link in list(self._links):
            link.close()
        if waiting:
            await asyncio.wait(waiting, timeout=2.0)
        for link in list(self._links):
            link.abort()
            await asyncio.shield(link.closed_waiter)
        if self._driver is not None:
            self._driver.close()

    def apply(self, settings: ProxySettings) -> None:
        """Take over settings; tunnels that stand keep theirs. How tunnels are run (windows, lifetimes, timers) waits
        for a restart: what a server was promised must hold for the successors of a channel too."""
        if settings.tunnel != self.settings.tunnel:
            log.warning("[rpc_proxy] out_lifetime takes effect after a restart")
        self.settings = replace(settings, tunnel=self.settings.tunnel)

    # Requests ---------------------------------------------------------------------------------------------

    def begin(self, ecb: AsyncControlBlock) -> int:
        """Answer one request."""
        method = ecb.method
        if method not in ("RPC_IN_DATA", "RPC_OUT_DATA", "RPC_CONNECT"):
            return self._smoke_test(ecb, method)
        settings = self.settings
        if not settings.enabled or self._stopping or self._table is None:
            return self._answer(ecb, 404)
        user = ecb.user
        if user is None and not settings.allow_anonymous:
            return self._answer(ecb, 401)
        if ecb.tls is None and not settings.allow_plain:
            return self._answer(ecb, 403)
        length = ecb.content_length
        if method == "RPC_CONNECT":
            target = self._target(ecb, ecb.query or ecb.target)
        else:
            if length is None:
                return self._answer(ecb, 411)
            if length <= MAX_ECHO:
                headers = b"Content-Type: application/rpc\r\nContent-Length: %d\r\n" % len(rts.ECHO)
                ecb.send_head(b"200 Success", headers, keep=True)
                ecb.write(rts.ECHO)
                return HSE_STATUS_SUCCESS_AND_KEEP_CONN
            if not (MIN_IN <= length <= MAX_IN if method == "RPC_IN_DATA" else length in OUT_LENGTHS):
                return self._answer(ecb, 400)
            target = self._target(ecb, ecb.query)
        if target is None:
            return self._refuse(ecb, ACCESS_DENIED)
        if self._of_source[ecb.peer[0]] >= settings.max_channels_per_source:
            log.warning("%s has %d channels already", ecb.peer[0], settings.max_channels_per_source)
            self.busy += 1
            return self._refuse(ecb, SERVER_TOO_BUSY)
        ecb.send_continue()
        if method == "RPC_CONNECT":
            MixedChannel(self, ecb, target).begin()
        else:
            self._tunnel(ecb, method, target)
        return HSE_STATUS_PENDING

    def _tunnel(self, ecb: AsyncControlBlock, method: str, target: Target) -> None:
        assert self._table is not None
        channel = ProxyChannel(self, ecb, target)
        machine: InProxy | OutProxy
        identity = _identity(ecb)
        if method == "RPC_IN_DATA":
            machine = InProxy(
                self._table,
                channel,
                channel,
                identity,
                str(target),
                client_address=ecb.peer[0],
                window=max(_number(ecb, b"receivewindow") or USUAL_WINDOW, rts.MIN_WINDOW),
            )
        else:
            machine = OutProxy(
                self._table,
                channel,
                channel,
                identity,
                str(target),
                connection_timeout=_min_conn_timeout(ecb),
            )
        channel.begin(machine)

    def _target(self, ecb: AsyncControlBlock, text: bytes) -> Target | None:
        """The server that a request names, where it may. RH-30"""
        if ecb.method == "RPC_CONNECT" and not ecb.query:
            text = text.removeprefix(b"http://").strip(b"/")  # version 1 also names it as the authority
        try:
            target = parse_target(text)
        except Refused as error:
            log.warning("%s asks for no server: %s", ecb.peer[0], error)
            return None
        if not self.settings.valid_ports.admits(target):
            log.warning("%s asks for %s, which ValidPorts does not name", ecb.peer[0], target)
            return None
        return target

    def _smoke_test(self, ecb: AsyncControlBlock, method: str) -> int:
        """What administrators look at with a browser: an empty page. RH-28"""
        if method not in ("GET", "HEAD"):
            return self._answer(ecb, 501)
        if ecb.user is None and not self.settings.allow_anonymous:
            return self._answer(ecb, 401)
        ecb.respond(200, b"", [(b"Content-Type", b"text/html")])
        return HSE_STATUS_SUCCESS_AND_KEEP_CONN

    def _answer(self, ecb: AsyncControlBlock, status: int) -> int:
        self.refused += 1
        ecb.respond(status, b"", [], keep=False)
        return HSE_STATUS_SUCCESS_AND_KEEP_CONN

    def _refuse(self, ecb: AsyncControlBlock, status: int) -> int:
        self.refused += 1
        ecb.write(rpc_error(status))
        ecb.http_status = 503
        return HSE_STATUS_SUCCESS_AND_KEEP_CONN

    # What channels need -----------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that ends with the proxy."""
        self.world.ledger.task.enter()
        task = asyncio.get_running_loop().create_task(work, name="oxid rpc proxy")
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[None]) -> None:
        self.world.ledger.task.leave()
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection to a server failed", exc_info=error)

    async def connect(self, target: Target) -> ServerLink:
        """A connection to a server that is admitted. Raises OSError, TimeoutError, TooBusy."""
        settings = self.settings
        second = int(self.world.clock.now())
        if second != self._second:
            self._second = second
            self._connects.clear()
        self._connects[target] += 1
        if self._connects[target] > settings.max_connects_per_second:
            self.busy += 1
            raise TooBusy(f"more than {settings.max_connects_per_second} connections within a second")
        host = settings.valid_ports.place(target)
        link = await connect_to(host, target.port, settings.connect_timeout, near=settings.nearby)
        link.keep_alive(settings.tunnel.client_keepalive * settings.tunnel.scale)
        return link

    def began(self, channel: ProxyChannel | MixedChannel) -> None:
        """A channel stands, until `ended`."""
        self.channels.add(channel)
        self._of_source[channel.source] += 1

    def ended(self, channel: ProxyChannel | MixedChannel) -> None:
        """A channel is over; with the last one go the timers."""
        self.channels.discard(channel)
        self._of_source[channel.source] -= 1
        if not self._of_source[channel.source]:
            del self._of_source[channel.source]
        if self.channels or self._expected or self._table is None or self._driver is None:
            return
        if self._table.next_deadline() is None:
            self._driver.close()

    def watch(self, link: ServerLink) -> None:
        """A connection to a server is open; `stop` waits for its end."""
        self._links.add(link)
        link.closed_waiter.add_done_callback(lambda _: self._links.discard(link))

    def expect(self, channel: MixedChannel, seconds: float) -> None:
        """`channel.overdue` is called unless `expected` is within so many seconds."""
        assert self._driver is not None
        deadline = self.world.clock.now() + seconds
        self._expected[channel] = deadline
        self._driver.want(deadline)

    def expected(self, channel: MixedChannel) -> None:
        """What was waited for has come, or does not matter any more."""
        self._expected.pop(channel, None)

    def _expire(self, now: float) -> float | None:
        for channel, deadline in list(self._expected.items()):
            if deadline <= now:
                del self._expected[channel]
                channel.overdue()
        upcoming = list(self._expected.values())
        assert self._table is not None
        following = self._table.expire(now)
        if following is not None:
            upcoming.append(following)
        return min(upcoming, default=None)

    # What can be told -------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, int]:
        table = self._table.statistics() if self._table is not None else {}
        return {"channels": len(self.channels), "refused": self.refused, "busy": self.busy, **table}

    def sessions(self) -> list[dict[str, object]]:
        """The virtual connections, for people."""
        return self._table.sessions() if self._table is not None else []

    def __repr__(self) -> str:
        return f"<RpcProxy {len(self.channels)} channels, {len(self._links)} connections to servers>"


class Caller(NamedTuple):
    """Whom a virtual connection belongs to: channels of anybody else are refused. RH-110"""

    name: str
    """The account in lower case; empty for nobody."""
    certificate: str
    """SHA-256 of the client's certificate in hexadecimal, or nothing."""
    secure: bool
    """Whether it came over TLS."""

    def __str__(self) -> str:
        return f"{self.name or 'nobody'}{' over TLS' if self.secure else ''}"


def _identity(ecb: AsyncControlBlock) -> Caller:
    user, tls = ecb.user, ecb.tls
    certificate = getattr(tls, "peer_certificate", None) if tls is not None else None
    mark = hashlib.sha256(certificate).hexdigest() if certificate else ""
    return Caller(NOBODY if user is None else str(user.name).lower(), mark, tls is not None)


def _min_conn_timeout(ecb: AsyncControlBlock) -> float | None:
    """The client's `Pragma: MinConnTimeout=T`, 120 to 14,400 s; None without one. [MS-RPCH] 3.2.4.5.1"""
    seconds = _number(ecb, b"minconntimeout")
    return None if seconds is None else float(min(max(seconds, 120), 14400))


def _number(ecb: AsyncControlBlock, key: bytes) -> int | None:
    """The number that a client's Pragma header gives a key."""
    for name, value in ecb.headers:
        if name == b"pragma":
            for part in value.split(b","):
                found, equals, text = part.strip().partition(b"=")
                if equals and found.lower() == key and text.isdigit() and len(text) <= 6:
                    return int(text)
    return None
