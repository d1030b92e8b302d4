"""Version 1, COM Internet Services: one HTTP request that becomes a connection to the server. [MS-RPCH] 3.1.2

The server's banner comes first, and is not passed on; then the client has its 200, and bytes pass both ways until
either side closes. The control block is let go exactly once, whoever ends (T19, Q241104).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from oxid.iis.isapi.asynchronous import AsyncControlBlock
from oxid.iis.isapi.constants import HSE_STATUS_SUCCESS
from oxid.iis.rpc_proxy.channels import rpc_error
from oxid.iis.rpc_proxy.connector import BANNER, ServerLink, TooBusy
from oxid.iis.rpc_proxy.valid_ports import Target
from oxid.tunnel.proxy_table import SERVER_TOO_BUSY, SERVER_UNAVAILABLE

if TYPE_CHECKING:
    from oxid.iis.rpc_proxy.extension import RpcProxy

log: Final = logging.getLogger("oxid.iis.rpc_proxy")


class MixedChannel:
    """One client of version 1."""

    __slots__ = (
        "_banner",
        "_connecting",
        "_ecb",
        "_half_closed",
        "_opened",
        "link",
        "proxy",
        "source",
        "target",
    )

    def __init__(self, proxy: RpcProxy, ecb: AsyncControlBlock, target: Target) -> None:
        self.proxy = proxy
        self.target = target
        self.source = ecb.peer[0]
        """The client's address."""
        self._ecb: AsyncControlBlock | None = ecb
        self.link: ServerLink | None = None
        self._banner = b""
        self._opened = False
        self._half_closed = False
        self._connecting: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Connect to the server."""
        assert self._ecb is not None
        ledger = self.proxy.world.ledger
        ledger.virtual_connection.enter()
        ledger.tunnel_channel.enter()
        self.proxy.began(self)
        self._ecb.when_lost(self.shut_down)
        if self._ecb is not None:
            self._ecb.when_body(self._client_came)
        if self._ecb is not None:
            self._connecting = self.proxy.spawn(self._connect())

    async def _connect(self) -> None:
        settings = self.proxy.settings
        try:
            link = await self.proxy.connect(self.target)
        except (OSError, TimeoutError, UnicodeError) as error:
            log.info("%s cannot be reached: %s", self.target, error or type(error).__name__)
            self._connecting = None
            self._refuse()
            return
        except TooBusy as error:
            log.warning("%s is not connected to: %s", self.target, error)
            self._connecting = None
            self._refuse(SERVER_TOO_BUSY)
            return
        self._connecting = None
        self.link = link
        self.proxy.watch(link)
        self.proxy.expect(self, settings.banner_timeout)
        link.attach(self)

    # From the server --------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Bytes of the server: the banner, then RPC."""
        ecb = self._ecb
        if ecb is None:
            return
        if not self._opened:
            banner = self._banner = self._banner + data
            if not banner.startswith(BANNER[: len(banner)]):
                log.warning("%s is no server for proxies: it does not begin with the banner", self.target)
                self._refuse()
                return
            if len(banner) < len(BANNER):
                return
            self._open(ecb)
            data = banner[len(BANNER) :]
            if not data or self._ecb is None:
                return
        ecb.write(data)
        if not ecb.writable and self.link is not None:
            self.link.pause()
            ecb.when_writable(self._client_reads)

    def _open(self, ecb: AsyncControlBlock) -> None:
        self._opened = True
        self._banner = b""
        self.proxy.expected(self)
        ecb.send_head(b"200 OK", (), keep=False)
        link = self.link
        assert link is not None
        ecb.stream_body(link.write, self._client_ended)

    def _client_reads(self) -> None:
        if self.link is not None:
            self.link.resume()

    def writable(self, flag: bool) -> None:
        """Whether the server reads."""
        if self._ecb is not None and self._opened:
            if flag:
                self._ecb.resume_body()
            else:
                self._ecb.pause_body()

    def closed(self, error: Exception | None = None) -> None:
        """The server has closed."""
        self.link = None
        if self._opened:
            self._end()
        else:
            self._refuse()

    # From the client --------------------------------------------------------------------------------------

    def _client_came(self) -> None:
        """Before its 200 a client has nothing to say: one that ends its half then is gone. T19"""
        ecb = self._ecb
        if ecb is not None and not self._opened and ecb.body_ended:
            self._end()

    def _client_ended(self) -> None:
        """The client has ended its half: the server may still answer for a moment. RH-11"""
        link, ecb = self.link, self._ecb
        if ecb is None:
            return
        if ecb.lost or link is None or link.transport is None or self._half_closed:
            self._end()
            return
        self._half_closed = True
        link.transport.write_eof()
        self.proxy.expect(self, self.proxy.settings.half_close_grace)

    # The end ----------------------------------------------------------------------------------------------

    def overdue(self) -> None:
        """What was expected has not come: the banner, or the end behind a half-closed client."""
        if self._opened:
            self._end()
        else:
            log.warning("%s is no server for proxies: no banner in time", self.target)
            self._refuse()

    def _refuse(self, status: int = SERVER_UNAVAILABLE) -> None:
        if self._ecb is not None:
            self._ecb.write(rpc_error(status))
            self._ecb.http_status = 503
        self._end()

    def shut_down(self) -> None:
        """The proxy stops, or the client is gone."""
        self._end()

    def _end(self) -> None:
        self.proxy.expected(self)
        task, self._connecting = self._connecting, None
        if task is not None:
            task.cancel()
        link, self.link = self.link, None
        if link is not None:
            link.close()
        self.let_go()

    def let_go(self) -> None:
        """Tell the web server that this request is done: once, whatever ends it. Q241104"""
        ecb, self._ecb = self._ecb, None
        if ecb is not None:
            ledger = self.proxy.world.ledger
            ledger.virtual_connection.leave()
            ledger.tunnel_channel.leave()
            self.proxy.ended(self)
            ecb.done(HSE_STATUS_SUCCESS)
