"""The client's half of HTTP/1.1: one request's head out, one response in, the body handed straight on.

exchange = ClientExchange("RPC_IN_DATA", "/rpc/rpcproxy.dll?server:593", headers)
transport.write(exchange.head)
reply = exchange.receive(data)          None until a response's head, or a whole small response, is there
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Final, NamedTuple

import h11

from oxid.errors import LocalProtocolError, RemoteProtocolError

MAX_HEAD: Final = 64 * 1024
"""Bytes of a response's head; servers send a few hundred."""
MAX_SMALL_BODY: Final = 256 * 1024
"""Bytes of the body of a response that is read whole, an error page; what is longer is cut, and the connection too."""
MAX_INFORMATIONAL: Final = 32
"""Responses like 100 Continue before the real one; servers send one, or none."""

Headers = Sequence[tuple[str, str]]


class Reply(NamedTuple):
    """A response: its head, and its body or what came of it so far."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    keep_alive: bool

    def values(self, name: str) -> list[str]:
        """Every value of a header, in order; `name` in lower case."""
        return [value for key, value in self.headers if key == name]


class ClientExchange:
    """One request on a connection, and its response.

    `streams` tells of which statuses the body is not read here: `receive` returns at the head, with what came
    behind it as `body`, and all that follows is the caller's.
    """

    def __init__(
        self, method: str, target: str, headers: Headers, *, streams: Container[int] = (), ended: bool = False
    ) -> None:
        """`ended`: the request has no body, or an empty one. Raises LocalProtocolError for what cannot be sent."""
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._streams = streams
        self._response: h11.Response | None = None
        self._body = bytearray()
        self.continued = False
        """The server said 100 Continue."""
        self._informational = 0
        try:
            request = h11.Request(method=method, target=target, headers=list(headers))
            head = self._connection.send(request)
            if ended:
                head = (head or b"") + (self._connection.send(h11.EndOfMessage()) or b"")
        except (h11.LocalProtocolError, UnicodeEncodeError) as error:
            raise LocalProtocolError(f"{method} {target}: {error}") from error
        self.head: bytes = head or b""

    def receive(self, data: bytes) -> Reply | None:
        """Take bytes from the server; b"" is the end of the connection. Raises RemoteProtocolError."""
        connection = self._connection
        try:
            connection.receive_data(data)
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return None
                if isinstance(event, h11.InformationalResponse):
                    self.continued = event.status_code == 100
                    self._informational += 1
                    if self._informational > MAX_INFORMATIONAL:
                        raise RemoteProtocolError("the server says that it goes on, and does not")
                elif isinstance(event, h11.Response):
                    self._response = event
                    if event.status_code in self._streams:
                        return self._reply(bytes(connection.trailing_data[0]), keep_alive=False)
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    if len(self._body) > MAX_SMALL_BODY:
                        return self._reply(bytes(self._body), keep_alive=False)
                elif isinstance(event, h11.EndOfMessage):
                    keep = connection.their_state is not h11.MUST_CLOSE
                    return self._reply(bytes(self._body), keep_alive=keep)
                else:
                    raise RemoteProtocolError("the server closed the connection without a response")
        except h11.RemoteProtocolError as error:
            raise RemoteProtocolError(f"no HTTP response: {error}") from error

    def _reply(self, body: bytes, *, keep_alive: bool) -> Reply:
        response = self._response
        assert response is not None
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers]
        closing = any(n == "connection" and "close" in v.lower() for n, v in headers)
        old = response.http_version < b"1.1" and not any(
            n == "connection" and "keep-alive" in v.lower() for n, v in headers
        )
        reason = response.reason.decode("latin-1")
        return Reply(response.status_code, reason, headers, body, keep_alive and not closing and not old)
