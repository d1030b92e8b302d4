"""What the machines of the tunnel and their shells call each other. [MS-RPCH] 3.2

A shell (sockets, HTTP) gives a machine *ports* and calls it through *legs*:
    Port     one connection as the machine uses it: bytes out, close, stop and continue reading
    Leg      one connection as the shell uses it: bytes in, closed, writable or not
    Upper    who reads and writes RPC PDUs through a tunnel: an asyncio protocol by its method names

Everything runs on one thread. A machine may call a port from inside any of its own methods; a port must not call
the machine back from inside `write`, `close` or `abort` (a later turn of the loop, or never, for what it closed).
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

Buffer: TypeAlias = "bytes | bytearray | memoryview"


class Port(Protocol):
    """One connection to a neighbour: an HTTP request or response body, or TCP to or from an RPC server."""

    def write(self, data: Buffer, /) -> None:
        """Send bytes; never blocks, ignored once closed. The buffer is not changed afterwards by anybody."""

    def write_all(self, buffers: list[Any], /) -> None:
        """Send several buffers as if they were one."""

    def close(self) -> None:
        """End the connection after what was written is sent. May be called again."""

    def abort(self) -> None:
        """End the connection now; what waits is thrown away. May be called again."""

    def pause(self) -> None:
        """Stop reading. May be called again."""

    def resume(self) -> None:
        """Read again. May be called without `pause`."""


class Leg(Protocol):
    """The machine's end of one connection; the shell tells it what happens there."""

    def receive(self, data: bytes) -> None:
        """Bytes came: pieces of any size. Never raises for what a peer sends."""

    def closed(self, error: Exception | None = None) -> None:
        """The connection has ended, by the peer, by an error or by ourselves. More calls are ignored."""

    def writable(self, flag: bool) -> None:
        """The transport below has more than its high mark to send (False), or less than the low one again (True).

        Windows bound what RPC sends to 256 KiB; a high mark above that is only met by floods of RTS PDUs.
        """


class ProxyShell(Protocol):
    """What the shell of one tunnel request in a proxy does for its machine."""

    def connect(self) -> None:
        """Connect to the request's target (TCP). Answer later, once, with `connected(port)` or
        `connect_failed(status)` of the machine; not after `cancel_connect`."""

    def cancel_connect(self) -> None:
        """Give up a connect that was asked for."""

    def keep_alive(self, seconds: float) -> None:
        """In-proxy only: set the keep-alive of the TCP connection to the server. [MS-RPCH] 3.2.3.2.1"""

    def refuse(self, status: int) -> None:
        """No tunnel: answer `503 RPC Error: <status in hex>`, then end the request; nothing was sent before.

        The machine has finished when this is called; `finished` follows at once. RH-24"""

    def send_response_head(self, content_length: int) -> None:
        """Out-proxy only: the `200 Success` head goes out now; what is written to the port is its body."""

    def finished(self, end: str) -> None:
        """The machine is over: exactly once. Its port was closed or aborted before; the shell lets go of it."""


class Upper(Protocol):
    """The RPC runtime above a tunnel: a face of `runtime.server` or `runtime.client` as it is for TCP."""

    def data_received(self, data: bytes, /) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self, error: Exception | None, /) -> None: ...
