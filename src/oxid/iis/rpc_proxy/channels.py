"""One channel of version 2 at a proxy: an HTTP request on one side, a connection to the server on the other.
[MS-RPCH] 3.2.3, 3.2.4

What the tunnel's machine decides is done here. Each channel holds one control block, and lets go of it once: that
is what Q241104 was about.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from oxid.iis.isapi.asynchronous import AsyncControlBlock
from oxid.iis.isapi.constants import HSE_STATUS_SUCCESS
from oxid.iis.rpc_proxy.connector import ServerLink, TooBusy
from oxid.iis.rpc_proxy.valid_ports import Target
from oxid.tunnel.in_proxy import InProxy
from oxid.tunnel.out_proxy import OutProxy
from oxid.tunnel.proxy_table import SERVER_TOO_BUSY, SERVER_UNAVAILABLE

if TYPE_CHECKING:
    from oxid.iis.rpc_proxy.extension import RpcProxy

log: Final = logging.getLogger("oxid.iis.rpc_proxy")


class ProxyChannel:
    """Shell and client port of one tunnel request."""

    __slots__ = ("_connecting", "_ecb", "link", "machine", "proxy", "source", "target")

    def __init__(self, proxy: RpcProxy, ecb: AsyncControlBlock, target: Target) -> None:
        self.proxy = proxy
        self.target = target
        self.source = ecb.peer[0]
        """The client's address."""
        self._ecb: AsyncControlBlock | None = ecb
        self.link: ServerLink | None = None
        self._connecting: asyncio.Task[None] | None = None
        self.machine: InProxy | OutProxy | None = None

    def begin(self, machine: InProxy | OutProxy) -> None:
        """Run the tunnel's machine on the request."""
        self.machine = machine
        ecb = self._ecb
        assert ecb is not None
        self.proxy.began(self)
        ecb.when_lost(self._client_lost)
        if self._ecb is not None:
            ecb.stream_body(machine.receive, self._body_ended)

    def _client_lost(self) -> None:
        if self.machine is not None:
            self.machine.closed(None)

    def _body_ended(self) -> None:
        """All that was declared has come: the end of an IN channel; an OUT channel has said what it has to say."""
        if isinstance(self.machine, InProxy):
            self.machine.closed(None)

    # The machine's port to the client -----------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if self._ecb is not None:
            self._ecb.write(data)

    def write_all(self, buffers: list[Any]) -> None:
        """Send several buffers at once."""
        if self._ecb is not None:
            self._ecb.write_all(buffers)

    def pause(self) -> None:
        """Read nothing from the client for a while."""
        if self._ecb is not None:
            self._ecb.pause_body()

    def resume(self) -> None:
        if self._ecb is not None:
            self._ecb.resume_body()

    def close(self) -> None:
        """End the request; what was written still goes out."""
        self.let_go()

    def abort(self) -> None:
        """End the request with a reset."""
        if self._ecb is not None:
            self._ecb.abort_at_end()
            self.let_go()

    def let_go(self) -> None:
        """Tell the web server that this request is done: once, whatever ends it. Q241104"""
        ecb, self._ecb = self._ecb, None
        if ecb is not None:
            ecb.done(HSE_STATUS_SUCCESS)

    # What the machine asks of its shell ----------------------------------------------------------------------

    def connect(self) -> None:
        """Connect to the server; `machine.connected` or `connect_failed` is called later."""
        self._connecting = self.proxy.spawn(self._connect())

    async def _connect(self) -> None:
        machine = self.machine
        assert machine is not None
        try:
            link = await self.proxy.connect(self.target)
        except (OSError, TimeoutError, UnicodeError) as error:
            log.info("%s cannot be reached: %s", self.target, error or type(error).__name__)
            self._connecting = None
            machine.connect_failed(SERVER_UNAVAILABLE)
            return
        except TooBusy as error:
            log.warning("%s is not connected to: %s", self.target, error)
            self._connecting = None
            machine.connect_failed(SERVER_TOO_BUSY)
            return
        self._connecting = None
        self.link = link
        self.proxy.watch(link)
        try:
            link.attach(machine.connected(link))
        except Exception:
            link.abort()
            machine.shut_down()  # T18: this virtual connection alone
            raise

    def cancel_connect(self) -> None:
        """Nobody waits for the connection any more."""
        task, self._connecting = self._connecting, None
        if task is not None:
            task.cancel()

    def keep_alive(self, seconds: float) -> None:
        """Of the connection to the server."""
        if self.link is not None:
            self.link.keep_alive(seconds)

    def refuse(self, status: int) -> None:
        """Answer an error and end the request. RH-24"""
        if self._ecb is not None:
            self._ecb.write(rpc_error(status))
            self._ecb.http_status = 503

    def send_response_head(self, content_length: int) -> None:
        """The OUT channel stands: its response begins. [MS-RPCH] 2.1.2.1.4"""
        if self._ecb is not None:
            headers = b"Content-Type: application/rpc\r\nContent-Length: %d\r\n" % content_length
            self._ecb.send_head(b"200 Success", headers, keep=False)

    def finished(self, end: str) -> None:
        """The machine is over."""
        self.proxy.ended(self)
        self.cancel_connect()
        self.machine = None
        self.link = None
        self.let_go()
        log.debug("a channel to %s ended: %s", self.target, end)


def rpc_error(status: int) -> bytes:
    """The whole response for a tunnel that is refused. [MS-RPCH] 2.1.2.1.3"""
    return b"HTTP/1.0 503 RPC Error: %x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status
