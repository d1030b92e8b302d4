"""A client of RPC over HTTP by hand: sockets and PDUs, so that a test can stop, lie and vanish wherever it likes.

tunnel = RawTunnel(web_port, "127.0.0.1:593")
tunnel.establish()                    both channels, up to CONN/C2
tunnel.send(bind(...)); tunnel.rpc()  PDUs inside
tunnel.reset()                        RST on both connections
"""

from __future__ import annotations

import base64
import os
import socket
import struct
import time
from contextlib import suppress
from typing import Any, Self

from tests.support.host import ADMIN, PASSWORD

from oxid.tunnel import rts

GIB = 1 << 30
PATIENCE_S = 15.0


def head(
    method: str,
    target: str,
    length: int | None,
    *,
    user: str | None = ADMIN,
    password: str = PASSWORD,
    more: str = "",
    version: str = "1.1",
) -> bytes:
    """The head of a tunnel's request."""
    lines = [f"{method} /rpc/rpcproxy.dll?{target} HTTP/{version}", "Host: gateway", "User-Agent: MSRPC"]
    if user is not None:
        lines.append(f"Authorization: Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}")
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n" + more + "\r\n").encode("latin-1")


class Wire:
    """One connection to the web server."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self.received = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def more(self) -> bool:
        """Wait for bytes; False at the end of the connection."""
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            return False
        self.received += data
        return bool(data)

    def head(self) -> bytes:
        """A response's head; b"" where the connection ended without one."""
        while b"\r\n\r\n" not in self.received:
            if not self.more():
                return b""
        found, _, self.received = self.received.partition(b"\r\n\r\n")
        return found

    def pdu(self) -> bytes:
        """The next PDU; b"" at the end of the connection."""
        while len(self.received) < 10 or len(self.received) < self._length():
            if not self.more():
                return b""
        length = self._length()
        found, self.received = self.received[:length], self.received[length:]
        return found

    def _length(self) -> int:
        return int.from_bytes(self.received[8:10], "little")

    def ended(self, within: float = PATIENCE_S) -> bool:
        """Whether the server ends the connection in time; what still comes is thrown away."""
        until = time.monotonic() + within
        while (left := until - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                if not self.socket.recv(1 << 16):
                    return True
            except ConnectionResetError:
                return True
            except TimeoutError:
                return False
        return False

    def reset(self) -> None:
        """RST."""
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RawTunnel:
    """Both channels of one virtual connection."""

    def __init__(
        self, web_port: int, target: str, *, in_length: int = GIB, window: int = 65536, **who: Any
    ) -> None:
        self.web_port, self.target = web_port, target
        self.in_length, self.window, self.who = in_length, window, who
        self.vc, self.in_cookie, self.out_cookie = os.urandom(16), os.urandom(16), os.urandom(16)
        self.inward: Wire | None = None
        self.outward: Wire | None = None
        self.wires: list[Wire] = []
        self.taken = 0
        """Bytes of RPC PDUs received on OUT."""

    def _wire(self) -> Wire:
        wire = Wire(self.web_port)
        self.wires.append(wire)
        return wire

    def open_in(self) -> Wire:
        self.inward = self._wire()
        self.inward.send(head("RPC_IN_DATA", self.target, self.in_length, **self.who))
        return self.inward

    def open_out(self) -> Wire:
        self.outward = self._wire()
        self.outward.send(head("RPC_OUT_DATA", self.target, 76, **self.who))
        return self.outward

    def a1(self) -> bytes:
        return rts.conn_a1(self.vc, self.out_cookie, self.window)

    def b1(self) -> bytes:
        return rts.conn_b1(self.vc, self.in_cookie, GIB, 300_000, bytes(16))

    def establish(self) -> Self:
        """Up to CONN/C2."""
        inward, outward = self.open_in(), self.open_out()
        outward.send(self.a1())
        inward.send(self.b1())
        self.await_c2()
        return self

    def await_c2(self) -> None:
        assert self.outward is not None
        status = self.outward.head()
        assert status.startswith(b"HTTP/1.1 200 Success\r\n"), status
        assert rts.parse(self.outward.pdu()).kind is rts.Kind.CONN_A3
        assert rts.parse(self.outward.pdu()).kind is rts.Kind.CONN_C

    def send(self, pdu: bytes) -> None:
        assert self.inward is not None
        self.inward.send(pdu)

    def rpc(self) -> bytes:
        """The next RPC PDU; acknowledges as a client does; b"" at the end."""
        assert self.outward is not None
        while pdu := self.outward.pdu():
            if pdu[2] != rts.RTS_TYPE:
                self.taken += len(pdu)
                if self.taken % self.window > self.window // 2:
                    self.acknowledge()
                return pdu
        return b""

    def acknowledge(self) -> None:
        self.send(rts.ack_forwarded(rts.Destination.OUT_PROXY, self.taken, self.window, self.out_cookie))

    def reset(self) -> None:
        for wire in self.wires:
            wire.reset()

    def close(self) -> None:
        for wire in self.wires:
            wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
