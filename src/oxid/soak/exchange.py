"""How clients hand objects on to each other: references as bytes, over a datagram socket that each of them has.

with Exchange(directory, 7, hear) as exchange:
    exchange.send(12, {"objref": "…"})        False where client 12 cannot hear at the moment
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

LONGEST: Final = 1 << 16


class Exchange:
    """One client's socket, on the running loop; its block ends it."""

    def __init__(self, directory: Path, number: int, hear: Callable[[Mapping[str, Any]], object]) -> None:
        """`hear(message)` is called with what other clients send."""
        self._directory = directory
        self._number = number
        self._hear = hear
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def _path(self, number: int) -> Path:
        return self._directory / f"client-{number}"

    def __enter__(self) -> Self:
        own = self._path(self._number)
        own.unlink(missing_ok=True)  # of the client that had our number before
        self._socket.setblocking(False)
        self._socket.bind(str(own))
        asyncio.get_running_loop().add_reader(self._socket, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._path(self._number).unlink(missing_ok=True)

    def send(self, number: int, message: Mapping[str, Any]) -> bool:
        """Send to another client; whether it can hear."""
        try:
            self._socket.sendto(json.dumps(message).encode(), str(self._path(number)))
        except OSError:  # nobody there, or its queue is full: it is stopped
            return False
        return True

    def _receive(self) -> None:
        try:
            data = self._socket.recv(LONGEST)
        except BlockingIOError:
            return
        self._hear(json.loads(data))
