"""What in- and out-proxies have in common: a request's channel, and its virtual connection's way to the server.

ProxyChannel       one tunnel request: the leg to the client
ProxyConnection    the entry in the table of virtual connections
ServerLeg          the TCP connection to the server
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, Final

from oxid.errors import RemoteProtocolError
from oxid.tunnel.channel import SendingChannel
from oxid.tunnel.ends import NO_PORT, NO_SHELL, End
from oxid.tunnel.pdus import PduStream
from oxid.tunnel.ports import Buffer, Leg, Port, ProxyShell
from oxid.tunnel.proxy_table import SERVER_UNAVAILABLE, ProxyTable, Quota, short
from oxid.tunnel.rts import BANNER, NIL_COOKIE, VERSION, Rts, parse

if TYPE_CHECKING:
    from oxid.tunnel.windows import ReceiveWindow

log: Final = logging.getLogger("oxid.tunnel.proxy")


def same_cookie(one: bytes, other: bytes) -> bool:
    """Compare in a time that does not tell how much of it is right. RH-111"""
    return compare_digest(one, other)


class ProxyChannel(PduStream):
    """One tunnel request, from its head to its end: the leg to the client."""

    __slots__ = (
        "__weakref__",
        "bucket",
        "client",
        "connection",
        "cookie",
        "finished",
        "heard",
        "identity",
        "opened_at",
        "shell",
        "table",
        "target",
    )

    def __init__(
        self, table: ProxyTable, client: Port, shell: ProxyShell, identity: Hashable, target: str
    ) -> None:
        super().__init__(table.world.clock.now)
        self.table = table
        self.client: Port = client
        self.shell: ProxyShell = shell
        self.identity = identity
        self.target = target
        self.cookie = NIL_COOKIE
        self.connection: Any = None
        """The virtual connection (Inbound or Outbound) it belongs to."""
        self.finished = False
        self.bucket: int | None = None
        self.heard = self.opened_at = self.now()
        table.world.ledger.tunnel_channel.enter()
        table.channels[self] = None
        options = table.options
        table.deadlines.put(self, self.heard + options.first_pdu_timeout * options.scale)

    # The client's connection ------------------------------------------------------------------------------

    def closed(self, error: Exception | None = None) -> None:
        """The client's connection has ended: so does the virtual connection, unless others carry it on."""
        if self.connection is not None:
            self.connection.client_gone(self)
        else:
            self.let_go(End.CLIENT_CLOSED)

    def writable(self, flag: bool) -> None:
        """The client's connection takes more, or not: the server's is read accordingly."""
        connection = self.connection
        if connection is not None and connection.server is not None:
            port = connection.server.port
            port.resume() if flag else port.pause()

    def on_broken(self, error: RemoteProtocolError) -> None:
        """The client broke the rules: everything of the virtual connection closes. T8, T9"""
        log.info("tunnel of %s to %s: client: %s", self.identity, self.target, error)
        if self.connection is not None:
            self.connection.end(End.PROTOCOL_ERROR)
        else:
            self.let_go(End.PROTOCOL_ERROR)

    def on_rts(self, pdu: Buffer) -> None:
        self.heard = self.now()
        found = parse(pdu)  # type: ignore[arg-type]  # a bytearray will do
        if self.connection is None:
            self.first(found)
        else:
            self.connection.from_client(self, pdu, found)

    def first(self, rts: Rts) -> None:
        """Act on the first PDU of the request. Raises RemoteProtocolError."""
        raise NotImplementedError

    # The connection to the server -------------------------------------------------------------------------

    def connected(self, server: Port) -> Leg:
        """The connect that was asked for is made; returns the leg of the connection."""
        if self.connection is None:
            server.abort()
            return ServerLeg(None, server, self.now)
        leg: Leg = self.connection.connected(server)
        return leg

    def connect_failed(self, status: int = SERVER_UNAVAILABLE) -> None:
        """The connect that was asked for failed: `503 RPC Error: 6ba`, or another status. T7"""
        if self.connection is not None:
            self.connection.connecting = None
            self.connection.end(End.CONNECT_FAILED, status=status)

    def shut_down(self) -> None:
        """End it and its virtual connection: the proxy stops, or its shell failed (T16, T18)."""
        if self.connection is not None:
            self.connection.end(End.SHUT_DOWN)
        else:
            self.let_go(End.SHUT_DOWN)

    # End --------------------------------------------------------------------------------------------------

    def refuse(self, status: int, reason: str) -> None:
        """No tunnel for this request; others are not touched."""
        log.warning("tunnel of %s to %s refused: %s", self.identity, self.target, reason)
        self.let_go(End.REFUSED, status=status)

    def let_go(self, end: End, *, status: int | None = None, abort: bool = False) -> None:
        """End this channel alone, once."""
        if self.finished:
            return
        self.finished = True
        self.silence()
        self.connection = None
        table, client, shell = self.table, self.client, self.shell
        self.client, self.shell = NO_PORT, NO_SHELL
        table.deadlines.drop(self)
        del table.channels[self]
        table.channel_ends[end] += 1
        table.world.ledger.tunnel_channel.leave()
        if status is not None and self.can_refuse:
            shell.refuse(status)
        elif abort:
            client.abort()
        else:
            client.close()
        shell.finished(end.value)

    @property
    def can_refuse(self) -> bool:
        """Whether no response has begun."""
        return True

    # Time -------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> float | None:
        """Act on what is due; returns when to look again."""
        raise NotImplementedError

    def first_pdu_due(self, now: float) -> float | None:
        """Before the first PDU: end what was too slow. AB-2"""
        options = self.table.options
        due = self.opened_at + options.first_pdu_timeout * options.scale
        if now < due:
            return due
        log.info("tunnel of %s to %s: no first PDU in time", self.identity, self.target)
        self.let_go(End.IDLE, abort=True)
        return None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {short(self.cookie)} {'ended' if self.finished else self.connection}>"


class ServerLeg(PduStream):
    """The TCP connection to the server."""

    __slots__ = ("__weakref__", "_fresh", "connection", "port", "to", "window")

    def __init__(self, connection: ProxyConnection | None, port: Port, now: Any) -> None:
        super().__init__(now)
        self.connection = connection
        self.port: Port = port
        self.to: SendingChannel | None = None
        """Where RPC PDUs go; None where none may come."""
        self.window: ReceiveWindow | None = None
        self._fresh: bytes | None = b""
        """The beginning of what may be a banner; None once something else came."""
        self.deaf = connection is None

    def on_rpc(self, data: Buffer, size: int) -> None:
        if self.to is None:
            raise RemoteProtocolError("RPC PDU from the server, where none may come")
        self.to.send(data, size, self.window)

    def on_rts(self, pdu: Buffer) -> None:
        if self.connection is not None:
            self.connection.from_server(pdu, parse(pdu))  # type: ignore[arg-type]  # a bytearray will do

    def on_broken(self, error: RemoteProtocolError) -> None:
        if self.connection is not None:
            log.info("%r: server: %s", self.connection, error)
            self.connection.end(End.PROTOCOL_ERROR)

    def closed(self, error: Exception | None = None) -> None:
        """The server's connection has ended (T5, T6)."""
        if self.connection is not None:
            self.connection.end(End.SERVER_CLOSED)

    def writable(self, flag: bool) -> None:
        """The server's connection takes more, or not: the clients' are read accordingly."""
        if self.connection is not None:
            for channel in self.connection.channels():
                channel.client.resume() if flag else channel.client.pause()

    def _walk(self, data: bytes, size: int) -> None:
        if self._fresh is not None:
            data = self._fresh + data
            if len(data) < len(BANNER) and BANNER.startswith(data):
                self._fresh = data
                return
            self._fresh = None
            if data.startswith(BANNER):
                data = data[len(BANNER) :]
                if self.connection is not None:
                    self.connection.banner_came()
            if not data:
                return
            size = len(data)
        PduStream._walk(self, data, size)


class ProxyConnection:
    """An entry in a proxy's table of virtual connections, one for each direction."""

    __slots__ = (
        "__weakref__",
        "bucket",
        "connecting",
        "cookie",
        "half_open",
        "identity",
        "made_at",
        "over",
        "quota",
        "server",
        "setup_due",
        "table",
        "target",
        "version",
    )

    def __init__(self, channel: ProxyChannel, cookie: bytes, version: int, quota: Quota) -> None:
        table = channel.table
        self.table = table
        self.cookie = cookie
        self.identity = channel.identity
        self.target = channel.target
        self.version = min(version, VERSION)
        self.quota = quota
        self.half_open = True
        self.over = False
        self.server: ServerLeg | None = None
        self.connecting: ProxyChannel | None = channel
        self.bucket: int | None = None
        self.made_at = table.world.clock.now()
        self.setup_due: float | None = None
        """When what is being set up must stand."""
        table.world.ledger.virtual_connection.enter()
        quota.enter(self.identity)
        self.expect_setup()

    # Steps ------------------------------------------------------------------------------------------------

    def connected(self, server: Port) -> ServerLeg:
        """TCP to the server stands."""
        if self.over or self.connecting is None:
            server.abort()
            return ServerLeg(None, server, self.table.world.clock.now)
        leg = self.server = ServerLeg(self, server, self.table.world.clock.now)
        if not self.table.options.require_banner:
            self.greet()
        return leg

    def banner_came(self) -> None:
        """The server said that it is one. RH-32"""
        if self.table.options.require_banner and self.connecting is not None:
            self.greet()

    def greet(self) -> None:
        """Send the first PDU to the server."""
        raise NotImplementedError

    def from_client(self, channel: ProxyChannel, pdu: Buffer, rts: Rts) -> None:
        """Act on an RTS PDU of a client. Raises RemoteProtocolError."""
        raise NotImplementedError

    def from_server(self, pdu: Buffer, rts: Rts) -> None:
        """Act on an RTS PDU of the server. Raises RemoteProtocolError."""
        raise NotImplementedError

    def client_gone(self, channel: ProxyChannel) -> None:
        """A client's connection has ended (T1 to T4)."""
        self.end(End.CLIENT_CLOSED)

    def channels(self) -> list[ProxyChannel]:
        """Its channels to the client that have not ended."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of windows, queues and the place in the table."""
        raise NotImplementedError

    # Set-up and end ---------------------------------------------------------------------------------------

    def expect_setup(self) -> None:
        """Something begins that must be done before the setup time is over."""
        options = self.table.options
        self.setup_due = self.table.world.clock.now() + options.setup_timeout * options.scale
        self.table.deadlines.put(self, self.setup_due)

    def set_up(self) -> None:
        """What was expected is done."""
        self.setup_due = None
        if self.half_open:
            self.half_open = False
            self.quota.established(self.identity)
            self.table.opened += 1

    def expire(self, now: float) -> float | None:
        if self.setup_due is not None and now >= self.setup_due:
            log.info("%r: not set up in time", self)
            self.end(End.SETUP, abort=True)
        return self.setup_due

    def end(self, end: End, *, status: int | None = None, abort: bool = False) -> None:
        """Everything of the virtual connection at this proxy ends, once. RH-101"""
        if self.over:
            return
        self.over = True
        self.setup_due = None
        table = self.table
        table.deadlines.drop(self)
        if self.half_open:
            self.quota.established(self.identity)
        self.quota.leave(self.identity)
        table.ends[end] += 1
        table.world.ledger.virtual_connection.leave()
        channels = self.channels()
        self.release()
        connecting, self.connecting = self.connecting, None
        server, self.server = self.server, None
        if server is not None:
            server.silence()
            server.connection = server.to = server.window = None
            port, server.port = server.port, NO_PORT
            if abort:
                port.abort()
            else:
                port.close()
        elif connecting is not None:
            connecting.shell.cancel_connect()
        for channel in channels:
            channel.let_go(end, status=status, abort=abort)

    def describe(self) -> dict[str, Any]:
        """A row for the console: no secrets, no whole cookie."""
        return {
            "connection": short(self.cookie),
            "direction": type(self).__name__.lower(),
            "identity": str(self.identity),
            "target": self.target,
            "state": self.state_name,
            "age": self.table.world.clock.now() - self.made_at,
        }

    @property
    def state_name(self) -> str:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {short(self.cookie)} of {self.identity} to {self.target}, {self.state_name}>"
